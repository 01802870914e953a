"""OpenTelemetry: spans and metrics of calls, after the semantic conventions for generative AI."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import anyio
import pytest
from faces import Face
from leaks import reachable
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from raw_server import BEGUN, RawServer

from chatanywhere import (
    APIConnectionError,
    AsyncClient,
    ChatAnywhereError,
    Client,
    ProtocolError,
    Retry,
    image,
)
from chatanywhere.otel import Tracing
from chatanywhere.testing import Fault, LoopbackServer, Reply

KEY = "sk-0123456789abcdef"
SOON = Retry(backoff=0.001, max_backoff=0.001)


class Telemetry:
    """An SDK that keeps what it gets."""

    def __init__(self, **options: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracer_provider = TracerProvider(**options)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meter_provider = MeterProvider([self._reader])

    def tracing(self, **options: Any) -> Tracing:
        return Tracing(self.tracer_provider, self.meter_provider, **options)

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    @property
    def span(self) -> ReadableSpan:
        """The one that there is."""
        (span,) = self.spans
        return span

    @property
    def attributes(self) -> dict[str, Any]:
        return dict(self.span.attributes or {})

    @property
    def metrics(self) -> dict[str, list[Any]]:
        """The data points by the names of the instruments."""
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        (resource,) = data.resource_metrics
        (scope,) = resource.scope_metrics
        return {metric.name: list(metric.data.data_points) for metric in scope.metrics}


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


@contextlib.contextmanager
def traced(
    telemetry: Telemetry, *replies: Any, faults: Any = (), capture_content: bool = False, **settings: Any
) -> Iterator[tuple[LoopbackServer, Client]]:
    """A server that says this, and a client of it that is traced."""
    observers = [telemetry.tracing(capture_content=capture_content)]
    with LoopbackServer(list(replies) or (lambda _: "Hi"), faults=faults) as server:
        options = {"base_url": server.url, "observers": observers, "retry": SOON, "timeout": 20, **settings}
        with Client(KEY, **options) as client:
            yield server, client


USAGE = {
    "prompt_tokens": 30,
    "completion_tokens": 20,
    "total_tokens": 50,
    "prompt_tokens_details": {"cached_tokens": 10},
    "completion_tokens_details": {"reasoning_tokens": 5},
}
SAMPLING = {
    "temperature": 1,
    "top_p": 0.5,
    "max_tokens": 100,
    "seed": 7,
    "frequency_penalty": 0.5,
    "presence_penalty": 1,
    "stop": ["secret"],
    "user": "secret",
}


def test_a_chat_is_a_span(face: Face, telemetry: Telemetry) -> None:
    """It has the name, the kind and the attributes of the conventions, and nothing of what was written."""
    with traced(telemetry, Reply("a secret", usage=USAGE)) as (server, client):
        face.ask(client, "a secret", **SAMPLING)
        port = int(server.url.rpartition(":")[2])
    span, attributes = telemetry.span, telemetry.attributes
    assert (span.name, span.kind, span.parent) == ("chat gpt-4o-mini", trace.SpanKind.CLIENT, None)
    assert span.status.status_code is trace.StatusCode.UNSET
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "chatanywhere"
    assert span.instrumentation_scope.schema_url == "https://opentelemetry.io/schemas/1.41.1"
    first = attributes.pop("gen_ai.response.time_to_first_chunk")
    assert isinstance(first, float)
    assert 0 < first < 20
    assert attributes.pop("gen_ai.response.id").startswith("chatcmpl-")
    assert attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 1.0,
        "gen_ai.request.top_p": 0.5,
        "gen_ai.request.max_tokens": 100,
        "gen_ai.request.seed": 7,
        "gen_ai.request.frequency_penalty": 0.5,
        "gen_ai.request.presence_penalty": 1.0,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.response.model": "gpt-4o-mini",
        "gen_ai.usage.input_tokens": 30,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 10,
        "gen_ai.usage.reasoning.output_tokens": 5,
        "server.address": "127.0.0.1",
        "server.port": port,
    }
    assert not any("secret" in text for text in reachable(json.loads(span.to_json())))
    assert not any(KEY in text for text in reachable(json.loads(span.to_json())))


def test_an_answer_that_is_not_streamed_has_no_first_chunk(face: Face, telemetry: Telemetry) -> None:
    """The conventions want that time, and the flag, of streams only; several choices, and JSON, are told."""
    with traced(telemetry, Reply("1", choices=[Reply("2")])) as (_, client):
        response_format = {"type": "json_object"}
        face.call(client, "complete", "Hello", stream=False, n=2, response_format=response_format)
    assert "gen_ai.request.stream" not in telemetry.attributes
    assert "gen_ai.response.time_to_first_chunk" not in telemetry.attributes
    assert "gen_ai.client.operation.time_to_first_chunk" not in telemetry.metrics
    assert telemetry.attributes["gen_ai.request.choice.count"] == 2
    assert telemetry.attributes["gen_ai.output.type"] == "json"
    assert telemetry.attributes["gen_ai.response.finish_reasons"] == ("stop", "stop")


def test_embeddings_are_a_span(face: Face, telemetry: Telemetry) -> None:
    """It has the attributes of the conventions, and counts no output."""
    with traced(telemetry) as (_, client):
        face.call(client, "embed", ["Hello", "you"], dimensions=8)
    attributes = telemetry.attributes
    assert telemetry.span.name == "embeddings text-embedding-3-small"
    assert attributes["gen_ai.operation.name"] == "embeddings"
    assert attributes["gen_ai.embeddings.dimension.count"] == 8
    assert attributes["gen_ai.response.model"] == "text-embedding-3-small"
    assert attributes["gen_ai.usage.input_tokens"] == 2
    assert "gen_ai.usage.output_tokens" not in attributes
    assert [point.attributes["gen_ai.token.type"] for point in telemetry.metrics["gen_ai.client.token.usage"]] == [
        "input"
    ]


def test_other_calls_are_spans_too(face: Face, telemetry: Telemetry) -> None:
    """Their names are those of what they do."""
    with traced(telemetry) as (_, client):
        face.call(client, "models")
        face.call(client, "request", "GET", "/models")
    assert [span.name for span in telemetry.spans] == ["models", "request"]


def test_a_call_is_measured(face: Face, telemetry: Telemetry) -> None:
    """Its duration, the time to its first chunk and its tokens, with the conventions' units and buckets."""
    with traced(telemetry, Reply("Hi", usage=USAGE)) as (server, client):
        face.ask(client)
        port = int(server.url.rpartition(":")[2])
    shared = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.response.model": "gpt-4o-mini",
        "server.address": "127.0.0.1",
        "server.port": port,
    }
    (duration,) = telemetry.metrics["gen_ai.client.operation.duration"]
    (first,) = telemetry.metrics["gen_ai.client.operation.time_to_first_chunk"]
    seconds = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
    for point in (duration, first):
        assert point.attributes == shared
        assert point.count == 1
        assert point.explicit_bounds == pytest.approx(seconds)
    assert 0 < first.sum <= duration.sum < 20
    tokens = {point.attributes["gen_ai.token.type"]: point for point in telemetry.metrics["gen_ai.client.token.usage"]}
    assert {kind: point.sum for kind, point in tokens.items()} == {"input": 30, "output": 20}
    assert tokens["input"].attributes == {**shared, "gen_ai.token.type": "input"}
    assert tokens["input"].explicit_bounds == tuple(4**power for power in range(14))


