"""Runs whose calls are tasks of Dask's, with workers that are threads of this process; `with_dask.py` has more."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import threading
import time
from collections.abc import Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import distributed
import pytest
from batch.clusters import cluster_of
from batch.runs import collect, echo, take_all
from faces import Face

import chatanywhere._batch.dask
from chatanywhere import (
    APIConnectionError,
    AuthenticationError,
    Client,
    InternalServerError,
    OutputError,
    Result,
    StreamCancelledError,
    StreamInterruptedError,
    Timeout,
)
from chatanywhere.testing import Fault, LoopbackServer, Request

KEY = "sk-which-only-the-workers-have"


@pytest.fixture(scope="module")
def cluster() -> Iterator[distributed.LocalCluster]:
    """Two workers with four threads each."""
    with cluster_of(2, 4, processes=False) as cluster:
        yield cluster


@pytest.fixture
def dask(cluster: distributed.LocalCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[distributed.Client]:
    """A client of it; its workers have a key of their own."""
    monkeypatch.setenv("CHATANYWHERE_API_KEY", KEY)
    with distributed.Client(cluster) as dask:
        yield dask


def test_the_calls_are_made_by_the_workers(
    face: Face, server: LoopbackServer, dask: distributed.Client, tmp_path: Path
) -> None:
    """With their key; results come in order, and a second run has them from the journal."""
    client = Client("sk-of-the-driver", base_url=server.url)
    prompts = [{"prompt": f"prompt {number}", "id": number, "seed": number} for number in range(30)]
    for again in (False, True):
        results, error = collect(face, client, prompts, executor=dask, concurrency=8, journal=tmp_path / "run.sqlite")
        assert error is None
        assert [result.text for result in results] == [f"said prompt {number}" for number in range(30)]
        assert [result.id for result in results] == list(range(30))
        assert all(result.attempts == 1 and result.from_journal == again for result in results)
    assert len(server.requests) == 30
    assert {request.headers["Authorization"] for request in server.requests} == {f"Bearer {KEY}"}
    assert sorted(request.json["seed"] for request in server.requests) == list(range(30))


def test_settings_of_client_run_and_prompt_hold_on_the_workers(
    server: LoopbackServer, dask: distributed.Client
) -> None:
    """Model, headers, options and messages, also those that can be read only once."""
    client = Client("any", base_url=server.url, model="m1", headers={"X-Client": "1"})
    server.faults = [Fault.status(500, first=1)]
    messages = ({"role": role, "content": role} for role in ("system", "user"))
    prompts: list[Any] = [{"messages": messages, "top_p": 0.5, "headers": {"X-Prompt": "2"}}]
    (result,) = client.map(prompts, executor=dask, temperature=0, concurrency=1)
    assert (result.text, result.attempts) == ("said user", 2)
    for request in server.requests:
        assert request.json["model"] == "m1"
        assert [message["content"] for message in request.json["messages"]] == ["system", "user"]
        assert (request.json["temperature"], request.json["top_p"]) == (0, 0.5)
        assert (request.headers["X-Client"], request.headers["X-Prompt"]) == ("1", "2")


def test_the_other_protocol_needs_no_key(
    server: LoopbackServer, dask: distributed.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And gets none."""
    monkeypatch.delenv("CHATANYWHERE_API_KEY")
    client = Client(protocol="web", base_url=server.url)
    assert [result.text for result in client.map(["a", "b"], executor=dask, concurrency=2)] == ["said a", "said b"]
    assert not any(KEY in str(request.headers) for request in server.requests)


def test_failures_come_back_as_they_are(face: Face, dask: distributed.Client) -> None:
    """With status, attempts, and the text so far."""

    def answer(request: Request) -> Any:
        return {"broken": Fault.status(500), "cut": Fault.limit_data(300)}.get(request.text, "whole" * 100)

    with LoopbackServer(answer) as server:
        client = Client("any", base_url=server.url)
        prompts = ["broken", "cut", "fine"]
        results, error = collect(face, client, prompts, executor=dask, concurrency=3, retry=2)
    assert error is None
    broken, cut, fine = results
    assert isinstance(broken.error, InternalServerError)
    assert (broken.error.status_code, broken.attempts, broken.error.attempts) == (500, 2, 2)
    assert isinstance(cut.error, StreamInterruptedError)
    assert cut.attempts == 2
    assert fine.text == "whole" * 100


