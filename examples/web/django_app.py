"""Stream answers to a browser from Django, as server-sent events, in one file.

    gunicorn --chdir examples/web --worker-class gthread --threads 100 django_app:application

Needs a key in CHATANYWHERE_API_KEY. Open http://127.0.0.1:8000 and ask. It works with gevent's workers as well. The
client is made once, also with `--preload`; each process has connections of its own.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.urls import path

from chatanywhere import ChatAnywhereError, Client, Stream

PAGE = Path(__file__).with_name("page.html")

logger = logging.getLogger(__name__)
client = Client()


def page(request: HttpRequest) -> HttpResponse:
    """The form, and the script that shows the answer as it comes."""
    return HttpResponse(PAGE.read_text(encoding="utf-8"))


def ask(request: HttpRequest) -> HttpResponseBase:
    """Answer as a stream of events. What fails before the answer begins has a status of its own."""
    try:
        stream = client.stream(request.GET.get("question", ""))
    except ChatAnywhereError:
        logger.exception("no answer")
        return HttpResponse("The model can't be reached.", status=502)
    return StreamingHttpResponse(events(stream), content_type="text/event-stream")


def events(stream: Stream) -> Iterator[str]:
    """Yield the answer as events. When the browser has gone, this is closed, and leaving the block ends the call."""
    end = ""
    with stream:
        try:
            for text in stream:
                yield f"data: {json.dumps(text)}\n\n"
        except ChatAnywhereError:
            logger.exception("the answer broke off")
            end = " [the answer broke off]"
    yield f"event: end\ndata: {json.dumps(end)}\n\n"


urlpatterns = [path("", page), path("ask", ask)]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["127.0.0.1", "localhost"], SECRET_KEY=secrets.token_hex())
application = get_wsgi_application()
