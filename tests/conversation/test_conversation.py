"""Conversations: what enters the history and when, what is sent, and how an answer that was cut is gone on with."""

from __future__ import annotations

import copy
import functools
import json
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from chatanywhere import (
    APIStatusError,
    AsyncConversation,
    ChatAnywhereError,
    Client,
    Completion,
    Conversation,
    OutputError,
    StreamInterruptedError,
    ToolCall,
    Turn,
    Usage,
    image,
)
from chatanywhere.testing import Fault, LoopbackServer, Reply

Messages = list[dict[str, Any]]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


class Talk:
    """A conversation of one of the kinds, whose methods are called in the same way."""

    def __init__(self, kind: str, server: LoopbackServer, *, protocol: Any = "openai", **arguments: Any) -> None:
        self.client = Client("k", base_url=server.url, protocol=protocol, retry=1)
        self.kind = kind
        client: Any = self.client if kind == "sync" else self.client.as_async()
        self.conversation: Any = client.conversation(**arguments)

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        function = getattr(self.conversation, method)
        if self.kind == "sync":
            return function(*arguments, **options)
        return anyio.run(functools.partial(function, *arguments, **options), backend=self.kind)

    def stream(self, *arguments: Any, method: str = "stream", pieces: int | None = None, **options: Any) -> Any:
        """Read a stream to its end, or so many pieces, and leave it; return it."""

        def read() -> Any:
            with getattr(self.conversation, method)(*arguments, **options) as stream:
                for number, _ in enumerate(stream, 1):
                    if number == pieces:
                        break
            return stream

        async def read_async() -> Any:
            async with getattr(self.conversation, method)(*arguments, **options) as stream:
                number = 0
                async for _ in stream:
                    number += 1
                    if number == pieces:
                        break
            return stream

        return read() if self.kind == "sync" else anyio.run(read_async, backend=self.kind)

    @property
    def messages(self) -> Messages:
        messages: Messages = self.conversation.messages
        return messages

    @property
    def turn(self) -> Turn:
        turn: Turn = self.conversation.turn
        return turn


@pytest.fixture(params=["sync", "asyncio", "trio"])
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture(params=["openai", "web"])
def protocol(request: pytest.FixtureRequest) -> str:
    protocol: str = request.param
    return protocol


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    """Answers with how many messages it was sent."""
    with LoopbackServer(lambda request: f"answer to {len(request.messages)}") as running:
        yield running


def sent(server: LoopbackServer, number: int = -1) -> Messages:
    return server.requests[number].messages


# What enters the history ------------------------------------------------------------------------------------


def test_a_conversation_remembers(server: LoopbackServer, kind: str, protocol: str) -> None:
    """Questions and answers enter the history, and are sent with the next question."""
    talk = Talk(kind, server, protocol=protocol, system="Be brief.")
    assert isinstance(talk.conversation, Conversation if kind == "sync" else AsyncConversation)
    assert talk.call("send", "one").text == "answer to 2"
    assert talk.stream("two").completion.text == "answer to 4"
    system = {"role": "system", "content": "Be brief."}
    expected = [system, user("one"), assistant("answer to 2"), user("two"), assistant("answer to 4")]
    assert talk.messages == list(talk.conversation) == expected
    assert len(talk.conversation) == 5
    assert sent(server) == expected[:4]
    assert (talk.turn.status, talk.turn.text, talk.turn.index) == ("complete", "answer to 4", 3)
    assert talk.turn.messages == expected[3:]


