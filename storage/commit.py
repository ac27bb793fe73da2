"""The only code that makes files appear: stage, sync, decide, publish.

A unit of work (the images of a block, the features of one view of a block) becomes visible in three steps:

1. its objects are written below `_stage/<attempt>/` and synced to disk;
2. a decision record naming them, with sizes and sha256, is created at its final name by link(2), which fails if a
   record is already there: exactly one attempt wins, whoever else tried;
3. the decided objects are renamed to their final names. Any process may repeat this step for a decided unit, and it
   moves the same bytes each time, so a crash between 2 and 3 costs nothing and no lock is needed.

What no record names does not exist for a reader.

A unit that must be made anew (it is damaged, or what it was made from came out otherwise) gets a note in `_log/redo/`.
For whoever writes it counts as undecided from then on; readers keep the old record until step 2 puts the new one in its
place. The note names the record that it is about, so it can never throw away a later one.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from stillhouse.core.errors import BusyError, CorruptError, MissingError, ResourceError

from . import foreign
from .layout import FORGOTTEN, REDO, STAGE, record_path, redo_path

MAX_JSON_BYTES = 64 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_MANY = (errno.EMFILE, errno.ENFILE)
_BROKEN = (
    errno.EIO,
    errno.ENXIO,
    errno.ENODEV,
    errno.EBADMSG,
    errno.EUCLEAN,
    errno.EREMOTEIO,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ETIMEDOUT,
)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLINK)
_ATTEMPT = re.compile(r"[0-9a-f]{32}")
_PATH = re.compile(r"[a-z0-9][\w.-]*(/[a-z0-9][\w.-]*)+", re.ASCII)  # relative, and no part starts with a dot


@dataclass(frozen=True, slots=True)
class ObjectEntry:
    """One published object: its path in the store, its size and its sha256 in hex."""

    path: str
    num_bytes: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        return {"path": self.path, "bytes": self.num_bytes, "sha256": self.sha256}


@dataclass(frozen=True, slots=True)
class Record:
    """The decision about one unit: which attempt's objects are its content."""

    unit: str
    attempt: str
    objects: tuple[ObjectEntry, ...]
    facts: dict[str, Any]


@contextlib.contextmanager
def disk_errors(path: Path | str) -> Iterator[None]:
    """Turn an OSError about the disk or permissions into a ResourceError that names the path.

    Args:
        path: what a person knows; a temporary file beside it may be what failed. A text instead of a Path stands in when
            the error names no file.
    """
    try:
        yield
    except OSError as error:
        where = path if isinstance(path, Path) else error.filename or path
        if error.errno in _FULL:
            raise ResourceError(f"no space left while writing {where}", hint="free some space and run again") from error
        if error.errno in _DENIED:
            uid = os.getuid()
            raise ResourceError(
                f"{where}: {error.strerror} (as uid {uid})", hint="use a place you may write"
            ) from error
        if error.errno in _MANY:
            raise ResourceError(f"{where}: {error.strerror}", hint="raise the limit: `ulimit -n`") from error
        if error.errno in _BROKEN:
            which = "" if error.errno == errno.EIO else f" ({error.strerror})"
            message = f"{where}: the disk reported an input/output error{which}"
            raise ResourceError(message, hint="check the disk") from error
        raise


