"""Hosts and models that fail: which failure leads to the next, in which order, and for how long."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from faces import Face

import chatanywhere._hosts as hosts
from chatanywhere import (
    APIConnectionError,
    AuthenticationError,
    BadRequestError,
    ChatAnywhereError,
    Client,
    InternalServerError,
    NotFoundError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitError,
    Retry,
    Timeout,
)
from chatanywhere.testing import Fault, LoopbackServer, Reply, Request
from chatanywhere.testing.replies import ReplyLike

KEY = "sk-0123456789abcdef"
ONCE = Retry(1, failover=True)


@contextmanager
def servers(*replies: Callable[[Request], ReplyLike]) -> Iterator[list[LoopbackServer]]:
    """Several services."""
    running = [LoopbackServer(reply).start() for reply in replies]
    try:
        yield running
    finally:
        for server in running:
            server.close()


def answering(_: Request) -> str:
    return "Hi"


def asked(server: LoopbackServer) -> list[str]:
    """The models that the server was asked for."""
    return [request.json["model"] for request in server.requests]


def error(status: int, code: object, message: str) -> Fault:
    return Fault.status(status, body=json.dumps({"error": {"message": message, "code": code}}))


# Hosts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [Fault.status(500), Fault.status(503), Fault.status(429), Fault.html(), Fault.reset_peer(), Fault.timeout()],
    ids=["500", "503", "429", "page", "reset", "silence"],
)
def test_a_host_that_fails_is_followed_by_the_next(face: Face, fault: Fault) -> None:
    """With `failover` the next host is asked when the attempts at one are used up; without it, the call has failed."""
    with servers(lambda _: fault, answering) as (first, second):
        client = Client(KEY, base_url=[first.url, second.url], timeout=Timeout(read=0.3))
        outcome = face.ask(client, retry=Retry(2, backoff=0, failover=True))
        assert (outcome.text, len(first.requests), len(second.requests)) == ("Hi", 2, 1)
        outcome = face.ask(Client(KEY, base_url=[first.url, second.url], timeout=Timeout(read=0.3)), retry=Retry(2, 0))
        assert isinstance(outcome.error, ChatAnywhereError)
        assert (len(first.requests), len(second.requests)) == (4, 1)


@pytest.mark.parametrize(
    "fault",
    [Fault.status(400), Fault.status(401), Fault.status(403), Fault.status(404), error(429, "insufficient_quota", "x")],
    ids=["400", "401", "403", "404", "quota"],
)
def test_what_any_host_would_say_is_not_asked_of_the_next(face: Face, fault: Fault) -> None:
    """A request, a key or a quota is not better elsewhere."""
    with servers(lambda _: fault, answering) as (first, second):
        outcome = face.ask(Client(KEY, base_url=[first.url, second.url], retry=Retry(3, backoff=0, failover=True)))
        assert outcome.error is not None
        assert (len(first.requests), len(second.requests)) == (1, 0)


def test_all_hosts_fail(face: Face) -> None:
    """The last host's error is the call's; `attempts` counts all of them."""
    with servers(lambda _: Fault.status(500), lambda _: Fault.status(502)) as (first, second):
        outcome = face.ask(Client(KEY, base_url=[first.url, second.url], retry=Retry(2, backoff=0, failover=True)))
    assert isinstance(outcome.error, InternalServerError)
    assert (outcome.error.status_code, outcome.error.attempts) == (502, 4)


def test_nothing_is_asked_again_of_another_host_once_a_piece_was_given_out(face: Face) -> None:
    """An answer that breaks off is not begun anew elsewhere."""
    with servers(lambda _: Reply(pieces=["Hel", "lo"]), answering) as (first, second):
        first.faults = [Fault.reset_peer(after=1)]
        outcome = face.ask(Client(KEY, base_url=[first.url, second.url], retry=ONCE))
        assert outcome.error is not None
        assert (outcome.error.partial, len(second.requests)) == (outcome.text, 0)


def test_a_host_that_failed_rests_and_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a while others are asked first; then it is the first again. When all rest, they are asked all the same."""
    now = 1000.0
    monkeypatch.setattr(hosts, "monotonic", lambda: now)
    with servers(lambda _: "one", lambda _: "two") as (first, second):
        first.faults = second.faults = [Fault.status(500, first=1)]
        client = Client(KEY, base_url=[first.url, second.url], retry=ONCE)
        with pytest.raises(InternalServerError):
            client.complete("Hello")  # both
        assert client.complete("Hello").text == "one"  # which wakes it
        first.faults = [Fault.status(500, first=1)]
        assert client.complete("Hello").text == "two"
        assert client.complete("Hello").text == "two"
        now += 59
        assert client.complete("Hello").text == "two"
        now += 2
        assert client.complete("Hello").text == "one"


