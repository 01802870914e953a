"""Coverage-guided fuzzing of the decoders: whatever comes in, only the errors of the tree come out.

    pip install atheris && python fuzz/fuzz_decoders.py -runs=1000000

The input's first byte chooses framing, coding, protocol, and what the rest is: bytes as the connection gives them, or
the numbers of pieces that answers are made of; as they are, or put into the framing and coding first. The two bytes
behind it choose where it is cut.

Beyond the errors it is checked that the text, the raw answer and the kind of error are those of the whole input when
it comes cut in three, and in small pieces (single bytes, if there are not many), and when every chunk is read the long
way: by the standard library, with neither a template nor a look for plain chunks.
"""

from __future__ import annotations

import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import atheris

with atheris.instrument_imports():
    from chatanywhere._accumulator import Accumulator
    from chatanywhere._errors import ChatAnywhereError
    from chatanywhere._http.body import Body
    from chatanywhere._protocols import chunks as wire
    from chatanywhere._protocols import find_protocol, openai, web  # noqa: F401  to be watched
    from chatanywhere._protocols.head import AnswerHead
    from chatanywhere._protocols.json_text import MAX_JSON
    from chatanywhere._reading import Reading

LIMIT = 1 << 20
FRAMINGS = ({}, {"transfer-encoding": "chunked"}, {"content-length": "40"})
CODINGS = ({}, {}, {"content-encoding": "gzip"}, {"content-encoding": "deflate"})
DECODERS = (
    ("web", "text/plain"),
    ("web", "text/html"),
    ("openai", "text/event-stream"),
    ("openai", "application/json"),
)
_BEFORE = b'data: {"id":"c1","model":"m1","choices":[{"index":0,"delta":{"content":"'
_BEHIND = b'"},"finish_reason":null}]}\n\n'
PIECES = [
    _BEFORE, _BEHIND, _BEFORE + b"one" + _BEHIND, _BEFORE + b"\\ud83d" + _BEHIND, _BEFORE + b"\\ude00" + _BEHIND,
    b'data: {"choices":[{"delta":{"content":"two"}}]}\n\n', b'data: {"choices":[{"delta":{"content":"three"}}]}\n\n',
    b'data: {"choices":[{"delta":{"reasoning":"why"}}]}\n\n', b'data: {"error":{"message":"no"}}\n\n',
    b'data: {"choices":[{"index":1,"delta":{"content":"b"}}]}\n\n', b"data: [DONE]\n\n",
    b'data: {"choices":[{"delta":{"content":"x","refusal":"no"}}]}\n\n',
    b'data: {"choices":[],"usage":{"total_tokens":3}}\n\n',
    b'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"t","function":{"name":"f","arguments":"{"}}]}}]}\n\n',
    b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n',
    b'{"choices":[{"index":0,"message":{"role":"assistant","content":"all"},"finish_reason":"stop"}]}',
    b"data: ", b"data:", b"\n\n", b"\n", b"\r\n", b"\r", b": keep-alive\n\n", b"event: error\n", b"event: message\n",
    b"id: 1\n", b"\xef\xbb\xbf", b'{"choices":[', b'{"delta":{', b'"content":"', b'"reasoning_content":"',
    b'"message":{', b'"finish_reason":"stop"', b'"index":1', b'"', b"{", b"}", b"[", b"]", b",", b":", b"}]}", b'"},',
    b"null", b"0", b"1e5", b"\\", b"\\n", b"\\u4f60", b"\\udc00", "\u4f60".encode(), b"\xe4", b"\xff", b"\0", b" ",
    b"a", b"hello", b"<html>", b"</title>",
]  # fmt: skip
SEEN: Counter[str] = Counter()


@contextmanager
def the_long_way() -> Iterator[None]:
    """Let every chunk be read as JSON, and its fields be looked at one by one."""
    old = wire.template, wire.is_plain
    wire.template, wire.is_plain = (lambda *_: None), (lambda _: False)
    try:
        yield
    finally:
        wire.template, wire.is_plain = old


def read(headers: dict[str, str], decoder: tuple[str, str], pieces: list[bytes]) -> tuple[Any, ...]:
    """Read an answer that comes in these pieces; return what it is, its raw form, and how it ended."""
    protocol, content_type = decoder
    head = AnswerHead(200, {"content-type": content_type})
    reading = Reading(Body(headers, limit=LIMIT), find_protocol(protocol).chat.decoder(head, MAX_JSON))
    answer = Accumulator()
    for piece in [*pieces, b""]:
        for event in reading.feed(piece):
            if event is not None:
                answer.add(event)
        if reading.complete or reading.error:
            break
    assert reading.complete or isinstance(reading.error, ChatAnywhereError)
    assert len(answer.text) <= LIMIT
    completion = answer.completion(None, reading.chunks)
    return completion, completion.raw, reading.complete, type(reading.error).__name__


def framed(content: bytes, headers: dict[str, str]) -> bytes:
    """Put content into the coding and the framing that the headers announce."""
    coding = headers.get("content-encoding")
    if coding:
        compress = zlib.compressobj(wbits=zlib.MAX_WBITS | (16 if coding == "gzip" else 0))
        content = compress.compress(content) + compress.flush()
    if "content-length" in headers:
        headers["content-length"] = str(len(content))
    if "transfer-encoding" in headers:
        parts = [part for part in (content[:20], content[20:]) if part]
        content = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    return content


def test_one_input(data: bytes) -> None:
    """Read the input whole, cut in three, in small pieces, and the long way."""
    if len(data) < 4:
        return
    choice, kind, content = data[0], data[0] // 48, data[3:]
    headers = {**FRAMINGS[choice % 3], **CODINGS[choice // 3 % 4]}
    decoder = DECODERS[choice // 12 % 4]
    if kind & 1:
        content = b"".join(PIECES[number % len(PIECES)] for number in content)
    if kind & 2:
        content = framed(content, headers)
    first, second = sorted((data[1] * 8 % (len(content) + 1), data[2] * 3 % (len(content) + 1)))
    step = 1 + len(content) // 64
    whole = read(headers, decoder, [content] if content else [])
    for pieces in (
        [piece for piece in (content[:first], content[first:second], content[second:]) if piece],
        [content[place : place + step] for place in range(0, len(content), step)],
    ):
        parts = read(headers, decoder, pieces)
        assert whole == parts, (whole, parts)
    with the_long_way():
        slow = read(headers, decoder, [content] if content else [])
    assert whole == slow, (whole, slow)
    SEEN["complete" if whole[2] else whole[3]] += 1
    if not SEEN.total() % 100_000:
        print(f"{SEEN.total():,} read:", ", ".join(f"{count:,} {end}" for end, count in SEEN.most_common()))


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
