"""A file of prompts at the command line: what is asked, what is written, what survives, and with which exit code."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion
from waiting import until

from chatanywhere import Client
from chatanywhere.cli.batch import input as batch_input
from chatanywhere.cli.batch.input import BatchInput
from chatanywhere.testing import Fault, LoopbackServer, Reply, Request

from .conftest import ROOT, TIMEOUT, Command

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals or files")


def said(request: Request) -> str:
    return f"said {request.text}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty one."""
    made = tmp_path / "batch"
    made.mkdir()
    return made


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The objects of a file, and no others."""
    return [json.loads(line) for line in path.read_bytes().decode().split("\n")[:-1]]


def texts_of(path: Path) -> dict[str, str]:
    """What was answered, by ids, in the order of the file."""
    return {line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"] for line in lines_of(path)}


def openai_line(name: str, text: str, **body: Any) -> str:
    messages = [{"role": "user", "content": text}]
    request = {"model": "gpt-4o-mini", "messages": messages, **body}
    return json.dumps({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": request})


# What is asked


@pytest.mark.parametrize(
    ("name", "content", "options", "expected"),
    [
        ("in.txt", "one\n\n  \ntwo\r\n{three}", [], {"line-1": "one", "line-4": "two", "line-5": "{three}"}),
        ("in", "天气\nrain", [], {"line-1": "天气", "line-2": "rain"}),
        ("in", '\n{"prompt": "one"}\n{"prompt": "two", "id": 7}\n', [], {"line-2": "one", "7": "two"}),
        ("in.jsonl", '{"messages": [{"role": "user", "content": "one"}], "custom_id": "a"}', [], {"a": "one"}),
        ("in.jsonl", f"{openai_line('a', 'one')}\n{openai_line('b', 'two')}\n", [], {"a": "one", "b": "two"}),
        ("in.csv", "text,n\none,1\n\n,\ntwo,2\n", ["--template", "{n} {text}"], {"line-2": "1 one", "line-5": "2 two"}),
        ("in.tsv", "id\ttext\na\tone\n\ttwo\n", ["--template", "{ text }"], {"a": "one", "line-3": "two"}),
        (
            "in.csv",
            'text\n"one\n\n""two"""\nthree\n',
            ["--template", "{text}"],
            {"line-2": 'one\n\n"two"', "line-5": "three"},
        ),
        ("in", "a b, c\none,\n", ["--template", "{{{a b}}}{c}"], {"line-2": "{one}"}),
        ("in.csv", '\na;b\n"0;5";1,5\n', ["--template", "{a} {b}"], {"line-3": "0;5 1,5"}),  # as Excel in Germany
        ("in.csv", "a;b,c\n1,2\n", ["--template", "{a;b}"], {"line-2": "1"}),
        ("in", "a\tb\n1;\t2\n", ["--template", "{a}"], {"line-2": "1;"}),
        ("in.tsv", "a,b\tc;d\n1,\t2\n", ["--template", "{a,b}"], {"line-2": "1,"}),
        ("in.csv", "one,two\n", ["--format", "text"], {"line-1": "one,two"}),
        ("in.txt", '{"prompt": "one"}\n', ["--format", "jsonl"], {"line-1": "one"}),
        ("in.jsonl", "", [], {}),
    ],
)
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"], ids=["", "bom"])
def test_a_file_is_read_as_what_it_is(
    command: Command,
    folder: Path,
    name: str,
    content: str,
    options: list[str],
    expected: dict[str, str],
    bom: bytes,
) -> None:
    """Lines of text or JSON, requests of OpenAI's batches, and tables; blank lines are counted, and are no prompts."""
    file, output = folder / name, folder / "out"
    file.write_bytes(bom + content.encode())
    with LoopbackServer(said) as server:
        done = command.at(server)("batch", str(file), "-o", str(output), *options)
        assert len(server.requests) == len(expected)
    assert (done.code, done.out) == (0, "")
    assert texts_of(output) == {name: f"said {text}" for name, text in expected.items()}


@posix
@pytest.mark.parametrize("how", ["pipe", "fifo"])
def test_what_cannot_be_read_twice_is_read_as_well(command: Command, folder: Path, how: str) -> None:
    """Standard input, and a named pipe."""
    source, content = "-", b"one\ntwo\n"
    if how == "fifo":
        source = str(folder / "fifo")
        os.mkfifo(source)
        threading.Thread(target=Path(source).write_bytes, args=(content,)).start()
    with LoopbackServer(said) as server:
        done = command.at(server)("batch", source, "-o", str(folder / "out"), stdin=content)
    assert done.code == 0
    assert texts_of(folder / "out") == {"line-1": "said one", "line-2": "said two"}