def canonical_json(value: Any) -> bytes:
    """One byte form for one value: sorted keys, no spaces, UTF-8, newline at the end."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def signed_json(body: dict[str, Any]) -> bytes:
    """`canonical_json` of a body with the body's own sha256 in it, for `read_signed_json`."""
    return canonical_json(body | {"self_sha256": hashlib.sha256(canonical_json(body)).hexdigest()})


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_synced(path: Path, chunks: Iterable[bytes | memoryview]) -> tuple[int, str]:
    """Write and fsync a new file; returns its size in bytes and its sha256."""
    digest, num_bytes = hashlib.sha256(), 0
    with open(path, "xb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            num_bytes += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return num_bytes, digest.hexdigest()


@contextlib.contextmanager
def _written_beside(path: Path, data: bytes) -> Iterator[Path]:
    """A synced temporary file with `data` in the folder of `path`; it is gone afterwards, the folder synced."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            write_synced(temporary, [data])
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def create_once(path: Path, data: bytes) -> bool:
    """Create `path` with `data` unless it exists; True if this call created it. Atomic and durable."""
    with _written_beside(path, data) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno in _NO_LINKS:
                message = f"{path}: its file system makes no hard links ({error.strerror})"
                raise ResourceError(message, hint="use another disk, such as ext4, xfs or NFS") from error
            raise
    return True


def replace_file(path: Path, data: bytes) -> None:
    """Write `path`, replacing what was there. Atomic and durable."""
    with _written_beside(path, data) as temporary:
        os.replace(temporary, path)


def publish_folder(staged: Path, final: Path) -> None:
    """Give a complete, synced folder its final name. The final name must be free."""
    with disk_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        sync_folder(staged)
        os.rename(staged, final)
        sync_folder(final.parent)


def move_aside(path: Path, aside: Path) -> None:
    """Give a file another name, durably."""
    with disk_errors(aside):
        aside.parent.mkdir(parents=True, exist_ok=True)
        os.rename(path, aside)
        sync_folder(aside.parent)
        sync_folder(path.parent)


@contextlib.contextmanager
def only_process_in(folder: Path) -> Iterator[None]:
    """Hold a folder that one process at a time may write to. The hold ends with the process, however that ends.

    Raises:
        BusyError: another process holds it.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(
                f"another process is at work in {folder}", hint="wait until it is done, then run the same command again"
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):  # a network disk without locks
                raise
        yield
    finally:
        os.close(descriptor)


class Attempt:
    """One try at a unit: collects staged objects, then commits them together.

    Use as a context manager; leaving it removes what was staged and not published.
    """

    def __init__(self, root: Path, unit: str) -> None:
        self.unit = unit
        self.id = secrets.token_hex(16)
        self._root = root
        self._folder = root / STAGE / self.id
        self._objects: list[ObjectEntry] = []
        self._begin = time.monotonic()

    def __enter__(self) -> Self:
        with disk_errors(self._folder.parent):
            self._folder.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._may_be_decided():
            shutil.rmtree(self._folder, ignore_errors=True)

    def _may_be_decided(self) -> bool:
        """True when the record names this attempt, or cannot be read: what is staged is then all there is of the unit."""
        try:
            record = read_record(self._root, self.unit)
        except (CorruptError, ResourceError, OSError):
            return True
        return record is not None and record.attempt == self.id

    def add(self, path: str, chunks: Iterable[bytes | memoryview]) -> ObjectEntry:
        """Stage one object that will be published at `path`."""
        with disk_errors(self._root / path):
            num_bytes, sha256 = write_synced(self._folder / staged_name(path), chunks)
        entry = ObjectEntry(path, num_bytes, sha256)
        self._objects.append(entry)
        return entry

    def commit(self, facts: dict[str, Any]) -> Record:
        """Decide and publish; returns the record that won, which may be another attempt's."""
        with disk_errors(self._folder.parent):
            sync_folder(self._folder)
            sync_folder(self._folder.parent)
        body: dict[str, Any] = {
            "unit": self.unit,
            "attempt": self.id,
            "objects": [entry.to_json() for entry in self._objects],
            "facts": facts,
            "seconds": round(time.monotonic() - self._begin, 3),
        }
        _decide(self._root, self.unit, self._objects, signed_json(body))
        record = read_record(self._root, self.unit)
        if record is None:
            raise MissingError(f"record {record_path(self.unit)} vanished", hint="is something else deleting files?")
        publish(self._root, record)
        return record


@dataclass(frozen=True, slots=True)
class Redo:
    """A note that a unit is to be made anew.

    Args:
        record_sha256: of the record file that must go; None if the record was gone already.
        why: one line for a person.
        dependents: units made from this one, which must follow if it comes out with other bytes than it had.
    """

    unit: str
    record_sha256: str | None
    why: str
    dependents: tuple[str, ...] = ()


def note_redo(root: Path, redo: Redo) -> None:
    """From now on whoever writes makes this unit anew, unless its record has changed since."""
    body = {"unit": redo.unit, "record_sha256": redo.record_sha256, "why": redo.why}
    replace_file(root / redo_path(redo.unit), signed_json({**body, "dependents": list(redo.dependents)}))


def noted_redo(root: Path, unit: str) -> Redo | None:
    """The note about a unit, unless it has been made anew since."""
    path = root / redo_path(unit)
    hint = f"delete that file, then run `{VERIFY} {root}`"
    body = read_signed_json(path, hint)
    if body is None:
        return None
    try:
        redo = Redo(body["unit"], body["record_sha256"], body["why"], tuple(body["dependents"]))
    except (KeyError, TypeError) as error:
        raise CorruptError(f"{path} lacks {error}", hint=hint) from error
    return redo if redo.unit == unit and redo.record_sha256 == record_sha256(root, unit) else None


def record_sha256(root: Path, unit: str) -> str | None:
    """sha256 of the file of a unit's record as it is now, readable or not; None when there is none."""
    return _sha256(root / record_path(unit))


def _sha256(path: Path) -> str | None:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError):
        return None


