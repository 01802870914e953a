"""What is forgotten ends at once. The garbage collector forgets in any thread, in the middle of anything."""

from __future__ import annotations

import asyncio
import functools
import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType
from typing import Any

import pytest
from raw_server import sockets_to

from chatanywhere import Client, Observer
from chatanywhere.testing import Fault, LoopbackServer

LOCKS = (type(threading.Lock()), type(threading.RLock()))
PATIENCE = 10.0  # seconds, for what takes one at most


def locks_of(root: object) -> list[Any]:
    """All locks that are reachable through objects of the package, and through what Python's `threading` has."""
    found: list[Any] = []
    seen: set[int] = set()
    pending = [root]
    while pending:
        each = pending.pop()
        if id(each) in seen or isinstance(each, (type, threading.Thread)):
            continue
        seen.add(id(each))
        if isinstance(each, LOCKS):
            found.append(each)
        elif isinstance(each, dict):
            pending += each.values()
        elif isinstance(each, (list, tuple, set)):
            pending += each
        elif isinstance(each, (FunctionType, MethodType, functools.partial)):
            pending += gc.get_referents(each.__closure__ if isinstance(each, FunctionType) else each)
        elif type(each).__module__.startswith(("chatanywhere.", "threading")):
            pending.append(vars(each) if hasattr(each, "__dict__") else [])
    return found


def plain_stream(client: Client) -> list[object]:
    stream = client.stream("Hello")
    assert next(stream) == "one"
    return [stream]


def stream_of_conversation(client: Client) -> list[object]:
    conversation = client.conversation()
    stream = conversation.stream("Hello")
    assert next(stream) == "one"
    return [stream, conversation]


def async_stream(client: Client) -> list[object]:
    made: list[object] = []

    async def begin() -> None:
        stream = client.as_async().stream("Hello")
        assert await stream.__anext__() == "one"
        made.append(stream)  # and not returned, for an older anyio holds its last task, and the task what it returns

    asyncio.run(begin())
    return made


def run(client: Client) -> list[object]:
    return [client.map(["Hello"] * 3, concurrency=2).__enter__()]


# What is forgotten, and behind it what somebody still has.
MAKERS: list[Callable[[Client], list[Any]]] = [plain_stream, stream_of_conversation, async_stream, run]


@contextmanager
def held(lock: Any) -> Iterator[None]:
    """Another thread holds a lock, if nobody does."""
    holding, over = threading.Event(), threading.Event()

    def hold() -> None:
        mine = lock.acquire(blocking=False)
        holding.set()
        over.wait(PATIENCE * 2)
        if mine:
            lock.release()

    thread = threading.Thread(target=hold)
    thread.start()
    holding.wait()
    try:
        yield
    finally:
        over.set()
        thread.join()


def soon(function: Callable[[], object]) -> None:
    """Do something in a thread, and see to it that it ends."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "it waits for a lock"


@pytest.fixture
def stuck() -> Iterator[LoopbackServer]:
    """A server whose answers stop after the first piece."""
    with LoopbackServer(lambda _: ["one", "two"], faults=[Fault.timeout(after=1)]) as server:
        yield server


@pytest.fixture(autouse=True)
def young() -> Iterator[None]:
    """The collector looks at what a test makes, and not at all that was there before, which takes seconds."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # the collector may take the socket first
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("collected", [False, True], ids=["let go of", "collected"])
def test_what_is_forgotten_waits_for_no_lock(
    make: Callable[[Client], list[Any]], collected: bool, stuck: LoopbackServer
) -> None:
    """Whichever lock another thread holds, or the one that forgets, it ends, and its connections are closed."""

    def forget(lock: Any) -> None:
        if lock is not None:
            lock.acquire(blocking=False)
        box.clear()
        gc.collect()

    number = 0
    client = Client("k", base_url=stuck.url, retry=None, observers=[Observer()])
    while True:
        made = make(client)
        locks = locks_of(made)
        assert locks
        box = [made.pop(0)]
        if number >= 2 * len(locks):
            break
        if collected:
            box[0].itself = box[0]
        lock = locks[number // 2]
        if number % 2:
            with held(lock):
                soon(functools.partial(forget, None))
        else:
            soon(functools.partial(forget, lock))
        wait_until_closed(stuck)
        number += 1
    soon(functools.partial(forget, None))
    wait_until_closed(stuck)


def wait_until_closed(server: LoopbackServer) -> None:
    """The threads of a run need a moment."""
    port = int(server.url.rpartition(":")[2].partition("/")[0])
    waiting = threading.Event()
    for _ in range(200):
        gc.collect()  # again, for one that was running elsewhere makes the other do nothing
        if not sockets_to(port):
            return
        waiting.wait(0.02)
    pytest.fail(f"a connection has outlived its call: {sockets_to(port)}")


def test_what_came_of_a_forgotten_answer_is_kept(stuck: LoopbackServer) -> None:
    """A conversation that another thread has in its hands notes the end of a stream, and has its text afterwards."""
    conversation = Client("k", base_url=stuck.url, retry=None).conversation()
    box = [conversation.stream("Hello")]
    assert next(box[0]) == "one"
    with held(conversation._turns._lock):
        soon(box.clear)
    assert conversation.messages == []
    turn = conversation.turn
    assert turn is not None
    assert (turn.text, turn.status) == ("one", "cut")