def test_fields_of_a_line_are_sent_and_those_of_the_command_fill_the_gaps(command: Command, folder: Path) -> None:
    """Model, system message and options of the command are for lines that do not say them themselves."""
    system = {"role": "system", "content": "Be rude."}
    (folder / "in.jsonl").write_text(
        "\n".join(
            [
                '{"prompt": "one", "top_p": null}',
                '{"prompt": "two", "model": "m2", "temperature": 1, "stream": false}',
                openai_line(
                    "a", "three", messages=[system, {"role": "user", "content": "three"}], timeout=3, seed=None
                ),
            ]
        )
    )
    options = ["-m", "m1", "-s", "Be kind.", "--option", "temperature=0.5", "-j", "1"]
    with LoopbackServer(said) as server:
        assert command.at(server)("batch", str(folder / "in.jsonl"), "-o", str(folder / "out"), *options).code == 0
        one, two, three = (request.json for request in server.requests)
    kind = {"role": "system", "content": "Be kind."}
    assert (one["model"], one["temperature"], one["messages"][0], one["stream"]) == ("m1", 0.5, kind, True)
    assert "top_p" not in one
    assert (two["model"], two["temperature"], two["messages"][0], two["stream"]) == ("m2", 1, kind, False)
    assert (three["model"], three["temperature"], three["messages"][0]) == ("gpt-4o-mini", 0.5, system)
    assert (three["timeout"], three["seed"]) == (3, None)  # of OpenAI's requests the body is sent as it is
    assert list(texts_of(folder / "out")) == ["line-1", "line-2", "a"]


@posix
def test_prompts_can_be_typed(folder: Path, command: Command) -> None:
    """One Ctrl-D ends them, as elsewhere."""
    pexpect = pytest.importorskip("pexpect")
    with LoopbackServer(said) as server:
        command.at(server)
        arguments = ["-m", "chatanywhere", "batch", "-", "-o", str(folder / "out"), "-v"]
        child = pexpect.spawn(sys.executable, arguments, cwd=str(ROOT), env=dict(os.environ), timeout=TIMEOUT)
        child.sendline("one")
        child.sendeof()
        child.expect(pexpect.EOF)
        child.close()
    assert child.exitstatus == 0
    assert texts_of(folder / "out") == {"line-1": "said one"}


# What can't be asked


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (openai_line("a", "again"), r'its id "a" is that of line 1'),
        ("nope", r"it is not JSON: Expecting value at character 1(?=\n|; 1 line)"),
        ('{"prompt": "x"', "it is not JSON: .* at character 15; each line has to be a whole object, as `jq -c`"),
        ("[", "it is not JSON: .* at character 2; each line has to be a whole object"),
        ('{"prompt": "x", "top_p": NaN}', "NaN is no number"),
        ("[" * 100_000, "it is not JSON"),
        ('[{"prompt": "x"}]', "it is a JSON array"),
        ('"x"', "it is no JSON object"),
        (openai_line("b", "x").replace("chat/completions", "embeddings"), r'url has to be "/v1/chat/completions", not'),
        (openai_line("b", "x").replace("POST", "GET"), r'method has to be "POST", not "GET"'),
        ('{"custom_id": "b", "method": "POST", "body": {}}', "url has to be .*, not nothing"),
        ('{"custom_id": "b", "method": "POST", "url": "/v1/chat/completions", "body": []}', "body has to be an object"),
        (openai_line("b", "x", messages="x"), "messages of its body has to be a list"),
        (openai_line("b", "x", messages=[]), "messages is empty"),
        (openai_line("b", "x", messages=["x"]), r"messages\[0\]"),
        (openai_line("b", "x", model=3), "its model has to be a text, not 3"),
        (openai_line("b", "x", stream="no"), "its stream has to be true or false"),
        (openai_line("b", "x")[:-1] + ', "priority": 1}', '"priority" is no field of a batch'),
        ('{"custom_id": ["b"], "prompt": "x"}', "custom_id has to be a text"),
        ('{"id": true, "prompt": "x"}', "id has to be a text, not true"),
        ('{"id": "b", "custom_id": "c", "prompt": "x"}', "it has an id twice"),
        ('{"prompt": "x", "messages": []}', "it has a prompt twice"),
        ('{"text": "x"}', "neither a prompt, nor messages, nor a body"),
        ('{"prompt": 3}', "its prompt has to be a text, not 3"),
        ('{"messages": "x"}', "its messages has to be a list"),
        ('{"prompt": "x", "timeout": 3}', "timeout is no field of a request"),
        ('{"prompt": "x", "api_key": "sk-1"}', "api_key is no field of a request"),
        (b'{"prompt": "\xff"}', "it is not UTF-8"),
        ('{"prompt": "x"}'.encode("utf-16-le"), "it is not UTF-8"),
        ("x" * 3000, "it has more than 2000 bytes"),
    ],
)
def test_a_line_that_cannot_be_asked_is_refused_before_anything_is_sent(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch, bad: str | bytes, words: str
) -> None:
    """Its number is told; --skip-bad leaves it out, and the first of two lines with one id stays."""
    if b"x" * 3000 in (content := bad if isinstance(bad, bytes) else bad.encode()):
        monkeypatch.setattr(batch_input, "_MAX_LINE", 2000)
    file, output = folder / "in.jsonl", folder / "out"
    file.write_bytes(b"\n".join([openai_line("a", "one").encode(), b"", content, openai_line("z", "two").encode()]))
    with LoopbackServer(said) as server:
        command.at(server)
        for options in ([], ["--dry-run"]):
            done = command("batch", str(file), "-o", str(output), *options)
            assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 2)
            assert re.search(rf"^error: \S*in\.jsonl, line 3: .*{words}", done.err)
            assert done.err.endswith("leave such lines out by --skip-bad, or say by --format what they are\n")
        assert server.requests == []
        assert [each.name for each in folder.iterdir()] == ["in.jsonl"]
        done = command("batch", str(file), "-o", str(output), "--skip-bad")
        assert done.code == 0
        assert re.search(rf"^warning: .*line 3: .*{words}.*; 1 line left out\n2 answered", done.err)
    assert texts_of(output) == {"a": "said one", "z": "said two"}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("one", "it has 1 cells, and the first line 2"),
        ("one,2,3", "it has 3 cells"),
        ('"one,2', "it is no row of a table: unexpected end of data\n"),
        ('"one,2\n' + "three,4\n" * 3, "it is no row of a table: unexpected end of data, up to line 9"),
        ('"one"x,2', "it is no row of a table"),
        (b"\xcc\xec,2", "it is not UTF-8: save the file as UTF-8"),
        (b'"a\n\xcc\xec\n",2', "it is not UTF-8"),
        ("one\rtwo,3", "it is no row of a table: new-line character seen in unquoted field\n"),
        ("x" * 3000 + ",2", "it has more than 2000 bytes"),
        ('"one\n' + "x" * 3000 + '\n",2', "it has more than 2000 bytes"),
    ],
)
def test_a_row_that_cannot_be_read_is_refused_by_its_first_line(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch, bad: str | bytes, words: str
) -> None:
    """Rows go over several lines; those behind a bad one are read where it has an end."""
    monkeypatch.setattr(batch_input, "_MAX_LINE", 2000)
    content = bad if isinstance(bad, bytes) else bad.encode()
    (folder / "in.csv").write_bytes(b'text,n\n"zero\n",0\n\n' + content + b"\n")
    with LoopbackServer(said) as server:
        command.at(server)
        arguments = ["batch", str(folder / "in.csv"), "-o", str(folder / "out"), "--template", "{n}"]
        done = command(*arguments)
        assert (done.code, server.requests) == (2, [])
        assert re.search(rf"^error: \S*in\.csv, line 5: {words}", done.err)
        assert command(*arguments, "--skip-bad").code == 0
    assert texts_of(folder / "out") == {"line-2": "said 0"}


