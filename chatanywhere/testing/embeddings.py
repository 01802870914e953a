"""Embeddings: made-up vectors of length 1, the same for the same text, and how OpenAI's protocol writes them.

A vector is put together from blocks that have been written before, each in both formats, and a hash of the text picks
them: ten thousand vectors take a moment, so that a client can be measured against this server.
"""

from __future__ import annotations

import functools
import hashlib
import math
import random
import struct
from binascii import b2a_base64
from collections.abc import Mapping
from typing import Any

from .options import read_choice, read_number, read_texts
from .replies import words
from .request import ParameterError
from .writer import to_json

MODELS = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}
"""Models, and how many numbers their vectors have; any other has as many as the first."""

# The most that OpenAI takes.
_INPUTS = 2048
_TOKENS = 8192  # of one input
_TOTAL_TOKENS = 300_000

_BLOCK = 64  # numbers
_BYTE = 256  # blocks, for a byte of the hash to pick from


def embed(fields: Mapping[str, Any], model: str) -> tuple[bytes, int]:
    """Return the answer to a request for embeddings, and how many tokens it took.

    Raises:
        ParameterError: it is a request that OpenAI refuses.
    """
    inputs = read_texts(fields, "input", _INPUTS)
    encoding = read_choice(fields, "encoding_format", "float", "base64") or "float"
    size = read_number(fields, "dimensions", 1, MODELS.get(model, 1536))
    if size is not None and model == "text-embedding-ada-002":
        raise ParameterError("dimensions", "This model does not support specifying dimensions.")
    size = size or MODELS.get(model, 1536)
    counts = [len(words(each)) if isinstance(each, str) else len(each) for each in inputs]
    for count in counts:
        if count > _TOKENS:
            message = f"This model's maximum context length is {_TOKENS} tokens, however you requested {count} tokens."
            raise ParameterError("input", message)
    tokens = sum(counts)
    if tokens > _TOTAL_TOKENS:
        message = f"Invalid 'input': maximum request size is {_TOTAL_TOKENS} tokens per request."
        raise ParameterError("input", message, "max_tokens_per_request")
    items = b", ".join(
        b'{"object": "embedding", "index": %d, "embedding": %b}' % (index, _vector(f"{model} {each}", size, encoding))
        for index, each in enumerate(inputs)
    )
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    head = to_json({"object": "list", "model": model, "usage": usage})
    return b'%b, "data": [%b]}' % (head[:-1], items), tokens


def _vector(text: str, size: int, encoding: str) -> bytes:
    """Return the vector of a text in JSON."""
    blocks = -(-size // _BLOCK)
    picked = hashlib.shake_128(text.encode(errors="surrogatepass")).digest(blocks)
    binary, written = _blocks(size)
    if size % _BLOCK:  # the last block is cut, so the rest has to make up for it
        values = struct.unpack(f"<{size}f", b"".join(binary[byte] for byte in picked)[: 4 * size])
        length = math.hypot(*values)
        vector = struct.pack(f"<{size}f", *(value / length for value in values))
        values = struct.unpack(f"<{size}f", vector)
        return b'"%b"' % b2a_base64(vector, newline=False) if encoding == "base64" else to_json(values)
    if encoding == "base64":
        return b'"%b"' % b2a_base64(b"".join([binary[byte] for byte in picked]), newline=False)
    return b"[%b]" % b", ".join([written[byte] for byte in picked])


@functools.lru_cache(maxsize=8)
def _blocks(size: int) -> tuple[list[bytes], list[bytes]]:
    """Return the blocks of vectors of a size, as little-endian numbers of 4 bytes, and the same numbers in JSON."""
    numbers = random.Random(size)  # noqa: S311  nothing is kept secret by it
    share = math.sqrt(_BLOCK / size)  # the length of a block in a vector of length 1
    binary = []
    written = []
    for _ in range(_BYTE):
        values = [numbers.uniform(-1, 1) for _ in range(_BLOCK)]
        length = math.hypot(*values)
        block = struct.pack(f"<{_BLOCK}f", *(value / length * share for value in values))
        binary.append(block)
        written.append(to_json(struct.unpack(f"<{_BLOCK}f", block))[1:-1])
    return binary, written
