"""BatchJob: the prompts of a file are asked, and their answers written."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from ... import Limits, Progress, QuotaExceededError, Result
from ..._batch.asker import Asker
from ..._batch.journal import Journal
from ..._batch.limits import BYTES_PER_TOKEN
from ..._batch.progress import Bar, tokens_of
from ..._batch.trouble import is_daily
from .. import failures
from ..failures import UsageError
from ..options import make_client
from ..printing import is_terminal, one_line
from .input import BatchInput
from .output import OutputFile, answer_line, failure_line

_LONGEST_NAME = 80  # characters of an id that are shown


class BatchJob:
    """A batch, from its file of prompts to its file of answers.

    Args:
        arguments: of the command.

    Raises:
        UsageError: a file can't be read, or not be written.
        AuthenticationError: there is no key, and it is no rehearsal.
        ValueError, TypeError: a setting can't be used.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._journal, self._errors = _paths(arguments)
        with contextlib.ExitStack() as opened:
            self._prompts = BatchInput(
                arguments.input,
                format=arguments.format,
                template=arguments.template,
                system=arguments.system,
                fields=dict(arguments.option),
            )
            opened.callback(self._prompts.close)
            self._client = make_client(arguments, model=arguments.model, api_key="none" if arguments.dry_run else None)
            opened.callback(self._client.close)
            self._asker = Asker(self._client._service, {})
            self._opened = opened.pop_all()

    def __enter__(self) -> BatchJob:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def rehearse(self) -> int:
        """Say what there is to do, and return the exit code.

        Raises:
            UsageError: a line can't be asked, or the journal not be read.
        """
        states: Counter[str] = Counter()
        numbers: Counter[bytes] = Counter()
        size = 0
        with contextlib.ExitStack() as opened:
            journal = None
            if os.path.exists(self._journal) and os.path.getsize(self._journal):  # of nothing, one would be made
                with _opening(self._journal):
                    journal = opened.enter_context(contextlib.closing(Journal(self._journal, time.time)))

            def count(index: int, prompt: Mapping[str, Any]) -> None:
                nonlocal size
                task = self._asker.task(index, prompt, keyed=True)
                assert task.key is not None
                row = None if journal is None else journal.find(task.key, numbers[task.key])
                numbers[task.key] += 1
                state = "new" if row is None else row.state
                states[state] += 1
                size += 0 if state == "done" else task.size

            self._prompts.check(count)
        self._judge()
        done, left = states["done"], len(self._prompts) - states["done"]
        print(f"{_counted(len(self._prompts), 'prompt')}: {done} answered in the journal, {left} to ask")
        if states["failed"] or states["sent"]:
            print(f"{states['failed']} failed before, {states['sent']} may be billed twice")
        print(f"{size} bytes to send, about {round(size / BYTES_PER_TOKEN)} tokens, and those of the answers")
        return failures.COMPLETE

    def run(self) -> int:
        """Ask, write the answers, and return the exit code.

        Raises:
            UsageError: a line can't be asked, a file not be written, or the journal not be used; nothing has been sent.
            NothingDone: the answers can't be written.
        """
        self._prompts.check(lambda index, prompt: self._asker.task(index, prompt, keyed=False))
        self._judge()
        count = len(self._prompts)
        with (
            _logged(),
            contextlib.closing(OutputFile(self._arguments.output, count)) as answers,
            contextlib.closing(OutputFile(self._errors, count)) as failed,
        ):
            return self._ask(answers, failed)

    def _judge(self) -> None:
        """Say which lines can't be asked."""
        prompts = self._prompts
        if prompts.first_fault is None:
            return
        number, fault = prompts.first_fault
        count = len(prompts.bad)
        if not self._arguments.skip_bad:
            others = f", and {count - 1} more" if count > 1 else ""
            raise UsageError(
                f"{prompts.name}, line {number}: {fault}",
                f"mend it{others}, leave such lines out by --skip-bad, or say by --format what they are",
            )
        failures.warn(f"{prompts.name}, line {number}: {fault}; {_counted(count, 'line')} left out")

    def _ask(self, answers: OutputFile, failed: OutputFile) -> int:
        arguments = self._arguments
        bar = self._bar()
        with _opening(self._journal):
            run = self._client.map(
                self._prompts,
                journal=self._journal,
                concurrency=arguments.concurrency,
                limits=Limits(
                    requests_per_minute=arguments.rpm,
                    tokens_per_minute=arguments.tpm,
                    requests_per_day=arguments.rpd,
                ),
                order="done",
                max_errors=arguments.max_errors,
                on_quota=arguments.on_quota,
                progress=bar,
            )
        try:
            with run:
                for result in run:
                    if result.completion is None:
                        failed.add(result.index, failure_line(result))
                    else:
                        answers.add(result.index, answer_line(result))
                    if arguments.verbose:
                        failures.say(_told(result))
        except (Exception, KeyboardInterrupt) as error:
            if bar is not None:
                bar.close()
            code = _tell(error, debug=arguments.debug)
        else:
            if failed.is_empty:
                failed.remove()
            else:
                failed.commit()
            answers.commit()
            code = failures.COMPLETE if failed.is_empty else failures.NO_ANSWER
        failures.say(_summary(run.progress, failed.name))
        return code

    def _bar(self) -> Bar | None:
        """What draws a line on a terminal that shows how far it has come."""
        if self._arguments.verbose or not is_terminal(sys.stderr):
            return None
        try:
            return Bar()
        except ImportError:
            failures.warn("there is no progress line without tqdm: pip install 'chatanywhere[cli]'")
            return None