@pytest.mark.parametrize(
    ("content", "template", "words"),
    [
        ("a,b\n1,2\n", None, r"no --template .* columns: a, b\n"),
        ("a,b\n1,2\n", "{c}", r"no column {c}; its columns are a, b\n"),
        ("a,a\n1,2\n", "{a}", r"two columns {a}; its columns are a, a\n"),
        ("a,b\n1,2\n", "say it", "names no column"),
        ("a,b\n1,2\n", "{a", "a { stands alone"),
        ("a,b\n1,2\n", "a} {a}", "a } stands alone"),
        ("", "{a}", "line 1: it is empty"),
        (b"\xff\xfea\0", "{a}", "line 1: it is not UTF-8"),
    ],
)
def test_a_template_needs_a_table_with_its_columns(
    command: Command, folder: Path, content: str | bytes, template: str | None, words: str
) -> None:
    """What there is instead is told, and nothing is sent."""
    (folder / "in.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    options = [] if template is None else ["--template", template]
    done = command("batch", str(folder / "in.csv"), "-o", str(folder / "out"), *options, "--skip-bad")
    assert (done.code, done.out) == (2, "")
    assert re.search(f"^error: .*{words}", done.err)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["in.txt"], "required: -o/--output"),
        (["none.txt", "-o", "out"], r"none\.txt can't be read: No such file"),
        ([".", "-o", "out"], r"can't be read: Is a directory"),
        (["in.txt", "-o", "in.txt"], "IN and OUT are one file"),
        (["in.txt", "-o", "out", "--journal", "./out"], "OUT and --journal are one file"),
        (["in.txt", "-o", "out", "--errors", "out"], "OUT and --errors are one file"),
        (["in.txt", "-o", ""], "OUT is no file: ''"),
        (["in.txt", "-o", "out", "--errors", "-"], "--errors is no file: '-'"),
        (["in.txt", "-o", "none/out"], "none/out can't be written: No such file"),
        (["in.txt", "-o", "."], r"\. is no regular file"),
        (["in.txt", "-o", "/dev/null"], "/dev/null is no regular file"),
        (["in.txt", "-o", "out", "--errors", "e" * 256], "eee can't be written: File name too long"),
        (["-", "-o", "none/out"], "none/out can't be written: No such file"),
        (["in.txt", "-o", "out", "--journal", ":memory:"], "--journal is no file: ':memory:'"),
        (["in.txt", "-o", "out", "--journal", "."], r"/batch is no journal, and is left as it is"),
        (["in.txt", "-o", "out", "--errors", "/dev/full"], "/dev/full is no regular file"),
        (["in.txt", "-o", "out", "--journal", "none/run"], r"journal none/run can't be opened: No such file"),
        (["in.txt", "-o", "out", "--template", "{a}"], "--template is for tables"),
        (["in.txt", "-o", "out", "--option", "temperature"], "is not KEY=VALUE"),
        (["in.txt", "-o", "out", "--option", "model=m"], "--option: model is set by -m"),
        (["in.txt", "-o", "out", "--option", "api_key=m"], "--option: api_key is no field of a request"),
        *((["in.txt", "-o", "out", name, "0"], "'0' is not a number") for name in ("-j", "--rpm", "--tpm", "--rpd")),
        (["in.txt", "-o", "out", "--max-errors", "few"], "'few' is not a number"),
    ],
)
@posix
def test_wrong_use_sends_nothing(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    """Two lines say what is wrong and what to do, with exit code 2, and no file is made."""
    monkeypatch.chdir(folder)
    (folder / "in.txt").write_text("one\n")
    with LoopbackServer(said) as server:
        done = command.at(server)("batch", *arguments)
        assert server.requests == []
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(f"error: [^\n]*{words}[^\n]*\nhint: [^\n]+\n", done.err)
    assert [each.name for each in folder.iterdir()] == ["in.txt"]


@posix
def test_a_pipe_has_no_place_for_a_file(command: Command, folder: Path) -> None:
    """`-o -` prints, and `-o /dev/stdout` says so."""
    process = command.start("batch", str(thirty(folder)), "-o", "/dev/stdout", "--errors", "e", "--journal", "j")
    out, err = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, out) == (2, b"")
    assert err == b"error: /dev/stdout is no regular file\nhint: name another; -o - prints\n"


