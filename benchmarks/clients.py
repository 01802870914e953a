"""The clients that are compared, as they are by default. Each reads one answer and returns the number of its pieces.

Importing this module imports none of them: a sample imports the one that it measures.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

MESSAGES = [{"role": "user", "content": "Hello"}]
KEY = "sk-benchmark"
TOKEN = "token "

Reader = Callable[[], Awaitable[int]]


def chatanywhere_async(url: str) -> tuple[Reader, Callable[[], Awaitable[None]]]:
    """The async client of this package."""
    from chatanywhere import AsyncClient

    client = AsyncClient(KEY, base_url=f"{url}/v1")

    async def read() -> int:
        size = 0
        async with client.stream(MESSAGES) as stream:
            async for text in stream:  # pieces that have come together are one
                size += len(text)
        return size // len(TOKEN)

    return read, client.aclose


def hop_per_piece(url: str) -> tuple[Reader, Callable[[], Awaitable[None]]]:
    """The obvious way to use a blocking client on an event loop: a worker thread for each piece."""
    import anyio
    import anyio.to_thread

    from chatanywhere import Client

    client = Client(KEY, base_url=f"{url}/v1")

    async def read() -> int:
        limiter = anyio.CapacityLimiter(1)
        stream = await anyio.to_thread.run_sync(client.stream, MESSAGES, limiter=limiter)
        size = 0
        while (text := await anyio.to_thread.run_sync(next, stream, "", limiter=limiter)) != "":
            size += len(text)
        return size // len(TOKEN)

    async def close() -> None:
        client.close()

    return read, close


def aiohttp(url: str) -> tuple[Reader, Callable[[], Awaitable[None]]]:
    """Aiohttp's line iterator, and json."""
    import aiohttp

    session = None

    async def read() -> int:
        nonlocal session
        if session is None:
            session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        count = 0
        async with session.post(f"{url}/v1/chat/completions", json={"messages": MESSAGES}) as response:
            async for line in response.content:
                if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                    count += 1
        return count

    async def close() -> None:
        if session is not None:
            await session.close()

    return read, close


def openai_async(url: str) -> tuple[Reader, Callable[[], Awaitable[None]]]:
    """The OpenAI SDK's async client."""
    from openai import AsyncOpenAI

    client = AsyncOpenAI(api_key=KEY, base_url=f"{url}/v1")

    async def read() -> int:
        count = 0
        stream: AsyncIterator[Any] = await client.chat.completions.create(
            model="gpt-4o-mini",
            messages=MESSAGES,  # type: ignore[arg-type]
            stream=True,
        )
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                count += 1
        return count

    return read, client.close


def aiohttp_text(url: str) -> tuple[Reader, Callable[[], Awaitable[None]]]:
    """aiohttp as the original provider used it: `iter_any` and `decode`."""
    import aiohttp

    session = None

    async def read() -> int:
        nonlocal session
        if session is None:
            session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        size = 0
        async with session.post(f"{url}/v1/chat/gpt/", json={"list": MESSAGES}) as response:
            async for block in response.content.iter_any():
                size += len(block.decode())
        return size // len(TOKEN)

    async def close() -> None:
        if session is not None:
            await session.close()

    return read, close


def asyncio_streams(url: str) -> tuple[Reader, Callable[[], Awaitable[None]]]:
    """As little as possible: asyncio's own streams and json, with no thought of limits or errors."""
    import asyncio

    host, _, path = url.partition("//")[2].partition("/")
    name, _, port = host.partition(":")

    async def read() -> int:
        reader, writer = await asyncio.open_connection(name, int(port))
        writer.write(f"POST /{path}/v1/chat/completions HTTP/1.1\r\nContent-Length: 0\r\n\r\n".encode())
        count = 0
        while (line := await reader.readline()) != b"data: [DONE]\n":
            if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                count += 1
        writer.close()
        return count

    async def close() -> None:
        pass

    return read, close


