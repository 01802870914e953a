"""Makes a site of the documents, which are written to be read on GitHub: `mkdocs.yml` names this file.

Documents outside `docs/` become pages, links lead to pages where there are some and to GitHub else, the reference is
made of the public names, and a page that loads anything from elsewhere is refused.
"""

from __future__ import annotations

import posixpath
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

import chatanywhere
import chatanywhere.openai
import chatanywhere.testing
import chatanywhere.typing

ROOT = Path(__file__).parent
HOME = "https://github.com/chatanywhere/chatanywhere-python"

MOVED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/RESULTS.md": "benchmarks/results.md",
    "benchmarks/ASYNC.md": "benchmarks/async.md",
    "benchmarks/BATCH.md": "benchmarks/batch.md",
    "benchmarks/results.png": "benchmarks/results.png",
}
"""Where files of the repository are on the site; those in `docs/` are at its root."""

_OF_OPENAI = [
    name
    for name, value in vars(chatanywhere.openai).items()
    if name in chatanywhere.openai.__all__ and getattr(value, "__module__", "").startswith("chatanywhere.openai")
]
"""What `chatanywhere.openai` does not have from elsewhere."""

REFERENCE: dict[str, tuple[str, list[str]]] = {
    "clients": ("Clients", ["Client", "AsyncClient"]),
    "conversations": ("Conversations", ["Conversation", "AsyncConversation", "Turn"]),
    "batches": ("Many prompts", ["Limits", "Result", "Run", "AsyncRun", "Progress"]),
    "streams": ("Streams", ["Stream", "AsyncStream", "ToolStream", "AsyncToolStream"]),
    "answers": (
        "Answers",
        ["Completion", "Choice", "ToolCall", "Usage", "ToolRun", "Embeddings", "Balance", "UsageRecord", "RawResponse"],
    ),
    "events": (
        "Events",
        ["Started", "TextDelta", "ReasoningDelta", "RefusalDelta", "ToolCallDelta", "Finished", "Extra", "ToolStarted",
         "ToolFinished"],
    ),
    "limits": ("Time limits and retries", ["Timeout", "Retry"]),
    "types": (
        "Messages and types",
        ["typing", "image", *(f"typing.{name}" for name in chatanywhere.typing.__all__), "_attachment.FileLike",
         "_config.Model", "_config.Url", "_picture.Picture", "_policy.RetryLike", "_policy.TimeoutLike",
         "_request.Files", "_types.ResponseFormat"],
    ),
    "watching": ("Watching calls", ["Observer", "CallView", "otel", "otel.Tracing"]),
    "testing": (
        "Testing",
        ["testing", *(f"testing.{name}" for name in chatanywhere.testing.__all__), "testing.replies.ReplyLike",
         *(f"/pytest_chatanywhere{name}"
           for name in ("", ".chatanywhere_server", ".chatanywhere_client", ".chatanywhere_async_client"))],
    ),
    "openai": (
        "OpenAI's names",
        ["openai", "openai.OpenAI", "openai.AsyncOpenAI",
         *(f"openai.resources.{kind}{name}" for kind in ("", "Async")
           for name in ("ChatCompletions", "EmbeddingCalls", "Models")),
         *(f"openai.{name}" for name in _OF_OPENAI if name not in ("OpenAI", "AsyncOpenAI"))],
    ),
    "providers": ("g4f providers", ["provider", "ChatAnywhere", "ChatAnywhereAPI", "AsyncGeneratorProvider"]),
}  # fmt: skip
"""Pages of the reference: title, and what is described, which is in the package, or behind a slash. Errors have their
own.
"""

OPTIONS = {
    **dict.fromkeys(
        ["openai", "otel", "provider", "testing", "typing", "/pytest_chatanywhere"],
        "{members: false, show_root_heading: false}",  # the names of a module have descriptions of their own
    ),
    **dict.fromkeys(["openai.OpenAI", "openai.AsyncOpenAI"], "{inherited_members: true}"),
    "typing.ChatOptions": "{show_source: true}",
}
"""How some of it is described otherwise."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in `docs/`."""
    for origin, place in MOVED.items():
        files.append(File.generated(config, place, content=(ROOT / origin).read_bytes()))
    for place, text in reference().items():
        files.append(File.generated(config, place, content=text))
    return files


def reference() -> dict[str, str]:
    """Return the pages of the reference, by their places.

    Raises:
        PluginError: a public name is in none.
    """
    names = {name for name in chatanywhere.__all__ if not name.startswith("__")}
    tree = chatanywhere.ChatAnywhereError
    errors = [
        each for name in names if isinstance(each := getattr(chatanywhere, name), type) and issubclass(each, tree)
    ]
    errors.sort(key=lambda each: (len(each.__mro__), each.__name__))
    pages = {**REFERENCE, "errors": ("Errors", [each.__name__ for each in errors])}
    missing = names.difference(*(group for _, group in pages.values()))
    if missing:
        raise PluginError(f"in none of the pages of the reference: {sorted(missing)}")
    return {
        f"reference/{place}.md": "\n\n".join([f"# {title}", *map(_described, group)])
        for place, (title, group) in pages.items()
    }


def _described(name: str) -> str:
    """Return what mkdocstrings makes a description of."""
    path = name[1:] if name.startswith("/") else f"chatanywhere.{name}"
    return f"::: {path}" + (f"\n    options: {OPTIONS[name]}" if name in OPTIONS else "")


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Let links lead to pages of the site, and to GitHub where there is none."""
    place = page.file.src_uri
    origins = {there: origin for origin, there in MOVED.items()}
    folder = posixpath.dirname(origins.get(place, f"docs/{place}"))

    def link(found: re.Match[str]) -> str:
        target, hash_sign, anchor = found[1].partition("#")
        if inside := re.fullmatch(rf"{HOME}/(?:blob|raw|tree)/main/(.*)", target):
            origin = inside[1]
        elif "://" in target or target.startswith("mailto:") or not target:
            return found[0]
        else:
            origin = posixpath.normpath(posixpath.join(folder, target))
        there = MOVED.get(origin, origin.removeprefix("docs/"))
        if (origin in MOVED or origin.startswith("docs/")) and files.get_file_from_path(there) is not None:
            target = posixpath.relpath(there, posixpath.dirname(place) or ".")
        else:
            target = f"{HOME}/{'tree' if (ROOT / origin).is_dir() else 'blob'}/main/{origin}"
        return f"]({target}{hash_sign}{anchor})"

    texts_and_blocks = re.split(r"(?ms)(^```.*?^```$)", markdown)
    texts_and_blocks[::2] = [re.sub(r"\]\(([^)\s]+)\)", link, text) for text in texts_and_blocks[::2]]
    return "".join(texts_and_blocks)


class _Loaded(HTMLParser):
    """What a browser loads to show a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.urls += [values.get("src") or "", values.get("srcset") or ""]
        if tag == "link" and values.get("rel") not in ("canonical", "prev", "next"):
            self.urls.append(values.get("href") or "")


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuse a page that loads anything from elsewhere.

    Raises:
        PluginError: it does.
    """
    elsewhere = [url for url in _Loaded(output).urls if "//" in url]
    if elsewhere:
        raise PluginError(f"{page.file.src_uri} loads {elsewhere}")
    return output
