"""One question at the command line: what is printed, where, byte for byte, and with which exit code."""

from __future__ import annotations

import base64
import gc
import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from waiting import until

from chatanywhere._store import answer
from chatanywhere.cli import talk
from chatanywhere.testing import Fault, LoopbackServer, Reply, Request

from .conftest import ROOT, TIMEOUT, Command

posix = pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def messages(server: LoopbackServer) -> list[dict[str, Any]]:
    """What was sent last."""
    sent: list[dict[str, Any]] = server.requests[-1].json["messages"]
    return sent


# What is asked


@pytest.mark.parametrize(
    ("arguments", "stdin", "asked"),
    [
        (["one", "two"], b"", "one two"),
        (["explain:"], "天气\n".encode(), "explain:\n\n天气\n"),
        ([], b"piped", "piped"),
        ([], b"\xef\xbb\xbfpiped", "piped"),
    ],
)
def test_the_question_is_what_was_typed_and_what_was_piped(
    command: Command, arguments: list[str], stdin: bytes, asked: str
) -> None:
    """Words make one text, and standard input comes behind it."""
    with LoopbackServer(["Yes."]) as server:
        assert command.at(server)("ask", *arguments, stdin=stdin) == (0, "Yes.", "")
        assert messages(server) == [{"role": "user", "content": asked}]


def test_files_are_text_or_pictures_by_their_content(command: Command, tmp_path: Path) -> None:
    """A picture is one whatever its name, other files are text with their names; `-` is the input."""
    picture, text = tmp_path / "picture.txt", tmp_path / "notes.png"
    picture.write_bytes(PNG)
    text.write_text("a\n```\nb\n```\n")
    with LoopbackServer(["Yes."]) as server:
        done = command.at(server)("ask", "-f", str(picture), "-f", str(text), "-f", "-", "see", stdin=b"piped\n")
        assert done == (0, "Yes.", "")
        (question,) = messages(server)
    said, shown = question["content"]
    assert said["text"] == "see\n\nnotes.png:\na\n```\nb\n```\n\n\nstandard input:\npiped\n"
    assert shown["image_url"]["url"] == f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert command.rows("SELECT content FROM attachments") == [(PNG,)]


def test_options_reach_the_service_as_json_or_as_text(command: Command) -> None:
    """A value is what JSON has, and else a text; model and system are what was said."""
    options = ["-o", "temperature=0.5", "-o", 'stop=["a"]', "-o", "user=me=you", "-m", "gpt-4o", "-s", "Be short."]
    options += ["-o", "a=NaN", "-o", "b=1e999", "-o", r'c="\ud800"']
    with LoopbackServer(["Yes."]) as server:
        assert command.at(server)("ask", "Hi", *options).code == 0
        body = server.requests[-1].json
    assert (body["temperature"], body["stop"], body["user"], body["model"]) == (0.5, ["a"], "me=you", "gpt-4o")
    assert (body["a"], body["b"], body["c"]) == ("NaN", "1e999", '"\\ud800"')  # of which JSON in UTF-8 has none
    assert body["messages"] == [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}]


WRONG = [
    [],
    ["  "],
    ["Hi", "-f", "no-such-file"],
    ["Hi", "-f", "."],
    ["Hi", "--schema", "no-such-file"],
    ["Hi", "--schema", "setup.cfg"],
    ["Hi", "--schema", ""],
    ["Hi", "-o", "temperature"],
    ["Hi", "-o", "stream=true"],
    ["Hi", "-o", "api_key=x"],
    ["caf\udce9"],
    ["Hi", "-m", "x", "caf\udce9"],
    ["Hi", "-s", "\udcff"],
    ["Hi", "-m", "\udcff"],
    ["Hi", "-o", "user=\udcff"],
    ["Hi", "--id", "\udcff"],
    ["Hi", "-o", "model=x"],
    ["Hi", "-o", "system=x"],
    ["Hi", "--timeout", "0"],
    ["Hi", "--timeout", "soon"],
    ["Hi", "--base-url", "ftp://x"],
    ["Hi", "--protocol", "gopher"],
    ["Hi", "--no-such-option"],
    ["Hi", "-c"],
    ["Hi", "-c", "--id", "a"],
    ["Hi", "--id", "a"],
    ["Hi", "--id", ""],
    ["--resume"],
    ["Hi", "--resume"],
]


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_wrong_use_is_told_in_two_lines_and_nothing_is_sent(command: Command, arguments: list[str]) -> None:
    """The exit code is 2, the first line says what is wrong, the second what to do; nothing is asked nor stored."""
    with LoopbackServer() as server:
        base = [] if "--base-url" in arguments else ["--base-url", server.url]
        done = command("ask", *arguments, *base)
        assert server.requests == []
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(r"error: .+\nhint: .+\n", done.err)
    assert "CHATANYWHERE_API_KEY" not in done.err
    assert "chatanywhere --help" not in done.err
    assert not command.database.exists() or command.answers() == []


