"""The error tree: one exit code a kind, told in the docs, and errors that cross processes whole."""

import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillhouse.core import errors
from stillhouse.core.errors import StillhouseError, UsageError, missing_package

REPOSITORY = Path(__file__).parents[2]
CODES = {name: value for name, value in vars(errors).items() if name.startswith("EXIT_")}
TREE = errors.__doc__ or ""


def below(kind: type[StillhouseError]) -> Iterator[type[StillhouseError]]:
    """The classes of errors.py, parents first."""
    if kind.__module__ == errors.__name__:
        yield kind
        for child in kind.__subclasses__():
            yield from below(child)


ALL = list(below(StillhouseError))


def test_exit_codes_are_the_promised_ones() -> None:
    """Scripts rely on them: append, never change."""
    assert CODES == {
        "EXIT_OK": 0,
        "EXIT_INTERNAL": 1,
        "EXIT_USAGE": 2,
        "EXIT_SPEC": 3,
        "EXIT_CORRUPT": 4,
        "EXIT_BUSY": 5,
        "EXIT_RESOURCE": 6,
        "EXIT_QUARANTINED": 7,
        "EXIT_PREEMPTED": 8,
    }


def test_kinds_are_the_promised_ones() -> None:
    assert {kind.__name__: (kind.kind, kind.exit_code) for kind in ALL} == {
        "StillhouseError": ("error", 1),
        "UsageError": ("usage", 2),
        "DataError": ("data", 2),
        "SpecMismatchError": ("spec-mismatch", 3),
        "CorruptError": ("corrupt", 4),
        "MissingError": ("missing", 4),
        "BusyError": ("busy", 5),
        "ResourceError": ("resource", 6),
        "DivergedError": ("diverged", 6),
        "RemoteError": ("remote", 6),
        "Preempted": ("preempted", 8),
    }
    assert len({kind.kind for kind in ALL}) == len(ALL)


def test_siblings_have_codes_of_their_own_and_children_their_parents() -> None:
    own = {kind: kind.exit_code for kind in ALL if kind.__base__ is StillhouseError}
    assert len(set(own.values())) == len(own)
    for kind in ALL:
        parent = kind.__base__
        if parent in own:
            assert kind.exit_code == own[parent]


def test_the_docstring_draws_the_tree() -> None:
    drawn = {name: int(code) for name, code in re.findall(r"[├└]── (\w+) .*exit (\d)", TREE)}
    assert drawn == {kind.__name__: kind.exit_code for kind in ALL if kind is not StillhouseError}
    for code in (1, 7):
        assert f"Exit code {code}" in TREE


def test_the_command_line_documents_every_code() -> None:
    text = (REPOSITORY / "src" / "stillhouse" / "cli.py").read_text(encoding="utf-8")
    docstring = text.split('"""')[1]
    for code in CODES.values():
        assert re.search(rf"\b{code} [a-z]", docstring), f"exit code {code} is not explained"


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("hint", ["", "do that"])
def test_errors_cross_processes_whole(kind: type[StillhouseError], hint: str) -> None:
    error = kind("this is wrong", hint=hint)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is kind
        assert (again.message, again.hint, str(again)) == ("this is wrong", hint, str(error))


def test_the_text_has_the_hint_behind_a_semicolon() -> None:
    assert str(UsageError("no store", hint="make one")) == "no store; make one"
    assert str(UsageError("no store")) == "no store"


def test_missing_package() -> None:
    error = missing_package("faiss")
    assert error.exit_code == errors.EXIT_RESOURCE
    assert str(error) == "the package 'faiss' is not installed; run `pip install 'stillhouse[cpu]'`"


def test_a_missing_package_is_named_with_what_installs_it() -> None:
    hints = {name: missing_package(name).hint for name in ("conformal_clip_data", "sklearn", "my_images")}
    assert hints == {
        "conformal_clip_data": "run `pip install 'stillhouse[demo]'`",
        "sklearn": "run `pip install 'scikit-learn'`",
        "my_images": "install the package that has it, or correct its name",
    }
