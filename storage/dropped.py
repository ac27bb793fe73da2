"""Dropping a teacher: it is no part of the store from then on, and who has an earlier seal open goes on reading it.

A note beside the log says so; whoever opens the store after it does not see the teacher, and the next seal does not name its
objects. Nothing else changes, so the note can be taken back, until `free` removes records and objects for good.
"""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stillhouse.core.errors import UsageError

from . import layout
from .disk import create_once, disk_errors, names_in
from .signed_json import signed_json

if TYPE_CHECKING:
    from .records import Record
    from .store import Store

TAKE_BACK = "`stillhouse drop --undo` takes it back, `stillhouse gc --dropped` removes it for good"


@dataclass(frozen=True, slots=True)
class Freed:
    """What `free` removed, or would remove."""

    teachers: tuple[str, ...]
    num_objects: int
    num_bytes: int


def dropped_teachers(root: Path) -> frozenset[str]:
    """The teachers that were dropped from the store at `root`."""
    names = names_in(root / layout.DROPPED)
    return frozenset(name.removesuffix(".json") for name in names if name.endswith(".json") and name[0] != ".")


def is_of(unit: str, teachers: frozenset[str]) -> bool:
    """True for a unit of work of one of these teachers."""
    kind, _, rest = unit.partition("/")
    return kind in ("codecs", "features") and rest.partition("/")[0] in teachers


def drop(store: "Store", teacher: str) -> bool:
    """Drop a teacher; False when it is dropped already. Seal the store afterwards.

    Raises:
        UsageError: the store has no such teacher.
    """
    if teacher not in dropped_teachers(store.root):
        store.teacher(teacher)
    return create_once(store.root / layout.dropped_path(teacher), signed_json({"teacher": teacher}))


def take_back(store: "Store", teacher: str) -> None:
    """Undo `drop`. UsageError if it was not dropped, or is freed already."""
    path = store.root / layout.dropped_path(layout.check_name(teacher, "teacher"))
    with disk_errors(path):
        try:
            path.unlink()
        except FileNotFoundError:
            message = f"teacher {teacher!r} was not dropped from store {store.name}"
            raise UsageError(message, hint="what is freed is gone: `stillhouse extract` makes it again") from None


def free(store: "Store", records: "list[Record]", *, dry_run: bool = False) -> Freed:
    """Remove records and objects of the teachers that were dropped. The same call goes on after a kill.

    Records go first: an object that none names is what `gc` removes anyway. The note goes last. Seal the store before.

    Args:
        records: every record of the store.
    """
    teachers = dropped_teachers(store.root)
    objects = [entry for record in records if is_of(record.unit, teachers) for entry in record.objects]
    for teacher in sorted(teachers) if not dry_run else ():
        for path in _in_order(store.root, teacher):
            with disk_errors(path), contextlib.suppress(FileNotFoundError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    return Freed(tuple(sorted(teachers)), len(objects), sum(entry.num_bytes for entry in objects))


def _in_order(root: Path, teacher: str) -> Iterator[Path]:
    for folder in (layout.UNITS, layout.REDO):
        yield root / folder / "features" / teacher
        yield root / folder / f"{layout.codecs_unit(teacher)}.json"
    yield root / "features" / teacher
    yield root / layout.teacher_path(teacher)
    yield root / layout.dropped_path(teacher)
