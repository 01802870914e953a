"""Says what was measured on what, and refuses where the comparison would not be fair."""

from __future__ import annotations

import importlib.metadata
import os
import platform

import urllib3


def describe(*peers: str) -> str:
    """The machine, Python, and the versions of the clients.

    Raises:
        RuntimeError: urllib3 has been replaced by its fork, which is slower.
    """
    if "future" in urllib3.__file__ or hasattr(urllib3, "AsyncHTTPConnectionPool"):
        raise RuntimeError("urllib3 has been replaced by urllib3-future: make a new environment")
    names = ("requests", "urllib3", "anyio", *peers)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores; {versions}."
