"""An answer as a state machine: said, framed, cut anywhere, ended or lost at any point."""

from __future__ import annotations

import json
from typing import Any

from decoding import Answer
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from chatanywhere._errors import StreamInterruptedError

texts = st.text(min_size=1, max_size=8)
sizes = st.integers(1, 200)


class Answering(RuleBasedStateMachine):
    """A server that says things, a network that delivers some of the bytes, and an answer that is read from them."""

    @initialize()
    def begin(self) -> None:
        self.answer = Answer("openai", {"transfer-encoding": "chunked"})
        self.on_the_way = bytearray()
        self.said = ""
        self.thought = ""
        self.ended = False

    def send(self, data: str) -> None:
        content = data.encode()
        self.on_the_way += b"%x\r\n%b\r\n" % (len(content), content)

    def send_chunk(self, **delta: Any) -> None:
        self.send(f"data: {json.dumps({'choices': [{'delta': delta}]}, ensure_ascii=False)}\n\n")

    @precondition(lambda self: not self.ended)
    @rule(text=texts)
    def say(self, text: str) -> None:
        self.said += text
        self.send_chunk(content=text)

    @precondition(lambda self: not self.ended)
    @rule(text=texts)
    def think(self, text: str) -> None:
        self.thought += text
        self.send_chunk(reasoning_content=text)

    @precondition(lambda self: not self.ended)
    @rule(
        data=st.sampled_from([": a comment\n\n", "event: ping\n\n", "data: {}\n\n", "\r\n", "id: 1\rretry: 5\r\n\r\n"])
    )
    def chatter(self, data: str) -> None:
        self.send(data)

    @precondition(lambda self: not self.ended and (self.said or self.thought))
    @rule(done=st.booleans())
    def end(self, done: bool) -> None:
        self.ended = True
        self.send("data: [DONE]\n\n" if done else 'data: {"choices": [{"finish_reason": "stop"}]}\n\n')
        self.on_the_way += b"0\r\n\r\n"

    @rule(size=sizes)
    def deliver(self, size: int) -> None:
        piece = bytes(self.on_the_way[:size])
        del self.on_the_way[:size]
        if piece and not self.answer.over:
            events = self.answer.feed(piece)
            assert self.answer.error is None
            assert all(getattr(event, "text", "-") for event in events)

    @invariant()
    def nothing_is_made_up_or_reordered(self) -> None:
        """At every moment the text is the beginning of what was said."""
        assert self.said.startswith(self.answer.text)
        assert self.thought.startswith(self.answer.reasoning)

    def teardown(self) -> None:
        """At the end of the connection the answer is whole, or it is an error that keeps the text."""
        self.deliver(len(self.on_the_way) or 1)
        if not self.answer.over:
            self.answer.feed(b"")
        assert (self.answer.text, self.answer.reasoning) == (self.said, self.thought)
        assert self.answer.over is self.ended
        assert self.ended or isinstance(self.answer.error, StreamInterruptedError)


TestAnswering = Answering.TestCase
