"""Embeddings: how texts are split over requests, and what the answers come to. Knows no client."""

from __future__ import annotations

import base64
import binascii
import itertools
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import Any, overload

from ._errors import ProtocolError
from ._group import CallGroup
from ._policy import RetryLike, TimeoutLike
from ._protocols.fields import read_usage, text_or_none
from ._protocols.head import AnswerHead
from ._protocols.protocol import Endpoint, JSONDecoder
from ._service import Service
from ._types import Usage

MAX_TEXTS = 2048
"""Texts of one request: OpenAI's limit, and the one that other servers have taken over."""

MAX_TOKENS = 300_000
"""Tokens of all texts of one request, by OpenAI's limit."""

_BYTES_PER_TOKEN = 2  # in UTF-8; English text has about four of them, Chinese more than two

MAX_ANSWER = 64 * 1024 * 1024
"""Bytes that the answer to one request is planned to have."""

_LONG = 256  # bytes of a vector in Base64 that is not read as JSON, which takes longer
_TURN = 100  # vectors that are read between two pauses
_BYTES_PER_NUMBER = 22  # of an answer, where a server writes numbers as text; in Base64 they are 5.3
_DIMENSIONS = {"text-embedding-3-small": 1536, "text-embedding-ada-002": 1536}
_MOST_DIMENSIONS = 3072  # of text-embedding-3-large, and assumed of models that are not known


@dataclass(frozen=True, repr=False)
class Embeddings(Sequence[list[float]]):
    """The vectors of some texts, in the order of the texts: a sequence of lists of floats.

    A list is made when it is asked for; what is kept is four bytes a number (eight if the server sent them as text).

    Attributes:
        model: that made them, as the service calls it, else as it was asked for.
        usage: the tokens of all requests; None if the service does not tell.
    """

    _vectors: tuple[array[float], ...] = field(default=(), hash=False)
    model: str | None = None
    usage: Usage | None = None

    @overload
    def __getitem__(self, index: int) -> list[float]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[float]]: ...
    def __getitem__(self, index: int | slice) -> list[float] | list[list[float]]:
        if isinstance(index, slice):
            return [vector.tolist() for vector in self._vectors[index]]
        return self._vectors[index].tolist()

    def __len__(self) -> int:
        return len(self._vectors)

    def __iter__(self) -> Iterator[list[float]]:
        return map(array.tolist, self._vectors)

    def __repr__(self) -> str:
        size = f" of {len(self._vectors[0])} numbers" if self._vectors else ""
        return f"<Embeddings: {len(self)}{size}, model={self.model!r}, usage={self.usage!r}>"

    def _repr_markdown_(self) -> str:
        """What a notebook shows."""
        from ._markdown import table

        tokens = None if self.usage is None else self.usage.total_tokens
        numbers = len(self._vectors[0]) if self._vectors else None
        return table(["Model", "Vectors", "Numbers", "Tokens"], [(self.model, len(self), numbers, tokens)])

    def numpy(self) -> Any:
        """Return them as a numpy array, a row for each text: `float32`, or `float64` if the server sent text.

        Raises:
            RuntimeError: numpy is not installed.
            ValueError: the vectors have different lengths.
        """
        try:
            import numpy
        except ImportError as exc:
            raise RuntimeError("numpy is not installed: `pip install numpy`, or use the lists") from exc
        if not self._vectors:
            return numpy.empty((0, 0), numpy.float32)
        return numpy.stack([numpy.asarray(vector) for vector in self._vectors])


def embedding_calls(
    service: Service,
    texts: str | Iterable[str],
    model: str,
    dimensions: int | None,
    *,
    timeout: TimeoutLike,
    retry: RetryLike,
    headers: Mapping[str, str] | None,
) -> CallGroup[Embeddings]:
    """Prepare the calls that make the vectors of texts; see `Client.embed`. What they come to is to be `joined`.

    Raises:
        TypeError, ValueError: an argument can't be sent.
    """
    if not isinstance(model, str) or not model:
        raise TypeError("model must be a str such as 'text-embedding-3-small'")
    if dimensions is not None and (not isinstance(dimensions, int) or isinstance(dimensions, bool)):
        raise TypeError(f"dimensions must be an int, not {type(dimensions).__name__}")
    if dimensions is not None and dimensions < 1:
        raise ValueError(f"dimensions={dimensions}: at least 1, or None for the model's own")
    parts = _split(_checked(texts), model, dimensions, service.settings.largest_response())
    ask = partial(service.ask, timeout=timeout, retry=retry, headers=headers, names=(model,))
    return CallGroup(
        [partial(ask, _embeddings(len(part)), _body(part, model, dimensions)) for part in parts],
        service.settings.limits(timeout),
    )


