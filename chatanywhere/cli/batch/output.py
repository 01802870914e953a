"""What a batch leaves: lines as OpenAI's batches have them, in files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import sys
import tempfile
from array import array
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..failures import NothingDone, UsageError, words_of

if TYPE_CHECKING:
    from ... import Choice, Completion, Result

_NOWHERE = -1
_ESCAPED = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), 0x2028, 0x2029)}
"""What JSON may have as it is, and what terminals obey, or other programs take for the end of a line."""


class OutputFile:
    """Lines that come in any order, and a file that has them in theirs when all have come.

    Until then they are in a file without a name, so that nothing is left of them if the program is killed.

    Args:
        path: of the file; `-` is standard output.
        count: how many lines there may be.

    Raises:
        UsageError: it can't be written.
    """

    def __init__(self, path: str, count: int) -> None:
        self.name = path
        self._path = os.path.realpath(path)
        self._places = array("q", [_NOWHERE]) * count
        try:
            with contextlib.suppress(FileNotFoundError):
                if path != "-" and not stat.S_ISREG(os.stat(path).st_mode):
                    raise UsageError(f"{path} is no regular file", "name another; -o - prints")
            folder = None if path == "-" else os.path.dirname(self._path)
            self._lines = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed with this
        except (OSError, ValueError) as error:  # a ValueError for a name with a NUL
            raise UsageError(
                f"{path} can't be written: {_reason(error)}", "see whether its folder is there, and can be written"
            ) from error
        self._end = 0

    def add(self, index: int, fields: Mapping[str, Any]) -> None:
        """Take a line.

        Raises:
            NothingDone: there is no room for it.
        """
        line = _line(fields)
        with self._writing():
            self._lines.write(line)
        self._places[index] = self._end
        self._end += len(line)

    @property
    def is_empty(self) -> bool:
        """Whether no line has come."""
        return not self._end

    def commit(self) -> None:
        """Write the file, in the place of one that was there.

        Raises:
            NothingDone: that is not possible.
            OSError: standard output can't be written, or nobody reads it any more (`BrokenPipeError`).
        """
        if self.name == "-":
            if sys.stdout is None:
                raise OSError(errno.EBADF, "standard output is closed")
            sys.stdout.flush()
            sys.stdout.buffer.writelines(self._in_order())
            sys.stdout.flush()
            return
        folder, name = os.path.split(self._path)
        with self._writing():
            file, new = tempfile.mkstemp(".new", f".{name[:40]}.", folder)  # OUT's may be as long as names can be
            try:
                with open(file, "wb") as output:
                    output.writelines(self._in_order())
                    output.flush()
                    os.fsync(output.fileno())
                os.replace(new, self._path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(new)
                raise
            _sync_folder(self._path)

    def remove(self) -> None:
        """Leave no such file, for there are no lines.

        Raises:
            NothingDone: that is not possible.
        """
        with self._writing(), contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def close(self) -> None:
        """Forget the lines."""
        with contextlib.suppress(OSError):  # those that found no room before find none now
            self._lines.close()

    def _in_order(self) -> Iterator[bytes]:
        for place in self._places:
            if place != _NOWHERE:
                self._lines.seek(place)
                yield self._lines.readline()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise NothingDone(
                f"{self.name} can't be written: {_reason(error)}", "make room, and run it again: the journal has it all"
            ) from error


def _reason(error: Exception) -> object:
    return getattr(error, "strerror", None) or error


def _sync_folder(path: str) -> None:
    """See to it that the name of a file is on the disk, where that is possible."""
    with contextlib.suppress(OSError):
        folder = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _line(fields: Mapping[str, Any]) -> bytes:
    text = json.dumps(fields, ensure_ascii=False, separators=(", ", ": ")).translate(_ESCAPED)
    return text.encode("utf-8", "backslashreplace") + b"\n"  # which writes half a character as JSON does


# Lines


def answer_line(result: Result) -> dict[str, Any]:
    """Return the line of a prompt that has an answer."""
    completion = result.completion
    assert completion is not None
    body = chat_completion(completion)
    response = {"status_code": 200, "request_id": completion.request_id or "", "body": body}
    return {"id": _id(result), "custom_id": result.id, "response": response, "error": None}


def failure_line(result: Result) -> dict[str, Any]:
    """Return the line of a prompt that has none: what the service answered, or what went wrong before it did."""
    from ... import APIStatusError

    error = result.error
    assert error is not None
    response = said = None
    if isinstance(error, APIStatusError):
        detail = {"message": error.message, "type": type(error).__name__, "param": None, "code": error.code}
        response = {
            "status_code": error.status_code,
            "request_id": error.request_id or "",
            "body": {"error": detail},
        }
    else:
        said = {"code": type(error).__name__, "message": words_of(error).message}
    return {"id": _id(result), "custom_id": result.id, "response": response, "error": said}


def _id(result: Result) -> str:
    """A name that is the same whenever the line is written."""
    return f"batch_req_{hashlib.sha256(result.id.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def chat_completion(completion: Completion) -> dict[str, Any]:
    """Return an answer as OpenAI's API has it, with all else that the service said."""
    said = {name: value for name, value in completion.raw.items() if value is not None}
    choices = {each.get("index", place): each for place, each in enumerate(said.get("choices") or ())}
    usage = completion.usage
    if usage is not None:
        names = ("prompt_tokens", "completion_tokens", "total_tokens")
        told = {name: value for name, value in (said.get("usage") or {}).items() if value is not None}
        said["usage"] = {**{name: getattr(usage, name) for name in names}, **told}
    needed = {
        "id": completion.id or "",
        "object": "chat.completion",
        "created": completion.created or 0,
        "model": completion.model or "",
    }
    answers = [_choice(each, choices.get(each.index) or {}) for each in completion.choices]
    return {**needed, **said, "object": "chat.completion", "choices": answers}


def _choice(choice: Choice, said: Mapping[str, Any]) -> dict[str, Any]:
    from ..._types import tool_call_fields

    told = {name: value for name, value in (said.get("message") or {}).items() if value is not None}
    content = choice.text or (None if choice.tool_calls or choice.refusal else "")
    message = {"role": "assistant", **told, "content": content, "refusal": choice.refusal or None}
    if choice.tool_calls:
        message["tool_calls"] = [{**tool_call_fields(call), "id": call.id or ""} for call in choice.tool_calls]
    reason = choice.finish_reason or ("tool_calls" if choice.tool_calls else "stop")
    return {**said, "index": choice.index, "message": message, "logprobs": choice.logprobs, "finish_reason": reason}
