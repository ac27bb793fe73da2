"""The package layout: what is listed is what is there, and what is imported is this checkout."""

import os
import runpy
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import stillhouse

REPOSITORY = Path(__file__).parents[1]
FOLDERS = ("storage", "stage1_extract", "stage2_distill", "eval")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def test_every_package_is_listed() -> None:
    """An editable install sees an unlisted subpackage; the wheel lacks it."""
    found = set()
    for name, folder in {"stillhouse": "src/stillhouse", **{f"stillhouse.{f}": f for f in FOLDERS}}.items():
        for file in (REPOSITORY / folder).rglob("__init__.py"):
            found.add(".".join((name, *file.parent.relative_to(REPOSITORY / folder).parts)))
    assert set(SETUPTOOLS["packages"]) == found
    assert len(SETUPTOOLS["packages"]) == len(found), "a package is listed twice"


def test_every_folder_of_code_is_a_package() -> None:
    for folder in (*FOLDERS, "src/stillhouse"):
        for file in (REPOSITORY / folder).rglob("*.py"):
            assert (file.parent / "__init__.py").exists(), f"{file.parent} has no __init__.py"


def test_the_folders_map_onto_the_package() -> None:
    assert SETUPTOOLS["package-dir"] == {"stillhouse": "src/stillhouse", **{f"stillhouse.{f}": f for f in FOLDERS}}


@pytest.mark.parametrize("package", SETUPTOOLS["packages"])
def test_imports_come_from_this_checkout(package: str) -> None:
    """Otherwise these tests test another clone: run `pip install -e .` here."""
    _, _, below = package.partition(".")
    folder = REPOSITORY / "src" / "stillhouse" / below.replace(".", "/")
    if below.split(".")[0] in FOLDERS:
        folder = REPOSITORY / below.replace(".", "/")
    assert Path(import_module(package).__file__ or "").resolve() == folder / "__init__.py"


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_refuse_to_be_imported_bare(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY))
    monkeypatch.delitem(sys.modules, folder, raising=False)
    with pytest.raises(ImportError) as caught:
        import_module(folder)
    assert str(caught.value) == (
        f"import stillhouse.{folder}, not {folder} (the repository root is not a package path)"
    )


def test_links_for_type_checkers_are_complete() -> None:
    links = REPOSITORY / ".typing" / "stillhouse"
    entries = (path for path in (REPOSITORY / "src" / "stillhouse").iterdir() if path.name != "__pycache__")
    wanted = {path.name: f"../../src/stillhouse/{path.name}" for path in entries}
    wanted |= {folder: f"../../{folder}" for folder in FOLDERS}
    found = {path.name: os.readlink(path) for path in links.iterdir() if path.is_symlink()}
    missing = [f"ln -s {wanted[name]} .typing/stillhouse/{name}" for name in sorted(wanted.keys() - found.keys())]
    assert not missing, "; ".join(missing)
    assert found == wanted
    assert {path.name for path in links.iterdir()} - {"__pycache__"} == set(found)


def test_data_files_are_packed() -> None:
    """Whatever is no Python in the packages is named in package-data."""
    packed = {
        path
        for package, patterns in SETUPTOOLS["package-data"].items()
        for pattern in patterns
        for path in (REPOSITORY / SETUPTOOLS["package-dir"][package]).glob(pattern)
    }
    code = [REPOSITORY / folder for folder in (*FOLDERS, "src/stillhouse")]
    other = {
        path for folder in code for path in folder.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert other == packed


def test_versions_agree() -> None:
    assert stillhouse.__version__ == PROJECT["project"]["version"]


def test_the_entry_point_is_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module, _, name = PROJECT["project"]["scripts"]["stillhouse"].partition(":")
    assert callable(getattr(import_module(module), name))
    monkeypatch.setattr(sys, "argv", ["stillhouse", "--help"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("stillhouse", run_name="__main__")
    assert caught.value.code == 0
    assert "verify" in capsys.readouterr().out
