"""Many prompts, as a program asks them: over real connections, on all faces."""

from __future__ import annotations

import gc
import itertools
import json
import logging
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import anyio
import pytest
from batch.runs import collect, echo, take_all, take_all_async
from faces import Face

from chatanywhere import (
    AsyncClient,
    AuthenticationError,
    ChatAnywhereError,
    Client,
    Limits,
    OutputError,
    Progress,
    QuotaExceededError,
    Result,
    StreamCancelledError,
    Timeout,
)
from chatanywhere.testing import Fault, LoopbackServer, Request


@pytest.fixture
def client(server: LoopbackServer) -> Client:
    return Client("any", base_url=server.url)


def texts(results: Iterable[Result]) -> list[str]:
    return [result.text for result in results]


# Prompts and results


def test_results_come_in_the_order_of_the_prompts(face: Face, client: Client) -> None:
    """However long each takes, on all faces."""
    results, error = collect(face, client, [f"prompt {number}" for number in range(50)], concurrency=8)
    assert error is None
    assert [result.index for result in results] == list(range(50))
    assert texts(results) == [f"said prompt {number}" for number in range(50)]
    assert all(result.attempts == 1 and result.seconds > 0 and not result.from_journal for result in results)


def test_results_come_as_they_are_done(face: Face) -> None:
    """With `order="done"` the slow one comes last."""

    def slow(request: Request) -> str:
        if request.text == "slow":
            assert waiting.wait(20)
        return request.text

    waiting = threading.Event()
    seen: list[str] = []

    def note(result: Result) -> None:
        seen.append(result.text)
        if len(seen) == 4:
            waiting.set()

    with LoopbackServer(slow) as server:
        client = Client("any", base_url=server.url)
        collect(face, client, ["slow", "a", "b", "c", "d"], concurrency=2, order="done", on_result=note)
    assert seen[-1] == "slow"
    assert sorted(seen) == ["a", "b", "c", "d", "slow"]


@pytest.mark.parametrize(
    ("prompt", "sent", "name"),
    [
        ("Hello", [{"role": "user", "content": "Hello"}], None),
        ([{"role": "system", "content": "Be brief"}], [{"role": "system", "content": "Be brief"}], None),
        ({"prompt": "Hello", "id": "row 7"}, [{"role": "user", "content": "Hello"}], "row 7"),
        ({"messages": [{"role": "user", "content": "a"}], "id": 7}, [{"role": "user", "content": "a"}], 7),
        ({"messages": "Hello", "temperature": 0.5}, [{"role": "user", "content": "Hello"}], None),
        (({"role": "user", "content": "tuple"},), [{"role": "user", "content": "tuple"}], None),
    ],
)
def test_a_prompt_is_a_text_or_messages_or_keywords(
    prompt: Any, sent: Any, name: Any, server: LoopbackServer, client: Client
) -> None:
    """Its id and its prompt are the result's, and its keywords go into the body, but for the id."""
    (result,) = client.map([prompt], model="some-model")
    (request,) = server.requests
    assert request.json["messages"] == sent
    assert request.json["model"] == "some-model"
    assert request.json.get("temperature") == (prompt.get("temperature") if isinstance(prompt, dict) else None)
    assert "id" not in request.json
    assert "prompt" not in request.json
    assert result.id == name
    assert result.prompt is prompt


def test_keywords_of_a_prompt_replace_those_of_the_run(server: LoopbackServer, client: Client) -> None:
    """Model, options, headers and retry alike."""
    prompts = [{"prompt": "a"}, {"prompt": "b", "model": "m2", "temperature": 0, "headers": {"X-A": "2"}, "retry": 1}]
    server.faults = []
    list(client.map(prompts, model="m1", temperature=1, headers={"X-A": "1"}))
    asked = sorted((r.text, r.json["model"], r.json["temperature"], r.headers["X-A"]) for r in server.requests)
    assert asked == [("a", "m1", 1, "1"), ("b", "m2", 0, "2")]


@pytest.mark.parametrize("status", [429, 500])
def test_a_generator_may_use_its_messages_again(status: int, server: LoopbackServer, client: Client) -> None:
    """What is asked a second time is the prompt as it was when it was read."""
    server.faults = [Fault.status(status, first=1)]
    message, tool = {"role": "user", "content": ""}, {"type": "function", "function": {"name": "f", "description": ""}}
    stop, view = ["."], MappingProxyType(message)  # which neither pickles nor copies

    def prompts() -> Iterator[Any]:
        for number in range(4):
            message["content"] = tool["function"]["description"] = str(number)  # type: ignore[index]
            stop[0] = f"stop {number}"
            yield {"messages": [view], "tools": (tool,), "stop": stop, "id": number}
        message.clear()

    assert texts(client.map(prompts(), concurrency=1)) == [f"said {number}" for number in range(4)]
    for request in server.requests:
        assert request.json["tools"][0]["function"]["description"] == request.text
        assert request.json["stop"] == [f"stop {request.text}"]


def test_a_whole_answer_may_be_asked_for(server: LoopbackServer, client: Client) -> None:
    """`stream=False` is an option of `complete`, and so of this."""
    assert texts(client.map(["a"], stream=False)) == ["said a"]
    assert not server.requests[0].json.get("stream")


