"""Stream answers to a browser from Flask, as server-sent events.

    gunicorn --chdir examples/web --worker-class gthread --threads 100 flask_app:app

Needs a key in CHATANYWHERE_API_KEY. Open http://127.0.0.1:8000 and ask. It works with gevent's workers as well. The
client is made once, also with `--preload`; each process has connections of its own.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from pathlib import Path

from flask import Flask, Response, request

from chatanywhere import ChatAnywhereError, Client, Stream

PAGE = Path(__file__).with_name("page.html")
SILENCE = 0.4  # seconds after which the browser is sent something even if there is no text

app = Flask(__name__)
client = Client()


@app.get("/")
def page() -> str:
    """The form, and the script that shows the answer as it comes."""
    return PAGE.read_text(encoding="utf-8")


@app.get("/ask")
def ask() -> Response:
    """Answer as a stream of events. What fails before the answer begins has a status of its own."""
    try:
        stream = client.stream(request.args["question"])
    except ChatAnywhereError:
        app.logger.exception("no answer")
        return Response("The model can't be reached.", 502)
    return Response(events(stream), mimetype="text/event-stream")


def events(stream: Stream) -> Iterator[str]:
    """Yield the answer as events. When the browser has gone, this is closed, and leaving the block ends the call."""
    end = ""
    with stream:
        try:
            for text in with_pauses(stream):
                yield f"data: {json.dumps(text)}\n\n" if text else ": still thinking\n\n"
        except ChatAnywhereError:
            app.logger.exception("the answer broke off")
            end = " [the answer broke off]"
    yield f"event: end\ndata: {json.dumps(end)}\n\n"


def with_pauses(stream: Stream) -> Iterator[str]:
    """Yield the pieces of an answer, and `""` whenever there was none for a while.

    A server like gunicorn learns that a browser has gone when it writes to it. So it has to write.
    """
    pieces: queue.SimpleQueue[str | ChatAnywhereError | None] = queue.SimpleQueue()

    def read() -> None:
        try:
            for text in stream:
                pieces.put(text)
            pieces.put(None)
        except ChatAnywhereError as error:
            pieces.put(error)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            piece = pieces.get(timeout=SILENCE)
        except queue.Empty:
            piece = ""
        if piece is None:
            return
        if isinstance(piece, ChatAnywhereError):
            raise piece
        yield piece
