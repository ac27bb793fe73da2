"""What a disk must give before work begins: the right to write, and the room."""

import errno
import os
from pathlib import Path

from stillhouse.core.errors import ResourceError

from .disk import disk_errors


def require_writable(folder: Path) -> None:
    """ResourceError unless files can be made in `folder`, or where it is going to be made."""
    there = nearest(folder)
    with disk_errors(folder):
        if there.is_dir() and not os.access(there, os.W_OK | os.X_OK):
            number = errno.EROFS if os.statvfs(there).f_flag & os.ST_RDONLY else errno.EACCES
            raise OSError(number, os.strerror(number))


def require_room(folder: Path, num_bytes: int, step: str) -> None:
    """ResourceError when the file system of `folder` has less than `num_bytes` left for `step`."""
    disk = os.statvfs(nearest(folder))
    free = disk.f_bavail * disk.f_frsize
    if disk.f_blocks and free < num_bytes:  # some network disks do not say how large they are
        message = f"{step} needs about {_megabytes(num_bytes)} more in {folder}, {_megabytes(free)} are free"
        raise ResourceError(message, hint="free some space, or put `store` on another disk")


def nearest(folder: Path) -> Path:
    """`folder`, or the first one above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"
