"""Instructor, around either of OpenAI's clients."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable, Iterator
from typing import Any

import instructor
import openai
import pytest
from clients.cases import ADA, ANSWER, PICTURE, SDK_ERRORS, Person, Pet, picture_of, waited_for_a_second
from instructor.core import InstructorRetryException

from chatanywhere.testing import Fault, LoopbackServer, Reply

CHAT: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": ADA}]}
PERSON = '{"name": "Ada", "age": 36, "pets": []}'


def client(server: LoopbackServer, mode: instructor.Mode = instructor.Mode.TOOLS, **settings: Any) -> Any:
    settings = {"base_url": f"{server.url}/v1", "api_key": "x", "max_retries": 0, **settings}
    return instructor.from_openai(openai.OpenAI(**settings), mode=mode)


MODES = [instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA]


@pytest.mark.parametrize("mode", MODES)
def test_structured_output(server: LoopbackServer, mode: instructor.Mode) -> None:
    """An answer fits a model, by a tool and by a schema."""
    person, completion = client(server, mode).create_with_completion(response_model=Person, **CHAT)
    assert isinstance(person, Person)
    assert completion.usage.completion_tokens >= 0


@pytest.mark.parametrize("mode", [instructor.Mode.JSON, instructor.Mode.MD_JSON])
def test_a_schema_in_the_prompt(mode: instructor.Mode) -> None:
    """An answer that is JSON, or has it within, is read."""
    answer = f"```json\n{PERSON}\n```" if mode is instructor.Mode.MD_JSON else PERSON
    with LoopbackServer([answer]) as server:
        person = client(server, mode).create(response_model=Person, **CHAT)
    assert person.model_dump_json() == Person(name="Ada", age=36, pets=[]).model_dump_json()


@pytest.mark.parametrize("mode", MODES)
def test_a_part_of_a_model(server: LoopbackServer, mode: instructor.Mode) -> None:
    """What has come of a model is told piece by piece."""
    parts = list(client(server, mode).create_partial(response_model=Person, **CHAT))
    assert len(parts) > 5
    assert parts[0].name is None
    Person.model_validate(parts[-1].model_dump())


def test_many(server: LoopbackServer) -> None:
    """Models come one by one from a stream."""
    assert all(isinstance(each, Pet) for each in client(server).create_iterable(response_model=Pet, **CHAT))
    with LoopbackServer([f'{{"tasks": [{PERSON}, {PERSON}]}}']) as scripted:
        people = list(client(scripted, instructor.Mode.JSON).create_iterable(response_model=Person, **CHAT))
    assert [person.name for person in people] == ["Ada", "Ada"]


def test_parallel_tools() -> None:
    """Several tools are called at once."""
    calls = [("Person", PERSON), ("Pet", {"name": "Tom", "lives": 9})]
    with LoopbackServer([Reply(tool_calls=calls)]) as server:
        parallel = client(server, instructor.Mode.PARALLEL_TOOLS)
        found = list(parallel.create(response_model=Iterable[Person | Pet], **CHAT))
    assert found == [Person(name="Ada", age=36, pets=[]), Pet(name="Tom", lives=9)]


def test_what_does_not_fit_is_asked_for_again() -> None:
    """The model is told what was wrong, and may do better."""
    with LoopbackServer(['{"name": "Ada", "age": 3, "pets": []}', PERSON]) as server:
        person = client(server, instructor.Mode.JSON_SCHEMA).create(response_model=Person, max_retries=1, **CHAT)
        assert person.age == 36
        assert "greater_than_equal" in str(server.requests[1].messages)


def test_the_asynchronous_client(server: LoopbackServer) -> None:
    """It does what the other does."""

    async def ask() -> tuple[Any, Any]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x") as sdk:
            asynchronous = instructor.from_openai(sdk)
            whole = await asynchronous.create(response_model=Person, **CHAT)
            return whole, [part async for part in asynchronous.create_partial(response_model=Person, **CHAT)][-1]

    whole, part = asyncio.run(ask())
    assert isinstance(whole, Person)
    assert part.model_dump() == whole.model_dump()


def test_a_text(server: LoopbackServer) -> None:
    """Without a model the answer is OpenAI's."""
    assert client(server).create(response_model=None, **CHAT).choices[0].message.content == ANSWER


def test_a_picture(server: LoopbackServer) -> None:
    """A picture that is sent with a text arrives."""
    picture = instructor.Image.from_raw_base64(base64.b64encode(PICTURE).decode())
    messages = [{"role": "user", "content": [ADA, picture]}]
    assert client(server).create(response_model=Pet, model="gpt-4o-mini", messages=messages)
    assert picture_of(server) == PICTURE


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and all that it comes from."""
    while error is not None:
        yield error
        error = error.__cause__


@pytest.mark.parametrize(("fault", "kind"), SDK_ERRORS.values(), ids=SDK_ERRORS.keys())
def test_errors(server: LoopbackServer, fault: Fault, kind: type[Exception]) -> None:
    """What goes wrong is Instructor's error, which comes from that of OpenAI's SDK."""
    server.faults = [fault]
    with pytest.raises(InstructorRetryException) as caught:
        client(server, timeout=0.5).create(response_model=Pet, max_retries=0, **CHAT)
    assert any(isinstance(error, kind) for error in causes(caught.value))


def test_a_busy_server(server: LoopbackServer) -> None:
    """It is asked again when it says."""
    with waited_for_a_second(server):
        assert client(server, max_retries=1).create(response_model=Pet, **CHAT)
