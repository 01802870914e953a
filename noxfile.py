"""Run the tests on every supported Python that is installed: `nox`."""

from __future__ import annotations

import configparser

import nox
from packaging.requirements import Requirement

PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14", "3.15"]

nox.options.error_on_missing_interpreters = False
nox.options.default_venv_backend = "venv"


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The whole suite, without the coverage gate: some lines are for one version only."""
    session.install(".[test]")
    session.run("python", "-m", "pytest", "--no-cov", "--hypothesis-profile=thorough", *session.posargs)


@nox.session(python=PYTHONS[0])
def minimum(session: nox.Session) -> None:
    """The whole suite on the oldest Python with the oldest dependencies that setup.cfg allows."""
    session.install(".[test]", *oldest_allowed())
    session.run("python", "-m", "pytest", "--no-cov", *session.posargs)


def oldest_allowed() -> list[str]:
    """Return `name==version` for every `name>=version` in setup.cfg that the package or its tests need."""
    config = configparser.ConfigParser()
    config.read("setup.cfg")
    extras = config["options.extras_require"]
    names = ("batch", "cli", "dask", "notebook", "otel", "socks", "structured", "test")
    lines = [config["options"]["install_requires"], *(extras[name] for name in names)]
    requirements = [Requirement(line) for line in "\n".join(lines).splitlines() if line]
    return [
        f"{requirement.name}=={specifier.version}"
        for requirement in requirements
        for specifier in requirement.specifier
        if specifier.operator == ">="
    ]


@nox.session
def fork(session: nox.Session) -> None:
    """Limits, cancelling and faults with urllib3-future in urllib3's place, where niquests puts it."""
    session.install(".[test]", "niquests")
    files = ["tests/http/test_deadline.py", "tests/test_cancel.py", "tests/test_fault_matrix.py"]
    # urllib3-future itself warns of sockets that it leaves to garbage collection.
    session.run("python", "-m", "pytest", "--no-cov", "-o", "filterwarnings=", *files, *session.posargs)


@nox.session
def openai(session: nox.Session) -> None:
    """OpenAI's library against the test server, and beside `chatanywhere.openai`."""
    session.install(".[test]")
    files = ["tests/testing/test_openai_sdk.py", "tests/test_openai_calls.py", "tests/test_openai_objects.py"]
    session.run("python", "-m", "pytest", "--no-cov", *files, *session.posargs)


CLIENTS = {
    "new-sdk": (
        [
            "openai>=3",
            "langchain-openai>=1.7",
            "litellm[proxy]>=1.108",
            "llm>=0.36",
            "pydantic-ai-slim[openai]>=2.60",
            "xllamacpp>=2026.10",
            "gguf>=0.19",
        ],
        ["with_langchain", "with_litellm", "with_llm", "with_pydantic_ai", "to_litellm", "to_llama_cpp"],
    ),
    # They do not take the newest of OpenAI's SDK yet.
    "old-sdk": (
        ["instructor>=1.17", "llama-index-llms-openai-like>=0.8", "llama-index-embeddings-openai-like>=0.4"],
        ["with_instructor", "with_llamaindex"],
    ),
}
"""What is installed together, and the files of tests for it."""


@nox.session
@nox.parametrize(["libraries", "names"], list(CLIENTS.values()), ids=list(CLIENTS))
def clients(session: nox.Session, libraries: list[str], names: list[str]) -> None:
    """Clients of others against the test server, and ours against a LiteLLM proxy and llama.cpp."""
    session.install(".[test]", *libraries)
    files = [f"tests/clients/{name}.py" for name in ("with_openai", *names)]
    files += ["tests/testing/test_openai_sdk.py", "tests/testing/test_prompts.py"]
    # The libraries warn of much; our use of theirs and of Python's is held to the rule of the suite.
    options = ["--no-cov", "--dist", "loadfile", "-o", "filterwarnings=error::DeprecationWarning:chatanywhere"]
    session.run("python", "-m", "pytest", *options, *files, *session.posargs)


@nox.session
def crashes(session: nox.Session) -> None:
    """Batches that are killed at many moments."""
    session.install(".[test]")
    session.run("python", "-m", "pytest", "--no-cov", "tests/batch/many_crashes.py", *session.posargs)


@nox.session
def dask(session: nox.Session) -> None:
    """Batches on clusters of Dask's, whose workers are processes that are killed."""
    session.install(".[test]")
    session.run("python", "-m", "pytest", "--no-cov", "tests/batch/with_dask.py", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """100,000 mutated heads, and 20,000 whole answers over sockets, read by this package and by h11."""
    session.install(".[fuzz]")
    session.run("python", "fuzz/fuzz_heads.py", "--inputs", "100000")
    session.run("python", "fuzz/fuzz_answers.py", "--count", "20000", *session.posargs)


@nox.session
def greenlets(session: nox.Session) -> None:
    """Programs of gevent and of eventlet, gunicorn's workers among them, each in a process of its own."""
    session.install(".[test]", "eventlet", "gevent", "gunicorn")
    files = [f"tests/greenlets/{name}.py" for name in ("with_gevent", "with_eventlet", "dialing")]
    session.run("python", "-m", "pytest", "--no-cov", *files, *session.posargs)


@nox.session
def web(session: nox.Session) -> None:
    """The web programs of the examples under gunicorn, with workers of threads and of gevent, and under uvicorn."""
    session.install(".[test]", "django", "fastapi", "flask", "gevent", "gunicorn", "uvicorn")
    files = ["tests/web/with_gunicorn.py", "tests/web/with_uvicorn.py"]
    session.run("python", "-m", "pytest", "--no-cov", *files, *session.posargs)


@nox.session
def notebooks(session: nox.Session) -> None:
    """The notebooks of the examples, `%%chat` with pandas, and in JupyterLab where Chromium is installed."""
    session.install(".[test]", "jupyterlab", "pandas", "selenium")
    files = ["tests/notebooks/with_examples.py", "tests/notebooks/with_jupyterlab.py"]
    column = "tests/batch/test_map.py::test_a_column_of_pandas_is_one"
    session.run("python", "-m", "pytest", "--no-cov", "-o", "filterwarnings=", *files, column, *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documents as a site, in the folder `site`."""
    session.install(".[docs]")
    session.run("mkdocs", "build", "--strict", *session.posargs, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def picture(session: nox.Session) -> None:
    """The README's picture of `chat`, made anew by a session on a pseudo-terminal."""
    session.install(".[cli]", "pexpect", "pyte")
    session.run("python", "docs/picture.py")


@nox.session
def lint(session: nox.Session) -> None:
    """Style and types."""
    session.install(".[lint]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
