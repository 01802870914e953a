"""Spans and metrics of OpenTelemetry for the calls of a client. The only user of opentelemetry.

    Client(observers=[Tracing()])

They follow the semantic conventions for generative AI as of version 1.41.1
(https://github.com/open-telemetry/semantic-conventions/tree/v1.41.1/docs/gen-ai), whose names backends know. The
conventions have moved since, and what they say is in motion (https://github.com/open-telemetry/semantic-conventions-genai).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from . import __version__
from ._errors import APIConnectionError, APIStatusError, StreamCancelledError, StreamInterruptedError
from ._observe import CallView, Observer

try:
    from opentelemetry import metrics, trace
except ImportError as exc:
    raise ImportError("tracing needs OpenTelemetry: pip install 'chatanywhere[otel]'", name="opentelemetry") from exc

if TYPE_CHECKING:
    from ._types import Choice

__all__ = ["Tracing"]

_SCHEMA = "https://opentelemetry.io/schemas/1.41.1"

_PROVIDER = "openai"
"""Whose format the telemetry has, and the requests have, whoever it is that answers them."""

_SECONDS = [0.01 * 2**power for power in range(14)]
_TOKENS = [4**power for power in range(14)]

_PARAMETERS: dict[str, tuple[str, type]] = {
    "frequency_penalty": ("gen_ai.request.frequency_penalty", float),
    "max_completion_tokens": ("gen_ai.request.max_tokens", int),
    "max_tokens": ("gen_ai.request.max_tokens", int),
    "presence_penalty": ("gen_ai.request.presence_penalty", float),
    "seed": ("gen_ai.request.seed", int),
    "temperature": ("gen_ai.request.temperature", float),
    "top_k": ("gen_ai.request.top_k", float),
    "top_p": ("gen_ai.request.top_p", float),
    "dimensions": ("gen_ai.embeddings.dimension.count", int),
}


class Tracing(Observer):
    """Makes a span of each call, and measures it.

    A span is a `CLIENT` span named `"{operation} {model}"`, a child of the one that is current where the call starts.
    It begins with the call and ends with it, however that is; each attempt that fails is an event of it. It is not made
    the current one, so what the call does inside has no spans below it.

    The metrics are `gen_ai.client.operation.duration`, `gen_ai.client.token.usage` and, of what is streamed,
    `gen_ai.client.operation.time_to_first_chunk`. `error.type` is the name of the error's class.

    Args:
        tracer_provider: makes the spans; None for the global one.
        meter_provider: the same for the metrics.
        capture_content: put the messages of chats, the answers, and the words of errors that may quote them, into
            spans, too.

    Raises:
        ImportError: (at import) opentelemetry-api is not installed.
    """

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        capture_content: bool = False,
    ) -> None:
        self.capture_content = bool(capture_content)
        self._tracer = trace.get_tracer("chatanywhere", __version__, tracer_provider, _SCHEMA)
        meter = metrics.get_meter("chatanywhere", __version__, meter_provider, _SCHEMA)
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "GenAI operation duration.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._first_chunk = meter.create_histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            "s",
            "Time to receive the first chunk.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )
        self._spans: dict[int, trace.Span] = {}
        self._first: dict[int, float] = {}  # seconds until the first text

    def call_started(self, view: CallView) -> None:
        """Start a span."""
        attributes = {**_asked(view), **_parameters(view)}
        name = f"{view.operation} {view.model}" if view.model else view.operation
        span = self._tracer.start_span(name, kind=trace.SpanKind.CLIENT, attributes=attributes)
        self._spans[view.call_id] = span
        if view.request is not None and span.is_recording():
            span.set_attributes(_input(view.request))

    def attempt_failed(self, view: CallView) -> None:
        """Add an event."""
        attributes = {
            "chatanywhere.attempt": view.attempt,
            "chatanywhere.wait": view.wait,
            "error.type": type(view.error).__name__,
            "http.response.status_code": view.status_code,
            **_server(view),
        }
        self._spans[view.call_id].add_event("chatanywhere.attempt_failed", _known(attributes))

    def first_text(self, view: CallView) -> None:
        """Take note of the time."""
        self._first[view.call_id] = view.seconds

    def call_ended(self, view: CallView) -> None:
        """End the span, and record the metrics."""
        span, first = self._spans.pop(view.call_id), self._first.pop(view.call_id, None)
        first = first if view.streamed else None
        try:
            if span.is_recording():
                span.set_attributes({**_asked(view), **_answered(view, first)})
                if view.completion is not None:
                    span.set_attribute("gen_ai.output.messages", _json(_output(view)))
                if view.error is not None:
                    span.set_attribute("error.type", type(view.error).__name__)
                    span.set_status(trace.StatusCode.ERROR, _words(view.error, self.capture_content))
        finally:
            span.end()
        self._measure(view, first, trace.set_span_in_context(span))

    def _measure(self, view: CallView, first: float | None, context: Any) -> None:
        attributes = _asked(view)
        attributes.pop("gen_ai.request.stream", None)
        if view.response_model:
            attributes["gen_ai.response.model"] = view.response_model
        if view.usage is not None:
            tokens = {"input": view.usage.prompt_tokens}
            if view.operation == "chat":
                tokens["output"] = view.usage.completion_tokens
            for kind, count in tokens.items():
                self._tokens.record(count, {**attributes, "gen_ai.token.type": kind}, context)
        if first is not None:
            self._first_chunk.record(first, attributes, context)
        if view.error is not None:
            attributes["error.type"] = type(view.error).__name__
        self._duration.record(view.seconds, attributes, context)


# Attributes ---------------------------------------------------------------------------------------------------


def _asked(view: CallView) -> dict[str, Any]:
    attributes = {
        "gen_ai.operation.name": view.operation,
        "gen_ai.provider.name": _PROVIDER,
        "gen_ai.request.model": view.model,
        "gen_ai.request.stream": view.streamed or None,
        **_server(view),
    }
    return _known(attributes)


def _server(view: CallView) -> dict[str, Any]:
    host = urlsplit(view.host)
    return {"server.address": host.hostname, "server.port": host.port or (443 if host.scheme == "https" else 80)}


def _parameters(view: CallView) -> dict[str, Any]:
    given = view.parameters
    attributes: dict[str, Any] = {}
    for name, (attribute, kind) in _PARAMETERS.items():
        if name in given and abs(given[name]) < 1 << 63:  # exporters can't write more
            attributes[attribute] = kind(given[name])
    if given.get("n", 1) != 1:
        attributes["gen_ai.request.choice.count"] = given["n"]
    if "response_format" in given:
        attributes["gen_ai.output.type"] = "text" if given["response_format"] == "text" else "json"
    return attributes


def _answered(view: CallView, first: float | None) -> dict[str, Any]:
    usage = view.usage
    attributes = {
        "gen_ai.response.finish_reasons": list(view.finish_reasons) or None,
        "gen_ai.response.id": view.response_id,
        "gen_ai.response.model": view.response_model,
        "gen_ai.response.time_to_first_chunk": first,
    }
    if usage is not None:
        attributes |= {
            "gen_ai.usage.input_tokens": usage.prompt_tokens,
            "gen_ai.usage.output_tokens": usage.completion_tokens if view.operation == "chat" else None,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens or None,
            "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens or None,
        }
    return _known(attributes)


def _known(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def _words(error: BaseException, capture_content: bool) -> str | None:
    """What may be said of an error: a service's words, and what is wrong with an answer, may quote what was written."""
    if capture_content or isinstance(error, (APIConnectionError, StreamCancelledError, StreamInterruptedError)):
        return str(error)
    return error.hint if isinstance(error, APIStatusError) else None


