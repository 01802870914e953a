"""Functions as tools: what the model is told of them, how its calls are run, and how a run ends."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import datetime
import enum
import functools
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import anyio
import pydantic
import pytest
from faces import Face
from raw_server import sockets_to

from chatanywhere import (
    APIStatusError,
    APITimeoutError,
    AsyncClient,
    ChatAnywhereError,
    Client,
    Completion,
    Finished,
    OutputError,
    TextDelta,
    Timeout,
    ToolCall,
    ToolCallDelta,
    ToolFinished,
    ToolRun,
    ToolStarted,
)
from chatanywhere.testing import Fault, LoopbackServer, Reply

LONG = 60.0  # seconds; what a test would wait for if it had to


def run(face: Face, client: Client, tools: Any, messages: Any = "Hello", **options: Any) -> ToolRun[Any]:
    """Call `run_tools` by this face."""
    if face.name == "sync":
        return client.run_tools(messages, tools, **options)
    found: list[ToolRun[Any]] = []

    async def main() -> None:
        found.append(await client.as_async().run_tools(messages, tools, **options))

    anyio.run(main, backend=face.name)
    return found[0]


def collect(face: Face, client: Client, tools: Any, found: list[Any], **options: Any) -> ToolRun[Any]:
    """Call `stream_tools` by this face, put the events into `found`, and return the run."""
    if face.name == "sync":
        with client.stream_tools("Hello", tools, **options) as stream:
            found.extend(stream)
            return stream.run
    runs: list[ToolRun[Any]] = []

    async def main() -> None:
        async with client.as_async().stream_tools("Hello", tools, **options) as stream:
            async for event in stream:
                found.append(event)
            runs.append(stream.run)

    anyio.run(main, backend=face.name)
    return runs[0]


@contextlib.contextmanager
def serving(*replies: Any) -> Iterator[tuple[LoopbackServer, Client]]:
    """A server that says this, and a client of it."""
    with LoopbackServer(list(replies)) as server, Client("k", base_url=server.url) as client:
        yield server, client


def calling(*calls: tuple[str, Any], text: str = "") -> Reply:
    return Reply(text, tool_calls=calls)


def told(server: LoopbackServer, request: int = -1) -> list[Any]:
    """What the model was told of its calls in a request."""
    return [message["content"] for message in server.requests[request].messages if message["role"] == "tool"]


def weather(city: str, days: int = 1) -> str:
    """Tell the weather.

    Args:
        city: where
        days: how many
    """
    return f"{city} sunny for {days}"


def test_a_run_asks_until_no_function_is_called(face: Face) -> None:
    """The model is told what the functions returned, in the order of its calls; the answer is the last one."""
    first = calling(("weather", {"city": "Rome"}), ("weather", '{"city": "北京", "days": "3"}'), text="Let me see.")
    with serving(first, calling(("weather", {"city": "Oslo"})), "It is sunny.") as (server, client):
        done = run(face, client, [weather], temperature=0.5)
    assert (done.text, str(done), done.completion.finish_reason) == ("It is sunny.", "It is sunny.", "stop")
    assert len(server.requests) == 3
    user, said, *results = server.requests[1].messages
    assert user == {"role": "user", "content": "Hello"}
    assert (said["role"], said["content"]) == ("assistant", "Let me see.")
    ids = [call["id"] for call in said["tool_calls"]]
    assert results == [
        {"role": "tool", "tool_call_id": ids[0], "content": "Rome sunny for 1"},
        {"role": "tool", "tool_call_id": ids[1], "content": "北京 sunny for 3"},
    ]
    assert done.messages == [*server.requests[2].messages, {"role": "assistant", "content": "It is sunny."}]
    for request in server.requests:
        assert request.json["temperature"] == 0.5
        assert [tool["function"]["name"] for tool in request.json["tools"]] == ["weather"]
        assert "response_format" not in request.json


def test_what_the_service_wants_back_goes_back(face: Face) -> None:
    """The answer that calls is sent again with all its fields, and with the thoughts that led to it."""
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    reply = Reply(reasoning="Rome, then.", tool_calls=[{**call, "extra_content": {"signature": "s"}}])
    with serving(reply, "Done.") as (server, client):
        run(face, client, [weather])
    said = server.requests[1].messages[1]
    assert said["reasoning_content"] == "Rome, then."
    assert said["tool_calls"] == [{**call, "extra_content": {"signature": "s"}}]


def test_a_run_without_calls_is_one_request(face: Face) -> None:
    """What the model answers at once is the run's answer."""
    with serving("Hi.") as (server, client):
        done = run(face, client, [weather], [{"role": "system", "content": "Be short."}, Completion("Yes?")])
    assert len(server.requests) == 1
    assert [message["content"] for message in done.messages] == ["Be short.", "Yes?", "Hi."]


def test_a_run_can_be_gone_on_with(face: Face) -> None:
    """Its messages are the beginning of the next one."""
    with serving(calling(("weather", {"city": "Rome"})), "Sunny.", "Still sunny.") as (server, client):
        done = run(face, client, [weather])
        run(face, client, [weather], [*done.messages, {"role": "user", "content": "And now?"}])
    roles = [message["role"] for message in server.requests[-1].messages]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]


