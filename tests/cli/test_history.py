"""What was said before: listed, found, shown and removed; and the settings and the account."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from chatanywhere.testing import Fault, LoopbackServer, Reply

from .conftest import Command


def listed(command: Command, *arguments: str) -> list[dict[str, Any]]:
    done = command("history", *arguments, "--json")
    assert (done.code, done.err) == (0, "")
    found: list[dict[str, Any]] = json.loads(done.out)
    return found


@pytest.fixture
def talked(command: Command) -> Command:
    """A history of three conversations, the second of which was gone on with last."""
    with LoopbackServer(["晴。", "A 100% sure_thing.", "Un cafe\u0301!", "More."]) as server:
        command.at(server)
        command("ask", "今天天气怎么样？", "-m", "gpt-4o")
        command("ask", "  What is\tsure?\nSay it. ")
        command("ask", "Straße?\nÉcole")
        (second,) = (each["id"] for each in listed(command) if each["title"].startswith("What"))
        command("ask", "--id", second[:6], "more")
    return command


def test_conversations_are_listed_newest_first(talked: Command) -> None:
    """Each with its title, model, times and how many messages it has; `-n` says how many of them."""
    found = listed(talked)
    assert [(each["title"], each["messages"]) for each in found] == [
        ("What is sure?", 4),
        ("Straße?", 2),
        ("今天天气怎么样？", 2),
    ]
    assert [list(each) for each in found] == [["id", "title", "model", "created", "updated", "messages"]] * 3
    assert found[2]["model"] == "gpt-4o"
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", each["updated"]) for each in found)
    assert len(listed(talked, "-n", "2")) == 2
    assert len(listed(talked, "-n", "0")) == 3
    shown = talked("history").out.splitlines()
    assert [line.split()[0] for line in shown] == [each["id"][:8] for each in found]


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("天气", 1),
        ("气", 1),
        ("100%", 1),
        ("%", 1),
        ("_", 1),
        ("sure_t", 1),
        ("sureXt", 0),
        ("SURE", 1),
        ("strasse", 1),
        ("ÉCOLE", 1),
        ("e\u0301cole", 1),
        ("ecole", 0),
        ("CAFÉ", 1),
    ],
)
def test_a_text_is_found_literally_in_any_script_and_case(talked: Command, query: str, count: int) -> None:
    """Two Chinese characters are found, or one, and letters however they are written; `%` and `_` are themselves."""
    assert len(listed(talked, query)) == count


def test_without_a_history_there_is_an_empty_list(command: Command) -> None:
    """It is no error, and no file is made."""
    assert listed(command) == []
    assert command("history") == (0, "", "")
    assert not command.database.exists()


def test_a_conversation_is_found_by_the_beginning_of_its_id(talked: Command) -> None:
    """One that is ambiguous or unknown ends with 2, and nothing is removed."""
    ids = [each["id"] for each in listed(talked)]
    shown = json.loads(talked("show", ids[1][:5].upper(), "--json").out)
    assert shown["id"] == ids[1]
    assert [(each["role"], each["content"], each["status"]) for each in shown["messages"]] == [
        ("user", "Straße?\nÉcole", "complete"),
        ("assistant", "Un cafe\u0301!", "complete"),
    ]
    assert json.loads(talked("show", "--json").out)["id"] == ids[0]
    for arguments in (["show", "nothing"], ["show", ""], ["rm", ids[0], "nothing"], ["rm", ""], ["rm"]):
        done = talked(*arguments)
        assert (done.code, done.out) == (2, "")
        assert re.fullmatch(r"error: .+\nhint: .+\n", done.err)
    assert len(listed(talked)) == 3


@pytest.mark.parametrize("ending", ["md", "json"])
def test_what_is_shown_can_be_gone_on_with(command: Command, tmp_path: Path, ending: str) -> None:
    """`chat --from` reads what `show` prints and `/save` writes, with a turn that was cut, which `/resume` ends."""
    file = tmp_path / f"conversation.{ending}"
    replies = ["Hello.", Reply(pieces=["One ", "two"]), "two three.", "Bye."]
    with LoopbackServer(replies, faults=[]) as server:
        command.at(server)("ask", "## User", "-s", "Be short.", "-m", "gpt-4o")
        server.faults = [Fault.no_done(after=1)]
        assert command("ask", "-c", "Count").code == 3
        server.faults = []
        if ending == "md":
            file.write_text(command("show").out)
        else:
            command("chat", "-c", stdin=f"/save {file}".encode())
        command("rm", "--older", "0d")
        done = command("chat", "--from", str(file), stdin=b"/resume\nAnd now?")
        assert (done.code, done.out, done.err) == (0, "two three.\nBye.\n", "")
        body = server.requests[-1].json
    assert body["model"] == "gpt-4o"
    assert [each["content"] for each in body["messages"]] == [
        *("Be short.", "## User", "Hello.", "Count", "One two three.", "And now?"),
    ]


def test_a_file_that_is_no_conversation_is_refused(command: Command, tmp_path: Path) -> None:
    """So is a name whose ending says nothing, and one that is taken."""
    file = tmp_path / "notes.md"
    file.write_text("notes")
    for arguments in ([file], [tmp_path / "missing.md"], [tmp_path / "notes.txt"], [file, "-c"], [file, "--id", "a"]):
        done = command("chat", "--from", *map(str, arguments))
        assert done.code == 2
        assert re.fullmatch(r"error: .+\nhint: .+\n", done.err)
    done = command("chat", stdin=f"/save {file}\n/save {tmp_path}/x.txt\n/load {file}".encode())
    assert (done.code, done.err.count("error: ")) == (0, 3)
    assert file.read_text() == "notes"


def test_an_ambiguous_beginning_is_told(talked: Command) -> None:
    """The message names some that it may mean."""
    ids = ["ab00000000000000", "ab11111111111111", "cd00000000000000"]
    for place, (old,) in enumerate(talked.rows("SELECT id FROM conversations")):
        talked.rows(f"UPDATE conversations SET id = '{ids[place]}' WHERE id = '{old}'")
    done = talked("show", "ab")
    assert done.code == 2
    assert ids[0] in done.err
    assert talked("rm", "ab0") == (0, "1 removed\n", "")


def everything(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


def test_what_is_removed_is_nowhere_any_more(talked: Command, tmp_path: Path) -> None:
    """Neither in the file nor in its log; what other conversations have stays, an attachment that both had too."""
    folder = talked.database.parent
    picture = tmp_path / "picture.gif"
    picture.write_bytes(b"GIF89a" + b"unique bytes" * 100)
    with LoopbackServer(["Seen."] * 2) as server:
        for _ in range(2):
            talked.at(server)("ask", "-f", str(picture), "look")
    assert "天气".encode() in everything(folder)
    first, second, *others = [each["id"] for each in listed(talked)]
    assert talked("rm", others[-1], first) == (0, "2 removed\n", "")
    assert "天气".encode() not in everything(folder)
    assert b"unique bytes" in everything(folder)
    assert talked("rm", second).code == 0
    assert b"unique bytes" not in everything(folder)
    assert b"sure_thing" in everything(folder)
    assert talked("rm", "--older", "1h") == (0, "0 removed\n", "")
    assert talked("rm", "--older", "0d") == (0, "2 removed\n", "")
    assert listed(talked) == []


@pytest.mark.parametrize("age", ["30", "d", "-1d", "1y", "x"])
def test_an_age_needs_a_unit(command: Command, age: str) -> None:
    """What is none is refused."""
    assert command("rm", f"--older={age}").code == 2


@pytest.mark.parametrize("arguments", [["history"], ["show"], ["rm", "--older", "1d"]], ids=" ".join)
def test_a_damaged_history_is_told(command: Command, arguments: list[str]) -> None:
    """The exit code is 1, in two lines."""
    command.database.parent.mkdir()
    command.database.write_bytes(b"no database" * 1000)
    done = command(*arguments)
    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(r"error: .+\nhint: .+\n", done.err)


# The account and the settings


def test_the_account_is_told(command: Command) -> None:
    """Models one a line, the balance, what was used with bars, and how soon the hosts answer."""
    with LoopbackServer() as server:
        command.at(server)("ask", "Hi")
        assert "gpt-4o-mini" in command("models").out.splitlines()
        assert re.search(r"^remaining +[\d.]+$", command("balance").out, re.MULTILINE)
        assert command("usage", "--days", "2").out.splitlines()[-1].endswith("█")
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/v1  \d+ ms\n", command("ping").out)
    assert command("ping").code == 1
    assert command("usage", "--days", "0").code == 2


def test_a_key_that_is_refused_is_told_by_all_commands(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit code is 4, as it is without a key."""
    with LoopbackServer(faults=[Fault.status(401)]) as server:
        assert [command.at(server)(name).code for name in ("models", "balance", "usage")] == [4] * 3
    monkeypatch.delenv("CHATANYWHERE_API_KEY")
    for name in ("ask Hi", "models", "balance", "usage", "ping"):
        done = command(*name.split())
        assert done.code == 4
        assert re.fullmatch(r"error: .+\nhint: .+\n", done.err)


