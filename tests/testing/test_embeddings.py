"""The vectors that the server makes up."""

from __future__ import annotations

import array
import base64
import math
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from asking import post, refusal
from hypothesis import given
from hypothesis import strategies as st

from chatanywhere.testing import LoopbackServer


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as server:
        yield server


def embed(server: LoopbackServer, given_input: Any, **options: Any) -> dict[str, Any]:
    response = post(server, "/v1/embeddings", {"model": "text-embedding-3-small", "input": given_input, **options})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert answer["object"] == "list"
    assert [each["index"] for each in answer["data"]] == [*range(len(answer["data"]))]
    assert {each["object"] for each in answer["data"]} == {"embedding"}
    return answer


def vectors(answer: dict[str, Any]) -> list[list[float]]:
    """The vectors of an answer in either format."""
    found = []
    for each in answer["data"]:
        vector = each["embedding"]
        if isinstance(vector, str):
            numbers = array.array("f", base64.b64decode(vector, validate=True))
            if sys.byteorder == "big":
                numbers.byteswap()
            vector = numbers.tolist()
        found.append(vector)
    return found


@given(texts=st.lists(st.text(min_size=1), min_size=1, max_size=4, unique=True))
def test_the_same_text_has_the_same_vector(server: LoopbackServer, texts: list[str]) -> None:
    """A vector depends on the text alone, neither on the server nor on the texts beside it, and texts differ."""
    found = vectors(embed(server, texts))
    assert vectors(embed(server, texts[::-1])) == found[::-1]
    assert vectors(embed(server, texts[0])) == found[:1]
    assert len({tuple(vector) for vector in found}) == len(texts)
    with LoopbackServer() as other:
        assert vectors(embed(other, texts)) == found


@given(size=st.integers(1, 1536) | st.just(None), encoding=st.sampled_from(["float", "base64"]))
def test_vectors_have_length_1_in_every_size(server: LoopbackServer, size: int | None, encoding: str) -> None:
    """A vector has as many numbers as asked for, and its length is 1."""
    options = {} if size is None else {"dimensions": size}
    (vector,) = vectors(embed(server, "Hello", encoding_format=encoding, **options))
    assert len(vector) == (size or 1536)
    assert math.hypot(*vector) == pytest.approx(1, abs=1e-6)


@given(size=st.integers(1, 1536))
def test_both_formats_hold_the_same_numbers(server: LoopbackServer, size: int) -> None:
    """Floats are those that base64 has, as little-endian numbers of four bytes."""
    plain = embed(server, ["Hello", "你好"], dimensions=size, encoding_format="float")
    packed = embed(server, ["Hello", "你好"], dimensions=size, encoding_format="base64")
    assert all(isinstance(each["embedding"], list) for each in plain["data"])
    assert all(isinstance(each["embedding"], str) for each in packed["data"])
    assert vectors(plain) == vectors(packed)


def test_floats_are_the_format_unless_asked_otherwise(server: LoopbackServer) -> None:
    """Without `encoding_format` a vector is an array."""
    assert isinstance(embed(server, "Hello")["data"][0]["embedding"], list)


def test_models_differ_in_size_and_vectors(server: LoopbackServer) -> None:
    """The large model has longer vectors, another model of the same size others, and the answer names the model."""
    names = ["text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002", "of my own"]
    answers = [embed(server, "Hello", model=name) for name in names]
    assert [answer["model"] for answer in answers] == names
    assert [len(vectors(answer)[0]) for answer in answers] == [1536, 3072, 1536, 1536]
    assert len({tuple(vectors(answer)[0][:8]) for answer in answers}) == 4


@pytest.mark.parametrize(
    ("given_input", "number", "tokens"),
    [
        ("two words", 1, 2),
        (["two words", "one"], 2, 3),
        ("你好", 1, 2),
        ([1, 2, 3], 1, 3),
        ([[1, 2, 3], [4]], 2, 4),
        (["x"] * 2048, 2048, 2048),
    ],
)
def test_every_form_of_input_is_taken_and_counted(
    server: LoopbackServer, given_input: Any, number: int, tokens: int
) -> None:
    """A text, texts, tokens, and lists of tokens have a vector each, and the usage counts words or tokens."""
    answer = embed(server, given_input, dimensions=8)
    assert len(answer["data"]) == number
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_tokens_have_vectors_of_their_own(server: LoopbackServer) -> None:
    """The same tokens have the same vector, whether alone or among others."""
    (alone,) = vectors(embed(server, [1, 2]))
    first, second = vectors(embed(server, [[1, 2], [2, 1]]))
    assert first == alone != second


@pytest.mark.parametrize(
    ("options", "param", "code"),
    [
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": ""}, "input", "invalid_value"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": ["a", ""]}, "input", "invalid_value"),
        ({"input": [[]]}, "input", "invalid_value"),
        ({"input": ["a"] * 2049}, "input", "array_above_max_length"),
        ({"input": ["a ", 1]}, "input", "invalid_type"),
        ({"input": ["a", [1]]}, "input", "invalid_type"),
        ({"input": [1.5]}, "input", "invalid_type"),
        ({"input": [True]}, "input", "invalid_type"),
        ({"input": [1, "a"]}, "input", "invalid_type"),
        ({"input": {"a": 1}}, "input", "invalid_type"),
        ({"input": 5}, "input", "invalid_type"),
        ({"input": "a " * 8193}, "input", None),
        ({"input": ["a " * 8000] * 38}, "input", "max_tokens_per_request"),
        ({"dimensions": 0}, "dimensions", "integer_below_min_value"),
        ({"dimensions": 1537}, "dimensions", "integer_above_max_value"),
        ({"dimensions": "8"}, "dimensions", "invalid_type"),
        ({"dimensions": 8, "model": "text-embedding-ada-002"}, "dimensions", None),
        ({"encoding_format": "hex"}, "encoding_format", "invalid_value"),
        ({"encoding_format": 5}, "encoding_format", "invalid_type"),
        ({"model": None}, "model", "missing_required_parameter"),
        ({"model": 5}, "model", "invalid_type"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_openai_refuses_is_refused(
    server: LoopbackServer, options: dict[str, Any], param: str, code: str | None
) -> None:
    """Empty, oversized and malformed requests have status 400, with their parameter and code."""
    body = {"model": "text-embedding-3-small", "input": "Hello", **options}
    error = refusal(post(server, "/v1/embeddings", body))
    assert (error["param"], error["code"]) == (param, code)


def test_a_key_is_needed(server: LoopbackServer) -> None:
    """Without a bearer's key the status is 401."""
    assert post(server, "/v1/embeddings", {"model": "m", "input": "Hello"}, key="").status_code == 401


def test_many_texts_take_a_moment(server: LoopbackServer) -> None:
    """Ten thousand short texts take so little of the processor's time that a client can be measured against them."""
    texts = [f"short text number {number}" for number in range(10_000)]
    began = time.process_time()
    for start in range(0, len(texts), 2000):
        body = {"model": "m", "input": texts[start : start + 2000], "encoding_format": "base64"}
        assert post(server, "/v1/embeddings", body).status_code == 200
    assert time.process_time() - began < 5
