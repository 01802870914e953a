"""`%%chat` and `%chat` for IPython and Jupyter, loaded by `%load_ext chatanywhere`; the only user of IPython.

A conversation is the command's `Talk`, stored like the command's. What is different is where its answers are shown, and
that what goes wrong is raised: the cells behind a cell that has failed must not be run.
"""

from __future__ import annotations

import argparse
import contextlib
import contextvars
import getopt
import os
import re
import threading
import time
from typing import Any, NoReturn

try:
    from IPython.core.displaypub import DisplayPublisher
    from IPython.core.error import UsageError
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand
except ImportError as error:
    raise ImportError("the magic %%chat needs IPython: pip install 'chatanywhere[notebook]'") from error

from . import _errors
from ._markdown import sanitize
from .cli import failures
from .cli.answer import Answer
from .cli.options import add_asking, content_of
from .cli.printing import Printer, one_line, visible
from .cli.talk import Talk, note

_INTERVAL = 1 / 8
"""Seconds between two updates of an output, so that with the last one there are no more than ten a second."""

_RATE = 250_000
"""Bytes of updates a second: Jupyter's server drops all output of a kernel that sends more than a million."""

_MAX_ROWS, _MAX_COLUMNS, _MAX_CELL, _MAX_TEXT = 100, 50, 200, 100_000
"""How much of a variable is sent; the last two are characters. A variable that is a text is sent as it is."""

_RESUME = "`%chat --resume` goes on with it"
_STORED = "`%chat --id ID --resume` goes on with an answer that is stored, and `!chatanywhere history` lists the IDs"

_CELL = re.compile(r"(?:[ \t]*\n)*%%chat(?: ([^\n]*)|[ \t]*)\n(.*)", re.DOTALL)

_QUESTION = re.compile(r"([ \t]*)%chat[ \t]+(\S.*\?)\s*")
"""A line that IPython takes for a call for help."""

_WORD = re.compile(r"""(?:"[^"]*"|'[^']*'|\S)+""")
_QUOTED = re.compile(r""""([^"]*)"|'([^']*)'""")
_UNCLOSED = re.compile(r"""(?:-\w|--\w+=)?["']""")
"""The beginning of a word of which quotes that are closed have been taken out."""

_LONG = ("model=", "system=", "new", "id=", "file=", "variable=", "resume")
_SHORT = {f"-{name[0]}": f"--{name[:-1]}" for name in ("model=", "system=", "file=", "variable=")}


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Add the magic; the conversation of one that was there before goes on."""
    unload_ipython_extension(shell)
    known = shell.magics_manager.registry.get(ChatMagics.__name__)
    shell.register_magics(known or ChatMagics(shell))
    shell.input_transformers_cleanup.insert(0, keep_cells)
    shell.input_transformers_cleanup.append(keep_question_marks)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take the magic away. Its conversation is stored."""
    for transformer in (keep_cells, keep_question_marks):
        with contextlib.suppress(ValueError):
            shell.input_transformers_cleanup.remove(transformer)
    for magics in shell.magics_manager.magics.values():
        magics.pop("chat", None)


def keep_cells(lines: list[str]) -> list[str]:
    """Return a cell that begins with `%%chat` as a call; IPython would take away what looks like a prompt in it."""
    cell = _CELL.fullmatch("".join(lines))
    return lines if cell is None else [f"get_ipython().run_cell_magic('chat', {cell[1] or ''!r}, {cell[2]!r})\n"]


keep_cells.has_side_effects = True  # type: ignore[attr-defined]  # not for finding out whether a cell is complete


def keep_question_marks(lines: list[str]) -> list[str]:
    """Return the lines of a cell with calls in the places of questions that IPython would take for a call for help.

    `%chat What is it?` would show what `it` is. `%chat?` is left alone, and so are a line in a string of several, and
    the cells of other magics.
    """
    if lines and lines[0].startswith("%%"):
        return lines
    kept: list[str] = []
    for line in lines:
        question = _QUESTION.fullmatch(line)
        if question is not None and not any("".join(kept).count(quotes) % 2 for quotes in ('"""', "'''")):
            line = f"{question[1]}get_ipython().run_line_magic('chat', {question[2]!r})\n"
        kept.append(line)
    return kept


