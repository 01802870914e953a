"""`%%chat` and `%chat`, in IPython in this process."""

from __future__ import annotations

import itertools
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from IPython.core.error import UsageError

from chatanywhere import AuthenticationError, Completion, StreamInterruptedError
from chatanywhere.testing import Fault, LoopbackServer, Reply, Request

from .conftest import Notebook

posix = pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")


def asked(server: LoopbackServer) -> list[tuple[str, str]]:
    """What was sent last: roles and contents."""
    return [(each["role"], each["content"]) for each in server.requests[-1].json["messages"]]


# What is asked


def test_a_conversation_goes_on_over_cells_and_changes_of_model(notebook: Notebook) -> None:
    """Each cell sends what was said before; a model and a system message hold until they are changed."""
    with LoopbackServer(["One.", "Two.", "Three.", "Four."]) as server:
        notebook.at(server)
        for cell in ["%%chat -m first -s 'Be brief.'\n1\n", "%%chat\n2", "%chat --model=second 3", "%chat -s Hm 4"]:
            assert notebook(cell) is None
        assert [request.json["model"] for request in server.requests] == ["first", "first", "second", "second"]
        assert asked(server) == [
            ("system", "Hm"),
            *[("user", "1"), ("assistant", "One."), ("user", "2"), ("assistant", "Two.")],
            *[("user", "3"), ("assistant", "Three."), ("user", "4")],
        ]
    assert notebook.markdown == ["One.", "Two.", "Three.", "Four."]
    assert notebook.answers() == [(text, "complete") for text in notebook.markdown]


def test_the_last_answer_is_a_variable(notebook: Notebook) -> None:
    """`_chat` is the `Completion`, and stays what it is when the next one fails."""
    with LoopbackServer(["One.", Reply("Two."), Fault.status(400, "no")]) as server:
        notebook.at(server)
        for said in ["One.", "Two."]:
            assert notebook("%chat Hi") is None
            answer = notebook.shell.user_ns["_chat"]
            assert isinstance(answer, Completion)
            assert (answer.text, answer.finish_reason) == (said, "stop")
        assert notebook("%chat Hi") is not None
        assert notebook.shell.user_ns["_chat"] is answer


@pytest.mark.parametrize(
    "text", ["{x} {{y}} $x $HOME", "f'{1 + 1}' {", '{"a": [1]}', 'What\'s "this" \\n?', "100 %d %s"]
)
@pytest.mark.parametrize("form", ["%chat -m gpt {}", "%%chat -m gpt\n{}", "%%chat\n\n  {}\nx", "%%chat\n>>> {}\n>>> 1"])
def test_a_question_is_sent_as_it_is(notebook: Notebook, text: str, form: str) -> None:
    """Neither braces nor dollar signs, quotes, backslashes or question marks mean anything in it."""
    with LoopbackServer(["Yes."]) as server:
        assert notebook.at(server)("x = 1\n" * form.startswith("%chat") + form.replace("{}", text)) is None
        sent = form.partition("\n")[2].replace("{}", text) if "\n" in form else text
        assert asked(server) == [("user", sent)]


@pytest.mark.parametrize("line", ["%chat Who are you?", "  %chat  What is x?? ", "%chat a.b?", "%chat -m m -- -1?"])
def test_a_question_mark_calls_no_help(notebook: Notebook, line: str) -> None:
    """A line that ends with one is a question, though IPython would look for help; in a string it is left alone."""
    with LoopbackServer(["I."]) as server:
        notebook.at(server)
        assert notebook(f"if True:\n{line}" if line.startswith(" ") else line) is None
        assert asked(server)[-1][1] in line
        assert server.requests[-1].text.endswith("?")
        assert notebook(f'text = """\n{line}\n"""') is None
        assert notebook.shell.user_ns["text"] == f"\n{line}\n"
        assert notebook("%chat?") is None
        assert len(server.requests) == 1