def test_answers_are_instances_of_a_type_that_only_the_driver_has(dask: distributed.Client) -> None:
    """For a run and for a prompt; what does not fit, and what a validator raises, is the result's error."""

    @dataclass
    class Label:
        mood: str

        def __post_init__(self) -> None:
            if self.mood == "odd":
                raise KeyError("odd")

    def label(request: Request) -> str:
        assert request.json["response_format"]["json_schema"]["name"] in ("Label", "int")
        return {"1": "no", "2": json.dumps({"value": 5})}.get(request.text, json.dumps({"mood": request.text}))

    with LoopbackServer(label) as server:
        client = Client("any", base_url=server.url)
        prompts = ["good", "1", {"prompt": "2", "response_format": int}, "odd"]
        results = list(client.map(prompts, executor=dask, concurrency=4, response_format=Label, retry=1))
    good, wrong, number, odd = results
    assert good.completion is not None
    assert good.completion.parsed == Label("good")
    assert isinstance(wrong.error, OutputError)
    assert wrong.error.partial == "no"
    assert number.completion is not None
    assert number.completion.parsed == 5
    assert isinstance(odd.error, KeyError)


def test_the_time_of_a_call_begins_on_its_worker(dask: distributed.Client, caplog: pytest.LogCaptureFixture) -> None:
    """Not while it waits for one of their threads, of which there are too few: a warning says so."""
    with LoopbackServer(echo, faults=[Fault.latency(0.3, at="head")]) as server:
        client = Client("any", base_url=server.url, timeout=1.0, retry=1)
        results = list(client.map([str(number) for number in range(40)], executor=dask, concurrency=40))
    assert [result.error for result in results] == [None] * 40
    assert max(result.seconds for result in results) < 1.0
    assert "40" in caplog.text
    assert "8 threads" in caplog.text


def test_a_call_that_takes_too_long_has_no_answer(dask: distributed.Client) -> None:
    """The limit holds on the worker."""
    with LoopbackServer(lambda _: Fault.latency(30.0, after=150)) as server:
        client = Client("any", base_url=server.url, timeout=Timeout(total=0.5))
        (result,) = client.map(["a"], executor=dask, concurrency=1)
    assert isinstance(result.error, TimeoutError)
    assert result.error.phase == "total"
    assert result.seconds < 2.0


@pytest.mark.parametrize("how", ["cancel", "leave"])
def test_what_runs_on_the_workers_is_cancelled(how: str, dask: distributed.Client) -> None:
    """Their connections are closed within a second, and what waits for a thread is not begun."""

    def answer(request: Request) -> Any:
        return "x" if request.text == "0" else Fault.latency(30.0, after=200)

    with LoopbackServer(answer) as server:
        client = Client("any", base_url=server.url)
        run = client.map([str(number) for number in range(40)], executor=dask, concurrency=16)
        error: BaseException | None = None
        with run:
            assert next(run).text == "x"
            deadline = time.monotonic() + 20
            while len(server.requests) < 9 and time.monotonic() < deadline:  # the first, and one for each thread
                time.sleep(0.01)
            began = time.monotonic()
            if how == "cancel":
                run.cancel()
                results, error = take_all(run)
                assert all(isinstance(result.error, StreamCancelledError) for result in results)
                assert isinstance(error, StreamCancelledError)
        assert time.monotonic() - began < 1.0
        while dask.processing() and any(dask.processing().values()) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert time.monotonic() - began < 1.0
        assert len(server.requests) <= 10


