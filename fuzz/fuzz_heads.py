"""Differential fuzzing of the head decoder: mutated heads are read by it and by h11, which must agree.

    pip install '.[fuzz]' && python fuzz/fuzz_heads.py --inputs 100000 --seed 1

An input is a good head, or several, with some bytes and lines changed. Ours reads it whole, cut at random places and
byte by byte, with the framing of the body, which h11 reads with the head. It fails where the cuts make a difference,
where values differ, and where one of the two takes what the other refuses, but for these differences:

We take, h11 refuses:

- framing ignored: headers about the body that can't be right, where there is no body: in an interim answer (1xx), which
  is passed over, and with status 204 or 304. No reader looks for a body there (RFC 9112, section 6.3).
- length overruled: a Content-Length that is none beside `Transfer-Encoding: chunked`, which overrules it (RFC 9112,
  section 6.3). The connection is not used again.

h11 takes, we refuse:

- control character: in a value or a reason. RFC 9110, section 5.5, calls them invalid; h11 lets them pass for the sake
  of cookies that have them.
- other version: `HTTP/2.0` or `HTTP/0.9` in a status line. RFC 9112 is about HTTP/1.
- huge length: of 19 digits or 20, which is more than 10**18 bytes.

Ours refuses earlier: bytes that can't begin an answer, where h11 waits for the end of a head.

Of values it is known that h11 writes `chunked` in lower case and a repeated Content-Length once, and keeps the blanks
before a fold. It uses no connection of HTTP/1.0 again, and does use one whose answer had both Transfer-Encoding and
Content-Length.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections import Counter
from typing import NamedTuple

import h11

from chatanywhere._errors import ProtocolError
from chatanywhere._http.body import Body
from chatanywhere._http.head import HeadDecoder

SEEDS = [
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\n{}",
    b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nX-Request-Id: a1\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.0 502 Bad Gateway\r\nServer: nginx\r\nConnection: close\r\n\r\n<html>",
    b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 1\r\n\r\n-",
    b"HTTP/1.1 204 No Content\r\nVia: a\r\nVia: b\r\nvia:\r\n\r\n",
    b'HTTP/1.1 304\r\nETag: "a"\r\n\r\n',
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\nHTTP/1.1 200 \r\nServer: a\r\n\r\n",
    b"HTTP/1.1 200 OK\nServer: a\nX-Folded: one\n two\n\tthree\nContent-Length: 3\n\nabc",
    b"HTTP/1.1 200 OK\r\nX-Long: " + b"word " * 40 + b"\r\nX-Bytes: \xe4\xbd\xa0\xff\r\nX-Empty:\r\n\r\n",
]
TOKENS = [
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b" ", b"\t", b":", b",", b"\0", b"\x01", b"\x0b", b"\x1f", b"\x7f",
    b"\x80", b"\x85", b"\xa0", b"\xff", b'"', b"(", b"0", b"5", b", 5", b"+", b"\r\n ", b"\n\t", b" :", b"A: b\r\n",
    b": b\r\n", b"Content-Length: 5\r\n", b"Content-Length: 5, 5\r\n", b"content-length:x\r\n", b"9" * 18,
    b"Transfer-Encoding: chunked\r\n", b"TRANSFER-ENCODING: Chunked\r\n", b"transfer-encoding: gzip, chunked\r\n",
    b"Transfer-Encoding:\r\n", b"Connection: close\r\n", b"connection: a, CLOSE\r\n", b"Connection: keep-alive\r\n",
    b"HTTP/1.1 100\r\n\r\n", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", b"HTTP/1.1 ", b"HTTP/1.0 ", b"HTTP/2.0 ",
    b"HTTP/1.7 ", b"204", b"304", b"100", b"099", b"600", b"\x16\x03\x01", b"\0\0\x12\x04\0\0\0\0\0",
]  # fmt: skip

HEAD, REFUSED, UNFINISHED = "head", "refused", "unfinished"


class Outcome(NamedTuple):
    """How an input was understood."""

    kind: str
    status_code: int = 0
    values: dict[str, str] = {}  # noqa: RUF012  never changed
    keep_alive: bool = False
    rest: bytes = b""
    error: str = ""

    @property
    def decision(self) -> Outcome:
        return self._replace(error="")


def ours(*pieces: bytes) -> Outcome:
    """Read the pieces as the client does."""
    decoder = HeadDecoder()
    try:
        for number, piece in enumerate(pieces):
            head = decoder.feed(piece)
            if head is not None:
                Body(head.headers, limit=None, empty=head.status_code in (204, 304))
                values = {name.lower(): value for name, value in head.headers.items()}
                rest = decoder.rest + b"".join(pieces[number + 1 :])
                return Outcome(HEAD, head.status_code, values, head.keep_alive, rest)
    except ProtocolError as error:
        return Outcome(REFUSED, error=str(error))
    return Outcome(UNFINISHED)


def theirs(data: bytes) -> Outcome:
    """Read the input with h11."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=64 * 1024)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "localhost")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    try:
        event = connection.next_event()
        while isinstance(event, h11.InformationalResponse):
            event = connection.next_event()
    except h11.RemoteProtocolError as error:
        return Outcome(REFUSED, error=str(error))
    if not isinstance(event, h11.Response):
        return Outcome(UNFINISHED)
    values: dict[str, list[str]] = {}
    for name, value in event.headers:
        values.setdefault(name.decode(), []).append(value.decode("latin-1"))
    joined = {name: ", ".join(all_of_it) for name, all_of_it in values.items()}
    keep_alive = connection.our_state is not h11.MUST_CLOSE
    return Outcome(HEAD, event.status_code, joined, keep_alive, connection.trailing_data[0])


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Change a byte, a few, or a line."""
    place = chance.randrange(len(data) + 1)
    lines = data.splitlines(keepends=True)
    match chance.randrange(8):
        case 0:
            return data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :]
        case 1 | 2:
            return data[:place] + chance.choice(TOKENS) + data[place:]
        case 3:
            return data[:place] + chance.choice(TOKENS) + data[place + chance.randrange(8) :]
        case 4:
            return data[:place] + data[place + chance.randrange(1, 8) :]
        case 5:
            lines.insert(chance.randrange(len(lines) + 1), chance.choice(TOKENS))
        case 6:
            if lines:
                lines.insert(chance.randrange(len(lines) + 1), chance.choice(lines))
        case 7:
            if chance.random() < 0.2:
                return data[:place]
            return data.replace(b"\r\n", b"\n", chance.randrange(4))
    return b"".join(lines)


def cut(data: bytes, chance: random.Random) -> list[bytes]:
    places = sorted(chance.randrange(len(data) + 1) for _ in range(3))
    pieces = [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]
    return [piece for piece in pieces if piece]


def without_framing(data: bytes, names: bytes) -> bytes:
    return re.sub(rb"(?im)^(%b)(?=:)" % names, b"X-Hidden", data)


def why_taken(data: bytes, found: Outcome) -> str | None:
    """Why ours may take what h11 refuses: without the one thing that may differ, h11 must take it, too."""
    end = len(data) - len(found.rest)
    ends = [0, *(match.end() for match in re.finditer(rb"\n\r?\n", data[:end]))]
    start = ends[-2] if found.kind == HEAD else ends[-1]  # of the final head
    both = b"content-length|transfer-encoding"
    interim, final, rest = without_framing(data[:start], both), data[start:end], data[end:]
    reason = "framing ignored"
    if found.status_code in (204, 304):
        final = without_framing(final, both)
    elif "transfer-encoding" in found.values and theirs(interim + final + rest).kind == REFUSED:
        final = without_framing(final, b"content-length")
        reason = "length overruled"
    hidden = theirs(interim + final + rest)
    return reason if (hidden.kind, hidden.status_code) == (found.kind, found.status_code) else None


def why_refused(data: bytes, error: str) -> str | None:
    """Why ours may refuse what h11 takes."""
    if "Content-Length" in error and re.search(rb"(?i)content-length:.*[0-9]{19}", data):
        return "huge length"
    if error.startswith("not an HTTP/1 answer") and re.search(rb"(?m)^HTTP/[02-9]\.", data):
        return "other version"
    if error.startswith(("not a header", "not the status line")) and re.search(rb"[\x01-\x08\x0e-\x1f\x7f]", data):
        return "control character"
    return None


def same_values(data: bytes, found: Outcome, reference: Outcome) -> bool:
    """Whether status, headers and rest are the same, but for what h11 is known to write otherwise."""

    def plain(name: str, value: str) -> str:
        if name == "transfer-encoding":
            return value.lower()
        if name == "content-length":
            return ",".join({part.strip(" \t") for part in value.split(",")})
        return re.sub(r"[ \t]+", " ", value) if re.search(rb"\n[ \t]", data) else value

    left, right = (
        {name: plain(name, value) for name, value in outcome.values.items()} for outcome in (found, reference)
    )
    return (found.status_code, left, found.rest) == (reference.status_code, right, reference.rest)


def same_keep_alive(found: Outcome, reference: Outcome) -> bool:
    if found.keep_alive and not reference.keep_alive:
        return "keep-alive" in found.values.get("connection", "").lower()
    if reference.keep_alive and not found.keep_alive:
        return {"transfer-encoding", "content-length"} <= set(found.values)
    return True


def judge(data: bytes, chance: random.Random) -> tuple[str, bool]:
    """Return how the two readers stand to each other, and whether that is as it should be."""
    found, reference = ours(data), theirs(data)
    for pieces in (cut(data, chance), [data[place : place + 1] for place in range(len(data))]):
        if ours(*pieces).decision != found.decision:
            return f"ours differs by its cuts: {pieces}", False
    if found.kind == reference.kind:
        if found.kind == HEAD and not same_values(data, found, reference):
            return f"values differ: {found} {reference}", False
        if found.kind == HEAD and not same_keep_alive(found, reference):
            return f"keep-alive differs: {found} {reference}", False
        return f"both: {found.kind}", True
    reason = None
    if reference.kind == REFUSED:
        reason = why_taken(data, found)
    elif found.kind == REFUSED:
        early = reference.kind == UNFINISHED and found.error.startswith(("not an HTTP/1 answer", "the server speaks"))
        reason = "earlier" if early else why_refused(data, found.error)
    if reason is None:
        return f"ours: {found}, h11: {reference}", False
    return f"ours: {found.kind}, h11: {reference.kind}: {reason}", True


def main() -> int:
    """Run the inputs; return 1 if one of them was understood in two ways."""
    parser = argparse.ArgumentParser(description="Read mutated heads with ours and with h11.")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)  # noqa: S311  no secret
    counts: Counter[str] = Counter()
    findings = 0
    for _ in range(arguments.inputs):
        data = chance.choice(SEEDS)
        for _ in range(chance.randrange(5)):
            data = mutated(data, chance) or data  # h11 takes no bytes for the connection's end
        verdict, good = judge(data, chance)
        if not good:
            findings += 1
            print(f"{data!r}\n    {verdict}", file=sys.stderr)
        counts[verdict if good else "FINDING"] += 1
        if findings == 10:
            break
    for verdict, count in counts.most_common():
        print(f"{count:>9,}  {verdict}")
    print(f"{counts.total():>9,}  inputs, {findings} findings, seed {arguments.seed}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