class Series:
    """As of pandas: sized, iterable, with items by label and no truth of its own."""

    def __init__(self, values: list[str]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __bool__(self) -> bool:
        raise ValueError("the truth value of a Series is ambiguous")


def test_a_series_is_an_iterable(client: Client) -> None:
    """Nothing else is asked of the prompts."""
    run = client.map(Series(["a", "b"]))
    assert run.progress.waiting == 2
    assert texts(run) == ["said a", "said b"]


@pytest.mark.parametrize("missing", [float("nan"), None])
def test_a_column_of_pandas_is_one(missing: Any, client: Client) -> None:
    """Whatever its index and its kind; an empty cell is a TypeError that names it, behind what was paid."""
    pandas = pytest.importorskip("pandas")
    column = pandas.Series(["a", "b", missing, "c"], index=[7, 7, 3, 1])
    assert texts(client.map(column.dropna())) == ["said a", "said b", "said c"]
    assert texts(client.map(column.dropna().astype("string"))) == ["said a", "said b", "said c"]
    results, error = take_all(client.map(column))
    assert texts(results) == ["said a", "said b"]
    assert isinstance(error, TypeError)
    assert str(error).startswith("prompts[2]: ")


@pytest.mark.parametrize("order", ["input", "done"])
def test_prompts_are_read_no_further_than_ahead(order: Any, client: Client) -> None:
    """Of a generator without end, at most `ahead` are read and not handed out, at any time."""
    read = itertools.count(1)
    last = 0

    def prompts() -> Iterator[str]:
        nonlocal last
        for last in read:
            yield f"prompt {last}"

    with client.map(prompts(), concurrency=4, ahead=10, order=order) as run:
        for handed_out, _ in enumerate(run):
            assert last - handed_out <= 10
            if handed_out == 100:
                break
    assert last <= 111


def test_by_default_four_times_the_concurrency_are_read(face: Face, server: LoopbackServer, client: Client) -> None:
    """While the first prompt has no answer, its followers wait in order; no more than 8 are read."""
    release = threading.Event()
    read: list[int] = []

    def prompts() -> Iterator[str]:
        for number in range(40):
            read.append(number)
            if number == 8:
                raise AssertionError("read too far")
            yield f"prompt {number}"

    def slow(request: Request) -> str:
        if request.text == "prompt 0":
            assert release.wait(20)
        return "x"

    def let_go() -> None:
        deadline = time.monotonic() + 20
        while len(server.requests) < 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        seen.append(len(read))
        release.set()

    seen: list[int] = []
    with LoopbackServer(slow) as server:
        watcher = threading.Thread(target=let_go)
        watcher.start()
        collect(face, Client("any", base_url=server.url), prompts(), concurrency=2)
        watcher.join()
    assert seen == [8]


def test_ahead_may_be_any_number(client: Client) -> None:
    """As of one who wants all prompts to be read at once: it costs nothing."""
    assert texts(client.map(["a"], ahead=10**18)) == ["said a"]


def test_a_result_is_handed_out_while_the_next_prompt_is_awaited(client: Client) -> None:
    """A source that waits for the answer to its last prompt gets it."""
    answers: list[str] = []
    came = threading.Semaphore(0)

    def prompts() -> Iterator[str]:
        yield "first"
        for _ in range(3):
            assert came.acquire(timeout=20)
            yield f"after {answers[-1]}"

    for result in client.map(prompts()):
        answers.append(result.text)
        came.release()
    assert answers == ["said first", "said after said first", *answers[2:]]
    assert len(answers) == 4


class MyError(Exception):
    pass


def test_a_generator_s_own_error_comes_behind_what_was_paid(face: Face, client: Client) -> None:
    """All prompts before it have their results, and the error is the very one."""
    wrong = MyError("wrong")

    def prompts() -> Iterator[str]:
        yield from ("a", "b", "c")
        raise wrong

    results, error = collect(face, client, prompts())
    assert texts(results) == ["said a", "said b", "said c"]
    assert error is wrong


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (5, "must be a str or a list"),
        (None, "must be a str or a list"),
        (float("nan"), "must be a str or a list"),
        ([], "messages is empty"),
        ({"role": "user", "content": "x"}, "needs messages or prompt"),
        ({"messages": "a", "prompt": "a"}, "two names of the same"),
        ({"prompt": "a", "api_key": "x"}, "belongs to the client"),
        ({"prompt": "a", "temperature": object()}, "temperature"),
        ({"prompt": "a", "retry": 0}, "attempts"),
    ],
)
def test_a_prompt_that_can_t_be_sent_is_named(prompt: Any, words: str, face: Face, client: Client) -> None:
    """What was paid before it is handed out; the error has its index."""
    results, error = collect(face, client, ["a", "b", prompt, "c"])
    assert texts(results) == ["said a", "said b"]
    assert isinstance(error, (TypeError, ValueError))
    assert str(error).startswith("prompts[2]: ")
    assert words in str(error)


async def asked_one_by_one() -> AsyncIterator[str]:
    yield "a"


async def asked_in_a_loop(progress: Progress) -> None:
    pass


