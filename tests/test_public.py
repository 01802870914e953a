"""The public face, what importing it costs, and which file may know which."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import chatanywhere
from chatanywhere import AsyncClient, AsyncStream, Client, Stream

PACKAGE = Path(chatanywhere.__file__).parent

ANY = None
MAY_IMPORT: dict[str, str | None] = {
    "_errors": "",
    "_types": "",
    "_sse": "",
    "_talker": "",
    "_faults": "",
    "_policy": "_errors",
    "_body": "_errors",
    "_wire": "_errors _types _sse",
    "_exchange": "_errors _policy",
    "_socks": "_exchange",
    "_transport": "_errors _body _exchange _socks",
    "_reply": "_errors _types _body _wire",
    "_call": "_errors _policy _wire _exchange _transport",
    "_stream": "_errors _types _reply _transport _call",
    "_client": "_errors _types _policy _wire _transport _call _stream _aio",  # the last for as_async() only
    "_receiver": "_errors _transport",
    "_aio": "_errors _types _policy _exchange _transport _call _stream _client _receiver",
    "typing": "_types",
    "provider": "_types _wire _client _aio typing",
    "testing": "_talker _faults",
    "cli": ANY,
    "__init__": ANY,
    "__main__": ANY,
}

LIBRARIES: dict[str, set[str]] = {
    "tenacity": {"_policy"},
    "anyio": {"_aio", "_receiver"},
    "trio": {"_receiver"},  # only where it is running already
    "requests": {"_transport"},
    "urllib3": {"_exchange", "_transport"},
    "msgspec": {"_wire"},
    "orjson": {"_wire"},
    "socks": {"_socks", "_transport"},  # the second looks whether it is there
}


def imports(file: Path) -> tuple[set[str], set[str]]:
    """The files of the package, and the libraries, that a file imports anywhere in it."""
    ours: set[str] = set()
    others: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            ours |= {node.module} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, (ast.ImportFrom, ast.Import)):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for module in modules:
                first, _, rest = module.partition(".")
                if first == "chatanywhere":  # the same file by its long name
                    ours.add(rest or "__init__")
                else:
                    others.add(first)
    return ours, others


def test_all_is_what_there_is() -> None:
    """`__all__`, dir() and what can be imported are the same names."""
    loaded = {
        name
        for name, value in vars(chatanywhere).items()
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and name not in ("annotations", "Any", "TYPE_CHECKING")
    }
    assert sorted(chatanywhere.__all__) == chatanywhere.__all__ == dir(chatanywhere)
    assert loaded | {"AsyncClient", "AsyncStream", "__version__"} == set(chatanywhere.__all__)
    assert all(getattr(chatanywhere, name) for name in chatanywhere.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = chatanywhere.no_such_name


def test_importing_the_client_imports_no_more_than_it_needs() -> None:
    """Nothing that only some programs use is loaded for all of them."""
    unwanted = ["anyio", "tenacity", "argparse", "asyncio", "concurrent.futures", "chatanywhere.testing"]
    unwanted += ["msgspec", "orjson", "IPython"]
    code = f"import sys; from chatanywhere import Client; print(*set({unwanted}) & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_importing_the_package_imports_none_of_its_lazy_files() -> None:
    """`import chatanywhere` loads neither the async face nor the loopback server, and their names still work."""
    code = (
        "import sys, chatanywhere\n"
        "lazy = ['chatanywhere._aio', 'chatanywhere.testing', 'chatanywhere._faults', 'chatanywhere._talker',\n"
        "        'chatanywhere.cli', 'chatanywhere._socks']\n"
        "print(*[name for name in lazy if name in sys.modules])\n"
        "from chatanywhere import *\n"
        "print(*[name for name in chatanywhere.__all__ if name not in globals()])\n"
        "print(AsyncClient.__name__, AsyncStream.__name__)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == "\n\nAsyncClient AsyncStream\n"


@pytest.mark.skipif(sys.version_info < (3, 10), reason="sys.stdlib_module_names is new in 3.10")
def test_the_package_needs_no_library_but_those_it_names() -> None:
    """Every import is the package's own, the standard library's, or one of the table's."""
    used = set().union(*(imports(file)[1] for file in PACKAGE.glob("*.py")))
    assert used - set(sys.stdlib_module_names) == set(LIBRARIES)


def test_every_file_has_its_row() -> None:
    """The table of imports names the files that there are, and no others."""
    assert set(MAY_IMPORT) == {file.stem for file in PACKAGE.glob("*.py")}


@pytest.mark.parametrize("file", sorted(PACKAGE.glob("*.py")), ids=lambda file: file.stem)
def test_imports_point_one_way(file: Path) -> None:
    """Each file imports only those that it may know, and each library has its file."""
    ours, others = imports(file)
    allowed = MAY_IMPORT[file.stem]
    if allowed is not ANY:
        assert ours <= set(allowed.split())
    for library, files in LIBRARIES.items():
        assert library not in others or file.stem in files


ONLY_BLOCKING = {
    "Client": {"close": "it is aclose there", "as_async": "it is async already"},
    "Stream": {"close": "it is aclose there"},
}
ONLY_ASYNC = {
    "AsyncClient": {"aclose": "it is close there", "from_sync": "it makes an async client of a blocking one"},
    "AsyncStream": {"aclose": "it is close there"},
}


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


@pytest.mark.parametrize(("blocking", "asynchronous"), [(Client, AsyncClient), (Stream, AsyncStream)])
def test_both_faces_have_the_same_names(blocking: type, asynchronous: type) -> None:
    """What can be done with one can be done with the other; each exception has its reason."""
    assert public(blocking) - public(asynchronous) == set(ONLY_BLOCKING[blocking.__name__])
    assert public(asynchronous) - public(blocking) == set(ONLY_ASYNC[asynchronous.__name__])


@pytest.mark.parametrize("method", ["stream", "complete"])
def test_both_faces_take_the_same_arguments(method: str) -> None:
    """A call is written the same way."""
    blocking, asynchronous = (inspect.signature(getattr(kind, method)) for kind in (Client, AsyncClient))
    assert blocking.parameters == asynchronous.parameters