USES: dict[str, Callable[[Any], object]] = {
    "iterated": list,
    "read": lambda stream: stream.read(),
    "events": lambda stream: list(stream.events()),
    "chunks": lambda stream: list(stream.chunks()),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_stream_that_is_read_to_its_end_enters_the_history(
    server: LoopbackServer, use: Callable[[Any], object]
) -> None:
    """It does so before the reader goes on, however the stream is read, and without a `with` block too."""
    conversation = Talk("sync", server).conversation
    use(conversation.stream("one"))
    assert conversation.messages == [user("one"), assistant("answer to 1")]


def test_a_stream_that_is_left_does_not_enter(kind: str, pieces_apart: None) -> None:
    """Leaving it by `break` leaves the history as it was; the turn has the text so far."""
    with LoopbackServer(lambda _: ["one ", "two ", "three"]) as server:
        talk = Talk(kind, server)
        talk.call("send", "first")
        before = talk.messages
        assert talk.stream("second", pieces=2).text == "one two "
        assert talk.messages == before
        turn = talk.turn
        assert (turn.status, turn.text, turn.messages, turn.error) == ("cut", "one two ", [user("second")], None)
        assert talk.call("send", "third").text == "one two three"
        assert [each["content"] for each in talk.messages][::2] == ["first", "third"]


@pytest.mark.parametrize("method", ["send", "stream"])
@pytest.mark.parametrize("fault", [Fault.reset_peer(after=2), Fault.no_done(after=2), Fault.error_frame(after=2)])
def test_a_failure_leaves_the_history_as_it_was(kind: str, method: str, fault: Fault) -> None:
    """The partial text is on the error, and in the turn."""
    with LoopbackServer(lambda _: Reply(pieces=["one ", "two ", "three"], reasoning="Hm.")) as server:
        talk = Talk(kind, server)
        talk.call("send", "first")
        before = talk.messages
        server.faults = [fault]
        with pytest.raises(ChatAnywhereError) as caught:
            talk.call("send", "second") if method == "send" else talk.stream("second")
        turn = talk.turn
        assert talk.messages == before
        assert turn.text == caught.value.partial
        assert turn.status == ("cut" if turn.text else "failed")
        assert type(turn.error) is type(caught.value)
        assert turn.error is not None
        assert turn.error.__traceback__ is None


@pytest.mark.parametrize("method", ["send", "stream"])
def test_a_refusal_of_the_service_leaves_the_history_as_it_was(kind: str, method: str) -> None:
    """So does an error before the answer, and the question can be asked again."""
    with LoopbackServer(lambda _: "Hello", faults=[Fault.status(500, first=1)]) as server:
        talk = Talk(kind, server)
        with pytest.raises(APIStatusError):
            talk.call("send", "one") if method == "send" else talk.stream("one")
        assert talk.messages == []
        assert (talk.turn.status, talk.turn.messages) == ("failed", [user("one")])
        assert talk.call("retry").text == "Hello"
        assert talk.messages == [user("one"), assistant("Hello")]


@pytest.mark.parametrize(
    "reply",
    [
        Reply("cut", finish_reason="length"),
        Reply("", finish_reason="content_filter"),
        Reply(refusal="No."),
        Reply(""),
        Reply(reasoning="Hm."),
    ],
    ids=repr,
)
def test_every_complete_answer_enters(kind: str, reply: Reply) -> None:
    """An answer that came to its end is in the history, whatever its finish reason, as the service wants it back."""
    with LoopbackServer([reply]) as server:
        talk = Talk(kind, server)
        completion = talk.call("send", "one")
        assert talk.messages == [user("one"), completion.message]
        assert talk.turn.completion == completion
        assert talk.turn.finish_reason == (reply.finish_reason or "stop")


def test_wrong_use_changes_nothing(server: LoopbackServer, kind: str, tmp_path: Path) -> None:
    """What is refused before anything is sent leaves history and turn as they were."""
    talk = Talk(kind, server)
    talk.call("send", "one")
    before, turn = talk.messages, talk.turn
    wrong: list[tuple[type[Exception], tuple[Any, ...], dict[str, Any]]] = [
        (TypeError, ("two",), {"base_url": "http://x"}),
        (TypeError, ("two",), {"temperature": object()}),
        (ValueError, ("two",), {"keep_text": False}),
        (TypeError, ("two",), {"messages": []}),
        (ValueError, ([],), {}),
        (TypeError, ([user("two")], [("a.txt", b"a")]), {}),
        (FileNotFoundError, ("two", [tmp_path / "missing"]), {}),
    ]
    for error, arguments, options in wrong:
        for method in ("send", "stream"):
            with pytest.raises(error):
                talk.call(method, *arguments, **options) if method == "send" else talk.stream(*arguments, **options)
    assert len(server.requests) == 1
    assert (talk.messages, talk.turn) == (before, turn)
    assert talk.call("send", "two").text == "answer to 3"


@dataclass
class Person:
    name: str


def test_an_answer_of_another_type_does_not_enter(kind: str) -> None:
    """`response_format` works as in `complete`; an answer that does not fit is an error, and not in the history."""
    with LoopbackServer(['{"name": "Ada"}', '{"name": 5}', '{"name": "Bob"}', "no"]) as server:
        talk = Talk(kind, server)
        assert talk.call("send", "Who?", response_format=Person).parsed == Person("Ada")
        before = talk.messages
        with pytest.raises(OutputError):
            talk.call("send", "And?", response_format=Person)
        assert talk.messages == before
        assert talk.turn.text == '{"name": 5}'
        assert talk.call("retry").parsed == Person("Bob")
        assert [each["content"] for each in talk.messages][2:] == ["And?", '{"name": "Bob"}']
        stream = talk.stream("Again?", response_format=Person)
        with pytest.raises(OutputError):
            _ = stream.completion
        assert len(talk.messages) == 4
        assert isinstance(talk.turn.error, OutputError)


def test_an_interrupted_answer_is_kept_aside(pieces_apart: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in `send` leaves the history as it was, keeps the text, and the conversation goes on."""
    with LoopbackServer(lambda _: ["one ", "two"]) as server:
        conversation = Talk("sync", server).conversation
        from chatanywhere._call import Call

        receive = Call.receive

        def interrupted(call: Any) -> None:
            receive(call)
            if call.delivered:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(Call, "receive", interrupted)
            with pytest.raises(KeyboardInterrupt) as caught:
                conversation.send("first")
            partial = caught.value.partial  # type: ignore[attr-defined]
            assert partial.startswith("one ")
            assert (conversation.messages, conversation.turn.text, conversation.turn.status) == ([], partial, "cut")
            with pytest.raises(KeyboardInterrupt) as caught:
                conversation.resume()
        assert caught.value.partial == conversation.turn.text == partial  # type: ignore[attr-defined]
        assert conversation.retry().text == "one two"
        assert len(conversation) == 2


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_cancelled_task_keeps_its_answer_aside(backend: str, pieces_apart: None) -> None:
    """Cancelling `send` leaves the history as it was, and the conversation goes on."""

    async def main() -> None:
        conversation = Client("k", base_url=server.url).as_async().conversation()
        with anyio.move_on_after(0.3):
            await conversation.send("first")
        assert conversation.messages == []
        assert conversation.turn is not None
        assert conversation.turn.messages == [user("first")]
        server.faults = []
        assert (await conversation.retry()).text == "onetwo"
        assert len(conversation) == 2

    with LoopbackServer(lambda _: ["one", "two"], faults=[Fault.timeout(after=1)]) as server:
        anyio.run(main, backend=backend)


# One at a time ----------------------------------------------------------------------------------------------


def test_one_answer_is_on_its_way_at_a_time(server: LoopbackServer, kind: str) -> None:
    """While a stream is open, another question, and every change, is a RuntimeError that names `fork()`."""
    talk = Talk(kind, server)
    talk.call("send", "one")

    def check() -> None:
        conversation = talk.conversation
        for action in (
            conversation.undo,
            lambda: conversation.edit(0, "x"),
            lambda: setattr(conversation, "system", "x"),
            lambda: conversation.stream("three"),
            conversation.stream_retry,
            conversation.stream_resume,
        ):
            with pytest.raises(RuntimeError, match=r"on its way.*fork\(\)"):
                action()
        assert len(conversation) == len(conversation.fork()) == 2
        assert conversation._repr_markdown_()

    async def check_async() -> None:
        async with talk.conversation.stream("two"):
            check()
        assert len(talk.conversation) == 2

    if kind == "sync":
        with talk.conversation.stream("two"):
            check()
    else:
        anyio.run(check_async, backend=kind)


def test_a_stream_that_was_cancelled_or_let_go_is_not_on_its_way(server: LoopbackServer) -> None:
    """The next question may be asked at once, though nobody has read the stream since."""
    conversation = Talk("sync", server).conversation
    stream = conversation.stream("one")
    stream.cancel()
    assert conversation.send("two").text == "answer to 1"
    for _ in conversation.stream("three"):
        break
    assert conversation.send("four").text == "answer to 3"
    assert [each["content"] for each in conversation][::2] == ["two", "four"]


def test_of_many_threads_one_asks(kind: str) -> None:
    """Questions at the same time are refused but for one, and the history is in order."""
    with LoopbackServer(lambda request: "Hello", delay=0.02) as server:
        conversation = Talk("sync", server).conversation
        refused: list[RuntimeError] = []
        barrier = threading.Barrier(8)

        def ask(number: int) -> None:
            barrier.wait()
            try:
                conversation.send(str(number))
            except RuntimeError as error:
                refused.append(error)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        roles = [each["role"] for each in conversation]
        assert roles == ["user", "assistant"] * (8 - len(refused))
        assert len(server.requests) == 8 - len(refused)


def test_a_reader_never_sees_half_a_change(server: LoopbackServer) -> None:
    """While other threads change the system message and the last turn, the roles that one reads take turns."""
    conversation = Talk("sync", server, messages=[user("one"), assistant("1")] * 200).conversation
    over = threading.Event()
    interval = sys.getswitchinterval()

    def change() -> None:
        while not over.is_set():
            conversation.system = "Be brief." if conversation.system is None else None

    thread = threading.Thread(target=change)
    thread.start()
    try:
        sys.setswitchinterval(1e-6)
        for _ in range(200):
            roles = [each["role"] for each in conversation.messages if each["role"] != "system"]
            assert roles == ["user", "assistant"] * 200
            assert conversation.turn is None
    finally:
        over.set()
        thread.join(20)
        sys.setswitchinterval(interval)


# Changes ----------------------------------------------------------------------------------------------------


def test_what_is_given_out_can_be_changed(server: LoopbackServer) -> None:
    """Messages and turns are copies: changing them changes neither the history nor what is asked again."""
    conversation = Talk("sync", server).conversation
    conversation.send("one")
    for given in (lambda: conversation.messages, lambda: conversation.turn.messages):
        given()[0]["content"] = "changed"
        given().clear()
    assert conversation.retry().text == "answer to 1"
    assert conversation.messages == conversation.turn.messages == [user("one"), assistant("answer to 1")]
    assert sent(server) == [user("one")]


@pytest.mark.parametrize("client", ["another", "sk-key", None])
def test_a_client_of_another_kind_is_told(server: LoopbackServer, tmp_path: Path, client: Any) -> None:
    """A conversation of the other kind's client, or of none, is a TypeError when it is made or loaded."""
    with Client("k", base_url=server.url) as own:
        own.conversation().save(tmp_path / "talk.md")
        clients = {Conversation: own.as_async(), AsyncConversation: own}
        for kind, other in clients.items():
            wrong: Any = other if client == "another" else client
            with pytest.raises(TypeError, match=r"needs an? (?:Async)?Client, not"):
                kind(wrong)
            with pytest.raises(TypeError, match=r"needs an? (?:Async)?Client, not"):
                kind.load(tmp_path / "talk.md", wrong)


def test_a_conversation_is_not_pickled(server: LoopbackServer) -> None:
    """Its client has a key: the error names what to do instead."""
    with pytest.raises(TypeError, match=r"save\(\)"):
        pickle.dumps(Talk("sync", server).conversation)


def test_undo_takes_back_the_last_turn(server: LoopbackServer) -> None:
    """It returns the turn's messages; without one it is a RuntimeError."""
    conversation = Talk("sync", server, system="Be brief.").conversation
    conversation.send("one")
    conversation.send("two")
    assert conversation.undo() == [user("two"), assistant("answer to 4")]
    assert conversation.turn is None
    asked = [user("two"), assistant("2"), user("three")]
    conversation.send(asked)
    assert conversation.undo() == [*asked, assistant("answer to 6")]
    conversation.undo()
    assert conversation.messages == [{"role": "system", "content": "Be brief."}]
    with pytest.raises(RuntimeError, match="no turn to take back"):
        conversation.undo()


def test_retry_asks_again(server: LoopbackServer, kind: str, protocol: str) -> None:
    """The last question is asked again, and its answer takes the place of the last; the model is for it only."""
    talk = Talk(kind, server, protocol=protocol)
    with pytest.raises(RuntimeError, match="nothing has been asked"):
        talk.call("retry")
    talk.call("send", "one")
    talk.call("send", "two", temperature=0.5)
    model = "gpt-4o" if protocol == "openai" else "12345"
    completion = talk.call("retry", model=model)
    assert completion.text == "answer to 3"
    assert (talk.turn.model, talk.turn.index) == (model, 2)
    assert [each["content"] for each in talk.messages] == ["one", "answer to 1", "two", "answer to 3"]
    assert sent(server) == talk.messages[:3]
    body = server.requests[-1].json
    assert (body.get("model") or body["models"], body["temperature"]) == (model, 0.5)
    talk.stream(method="stream_retry")
    body = server.requests[-1].json
    assert (body.get("model") or body["models"]) != model
    assert body["temperature"] == 0.5
    assert len(talk.messages) == 4


def test_a_retry_that_fails_changes_nothing(server: LoopbackServer, kind: str) -> None:
    """The answer that was there stays, and the question can be asked again."""
    talk = Talk(kind, server)
    talk.call("send", "one")
    before = talk.messages
    server.faults = [Fault.status(500, first=1)]
    with pytest.raises(APIStatusError):
        talk.call("retry")
    assert talk.messages == before
    talk.call("retry")
    assert talk.messages == before


def test_edit_changes_one_message(server: LoopbackServer) -> None:
    """Later messages are dropped, nothing is sent, and `retry()` asks what was changed."""
    conversation = Talk("sync", server, system="Be brief.").conversation
    for text in ("one", "two"):
        conversation.send(text)
    conversation.edit(-2, "three")
    assert [each["content"] for each in conversation] == ["Be brief.", "one", "answer to 2", "three"]
    assert len(server.requests) == 2
    conversation.retry()
    assert sent(server)[-1] == user("three")
    assert conversation.messages[3:] == [user("three"), assistant("answer to 4")]
    conversation.edit(2, "another answer")
    assert conversation.messages[1:] == [user("one"), assistant("another answer")]
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"no message {index}: the conversation has 3"):
            conversation.edit(index, "x")
    for wrong in (("0", "x"), (True, "x"), (0, 5)):
        with pytest.raises(TypeError, match="must be"):
            conversation.edit(*wrong)
    assert len(conversation) == 3


def test_edit_keeps_what_goes_with_a_question(server: LoopbackServer) -> None:
    """Pictures and files stay; an answer is the new text and nothing else."""
    picture = image("https://example.org/cat.png")
    question = {"role": "user", "name": "Ada", "content": [picture, {"type": "text", "text": "What?"}]}
    answer = {"role": "assistant", "content": None, "refusal": "No."}
    alone = {"role": "user", "content": [picture]}
    conversation = Talk("sync", server, messages=[question, answer, alone]).conversation
    conversation.edit(2, "Now?")
    assert conversation.messages[2]["content"] == [{"type": "text", "text": "Now?"}, picture]
    conversation.edit(1, "A cat.")
    assert conversation.messages[1] == assistant("A cat.")
    conversation.edit(0, "Who?")
    assert conversation.messages == [{**question, "content": [picture, {"type": "text", "text": "Who?"}]}]


@pytest.mark.parametrize("copied", [Conversation.fork, copy.copy, copy.deepcopy])
def test_a_fork_goes_on_by_itself(server: LoopbackServer, copied: Callable[[Conversation], Conversation]) -> None:
    """Neither changes the other's history, and a turn that was cut is in both. A copy is a fork."""
    conversation = Talk("sync", server, system="Be brief.", temperature=0.5, max_messages=9).conversation
    conversation.send("one")
    server.faults = [Fault.reset_peer(after=1, first=1)]
    with pytest.raises(StreamInterruptedError):
        conversation.stream("two").read()
    fork = copied(conversation)
    assert type(fork) is type(conversation)
    assert (fork.messages, fork.options, fork.max_messages) == (conversation.messages, {"temperature": 0.5}, 9)
    fork.retry()
    fork.edit(1, "changed")
    conversation.send("three")
    assert [each["content"] for each in fork] == ["Be brief.", "changed"]
    assert [each["content"] for each in conversation][1::2] == ["one", "three"]
    conversation.messages[0]["content"] = "changed"
    assert conversation.messages[0]["content"] == conversation.system == "Be brief."


def test_the_system_message_can_be_changed(server: LoopbackServer) -> None:
    """The history stays, and so does a turn that was cut."""
    conversation = Talk("sync", server).conversation
    assert conversation.system is None
    conversation.send("one")
    server.faults = [Fault.status(500, first=1)]
    with pytest.raises(APIStatusError):
        conversation.send("two")
    conversation.system = "Be brief."
    conversation.retry()
    assert [each["content"] for each in sent(server)] == ["Be brief.", "one", "answer to 1", "two"]
    conversation.system = "Be long."
    assert [each["role"] for each in conversation] == ["system", "user", "assistant", "user", "assistant"]
    conversation.system = None
    conversation.retry()
    assert [each["content"] for each in conversation] == ["one", "answer to 1", "two", "answer to 3"]
    with pytest.raises(TypeError, match="system must be a str"):
        conversation.system = 5


def test_options_are_of_all_turns(server: LoopbackServer, kind: str) -> None:
    """Those of the conversation are sent with each question, unless a question has its own."""
    talk = Talk(kind, server, model="gpt-4o", temperature=0.1, seed=1)
    talk.call("send", "one", temperature=0.9)
    talk.stream("two", model="gpt-4o-mini")
    first, second = (request.json for request in server.requests)
    assert [first[name] for name in ("model", "temperature", "seed")] == ["gpt-4o", 0.9, 1]
    assert [second[name] for name in ("model", "temperature", "seed")] == ["gpt-4o-mini", 0.1, 1]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"system": 5}, TypeError),
        ({"max_messages": 0}, ValueError),
        ({"max_messages": True}, TypeError),
        ({"max_chars": "9"}, TypeError),
        ({"max_chars": -1}, ValueError),
        ({"keep_text": False}, ValueError),
        ({"messages": [{"content": "Hello"}]}, ValueError),
        ({"messages": {"role": "user"}}, TypeError),
        ({"messages": [{"role": "user", "content": {1j}}]}, TypeError),
    ],
    ids=repr,
)
def test_what_can_not_be_used_is_told(arguments: dict[str, Any], error: type[Exception]) -> None:
    """Wrong arguments are refused when the conversation is made."""
    with pytest.raises(error):
        Client("k", base_url="http://127.0.0.1:9").conversation(**arguments)