def test_what_looks_like_ipython_in_a_question_is_left_alone(notebook: Notebook) -> None:
    """Neither prompts are taken away, nor are lines taken for magics or help; also below another cell magic."""
    cell = ">>> 1\n%chat What is it?\nIn [2]: x\n!ls\nlist?\n"
    with LoopbackServer(["Yes."]) as server:
        assert notebook.at(server)(f"\n%%chat -m gpt\n{cell}") is None
        assert asked(server) == [("user", cell.rstrip("\n"))]
        assert server.requests[-1].json["model"] == "gpt"
    transformed = notebook.shell.transform_cell("%%writefile notes\n%chat What is it?\n")
    assert transformed == "get_ipython().run_cell_magic('writefile', 'notes', '%chat What is it?\\n')\n"


def test_a_cell_in_a_terminal_goes_on_until_an_empty_line(notebook: Notebook) -> None:
    """IPython asks for more lines of a question, as it does for any cell."""
    assert [notebook.shell.check_complete(f"%%chat\n{more}")[0] for more in ("Hi", "Hi\n\n")] == [
        "incomplete",
        "complete",
    ]
    assert notebook.shell.check_complete("%chat What is it?")[0] == "complete"


def test_a_question_may_begin_behind_the_options(notebook: Notebook) -> None:
    """What stands on the first line of a cell comes before the rest."""
    with LoopbackServer(["Yes."]) as server:
        assert notebook.at(server)("%%chat -m gpt Explain  'this':\nprint({1})\n") is None
        assert asked(server) == [("user", "Explain  'this':\n\nprint({1})")]


class Odd:
    def __str__(self) -> str:
        return "odd"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a {text}\n", "a {text}\n"),
        ("long " * 50_000, "long " * 50_000),
        ([1, {"a": None}], "[1, {'a': None}]"),
        (Odd(), "odd"),
        (Completion("An answer."), "An answer."),
        (list(range(100_000)), f"{str(list(range(100_000)))[:100_000]}\n[… of 688890 characters]"),
    ],
    ids=["text", "long text", "list", "object", "answer", "long list"],
)
def test_the_text_of_a_variable_is_sent(notebook: Notebook, value: object, text: str) -> None:
    """A text goes along as it is, another value as its text, of which the beginning is enough."""
    notebook.shell.user_ns.update({"value": value, "other": 1})
    with LoopbackServer(["Yes."] * 3) as server:
        notebook.at(server)
        assert notebook("%chat -v value What's this?") is None
        assert asked(server) == [("user", f"What's this?\n\nvalue:\n{text}")]
        assert notebook("%%chat --new -v other value -m gpt\nWhat?") is None
        assert asked(server) == [("user", f"What?\n\nother:\n1\n\nvalue:\n{text}")]
        assert notebook("%chat --new -v value") is None
        assert asked(server) == [("user", f"value:\n{text}")]


def test_files_are_sent(notebook: Notebook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are those of the command; `~` is the home folder, and a name may have quotes around it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "two words.txt").write_text("天气", encoding="utf-8")
    with LoopbackServer(["Yes."]) as server:
        assert notebook.at(server)('%chat -f "~/two words.txt" Translate') is None
        assert asked(server) == [("user", "Translate\n\ntwo words.txt:\n天气")]


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("%chat", "there is nothing to ask"),
        ("%%chat\n \n", "there is nothing to ask"),
        ("%chat -v nobody Hi", "-v nobody: there is no such variable"),
        ("%%chat -v nobody\nHi", "-v nobody: there is no such variable"),
        ("%chat -m", "option -m requires argument"),
        ("%chat --colour red Hi", "option --colour not recognized"),
        ("%chat --new --id 12 Hi", "--new and --id can't both be"),
        ("%chat --id 12 Hi", "no conversation begins with '12'"),
        ("%chat -f /nowhere/there Hi", "/nowhere/there can't be read"),
        ("%chat -f - Hi", "a notebook has no standard input"),
        ('%chat -s "Be brief Hi', "a quote is not closed"),
        ("%chat --system='Be brief Hi", "a quote is not closed"),
        ("%chat --resume", "nothing was asked in this notebook yet"),
        ("%chat --resume Hi", "--resume goes on with the last answer"),
    ],
)
def test_wrong_use_is_told_in_one_line(
    notebook: Notebook, capsys: pytest.CaptureFixture[str], cell: str, said: str
) -> None:
    """The cell fails, nothing is sent, and the conversation can go on."""
    with LoopbackServer(["Yes."]) as server:
        assert isinstance(notebook.at(server)(cell), UsageError)
        assert re.fullmatch(rf"UsageError: .*{re.escape(said)}.*: .+\n", capsys.readouterr().err)
        assert not server.requests
        assert notebook("%chat Hi") is None


