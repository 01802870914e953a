"""Whole answers for fuzz_answers.py: good ones of both protocols in every framing and coding, some bytes changed."""

from __future__ import annotations

import json
import random
import re
import zlib
from itertools import pairwise
from typing import Any, NamedTuple

WORDS = [
    "Hello",
    " world",
    "你好",
    "😀",
    'a "quote"',
    "back\\slash",
    "line\nend",
    "\r\n",
    " ",
    "data: x",
    "é",
    "<b>",
    "5\r\n",
]
TYPES = ["text/event-stream", "text/event-stream; charset=utf-8", "application/json", "text/plain", "text/html", ""]
INTERIM = [b"", b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early\r\nLink: <a>\r\n\r\n"]
TOKENS = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b'"', b";", b"0\r\n\r\n", b"\r\n\r\n", b"\n\n", b"5\r\n", b"data: ", b"[DONE]",
    b"data: [DONE]\n\n", b"\xff", b"\xe4", b"\\ud83d", b"{", b"}", b"]", b",", b"\x1f\x8b", b": c\n", b';a="b',
    b"f" * 17, b"event: x\n", b"\xef\xbb\xbf", b"<html>", b"Content-Length: 9\r\n", b"Transfer-Encoding: chunked\r\n",
]  # fmt: skip
EXTENSIONS = [b"", b"", b"", b";a", b";a=b", b' ; a = "b;\\"c"', b';a="', b"; =", b";\x01"]
TRAILERS = [b"", b"", b"", b"X-Check: 1\r\n", b"X-Check: 1\r\nX-More: 2\r\n", b"no header\r\n", b"X-Check: 1\n"]


class Answer(NamedTuple):
    """What is sent, in these pieces, and what becomes of the connection then."""

    protocol: str
    pieces: list[bytes]
    end: str
    way: str

    @property
    def wire(self) -> bytes:
        return b"".join(self.pieces)


def made(chance: random.Random) -> Answer:
    """Make up an answer, good or not."""
    protocol = chance.choice(["openai", "openai", "openai", "web"])
    status, coding = chance.choice([200] * 40 + [201, 204, 400, 429, 503]), chance.choice(["", "", "gzip", "deflate"])
    fields = [("Content-Type", chance.choice(TYPES)), ("Content-Encoding", coding), ("X-Request-Id", "r1")]
    data = content(protocol, chance)
    data = mutated(data, 0, chance) if chance.random() < 0.2 else data
    data = compressed(data, coding, chance) if coding else data
    data = mutated(data, 0, chance) if coding and chance.random() < 0.2 else data
    body, framing = framed(data, chance)
    fields = [field for field in [*fields, framing] if field[1]]
    chance.shuffle(fields)
    head = chance.choice(INTERIM) * chance.randrange(1, 3)
    head += b"HTTP/1.%d %d OK\r\n" % (chance.random() < 0.9, status)
    head += b"".join(f"{name}: {value}\r\n".encode() for name, value in fields) + b"\r\n"
    wire = head + body
    for _ in range(chance.choice([0, 0, 0, 1, 1, 2, 3])):
        wire = mutated(wire, len(head) if chance.random() < 0.85 else 0, chance) or wire
    end = chance.choice(["close"] * 7 + ["reset"] * 2 + ["open"])
    return Answer(protocol, cut(wire, chance), end, chance.choice(["stream", "stream", "complete", "async"]))


def cut(wire: bytes, chance: random.Random) -> list[bytes]:
    """Cut at random places, and more often where something may be told by two bytes."""
    marks = [match.end() for match in re.finditer(rb'[\r\n"\\]', wire)] or [0]
    places = [chance.choice([chance.choice(marks), chance.randrange(len(wire))]) for _ in range(chance.randrange(8))]
    edges = sorted({0, *places, len(wire)})
    return [wire[start:end] for start, end in pairwise(edges)]


