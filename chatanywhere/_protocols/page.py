"""Web pages and other documents that come in the place of an answer, and what they say. No I/O."""

from __future__ import annotations

from .excerpt import printable

MAX_PAGE = 64 * 1024
"""Characters of a page that are read."""


def is_page(text: str) -> bool:
    """Whether a text is a page, or XML, by its beginning."""
    return text[:1024].lstrip("\ufeff \t\r\n").startswith("<")


def page_summary(page: str) -> str:
    """Say what page it is, for an error: its title, and the beginning of its words."""
    title, words = _read_page(page)
    begin = page[:1024].lower()
    kind = "an XML document" if "<?xml" in begin and "<html" not in begin else "an HTML page"
    name = f", titled {title!r}" if title else ""
    said = f": {words}" if words and words != title else ""
    return f"the answer is {kind}{name}{said}"


def _read_page(page: str) -> tuple[str, str]:
    """The title and the words of a page, shortened. Takes linear time, whatever the page."""
    title, words = "", []
    inside = ""  # an element whose text is not the page's
    _, *tags = page[:MAX_PAGE].split("<")
    for part in tags:
        tag, _, text = part.partition(">")
        name = tag[:8].lower().lstrip("/").partition(" ")[0]
        if tag.startswith("/"):
            inside = "" if name == inside else inside
        elif name in ("title", "script", "style") and not inside:
            inside = name
        if inside == "title":
            title = title or text
        elif not inside and not tag.startswith("!--"):
            words.append(text)
    return _plain(title), _plain(" ".join(words))


def _plain(text: str) -> str:
    import html  # here and not above, for importing the client is to be cheap

    return printable(" ".join(html.unescape(text).split())[:200])
