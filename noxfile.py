"""Run the tests on every supported Python that is installed: `nox`."""

import nox

nox.options.error_on_missing_interpreters = False
nox.options.default_venv_backend = "venv"


@nox.session(python=["3.9", "3.10", "3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """The whole suite, without the coverage gate: some lines are for one version only."""
    session.install(".[test]")
    session.run("python", "-m", "pytest", "--no-cov", *session.posargs)


@nox.session
def fork(session: nox.Session) -> None:
    """Limits, cancelling and faults with urllib3-future in urllib3's place, where niquests puts it."""
    session.install(".[test]", "niquests")
    files = ["tests/http/test_deadline.py", "tests/test_cancel.py", "tests/test_fault_matrix.py"]
    # urllib3-future itself warns of sockets that it leaves to garbage collection.
    session.run("python", "-m", "pytest", "--no-cov", "-o", "filterwarnings=", *files, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style and types."""
    session.install(".[lint]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
