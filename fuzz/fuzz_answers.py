"""Differential fuzzing of whole answers: a client reads them from a socket, h11 and a plain reading have the bytes.

    pip install '.[fuzz]' && python fuzz/fuzz_answers.py --count 20000 --seed 1

An answer is a good one (chats of both protocols, in every framing and coding) with some of its bytes changed. A server
on loopback sends it in pieces, and closes the connection, resets it, or leaves it open. `Client` and `AsyncClient` must
give the text that h11's framing and the plain reading of the content give. Where the answer is cut or wrong they must
raise an error of the tree with the text up to that place as its `partial`. No call may outlast its limit by a second,
or leave a descriptor. `--seed` and `--only` repeat a single answer; a finding names its number.

Some answers are not compared, but for the class of the error, the time and the descriptors:

- head: ours and h11 do not both take it; that is what fuzz_heads.py is about.
- unknown shape: JSON that is neither refused by every reader nor like what `content` makes; what it means is not told
  by a standard. The text before it is compared.

made_answers.py makes the answers up. plain_reading.py reads them, and has the reasons for which the client may read the
framing in another way than h11.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import queue
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter
from typing import Any

import fuzz_heads
from made_answers import Answer, made
from plain_reading import Outcome, expected, readings

from chatanywhere import APIStatusError, APITimeoutError, ChatAnywhereError, Client, Timeout

READ, TOTAL = 0.15, 0.6  # seconds
FAR_TOO_LATE = 1.0  # seconds behind a limit
FOREIGN, LEFT = "foreign error", "descriptor left"


class Server(threading.Thread):
    """Gives each connection the answer that is set, and ends it as that says; then something is put into `ended`."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.answer: Answer | None = None
        self.ended: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                try:
                    self._serve(connection)
                except OSError:
                    pass  # the client has gone, as it may when it has seen enough
            self.ended.put(None)

    def _serve(self, connection: socket.socket) -> None:
        assert self.answer is not None
        connection.settimeout(10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = b""
        while not request.endswith(b"}"):  # as the JSON of a chat does
            received = connection.recv(65536)
            if not received:
                return
            request += received
        for piece in self.answer.pieces:
            connection.sendall(piece)
            if len(piece) % 3 == 0:  # else it may be merged with the next one
                time.sleep(0.0003)
        if self.answer.end == "open":
            while connection.recv(4096):
                pass
        elif self.answer.end == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.join(10)


class Asker:
    """Asks the server with each kind of client, and looks at what it leaves behind."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.new_event_loop()
        self._clients = {
            name: Client("k", base_url=server.url, protocol=name, retry=None, keepalive_expiry=0, proxy="")
            for name in ("openai", "web")
        }

    def ask(self, answer: Answer, patience: float) -> tuple[Outcome, str]:
        """Return what the client makes of an answer, and what is wrong with that whatever the answer is."""
        self._server.answer = answer
        before = len(os.listdir("/proc/self/fd"))
        start = time.monotonic()
        wrong = ""
        try:
            outcome, wrong = self._ask(answer, Timeout(TOTAL * patience, TOTAL * patience, READ * patience))
        except ChatAnywhereError as error:
            outcome = Outcome("error", error.partial, error)
        except Exception as error:
            outcome, wrong = Outcome("error", "", error), FOREIGN
        took = time.monotonic() - start
        if took > TOTAL * patience + FAR_TOO_LATE:
            wrong = f"too late: {took:.2f} s"
        self._server.ended.get(timeout=15)
        if len(os.listdir("/proc/self/fd")) != before:
            wrong = LEFT
        return outcome, wrong

    def _ask(self, answer: Answer, limits: Timeout) -> tuple[Outcome, str]:
        client = self._clients[answer.protocol]
        pieces: list[str] = []
        if answer.way == "complete":
            completion = client.complete("Hi", timeout=limits)
            return Outcome("complete", completion.text, completion.finish_reason), ""
        try:
            if answer.way == "async":
                completion = self._loop.run_until_complete(self._ask_async(client, limits, pieces))
            else:
                with client.stream("Hi", timeout=limits) as stream:
                    pieces.extend(stream)
                    completion = stream.completion
        except ChatAnywhereError as error:
            given = "".join(pieces)
            wrong = "" if error.partial.startswith(given) else f"{given!r} was given out, and is not in partial"
            return Outcome("error", error.partial, error), wrong
        wrong = "" if "".join(pieces) == completion.text else f"{pieces} were given out"
        return Outcome("complete", completion.text, completion.finish_reason), wrong

    async def _ask_async(self, client: Client, limits: Timeout, pieces: list[str]) -> Any:
        async with client.as_async().stream("Hi", timeout=limits) as stream:
            async for piece in stream:
                pieces.append(piece)
            return stream.completion

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
        self._loop.close()


def agree(found: Outcome, wanted: Outcome, end: str) -> bool:
    """Whether the client has made of an answer what the plain reading makes of it."""
    if wanted.kind == "unknown":
        return found.text.startswith(wanted.text) or (found.kind == "error" and wanted.text.startswith(found.text))
    if wanted.kind == "status":
        return isinstance(found.detail, APIStatusError) and found.detail.status_code == wanted.detail
    if wanted.kind == "complete":
        return found == wanted
    if found.kind != "error" or (isinstance(found.detail, APITimeoutError) and end != "open"):
        return False
    # A reset may overtake what was sent before it. Half a character at the end is none yet.
    lost = wanted.text.removeprefix(found.text)
    return wanted.text.startswith(found.text) and (end == "reset" or lost in ("", "\ufffd"))


def judge(answer: Answer, found: Outcome) -> tuple[str, bool]:
    """Return how the client and the plain reading stand to each other, and whether that is as it should be."""
    closed = answer.end == "close"
    for reason, wire in readings(answer.wire, closed=closed):
        wanted = expected(wire, answer.protocol, closed=closed)
        if agree(found, wanted, answer.end):
            kind = f"unknown shape, {found.kind}" if wanted.kind == "unknown" else wanted.kind
            if wanted.kind == "error":
                kind = f"{type(found.detail).__name__} {'behind text' if found.text else 'without text'}"
            return f"{kind} ({reason})" if reason else kind, True
    if fuzz_heads.ours(answer.wire).kind != fuzz_heads.theirs(answer.wire).kind:
        return "head", True
    return f"{found}\n    wanted {expected(answer.wire, answer.protocol, closed=closed)}", False


def main() -> int:
    """Run the answers; return 1 if one of them was not read as it should be."""
    parser = argparse.ArgumentParser(description="Read changed answers with the client and with h11.")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="the number of a single answer")
    arguments = parser.parse_args()
    server = Server()
    server.start()
    asker = Asker(server)
    counts: Counter[str] = Counter()
    findings = unsteady = 0
    start = time.monotonic()
    numbers = range(arguments.count) if arguments.only is None else [arguments.only]
    for number in numbers:
        answer = made(random.Random(f"{arguments.seed}-{number}"))  # noqa: S311  no secret
        for patience in (1, 8):  # a machine that stood still is not the client's fault
            found, wrong = asker.ask(answer, patience)
            verdict, good = (wrong, False) if wrong else judge(answer, found)
            if not good:
                print(f"{number}, {answer.way}, {answer.end}: {answer.pieces}\n    {verdict}", file=sys.stderr)
            if good or wrong in (FOREIGN, LEFT):
                break
        unsteady += good and patience > 1
        findings += not good
        counts[verdict if good else "FINDING"] += 1
        if findings == 10 or time.monotonic() > start + arguments.seconds:
            break
    asker.close()
    server.close()
    for verdict, count in counts.most_common():
        print(f"{count:>9,}  {verdict}")
    rate = counts.total() / (time.monotonic() - start)
    print(
        f"{counts.total():>9,}  answers, {findings} findings, {unsteady} right at the second look only, "
        f"seed {arguments.seed}, {rate:.0f}/s"
    )
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
