"""Tests of a program that uses chatanywhere, without a key and without a network.

    python -m pytest examples/test_my_program.py

The fixtures `chatanywhere_client` and `chatanywhere_server` come with the package. In your own project, `translate`
would be imported from the program.
"""

from __future__ import annotations

import pytest

from chatanywhere import Client, QuotaExceededError
from chatanywhere.testing import Fault, LoopbackServer


def translate(client: Client, text: str) -> str:
    """The program: translate a text into German, or leave it as it is when the day's quota is spent."""
    try:
        return client.complete(f"Translate into German: {text}", temperature=0).text
    except QuotaExceededError:
        return text


@pytest.mark.chatanywhere(["Guten Morgen!"])
def test_the_answer_is_returned(chatanywhere_client: Client) -> None:
    """The server's reply is what the program returns."""
    assert translate(chatanywhere_client, "Good morning!") == "Guten Morgen!"


@pytest.mark.chatanywhere(["Guten Morgen!"])
def test_the_request_is_right(chatanywhere_client: Client, chatanywhere_server: LoopbackServer) -> None:
    """The server keeps every request, so that a test can see what the program sent."""
    translate(chatanywhere_client, "Good morning!")
    request = chatanywhere_server.requests[0]
    assert request.text == "Translate into German: Good morning!"
    assert request.json["temperature"] == 0


@pytest.mark.chatanywhere(["Guten Morgen!"], faults=[Fault.status(503, first=2)])
def test_a_busy_service_is_asked_again(chatanywhere_client: Client, chatanywhere_server: LoopbackServer) -> None:
    """The client tries three times by itself, and the program notices nothing."""
    assert translate(chatanywhere_client, "Good morning!") == "Guten Morgen!"
    assert len(chatanywhere_server.requests) == 3


@pytest.mark.chatanywhere(faults=[Fault.status(429, "limited to 200 requests per day")])
def test_a_spent_quota_leaves_the_text_as_it_is(chatanywhere_client: Client) -> None:
    """A fault brings about what is hard to have from the real service."""
    assert translate(chatanywhere_client, "Good morning!") == "Good morning!"
