"""The fault matrix: what goes wrong × where × on which protocol × seen through which face, and over TLS.

In every cell the call ends in time with the right error, nothing that had arrived is lost, the next call on the
same client works, and no socket and no thread is left behind. The cells are listed at the end of the run.
"""

from __future__ import annotations

import functools
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from faces import FORK, Face
from raw_server import RawServer, until_read

from chatanywhere import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    ChatAnywhereError,
    Client,
    InternalServerError,
    ProtocolError,
    RateLimitError,
    StreamInterruptedError,
    Timeout,
)
from chatanywhere.testing import Fault, LoopbackServer

PIECES = ["one ", "二 ", "three"]
TEXT = "".join(PIECES)

READ = Timeout(total=20, connect=10, read=0.3)
TOTAL = Timeout(total=0.5)


@dataclass(frozen=True)
class Case:
    """A fault, or several in one answer, and what a call then comes to.

    `text` is what must have been handed out: one for both protocols, or one for `web` and one for `openai`.
    """

    name: str
    fault: Fault | tuple[Fault, ...]
    error: type[ChatAnywhereError] | None = None
    text: str | tuple[str, str] = TEXT
    phase: str | None = None
    timeout: Timeout = READ
    protocols: tuple[str, ...] = ("web", "openai")
    tls: bool = False  # whether TLS makes a difference
    seconds: float = 0.0  # that the call takes at least
    own_reading: bool = False  # whether it is seen only where urllib3-future does not read heads and chunks itself


HTTP2_SETTINGS = b"\0\0\0\4\0\0\0\0\0"
EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
LENGTH_ABC = b"Content-Length: abc\r\n"
TWO_LENGTHS = b"Content-Length: 3\r\nContent-Length: 4\r\n"
CODING_X = b"Content-Encoding: x\r\n"

too_silent = functools.partial(Case, error=APITimeoutError, timeout=READ, tls=True, seconds=0.25)
too_slow = functools.partial(Case, error=APITimeoutError, phase="total", timeout=TOTAL, tls=True, seconds=0.45)
malformed = functools.partial(Case, error=ProtocolError, text="", own_reading=True)
unusable = functools.partial(Case, error=InternalServerError, text="", own_reading=True)