def test_a_failed_call_has_an_error(face: Face, telemetry: Telemetry) -> None:
    """Span and metric have the error's class, and each attempt is an event."""
    with traced(telemetry, faults=[Fault.status(500)]) as (_, client):
        assert face.ask(client).error is not None
    span = telemetry.span
    assert span.status.status_code is trace.StatusCode.ERROR
    assert telemetry.attributes["error.type"] == "InternalServerError"
    (duration,) = telemetry.metrics["gen_ai.client.operation.duration"]
    assert duration.attributes["error.type"] == "InternalServerError"
    events = [dict(event.attributes or {}) for event in span.events]
    assert {event.name for event in span.events} == {"chatanywhere.attempt_failed"}
    assert [event["chatanywhere.attempt"] for event in events] == [1, 2, 3]
    assert ["chatanywhere.wait" in event for event in events] == [True, True, False]
    assert {event["http.response.status_code"] for event in events} == {500}
    assert {event["error.type"] for event in events} == {"InternalServerError"}


def test_an_attempt_that_failed_does_not_fail_the_call(face: Face, telemetry: Telemetry) -> None:
    """An answer that came in the end is no error, and the span names who gave it."""
    with LoopbackServer(faults=[Fault.status(500)]) as other:
        retry = Retry(1, failover=True)
        with LoopbackServer(lambda _: "Hi") as server:
            urls = [other.url, server.url]
            with Client(KEY, base_url=urls, retry=retry, observers=[telemetry.tracing()]) as client:
                assert face.ask(client).text == "Hi"
            port = int(server.url.rpartition(":")[2])
        assert telemetry.span.status.status_code is trace.StatusCode.UNSET
        assert "error.type" not in telemetry.attributes
        assert telemetry.attributes["server.port"] == port
        (event,) = telemetry.span.events
        assert (event.attributes or {})["server.port"] == int(other.url.rpartition(":")[2])