def test_messages_of_all_kinds_are_read(server: LoopbackServer) -> None:
    """A history that is given may hold what `stream` takes: it is JSON from then on."""
    call = ToolCall("call_1", "weather", "{}")
    given = [
        {"role": "user", "content": (image("https://example.org/cat.png"),)},
        Completion("A cat.", tool_calls=(call,)),
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        Completion("Sunny."),
    ]
    conversation = Talk("sync", server, messages=given).conversation
    assert json.loads(json.dumps(conversation.messages)) == conversation.messages
    assert conversation.messages[1]["tool_calls"][0]["id"] == "call_1"
    conversation.send("Thanks")
    assert sent(server) == conversation.messages[:-1]


# Files ------------------------------------------------------------------------------------------------------


def test_files_go_with_a_question(server: LoopbackServer, kind: str, tmp_path: Path) -> None:
    """Texts and pictures are parts of the message, and stay in the history."""
    (tmp_path / "notes.txt").write_text("Buy milk.", encoding="utf-8")
    picture = b"\x89PNG\r\n\x1a\n\0"
    talk = Talk(kind, server)
    talk.call("send", "What is there to do?", [tmp_path / "notes.txt", ("cat.png", picture)])
    content = [
        {"type": "text", "text": "What is there to do?"},
        {"type": "text", "text": "notes.txt:\nBuy milk."},
        image(picture),
    ]
    assert sent(server) == [{"role": "user", "content": content}] == talk.messages[:1]


