"""JSON that is read at once, events and answers that are not kept: what they may cost, and where an answer ends."""

from __future__ import annotations

import contextlib
import functools
import gzip
import itertools
import json
import pickle
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from time import process_time
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from decoding import DONE, chunk, openai, sse
from faces import Face, backends, run
from hypothesis import given
from hypothesis import strategies as st
from raw_server import RawServer

from chatanywhere import (
    APIStatusError,
    APITimeoutError,
    AsyncClient,
    BadRequestError,
    ChatAnywhereError,
    Client,
    Completion,
    ProtocolError,
    StreamCancelledError,
    TextDelta,
    ToolCallDelta,
    _config,
)
from chatanywhere._protocols import json_text
from chatanywhere._protocols.json_text import MAX_DEPTH, MAX_JSON, JSONText
from chatanywhere._protocols.sse import EventStreamDecoder

KEY = "sk-1234567890"
MIB = 1024 * 1024
JSON = "Content-Type: application/json"
EVENTS = "Content-Type: text/event-stream"
GZIP = "Content-Encoding: gzip"


def http_answer(status: str, content: bytes, *fields: str, length: int | None = None) -> bytes:
    """An answer whose `Content-Length` is that of its content, or another one; the connection is closed behind it."""
    size = len(content) if length is None else length
    lines = [f"HTTP/1.1 {status}", *fields, f"Content-Length: {size}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode() + content


@functools.cache
def bomb(start: str, piece: str, end: str, size: int) -> bytes:
    """The gzip of JSON with `size` bytes of small values."""
    gzipped = zlib.compressobj(9, wbits=31)
    block = piece.encode() * (MIB // len(piece))
    parts = [gzipped.compress(start.encode())]
    parts += [gzipped.compress(block) for _ in range(size // len(block))]
    return b"".join([*parts, gzipped.compress(piece.rstrip(",").encode() + end.encode()), gzipped.flush()])


@pytest.fixture
def peak() -> Iterator[Callable[[], int]]:
    """How many bytes Python's memory has grown at its highest, since the test began."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


# Size ---------------------------------------------------------------------------------------------------------

SHAPES = {
    "objects": ("[", "{},", "]"),
    "arrays": ("[", "[],", "]"),
    "numbers": ("[", "1,", "]"),
    "strings": ('{"choices":[', '"",', "]}"),
    "one string": ('{"a":"', "aaaa", '"}'),
    "choices": ('{"choices":[', "{},", "]}"),
    "models": ('{"data":[', '{"id":""},', "]}"),
    "nothing but blanks": ("[", "    ", "1]"),
}


@pytest.mark.parametrize("face", ["sync", "asyncio", "trio"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_bomb_of_json_ends_in_time_and_memory(
    raw_server: RawServer, peak: Callable[[], int], shape: str, face: str
) -> None:
    """A quarter of a megabyte that unpacks to 250 MiB of JSON is a ProtocolError, long before it stands in memory."""
    raw_server.answer(http_answer("200 OK", bomb(*SHAPES[shape], 250 * MIB), JSON, GZIP))
    with Client(KEY, base_url=raw_server.url, timeout=20, retry=None) as client:
        outcome = Face(face).ask(client)
    assert isinstance(outcome.error, ProtocolError)
    assert str(MAX_JSON) in str(outcome.error)
    assert peak() < 3 * MAX_JSON


@pytest.mark.parametrize("shape", SHAPES)
def test_a_bomb_instead_of_the_models_ends_so_too(raw_server: RawServer, peak: Callable[[], int], shape: str) -> None:
    """`models()` has the limit of chats."""
    raw_server.answer(http_answer("200 OK", bomb(*SHAPES[shape], 250 * MIB), JSON, GZIP))
    client = Client(KEY, base_url=raw_server.url, timeout=20, retry=None)
    with pytest.raises(ProtocolError, match=str(MAX_JSON)):
        client.models()
    assert peak() < 3 * MAX_JSON


@given(st.integers(1, 30), st.integers(1, 7))
def test_a_json_text_may_be_as_large_as_its_limit(size: int, step: int) -> None:
    """As many bytes as allowed are read, in whatever pieces they come; one more is a ProtocolError."""
    content = b"1".rjust(size)
    pieces = [content[start : start + step] for start in range(0, size, step)]
    text, short = JSONText(size), JSONText(size - 1)
    for piece in pieces:
        text.feed(piece)
    assert value_of(text) == 1
    for piece in pieces[:-1]:
        short.feed(piece)
    with pytest.raises(ProtocolError, match=str(size - 1)):
        short.feed(pieces[-1])


def lists(count: int) -> dict[str, dict[str, Any]]:
    """Chunks whose lists have so many items together; each is small enough where it stands."""
    half = count // 2
    many = [{"delta": {"tool_calls": [{}] * (half // 100)}}] * 100
    return {
        "choices": {"choices": [{"delta": {"content": "a"}}] * count},
        "tool calls": chunk(tool_calls=[{}] * count),
        "parts": chunk(content=[{"type": "x"}] * count),
        "texts": chunk(content=["a"] * count),
        "thoughts": chunk(reasoning_content=[{"text": "a"}] * count),
        "thoughts in detail": chunk(reasoning_details=[{"text": "a"}] * count),
        "parts of a part": chunk(content=[{"thinking": ["a"] * half}, {"thinking": ["a"] * half}]),
        "lists in lists": chunk(refusal=[["a"] * half, [["a"] * half]]),
        "the tool calls of all choices": {"choices": many * 2},
        "lists of several kinds": chunk(content=["a"] * half, tool_calls=[{}] * half),
    }


@pytest.mark.parametrize("kind", lists(0))
def test_no_chunk_may_have_too_many_parts_to_be_gone_through(kind: str) -> None:
    """Ten thousand items, in all lists together, are more than any answer has; more are a ProtocolError."""
    for count, fine in ((900, True), (12_000, False)):
        content = lists(count)[kind]
        for body, label in ((sse(content, DONE), "text/event-stream"), (json.dumps(content).encode(), JSON)):
            error = openai(body, content_type=label).error
            assert isinstance(error, ProtocolError) is not fine
            assert fine or "10000 items" in str(error)


def test_an_answer_may_have_a_thousand_choices() -> None:
    """Each costs memory for as long as the answer lasts, so more are a ProtocolError, in however many chunks."""
    chunks = [
        {"choices": [{"index": index, "delta": {"content": "a"}, "finish_reason": "stop"}]} for index in range(1001)
    ]
    assert openai(sse(*chunks[:-1])).error is None
    assert "1000 choices" in str(openai(sse(*chunks)).error)


@pytest.mark.parametrize("value", ["1", "{}", "[]", '""', "null", '{"a":1}'])
def test_json_may_have_a_value_for_each_eight_bytes_that_it_may_have(value: str) -> None:
    """Small values take many times the memory of their characters, so there is a limit for their number, too."""
    most = json_text._AT_ONCE * 2
    count = (most - 1) // (2 if ":" in value else 1)
    for more, fine in ((0, True), (1, False)):
        text = JSONText(most * 8)
        text.feed(f"[{','.join([value] * (count + more))}]".encode())
        if fine:
            assert len(value_of(text)) == count
        else:
            with pytest.raises(ValueError, match=f"more than {most} values"):
                value_of(text)


def test_an_event_may_have_a_million_values() -> None:
    """An event is read without a pause, so one with more values is a ProtocolError; text in it may have any commas."""
    data = '{"choices":[],"x":[' + "1," * json_text._LONG_EVENT + "1]}"
    assert isinstance(openai(f"data: {data}\n\n".encode()).error, ProtocolError)
    data = json.dumps(chunk("stop", content="x" * json_text._LONG_EVENT + ",,,"))
    assert openai(f"data: {data}\n\n".encode()).error is None


# Pauses -------------------------------------------------------------------------------------------------------


def value_of(text: JSONText) -> Any:
    """What a JSON text comes to, pauses included."""
    reading = json_text.read(text.take(), text.limit)
    while True:
        try:
            next(reading)
        except StopIteration as end:
            return end.value


def patient(content: str) -> Any:
    """Read JSON as a large text is read: with a pause at every second value."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_text, "_AT_ONCE", 0)
        patch.setattr(json_text, "_TURN", 2)
        text = JSONText()
        text.feed(content.encode("utf-8", "surrogatepass"))
        return value_of(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
)
WRITTEN = st.builds(
    json.dumps,
    VALUES,
    indent=st.sampled_from([None, 0, 3]),
    ensure_ascii=st.booleans(),
    separators=st.sampled_from([(",", ":"), (" , ", "\t:\r\n")]),
)


@given(WRITTEN)
def test_json_is_read_with_pauses_as_it_is_at_once(text: str) -> None:
    """Any value, written in any way, is the same with pauses; equal names too, of which the last one counts."""
    assert patient(f" {text}\n") == json.loads(text)
    twice = f'{{"a": 1, "b": {text}, "a": {text}}}'
    assert list(patient(twice).items()) == list(json.loads(twice).items())


@given(WRITTEN, st.integers(0), st.integers(0, 3), st.text('[]{}",:1\\ at', max_size=3))
def test_what_is_no_json_is_refused_with_pauses_too(text: str, place: int, cut: int, inserted: str) -> None:
    """Text that is damaged anywhere is refused, or read, exactly where the standard library does so."""
    place %= len(text)
    damaged = text[:place] + inserted + text[place + cut :]
    try:
        expected = json.loads(damaged)
    except ValueError:
        with pytest.raises(ValueError):
            patient(damaged)
    else:
        assert patient(damaged) == expected


NAMED = st.recursive(
    st.none() | st.text(st.characters(exclude_characters="@"), max_size=5) | st.lists(st.floats(0, 1), max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "vector"]), inner, max_size=4),
)


@given(NAMED, st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:\r\n")]), st.booleans(), st.integers(0, 3))
def test_what_is_set_aside_is_the_strings_of_a_name(
    value: Any, separators: tuple[str, str], ascii_only: bool, least: int
) -> None:
    """Put back where they were taken from, they make the same value; where the text has an escape, none are taken."""
    content = json.dumps(value, separators=separators, ensure_ascii=ascii_only)
    text = JSONText()
    text.feed(content.encode("utf-8", "surrogatepass"))
    strings = [bytes(string).decode("utf-8", "surrogatepass") for string in text.set_aside(b"vector", least)]
    taken: list[str] = []

    def restored(value: Any) -> Any:
        if isinstance(value, list):
            return [restored(item) for item in value]
        if not isinstance(value, dict):
            return value
        for name, item in value.items():
            if name == "vector" and isinstance(item, str) and item[:1] == "@":
                taken.append(strings[int(item[1:])])
                value[name] = taken[-1]
            else:
                assert name != "vector" or not isinstance(item, str) or "\\" in content or len(item) < max(least, 1)
                value[name] = restored(item)
        return value

    if all(not "\ud800" <= character <= "\udfff" for character in content):
        assert restored(value_of(text)) == value
        assert taken == strings


MANY = '{"data":[' + '{"id":"a"},' * 500_000 + '{"id":"b"}]}'


@backends
def test_an_event_loop_keeps_its_turns(raw_server: RawServer, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """While half a million models are read, other tasks run hundreds of times."""
    raw_server.answer(http_answer("200 OK", gzip.compress(MANY.encode()), JSON, GZIP))
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async def ask() -> list[str]:
        async with AsyncClient(KEY, base_url=raw_server.url, retry=None) as client, anyio.create_task_group() as tasks:
            # Only the turns while JSON is read are counted: waiting for the answer has its own.
            monkeypatch.setattr(json_text, "_read_slowly", lambda *args: start(tasks, *args))
            models = await client.models()
            tasks.cancel_scope.cancel()
        return models

    def start(tasks: anyio.abc.TaskGroup, *args: Any) -> Any:
        tasks.start_soon(count)
        return read(*args)

    read = json_text._read_slowly
    assert len(run(backend, ask)) == 500_001
    assert turns > 400


@pytest.mark.parametrize("face", ["sync", "asyncio", "trio"])
def test_a_limit_holds_while_json_is_read(raw_server: RawServer, face: str) -> None:
    """JSON just below the limit of its size, whose reading takes seconds, ends when the call's time is up."""
    raw_server.answer(http_answer("200 OK", bomb("[", '"123456789",', "]", 15 * MIB), JSON, GZIP))
    with Client(KEY, base_url=raw_server.url, timeout=0.5, retry=None) as client:
        outcome = Face(face).ask(client)
    assert isinstance(outcome.error, APITimeoutError)
    assert outcome.error.phase == "total"


CALLS_OF_A_CHOICE = '{"message":{"tool_calls":[' + ",".join(["{}"] * 1000) + "]}},"
GONE_THROUGH = {
    "an error": ('{"error":{"x":[', "{},", "]}}"),
    "a list of errors": ("[", '{"error":1},', "]"),
    "an error of many errors": ('{"error":{"errors":[', '{"errors":[{}]},', "]}}"),
    "the place of an error": ('{"error":{"message":"Busy","loc":[', "[],", "]}}"),
    "no error": ('{"detail":[', '{"x":[]},', "]}"),
    "beside a delta": ('{"choices":[{"delta":{"content":"Hi"}}],"x":[', "{},", "]}"),
    "parts": ('{"choices":[{"message":{"content":[', '{"a":1},', "]}}]}"),
    "texts": ('{"choices":[{"message":{"content":[', '{"text":"a"},', "]}}]}"),
    "thoughts": ('{"choices":[{"message":{"reasoning_content":[', '{"text":"a"},', "]}}]}"),
    "thoughts in detail": ('{"choices":[{"message":{"reasoning_details":[', '{"text":"a"},', "]}}]}"),
    "choices": ('{"choices":[', '{"delta":{}},', "]}"),
    "tool calls of many choices": ('{"choices":[', CALLS_OF_A_CHOICE, "]}"),
    "objects in lines": ("", '{"choices":[{"delta":{"content":"a"}}]}\n', '{"choices":[{"finish_reason":"stop"}]}'),
    "stray brackets": (": x\n\n{\n", "}\n", "}\n"),
    "stray objects": (": x\n\n", '{"a":[{},{},{}]}\n', "\n"),
    "stray lines of an object without end": (": x\n\n{\n", '"a":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}\n{\n', "\n"),
}


@pytest.mark.parametrize("kind", GONE_THROUGH)
def test_an_event_loop_keeps_its_turns_while_json_is_gone_through(raw_server: RawServer, kind: str) -> None:
    """However many parts a value has that has been read, no other task waits long for what is made of it."""
    start, piece, end = GONE_THROUGH[kind]
    raw_server.answer(http_answer("200 OK", bomb(start, piece, end, 4 * MIB), JSON, GZIP))
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            begun = process_time()
            await anyio.sleep(0.005)
            longest = max(longest, process_time() - begun)

    async def ask() -> None:
        client = AsyncClient(KEY, base_url=raw_server.url, timeout=20, retry=None)
        async with client, anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            with contextlib.suppress(ChatAnywhereError):
                await client.complete("Hello")
            await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()

    begun = process_time()  # of this program alone, whatever else the machine has to do
    anyio.run(ask)
    assert longest < max(2, (process_time() - begun) / 4)


@pytest.mark.parametrize("face", ["sync", "asyncio", "trio"])
def test_stray_lines_are_read_in_time(raw_server: RawServer, face: str) -> None:
    """Brackets among lines that are no events, which could each be the end of an error, are not tried each."""
    large = b'"a":"' + b"x" * 60_000 + b'",\n'
    content = b": x\n\n{\n" + large * 190 + b"}\n" * 400 + sse(chunk(content="Hi"), chunk("stop"), DONE)
    raw_server.answer(http_answer("200 OK", gzip.compress(content), EVENTS, GZIP))
    with Client(KEY, base_url=raw_server.url, timeout=20, retry=None) as client:
        outcome = Face(face).ask(client)
    assert outcome.text == "Hi"
    assert outcome.seconds < 4


def test_a_call_can_be_cancelled_while_json_is_read(raw_server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cancel()` from another thread ends the reading, not only the waiting."""
    reading = threading.Event()
    read = json_text._read_slowly

    def tell(*args: Any) -> Any:
        reading.set()
        return read(*args)

    monkeypatch.setattr(json_text, "_read_slowly", tell)
    raw_server.answer(http_answer("200 OK", bomb(*SHAPES["objects"], 15 * MIB), JSON, GZIP))
    with Client(KEY, base_url=raw_server.url, retry=None) as client, client.stream("Hello") as stream:

        def cancel() -> None:
            reading.wait(20)
            stream.cancel()

        thread = threading.Thread(target=cancel)
        thread.start()
        with pytest.raises(StreamCancelledError):
            next(stream)
        thread.join()


@backends
def test_a_task_can_be_cancelled_while_json_is_read(raw_server: RawServer, backend: str) -> None:
    """A cancelled task leaves in the middle of the reading."""
    raw_server.answer(http_answer("200 OK", bomb(*SHAPES["models"], 15 * MIB), JSON, GZIP))

    async def ask() -> bool:
        async with AsyncClient(KEY, base_url=raw_server.url, retry=None) as client:
            with anyio.move_on_after(0.4) as limit:
                await client.models()
        return limit.cancelled_caught

    assert run(backend, ask)


# Nesting ------------------------------------------------------------------------------------------------------

NESTS = {
    "arrays": lambda depth: "[" * depth + "]" * depth,
    "objects": lambda depth: '{"a":' * (depth - 1) + "{}" + "}" * (depth - 1),
    "both": lambda depth: '[{"a":' * (depth // 2) + "[]" * (depth % 2) + "1" * (1 - depth % 2) + "}]" * (depth // 2),
    "the last of many": lambda depth: "[" + "[[]]," * 50 + "[" * (depth - 1) + "]" * depth,
    "behind brackets in strings": lambda depth: r'["]\"\\","[[[\\\"",' + "[" * (depth - 1) + "]" * depth,
}
nests = pytest.mark.parametrize("nest", NESTS)


def around(value: str) -> dict[str, bytes]:
    """Answers whose JSON is nested one level deeper than the value in it."""
    whole = '"choices":[{"index":0,"message":{"content":"Hi"},"finish_reason":"stop"}]'
    return {
        "application/json": f'{{{whole},"x":{value}}}'.encode(),
        "text/event-stream": f'data: {{{whole},"x":{value}}}\n\ndata: [DONE]\n\n'.encode(),
    }


@nests
@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream"])
def test_json_is_nested_to_a_limit(nest: str, content_type: str) -> None:
    """A chat is read if its JSON is nested as deep as allowed, and a ProtocolError if it is deeper, however much."""
    assert openai(around(NESTS[nest](MAX_DEPTH - 1))[content_type], content_type=content_type).error is None
    for depth in (MAX_DEPTH, 600, 5000, 100_000):
        content = around(NESTS[nest](depth))[content_type]
        assert isinstance(openai(content, content_type=content_type).error, ProtocolError)


@nests
def test_json_with_pauses_is_nested_to_the_same_limit(nest: str) -> None:
    """Large JSON is refused where other JSON is."""
    deepest = NESTS[nest](MAX_DEPTH)
    assert patient(deepest) == json.loads(deepest) == json_text.loads(deepest)
    for read in (patient, json_text.loads):
        with pytest.raises(ValueError, match="nested deeper than 100"):
            read(NESTS[nest](MAX_DEPTH + 1))


@given(VALUES)
def test_brackets_in_strings_nest_nothing(value: Any) -> None:
    """How deep JSON is nested does not depend on what its strings and names hold."""

    def depth(part: Any) -> int:
        if not isinstance(part, (dict, list)):
            return 0
        return 1 + max(map(depth, part.values() if isinstance(part, dict) else part), default=0)

    for ascii_only in (True, False):
        assert json_text._depth(json.dumps(value, ensure_ascii=ascii_only)) == depth(value)


@nests
@pytest.mark.parametrize("depth", [50, 600, 60_000])
@pytest.mark.parametrize("face", ["sync", "asyncio"])
def test_an_error_s_body_may_be_nested(raw_server: RawServer, nest: str, depth: int, face: str) -> None:
    """However deep it is, it is the error of its status, can be printed and pickled, and has the service's words."""
    content = f'{{"error":{{"message":"no such thing","x":{NESTS[nest](depth)}}}}}'.encode()
    raw_server.answer(http_answer("400 Bad Request", content, JSON))
    with Client(KEY, base_url=raw_server.url, retry=None) as client:
        outcome = Face(face).ask(client)
    assert isinstance(outcome.error, BadRequestError)
    assert "no such thing" in str(outcome.error)
    assert repr(pickle.loads(pickle.dumps(outcome.error)).body) == repr(outcome.error.body)
    assert isinstance(outcome.error.body, dict) is (depth == 50)


@nests
def test_a_list_of_models_may_not(raw_server: RawServer, nest: str) -> None:
    """`models()` refuses what is nested too deep."""
    with Client(KEY, base_url=raw_server.url, retry=None) as client:
        for depth, fine in ((MAX_DEPTH - 1, True), (600, False), (100_000, False)):
            raw_server.answer(http_answer("200 OK", f'{{"data":[],"x":{NESTS[nest](depth)}}}'.encode(), JSON))
            if fine:
                assert client.models() == []
            else:
                with pytest.raises(ProtocolError):
                    client.models()


def test_an_error_within_a_stream_may_be_nested() -> None:
    """It is the service's error as far as its JSON may be read, and a ProtocolError beyond."""
    for depth, kind in ((50, APIStatusError), (600, ProtocolError), (100_000, ProtocolError)):
        data = f'{{"error":{{"message":"Busy","x":{"[" * depth}{"]" * depth}}}}}'
        error = openai(f"data: {data}\n\n".encode()).error
        assert isinstance(error, kind)
        assert pickle.loads(pickle.dumps(error)).args == error.args


# Events -------------------------------------------------------------------------------------------------------

SMALL = {
    "lines": "data: 中\n",
    "lines without a blank": "data:中\n",
    "empty lines": "data\n",
    "empty lines with a colon": "data:\n",
    "lines ended by CR": "data: 中\r",
    "comments between": "data: 中\n:中\n",
}


@pytest.mark.parametrize("kind", SMALL)
def test_an_event_of_many_lines_takes_the_memory_of_its_characters(peak: Callable[[], int], kind: str) -> None:
    """A hundred thousand lines of one character take a few bytes each, and make the event that they should."""
    decoder, found = EventStreamDecoder(), list[str]()
    block = SMALL[kind] * 1000
    tracemalloc.clear_traces()
    for _ in range(100):
        decoder.feed(block, found)
    assert peak() < 2 * MIB
    decoder.feed("\n" if "\r" not in block else "\r", found)
    assert [len(data) for data in found] == [(2 if "中" in block else 1) * 100_000 - 1]


@pytest.mark.parametrize("start", ["data: ", ":", "x"])
def test_a_line_of_many_pieces_takes_the_memory_of_its_characters(peak: Callable[[], int], start: str) -> None:
    """A line that comes a character at a time takes a few bytes for each."""
    decoder, found = EventStreamDecoder(), list[str]()
    decoder.feed(start, found)
    for number in range(50_000):
        decoder.feed(chr(0x4E00 + number % 20_000), found)
    assert peak() < MIB
    decoder.feed("\n\n", found)
    assert list(map(len, found)) == ([50_000] if start == "data: " else [])


@given(st.lists(st.text("\n\r: ", max_size=3) | st.sampled_from(["data", "data:", "data: x", "id: 1"]), max_size=30))
def test_pieces_are_joined_without_a_trace(pieces: list[str]) -> None:
    """However often pieces are joined on the way, the events are those of the text in one piece."""
    found: dict[int, list[str]] = {}
    for many in (1, 2, 3, 1000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("chatanywhere._protocols.sse._MANY", many)
            decoder, found[many] = EventStreamDecoder(), []
            for piece in pieces:
                decoder.feed(piece, found[many])
    whole: list[str] = []
    EventStreamDecoder().feed("".join(pieces), whole)
    assert list(found.values()) == [whole] * 4


# Answers that are not kept ------------------------------------------------------------------------------------


CALLS = sse(
    chunk(content="Hi"),
    chunk(tool_calls=[{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]),
    chunk("tool_calls"),
    DONE,
)


@pytest.mark.parametrize("face", ["sync", "asyncio", "trio"])
def test_an_answer_that_is_not_kept_keeps_no_tool_calls(raw_server: RawServer, face: str) -> None:
    """With keep_text=False the pieces of tool calls are events, and no more; else they are there at the end."""
    raw_server.answer(http_answer("200 OK", CALLS, EVENTS))
    client = Client(KEY, base_url=raw_server.url, retry=None)

    async def ask(keep_text: bool) -> tuple[list[Any], Completion]:
        async with client.as_async().stream("Hello", keep_text=keep_text) as stream:
            return [event async for event in stream.events()], stream.completion

    for keep_text, known in ((True, ["f"]), (False, [])):
        if face == "sync":
            with client.stream("Hello", keep_text=keep_text) as stream:
                events, completion = list(stream.events()), stream.completion
        else:
            events, completion = run(face, ask, keep_text)
        assert [type(event) for event in events[1:3]] == [TextDelta, ToolCallDelta]
        assert [call.name for call in completion.tool_calls] == known
        assert completion.finish_reason == "tool_calls"


@pytest.mark.parametrize("calls", ["one", "many", "many numbered", "many with an id"])
def test_pieces_of_tool_calls_that_are_not_kept_take_no_memory(
    raw_server: RawServer, peak: Callable[[], int], calls: str
) -> None:
    """An answer of tool calls without end is read in the memory of a piece, and of the last thousand calls."""
    more: dict[str, Callable[[int], dict[str, Any]]] = {
        "one": lambda _: {"index": 0, "function": {"arguments": "x" * 100}},
        "many": lambda _: {},
        "many numbered": lambda number: {"index": number},
        "many with an id": lambda number: {"id": f"call_{number}"},
    }
    call = {"function": {"name": "f", "arguments": "{}"}}
    chunks = ([chunk(tool_calls=[{**call, **more[calls](number)}])] for number in range(10_000))
    content = [sse(*itertools.chain(*itertools.islice(chunks, 100))) for _ in range(100)]
    head = f"HTTP/1.1 200 OK\r\n{EVENTS}\r\nConnection: close\r\n\r\n".encode()
    raw_server.answer(head, *content, sse(chunk("stop"), DONE))
    with Client(KEY, base_url=raw_server.url).stream("Hello", keep_text=False) as stream:
        assert sum(isinstance(event, ToolCallDelta) for event in stream.events()) == 10_000
    assert peak() - sum(map(len, content)) < 2 * MIB


@pytest.mark.parametrize("face", ["sync", "asyncio", "trio"])
def test_an_answer_that_is_not_kept_has_no_limit_but_one_that_is_given(
    raw_server: RawServer, monkeypatch: pytest.MonkeyPatch, face: str
) -> None:
    """The default limit is for answers that are kept; one that was given, the default's number too, is for all."""
    monkeypatch.setattr(_config, "_MAX_RESPONSE", 1000)
    content = sse(chunk(content="x" * 2000), chunk("stop"), DONE)
    raw_server.answer(http_answer("200 OK", content, EVENTS))
    asker = Face(face)
    default = Client(KEY, base_url=raw_server.url, retry=None)
    monkeypatch.setenv("CHATANYWHERE_API_KEY", KEY)  # a pickle has none
    copied = pickle.loads(pickle.dumps(default))
    for client in (default, copied):
        assert "max_response_bytes=1000" in str(asker.ask(client).error)
        assert asker.ask(client, keep_text=False).text == "x" * 2000
    for limit, fine in ((1000, False), (10_000, True), (None, True)):
        client = Client(KEY, base_url=raw_server.url, retry=None, max_response_bytes=limit)
        for keep_text in (True, False):
            outcome = asker.ask(client, keep_text=keep_text)
            assert (outcome.error is None) is fine
            assert outcome.text == ("x" * 2000 if fine else "")


def test_json_that_is_not_kept_has_its_limit_still(raw_server: RawServer, peak: Callable[[], int]) -> None:
    """What is read at once stands in memory, so keep_text=False and max_response_bytes=None change nothing there."""
    raw_server.answer(http_answer("200 OK", bomb(*SHAPES["objects"], 250 * MIB), JSON, GZIP))
    client = Client(KEY, base_url=raw_server.url, retry=None, max_response_bytes=None)
    assert isinstance(Face("sync").ask(client, keep_text=False).error, ProtocolError)
    assert peak() < 3 * MAX_JSON


# Behind [DONE] ------------------------------------------------------------------------------------------------

WHOLE = sse(chunk(content="Hi"), chunk("stop"), DONE)
ZIPPED = gzip.compress(WHOLE)
DEFLATED = zlib.compress(WHOLE)
DEFLATE = "Content-Encoding: deflate"


def flipped(content: bytes, place: int) -> bytes:
    """The content with another byte at a place, counted from its end."""
    place = len(content) - place
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


CUT = {
    "shorter than its Content-Length": http_answer("200 OK", WHOLE, EVENTS, length=len(WHOLE) + 10),
    "gzip without its check": http_answer("200 OK", ZIPPED[:-8], EVENTS, GZIP),
    "gzip with half a check": http_answer("200 OK", ZIPPED[:-6], EVENTS, GZIP),
    "gzip shorter than its Content-Length": http_answer("200 OK", ZIPPED, EVENTS, GZIP, length=len(ZIPPED) + 1),
    "deflate without its check": http_answer("200 OK", DEFLATED[:-4], EVENTS, DEFLATE),
}
DAMAGED = {
    "gzip with a wrong check": http_answer("200 OK", flipped(ZIPPED, 8), EVENTS, GZIP),
    "gzip with a wrong length": http_answer("200 OK", flipped(ZIPPED, 1), EVENTS, GZIP),
    "deflate with a wrong check": http_answer("200 OK", flipped(DEFLATED, 1), EVENTS, DEFLATE),
}
faces = pytest.mark.parametrize("face", ["sync", "asyncio", "trio"])


@faces
@pytest.mark.parametrize("kind", CUT)
def test_what_is_missing_behind_done_is_missed_by_nobody(raw_server: RawServer, kind: str, face: str) -> None:
    """The protocol says that the answer is complete, so it is, though its framing or compression is cut."""
    raw_server.answer(CUT[kind])
    outcome = Face(face).ask(Client(KEY, base_url=raw_server.url, retry=None))
    assert (outcome.text, outcome.error) == ("Hi", None)


@faces
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_check_that_does_not_fit_is_an_error_behind_done_too(raw_server: RawServer, kind: str, face: str) -> None:
    """What was read is not what was sent: a ProtocolError, behind all of the text, which is in its `partial` too."""
    raw_server.answer(DAMAGED[kind])
    outcome = Face(face).ask(Client(KEY, base_url=raw_server.url, retry=None))
    assert isinstance(outcome.error, ProtocolError)
    assert (outcome.text, outcome.error.partial) == ("Hi", "Hi")


@faces
def test_what_is_cut_before_done_is_an_error(raw_server: RawServer, face: str) -> None:
    """Without the word of the protocol, a body that ends early is no answer."""
    content = sse(chunk(content="Hi"))
    raw_server.answer(http_answer("200 OK", content, EVENTS, length=len(content) + 10))
    outcome = Face(face).ask(Client(KEY, base_url=raw_server.url, retry=None))
    assert outcome.error is not None
    assert outcome.error.partial == "Hi"