def test_a_file_that_changes_under_the_run_is_no_answer(command: Command, folder: Path) -> None:
    """Lines that nobody has checked are not written as if they had been."""
    file, output = folder / "in.txt", folder / "out"
    file.write_text("one\ntwo\nthree\nfour\nfive\nsix\n")

    def change(request: Request) -> str:
        file.write_text("other\n" * 9)
        return said(request)

    with LoopbackServer(change) as server:
        done = command.at(server)("batch", str(file), "-o", str(output), "-j", "1")
    assert (done.code, output.exists()) == (1, False)
    assert "in.txt has changed while it was read" in done.err


# Any file

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON_LINE = st.one_of(
    st.sampled_from(["", "  ", "\t"]).map(lambda blank: (blank, None)),
    st.sampled_from(["nope", "{}", "[1]", '{"prompt": 1}', '{"prompt": "a", "prompt2": ']).map(
        lambda bad: (bad, False)
    ),
    st.tuples(TEXT, st.none() | TEXT | st.integers(0, 3), st.booleans()).map(
        lambda each: (json.dumps({"prompt": each[0], "id": each[1]}, ensure_ascii=each[2]), each[:2])
    ),
)


@given(st.lists(JSON_LINE, max_size=12), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_lines_of_json_are_read_with_their_numbers(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, Any]], end: str, ended: bool
) -> None:
    """Whatever is between them, prompts have their ids, bad lines their numbers, and of equal ids the first stays."""
    file = tmp_path_factory.mktemp("lines") / "in.jsonl"
    file.write_bytes((end.join(line for line, _ in lines) + end * ended).encode())
    prompts: dict[str, str] = {}
    bad = set()
    for number, (_, what) in enumerate(lines, 1):
        if what is False:
            bad.add(number)
        elif what is not None:
            text, name = what
            name = f"line-{number}" if name in (None, "") else str(name)
            if name in prompts:
                bad.add(number)
            else:
                prompts[name] = text
    with BatchInput(str(file)) as found:
        found.check(lambda *_: None)
        assert [(each["id"], each["messages"]) for each in found] == list(prompts.items())
        assert (found.bad, len(found)) == (bad, len(prompts))
        assert (found.first_fault or (None,))[0] == min(bad, default=None)


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=6)
ROWS = st.lists(st.one_of(st.just([]), st.lists(CELLS, min_size=1, max_size=3)), max_size=8)


# Where lines end in \n, Python's own writer may leave a cell with \r without quotes.
STYLES = [("\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_MINIMAL)]


@given(ROWS, st.sampled_from(STYLES))
def test_rows_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], style: tuple[str, Any]
) -> None:
    """Any cells, with line ends and quotes in them; a row of two is a prompt, and its id the line it begins at."""
    file = tmp_path_factory.mktemp("rows") / "in.csv"
    written = io.StringIO()
    end, quoting = style
    writer = csv.writer(written, lineterminator=end, quoting=quoting)
    expected, bad = [], set()
    writer.writerow(["a", "b"])
    for row in rows:
        number = written.getvalue().count("\n") + 1
        writer.writerow(row)
        if len(row) == 2 and any(cell.strip() for cell in row):
            expected.append((f"line-{number}", f"{row[0]}|{row[1]}"))
        elif any(cell.strip() for cell in row):
            bad.add(number)
    file.write_bytes(written.getvalue().encode())
    with BatchInput(str(file), template="{a}|{b}") as found:
        found.check(lambda *_: None)
        assert [(each["id"], each["messages"]) for each in found] == expected
        assert found.bad == bad


# What is written


REPLIES = [
    Reply("Yes."),
    Reply("", refusal="No."),
    Reply("Hm.", reasoning="Let me think."),
    Reply(tool_calls=[("weather", {"city": "Rome"}), ("weather", {"city": "北京"})]),
    Reply("One", choices=[Reply("Two", finish_reason="length")]),
    Reply("cut", finish_reason="length"),
    Reply("", finish_reason="content_filter"),
    Reply("Nothing more", finish_reason=""),
    Reply("\x85\u2028\x7f\x1b", usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}),
]


