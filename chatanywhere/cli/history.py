"""`history`, `show` and `rm`: what was said before."""

from __future__ import annotations

import argparse
import json
import re
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from .failures import NothingDone, UsageError
from .options import said
from .printing import one_line, put

if TYPE_CHECKING:
    from .._store import Store, StoredConversation, StoredMessage

_UNITS = {"h": 3600, "d": 86400, "w": 7 * 86400}
_LISTED = "`chatanywhere history` lists what there is"


def add(commands: Any) -> None:
    """Add the commands to the parser."""
    history = commands.add_parser("history", help="list conversations, newest first, or find those with a text in them")
    history.set_defaults(command=_history)
    history.add_argument("query", nargs="?", type=said, default="", metavar="QUERY", help="a text, in whatever case")
    history.add_argument("-n", type=_count, default=20, metavar="N", help="how many, 0 for all (%(default)s)")
    history.add_argument("--json", action="store_true", help="print a JSON array")

    show = commands.add_parser("show", help="print a conversation in Markdown, which `chat --from` reads")
    show.set_defaults(command=_show)
    show.add_argument("id", nargs="?", type=said, metavar="ID", help="the beginning is enough; else the last one")
    show.add_argument("--json", action="store_true", help="print a JSON object")

    remove = commands.add_parser("rm", help="remove conversations, and leave nothing of them on disk")
    remove.set_defaults(command=_remove)
    remove.add_argument("id", nargs="*", type=said, metavar="ID", help="the beginning is enough")
    remove.add_argument("--older", type=_age, metavar="AGE", help="those not gone on with for so long: 30d, 12h, 4w")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of conversations")
    return min(int(text), 1 << 62)


def _age(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,6})([hdw])", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not an age such as 30d, 12h or 4w")
    return float(match[1]) * _UNITS[match[2]]


def open_history(*, writing: bool = False) -> Store:
    """Return the store, empty where nothing was stored yet.

    Raises:
        UsageError: nothing is to be stored.
        NothingDone: it can't be used.
    """
    from .._store import Store, StoreError, history_path

    try:
        path = history_path()
        if path is None:
            raise UsageError("the history is off", "unset CHATANYWHERE_HISTORY, or set it to a path")
        return Store(path, writing=writing) if path.exists() else Store()
    except (OSError, StoreError) as error:
        raise _unusable(error) from error


def _unusable(error: Exception) -> NothingDone:
    return NothingDone(str(error), "`chatanywhere config` says where it is; CHATANYWHERE_HISTORY names another place")


def _history(arguments: argparse.Namespace) -> int:
    from .._store import StoreError

    with open_history() as store:
        try:
            found = store.search(arguments.query, limit=arguments.n or None)
        except StoreError as error:
            raise _unusable(error) from error
    if arguments.json:
        _print(json.dumps([_summary(each) for each in found], ensure_ascii=False, indent=2))
    for each in [] if arguments.json else found:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(each.updated))
        _print(f"{each.id[:8]}  {when}  {each.messages:3}  {one_line(each.model or '-'):20.20}  {one_line(each.title)}")
    return 0


def _summary(conversation: StoredConversation) -> dict[str, Any]:
    return {
        "id": conversation.id,
        "title": conversation.title,
        "model": conversation.model,
        "created": _moment(conversation.created),
        "updated": _moment(conversation.updated),
        "messages": conversation.messages,
    }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _show(arguments: argparse.Namespace) -> int:
    from .._store import StoreError

    with open_history() as store:
        try:
            conversation = find(store, arguments.id)
            messages = store.messages(conversation.last)
        except StoreError as error:
            raise _unusable(error) from error
    if arguments.json:
        shown = {**_summary(conversation), "messages": [_fields(each) for each in messages]}
        _print(json.dumps(shown, ensure_ascii=False, indent=2))
    else:
        from .._conversation.transcript import to_markdown
        from .branch import record_of

        put(to_markdown(record_of(messages, conversation.head)))
    return 0


def find(store: Store, beginning: str | None) -> StoredConversation:
    """Return a conversation by the beginning of its id, the last one if there is none.

    Raises:
        UsageError: there is no such conversation, or more than one.
        StoreError: the history can't be read.
    """
    try:
        found = store.last() if beginning is None else store.find(beginning)
    except ValueError as error:
        raise UsageError(str(error), _LISTED) from error
    if found is None:
        raise UsageError("there is no conversation yet", "`chatanywhere ask 'your question'` begins one")
    return found


def _fields(message: StoredMessage) -> dict[str, Any]:
    return {
        "id": message.id,
        **message.message,
        "reasoning": message.reasoning,
        "status": message.status,
        "error": message.error,
        "finish_reason": message.finish_reason,
        "model": message.model,
        "host": message.host,
        "parameters": message.parameters,
        "usage": None
        if message.prompt_tokens is None
        else {"prompt_tokens": message.prompt_tokens, "completion_tokens": message.completion_tokens},
        "seconds": message.seconds,
        "created": _moment(message.created),
    }


def _remove(arguments: argparse.Namespace) -> int:
    if not arguments.id and arguments.older is None:
        raise UsageError("nothing says what is to be removed", "name conversations, or give --older 30d")
    from .._store import StoreError

    with open_history(writing=True) as store:
        try:
            chosen = [find(store, each).id for each in arguments.id]
            if arguments.older is not None:
                chosen += store.older(time.time() - arguments.older)
            chosen = list(dict.fromkeys(chosen))
            store.remove(chosen)
        except StoreError as error:
            raise _unusable(error) from error
    _print(f"{len(chosen)} removed")
    return 0


def _print(line: str) -> None:
    put(f"{line}\n")