# Content ------------------------------------------------------------------------------------------------------


def _input(request: Mapping[str, Any]) -> dict[str, Any]:
    """What the conventions call input messages and tool definitions, as JSON: not all SDKs have nested attributes."""
    attributes: dict[str, Any] = {}
    if messages := _items(request.get("messages") or request.get("list")):  # in the protocols
        attributes["gen_ai.input.messages"] = _json([_message(_fields(each)) for each in messages])
    if tools := _items(request.get("tools")):
        attributes["gen_ai.tool.definitions"] = _json([_tool(_fields(each)) for each in tools])
    if stop := _items(request.get("stop")):
        attributes["gen_ai.request.stop_sequences"] = [str(each) for each in stop]
    return attributes


def _items(value: Any) -> list[Any]:
    """What a service may refuse is told, too, whatever shape it has."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _fields(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {"content": value}


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    role, content = str(message.get("role", "")), message.get("content")
    parts: list[dict[str, Any]] = []
    if thoughts := message.get("reasoning_content") or message.get("reasoning"):
        parts.append({"type": "reasoning", "content": thoughts})
    if role == "tool":
        parts.append({"type": "tool_call_response", "id": message.get("tool_call_id"), "response": content})
    else:
        parts += map(_part, _items(content))
    if refusal := message.get("refusal"):
        parts.append({"type": "refusal", "content": refusal})
    parts += map(_tool_call, _items(message.get("tool_calls")))
    return _known({"role": role, "parts": parts, "name": message.get("name")})


def _part(part: Any) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "content": part}
    part = _fields(part)
    kind = str(part.get("type", "unknown"))
    value = part.get(kind)
    if kind == "text":
        return {"type": "text", "content": value}
    if kind == "image_url" and isinstance(value, Mapping):
        head, comma, data = str(value.get("url")).partition(",")
        if comma and head.startswith("data:"):
            media_type = head[5:].partition(";")[0]
            return {"type": "blob", "modality": "image", "mime_type": media_type, "content": data}
        return {"type": "uri", "modality": "image", "uri": value.get("url")}
    if kind == "input_audio" and isinstance(value, Mapping):
        media_type = f"audio/{value.get('format')}"
        return {"type": "blob", "modality": "audio", "mime_type": media_type, "content": value.get("data")}
    return {**part, "type": kind}


def _tool_call(call: Any) -> dict[str, Any]:
    call = _fields(call)
    called = _fields(call.get(str(call.get("type") or "function")))
    return _called(call.get("id"), called.get("name"), called.get("arguments", called.get("input")))


def _called(id: str | None, name: str | None, arguments: Any) -> dict[str, Any]:
    try:
        arguments = json.loads(arguments)
    except (RecursionError, TypeError, ValueError):
        pass  # as the model has written them
    return {"type": "tool_call", "id": id, "name": name or "", "arguments": arguments}


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    kind = str(tool.get("type") or "function")
    return {"type": kind, "name": str(_fields(tool.get(kind)).get("name") or kind)}


def _output(view: CallView) -> list[dict[str, Any]]:
    assert view.completion is not None
    ended = "stop" if view.completed else "error" if view.error else "incomplete"  # where the service gives no reason
    return [_choice(choice, ended) for choice in view.completion.choices]


def _choice(choice: Choice, ended: str) -> dict[str, Any]:
    said = {"reasoning": choice.reasoning, "text": choice.text, "refusal": choice.refusal}
    parts = [{"type": kind, "content": words} for kind, words in said.items() if words]
    parts += [_called(call.id, call.name, call.arguments) for call in choice.tool_calls]
    reason = choice.finish_reason or ended
    return {
        "role": "assistant",
        "parts": parts,
        "finish_reason": "tool_call" if reason in ("tool_calls", "function_call") else reason,
    }


def _json(value: Any) -> str:
    """Write JSON; what is half a character is replaced, for exporters write UTF-8."""
    return json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace").decode()