@magics_class
class ChatMagics(Magics):
    """The magic, and the conversation that goes on over its cells."""

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._shell = shell
        self._talk: NotebookTalk | None = None
        self._settings = 0
        self._busy = threading.RLock()  # a thread that is interrupted before it can give it back may have it again

    @no_var_expand
    @line_cell_magic
    def chat(self, line: str, cell: str | None = None) -> None:
        """Ask a model; the answer is shown as it comes, and is `_chat` then. The conversation goes on over cells.

        %chat [OPTIONS] QUESTION

        %%chat [OPTIONS]
        QUESTION

        -m, --model MODEL    that is asked from here on
        -s, --system TEXT    what the model is told first
        --new                begin another conversation
        --id ID              go on with one that is stored; the beginning of its id is enough
        -f, --file FILE      send a file, text or a picture; may be given several times
        -v, --variable NAME  send the text of a variable, a DataFrame as a table; likewise. With %%chat, NAME NAME …
        --resume             go on with an answer that was cut

        Options come before the question. Without one, they hold for what is asked next.
        """
        if not self._busy.acquire(blocking=False):
            raise UsageError("an answer of this conversation is on its way: wait for it")
        try:
            answer = self._answer(Options(line, cell))
        except failures.UsageError as error:
            raise UsageError(one_line(f"{error}: {error.hint}")) from None
        except (_errors.ChatAnywhereError, KeyboardInterrupt, OSError, RuntimeError, TypeError, ValueError) as error:
            _raise_in_one_line(error)
        finally:
            self._busy.release()
        if answer is not None and answer.error is not None:
            _raise_in_one_line(answer.error, cut=bool(answer.text or answer.reasoning))

    def _answer(self, options: Options) -> Answer | None:
        """Ask, if there is a question."""
        question = options.question
        variables = [self._variable(name) for name in options.variables]
        content: Any = None
        if question.strip() or options.files or variables:
            if options.resume:
                raise failures.UsageError("--resume goes on with the last answer, and asks nothing", "leave the rest")
            content = content_of("\n\n".join([*([question] if question.strip() else []), *variables]), options.files)
        elif not options:
            raise failures.UsageError("there is nothing to ask", "%chat your question")
        if options.resume and self._talk is None and options.id is None:
            raise failures.UsageError("nothing was asked in this notebook yet", _STORED)
        talk = self._talk_for(options)
        if not options.resume and content is None:
            return None
        answer = talk.resume() if options.resume else talk.ask(content)
        if answer.completion is not None:
            self._shell.user_ns["_chat"] = answer.completion
        return answer

    def _talk_for(self, options: Options) -> NotebookTalk:
        """The conversation that goes on, or that is begun."""
        talk = self._talk
        if talk is None or options.new or options.id is not None:
            talk = NotebookTalk(self._shell, options.id, options.model, options.system)
            before, self._talk, self._settings = self._talk, talk, _settings()
            if before is not None:
                before.close()
        elif self._settings != _settings():
            talk.reconnect()
            self._settings = _settings()
        talk.model = options.model or talk.model
        talk.system = talk.system if options.system is None else options.system
        return talk

    def _variable(self, name: str) -> str:
        """A variable as a text, with its name."""
        try:
            value = self._shell.user_ns[name]
        except KeyError:
            raise failures.UsageError(
                f"-v {name}: there is no such variable", "name one; another value needs a name first"
            ) from None
        return f"{name}:\n{text_of_value(value)}"


def _settings() -> int:
    """What tells whether the environment has other settings: a hash, for a key is among them."""
    names = [name for name in os.environ if name.startswith("CHATANYWHERE_") or name.lower().endswith("_proxy")]
    return hash(frozenset((name, os.environ[name]) for name in names))


class Options:
    """What stands behind `%chat` or `%%chat`.

    Args:
        line: options, and the question or its beginning.
        cell: the question, None for `%chat`.

    Raises:
        UsageError: they can't be used.
    """

    def __init__(self, line: str, cell: str | None) -> None:
        self.model: str | None = None
        self.system: str | None = None
        self.id: str | None = None
        self.new = False
        self.resume = False
        self.files: list[str] = []
        self.variables: list[str] = []
        words = list(_WORD.finditer(line))
        rest = [_unquoted(word[0]) for word in words]
        try:
            while rest and rest[0].startswith("-"):
                found, rest = getopt.getopt(rest, "m:s:f:v:", _LONG)
                for flag, value in found:
                    self._set(_SHORT.get(flag, flag).lstrip("-"), value)
                if not found or cell is None or found[-1][0] not in ("-v", "--variable"):
                    break
                while rest and not rest[0].startswith("-"):
                    self.variables.append(rest.pop(0))
        except getopt.GetoptError as error:
            raise failures.UsageError(str(error), "%chat? shows what there is") from None
        if any(_UNCLOSED.match(_QUOTED.sub("", word[0])) for word in words[: len(words) - len(rest)]):
            raise failures.UsageError("a quote is not closed", "close it, or leave it out")
        said = line[words[-len(rest)].start() :].rstrip() if rest else ""
        self.question = "\n\n".join(filter(None, [said, (cell or "").rstrip("\n")]))
        if self.new and self.id is not None:
            raise failures.UsageError("--new and --id can't both be", "leave one of them out")

    def _set(self, name: str, value: str) -> None:
        if name in ("new", "resume"):
            setattr(self, name, True)
        elif name == "variable":
            self.variables.append(value)
        elif name == "file":
            if value == "-":
                raise failures.UsageError("-f -: a notebook has no standard input", "-v sends a variable")
            self.files.append(os.path.expanduser(value))
        else:
            setattr(self, name, value)

    def __bool__(self) -> bool:
        """Whether there is something to do where nothing is asked."""
        return self.new or self.resume or any(each is not None for each in (self.model, self.system, self.id))