def _checked(texts: str | Iterable[str]) -> list[str]:
    """Read what a caller passes as texts; a str is one of them.

    Raises:
        TypeError, ValueError: one can't be sent; the message names its index.
    """
    if isinstance(texts, str):
        texts = [texts]
    if isinstance(texts, (bytes, bytearray, memoryview)) or not isinstance(texts, Iterable):
        raise TypeError(f"texts must be a str or an iterable of str, not {type(texts).__name__}")
    checked = list(texts)
    for index, text in enumerate(checked):
        if not isinstance(text, str):
            raise TypeError(f"texts[{index}] must be a str, not {type(text).__name__}")
        if not text:
            raise ValueError(f"texts[{index}] is empty, which services refuse: leave it out")
    return checked


def _split(texts: Sequence[str], model: str, dimensions: int | None, max_bytes: int | None) -> Iterator[Sequence[str]]:
    """Yield the texts of each request: as many as servers take, and as the answer may be large.

    A text with more tokens than the model takes (8,192 for OpenAI's) is not cut: the service says so. `max_bytes` is
    the largest answer that is accepted, None for no limit.
    """
    numbers = dimensions or _DIMENSIONS.get(model, _MOST_DIMENSIONS)
    largest = min(MAX_ANSWER, max_bytes or MAX_ANSWER) // (numbers * _BYTES_PER_NUMBER)
    most = max(1, min(MAX_TEXTS, largest))
    sizes = (len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass")) for text in texts)
    start, tokens = 0, 0
    for index, size in enumerate(sizes):
        tokens += 1 + size // _BYTES_PER_TOKEN
        if index > start and (index - start == most or tokens > MAX_TOKENS):
            yield texts[start:index]
            start, tokens = index, 1 + size // _BYTES_PER_TOKEN
    if texts:
        yield texts[start:]


def _body(texts: Sequence[str], model: str, dimensions: int | None) -> dict[str, Any]:
    """The JSON of one request."""
    size = {} if dimensions is None else {"dimensions": dimensions}
    return {"model": model, "input": texts, **size, "encoding_format": "base64"}


def _embeddings(count: int) -> Endpoint[Embeddings]:
    """Return the endpoint that makes `count` vectors of as many texts."""
    return Endpoint(
        "POST",
        "/embeddings",
        lambda head, max_json: _EmbeddingsDecoder(count, max_json, head),
        added=("encoding_format",),
        max_json=2 * MAX_ANSWER,  # the model may have more dimensions than was thought
        silent=True,
        operation="embeddings",
    )


class _EmbeddingsDecoder(JSONDecoder[Embeddings]):
    """Reads the answer to one request, which is long strings for the most part."""

    def __init__(self, count: int, max_json: int, head: AnswerHead) -> None:
        self._vectors: list[array[float]] = []
        super().__init__(partial(_read, count, self._vectors), f"the embeddings of {count} texts", max_json, head)

    def finish(self, events: list[Embeddings]) -> Iterator[None]:
        try:
            for string in self._text.set_aside(b"embedding", _LONG):
                self._vectors.append(_floats(string))
                if not len(self._vectors) % _TURN:
                    yield
        except ValueError as exc:
            if type(exc) is not ValueError:  # a signal handler's
                raise
            raise ProtocolError(f"the answer is not {self._what}: a vector is not floats in Base64") from exc
        yield from super().finish(events)


def _read(count: int, vectors: Sequence[array[float]], answer: Any) -> Embeddings:
    """Read an answer to as many texts, of whose vectors some have been read already."""
    items = answer["data"]
    if not isinstance(items, list) or len(items) != count:
        raise ValueError("not as many vectors as there were texts")
    if all(isinstance(item.get("index"), int) for item in items):
        items = sorted(items, key=itemgetter("index"))
    made = tuple(_vector(item["embedding"], vectors) for item in items)
    if not all(made):
        raise ValueError("a vector is empty")
    usage = answer.get("usage")
    return Embeddings(
        made,
        text_or_none(answer.get("model")),
        read_usage(usage) if isinstance(usage, dict) else None,
    )


def _vector(value: Any, vectors: Sequence[array[float]]) -> array[float]:
    """Read a vector: in Base64, perhaps set aside; or a list of numbers, from servers that have no such."""
    if not isinstance(value, str):
        return array("d", value)
    return vectors[int(value[1:])] if value[:1] == "@" else _floats(value)


def _floats(encoded: str | bytearray) -> array[float]:
    """Read 32-bit floats, little-endian, in Base64."""
    vector = array("f")
    try:
        vector.frombytes(base64.b64decode(encoded, validate=True))
    except binascii.Error as exc:
        raise ValueError("not Base64") from exc
    if sys.byteorder == "big":
        vector.byteswap()
    return vector


def joined(parts: Sequence[Embeddings], model: str) -> Embeddings:
    """Return the vectors of several requests as one, with what all of them cost."""
    usages = [part.usage for part in parts if part.usage is not None]
    usage = Usage(
        sum(each.prompt_tokens for each in usages),
        sum(each.completion_tokens for each in usages),
        sum(each.total_tokens for each in usages),
        sum(each.cached_tokens for each in usages),
    )
    named = (part.model for part in parts if part.model is not None)
    vectors = tuple(itertools.chain.from_iterable(part._vectors for part in parts))
    return Embeddings(vectors, next(named, model), usage if usages or not parts else None)
