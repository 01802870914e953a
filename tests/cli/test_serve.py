"""`serve` and `demo`, as a person at a terminal meets them, and the arguments of the command line."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import chatanywhere
from chatanywhere.cli import main
from chatanywhere.testing import LoopbackServer

TIMEOUT = 60.0  # seconds; reached only when something hangs
ROOT = Path(chatanywhere.__file__).parents[1]

posix = pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")


@pytest.fixture(autouse=True)
def misleading_environment(clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command has to work where the environment points elsewhere."""
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]:
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("CHATANYWHERE_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("CHATANYWHERE_MODEL", "no-such-model")
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")


@pytest.fixture(autouse=True)
def restored_log() -> Iterator[None]:
    """The command `serve`, called in this process, leaves the server's log on."""
    yield
    logging.getLogger(LoopbackServer.__module__).setLevel(logging.WARNING)


@pytest.fixture
def restored_signals() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command line in a process of its own, which ends with the block at the latest."""
    command = [sys.executable, "-W", "error", "-m", "chatanywhere", *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, encoding="utf-8", **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], pattern: str) -> str:
    """Return what a process prints up to the first match of a pattern."""
    assert process.stdout
    printed = ""
    while not re.search(pattern, printed):
        character = process.stdout.read(1)
        assert character, f"ended after {printed!r}"
        printed += character
    return printed


# demo


def test_the_demo_shows_a_conversation_with_each_client() -> None:
    """Each client's conversation is shown, and the last answer of each knows what came first."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert main(["demo", "--delay", "0"]) == 0
    web, openai, provider, *end = output.getvalue().split("\n\n")
    assert 'Client(protocol="web")' in web
    assert 'Client(protocol="openai")' in openai
    assert "ChatAnywhere" in provider
    assert "async for" in provider
    for conversation, name in [(web, "Ada"), (openai, "Alan"), (provider, "小明")]:
        assert conversation.count("you: ") == conversation.count("server: ") == 3
        assert name in conversation.splitlines()[1]
        assert name in conversation.splitlines()[-1]
    assert "CHATANYWHERE_API_KEY" in "".join(end)
    assert "https://github.com/chatanywhere/GPT_API_free" in "".join(end)


def test_the_demo_prints_where_chinese_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal with a legacy encoding gets question marks in place of an error."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    with running("demo", "--delay", "0") as process:
        output, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, errors) == (0, "")
    assert "?" in output


@posix
def test_the_demo_prints_each_piece_as_it_comes() -> None:
    """The first word is seen while the second is awaited; Ctrl-C ends it without a traceback."""
    with running("demo", "--delay", "3600") as process:
        assert read_until(process, "server: .").count("\n") == 2
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, errors) == (130, "")


def test_an_interrupted_command_says_so_by_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during the demo is the exit code that shells know it by."""

    def interrupt(self: LoopbackServer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LoopbackServer, "start", interrupt)
    assert main(["demo"]) == 130


@posix
@pytest.mark.parametrize("lines", [3, 11, 19], ids=["web", "openai", "provider"])
def test_the_demo_ends_when_nobody_reads_on(lines: int) -> None:
    """`chatanywhere demo | head -3` ends without a traceback, whichever client talks; the exit code is SIGPIPE's."""
    with running("demo", "--delay", "0.02") as process:
        assert process.stdout
        assert process.stderr
        for _ in range(lines):
            assert process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        assert (process.wait(TIMEOUT), errors) == (141, "")


# serve


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_answers_until_it_is_ended(number: signal.Signals) -> None:
    """The printed URL answers; on Ctrl-C or SIGTERM the exit code is 0 and nothing but the log has been printed."""
    with running("serve", "--port", "0", "--delay", "0") as process:
        url = re.findall(r"http://127\.0\.0\.1:\d+", read_until(process, "\n"))[0]
        with chatanywhere.Client("key", base_url=url, proxy="") as client:
            assert "Ada" in client.complete("My name is Ada.").text
        process.send_signal(number)
        _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    assert re.fullmatch(r"\d\d:\d\d:\d\d POST /v1/chat/completions 200\n", errors)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), TIMEOUT)