ASYNC: dict[str, Callable[[str], tuple[Reader, Callable[[], Awaitable[None]]]]] = {
    "chatanywhere": chatanywhere_async,
    "a thread per piece": hop_per_piece,
    "asyncio streams": asyncio_streams,
    "aiohttp": aiohttp,
    "aiohttp iter_any": aiohttp_text,
    "AsyncOpenAI": openai_async,
}


# Blocking -----------------------------------------------------------------------------------------------------

BlockingReader = Callable[[], int]


def chatanywhere(url: str, **settings: Any) -> BlockingReader:
    """The blocking client of this package."""
    from chatanywhere import Client

    client = Client(KEY, base_url=f"{url}/v1", **settings)

    def read() -> int:
        size = 0
        with client.stream(MESSAGES) as stream:
            for text in stream:
                size += len(text)
        return size // len(TOKEN)

    return read


def chatanywhere_web(url: str, *, keep_text: bool = True) -> BlockingReader:
    """The same on the `web` protocol."""
    from chatanywhere import Client

    client = Client(base_url=url, protocol="web", max_response_bytes=None)

    def read() -> int:
        size = 0
        with client.stream(MESSAGES, keep_text=keep_text) as stream:
            for text in stream:
                size += len(text)
        return size // len(TOKEN)

    return read


def openai(url: str, **settings: Any) -> BlockingReader:
    """The OpenAI SDK."""
    ask = openai_pieces(url, **settings)
    return lambda: sum(1 for _ in ask())


def iter_lines(url: str) -> BlockingReader:
    """The library requests: `iter_lines` and json."""
    import requests

    session = requests.Session()

    def read() -> int:
        count = 0
        body = {"messages": MESSAGES}
        with session.post(f"{url}/v1/chat/completions", json=body, stream=True) as response:
            for line in response.iter_lines():
                if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                    count += 1
        return count

    return read


def iter_content(url: str, *, keep_text: bool = False) -> BlockingReader:
    """The library requests: `iter_content(None)`, of text."""
    import requests

    session = requests.Session()

    def read() -> int:
        size = 0
        kept = []
        with session.post(f"{url}/v1/chat/gpt/", json={"list": MESSAGES}, stream=True) as response:
            response.encoding = "utf-8"
            for text in response.iter_content(None, decode_unicode=True):
                size += len(text)
                if keep_text:
                    kept.append(text)
        return size // len(TOKEN)

    return read


def httpx_sse(url: str) -> BlockingReader:
    """httpx and httpx-sse, and json."""
    import httpx
    from httpx_sse import connect_sse

    client = httpx.Client(timeout=None)

    def read() -> int:
        count = 0
        with connect_sse(client, "POST", f"{url}/v1/chat/completions", json={"messages": MESSAGES}) as source:
            for event in source.iter_sse():
                if event.data != "[DONE]" and json.loads(event.data)["choices"][0]["delta"].get("content"):
                    count += 1
        return count

    return read


def httpx_text(url: str) -> BlockingReader:
    """httpx and `iter_text`."""
    import httpx

    client = httpx.Client(timeout=None)

    def read() -> int:
        size = 0
        with client.stream("POST", f"{url}/v1/chat/gpt/", json={"list": MESSAGES}) as response:
            for text in response.iter_text():
                size += len(text)
        return size // len(TOKEN)

    return read


def raw_socket(url: str) -> BlockingReader:
    """As little as possible: a socket, `split` and json. It knows nothing of limits, errors or UTF-8."""
    return _raw_socket(url, json.loads)


def raw_socket_orjson(url: str) -> BlockingReader:
    """The same with orjson."""
    import orjson

    return _raw_socket(url, orjson.loads)


