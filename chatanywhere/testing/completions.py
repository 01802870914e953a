"""Chat completions: a reply under the options of its request, and how OpenAI's protocol writes it."""

from __future__ import annotations

import secrets
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import zip_longest
from math import log
from typing import Any

from .options import AnswerOptions
from .replies import Reply, folded, words
from .request import Request, text_of
from .writer import StreamedBody, to_json

_COMMON_WORDS = words(" the of and to a in is it that he was for on are with as his they at be this")
"""What might have been said in place of a word."""


# What is said


def fitted(reply: Reply, options: AnswerOptions) -> Reply:
    """Return a reply as the options have it: with as many choices, each cut where it has to end.

    Pieces, chunks, and what has a finish reason of its own, stay as they are.
    """
    if reply.chunks is not None:
        return reply
    choices = [reply, *reply.choices]
    repeated = replace(reply, usage=None, choices=())
    choices += [repeated] * (options.n - len(choices))
    first, *others = (_cut(choice, options) for choice in choices)
    return replace(first, choices=others)


def _cut(choice: Reply, options: AnswerOptions) -> Reply:
    if choice.pieces is not None or choice.finish_reason is not None:
        return choice
    ends = [place for stop in options.stops if (place := choice.text.find(stop)) >= 0]
    if ends:
        choice = replace(choice, text=choice.text[: min(ends)], refusal="", tool_calls=(), finish_reason="stop")
    limit = options.max_tokens
    said = [words(text) for text in (choice.reasoning, choice.text, choice.refusal)]
    if limit is None or sum(map(len, said)) <= limit:
        return choice
    kept = []
    for part in said:
        kept.append("".join(part[:limit]))
        limit = max(limit - len(part), 0)
    reasoning, text, refusal = kept
    return replace(choice, reasoning=reasoning, text=text, refusal=refusal, tool_calls=(), finish_reason="length")


def usage_of(request: Request, reply: Reply) -> Mapping[str, Any]:
    """Return the token counts of a chat: those of the reply, or else of its words."""
    if reply.usage is not None:
        return reply.usage
    if reply.chunks is not None:
        return next((chunk["usage"] for chunk in reversed(reply.chunks) if chunk.get("usage")), {})
    prompt_tokens = sum(len(words(text_of(message))) for message in request.messages)
    completion_tokens = sum(len(words(text)) for text in reply.written)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


# How it is written


def as_object(model: str, reply: Reply, usage: Mapping[str, Any], options: AnswerOptions) -> dict[str, Any]:
    """Return a reply as the one object of an answer that is not streamed."""
    if reply.chunks is not None:
        return folded(reply.chunks)
    choices = []
    for index, choice in enumerate([reply, *reply.choices]):
        written = {"index": index, "message": choice.message(), "finish_reason": choice.reason}
        if options.logprobs:
            written["logprobs"] = {
                "content": logprobs(choice.text_pieces, options) or None,
                "refusal": logprobs(words(choice.refusal), options) or None,
            }
        choices.append(written)
    return {**_head(model, ""), "choices": choices, "usage": usage}


def as_events(model: str, reply: Reply, usage: Mapping[str, Any], options: AnswerOptions) -> StreamedBody:
    """Return a reply as a stream of events."""
    done = b"data: [DONE]\n\n"
    if reply.chunks is not None:
        return StreamedBody([event(chunk) for chunk in reply.chunks], ending=[done])
    common = _head(model, ".chunk")
    last = []
    if options.include_usage:
        last.append(event({**common, "choices": [], "usage": usage}))
        common["usage"] = None  # until the one chunk that has it

    def chunk(index: int, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "finish_reason": finish_reason}
        if options.logprobs:
            choice["logprobs"] = _logprobs_of(delta, options)
        return event({**common, "choices": [choice]})

    choices = list(enumerate([reply, *reply.choices]))
    # OpenAI begins with an empty text, and with null where no text follows.
    begun = [None if choice.message()["content"] is None else "" for _, choice in choices]
    # Pieces of the choices take turns.
    rows = zip_longest(*([chunk(index, delta) for delta in choice.deltas()] for index, choice in choices))
    return StreamedBody(
        opening=[chunk(index, {"role": "assistant", "content": begun[index]}) for index, _ in choices],
        pieces=[piece for row in rows for piece in row if piece is not None],
        ending=[*(chunk(index, {}, choice.reason) for index, choice in choices), *last, done],
    )


def _head(model: str, kind: str) -> dict[str, Any]:
    """Return what a completion and each of its chunks begin with."""
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "model": model,
        "object": f"chat.completion{kind}",
    }


def event(value: object) -> bytes:
    """Return an event with a value as JSON."""
    return b"data: %b\n\n" % to_json(value)


def _logprobs_of(delta: Mapping[str, Any], options: AnswerOptions) -> dict[str, Any] | None:
    """Return the log probabilities of what a chunk says, or None if it says nothing that has any."""
    for name, other in (("content", "refusal"), ("refusal", "content")):
        if delta.get(name):
            return {name: logprobs([delta[name]], options), other: None}
    return None


def logprobs(tokens: list[str], options: AnswerOptions) -> list[dict[str, Any]]:
    """Return made-up log probabilities, always the same for the same token."""
    return [
        {**likely[0], "top_logprobs": likely[: options.top_logprobs]}
        for token in tokens
        if token
        for likely in [list(_likely(token))]
    ]


def _likely(token: str) -> Iterator[dict[str, Any]]:
    """Yield a token and what might have been in its place, the likeliest first."""
    share = 0.5 + 0.4 * zlib.crc32(token.encode(errors="replace")) / 2**32  # of what is left of 1
    for place, each in enumerate(dict.fromkeys([token, *_COMMON_WORDS])):
        probability = share * (1 - share) ** place
        yield {"token": each, "logprob": log(probability), "bytes": list(each.encode(errors="surrogatepass"))}