@posix
@pytest.mark.parametrize("program", ["curl", "python"])
def test_the_examples_of_serve_work(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands that `serve` prints can be pasted into a shell, and get an answer."""
    if program == "python":
        pytest.importorskip("openai")
    elif not shutil.which(program):
        pytest.skip("needs curl")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    with running("serve", "--port", "0", "--delay", "0") as process:
        printed = read_until(process, r"\)\)'\n")
        example = re.findall(rf"(?ms)^    {program} .*?'\n", printed)[0]  # as it stands there
        answer = subprocess.check_output(example, shell=True, text=True, timeout=TIMEOUT)
    assert "Pleased to meet you, Ada." in answer


def test_serve_prints_its_address_and_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, restored_signals: None
) -> None:
    """The address comes first, then examples with it, and Ctrl-C is a good end."""

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    assert main(["serve", "--port", "0"]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    url = re.findall(r"http://127\.0\.0\.1:\d+", first)[0]
    assert sum(url in line for line in others) == 3


@posix
def test_serve_prints_what_this_package_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two `export` lines, given to a shell, let a program without arguments reach the server."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    program = "import chatanywhere; print(chatanywhere.Client().complete('Hi').text)"
    with running("serve", "--port", "0", "--delay", "0", "--reply", "Hello, Ada.") as process:
        exports = re.findall(r"(?m)^ +(export .*)$", read_until(process, "_API_KEY=.*\n"))
        assert len(exports) == 2
        shell = "\n".join([*exports, f'"{sys.executable}" -c "{program}"'])
        answer = subprocess.check_output(shell, shell=True, text=True, timeout=TIMEOUT, cwd=ROOT)
    assert answer == "Hello, Ada.\n"


@posix
def test_serve_says_and_does_what_it_is_told() -> None:
    """Replies take turns, faults strike, the host is another, and the log has it all but the key."""
    options = ["--reply", "one", "--reply", "two", "--fault", "status(503, first=1)", "--fault", "latency(0)"]
    with running("serve", "--host", "localhost", "--port", "0", "--delay", "0", *options) as process:
        url = re.findall(r"http://localhost:\d+", read_until(process, "\n"))[0]
        with chatanywhere.Client("sk-0123456789", base_url=url, proxy="", retry=2) as client:
            assert [client.complete("Hi").text for _ in range(3)] == ["one", "two", "one"]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=TIMEOUT)
    assert [line.split(" ", 1)[1] for line in errors.splitlines()] == [
        f"POST /v1/chat/completions {status}" for status in (503, 200, 200, 200)
    ]


def test_serve_records_and_replays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, restored_signals: None
) -> None:
    """With `--record` it answers what another service says, with `--replay` what it said; it prints what to set."""
    file = tmp_path / "{chat}.rec"
    answers: list[str] = []

    def ask_and_interrupt(seconds: float) -> None:
        url = re.findall(r"export CHATANYWHERE_BASE_URL=(.*)", capsys.readouterr().out)[0]
        with chatanywhere.Client("sk-0123456789ab", base_url=url, proxy="") as client:
            answers.append(client.complete("Hi").text)
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", ask_and_interrupt)
    with LoopbackServer(["Hello, Ada."]) as upstream:
        assert main(["serve", "--port", "0", "--record", str(file), "--upstream", upstream.url]) == 0
    assert main(["serve", "--port", "0", "--replay", str(file), "--speed", "0"]) == 0
    assert answers == ["Hello, Ada."] * 2
    assert "sk-0123456789ab" not in file.read_text()


def test_what_can_not_be_recorded_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is there already or is none, half of the options, and a wrong URL are told with exit code 2."""
    file = tmp_path / "chat.rec"
    file.write_text("mine")
    upstream = ["--upstream", "http://127.0.0.1:9"]
    for arguments, said in (
        (["--record", str(file), *upstream], "remove it"),
        (["--replay", str(file)], "no recording"),
        (["--replay", str(tmp_path / "none")], "LoopbackServer.record"),
        (["--record", str(tmp_path / "new")], "--upstream"),
        (upstream, "--record"),
        (["--record", str(tmp_path / "new"), "--upstream", "example.com"], "https://"),
    ):
        assert main(["serve", "--port", "0", *arguments]) == 2
        output, errors = capsys.readouterr()
        assert (output, errors.count("\n")) == ("", 2)
        assert said in errors
    assert [each.name for each in tmp_path.iterdir()] == ["chat.rec"]


def test_a_port_in_use_is_one_line_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    """Where the port is taken, the exit code is 2 and the message names `--port`."""
    with LoopbackServer() as server:
        port = server.url.rpartition(":")[2]
        assert main(["serve", "--port", port]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.count("\n") == 2
    assert port in errors
    assert "--port 0" in errors


@posix
@pytest.mark.parametrize("arguments", [["demo"], ["serve", "--port", "0"], ["--help"], ["--version"]], ids=" ".join)
def test_a_command_ends_quietly_when_nobody_reads(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the output was closed before the first byte, no error is printed, not even at Python's exit."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # with it, argparse passes over what fails in some releases
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [sys.executable, "-W", "error", "-m", "chatanywhere", *arguments]
        pipes: dict[str, Any] = {"stdout": writing, "stderr": subprocess.PIPE}
        done = subprocess.run(command, cwd=ROOT, encoding="utf-8", timeout=TIMEOUT, **pipes)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
@pytest.mark.parametrize("arguments", [["demo", "--delay", "0"], ["serve", "--port", "0"], ["--version"]], ids=" ".join)
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_an_output_that_can_not_be_written_is_one_line(
    arguments: list[str], unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the disk is full, the exit code is 1 and the system's error is told without a traceback."""
    if arguments == ["--version"] and unbuffered:
        pytest.skip("argparse passes over it")
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    command = [sys.executable, "-W", "error", "-m", "chatanywhere", *arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=ROOT, encoding="utf-8", timeout=TIMEOUT, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert re.fullmatch(r"error: .*No space left on device\nhint: .+\n", done.stderr)


def test_a_demo_without_a_port_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the demo can't listen, the exit code is 1 and the system's error is told without a traceback."""

    def refuse(self: LoopbackServer) -> None:
        raise OSError("no address is left")

    monkeypatch.setattr(LoopbackServer, "start", refuse)
    assert main(["demo"]) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert re.fullmatch(r"error: no address is left\nhint: .+\n", errors)


# Arguments

WRONG_FAULTS = ("", "no_such", "strike", "_instead", "1", "status", "status(200)", "status(x)", "status(", "a.b()")


@pytest.mark.parametrize(
    "arguments",
    [
        *([], ["no-such-command"], ["demo", "--delay", "-1"], ["demo", "--delay", "x"]),
        *(["serve", "--port", port] for port in ("x", "-1", "65536", "1.5", "")),
        *(["serve", "--fault", fault] for fault in WRONG_FAULTS),
        *(["serve", "--speed", speed] for speed in ("-1", "x", "nan")),
        ["serve", "--reply", "x", "--replay", "y"],
    ],
    ids=" ".join,
)
def test_wrong_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What the command line does not have ends with exit code 2 and two lines."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert re.fullmatch(r"error: .+\nhint: .+\n", capsys.readouterr().err)


def test_a_port_that_no_system_has_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A port beyond 65535 is told with the range."""
    with pytest.raises(SystemExit):
        main(["serve", "--port", "65536"])
    assert "argument --port: '65536' is not a port from 0 to 65535" in capsys.readouterr().err


def test_a_host_that_is_not_there_is_one_line_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    """An address of another machine can't be listened on; the message names `--host`."""
    assert main(["serve", "--host", "192.0.2.1", "--port", "0"]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 2
    assert "192.0.2.1" in errors
    assert "--host" in errors


def test_a_wrong_fault_is_told_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    """The message lists the names of faults."""
    with pytest.raises(SystemExit):
        main(["serve", "--fault", "no_such"])
    errors = " ".join(capsys.readouterr().err.split())
    assert "reset_peer" in errors
    assert "error_frame" in errors


@pytest.mark.parametrize("fault", ["status(503, first=x)", "status(x)", "status(*x)", "status(**x)"])
def test_what_is_no_value_in_a_fault_is_told(fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A name in the place of a value is named, and what a value looks like."""
    with pytest.raises(SystemExit):
        main(["serve", "--fault", fault])
    errors = " ".join(capsys.readouterr().err.split())
    assert "x is no value, such as 503, 'text'" in errors
    assert "object at" not in errors


def test_the_version_is_the_package_s() -> None:
    """`python -m chatanywhere --version` prints the name and the version."""
    command = [sys.executable, "-m", "chatanywhere", "--version"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert printed == f"chatanywhere {chatanywhere.__version__}\n"
