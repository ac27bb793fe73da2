"""Encoded images of a block in one WebDataset tar; members are read by offset, never by scanning."""

import os
import tarfile
import weakref
from pathlib import Path

from stillhouse.core.errors import CorruptError, MissingError
from stillhouse.core.timing import timed

from .crc import crc32c
from .disk import disk_errors

SECTOR = 512
MAX_ENCODED_BYTES = 256 << 20
VERIFY = "run `stillhouse verify` on the store"


def member_header(name: str, num_bytes: int) -> bytes:
    """The 512-byte USTAR header of a regular file: fixed time, owner and mode, so that equal images give equal tars."""
    info = tarfile.TarInfo(name)
    info.size = num_bytes
    info.mode = 0o644
    return info.tobuf(format=tarfile.USTAR_FORMAT)


def padding(num_bytes: int) -> bytes:
    """Zeros up to the next sector."""
    return bytes(-num_bytes % SECTOR)


def tar_end() -> bytes:
    """The two empty sectors that end a tar."""
    return bytes(2 * SECTOR)


class TarLayout:
    """Hands out the chunks of a tar member by member and remembers where payloads begin."""

    def __init__(self) -> None:
        self.position = 0

    def member(self, name: str, payload: bytes) -> tuple[int, list[bytes]]:
        """(offset of the payload, chunks to write) for the next member."""
        header = member_header(name, len(payload))
        offset = self.position + len(header)
        chunks = [header, payload, padding(len(payload))]
        self.position += sum(len(chunk) for chunk in chunks)
        return offset, chunks


class ImageReader:
    """Members of one block's tar by (offset, length, crc32c). Thread-safe.

    Args:
        num_bytes: the size that its record gives; another size is an error at once.
        hint: what to do about a tar that is not what its record says.
    """

    def __init__(self, path: Path, num_bytes: int, *, hint: str = VERIFY) -> None:
        self.path, self._hint = path, hint
        try:
            with disk_errors(path):
                self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise MissingError(f"images {path} are not there", hint=hint) from None
        self._size = size = os.fstat(self._fd).st_size
        if size != num_bytes:
            os.close(self._fd)
            raise CorruptError(f"{path} has {size} bytes, its record says {num_bytes}", hint=hint)
        self.close = weakref.finalize(self, os.close, self._fd)

    def read(self, offset: int, length: int, crc: int, key: str) -> bytes:
        """The encoded bytes of one image, checked against the index."""
        if not (0 <= offset <= self._size and 0 <= length <= min(self._size - offset, MAX_ENCODED_BYTES)):
            place = f"{length} bytes at offset {offset}"
            raise CorruptError(
                f"image {key!r} is {place} of {self.path}, which has {self._size} bytes", hint=self._hint
            )
        with disk_errors(self.path), timed("read"):
            data = os.pread(self._fd, length, offset)
        with timed("verify"):
            whole = len(data) == length and crc32c(data) == crc
        if not whole:
            message = f"image {key!r} at offset {offset} of {self.path} does not match its crc32c"
            raise CorruptError(message, hint=self._hint)
        return data
