"""Rows that Zarr's zstd codec made small: one frame a row, opened only if it says that it holds just the row.

A frame of 32 KB can hold a gigabyte, so its header is read first (RFC 8878, section 3.1.1.1).
"""

import numpy as np
import numpy.typing as npt
from numcodecs.zstd import Zstd

from stillhouse.core.errors import CorruptError

from .layout import ZSTD_LEVEL

MAGIC = 0xFD2FB528
_SIZE_BYTES = (0, 2, 4, 8)
_DICTIONARY_BYTES = (0, 1, 2, 4)


def compress(row: npt.NDArray[np.uint8]) -> bytes:
    """One frame that states its size."""
    return bytes(Zstd(ZSTD_LEVEL).encode(row))


def largest_frame(num_bytes: int) -> int:
    """The most bytes that a frame of `num_bytes` takes: what zstd calls its compress bound."""
    return num_bytes + (num_bytes >> 8) + 512


def frame_content_size(frame: bytes) -> int | None:
    """What a frame says it holds, in bytes; None if it does not say, or is no frame."""
    if len(frame) < 6 or int.from_bytes(frame[:4], "little") != MAGIC:
        return None
    descriptor = frame[4]
    single_segment = bool(descriptor & 0x20)
    size_bytes = _SIZE_BYTES[descriptor >> 6] or int(single_segment)
    start = 5 + (0 if single_segment else 1) + _DICTIONARY_BYTES[descriptor & 3]
    field = frame[start : start + size_bytes]
    if not size_bytes or len(field) < size_bytes:
        return None
    return int.from_bytes(field, "little") + (256 if size_bytes == 2 else 0)


def decompress(frame: bytes, out: npt.NDArray[np.uint8], where: str) -> None:
    """Fill `out` with the content of a frame; CorruptError naming `where` unless it is just that long."""
    holds = frame_content_size(frame)
    hint = "run `stillhouse verify` on the store"
    if holds != out.size:
        raise CorruptError(f"{where} is no zstd frame of {out.size} bytes, it says {holds}", hint=hint)
    try:
        Zstd().decode(frame, out)
    except (RuntimeError, ValueError) as error:
        raise CorruptError(f"{where} cannot be decompressed: {error}", hint=hint) from error
