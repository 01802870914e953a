"""`config`: what is set, and where."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .options import add_connection
from .printing import one_line

if TYPE_CHECKING:
    from .._config import Settings


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("config", help="show the settings, and where each comes from")
    parser.set_defaults(command=_config)
    add_connection(parser)


def _config(arguments: argparse.Namespace) -> int:
    from .. import Timeout
    from .._config import Settings
    from .._secrets import without_secrets

    settings = Settings(
        base_url=arguments.base_url,
        protocol=arguments.protocol,
        proxy=arguments.proxy,
        timeout=Timeout() if arguments.timeout is None else Timeout(total=arguments.timeout),
    )
    hosts = ", ".join(without_secrets(host) for host in settings.hosts)
    rows = [
        ("key", masked(settings.key) if settings.wire.needs_key else "(not sent)", _key_source(settings)),
        ("base URL", hosts, _host_source(settings)),
        ("protocol", settings.protocol, "--protocol" if settings.protocol != "openai" else "default"),
        ("model", settings.models[0], "CHATANYWHERE_MODEL" if _is_set("CHATANYWHERE_MODEL") else "default"),
        (
            "timeout",
            f"{Timeout.of(settings.timeout).total:g} s",
            "default" if arguments.timeout is None else "--timeout",
        ),
        ("proxy", *_proxy(settings)),
        ("history", *_history()),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for name, value, source in rows:
        print(f"{name:{widths[0]}}  {one_line(value):{widths[1]}}  {source}".rstrip())
    return 0


def masked(key: str | None) -> str:
    """Return a key as it may be seen: enough of a long one to tell it from another."""
    if key is None:
        return "(none)"
    return f"{key[:3]}…{key[-4:]}" if len(key) >= 20 else "***"


def _is_set(name: str) -> bool:
    from .._config import variable

    return variable(name) is not None


def _key_source(settings: Settings) -> str:
    if not settings.wire.needs_key:
        return f"--protocol {settings.protocol}"
    if settings.key is None:
        return "set CHATANYWHERE_API_KEY"
    return "CHATANYWHERE_API_KEY" if _is_set("CHATANYWHERE_API_KEY") else "OPENAI_API_KEY"


def _host_source(settings: Settings) -> str:
    from .._config import their_variable

    if settings.base_url:
        return "--base-url"
    if _is_set("CHATANYWHERE_BASE_URL"):
        return "CHATANYWHERE_BASE_URL"
    if settings.hosts == type(settings)(base_url=settings.wire.base_urls, protocol=settings.protocol).hosts:
        return "default"
    return their_variable()


def _proxy(settings: Settings) -> tuple[str, str]:
    from .._http.environment import environment_proxy
    from .._secrets import without_secrets

    if settings.proxy is not None:
        return without_secrets(settings.proxy) or "(none)", "--proxy"
    found = environment_proxy(settings.hosts[0])
    return ("(none)", "default") if found is None else (without_secrets(found), "environment")


def _history() -> tuple[str, str]:
    from .._store import StoreError, history_path

    source = "CHATANYWHERE_HISTORY" if _is_set("CHATANYWHERE_HISTORY") else "default"
    try:
        path = history_path()
    except StoreError as error:
        return "off", str(error)
    return ("off" if path is None else str(path)), source
