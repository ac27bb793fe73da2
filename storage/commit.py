"""The only code that makes files appear: stage, sync, decide, publish.

A unit of work (the images of a block, the features of one view of a block) becomes visible in three steps:

1. its objects are written below `_stage/<attempt>/` and synced to disk;
2. a decision record naming them, with sizes and sha256, is created at its final name by link(2), which fails if a
   record is already there: exactly one attempt wins, whoever else tried;
3. the decided objects are renamed to their final names. Any process may repeat this step for a decided unit, and it
   moves the same bytes each time, so a crash between 2 and 3 costs nothing and no lock is needed.

What no record names does not exist for a reader.
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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from stillhouse.core.errors import BusyError, CorruptError, MissingError, ResourceError

from .layout import STAGE, record_path

MAX_RECORD_BYTES = 64 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
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
    """Turn an OSError about the disk or permissions into a ResourceError that names the path."""
    try:
        yield
    except OSError as error:
        where = error.filename or str(path)
        if error.errno in _FULL:
            raise ResourceError(f"no space left while writing {where}", hint="free some space and run again") from error
        if error.errno in _DENIED:
            uid = os.getuid()
            raise ResourceError(
                f"{where}: {error.strerror} (as uid {uid})", hint="use a place you may write"
            ) from error
        if error.errno == errno.EIO:
            raise ResourceError(f"{where}: the disk reported an input/output error", hint="check the disk") from error
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

    def __enter__(self) -> Self:
        with disk_errors(self._folder):
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
        with disk_errors(self._folder):
            sync_folder(self._folder)
            sync_folder(self._folder.parent)
        body: dict[str, Any] = {
            "unit": self.unit,
            "attempt": self.id,
            "objects": [entry.to_json() for entry in self._objects],
            "facts": facts,
        }
        create_once(self._root / record_path(self.unit), signed_json(body))
        record = read_record(self._root, self.unit)
        if record is None:
            raise MissingError(f"record {record_path(self.unit)} vanished", hint="is something else deleting files?")
        publish(self._root, record)
        return record


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
    body = read_signed_json(path, hint)
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
    return record


def read_signed_json(path: Path, hint: str) -> dict[str, Any] | None:
    """The body that `signed_json` was given, or None when there is no such file.

    Raises:
        CorruptError: the file is not the bytes that were written; `hint` says what to do then.
    """
    body = read_json(path, hint)
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


def read_json(path: Path, hint: str = "restore it from a copy") -> dict[str, Any] | None:
    """A JSON object from disk, or None when there is no such file. Size-capped; `hint` goes into errors."""
    try:
        with disk_errors(path):
            if path.stat().st_size > MAX_RECORD_BYTES:
                raise CorruptError(
                    f"{path} is larger than {MAX_RECORD_BYTES} bytes", hint="it was not written by stillhouse"
                )
            value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{path} is not valid JSON", hint=hint) from error
    if not isinstance(value, dict):
        raise CorruptError(f"{path} holds {type(value).__name__}, expected an object", hint=hint)
    return value