CASES = [
    # A limit that runs out
    too_silent("timeout at head", Fault.timeout(at="head"), text="", phase="headers"),
    too_silent("timeout at headers", Fault.timeout(at="headers"), text="", phase="headers"),
    too_silent("timeout at size", Fault.timeout(at="size", after=1), text="one ", phase="read"),
    too_silent("timeout at chunk", Fault.timeout(at="chunk", after=1), text=("one 二", "one "), phase="read"),
    too_silent("timeout after 2", Fault.timeout(after=2), text="one 二 ", phase="read"),
    too_silent("latency over read", Fault.latency(1), text="", phase="headers"),
    too_slow("latency over total", Fault.latency(1, after=1), text="one "),
    # So slow a drip gets only a few bytes further in the time.
    too_slow("slow_drip at head", Fault.slow_drip(0.2, at="head"), text=""),
    too_slow("slow_drip at headers", Fault.slow_drip(0.2, at="headers"), text=""),
    too_slow("slow_drip at size", Fault.slow_drip(0.2, at="size", after=1), text="one "),
    too_slow("slow_drip at chunk", Fault.slow_drip(0.2, at="chunk", after=1), text=("one 二 ", "one ")),
    # What a call survives
    Case("latency", Fault.latency(0.1), seconds=0.1),
    Case("latency at accept", Fault.latency(0.1, at="accept"), tls=True),
    Case("latency after 1", Fault.latency(0.1, after=1), seconds=0.1),
    Case("latency at the end", Fault.latency(0.1, at="end")),
    Case("slicer", Fault.slicer(3), tls=True),
    Case("slicer after 1", Fault.slicer(1, after=1)),
    Case("slow_close", Fault.slow_close(0.2)),
    Case("interim responses", Fault.inject(b"HTTP/1.1 100 Continue\r\n\r\n" + EARLY_HINTS * 3, at="head"), tls=True),
    Case("folded header", Fault.inject(b"X: 1\r\n 2\r\n\t3\r\n")),
    Case("Latin-1 in a header's value", Fault.inject(b"X: caf\xe9\r\n")),
    Case("header with an empty value", Fault.inject(b"X:\r\n")),
    Case("line feed as a header's line end", Fault.inject(b"X: 1\n")),
    Case("chunk extension with a quoted string", Fault.inject(b';a="b"', at="size")),
    # A connection that ends
    Case("reset_peer at accept", Fault.reset_peer(at="accept"), APIConnectionError, "", tls=True),
    Case("reset_peer at head", Fault.reset_peer(), APIConnectionError, "", tls=True),
    Case("reset_peer in headers", Fault.reset_peer(at="headers"), APIConnectionError, "", tls=True),
    Case("limit_data 0", Fault.limit_data(0), APIConnectionError, "", tls=True),
    Case("limit_data in headers", Fault.limit_data(30), APIConnectionError, "", tls=True),
    Case("limit_data at headers", Fault.limit_data(0, at="headers"), APIConnectionError, "", tls=True),
    Case("reset_peer before the headers", Fault.reset_peer(at="fields"), APIConnectionError, "", tls=True),
    Case("limit_data before the headers", Fault.limit_data(0, at="fields"), APIConnectionError, "", tls=True),
    Case(
        "limit_data after an interim response",
        (Fault.inject(EARLY_HINTS, at="head"), Fault.limit_data(0, at="head")),
        APIConnectionError,
        "",
        tls=True,
    ),
    Case("limit_data at size", Fault.limit_data(0, at="size", after=1), StreamInterruptedError, "one ", tls=True),
    Case(
        "limit_data at chunk",
        Fault.limit_data(0, at="chunk", after=1),
        StreamInterruptedError,
        ("one 二", "one "),
        tls=True,
    ),
    Case("limit_data after 2", Fault.limit_data(0, after=2), StreamInterruptedError, "one 二 ", tls=True),
    Case("limit_data at the end, web", Fault.limit_data(0, at="end"), StreamInterruptedError, protocols=("web",)),
    Case("limit_data at the end, openai", Fault.limit_data(0, at="end"), protocols=("openai",)),
    Case("no_done", Fault.no_done(), StreamInterruptedError),
    Case("no_done after 1", Fault.no_done(after=1), StreamInterruptedError, "one "),
    # An answer that says no
    Case("status 500", Fault.status(500), InternalServerError, ""),
    Case("status 503", Fault.status(503, "模型无返回结果"), InternalServerError, ""),
    Case("status 418", Fault.status(418), APIStatusError, ""),
    Case("retry_after", Fault.retry_after(30), RateLimitError, ""),
    Case("html 502", Fault.html(502), InternalServerError, ""),
    Case("html 200", Fault.html(200), ProtocolError, ""),
    Case("error_frame", Fault.error_frame(), InternalServerError, "", protocols=("openai",)),
    Case("error_frame after 2", Fault.error_frame(after=2), InternalServerError, "one 二 ", protocols=("openai",)),
    # A head that is malformed: each of these lines has hidden the headers behind it from one reader or another, or
    # has shown it other headers (RFC 9112, sections 2.2, 4 and 5)
    malformed("header without a colon", Fault.inject(b"no colon\r\n"), tls=True),
    malformed("blank before a colon", Fault.inject(b"X : 1\r\n")),
    malformed("blank before the first name", Fault.inject(b" X: 1\r\n")),
    malformed("folded first line", Fault.inject(b" folded\r\n")),
    malformed("non-ASCII name, Latin-1", Fault.inject(b"caf\xe9: 1\r\n")),
    malformed("non-ASCII name, UTF-8", Fault.inject("名字: 1\r\n".encode())),
    malformed("header without a name", Fault.inject(b": 1\r\n")),
    malformed("NUL in a name", Fault.inject(b"X\0Y: 1\r\n")),
    malformed("NUL in a value", Fault.inject(b"X: 1\0\r\n")),
    malformed("bare CR in a value", Fault.inject(b"X: 1\rContent-Length: 3\r\n")),
    malformed("bare CR at the end of a value", Fault.inject(b"X: 1\r\r\n")),
    malformed("too many headers", Fault.inject(b"X: 1\r\n" * 10_000)),
    malformed("too large a header", Fault.inject(b"X: " + b"x" * 2**20 + b"\r\n")),
    malformed("malformed head of an error", (Fault.inject(b"no colon\r\n"), Fault.status(503))),
    malformed("HTTP/2 status line", Fault.inject(b"HTTP/2 200 OK\r\n\r\n", at="head")),
    malformed("HTTP/2 frame", Fault.inject(HTTP2_SETTINGS, at="head")),
    malformed(
        "HTTP/2 frame, then silence", (Fault.inject(HTTP2_SETTINGS, at="head"), Fault.timeout(at="head")), tls=True
    ),
    malformed("status of four digits", Fault.inject(b"HTTP/1.1 2000 OK\r\n\r\n", at="head")),
    malformed("flood of status 100", Fault.inject(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, at="head")),
    malformed("flood of status 103", Fault.inject(EARLY_HINTS * 1000, at="head"), tls=True),
    malformed(
        "status 101", Fault.inject(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", at="head"), tls=True
    ),
    malformed("malformed interim response", Fault.inject(b"HTTP/1.1 103 Hint\r\nno colon\r\n\r\n", at="head")),
    # A head whose lines are in order, with values that are not: an error's status stands all the same
    unusable("Content-Length: abc in an error", (Fault.inject(LENGTH_ABC), Fault.status(503))),
    unusable("two lengths in an error", (Fault.inject(TWO_LENGTHS), Fault.status(503))),
    unusable("unknown coding in an error", (Fault.inject(CODING_X), Fault.status(503))),
    Case("unknown coding", Fault.inject(CODING_X), ProtocolError, ""),
    # A body that is malformed
    malformed("unbalanced quote in a chunk extension", Fault.inject(b';a="b', at="size")),
    Case("bad_chunk size", Fault.bad_chunk(after=1), ProtocolError, "one ", own_reading=True),
    Case("bad_chunk end", Fault.bad_chunk(at="chunk", after=1), ProtocolError, "?", own_reading=True),
    Case("bad_gzip", Fault.bad_gzip(after=2), ProtocolError, "one 二 "),
    Case("bad_gzip truncated", Fault.bad_gzip(after=2, truncated=True), StreamInterruptedError, "one 二 "),
    Case("bad_utf8", Fault.bad_utf8(after=2), ProtocolError, "one 二 "),
    Case("bad_json", Fault.bad_json(after=2), ProtocolError, "one 二 ", protocols=("openai",)),
    Case("huge_line", Fault.huge_line(18 * 2**20, after=1), ProtocolError, "one ", protocols=("openai",)),
    Case("gzip_bomb", Fault.gzip_bomb(2**24, after=1), ProtocolError, "?"),
]


def cells() -> Iterator[object]:
    for case in CASES:
        for protocol in case.protocols:
            for tls in (False, True) if case.tls else (False,):
                yield pytest.param(case, protocol, tls, id=f"{case.name}-{protocol}{'-tls' if tls else ''}")


def cell(name: str, protocol: str, tls: bool = False) -> str:
    """What the list at the end of the run calls a cell."""
    return f"{name:40} {protocol:7} {'TLS' if tls else ''}"


def threads() -> set[threading.Thread]:
    # trio keeps its idle threads for ten seconds, under this name.
    return {thread for thread in threading.enumerate() if not thread.name.startswith("Trio thread")}


def sockets() -> int:
    return len(psutil.Process().net_connections())


def client_of(server: LoopbackServer | RawServer, protocol: str, ca_file: Path | None = None, **options: Any) -> Client:
    return Client(
        "test-key",
        base_url=server.url,
        protocol=protocol,  # type: ignore[arg-type]
        retry=None,
        verify=True if ca_file is None else str(ca_file),
        **options,
    )


@pytest.mark.parametrize(("case", "protocol", "tls"), list(cells()))
def test_a_fault_loses_nothing_and_leaves_nothing(
    case: Case,
    protocol: str,
    tls: bool,
    face: Face,
    tls_context: ssl.SSLContext,
    ca_file: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """The error and its phase are right, the text is whole, the time is kept, the next call works, nothing is left."""
    if FORK and case.own_reading:
        pytest.skip("urllib3-future reads heads and chunks itself, and takes malformed ones for lost connections")
    faults = case.fault if isinstance(case.fault, tuple) else (case.fault,)
    with LoopbackServer(
        lambda _: PIECES, faults=[replace(fault, first=1) for fault in faults], tls=tls_context if tls else None
    ) as server:
        threads_before, sockets_before = threads(), sockets()
        client = client_of(
            server,
            protocol,
            ca_file,
            timeout=case.timeout,
            max_response_bytes=2**22 if case.name == "gzip_bomb" else 2**26,
        )
        outcome = face.ask(client)

        assert type(outcome.error) is (case.error or type(None)), repr(outcome.error)
        if case.text == "?":
            assert outcome.text.startswith("one ")
        else:
            web, openai = (case.text, case.text) if isinstance(case.text, str) else case.text
            assert outcome.text == (web if protocol == "web" else openai)
        if outcome.error is not None:
            assert outcome.error.partial == outcome.text
            assert outcome.error.attempts == 1
        if isinstance(outcome.error, APITimeoutError):
            assert outcome.error.phase == case.phase
        assert case.seconds <= outcome.seconds < case.seconds + 2

        assert face.ask(client, timeout=10).text == TEXT
        client.close()
        end = time.monotonic() + 5
        while (threads() - threads_before or sockets() > sockets_before) and time.monotonic() < end:
            time.sleep(0.005)
        assert not threads() - threads_before
        assert sockets() <= sockets_before
    record_property("cell", cell(case.name, protocol, tls))


every_wire = pytest.mark.parametrize(
    ("protocol", "tls"),
    [("web", False), ("web", True), ("openai", False), ("openai", True)],
    ids=["web", "web-tls", "openai", "openai-tls"],
)


def answer_to_a_call(protocol: str) -> bytes:
    """The server's answer, head and body, as it goes over the wire."""
    with LoopbackServer(lambda _: PIECES) as server, client_of(server, protocol) as client:
        client.complete("Hello")
        request = server.requests[0]
        server.faults = [Fault.slow_close(0)]
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=20) as connection:
            connection.sendall(f"{request.method} {request.path} HTTP/1.1\r\n{request.headers}".encode() + request.body)
            with connection.makefile("rb") as incoming:
                return incoming.read()


def head_size(answer: bytes) -> int:
    return answer.index(b"\r\n\r\n") + 4


@every_wire
def test_a_head_may_end_nowhere_but_at_its_end(
    protocol: str,
    tls: bool,
    face: Face,
    tls_context: ssl.SSLContext,
    ca_file: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """Whichever byte of the head the connection ends at, there was no answer; behind it, the answer was interrupted."""
    size = head_size(answer_to_a_call(protocol))
    with (
        LoopbackServer(lambda _: PIECES, tls=tls_context if tls else None) as server,
        client_of(server, protocol, ca_file) as client,
    ):
        for cut in range(size + 1):
            server.faults = [Fault.slow_close(0), Fault.limit_data(cut)]
            outcome = face.ask(client)
            assert type(outcome.error) is (APIConnectionError if cut < size else StreamInterruptedError), cut
            assert outcome.error.partial == outcome.text == ""
        server.faults = []
        assert face.ask(client).text == TEXT
        assert len(server.requests) == size + 2
    record_property("cell", cell("cut at every byte of the head", protocol, tls))


@every_wire
@pytest.mark.usefixtures("pieces_apart")
def test_a_head_may_come_byte_by_byte(
    protocol: str,
    tls: bool,
    face: Face,
    tls_context: ssl.SSLContext,
    ca_file: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """An answer is whole though each byte of its head is sent only when the one before has been read."""
    drip = [Fault.slow_drip(0), Fault.slicer(2**20, after=0)]
    with (
        LoopbackServer(lambda _: PIECES, faults=drip, tls=tls_context if tls else None) as server,
        client_of(server, protocol, ca_file) as client,
    ):
        outcome = face.ask(client)
    assert (outcome.text, outcome.error) == (TEXT, None)
    record_property("cell", cell("drip of every byte of the head", protocol, tls))


@pytest.mark.parametrize("protocol", ["web", "openai"])
def test_a_head_may_come_in_any_two_parts(
    protocol: str, face: Face, raw_server: RawServer, record_property: Callable[[str, object], None]
) -> None:
    """An answer is whole wherever its head is split, with the whole body behind the second part."""
    answer = answer_to_a_call(protocol)
    with client_of(raw_server, protocol) as client:
        for split in range(1, head_size(answer) + 1):
            raw_server.answer(answer[:split], until_read, answer[split:])
            outcome = face.ask(client)
            assert (outcome.text, outcome.error) == (TEXT, None), split
    record_property("cell", cell("split at every byte of the head", protocol))
