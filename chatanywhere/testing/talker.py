"""A small talker in the manner of ELIZA: what a `LoopbackServer` without a script answers.

It calls the tools that it has to call, and says what fits a schema where one is given, as a model would.

There is no model behind it. An answer comes from the conversation alone and is the same each time,
and it draws on the whole conversation, so that a client which loses the history is found out.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice, takewhile
from typing import Any

from .instances import instances
from .options import AnswerOptions, Tool
from .replies import Reply
from .request import ParameterError, text_of

_ATTENTION = 500  # characters read of a message, which bounds the time that an answer takes

# What is remembered of what the user says. Of two statements of one kind the later one holds.
_FACTS = {
    "name": r"\b(?:my name(?:'s| is)|call me) (\w+)|\bi(?: am|'m) (?-i:(?=[A-Z]))(\w+)"
    r"|(?:我叫|我的名字是)(?!什么|啥)(\w{1,8})",
    "loved": r"\bi (?:really )?(?:like|love|enjoy) ([^.!?;]+)|我(?:很|最)?喜欢(?!什么|啥)(\w+)",
    "feeling": r"\bi(?:'m| am| feel) (?:so |very )?(sad|tired|happy|worried|afraid|lonely|bored)"
    r"|我(?:很|好|非常)?(难过|累|开心|高兴|担心|害怕|孤独|无聊)",
}

# A pattern to find in the last message, and its answers. Of the answers that first one is given
# whose facts are all known; when there is none, the search goes on with the next pattern.
# {it} is what the pattern's group caught, seen from the other side.
_RULES = (
    (r"[\u4e00-\u9fff]", "这句话你在第{again}句里说过了。"),
    (r"\w", "You said that before, in message {again}."),
    (r"我叫(?:什么|啥)|我的名字(?!是)|我是谁", "你叫{name}，这是你在第{name_at}句里告诉我的。"),
    (r"我叫(?:什么|啥)|我的名字(?!是)|我是谁", "你还没有告诉我你的名字。你叫什么？"),
    (r"我叫|我的名字是", "很高兴认识你，{name}！今天想聊点什么？"),
    (r"我最?喜欢(?:什么|啥)", "你喜欢{loved}，我记着呢。", "你还没有说过你喜欢什么。"),
    (r"我.*说.*(?:什么|啥)", "你的第一句话是“{first}”。", "这是你的第一句话。"),
    (r"几句|多少", "这是你说的第{count}句话，我一直在数。"),
    (r"我(?:很|最)?喜欢", "{loved}最让你喜欢的是什么，{name}？", "{loved}最让你喜欢的是什么？"),
    (r"我(?:很|好|非常)?(?:难过|累|开心|高兴|担心|害怕|孤独|无聊)", "你为什么{feeling}？慢慢说。"),
    (r"我很?想(\w+)", "如果真的能{it}，会有什么不同？"),
    (r"因为(\w+)", "除了{it}，还有别的原因吗？"),
    (r"谢谢", "不客气，{name}。", "不客气。"),
    (r"再见|拜拜", "再见，{name}！我们聊了{count}句话。", "再见！我们聊了{count}句话。"),
    (r"你好|您好", "又见面了，{name}。", "你好！你叫什么名字？"),
    (r"你是(?:谁|什么)", "我是一个会记事的小程序。你呢？"),
    (r"[\u4e00-\u9fff]", "请多说一点。这和“{previous}”有关系吗？", "请多说一点。"),
    (r"\bmy name\b.*\bi (?:like|love|enjoy)\b", "You are {name}, and you love {loved}."),
    (r"\b(?:my name(?:'s| is)|call me) ", "Pleased to meet you, {name}. What brings you here?"),
    (r"\bmy name\b|\bwho am i\b", "Your name is {name}: you told me in message {name_at}."),
    (r"\bmy name\b|\bwho am i\b", "You have not told me your name yet. What is it?"),
    (r"\bd(?:o|id) i (?:like|love|enjoy)\b", "You love {loved}.", "You have not told me yet."),
    (r"\bd(?:o|id) i feel\b", "You were {feeling}, in message {feeling_at}.", "How do you feel?"),
    (r"\b(?:did i|i) (?:just )?(?:say|said|tell|told)", "You began with “{first}”."),
    (r"\bhow (?:many|often|long)\b", "This is message {count} of yours. I do count."),
    (r"\bbecause ([^.!?;]+)", "Is that the only reason, that {it}?"),
    (r"\bi (?:really )?(?:like|love|enjoy) ", "What do you love most about {loved}, {name}?"),
    (r"\bi (?:really )?(?:like|love|enjoy) ", "What do you love most about {loved}?"),
    (r"\bi (?:want|wish|hope|need) ([^.!?;]+)", "What would change if you had {it}?"),
    (r"\bi (?:can't|cannot) ([^.!?;]+)", "Suppose that you could {it}. What then?"),
    (r"\bi (?:feel|think|believe) ([^.!?;]+)", "What makes you say {it}?"),
    (r"\bi(?: am|'m) (?-i:[A-Z])", "Pleased to meet you, {name}. What brings you here?"),
    (r"\bi(?: am|'m) ([^.!?;]+)", "How long have you been {it}, {name}?"),
    (r"\bi(?: am|'m) ([^.!?;]+)", "How long have you been {it}?"),
    (r"\bmy (\w+)", "Tell me more about your {it}."),
    (r"\bare you ([^.!?;]+)", "Would it please you if I were {it}?"),
    (r"\bthank", "You are welcome, {name}.", "You are welcome."),
    (r"\b(?:good)?bye\b", "Goodbye, {name}. It was good of you to come."),
    (r"\b(?:good)?bye\b", "Goodbye. You never told me your name."),
    (r"\b(?:hello|hi|hey)\b", "Hello again, {name}.", "Hello. Who are you?"),
    (r"\byou\b", "We were speaking of you, {name}, not of me.", "Let us speak of you instead."),
    (r"\?\s*$", "What do you think yourself, {name}?", "What do you think yourself?"),
    (r"\w", "Has that to do with “{previous}”?", "Please go on."),
)

_REFLECTIONS = {
    "i": "you",
    "me": "you",
    "my": "your",
    "mine": "yours",
    "myself": "yourself",
    "am": "are",
    "you": "I",
    "your": "my",
    "yours": "mine",
    "yourself": "myself",
    "you are": "I am",
    "i'm": "you are",
    "i've": "you have",
    "you're": "I am",
    "you've": "I have",
    "我": "你",
    "你": "我",
}


def reply_to(messages: Sequence[Mapping[str, Any]], options: AnswerOptions) -> Reply:
    """Answer a conversation as it was asked to be answered; further choices are what else there is to say.

    A tool that is demanded is called, unless the last messages are the results of tools: these are told.

    Args:
        messages: see `talk`.
        options: what was asked for besides.

    Raises:
        ParameterError: a schema is malformed, or there is nothing that would fit it.
    """
    results = _told_results(messages)
    if options.demanded and not results:
        said = "\n".join(_said(messages)[-1:])
        choices = [Reply(tool_calls=_calls(options, said)) for _ in range(options.n)]
        return replace(choices[0], choices=choices[1:])
    if options.schema is not None:
        values = _instances(options.schema, options.n, "response_format", "response_format")
        texts = [json.dumps(value, ensure_ascii=False) for value in values]
    else:
        texts = [results] if results else list(islice(_answers(messages), options.n))
        if options.json:
            texts = [json.dumps({"answer": text}, ensure_ascii=False) for text in texts]
    first, *others = islice(cycle(texts), options.n)
    return Reply(first, choices=[Reply(text) for text in others])


def _calls(options: AnswerOptions, said: str) -> list[dict[str, Any]]:
    """Return a call of the demanded tool that is spoken of, or the first; of each, if several at once are asked for."""
    spoken_of = [tool for tool in options.demanded if tool.name in said]
    tools = options.demanded if options.parallel else (spoken_of or options.demanded)[:1]
    return [_call(tool, said) for tool in tools]


def _call(tool: Tool, said: str) -> dict[str, Any]:
    call = {"id": f"call_{secrets.token_hex(12)}", "type": tool.kind}
    if tool.kind == "custom":
        return {**call, "custom": {"name": tool.name, "input": said}}
    (arguments,) = _instances(tool.schema, 1, "tools", f"function '{tool.name}'")
    return {**call, "function": {"name": tool.name, "arguments": json.dumps(arguments, ensure_ascii=False)}}


def _instances(schema: Any, number: int, parameter: str, place: str) -> list[Any]:
    try:
        return instances(schema, number)
    except ValueError as error:
        raise ParameterError(parameter, f"Invalid schema for {place}: {error}") from error


def _told_results(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return what the tools say whose results are the last messages; empty if these are none."""
    results = list(takewhile(lambda message: message.get("role") == "tool", reversed(messages)))[::-1]
    told = "; ".join(text_of(message)[:_ATTENTION] or "nothing" for message in results)
    return told and f"This came back: {told}"


