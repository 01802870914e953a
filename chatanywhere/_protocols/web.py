"""The protocol of the original page's backend: raw text. No I/O."""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping, Sequence
from typing import Any

from .._types import Event, Messages
from .decoder import Decoder
from .head import AnswerHead
from .json_text import MAX_JSON
from .protocol import ChatProtocol, Endpoint
from .text import TextDecoder


def _page_headers(base_url: str, api_key: str | None) -> dict[str, str]:
    return {
        "User-Agent": "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/119.0",
        "Accept": "application/json, text/plain, */*",
        "Content-Type": "application/json",
        "Referer": f"{base_url}/",
        "Origin": base_url,
        "Authorization": "",
    }


def _decoder(head: AnswerHead, max_json: int = MAX_JSON) -> Decoder[Event]:
    return TextDecoder(head)


class WebProtocol(ChatProtocol):
    name = "web"
    base_urls = ("https://chatanywhere.cn",)
    default_model = "gpt-3.5-turbo"
    needs_key = False
    chat = Endpoint("POST", "/v1/chat/gpt/", _decoder, _page_headers, operation="chat")
    chats_only = True
    transient = ("id",)
    _site_ids: Mapping[str, str] = {"gpt-3.5-turbo": "61490748"}  # no other is known
    _id_characters = string.ascii_letters + string.digits + "-_"

    def body(self, messages: Messages, model: str, options: Mapping[str, Any]) -> dict[str, Any]:
        site_id = model if model.isascii() and model.isdigit() else self._site_ids.get(model)
        if site_id is None:
            known = ", ".join(map(repr, self._site_ids))
            raise ValueError(
                f"the web protocol does not know the model {model!r}; it knows {known} and the site's numeric ids. "
                "Other models need protocol='openai'"
            )
        return {
            "list": messages,
            "id": "".join(secrets.choice(self._id_characters) for _ in range(21)),
            "title": _text_of(messages[-1].get("content")),
            "prompt": "",
            "temperature": 0.5,
            "models": site_id,
            "continuous": True,
            **options,
        }


def _text_of(content: Any) -> str:
    """The text of a message's content, which may be a list of parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, Sequence) else ()
    return "".join(part["text"] for part in parts if isinstance(part, Mapping) and isinstance(part.get("text"), str))


PROTOCOL = WebProtocol()