@pytest.mark.parametrize("protocol", ["openai", "web"])
@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_is_what_openai_s_library_reads(command: Command, folder: Path, protocol: str, stream: bool) -> None:
    """Each line has the fields of OpenAI's batches, and its body is a chat completion with all that was said."""
    if protocol == "web" and not stream:
        pytest.skip("it always streams")
    fields = {} if protocol == "web" else {"n": 2, "stream": stream}
    file, output = folder / "in.jsonl", folder / "out"
    file.write_text("".join(f"{json.dumps({'prompt': str(number), **fields})}\n" for number in range(len(REPLIES))))
    with LoopbackServer(lambda request: REPLIES[int(request.text)]) as server:
        options = ["-o", str(output), "--protocol", protocol]
        assert command.at(server)("batch", str(file), *options).code == 0
        written = output.read_bytes()
        assert command("batch", str(file), *options).code == 0
        assert output.read_bytes() == written  # of the journal, too
    assert len(written.decode().splitlines()) == len(REPLIES)  # which takes more for the end of a line than \n
    for number, (line, reply) in enumerate(zip(lines_of(output), REPLIES, strict=True), 1):
        assert line.keys() == {"id", "custom_id", "response", "error"}
        assert (line["custom_id"], line["error"], line["response"]["status_code"]) == (f"line-{number}", None, 200)
        assert line["response"]["request_id"]
        answer = ChatCompletion.model_validate(line["response"]["body"], strict=True)
        first = answer.choices[0]
        assert (first.message.content or "") == "".join(reply.text_pieces)
        if protocol == "openai":
            assert first.message.refusal == (reply.refusal or None)
            assert first.finish_reason == (reply.reason or "stop")
            calls = [
                (each.type, each.function.name) for each in first.message.tool_calls or () if each.type == "function"
            ]
            assert calls == [("function", "weather")] * len(reply.tool_calls)
            assert answer.usage is not None
            assert len(answer.choices) == 2
    assert len({line["id"] for line in lines_of(output)}) == len(REPLIES)


def test_failures_have_a_file_of_their_own(command: Command, folder: Path) -> None:
    """In OpenAI's format and the order of the input, beside the answers; when nothing fails any more, it is gone."""
    (folder / "in.txt").write_text("one\nbad\nlost\ntwo\nthree\n")
    output, errors = folder / "out.jsonl", folder / "out.jsonl.errors.jsonl"
    broken = True

    def answer(request: Request) -> str | Fault:
        if broken and request.text == "bad":
            return Fault.status(400, "not like this")
        if broken and request.text == "lost":
            return Fault.reset_peer(after=0)
        time.sleep(0.2 if request.text == "one" else 0)
        return said(request)

    with LoopbackServer(answer) as server:
        command.at(server)
        done = command("batch", str(folder / "in.txt"), "-o", str(output))
        assert done.code == 1
        assert re.search(
            r"^3 answered, 2 failed, \d+ tokens; see \S*out\.jsonl\.errors\.jsonl$", done.err.splitlines()[-1]
        )
        assert list(texts_of(output)) == ["line-1", "line-4", "line-5"]
        bad, lost = lines_of(errors)
        assert (bad["custom_id"], bad["error"], bad["response"]["status_code"]) == ("line-2", None, 400)
        assert "not like this" in bad["response"]["body"]["error"]["message"]
        assert (lost["custom_id"], lost["response"]) == ("line-3", None)
        assert lost["error"]["code"] in ("APIConnectionError", "StreamInterruptedError")
        broken = False
        asked = len(server.requests)
        assert command("batch", str(folder / "in.txt"), "-o", str(output)).code == 0
        assert len(server.requests) == asked + 2
    assert list(texts_of(output)) == [f"line-{number}" for number in range(1, 6)]
    assert not errors.exists()


