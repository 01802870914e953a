"""What a journal has after a crash at any moment, whatever was told it before."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from chatanywhere._batch.journal import Journal, Row
from chatanywhere._batch.limits import Minute

Place = tuple[bytes, int]
PLACES = st.tuples(st.sampled_from([b"a" * 32, b"b" * 32]), st.integers(0, 1))


class JournalMachine(RuleBasedStateMachine):
    """A run of few prompts, which asks what has no answer. Each flush is one commit, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.file = self.folder / "0"
        self.states: dict[Place, str] = {}
        self.spent = [0, 0, 0]
        self.answered: set[Place] = set()  # and handed out
        self.crashes = False  # at the next word of the journal's
        self.begin()

    def begin(self) -> None:
        self.journal = Journal(self.file, lambda: 6e9)
        self.on_the_way: list[Place] = []
        self.flushed = [self.what_is_told()]
        self.reached = 0  # the flush that is known to be committed
        assert self.journal.in_doubt == list(self.states.values()).count("sent")
        assert self.what_is_there() == self.what_is_told()

    def what_is_told(self) -> tuple[dict[Place, str], list[int]]:
        return dict(self.states), list(self.spent)

    def what_is_there(self) -> tuple[dict[Place, str], list[int]]:
        places = [(key, number) for key in (b"a" * 32, b"b" * 32) for number in (0, 1)]
        rows = {place: self.journal.find(*place) for place in places}
        minute = next(iter(self.journal.spent_since(0)), Minute(0, 0, 0, 0))
        return {place: row.state for place, row in rows.items() if row is not None}, list(minute[1:])

    def reach(self, flush: int, answered: Place | None = None) -> None:
        """The journal says that what was told before this flush is committed."""
        self.reached = max(self.reached, flush)
        if answered is not None:
            self.answered.add(answered)
        if self.crashes:
            self.crashes = False
            self.take_image()

    def take_image(self) -> None:
        """Keep the files as they are at this moment, and what was known then."""
        self.image = self.folder / str(int(self.file.name) + 1)
        for suffix in ("", "-wal"):
            shutil.copy(f"{self.file}{suffix}", f"{self.image}{suffix}")
        self.known = self.reached, set(self.answered)

    @rule(place=PLACES)
    def ask(self, place: Place) -> None:
        if place in self.on_the_way or self.states.get(place) == "done":
            return
        flush = len(self.flushed)
        self.journal.send(*place, "m", lambda: self.reach(flush))
        self.on_the_way.append(place)
        self.states[place] = "sent"
        self.spent[0] += 1

    @precondition(lambda self: self.on_the_way)
    @rule(state=st.sampled_from(["done", "failed", "open"]), data=st.data())
    def end(self, state: str, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(self.on_the_way))
        self.on_the_way.remove(place)
        self.states[place] = state
        if state == "open":
            self.journal.refuse(*place, "m")
            self.spent[1] += 1
            return
        flush, answered = len(self.flushed), place if state == "done" else None
        row = Row(state, 1, 0.5, "{}" if answered else None, None if answered else "{}")
        self.journal.end(*place, "m", row, 7, lambda: self.reach(flush, answered))
        self.spent[2] += 7

    @rule()
    def flush(self) -> None:
        self.journal.flush()
        self.flushed.append(self.what_is_told())

    @rule()
    def begin_again(self) -> None:
        self.journal.close()
        self.begin()

    @rule(after_commit=st.booleans())
    def crash(self, after_commit: bool) -> None:
        """The program is killed while the journal writes, or when it says that it has: another one finds its files."""
        self.take_image()
        self.crashes = after_commit
        if after_commit:
            self.flush()
        self.journal.close()
        self.crashes = False
        reached, self.answered = self.known
        self.file = self.image
        connection = sqlite3.connect(self.file)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()
        self.journal = Journal(self.file, lambda: 6e9)
        there = self.what_is_there()
        self.journal.close()
        assert there in self.flushed[reached:]
        self.states, self.spent = there
        assert all(self.states[place] == "done" for place in self.answered)
        self.begin()

    def teardown(self) -> None:
        self.journal.close()
        shutil.rmtree(self.folder)


TestJournal = JournalMachine.TestCase
TestJournal.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