@pytest.mark.parametrize(
    ("prompts", "options", "words"),
    [
        ("Hello", {}, r"\[prompt\]"),
        (bytearray(b"Hello"), {}, r"\[prompt\]"),
        ({"prompt": "Hello"}, {}, r"\[prompt\]"),
        (5, {}, "iterable"),
        (asked_one_by_one(), {}, r"\[prompt async for"),
        (["a"], {"concurrency": 0}, "concurrency=0"),
        (["a"], {"concurrency": "9"}, "concurrency must be an int"),
        (["a"], {"concurrency": True}, "concurrency must be an int"),
        (["a"], {"ahead": 0}, "ahead=0"),
        (["a"], {"max_errors": 0}, "max_errors=0"),
        (["a"], {"order": "any"}, "order='any'"),
        (["a"], {"errors": "ignore"}, "errors='ignore'"),
        (["a"], {"on_quota": "go"}, "on_quota='go'"),
        (["a"], {"limits": 5}, "limits must be a Limits"),
        (["a"], {"reuse": 1}, "reuse must be"),
        (["a"], {"retry_failed": None}, "retry_failed must be"),
        (["a"], {"journal": 5}, "journal must be a path"),
        (["a"], {"journal": "a\0b"}, "is no file"),
        (["a"], {"progress": "yes"}, "progress must be True"),
        (["a"], {"prices": 5}, "prices must be a dict"),
        (["a"], {"progress": asked_in_a_loop}, "not an async one"),
        (["a"], {"prices": {"m": 5}}, "two numbers per million"),
        (["a"], {"prices": {5: (1, 2)}}, "names of models"),
        (["a"], {"prices": {"m": ("1", 2)}}, "two numbers"),
        (["a"], {"prices": {"m": (1, None)}}, "two numbers"),
        (["a"], {"prices": {"m": (float("nan"), 2)}}, "two numbers"),
        (["a"], {"prices": {"m": (-1, 2)}}, "two numbers"),
        (["a"], {"prices": {"m": (True, 2)}}, "two numbers"),
        (["a"], {"prices": {"m": (10**400, 2)}}, "two numbers"),
        (["a"], {"keep_text": False}, "keep_text"),
        (["a"], {"base_url": "x"}, "belongs to the client"),
        (["a"], {"messages": "x"}, "each prompt has its own"),
        (["a"], {"temperature": object()}, "temperature"),
        (["a"], {"timeout": -1}, "Timeout"),
    ],
)
def test_wrong_arguments_are_refused_at_once(
    prompts: Any, options: Any, words: str, server: LoopbackServer, client: Client
) -> None:
    """By `map` itself, on both faces; nothing is read or sent."""
    for each in (client, client.as_async()):
        with pytest.raises((TypeError, ValueError), match=words):
            each.map(prompts, **options)
    assert server.requests == []


class NobodyKnows:
    """As a data set of PyTorch's, which has a length in principle."""

    def __len__(self) -> int:
        raise TypeError("has no length")

    def __iter__(self) -> Iterator[str]:
        return iter(["a", "b"])


def test_prompts_need_not_know_how_many_they_are(client: Client) -> None:
    """As with a generator."""
    run = client.map(NobodyKnows())
    assert texts(run) == ["said a", "said b"]
    assert run.progress.waiting == 0


def test_a_length_that_breaks_holds_no_journal(client: Client, tmp_path: Path) -> None:
    """Its error is the caller's own, and the next run has the journal."""

    class Broken(NobodyKnows):
        def __len__(self) -> int:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        client.map(Broken(), journal=tmp_path / "j")
    assert texts(client.map(["a"], journal=tmp_path / "j")) == ["said a"]