def test_the_last_answer_can_be_an_instance(face: Face) -> None:
    """With a type as response_format, the answer that calls nothing is read as one, and has to fit."""
    with serving(calling(("weather", {"city": "Rome"})), '{"value": [1, 2]}', "No.") as (server, client):
        assert run(face, client, [weather], response_format=list[int]).completion.parsed == [1, 2]
        assert {request.json["response_format"]["type"] for request in server.requests} == {"json_schema"}
        with pytest.raises(OutputError) as caught:
            run(face, client, [weather], response_format=list[int])
    assert (caught.value.reason, caught.value.partial) == ("invalid", "No.")


# What the model is told of a function


class Unit(enum.Enum):
    KELVIN = "K"
    CELSIUS = "C"


@dataclass
class Place:
    name: str


GOOGLE = """Tell the weather,
    whatever it is.

    It may be wrong.

    Args:
        city (str): Where, such
            as Rome: a city.
        days: How many.
        **more: Further ones.

    Returns:
        days: not this.
    """
NUMPY = """Tell the weather,
    whatever it is.

    It may be wrong.

    Parameters
    ----------
    city : str
        Where, such
        as Rome: a city.
    days
        How many.

    Returns
    -------
    days : int
        not this.
    """
SPHINX = """Tell the weather,
    whatever it is.

    It may be wrong.

    :param str city: Where, such
        as Rome: a city.
    :param days: How many.
    :returns: days: not this.
    """


def forms_of(docstring: str) -> list[Callable[..., Any]]:
    """One function with this docstring, in all the ways in which it can be written."""

    def plain(city: str, days: int = 1, *, unit: Literal["K", "C"] = "C", **more: int) -> None: ...

    async def coroutine(city: str, days: int = 1, *, unit: Literal["K", "C"] = "C", **more: int) -> None: ...

    class Station:
        def method(self, city: str, days: int = 1, *, unit: Literal["K", "C"] = "C", **more: int) -> None: ...

        @staticmethod
        def static(city: str, days: int = 1, *, unit: Literal["K", "C"] = "C", **more: int) -> None: ...

        @classmethod
        def of_class(cls, city: str, days: int = 1, *, unit: Literal["K", "C"] = "C", **more: int) -> None: ...

    for function in (plain, coroutine, Station.method, Station.static, vars(Station)["of_class"].__func__):
        function.__doc__ = docstring

    @functools.wraps(plain)
    def decorated(*args: Any, **kwargs: Any) -> Any: ...

    return [plain, coroutine, Station().method, Station.static, Station.of_class, decorated]


def definition(face: Face, function: Callable[..., Any]) -> dict[str, Any]:
    """What the service is told of a function."""
    with serving("Hi.") as (server, client):
        run(face, client, [function])
    (tool,) = server.requests[0].json["tools"]
    assert tool.keys() == {"type", "function"}
    assert tool["type"] == "function"
    found: dict[str, Any] = tool["function"]
    return found


@pytest.mark.parametrize("function", [form for docstring in (GOOGLE, NUMPY, SPHINX) for form in forms_of(docstring)])
def test_a_function_is_told_by_its_signature_and_docstring(function: Callable[..., Any]) -> None:
    """Name, description, types and defaults, and what each argument is, in the three usual styles of docstrings."""
    found = definition(Face("asyncio"), function)
    assert found["name"] == function.__name__
    assert found["description"] == "Tell the weather,\nwhatever it is.\n\nIt may be wrong."
    parameters = found["parameters"]
    assert parameters["required"] == ["city"]
    fields = parameters["properties"]
    assert {name: field.get("description") for name, field in fields.items()} == {
        "city": "Where, such as Rome: a city.",
        "days": "How many.",
        "unit": None,
    }
    assert [field["type"] for field in fields.values()] == ["string", "integer", "string"]
    assert (fields["days"]["default"], fields["unit"]["enum"]) == (1, ["K", "C"])


def test_an_annotation_says_more_than_the_docstring(face: Face) -> None:
    """A description in `Annotated` is the one that is sent; classes are told by what they hold."""

    def tell(city: str, unit: Unit, place: Place) -> None:
        """Tell.

        Args:
            city: not this
            unit: of temperature
            place: where
        """

    tell.__annotations__.update(
        city=Annotated[str, pydantic.Field(description="the place", min_length=1)], unit=Unit, place=Place
    )  # where annotations are not evaluated, pydantic does not find a name of this function
    found = definition(face, tell)["parameters"]
    assert found["properties"]["city"]["description"] == "the place"
    assert found["properties"]["city"]["minLength"] == 1
    assert found["properties"]["unit"]["description"] == "of temperature"
    assert found["$defs"]["Place"]["properties"].keys() == {"name"}


