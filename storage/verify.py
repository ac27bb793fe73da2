"""Checking a store against its records: is every object there, whole, and what was written?"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stillhouse.core.errors import CorruptError
from stillhouse.core.stops import worker_threads

from . import layout
from .disk import names_in
from .foreign import regular_file
from .records import ObjectEntry, Record, read_record, record_sha256
from .redo import Redo, note_redo, noted_redo
from .seal import Seal, content_digest, decided_units, is_kept, latest_seal, root_metadata
from .specs import TRAIN
from .store import Store

READ_BYTES = 4 << 20
THREADS = 8
"""That read from a place elsewhere; a disk is read by one."""
MISSING = "is missing"
UNPUBLISHED = "is decided and not yet published"
RESEAL = "the next `stillhouse extract` seals again"
SEAL = "seal"
"""Stands for the unit where a problem is none of a unit: the seal, a teacher's spec, the root's zarr.json."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a store: the unit that redoes it, the object, and what was found.

    Args:
        remedy: what helps, where making the unit again does not.
    """

    unit: str
    path: str
    found: str
    remedy: str = ""

    @property
    def redone_by(self) -> str | None:
        """The unit to make again; None if that would not help."""
        if self.remedy:
            return None
        return layout.unit_of(self.path) if self.unit == SEAL else self.unit


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

    Others may write meanwhile: what looks wrong is looked at once more, and told if it still is.

    Args:
        on_object: told the size in bytes of each object after it was read.
    """
    problems, last = _read_seal(store)
    found, unreadable = read_records(store.root)
    problems += unreadable
    problems += _check_all(store, found, on_object)
    problems += [problem for unit in noted_units(store.root) for problem in _check_note(store.root, unit)]
    objects = [entry for record in found for entry in record.objects]
    problems += [*_check_teachers(store), *_check_seal(store, last, objects, whole=not problems)]
    num_bytes = sum(entry.num_bytes for entry in objects)
    still = tuple(_looked_at_again(store, problems)) if problems else ()
    sealed = last is not None or (store.root / layout.SEALS).is_dir()
    return Verification(len(found), len(objects), num_bytes, still, content_digest(objects), sealed)


def _check_all(store: Store, found: list[Record], on_object: Callable[[int], None]) -> list[Problem]:
    if store.objects is None:
        return [problem for record in found for problem in _check(store, record, on_object)]
    with worker_threads(THREADS, "verify") as pool:
        some = pool.map(lambda record: [*_check(store, record, on_object)], found)
        return [problem for problems in some for problem in problems]


def _looked_at_again(store: Store, problems: list[Problem]) -> Iterator[Problem]:
    units = {problem.unit for problem in problems}
    again = [problem for unit in sorted(units - {SEAL}) for problem in check_unit(store, unit)]
    if SEAL in units:
        unread, last = _read_seal(store)
        objects = [entry for record in read_records(store.root)[0] for entry in record.objects]
        again += [*unread, *_check_teachers(store), *_check_seal(store, last, objects, whole=not again and not unread)]
    return iter(again)


def read_records(root: Path) -> tuple[list[Record], list[Problem]]:
    """Every decision record, and a problem for each that cannot be read."""
    found, problems = [], []
    for unit in decided_units(root):
        try:
            record = read_record(root, unit)
        except CorruptError as error:
            problems.append(Problem(unit, layout.record_path(unit), error.message))
        else:
            found += [record] if record else []
    return found, problems


def check_unit(store: Store, unit: str) -> list[Problem]:
    """What is wrong with one unit now; nothing if it is undecided."""
    noted = _check_note(store.root, unit)
    try:
        record = read_record(store.root, unit)
    except CorruptError as error:
        return [Problem(unit, layout.record_path(unit), error.message), *noted]
    return [*(_check(store, record, lambda num_bytes: None) if record else ()), *noted]


def _check(store: Store, record: Record, on_object: Callable[[int], None]) -> Iterator[Problem]:
    for entry in record.objects:
        there = store.objects is not None and not entry.path.endswith("/zarr.json")
        found = store.objects.check(entry) if store.objects and there else _check_object(store.root, entry)
        on_object(entry.num_bytes)
        if found and (store.root / layout.staged_path(record.attempt, entry.path)).exists():
            yield Problem(
                record.unit, entry.path, UNPUBLISHED, "the next `stillhouse run` with its config publishes it"
            )
        elif found:
            yield Problem(record.unit, entry.path, found)
    kind, _, block = record.unit.partition("/")
    if kind == "images" and int(block) < len(store.plan.blocks):
        planned = store.plan.blocks[int(block)]
        if record.facts.get("keys_sha256") != planned.keys_sha256:
            path = layout.images_path(int(block))
            yield Problem(record.unit, path, "holds other samples than the plan says")


def _check_object(root: Path, entry: ObjectEntry) -> str:
    """What is wrong with one object, or nothing."""
    try:
        path = regular_file(root, entry.path)
        size = path.stat().st_size
        if size != entry.num_bytes:
            return f"{size} bytes, expected {entry.num_bytes}"
        digest, piece = hashlib.sha256(), memoryview(bytearray(min(READ_BYTES, size)))
        with open(path, "rb", buffering=0) as file:
            while got := file.readinto(piece):
                digest.update(piece[:got])
    except CorruptError as error:
        return error.message
    except FileNotFoundError:
        return MISSING
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if digest.hexdigest() != entry.sha256:
        return f"sha256 {digest.hexdigest()[:12]}, expected {entry.sha256[:12]}"
    return ""


