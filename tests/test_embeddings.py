"""Embeddings: in the order of the texts whatever is sent when, within what servers take, and with one end."""

from __future__ import annotations

import base64
import itertools
import json
import pickle
import random
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import anyio
import pytest
from faces import Face, backends, run
from hypothesis import given
from hypothesis import strategies as st
from raw_server import RawServer, Step, json_answer, sockets_to

from chatanywhere import (
    APIStatusError,
    APITimeoutError,
    AsyncClient,
    BadRequestError,
    Client,
    Embeddings,
    ProtocolError,
    Retry,
    Timeout,
    Usage,
)
from chatanywhere._embeddings import MAX_ANSWER, MAX_TEXTS, _split

try:
    import numpy
except ImportError:
    numpy = None  # type: ignore[assignment]

KEY = "sk-0123456789abcdef"
SIZE = 80  # numbers of a vector

Write = Callable[[Sequence[float]], Any]


def as_base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def vector_of(text: str, size: int = SIZE) -> list[float]:
    """What the servers of this file make of a text; 32 bits hold all of it."""
    numbers = random.Random(text)
    return [numbers.randrange(-(2**20), 2**20) / 2**20 for _ in range(size)]


def body_of(request: bytes) -> Any:
    return json.loads(request.partition(b"\r\n\r\n")[2])


def embedded(request: bytes, write: Write | None = None, size: int = SIZE) -> bytes:
    """The answer that a request asks for."""
    body = body_of(request)
    if write is None:
        write = as_base64 if body.get("encoding_format") == "base64" else list
    items = [
        {"object": "embedding", "index": index, "embedding": write(vector_of(text, size))}
        for index, text in enumerate(body["input"])
    ]
    usage = {"prompt_tokens": len(items), "total_tokens": len(items)}
    return json_answer({"object": "list", "data": items, "model": f"{body['model']}-1", "usage": usage})


@pytest.fixture
def server(raw_server: RawServer) -> RawServer:
    """A server that makes vectors of texts."""
    raw_server.steps = lambda request: [embedded(request), None]
    return raw_server


def client_of(server: RawServer, **settings: Any) -> Client:
    return Client(KEY, base_url=server.url, **{"retry": None, **settings})


def asked(server: RawServer) -> list[list[str]]:
    """The texts of each request."""
    return [body_of(request)["input"] for request in server.requests]


# Vectors ------------------------------------------------------------------------------------------------------


def test_vectors_are_in_the_order_of_the_texts(server: RawServer, face: Face) -> None:
    """However many requests there are, and whichever is answered first; model and usage are told for all of them."""
    texts = [f"text {number}" for number in range(3 * MAX_TEXTS + 1)]
    made = face.call(client_of(server), "embed", iter(texts), dimensions=SIZE)
    assert list(made) == [vector_of(text) for text in texts]
    assert sorted(map(len, asked(server))) == [1, MAX_TEXTS, MAX_TEXTS, MAX_TEXTS]
    assert made.usage == Usage(len(texts), 0, len(texts))
    assert made.model == "text-embedding-3-small-1"


def test_what_is_asked_for_is_sent(server: RawServer, face: Face) -> None:
    """Model, dimensions and headers as they are given, and no dimensions where none are."""
    client = client_of(server)
    face.call(client, "embed", ["a"])
    face.call(client, "embed", ["b"], model="m", dimensions=8, headers={"X-Mine": "1"})
    assert [body_of(request) for request in server.requests] == [
        {"model": "text-embedding-3-small", "input": ["a"], "encoding_format": "base64"},
        {"model": "m", "input": ["b"], "dimensions": 8, "encoding_format": "base64"},
    ]
    first, second = server.requests
    assert first.startswith(b"POST /v1/embeddings HTTP/1.1\r\n")
    assert f"Authorization: Bearer {KEY}\r\n".encode() in first
    assert b"X-Mine: 1\r\n" in second


@pytest.mark.parametrize("size", [1, SIZE])
@pytest.mark.parametrize("write", [as_base64, list], ids=["base64", "numbers"])
def test_vectors_are_read_as_servers_write_them(raw_server: RawServer, face: Face, write: Write, size: int) -> None:
    """Short or long, in Base64 or, from a server that knows nothing of it, as numbers."""
    raw_server.steps = lambda request: [embedded(request, write, size), None]
    assert list(face.call(client_of(raw_server), "embed", ["a", "b"])) == [vector_of("a", size), vector_of("b", size)]


