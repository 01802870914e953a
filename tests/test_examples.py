"""The examples, run as their docstrings say, against a server on this machine."""

from __future__ import annotations

import ast
import json
import math
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from raw_server import RawServer, json_answer

from chatanywhere.testing import Fault, LoopbackServer, Reply, Request

EXAMPLES = Path(__file__).parents[1] / "examples"
TIMEOUT = 120.0  # seconds; reached only when something hangs

run_here: set[str] = set()


def example(name: str) -> Callable[[Any], Any]:
    """Give a test the path of an example, and note that the example is run."""
    run_here.add(name)
    return pytest.mark.parametrize("program", [EXAMPLES / name], ids=[name])


def environment(server: LoopbackServer | RawServer | None) -> dict[str, str]:
    """What a user of this server would set; without a server, there is no key."""
    settings = {"CHATANYWHERE_API_KEY": "any", "CHATANYWHERE_BASE_URL": server.url} if server else {}
    return {**os.environ, **settings, "PYTHONIOENCODING": "utf-8"}


def run(
    program: Path, *arguments: str, server: LoopbackServer | RawServer | None, typed: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run an example to its end."""
    return subprocess.run(
        [sys.executable, "-W", "error", str(program), *arguments],
        env=environment(server),
        input=typed,
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
    )


@contextmanager
def running(
    program: Path, *arguments: str, server: LoopbackServer
) -> Iterator[tuple[subprocess.Popen[str], IO[str], IO[str]]]:
    """Run an example in step with a test: the process, its input and its output."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
    with subprocess.Popen([sys.executable, program, *arguments], env=environment(server), **pipes) as process:
        limit = threading.Timer(TIMEOUT, process.kill)
        limit.start()
        try:
            assert process.stdin
            assert process.stdout
            yield process, process.stdin, process.stdout
        finally:
            limit.cancel()
            process.kill()


# summarize.py


@example("summarize.py")
def test_a_summary_is_printed(program: Path) -> None:
    """The article is sent, and the answer is what is printed."""
    with LoopbackServer(["It is about 三 engines."]) as server:
        done = run(program, server=server, typed="A long article.\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "It is about 三 engines.\n", "")
    assert server.requests[0].text == "A long article.\n"


@example("summarize.py")
@pytest.mark.parametrize(
    ("server", "typed", "code", "said"),
    [
        (LoopbackServer(), " \n", 2, "nothing to read"),
        (LoopbackServer(faults=[Fault.status(401, "wrong api key")]), "Text", 1, "wrong api key"),
        (None, "Text", 1, "CHATANYWHERE_API_KEY"),
    ],
    ids=["nothing to read", "wrong key", "no key"],
)
def test_why_there_is_no_summary_is_told(
    program: Path, server: LoopbackServer | None, typed: str, code: int, said: str
) -> None:
    """Without an article, a key or an answer the program says so, without a traceback."""
    if server is not None:
        server.start()
    try:
        done = run(program, server=server, typed=typed)
    finally:
        if server is not None:
            server.close()
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


# chat.py


@example("chat.py")
def test_a_chat_remembers(program: Path) -> None:
    """The second answer draws on what was said before the first."""
    with LoopbackServer() as server:
        done = run(program, server=server, typed="Hi, I'm Alan.\nWhat was my name again?\n\n")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "> Pleased to meet you, Alan. What brings you here?",
        "> Your name is Alan: you told me in message 1.",
        "> ",
    ]


@example("chat.py")
def test_a_chat_goes_on_after_an_error(program: Path) -> None:
    """A turn that failed is told and forgotten, and the input's end is a good end."""
    with LoopbackServer(["Yes?"], faults=[Fault.status(400, "no such thing", first=1)]) as server:
        done = run(program, server=server, typed="One.\nTwo.\n")
    assert done.returncode == 0
    assert "no such thing" in done.stderr
    assert "> Yes?\n" in done.stdout
    assert [message["content"] for message in server.requests[-1].messages] == ["Two."]


@example("chat.py")
def test_ctrl_d_ends_a_chat(program: Path) -> None:
    """The end of the input ends the prompt's line and the program, without a traceback."""
    with LoopbackServer(["Yes?"]) as server:
        done = run(program, server=server, typed="One.\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "> Yes?\n> \n", "")


@example("chat.py")
def test_ctrl_c_at_the_prompt_ends_a_chat(
    program: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So does Ctrl-C, which is raised here, since a signal might come before the program reads."""

    def interrupt(prompt: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupt)
    monkeypatch.setenv("CHATANYWHERE_API_KEY", "any")
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(program), run_name="__main__")
    assert (caught.value.code, capsys.readouterr().out) == (0, "\n")


@example("chat.py")
@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
def test_ctrl_c_stops_an_answer_and_not_the_chat(program: Path) -> None:
    """What had arrived stays in the conversation, and the next question is answered."""
    replies = [["Once upon ", "a time."], ["Yes?"]]
    with (
        LoopbackServer(replies, delay=3600) as server,
        running(program, server=server) as (process, typed, printed),
    ):
        typed.write("Tell me a story.\n")
        typed.flush()
        assert printed.read(len("> Once upon ")) == "> Once upon "
        process.send_signal(signal.SIGINT)
        assert printed.read(len(" [stopped]\n> ")) == " [stopped]\n> "
        typed.write("And?\n\n")
        typed.close()
        assert printed.read() == "Yes?\n> "
    assert [message["content"] for message in server.requests[1].messages] == [
        "Tell me a story.",
        "Once upon ",
        "And?",
    ]


# parallel.py and parallel_async.py


@example("parallel.py")
def test_prompts_are_answered_in_order(program: Path) -> None:
    """Each line of output answers its line of input; the prompt that fails leaves its line empty."""

    def reply(request: Request) -> str | Fault:
        return Fault.status(400, "not this one") if request.text == "two" else f"{request.text}\nand more"

    with LoopbackServer(reply) as server:
        done = run(program, server=server, typed="one\ntwo\n\nthree\n")
    assert (done.returncode, done.stdout) == (1, "one and more\n\nthree and more\n")
    assert done.stderr.startswith("'two' failed: 400: not this one")


@example("parallel_async.py")
def test_models_are_asked_at_the_same_time(program: Path) -> None:
    """Each answer or error is printed when it arrives, while a slow model asked first is still silent."""
    others_are_printed = threading.Event()
    replies = {"fast": "At once.", "slow": "At last.", "none": Fault.status(400, "no such model")}

    def reply(request: Request) -> Any:
        model = request.json["model"]
        if model == "slow":
            others_are_printed.wait(TIMEOUT)
        return replies[model]

    with (
        LoopbackServer(reply) as server,
        running(program, "Hello", "slow", "fast", "none", server=server) as (_, _, printed),
    ):
        assert {printed.readline() for _ in range(2)} == {"fast: At once.\n", "none failed: 400: no such model\n"}
        others_are_printed.set()
        assert printed.read() == "slow: At last.\n"


# fallback.py


@example("fallback.py")
def test_the_next_model_answers(program: Path) -> None:
    """A model whose quota is spent, and one that is refused, are passed over, and said to have been."""
    replies: dict[str, str | Fault] = {
        "best": Fault.status(429, "limited to 5 requests per day"),
        "good": Fault.status(403, "free account is limited to use"),
        "plain": "Here I am.",
    }
    with LoopbackServer(lambda request: replies[request.json["model"]]) as server:
        done = run(program, "Hello", "best", "good", "plain", server=server)
    assert (done.returncode, done.stdout) == (0, "[plain] Here I am.\n")
    assert done.stderr == "QuotaExceededError: asking good next\nModelNotAllowedError: asking plain next\n"


@example("fallback.py")
def test_a_wrong_key_is_not_tried_on_every_model(program: Path) -> None:
    """When the key is refused, one model is asked, and the error is told."""
    with LoopbackServer(faults=[Fault.status(401, "wrong api key")]) as server:
        done = run(program, "Hello", server=server)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("fallback: 401: wrong api key")
    assert len(server.requests) == 1


# pictures.py


@example("pictures.py")
def test_a_picture_is_asked_about(program: Path, tmp_path: Path) -> None:
    """Files are sent as what they are, URLs as they stand, and the answer is not streamed."""
    picture = tmp_path / "photo"
    picture.write_bytes(b"GIF89a")
    with LoopbackServer(["A cat."]) as server:
        done = run(program, "What is this?", str(picture), "https://example.org/cat.png", server=server)
    assert (done.returncode, done.stdout, done.stderr) == (0, "A cat.\n", "")
    assert server.requests[0].json["stream"] is False
    assert server.requests[0].messages[0]["content"] == [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0lGODlh"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}},
    ]


@example("pictures.py")
@pytest.mark.parametrize(("picture", "said"), [("none.png", "none.png"), (__file__, "no PNG")])
def test_what_is_no_picture_is_told(program: Path, picture: str, said: str) -> None:
    """A file that is missing or holds something else is told in a line, and nothing is asked."""
    with LoopbackServer() as server:
        done = run(program, "What is this?", picture, server=server)
    assert (done.returncode, done.stdout, server.requests) == (1, "", [])
    assert said in done.stderr
    assert "Traceback" not in done.stderr


# embeddings.py


@example("embeddings.py")
def test_the_nearest_texts_are_found(program: Path, raw_server: RawServer) -> None:
    """Three of them, the nearest first."""
    angles = {"bread": 0.0, "dough": 0.2, "Rust": 3.0, "flour": 0.1, "oven": 0.4}

    def steps(request: bytes) -> list[Any]:
        texts = json.loads(request.partition(b"\r\n\r\n")[2])["input"]
        vectors = [[math.cos(angles[text]), math.sin(angles[text])] for text in texts]
        return [json_answer({"data": [{"embedding": vector} for vector in vectors]})]

    raw_server.steps = steps
    done = run(program, "bread", server=raw_server, typed="dough\nRust\n\nflour\noven\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1.00 flour\n0.98 dough\n0.92 oven\n", "")


# balance.py


@example("balance.py")
def test_a_balance_is_told(program: Path, raw_server: RawServer) -> None:
    """What is left, and the days; what the service does not tell is a question mark."""

    def steps(request: bytes) -> list[Any]:
        if b"/query/balance" in request:
            return [json_answer({"balanceTotal": 10, "balanceUsed": 2.5})]
        return [json_answer([{"time": "2026-11-23 00:00:00", "count": 3, "cost": 0.25}, {"count": 1}])]

    raw_server.steps = steps
    done = run(program, server=raw_server)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "7.5 CA left, of 10\n2026-11-23: 0.25 CA for 3 calls\n?: ? CA for 1 calls\n"


@pytest.mark.parametrize(("name", "arguments"), [("balance.py", []), ("embeddings.py", ["bread"])])
def test_a_server_without_these_endpoints_is_told(name: str, arguments: list[str], raw_server: RawServer) -> None:
    """In a line or two, without a traceback."""
    raw_server.answer(json_answer({"error": {"message": "Invalid URL"}}, "404 No"))
    done = run(EXAMPLES / name, *arguments, server=raw_server)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{name.removesuffix('.py')}: 404: Invalid URL\n")
    assert ("ChatAnywhere's own" in done.stderr) is (name == "balance.py")
    assert "Traceback" not in done.stderr


# test_my_program.py


@example("test_my_program.py")
def test_the_example_of_tests_passes(program: Path, tmp_path: Path) -> None:
    """Run by pytest without any configuration, all of it passes."""
    copy = tmp_path / program.name
    copy.write_bytes(program.read_bytes())  # so that pytest does not take this repository's configuration
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", copy.name],
        cwd=tmp_path,
        env=environment(None),
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout


# tools.py


@example("tools.py")
def test_functions_help_with_an_answer(program: Path) -> None:
    """Each call is printed with its result or its error, between the pieces of the answers."""
    calls = [("days_between", {"start": "2026-01-31", "end": "2026-03-01"}), ("days_between", {"start": "soon"})]
    with LoopbackServer([Reply("Let me count. ", tool_calls=calls), "It is 29 days."]) as server:
        done = run(program, "How many days?", server=server)
    assert (done.returncode, done.stderr) == (0, "")
    first, second, last = done.stdout.splitlines()
    assert first == 'Let me count. [days_between({"start": "2026-01-31", "end": "2026-03-01"}) = 29]'
    assert second.startswith('[days_between({"start": "soon"}) = wrong arguments for days_between: start: ')
    assert last == "It is 29 days."
    tools = [tool["function"] for tool in server.requests[0].json["tools"]]
    assert [tool["name"] for tool in tools] == ["today", "days_between"]


@example("tools.py")
def test_why_functions_did_not_help_is_told(program: Path) -> None:
    """Without an answer the program says so, without a traceback."""
    with LoopbackServer(faults=[Fault.status(401, "wrong api key")]) as server:
        done = run(program, "How many days?", server=server)
    assert (done.returncode, done.stdout) == (1, "")
    assert "wrong api key" in done.stderr
    assert "Traceback" not in done.stderr


# label_csv.py

CUSTOMERS = "id,text\n1,I love it\n2,Where is it?\n3,I love it\n"


@example("label_csv.py")
def test_a_csv_file_is_labelled(program: Path, tmp_path: Path) -> None:
    """Each row gets a label, equal rows are asked once, and a second run asks nothing."""
    file = tmp_path / "reviews.csv"
    file.write_text(CUSTOMERS, encoding="utf-8")

    def label(request: Request) -> str:
        return json.dumps({"value": "praise" if "love" in request.text else "question"})

    with LoopbackServer(label) as server:
        for _ in range(2):
            done = run(program, str(file), "text", server=server)
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout == "id,text,label\n1,I love it,praise\n2,Where is it?,question\n3,I love it,praise\n"
        assert len(server.requests) == 2


@example("label_csv.py")
def test_a_csv_file_is_labelled_in_several_days(program: Path, tmp_path: Path) -> None:
    """When the quota is spent, what was paid is printed, and what is left is told; the next run has the rest."""
    file = tmp_path / "reviews.csv"
    file.write_text(CUSTOMERS, encoding="utf-8")
    answer = '{"value": "other"}'
    spent = Fault.status(429, "limited to 200 requests per day")
    with LoopbackServer([answer, spent, answer, answer]) as server:
        done = run(program, str(file), "text", server=server)
        assert done.returncode == 1
        assert done.stdout.count(",other\n") in (1, 2)
        assert re.search(r"\d rows are left; go on after \d{4}-", done.stderr)
        done = run(program, str(file), "text", server=server)
        assert (done.returncode, done.stdout.count(",other\n")) == (0, 3)


@example("label_csv.py")
def test_a_csv_file_is_not_labelled_with_a_wrong_key(program: Path, tmp_path: Path) -> None:
    """The program says so, and a row that has no label says why."""
    file = tmp_path / "reviews.csv"
    file.write_text(CUSTOMERS, encoding="utf-8")
    with LoopbackServer(faults=[Fault.status(401, "wrong api key")]) as server:
        done = run(program, str(file), "text", server=server)
    assert (done.returncode, "wrong api key" in done.stderr) == (2, True)
    with LoopbackServer(["no label"] * 3) as server:
        done = run(program, str(file), "text", server=server)
    assert done.returncode == 1
    assert "row 2: the answer does not fit" in done.stderr


# structured.py


@example("structured.py")
def test_a_letter_becomes_a_table(program: Path) -> None:
    """The fields of the answer are printed."""
    answer = '{"name": "Ada", "years_of_experience": null, "skills": ["algebra", "engines"]}'
    with LoopbackServer([answer]) as server:
        done = run(program, server=server, typed="Dear Sir or Madam, I am Ada.")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "name        Ada\nexperience  None\nskills      algebra, engines\n"
    assert server.requests[0].json["response_format"]["json_schema"]["name"] == "Applicant"


@example("structured.py")
@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("Dear Ada", "the answer does not fit Applicant: Invalid JSON: .*\nThe answer was: Dear Ada\n"),
        (Fault.status(401, "wrong api key"), "structured: 401: wrong api key"),
    ],
    ids=["invalid", "wrong key"],
)
def test_why_there_is_no_table_is_told(program: Path, reply: str | Fault, said: str) -> None:
    """The error is printed, with the answer that did not fit."""
    with LoopbackServer([reply]) as server:
        done = run(program, server=server, typed="Dear Sir or Madam")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(said, done.stderr)
    assert "Traceback" not in done.stderr


# All of them


@pytest.mark.parametrize(
    ("name", "arguments", "usage"),
    [
        ("parallel_async.py", [], "QUESTION [MODEL ...]"),
        ("fallback.py", [], "QUESTION [MODEL ...]"),
        ("embeddings.py", [], "QUESTION < TEXTS"),
        ("embeddings.py", [""], "QUESTION < TEXTS"),
        ("pictures.py", ["What is this?"], "QUESTION PICTURE [PICTURE ...]"),
    ],
)
def test_an_example_without_its_question_says_how_to_use_it(name: str, arguments: list[str], usage: str) -> None:
    """What is missing is told in one line."""
    done = run(EXAMPLES / name, *arguments, server=None)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"usage: python {name} {usage}\n"


def test_every_example_is_run() -> None:
    """A new example comes with a test in this file that runs it."""
    assert {file.name for file in EXAMPLES.iterdir() if file.is_file()} == run_here


WEB_PROGRAMS = sorted((EXAMPLES / "web").glob("*.py"))


@pytest.mark.parametrize("program", WEB_PROGRAMS, ids=lambda path: path.name)
def test_every_web_program_is_run_elsewhere(program: Path) -> None:
    """`nox -s web` runs it under the server that its docstring names; here it is compiled."""
    source = program.read_text(encoding="utf-8")
    compile(source, program, "exec")
    docstring = ast.get_docstring(ast.parse(source))
    assert docstring
    command = re.search(rf"^    (gunicorn|uvicorn) .*examples/web .* {program.stem}:(\w+)$", docstring, re.MULTILINE)
    assert command
    tests = (Path(__file__).parent / "web" / f"with_{command[1]}.py").read_text(encoding="utf-8")
    assert f"{program.stem}:{command[2]}" in tests


@pytest.mark.parametrize("name", sorted(run_here))
def test_every_example_says_how_to_run_it(name: str) -> None:
    """It opens with what it does, and with the command that runs it."""
    docstring = ast.get_docstring(ast.parse((EXAMPLES / name).read_text(encoding="utf-8")))
    assert docstring
    assert f"    python examples/{name}" in docstring or f"    python -m pytest examples/{name}" in docstring
