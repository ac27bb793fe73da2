"""Checking a store against its records: is every object there, whole, and what was written?"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stillhouse.core.errors import CorruptError

from . import layout
from .commit import ObjectEntry, Record, move_aside, read_record
from .seal import content_digest, decided_units, latest_seal, root_metadata
from .store import Store

READ_BYTES = 1 << 20
SEAL = "seal"
"""Stands for the unit where a problem is none of a unit: the seal, a teacher's spec, the root's zarr.json."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a store: the unit that redoes it, the object, and what was found."""

    unit: str
    path: str
    found: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` saw."""

    num_units: int
    num_objects: int
    num_bytes: int
    problems: tuple[Problem, ...]
    content_sha256: str
    sealed: bool


def verify(store: Store, on_object: Callable[[int], None] = lambda num_bytes: None) -> Verification:
    """Read every object of every record and compare sizes and sha256.

    Args:
        on_object: told the size in bytes of each object after it was read.
    """
    found, problems = read_records(store.root)
    problems += [problem for record in found for problem in _check(store.root, record, on_object)]
    objects = [entry for record in found for entry in record.objects]
    problems += _check_plan(store, found)
    sealed, wrong = _check_seal(store, objects, whole=not problems)
    problems += wrong
    num_bytes = sum(entry.num_bytes for entry in objects)
    return Verification(len(found), len(objects), num_bytes, tuple(problems), content_digest(objects), sealed)


def read_records(root: Path) -> tuple[list[Record], list[Problem]]:
    found, problems = [], []
    for unit in decided_units(root):
        try:
            record = read_record(root, unit)
        except CorruptError as error:
            problems.append(Problem(unit, layout.record_path(unit), error.message))
        else:
            found += [record] if record else []
    return found, problems


def _check_seal(store: Store, objects: list[ObjectEntry], whole: bool) -> tuple[bool, list[Problem]]:
    """Whether the store is sealed, and what of the seal is no longer so. Objects decided after it are no problem.

    Args:
        whole: no object is damaged, so the root zarr.json, which repeats their metadata, can be checked too.
    """
    try:
        last = latest_seal(store.root)
        card = root_metadata(store, last)
        teachers = {teacher.name for teacher in store.teachers()}
    except CorruptError as error:
        return True, [Problem(SEAL, layout.LOG, str(error))]
    problems = []
    if last is not None:
        decided = set(objects)
        for entry in last.objects:
            if entry not in decided:
                text = f"is in seal {last.generation}, but no record has it with that sha256"
                problems.append(Problem(SEAL, entry.path, text))
    for entry in objects:
        _, _, name = entry.path.removesuffix("/codecs/zarr.json").rpartition("/")
        if entry.path.endswith("/codecs/zarr.json") and name not in teachers:
            problems.append(Problem(SEAL, layout.teacher_path(name), "is missing"))
    path = store.root / "zarr.json"
    if whole and (not path.exists() or path.read_bytes() != card):
        problems.append(
            Problem(SEAL, "zarr.json", "is not what was written; the next `stillhouse extract` writes it again")
        )
    return last is not None, problems


def _check(root: Path, record: Record, on_object: Callable[[int], None]) -> Iterator[Problem]:
    for entry in record.objects:
        found = _check_object(root / entry.path, entry)
        on_object(entry.num_bytes)
        if found:
            yield Problem(record.unit, entry.path, found)


def _check_object(path: Path, entry: ObjectEntry) -> str:
    """What is wrong with one object, or nothing."""
    try:
        size = path.stat().st_size
        if size != entry.num_bytes:
            return f"{size} bytes, expected {entry.num_bytes}"
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while chunk := file.read(READ_BYTES):
                digest.update(chunk)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if digest.hexdigest() != entry.sha256:
        return f"sha256 {digest.hexdigest()[:12]}, expected {entry.sha256[:12]}"
    return ""


def _check_plan(store: Store, found: list[Record]) -> Iterator[Problem]:
    """Images whose keys are not the ones that the plan promised."""
    decided = {record.unit: record for record in found}
    for block, planned in enumerate(store.plan.blocks):
        record = decided.get(layout.images_unit(block))
        if record is not None and record.facts.get("keys_sha256") != planned.keys_sha256:
            yield Problem(record.unit, layout.images_path(block), "holds other samples than the plan says")


def raise_problems(store: Store, result: Verification) -> None:
    """CorruptError for the first problem, with the number of others."""
    if result.problems:
        first, more = result.problems[0], len(result.problems) - 1
        others = f" (and {more} more)" if more else ""
        hint = f"run `stillhouse verify {store.root} --repair` to drop the damaged units, then the same step again"
        raise CorruptError(f"{first.path} of unit {first.unit} in {store.root}: {first.found}{others}", hint=hint)


def forget(store: Store, unit: str) -> None:
    """Move a damaged unit's record aside, so that the step that made it makes it again.

    The old record stays readable under `_log/forgotten/`; objects are replaced when the unit is decided anew.
    """
    record = store.root / layout.record_path(unit)
    aside = store.root / layout.LOG / "forgotten" / f"{unit.replace('/', '__')}.{_short_sha(record)}.json"
    move_aside(record, aside)


def _short_sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