def content(protocol: str, chance: random.Random) -> bytes:
    """Make up the content of a good answer, or nearly so."""
    words = [chance.choice(WORDS) for _ in range(chance.randrange(6))]
    if protocol == "web":
        return "".join(words).encode()
    about: dict[str, Any] = {"id": "c1", "object": "chat.completion.chunk", "model": "m1"}
    reason = chance.choice(["stop", "length", None])
    if chance.random() < 0.2:
        message = {"role": "assistant", "content": "".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": reason}
        answer = {**about, "object": "chat.completion", "choices": [choice], "usage": {"total_tokens": 3}}
        return json.dumps(answer, indent=chance.choice([None, 2])).encode()
    deltas: list[Any] = [{"content": word} for word in words]
    deltas[:0] = [{"role": "assistant", "content": ""}] * chance.randrange(2)
    chunks = [{**about, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    if reason:
        chunks.append({**about, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    if chance.random() < 0.3:
        chunks.append({**about, "choices": [], "usage": {"prompt_tokens": 1, "total_tokens": 3}})
    if chance.random() < 0.05:
        chunks.insert(chance.randrange(len(chunks) + 1), {"error": {"message": "too much"}})
    ascii_only, indent = chance.random() < 0.5, chance.choice([None, None, 0])
    line_end = chance.choice(["\n", "\n", "\r\n", "\r"])
    datas = [json.dumps(chunk, ensure_ascii=ascii_only, indent=indent) for chunk in chunks]
    datas += ["[DONE]"] * (chance.random() < 0.7)
    text = chance.choice(["", "", "", "\ufeff", ": hi\n\n", "retry: 5\n\n"])
    for data in datas:
        text += chance.choice(["", "", "", ": keep-alive\n\n", "data:\n\n", "event: message\n", "id: 7\n"])
        text += "".join(f"data: {line}\n" for line in data.split("\n")) + "\n"
    text = text[:-1] if chance.random() < 0.1 else text
    return text.replace("\n", line_end).encode()


def compressed(data: bytes, coding: str, chance: random.Random) -> bytes:
    """Compress with a flush somewhere; as gzip at times in two members."""
    if coding == "gzip" and chance.random() < 0.1:
        return compressed(data[:50], coding, chance) + compressed(data[50:], coding, chance)
    kinds = [zlib.MAX_WBITS | 16] if coding == "gzip" else [zlib.MAX_WBITS, -zlib.MAX_WBITS]
    compress = zlib.compressobj(wbits=chance.choice(kinds))
    place = chance.randrange(len(data) + 1)
    result = compress.compress(data[:place]) + compress.flush(zlib.Z_SYNC_FLUSH)
    return result + compress.compress(data[place:]) + compress.flush()


def framed(data: bytes, chance: random.Random) -> tuple[bytes, tuple[str, str]]:
    """Frame a body; return it with the header that says how."""
    kind = chance.choice(["chunked", "chunked", "length", "close"])
    if kind == "close":
        return data, ("", "")
    if kind == "length":
        return data, ("Content-Length", str(max(0, len(data) + chance.choice([0] * 12 + [-7, -1, 1, 9]))))
    body, strange = b"", chance.random() < 0.2
    while data:
        size = chance.choice([1, 7, 40, 200, 1000])
        part, data = data[:size], data[size:]
        size = len(part) + chance.choice([0] * 200 + [-1, 1, 3])
        extension = chance.choice(EXTENSIONS) if strange else b""
        body += chance.choice([b"%x", b"%X", b"00%x"]) % size + extension + b"\r\n" + part + b"\r\n"
    return body + b"0\r\n" + (chance.choice(TRAILERS) if strange else b"") + b"\r\n", ("Transfer-Encoding", "chunked")


def mutated(data: bytes, start: int, chance: random.Random) -> bytes:
    """Change something behind `start`."""
    place = chance.randrange(min(start, len(data)), len(data) + 1)
    behind = place + chance.randrange(1, 30)
    match chance.randrange(7):
        case 0:
            return data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :]
        case 1:
            flipped = bytes(byte ^ 1 << chance.randrange(8) for byte in data[place : place + 1])
            return data[:place] + flipped + data[place + 1 :]
        case 2:
            return data[:place] + data[behind:]
        case 3:
            return data[:behind] + data[place:]
        case 4:
            return data[:place]
        case _:
            return data[:place] + chance.choice(TOKENS) + data[place + chance.choice([0, 0, 1, 3]) :]
