"""The small talker that answers when a loopback server has no script."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatanywhere.testing.talker import talk


def converse(*texts: str) -> str:
    """Hold a conversation turn by turn; return the last answer."""
    messages: list[dict[str, str]] = []
    answer = ""
    for text in texts:
        messages.append({"role": "user", "content": text})
        answer = talk(messages)
        messages.append({"role": "assistant", "content": answer})
    return answer


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["My name is Ada.", "I love tea.", "It rains.", "What is my name?"], "Ada"),
        (["My name's Ada", "Call me Countess!", "Who am I?"], "Countess"),
        (["I’m Ada, by the way", "Do you know my name?"], "Ada"),
        (["I love tea.", "What did I like?"], "tea"),
        (["I am tired.", "Sigh.", "How did I feel?"], "message 1"),
        (["The sky is blue.", "Hm.", "What did I say?"], "The sky is blue."),
        (["The sky is blue.", "Hm."], "The sky is blue."),
        (["One.", "Two.", "How many messages is this?"], "message 3"),
        (["The sky is blue.", "Hm.", "the sky is blue"], "message 1"),
        (["My name is Ada.", "Goodbye"], "Ada"),
        (["我叫小明。", "我喜欢下雨天。", "你还记得我叫什么吗？"], "小明"),
        (["我叫小明。", "我喜欢下雨天。", "我喜欢什么？"], "下雨天"),
        (["今天天气不错", "嗯", "我刚才说了什么？"], "今天天气不错"),
        (["今天天气不错", "嗯", "今天天气不错！"], "第1句"),
        (["一", "二", "这是第几句？"], "第3句"),
    ],
)
def test_an_answer_draws_on_what_was_said_before(texts: list[str], expected: str) -> None:
    """What was said in an earlier message comes back, and without it the answer is another."""
    assert expected in converse(*texts)
    assert expected not in converse(texts[-1])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I am fond of my cat", "How long have you been fond of your cat?"),
        ("I think you are wrong", "What makes you say I am wrong?"),
        ("I love you.", "What do you love most about me?"),
        ("because I’m tired", "Is that the only reason, that you are tired?"),
        ("我想去你家", "如果真的能去我家，会有什么不同？"),
    ],
)
def test_a_phrase_is_turned_round(text: str, expected: str) -> None:
    """What the user says of themselves is said of the user, and the reverse."""
    assert converse(text) == expected


@pytest.mark.parametrize("text", ["你好", "谢谢", "再见", "我很累", "我叫什么", "下雨了", "OK吗"])
def test_chinese_is_answered_in_chinese(text: str) -> None:
    """A message with Chinese in it has an answer in Chinese."""
    assert any("\u4e00" <= character <= "\u9fff" for character in converse(text))


@pytest.mark.parametrize("text", ["Hello!", "Why?", "Bye.", "What is my name?", "Colourless green"])
def test_english_is_answered_in_english(text: str) -> None:
    """A message without Chinese has an answer without Chinese."""
    assert converse(text).isascii()


def test_the_parts_of_a_message_are_read() -> None:
    """The text parts of a message count as its text, and other parts are passed over."""
    image = {"type": "image_url", "image_url": {"url": "https://example.org/"}}
    parts = [image, "stray", {"type": "text", "text": None}, {"type": "text", "text": "I'm Ada."}]
    assert talk([{"role": "user", "content": parts}]).startswith("Pleased to meet you, Ada.")


@pytest.mark.parametrize(
    "messages",
    [[], [{"role": "system", "content": "Hello"}], [{"role": "user", "content": None}], [{}]]
    + [[{"role": "user", "content": text}] for text in ["", "...", "{name}"]],
)
def test_there_is_always_an_answer(messages: list[dict[str, Any]]) -> None:
    """Even where the user said nothing that can be answered, something is said."""
    assert talk(messages)


def test_others_are_not_taken_for_the_user() -> None:
    """What the system or the assistant says tells nothing of the user."""
    told = [{"role": role, "content": "My name is Eve."} for role in ("system", "assistant")]
    assert "Eve" not in talk([*told, {"role": "user", "content": "What is my name?"}])


@given(st.lists(st.text(max_size=60), min_size=1, max_size=5))
def test_the_same_conversation_has_the_same_answer(texts: list[str]) -> None:
    """Whatever is said, there is an answer, and it does not change from one time to the next."""
    assert converse(*texts)
    assert converse(*texts) == converse(*texts)


def test_a_long_message_is_answered_soon() -> None:
    """The time an answer takes does not grow with the length of a message."""
    for text in ["我说" * 500_000, "my name " * 200_000, "i like " * 200_000]:
        assert len(converse("Hello", text, text + "?")) < 2000
