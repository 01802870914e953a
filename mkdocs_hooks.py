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
import chatanywhere.testing

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

REFERENCE: dict[str, tuple[str, list[str]]] = {
    "clients": ("Clients", ["Client", "AsyncClient"]),
    "conversations": ("Conversations", ["Conversation", "AsyncConversation"]),
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
}  # fmt: skip
"""Pages of the reference: title and public names. Errors have a page of their own, and so has what is left."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in `docs/`."""
    for origin, place in MOVED.items():
        files.append(File.generated(config, place, content=(ROOT / origin).read_bytes()))
    for place, text in reference().items():
        files.append(File.generated(config, place, content=text))
    return files


def reference() -> dict[str, str]:
    """Return the pages of the reference, by their places."""
    names = [name for name in chatanywhere.__all__ if not name.startswith("__")]
    tree = chatanywhere.ChatAnywhereError
    errors = [
        name for name in names if isinstance(value := getattr(chatanywhere, name), type) and issubclass(value, tree)
    ]
    errors.sort(key=lambda name: len(getattr(chatanywhere, name).__mro__))
    known = {*errors, *(name for _, group in REFERENCE.values() for name in group)}
    pages = {
        **REFERENCE,
        "errors": ("Errors", errors),
        "further": ("Further names", [name for name in names if name not in known]),
    }
    written = {place: (title, [f"chatanywhere.{name}" for name in group]) for place, (title, group) in pages.items()}
    written["testing"] = ("Testing", [f"chatanywhere.testing.{name}" for name in chatanywhere.testing.__all__])
    return {
        f"reference/{place}.md": "\n\n".join([f"# {title}", *(f"::: {name}" for name in group)])
        for place, (title, group) in written.items()
    }


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