@posix
def test_the_files_are_for_the_eyes_of_their_owner(command: Command, folder: Path) -> None:
    """Journal, answers and failures, also in the place of a file that others could read; nothing else is left."""
    (folder / "in.txt").write_text("one\nbad\n")
    (folder / "target").write_text("old")
    (folder / "target").chmod(0o644)
    (folder / "out").symlink_to("target")
    with LoopbackServer(lambda request: Fault.status(400) if request.text == "bad" else "Yes.") as server:
        options = ["--journal", str(folder / "run"), "--errors", str(folder / "failed")]
        assert command.at(server)("batch", str(folder / "in.txt"), "-o", str(folder / "out"), *options).code == 1
    assert {each.name for each in folder.iterdir()} == {"in.txt", "out", "target", "run", "failed"}
    assert (folder / "out").is_symlink()
    for name in ("target", "run", "failed"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert b"sk-0123456789abcdefghij" not in b"".join(each.read_bytes() for each in folder.iterdir())


@posix
def test_a_file_may_have_the_longest_name_that_there_is(command: Command, folder: Path) -> None:
    """What is written on the way to it has a shorter one."""
    with LoopbackServer(said) as server:
        options = ["--journal", str(folder / "run"), "--errors", str(folder / "failed")]
        done = command.at(server)("batch", str(thirty(folder)), "-o", str(folder / ("o" * 255)), *options)
    assert (done.code, len(lines_of(folder / ("o" * 255)))) == (0, 30)


@posix
def test_answers_can_be_printed(command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all is done, in order; a reader that leaves early is no error. The journal is in the working folder."""
    monkeypatch.chdir(folder)
    with LoopbackServer(said) as server:
        command.at(server)
        arguments = ["batch", "-", "-o", "-"]
        done = command(*arguments, stdin=b"one\ntwo\n")
        assert done.code == 0
        assert [json.loads(line)["custom_id"] for line in done.out.splitlines()] == ["line-1", "line-2"]
        with command.start(*arguments, cwd=folder, stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdout.close()
            process.stdin.write(b"one\ntwo\n")
            process.stdin.close()
            assert process.stderr is not None
            assert process.stderr.read() == b""
            assert process.wait(TIMEOUT) == 141
        assert len(server.requests) == 2
    assert [each.name for each in folder.iterdir()] == ["batch.journal"]


# How it ends


def thirty(folder: Path) -> Path:
    file = folder / "in.txt"
    file.write_text("".join(f"prompt {number}\n" for number in range(30)))
    return file


def test_a_complete_batch_asks_nothing_again(command: Command, folder: Path) -> None:
    """The output is written again, byte for byte, from the journal; --dry-run has seen that coming."""
    file, output = thirty(folder), folder / "out"
    with LoopbackServer(said) as server:
        command.at(server)
        assert command("batch", str(file), "-o", str(output), "--dry-run").out.startswith(
            "30 prompts: 0 answered in the journal, 30 to ask\n"
        )
        assert [each.name for each in folder.iterdir()] == ["in.txt"]
        assert command("batch", str(file), "-o", str(output)).code == 0
        written = output.read_bytes()
        output.unlink()
        done = command("batch", str(file), "-o", str(output))
        assert (done.code, output.read_bytes()) == (0, written)
        assert done.err.splitlines()[-1] == "30 answered (30 of them before), 0 failed, 0 tokens"
        assert command("batch", str(file), "-o", str(output), "--dry-run").out == (
            "30 prompts: 30 answered in the journal, 0 to ask\n"
            "0 bytes to send, about 0 tokens, and those of the answers\n"
        )
        assert len(server.requests) == 30


def test_a_rehearsal_needs_no_key_and_sends_nothing(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch itself says that there is none, with exit code 4."""
    monkeypatch.delenv("CHATANYWHERE_API_KEY")
    done = command("batch", str(thirty(folder)), "-o", str(folder / "out"), "--dry-run")
    assert done.code == 0
    assert re.fullmatch(
        r"30 prompts: 0 answered .*, 30 to ask\n\d{4} bytes to send, about \d{3,4} tokens, .*\n", done.out
    )
    done = command("batch", str(thirty(folder)), "-o", str(folder / "out"))
    assert (done.code, "CHATANYWHERE_API_KEY" in done.err) == (4, True)
    assert [each.name for each in folder.iterdir()] == ["in.txt"]


@posix
def test_a_rehearsal_makes_no_journal(command: Command, folder: Path) -> None:
    """Neither of an empty file, nor where a link points to."""
    file = thirty(folder)
    (folder / "empty").touch()
    (folder / "link").symlink_to("nowhere")
    for name in ("empty", "link"):
        done = command("batch", str(file), "-o", str(folder / "out"), "--journal", str(folder / name), "--dry-run")
        assert (done.code, done.err) == (0, "")
    assert (folder / "empty").read_bytes() == b""
    assert {each.name for each in folder.iterdir()} == {"in.txt", "empty", "link"}


def test_a_quota_of_one_s_own_goes_on_the_next_day(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """75 says that it is worth while to run it again; until all is done, an older output stays as it is."""
    file, output = thirty(folder), folder / "out"
    output.write_text("old")
    now = time.time()
    codes = []
    with LoopbackServer(said) as server:
        command.at(server)
        for day in (0, 0, 1, 2):
            monkeypatch.setattr(time, "time", lambda: now + 86400 * day)  # noqa: B023  it is called within the loop
            done = command("batch", str(file), "-o", str(output), "--rpd", "12")
            codes.append((done.code, len(server.requests)))
            if done.code:
                assert output.read_text() == "old"
                assert re.search(r"^error: --rpd 12 is spent.*\nhint: run it again after \d{4}-", done.err)
                assert re.search(r"^\d+ answered.*; \d+ left: run it again, and only those are asked$", done.err, re.M)
    assert codes == [(75, 12), (75, 12), (75, 24), (0, 30)]
    assert list(texts_of(output).values()) == [f"said prompt {number}" for number in range(30)]


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (Fault.status(429, "limited to 200 requests per day"), 75, "run it again after"),
        (Fault.status(429, body='{"error": {"message": "Top up.", "code": "insufficient_quota"}}'), 4, "error: 429"),
        (Fault.status(401, "wrong api key"), 4, "error: 401: wrong api key"),
        (Fault.status(402, "no money"), 4, "Lower --option max_tokens=, or top up"),
    ],
)
def test_what_ends_a_batch_has_its_exit_code(
    command: Command, folder: Path, fault: Fault, code: int, words: str
) -> None:
    """What was paid is in the journal, and the next run asks the others only."""
    file, output = thirty(folder), folder / "out"
    answered = 0

    def answer(request: Request) -> str | Fault:
        nonlocal answered
        answered += 1
        return fault if answered > 5 else said(request)

    with LoopbackServer(answer) as server:
        done = command.at(server)("batch", str(file), "-o", str(output), "-j", "1")
    assert (done.code, done.out, output.exists()) == (code, "", False)
    assert words in done.err
    assert "Traceback" not in done.err
    assert "5 answered" in done.err
    assert "25 left" in done.err
    with LoopbackServer(said) as server:
        assert command.at(server)("batch", str(file), "-o", str(output), "--base-url", server.url).code == 0


def test_a_batch_stops_at_too_many_failures(command: Command, folder: Path) -> None:
    """With the last of them as its error, and exit code 1."""
    with LoopbackServer(lambda _: Fault.status(400, "not like this")) as server:
        done = command.at(server)(
            "batch", str(thirty(folder)), "-o", str(folder / "out"), "-j", "1", "--max-errors", "3"
        )
        assert len(server.requests) == 3
    assert (done.code, (folder / "out").exists()) == (1, False)
    assert re.match(r"error: 400: not like this\nhint: [^\n]+\n0 answered, 3 failed, 0 tokens; 27 left", done.err)
    with LoopbackServer(lambda _: Fault.status(400, "not like this")) as server:
        options = ["--max-errors", "3", "--debug", "-j", "1"]
        done = command.at(server)("batch", str(folder / "in.txt"), "-o", str(folder / "out"), *options)
    assert "Traceback" in done.err


def slowly(request: Request) -> str:
    time.sleep(0.05)
    return said(request)


@posix
def test_ctrl_c_leaves_the_journal_and_nothing_else(command: Command, folder: Path) -> None:
    """It ends within a second with 130; the next run asks what is left."""
    file, output = thirty(folder), folder / "out"
    with LoopbackServer(lambda request: said(request) if len(request.text) == 8 else Fault.latency(30)) as server:
        command.at(server)
        process = command.start("batch", str(file), "-o", str(output), "-j", "4")
        until(lambda: len(server.requests) == 14, TIMEOUT)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=TIMEOUT)
        assert time.monotonic() - began < 3  # a second, on a machine that has time
    assert (process.returncode, out) == (130, b"")
    assert err == b"10 answered, 0 failed, 150 tokens; 20 left: run it again, and only those are asked\n" or (
        re.fullmatch(rb"10 answered, 0 failed, \d+ tokens; 20 left: .*\n", err)
    )
    assert {each.name for each in folder.iterdir()} == {"in.txt", "out.journal"}
    with LoopbackServer(said) as server:
        options = ["--base-url", server.url]
        assert command("batch", str(file), "-o", str(output), *options).code == 0
    assert list(texts_of(output).values()) == [f"said prompt {number}" for number in range(30)]