def test_a_warning_names_the_line_that_asks(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the program, for both clients."""
    monkeypatch.setattr("chatanywhere._batch.journal.is_on_network", lambda path: True)
    for each in (client, client.as_async()):
        with pytest.warns(UserWarning, match="network file system") as warned:
            run = each.map(["a"], journal=tmp_path / "j")
        assert warned[0].filename == __file__
        del run


def test_a_run_that_nobody_iterates_does_nothing(server: LoopbackServer, client: Client) -> None:
    """No prompt is read and no thread is made before it is entered or iterated."""
    read: list[int] = []
    before = threading.active_count()
    run = client.map(read.append(number) or "x" for number in range(5))  # type: ignore[func-returns-value]
    assert read == []
    assert threading.active_count() == before
    run.close()
    assert list(run) == []


@dataclass
class Label:
    mood: str


def test_answers_are_instances_of_a_type(face: Face, tmp_path: Path) -> None:
    """`parsed` is one, also from the journal; an answer that is none is a result with its error."""

    def label(request: Request) -> str:
        return "no" if request.text == "2" else json.dumps({"mood": f"mood {request.text}"})

    with LoopbackServer(label) as server:
        client = Client("any", base_url=server.url)
        for again in (False, True):
            results, error = collect(
                face,
                client,
                ["0", "1", "2"],
                response_format=Label,
                journal=tmp_path / "run.sqlite",
                retry_failed=False,
            )
            assert error is None
            assert [result.from_journal for result in results] == [again] * 3
            parsed = [result.completion.parsed for result in results if result.completion is not None]
            assert parsed == [Label("mood 0"), Label("mood 1")]
            assert isinstance(results[2].error, OutputError)
            assert results[2].error.partial == "no"
            with pytest.raises(OutputError):
                _ = results[2].text
        assert len(server.requests) == 3


# Failures


def test_a_failed_prompt_is_a_result(face: Face, server: LoopbackServer, client: Client) -> None:
    """The others have their answers, and it is counted how often it was tried."""
    server.faults = [Fault.status(500, first=3)]
    results, error = collect(face, client, ["a", "b", "c"], concurrency=1, retry=2)
    assert error is None
    assert [result.attempts for result in results] == [2, 2, 1]
    assert [result.error is None for result in results] == [False, True, True]
    assert results[0].error is not None
    assert results[0].error.__traceback__ is None


def test_too_many_requests_are_waited_out(face: Face, server: LoopbackServer, client: Client) -> None:
    """429 and 503 are no failures and no attempts."""
    server.faults = [Fault.status(429, first=5), Fault.status(503, first=5)]
    results, error = collect(face, client, [str(number) for number in range(30)], retry=1)
    assert error is None
    assert {result.attempts for result in results} == {1}
    assert all(result.error is None for result in results)


def test_the_quota_of_the_day_stops_the_run(face: Face, tmp_path: Path) -> None:
    """All that was paid is handed out, in order and past the gap, and the next run goes on."""
    allowed = [30]

    def reply(request: Request) -> Any:
        allowed[0] -= 1
        return "x" if allowed[0] >= 0 else Fault.status(429, "limited to 200 requests per day")

    prompts = [f"prompt {number}" for number in range(100)]
    with LoopbackServer(reply) as server:
        client = Client("any", base_url=server.url)
        results, error = collect(face, client, prompts, journal=tmp_path / "j", concurrency=8)
        assert isinstance(error, QuotaExceededError)
        assert len(results) == 30
        assert [result.index for result in results] == sorted(result.index for result in results)
        assert error.left == 70
        assert error.resume_at is not None
        assert 0 < error.resume_at.timestamp() - time.time() <= 86400
        assert len(server.requests) <= 30 + 8
        allowed[0] = 1000
        sent = len(server.requests)
        results, error = collect(face, client, prompts, journal=tmp_path / "j", concurrency=8)
        assert error is None
        assert len(results) == 100
        assert [result.from_journal for result in results].count(True) == 30
        assert len(server.requests) - sent == 70


def test_a_wrong_key_stops_the_run(face: Face, server: LoopbackServer, client: Client) -> None:
    """Whatever `errors` says, nothing is gained by asking on."""
    server.faults = [Fault.status(401, "wrong api key")]
    results, error = collect(face, client, [str(number) for number in range(100)], concurrency=4)
    assert results == []
    assert isinstance(error, AuthenticationError)
    assert error.left == 100
    assert error.resume_at is None
    assert len(server.requests) <= 4


def test_errors_raise_ends_the_run_at_the_first(face: Face, client: Client, server: LoopbackServer) -> None:
    """With that prompt's error, behind the answers that were on their way."""
    server.faults = [Fault.status(400, first=1)]
    results, error = collect(face, client, [str(number) for number in range(50)], concurrency=2, errors="raise")
    assert type(error).__name__ == "BadRequestError"
    assert all(result.error is None for result in results)
    assert len(server.requests) <= 4


def test_a_validator_that_breaks_is_one_prompt_s_failure(client: Client, server: LoopbackServer) -> None:
    """The others go on."""
    from typing import Annotated

    import pydantic

    def check(value: int) -> int:
        return {1: 1}[value]

    server_answers = iter(['{"value": 1}', '{"value": 2}'])
    with LoopbackServer(lambda request: next(server_answers)) as server:
        run = Client("any", base_url=server.url).map(
            ["a", "b"], concurrency=1, response_format=Annotated[int, pydantic.AfterValidator(check)]
        )
        first, second = run
    assert first.completion is not None
    assert first.completion.parsed == 1
    assert isinstance(second.error, KeyError)


def test_whatever_breaks_nobody_waits_for_ever(tmp_path: Path) -> None:
    """An error that has no words can't be kept; it ends the run, also where others of its kind come with it."""
    from typing import Annotated

    import pydantic

    class Wordless(Exception):
        def __str__(self) -> str:
            deadline = time.monotonic() + 20
            while len(raised) < 4 or (run._runner._mailbox.qsize() < 3 and len(said) < 1):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            said.append(True)
            raise KeyError("no words")

    def check(value: int) -> int:
        raised.append(True)
        raise Wordless

    raised: list[bool] = []
    said: list[bool] = []
    kind = Annotated[int, pydantic.AfterValidator(check)]
    with LoopbackServer(lambda request: '{"value": 1}') as server:
        run = Client("any", base_url=server.url).map(list("abcd"), response_format=kind, journal=tmp_path / "j")
        assert take_all(run)[0] == []


def test_a_system_without_more_threads_ends_the_run(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to do; a run that needs no more than there are goes well."""
    real, made = threading.Thread.start, list[str]()

    def start(thread: threading.Thread) -> None:
        if thread.name == "chatanywhere call":
            made.append(thread.name)
            if len(made) > 3:
                raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    assert len(list(client.map(["x"] * 9, concurrency=3))) == 9
    made.clear()
    with pytest.raises(RuntimeError, match=r"no more than 3 threads .*: lower concurrency="):
        list(client.map(["x"] * 9, concurrency=9))


def test_an_answer_of_the_journal_that_fits_no_more_is_asked_for_again(tmp_path: Path) -> None:
    """As one that has failed; but a validator that breaks costs nothing, and when it is mended, the answer is there."""
    from typing import Annotated

    import pydantic

    raised: list[Exception] = []

    def check(value: int) -> int:
        for error in raised:
            raise error
        return value

    kind = Annotated[int, pydantic.AfterValidator(check)]
    with LoopbackServer(lambda request: '{"value": 1}') as server:

        def ask(**options: Any) -> Result:
            client = Client("any", base_url=server.url)
            (result,) = client.map(["a"], response_format=kind, journal=tmp_path / "j", **options)
            return result

        ask()
        raised[:] = [KeyError("mine")]
        broken = ask()
        assert isinstance(broken.error, KeyError)
        assert broken.from_journal
        raised[:] = [ValueError("another one")]
        assert isinstance(ask(retry_failed=False).error, OutputError)
        raised.clear()
        assert ask().from_journal
        assert len(server.requests) == 1
        raised[:] = [ValueError("another one")]
        again = ask()
        assert isinstance(again.error, OutputError)
        assert not again.from_journal
        assert len(server.requests) == 2


def test_threads_of_a_run_know_the_context_that_it_was_begun_in(client: Client) -> None:
    """Context variables are those of whoever iterates first, for what traces calls, and for the prompts."""
    import contextvars

    place = contextvars.ContextVar("place", default="nowhere")
    place.set("here")
    assert texts(client.map(place.get() for _ in range(2))) == ["said here"] * 2


# The journal


def test_a_run_that_is_made_again_asks_nothing(
    face: Face, server: LoopbackServer, client: Client, tmp_path: Path
) -> None:
    """Not with another key, timeout, or order; results are the same, with their attempts and seconds."""
    journal = tmp_path / "run.sqlite"
    prompts: list[Any] = ["a", "b", [{"role": "user", "content": "c"}], {"prompt": "d", "temperature": 1}]
    first, _ = collect(face, client, prompts, journal=journal)
    other = Client("other", base_url=server.url, timeout=5)
    again, _ = collect(face, other, prompts[::-1], journal=journal, timeout=Timeout(total=9), retry=1)
    assert len(server.requests) == 4
    assert [result.from_journal for result in again] == [True] * 4
    assert [(r.text, r.attempts, r.seconds) for r in again[::-1]] == [(r.text, r.attempts, r.seconds) for r in first]
    assert [result.completion for result in again[::-1]] == [result.completion for result in first]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.5},
        {"model": "other"},
        {"model": ["gpt-4o-mini", "other"]},
        {"response_format": {"type": "json_object"}},
    ],
)
def test_what_changes_the_answer_is_asked_anew(
    options: Any, server: LoopbackServer, client: Client, tmp_path: Path
) -> None:
    """Another temperature, model or format makes it another prompt; the first one's row stays."""
    journal = tmp_path / "run.sqlite"
    list(client.map(["a json"], journal=journal))
    list(client.map(["a json"], journal=journal, **options))
    list(client.map(["a json"], journal=journal))
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "options", [{"temperature": None}, {"stream": False}, {"stream_options": None}, {"seed": 5.0, "top_p": 1}]
)
def test_what_changes_nothing_is_not_asked_anew(
    options: Any, server: LoopbackServer, client: Client, tmp_path: Path
) -> None:
    """None is left out, 1.0 is 1, and how the answer travels is no part of the prompt."""
    journal = tmp_path / "run.sqlite"
    numbers = {"seed": 5, "top_p": 1.0}
    list(client.map(["a"], journal=journal, **numbers))
    list(client.map([[{"role": "user", "content": "a"}]], journal=journal, **{**numbers, **options}))
    assert len(server.requests) == 1


def test_a_prompt_belongs_to_its_service(server: LoopbackServer, client: Client, tmp_path: Path) -> None:
    """Another server is asked; the query of the base URL says nothing."""
    journal = tmp_path / "run.sqlite"
    list(client.map(["a"], journal=journal))
    list(Client("k", base_url=f"{server.url}/v1?version=2").map(["a"], journal=journal))
    assert len(server.requests) == 1
    with LoopbackServer() as other:
        list(Client("k", base_url=other.url).map(["a"], journal=journal))
        assert len(other.requests) == 1


def test_the_web_protocol_has_a_journal_too(tmp_path: Path) -> None:
    """Though each of its requests has a name of its own."""
    with LoopbackServer(echo) as server:
        client = Client(base_url=server.url, protocol="web")
        for again in (False, True):
            (result,) = client.map(["a"], journal=tmp_path / "j")
            assert (result.text, result.from_journal) == ("said a", again)
        assert len(server.requests) == 1


def test_the_live_hosts_are_one(tmp_path: Path) -> None:
    """What one of them has answered, no other is asked."""
    from chatanywhere._batch.asker import Asker

    keys = {
        Asker(Client("k", base_url=url)._service, {}).task(0, "a", keyed=True).key
        for url in (None, "https://api.chatanywhere.tech", ["https://api.chatanywhere.org/v1"])
    }
    assert len(keys) == 1


def test_equal_prompts_are_counted(server: LoopbackServer, client: Client, tmp_path: Path) -> None:
    """Each has an answer of its own, and is asked once over all runs."""
    journal = tmp_path / "run.sqlite"
    list(client.map(["a", "b", "a"], journal=journal))
    assert len(server.requests) == 3
    list(client.map(["a", "a", "a"], journal=journal))
    assert len(server.requests) == 4


@pytest.mark.parametrize("with_journal", [True, False])
def test_reuse_shares_one_answer(
    with_journal: bool, face: Face, server: LoopbackServer, client: Client, tmp_path: Path
) -> None:
    """Also of prompts that come while it is asked for; each result has its own index, id and prompt."""
    journal = tmp_path / "run.sqlite" if with_journal else None
    prompts = [{"prompt": f"{number % 3}", "id": number} for number in range(30)]
    results, _ = collect(face, client, prompts, journal=journal, reuse=True)
    assert len(server.requests) == 3
    assert texts(results) == [f"said {number % 3}" for number in range(30)]
    assert [result.id for result in results] == list(range(30))
    if with_journal:
        results, _ = collect(face, client, prompts, journal=journal, reuse=True)
        assert len(server.requests) == 3
        assert len(results) == 30


def test_an_answer_that_is_shared_is_this_run_s(tmp_path: Path) -> None:
    """Equal prompts that come while it is asked, and after it, are neither the journal's nor in doubt."""
    release = threading.Event()

    def reply(request: Request) -> Any:
        if request.text == "a":
            assert release.wait(20)
        return "x"

    def prompts() -> Iterator[str]:
        yield from "zaaa"
        release.set()
        while run.progress.done < 4:
            time.sleep(0.01)
        yield from "aaz"

    with LoopbackServer(reply) as server:
        client = Client("any", base_url=server.url)
        list(client.map(["z"], journal=tmp_path / "j"))
        run = client.map(prompts(), journal=tmp_path / "j", reuse=True)
        assert [result.from_journal for result in run] == [True, *[False] * 5, True]
        assert run.progress.in_doubt == 0
        assert len(server.requests) == 2


def test_a_failure_is_not_shared_for_ever(server: LoopbackServer, client: Client) -> None:
    """Those that waited for it have failed as well, and the next equal prompt is asked."""
    server.faults = [Fault.status(400, first=1)]
    results = list(client.map(["a"] * 3 + ["b"] * 5 + ["a"], reuse=True, concurrency=1, ahead=3))
    assert [result.error is None for result in results] == [False] * 3 + [True] * 6


def test_failed_prompts_are_asked_again(server: LoopbackServer, client: Client, tmp_path: Path) -> None:
    """Unless they are not to be: then they have the error that is recorded."""
    journal = tmp_path / "run.sqlite"
    server.faults = [Fault.status(400, "too bad", first=1)]
    list(client.map(["a"], journal=journal))
    (result,) = client.map(["a"], journal=journal, retry_failed=False)
    assert result.from_journal
    assert "too bad" in str(result.error)
    assert len(server.requests) == 1
    (result,) = client.map(["a"], journal=journal)
    assert result.text == "said a"
    assert len(server.requests) == 2


def test_requests_of_the_day_are_counted_over_runs(
    face: Face, server: LoopbackServer, client: Client, tmp_path: Path
) -> None:
    """Also of prompts that are asked again, whose row is another one then."""
    options: dict[str, Any] = {"journal": tmp_path / "j", "limits": Limits(requests_per_day=5), "concurrency": 2}
    server.faults = [Fault.status(400, first=2)]
    results, error = collect(face, client, ["a", "b"], **options)
    assert error is None
    results, error = collect(face, client, ["a", "b", "c", "d"], **options)
    assert len(server.requests) == 5
    assert isinstance(error, QuotaExceededError)
    assert error.left == 1
    assert len(results) == 3


@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute", "tokens_per_day"])
def test_other_limits_hold_over_runs_too(name: str, server: LoopbackServer, client: Client, tmp_path: Path) -> None:
    """A run that begins with nothing left sends nothing before there is something again."""
    first = list(client.map(["a", "b", "c"], journal=tmp_path / "j"))
    usages = [result.completion.usage for result in first if result.completion is not None]
    tokens = sum(usage.total_tokens for usage in usages if usage is not None)
    limits = Limits(**{name: 3 if name == "requests_per_minute" else tokens})
    if name == "tokens_per_day":
        with pytest.raises(QuotaExceededError, match="tokens_per_day"):
            list(client.map(["d"], journal=tmp_path / "j", limits=limits))
    else:
        with client.map(iter(["a", "d"]), journal=tmp_path / "j", limits=limits) as run:
            assert next(run).from_journal
            deadline = time.monotonic() + 20
            while not (wait := run._runner._engine.wait()) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert 50 < (wait or 0) <= 60
    assert len(server.requests) == 3


def test_a_resume_says_what_may_be_billed_twice(
    server: LoopbackServer, client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Prompts that were on their way when the run was cancelled are counted when they are asked again."""
    release = threading.Event()

    def slow(request: Request) -> str:
        if request.text != "0":
            release.wait(20)
        return "x"

    with LoopbackServer(slow) as server:
        client = Client("any", base_url=server.url)
        run = client.map([str(number) for number in range(10)], journal=tmp_path / "j", concurrency=3, order="done")
        assert next(run).index == 0
        while len(server.requests) < 4:
            time.sleep(0.01)
        run.close()
        release.set()
        caplog.clear()
        with caplog.at_level(logging.WARNING, "chatanywhere"):
            again = client.map([str(number) for number in range(10)], journal=tmp_path / "j")
        assert "on their way when an earlier run ended: 3;" in caplog.text
        assert len(list(again)) == 10
        assert again.progress.in_doubt == 3
        assert len(server.requests) == 13


def test_a_journal_has_no_key(tmp_path: Path) -> None:
    """Not even where the service repeats it in its errors."""
    key = "sk-secret-0123456789"
    with LoopbackServer(faults=[Fault.status(400, f"bad request of {key}")]) as server:
        client = Client(key, base_url=server.url)
        list(client.map(["a"], journal=tmp_path / "j", headers={"X-Token": "tok-secret-9876543210"}))
        (again,) = client.map(["a"], journal=tmp_path / "j", retry_failed=False)
    assert again.from_journal
    assert "bad request of ***" in str(again.error)
    content = (tmp_path / "j").read_bytes()
    assert b"bad request" in content
    assert b"secret" not in content


# Ending


def silent_server() -> LoopbackServer:
    """One that begins no answer for a long time, but for prompts that say "fast"."""
    return LoopbackServer(faults=[Fault.latency(30.0, at="head")])


@pytest.mark.parametrize("begun", [True, False], ids=["within the answer", "before the head"])
def test_cancel_ends_the_run_at_once(begun: bool, face: Face) -> None:
    """Running calls are cancelled wherever they are; who iterates gets what there is, and then the error."""
    fault = Fault.latency(30.0, after=200) if begun else Fault.latency(30.0, at="head")
    with LoopbackServer(lambda request: "quick" if request.text == "0" else fault) as server:
        client = Client("any", base_url=server.url)
        run: Any = client.map([str(number) for number in range(20)], concurrency=4)
        if face.name != "sync":
            run = client.as_async().map([str(number) for number in range(20)], concurrency=4)
        began: list[float] = []

        def stop(_: Result) -> None:
            deadline = time.monotonic() + 20
            while len(server.requests) < 5 and time.monotonic() < deadline:
                time.sleep(0.01)
            began.append(time.monotonic())
            run.cancel()

        if face.name == "sync":
            results, error = take_all(run, stop)
        else:
            results, error = anyio.run(take_all_async, run, stop, backend=face.name)
    assert time.monotonic() - began[0] < 2
    assert [result.index for result in results] == [0]
    assert isinstance(error, StreamCancelledError)
    assert error.left == 19


def test_leaving_the_block_ends_the_run(face: Face, tmp_path: Path) -> None:
    """Calls are cancelled, the journal is free, and nothing more is read."""
    with silent_server() as server:
        server.faults = [Fault.latency(0.0, at="head", first=1), Fault.latency(30.0, at="head")]
        server.faults = []
        client = Client("any", base_url=server.url)
        prompts = [str(number) for number in range(20)]

        async def leave() -> None:
            async with client.as_async().map(prompts, journal=tmp_path / "j", concurrency=2) as run:
                async for _ in run:
                    server.faults = [Fault.latency(30.0, at="head")]
                    break

        began = time.monotonic()
        if face.name == "sync":
            with client.map(prompts, journal=tmp_path / "j", concurrency=2) as run:
                for _ in run:
                    server.faults = [Fault.latency(30.0, at="head")]
                    break
        else:
            anyio.run(leave, backend=face.name)
        assert time.monotonic() - began < 3
        client.map(prompts, journal=tmp_path / "j").close()


def test_forgetting_a_run_ends_it(tmp_path: Path) -> None:
    """A loop that is left by `break` leaves no thread and no lock."""
    with LoopbackServer(echo) as server:
        client = Client("any", base_url=server.url)
        for _ in client.map((str(number) for number in itertools.count()), journal=tmp_path / "j"):
            break
        gc.collect()
        client.map(["a"], journal=tmp_path / "j").close()
        deadline = time.monotonic() + 10
        while any(each.name.startswith("chatanywhere") for each in threading.enumerate()):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_cancelling_the_task_that_waits_ends_the_run(tmp_path: Path) -> None:
    """Its calls are cancelled and its journal is free, on both event loops."""
    for backend in ("asyncio", "trio"):
        with silent_server() as server:
            client = AsyncClient("any", base_url=server.url)

            async def wait(client: AsyncClient = client) -> None:
                with anyio.move_on_after(0.3):
                    async for _ in client.map(["a", "b", "c"], journal=tmp_path / "j", concurrency=2):
                        raise AssertionError
                client.map(["a"], journal=tmp_path / "j")._close_runner()

            began = time.monotonic()
            anyio.run(wait, backend=backend)
            assert time.monotonic() - began < 2
            assert len(server.requests) == 2


def test_a_run_has_one_reader(client: Client) -> None:
    """A second one is told so, and the first goes on."""
    entered, leave = threading.Event(), threading.Event()

    def progress(_: Progress) -> None:
        entered.set()
        assert leave.wait(20)

    run = client.map(["a", "b"], progress=progress)
    results: list[Result] = []
    thread = threading.Thread(target=lambda: results.extend(run))
    thread.start()
    assert entered.wait(20)
    with pytest.raises(RuntimeError, match="another thread is reading"):
        next(run)
    leave.set()
    thread.join()
    assert texts(results) == ["said a", "said b"]


def test_an_async_run_has_one_reader(client: Client) -> None:
    """The same for tasks."""

    async def read() -> None:
        run = client.as_async().map([str(number) for number in range(5)])
        refused: list[str] = []
        results: list[Result] = []

        async def work() -> None:
            try:
                async for result in run:
                    results.append(result)
            except RuntimeError as error:
                refused.append(str(error))

        async with anyio.create_task_group() as group:
            group.start_soon(work)
            group.start_soon(work)
        assert refused == ["another task is reading this run"]
        assert len(results) == 5

    anyio.run(read)


def test_an_event_loop_has_its_turn_while_a_journal_is_read(client: Client, tmp_path: Path) -> None:
    """Results that are there at once do not keep the loop from its other tasks."""
    prompts = [str(number) for number in range(50)]
    list(client.map(prompts, journal=tmp_path / "j"))

    async def read() -> None:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await anyio.sleep(0)

        async with anyio.create_task_group() as group:
            group.start_soon(count)
            async for result in client.as_async().map(prompts, journal=tmp_path / "j"):
                assert result.from_journal
            group.cancel_scope.cancel()
        assert turns >= 50

    anyio.run(read)


# Time


def test_the_time_of_a_call_begins_with_its_turn(face: Face) -> None:
    """Prompts that wait longer for a thread than their timeout allows are answered all the same."""
    with LoopbackServer(echo, faults=[Fault.latency(0.3, at="head")]) as server:
        client = Client("any", base_url=server.url)
        results, error = collect(face, client, [str(number) for number in range(12)], concurrency=2, timeout=1.5)
    assert error is None
    assert all(result.error is None for result in results)


def test_requests_keep_their_pace(face: Face, server: LoopbackServer, client: Client) -> None:
    """20 a second: 31 prompts take more than a second."""
    began = time.monotonic()
    results, _ = collect(
        face, client, [str(number) for number in range(31)], limits=Limits(requests_per_second=20), concurrency=31
    )
    assert len(results) == 31
    assert 1.0 <= time.monotonic() - began < 3


# Progress


def test_progress_is_told_at_each_step(face: Face, client: Client, server: LoopbackServer) -> None:
    """By the one who iterates; the last one has it all, with what it cost."""
    seen: list[Progress] = []
    threads: set[int] = set()

    def tell(progress: Progress) -> None:
        seen.append(progress)
        threads.add(threading.get_ident())

    server.faults = [Fault.status(400, first=1)]
    results, _ = collect(
        face, client, [f"a b {number}" for number in range(10)], progress=tell, prices={"gpt-4o-mini": (1e6, 2e6)}
    )
    assert threads == {threading.get_ident()}
    last = seen[-1]
    assert (last.done, last.failed, last.waiting) == (9, 1, 0)
    usages = [result.completion.usage for result in results if result.completion is not None]
    paid = [usage for usage in usages if usage is not None]
    assert last.tokens == sum(usage.total_tokens for usage in paid)
    assert last.cost == pytest.approx(sum(u.prompt_tokens + 2 * u.completion_tokens for u in paid))
    assert last.seconds_left == 0
    assert all(a.done <= b.done for a, b in itertools.pairwise(seen))
    with pytest.raises(AttributeError):
        last.done = 5  # type: ignore[misc]


def test_the_model_that_answers_has_the_price(tmp_path: Path) -> None:
    """Where one of several is asked; and an answer that is no instance of the type is paid for, too."""

    def reply(request: Request) -> Any:
        return "no number" if request.json["model"] == "b" else Fault.status(404, "no such model")

    with LoopbackServer(reply) as server:
        run = Client("any", base_url=server.url).map(
            ["x", {"prompt": "y", "response_format": int}],
            model=["a", "b"],
            prices={"a": (1e6, 1e6), "b": (1e9, 1e9)},
            journal=tmp_path / "j",
        )
        answered, failed = run
    assert answered.error is None
    assert isinstance(failed.error, OutputError)
    assert run.progress.cost == 1000 * run.progress.tokens > 0


def test_progress_is_there_at_any_time(client: Client) -> None:
    """Before, within and after the run; what the journal had is no cost."""
    run = client.map(["a", "b", "c"], prices={})
    assert run.progress == Progress(0, 0, 3, 0, 0, 0, None, 0.0)
    next(run)
    assert run.progress.done >= 1
    assert "waiting" in repr(run)
    list(run)
    assert (run.progress.done, run.progress.waiting) == (3, 0)


def test_what_progress_raises_ends_the_run(face: Face, client: Client) -> None:
    """It is the caller's own function."""
    wrong = MyError("wrong")

    def tell(_: Progress) -> None:
        raise wrong

    assert collect(face, client, ["a"], progress=tell) == ([], wrong)


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration])
def test_progress_can_t_feign_the_end(kind: type[Exception], face: Face, client: Client) -> None:
    """What iterators end with is an error there, as in a generator."""

    def tell(_: Progress) -> None:
        raise kind

    _, error = collect(face, client, ["a"], progress=tell)
    assert isinstance(error, RuntimeError)
    assert str(error) == f"progress= raised {kind.__name__}"


def test_a_bar_is_drawn(client: Client, capfd: pytest.CaptureFixture[str]) -> None:
    """With tqdm, on stderr."""
    list(client.map([str(number) for number in range(7)], progress=True))
    assert "7/7" in capfd.readouterr().err


def test_a_bar_needs_tqdm(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match=r"chatanywhere\[batch\]"):
        client.map(["a"], progress=True)


def test_an_error_of_a_run_says_what_is_left_also_where_it_is_pickled(client: Client) -> None:
    """Its attributes go with it; other errors have None."""
    import pickle

    assert ChatAnywhereError("x").left is None
    error = ChatAnywhereError("x")
    error.left = 5
    assert pickle.loads(pickle.dumps(error)).left == 5
