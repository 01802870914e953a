"""A conversation at the keyboard, on real pseudo-terminals, and by a pipe."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from chatanywhere.testing import Fault, LoopbackServer, Reply

from .conftest import ROOT, TIMEOUT, Command

pexpect = pytest.importorskip("pexpect")
posix = pytest.mark.skipif(os.name != "posix", reason="needs pseudo-terminals")

PASTE_ON = "\x1b[?2004h"
"""Bracketed paste is switched on by the prompt, and off while an answer comes."""


class Terminal:
    """A `chat` on a pseudo-terminal."""

    def __init__(self, *arguments: str, size: tuple[int, int] = (24, 80), command: Sequence[str] = ()) -> None:
        program, *rest = command or [sys.executable, "-m", "chatanywhere", *arguments]
        self.child = pexpect.spawn(
            program,
            rest,
            cwd=str(ROOT),
            env={**os.environ, "TERM": "xterm-256color"},
            dimensions=size,
            encoding="utf-8",
            timeout=TIMEOUT,
        )
        self.child.delaybeforesend = None

    def prompt(self) -> str:
        """Wait for the prompt, and return what was shown before it, without what moves the cursor and colours."""
        self.child.expect_exact(PASTE_ON)
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.child.before)

    def type(self, keys: str) -> None:
        """Press keys."""
        self.child.send(keys)

    def say(self, line: str) -> str:
        """Type a line, and return what is shown until the next prompt."""
        self.type(f"{line}\r")
        return self.prompt()

    def end(self) -> int | None:
        """Wait for the end, and return the exit code."""
        self.child.expect(pexpect.EOF)
        self.child.close()
        code: int | None = self.child.exitstatus
        return code


@contextmanager
def chatting(*arguments: str) -> Iterator[Terminal]:
    """A chat, which Ctrl-D ends with the block."""
    terminal = Terminal("chat", *arguments)
    try:
        terminal.prompt()
        yield terminal
        terminal.type("\x04")
        assert terminal.end() == 0
    finally:
        terminal.child.close(force=True)


def asked(server: LoopbackServer) -> list[str]:
    """What was sent last."""
    return [each["content"] for each in server.requests[-1].json["messages"]]


@posix
def test_enter_sends_and_the_chat_remembers(command: Command) -> None:
    """Alt-Enter adds a line, a paste with lines is one message, and Ctrl-D ends the chat with 0."""
    with LoopbackServer() as server:
        command.at(server)
        with chatting() as terminal:
            assert "Pleased to meet you, Ada." in terminal.say("I am Ada.")
            assert "Your name is Ada" in terminal.say("Do you remember\x1b\rmy name?")
            assert asked(server)[-1] == "Do you remember\nmy name?"
            terminal.say("\x1b[200~one\ntwo\n\x1b[201~")
            assert asked(server)[-1].rstrip() == "one\ntwo"
            assert len(server.requests) == 3
    assert len(command.answers()) == 3


@posix
def test_what_a_chat_says_of_itself_fits_into_a_terminal(command: Command) -> None:
    """The welcome and the help break no line of 80 columns."""
    terminal = Terminal("chat")
    try:
        lines = [*terminal.prompt().splitlines(), *terminal.say("/help").splitlines()]
        terminal.type("\x04")
        assert terminal.end() == 0
    finally:
        terminal.child.close(force=True)
    assert any("/help" in line for line in lines)
    assert any(line.startswith("/resume ") for line in lines)
    assert max(len(line) for line in lines) < 80


@posix
def test_ctrl_c_stops_the_answer_and_not_the_chat(command: Command) -> None:
    """The prompt is back within half a second, what came is kept, and the turn is not sent with the next question."""
    replies = [Reply(pieces=["begun\n\n", "never"]), "Fine."]
    with LoopbackServer(replies, faults=[Fault.timeout(after=1, first=1)]) as server:
        command.at(server)
        with chatting() as terminal:
            terminal.type("one\r")
            terminal.child.expect_exact("begun")
            stopped = time.monotonic()
            terminal.type("\x03")
            terminal.prompt()
            assert time.monotonic() - stopped < 0.5
            assert command.answers() == [("begun\n\n", "cut")]
            assert "Fine." in terminal.say("two")
            assert asked(server) == ["two"]


@posix
def test_ctrl_c_before_the_answer_has_begun_stops_it_too(command: Command) -> None:
    """A server that says nothing is not waited for."""
    with LoopbackServer(["Fine."], faults=[Fault.timeout(first=1)]) as server:
        command.at(server)
        with chatting() as terminal:
            terminal.type("one\r")
            while not server.requests:
                time.sleep(0.01)
            terminal.type("\x03")
            terminal.prompt()
            assert "Fine." in terminal.say("two")


@posix
def test_ctrl_c_may_be_pressed_several_times(command: Command) -> None:
    """What came is stored all the same, and the chat goes on."""
    with LoopbackServer(["word " * 1000] * 4, delay=0.01) as server:
        command.at(server)
        with chatting() as terminal:
            for pause in (0.0, 0.002, 0.01, 0.05):
                terminal.type("Count\r")
                terminal.child.expect_exact("word word")
                for _ in range(5):
                    os.kill(terminal.child.pid, signal.SIGINT)
                    time.sleep(pause)
                assert "note: stopped" in terminal.prompt()
    answers = command.answers()
    assert [status for _, status in answers] == ["cut"] * 4
    assert all(text.startswith("word word") for text, _ in answers)


@posix
def test_ctrl_c_at_the_prompt_clears_the_line(command: Command) -> None:
    """What was typed is gone and not sent; so it is where the signal comes from another program."""
    with LoopbackServer() as server:
        command.at(server)
        with chatting() as terminal:
            terminal.type("not this\x03")
            terminal.type("nor this")
            terminal.child.expect_exact("nor this")
            terminal.child.kill(signal.SIGINT)
            time.sleep(0.2)
            terminal.say("hello")
            assert [asked(server)] == [["hello"]]


@posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("is_answering", [False, True])
def test_a_signal_that_ends_a_chat_leaves_the_terminal_as_it_was(
    command: Command, name: str, is_answering: bool
) -> None:
    """What came of an answer is stored, lines are edited by the terminal again, and a paste is not bracketed."""
    import termios

    replies = [Reply(pieces=["begun\n\n", "never"])]
    with LoopbackServer(replies, faults=[Fault.timeout(after=1)]) as server:
        command.at(server)
        terminal = Terminal("chat")
        terminal.prompt()
        if is_answering:
            terminal.type("one\r")
            terminal.child.expect_exact("begun")
        terminal.child.kill(getattr(signal, name))
        terminal.child.expect(pexpect.EOF)
        shown = terminal.child.before
        lines = termios.tcgetattr(terminal.child.child_fd)[3]
        assert terminal.end() == 128 + getattr(signal, name)
    assert lines & termios.ICANON
    assert lines & termios.ECHO
    assert is_answering or "\x1b[?2004l" in shown
    assert "error: " not in shown
    assert command.answers() == ([("begun\n\n", "cut")] if is_answering else [])


@posix
def test_a_chat_can_be_suspended(command: Command) -> None:
    """Ctrl-Z stops it, at the prompt and in an answer; `fg` shows what comes then, and the prompt again."""
    with LoopbackServer([Reply(pieces=["begun\n\n", *"and the rest"]), "Fine."], delay=0.1) as server:
        command.at(server)
        script = f"set -m; {shlex.quote(sys.executable)} -m chatanywhere chat; fg; fg; echo code $?"
        terminal = Terminal(command=["/bin/sh", "-c", script])
        terminal.prompt()
        terminal.type("\x1a")
        terminal.prompt()
        terminal.type("one\r")
        terminal.child.expect_exact("begun")
        terminal.type("\x1a")
        assert "and the rest" in terminal.prompt()
        assert "Fine." in terminal.say("two")
        assert asked(server)[-3:] == ["one", "begun\n\nand the rest", "two"]
        terminal.type("\x04")
        terminal.child.expect_exact("code 0")
        terminal.end()


@posix
def test_an_error_in_an_answer_is_one_line_and_the_chat_goes_on(command: Command) -> None:
    """What had come is shown; `/resume` goes on with it, `/retry` asks again, `/undo` takes it back."""
    replies = [Reply(pieces=["One\n\n", "two"]), "two and three.", "Again."]
    with LoopbackServer(replies, faults=[Fault.error_frame(after=1, first=1)]) as server:
        command.at(server)
        with chatting() as terminal:
            shown = terminal.say("Count")
            assert "One" in shown
            assert len(re.findall(r"error: .+\r\nhint: .*/resume.*\r\n", shown)) == 1
            assert "two and three." in terminal.say("/resume")
            assert command.answers() == [("One\n\ntwo and three.", "complete")]
            assert "Again." in terminal.say("/retry")
            assert asked(server) == ["Count"]
            assert "Count" in terminal.say("/undo")


@posix
def test_a_question_can_be_changed(command: Command) -> None:
    """`/edit` shows the last one, and asks what becomes of it in its place."""
    with LoopbackServer(["One.", "Two.", "Three."]) as server:
        command.at(server)
        with chatting() as terminal:
            terminal.say("first")
            terminal.say("second")
            terminal.say("/edit")
            assert "Three." in terminal.say(" and last")
            assert asked(server) == ["first", "One.", "second and last"]


@posix
def test_ctrl_c_changes_no_question(command: Command) -> None:
    """`/edit` is left by it, and what is typed next is a question of its own."""
    with LoopbackServer(["One.", "Two."]) as server:
        command.at(server)
        with chatting() as terminal:
            terminal.say("Count")
            terminal.say("/edit")
            terminal.type("\x03")
            terminal.prompt()
            terminal.say("Hi")
        assert asked(server) == ["Count", "One.", "Hi"]


@posix
def test_what_was_asked_in_earlier_chats_is_at_hand(command: Command) -> None:
    """The arrow leads to it: the history of the prompt is the store's, and there is no second file."""
    with LoopbackServer() as server:
        command.at(server)("ask", "from before")
        with chatting() as terminal:
            terminal.say("\x1b[A")
            assert asked(server) == ["from before"]
    assert [file.name for file in command.database.parent.iterdir() if "sqlite3" not in file.name] == []