@posix
def test_a_killed_batch_loses_nothing_and_asks_little_twice(command: Command, folder: Path) -> None:
    """Journal, output and the server's own count agree after `kill -9` and another run."""
    file, output = thirty(folder), folder / "out"
    with LoopbackServer(slowly) as server:
        command.at(server)
        process = command.start("batch", str(file), "-o", str(output), "-j", "4")
        until(lambda: len(server.requests) > 10, TIMEOUT)
        process.kill()
        process.communicate(timeout=TIMEOUT)
        assert not output.exists()
        journal = sqlite3.connect(f"{output}.journal")
        (kept,) = journal.execute("SELECT count(*) FROM calls WHERE state = 'done'").fetchone()
        (doubted,) = journal.execute("SELECT count(*) FROM calls WHERE state = 'sent'").fetchone()
        journal.close()
        done = command("batch", str(file), "-o", str(output), "-j", "4")
        assert done.code == 0
        assert f"30 answered ({kept} of them before), 0 failed" in done.err
        assert (f"{doubted} may be billed twice" in done.err) == (doubted > 0)
        assert bool(re.match(rf"warning: prompts that were [^:]*: {doubted};", done.err)) == (doubted > 0)
        assert doubted <= 4
        assert 30 <= len(server.requests) <= 30 + doubted
    assert list(texts_of(output).values()) == [f"said prompt {number}" for number in range(30)]
    assert {each.name for each in folder.iterdir()} == {"in.txt", "out", "out.journal"}


@posix
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_what_ends_a_batch_as_it_writes_leaves_the_old_file(command: Command, folder: Path, name: str) -> None:
    """OUT is the old one to its last byte, or the new one; what can be tidied is tidied, and the next run writes it."""
    file, output = thirty(folder), folder / "out"
    output.write_text("old")
    code = (
        "import os, sys, time; os.fsync = lambda _: (print('written', flush=True), time.sleep(60)); "
        "from chatanywhere.__main__ import main; main()"
    )
    with LoopbackServer(said) as server:
        command.at(server)
        arguments = [sys.executable, "-c", code, "batch", str(file), "-o", str(output)]
        with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"written\n"
            process.send_signal(getattr(signal, name))
            assert process.communicate(timeout=TIMEOUT) == (b"", b"")
        assert process.returncode == {"SIGKILL": -9, "SIGTERM": 143, "SIGINT": 130}[name]
        assert output.read_text() == "old"
        left = {each.name for each in folder.iterdir() if each.suffix == ".new"}
        assert len(left) == (name == "SIGKILL")
        assert command("batch", str(file), "-o", str(output)).code == 0
        assert len(server.requests) == 30
    assert len(lines_of(output)) == 30


# The journal


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"# My diary\n", "is no journal, and is left as it is"),
        (b"SQLite format 3\0" + bytes(84), "is no journal, and is left as it is"),
        (b"SQLite format 3\0" + bytes(44) + b"\0\0\0\x63" + bytes(4) + b"CAJL" + bytes(28), "is of version 99"),
    ],
)
def test_a_journal_that_is_none_is_left_untouched(command: Command, folder: Path, content: bytes, words: str) -> None:
    """Nothing is sent, the file stays as it is, and the hint names the option."""
    journal = folder / "out.journal"
    journal.write_bytes(content)
    for options in ([], ["--dry-run"]):
        done = command("batch", str(thirty(folder)), "-o", str(folder / "out"), *options)
        assert (done.code, journal.read_bytes()) == (2, content)
        assert re.fullmatch(
            rf"error: [^\n]*{words}[^\n]*\nhint: [^\n]*take another path as --journal[^\n]*\n", done.err
        )


