"""The server of the benchmarks: answers rendered beforehand, in a process of its own, without any cost per event.

The first part of a request's path says how it is answered; both protocols' paths may follow:

    /burst-20000/v1/chat/completions     20,000 events, all at once; a multiple of 1,000, or less
    /paced-50-250/v1/chat/completions    50 events a second, 250 of them
    /stamped-50-250/v1/chat/completions  the same, and the text of each is the time at which it was sent
    /bulk-64/v1/chat/gpt/                64 MiB of text in chunks of 16 KiB
    /call-1/v1/chat/completions          a short answer, 12 words and the usage, 1 second after the question
    /call-1-whole/v1/chat/completions    the same as one object
    /limited-100-0.2/v1/…                the same after 0.2 seconds, to 100 questions in any second; others get a 429
    /counted-0.2/v1/…                    the same to all, and it is counted how often each prompt was asked
    /quota-200-0.2/v1/…                  the same to 200 questions of a day, which ends with a request for /day/
    /asked/                              JSON: how often each prompt was asked
    /embed-1536/v1/embeddings            a vector of 1,536 numbers for each text, as the request's encoding_format says
    /usage/                              JSON: what the server has used so far

`/v1/chat/gpt/` is answered with plain text, everything else with Server-Sent Events. Connections are kept open.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import math
import os
import resource
import ssl
import subprocess
import sys
import tempfile
import time
from array import array
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

LIFETIME = 3600  # seconds after which the server stops by itself
WORDS = "The sky is blue because air scatters short waves more than long"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


class Address(NamedTuple):
    """Where the server is: its URLs, and the file of the CA that made its certificate."""

    http: str
    https: str
    ca: str


@contextmanager
def serving() -> Iterator[Address]:
    """Run the server in a process of its own, and yield its address."""
    with tempfile.TemporaryDirectory() as folder:
        ca = Path(folder, "ca.pem")
        process = subprocess.Popen([sys.executable, __file__, ca], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        with process.stdout:
            try:
                http, https = process.stdout.readline().split()
                yield Address(f"http://127.0.0.1:{http}", f"https://127.0.0.1:{https}", str(ca))
            finally:
                process.kill()
                process.wait()


def allow_connections(number: int = 4096) -> None:
    """Let this process have that many files open, or as many as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < number:
        most = number if hard == resource.RLIM_INFINITY else min(number, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    return _data(choices=[{"index": 0, "delta": delta, "finish_reason": finish_reason}])


def _data(**fields: Any) -> bytes:
    chunk = {
        "id": "chatcmpl-benchmark",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "gpt-4o-mini",
        **fields,
    }
    return b"data: %b\n\n" % json.dumps(chunk, separators=(",", ":")).encode()


def _call() -> bytes:
    """The whole answer to a short call, an event per chunk as from a model."""
    first, *others = WORDS.split()
    events = [_event({"content": word}) for word in (first, *(f" {word}" for word in others))]
    usage = {"prompt_tokens": 8, "completion_tokens": len(events), "total_tokens": 8 + len(events)}
    events += [_event({}, "stop"), _data(choices=[], usage=usage), b"data: [DONE]\n\n"]
    return HEAD % TYPE["events"] + b"".join(map(_chunk, events)) + END


def _whole() -> bytes:
    """The same as one object, for clients that do not stream."""
    message = {"role": "assistant", "content": WORDS}
    content = json.dumps({
        "id": "chatcmpl-benchmark",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "gpt-4o-mini",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 8, "completion_tokens": 12, "total_tokens": 20},
    }).encode()  # fmt: skip
    return HEAD % b"application/json" + _chunk(content) + END


PIECE = {"text": b"token ", "events": _event({"content": "token "})}
LAST = {"text": b"", "events": _chunk(_event({}, "stop") + b"data: [DONE]\n\n")}
TYPE = {"text": b"text/plain; charset=utf-8", "events": b"text/event-stream"}
CALL = _call()
WHOLE = _whole()


def _refusal(message: bytes) -> bytes:
    said = b'{"error":{"message":"%b","type":"rate_limit_error","code":null}}' % message
    head = b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    return head % (len(said), said)


REFUSAL = _refusal(b"too many requests")
SPENT = _refusal(b"limited to 200 requests per day")


