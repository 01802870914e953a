"""Text completions: how OpenAI's protocol goes on with a prompt, as it did before there were chats.

Some libraries still ask for them unless they are told otherwise. A prompt is answered as a chat is whose only message
it is; of a reply, this protocol has the text only.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from .completions import event, logprobs
from .options import AnswerOptions, read, read_number, read_texts
from .replies import Reply, words
from .request import Request
from .writer import StreamedBody, to_json

_PROMPTS = 2048
_LOGPROBS = 5  # the most that OpenAI takes
_MAX_TOKENS = 16  # where the request does not say

_OF_CHATS = ("tools", "tool_choice", "parallel_tool_calls", "response_format", "logprobs", "max_completion_tokens")


def options_of(fields: Mapping[str, Any]) -> AnswerOptions:
    """Return the options of a request for completions.

    Raises:
        ParameterError: there is one that OpenAI refuses.
    """
    shared = {name: value for name, value in fields.items() if name not in _OF_CHATS}
    options = AnswerOptions.of(shared)
    number = read_number(fields, "logprobs", 0, _LOGPROBS)
    max_tokens = options.max_tokens or _MAX_TOKENS
    return replace(options, max_tokens=max_tokens, logprobs=number is not None, top_logprobs=number or 0)


def as_chats(request: Request) -> list[Request]:
    """Return a request for a chat in the place of each prompt.

    Raises:
        ParameterError: the prompts are none.
    """
    prompts = read_texts(request.fields, "prompt", _PROMPTS)
    texts = [each if isinstance(each, str) else " ".join(map(str, each)) for each in prompts]
    return [
        replace(request, body=to_json({**request.fields, "messages": [{"role": "user", "content": text}]}))
        for text in texts
    ]


@dataclass(frozen=True)
class _Continuation:
    """One of the texts with which a prompt goes on."""

    pieces: Sequence[str]
    finish_reason: str | None


class TextCompletion:
    """The answer to a request for completions.

    Args:
        fields: of the request.
        chats: in the place of the prompts.
        replies: to them, cut as the options have it.
        options: what was asked for.

    Attributes:
        usage: the token counts.
    """

    def __init__(
        self, fields: Mapping[str, Any], chats: Sequence[Request], replies: Sequence[Reply], options: AnswerOptions
    ) -> None:
        echo = bool(read(fields, "echo", bool))
        self._options = options
        self._choices = [
            _Continuation([chat.text, *choice.text_pieces] if echo else choice.text_pieces, choice.reason)
            for chat, reply in zip(chats, replies, strict=True)
            for choice in (reply, *reply.choices)
        ]
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": fields.get("model"),
        }
        prompt_tokens = sum(len(words(chat.text)) for chat in chats)
        completion_tokens = sum(len(words(text)) for reply in replies for text in reply.written)
        self.usage: Mapping[str, Any] = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        }
        if len(replies) == 1 and replies[0].usage is not None:
            self.usage = replies[0].usage

    def as_object(self) -> dict[str, Any]:
        """Return it in one."""
        choices = [
            self._written(index, choice.pieces, choice.finish_reason) for index, choice in enumerate(self._choices)
        ]
        return {**self._head, "choices": choices, "usage": self.usage}

    def as_events(self) -> StreamedBody:
        """Return it as a stream of events."""
        common, last = self._head, []
        if self._options.include_usage:
            last = [event({**common, "choices": [], "usage": self.usage})]
            common = {**common, "usage": None}

        def events(index: int, choice: _Continuation) -> Iterator[bytes]:
            offset = 0
            for piece in choice.pieces:
                yield event({**common, "choices": [self._written(index, [piece], None, offset)]})
                offset += len(piece)

        rows = zip_longest(*(events(index, choice) for index, choice in enumerate(self._choices)))  # they take turns
        ends = [
            event({**common, "choices": [self._written(index, [], choice.finish_reason)]})
            for index, choice in enumerate(self._choices)
        ]
        pieces = [piece for row in rows for piece in row if piece is not None]
        return StreamedBody(pieces, ending=[*ends, *last, b"data: [DONE]\n\n"])

    def _written(self, index: int, pieces: Sequence[str], finish_reason: str | None, offset: int = 0) -> dict[str, Any]:
        likely = self._logprobs(pieces, offset) if self._options.logprobs and pieces else None
        return {"text": "".join(pieces), "index": index, "logprobs": likely, "finish_reason": finish_reason}

    def _logprobs(self, pieces: Sequence[str], offset: int) -> dict[str, list[Any]]:
        tokens = logprobs(list(pieces), self._options)
        texts = [token["token"] for token in tokens]
        return {
            "tokens": texts,
            "token_logprobs": [token["logprob"] for token in tokens],
            "top_logprobs": [{each["token"]: each["logprob"] for each in token["top_logprobs"]} for token in tokens],
            "text_offset": [offset + sum(map(len, texts[:place])) for place in range(len(texts))],
        }
