"""The public face, what importing it costs, and which file may know which."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import chatanywhere
from chatanywhere import (
    AsyncClient,
    AsyncConversation,
    AsyncRun,
    AsyncStream,
    AsyncToolStream,
    Client,
    Conversation,
    Run,
    Stream,
    ToolStream,
)
from chatanywhere._config import Settings

PACKAGE = Path(chatanywhere.__file__).parent

ANY = None
MAY_IMPORT: dict[str, str | None] = {
    "_errors": "_types _markdown",  # the first for type checkers
    "_types": "_markdown _merging _message",
    "_policy": "_errors",
    "_message": "",
    "_merging": "_message",
    "_markdown": "",
    "_accumulator": "_merging _types",
    "_secrets": "",
    "_http": "",
    "_http.head": "_errors",
    "_http.codings": "_errors",
    "_http.body": "_errors _http.codings",
    "_http.scope": "_errors _policy",
    "_http.sockets": "_http.scope",
    "_http.names": "_http.scope",
    "_http.dialing": "_policy _http.names _http.scope _http.sockets",
    "_http.connections": "_errors _policy _http.dialing _http.head _http.scope _http.sockets",
    "_http.socks": "_http.connections _http.names _http.scope _http.sockets",
    "_http.idle": "_http.connections _http.sockets",
    "_http.exchange": "_errors _http.body _http.connections _http.head _http.idle _http.scope _http.sockets",
    "_http.environment": "",
    "_http.form": "",
    "_http.transport": "_errors _secrets _http.connections _http.environment _http.exchange _http.idle _http.scope "
    "_http.sockets _http.socks",
    "_http.receiver": "_errors _http.exchange",
    "_protocols": "_protocols.protocol",
    "_protocols.json_body": "_types",
    "_protocols.json_text": "_errors",
    "_protocols.head": "",
    "_protocols.decoder": "",
    "_protocols.protocol": "_errors _types _protocols.decoder _protocols.excerpt _protocols.head _protocols.json_body "
    "_protocols.json_text _protocols.page _protocols.service",
    "_protocols.sse": "_errors",
    "_protocols.text": "_errors _types _protocols.decoder _protocols.excerpt _protocols.head _protocols.page",
    "_protocols.envelope": "_protocols.excerpt _protocols.json_text",
    "_protocols.excerpt": "",
    "_protocols.page": "_protocols.excerpt",
    "_protocols.service": "_errors _protocols.decoder _protocols.envelope _protocols.excerpt _protocols.head "
    "_protocols.json_text _protocols.page _protocols.sse",
    "_protocols.fields": "_errors _types _protocols.excerpt",
    "_protocols.template": "_protocols.fields _protocols.json_text",
    "_protocols.chunks": "_errors _merging _message _types _protocols.excerpt _protocols.fields "
    "_protocols.head _protocols.json_text _protocols.service _protocols.sse _protocols.template",
    "_protocols.openai": "_errors _types _protocols.chunks _protocols.decoder _protocols.excerpt _protocols.head "
    "_protocols.json_text _protocols.protocol _protocols.sse _protocols.text",
    "_protocols.web": "_types _protocols.decoder _protocols.head _protocols.json_text _protocols.protocol "
    "_protocols.text",
    "_observe": "_policy _types",
    "_config": "_errors _observe _policy _secrets _http.environment _protocols _protocols.protocol _protocols.service",
    "_reading": "_errors _http.body _protocols.decoder _protocols.service",
    "_schema": "_errors _types",
    "_hosts": "",
    "_call": "_errors _policy _secrets _config _hosts _reading _schema _http.exchange _http.scope _http.transport "
    "_protocols.head _protocols.json_body _protocols.protocol _protocols.service",
    "_watched": "_errors _types _accumulator _secrets _config _hosts _observe _call _http.exchange _http.transport "
    "_protocols.fields _protocols.protocol",
    "_service": "_types _policy _secrets _config _hosts _call _watched _schema _http.transport _protocols.json_body "
    "_protocols.protocol",
    "_stream": "_errors _types _policy _accumulator _http.exchange _call",
    "_group": "_errors _policy _http.scope _call",
    "_account": "_errors _markdown _policy _protocols.decoder _protocols.fields _protocols.protocol _service _group",
    "_embeddings": "_errors _markdown _types _policy _protocols.fields _protocols.head _protocols.protocol _service "
    "_group",
    "_picture": "",
    "_request": "_policy _http.form _protocols.decoder _protocols.head _protocols.json_body _protocols.json_text "
    "_protocols.protocol _config _call _service",
    # The one before the last in as_async().
    "_client": "_types _policy _config _service _stream _account _conversation.conversation _embeddings "
    "_request _tools _batch.limits _batch.progress _batch.run _async_client typing",
    "_async_client": "_errors _types _policy _config _call _service _group _stream _account "
    "_conversation.async_conversation _embeddings "
    "_request _tools _batch.async_run _batch.limits _batch.progress _batch.run _http.exchange _http.receiver "
    "_http.scope typing",
    "_tools": "_errors _types _policy _schema _stream _client _async_client _protocols.protocol",
    "_attachment": "_picture",
    "_conversation": "",
    "_conversation.seam": "",
    "_conversation.transcript": "",
    "_conversation.message": "_types _attachment _message _protocols.json_body _protocols.protocol",
    "_conversation.options": "_conversation.message",
    "_conversation.turn": "_errors _types _config _schema _stream _async_client _tools _conversation.message "
    "_conversation.options _conversation.seam _protocols.json_body",
    "_conversation.history": "_types _message _conversation.message _conversation.turn",
    "_conversation.turns": "_errors _types _stream _async_client _conversation.history _conversation.message "
    "_conversation.turn",
    "_conversation.conversation": "_types _config _stream _client _async_client _attachment _markdown "
    "_conversation.history _conversation.message _conversation.options _conversation.transcript _conversation.turn "
    "_conversation.turns",
    "_conversation.async_conversation": "_types _config _async_client _attachment _conversation.conversation "
    "_conversation.turn",
    "_batch": "",
    "_batch.limits": "",
    "_batch.gate": "",
    "_batch.result": "_types",
    "_batch.progress": "_errors _types _batch.result",
    "_batch.trouble": "_errors",
    "_batch.record": "_errors _types",
    "_batch.lock": "",
    "_batch.journal": "_batch.limits _batch.lock",
    "_batch.asker": "_errors _types _policy _config _call _service _stream _http.scope _protocols.protocol "
    "_protocols.service",
    "_batch.dask": "_errors _types _policy _config _service _batch.asker _http.scope",
    "_batch.engine": "_errors _types _http.scope _batch.asker _batch.gate _batch.limits _batch.progress _batch.result "
    "_batch.trouble",
    "_batch.runner": "_errors _types _policy _batch.asker _batch.engine _batch.journal _batch.progress _batch.record "
    "_batch.result",
    "_batch.run": "_types _policy _service _batch.asker _batch.dask _batch.runner _batch.engine _batch.journal "
    "_batch.limits _batch.progress _batch.result",
    "_batch.async_run": "_types _http.receiver _batch.runner _batch.result _batch.run",
    "typing": "_types",
    "openai": "_errors _policy openai.client openai.errors openai.events openai.model openai.parsing openai.request "
    "openai.resources openai.stream openai.types",
    "openai.errors": "_errors",
    "openai.model": "",
    "openai.types": "openai.model",
    "openai.request": "_policy _types typing openai.errors openai.model",
    "openai.reading": "_errors _types openai.errors openai.model openai.types",
    "openai.parsing": "_schema openai.errors openai.request openai.types",
    "openai.events": "_message openai.model openai.parsing openai.request openai.types",
    # The first two for type checkers, as the client is for the calls.
    "openai.stream": "_async_client _stream _errors openai.errors openai.events openai.parsing openai.types",
    "openai.resources": "_config typing openai.client openai.errors openai.parsing openai.reading openai.request "
    "openai.stream openai.types",
    "openai.client": "_client _async_client _config _policy _request openai.errors openai.reading openai.request "
    "openai.resources openai.stream openai.types",
    "provider": "_types _protocols _account _config _call _service _stream _async_client typing",
    "testing": "testing.server testing.request testing.replies testing.faults",
    "testing.writer": "",
    "testing.faults": "testing.writer",
    "testing.redaction": "testing.request",
    "testing.matching": "testing.redaction testing.request",
    "testing.recording": "testing.matching testing.writer",
    "testing.forwarding": "testing.matching testing.request testing.writer",
    "testing.recorder": "testing.faults testing.forwarding testing.matching testing.recording testing.redaction "
    "testing.request testing.writer",
    "testing.replies": "testing.faults",
    "testing.request": "testing.writer",
    "testing.schema": "",
    "testing.pattern": "",
    "testing.instances": "testing.pattern testing.schema",
    "testing.options": "testing.request testing.schema",
    "testing.talker": "testing.instances testing.options testing.replies testing.request",
    "testing.completions": "testing.options testing.replies testing.request testing.writer",
    "testing.prompts": "testing.completions testing.options testing.replies testing.request testing.writer",
    "testing.embeddings": "testing.options testing.replies testing.request testing.writer",
    "testing.account": "testing.request",
    "testing.routes": "testing.account testing.completions testing.embeddings testing.faults testing.options "
    "testing.replies testing.request testing.talker testing.prompts testing.writer",
    "testing.server": "testing.faults testing.recorder testing.replies testing.request testing.routes testing.writer",
    "_store": "_store.answer _store.database _store.message",
    "_store.answer": "_store.database _store.message",
    "_store.message": "",
    "_store.database": "",
    "cli": ANY,
    **{
        f"cli.{name}": ANY
        for name in ("account", "answer", "ask", "batch", "branch", "chat", "config", "demo", "failures")
    },
    **{
        f"cli.{name}": ANY
        for name in ("history", "markdown", "options", "paragraph", "printing", "serve", "signals", "talk")
    },
    **{f"cli.batch.{name}": ANY for name in ("input", "job", "line", "output")},
    "notebook": "_attachment _errors _markdown cli cli.answer cli.failures cli.options cli.printing cli.talk",
    "otel": ". _errors _observe _types",
    "": ANY,
    "__main__": ANY,
}
"""By dotted names below `chatanywhere`; `""` is the package itself, which a row calls `.` (it has the version)."""

LIBRARIES: dict[str, set[str]] = {
    "tenacity": {"_policy"},
    "anyio": {"_async_client", "_tools", "_batch.async_run", "_http.receiver"},
    "trio": {"_http.receiver"},  # only where it is running already
    "pydantic": {"_schema"},
    "pydantic_core": {"_schema"},
    # For type checkers.
    "typing_extensions": {
        *("_types", "_stream", "_client", "_async_client", "_conversation.conversation"),
        *("openai.client", "openai.resources"),
    },
    "requests": {"_http.environment", "_http.transport"},
    "urllib3": {"_http.connections", "_http.form", "_http.transport"},
    "opentelemetry": {"otel"},
    "distributed": {"_client", "_async_client", "_batch.dask", "_batch.run"},  # all but one for type checkers
    "cloudpickle": {"_batch.dask"},  # which distributed comes with
    "tqdm": {"_batch.progress"},  # only where a bar is asked for
    "numpy": {"_embeddings"},  # only where its arrays are asked for
    "socks": {"_http.environment", "_http.socks"},  # the first looks whether it is there
    "platformdirs": {"_store.database"},
    "IPython": {"", "notebook"},  # the first for type checkers
    "rich": {"cli.markdown", "cli.paragraph"},
    "markdown_it": {"cli.markdown", "cli.paragraph"},  # which rich comes with
    "prompt_toolkit": {"cli.chat"},
}

FILES = {
    ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix("."): file
    for file in PACKAGE.rglob("*.py")
}
"""The package's files by their dotted names."""


