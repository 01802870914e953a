"""What an answer comes to by h11, zlib, json and a few lines more, for fuzz_answers.py. No code of the package.

Its rules for where a chat ends are the package's: with `[DONE]`, where the choice has its finish reason, or where one
JSON object is closed, whatever the framing says then; but damaged compression is an error all the same. What follows
such an object may be the end of a stream, or more JSON: then only the text is compared, up to there.

Where the framing is read differently, it is for one of these reasons; then the answer is compared with the one that h11
reads without that difference:

- size: of a chunk. h11 takes anything behind its semicolon, but no blank before that, and at most 20 digits with
  leading zeros. Ours takes the extensions that RFC 9112, section 7.1.1, allows, so neither an unbalanced quote nor a
  control character, and at most 15 digits without leading zeros, which is 2**60 bytes.
- trailers: they are no part of the content. Ours passes over lines that are no header, which h11 refuses, and refuses
  lines that end with a lone LF, which h11 takes. A connection that is closed behind the last chunk cuts nothing off.
"""

from __future__ import annotations

import codecs
import json
import re
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import h11

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_EXTENSIONS = re.compile(
    rb'(?:[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|"(?:[^"\\\0-\x08\x0a-\x1f\x7f]|\\[^\0-\x08\x0a-\x1f\x7f])*"))?)*[ \t]*'
    % (_TOKEN, _TOKEN)
)


class Outcome(NamedTuple):
    """What an answer comes to: `complete`, `error`, `status`, or `unknown`; its text, or that before the fault."""

    kind: str
    text: str = ""
    detail: Any = None  # finish reason, status, or error


def expected(wire: bytes, protocol: str, *, closed: bool) -> Outcome:
    """Read an answer; `closed` says that the connection is, behind it."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=64 * 1024)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "localhost")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(wire)
    if closed:
        connection.receive_data(b"")
    head, data, whole = None, b"", False
    try:
        while not whole and (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            if isinstance(event, h11.Response):
                head = event
            data += event.data if isinstance(event, h11.Data) else b""
            whole = isinstance(event, (h11.EndOfMessage, h11.ConnectionClosed))
    except h11.RemoteProtocolError:
        pass
    if head is None:
        return Outcome("error")
    if not 200 <= head.status_code < 300:
        return Outcome("status", detail=head.status_code)
    headers: dict[str, str] = {}
    for name, value in head.headers:
        headers[name.decode()] = ", ".join(filter(None, (headers.get(name.decode()), value.decode("latin-1"))))
    coding = headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        return Outcome("error")
    damaged = False
    if coding not in ("", "identity"):
        data, ended, damaged = decompressed(data, coding)
        whole = whole and ended
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    found = (read_text if protocol == "web" else read_chat)(data, kind, whole and not damaged)
    return Outcome("error", found.text) if damaged and found.kind == "complete" else found


def decompressed(data: bytes, coding: str) -> tuple[bytes, bool, bool]:
    """Return the content, whether it came to its end, and whether it is damaged."""
    content, begun = b"", False
    while len(data) > 1 and (not begun or data.startswith(b"\x1f\x8b")):
        raw = coding == "deflate" and (data[0] & 15 != 8 or int.from_bytes(data[:2], "big") % 31)
        inflate = zlib.decompressobj(-zlib.MAX_WBITS if raw and data[:2] != b"\x1f\x8b" else zlib.MAX_WBITS | 32)
        begun = True
        for place in range(len(data)):
            try:
                content += inflate.decompress(data[place : place + 1])
            except zlib.error:
                return content, False, True
            if inflate.eof:
                data = data[place + 1 :]
                break
        else:
            return content, False, False
    return content, begun or not data, False


def decoded(data: bytes) -> tuple[str, bool, bool]:
    """Return the text, whether it is followed by what is not UTF-8, and whether by the beginning of a character."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError as exc:
        return data[: exc.start].decode(), True, False
    return text, False, len(text.encode()) < len(data)


def read_text(data: bytes, kind: str, whole: bool) -> Outcome:
    text, wrong, cut = decoded(data)
    if kind == "text/html" and text.lstrip()[:16].lower().startswith(("<!doctype html", "<html")):
        return Outcome("error")
    return Outcome("complete" if whole and not wrong and not cut else "error", text)


def read_chat(data: bytes, kind: str, whole: bool) -> Outcome:
    start = data.removeprefix(codecs.BOM_UTF8).lstrip()
    if start[:1] in (b"{", b"["):
        return read_object(data)
    if start[:1] == b"<":
        return Outcome("error")
    if not start.startswith((b"data:", b"event:", b"id:", b"retry:", b":")) and kind in (
        "text/html",
        "application/json",
    ):
        return Outcome("error") if kind == "text/html" else read_object(data)
    return read_events(data, whole)