def talk(messages: Iterable[Mapping[str, Any]]) -> str:
    """Answer the user's last message; to one conversation always with the same answer.

    Args:
        messages: the conversation, oldest message first, as the chat protocols write it:
            dicts with a `role` and a `content`, which is a str or a list of parts.

    Returns:
        One or two sentences, in Chinese if the last message has Chinese in it.
    """
    return next(_answers(messages))


def _answers(messages: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what can be answered, the best first."""
    said = _said(messages)
    last = said[-1] if said else ""
    known = _remember(said)
    for pattern, *answers in _RULES:
        found = re.search(pattern, last, re.IGNORECASE)
        if found:
            known["it"] = _reflect(found[found.lastindex or 0])
            for answer in answers:
                if known.keys() >= {*re.findall(r"{(\w+)}", answer)}:
                    yield answer.format_map(known)
    yield "I am listening."


def _said(messages: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the beginnings of the user's messages."""
    said = [text_of(message) for message in messages if message.get("role") == "user"]
    return [text[:_ATTENTION].replace("’", "'") for text in said]


def _remember(said: list[str]) -> dict[str, object]:
    """Return what the user's messages tell; `<fact>_at` is the message that told the fact."""
    known: dict[str, object] = {"count": len(said)}
    if len(said) > 1:
        known.update(first=said[0], previous=said[-2])
        earlier = [_plain(text) for text in said[:-1]]
        if _plain(said[-1]) in earlier:
            known["again"] = earlier.index(_plain(said[-1])) + 1
    for number, text in enumerate(said, start=1):
        for fact, pattern in _FACTS.items():
            for found in re.finditer(pattern, text, re.IGNORECASE):
                known[fact] = _reflect(found[found.lastindex or 0])
                known[f"{fact}_at"] = number
    return known


def _reflect(phrase: str) -> str:
    """Turn a phrase of the user's round: what is "my cat" to them is "your cat" here."""
    turned = re.sub(
        r"you are|[a-z]+(?:'[a-z]+)?|[我你]",
        lambda word: _REFLECTIONS.get(word[0].lower(), word[0]),
        phrase.strip(" ,"),
        flags=re.IGNORECASE,
    )
    return re.sub(r"\bI$", "me", turned)


def _plain(text: str) -> str:
    """Reduce a text to its letters, so that "Hello!" is a repetition of "hello"."""
    return "".join(re.findall(r"\w", text.lower()))