@pytest.mark.parametrize("ending", [".md", ".json"])
def test_a_saved_conversation_goes_on(server: LoopbackServer, kind: str, tmp_path: Path, ending: str) -> None:
    """Everything but the client and its limits is in the file."""
    path = tmp_path / f"talk{ending}"
    talk = Talk(kind, server, system="Be brief.", model=("a", "b"), max_messages=7, max_chars=900, seed=5, timeout=9)
    talk.call("send", "one")
    talk.conversation.options["response_format"] = Person  # a type, which has no JSON
    talk.conversation.save(path)
    loaded = type(talk.conversation).load(path, talk.client if kind == "sync" else talk.client.as_async())
    assert loaded.messages == talk.messages
    assert (list(loaded.model), loaded.max_messages, loaded.max_chars) == (["a", "b"], 7, 900)
    assert loaded.options == {"seed": 5}
    talk.conversation = loaded
    talk.call("send", "two")
    assert len(sent(server)) == 4
    with pytest.raises(RuntimeError, match="complete"):
        talk.call("resume")


@pytest.mark.parametrize("ending", [".md", ".json"])
def test_secrets_are_not_saved(tmp_path: Path, ending: str) -> None:
    """Headers and the URL's parameters, which may hold keys, stay out of files, and so does the client's key."""
    path = tmp_path / f"talk{ending}"
    options: dict[str, Any] = {
        "headers": {"X-Key": "sk-1"},
        "extra_headers": {"Y": "sk-2"},
        "extra_query": {"k": "sk-3"},
    }
    Client("sk-4", base_url="http://127.0.0.1:9").conversation("Hello", **options).save(path)
    assert "sk-" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("ending", [".md", ".json"])