def read_object(data: bytes) -> Outcome:
    try:
        text = data.decode("utf-8-sig").lstrip()
        value, end = json.JSONDecoder().raw_decode(text)
    except ValueError:
        return Outcome("error")
    found = chunk_meaning(value, "message")
    if text[end:].strip():
        return Outcome("unknown", joined([found.text]))
    if found.kind == "unknown" or found.kind == "error":
        return found
    return Outcome("complete" if found.detail or found.text else "error", joined([found.text]), found.detail)


def read_events(data: bytes, whole: bool) -> Outcome:
    """Read server-sent events: dispatched ones, and the one that is left at the end, which counts if it is good."""
    text, wrong, _ = decoded(data)
    lines = re.split("\r\n|\r|\n", text.removeprefix("\ufeff"))
    texts: list[str] = []
    reason = None
    for event, is_last in events(lines, wrong):
        if isinstance(event, Outcome):
            return event._replace(text=joined(texts))
        if event.strip() == "[DONE]":
            return Outcome("complete" if reason or any(texts) else "error", joined(texts), reason)
        try:
            found = chunk_meaning(json.loads(event), "delta") if event.strip() else Outcome("")
        except ValueError:
            found = Outcome("" if is_last else "error")
        if found.kind:
            return found._replace(text=joined(texts))
        texts.append(found.text)
        reason = found.detail or reason
    return Outcome("error" if wrong or not reason else "complete", joined(texts), reason)


def events(lines: list[str], wrong: bool) -> Iterator[tuple[str | Outcome, bool]]:
    """Yield the data of each event, and whether its blank line is missing; an Outcome for what has no known shape."""
    data: list[str] = []
    for number, line in enumerate(lines if wrong else [*lines, ""]):
        last = number >= len(lines) - 1
        if last and wrong:
            return
        field, _, value = line.partition(":")
        if line.startswith("{") or (field == "event" and value.removeprefix(" ") not in ("", "message")):
            yield Outcome("unknown"), last
        elif field == "data":
            data.append(value.removeprefix(" "))
        elif not line and data:
            yield "\n".join(data), last
            data = []


def chunk_meaning(chunk: Any, field: str) -> Outcome:
    """Return text and finish reason of what has the shape that `content` makes; else an Outcome of a kind."""
    unknown = Outcome("unknown")
    if not isinstance(chunk, dict):
        return unknown
    if (
        chunk.keys() == {"error"}
        and isinstance(chunk["error"], dict)
        and isinstance(chunk["error"].get("message"), str)
    ):
        return Outcome("error")
    choices = chunk.get("choices")
    if (
        chunk.keys() - {"id", "object", "model", "choices", "usage"}
        or not isinstance(choices, list)
        or len(choices) > 1
    ):
        return unknown
    if not choices:
        return unknown if field == "message" else Outcome("")
    choice = choices[0]
    if not isinstance(choice, dict) or choice.keys() - {"index", field, "finish_reason"} or choice.get("index") != 0:
        return unknown
    body, reason = choice.get(field), choice.get("finish_reason")
    if not isinstance(body, dict) or body.keys() - {"role", "content"} or not isinstance(reason, str | None):
        return unknown
    text = body.get("content") or ""
    return Outcome("", text, reason) if isinstance(text, str) else unknown


def joined(texts: list[str]) -> str:
    return "".join(texts).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# Differences of framing ----------------------------------------------------------------------------------------------


def readings(wire: bytes, *, closed: bool) -> Iterator[tuple[str, bytes]]:
    """Yield the bytes, and what they are without a difference of framing that has a reason."""
    yield "", wire
    plain = with_plain_sizes(wire)
    yield "size", plain
    yield "trailers", without_trailers(wire, closed=closed)
    yield "size and trailers", without_trailers(plain, closed=closed)


def with_plain_sizes(wire: bytes) -> bytes:
    """Take off what ours allows around the sizes of chunks; what it does not allow becomes no size."""

    def plain(match: re.Match[bytes]) -> bytes:
        size = match[1] or b"0"
        return b"%b\r\n" % (size if len(size) <= 15 and _EXTENSIONS.fullmatch(match[2]) else b"!")

    return re.sub(rb"(?m)^0*([0-9a-fA-F]*)(?<=[0-9a-fA-F])((?:[ \t]*;[^\n]*)?)\r\n", plain, wire)


def without_trailers(wire: bytes, *, closed: bool) -> bytes:
    """Take off the trailers that ours passes over; behind those that it refuses, the body has no end."""
    match = re.search(rb"\r\n0+(?:[ \t]*;[^\n]*)?\r\n", wire)
    if match is None:
        return wire
    body, trailers = wire[: match.end()], wire[match.end() :]
    for line in trailers.split(b"\n")[:-1]:
        if line == b"\r":
            return body + b"\r\n"
        if not line.endswith(b"\r"):
            return body
    return body + b"\r\n" if closed else body