def test_workers_without_a_key_are_named_before_anything_is_sent(
    face: Face, server: LoopbackServer, dask: distributed.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver has one; the journal knows of nothing that was sent."""
    monkeypatch.delenv("CHATANYWHERE_API_KEY")
    client = Client("any", base_url=server.url)
    results, error = collect(face, client, ["a", "b"], executor=dask, journal=tmp_path / "run.sqlite")
    assert results == []
    assert isinstance(error, AuthenticationError)
    assert error.left == 2
    assert "CHATANYWHERE_API_KEY" in str(error)
    assert all(address in str(error) for address in dask.nthreads())
    assert server.requests == []


def test_workers_that_can_t_make_a_client_are_named(
    server: LoopbackServer, dask: distributed.Client, tmp_path: Path
) -> None:
    """As where a file of certificates is not on their machine."""
    authorities = tmp_path / "ca.pem"
    authorities.write_text("")
    client = Client("any", base_url=server.url, verify=authorities)
    authorities.unlink()
    results, error = take_all(client.map(["a"], executor=dask))
    assert results == []
    assert isinstance(error, RuntimeError)
    assert "inproc://" in str(error)
    assert "ca.pem" in str(error)
    assert server.requests == []


def lose_key(monkeypatch: pytest.MonkeyPatch, calls: Container[int] = ()) -> list[int]:
    """Let workers find no key in some calls, and from the 100th on they have none: then they say so when asked, too.

    Return the numbers of the calls that were not made.
    """
    numbers = itertools.count(1)
    lost: list[int] = []
    real = chatanywhere._batch.dask._asker

    def asker(settings: bytes, options: bytes) -> Any:
        number = 0
        try:
            asyncio.get_running_loop()  # who asks them is answered by their event loop
        except RuntimeError:
            number = next(numbers)
            if number in calls or number >= 100:
                lost.append(number)
        if number in lost or (lost and lost[-1] >= 100):
            raise AuthenticationError("no API key", status_code=401)
        return real(settings, options)

    monkeypatch.setattr(chatanywhere._batch.dask, "_asker", asker)
    return lost


def test_what_came_to_a_worker_without_a_key_is_asked_by_another(
    server: LoopbackServer, dask: distributed.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was no attempt."""
    client = Client("any", base_url=server.url)
    lost = lose_key(monkeypatch, {3, 4, 5})
    results = list(client.map([str(number) for number in range(30)], executor=dask, concurrency=4, retry=1))
    assert [result.text for result in results] == [f"said {number}" for number in range(30)]
    assert {result.attempts for result in results} == {1}
    assert len(server.requests) == 30
    assert len(lost) == 3


def test_a_run_stops_when_no_worker_has_a_key(
    face: Face, server: LoopbackServer, dask: distributed.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was paid is handed out, and the error says what is left."""
    client = Client("any", base_url=server.url)
    lose_key(monkeypatch)
    results, error = collect(face, client, [str(number) for number in range(120)], executor=dask, concurrency=4)
    assert len(results) == len(server.requests) == 99
    assert isinstance(error, AuthenticationError)
    assert error.left == 21
    assert "CHATANYWHERE_API_KEY" in str(error)


def test_a_key_in_a_header_is_not_sent_to_the_scheduler(server: LoopbackServer, dask: distributed.Client) -> None:
    """Nor one in the headers of a prompt."""
    headers = {"X-Key": KEY}
    with pytest.raises(ValueError, match="environment"):
        Client(KEY, base_url=server.url, headers=headers).map(["a"], executor=dask)
    with pytest.raises(ValueError, match="environment"):
        Client(KEY, base_url=server.url).map(["a"], executor=dask, headers=headers)
    (result,) = Client(KEY, base_url=server.url).map([{"prompt": "a", "headers": headers}], executor=dask)
    assert isinstance(result.error, ValueError)
    assert server.requests == []


def test_what_dask_cancels_is_asked_again(dask: distributed.Client) -> None:
    """As where somebody restarts the cluster; it was an attempt."""
    release = threading.Event()

    def answer(request: Request) -> str:
        assert release.wait(20)
        return "x"

    def cancel() -> None:
        while not server.requests:
            time.sleep(0.01)
        dask.cancel([distributed.Future(key, dask) for key in list(dask.futures)])
        release.set()

    with LoopbackServer(answer) as server:
        canceller = threading.Thread(target=cancel)
        canceller.start()
        (result,) = Client("any", base_url=server.url).map(["a"], executor=dask, concurrency=1)
        canceller.join()
    assert (result.text, result.attempts) == ("x", 2)


def test_a_dask_client_that_is_closed_ends_the_run(face: Face, dask: distributed.Client) -> None:
    """What was paid is handed out, and the error is of the tree."""
    release = threading.Event()

    def answer(request: Request) -> str:
        return "x" if request.text == "0" or release.wait(20) else "late"

    def close(result: Result) -> None:
        dask.close()
        release.set()

    with LoopbackServer(answer) as server:
        client = Client("any", base_url=server.url)
        prompts = [str(number) for number in range(20)]
        results, error = collect(face, client, prompts, executor=dask, concurrency=4, on_result=close)
    assert results[0].text == "x"
    assert isinstance(error, APIConnectionError)
    assert error.left is not None
    assert error.left >= 15


def test_an_executor_is_a_client_of_dask_s(
    server: LoopbackServer, cluster: distributed.LocalCluster, dask: distributed.Client
) -> None:
    """That is open and for threads; anything else is refused at once, on both faces, with a remedy."""
    closed = distributed.Client(cluster)
    closed.close()
    asynchronous: list[Any] = []

    async def connect() -> None:
        async with distributed.Client(cluster.scheduler_address, asynchronous=True) as each:
            asynchronous.append(each)
            check(each, TypeError, "asynchronous")

    def check(executor: Any, kind: type[Exception], words: str) -> None:
        client = Client("any", base_url=server.url)
        for each in (client, client.as_async()):
            with pytest.raises(kind, match=words):
                each.map(["a"], executor=executor)

    with ThreadPoolExecutor(1) as pool:
        check(pool, TypeError, "not ThreadPoolExecutor: leave it out for threads")
    check("127.0.0.1:8786", TypeError, "not str")
    check(cluster, TypeError, r"not LocalCluster: Client\(cluster\) is one")
    check(closed, RuntimeError, "closed")
    asyncio.run(connect())
    assert asynchronous
    assert server.requests == []


def test_without_distributed_the_extra_is_named(
    server: LoopbackServer, dask: distributed.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the executor is."""
    monkeypatch.delitem(sys.modules, "chatanywhere._batch.dask", raising=False)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r"chatanywhere\[dask\]"):
        Client("any", base_url=server.url).map(["a"], executor=dask)