def test_numbers_keep_their_digits(raw_server: RawServer) -> None:
    """What a server writes as text may be more exact than 32 bits are."""
    raw_server.answer(json_answer({"data": [{"embedding": [0.1, 1, -2.5e-3]}]}))
    made = client_of(raw_server).embed("a")
    assert (made[0], made.model, made.usage) == ([0.1, 1.0, -0.0025], "text-embedding-3-small", None)


def test_base64_is_read_on_any_processor(server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of the numbers are turned round where the processor has the others first."""
    (vector,) = client_of(server).embed("a")
    monkeypatch.setattr(sys, "byteorder", {"big": "little", "little": "big"}[sys.byteorder])
    (turned,) = client_of(server).embed("a")
    assert struct.pack(f"<{SIZE}f", *turned) == struct.pack(f">{SIZE}f", *vector)


def test_a_server_that_refuses_base64_is_asked_without_it(raw_server: RawServer, face: Face) -> None:
    """It is asked once more, which is no attempt, and the next time without the field at once."""

    def steps(request: bytes) -> list[Step]:
        if "encoding_format" in body_of(request):
            return [json_answer({"error": {"message": "unknown field: encoding_format"}}, "400 Bad Request"), None]
        return [embedded(request), None]

    raw_server.steps = steps
    client = client_of(raw_server)
    for number in range(2):
        assert list(face.call(client, "embed", ["a"])) == [vector_of("a")]
        assert len(raw_server.requests) == 2 + number


@pytest.mark.parametrize("indices", list(itertools.permutations(range(3))))
def test_the_index_says_whose_a_vector_is(raw_server: RawServer, indices: tuple[int, ...]) -> None:
    """A server may answer in any order."""
    texts = ["a", "b", "c"]
    data = [{"index": index, "embedding": as_base64(vector_of(texts[index]))} for index in indices]
    raw_server.answer(json_answer({"data": data}))
    assert list(client_of(raw_server).embed(texts)) == list(map(vector_of, texts))


VECTOR = as_base64(vector_of("a"))
NO_EMBEDDINGS: dict[str, Any] = {
    "nothing": {},
    "a list": [],
    "text": "text",
    "too few": {"data": []},
    "too many": {"data": [{"embedding": VECTOR}] * 2},
    "an object": {"data": {"embedding": VECTOR}},
    "no vector": {"data": [{"index": 0}]},
    "null": {"data": [{"embedding": None}]},
    "an empty text": {"data": [{"embedding": ""}]},
    "no numbers": {"data": [{"embedding": []}]},
    "a name": {"data": [{"embedding": "a vector"}]},
    "words among numbers": {"data": [{"embedding": [1.0, "2.0"]}]},
    "no Base64": {"data": [{"embedding": VECTOR.replace("A", "!") + "!" * 400}]},
    "part of a number": {"data": [{"embedding": VECTOR[:-4]}]},
    "a place that is none": {"data": [{"embedding": "@1"}]},
    "an item that is none": {"data": [VECTOR]},
}


@pytest.mark.parametrize("answer", NO_EMBEDDINGS.values(), ids=NO_EMBEDDINGS)
def test_what_is_no_embedding_is_told(raw_server: RawServer, face: Face, answer: Any) -> None:
    """An answer of another shape is a ProtocolError, and never a part of the vectors."""
    raw_server.answer(json_answer(answer))
    with pytest.raises(ProtocolError, match="embeddings of 1 text"):
        face.call(client_of(raw_server), "embed", ["a"])


def test_an_error_in_a_good_answer_is_one(raw_server: RawServer) -> None:
    """Long words of the service come out whole, for only vectors are set aside."""
    words = "no such thing " * 50
    raw_server.answer(json_answer({"error": {"message": words}}))
    with pytest.raises(APIStatusError) as caught:
        client_of(raw_server).embed("a")
    assert caught.value.message == words.strip()


# Texts --------------------------------------------------------------------------------------------------------


def test_a_str_is_one_text(server: RawServer, face: Face) -> None:
    """It has one vector, and not one for each character."""
    assert list(face.call(client_of(server), "embed", "text")) == [vector_of("text")]


@pytest.mark.parametrize("texts", [[], (), iter([])], ids=["list", "tuple", "iterator"])
def test_no_texts_have_no_vectors(server: RawServer, face: Face, texts: Any) -> None:
    """Nothing is asked, and nothing has been used."""
    made = face.call(client_of(server), "embed", texts)
    assert (list(made), made.usage, server.requests) == ([], Usage(0, 0, 0), [])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"texts": ["a", 5]}, TypeError, r"texts\[1\] must be a str, not int"),
        ({"texts": ["a", ["b"]]}, TypeError, r"texts\[1\]"),
        ({"texts": ("a", b"b")}, TypeError, r"texts\[1\] must be a str, not bytes"),
        ({"texts": ["a", "b", ""]}, ValueError, r"texts\[2\] is empty"),
        ({"texts": ""}, ValueError, r"texts\[0\] is empty"),
        ({"texts": b"text"}, TypeError, "not bytes"),
        ({"texts": None}, TypeError, "not NoneType"),
        ({"texts": 5}, TypeError, "not int"),
        ({"texts": "a", "model": None}, TypeError, "model"),
        ({"texts": "a", "model": ""}, TypeError, "model"),
        ({"texts": "a", "dimensions": 0}, ValueError, "dimensions=0"),
        ({"texts": "a", "dimensions": "8"}, TypeError, "dimensions must be an int"),
        ({"texts": "a", "dimensions": True}, TypeError, "dimensions must be an int"),
        ({"texts": "a", "headers": {"X": "a\nb"}}, ValueError, "line break"),
        ({"texts": "a", "timeout": -1}, ValueError, "Timeout"),
        ({"texts": "a", "retry": 0}, ValueError, "Retry"),
    ],
)
def test_what_can_t_be_sent_is_told(
    server: RawServer, face: Face, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    """Wrong texts are named by their index, and nothing has been sent."""
    with pytest.raises(error, match=words):
        face.call(client_of(server), "embed", **arguments)
    assert server.requests == []


def test_the_page_has_no_embeddings() -> None:
    """The web protocol has nothing but chats."""
    with pytest.raises(RuntimeError, match="use protocol='openai'"):
        Client(protocol="web").embed("a")


TEXTS = st.builds(
    lambda character, length: character * length,
    st.sampled_from(["a", "é", "天", "\U0001f600", "\ud83d"]),
    st.sampled_from([1, 7, 1000, 60_000, 400_000]),
)


@given(
    texts=st.lists(st.tuples(TEXTS, st.integers(1, 3000)), max_size=4),
    dimensions=st.sampled_from([None, 1, 256, 1536, 100_000]),
    model=st.sampled_from(["text-embedding-3-small", "text-embedding-3-large", "other"]),
    max_bytes=st.sampled_from([None, 1, 1_000_000, 2**40]),
)
def test_texts_are_split_as_servers_take_them(
    texts: list[tuple[str, int]], dimensions: int | None, model: str, max_bytes: int | None
) -> None:
    """No request has more texts, tokens or bytes of an answer than is taken, unless by one text; all are there."""
    whole = [text for text, times in texts for _ in range(times if len(text) < 10 else 3)]
    parts = list(_split(whole, model, dimensions, max_bytes))
    assert [text for part in parts for text in part] == whole
    largest = min(MAX_ANSWER, max_bytes or MAX_ANSWER)
    for part in parts:
        assert 1 <= len(part) <= 2048
        if len(part) > 1:
            # A token is two bytes at least, nearly always.
            assert sum(len(text.encode("utf-8", "surrogatepass")) for text in part) <= 600_000
            assert len(part) * (dimensions or 1536) * 20 <= largest


def test_a_client_that_takes_little_asks_for_little(server: RawServer, face: Face) -> None:
    """The client's `max_response_bytes` is heeded, whichever way the server writes the vectors."""
    texts = [str(number) for number in range(40)]
    server.steps = lambda request: [embedded(request, list), None]
    assert len(face.call(client_of(server, max_response_bytes=20_000), "embed", texts, dimensions=SIZE)) == 40
    assert 4 <= len(server.requests) <= 8


# At the same time ---------------------------------------------------------------------------------------------

MANY = [f"text {number}" for number in range(20)]
ONE_EACH: dict[str, Any] = {"max_response_bytes": 2000}
"""The settings of a client that asks for one vector at a time."""


class Crowd:
    """Steps of a server that answers when enough requests have come, or never.

    Attributes:
        most: how many there were at the same time.
    """

    def __init__(self, server: RawServer, wanted: int) -> None:
        self.most = 0
        self._server = server
        self._wanted = wanted
        self._inside = 0
        self._changed = threading.Condition()

    def __call__(self, request: bytes) -> list[Step]:
        with self._changed:
            self._inside += 1
            self.most = max(self.most, self._inside)
            self._changed.notify_all()
            enough = self._changed.wait_for(lambda: self.most >= self._wanted, 10)
            self._inside -= 1
        return [embedded(request) if enough else b"", None]

    def wait(self) -> None:
        """Wait until enough have come."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.most >= self._wanted, 10)


def test_eight_requests_are_made_at_a_time(raw_server: RawServer, face: Face) -> None:
    """So many come before the first is answered, and never more."""
    raw_server.steps = crowd = Crowd(raw_server, 8)
    made = face.call(client_of(raw_server, **ONE_EACH), "embed", MANY, dimensions=SIZE)
    assert list(made) == list(map(vector_of, MANY))
    assert (crowd.most, raw_server.connections, len(raw_server.requests)) == (8, 8, 20)


def until_closed(server: RawServer) -> None:
    """Wait until this process has no connection to a server."""
    end = time.monotonic() + 5
    while sockets_to(server.port, "ESTABLISHED") and time.monotonic() < end:
        time.sleep(0.005)
    assert sockets_to(server.port, "ESTABLISHED") == []


@pytest.fixture
def silent(raw_server: RawServer) -> RawServer:
    """A server that never answers."""
    raw_server.answer(raw_server.hold)
    return raw_server


def test_one_deadline_is_for_all(silent: RawServer, face: Face) -> None:
    """`total` bounds all requests together, and none is left behind."""
    began = time.monotonic()
    with pytest.raises(APITimeoutError, match=r"0\.5 s ran out") as caught:
        face.call(client_of(silent, retry=3, **ONE_EACH), "embed", MANY, dimensions=SIZE, timeout=0.5)
    assert time.monotonic() - began < 2
    assert caught.value.phase == "total"
    assert len(silent.requests) <= 8
    until_closed(silent)


def test_a_deadline_goes_on_from_request_to_request(raw_server: RawServer, face: Face) -> None:
    """Each that is answered leaves less time for those behind it."""

    def steps(request: bytes) -> list[Step]:
        return [lambda _: time.sleep(0.1), embedded(request), None]

    raw_server.steps = steps
    with pytest.raises(APITimeoutError):
        face.call(client_of(raw_server, **ONE_EACH), "embed", MANY * 10, dimensions=SIZE, timeout=0.6)
    assert 8 < len(raw_server.requests) < 100


def test_silence_is_not_limited(raw_server: RawServer, face: Face) -> None:
    """A server is silent while it works, so the `read` limit is off."""
    raw_server.steps = lambda request: [lambda _: time.sleep(0.3), embedded(request), None]

    assert len(face.call(client_of(raw_server), "embed", "a", timeout=Timeout(total=10, read=0.1))) == 1


def test_one_that_fails_ends_the_others(raw_server: RawServer, face: Face) -> None:
    """Its error is raised at once, and they are cancelled."""
    crowd = Crowd(raw_server, 8)

    def steps(request: bytes) -> list[Step]:
        if body_of(request)["input"] == [MANY[5]]:
            crowd(request)
            return [json_answer({"error": {"message": "not this one"}}, "400 Bad Request")]
        crowd(request)
        return [raw_server.hold]

    raw_server.steps = steps
    began = time.monotonic()
    with pytest.raises(BadRequestError, match="not this one") as caught:
        face.call(client_of(raw_server, **ONE_EACH), "embed", MANY, dimensions=SIZE)
    assert time.monotonic() - began < 5
    assert caught.value.attempts == 1
    assert len(raw_server.requests) == 8
    until_closed(raw_server)


def test_each_request_has_its_attempts(raw_server: RawServer, face: Face) -> None:
    """One that fails in passing is made again, and only that one."""
    failed: set[str] = set()

    def steps(request: bytes) -> list[Step]:
        (text,) = body_of(request)["input"]
        if text in MANY[3:5] and text not in failed:
            failed.add(text)
            return [json_answer({}, "503 Busy"), None]
        return [embedded(request), None]

    raw_server.steps = steps
    client = client_of(raw_server, retry=Retry(2, 0), **ONE_EACH)
    assert list(face.call(client, "embed", MANY, dimensions=SIZE)) == list(map(vector_of, MANY))
    assert len(raw_server.requests) == 22


class Interrupted(Exception):
    """What a signal handler of this file raises."""


def test_an_interrupt_ends_all(raw_server: RawServer) -> None:
    """What comes to the waiting thread from outside, as Ctrl-C does, comes through when all requests have ended."""
    crowd = Crowd(raw_server, 8)

    def steps(request: bytes) -> list[Step]:
        crowd(request)
        return [raw_server.hold]

    struck = threading.Event()

    def interrupt(*_: object) -> None:
        if not struck.is_set():
            struck.set()
            raise Interrupted

    def send() -> None:
        crowd.wait()
        signal.pthread_kill(main, signal.SIGUSR1)
        # One that comes just before a lock is waited for does not end that wait: Python looks for signals first.
        while not struck.wait(1):
            signal.pthread_kill(main, signal.SIGUSR1)

    raw_server.steps = steps
    main = threading.get_ident()
    before = signal.signal(signal.SIGUSR1, interrupt)
    sender = threading.Thread(target=send)
    sender.start()
    began = time.monotonic()
    try:
        with pytest.raises(Interrupted):
            client_of(raw_server, **ONE_EACH).embed(MANY, dimensions=SIZE)
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, before)
    assert time.monotonic() - began < 5
    assert len(raw_server.requests) == 8
    until_closed(raw_server)


@backends
def test_a_cancelled_task_ends_all(raw_server: RawServer, backend: str) -> None:
    """It goes on at once, and no request is left behind."""
    crowd = Crowd(raw_server, 8)

    def steps(request: bytes) -> list[Step]:
        crowd(request)
        return [raw_server.hold]

    raw_server.steps = steps

    async def main() -> float:
        client = AsyncClient(KEY, base_url=raw_server.url, retry=None, **ONE_EACH)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: client.embed(MANY, dimensions=SIZE))
            await anyio.to_thread.run_sync(crowd.wait)
            began = time.monotonic()
            tasks.cancel_scope.cancel()
        return time.monotonic() - began

    assert run(backend, main) < 1
    assert len(raw_server.requests) == 8
    until_closed(raw_server)


# What comes back ----------------------------------------------------------------------------------------------


@pytest.fixture
def made(server: RawServer) -> Iterator[Embeddings]:
    """The embeddings of three texts."""
    return client_of(server).embed(["a", "b", "c"])


def test_embeddings_are_a_sequence_of_lists(made: Embeddings) -> None:
    """They have a length, indices and slices, and can be gone through; each vector is a list of floats."""
    vectors = [vector_of(text) for text in "abc"]
    assert isinstance(made, Sequence)
    assert (len(made), made[0], made[-1], made[1:], list(reversed(made))) == (
        3,
        vectors[0],
        vectors[-1],
        vectors[1:],
        vectors[::-1],
    )
    assert vectors[1] in made
    assert type(made[0]) is list
    assert type(made[0][0]) is float
    with pytest.raises(IndexError):
        made[3]


def test_embeddings_pickle_and_compare(made: Embeddings) -> None:
    """They go to other processes, and are the same there."""
    copied = pickle.loads(pickle.dumps(made))
    assert copied == made
    assert copied != Embeddings()
    assert list(copied) == list(made)
    assert repr(made) == (
        f"<Embeddings: 3 of {SIZE} numbers, model='text-embedding-3-small-1', usage={Usage(3, 0, 3)}>"
    )


@pytest.mark.skipif(numpy is None, reason="needs numpy")
@pytest.mark.parametrize(("write", "kind"), [(as_base64, "float32"), (list, "float64")])
def test_embeddings_are_an_array_of_numpy_s(raw_server: RawServer, write: Write, kind: str) -> None:
    """A row for each text; as exact as what the server sent."""
    raw_server.steps = lambda request: [embedded(request, write), None]
    array = client_of(raw_server).embed(["a", "b"]).numpy()
    assert (array.shape, array.dtype) == ((2, SIZE), numpy.dtype(kind))
    assert array.tolist() == [vector_of("a"), vector_of("b")]
    assert Embeddings().numpy().shape == (0, 0)


def test_without_numpy_there_is_no_array(made: Embeddings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(RuntimeError, match="pip install numpy"):
        made.numpy()