# Parents ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["complete", "embed"])
def test_the_current_span_is_the_parent(face: Face, telemetry: Telemetry, method: str) -> None:
    """Also of calls that threads or tasks make for one, and where a worker thread connects."""
    tracer = telemetry.tracer_provider.get_tracer("mine")
    texts = "Hello" if method == "complete" else ["Hello"] * 4097
    with traced(telemetry) as (_, client), tracer.start_as_current_span("mine") as mine:
        face.call(client, method, texts)
        assert trace.get_current_span() is mine
    *spans, own = telemetry.spans
    assert own.name == "mine"
    assert len(spans) == (1 if method == "complete" else 3)
    for span in spans:
        assert span.parent is not None
        assert span.parent.span_id == mine.get_span_context().span_id


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_tasks_have_parents_of_their_own(telemetry: Telemetry, backend: str) -> None:
    """Streams that are read at the same time are children of the spans of their tasks."""
    tracer = telemetry.tracer_provider.get_tracer("mine")

    async def ask(client: AsyncClient, name: str) -> None:
        with tracer.start_as_current_span(name):
            async with client.stream(name) as stream:
                async for _ in stream:
                    await anyio.sleep(0)

    async def main(client: AsyncClient) -> None:
        async with anyio.create_task_group() as tasks:
            for name in ("one", "two"):
                tasks.start_soon(ask, client, name)

    with traced(telemetry, ["a", "b"], ["c", "d"]) as (_, client):
        anyio.run(main, client.as_async(), backend=backend)
    mine = {span.context.span_id for span in telemetry.spans if span.name in ("one", "two") and span.context}
    assert {span.parent.span_id for span in telemetry.spans if span.parent} == mine
    assert len(mine) == 2


# Ends ---------------------------------------------------------------------------------------------------------


def test_every_span_ends(raw_server: RawServer, telemetry: Telemetry) -> None:
    """Of streams that are left, closed or cancelled, too; only those are errors that a reader would see."""
    raw_server.answer(BEGUN, raw_server.hold)

    async def be_cancelled(client: AsyncClient) -> None:
        with anyio.move_on_after(0.1):
            await client.complete("Hello")

    with Client(base_url=raw_server.url, protocol="web", observers=[telemetry.tracing()], timeout=20) as client:
        for _ in client.stream("Hello"):
            break
        with client.stream("Hello") as stream:
            next(stream)
        stream = client.stream("Hello")
        threading.Timer(0.05, stream.cancel).start()
        with contextlib.suppress(ChatAnywhereError):
            list(stream)
        anyio.run(be_cancelled, client.as_async())
    errors = [(span.attributes or {}).get("error.type") for span in telemetry.spans]
    assert errors == [None, None, "StreamCancelledError", "CancelledError"]
    assert all(span.end_time for span in telemetry.spans)
    assert sum(point.count for point in telemetry.metrics["gen_ai.client.operation.duration"]) == 4