def test_a_host_that_can_not_be_reached_rests(face: Face) -> None:
    """It costs one call the time to find that out, with or without `failover`."""
    with servers(answering, answering) as (first, second):
        client = Client(KEY, base_url=[first.url, second.url], retry=None)
        first.close()
        assert [face.ask(client).text for _ in range(3)] == ["Hi"] * 3
        assert len(second.requests) == 3


@pytest.mark.parametrize("failover", [True, False])
def test_hosts_that_can_not_be_reached_are_tried_as_often_as_one(face: Face, failover: bool) -> None:
    """Each attempt tries all of them, so when the attempts are used up none is left to be asked."""
    with servers(answering, answering) as (first, second):
        urls = [first.url, second.url]
    retry = Retry(2, backoff=0, failover=failover)
    outcome = face.ask(Client(KEY, base_url=urls, model=["a", "b"], retry=retry))
    assert isinstance(outcome.error, APIConnectionError)
    assert outcome.error.attempts == 2


def test_no_time_is_left_for_another(face: Face) -> None:
    """The limit of the whole call bounds the attempts at all hosts and models."""
    with servers(lambda _: Fault.timeout(), answering) as (first, second):
        client = Client(KEY, base_url=[first.url, second.url], model=["a", "b"], retry=ONCE, timeout=Timeout(total=0.3))
        outcome = face.ask(client)
        assert outcome.error is not None
        assert (outcome.seconds < 2, len(second.requests)) == (True, 0)


# Models -------------------------------------------------------------------------------------------------------

OTHER_MODEL = {
    "not allowed": (error(403, "403 FORBIDDEN", "免费API限制使用gpt-4o"), PermissionDeniedError, 1),
    "forbidden": (Fault.status(403), PermissionDeniedError, 1),
    "unknown": (error(404, "model_not_found", "The model `a` does not exist"), NotFoundError, 1),
    "not pulled": (error(404, None, "model 'a' not found, try pulling it first"), NotFoundError, 1),
    "unknown by its type": (
        Fault.status(404, body='{"error": {"type": "model_not_found", "message": "not found"}}'),
        NotFoundError,
        1,
    ),
    "not deployed": (error(404, "DeploymentNotFound", "It does not exist."), NotFoundError, 1),
    "unknown with status 400": (error(400, "400", "Invalid model name passed in model=a."), NotFoundError, 1),
    "no longer served": (error(400, "model_decommissioned", "It is no longer supported."), NotFoundError, 1),
    "too expensive": (Fault.status(402), PermissionDeniedError, 1),
    "blind": (error(500, None, "image input is not supported - hint: provide the mmproj"), BadRequestError, 1),
    "its quota": (error(429, "insufficient_quota", "x"), QuotaExceededError, 1),
    "its limit": (Fault.status(429), RateLimitError, 2),
    "failing": (Fault.status(500), InternalServerError, 2),
    "told within a stream": (Fault.error_frame("免费API限制使用gpt-4o", status=403, after=0), PermissionDeniedError, 1),
}


def by_model(**faults: Fault) -> Callable[[Request], ReplyLike]:
    """Fail for some of the models."""
    return lambda request: faults.get(request.json["model"], "Hi")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("fault", "kind", "attempts"), OTHER_MODEL.values(), ids=OTHER_MODEL)
def test_a_model_that_fails_is_followed_by_the_next(
    stream: bool, fault: Fault, kind: type[ChatAnywhereError], attempts: int
) -> None:
    """After as many attempts as that failure is worth, the next model has its own; the answer says which it was."""
    if fault.name == "error_frame" and not stream:
        pytest.skip("there are no frames")
    with servers(by_model(a=fault)) as (server,):
        client = Client(KEY, base_url=server.url, model=["a", "b"], retry=Retry(2, backoff=0))
        completion = client.complete("Hello", stream=stream)
        assert (completion.text, completion.model) == ("Hi", "b")
        assert asked(server) == ["a"] * attempts + ["b"]
        with pytest.raises(kind):
            client.complete("Hello", model="a", stream=stream)


def test_streams_go_on_to_the_next_model(face: Face) -> None:
    """Nothing has been given out when a model fails before its first piece."""
    with servers(by_model(a=Fault.status(500), b=Fault.status(403))) as (server,):
        assert face.ask(Client(KEY, base_url=server.url, retry=None), model=("a", "b", "c")).text == "Hi"
        assert asked(server) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.status(400), BadRequestError),
        (Fault.status(401), AuthenticationError),
        (error(404, "unknown_url", "no such path"), NotFoundError),
    ],
    ids=["400", "401", "404"],
)
def test_what_no_model_can_help_is_not_asked_of_the_next(face: Face, fault: Fault, kind: type[Exception]) -> None:
    """A bad request, a wrong key and a wrong path are the caller's to mend."""
    with servers(by_model(a=fault)) as (server,):
        outcome = face.ask(Client(KEY, base_url=server.url, model=["a", "b"]))
        assert (type(outcome.error), asked(server)) == (kind, ["a"])