@pytest.mark.parametrize("content", [b"\xff\x00", b"name\x00\x00tar"])
@pytest.mark.parametrize("arguments", [[], ["-f", "-"]])
def test_what_is_neither_text_nor_a_picture_is_refused(command: Command, arguments: list[str], content: bytes) -> None:
    """Bytes that no model can read are not sent."""
    with LoopbackServer() as server:
        assert command.at(server)("ask", *arguments, stdin=content).code == 2
        assert server.requests == []


@posix
def test_arguments_are_utf_8_in_a_locale_that_is_not(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Python could not read of them is read again."""
    for name, value in {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    with LoopbackServer() as server:
        command.at(server)
        command.start("ask", "天气".encode(), "-s", "短".encode()).communicate(timeout=TIMEOUT)
        assert [each["content"] for each in messages(server)] == ["短", "天气"]
        found = command.start("history", "天气".encode())
        assert found.communicate(timeout=TIMEOUT)[0].decode().strip().endswith("天气")


# What is printed


@pytest.mark.parametrize(
    "text", ["", "no newline", "two\n\n", "# 天气 \U0001f600\n\x1b[31m\ttab\r\n", "**bold**\n\n```\ncode"], ids=ascii
)
def test_a_pipe_gets_exactly_what_the_model_has_said(
    command: Command, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is added, drawn or replaced, and it is UTF-8 whatever the locale."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    with LoopbackServer([Reply(text)]) as server, command.at(server).start("ask", "Hi") as process:
        out, err = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, out, err) == (0, text.encode(), b"")


CODE = "See:\n\n```python\nprint('天')\n\n    ```\n```\n\nand\n\n```\nelse\n```\n"


def test_only_the_first_block_of_code_is_printed(command: Command) -> None:
    """`-x` prints the lines between the fences, or all with a warning where there are none."""
    with LoopbackServer([CODE, "none", "```\ncut"]) as server:
        assert command.at(server)("ask", "-x", "Hi") == (0, "print('天')\n\n    ```\n", "")
        done = command("ask", "-x", "Hi")
        assert done[:2] == (0, "none")
        assert done.err.startswith("warning: ")
        assert command("ask", "-x", "Hi") == (0, "cut", "")


FIELDS = ["id", "conversation", "model", "text", "reasoning", "status", "finish_reason", "usage", "error", "seconds"]


def test_json_has_all_that_is_known(command: Command) -> None:
    """One object on one line; its ids are those of the store."""
    with LoopbackServer([Reply("Yes.", reasoning="Hm.")]) as server:
        done = command.at(server)("ask", "Hi", "--json")
    said = json.loads(done.out)
    assert list(said) == FIELDS
    assert done.out.count("\n") == 1
    assert (said["text"], said["reasoning"], said["status"], said["error"]) == ("Yes.", "Hm.", "complete", None)
    assert said["usage"]["completion_tokens"] >= 1
    assert command.rows("SELECT id, conversation FROM messages WHERE role = 'assistant'") == [
        (said["id"], said["conversation"])
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [(["-f", "no-such-file"], 2, "UsageError"), (["--base-url", "127.0.0.1:9"], 1, "APIConnectionError")],
)
def test_json_tells_of_failures_too(command: Command, arguments: list[str], code: int, kind: str) -> None:
    """The object has the same fields, the error is among them and on standard error."""
    done = command("ask", "Hi", "--json", *arguments)
    said = json.loads(done.out)
    assert (done.code, list(said), said["status"], said["error"]["type"]) == (code, FIELDS, "failed", kind)
    assert done.err == f"error: {said['error']['message']}\nhint: {said['error']['hint']}\n"


def test_an_answer_of_reasoning_only_ends_its_line(command: Command) -> None:
    """What is told besides stands in lines of its own."""
    with LoopbackServer([Reply("", reasoning="Hm.")]) as server:
        done = command.at(server)("ask", "Hi", "--reasoning", "-u")
    assert (done.code, done.out) == (0, "")
    assert re.fullmatch(r"Hm\.\nusage: .+\n", done.err)


def test_a_call_of_a_function_is_told_in_the_words_of_the_command(command: Command) -> None:
    """Nothing here runs it, so what follows has to begin anew."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    arguments = ["-o", f"tools={json.dumps([tool])}", "-o", 'tool_choice="required"']
    with LoopbackServer() as server:
        assert command.at(server)("ask", "Hi", *arguments) == (0, "", "")
        done = command("ask", "-c", "Hm?")
        assert len(server.requests) == 1
    assert done.code == 2
    assert "run_tools" not in done.err
    assert "/undo" in done.err


def test_what_was_asked_for_besides_is_on_standard_error(command: Command) -> None:
    """Reasoning, usage and the rest do not come between what a pipe gets."""
    with LoopbackServer([Reply("Yes.", reasoning="Hm.", usage={"prompt_tokens": 2, "completion_tokens": 3})]) as server:
        url = server.url
        done = command.at(server)("ask", "Hi", "--reasoning", "-u", "-v")
    assert (done.code, done.out) == (0, "Yes.")
    assert done.err.startswith("Hm.")
    assert "usage: 2 + 3 = 5 tokens\n" in done.err
    assert f"host: {url}" in done.err


IN_PYTHON = [
    ["--base-url", "sk-0123456789abcdefghijklmnop"],
    ["--base-url", "http://user:password@127.0.0.1"],
    ["--base-url", "ftp://x"],
    ["--proxy", "gopher://x"],
    ["-o", "retry=0"],
    ["-o", "max_response_bytes=9"],
    ["-o", "headers=1"],
]


@pytest.mark.parametrize("arguments", IN_PYTHON, ids=" ".join)
def test_errors_are_told_in_the_words_of_the_command(command: Command, arguments: list[str]) -> None:
    """No line names an argument of Python, in whose place there is an option or a variable."""
    with LoopbackServer() as server:
        done = command.at(server)("ask", "Hi", *arguments)
    assert done.code
    assert re.fullmatch(r"error: .+\nhint: .+\n", done.err)
    assert not re.search(r"base_url|api_key|Retry\(|(?<!--option )\b\w+=", done.err)


def test_a_name_that_is_empty_is_told(command: Command) -> None:
    """The line says what can't be read."""
    done = command("ask", "Hi", "-f", "")
    assert done.code == 2
    assert done.err.startswith("error: '' can't be read: ")


@posix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_what_the_system_says_is_told_without_its_number(command: Command) -> None:
    """An output that is full is one line in plain words, whatever was printed."""
    with open("/dev/full", "wb") as full:
        process = command.start("models", "--help", stdout=full)
        _, said = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    assert said.startswith(b"error: No space left on device\nhint: ")


def test_the_remedy_of_a_connection_is_the_hint(command: Command) -> None:
    """A server without TLS is told in two lines."""
    with LoopbackServer() as server:
        done = command("ask", "Hi", "--base-url", server.url.replace("http:", "https:"), "-o", "retry=1")
    assert done.code == 1
    assert re.fullmatch(r"error: no connection .+\nhint: .*http://.*\n", done.err)


def test_an_answer_that_does_not_fit_its_schema_is_printed_and_told(command: Command, tmp_path: Path) -> None:
    """The schema is sent, and held against the answer; one that does not fit is 3, with its text printed and stored."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(schema))
    with LoopbackServer(['{"a": 1}', '{"a": "x"}', "no JSON"]) as server:
        assert command.at(server)("ask", "Hi", "--schema", str(file)) == (0, '{"a": 1}', "")
        asked = server.requests[-1].json["response_format"]
        for text in ('{"a": "x"}', "no JSON"):
            done = command("ask", "Hi", "--schema", str(file))
            assert done[:2] == (3, text)
            assert re.fullmatch(r"error: .+\nhint: .+\n", done.err)
    assert (asked["type"], asked["json_schema"]["schema"]) == ("json_schema", schema)
    assert command.answers()[-1] == ("no JSON", "complete")


# What goes wrong

FAILURES = [
    (Fault.status(401), 4),
    (Fault.status(402), 4),
    (Fault.status(403, "账户余额过低"), 4),
    (Fault.status(429, "免费API限制每日200次请求"), 4),
    (Fault.status(400), 1),
    (Fault.html(404), 1),
    (Fault.status(500), 1),
    (Fault.reset_peer(), 1),
    (Fault.no_done(after=0), 1),
]


@pytest.mark.parametrize(("fault", "code"), FAILURES, ids=lambda value: str(value)[:60])
def test_without_an_answer_the_exit_code_says_whether_to_try_again(command: Command, fault: Fault, code: int) -> None:
    """4 is for the key, the quota and the balance, 1 for all else; the question is stored."""
    with LoopbackServer(faults=[fault]) as server:
        done = command.at(server)("ask", "Hi", "--timeout", "5")
    assert (done.code, done.out) == (code, "")
    assert re.fullmatch(r"error: .+\nhint: .+\n", done.err)
    assert "base_url=" not in done.err
    assert command.rows("SELECT role, content, status FROM messages") == [
        ("user", "Hi", "complete"),
        ("assistant", "", "failed"),
    ]


CUTS = [Fault.no_done(after=2), Fault.error_frame(after=2), Fault.reset_peer(after=2)]


@pytest.mark.parametrize("fault", CUTS, ids=lambda fault: fault.name)
def test_a_cut_answer_is_printed_and_stored_and_gone_on_with(command: Command, fault: Fault) -> None:
    """The exit code is 3; `-c` does not send the cut turn; `--resume` prints the rest, and the turn is whole."""
    pieces = ["One ", "two ", "three ", "four."]
    replies = [Reply(pieces=pieces), "Fine.", "two three four."]
    with LoopbackServer(replies, faults=[fault], delay=0.05) as server:
        done = command.at(server)("ask", "Count")
        assert done[:2] == (3, "One two ")
        assert re.fullmatch(r"error: the answer was cut: .+\nhint: .*--resume.*\n", done.err)
        assert command.answers() == [("One two ", "cut")]
        server.faults = ()
        assert command("ask", "--resume").out == "Fine."
        assert messages(server)[-2]["content"] == "One two "
        assert command.answers() == [("One two Fine.", "complete")]


def test_a_rest_that_does_not_come_leaves_what_there_is(command: Command) -> None:
    """Where `--resume` gets nothing, the exit code is that of no answer, and another try is possible."""
    with LoopbackServer([Reply(pieces=["One ", "two"]), "two three."], faults=[Fault.no_done(after=1)]) as server:
        assert command.at(server)("ask", "Count").code == 3
        for status, code in ((401, 4), (500, 1)):
            server.faults = [Fault.status(status)]
            done = command("ask", "--resume")
            assert done[:2] == (code, "")
            assert "cut" not in done.err
            assert command.answers() == [("One ", "cut")]
        server.faults = []
        assert command("ask", "--resume") == (0, "two three.", "")
        assert command("ask", "--resume").code == 2


def test_an_answer_of_the_largest_length_is_gone_on_with(command: Command) -> None:
    """It is a part of the conversation, stays so where its rest does not come whole, and can be resumed again."""
    replies = [Reply("One two", finish_reason="length"), Reply(pieces=[" three", " more"]), "Fine.", " four.", "Bye."]
    with LoopbackServer(replies) as server:
        assert command.at(server)("ask", "Count", "-o", "n=1").code == 0
        server.faults = [Fault.no_done(after=1)]
        assert command("ask", "--resume")[:2] == (3, " three")
        assert "n" not in server.requests[-1].json
        server.faults = []
        assert command("ask", "-c", "--no-store", "Hm?").code == 0
        assert [each["content"] for each in messages(server)] == ["Count", "One two three", "Hm?"]
        assert command("ask", "--resume") == (0, " four.", "")
        assert command("ask", "-c", "Bye").code == 0
        assert [each["content"] for each in messages(server)] == ["Count", "One two three four.", "Bye"]


def test_a_time_limit_in_an_answer_cuts_it(command: Command) -> None:
    """It is told as a cut answer, whose model is known though the service has said nothing of its end."""
    with LoopbackServer([Reply(pieces=["One ", "two"])], faults=[Fault.timeout(after=1)]) as server:
        done = command.at(server)("ask", "Count", "--timeout", "1")
    assert done[:2] == (3, "One ")
    assert re.fullmatch(r"error: the answer was cut: .+\nhint: .*--resume.*\n", done.err)
    assert command.rows("SELECT model FROM messages WHERE role = 'assistant'") == [("gpt-4o-mini",)]


def test_a_cut_turn_is_not_sent_with_the_next_question(command: Command) -> None:
    """It stays in the store on a branch of its own."""
    with LoopbackServer(["One.", Reply(pieces=["Two ", "more"]), "Three."], faults=[]) as server:
        command.at(server)("ask", "1")
        server.faults = [Fault.no_done(after=1)]
        assert command("ask", "-c", "2").code == 3
        server.faults = []
        assert command("ask", "-c", "3").code == 0
        assert [each["content"] for each in messages(server)] == ["1", "One.", "3"]
    assert command.answers() == [("One.", "complete"), ("Two ", "cut"), ("Three.", "complete")]
    assert len({conversation for (conversation,) in command.rows("SELECT conversation FROM messages")}) == 1


def test_a_traceback_is_shown_only_where_it_is_asked_for(command: Command) -> None:
    """`--debug` works before the command and after it."""
    arguments = ["ask", "Hi", "--base-url", "127.0.0.1:9"]
    assert "Traceback" not in command(*arguments).err
    for asked in (["--debug", *arguments], [*arguments, "--debug"]):
        err = command(*asked).err
        assert "Traceback" in err
        assert re.search(r"\nerror: .+\nhint: .+\n\Z", err)


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_an_answer_that_the_service_has_ended_is_complete(command: Command, reason: str) -> None:
    """The exit code is 0, and a pipe is told nothing."""
    with LoopbackServer([Reply("One", finish_reason=reason)]) as server:
        assert command.at(server)("ask", "Hi") == (0, "One", "")


@posix
@pytest.mark.parametrize("arguments", [[], ["--render", "always"]], ids=" ".join)
def test_a_closed_pipe_ends_it_silently(command: Command, arguments: list[str]) -> None:
    """As in `ask | head -c 3`: 141, nothing on standard error, the connection closed soon, and what came is stored."""
    server = LoopbackServer([Reply(pieces=["abc ", *["more "] * 1000])], delay=0.02)
    with server, command.at(server).start("ask", "Hi", *arguments) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.read(3) == b"abc"
        process.stdout.close()
        closed = time.monotonic()
        assert process.stderr.read() == b""
        assert process.wait(TIMEOUT) == 141
        assert time.monotonic() - closed < 1
    ((text, status),) = command.answers()
    assert text.startswith("abc")
    assert status == "cut"


SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"]


@posix
@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_ends_it_and_what_came_is_kept(command: Command, name: str) -> None:
    """Ctrl-C, a system that shuts down, a terminal that is closed: its own exit code, no word, and a cut answer."""
    number = getattr(signal, name)
    server = LoopbackServer([Reply(pieces=["abc", "def"])], faults=[Fault.timeout(after=1)])
    with server, command.at(server).start("ask", "Hi") as process:
        assert process.stdout
        assert process.stdout.read(3) == b"abc"
        process.send_signal(number)
        out, err = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, out, err) == (128 + number, b"", b"")
    assert command.answers() == [("abc", "cut")]


@posix
def test_json_tells_of_a_signal_too(command: Command) -> None:
    """The object has what came, and how it is gone on with."""
    server = LoopbackServer([Reply(pieces=["abc", "def"])], faults=[Fault.timeout(after=1)])
    with server, command.at(server).start("ask", "Hi", "--json") as process:
        until(lambda: server.requests and command.answers() == [("abc", "streaming")], TIMEOUT)
        process.send_signal(signal.SIGTERM)
        said = json.loads(process.communicate(timeout=TIMEOUT)[0])
    assert (process.returncode, said["text"], said["status"]) == (143, "abc", "cut")
    assert "--resume" in said["error"]["hint"]


@posix
@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_that_is_ignored_stays_so(command: Command, name: str) -> None:
    """As under nohup, and in the background of a script."""
    server = LoopbackServer([Reply(pieces=["abc", "def"])], delay=0.5)
    script = f"trap '' {name[3:]}; exec {shlex.quote(sys.executable)} -m chatanywhere ask Hi </dev/null"
    with server:
        command.at(server)
        process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, cwd=ROOT)
        assert process.stdout
        assert process.stdout.read(3) == b"abc"
        process.send_signal(getattr(signal, name))
        assert process.communicate(timeout=TIMEOUT)[0] == b"def"
    assert process.returncode == 0


@posix
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of a database as it was opened
def test_ctrl_c_at_any_line_leaves_no_answer_unfinished(command: Command) -> None:
    """Wherever it comes from the question's storing to the answer's, the row says how the answer has ended."""
    files = {talk.__file__, answer.__file__}
    line, sprung = 0, True

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines_left, sprung
        if frame.f_code.co_filename not in files:
            return None
        if event == "line" and not sprung:
            lines_left -= 1
            if not lines_left:
                sprung = True
                os.kill(os.getpid(), signal.SIGINT)
        return trace

    before = sys.gettrace()
    with LoopbackServer(lambda _: "Yes.") as server:
        command.at(server)
        while sprung:
            line, sprung = line + 1, False
            lines_left = line
            sys.settrace(trace)
            try:
                code = command("ask", "Hi").code
            finally:
                sys.settrace(before)
            assert code == (130 if sprung else 0)
    gc.collect()
    assert line > 100
    assert {status for _, status in command.answers()} == {"complete", "cut", "failed"}


@posix
def test_ctrl_c_does_not_keep_an_answer_from_being_stored(command: Command) -> None:
    """It waits for the end of that, which may take its time while another program writes."""

    others: list[sqlite3.Connection] = []

    def hold(request: Request) -> str:
        others.append(sqlite3.connect(command.database, isolation_level=None, check_same_thread=False))
        others[0].execute("BEGIN IMMEDIATE")
        return "Yes."

    server = LoopbackServer(hold)
    with server, command.at(server).start("ask", "Hi") as process:
        assert process.stdout
        assert process.stdout.read(4) == b"Yes."
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        others[0].close()
        assert process.communicate(timeout=TIMEOUT) == (b"", b"")
    assert process.returncode == 130
    ((text, status),) = command.answers()
    assert text == "Yes."
    assert status in ("complete", "cut")  # by whether the signal or the end of the answer was first


INTERRUPTED = """
import atexit, os, runpy, signal, sys

class Finder:
    count = 0
    def find_spec(self, name, *_):
        self.count += bool(self.count) or name == "chatanywhere.cli"
        if self.count == {count}:
            os.kill(os.getpid(), signal.SIGINT)

if {count}:
    sys.meta_path.insert(0, Finder())
else:
    atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
sys.argv[1:] = ["--help"]
runpy.run_module("chatanywhere", run_name="__main__", alter_sys=True)
"""


@posix
@pytest.mark.parametrize("count", [1, 2, 12, 24, 0])
def test_ctrl_c_is_silent_from_beginning_to_end(count: int) -> None:
    """Also while Python still imports, and while it ends: 130, and nothing that only programmers can read."""
    code = INTERRUPTED.format(count=count)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, timeout=TIMEOUT, check=False)
    assert (done.returncode, done.stderr) == (130, b"")


@posix
def test_ctrl_c_is_silent_before_the_command_has_begun() -> None:
    """When all is imported, and nothing has been read yet."""
    code = (
        "import os, runpy, signal; from chatanywhere import cli; "
        "cli.main = lambda: os.kill(os.getpid(), signal.SIGINT); runpy.run_module('chatanywhere', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, timeout=TIMEOUT, check=False)
    assert (done.returncode, done.stderr) == (130, b"")


@posix
def test_what_a_killed_command_had_received_is_kept(command: Command) -> None:
    """`kill -9` loses a second at most, also where the model is silent by then, and `--resume` goes on."""
    kept = [("One two words", "streaming")]
    server = LoopbackServer([Reply(pieces=["One ", "two words", " more"])], faults=[Fault.timeout(after=2)])
    with server, command.at(server).start("ask", "Hi") as process:
        assert process.stdout
        assert process.stdout.read(13) == b"One two words"
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline and command.answers() != kept:
            time.sleep(0.05)
        process.kill()
    assert command.answers() == kept
    with LoopbackServer(["two words more"]) as server:
        assert command.at(server)("ask", "--resume") == (0, " more", "")
    assert command.answers() == [("One two words more", "complete")]


def test_eight_at_once_on_a_new_database_are_all_stored(command: Command) -> None:
    """None of them finds it locked."""
    with LoopbackServer() as server:
        command.at(server)
        processes = [command.start("ask", f"question {number}") for number in range(8)]
        for process in processes:
            with process:
                _, err = process.communicate(timeout=TIMEOUT)
                assert (process.returncode, err) == (0, b"")
    assert len(command.rows("SELECT DISTINCT conversation FROM messages")) == 8
    assert [status for _, status in command.answers()] == ["complete"] * 8


UNUSABLE = ["a folder that can't be written", "damaged", "newer", "another program's", "no regular file"]
UNUSABLE += ["of a user who is not there"]


def unusable(command: Command, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a history that can't be written."""
    command.database.parent.mkdir()
    if how == "no regular file":
        os.mkfifo(command.database, 0o644)
    elif how == "of a user who is not there":
        monkeypatch.setenv("CHATANYWHERE_HISTORY", "~no-such-user/history.sqlite3")
    elif how == "a folder that can't be written":
        monkeypatch.setenv("CHATANYWHERE_HISTORY", "/proc/no-such-folder/history.sqlite3")
    elif how == "damaged":
        command.database.write_bytes(b"no database" * 1000)
    else:
        with sqlite3.connect(command.database) as database:
            database.execute("CREATE TABLE theirs (a)")
            if how == "newer":
                database.execute("PRAGMA application_id = 0x43484157")
                database.execute("PRAGMA user_version = 999")
        database.close()


def state(file: Path) -> bytes | int | None:
    """What is in a file, or the mode of what is none."""
    if file.is_file():
        return file.read_bytes()
    return file.stat().st_mode if file.exists() else None


@posix
@pytest.mark.parametrize("how", UNUSABLE)
def test_a_history_that_can_not_be_used_is_one_warning(
    command: Command, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is printed all the same."""
    unusable(command, how, monkeypatch)
    before = state(command.database)
    with LoopbackServer(["Yes."]) as server:
        done = command.at(server)("ask", "Hi")
    assert done[:2] == (0, "Yes.")
    assert re.fullmatch(r"warning: .+\n", done.err)
    assert state(command.database) == before


def test_what_can_be_read_only_is_gone_on_with_all_the_same(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the history can't be written any more, `-c` still knows what was said, and one warning is printed."""

    def refuse(path: Path) -> None:
        raise OSError(30, "Read-only file system")

    with LoopbackServer() as server:
        command.at(server)("ask", "I am Ada.")
        monkeypatch.setattr("chatanywhere._store.database._make_file", refuse)
        done = command("ask", "-c", "Do you remember my name?")
    assert "Ada" in done.out
    assert re.fullmatch(r"warning: .*Read-only file system.*\n", done.err)
    assert len(command.answers()) == 1


def test_a_history_that_breaks_during_a_chat_does_not_end_it(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """One warning, and the chat remembers what was said before."""
    lines = b"I am Ada.\nI love engines.\nDo you remember my name?\n"

    def break_it(request: Request) -> str:
        if len(server.requests) == 2:
            with sqlite3.connect(command.database) as database:
                database.execute("DROP TABLE messages")
            database.close()
        return f"{len(request.json['messages'])} messages"

    server = LoopbackServer(break_it)
    with server:
        done = command.at(server)("chat", stdin=lines)
    assert (done.code, done.out) == (0, "1 messages\n3 messages\n5 messages\n")
    assert re.fullmatch(r"warning: .+\n", done.err)


def test_what_is_removed_during_its_answer_stays_removed(command: Command) -> None:
    """The answer comes all the same, with one warning."""

    def remove(request: Request) -> str:
        with sqlite3.connect(command.database) as database:
            database.execute("DELETE FROM conversations")
            database.execute("DELETE FROM messages")
        database.close()
        return "Yes."

    with LoopbackServer(remove) as server:
        done = command.at(server)("ask", "Hi")
    assert done[:2] == (0, "Yes.")
    assert re.fullmatch(r"warning: .+\n", done.err)
    assert command.answers() == []


@pytest.mark.filterwarnings("default")
def test_a_warning_of_the_library_is_one_line(command: Command) -> None:
    """It is told once, without a line of code."""
    done = command("ask", "Hi", "--base-url", "http://192.0.2.1:9", "--timeout", "0.1")
    assert done.code == 1
    assert re.fullmatch(r"warning: .*unencrypted.*\nerror: .+\nhint: .+\n", done.err)


def test_nothing_is_stored_where_that_was_asked_for(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--no-store` writes nothing, yet finds what was stored before; `off` does neither."""
    with LoopbackServer() as server:
        command.at(server)("ask", "I am Ada.")
        assert "Ada" in command("ask", "-c", "--no-store", "Do you remember my name?").out
        assert len(command.answers()) == 1
        monkeypatch.setenv("CHATANYWHERE_HISTORY", "off")
        assert command("ask", "Hi").code == 0
        assert command("ask", "-c", "Hi").code == 2
        assert command("history").code == 2


@posix
def test_the_history_is_for_its_owner_only(command: Command) -> None:
    """The file, what SQLite puts beside it, and its folder can't be read by others; the key is in none of them."""
    with LoopbackServer() as server:
        command.at(server)("ask", "Hi")
    folder = command.database.parent
    assert folder.stat().st_mode & 0o777 == 0o700
    for file in folder.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600
        assert b"sk-0123456789abcdefghij" not in file.read_bytes()


def test_headers_are_sent_and_not_stored(command: Command) -> None:
    """They may hold a key."""
    with LoopbackServer() as server:
        headers = json.dumps({"X-Key": "a-secret"})
        command.at(server)("ask", "Hi", "-o", f"extra_headers={headers}", "-o", "temperature=0.5")
        assert server.requests[-1].headers["X-Key"] == "a-secret"
    assert command.rows("SELECT parameters FROM messages WHERE role = 'assistant'") == [('{"temperature": 0.5}',)]


full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no device that is full")


@full
@pytest.mark.parametrize(
    "arguments",
    ["ask Hi", "ask Hi --json", "ask Hi -x", "ask Hi --render always", "chat", "history", "config", "--help"],
)
@pytest.mark.parametrize("is_buffered", [True, False])
def test_an_output_that_can_not_be_written_is_told_once(
    command: Command, arguments: str, is_buffered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exit code is 1, and a chat asks nothing more: nobody could read the answers."""
    monkeypatch.setenv("PYTHONUNBUFFERED", "" if is_buffered else "1")
    with LoopbackServer() as server, open("/dev/full", "wb") as output:
        command.at(server)("ask", "Hi")
        process = command.start(*arguments.split(), stdin=subprocess.PIPE, stdout=output)
        _, told = process.communicate(b"Hi\nHo\n" if arguments == "chat" else b"", timeout=TIMEOUT)
        assert len(server.requests) <= 2
    assert (process.returncode, told.count(b"error: "), told.count(b"hint: ")) == (1, 1, 1)


@full
@pytest.mark.parametrize(
    ("arguments", "code"), [("ask Hi -u", 0), ("ask", 2), ("ask -f x --debug", 2), ("no-command", 2)]
)
def test_what_can_not_be_told_changes_no_exit_code(command: Command, arguments: str, code: int) -> None:
    """Standard error may be full."""
    with LoopbackServer(["One."]) as server, open("/dev/full", "wb") as output:
        process = command.at(server).start(*arguments.split(), stderr=output)
        assert process.communicate(timeout=TIMEOUT)[0] == (b"" if code else b"One.")
    assert process.returncode == code


@posix
@pytest.mark.parametrize("arguments", ["ask Hi", "ask Hi --render always", "ask Hi --json", "ask Hi -x", "history"])
def test_a_standard_output_that_is_closed_is_told(command: Command, arguments: str) -> None:
    """An answer that could not be printed is no success."""
    with LoopbackServer() as server:
        command.at(server)("ask", "Hi")
        script = f"{shlex.quote(sys.executable)} -m chatanywhere {arguments} >&- </dev/null"
        done = subprocess.run(["sh", "-c", script], stderr=subprocess.PIPE, cwd=ROOT, timeout=TIMEOUT, check=False)
    assert (done.returncode, done.stderr.count(b"error: ")) == (1, 1)


@pytest.mark.parametrize(
    ("library", "arguments", "code"),
    [
        ("rich", ["--render", "always"], 2),
        ("rich", [], 0),
        ("platformdirs", ["--no-store"], 0),
        ("platformdirs", [], 0),
    ],
)
def test_a_question_needs_no_extra(
    command: Command, library: str, arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without rich nothing is drawn, without platformdirs nothing is stored, of which the one line names the remedy."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich" or "cli.markdown" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delenv("CHATANYWHERE_HISTORY")
    monkeypatch.setenv("XDG_DATA_HOME", str(command.database.parent))
    with LoopbackServer(["Yes."]) as server:
        done = command.at(server)("ask", "Hi", *arguments)
    assert done[:2] == (code, "" if code else "Yes.")
    if code or library == "platformdirs":
        assert "pip install 'chatanywhere[cli]'" in done.err


# What it costs


@pytest.mark.parametrize(
    "arguments", [["--help"], ["ask", "--help"], ["chat", "--help"], ["batch", "--help"]], ids=" ".join
)
def test_help_imports_no_library(arguments: list[str]) -> None:
    """It waits for nothing that it does not need."""
    code = (
        "import sys\nfrom chatanywhere.cli import main\n"
        f"try: main({arguments})\nexcept SystemExit: pass\n"
        "print(*{'rich', 'prompt_toolkit', 'requests', 'platformdirs'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=TIMEOUT)
    assert "usage: chatanywhere" in done.stdout
    assert done.stderr == "\n"


def test_a_question_in_a_pipe_imports_what_it_needs(command: Command) -> None:
    """Neither what draws nor what edits is loaded where nobody looks."""
    code = (
        "import sys\nfrom chatanywhere.cli import main\nmain(['ask', 'Hi'])\n"
        "print(*{'rich', 'prompt_toolkit', 'anyio', 'asyncio', 'pydantic'} & set(sys.modules), file=sys.stderr)"
    )
    with LoopbackServer(["Yes."]) as server:
        command.at(server)
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": TIMEOUT}
        done = subprocess.run([sys.executable, "-c", code], text=True, check=True, **pipes)
    assert (done.stdout, done.stderr) == ("Yes.", "\n")
