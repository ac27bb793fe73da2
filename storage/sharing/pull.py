"""`pull`: a store, or a part of it, from anywhere to a folder here.

Objects come first, each whole and verified; then the documents, the root's zarr.json last: until it is there, there is no
store that a reader would take for one. A pull that was stopped goes on; what is here already is looked at, not fetched.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path

from stillhouse.core.errors import UsageError
from stillhouse.core.events import Reporter
from stillhouse.core.stops import worker_threads
from stillhouse.storage import layout
from stillhouse.storage.disk import create_once, disk_errors, only_process_in, replace_file
from stillhouse.storage.foreign import regular_file
from stillhouse.storage.places.arrival import bring
from stillhouse.storage.places.patience import Passing
from stillhouse.storage.records import ObjectEntry
from stillhouse.storage.remote.opening import Reach
from stillhouse.storage.room import require_room
from stillhouse.storage.seal import Seal

from .cargo import Cargo, ready
from .origin import REMOVE, Origin, read_origin
from .part import Move
from .selection import Selection

THREADS = 8
READ_BYTES = 4 << 20
PROBE_S, PROBE_BYTES = 2.0, 64 << 20


@dataclass(frozen=True, slots=True)
class Moved:
    """What a pull or a push did.

    Args:
        num_objects: how many there are; documents do not count.
        num_bytes: of all objects.
        moved_objects, moved_bytes: those of them that were not there yet.
    """

    sealed: Seal
    num_objects: int
    num_bytes: int
    moved_objects: int
    moved_bytes: int
    seconds: float


def pull(
    where: str,
    root: Path,
    asked: Selection,
    reach: Reach,
    reporter: Reporter,
    *,
    expect: str | None = None,
    threads: int = THREADS,
    dry_run: bool = False,
) -> Moved:
    """Make the folder `root` the store at `where`, or the part of it that is asked for.

    Raises:
        UsageError: there is no sealed store at `where`, it lacks what is asked for, or `root` holds something else.
        CorruptError: what came is not what was sealed, or not what was expected.
        RemoteError: the place does not answer.
        BusyError: another pull is at work in `root`.
    """
    begin, reach = time.monotonic(), reach.telling(reporter)
    if dry_run:
        with ready(where, asked, reach, expect, reporter) as cargo:
            _require_own_here(root, cargo)
            missing = [move for move in cargo.moves if not _is_here(root, move.entry)]
            reporter.say(told(cargo, missing, str(root), _rate(cargo, missing)))
            return _moved(cargo, missing, begin)
    _require_free(root)
    stage = root / layout.STAGE
    with (
        _gone_unless_begun(root),
        only_process_in(stage),
        ready(where, asked, reach, expect, reporter, within=stage) as cargo,
    ):
        _require_own_here(root, cargo)
        create_once(root / layout.ORIGIN, cargo.origin.to_bytes())
        missing = [move for move in cargo.moves if not _is_here(root, move.entry)]
        reporter.say(told(cargo, missing, str(root), _rate(cargo, missing)))
        require_room(root, sum(move.entry.num_bytes for move in missing), f"pull {where}")
        with reporter.task("pull", sum(move.entry.num_bytes for move in missing), "B") as task:

            def fetch(move: Move) -> None:
                target = regular_file(root, move.entry.path)
                bring(cargo.place, move.source, move.entry, target, reach.patience, task.advance)

            in_turn(missing, fetch, threads)
        _write_documents(root, cargo, threads)
    return _moved(cargo, missing, begin)


@contextlib.contextmanager
def _gone_unless_begun(root: Path) -> Iterator[None]:
    """Leave no folder behind where nothing has come to it."""
    try:
        yield
    finally:
        if not (root / layout.LOG).exists():
            with contextlib.suppress(OSError):
                (root / layout.STAGE / ".lock").unlink()
                (root / layout.STAGE).rmdir()
                root.rmdir()


def _require_free(root: Path) -> None:
    """UsageError unless a folder is empty or a store."""
    with disk_errors(root):
        names = set(os.listdir(root)) if root.is_dir() else {root.name} if root.exists() else set()
    if names - {layout.STAGE} and layout.LOG not in names:
        raise UsageError(f"{root} is not empty and not a store", hint="name an empty folder")


def _require_own_here(root: Path, cargo: Cargo) -> None:
    """UsageError unless a folder is empty, or what an earlier pull of the same has left."""
    _require_free(root)
    if (root / layout.LOG).is_dir():
        require_own(read_origin(root), cargo, str(root))


def require_own(found: Origin | None, cargo: Cargo, where: str) -> None:
    """UsageError if what is at `where` is another store; None: one that was made there."""
    if found is None or not found.goes_on(cargo.origin):
        same = found is not None and found.store_id == cargo.origin.store_id
        what = f"another part of that store ({found.selection.told()})" if found and same else "another store"
        raise UsageError(f"{where} holds {what}", hint=REMOVE)


def _is_here(root: Path, entry: ObjectEntry) -> bool:
    """True when an object is there, whole: what a pull that was stopped has left."""
    path = regular_file(root, entry.path)
    try:
        with disk_errors(path), open(path, "rb", buffering=0) as file:
            if path.stat().st_size != entry.num_bytes:
                return False
            digest = hashlib.sha256()
            while piece := file.read(READ_BYTES):
                digest.update(piece)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return digest.hexdigest() == entry.sha256


def _rate(cargo: Cargo, missing: list[Move]) -> float | None:
    """Bytes a second that the place gives one reader, by two seconds of its largest object; None for too little to tell."""
    if sum(move.entry.num_bytes for move in missing) < PROBE_BYTES:
        return None
    largest = max(missing, key=lambda move: move.entry.num_bytes)
    begin, came = time.monotonic(), 0
    with contextlib.suppress(Passing):  # then what came until then tells
        for piece in cargo.place.stream(largest.source) or ():
            came += len(piece)
            if time.monotonic() - begin > PROBE_S:
                break
    return came / max(time.monotonic() - begin, 1e-9) or None


def told(cargo: Cargo, missing: list[Move], where: str, rate: float | None) -> str:
    """What is going to move, in a line."""
    num_bytes = sum(move.entry.num_bytes for move in missing)
    here = len(cargo.moves) - len(missing)
    text = f"{cargo.place.name} to {where}: {len(missing):,} objects, {num_bytes / 1e6:,.1f} MB"
    text += f" ({here:,} of {len(cargo.moves):,} are there)" if here else ""
    return text + (f", about {num_bytes / rate:,.0f} s at {rate / 1e6:,.0f} MB/s" if rate else "")


def in_turn(moves: list[Move], action: Callable[[Move], None], threads: int) -> None:
    """Do something with every object, some at once; the first failure ends it."""
    with worker_threads(threads, "move") as pool:
        for one in as_completed([pool.submit(action, move) for move in moves]):
            one.result()


def _write_documents(root: Path, cargo: Cargo, threads: int) -> None:
    def write(path: str) -> None:
        replace_file(regular_file(root, path), (cargo.folder / path).read_bytes())

    before = [path for path in cargo.paths if not path.startswith((layout.SEALS, layout.CARD))]
    with worker_threads(threads, "documents") as pool:
        list(pool.map(write, before))
    for path in cargo.paths[len(before) :]:
        write(path)


def _moved(cargo: Cargo, moved: list[Move], begin: float) -> Moved:
    num_bytes = sum(move.entry.num_bytes for move in moved)
    return Moved(cargo.sealed, len(cargo.moves), cargo.num_bytes, len(moved), num_bytes, time.monotonic() - begin)