def imports(name: str) -> tuple[set[str], set[str]]:
    """The files of the package, and the libraries, that a file imports anywhere in it."""
    ours: set[str] = set()
    others: set[str] = set()
    file = FILES[name]
    package = file.parent.relative_to(PACKAGE.parent).parts
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        modules: list[str] = []
        if isinstance(node, ast.ImportFrom):
            base = (*package[: len(package) + 1 - node.level],) if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            submodules = [f"{module}.{alias.name}" for alias in node.names]
            found = [each for each in submodules if each.partition(".")[2] in FILES]
            modules = found or [module]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        for module in modules:
            first, _, rest = module.partition(".")
            if first == "chatanywhere":
                ours.add(rest)
            else:
                others.add(first)
    return ours, others


def test_all_is_what_there_is() -> None:
    """`__all__`, dir() and what can be imported are the same names."""
    assert sorted(chatanywhere.__all__) == chatanywhere.__all__ == dir(chatanywhere)
    assert all(getattr(chatanywhere, name) for name in chatanywhere.__all__)
    loaded = {
        name
        for name, value in vars(chatanywhere).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name not in ("annotations", "TYPE_CHECKING")
    } - {"load_ipython_extension", "unload_ipython_extension"}  # which IPython looks for
    assert loaded | {"__version__"} == set(chatanywhere.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = chatanywhere.no_such_name


def test_importing_the_client_imports_no_more_than_it_needs() -> None:
    """Nothing that only some programs use is loaded for all of them."""
    unwanted = ["anyio", "tenacity", "argparse", "asyncio", "concurrent.futures", "chatanywhere.testing"]
    unwanted += ["IPython", "opentelemetry", "pydantic"]
    unwanted += [f"chatanywhere.{name}" for name in ("_conversation", "_observe", "_schema", "_tools", "_watched")]
    unwanted += ["chatanywhere._batch", "chatanywhere._store"]
    code = f"import sys; from chatanywhere import Client; print(*set({unwanted}) & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_importing_the_package_imports_none_of_its_lazy_files() -> None:
    """`import chatanywhere` loads neither the async face nor the loopback server, and their names still work."""
    code = (
        "import sys, chatanywhere\n"
        "lazy = ['_async_client', 'testing', 'testing.faults', 'testing.talker', 'cli', '_http.socks']\n"
        "lazy = [f'chatanywhere.{name}' for name in lazy]\n"
        "print(*[name for name in lazy if name in sys.modules])\n"
        "from chatanywhere import *\n"
        "print(*[name for name in chatanywhere.__all__ if name not in globals()])\n"
        "print(AsyncClient.__name__, AsyncStream.__name__)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == "\n\nAsyncClient AsyncStream\n"


def test_the_package_needs_no_library_but_those_it_names() -> None:
    """Every import is the package's own, the standard library's, or one of the table's."""
    used = set().union(*(imports(name)[1] for name in FILES))
    assert used - set(sys.stdlib_module_names) == set(LIBRARIES)


def test_every_file_has_its_row() -> None:
    """The table of imports names the files that there are, and no others."""
    assert set(MAY_IMPORT) == set(FILES)


@pytest.mark.parametrize("name", sorted(FILES))
def test_imports_point_one_way(name: str) -> None:
    """Each file imports only those that it may know, and each library has its file."""
    ours, others = imports(name)
    allowed = MAY_IMPORT[name]
    if allowed is not ANY:
        assert {each or "." for each in ours} <= set(allowed.split())
    for library, files in LIBRARIES.items():
        assert library not in others or name in files


def test_no_two_classes_share_a_name() -> None:
    """A name means one thing in the whole package."""
    names = [
        node.name
        for file in FILES.values()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]
    assert [name for name, count in Counter(name.lstrip("_") for name in names).items() if count > 1] == []


ONLY_BLOCKING: dict[str, dict[str, str]] = {
    "Client": {"as_async": "it is async already"},
    "Conversation": {},
    "Run": {},
    "Stream": {},
    "ToolStream": {},
}
ONLY_ASYNC = {
    "AsyncClient": {"aclose": "it is close there; here it has both names"},
    "AsyncConversation": {},
    "AsyncRun": {"aclose": "it is close there; here it has both names"},
    "AsyncStream": {"aclose": "it is close there; here it has both names"},
    "AsyncToolStream": {"aclose": "it is close there; here it has both names"},
}


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


FACES = [
    (Client, AsyncClient),
    (Conversation, AsyncConversation),
    (Run, AsyncRun),
    (Stream, AsyncStream),
    (ToolStream, AsyncToolStream),
]


@pytest.mark.parametrize(("blocking", "asynchronous"), FACES)
def test_both_faces_have_the_same_names(blocking: type, asynchronous: type) -> None:
    """What can be done with one can be done with the other; each exception has its reason."""
    assert public(blocking) - public(asynchronous) == set(ONLY_BLOCKING[blocking.__name__])
    assert public(asynchronous) - public(blocking) == set(ONLY_ASYNC[asynchronous.__name__])


def signature(function: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


SHARED = [
    pytest.param(blocking, asynchronous, name, id=f"{blocking.__name__}.{name}")
    for blocking, asynchronous in FACES
    for name in sorted(public(blocking) & public(asynchronous))
]


@pytest.mark.parametrize(("blocking", "asynchronous", "name"), SHARED)
def test_both_faces_are_used_the_same_way(blocking: type, asynchronous: type, name: str) -> None:
    """A method takes the same arguments and has the same defaults; an attribute is one on both."""
    ours, theirs = getattr(blocking, name), getattr(asynchronous, name)
    assert isinstance(ours, property) is isinstance(theirs, property)
    if not isinstance(ours, property):
        assert signature(ours) == signature(theirs)


def test_both_clients_are_made_the_same_way() -> None:
    """The async client takes what the blocking one takes, and max_threads; the settings have the same defaults."""
    blocking, asynchronous = signature(Client), signature(AsyncClient)
    assert asynchronous.pop("max_threads").default == 40
    assert asynchronous == blocking
    defaults = {name: parameter.default for name, parameter in blocking.items()}
    assert {name: parameter.default for name, parameter in signature(Settings).items()} == defaults
