"""Where an answer that was cut meets the rest of it."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from chatanywhere import Client, Turn
from chatanywhere._conversation.seam import Seam, joined, last_words
from chatanywhere.testing import LoopbackServer

PYTHON = "Here it is:\n\n```python\nfor number in range(3):\n    print(number)\n```\n\n"
ESSAY = (
    "天气预报说明天有雨，出门要带伞。" + PYTHON + "The kettle whistles while 水 boils over a small blue flame.\n\n"
    "- 第一：打开窗户\n- second: call Grandma about Sunday\n\n~~~sh\npip install chatanywhere\n~~~\n下次再见！🎉 Bye."
)
"""Text in which no four characters come twice in a row."""


def is_told(cut: int, overlap: int) -> bool:
    """Whether so short a repetition can be told from what comes next."""
    begin = max(0, cut - overlap)
    repeated = ESSAY[begin:cut]
    if len(repeated) >= 4:
        return bool(repeated.strip())
    # From within one word these may be its next letters, and blanks and other characters may be meant twice.
    is_within_word = repeated.isalpha() and begin > 0 and ESSAY[begin - 1].isalpha() and not repeated[0] >= "\u4e00"
    return not repeated or (any(map(str.isalpha, repeated)) and not is_within_word)


@given(cut=st.integers(1, len(ESSAY) - 1), overlap=st.integers(0, 200))
@example(cut=ESSAY.index("```"), overlap=0)
@example(cut=ESSAY.index("whistles") + 3, overlap=200)
@example(cut=ESSAY.index("whistles") + 3, overlap=1)
def test_what_is_said_again_is_there_once(cut: int, overlap: int) -> None:
    """Whatever the model repeats of an answer's end, from nothing to 200 characters, the whole is as it would be.

    But for what can't be told: up to three letters of one word, or characters that are none, may stay there twice.
    """
    rest = ESSAY[max(0, cut - overlap) :]
    whole = joined(ESSAY[:cut], rest)
    assert whole == ESSAY or (not is_told(cut, overlap) and whole == ESSAY[:cut] + rest)


def test_resume_joins_whatever_the_model_repeats() -> None:
    """The history has the answer once, from which place of it the model may go on: the asked one, or any other."""
    rest = ""
    with LoopbackServer(lambda _: rest) as server, Client("k", base_url=server.url) as client:

        @settings(max_examples=60, deadline=None)
        @given(cut=st.integers(1, len(ESSAY) - 1), overlap=st.integers(0, 200) | st.none())
        def check(cut: int, overlap: int | None) -> None:
            nonlocal rest
            partial = ESSAY[:cut]
            base = len(partial.rstrip())
            assume(overlap is None or is_told(cut, overlap))
            rest = ESSAY[base - len(last_words(partial)) if overlap is None else max(0, cut - overlap) :]
            conversation = client.conversation()
            conversation.turn = Turn([{"role": "user", "content": "Tell me."}], partial, "cut", 0)
            assert conversation.resume().text == conversation.messages[-1]["content"] == ESSAY
            assert [each["role"] for each in conversation] == ["user", "assistant"]

        check()


KINDS = {
    "essay": ESSAY,
    "numbers": "Total: 12345 units, 99.95 EUR, 3.1415926535, 10.0.0.12, 2024-11-29 00:44:12; 1,000,000 and 0x1F4A.",
    "table": "| name | cost | count |\n|---|---|---|\n| tea | 3.50 | 12 |\n| egg | 2.25 | 12 |\n| rice | 2.25 | 4 |\n",
    "list": "1. Open the window.\n2. Close the door.\n   - mother\n   - father\n3. Sleep.\n- [ ] one\n- [x] one two\n",
    "code": "Here:\n\n```python\ndef f(x):\n    if x:\n        return 1\n    for i in x:\n        for j in x:\n"
    "            total += i * j\n    return total\n\n\ndef g(x):\n    return f(f(x))\n```\nDone.",
    "json": '{"name": "Ada", "items": [{"id": 1, "price": 12}, {"id": 12, "price": 12}], "deep": {"a": [[1, 2], [2]]}}',
    "chinese": "记得他说他说的话，天天向上，慢慢地走；天气预报说明天有雨，出门要带伞。"
    "第一：打开窗户；第二：给奶奶打电话。他说的话他都记得，今天天气好，明天天气不好。",
}


@pytest.mark.parametrize("kind", KINDS)
def test_words_that_were_asked_for_join_wherever_an_answer_is_cut(kind: str) -> None:
    """Each cut comes out right if the model repeats the last words as it was asked, or some more, or begins a line."""
    whole = KINDS[kind]
    for cut in range(1, len(whole)):
        partial = whole[:cut]
        words = last_words(partial)
        rest = whole[len(partial.rstrip()) :]
        assert partial.rstrip().endswith(words)
        assert len(words) < 90
        more = whole[max(0, len(partial.rstrip()) - len(words) - 7) :]
        for said in (f"{words}{rest}", f"{words.lstrip()}{rest}", f"\n{words}{rest}", more):
            assert joined(partial, said) == whole, (partial[-50:], said[:50])


@pytest.mark.parametrize(
    "whole", ["[" + "0, " * 60 + "0]", "Its title\n" + "=" * 100 + "\n\nText", "List:\n" + "  * 1\n" * 30]
)
def test_a_run_is_as_long_as_it_is(whole: str) -> None:
    """Where the last words are of a run, as much is left out as the model was asked to repeat."""
    for cut in range(1, len(whole)):
        base = whole[:cut].rstrip()
        assert joined(whole[:cut], last_words(base) + whole[len(base) :]) == whole


@given(text=st.text(min_size=1), cut=st.integers(0, 1000))
def test_a_text_that_is_gone_on_with_exactly_is_not_touched(text: str, cut: int) -> None:
    """Where the rest begins like nothing that the answer ends with, all of it is taken."""
    cut %= len(text)
    partial, rest = text[:cut], text[cut:]
    assume(not any(partial.rstrip().endswith(rest.lstrip()[:size]) for size in range(1, len(rest) + 1)))
    assume("```" not in text)
    assume("~~~" not in text)
    assert joined(partial, rest) == text


TEXTS = st.text(alphabet="ab 气\n`~-.\u200d🎉py", max_size=40) | st.sampled_from(
    [PYTHON[:40], ESSAY[:60], "```python\n"]
)


@given(partial=TEXTS, rest=st.tuples(TEXTS, TEXTS).map("".join), data=st.data())
def test_pieces_come_to_the_same_as_the_whole(partial: str, rest: str, data: st.DataObject) -> None:
    """However the rest is cut into pieces, what the seam lets through of them is what it has that is new."""
    partial *= data.draw(st.sampled_from([1, 1, 3]))
    partial += data.draw(st.sampled_from(["", " ", "\n    "]))
    if data.draw(st.booleans()):
        rest = partial[data.draw(st.integers(0, len(partial))) :] + rest
    elif data.draw(st.booleans()):
        rest = last_words(partial) + rest
    seam = Seam(partial)
    new: list[str] = []
    place = 0
    while place < len(rest):
        size = data.draw(st.integers(1, len(rest) - place))
        new.append(seam.feed(rest[place : place + size]))
        place += size
    new.append(seam.finish())
    assert partial + "".join(new) == joined(partial, rest)


@pytest.mark.parametrize(
    ("partial", "rest", "whole"),
    [
        ("train", "ing", "training"),
        ("hel", "lo", "hello"),
        ("bring", "ing", "bringing"),
        ("ha", "haha", "hahaha"),
        ("x = 1", "11", "x = 111"),
        ("a\n", "\nb", "a\n\nb"),
        ("def f():\n    ", "    return 1", "def f():\n        return 1"),
        ("----", "----", "--------"),
        ("See:\n``", "`python\n", "See:\n```python\n"),
        ("👩", "\u200d💻", "👩\u200d💻"),
        ("```py\na = 1\n", "```\nDone.", "```py\na = 1\n```\nDone."),
        ("", "all of it", "all of it"),
        ("all of it", "", "all of it"),
    ],
)
def test_what_may_be_meant_stays(partial: str, rest: str, whole: str) -> None:
    """A word that goes on, a run, an indent or the end of a block is not taken for something said again."""
    assert joined(partial, rest) == whole


@pytest.mark.parametrize(
    ("partial", "rest", "whole"),
    [
        ("It is wonder", "wonderful.", "It is wonderful."),
        ("A w", "wonder", "A wonder"),
        ("今天天气", "气很好", "今天天气很好"),
        ("I say: one two", "I say: one two three", "I say: one two three"),
        ("I", "I think so", "I think so"),
        ("```pyth", "```python\nx", "```python\nx"),
        ("```python\na = 1\n", "```python\nb = 2\n```", "```python\na = 1\nb = 2\n```"),
        ("```python\nfor x in", "```python\nfor x in range(3):", "```python\nfor x in range(3):"),
        ("```python\na = 1\nfor x in", "\n```py\nfor x in y:", "```python\na = 1\nfor x in y:"),
        ("```py\na = 1\nb = 2\n", "```py\na = 1\nb = 2\nc = 3", "```py\na = 1\nb = 2\nc = 3"),
        ("The quick brown fox", "\n\nThe quick brown fox jumps", "The quick brown fox jumps"),
        ("See the quick brown fox ", "the quick brown fox jumps", "See the quick brown fox jumps"),
        ("Look: 👩\u200d", "👩\u200d💻", "Look: 👩\u200d💻"),
    ],
)
def test_what_is_said_again_is_left_out(partial: str, rest: str, whole: str) -> None:
    """A word or a line that is begun anew, the whole answer, and the opening of a block that is open are left out."""
    assert joined(partial, rest) == whole