# Conversations


def test_settings_may_be_made_without_a_question(notebook: Notebook) -> None:
    """They hold for the next one, and nothing is sent."""
    with LoopbackServer(["One.", "Two."]) as server:
        notebook.at(server)
        assert [notebook(cell) for cell in ["%chat -m gpt -s Hm", "%chat 1"]] == [None, None]
        assert (server.requests[-1].json["model"], asked(server)) == ("gpt", [("system", "Hm"), ("user", "1")])
        assert [notebook(cell) for cell in ["%chat --new", "%chat 2"]] == [None, None]
        assert asked(server) == [("user", "2")]
    assert len(notebook.conversations()) == 2


def test_an_earlier_conversation_goes_on(notebook: Notebook) -> None:
    """`--new` begins another one; `--id` goes back, with the model that was asked there."""
    with LoopbackServer(["One.", "Two.", "Three."]) as server:
        notebook.at(server)
        assert [notebook(cell) for cell in ["%chat -m first 1", "%%chat --new -m second\n2"]] == [None, None]
        assert asked(server) == [("user", "2")]
        first, _ = notebook.conversations()
        assert notebook(f"%%chat --id {first[:8]}\n3") is None
        assert asked(server) == [("user", "1"), ("assistant", "One."), ("user", "3")]
        assert server.requests[-1].json["model"] == "first"


