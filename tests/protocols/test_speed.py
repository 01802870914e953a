"""What makes it fast changes no result, and stays: function calls per piece, modules at import."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from decoding import chunk, decoder_for, openai, sse

from chatanywhere import ProtocolError, TextDelta
from chatanywhere._accumulator import Accumulator
from chatanywhere._http.body import Body
from chatanywhere._reading import Reading


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (" {} ", None),
        ('{"choices": [{"delta": {"content": "\\ud83d"}}]}', "\ufffd"),
        ('{"choices": [{"delta": {"content": "\\ud83d\\ude00"}}]}', "\U0001f600"),
        ('{"choices": [{"delta": {"content": "a", "content": "b"}}]}', "b"),
        ('{"choices": [{"delta": {"content": "a"}}], "usage": NaN}', "a"),
        ('{"choices": [{"delta": {"content": "a"}}], "created": 1e999}', "a"),
        ('{"choices": [{"delta": {"content": "a"}}], "created": 123456789012345678901234567890}', "a"),
        ("\ufeff{}", ProtocolError),
        ("{", ProtocolError),
        ("[" * 100_000, ProtocolError),
        ('{"choices": [{"delta": {"content": "\x01"}}]}', ProtocolError),
        ('{"choices": [{"delta": {"content": "a"}}]} {}', ProtocolError),
        ('{"choices": [{"delta": {"content": "a"}}],}', ProtocolError),
        ("{'choices': []}", ProtocolError),
    ],
    ids=lambda value: str(value)[:40],
)
def test_odd_json_is_read_as_the_standard_library_does(data: str, text: str | type | None) -> None:
    """What is no JSON is a `ProtocolError`; what Python's reader takes is read, halves of characters included."""
    found = openai(b"data: %b\n\n" % data.encode() + sse(chunk("stop"), "[DONE]"))
    texts = [event.text for event in found.events if isinstance(event, TextDelta)]
    if isinstance(text, type):
        assert type(found.error) is text
    else:
        assert (found.error, texts) == (None, [text] if text else [])


def calls_for(content: bytes, protocol: str, before: bytes = b"") -> int:
    """How many functions of Python are called to make events of this content, chunk framing included.

    Args:
        content: with its framing.
        protocol: that it is read by.
        before: what came before it, and is not counted.
    """
    decoder = decoder_for(protocol)
    reading = Reading(Body({"transfer-encoding": "chunked"}, limit=None), decoder)
    accumulator = Accumulator()
    calls = 0
    assert not before or list(reading.feed(before))

    def count(_: Any, event: str, __: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        for event in reading.feed(content):
            if event is not None:
                accumulator.add(event)
    finally:
        sys.setprofile(None)
    return calls


def framed(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


EVENT = sse(chunk(content="token "))


@pytest.mark.parametrize("padding", [False, True])
def test_a_burst_of_events_needs_few_calls(padding: bool) -> None:
    """An event that is like the one before but for its text, and perhaps its padding, costs next to none."""
    events = (sse({**chunk(content="word "), "obfuscation": "x" * (number % 12)}) for number in range(1000))
    content = framed(*events) if padding else framed(EVENT) * 1000
    assert calls_for(content, "openai") <= (1150 if padding else 150)


def test_a_burst_of_text_needs_few_calls() -> None:
    """A chunk of text among many costs none of its own."""
    assert calls_for(framed(b"token ") * 1000, "web") <= 50


@pytest.mark.parametrize(("protocol", "most"), [("openai", 26), ("web", 16)])
def test_a_single_piece_needs_few_calls(protocol: str, most: int) -> None:
    """A piece that comes alone costs this many calls, whatever came before it."""
    piece = framed(EVENT if protocol == "openai" else b"token ")
    assert calls_for(piece, protocol, before=piece) <= most


def added_modules(code: str) -> tuple[list[str], set[str]]:
    """What code imports beyond requests: the package's own modules, and the libraries that others come from."""
    script = (
        "import sys, json, requests, requests.adapters\n"
        "before = set(sys.modules)\n"
        f"{code}\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    added = json.loads(output)
    ours = [name for name in added if name.partition(".")[0] == "chatanywhere"]
    return ours, {name.lstrip("_").partition(".")[0] for name in set(added) - set(ours)}


WITH_DATACLASSES = {"dataclasses", "annotationlib", "ast", "dis", "inspect", "opcode"}


def test_importing_the_client_adds_these_modules() -> None:
    """`from chatanywhere import Client` loads three small files and no library; requests waits for a client."""
    ours, standard = added_modules("from chatanywhere import Client")
    assert ours == ["chatanywhere", "chatanywhere._client", "chatanywhere._errors", "chatanywhere._policy"]
    assert standard <= WITH_DATACLASSES
    code = "import sys; from chatanywhere import Client; print('requests' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"False\n"


def test_making_a_client_adds_these_modules() -> None:
    """Beyond requests, a first client loads the package's own files and no library."""
    ours, standard = added_modules("from chatanywhere import Client; Client('a-key')")
    assert ours == [
        "chatanywhere",
        *(f"chatanywhere.{name}" for name in (
            "_call", "_client", "_config", "_errors", "_hosts", "_http", "_http.body", "_http.codings",
            "_http.connections",
            "_http.dialing", "_http.environment", "_http.exchange", "_http.head", "_http.idle", "_http.names",
            "_http.scope", "_http.sockets", "_http.transport", "_merging", "_message", "_policy", "_protocols",
            "_protocols.chunks", "_protocols.decoder", "_protocols.envelope", "_protocols.excerpt",
            "_protocols.fields", "_protocols.head",
            "_protocols.json_body", "_protocols.json_text", "_protocols.openai", "_protocols.page",
            "_protocols.protocol", "_protocols.service", "_protocols.sse", "_protocols.template", "_protocols.text",
            "_reading", "_secrets", "_service", "_types",
        )),
    ]  # fmt: skip
    assert standard <= WITH_DATACLASSES | {"contextvars", "secrets"}