@posix
@pytest.mark.parametrize("arguments", [["-c"], ["--resume"]], ids=" ".join)
def test_a_chat_goes_on_where_a_question_was_cut(command: Command, arguments: list[str]) -> None:
    """With `--resume` the rest comes first."""
    replies = [Reply(pieces=["One\n\n", "two"]), "Fine."]
    with LoopbackServer(replies, faults=[Fault.no_done(after=1, first=1)]) as server:
        assert command.at(server)("ask", "Count").code == 3
        with chatting(*arguments) as terminal:
            if arguments == ["-c"]:
                terminal.say("/resume")
            terminal.say("/quit?")
        assert command.answers()[0] == ("One\n\nFine.", "complete")


def test_without_prompt_toolkit_a_terminal_is_told_what_is_missing(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe does not need it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "prompt_toolkit"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prompt_toolkit", None)
    assert command("chat", stdin=b"/help").code == 0
    monkeypatch.setattr("chatanywhere.cli.chat.is_terminal", lambda stream: True)
    done = command("chat")
    assert (done.code, done.out) == (2, "")
    assert "pip install 'chatanywhere[cli]'" in done.err


def test_what_can_not_be_done_in_a_chat_is_told(command: Command) -> None:
    """Each in two lines, and the chat goes on."""
    lines = ["/retry", "/resume", "/undo", "/edit", "/edit x", "/file", "/file no-such-file", "/save", "/load"]
    lines += ["/load x", "/x", "/save x.txt"]
    done = command("chat", stdin="\n".join([*lines, "", "/model", "/system", "/new"]).encode())
    assert done.code == 0
    told = "model: the default\nsystem: nothing\na new conversation\n"
    assert re.fullmatch(r"(error: .+\nhint: .+\n){12}", done.err.removesuffix(told))
    assert ": .md, .markdown, .json" in done.err
    assert "save()" not in done.err
    assert (done.out, done.err.endswith(told)) == ("", True)


def test_a_pipe_holds_a_chat_too(command: Command, tmp_path: Path) -> None:
    """Each line is a question or a command; an error does not end it."""
    file = tmp_path / "notes.txt"
    file.write_text("notes")
    lines = [
        *("I am Ada.", "/model m", "/system Be short.", f"/file {file}", "What is this?"),
        *(
            "/edit Do you remember my name?",
            "/nothing",
            "/resume",
            "/usage",
            "/help",
            "/new",
            "hello",
            "/quit",
            "never",
        ),
    ]
    with LoopbackServer() as server:
        done = command.at(server)("chat", stdin="\n".join(lines).encode())
    assert done.code == 0
    assert "Your name is Ada" in done.out
    assert "/retry [MODEL]" in done.err
    assert "tokens" not in done.out
    assert done.err.count("error: ") == 2
    bodies = [each.json for each in server.requests]
    assert [each["model"] for each in bodies[1:]] == ["m"] * 3
    assert bodies[1]["messages"][0] == {"role": "system", "content": "Be short."}
    assert "notes" in bodies[1]["messages"][-1]["content"]
    assert len(bodies[3]["messages"]) == 2  # a new conversation


def test_json_of_a_chat_is_one_object_per_line(command: Command) -> None:
    """And nothing between them; what commands say is on standard error."""
    with LoopbackServer(["One", "Two"]) as server:
        done = command.at(server)("chat", "--json", stdin=b"Hi\n/USAGE\n/model\nHo\n/undo\n")
    assert [json.loads(line)["text"] for line in done.out.splitlines()] == ["One", "Two"]
    assert "tokens\nmodel: " in done.err
    assert "taken back: Ho\n" in done.err


def test_a_file_is_written_over_only_by_its_own_conversation(command: Command, tmp_path: Path) -> None:
    """Another one is not lost by it."""
    file = tmp_path / "one.md"
    lines = ["Hi", f"/save {file}", f"/save {file}", "/new", f"/save {file}", f"/load {file}", f"/save {file}"]
    with LoopbackServer() as server:
        done = command.at(server)("chat", stdin="\n".join(lines).encode())
    assert done.err.count("written: ") == 3
    assert done.err.count("is there already") == 1


def test_a_conversation_with_models_to_fall_back_on_goes_on_with_the_first(command: Command, tmp_path: Path) -> None:
    """A file may name several; a chat has one."""
    file = tmp_path / "one.json"
    file.write_text(
        json.dumps({"chatanywhere": 1, "model": ["a", "b"], "messages": [{"role": "user", "content": "x"}]})
    )
    with LoopbackServer() as server:
        done = command.at(server)("chat", "--from", str(file), stdin=b"Hi")
        assert server.requests[-1].json["model"] == "a"
    assert (done.code, done.err) == (0, "")


@posix
@pytest.mark.parametrize("way", ["closed", "interrupted", "interrupted at the prompt"])
def test_a_chat_in_a_pipe_ends_as_a_question_does(command: Command, way: str) -> None:
    """141 where nobody reads, 130 on Ctrl-C, both silently; what came is stored."""
    pieces = ["abc", *["more "] * 1000]
    with (
        LoopbackServer([Reply(pieces=pieces)], delay=0.02) as server,
        command.at(server).start("chat", stdin=subprocess.PIPE) as process,
    ):
        assert process.stdin
        assert process.stdout
        assert process.stderr
        if way == "interrupted at the prompt":
            process.stdin.write(b"/model\n")
            process.stdin.flush()
            assert process.stderr.readline() == b"model: the default\n"
        else:
            process.stdin.write(b"Hi\n")
            process.stdin.flush()
            assert process.stdout.read(3) == b"abc"
        if way == "closed":
            process.stdout.close()
        else:
            process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b""
        assert process.wait(TIMEOUT) == (141 if way == "closed" else 130)
    if way != "interrupted at the prompt":
        assert [status for _, status in command.answers()] == ["cut"]


TABLE = "\n".join(f"| {number} | {'x' * 30} |" for number in range(40))
LONG = f"""# Title

{"A paragraph that is longer than the window is wide. " * 12}

{chr(10).join(f"- item {number} of a list that is longer than the window is high" for number in range(30))}

```python
{chr(10).join(f"print({number})  # {'long ' * 20}" for number in range(30))}
```

| a | b |
|---|---|
{TABLE}

The end of **it**."""


@posix
def test_long_markdown_is_drawn_once(command: Command) -> None:
    """On a terminal of 12 lines and 60 columns the cursor never moves up, and all is there, once."""
    with LoopbackServer([LONG]) as server:
        command.at(server)
        terminal = Terminal("ask", "Hi", size=(12, 60))
        terminal.child.expect(pexpect.EOF)
        terminal.child.close()
    raw = terminal.child.before
    assert re.findall(r"\x1b\[[0-9;?]*[A-Za-ln-z]", raw) == []  # nothing but colours
    shown = re.sub(r"\x1b\[[0-9;]*m", "", raw)
    assert all(len(re.findall(rf"item {number}\b", shown)) == 1 for number in range(30))
    assert all(shown.count(f"print({number})") == 1 for number in range(30))
    assert shown.count("x" * 30) == 40
    assert shown.endswith("The end of it.\r\n")
    assert "**" not in shown


HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b31m\x08\x7f text\r\nnext"


@posix
@pytest.mark.parametrize("render", ["auto", "never"])
def test_a_terminal_is_shown_control_characters(command: Command, render: str) -> None:
    """What an answer has of them is not obeyed, however it comes cut; the last line is ended."""
    with LoopbackServer([Reply(pieces=list(HOSTILE))]) as server:
        command.at(server)
        terminal = Terminal("ask", "Hi", "--render", render)
        terminal.child.expect(pexpect.EOF)
        terminal.child.close()
    shown = re.sub(r"\x1b\[[0-9;]*m", "", terminal.child.before)
    assert not set(shown) & {"\x1b", "\x07", "\x9b", "\x08", "\x7f"}
    assert "␛]0;title␇␛[2J" in shown
    assert shown.split()[-1] == "next"
    assert shown.endswith("\r\n")


@posix
@pytest.mark.parametrize("arguments", ["show", "show --json", "history", "ask -c Hi --json"])
def test_a_terminal_is_shown_control_characters_of_what_was_said(command: Command, arguments: str) -> None:
    """So it is where an answer is not drawn but listed."""
    with LoopbackServer([Reply(HOSTILE), Reply(HOSTILE)]) as server:
        command.at(server)("ask", HOSTILE)
        terminal = Terminal(*arguments.split())
        assert terminal.end() == 0
    shown = terminal.child.before
    assert not set(shown) & {"\x1b", "\x07", "\x9b", "\x08", "\x7f"}
    assert "title" in shown


@posix
@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_a_terminal_is_told_that_the_service_has_ended_the_answer(command: Command, reason: str) -> None:
    """One line says so, and in a chat, what to type; the exit code is 0."""
    with LoopbackServer([Reply("One", finish_reason=reason)] * 2) as server:
        command.at(server)
        terminal = Terminal("ask", "Hi")
        assert terminal.end() == 0
        assert "note: " in terminal.child.before
        with chatting() as terminal:
            shown = terminal.say("Hi")
    assert "note: " in shown
    assert "--resume" not in shown
    assert ("/resume" in shown) is (reason == "length")


def drawn(command: Command, *arguments: str) -> str:
    with LoopbackServer(["**bold** `code`\n"]) as server:
        return command.at(server)("ask", "Hi", *arguments).out


def test_markdown_is_drawn_into_a_pipe_only_where_that_is_asked_for(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--render always` does, in colours unless `NO_COLOR` says otherwise."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    with LoopbackServer(["**天气**"]) as server:
        process = command.at(server).start("ask", "Hi", "--render", "always")
        assert process.communicate(timeout=TIMEOUT)[0] == "\x1b[1m天气\x1b[0m\n".encode()
    assert drawn(command) == "**bold** `code`\n"
    assert re.fullmatch(
        r"\x1b\[1mbold\x1b\[0m \x1b\[[\d;]*36[\d;]*mcode\x1b\[0m\n", drawn(command, "--render", "always")
    )
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[\d;]*[34]\d", drawn(command, "--render", "always"))
    monkeypatch.setenv("TERM", "dumb")
    assert drawn(command, "--render", "always") == "bold code\n"
