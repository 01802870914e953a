"""`chat`: a conversation at the keyboard. The only user of prompt_toolkit."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import failures
from .failures import UsageError, say
from .options import add_asking, content_of
from .printing import is_terminal, one_line
from .signals import Interrupts

if TYPE_CHECKING:
    from .answer import Answer
    from .talk import Talk

_COMMAND = re.compile(r"/([a-zA-Z]+)(?:[ \t]+(.*?))?\s*")

_WELCOME = "Enter sends, Alt-Enter adds a line, Ctrl-C stops, Ctrl-D leaves; see /help."

_REMEDY = "/resume goes on with it, /retry asks again"

_ASK = "> "
_EDIT = "edit> "

_HELP = """\
/retry [MODEL]   ask the last question again, with that model for once
/resume          go on with an answer that was cut
/undo            take the last question and its answer back
/edit [TEXT]     change the last question, and ask it in its place
/model [NAME]    show or choose the model
/system [TEXT]   show or change what the model is told first
/file FILE       send a file, text or picture, with the next question
/new             begin another conversation
/save FILE       write the conversation to FILE.md or FILE.json
/load FILE       go on with one that was written so
/usage           show the tokens of this chat
/help            show this
/quit            leave, as Ctrl-D does
A line that begins with a blank is a question, whatever follows."""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("chat", help="hold a conversation at the keyboard", description=_WELCOME)
    parser.set_defaults(command=run)
    parser.add_argument(
        "--from", dest="source", metavar="FILE", help="go on with a conversation that /save or show wrote"
    )
    add_asking(parser)


def run(arguments: argparse.Namespace) -> int:
    """Hold a conversation until its end, and return the exit code."""
    if arguments.source is not None and (arguments.last or arguments.id is not None):
        raise UsageError("--from and -c or --id name two conversations", "leave one of them out")
    interactive = is_terminal(sys.stdin) and is_terminal(sys.stdout)
    from .talk import Talk

    with contextlib.closing(Talk(arguments, remedy=_REMEDY)) as talk:
        chat = Dialogue(talk, arguments, _prompt(talk) if interactive else _piped, interactive=interactive)
        if interactive:
            print(_WELCOME)
        elif isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(encoding="utf-8", errors="replace")
        if arguments.resume:
            chat.do(talk.resume)
        while not chat.over:
            try:
                chat.take(chat.lines(""))
            except EOFError:
                break
            except KeyboardInterrupt:  # pressed again, when the answer had been stopped
                if not interactive:
                    raise
        return chat.code


def _piped(default: str) -> str:
    line = sys.stdin.readline() if sys.stdin is not None else ""
    if not line:
        raise EOFError
    return line.removesuffix("\n")


def _prompt(talk: Talk) -> Callable[[str], str]:
    """Return what asks for a line, given what stands in it already; it raises an EOFError on Ctrl-D.

    Raises:
        UsageError: prompt_toolkit is not installed.
    """
    # A terminal's answer to where the cursor is might come while an answer is printed, and nothing here needs it.
    os.environ.setdefault("PROMPT_TOOLKIT_NO_CPR", "1")
    try:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import History
        from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
        from prompt_toolkit.keys import Keys
    except ImportError as error:
        raise UsageError("chat needs prompt_toolkit at a terminal", "pip install 'chatanywhere[cli]'") from error

    class Questions(History):
        """What was asked before, which the store knows."""

        def load_history_strings(self) -> Iterator[str]:
            yield from talk.branch.questions_before()

        def store_string(self, string: str) -> None:
            """Nothing: what is asked is stored with its answer."""

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    @keys.add(Keys.SIGINT)
    def _(event: KeyPressEvent) -> None:
        if session.message == _EDIT:
            event.app.exit(exception=EOFError)
        event.current_buffer.reset()

    session: PromptSession[str] = PromptSession(
        multiline=True,
        key_bindings=keys,
        history=Questions(),
        prompt_continuation="  ",
        enable_suspend=True,  # by Ctrl-Z
    )

    def leave() -> None:
        if session.app.is_running and not session.app.is_done:
            session.app.exit(exception=EOFError)

    def wake() -> None:
        if session.app.loop is not None:
            session.app.loop.call_soon_threadsafe(leave)

    def prompt(default: str) -> str:
        # A signal that was raised while something is drawn would leave the terminal as it is then.
        with Interrupts(wake) as interrupts:
            return session.prompt(
                _EDIT if default else _ASK,
                default=default,
                pre_run=lambda: leave() if interrupts.waits else None,
            )

    return prompt


class Dialogue:
    """What the lines of a chat do.

    Args:
        talk: the conversation.
        arguments: the options of `chat`.
        lines: asks for a line, given what stands in it already.
        interactive: somebody types them.

    Attributes:
        over: the chat is to end, with
        code: this exit code.
    """

    def __init__(
        self, talk: Talk, arguments: argparse.Namespace, lines: Callable[[str], str], *, interactive: bool
    ) -> None:
        self.talk = talk
        self.lines = lines
        self.over = False
        self.code = failures.COMPLETE
        self._debug: bool = arguments.debug
        self._interactive = interactive
        self._is_plain = not (interactive or arguments.json or arguments.extract)
        self._files: list[str] = list(arguments.file)
        self._saved: Path | None = None
        if arguments.source is not None:
            self._load(arguments.source)

    def take(self, line: str) -> None:
        """Do what a line says: a command, or a question."""
        command = _COMMAND.fullmatch(line)
        if command:
            name = command[1].lower()
            method = getattr(self, f"_{name}") if name in _HELP_NAMES else None
            if method is None:
                hint = "/help lists what there is; behind a blank, it is a question"
                say(f"error: there is no /{command[1]}\nhint: {hint}")
            else:
                self.do(lambda: method((command[2] or "").strip()))
        elif line.strip() or self._files:
            self.do(lambda: self._ask(line))

    def do(self, action: Callable[[], Answer | None]) -> None:
        """Do something, and tell what goes wrong with it; the chat goes on."""
        answer: Answer | None = None
        try:
            answer = action()
        except KeyboardInterrupt:
            if not self._interactive:
                raise
            print()
        except Exception as error:
            code = failures.tell(error, debug=self._debug)
            if isinstance(error, OSError):  # nobody can read what would follow
                self.over, self.code = True, code
        if answer is None:
            return
        if answer.unprinted:
            self.over, self.code = True, answer.code
        elif isinstance(answer.error, KeyboardInterrupt):
            if self._interactive:
                if not answer.text:
                    print()  # behind ^C
                say(f"note: stopped; {_REMEDY}")
            else:
                self.over, self.code = True, failures.INTERRUPTED
        elif self._is_plain and answer.text and not answer.text.endswith("\n"):
            print(flush=True)  # between two answers

    def _tell(self, text: str) -> None:
        """Say what a command has done; a pipe gets the answers alone."""
        if self._interactive:
            print(text)
        else:
            say(text)

    def _ask(self, text: str) -> Answer:
        content = content_of(text, self._files)
        self._files = []
        return self.talk.ask(content)

    def _retry(self, model: str) -> Answer:
        return self.talk.retry(model or None)

    def _resume(self, _: str) -> Answer:
        return self.talk.resume()

    def _undo(self, _: str) -> None:
        self._tell(f"taken back: {_short(self.talk.branch.undo())}")

    def _edit(self, text: str) -> Answer | None:
        questions = self.talk.branch.questions()
        if not questions:
            raise UsageError("nothing was asked yet", "type a question")
        if not text:
            if not self._interactive:
                raise UsageError("/edit needs a text here", "/edit TEXT")
            try:
                text = self.lines(questions[-1])
            except EOFError:
                return None
        if not text.strip():
            return None
        self.talk.branch.undo()
        return self._ask(text)

    def _model(self, name: str) -> None:
        if name:
            self.talk.model = name
        self._tell(f"model: {one_line(self.talk.model or 'the default')}")

    def _system(self, text: str) -> None:
        if text:
            self.talk.system = text
        self._tell(f"system: {one_line(self.talk.told() or 'nothing')}")

    def _file(self, name: str) -> None:
        if not name:
            raise UsageError("/file needs a name", "/file FILE")
        name = str(Path(name).expanduser())
        content_of("", [name])  # which says what is wrong with it
        self._files.append(name)
        self._tell(f"goes with the next question: {one_line(name)}")

    def _new(self, _: str) -> None:
        self.talk.branch.begin_anew()
        self._saved = None
        self._tell("a new conversation")

    def _save(self, name: str) -> None:
        from .._conversation.transcript import write

        if not name:
            raise UsageError("/save needs a name", "/save FILE.md")
        path = Path(name).expanduser()
        if path != self._saved and path.exists():
            raise UsageError(f"{path} is there already", "choose another name")
        try:
            write(path, self.talk.branch.record())
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"not written: {reason}", "/save FILE.md, or FILE.json") from error
        self._saved = path
        self._tell(f"written: {one_line(str(path))}")

    def _load(self, name: str) -> None:
        from .._conversation.transcript import read

        if not name:
            raise UsageError("/load needs a name", "/load FILE.md")
        path = Path(name).expanduser()
        try:
            record = read(path)
        except (OSError, ValueError) as error:
            # A ValueError names the file itself.
            reason = f"{path} can't be read: {error.strerror}" if isinstance(error, OSError) else str(error)
            raise UsageError(reason, "name a file that /save or `show` has written") from error
        self.talk.take(record)
        self._saved = path
        if self._interactive:
            self._tell(f"{len(record['messages'])} messages")

    def _usage(self, _: str) -> None:
        prompt, completion = self.talk.spent
        self._tell(f"{prompt} + {completion} = {prompt + completion} tokens")

    def _help(self, _: str) -> None:
        self._tell(_HELP)

    def _quit(self, _: str) -> None:
        self.over = True


_HELP_NAMES = tuple(re.findall(r"(?m)^/([a-z]+)", _HELP))


def _short(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= 60 else f"{line[:59]}…"