def _decide(root: Path, unit: str, objects: Sequence[ObjectEntry], data: bytes) -> None:
    """Make `data` the record of a unit that is undecided or to be made anew; else leave the record that is there."""
    if noted_redo(root, unit) is None:
        create_once(root / record_path(unit), data)
        return
    with _exclusive(root / REDO):
        redo = noted_redo(root, unit)  # another process may have been faster
        if redo is not None:
            _supersede(root, redo, objects, data)
    if redo is None:
        create_once(root / record_path(unit), data)


def _supersede(root: Path, redo: Redo, objects: Sequence[ObjectEntry], data: bytes) -> None:
    """Put a new record in the place of the old one, which stays readable below `_log/forgotten/`."""
    path = root / record_path(redo.unit)
    old = _readable(root, redo.unit)
    if _decoded_otherwise(root, old, objects):
        for dependent in redo.dependents:  # before the new record: a crash after it must not lose them
            decided = record_sha256(root, dependent)
            if decided is not None:
                note_redo(root, Redo(dependent, decided, f"{redo.unit} came out with other bytes than it had"))
    if redo.record_sha256 is not None:
        aside = root / FORGOTTEN / f"{redo.unit.replace('/', '__')}.{redo.record_sha256[:12]}.json"
        with disk_errors(aside):
            aside.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.link(path, aside)
            sync_folder(aside.parent)
    replace_file(path, data)
    if old is not None:  # a process that decided it and then slept must not publish it over the new one
        shutil.rmtree(root / STAGE / old.attempt, ignore_errors=True)
    (root / redo_path(redo.unit)).unlink(missing_ok=True)


def _readable(root: Path, unit: str) -> Record | None:
    try:
        return read_record(root, unit)
    except CorruptError:
        return None


STATISTICS = ("/mean/c/0", "/std/c/0")
"""Objects of a codec that decode nothing: features stay right whatever they hold."""


def _decoded_otherwise(root: Path, old: Record | None, objects: Sequence[ObjectEntry]) -> bool:
    """True when a unit differs from what it was: by its old record or, if that cannot be read, by the files there."""
    before = None if old is None else {entry.path: entry.sha256 for entry in old.objects}
    return any(
        entry.sha256 != (_sha256(root / entry.path) if before is None else before.get(entry.path))
        for entry in objects
        if not entry.path.endswith(STATISTICS)
    )


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """One process at a time, for the moment that changing a record takes; a lock ends with its process."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):  # a network disk without locks
                raise
        yield
    finally:
        os.close(descriptor)


def staged_name(path: str) -> str:
    """The flat file name of an object inside its attempt's folder."""
    return path.replace("/", "__")


