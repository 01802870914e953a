"""The documents tell the truth: their programs run as they are pasted, and their links lead somewhere."""

from __future__ import annotations

import functools
import html
import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

from chatanywhere.cli import main
from chatanywhere.cli.chat import _WELCOME
from chatanywhere.testing import Fault, LoopbackServer

ROOT = Path(__file__).parents[1]
HOME = "https://github.com/chatanywhere/chatanywhere-python"
TIMEOUT = 120.0  # seconds; reached only when something hangs

DOCUMENTS = [
    ROOT / name
    for name in [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        *(f"docs/{file.name}" for file in sorted(ROOT.glob("docs/*.md"))),
    ]
]
TYPED = "Hello! I am Ada.\nDo you remember my name?\n\n"
"""What a user types into the programs that ask."""


class Block(NamedTuple):
    """A fenced block of a document."""

    document: Path
    line: int
    language: str
    content: str

    def __str__(self) -> str:
        return f"{self.document.name}:{self.line}"


def blocks_of(document: Path) -> list[Block]:
    """All fenced blocks of a document, in order."""
    text = document.read_text(encoding="utf-8")
    return [
        Block(document, text.count("\n", 0, found.start()) + 1, found[1], found[2])
        for found in re.finditer(r"(?ms)^```(.*?)\n(.*?)^```$", text)
    ]


def with_outputs(language: str) -> list[tuple[Block, str | None]]:
    """All blocks in a language, each with the text block that follows it, which is what it prints."""
    found: list[tuple[Block, str | None]] = []
    for document in DOCUMENTS:
        blocks = blocks_of(document)
        for position, block in enumerate(blocks):
            if block.language == language:
                output = [after.content for after in blocks[position + 1 : position + 2] if after.language == "text"]
                found.append((block, output[0] if output else None))
    return found


PROGRAMS = with_outputs("python")
COMMANDS = with_outputs("sh")


