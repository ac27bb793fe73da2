"""Files that appear whole or not at all, and what the disk says when it cannot.

Nothing here knows what a store is. Every name is given once its bytes are synced, and the folder is synced after it.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from io import BufferedWriter
from pathlib import Path

from stillhouse.core.errors import BusyError, ResourceError

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


@contextlib.contextmanager
def arriving(path: Path) -> Iterator[BufferedWriter]:
    """A new file that is given its name, durably, when the block is done; nothing of it stays when the block fails.

    Buffered: an unbuffered write takes what there is room for, and says so by a count alone.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
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


def move_aside(path: Path, aside: Path, *, durable: bool = True) -> None:
    """Give a file another name; unless `durable`, it may be back after a crash of the machine."""
    with disk_errors(aside):
        aside.parent.mkdir(parents=True, exist_ok=True)
        os.rename(path, aside)
        if durable:
            sync_folder(aside.parent)
            sync_folder(path.parent)


def move_back(aside: Path, path: Path) -> None:
    """Undo `move_aside`, unless the name has gone to something newer since."""
    with disk_errors(path):
        if aside.is_dir():
            os.rename(aside, path)
        else:
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
            aside.unlink()


def only_process_in(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Hold a folder that one process at a time may write to. The hold ends with the process, however that ends.

    Raises:
        BusyError: another process holds it.
    """
    return _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)


def one_at_a_time(folder: Path) -> contextlib.AbstractContextManager[None]:
    """One process at a time, for the moment that changing a record takes; a lock ends with its process."""
    return _locked(folder, fcntl.LOCK_EX)


@contextlib.contextmanager
def _locked(folder: Path, operation: int) -> Iterator[None]:
    """A lock on a folder; a network disk without locks holds nobody up."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, operation)
        except BlockingIOError as error:
            raise BusyError(
                f"another process is at work in {folder}", hint="wait until it is done, then run the same command again"
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
                raise
        yield
    finally:
        os.close(descriptor)


def names_in(folder: Path) -> list[str]:
    """The names in a folder, sorted; none when it is not there. One that may not be read is an error, not empty."""
    try:
        with disk_errors(folder):
            return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def link_once(path: Path, aside: Path) -> None:
    """Give a file a second name, durably, unless that name is taken."""
    with disk_errors(aside):
        aside.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.link(path, aside)
        sync_folder(aside.parent)