KEY = "sk-0123456789abcdefghij"
SETTINGS: list[tuple[list[str], dict[str, str], str, str, str]] = [
    ([], {}, "key", "sk-…ghij", "CHATANYWHERE_API_KEY"),
    ([], {"CHATANYWHERE_API_KEY": ""}, "key", "(none)", ""),
    ([], {"CHATANYWHERE_API_KEY": "short"}, "key", "***", "CHATANYWHERE_API_KEY"),
    ([], {}, "base URL", "http://127.0.0.1:9/v1", "CHATANYWHERE_BASE_URL"),
    (["--base-url", "https://x.org/v2"], {}, "base URL", "https://x.org/v2", "--base-url"),
    (["--base-url", "https://x.org/v2?key=secret"], {}, "base URL", "https://x.org/v2?…", "--base-url"),
    ([], {"CHATANYWHERE_BASE_URL": ""}, "base URL", "https://api.chatanywhere.tech/v1, ", "default"),
    (
        [],
        {"CHATANYWHERE_BASE_URL": "", "OPENAI_BASE_URL": "https://api.chatanywhere.org"},
        "base URL",
        "https://api.chatanywhere.org/v1",
        "OPENAI_BASE_URL",
    ),
    (
        [],
        {
            "CHATANYWHERE_API_KEY": "",
            "CHATANYWHERE_BASE_URL": "",
            "OPENAI_API_BASE": "https://api.chatanywhere.org",
            "OPENAI_API_KEY": KEY,
        },
        "key",
        "sk-…ghij",
        "OPENAI_API_KEY",
    ),
    ([], {"CHATANYWHERE_MODEL": "m"}, "model", "m", "CHATANYWHERE_MODEL"),
    (["--protocol", "web"], {}, "protocol", "web", "--protocol"),
    (["--timeout", "5"], {}, "timeout", "5 s", "--timeout"),
    (["--proxy", "http://u:secret@127.0.0.1:3"], {}, "proxy", "http://***@127.0.0.1:3", "--proxy"),
    ([], {"NO_PROXY": "", "HTTP_PROXY": "http://127.0.0.1:3"}, "proxy", "http://127.0.0.1:3", "environment"),
    ([], {"CHATANYWHERE_HISTORY": "off"}, "history", "off", "CHATANYWHERE_HISTORY"),
    ([], {"CHATANYWHERE_HISTORY": "", "XDG_DATA_HOME": "/x"}, "history", "chatanywhere", "default"),
]


@pytest.mark.parametrize(("arguments", "variables", "name", "value", "source"), SETTINGS)
def test_a_setting_is_shown_with_where_it_comes_from(
    command: Command,
    arguments: list[str],
    variables: dict[str, str],
    name: str,
    value: str,
    source: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No secret is shown, whether a key, a password or in a URL."""
    for variable, content in variables.items():
        monkeypatch.setenv(variable, content)
    done = command("config", *arguments)
    assert (done.code, done.err) == (0, "")
    (row,) = (line for line in done.out.splitlines() if line.startswith(name))
    assert value in row
    assert row.endswith(source)
    assert KEY not in done.out
    assert "secret" not in done.out