def run(block: Block, folder: Path, server: LoopbackServer, *, warnings: str = "error", typed: str = TYPED) -> str:
    """Run a block in a process of its own, as a user would who has set the two variables; return what it prints."""
    file = folder / "program.py"
    file.write_text(block.content, encoding="utf-8")
    if "def test_" in block.content:
        command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", file.name]
    else:
        command = [file.name]
    environment = {
        **os.environ,
        "CHATANYWHERE_API_KEY": "any",
        "CHATANYWHERE_BASE_URL": server.url,
        "PYTHONIOENCODING": "utf-8",
    }
    done = subprocess.run(
        [sys.executable, "-W", warnings, *command],
        cwd=folder,
        env=environment,
        input=typed,
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, f"{block} fails:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def for_server(block: Block, server: LoopbackServer) -> Block:
    """The block, with the line that docs/g4f.md gives for the practice server where it uses the live provider."""
    if "ChatAnywhereAPI" not in block.content:
        return block
    text = block.document.read_text(encoding="utf-8")
    (line,) = re.findall(r"`(ChatAnywhereAPI\.url = .*?)`", text)
    *_, last = re.finditer(r"(?m)^(from|import) .*\n", block.content)
    turned = line.replace("http://127.0.0.1:8000", server.url)
    return block._replace(content=f"{block.content[: last.end()]}{turned}\n{block.content[last.end() :]}")


@pytest.mark.parametrize(("block", "output"), [pytest.param(*each, id=str(each[0])) for each in PROGRAMS])
def test_a_program_of_the_documents_runs_as_pasted(block: Block, output: str | None, tmp_path: Path) -> None:
    """Each program ends without an error, and prints what stands below it where something does."""
    needs_g4f = "import g4f" in block.content or "from g4f" in block.content
    if needs_g4f and importlib.util.find_spec("g4f") is None:
        pytest.skip("needs g4f")
    with LoopbackServer() as server:
        printed = run(for_server(block, server), tmp_path, server, warnings="ignore" if needs_g4f else "error")
    if output is not None:
        assert printed == output


def readme_program(word: str) -> Block:
    """The one program of the README that has a word in it."""
    (found,) = [block for block, _ in PROGRAMS if block.document.name == "README.md" and word in block.content]
    return found


def test_the_readme_s_chat_remembers(tmp_path: Path) -> None:
    """The loop sends the whole conversation: the second answer knows what the first message said."""
    with LoopbackServer() as server:
        printed = run(readme_program("input("), tmp_path, server)
    assert printed.splitlines() == [
        "> Pleased to meet you, Ada. What brings you here?",
        "> Your name is Ada: you told me in message 1.",
        "> ",
    ]


def test_ctrl_d_ends_the_readme_s_chat(tmp_path: Path) -> None:
    """The end of the input is the end of the program, without a traceback, and the prompt's line is ended."""
    with LoopbackServer() as server:
        printed = run(readme_program("input("), tmp_path, server, typed="Hello! I am Ada.\n")
    assert printed == "> Pleased to meet you, Ada. What brings you here?\n> \n"


def test_ctrl_c_at_the_prompt_ends_the_readme_s_chat(tmp_path: Path) -> None:
    """Ctrl-C, which is raised here, since a signal might come before the program reads, is the end as well."""
    program = readme_program("input(")
    interrupted = program._replace(content=f"def input(prompt):\n    raise KeyboardInterrupt\n{program.content}")
    with LoopbackServer() as server:
        assert run(interrupted, tmp_path, server) == "\n"


@pytest.mark.parametrize(
    ("fault", "printed"),
    [
        (Fault.status(429, "limited to 200 requests per day"), r"The requests of the day are spent at 127.0.0.1.*"),
        (Fault.status(401, "wrong api key"), r"No answer \(attempts: 1\): 401: wrong api key.*"),
    ],
    ids=["quota", "key"],
)
def test_the_readme_s_program_for_errors_explains_them(fault: Fault, printed: str, tmp_path: Path) -> None:
    """When the call fails, the program says what its comments say, and ends well."""
    with LoopbackServer(faults=[fault]) as server:
        assert re.fullmatch(printed, run(readme_program("QuotaExceededError"), tmp_path, server), re.DOTALL)


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    """Programs, commands and output are marked as such; any other mark would leave a block unchecked."""
    blocks = [block for document in DOCUMENTS for block in blocks_of(document)]
    assert {block.language for block in blocks} == {"python", "sh", "text"}
    fences = sum(document.read_text(encoding="utf-8").count("```") for document in DOCUMENTS)
    assert fences == 2 * len(blocks)


# Commands


def test_the_readme_s_first_command_shows_what_the_readme_shows(capsys: pytest.CaptureFixture[str]) -> None:
    """It installs the package and ends with the demo, which begins with the conversation in the README."""
    command, output = COMMANDS[0]
    _, install, demo = command.content.strip().split(" && ")
    assert install.endswith("pip install -q .")
    program, *arguments = demo.split()
    assert Path(program).name == "chatanywhere"
    assert main([*arguments, "--delay", "0"]) == 0
    assert output is not None
    assert capsys.readouterr().out.startswith(output)


def test_the_readme_s_second_command_runs_the_tests() -> None:
    """It is one line, and the only line of the README with this in it, so that other programs can find it."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    command = COMMANDS[1][0].content.strip()
    assert [line for line in readme.splitlines() if "-m pytest" in line] == [command]
    assert command.startswith("python3 -m venv .venv && ")
    assert "'.[test]'" in command


@pytest.mark.parametrize("block", [pytest.param(block, id=str(block)) for block, _ in COMMANDS])
def test_a_command_of_the_documents_can_be_typed(block: Block) -> None:
    """The shell understands it, and the files, extras and commands that it names are there."""
    if os.name == "posix":
        subprocess.run(["bash", "-n"], input=block.content, check=True, text=True, timeout=TIMEOUT)
    words = re.split(r"[\s&]+", block.content)
    for word in words:
        if re.match(r"(benchmarks|examples|fuzz|tests)/", word):
            assert (ROOT / word).exists(), word
    extras = importlib.metadata.metadata("chatanywhere").get_all("Provides-Extra")
    assert extras is not None
    for names in re.findall(r"\[([\w,]+)\]", block.content):
        assert set(names.split(",")) <= set(extras)
    for arguments in re.findall(r"(?m)^chatanywhere (.*)$", block.content):
        with pytest.raises(SystemExit) as caught:
            main([*shlex.split(arguments), "--help"])
        assert caught.value.code == 0


RUN = [block for block, _ in COMMANDS if re.match(r"(?:if ! answer=\$\()?chatanywhere (?!serve)", block.content)]
"""The commands that end, and need no network."""


def test_every_command_is_run_or_known_to_be_none_that_can_be() -> None:
    """Left out are installations, tests, benchmarks, settings, and the server, which has tests of its own."""
    other = r"python3 -m venv|(\.venv/bin/)?pip install|\.venv/bin/python -m pytest|python (fuzz|benchmarks)/|export |"
    for block, _ in COMMANDS:
        if block not in RUN:
            for line in block.content.splitlines():
                assert re.match(rf"(?:{other}chatanywhere serve )", line), f"{block}: {line}"


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
def test_the_commands_of_the_documents_run_as_pasted(tmp_path: Path) -> None:
    """Each ends with 0, in the order in which they stand; the ID of the documents is that of a conversation here."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "chatanywhere"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m chatanywhere "$@"\n')
    program.chmod(0o755)
    (tmp_path / "photo.jpg").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(8))
    (tmp_path / "person.json").write_text('{"type": "object", "properties": {"name": {"type": "string"}}}')
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Hello!", "id": 7}\n')
    (tmp_path / "reviews.csv").write_text("text\nLovely!\nNever again.\n")
    for name in ("notes.txt", "report.txt"):
        (tmp_path / name).write_text("天气 is the weather.", encoding="utf-8")
    with LoopbackServer() as server:
        environment = {
            **os.environ,
            "CHATANYWHERE_API_KEY": "any",
            "CHATANYWHERE_BASE_URL": server.url,
            "CHATANYWHERE_HISTORY": str(tmp_path / "history.sqlite3"),
            "NO_PROXY": "127.0.0.1",
            "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }

        def shell(script: str) -> str:
            done = subprocess.run(
                ["bash", "-euc", script],
                cwd=tmp_path,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                timeout=TIMEOUT,
            )
            assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
            return done.stdout

        shell("chatanywhere ask 'Hello! I am Ada.' && chatanywhere show > conversation.md")
        known = json.loads(shell("chatanywhere history --json"))[0]["id"]
        for block in RUN:
            shell(block.content.replace("3f2a", known))
    assert (tmp_path / "reverse.py").exists()
    assert len((tmp_path / "labels.jsonl").read_text().splitlines()) == 2
    asked = [request.text for request in server.requests if request.path.endswith("/chat/completions")]
    assert "Ada Lovelace, born in 1815" in asked


# Links


@functools.cache
def anchors_of(document: Path) -> set[str]:
    """The names by which the headings of a document can be linked to, as GitHub makes them."""
    headings = re.findall(r"(?m)^#+ (.*)$", document.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def links_of(document: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8"))


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_every_link_into_this_repository_leads_to_a_file(document: Path) -> None:
    """What a link names exists, and has the heading that it names."""
    for link in links_of(document):
        path, _, anchor = link.partition("#")
        if inside := re.fullmatch(rf"{HOME}/(?:blob|raw|tree)/main/(.*)", path):
            target = ROOT / inside[1]
        elif "://" in path:
            assert not path.startswith((f"{HOME}/blob/", f"{HOME}/raw/"))
            continue
        else:
            target = document.parent / path if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def test_the_readme_s_links_are_absolute() -> None:
    """The README is the package's page elsewhere, too, where a relative link leads nowhere."""
    links = links_of(ROOT / "README.md")
    assert len(links) > 10
    assert [link for link in links if not link.startswith("https://")] == []


def test_every_document_is_linked_from_the_readme() -> None:
    """A newcomer finds each document from the first page."""
    links = links_of(ROOT / "README.md")
    for document in DOCUMENTS[1:]:
        assert f"{HOME}/blob/main/{document.relative_to(ROOT).as_posix()}" in links


def test_the_readme_s_picture_shows_the_chat_as_it_is() -> None:
    """It is a session of `chat` by its own words, small, without scripts, and loads nothing."""
    (alt, path) = re.findall(r"!\[(.*?)\]\((.*?)\)", (ROOT / "README.md").read_text(encoding="utf-8"))[0]
    assert "Ctrl-C" in alt
    svg = (ROOT / path.removeprefix(f"{HOME}/raw/main/")).read_text(encoding="utf-8")
    assert len(svg) < 20_000
    assert not re.search(r"<(?:script|image|foreignObject|a)\b|\bon\w+=|@import|url\((?!#)", svg)
    assert set(re.findall(r"https?:[^\"]*", svg)) == {"http://www.w3.org/2000/svg"}
    ElementTree.fromstring(svg)
    shown = [html.unescape(re.sub("<[^>]*>", "", line)).replace("\xa0", " ").rstrip() for line in svg.splitlines()]
    stopped = [position for position, line in enumerate(shown) if line.endswith("^C")]
    assert len(stopped) == 1
    assert _WELCOME in shown
    assert shown[stopped[0] + 1 : stopped[0] + 3] == [
        "note: stopped; /resume goes on with it, /retry asks again",
        "> /resume",
    ]


# The map


def test_the_map_of_the_house_has_every_file() -> None:
    """CONTRIBUTING names each file of the package, in its folder, and no other."""
    (drawing,) = [block for block in blocks_of(ROOT / "CONTRIBUTING.md") if block.content.startswith("chatanywhere/\n")]
    drawn: set[str] = set()
    folders: list[str] = []
    for indent, name in re.findall(r"(?m)^( +)(\S+)", drawing.content):
        del folders[len(indent) // 2 - 1 :]
        if name.endswith("/"):
            folders.append(name)
        else:
            drawn.add("".join([*folders, name]))
    package = ROOT / "chatanywhere"
    assert drawn == {file.relative_to(package).as_posix() for file in package.rglob("*.py")}