def test_nothing_is_kept_of_calls_that_have_ended(face: Face, telemetry: Telemetry) -> None:
    """The observer holds spans of calls that are being made only."""
    tracing = telemetry.tracing()
    with traced(telemetry, "Hi", observers=[tracing]) as (server, client):
        face.ask(client)
        server.faults = [Fault.status(400)]
        face.ask(client)
    assert len(telemetry.spans) == 2
    assert not any(isinstance(value, dict) and value for value in vars(tracing).values())


# Content ------------------------------------------------------------------------------------------------------


CONVERSATION: list[Any] = [
    {"role": "system", "content": "Be short."},
    {
        "role": "user",
        "name": "Ada",
        "content": [{"type": "text", "text": "Where? \ud83d"}, image(b"\x89PNG\r\n\x1a\n")],
    },
    {"role": "user", "content": [image("https://example.org/a.png"), {"type": "file", "file": {"file_id": "f"}}]},
    {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]},
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "Hm",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}},
            {"id": "c2", "type": "function", "function": {"name": "weather", "arguments": "{"}},
            {"id": "c3", "type": "custom", "custom": {"name": "say", "input": "words"}},
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    {"role": "tool", "tool_call_id": "c2", "content": "?"},
    {"role": "tool", "tool_call_id": "c3", "content": "said"},
    {"role": "assistant", "content": None, "refusal": "No."},
]
SEEN: list[Any] = [
    {"role": "system", "parts": [{"type": "text", "content": "Be short."}]},
    {
        "role": "user",
        "parts": [
            {"type": "text", "content": "Where? ?"},
            {"type": "blob", "modality": "image", "mime_type": "image/png", "content": "iVBORw0KGgo="},
        ],
        "name": "Ada",
    },
    {
        "role": "user",
        "parts": [
            {"type": "uri", "modality": "image", "uri": "https://example.org/a.png"},
            {"type": "file", "file": {"file_id": "f"}},
        ],
    },
    {
        "role": "user",
        "parts": [{"type": "blob", "modality": "audio", "mime_type": "audio/wav", "content": "AAAA"}],
    },
    {
        "role": "assistant",
        "parts": [
            {"type": "reasoning", "content": "Hm"},
            {"type": "tool_call", "id": "c1", "name": "weather", "arguments": {"city": "Rome"}},
            {"type": "tool_call", "id": "c2", "name": "weather", "arguments": "{"},
            {"type": "tool_call", "id": "c3", "name": "say", "arguments": "words"},
        ],
    },
    {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "sunny"}]},
    {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c2", "response": "?"}]},
    {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c3", "response": "said"}]},
    {"role": "assistant", "parts": [{"type": "refusal", "content": "No."}]},
]


def test_content_is_told_when_it_is_asked_for(face: Face, telemetry: Telemetry) -> None:
    """Messages, tools and answers are in the conventions' shapes, as JSON."""
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    reply = Reply("Sunny.", reasoning="Hm", tool_calls=[("weather", {"city": "Oslo"})])
    with traced(telemetry, reply, capture_content=True) as (_, client):
        face.ask(client, CONVERSATION, tools=tools, stop="end")
    attributes = telemetry.attributes
    assert json.loads(attributes["gen_ai.input.messages"]) == SEEN
    assert json.loads(attributes["gen_ai.tool.definitions"]) == [{"type": "function", "name": "weather"}]
    assert attributes["gen_ai.request.stop_sequences"] == ("end",)
    (message,) = json.loads(attributes["gen_ai.output.messages"])
    assert (message["role"], message["finish_reason"]) == ("assistant", "tool_call")
    thoughts, text, call = message["parts"]
    assert (thoughts, text) == ({"type": "reasoning", "content": "Hm"}, {"type": "text", "content": "Sunny."})
    assert (call["type"], call["name"], call["arguments"]) == ("tool_call", "weather", {"city": "Oslo"})


def test_content_of_the_web_protocol_is_told(raw_server: RawServer, telemetry: Telemetry) -> None:
    """Its messages stand elsewhere, and its answers end without a reason."""
    raw_server.answer(BEGUN, b"0\r\n\r\n")
    observers = [telemetry.tracing(capture_content=True)]
    with Client(base_url=raw_server.url, protocol="web", observers=observers) as client:
        client.complete("Hello")
    (asked,) = json.loads(telemetry.attributes["gen_ai.input.messages"])
    (answered,) = json.loads(telemetry.attributes["gen_ai.output.messages"])
    assert asked == {"role": "user", "parts": [{"type": "text", "content": "Hello"}]}
    assert answered == {"role": "assistant", "parts": [{"type": "text", "content": "one"}], "finish_reason": "stop"}


STRANGE: list[dict[str, Any]] = [
    {"messages": ["Hello"]},
    {"messages": "Hello"},
    {"messages": [None]},
    {"messages": [{"role": 1, "content": ["Hello", 1, None, {}]}]},
    {"messages": [{"role": "user", "content": {"text": "Hello"}}]},
    {"messages": [{"role": "user", "content": [{"type": ["text"]}, {"type": "image_url", "image_url": 1}]}]},
    {"messages": [{"role": "assistant", "tool_calls": ["call", {"function": 1}, {"type": 1}]}]},
    {"messages": [{"role": "assistant", "tool_calls": {"id": "c1"}}]},
    {"tools": ["tool", {"type": "web_search"}, {"type": "function", "function": True}, {"type": {}}]},
    {"tools": {"type": "function"}},
    {"stop": [1, None]},
    {"stop": {}},
    {"seed": 1 << 70},
]


@pytest.mark.parametrize("fields", STRANGE, ids=str)
def test_requests_of_any_shape_are_told(
    face: Face, telemetry: Telemetry, fields: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A service may refuse them; the span has what a backend can read all the same."""
    with traced(telemetry, capture_content=True) as (_, client):
        face.ask(client, "Hello", extra_body=fields)
    assert not caplog.records
    for message in json.loads(telemetry.attributes["gen_ai.input.messages"]):
        assert isinstance(message["role"], str)
        assert all(isinstance(part["type"], str) for part in message["parts"])
    for tool in json.loads(telemetry.attributes.get("gen_ai.tool.definitions", "[]")):
        assert isinstance(tool["type"], str)
        assert isinstance(tool["name"], str)
    assert telemetry.attributes.get("gen_ai.request.seed", 0) < 1 << 63


@pytest.mark.parametrize("capture_content", [False, True])
def test_words_that_may_quote_content_are_content(face: Face, telemetry: Telemetry, capture_content: bool) -> None:
    """An error's own words are told, a service's, and those about an answer, only with content."""
    said = "the prompt 'a secret' is refused"
    with traced(telemetry, faults=[Fault.status(400, said)], capture_content=capture_content) as (_, client):
        assert face.ask(client, "a secret").error is not None
    assert (said in str(telemetry.span.status.description)) is capture_content
    assert ("secret" in telemetry.span.to_json()) is capture_content


@pytest.mark.parametrize("capture_content", [False, True])
def test_an_answer_that_is_quoted_by_its_error_is_content(
    raw_server: RawServer, face: Face, telemetry: Telemetry, capture_content: bool
) -> None:
    """A ProtocolError shows the beginning of what came."""
    raw_server.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{a secret: 1}}", None)
    observers = [telemetry.tracing(capture_content=capture_content)]
    with Client(KEY, base_url=raw_server.url, observers=observers) as client:
        assert isinstance(face.ask(client).error, ProtocolError)
    assert ("secret" in str(telemetry.span.status.description)) is capture_content


def test_our_own_words_are_told(face: Face, telemetry: Telemetry) -> None:
    """Why a service could not be reached is the description of the status."""
    observers = [telemetry.tracing()]
    with Client(KEY, base_url="http://127.0.0.1:1", retry=None, observers=observers) as client:
        error = face.ask(client).error
    assert isinstance(error, APIConnectionError)
    assert telemetry.span.status.description == str(error)
    assert telemetry.attributes["error.type"] == "APIConnectionError"


def test_an_answer_that_was_left_or_cut_is_told_as_far_as_it_came(raw_server: RawServer, telemetry: Telemetry) -> None:
    """In place of a reason it has a word that says so."""
    raw_server.answer(BEGUN)
    observers = [telemetry.tracing(capture_content=True)]
    with Client(base_url=raw_server.url, protocol="web", observers=observers, retry=None) as client:
        with contextlib.suppress(ChatAnywhereError):
            list(client.stream("Hello"))
        raw_server.answer(BEGUN, raw_server.hold)
        for _ in client.stream("Hello"):
            break
    messages = [json.loads(str((span.attributes or {})["gen_ai.output.messages"])) for span in telemetry.spans]
    assert [message["finish_reason"] for (message,) in messages] == ["error", "incomplete"]
    assert [message["parts"] for (message,) in messages] == [[{"type": "text", "content": "one"}]] * 2


# Providers ----------------------------------------------------------------------------------------------------


def test_a_span_that_is_not_sampled_costs_no_content(face: Face) -> None:
    """The metrics are there all the same."""
    telemetry = Telemetry(sampler=ALWAYS_OFF)
    with traced(telemetry, capture_content=True) as (_, client):
        assert face.ask(client).text == "Hi"
    assert telemetry.spans == ()
    assert telemetry.metrics["gen_ai.client.operation.duration"][0].count == 1


def run(code: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_without_a_provider_nothing_happens() -> None:
    """No SDK is imported, nothing is warned of, and the calls are as they are; a provider that comes later is used."""
    printed = run(
        "import sys, logging\n"
        "logging.basicConfig()\n"
        "from chatanywhere import Client\n"
        "from chatanywhere.otel import Tracing\n"
        "from chatanywhere.testing import LoopbackServer\n"
        "with LoopbackServer(lambda _: 'Hi') as server:\n"
        "    client = Client('any-key', base_url=server.url, observers=[Tracing(), Tracing(capture_content=True)])\n"
        "    print(client.complete('Hello').text, 'opentelemetry.sdk' in sys.modules)\n"
        "    from opentelemetry import trace\n"
        "    from opentelemetry.sdk.trace import TracerProvider\n"
        "    from opentelemetry.sdk.trace.export import SimpleSpanProcessor\n"
        "    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter\n"
        "    exporter = InMemorySpanExporter()\n"
        "    provider = TracerProvider()\n"
        "    provider.add_span_processor(SimpleSpanProcessor(exporter))\n"
        "    trace.set_tracer_provider(provider)\n"
        "    client.complete('Hello')\n"
        "    print([span.name for span in exporter.get_finished_spans()])\n"
    )
    assert printed == "Hi False\n['chat gpt-4o-mini', 'chat gpt-4o-mini']\n"


def test_without_opentelemetry_the_extra_is_named() -> None:
    """The import fails with the command that helps, and the package itself does without."""
    printed = run(
        "import sys\n"
        "sys.modules['opentelemetry'] = None\n"
        "import chatanywhere\n"
        "chatanywhere.Client('any-key', observers=[chatanywhere.Observer()])\n"
        "try:\n"
        "    import chatanywhere.otel\n"
        "except ImportError as error:\n"
        "    print(error, error.name)\n"
    )
    assert printed == "tracing needs OpenTelemetry: pip install 'chatanywhere[otel]' opentelemetry\n"
