"""Takes samples, and says on what. Every sample has a process of its own, and so has the server."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import urllib3
from server import Address, serving

HERE = Path(__file__).parent


class Case(NamedTuple):
    """What is sampled: the arguments of `sample.py`, and the part of the server's path that says what it answers."""

    how: str
    client: str
    path: str
    options: tuple[str, ...] = ()
    tls: bool = False


Samples = dict[Case, list[dict[str, float]]]


def sample(case: Case, server: Address) -> str:
    url, trusted = server.http, {}
    if case.tls:  # requests, and this package, go by the one variable, httpx by the other
        url, trusted = server.https, {"REQUESTS_CA_BUNDLE": server.ca, "SSL_CERT_FILE": server.ca}
    command = [sys.executable, str(HERE / "sample.py"), case.how, case.client, f"{url}/{case.path}", *case.options]
    done = subprocess.run(command, env=os.environ | trusted, stdout=subprocess.PIPE, text=True, timeout=120, check=True)
    return done.stdout


def measure(cases: Sequence[Case], rounds: int) -> Samples:
    """Take a sample of each case in turn, and again, so that a busy moment of the machine hits all of them."""
    samples = defaultdict(list)
    with serving() as server:
        for number in range(rounds):
            for case in dict.fromkeys(cases):
                print(f"round {number + 1} of {rounds}:", *case, file=sys.stderr)
                samples[case].append(json.loads(sample(case, server)))
    return samples


def median(samples: Samples, case: Case, key: str = "value") -> float:
    return statistics.median(taken[key] for taken in samples[case])


def describe(*peers: str) -> str:
    """The machine, Python, and the versions of the clients.

    Raises:
        RuntimeError: urllib3 has been replaced by its fork, which is slower.
    """
    if "future" in urllib3.__file__ or hasattr(urllib3, "AsyncHTTPConnectionPool"):
        raise RuntimeError("urllib3 has been replaced by urllib3-future: make a new environment")
    names = ("requests", "urllib3", "anyio", *peers)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    machine = f"{platform.system()}, {os.cpu_count()} cores of {_processor()}"
    return f"{platform.python_implementation()} {platform.python_version()} on {machine}; {versions}."


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