def _raw_socket(url: str, loads: Callable[[bytes], Any]) -> BlockingReader:
    import socket

    host, _, path = url.partition("//")[2].partition("/")
    name, _, port = host.partition(":")

    def read() -> int:
        with socket.create_connection((name, int(port))) as sock:
            sock.sendall(f"POST /{path}/v1/chat/completions HTTP/1.1\r\nContent-Length: 0\r\n\r\n".encode())
            count = 0
            rest = b""
            while True:
                rest += sock.recv(65536)
                lines = rest.split(b"\n")
                rest = lines.pop()
                for line in lines:
                    if line.startswith(b"data: {"):
                        if loads(line[6:])["choices"][0]["delta"].get("content"):
                            count += 1
                    elif line == b"data: [DONE]":
                        return count

    return read


BLOCKING: dict[str, Callable[[str], BlockingReader]] = {
    "chatanywhere": chatanywhere,
    "chatanywhere web": chatanywhere_web,
    "chatanywhere web, keep_text=False": functools.partial(chatanywhere_web, keep_text=False),
    "chatanywhere, timeout=None": functools.partial(chatanywhere, timeout=None),
    "OpenAI": openai,
    "OpenAI, timeout=None": functools.partial(openai, timeout=None),
    "iter_lines": iter_lines,
    "iter_content": iter_content,
    "iter_content, text kept": functools.partial(iter_content, keep_text=True),
    "httpx-sse": httpx_sse,
    "httpx": httpx_text,
    "raw socket": raw_socket,
    "raw socket, orjson": raw_socket_orjson,
}


# Blocking, one piece at a time --------------------------------------------------------------------------------

Asker = Callable[[], Iterator[str]]


def chatanywhere_pieces(url: str) -> Asker:
    """The blocking client of this package."""
    from chatanywhere import Client

    client = Client(KEY, base_url=f"{url}/v1")
    return lambda: client.stream(MESSAGES)


def openai_pieces(url: str, **settings: Any) -> Asker:
    """The OpenAI SDK."""
    from openai import OpenAI

    client = OpenAI(api_key=KEY, base_url=f"{url}/v1", **settings)

    def ask() -> Iterator[str]:
        stream: Any = client.chat.completions.create(model="m", messages=MESSAGES, stream=True)  # type: ignore[call-overload]
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                yield chunk.choices[0].delta.content

    return ask


def requests_pieces(url: str) -> Asker:
    """The library requests: `iter_lines` and json.

    Each thread has a session of its own, for a session is not made for threads, and one that is shared by more than ten
    throws connections away that the next call could use.
    """
    import requests

    class Local(threading.local):
        def __init__(self) -> None:
            self.session = requests.Session()

    local = Local()

    def ask() -> Iterator[str]:
        body = {"messages": MESSAGES}
        with local.session.post(f"{url}/v1/chat/completions", json=body, stream=True) as response:
            for line in response.iter_lines():
                if line.startswith(b"data: {") and (text := _content(line[6:])):
                    yield text

    return ask


def httpx_pieces(url: str) -> Asker:
    """httpx, `iter_lines` and json."""
    import httpx

    client = httpx.Client()

    def ask() -> Iterator[str]:
        body = {"messages": MESSAGES}
        with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
            for line in response.iter_lines():
                if line.startswith("data: {") and (text := _content(line[6:])):
                    yield text

    return ask


def _content(event: str | bytes) -> str | None:
    """Return the text of an event. The one that has the usage has no choices."""
    choices = json.loads(event)["choices"]
    text: str | None = choices[0]["delta"].get("content") if choices else None
    return text


PIECES: dict[str, Callable[[str], Asker]] = {
    "chatanywhere": chatanywhere_pieces,
    "OpenAI": openai_pieces,
    "requests": requests_pieces,
    "httpx iter_lines": httpx_pieces,
}


# Async, whole answers -----------------------------------------------------------------------------------------

Answerer = Callable[[], Awaitable[str]]
Closer = Callable[[], Awaitable[None]]