def _unquoted(word: str) -> str:
    """A word without its quotes; a backslash is one, as in the paths of Windows."""
    return _QUOTED.sub(lambda found: found[1] or found[2] or "", word)


def text_of_value(value: object) -> str:
    """Return a value as a text for a model: a text as it is, a DataFrame as a table, the beginning of anything long."""
    if isinstance(value, str):
        return value
    of_pandas = {each.__name__ for each in type(value).__mro__ if each.__module__.partition(".")[0] == "pandas"}
    if not of_pandas.isdisjoint(("DataFrame", "Series")):
        table: Any = value.to_frame() if "Series" in of_pandas else value  # type: ignore[attr-defined]
        limits = {"max_rows": _MAX_ROWS, "max_cols": _MAX_COLUMNS, "max_colwidth": _MAX_CELL}
        text = str(table.to_string(**limits, show_dimensions=True))
    else:
        text = str(value)
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}\n[… of {len(text)} characters]"


class NotebookTalk(Talk):
    """A conversation whose answers are shown below cells.

    Args:
        shell: whose cells they are.
        id: of the conversation that goes on, None for a new one.
        model: that is asked.
        system: what it is told first.
    """

    def __init__(self, shell: InteractiveShell, id: str | None, model: str | None, system: str | None) -> None:
        parser = argparse.ArgumentParser(add_help=False)
        add_asking(parser)
        arguments = parser.parse_args([])
        arguments.id, arguments.model, arguments.system = id, model, system
        super().__init__(arguments, remedy=_RESUME)
        self._shell = shell

    def printer(self, before: str) -> Printer:
        """Return what shows an answer; a terminal is printed to."""
        if type(self._shell.display_pub) is DisplayPublisher:  # which prints what it is given, each time
            return super().printer(before)
        return GrowingOutput(self._shell, before)

    def tell(self, answer: Answer) -> None:
        """Write to standard error why an answer is not whole; what has gone wrong is raised."""
        if answer.error is None:
            note(answer)


class GrowingOutput:
    """One output, as Markdown in which no HTML or script works, that is replaced while an answer comes.

    It is updated by threads, so that nothing is held back while nothing more comes, and that Stop, which interrupts the
    main thread, leaves it whole.

    Args:
        shell: that shows it.
        text: with which it begins.
    """

    def __init__(self, shell: InteractiveShell, text: str) -> None:
        self._shell = shell
        self._id = os.urandom(8).hex()
        self._pieces = [text]
        self._shown = ""
        self._next = 0.0  # when it may be updated
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()

    def write(self, text: str) -> None:
        """Take a piece."""
        with self._lock:
            self._pieces.append(text)
            if self._timer is None:
                self._timer = self._start(self._next - time.monotonic())

    def end(self) -> None:
        """Show all of it."""
        self._start(0).join()

    def _start(self, wait: float) -> threading.Timer:
        context = contextvars.copy_context()  # by which the kernel knows the cell
        timer = threading.Timer(max(0, wait), context.run, [self._show])
        timer.daemon = True
        timer.start()
        return timer

    def _show(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            text = "".join(self._pieces)
            if text == self._shown:
                return
            data: dict[str, Any] = {"text/markdown": sanitize(text), "text/plain": visible(text)}
            self._shell.display_pub.publish(data, transient={"display_id": self._id}, update=bool(self._shown))
            self._pieces, self._shown = [text], text
            size = sum(len(each.encode("utf-8", "replace")) for each in data.values())
            self._next = time.monotonic() + max(_INTERVAL, size / _RATE)


def _raise_in_one_line(error: BaseException, *, cut: bool = False) -> NoReturn:
    """Raise an error of which IPython shows one line.

    Args:
        error: what is raised.
        cut: some of an answer has come.
    """
    said = str(error).replace("set CHATANYWHERE_API_KEY or pass api_key=", "%env CHATANYWHERE_API_KEY=… sets one")
    if isinstance(error, KeyboardInterrupt):
        said = "the answer was stopped"
    elif cut:
        said = f"the answer was cut: {said}"
    words = one_line(f"{said}; {_RESUME}" if cut else said)
    lines = [f"{type(error).__name__}: {words}"]
    error._render_traceback_ = lambda: lines  # type: ignore[attr-defined]
    raise error
