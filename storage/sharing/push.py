"""`push`: a store, or a part of it, from a folder here to anywhere that takes files.

Objects come first, then documents, the root's zarr.json last: whoever opens the place meanwhile finds no store, or the one
that was there. Every file goes with its sha256 as a note, by which a push that was stopped knows what is there.
"""

import hashlib
import time
from pathlib import Path

from stillhouse.core.errors import CorruptError, RemoteError, UsageError
from stillhouse.core.events import Reporter
from stillhouse.core.stops import worker_threads
from stillhouse.storage import foreign, layout
from stillhouse.storage.disk import disk_errors
from stillhouse.storage.places.arrival import read_whole
from stillhouse.storage.places.base import WritablePlace, is_url, open_place
from stillhouse.storage.places.decision import decide
from stillhouse.storage.places.patience import Passing, Patience
from stillhouse.storage.remote.opening import Reach

from .cargo import Cargo, ready
from .origin import Origin, parsed
from .part import Move
from .pull import READ_BYTES, THREADS, Moved, in_turn, pull, require_own, told
from .selection import Selection


def push(
    root: Path,
    where: str,
    asked: Selection,
    reach: Reach,
    reporter: Reporter,
    *,
    threads: int = THREADS,
    dry_run: bool = False,
) -> Moved:
    """Make the place `where` the store in the folder `root`, or the part of it that is asked for.

    Raises:
        UsageError: there is no sealed store, it lacks what is asked for, or something else is at `where`.
        CorruptError: the store is damaged here.
        RemoteError: the place does not answer, or does not take files.
    """
    if is_url(str(root)):
        raise UsageError(f"push takes a folder, got {root}", hint="pull it to a folder first")
    if not is_url(where):
        return pull(str(root), Path(where), asked, reach, reporter, threads=threads, dry_run=dry_run)
    begin, place, reach = time.monotonic(), open_place(where, reach.access), reach.telling(reporter)
    if not isinstance(place, WritablePlace):
        raise UsageError(
            f"{place.name} only gives files", hint="push to the folder that its server serves, or to a bucket"
        )
    with ready(str(root), asked, reach, None, reporter) as cargo:
        _require_own_there(place, cargo, reach.patience)
        missing = _missing(place, cargo, reach.patience, threads)
        reporter.say(told(cargo, missing, place.name, None))
        if not dry_run:
            _claim(place, cargo, reach.patience)
            with reporter.task("push", sum(move.entry.num_bytes for move in missing), "B") as task:

                def send(move: Move) -> None:
                    file = foreign.regular_file(root, move.source)
                    _require_whole(file, move)
                    _write(place, move.entry.path, file, move.entry.sha256, reach.patience)
                    task.advance(move.entry.num_bytes)

                in_turn(missing, send, threads)
            _write_documents(place, cargo, reach.patience, threads)
    num_bytes = sum(move.entry.num_bytes for move in missing)
    seconds = time.monotonic() - begin
    return Moved(cargo.sealed, len(cargo.moves), cargo.num_bytes, len(missing), num_bytes, seconds)


def _require_own_there(place: WritablePlace, cargo: Cargo, patience: Patience) -> None:
    """UsageError unless a place is empty, or what an earlier push of the same has left."""
    data = read_whole(place, layout.ORIGIN, foreign.MAX_SPEC_BYTES, patience)
    if data is not None:
        require_own(_origin(data, f"{place.name}/{layout.ORIGIN}"), cargo, place.name)
    elif patience.ask(place.name, lambda: place.told(layout.CARD)) is not None:
        require_own(None, cargo, place.name)


def _missing(place: WritablePlace, cargo: Cargo, patience: Patience, threads: int) -> list[Move]:
    """The objects that are not there yet, by the size and the note that the place tells."""

    def is_there(move: Move) -> bool:
        found = patience.ask(f"{place.name}/{move.entry.path}", lambda: place.told(move.entry.path))
        return found is not None and (found.num_bytes, found.sha256) == (move.entry.num_bytes, move.entry.sha256)

    with worker_threads(threads, "look") as pool:
        there = list(pool.map(is_there, cargo.moves))
    return [move for move, one in zip(cargo.moves, there, strict=True) if not one]


def _claim(place: WritablePlace, cargo: Cargo, patience: Patience) -> None:
    """Note whose copy comes here, before the first object does; it may be somebody else's just now."""
    where, data = f"{place.name}/{layout.ORIGIN}", cargo.origin.to_bytes()
    found = decide(place, layout.ORIGIN, data, foreign.MAX_SPEC_BYTES, patience)
    if found != data:
        require_own(_origin(found, where), cargo, place.name)


def _origin(data: bytes, where: str) -> Origin:
    body = foreign.mapping(foreign.parse_json(data, where), where, "the note of origin")
    body.pop("self_sha256", None)
    return parsed(body, where)


def _require_whole(file: Path, move: Move) -> None:
    digest = hashlib.sha256()
    with disk_errors(file), open(file, "rb", buffering=0) as opened:
        while piece := opened.read(READ_BYTES):
            digest.update(piece)
    if digest.hexdigest() != move.entry.sha256:
        message = f"{file} has sha256 {digest.hexdigest()[:12]}, its record says {move.entry.sha256[:12]}"
        raise CorruptError(message, hint="run `stillhouse repair` with the config of the store, then push again")


def _write(place: WritablePlace, path: str, file: Path, sha256: str, patience: Patience) -> None:
    """Put a file there, and look whether it is: what was asked twice may have been cut once."""
    size = file.stat().st_size

    def once() -> None:
        place.write(path, file, sha256)
        found = place.told(path)
        if found is None or found.num_bytes != size:
            raise Passing("it is not there whole after it was written")
        if found.sha256 != sha256:
            message = f"{place.name}/{path}: the place does not keep the note of its sha256"
            raise RemoteError(message, hint="a bucket has to keep metadata (x-amz-meta-…)")

    patience.ask(f"{place.name}/{path}", once)


def _write_documents(place: WritablePlace, cargo: Cargo, patience: Patience, threads: int) -> None:
    def write(path: str) -> None:
        file = cargo.folder / path
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        _write(place, path, file, sha256, patience)

    before = [
        path for path in cargo.paths if path != layout.ORIGIN and not path.startswith((layout.SEALS, layout.CARD))
    ]
    with worker_threads(threads, "documents") as pool:
        list(pool.map(write, before))
    for path in [path for path in cargo.paths if path.startswith((layout.SEALS, layout.CARD))]:
        write(path)
