"""Forms with files in them, multipart/form-data (RFC 7578). No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from urllib3.filepost import encode_multipart_formdata


def encode_form(
    fields: Sequence[tuple[str, str]], files: Sequence[tuple[str, tuple[str, bytes, str | None]]]
) -> tuple[bytes, str]:
    """Return a form as it is sent, and its `Content-Type`.

    Args:
        fields: names and values.
        files: names of fields, each with the file's name, its content, and its media type if that is not to be guessed
            from the name.

    Raises:
        ValueError: a text has half a character.
    """
    whole: list[Any] = list(fields)
    for field, (name, content, media_type) in files:
        whole.append((field, (name, content) if media_type is None else (name, content, media_type)))
    return encode_multipart_formdata(whole)