@functools.cache
def _embeddings(dimensions: int, count: int, encoding: str) -> bytes:
    """The whole answer to a request for that many vectors, each the same."""
    vector = array("f", (math.sin(number) / 40 for number in range(dimensions)))
    encoded = base64.b64encode(vector).decode()
    value = f'"{encoded}"' if encoding == "base64" else json.dumps([round(number, 9) for number in vector])
    items = ",".join(f'{{"object":"embedding","index":{index},"embedding":{value}}}' for index in range(count))
    usage = json.dumps({"prompt_tokens": count, "total_tokens": count})
    content = f'{{"object":"list","data":[{items}],"model":"text-embedding-3-small","usage":{usage}}}'.encode()
    return HEAD % b"application/json" + _chunk(content) + END


connections = 0  # accepted so far
refusals = 0
asked: Counter[str] = Counter()
answered_today = 0
allowed: deque[float] = deque()  # when the requests of the last second were


async def _answer(writer: asyncio.StreamWriter, scenario: list[str], kind: str, content: bytes) -> None:
    global refusals, answered_today
    name, *numbers = scenario
    if name == "burst":
        count = int(numbers[0])
        block = _chunk(PIECE[kind]) * min(count, 1000)
        writer.write(HEAD % TYPE[kind])
        for _ in range(max(1, count // 1000)):
            writer.write(block)
            await writer.drain()
        writer.write(LAST[kind] + END)
    elif name == "call":
        if numbers[0] != "0":
            await asyncio.sleep(float(numbers[0]))
        writer.write(WHOLE if numbers[-1] == "whole" else CALL)
    elif name == "limited":
        now = time.monotonic()
        while allowed and allowed[0] <= now - 1:
            allowed.popleft()
        if len(allowed) >= int(numbers[0]):
            refusals += 1
            writer.write(REFUSAL)
        else:
            allowed.append(now)
            await asyncio.sleep(float(numbers[1]))
            writer.write(WHOLE if numbers[-1] == "whole" else CALL)
    elif name == "counted":
        asked[json.loads(content)["messages"][-1]["content"]] += 1
        await asyncio.sleep(float(numbers[0]))
        writer.write(CALL)
    elif name == "quota":
        asked[json.loads(content)["messages"][-1]["content"]] += 1
        answered_today += 1
        if answered_today > int(numbers[0]):
            writer.write(SPENT)
        else:
            await asyncio.sleep(float(numbers[1]))
            writer.write(CALL)
    elif name in ("asked", "day"):
        answered_today = 0 if name == "day" else answered_today
        writer.write(HEAD % b"application/json" + _chunk(json.dumps(asked).encode()) + END)
    elif name == "embed":
        wanted = json.loads(content)
        writer.write(_embeddings(int(numbers[0]), len(wanted["input"]), wanted.get("encoding_format", "float")))
    elif name == "usage":
        used = {"cpu": time.process_time(), "connections": connections, "refusals": refusals}
        writer.write(HEAD % b"application/json" + _chunk(json.dumps(used).encode()) + END)
    elif name == "bulk":
        writer.write(HEAD % TYPE[kind])
        block = _chunk(b"x" * 16384) * 64
        for _ in range(int(numbers[0])):
            writer.write(block)
            await writer.drain()
        writer.write(END)
    else:
        loop = asyncio.get_running_loop()
        interval, due = 1 / float(numbers[0]), loop.time()
        piece = _chunk(PIECE[kind])
        writer.write(HEAD % TYPE[kind])
        for _ in range(int(numbers[1])):
            if name == "stamped":
                piece = _chunk(_event({"content": f"{time.monotonic()} "}))
            writer.write(piece)
            due += interval
            await asyncio.sleep(due - loop.time())
        writer.write(LAST[kind] + END)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    global connections
    connections += 1
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode()
            content = b""
            for line in head.split(b"\r\n"):
                if line.lower().startswith(b"content-length:"):
                    content = await reader.readexactly(int(line[15:]))
            _, scenario, rest = path.split("/", 2)
            await _answer(writer, scenario.split("-"), "text" if rest == "v1/chat/gpt/" else "events", content)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the client has gone
    finally:
        writer.close()


def _certify(ca: str) -> ssl.SSLContext:
    """Make a certificate, and write its CA to a file."""
    import trustme  # here and not above, for clients import this module, too

    authority = trustme.CA()
    authority.cert_pem.write_to_path(ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def _main(ca: str) -> None:
    allow_connections()
    servers = [
        await asyncio.start_server(_serve, "127.0.0.1", 0, backlog=2000, ssl=context)
        for context in (None, _certify(ca))
    ]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    parent = os.getppid()
    for _ in range(LIFETIME):
        await asyncio.sleep(1)
        if os.getppid() != parent:
            return


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
