"""What makes it fast changes no result, and stays: readers of JSON, function calls per piece, modules at import."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any
from unittest import mock

import pytest
from decoding import CHUNKS, READERS, Decoded, chunk, installed, openai, sse
from hypothesis import given
from hypothesis import strategies as st

from chatanywhere import ProtocolError, TextDelta
from chatanywhere._accumulator import Accumulator
from chatanywhere._http.body import Body
from chatanywhere._protocols import chunks as wire
from chatanywhere._protocols import find_protocol
from chatanywhere._reading import Reading


def decoded(content: bytes, content_type: str) -> list[tuple[Any, ...]]:
    """How the content is understood with each of the readers."""
    results = []
    for reader in READERS:
        with installed(reader):
            found: Decoded = openai(content, content_type=content_type)
        results.append((found.events, type(found.error), str(found.error)))
    return results


@given(st.lists(CHUNKS, max_size=4))
def test_every_reader_of_json_has_the_same_results(chunks: list[Any]) -> None:
    """msgspec, orjson and the standard library lead to the same events and errors."""
    first, *others = decoded(sse(*chunks), "text/event-stream")
    assert others == [first] * 2


@pytest.mark.parametrize(
    "data",
    [
        " {} ",
        "\ufeff{}",
        "{",
        "",
        "[" * 100_000,
        '{"choices": [{"delta": {"content": "\\ud83d"}}]}',
        '{"choices": [{"delta": {"content": "\\ud83d\\ude00"}}]}',
        '{"choices": [{"delta": {"content": "a", "content": "b"}}]}',
        '{"choices": [{"delta": {"content": "\x01"}}]}',
        '{"choices": [{"delta": {"content": "a"}}], "usage": NaN}',
        '{"choices": [{"delta": {"content": "a"}}], "created": 1e999}',
        '{"choices": [{"delta": {"content": "a"}}], "created": 123456789012345678901234567890}',
        '{"choices": [{"delta": {"content": "a"}}]} {}',
        '{"choices": [{"delta": {"content": "a"}}],}',
        "{'choices': []}",
    ],
    ids=lambda data: data[:40],
)
@pytest.mark.parametrize("content_type", ["text/event-stream", "application/json"])
def test_every_reader_of_json_reads_what_is_odd_alike(data: str, content_type: str) -> None:
    """What one of them refuses, or reads otherwise, is decided by the standard library."""
    content = data.encode() if content_type == "application/json" else b"data: %b\n\n" % data.encode()
    first, *others = decoded(content, content_type)
    assert others == [first] * 2


def test_the_errors_of_a_reader_of_json_are_known() -> None:
    """What is wrong is told as without it; the errors of msgspec are no ValueErrors."""
    failure = type("DecodeError", (Exception,), {})
    decode = mock.Mock(side_effect=failure)
    with mock.patch.dict(sys.modules, {"msgspec": mock.Mock(json=mock.Mock(decode=decode), DecodeError=failure)}):
        wire._fastest_reader.cache_clear()
        found = openai(sse(chunk(content="a")) + b"data: {\n\n")
        wire._fastest_reader.cache_clear()
    assert found.events[1:] == [TextDelta("a")]
    assert type(found.error) is ProtocolError
    assert decode.call_count == 2


def calls_for(content: bytes, protocol: str, before: bytes = b"") -> int:
    """How many functions of Python are called to make events of this content, chunk framing included.

    Args:
        content: with its framing.
        protocol: that it is read by.
        before: what came before it, and is not counted.
    """
    decoder = find_protocol(protocol).chat.decoder("")
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


@pytest.mark.parametrize("reader", READERS)
def test_a_burst_of_events_needs_few_calls(reader: str | None) -> None:
    """An event that is like the one before but for its text costs no call of its own."""
    with installed(reader):
        calls = calls_for(framed(EVENT) * 1000, "openai")
    assert calls <= 150


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
            "_call", "_client", "_config", "_errors", "_http", "_http.body", "_http.codings", "_http.connections",
            "_http.dialing", "_http.environment", "_http.exchange", "_http.head", "_http.idle", "_http.names",
            "_http.scope", "_http.sockets", "_http.transport", "_merging", "_policy", "_protocols",
            "_protocols.chunks", "_protocols.envelope", "_protocols.excerpt", "_protocols.json_body",
            "_protocols.json_text", "_protocols.openai", "_protocols.protocol", "_protocols.service",
            "_protocols.sse", "_protocols.text", "_reading", "_secrets", "_types",
        )),
    ]  # fmt: skip
    assert standard <= WITH_DATACLASSES | {"contextvars", "secrets"}