def noted_units(root: Path) -> list[str]:
    """The units that have a note to be made anew; it is about an older record where that was done since."""
    base = root / layout.REDO
    paths = [Path(folder) / name for folder, _, names in os.walk(base) for name in names if name.endswith(".json")]
    units = [path.relative_to(base).with_suffix("").as_posix() for path in paths if not path.name.startswith(".")]
    return sorted(units)


def _check_note(root: Path, unit: str) -> list[Problem]:
    path = layout.redo_path(unit)
    try:
        redo = noted_redo(root, unit)
    except CorruptError as error:
        return [Problem(unit, path, error.message, error.hint)]
    return [Problem(unit, path, f"is to be made again: {redo.why}")] if redo else []


def _read_seal(store: Store) -> tuple[list[Problem], Seal | None]:
    """Read before the records: what is decided later is no problem."""
    try:
        last = latest_seal(store.root)
        root_metadata(store, last)
    except CorruptError as error:
        return [Problem(SEAL, layout.LOG, error.message, error.hint)], None
    return [], last


def _check_teachers(store: Store) -> Iterator[Problem]:
    """Their specs; where a codec's record cannot be read, that is told instead."""
    unreadable = {problem.unit for problem in read_records(store.root)[1]}
    for name in teacher_names(store.root):
        try:
            if layout.codecs_unit(name) not in unreadable and name not in store.dropped:
                store.teacher(name)
        except CorruptError as error:
            yield Problem(SEAL, layout.teacher_path(name), error.message, error.hint)


def _check_seal(store: Store, last: Seal | None, objects: list[ObjectEntry], whole: bool) -> Iterator[Problem]:
    """What of the seal is no longer so. Objects decided after it are no problem.

    Args:
        whole: nothing is damaged, so the root zarr.json, which repeats all metadata, can be checked too.
    """
    decided, units = set(objects), {layout.unit_of(entry.path) for entry in objects}
    for entry in last.objects if last is not None else ():
        if entry not in decided and not is_kept(store.root, entry):
            assert last is not None
            text = f"is in seal {last.generation}, but no record has it with that sha256"
            yield Problem(SEAL, entry.path, text, RESEAL if layout.unit_of(entry.path) in units else "")
    path = store.root / layout.CARD
    if whole and (not path.exists() or path.read_bytes() != root_metadata(store, last)):
        yield Problem(SEAL, layout.CARD, "is not what was written", RESEAL)


def forget(store: Store, unit: str, why: str = "it was asked for", *, damaged: bool = False) -> None:
    """Whoever writes next makes this unit anew; readers keep its record until the new one takes its place.

    The old record stays readable under `_log/forgotten/`. If the unit comes out with other bytes than it had, what was
    made from it is forgotten in turn.

    Args:
        damaged: take it back once the unit is whole again.
    """
    redo = Redo(unit, record_sha256(store.root, unit), why, damaged, contents(store, unit), dependents(store, unit))
    note_redo(store.root, redo)


def contents(store: Store, unit: str) -> dict[str, str]:
    """sha256 of a unit's objects by path: by its record, or else by the last seal, as far as they can be read."""
    with contextlib.suppress(CorruptError):
        record = read_record(store.root, unit)
        if record is not None:
            return {entry.path: entry.sha256 for entry in record.objects}
    with contextlib.suppress(CorruptError):
        last = latest_seal(store.root)
        if last is not None:
            return {entry.path: entry.sha256 for entry in last.objects if layout.unit_of(entry.path) == unit}
    return {}


def dependents(store: Store, unit: str) -> tuple[str, ...]:
    """The units that are made from this one."""
    views, train = range(store.spec.num_views), store.plan.blocks_of(TRAIN)
    teachers = teacher_names(store.root)
    match unit.split("/"):
        case ["images", block] if int(block) in train:
            seen = [layout.views_unit(view, int(block)) for view in views]
            return (*seen, *(layout.features_unit(name, view, int(block)) for name in teachers for view in views))
        case ["views", view, block]:
            return tuple(layout.features_unit(name, int(view), int(block)) for name in teachers)
        case ["codecs", name]:
            return tuple(layout.features_unit(name, view, block) for block in train for view in views)
    return ()


def teacher_names(root: Path) -> list[str]:
    """Every teacher that the store has a spec or codecs of, damaged ones included."""
    found = [name for folder in ("teachers", "units/codecs") for name in names_in(root / layout.LOG / folder)]
    return sorted({name.removesuffix(".json") for name in found if name.endswith(".json") and name[0] != "."})


def planned_units(store: Store) -> list[str]:
    """Every unit that this store has when it is complete, for the teachers that it has."""
    images = [layout.images_unit(block) for block in range(len(store.plan.blocks))]
    codecs = [layout.codecs_unit(name) for name in teacher_names(store.root)]
    views = [layout.views_unit(v, b) for b in store.plan.blocks_of(TRAIN) for v in range(store.spec.num_views)]
    return ["layout", *images, *views, *codecs, *(unit for name in codecs for unit in dependents(store, name))]
