"""The server of the benchmarks: answers rendered beforehand, in a process of its own, without any cost per event.

The first part of a request's path says how it is answered; both protocols' paths may follow:

    /burst-20000/v1/chat/completions     20,000 events, all at once; a multiple of 1,000, or less
    /paced-50-250/v1/chat/completions    50 events a second, 250 of them
    /stamped-50-250/v1/chat/completions  the same, and the text of each is the time at which it was sent
    /bulk-64/v1/chat/gpt/                64 MiB of text in chunks of 16 KiB

`/v1/chat/gpt/` is answered with plain text, everything else with Server-Sent Events.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

LIFETIME = 1800  # seconds after which the server stops by itself
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


@contextmanager
def serving() -> Iterator[str]:
    """Run the server in a process of its own, and yield its URL."""
    process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.wait()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    chunk = {
        "id": "chatcmpl-benchmark",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "gpt-4o-mini",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }
    return b"data: %b\n\n" % json.dumps(chunk, separators=(",", ":")).encode()


PIECE = {"text": b"token ", "events": _event({"content": "token "})}
LAST = {"text": b"", "events": _chunk(_event({}, "stop") + b"data: [DONE]\n\n")}
TYPE = {"text": b"text/plain; charset=utf-8", "events": b"text/event-stream"}


async def _answer(writer: asyncio.StreamWriter, scenario: list[str], kind: str) -> None:
    name, *numbers = scenario
    if name == "burst":
        count = int(numbers[0])
        block = _chunk(PIECE[kind]) * min(count, 1000)
        writer.write(HEAD % TYPE[kind])
        for _ in range(max(1, count // 1000)):
            writer.write(block)
            await writer.drain()
        writer.write(LAST[kind] + END)
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
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode()
            for line in head.split(b"\r\n"):
                if line.lower().startswith(b"content-length:"):
                    await reader.readexactly(int(line[15:]))
            _, scenario, rest = path.split("/", 2)
            await _answer(writer, scenario.split("-"), "text" if rest == "v1/chat/gpt/" else "events")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the client has gone
    finally:
        writer.close()


async def _main() -> None:
    server = await asyncio.start_server(_serve, "127.0.0.1", 0, backlog=2000)
    print(server.sockets[0].getsockname()[1], flush=True)
    parent = os.getppid()
    for _ in range(LIFETIME):
        await asyncio.sleep(1)
        if os.getppid() != parent:
            return


if __name__ == "__main__":
    asyncio.run(_main())