@pytest.mark.parametrize("kind_of_end", ["cut", "length", "retried", "resumed"])
def test_what_was_cut_can_be_gone_on_with_after_loading(tmp_path: Path, ending: str, kind_of_end: str) -> None:
    """A turn that was cut is in the file, and in its place when it is complete."""
    path = tmp_path / f"talk{ending}"
    replies: list[Any] = ["zero"]
    if kind_of_end == "cut":
        replies += [["one ", "two"]]
    elif kind_of_end == "length":
        replies += [Reply("one ", finish_reason="length")]
    elif kind_of_end == "retried":
        replies += ["another", ["one ", "two"]]
    else:
        replies += [Reply("on", finish_reason="length"), ["e ", "two"]]
    with LoopbackServer([*replies, "two three"]) as server:
        conversation = Talk("sync", server).conversation
        conversation.send("first")
        if kind_of_end != "cut":
            conversation.send("second")
        if kind_of_end != "length":
            server.faults = [Fault.reset_peer(after=1, first=1)]
            ask = {
                "cut": lambda: conversation.stream("second").read(),
                "retried": lambda: conversation.stream_retry().read(),
                "resumed": conversation.resume,
            }
            with pytest.raises(ChatAnywhereError):
                ask[kind_of_end]()
        before = conversation.messages
        conversation.save(path)
        loaded = Conversation.load(path, Client("k", base_url=server.url))
        assert loaded.messages == before
        assert loaded.resume().text == "one two three"
        assert [each["content"] for each in loaded] == ["first", "zero", "second", "one two three"]


def test_a_turn_that_was_kept_elsewhere_goes_on(server: LoopbackServer) -> None:
    """A program that keeps conversations itself can put a turn that was cut in its place."""
    conversation = Talk("sync", server, messages=[user("one"), assistant("1")]).conversation
    conversation.turn = Turn([user("two")], "The ", "cut", 2)
    assert conversation.fork().retry().text == "answer to 3"
    assert conversation.resume().text == "The answer to 5"
    assert [each["content"] for each in conversation] == ["one", "1", "two", "The answer to 5"]
    conversation.turn = None
    wrong = [Turn([user("x")], "", "cut", 5), Turn([user("x")], "", "cut", -1), Turn([], "", "cut", 0)]
    for turn in (*wrong, Turn([user("x")], "", "cut", 0, asked=2)):
        with pytest.raises(ValueError, match="messages"):
            conversation.turn = turn
    with pytest.raises(TypeError, match="must be a Turn"):
        conversation.turn = user("x")
    assert conversation.turn is None


def test_a_file_of_another_is_told(server: LoopbackServer, tmp_path: Path) -> None:
    """So is one whose settings can't be used."""
    path = tmp_path / "talk.json"
    client = Client("k", base_url=server.url)
    for setting in ({"max_messages": 0}, {"max_chars": "x"}, {"options": {"model": 5}}, {"options": {"keep_text": 0}}):
        path.write_text(json.dumps({"chatanywhere": 1, "messages": [], **setting}), encoding="utf-8")
        if setting == {"options": {"keep_text": 0}}:
            assert Conversation.load(path, client).options == {}  # not an option that files have
            continue
        with pytest.raises(ValueError, match=r"talk\.json is no conversation"):
            Conversation.load(path, client)


# Going on with an answer ------------------------------------------------------------------------------------


def cut_after(pieces: int, first: int = 1) -> list[Fault]:
    return [Fault.reset_peer(after=pieces, first=first)]