def _paths(arguments: argparse.Namespace) -> tuple[str, str]:
    """Return the paths of the journal and of the failures.

    Raises:
        UsageError: one is none, or is that of another file.
    """
    output = arguments.output
    base = "batch" if output == "-" else output
    journal = f"{base}.journal" if arguments.journal is None else arguments.journal
    errors = f"{base}.errors.jsonl" if arguments.errors is None else arguments.errors
    seen: dict[str, str] = {}
    for name, path in {"IN": arguments.input, "OUT": output, "--journal": journal, "--errors": errors}.items():
        if path == "-" and name in ("IN", "OUT"):
            continue
        if path in ("", "-", ":memory:") or "\0" in path:  # the last is SQLite's name of none
            raise UsageError(f"{name} is no file: {path!r}", "name one")
        other = seen.setdefault(os.path.realpath(path), name)
        if other != name:
            raise UsageError(f"{other} and {name} are one file: {path}", "name another")
    return journal, errors


@contextlib.contextmanager
def _logged() -> Iterator[None]:
    """Say what a run logs as the command says its own warnings."""
    logger, handler = logging.getLogger("chatanywhere"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextlib.contextmanager
def _opening(journal: str) -> Iterator[None]:
    """Make of what a journal raises that can't be opened what the command says."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        message, _, hint = str(error).rpartition(": ")
        raise UsageError(message, hint) from error
    except OSError as error:
        what = str(error) if error.strerror is None else f"the journal {journal} can't be opened: {error.strerror}"
        raise UsageError(what, "see whether its folder is there, can be written, and has room") from error


def _tell(error: BaseException, *, debug: bool) -> int:
    """Say why a run has ended before its end, and return the exit code."""
    if not isinstance(error, QuotaExceededError) or not is_daily(error):
        return failures.tell(error, debug=debug)
    when = "" if error.resume_at is None else f" after {error.resume_at.astimezone():%Y-%m-%d %H:%M %z}"
    error.hint = f"run it again{when}; --on-quota wait does so by itself"
    failures.tell(error, debug=debug)
    return failures.ANOTHER_DAY


def _told(result: Result) -> str:
    """What -v says of a prompt."""
    name = one_line(result.id)[:_LONGEST_NAME]
    if result.error is not None:
        return f"{name}: {failures.words_of(result.error).message}"
    assert result.completion is not None
    if result.from_journal:
        return f"{name}: answered before"
    tokens = _counted(tokens_of(result.completion), "token")
    return f"{name}: {one_line(result.completion.model or 'answered')}, {tokens}, {result.seconds:.1f} s"


def _summary(progress: Progress, errors: str) -> str:
    before = f" ({progress.from_journal} of them before)" if progress.from_journal else ""
    said = [f"{progress.done} answered{before}", f"{progress.failed} failed", _counted(progress.tokens, "token")]
    if progress.in_doubt:
        said.append(f"{progress.in_doubt} may be billed twice")
    if progress.waiting:
        return f"{', '.join(said)}; {progress.waiting} left: run it again, and only those are asked"
    return ", ".join(said) + (f"; see {errors}" if progress.failed else "")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