def test_the_command_and_the_notebook_have_the_same_conversations(
    notebook: Notebook, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each goes on with what was said in the other."""
    from chatanywhere.cli import main

    monkeypatch.setattr(sys, "stdin", None)
    with LoopbackServer(["One.", "Two.", "Three."]) as server:
        assert notebook.at(server)("%chat 1") is None
        assert main(["ask", "-c", "2"]) == 0
        assert capfd.readouterr().out == "Two."
        assert notebook(f"%chat --id {notebook.conversations()[0]} 3") is None
        assert [text for _, text in asked(server)] == ["1", "One.", "2", "Two.", "3"]


def test_the_conversation_goes_on_when_the_extension_is_reloaded(notebook: Notebook) -> None:
    """`%reload_ext` changes nothing; `%unload_ext` takes the magic away, and leaves no trace in the cells."""
    with LoopbackServer(["One.", "Two."]) as server:
        notebook.at(server)
        for cell in ["%chat 1", "%reload_ext chatanywhere", "%reload_ext chatanywhere", "%chat Who is it?"]:
            assert notebook(cell) is None
        assert len(asked(server)) == 3
        assert notebook("%unload_ext chatanywhere") is None
        names = [each.__module__ for each in notebook.shell.input_transformers_cleanup if hasattr(each, "__module__")]
        assert "chatanywhere.notebook" not in names
        assert isinstance(notebook("%%chat\n3"), UsageError)
        assert notebook("%load_ext chatanywhere") is None


@pytest.mark.parametrize("off", [True, False])
def test_a_history_that_is_not_kept_is_kept_in_memory(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, off: bool
) -> None:
    """Without a history, or where it can't be written, of which a warning tells, the conversation goes on."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("CHATANYWHERE_HISTORY", "off" if off else str(tmp_path / "file" / "history"))
    with LoopbackServer(["One.", "Two."]) as server:
        notebook.at(server)
        assert [notebook(cell) for cell in ["%chat 1", "%chat 2"]] == [None, None]
        assert len(asked(server)) == 3
    assert capsys.readouterr().err.count("nothing is stored") == (0 if off else 1)
    assert not notebook.database.exists()


# What is shown


def test_an_answer_is_one_output_that_grows(notebook: Notebook) -> None:
    """It is updated at most ten times a second, begins with what came first, and ends as the whole answer."""
    pieces = [f"{number} " for number in range(150)]
    with LoopbackServer([Reply(pieces=pieces)], delay=0.01) as server:
        assert notebook.at(server)("%chat Count") is None
    kept = notebook.shell.display_pub.kept
    texts = [data["text/plain"] for _, data, _ in kept]
    assert [update for _, _, update in kept] == [False] + [True] * (len(kept) - 1)
    assert texts[-1] == "".join(pieces)
    assert all(later.startswith(text) and later != text for text, later in itertools.pairwise(texts))
    times = [when for when, _, _ in kept]
    assert len(times) > 5
    assert max(sum(start <= when < start + 1 for when in times) for start in times) <= 10


def test_what_has_come_is_shown_while_nothing_more_comes(notebook: Notebook) -> None:
    """A piece that came right after another is not held back until the next one."""
    shown = threading.Event()
    publish = notebook.shell.display_pub.publish

    def watch(data: dict[str, str], *arguments: Any, **options: Any) -> None:
        publish(data, *arguments, **options)
        if data["text/plain"] == "One two ":
            shown.set()

    notebook.shell.display_pub.publish = watch
    with LoopbackServer([Reply(pieces=["One ", "two ", "three"])], faults=[Fault.timeout(after=2)]) as server:
        notebook.at(server)
        closer = threading.Thread(target=lambda: (shown.wait(20), server.close()))
        closer.start()
        assert isinstance(notebook("%chat Count"), StreamInterruptedError)
        closer.join()
    assert shown.is_set()


def test_a_long_answer_is_updated_less_often(notebook: Notebook) -> None:
    """All updates of a second together have less than Jupyter's server lets through."""
    pieces = ["天气" * 1000] * 60
    with LoopbackServer([Reply(pieces=pieces)], delay=0.02) as server:
        assert notebook.at(server)("%chat Write") is None
    kept = [
        (when, sum(len(each.encode()) for each in data.values())) for when, data, _ in notebook.shell.display_pub.kept
    ]
    assert notebook.outputs[-1]["text/plain"] == "".join(pieces)
    assert max(sum(size for when, size in kept if start <= when < start + 1) for start, _ in kept) < 1_500_000


SCRIPTS = [
    "<script>alert(1)</script>",
    "a <b onclick=x> ```\n<script>",
    "[a](javascript:alert(1))",
    "~~~\n<i>\n~~~\n<script>",
]


@pytest.mark.parametrize("text", SCRIPTS)
def test_no_html_works_in_any_state_of_an_output(notebook: Notebook, text: str) -> None:
    """Outside code each `<` is `&lt;`, and no link leads to a script, however much of the answer has come."""
    with LoopbackServer([text[:end] for end in range(1, len(text) + 1)]) as server:
        notebook.at(server)
        assert all(notebook("%chat --new Hi") is None for _ in text)
    assert len(notebook.markdown) >= len(text) - text.count(" ")
    for shown in notebook.markdown:
        outside = re.sub(r"(?ms)^(~~~+|```+).*?^\1", "", shown)
        assert "<" not in outside
        assert not re.search(r"\]\(javascript:.*\)", outside)


def test_a_terminal_is_printed_to(terminal: Notebook, capfd: pytest.CaptureFixture[str]) -> None:
    """Where outputs would be printed one below the other, the answer is printed as it comes."""
    with LoopbackServer([Reply(pieces=["**One** ", "two"])], delay=0.15) as server:
        assert terminal.at(server)("%chat Count") is None
    assert capfd.readouterr().out == "**One** two"


def test_why_an_answer_ended_is_told(notebook: Notebook, capsys: pytest.CaptureFixture[str]) -> None:
    """An answer that came to its largest length is one, can be gone on with, and is one text then."""
    with LoopbackServer([Reply("One two", finish_reason="length"), Reply(" two three.")]) as server:
        assert notebook.at(server)("%chat Count") is None
        assert "`%chat --resume` goes on with it" in capsys.readouterr().err
        assert notebook("%chat --resume") is None
    assert notebook.markdown[-1] == notebook.shell.user_ns["_chat"].text == "One two three."
    assert notebook.answers() == [("One two three.", "complete")]


# What goes wrong


def test_a_history_that_can_not_be_read_is_told_in_the_words_of_a_notebook(notebook: Notebook) -> None:
    """What is said names no option that `%chat` does not have."""
    with LoopbackServer() as server:
        assert notebook.at(server)("%chat Hello") is None
        with sqlite3.connect(notebook.database) as database:
            ((known,),) = database.execute("SELECT id FROM conversations")
            database.execute("UPDATE messages SET fields = 'no JSON'")
        database.close()
        error = notebook(f"%chat --id {known} Hi")
        assert len(server.requests) == 1
    assert "can't be used" in str(error)
    assert not re.search(r"(?<![\w-])(-c|-x|-o|--json|--base-url|--no-store)\b", str(error))


@pytest.mark.parametrize("form", ["%chat Hi", "%%chat\nHi"])
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault.status(401, "wrong api key"), r"AuthenticationError: .*wrong api key.*"),
        (Fault.status(429, "limited to 200 requests per day"), r"QuotaExceededError: ((?!Wait).)*Wait((?!Wait).)*"),
        (
            Fault.error_frame("it broke\nhere", after=2),
            r"\w+Error: the answer was cut: .*it broke here.*%chat --resume.*",
        ),
        (Fault.no_done(after=2), r"StreamInterruptedError: the answer was cut: .*%chat --resume.*"),
    ],
)
def test_a_failure_is_raised_and_told_in_one_line(
    notebook: Notebook, capsys: pytest.CaptureFixture[str], form: str, fault: Fault, said: str
) -> None:
    """So "Run all" stops. What had come is shown and stored, and the next question does not carry it."""
    with LoopbackServer(lambda _: Reply(pieces=["One ", "two ", "three"]), faults=[fault]) as server:
        notebook.at(server)
        error = notebook(form)
        assert error is not None
        assert re.fullmatch(said + "\n", capsys.readouterr().out)
        cut = fault.at == "piece"
        assert notebook.markdown == (["One two "] if cut else [])
        assert notebook.answers() == [("One two ", "cut") if cut else ("", "failed")]
        server.faults = []
        assert notebook("%chat Again") is None
        assert asked(server) == [("user", "Again")]