def test_a_function_need_not_say_anything(face: Face) -> None:
    """Without a docstring, annotations or arguments there is nothing but its name, and it can be called."""

    def now():  # type: ignore[no-untyped-def]
        return "noon"

    parameters = {"additionalProperties": False, "properties": {}, "type": "object"}
    assert definition(face, now) == {"name": "now", "parameters": parameters}
    with serving(calling(("now", ""), ("now", "{}")), "It is noon.") as (server, client):
        run(face, client, [now])
    assert told(server) == ["noon", "noon"]


MISSING = object()


def search(query: str, engine: Any = MISSING) -> Nowhere:  # type: ignore  # noqa: F821
    return query if engine is MISSING else "another"


def test_only_what_a_model_gives_has_to_be_known(face: Face) -> None:
    """What a function returns may be known to type checkers only, and a default need not have JSON."""
    fields = definition(face, search)["parameters"]["properties"]
    assert fields == {"query": {"title": "Query", "type": "string"}, "engine": {"title": "Engine"}}
    with serving(calling(("search", {"query": "Rome"})), "Done.") as (server, client):
        run(face, client, [search])
    assert told(server) == ["Rome"]


# What is called, and what is told of it

seen: list[Any] = []


def take(unit: Unit, place: Place, when: datetime.date, sizes: tuple[int, ...] = (), **more: int) -> None:
    seen.append((unit, place, when, sizes, more))


def test_arguments_are_what_the_annotations_say(face: Face) -> None:
    """Instances are made of the JSON, and defaults are left to the function."""
    arguments = {"unit": "K", "place": {"name": "Rome"}, "when": "2026-01-02", "sizes": [1, 2], "extra": "3"}
    with serving(calling(("take", arguments)), "Done.") as (server, client):
        run(face, client, [take])
    assert told(server) == ["null"]
    assert seen.pop() == (Unit.KELVIN, Place("Rome"), datetime.date(2026, 1, 2), (1, 2), {"extra": 3})


RESULTS: dict[str, tuple[Any, str]] = {
    "str": ("as it is: 天\n", "as it is: 天\n"),
    "half a character": ("\ud800", "\ud800"),
    "None": (None, "null"),
    "number": (1.5, "1.5"),
    "dict": ({"天": [1, None, True]}, '{"天":[1,null,true]}'),
    "model": (pydantic.create_model("M", a=(int, 1))(), '{"a":1}'),
    "dataclass": ([Place("Rome")], '[{"name":"Rome"}]'),
    "enum": (Unit.KELVIN, '"K"'),
    "date": (datetime.date(2026, 1, 2), '"2026-01-02"'),
    "generator": ("made", "[1,2]"),
}


@pytest.mark.parametrize(("result", "content"), RESULTS.values(), ids=RESULTS)
def test_a_result_that_is_no_str_is_told_as_json(face: Face, result: Any, content: str) -> None:
    """Whatever pydantic can write may be returned."""

    def give() -> Any:
        return (number for number in (1, 2)) if content == "[1,2]" else result

    with serving(calling(("give", {})), "Done.") as (server, client):
        run(face, client, [give])
    assert told(server) == [content]


class Wordless(Exception):
    """One that can't say what is wrong, because of a mistake in its own class."""

    def __str__(self) -> str:
        raise AttributeError("reason")


def fail(kind: str) -> Any:
    """Fail in one way or another."""
    if kind == "no JSON":
        return object()
    if kind == "Wordless":
        raise Wordless
    raise {"KeyError": KeyError("no such city"), "ChatAnywhereError": APIStatusError("no", status_code=400)}[kind]


FAILURES: dict[str, tuple[tuple[str, Any], str]] = {
    "it raises": (("fail", {"kind": "KeyError"}), "KeyError: 'no such city'"),
    "it raises one of ours": (("fail", {"kind": "ChatAnywhereError"}), "APIStatusError: no"),
    "it raises what has no words": (("fail", {"kind": "Wordless"}), "Wordless: no words"),
    "no JSON": (("fail", {"kind": "no JSON"}), "Unable to serialize unknown type"),
    "unknown": (("forecast", {}), "ValueError: there is no function forecast, only weather, fail"),
    "an argument is missing": (("weather", {}), "ValueError: wrong arguments for weather: city: Missing required"),
    "an argument is unknown": (("weather", {"city": "a", "town": "b"}), "town: Unexpected keyword argument"),
    "an argument is of another type": (("weather", {"city": "a", "days": "many"}), "days: Input should be a valid int"),
    "not JSON": (("weather", '{"city": "Ro'), "ValueError: the arguments of weather are no JSON: "),
    "no object": (("weather", '["Rome"]'), "ValueError: the arguments of weather are no JSON object"),
    "nested too deeply": (("weather", "[" * 100_000), "ValueError: the arguments of weather are no JSON"),
}