def publish(root: Path, record: Record) -> None:
    """Bring every decided object to its final name, replacing whatever an older decision left there.

    Raises:
        MissingError: an object is neither staged nor published.
    """
    folders = set()
    for entry in record.objects:
        final = root / entry.path
        staged = root / STAGE / record.attempt / staged_name(entry.path)
        with disk_errors(final):
            final.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.rename(staged, final)
            except FileNotFoundError:
                if final.exists() and final.stat().st_size == entry.num_bytes:
                    continue  # published before, by us or by another process
                raise MissingError(
                    f"{entry.path} of unit {record.unit} is neither published nor staged", hint=f"run `{VERIFY} {root}`"
                ) from None
        folders.add(final.parent)
    for folder in folders:
        with disk_errors(folder):
            sync_folder(folder)
    with contextlib.suppress(OSError):  # an attempt that died after deciding leaves its folder empty
        os.rmdir(root / STAGE / record.attempt)


VERIFY = "stillhouse verify"


def read_record(root: Path, unit: str) -> Record | None:
    """The decision about `unit`, or None when it is undecided.

    Raises:
        CorruptError: the record is not the bytes that were written.
    """
    path = root / record_path(unit)
    hint = f"run `{VERIFY} {root}`"
    body = read_signed_json(path, hint, root=root, max_bytes=foreign.MAX_RECORD_BYTES)
    if body is None:
        return None
    try:
        objects = tuple(ObjectEntry(o["path"], o["bytes"], o["sha256"]) for o in body["objects"])
        record = Record(body["unit"], body["attempt"], objects, body["facts"])
        named = all(_PATH.fullmatch(entry.path) for entry in objects) and _ATTEMPT.fullmatch(record.attempt)
    except (KeyError, TypeError) as error:
        raise CorruptError(f"record {path} lacks {error}", hint=hint) from error
    if record.unit != unit or not named:
        raise CorruptError(f"record {path} is about {record.unit!r} or names objects outside the store", hint=hint)
    for entry in objects:
        foreign.check_object(entry.path, entry.num_bytes, entry.sha256, f"record {path}")
    foreign.check_facts(unit, record.facts, f"record {path}")
    return record


def read_signed_json(
    path: Path, hint: str, *, root: Path | None = None, max_bytes: int = MAX_JSON_BYTES
) -> dict[str, Any] | None:
    """The body that `signed_json` was given, or None when there is no such file.

    Args:
        root: as for `read_json`.

    Raises:
        CorruptError: the file is not the bytes that were written; `hint` says what to do then.
    """
    body = read_json(path, hint, root=root, max_bytes=max_bytes)
    if body is None:
        return None
    claimed = body.pop("self_sha256", None)
    try:
        actual = hashlib.sha256(canonical_json(body)).hexdigest()
    except (ValueError, RecursionError):
        actual = "none: it holds what we never write, such as NaN"
    if claimed != actual:
        raise CorruptError(f"{path} does not match its own sha256", hint=hint)
    return body


def read_json(
    path: Path,
    hint: str = "restore it from a copy",
    *,
    root: Path | None = None,
    max_bytes: int = MAX_JSON_BYTES,
) -> dict[str, Any] | None:
    """A JSON object from disk, or None when there is no such file. Limited in size and depth; `hint` goes into errors.

    Args:
        root: the store that the file is part of: no link below it is followed.
    """
    with disk_errors(path):
        place = path if root is None else foreign.regular_file(root, path.relative_to(root).as_posix())
        data = foreign.read_capped(place, max_bytes)
    if data is None:
        return None
    value = foreign.parse_json(data, str(path), hint)
    if not isinstance(value, dict):
        raise CorruptError(f"{path} holds {type(value).__name__}, expected an object", hint=hint)
    return value