@pytest.mark.parametrize("end", ["reset", "left", "length"])
def test_resume_goes_on(kind: str, end: str, pieces_apart: None) -> None:
    """The partial is sent as the assistant's, with the request to go on; the whole is the turn, and that is all."""
    first = Reply(pieces=["天气", "很好"], finish_reason="length") if end == "length" else ["天气", "很好", "，真的"]
    with LoopbackServer(["zero", first, "很好，真的。"], faults=[]) as server:
        talk = Talk(kind, server, system="Be brief.")
        talk.call("send", "first")
        if end == "length":
            talk.call("send", "second", seed=1)
        elif end == "left":
            talk.stream("second", pieces=2, seed=1)
        else:
            server.faults = cut_after(2)
            with pytest.raises(StreamInterruptedError):
                talk.stream("second", seed=1)
        completion = talk.call("resume")
        assert completion.text == "天气很好，真的。"
        assert completion.message == assistant("天气很好，真的。")
        assert completion.raw["choices"][0]["message"]["content"] == "天气很好，真的。"
        assert completion.finish_reason == "stop"
        *before, partial, go_on = sent(server)
        assert go_on["content"].endswith("\n\n天气很好")
        assert before == talk.messages[:4]
        assert partial == assistant("天气很好")
        assert go_on["role"] == "user"
        assert server.requests[-1].json["seed"] == 1
        assert talk.messages[3:] == [user("second"), assistant("天气很好，真的。")]
        assert (talk.turn.status, talk.turn.text) == ("complete", "天气很好，真的。")
        with pytest.raises(RuntimeError, match=r"complete \(finish_reason 'stop'\)"):
            talk.call("resume")


