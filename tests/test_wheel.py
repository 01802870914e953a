"""What users install: the wheel has all files of the package, and each of its modules can be imported."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ["setup.cfg", "pyproject.toml", "README.md", "LICENSE", "pytest_chatanywhere.py"]
EXTRAS = ["socks", "pydantic"]
"""What private modules import that only an extra installs."""

IMPORT = """
import importlib, json, sys, traceback
folder, *names = sys.argv[1:]
sys.path.insert(0, folder)
failures = {}
for name in names:
    for imported in [each for each in sys.modules if each.partition(".")[0] == "chatanywhere"]:
        del sys.modules[imported]  # each is imported as the first of the package
    try:
        module = importlib.import_module(name)
        assert module.__file__.startswith(folder), f"{name} comes from {module.__file__}"
        for exported in getattr(module, "__all__", ()):
            getattr(module, exported)
    except BaseException as error:
        failures[name] = [getattr(error, "name", None), traceback.format_exc()]
json.dump(failures, sys.stdout)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel of this tree and nothing else, installed as pip does it, without a network."""
    # A copy, since setuptools leaves a folder `build` behind, and would take from it what has been deleted here.
    tree = tmp_path_factory.mktemp("tree")
    for name in SOURCES:
        shutil.copy(ROOT / name, tree)
    shutil.copytree(ROOT / "chatanywhere", tree / "chatanywhere", ignore=shutil.ignore_patterns("__pycache__"))
    folder = tmp_path_factory.mktemp("installed").resolve()
    command = [sys.executable, "-m", "pip", "--isolated", "install", "--quiet", "--no-index", "--no-build-isolation"]
    subprocess.run([*command, "--no-deps", "--no-compile", "--target", str(folder), str(tree)], check=True, timeout=120)
    return folder


def files_of(package: Path) -> set[str]:
    """The files of a package, compiled ones aside."""
    files = (file.relative_to(package).as_posix() for file in package.rglob("*") if file.is_file())
    return {name for name in files if "__pycache__" not in name}


def modules_of(folder: Path) -> list[str]:
    """The dotted names of all modules in a folder, except those that are programs."""
    parts = [list(file.relative_to(folder).with_suffix("").parts) for file in folder.rglob("*.py")]
    names = [".".join(each[:-1] if each[-1] == "__init__" else each) for each in parts if each[-1] != "__main__"]
    return sorted(names)


def is_public(module: str) -> bool:
    """Whether users address this module by its name."""
    return not any(part.startswith("_") for part in module.split("."))


def import_all(folder: Path, modules: list[str]) -> dict[str, tuple[str | None, str]]:
    """Import modules from the folder in another process; of those that fail, what they missed and the traceback."""
    command = [sys.executable, "-I", "-c", IMPORT, str(folder), *modules]
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    failures: dict[str, tuple[str | None, str]] = json.loads(done.stdout)
    return failures


def test_the_wheel_has_every_file_of_the_package(installed: Path) -> None:
    """All modules of all folders are installed, the pytest plugin, and the mark that they have types."""
    assert files_of(installed / "chatanywhere") == files_of(ROOT / "chatanywhere")
    assert (installed / "chatanywhere" / "py.typed").is_file()
    assert (installed / "pytest_chatanywhere.py").is_file()


def test_every_public_module_can_be_imported(installed: Path) -> None:
    """Each gives all names of its `__all__`, whichever of them a program imports first."""
    public = [module for module in modules_of(installed) if is_public(module)]
    assert {"chatanywhere", "chatanywhere.testing", "chatanywhere.typing", "pytest_chatanywhere"} <= set(public)
    failures = import_all(installed, public)
    assert not failures, "\n".join(text for _, text in failures.values())


def test_every_private_module_can_be_imported(installed: Path) -> None:
    """None of them fails, unless it needs an extra that is not installed."""
    private = [module for module in modules_of(installed) if not is_public(module)]
    assert private
    failures = [text for missing, text in import_all(installed, private).values() if missing not in EXTRAS]
    assert not failures, "\n".join(failures)
