"""Garbage collection: what attempts that died have left, told by reference and by age.

Removed is only what no decision record and no seal names, and what has not been written to for a day or for twice the
longest unit, by the clock of the disk that the store is on. While a record cannot be read it is unknown what is named,
and nothing is removed.
"""

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stillhouse.core.errors import CorruptError

from . import layout
from .disk import disk_errors, move_aside, move_back
from .records import Record
from .seal import latest_seal, records
from .signed_json import read_signed_json
from .store import Store

MIN_AGE_S = 24 * 3600.0
_ATTEMPT = re.compile(r"[0-9a-f]{32}")
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}")  # as commit writes them beside the file that they become
_CLOCK = ".clock"


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file, or the folder of an attempt, that nothing names.

    Args:
        path: in the store.
        num_bytes: of all files in it.
        age_s: since it was last written to, by the clock of the store's disk.
        old: old enough to be removed.
        removed: it is gone now.
    """

    path: str
    num_bytes: int
    age_s: float
    old: bool
    removed: bool


@dataclass(frozen=True, slots=True)
class Collection:
    """What was found: attempts, temporary files, objects. What is younger than `min_age_s` stays."""

    leftovers: tuple[Leftover, ...]
    min_age_s: float

    @property
    def removed(self) -> list[Leftover]:
        return [leftover for leftover in self.leftovers if leftover.removed]

    @property
    def num_bytes(self) -> int:
        """Of what was removed."""
        return sum(leftover.num_bytes for leftover in self.removed)


def collected_line(found: Collection) -> str:
    """One line for a person."""
    num, left = len(found.removed), len(found.leftovers) - len(found.removed)
    kept = f"; {left:,} kept" if left else ""
    return f"removed {num:,} leftover{'' if num == 1 else 's'} of unfinished work, {found.num_bytes:,} bytes{kept}"


def collect(store: Store, *, older_than_s: float | None = None, dry_run: bool = False) -> Collection:
    """Find what nothing names, and remove what is old enough.

    Args:
        older_than_s: age to remove from; None: a day, or twice the longest unit if that is more.
        dry_run: remove nothing.

    Raises:
        CorruptError: a record or the seal cannot be read; nothing was removed.
    """
    root = store.root
    candidates = list(_candidates(root))  # before the records: what is decided later is not among them
    if not candidates:
        return Collection((), MIN_AGE_S if older_than_s is None else older_than_s)
    found, named = _named(root)
    longest = max((_seconds(root, record) for record in found), default=0.0)
    least = max(MIN_AGE_S, 2 * longest) if older_than_s is None else older_than_s
    unnamed = [path for path in candidates if path not in named]
    now = _store_time(root) if unnamed else 0.0
    seen: dict[str, _Seen] = {}
    for path in unnamed:
        with contextlib.suppress(FileNotFoundError):  # its writer was faster
            seen[path] = _look(root / path)
    old = [path for path, one in seen.items() if now - one.written >= least]
    gone = set() if dry_run else _remove(root, old)
    leftovers = [
        Leftover(path, one.num_bytes, now - one.written, path in old, path in gone) for path, one in seen.items()
    ]
    return Collection(tuple(leftovers), least)


def _candidates(root: Path) -> Iterator[str]:
    """Paths of attempts, temporary files, and objects, named or not."""
    stage = root / layout.STAGE
    if stage.is_dir():
        left = [name for name in os.listdir(stage) if _ATTEMPT.fullmatch(name) or _TEMPORARY.fullmatch(name)]
        yield from sorted(f"{layout.STAGE}/{name}" for name in left)
    objects = []
    for folder, folders, names in os.walk(root):
        inside = Path(folder).relative_to(root).as_posix()
        if inside == layout.STAGE:
            folders.clear()
            continue
        for name in names:
            path = name if inside == "." else f"{inside}/{name}"
            if _TEMPORARY.fullmatch(name):
                yield path
            elif layout.unit_of(path) is not None:
                objects.append(path)
    yield from objects


def _named(root: Path) -> tuple[list[Record], set[str]]:
    """Every record, and the paths that records and the last seal name: attempts and objects.

    Raises:
        CorruptError: one of them cannot be read.
    """
    try:
        found = records(root)
        last = latest_seal(root)
        if not any(record.unit == "layout" for record in found):  # every store has it
            raise CorruptError(f"store {root} has no record {layout.record_path('layout')}")
    except CorruptError as error:
        hint = f"mend it first: run `stillhouse verify {root}`"
        raise CorruptError(
            f"{error.message}: it is unknown what is still needed, nothing was removed", hint=hint
        ) from error
    named = {f"{layout.STAGE}/{record.attempt}" for record in found}
    named |= {entry.path for record in found for entry in record.objects}
    named |= {entry.path for entry in (last.objects if last else ())}
    return found, named


def _seconds(root: Path, record: Record) -> float:
    """How long the attempt of a record took from its first file to its decision."""
    body = read_signed_json(root / layout.record_path(record.unit), "")
    return float((body or {}).get("seconds", 0.0))


def _store_time(root: Path) -> float:
    """Now, by whoever stamps the files of this store; another machine's clock may be hours off."""
    path = root / layout.STAGE / f"{_CLOCK}.{secrets.token_hex(8)}"
    with disk_errors(path):
        path.parent.mkdir(exist_ok=True)
        path.touch(exist_ok=False)
        try:
            return path.stat().st_mtime
        finally:
            path.unlink()


@dataclass(frozen=True, slots=True)
class _Seen:
    """A file, or a folder with all its files: how large, and when last written to."""

    num_bytes: int
    written: float


def _look(path: Path) -> _Seen:
    stat = path.lstat()
    folder = path.is_dir() and not path.is_symlink()
    inside = [entry.stat(follow_symlinks=False) for entry in os.scandir(path)] if folder else []
    num_bytes = sum(one.st_size for one in inside) if folder else stat.st_size
    written = max(one.st_mtime for one in (stat, *inside))
    return _Seen(num_bytes, written)


def _remove(root: Path, paths: Sequence[str]) -> set[str]:
    """Remove what is still unnamed; returns which.

    All is taken out of its place first, and the records are read again then: a writer that decides later finds nothing
    that it could decide, and what one published in between is put back.
    """
    if not paths:
        return set()
    moved: dict[str, Path] = {}
    named = set(paths)  # all of them, should the records turn out to be unreadable
    with disk_errors(root / layout.STAGE):
        try:
            for path in paths:
                aside = root / layout.STAGE / f".{Path(path).name}.{secrets.token_hex(8)}"
                with contextlib.suppress(FileNotFoundError):
                    move_aside(root / path, aside, durable=False)
                    moved[path] = aside
            named = _named(root)[1]
        finally:
            back = moved.keys() & named
            for path in back:
                move_back(moved[path], root / path)
        for path in moved.keys() - back:
            shutil.rmtree(moved[path]) if moved[path].is_dir() else moved[path].unlink()
    return set(moved) - back
