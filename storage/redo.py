"""Deciding a unit, for the first time or anew.

A unit that must be made anew (it is damaged, or what it was made from came out otherwise) gets a note in `_log/redo/`.
For whoever writes it counts as undecided from then on; readers keep the old record until the new one takes its place in
one step. The note names the record that it is about, so it can never throw away a later one.
"""

import contextlib
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from stillhouse.core.errors import CorruptError

from . import foreign
from .disk import create_once, disk_errors, link_once, one_at_a_time, replace_file
from .layout import FORGOTTEN, REDO, STAGE, record_path, redo_path
from .records import VERIFY, ObjectEntry, read_record, record_sha256
from .signed_json import read_signed_json, signed_json

_UNIT = re.compile(r"[a-z0-9][\w.-]*(/[a-z0-9][\w.-]*)*", re.ASCII)
STATISTICS = ("/mean/c/0", "/std/c/0")
"""Objects of a codec that decode nothing: features stay right whatever they hold."""


@dataclass(frozen=True, slots=True)
class Redo:
    """A note that a unit is to be made anew.

    Args:
        record_sha256: of the record file that must go; None if the record was gone already.
        why: one line for a person.
        damaged: the note is void once the unit is whole again, say from a copy.
        expected: sha256 of the unit's objects by path, as far as that is known.
        dependents: units made from this one, which must follow if it comes out otherwise than expected.
    """

    unit: str
    record_sha256: str | None
    why: str
    damaged: bool = False
    expected: Mapping[str, str] = field(default_factory=dict)
    dependents: tuple[str, ...] = ()


def note_redo(root: Path, redo: Redo) -> None:
    """From now on whoever writes makes this unit anew, unless its record has changed since."""
    replace_file(root / redo_path(redo.unit), signed_json(asdict(redo)))


def drop_redo(root: Path, unit: str) -> None:
    """The unit need not be made anew after all."""
    with disk_errors(root / redo_path(unit)):
        (root / redo_path(unit)).unlink(missing_ok=True)


def noted_redo(root: Path, unit: str) -> Redo | None:
    """The note about a unit, unless it has been made anew since.

    Raises:
        CorruptError: the note is not what was written.
    """
    path = root / redo_path(unit)
    hint = f"delete that file, then run `{VERIFY} {root}`"
    body = read_signed_json(path, hint, root=root, max_bytes=foreign.MAX_RECORD_BYTES)
    if body is None:
        return None
    try:
        redo = Redo(**body | {"dependents": tuple(body["dependents"])})
        named = all(_UNIT.fullmatch(name) for name in (redo.unit, *redo.dependents))
    except (KeyError, TypeError) as error:
        raise CorruptError(f"{path} is no note that a unit is to be made anew", hint=hint) from error
    if redo.unit != unit or not named:
        raise CorruptError(f"{path} is about {redo.unit!r} or names units that cannot be", hint=hint)
    return redo if redo.record_sha256 == record_sha256(root, unit) else None


def decide(root: Path, unit: str, objects: Sequence[ObjectEntry], data: bytes) -> None:
    """Make `data` the record of a unit that is undecided or to be made anew; else leave the record that is there."""
    if noted_redo(root, unit) is None:
        create_once(root / record_path(unit), data)
        return
    with one_at_a_time(root / REDO):
        redo = noted_redo(root, unit)  # another process may have been faster
        if redo is not None:
            _supersede(root, redo, objects, data)
    if redo is None:
        create_once(root / record_path(unit), data)


def replace_record(root: Path, redo: Redo, objects: Sequence[ObjectEntry], data: bytes) -> None:
    """Make `data` the record of a unit, unless its record is another one by now than `redo` is about.

    Without a note: the unit is decided before and after.
    """
    with one_at_a_time(root / REDO):
        if record_sha256(root, redo.unit) == redo.record_sha256:
            _supersede(root, redo, objects, data)


def _supersede(root: Path, redo: Redo, objects: Sequence[ObjectEntry], data: bytes) -> None:
    """Put a new record in the place of the old one, which stays readable below `_log/forgotten/`."""
    path, old = root / record_path(redo.unit), None
    changed = [entry for entry in objects if entry.sha256 != redo.expected.get(entry.path)]
    if any(not entry.path.endswith(STATISTICS) for entry in changed):
        for dependent in redo.dependents:  # before the new record: a crash after it must not lose them
            decided = record_sha256(root, dependent)
            if decided is not None:
                note_redo(root, Redo(dependent, decided, f"{redo.unit} came out with other bytes than it had"))
    if redo.record_sha256 is not None:
        name = f"{redo.unit.replace('/', '__')}.{redo.record_sha256[:12]}.json"
        link_once(path, root / FORGOTTEN / name)
    with contextlib.suppress(CorruptError):
        old = read_record(root, redo.unit)
    if old is not None:  # first: a process that decided it and then slept must not publish it over the new one
        shutil.rmtree(root / STAGE / old.attempt, ignore_errors=True)
    replace_file(path, data)
    drop_redo(root, redo.unit)