def test_without_a_key_nothing_is_lost(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cell says so in one line, and works when it is run again with one."""
    with LoopbackServer(["Yes."]) as server:
        notebook.at(server)
        monkeypatch.delenv("CHATANYWHERE_API_KEY")
        error = notebook("%chat Hi")
        assert isinstance(error, AuthenticationError)
        (line,) = error._render_traceback_()  # type: ignore[attr-defined]
        assert re.fullmatch(r"AuthenticationError: no API key.*: %env CHATANYWHERE_API_KEY=… sets one", line)
        monkeypatch.setenv("CHATANYWHERE_API_KEY", "any")
        assert notebook("%chat Hi") is None


@pytest.mark.parametrize("history", ["", "off"])
def test_settings_may_be_changed_in_a_conversation(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch, history: str
) -> None:
    """A key that was wrong can be mended, and another service asked, and the conversation goes on."""
    if history:
        monkeypatch.setenv("CHATANYWHERE_HISTORY", history)
    with LoopbackServer(["One."]) as first, LoopbackServer(["Two."]) as second:
        assert notebook.at(first)("%chat 1") is None
        monkeypatch.setenv("CHATANYWHERE_API_KEY", "another-key")
        assert notebook.at(second)("%chat 2") is None
        assert asked(second) == [("user", "1"), ("assistant", "One."), ("user", "2")]
        assert second.requests[-1].headers["authorization"] == "Bearer another-key"


@posix
def test_stop_keeps_what_came(notebook: Notebook, capsys: pytest.CaptureFixture[str]) -> None:
    """It is shown and stored, `KeyboardInterrupt` is one line, and the answer can be gone on with."""
    publish = notebook.shell.display_pub.publish

    def stop(data: dict[str, str], *arguments: Any, **options: Any) -> None:
        publish(data, *arguments, **options)
        if data["text/plain"] == "One two ":
            notebook.shell.display_pub.publish = publish
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    notebook.shell.display_pub.publish = stop
    with LoopbackServer([Reply(pieces=["One ", "two ", "never"])], faults=[Fault.timeout(after=2, first=1)]) as server:
        error = notebook.at(server)("%%chat\nCount")
        assert isinstance(error, KeyboardInterrupt)
        assert (
            capsys.readouterr().out == "KeyboardInterrupt: the answer was stopped; `%chat --resume` goes on with it\n"
        )
        assert (notebook.markdown, notebook.answers()) == (["One two "], [("One two ", "cut")])
        assert "_chat" not in notebook.shell.user_ns
    with LoopbackServer(["three."]) as server:
        conversation = notebook.conversations()[0]
        assert notebook.at(server)(f"%chat --id {conversation} --resume") is None
    assert notebook.markdown[-1] == "One two three."
    assert notebook.answers() == [("One two three.", "complete")]


def test_stop_between_two_conversations_loses_neither(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new one is there when the old one is closed."""

    def stop() -> None:
        raise KeyboardInterrupt

    with LoopbackServer(["One.", "Two."]) as server:
        assert notebook.at(server)("%chat 1") is None
        before = notebook.shell.magics_manager.registry["ChatMagics"]._talk
        with monkeypatch.context() as patch:
            patch.setattr(before, "close", stop)
            assert isinstance(notebook("%chat --new 2"), KeyboardInterrupt)
        before.close()
        assert notebook("%chat 2") is None
        assert asked(server) == [("user", "2")]
    assert len(notebook.conversations()) == 2


def test_a_mistake_in_a_variable_shows_where(notebook: Notebook, capsys: pytest.CaptureFixture[str]) -> None:
    """An error of the caller's own code keeps its traceback, and nothing is sent."""

    class Broken:
        def __str__(self) -> str:
            raise LookupError("mine")

    notebook.shell.user_ns["broken"] = Broken()
    assert isinstance(notebook("%chat -v broken Hi"), LookupError)
    assert "Traceback" in capsys.readouterr().out


# The document

DOCUMENT = (Path(__file__).parents[2] / "docs" / "notebooks.md").read_text(encoding="utf-8")
CELLS = [block for block in re.findall(r"(?ms)^```text\n(.*?)^```$", DOCUMENT) if re.search(r"(?m)^%", block)]


def test_the_cells_of_the_document_run(notebook: Notebook) -> None:
    """Pasted one after the other, they are a conversation."""
    with LoopbackServer(lambda _: "Yes.") as server:
        notebook.at(server)
        assert [notebook(cell) for cell in CELLS] == [None] * 4
        assert [content for role, content in asked(server) if role == "user"] == [
            "What does {x: x**2 for x in range(3)} mean?",
            "And with square brackets?",
            "Which day was warmer?\n\nmeasured:\n{'Monday': 21.5, 'Tuesday': 19.0}",
        ]


# Loading


def test_without_ipython_it_is_said_what_is_missing() -> None:
    """The package is imported as ever; loading the extension names what to install."""
    code = (
        "import sys; sys.modules['IPython'] = None\n"
        "import chatanywhere\n"
        "try: chatanywhere.load_ipython_extension(None)\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == "the magic %%chat needs IPython: pip install 'chatanywhere[notebook]'\n"


def test_an_answer_on_its_way_keeps_other_threads_out(notebook: Notebook) -> None:
    """A conversation has one answer at a time, whatever threads cells are run in."""
    refused: list[BaseException] = []

    def reply(request: Request) -> str:
        try:
            notebook.shell.run_line_magic("chat", "Hi")
        except UsageError as error:
            refused.append(error)
        return "Yes."

    with LoopbackServer(reply) as server:
        assert notebook.at(server)("%chat Hi") is None
        assert len(server.requests) == 1
    assert [str(error) for error in refused] == ["an answer of this conversation is on its way: wait for it"]