@pytest.mark.parametrize(("call", "words"), FAILURES.values(), ids=FAILURES)
def test_a_call_that_fails_is_told(face: Face, call: tuple[str, Any], words: str) -> None:
    """The model is told the error's words, the program gets the error, and the run goes on."""
    rounds: list[tuple[Completion, Sequence[ToolFinished]]] = []
    with serving(calling(call, ("weather", {"city": "Rome"})), "Sorry.") as (server, client):
        done = run(face, client, [weather, fail], on_round=lambda *each: rounds.append(each))
    assert done.text == "Sorry."
    failed, good = told(server)
    assert words in failed
    assert len(failed) < 300
    assert good == "Rome sunny for 1"
    ((completion, (bad, fine)),) = rounds
    assert completion.tool_calls == (bad.call, fine.call)
    assert bad.error is not None
    assert isinstance(bad.error, Wordless) or str(bad.error) in failed
    assert (bad.result, fine.result, fine.error) == (None, "Rome sunny for 1", None)


@pytest.mark.parametrize("parallel", [False, True])
def test_a_task_that_was_cancelled_within_a_function_is_told(parallel: bool) -> None:
    """Where asyncio's own tasks are awaited, their end is an error of the function, not the end of the run."""

    async def give_up() -> None:
        task = asyncio.ensure_future(asyncio.sleep(LONG))
        task.cancel()
        await task

    calls = calling(("give_up", {}), ("weather", {"city": "Rome"}))
    for timeout in (None, LONG):
        with serving(calls, "Done.") as (server, client):
            done = run(Face("asyncio"), client, [give_up, weather], parallel=parallel, timeout=timeout)
        assert done.text == "Done."
        assert told(server) == ["RuntimeError: give_up was cancelled", "Rome sunny for 1"]


def test_a_function_knows_the_context_of_its_caller(face: Face) -> None:
    """Context variables have the values that they have where the run was started."""
    variable = contextvars.ContextVar("variable", default="unset")

    def read() -> str:
        return variable.get()

    with serving(calling(("read", {})), "Done.") as (server, client):
        contextvars.copy_context().run(lambda: (variable.set("set"), run(face, client, [read])))
    assert told(server) == ["set"]


@pytest.mark.parametrize("parallel", [False, True])
def test_an_exit_is_meant_for_the_program(face: Face, parallel: bool) -> None:
    """What is no `Exception`, such as `SystemExit`, is not told to the model, and ends the run as it is."""

    def leave() -> None:
        raise SystemExit(3)

    with serving(calling(("leave", {}), ("leave", {})), "Never.") as (server, client):
        with pytest.raises(SystemExit) as caught:
            run(face, client, [leave], parallel=parallel)
        assert len(server.requests) == 1
    assert caught.value.code == 3


# At the same time