def chatanywhere_answer(url: str) -> tuple[Answerer, Closer]:
    """The async client of this package, streaming."""
    from chatanywhere import AsyncClient

    client = AsyncClient(KEY, base_url=f"{url}/v1")

    async def ask() -> str:
        async with client.stream(MESSAGES) as stream:
            return "".join([text async for text in stream])

    return ask, client.aclose


def chatanywhere_complete(url: str) -> tuple[Answerer, Closer]:
    """The same, `complete()`."""
    from chatanywhere import AsyncClient

    client = AsyncClient(KEY, base_url=f"{url}/v1")

    async def ask() -> str:
        return (await client.complete(MESSAGES)).text

    return ask, client.aclose


def aiohttp_answer(url: str) -> tuple[Answerer, Closer]:
    """Aiohttp's line iterator, and json; as many connections as there are calls (it has 100 at most by default)."""
    import aiohttp

    session = None

    async def ask() -> str:
        nonlocal session
        if session is None:
            session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        pieces = []
        async with session.post(f"{url}/v1/chat/completions", json={"messages": MESSAGES}) as response:
            async for line in response.content:
                if line.startswith(b"data: {") and (text := _content(line[6:])):
                    pieces.append(text)
        return "".join(pieces)

    async def close() -> None:
        if session is not None:
            await session.close()

    return ask, close


def openai_answer(url: str) -> tuple[Answerer, Closer]:
    """The OpenAI SDK's async client, streaming."""
    from openai import AsyncOpenAI

    client = AsyncOpenAI(api_key=KEY, base_url=f"{url}/v1")

    async def ask() -> str:
        stream: AsyncIterator[Any] = await client.chat.completions.create(
            model="gpt-4o-mini",
            messages=MESSAGES,  # type: ignore[arg-type]
            stream=True,
        )
        chunks = [chunk async for chunk in stream]
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    return ask, client.close


ANSWERS: dict[str, Callable[[str], tuple[Answerer, Closer]]] = {
    "chatanywhere": chatanywhere_answer,
    "chatanywhere complete()": chatanywhere_complete,
    "aiohttp": aiohttp_answer,
    "AsyncOpenAI": openai_answer,
}


# Embeddings ---------------------------------------------------------------------------------------------------

Embedder = Callable[[list[str]], Any]
"""Returns a vector for each text."""


def chatanywhere_embeddings(url: str) -> Embedder:
    """The blocking client of this package; it makes lists when they are asked for."""
    from chatanywhere import Client

    return Client(KEY, base_url=f"{url}/v1").embed


def chatanywhere_lists(url: str) -> Embedder:
    """The same, and the lists are asked for."""
    embed = chatanywhere_embeddings(url)
    return lambda texts: list(embed(texts))


def chatanywhere_array(url: str) -> Embedder:
    """The same, as an array of numpy's."""
    embed = chatanywhere_embeddings(url)
    return lambda texts: embed(texts).numpy()


def openai_embeddings(url: str) -> Embedder:
    """The OpenAI SDK, which makes lists; it has to be asked for as many texts at a time as the service takes."""
    from openai import OpenAI

    client = OpenAI(api_key=KEY, base_url=f"{url}/v1")

    def embed(texts: list[str]) -> list[list[float]]:
        vectors = []
        for start in range(0, len(texts), 2048):
            part = client.embeddings.create(model="text-embedding-3-small", input=texts[start : start + 2048])
            vectors += [item.embedding for item in part.data]
        return vectors

    return embed


def openai_array(url: str) -> Embedder:
    """The same, and an array of numpy's made of them."""
    import numpy

    embed = openai_embeddings(url)
    return lambda texts: numpy.array(embed(texts), numpy.float32)


EMBEDDINGS: dict[str, Callable[[str], Embedder]] = {
    "chatanywhere": chatanywhere_embeddings,
    "chatanywhere, lists": chatanywhere_lists,
    "chatanywhere, numpy": chatanywhere_array,
    "OpenAI": openai_embeddings,
    "OpenAI, numpy": openai_array,
}