def test_a_resume_that_is_cut_can_be_resumed(kind: str) -> None:
    """Each time what has come is kept; the error has the whole of it, and usage is added up as far as it is known."""
    replies = [
        Reply(
            "one two ", finish_reason="length", usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
        ),
        ["two three ", "fo"],
        Reply(
            "four five", finish_reason="length", usage={"prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 9}
        ),
        Reply(" six", usage={"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}),
    ]
    with LoopbackServer(replies) as server:
        talk = Talk(kind, server)
        talk.call("send", "count")
        before = talk.messages
        server.faults = [Fault.no_done(after=2, first=1)]
        with pytest.raises(ChatAnywhereError) as caught:
            talk.call("resume")
        assert caught.value.partial == talk.turn.text == "one two three fo"
        assert talk.messages == before
        completion = talk.call("resume")
        assert completion.text == "one two three four five"
        assert completion.usage == Usage(5, 7, 12)
        completion = talk.call("resume")
        assert (completion.text, completion.usage) == ("one two three four five six", Usage(6, 8, 14))
        assert talk.messages == [user("count"), assistant("one two three four five six")]


def test_the_web_protocol_goes_on_as_well(kind: str, pieces_apart: None) -> None:
    """It has no finish reasons; a stream that was left can be gone on with."""
    with LoopbackServer([["one ", "two"], "two three"]) as server:
        talk = Talk(kind, server, protocol="web")
        talk.stream("count", pieces=1)
        assert talk.call("resume").text == "one two three"
        assert talk.messages == [user("count"), assistant("one two three")]
        with pytest.raises(RuntimeError, match="came to its end"):
            talk.call("resume")


def test_a_stream_of_the_rest_enters_as_a_whole(kind: str) -> None:
    """The stream is what the model says; the history has it once."""
    with LoopbackServer([Reply("one two", finish_reason="length"), "two three"]) as server:
        talk = Talk(kind, server)
        talk.call("send", "count")
        assert talk.stream(method="stream_resume").text == "two three"
        assert talk.messages == [user("count"), assistant("one two three")]
        completion = talk.turn.completion
        assert completion is not None
        assert completion.text == "one two three"


def test_a_stream_of_the_rest_that_is_cut_has_its_own_text(kind: str) -> None:
    """Its error has what came of the stream, and the turn the whole."""
    with LoopbackServer([Reply("one two", finish_reason="length"), ["two ", "three", " four"]]) as server:
        talk = Talk(kind, server)
        talk.call("send", "count")
        server.faults = [Fault.no_done(after=2, first=1)]
        with pytest.raises(ChatAnywhereError) as caught:
            talk.stream(method="stream_resume")
        assert caught.value.partial == "two three"
        turn = talk.turn
        assert turn.error is not None
        assert turn.text == turn.error.partial == "one two three"


def test_nothing_to_go_on_with_is_told(kind: str) -> None:
    """The error says why, and nothing is sent."""
    with LoopbackServer([Reply(reasoning="Hm", tool_calls=[("f", {})], finish_reason="length")]) as server:
        talk = Talk(kind, server, messages=[assistant("Welcome")])
        with pytest.raises(RuntimeError, match="nothing has been asked"):
            talk.call("resume")
        talk.call("send", "one")
        with pytest.raises(RuntimeError, match=r"nothing of the last answer's text had come: use retry\(\)"):
            talk.call("resume")
        talk.conversation.undo()
        with pytest.raises(RuntimeError, match="nothing has been asked"):
            talk.call("resume")
        assert len(server.requests) == 1


def test_a_type_is_asked_of_the_whole(kind: str) -> None:
    """The rest alone is no instance: `response_format` is not sent with the request to go on, and the whole is read."""
    replies = [Reply('{"name": ', finish_reason="length"), Reply('"Ad', finish_reason="length"), 'Ada"}']
    with LoopbackServer(replies) as server:
        talk = Talk(kind, server)
        for method, arguments in (("send", ["Who?"]), ("resume", [])):
            with pytest.raises(OutputError) as caught:
                talk.call(method, *arguments, **({"response_format": Person} if arguments else {}))
            assert caught.value.reason == "length"
        assert caught.value.partial == '{"name": "Ad'
        completion = talk.call("resume")
        assert completion.parsed == Person("Ada")
        assert talk.messages == [user("Who?"), assistant('{"name": "Ada"}')]
        assert "response_format" not in server.requests[-1].json


# Tools ------------------------------------------------------------------------------------------------------


def weather(city: str) -> str:
    """Return the weather in a city."""
    return f"It is sunny in {city}."


CALLS = Reply(
    tool_calls=[{"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}]
)


def test_a_run_of_tools_enters_as_one_turn(kind: str) -> None:
    """The question, the rounds and the answer are in the history, and are taken back together."""
    with LoopbackServer([CALLS, "Sunny.", "Bye."]) as server:
        talk = Talk(kind, server)
        rounds: list[int] = []
        run = talk.call("run_tools", "Rome?", [weather], on_round=lambda _, results: rounds.append(len(results)))
        assert (run.text, rounds) == ("Sunny.", [1])
        assert [each["role"] for each in talk.messages] == ["user", "assistant", "tool", "assistant"]
        assert talk.messages[2] == {"role": "tool", "tool_call_id": "call_1", "content": "It is sunny in Rome."}
        assert talk.messages == run.messages
        talk.call("send", "Thanks")
        assert sent(server) == talk.messages[:-1]
        talk.conversation.undo()
        assert len(talk.conversation.undo()) == 4
        assert talk.messages == []


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_coroutine_function_is_told_of_rounds(backend: str) -> None:
    """`on_round` may be one, as in `AsyncClient.run_tools`; the blocking conversation refuses it."""

    async def main() -> None:
        rounds: list[int] = []

        async def on_round(_: Completion, results: Any) -> None:
            await anyio.sleep(0)
            rounds.append(len(results))

        client = Client("k", base_url=server.url)
        await client.as_async().conversation().run_tools("Rome?", [weather], on_round=on_round)
        assert rounds == [1]
        for wrong in (on_round, 5):
            with pytest.raises(TypeError, match="on_round"):
                client.conversation().run_tools("Rome?", [weather], on_round=wrong)  # type: ignore[arg-type]

    with LoopbackServer([CALLS, "Sunny."]) as server:
        anyio.run(main, backend=backend)


def test_a_run_that_is_cut_keeps_its_rounds(kind: str) -> None:
    """The history stays; `resume()` goes on behind the rounds, and `retry()` runs the functions again."""
    with LoopbackServer([CALLS, ["It is ", "sunny"], "sunny.", CALLS, "Hot."]) as server:
        talk = Talk(kind, server)

        def on_round(*_: Any) -> None:
            server.faults = cut_after(1)

        with pytest.raises(ChatAnywhereError):
            talk.call("run_tools", "Rome?", [weather], on_round=on_round)
        assert talk.messages == []
        assert [each["role"] for each in talk.turn.messages] == ["user", "assistant", "tool"]
        assert talk.call("resume").text == "It is sunny."
        assert [each["role"] for each in sent(server)] == ["user", "assistant", "tool", "assistant", "user"]
        assert [each["role"] for each in talk.messages] == ["user", "assistant", "tool", "assistant"]
        server.faults = []
        assert talk.call("retry", on_round=None).text == "Hot."
        assert len(talk.messages) == 4


def test_a_run_that_failed_between_two_answers_goes_on_there(kind: str, tmp_path: Path) -> None:
    """`resume()` asks behind the rounds, and runs what else is called; no call is run twice, after `load` either."""
    with LoopbackServer([CALLS, CALLS, "Sunny.", "Hot."]) as server:
        talk = Talk(kind, server)
        ran: list[str] = []

        def weather(city: str) -> str:
            """Return the weather in a city."""
            ran.append(city)
            server.faults = [] if len(ran) > 1 else [Fault.status(500)]
            return "sunny"

        with pytest.raises(APIStatusError):
            talk.call("run_tools", "Rome?", [weather])
        assert (talk.turn.status, talk.messages) == ("failed", [])
        talk.conversation.save(tmp_path / "talk.md")
        server.faults = []
        assert talk.call("resume").text == "Sunny."
        assert ran == ["Rome", "Rome"]
        assert [each["role"] for each in sent(server)] == ["user", *["assistant", "tool"] * 2]
        assert [each["role"] for each in talk.messages] == ["user", *["assistant", "tool"] * 2, "assistant"]
        client = talk.client if kind == "sync" else talk.client.as_async()
        talk.conversation = type(talk.conversation).load(tmp_path / "talk.md", client)
        assert talk.call("resume").text == "Hot."
        assert [each["role"] for each in talk.messages] == ["user", "assistant", "tool", "assistant"]


def test_a_run_that_the_program_ends_keeps_its_rounds(kind: str) -> None:
    """An error of `on_round`, and an exit of a function, leave the turn with the rounds before, to be gone on with."""
    with LoopbackServer([CALLS, "Sunny.", CALLS, "Hot."]) as server:
        talk = Talk(kind, server)

        def leave(city: str) -> str:
            """Return the weather in a city."""
            raise SystemExit

        leave.__name__ = "weather"
        with pytest.raises(ZeroDivisionError):
            talk.call("run_tools", "Rome?", [weather], on_round=lambda *_: 1 // 0)
        assert (talk.turn.status, talk.turn.error, talk.messages) == ("failed", None, [])
        assert [each["role"] for each in talk.turn.messages] == ["user", "assistant", "tool"]
        assert talk.call("resume", on_round=None).text == "Sunny."
        with pytest.raises(SystemExit):
            talk.call("run_tools", "Athens?", [leave])
        assert (talk.turn.messages, len(talk.messages)) == ([user("Athens?")], 4)


def test_an_answer_that_was_dropped_is_no_answer(server: LoopbackServer) -> None:
    """When a question has been edited there is nothing to resume; behind an edited result the model goes on."""
    calls = Completion("", tool_calls=(ToolCall("call_1", "weather", "{}"),)).message
    result = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
    conversation = Talk("sync", server, messages=[user("Rome?"), calls, result, assistant("Sunny.")]).conversation
    conversation.edit(2, "rainy")
    assert conversation.resume().text == "answer to 3"
    assert [each["content"] for each in conversation] == ["Rome?", calls["content"], "rainy", "answer to 3"]
    conversation.edit(0, "Athens?")
    with pytest.raises(RuntimeError, match=r"nothing of the last answer's text had come: use retry\(\)"):
        conversation.resume()


def test_calls_wait_for_their_results(kind: str) -> None:
    """After an answer that calls functions, the next question has to be what they returned."""
    with LoopbackServer([CALLS, "Sunny.", "Bye."]) as server:
        talk = Talk(kind, server)
        completion = talk.call("send", "Rome?")
        with pytest.raises(RuntimeError, match=r"waits for what they return.*run_tools\(\).*undo\(\)"):
            talk.call("send", "Hello?")
        with pytest.raises(RuntimeError, match="complete"):
            talk.call("resume")
        call_id = completion.tool_calls[0].id
        with pytest.raises(RuntimeError, match="waits"):
            talk.call("send", [{"role": "tool", "tool_call_id": "other", "content": "sunny"}])
        assert len(server.requests) == 1
        result = {"role": "tool", "tool_call_id": call_id, "content": "sunny"}
        assert talk.call("send", [result]).text == "Sunny."
        assert talk.call("retry").text == "Bye."
        assert sent(server)[-1] == result
        assert len(talk.conversation.undo()) == 4


# What is sent -----------------------------------------------------------------------------------------------


def test_no_more_messages_are_sent_than_allowed(server: LoopbackServer, kind: str) -> None:
    """The question counts and the system message does not; whole turns are left out, and the history has all."""
    talk = Talk(kind, server, system="Be brief.", max_messages=4)
    for number in range(4):
        talk.call("send", str(number))
    texts = [[each["content"] for each in request.messages] for request in server.requests]
    assert texts[1] == ["Be brief.", "0", "answer to 2", "1"]
    assert texts[3] == ["Be brief.", "2", "answer to 4", "3"]
    assert len(talk.messages) == 9
    talk.conversation.max_messages = 1
    talk.call("retry")
    assert [each["content"] for each in sent(server)] == ["Be brief.", "3"]


def test_no_more_characters_are_sent_than_allowed(server: LoopbackServer) -> None:
    """The question is always sent, however long it is, and the system message does not count."""
    history = [user("12345"), assistant("12345"), user("123"), assistant("123")]
    conversation = Talk("sync", server, system="x" * 99, messages=[*history], max_chars=10).conversation
    for question in ("1234", "12345678", "x" * 99):
        conversation.fork().send(question)
    roles = [[each["role"] for each in request.messages] for request in server.requests]
    assert roles == [["system", "user", "assistant", "user"], ["system", "user"], ["system", "user"]]


@pytest.mark.parametrize("name", ["max_messages", "max_chars"])
def test_a_limit_that_is_set_later_is_checked(server: LoopbackServer, name: str) -> None:
    """One that leaves no room for a question is refused, and nothing is sent."""
    conversation = Talk("sync", server).conversation
    for wrong in (0, -1):
        setattr(conversation, name, wrong)
        with pytest.raises(ValueError, match=f"{name}={wrong}"):
            conversation.send("Hello")
    assert not server.requests
    setattr(conversation, name, 1)
    assert conversation.send("Hello").text


def test_a_question_of_several_messages_is_sent_as_a_whole(server: LoopbackServer) -> None:
    """Its turn is not cut within it, and one that begins with a system message brings no earlier turn."""
    for new in ([user("one"), user("two")], [{"role": "system", "content": "one"}, user("two")]):
        conversation = Talk("sync", server, messages=[user("zero"), assistant("0")], max_messages=1).conversation
        conversation.send(new)
        assert sent(server) == new
    conversation = Talk("sync", server, messages=[user("one"), user("two"), assistant("2")]).conversation
    for most, number in ((4, 4), (3, 1)):
        conversation.max_messages = most
        conversation.fork().send("three")
        assert len(sent(server)) == number


def test_tools_stay_with_their_results(server: LoopbackServer) -> None:
    """Where there is no room for a whole turn, none of it is sent; results bring the turn that asked for them."""
    calls = Completion("", tool_calls=(ToolCall("call_1", "weather", "{}"),)).message
    result = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
    history = [user("Rome?"), calls, result, assistant("Sunny."), user("Hi"), assistant("Hi")]
    for most, number in ((7, 7), (6, 3), (3, 3), (2, 1)):
        Talk("sync", server, messages=history, max_messages=most).conversation.send("Bye")
        assert len(sent(server)) == number
    Talk("sync", server, messages=[user("Hi"), assistant("Hi"), *history[:2]], max_messages=1).conversation.send(
        [result]
    )
    assert sent(server) == history[:3]


def test_the_rest_of_an_answer_counts(kind: str) -> None:
    """With `resume()`, the partial answer and the request to go on are sent in any case, and count."""
    replies = ["zero", Reply("one", finish_reason="length"), " two"]
    with LoopbackServer(replies) as server:
        talk = Talk(kind, server, max_messages=4)
        talk.call("send", "first")
        talk.call("send", "second")
        talk.call("resume")
        assert [each["role"] for each in sent(server)] == ["user", "assistant", "user"]
        assert talk.messages[2:] == [user("second"), assistant("one two")]


# What is told -----------------------------------------------------------------------------------------------


def test_it_shows_itself(server: LoopbackServer) -> None:
    """A notebook shows the messages as Markdown, in which nothing of what was said is run."""
    conversation = Talk("sync", server).conversation
    assert conversation
    assert (repr(conversation), conversation._repr_markdown_()) == (
        "<Conversation 0 messages>",
        "*nothing has been said yet*",
    )
    calls = Completion("", tool_calls=(ToolCall("call_1", "f<b>", '{"x": 1}'),))
    said = [
        {
            "role": "<script>",
            "content": [{"type": "text", "text": "<script>alert(1)</script>"}, image("https://x/y.png")],
        },
        assistant("```html\n<script>\n```\nand `<b>`"),
        {"role": "assistant", "content": None, "refusal": "No <b>."},
        calls,
    ]
    conversation = Talk("sync", server, messages=said).conversation
    assert repr(conversation) == "<Conversation 4 messages>"
    assert conversation._repr_markdown_() == (
        "**&#60;script&#62;**\n\n&lt;script>alert(1)&lt;/script>\n\n*[image_url]*"
        "\n\n---\n\n**assistant**\n\n```html\n<script>\n```\nand `<b>`"
        "\n\n---\n\n**assistant**\n\nNo &lt;b>."
        '\n\n---\n\n**assistant**\n\n→ f&lt;b>({"x": 1})'
    )