@pytest.mark.parametrize("streamed", [False, True])
def test_calls_run_at_the_same_time_when_asked(face: Face, streamed: bool) -> None:
    """With parallel=True no call waits for another; the results are told in the order of the calls."""
    all_here = threading.Barrier(3)

    def meet(name: str) -> str:
        all_here.wait(LONG)
        return name

    with serving(calling(*(("meet", {"name": name}) for name in "abc")), "Done.") as (server, client):
        if streamed:
            events: list[Any] = []
            collect(face, client, [meet], events, parallel=True)
            kinds = [type(event) for event in events if isinstance(event, (ToolStarted, ToolFinished))]
            assert kinds == [ToolStarted] * 3 + [ToolFinished] * 3
        else:
            run(face, client, [meet], parallel=True)
    assert told(server) == ["a", "b", "c"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_coroutine_functions_run_at_the_same_time_too(backend: str) -> None:
    """On the loop, beside functions in threads."""
    arrived: list[str] = []

    async def main() -> None:
        everybody = anyio.Event()

        async def meet(name: str) -> str:
            arrived.append(name)
            if len(arrived) == 3:
                everybody.set()
            await everybody.wait()
            return name

        def thread(name: str) -> Any:
            return meet(name)  # what it returns is awaited

        with anyio.fail_after(LONG):
            await client.as_async().run_tools("Hello", [meet, thread], parallel=True)

    calls = [("meet", {"name": "a"}), ("thread", {"name": "b"}), ("meet", {"name": "c"})]
    with serving(calling(*calls), "Done.") as (server, client):
        anyio.run(main, backend=backend)
    assert told(server) == ["a", "b", "c"]


def counting(pause: float = 0.0) -> tuple[Callable[[], str], list[int]]:
    """A function, and how many of it were running whenever one began."""
    running: list[int] = []
    lock = threading.Lock()
    now = [0]

    def count() -> str:
        with lock:
            now[0] += 1
            running.append(now[0])
        time.sleep(pause)
        with lock:
            now[0] -= 1
        return "x"

    return count, running


def test_calls_run_one_after_the_other_else(face: Face) -> None:
    """Each has ended before the next begins, as the events say."""
    count, running = counting(0.01)
    events: list[Any] = []
    with serving(calling(*[("count", {})] * 5), "Done.") as (_, client):
        collect(face, client, [count], events)
    assert running == [1] * 5
    kinds = [type(event) for event in events if isinstance(event, (ToolStarted, ToolFinished))]
    assert kinds == [ToolStarted, ToolFinished] * 5


def test_a_model_cannot_start_any_number_of_threads(face: Face) -> None:
    """Of 200 calls in one answer, 32 run at the same time."""
    count, running = counting(0.01)
    with serving(calling(*[("count", {})] * 200), "Done.") as (server, client):
        run(face, client, [count], parallel=True)
    assert told(server) == ["x"] * 200
    assert 1 < max(running) <= 32


# Rounds


@pytest.mark.parametrize("max_rounds", [0, 1, 3])
def test_rounds_end(face: Face, max_rounds: int) -> None:
    """A model that never stops calling is asked once more than functions are run; its last calls are not run."""
    count, running = counting()
    with LoopbackServer(lambda _: calling(("count", {}), text="More!")) as server:
        done = run(face, Client("k", base_url=server.url), [count], max_rounds=max_rounds)
    assert len(server.requests) == max_rounds + 1
    assert len(running) == max_rounds
    assert (done.text, [call.name for call in done.completion.tool_calls]) == ("More!", ["count"])
    assert done.messages[-1]["tool_calls"][0]["function"]["name"] == "count"


def test_what_on_round_raises_ends_the_run(face: Face) -> None:
    """It comes out as it is, and nothing more is asked."""

    def refuse(completion: Completion, results: Sequence[ToolFinished]) -> None:
        raise LookupError(results[0].result)

    with serving(calling(("weather", {"city": "Rome"})), "Never.") as (server, client):
        with pytest.raises(LookupError, match="Rome sunny"):
            run(face, client, [weather], on_round=refuse)
        assert len(server.requests) == 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_on_round_is_awaited(backend: str) -> None:
    """On the async client it may be a coroutine function."""
    rounds: list[str] = []

    async def note(completion: Completion, results: Sequence[ToolFinished]) -> None:
        await anyio.sleep(0)
        rounds.append(results[0].result)

    with serving(calling(("weather", {"city": "Rome"})), "Done.") as (_, client):
        run(Face(backend), client, [weather], on_round=note)
    assert rounds == ["Rome sunny for 1"]


def allowing(mode: str) -> dict[str, Any]:
    """A choice among some of the tools."""
    tools = [{"type": "function", "function": {"name": "weather"}}]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize(
    ("tool_choice", "after"),
    [
        ("required", None),
        ({"type": "function", "function": {"name": "weather"}}, None),
        ("auto", "auto"),
        ("none", "none"),
        (None, None),
        (allowing("required"), allowing("auto")),
        (allowing("auto"), allowing("auto")),
    ],
    ids=str,
)
def test_a_demanded_call_is_demanded_once(face: Face, tool_choice: Any, after: Any) -> None:
    """Else the model could never answer; other choices, and which tools are allowed, hold for the whole run."""
    with serving(calling(("weather", {"city": "Rome"})), "Done.") as (server, client):
        run(face, client, [weather], tool_choice=tool_choice)
    assert [request.json.get("tool_choice") for request in server.requests] == [tool_choice, after]


# Events


def test_the_events_of_a_run(face: Face) -> None:
    """Those of each answer, and of each call; `run` is the outcome."""
    events: list[Any] = []
    with serving(calling(("weather", {"city": "Rome"}), text="Hm."), "It is sunny.") as (_, client):
        done = collect(face, client, [weather], events)
    kinds = list(dict.fromkeys(type(event) for event in events))
    assert kinds.index(ToolCallDelta) < kinds.index(ToolStarted) < kinds.index(ToolFinished)
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "Hm.It is sunny."
    assert [event.reason for event in events if isinstance(event, Finished)] == ["tool_calls", "stop"]
    (started,) = [event for event in events if isinstance(event, ToolStarted)]
    (finished,) = [event for event in events if isinstance(event, ToolFinished)]
    assert started.call == finished.call
    assert started.call.json() == {"city": "Rome"}
    assert (finished.result, finished.error) == ("Rome sunny for 1", None)
    assert done.text == "It is sunny."


def test_a_stream_of_a_run_knows_what_has_come(face: Face) -> None:
    """Text and messages so far can be read at any time; `run` says that it is too soon, `read()` goes to the end."""
    client: Client
    begun = [{"role": "user", "content": "Hello"}]
    with serving(calling(("weather", {"city": "Rome"})), "It is sunny.") as (_, client):
        if face.name == "sync":
            stream = client.stream_tools("Hello", [weather])
            assert (stream.text, stream.messages) == ("", begun)
            with pytest.raises(RuntimeError, match="read it to its end first"):
                _ = stream.run
            done = stream.read()
            assert (stream.text, stream.run, list(stream)) == ("It is sunny.", done, [])
        else:

            async def main() -> ToolRun[Any]:
                stream = client.as_async().stream_tools("Hello", [weather])
                assert (stream.text, stream.messages) == ("", begun)
                with pytest.raises(RuntimeError, match="read it to its end first"):
                    _ = stream.run
                done = await stream.read()
                assert (stream.text, stream.run) == ("It is sunny.", done)
                assert [event async for event in stream] == []
                return done

            done = anyio.run(main, backend=face.name)
    assert done.text == "It is sunny."


def test_leaving_a_run_ends_it(face: Face) -> None:
    """Behind the first piece of the answer, its connection is closed and nothing follows."""
    count, running = counting()
    with LoopbackServer([calling(("count", {}), text="one two three")], delay=3600) as server:
        client = Client("k", base_url=server.url)
        if face.name == "sync":
            with client.stream_tools("Hello", [count]) as stream:
                next(stream)
            assert list(stream) == []
        else:

            async def main() -> None:
                async with client.as_async().stream_tools("Hello", [count]) as stream:
                    await stream.__anext__()
                assert [event async for event in stream] == []
                await stream.close()

            anyio.run(main, backend=face.name)
        assert not sockets_to(int(server.url.rpartition(":")[2]))
    assert (len(server.requests), running) == (1, [])


def test_a_run_that_failed_has_no_outcome(face: Face) -> None:
    """The error of a request comes out as it is, and `run` says that there is none."""
    refuse = Fault.status(400, "no tools here")
    with LoopbackServer([calling(("weather", {"city": "Rome"})), refuse]) as server:
        client = Client("k", base_url=server.url)
        if face.name == "sync":
            stream = client.stream_tools("Hello", [weather])
            with pytest.raises(APIStatusError, match="no tools here"):
                stream.read()
            with pytest.raises(RuntimeError):
                stream.read()
        else:

            async def main() -> None:
                stream = client.as_async().stream_tools("Hello", [weather])
                with pytest.raises(APIStatusError, match="no tools here"):
                    await stream.read()
                with pytest.raises(RuntimeError):
                    await stream.read()

            anyio.run(main, backend=face.name)


def test_a_run_has_one_reader(face: Face) -> None:
    """Another thread or task is told so, and the run goes on where it is read."""
    running, free = threading.Event(), threading.Event()

    def wait() -> str:
        running.set()
        free.wait(LONG)
        return "x"

    with serving(calling(("wait", {})), "Done.") as (_, client):
        if face.name == "sync":
            stream = client.stream_tools("Hello", [wait])
            reader = threading.Thread(target=stream.read)
            reader.start()
            assert running.wait(LONG)
            for use in (stream.__next__, stream.read, stream.close):
                with pytest.raises(RuntimeError, match="another thread is reading this run"):
                    use()
            free.set()
            reader.join()
            assert stream.run.text == "Done."
        else:

            async def main() -> None:
                stream = client.as_async().stream_tools("Hello", [wait])
                async with anyio.create_task_group() as group:
                    group.start_soon(stream.read)
                    await anyio.to_thread.run_sync(running.wait)
                    for use in (stream.__anext__, stream.read):
                        with pytest.raises(RuntimeError, match="another task is reading this run"):
                            await use()
                    free.set()
                assert stream.run.text == "Done."

            anyio.run(main, backend=face.name)


# Time


@pytest.fixture
def endless() -> Iterator[Callable[[], str]]:
    """A function that does not return before the test is over."""
    over = threading.Event()

    def wait() -> str:
        over.wait(LONG)
        return "late"

    yield wait
    over.set()


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("parallel", [False, True])
def test_a_function_that_still_runs_is_not_waited_for(
    face: Face, endless: Callable[[], str], parallel: bool, streamed: bool
) -> None:
    """The deadline ends the run: what has finished is given out, nothing more is run or asked, and the text is kept."""
    events: list[Any] = []
    began = time.monotonic()
    calls = [("weather", {"city": "Rome"}), ("wait", {})]
    with serving(calling(*calls, ("wait", {}), text="Let me see."), "Never.") as (server, client):
        ask = functools.partial(collect, found=events) if streamed else run
        with pytest.raises(APITimeoutError, match=r"the run's 0\.5 s ran out") as caught:
            ask(face, client, [weather, endless], timeout=0.5, parallel=parallel)
        assert 0.45 < time.monotonic() - began < 5
        assert len(server.requests) == 1
    assert (caught.value.phase, caught.value.partial) == ("total", "Let me see.")
    if streamed:
        assert [event.result for event in events if isinstance(event, ToolFinished)] == ["Rome sunny for 1"]
        assert len([event for event in events if isinstance(event, ToolStarted)]) == (3 if parallel else 2)


@pytest.mark.parametrize("streamed", [False, True])
def test_one_deadline_bounds_all_requests(face: Face, streamed: bool) -> None:
    """A request gets the time that the run has left, and its error tells the run's own."""
    ask = functools.partial(collect, found=[]) if streamed else run
    began = time.monotonic()
    with serving(calling(("weather", {"city": "Rome"})), "Sunny all day") as (server, client):

        def fall_silent(completion: Completion, results: Sequence[ToolFinished]) -> None:
            server.faults = (Fault.timeout(after=1),)

        with pytest.raises(APITimeoutError, match=r"the run's 0\.7 s ran out") as caught:
            ask(face, client, [weather], timeout=0.7, on_round=fall_silent)
        assert len(server.requests) == 2
    assert 0.6 < time.monotonic() - began < 5
    assert (caught.value.phase, caught.value.partial, caught.value.attempts) == ("total", "Sunny", 1)
    assert isinstance(caught.value.__cause__, APITimeoutError)


def test_no_request_starts_after_the_deadline(face: Face) -> None:
    """Time that passes between two rounds counts."""
    with serving(calling(("weather", {"city": "Rome"})), "Never.") as (server, client):
        with pytest.raises(APITimeoutError, match="the run's"):
            run(face, client, [weather], timeout=0.3, on_round=lambda *_: time.sleep(0.4))
        assert len(server.requests) == 1


def test_a_silent_server_is_not_called_the_run_s_deadline(face: Face) -> None:
    """Another limit than `total` is told as ever."""
    with LoopbackServer(["Never."], faults=[Fault.timeout()]) as server:
        client = Client("k", base_url=server.url, retry=None)
        with pytest.raises(APITimeoutError, match=r"nothing came for 0\.2 s") as caught:
            run(face, client, [weather], timeout=Timeout(total=LONG, read=0.2))
    assert caught.value.phase in ("headers", "read")


def test_without_a_deadline_functions_take_their_time(face: Face) -> None:
    """timeout=None is no limit."""
    count, running = counting(0.2)
    with serving(calling(("count", {})), "Done.") as (_, client):
        assert run(face, client, [count], timeout=None).text == "Done."
    assert running == [1]


PROGRAM = """
import sys, time
import anyio
from chatanywhere import APITimeoutError, Client
from chatanywhere.testing import LoopbackServer, Reply

def wait() -> str:
    print("waiting", flush=True)
    time.sleep(3600)

async def run_async():
    await client.as_async().run_tools("Hello", [wait], timeout=timeout)

face, timeout = sys.argv[1], float(sys.argv[2]) or None
with LoopbackServer([Reply("Let me see.", tool_calls=[("wait", {})])]) as server:
    client = Client("k", base_url=server.url)
    try:
        if face == "sync":
            client.run_tools("Hello", [wait], timeout=timeout)
        else:
            anyio.run(run_async, backend=face)
    except (APITimeoutError, KeyboardInterrupt) as error:
        print(type(error).__name__, error.partial, len(server.requests))
"""


def test_the_end_of_a_program_waits_for_no_function(face: Face) -> None:
    """One that is left alone when the time is up does not keep the program alive."""
    command = [sys.executable, "-c", PROGRAM, face.name, "0.5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG)
    assert (done.stdout, done.stderr) == ("waiting\nAPITimeoutError Let me see. 1\n", "")


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
@pytest.mark.parametrize("name", ["sync", "trio"])  # asyncio makes a cancelled task of it
def test_ctrl_c_ends_a_run_and_its_program(name: str) -> None:
    """A function that goes on is waited for neither by the run nor by the program's end; the text is kept."""
    with subprocess.Popen([sys.executable, "-c", PROGRAM, name, "0"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "waiting\n"
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.stdout.read() == "KeyboardInterrupt Let me see. 1\n"
            assert process.wait(LONG) == 0
            assert time.monotonic() - began < 10
        finally:
            process.kill()


@pytest.mark.parametrize("kind", ["thread", "coroutine"])
@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_cancelled_task_ends_a_run(backend: str, parallel: bool, kind: str, endless: Callable[[], str]) -> None:
    """At once, whatever runs: a coroutine function is cancelled, a thread is left alone."""
    cancelled: list[str] = []

    async def sleep() -> None:
        try:
            await anyio.sleep_forever()
        except BaseException:
            cancelled.append("sleep")
            raise

    async def main() -> None:
        began = anyio.current_time()
        with anyio.move_on_after(0.3) as scope:
            await client.as_async().run_tools("Hello", [endless, sleep], parallel=parallel)
        assert scope.cancelled_caught
        assert anyio.current_time() - began < 5

    name = "wait" if kind == "thread" else "sleep"
    with serving(calling((name, {}), (name, {})), "Never.") as (server, client):
        anyio.run(main, backend=backend)
        assert len(server.requests) == 1
    assert cancelled == ([] if kind == "thread" else ["sleep"] * (2 if parallel else 1))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_deadline_cancels_a_coroutine_function(backend: str) -> None:
    """It ends before the error is raised."""
    ended: list[str] = []

    async def sleep() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("sleep")

    with serving(calling(("sleep", {})), "Never.") as (_, client), pytest.raises(APITimeoutError):
        run(Face(backend), client, [sleep], timeout=0.3)
    assert ended == ["sleep"]


def test_a_forgotten_run_leaves_nothing_behind(face: Face) -> None:
    """Its connection is closed when nobody has it any more, without a word."""
    with LoopbackServer(["one two three"], delay=3600) as server:
        client = Client("k", base_url=server.url)
        if face.name == "sync":
            stream = client.stream_tools("Hello", [weather])
            next(stream)
            del stream
        else:

            async def main() -> None:
                stream = client.as_async().stream_tools("Hello", [weather])
                await stream.__anext__()
                del stream

            anyio.run(main, backend=face.name)
        gc.collect()
        assert not sockets_to(int(server.url.rpartition(":")[2]))


# Wrong use


class Named:
    def __call__(self, city: str) -> str:
        return city


def by_position(city: str, /) -> str:
    return city


def any_number(*cities: str) -> str:
    return ""


def odd(of: Face) -> str:
    return ""


def unknown(of: Nowhere) -> str:  # type: ignore[name-defined]  # noqa: F821
    return ""


def unknown_attribute(of: datetime.Nowhere) -> str:  # type: ignore[name-defined]
    return ""


def 天气(city: str) -> str:
    return city


async def coroutine_function() -> None: ...


DEFINITION = {"type": "function", "function": {"name": "f", "parameters": {}}}

MISTAKES: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "none": ([], {}, ValueError, r"tools is empty: use complete\(\)"),
    "one": (weather, {}, TypeError, r"use tools=\[function\]"),
    "None": (None, {}, TypeError, r"use tools=\[function\]"),
    "a definition": ([weather, DEFINITION], {}, TypeError, r"tools\[1\] is a definition .* give the function"),
    "twice": ([weather, weather], {}, ValueError, "two tools have the name weather"),
    "a lambda": ([lambda city: city], {}, ValueError, "'<lambda>' can't be the name of a tool: .* def"),
    "a name": ([天气], {}, ValueError, "'天气' can't be the name of a tool"),
    "an object": ([Named()], {}, TypeError, "a tool is a function with a name, .* write a def"),
    "a partial": ([functools.partial(weather, days=2)], {}, TypeError, "write a def around it"),
    "a class": ([Place], {}, TypeError, "write a def around it"),
    "by position": ([by_position], {}, TypeError, "by_position takes arguments by position only"),
    "any number": ([any_number], {}, TypeError, "any_number takes arguments by position only"),
    "no schema": ([odd], {}, TypeError, "odd has no JSON schema: .*Face"),
    "unknown name": ([unknown], {}, TypeError, "unknown has an annotation that is not known .*Nowhere"),
    "unknown attribute": ([unknown_attribute], {}, TypeError, "unknown_attribute has an annotation that .*Nowhere"),
    "written in C": ([max], {}, TypeError, "max does not tell its arguments: write a def around it"),
    "rounds": ([weather], {"max_rounds": -1}, ValueError, "max_rounds=-1: 0 is the least"),
    "rounds of another type": ([weather], {"max_rounds": "8"}, TypeError, "max_rounds must be an int, not str"),
    "timeout": ([weather], {"timeout": 0}, ValueError, "Timeout"),
    "on_round": ([weather], {"on_round": [print]}, TypeError, "on_round must be a function, not list"),
    "no text": ([weather], {"keep_text": False}, ValueError, "keep_text=False keeps no tool calls"),
    "no messages": ([weather], {"messages": []}, ValueError, "messages is empty"),
}


@pytest.mark.parametrize(("tools", "options", "kind", "words"), MISTAKES.values(), ids=MISTAKES)
def test_wrong_use_is_told_at_once(tools: Any, options: dict[str, Any], kind: type[Exception], words: str) -> None:
    """Before anything is sent, and before the stream is read; by both faces alike."""
    arguments: dict[str, Any] = {"messages": "Hello", **options}
    with LoopbackServer() as server:
        client = Client("k", base_url=server.url)
        for method in (client.run_tools, client.stream_tools, client.as_async().stream_tools):
            with pytest.raises(kind, match=words):
                method(tools=tools, **arguments)
        with pytest.raises(kind, match=words):
            run(Face("asyncio"), client, tools, **arguments)
        assert server.requests == []


@pytest.mark.parametrize(
    "options", [{"tools": [coroutine_function]}, {"tools": [weather], "on_round": coroutine_function}]
)
def test_a_coroutine_function_needs_the_async_client(options: Any) -> None:
    """The blocking client says so."""
    with pytest.raises(TypeError, match="coroutine function, which only AsyncClient can run"):
        Client("k").run_tools("Hello", **options)
    AsyncClient("k").stream_tools("Hello", **options)


def test_an_option_of_the_constructor_is_none_of_a_run(face: Face) -> None:
    """It is told where it belongs, as by complete()."""
    with LoopbackServer() as server:
        with pytest.raises(TypeError, match="it belongs to the client"):
            run(face, Client("k", base_url=server.url), [weather], verify=False)
        assert server.requests == []


# ToolCall.json


@pytest.mark.parametrize(("arguments", "value"), [('{"a": [1, "天"]}', {"a": [1, "天"]}), ("{}", {}), ("", {})])
def test_the_arguments_of_a_call_are_a_dict(arguments: str, value: dict[str, Any]) -> None:
    """`json()` reads them; what calls a function without arguments may have none at all."""
    assert ToolCall("c", "f", arguments).json() == value


@pytest.mark.parametrize("arguments", ['{"a": ', "[1]", "null", "free text", "[" * 100_000])
def test_arguments_that_are_no_object_are_told(arguments: str) -> None:
    """It is a ValueError that names the function and shows where they begin."""
    with pytest.raises(ValueError, match="the arguments of f are no JSON") as caught:
        ToolCall("c", "f", arguments).json()
    assert arguments[:20] in str(caught.value)
    assert len(str(caught.value)) < 300
    assert not isinstance(caught.value, (json.JSONDecodeError, ChatAnywhereError))