def test_a_journal_that_is_held_says_by_whom(command: Command, folder: Path) -> None:
    """By this process, and by another: with its number and the machine's name."""
    file, journal = thirty(folder), folder / "out.journal"
    with LoopbackServer(said) as server:
        command.at(server)
        run = Client("any", base_url=server.url).map([], journal=journal)
        done = command("batch", str(file), "-o", str(folder / "out"))
        run.close()
        assert done.code == 2
        assert re.match(
            rf"error: .*is held by this process \({os.getpid()} on .*\nhint: let that run end, or", done.err
        )
        hold = (
            f"import sys; from chatanywhere._batch.lock import FileLock; FileLock({str(journal)!r}); print(); input()"
        )
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen([sys.executable, "-c", hold], cwd=ROOT, **pipes) as process:
            assert process.stdout is not None
            process.stdout.readline()
            done = command("batch", str(file), "-o", str(folder / "out"))
            process.communicate(b"\n", timeout=TIMEOUT)
        assert done.code == 2
        assert re.match(rf"error: .*is held by process {process.pid} on .*\nhint: .* --journal\n", done.err)
        assert server.requests == []


@posix
@pytest.mark.parametrize("limit", [20_000, 60_000])
def test_a_full_disk_is_told_and_nothing_is_lost(command: Command, folder: Path, limit: int) -> None:
    """Whichever file has no room: no traceback, exit code 1 or 2, and the next run goes on from the journal."""
    import resource

    file, output = thirty(folder), folder / "out"
    file.write_text("".join(f"prompt {number} {'x' * 2000}\n" for number in range(30)))

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    with LoopbackServer(lambda request: os.urandom(2000).hex()) as server:
        command.at(server)
        # Coverage would have no room either, and say so.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
        arguments = ["batch", str(file), "-o", str(output), "-j", "1"]
        process = command.start(*arguments, env=environment, preexec_fn=limited)
        out, err = process.communicate(timeout=TIMEOUT)
        assert (process.returncode in (1, 2), out) == (True, b"")
        assert re.match(rb"error: [^\n]+can't be (used|written|opened)[^\n]*\nhint: [^\n]+\n", err)
        assert b"Traceback" not in err
        assert not output.exists()
        asked = len(server.requests)
        assert command("batch", str(file), "-o", str(output), "-j", "1").code == 0
        assert len(server.requests) <= 30 + 1
        assert asked <= 30
    assert len(lines_of(output)) == 30


# What is shown meanwhile


def test_verbose_says_what_becomes_of_each_prompt(command: Command, folder: Path) -> None:
    """One line each, on standard error, in which nothing can move a terminal's cursor."""
    lines = [json.dumps({"prompt": "one", "id": f"a\x1b[2J{'x' * 100}"}), json.dumps({"prompt": "bad", "id": "b"})]
    (folder / "in.jsonl").write_text("\n".join(lines))
    with LoopbackServer(lambda request: Fault.status(400, "no") if request.text == "bad" else "Yes.") as server:
        command.at(server)
        arguments = ["batch", str(folder / "in.jsonl"), "-o", str(folder / "out"), "-v", "-j", "1"]
        first, second = command(*arguments).err, command(*arguments).err
    assert re.match(r"a␛\[2Jx{75}: gpt-4o-mini, \d+ tokens, \d\.\d s\nb: 400: no\n1 answered, 1 failed", first)
    assert re.match(r"a␛\[2Jx{75}: answered before\nb: 400: no\n1 answered \(1 of them before\), 1 failed", second)


@posix
def test_a_terminal_shows_how_far_it_has_come(command: Command, folder: Path) -> None:
    """With how many a second and the time that is left; a pipe gets the last line only."""
    pexpect = pytest.importorskip("pexpect")
    with LoopbackServer(slowly) as server:
        command.at(server)
        arguments = ["-m", "chatanywhere", "batch", str(thirty(folder)), "-o", str(folder / "out"), "-j", "2"]
        child = pexpect.spawn(sys.executable, arguments, cwd=str(ROOT), env=dict(os.environ), timeout=TIMEOUT)
        child.expect(pexpect.EOF)
        child.close()
    shown = child.before.decode()
    assert child.exitstatus == 0
    assert re.search(r"\b(\d|1\d|2\d)/30 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+prompt/s\]", shown)
    assert re.search(r"30/30 .*\r\n30 answered, 0 failed, \d+ tokens\r\n$", shown)


@posix
def test_without_tqdm_there_is_a_warning_and_no_line(command: Command, folder: Path) -> None:
    """The batch is done all the same."""
    pexpect = pytest.importorskip("pexpect")
    code = "import sys; sys.modules['tqdm'] = None; from chatanywhere.cli import main; sys.exit(main())"
    with LoopbackServer(said) as server:
        command.at(server)
        arguments = ["-c", code, "batch", str(thirty(folder)), "-o", str(folder / "out")]
        child = pexpect.spawn(sys.executable, arguments, cwd=str(ROOT), env=dict(os.environ), timeout=TIMEOUT)
        child.expect(pexpect.EOF)
        child.close()
    assert child.exitstatus == 0
    assert re.fullmatch(
        r"warning: there is no progress line without tqdm: [^\n]*\r\n30 answered, [^\n]*\r\n", child.before.decode()
    )