def test_hosts_come_before_models(face: Face) -> None:
    """A model is asked of all hosts before the next one is."""
    failing = by_model(a=Fault.status(500))
    with servers(failing, failing) as (first, second):
        assert face.ask(Client(KEY, base_url=[first.url, second.url], model=["a", "b"], retry=ONCE)).text == "Hi"
        assert asked(first) + asked(second) in (["a", "b", "a"], ["a", "a", "b"])
        assert len(asked(second)) + len(asked(first)) == 3


def test_all_models_fail(face: Face) -> None:
    """The last model's error is the call's."""
    with servers(by_model(a=Fault.status(500), b=Fault.status(403))) as (server,):
        outcome = face.ask(Client(KEY, base_url=server.url, model=["a", "b"], retry=Retry(2, backoff=0)))
        assert isinstance(outcome.error, PermissionDeniedError)
        assert outcome.error.attempts == 3


def test_each_model_is_sent_the_same_question() -> None:
    """Only the model's name differs, whatever the service refuses meanwhile."""
    with servers(by_model(a=Fault.status(500))) as (server,):
        client = Client(KEY, base_url=server.url, model=["a", "b"], retry=None)
        client.complete([{"role": "user", "content": "你好 \ud83d"}], temperature=0.5, extra_body={"top_k": None})
        first, second = (request.json for request in server.requests)
        assert (first.pop("model"), second.pop("model")) == ("a", "b")
        assert first == second
        assert first["top_k"] is None


def test_the_web_protocol_takes_several_models() -> None:
    """There, too; one that the site can't be asked for is refused before anything is sent."""
    with LoopbackServer(["Hi"], faults=[Fault.status(500, first=1)]) as server:
        client = Client(protocol="web", base_url=server.url, model=["1234", "gpt-3.5-turbo"], retry=None)
        assert client.complete("Hello").text == "Hi"
        assert [request.json["models"] for request in server.requests] == ["1234", "61490748"]
        with pytest.raises(ValueError, match="gpt-9"):
            client.complete("Hello", model=["1234", "gpt-9"])
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("model", "kind"), [([], ValueError), (["a", ""], TypeError), (["a", None], TypeError), (5, TypeError)], ids=repr
)
def test_models_are_checked(model: Any, kind: type[Exception]) -> None:
    """What names no model is refused, by the client and by a call."""
    with pytest.raises(kind, match="model"):
        Client(KEY, model=model)
    with pytest.raises(kind, match="model"):
        Client(KEY).complete("Hello", model=model)


# What was said before -----------------------------------------------------------------------------------------


def test_the_text_of_an_attempt_that_was_cut_is_kept_until_another_brings_its_own() -> None:
    """`complete()` asks again for an answer that was cut; if that fails, the error has what had come before."""
    with LoopbackServer(lambda _: Reply(pieces=["Hel", "lo"]), faults=[Fault.reset_peer(after=1, first=1)]) as server:
        client = Client(KEY, base_url=server.url, retry=Retry(2, backoff=0))
        assert client.complete("Hello").text == "Hello"  # nothing of the first attempt is in it
    asked_before = []

    def reply(request: Request) -> ReplyLike:
        asked_before.append(request)
        return Reply(pieces=["Hel", "lo"]) if len(asked_before) == 1 else Fault.status(400)

    with LoopbackServer(reply, faults=[Fault.reset_peer(after=1, first=1)]) as server:
        with pytest.raises(BadRequestError) as caught:
            Client(KEY, base_url=server.url, retry=Retry(2, backoff=0)).complete("Hello")
        assert caught.value.partial == "Hel"


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "invalid_api_key", AuthenticationError),
        (403, "403 FORBIDDEN", PermissionDeniedError),
        (404, "model_not_found", NotFoundError),
        (429, "insufficient_quota", QuotaExceededError),
        (400, "context_length_exceeded", BadRequestError),
    ],
)
def test_what_does_not_pass_is_not_asked_again(face: Face, status: int, code: str, kind: type[Exception]) -> None:
    """An error that another attempt would meet again is told at once, where a stream tells it under status 200, too."""
    frame = Reply(chunks=[{"error": {"message": "no", "code": code, "status": status}}])
    with LoopbackServer(lambda _: frame) as server:
        outcome = face.ask(Client(KEY, base_url=server.url, retry=Retry(3, backoff=0)))
        assert isinstance(outcome.error, kind)
        assert len(server.requests) == outcome.error.attempts == 1
