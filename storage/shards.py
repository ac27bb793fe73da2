"""Zarr v3 shards written in one pass and read directly, one inner chunk per row.

zarr-python reads the same files; it asks its event loop once per row, which costs forty times the disk. A shard here
is rows of equal size, each followed by its crc32c, then the index of (offset, length) pairs and the index's own
crc32c. A row that was never written has the index entry (2^64-1, 2^64-1).

Legend: B rows of a block, R bytes of a row.
"""

import os
import struct
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import google_crc32c
import numpy as np
import numpy.typing as npt

from stillhouse.core.errors import CorruptError, MissingError

from .commit import disk_errors

ABSENT = np.uint64(2**64 - 1)
CRC_BYTES = 4
MAX_ROWS_A_CALL = 256
"""preadv takes at most 1024 pieces, two of them a row."""

Bytes2D = npt.NDArray[np.uint8]


def crc32c(data: bytes | npt.NDArray[np.uint8]) -> int:
    """The CRC-32C (Castagnoli) of bytes or of a contiguous array, which the C code reads in place."""
    return int(google_crc32c.value(data))


def with_crc(data: bytes) -> bytes:
    """`data` followed by its crc32c: what Zarr's crc32c codec stores for one chunk."""
    return data + struct.pack("<I", crc32c(data))


def without_crc(data: bytes, where: str) -> bytes:
    """The checked payload of `with_crc`; CorruptError naming `where` on mismatch."""
    payload, stored = data[:-CRC_BYTES], data[-CRC_BYTES:]
    if len(data) < CRC_BYTES or struct.pack("<I", crc32c(payload)) != stored:
        raise CorruptError(f"{where} does not match its crc32c", hint="run `stillhouse verify` on the store")
    return payload


def shard_chunks(rows_BR: Bytes2D, present_B: npt.NDArray[np.bool_]) -> Iterator[memoryview]:
    """The bytes of one shard as two pieces, rows then index.

    Args:
        rows_BR: uint8 row payloads; rows that are not present are ignored.
        present_B: which rows exist.
    """
    num_rows, row_bytes = rows_BR.shape
    kept = np.flatnonzero(present_B)
    body = np.empty((len(kept), row_bytes + CRC_BYTES), np.uint8)
    body[:, :row_bytes] = rows_BR[kept] if len(kept) < num_rows else rows_BR
    crcs = np.array([crc32c(row[:row_bytes]) for row in body], "<u4")
    body[:, row_bytes:] = crcs.view(np.uint8).reshape(-1, CRC_BYTES)
    index = np.full((num_rows, 2), ABSENT, "<u8")
    index[kept, 0] = np.arange(len(kept), dtype=np.uint64) * np.uint64(row_bytes + CRC_BYTES)
    index[kept, 1] = row_bytes + CRC_BYTES
    yield body.reshape(-1).data.toreadonly()
    yield memoryview(with_crc(index.tobytes()))


class ShardReader:
    """Verified rows of one shard file. Thread-safe: reads use pread and share no position.

    Args:
        path: the shard file.
        num_rows: rows of a full block (B), which fixes the size of the index.
        row_bytes: bytes of one row without its crc (R).
        num_bytes: the size that the decision record gives; another size is an error at once.
    """

    def __init__(self, path: Path, num_rows: int, row_bytes: int, num_bytes: int) -> None:
        self.path = path
        self._row_bytes = row_bytes
        try:
            with disk_errors(path):
                self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise MissingError(f"shard {path} is not there", hint="run `stillhouse verify` on the store") from None
        try:
            size = os.fstat(self._fd).st_size
            if size != num_bytes:
                raise CorruptError(f"shard {path} has {size} bytes, its record says {num_bytes}", hint=_VERIFY)
            self._offset_B = self._read_index(num_rows, size)
        except BaseException:
            os.close(self._fd)
            raise
        self.close = weakref.finalize(self, os.close, self._fd)

    def _read_index(self, num_rows: int, size: int) -> npt.NDArray[np.int64]:
        index_bytes = 16 * num_rows + CRC_BYTES
        if size < index_bytes:
            raise CorruptError(f"shard {self.path} is too short for its index", hint=_VERIFY)
        raw = without_crc(os.pread(self._fd, index_bytes, size - index_bytes), f"the index of shard {self.path}")
        index = np.frombuffer(raw, "<u8").reshape(num_rows, 2)
        absent = (index == ABSENT).all(axis=1)
        stride = self._row_bytes + CRC_BYTES
        room = size - index_bytes - stride
        inside = (index[:, 1] == stride) & (index[:, 0] <= np.uint64(max(room, 0))) & (room >= 0)
        if not (absent | inside).all():
            raise CorruptError(
                f"shard {self.path} has index entries outside the file or of a wrong length", hint=_VERIFY
            )
        if (np.diff(np.sort(index[~absent, 0])) < stride).any():
            raise CorruptError(f"shard {self.path} has rows that overlap", hint=_VERIFY)
        offset_B: npt.NDArray[np.int64] = np.where(absent, np.uint64(0), index[:, 0]).astype(np.int64)
        offset_B[absent] = -1
        return offset_B

    @property
    def present_B(self) -> npt.NDArray[np.bool_]:
        """Which rows of the block exist."""
        return self._offset_B >= 0

    def read(self, rows: Sequence[int] | npt.NDArray[np.int64], out: Bytes2D | None = None) -> Bytes2D:
        """uint8 [len(rows), R]: the payloads of `rows` in their order, each checked against its crc32c.

        Raises:
            MissingError: a row was never written (quarantined, or beyond the block's samples).
            CorruptError: a row does not match its crc32c.
        """
        rows = np.asarray(rows, np.int64)
        if (rows < 0).any():
            raise IndexError(f"row {rows.min()} of shard {self.path}: rows count from 0")
        offsets = self._offset_B[rows]
        if (offsets < 0).any():
            row = int(rows[int(np.argmax(offsets < 0))])
            raise MissingError(f"shard {self.path} has no row {row}", hint="quarantined samples have no features")
        if out is None:
            out = np.empty((len(rows), self._row_bytes), np.uint8)
        if out.shape != (len(rows), self._row_bytes) or not out.flags.c_contiguous:
            raise ValueError(f"out must be contiguous uint8 [{len(rows)}, {self._row_bytes}], got {out.shape}")
        stored_crcs = np.empty((len(rows), CRC_BYTES), np.uint8)
        payloads, crcs = _row_views(out), _row_views(stored_crcs)
        breaks = np.flatnonzero(np.diff(offsets) != self._row_bytes + CRC_BYTES) + 1
        start = 0
        for end in [*breaks.tolist(), len(rows)]:
            while start < end:  # rows that lie one after the other in the file, as many as one call takes
                stop = min(end, start + MAX_ROWS_A_CALL)
                pieces = [piece for pair in zip(payloads[start:stop], crcs[start:stop], strict=True) for piece in pair]
                self._fill(pieces, int(offsets[start]))
                start = stop
        for row, payload, crc in zip(rows.tolist(), out, stored_crcs.view("<u4")[:, 0].tolist(), strict=True):
            if crc32c(payload) != crc:
                raise CorruptError(f"row {row} of shard {self.path} does not match its crc32c", hint=_VERIFY)
        return out

    def _fill(self, pieces: list[memoryview], offset: int) -> None:
        """Read consecutive bytes of the file into `pieces`, straight to where they belong."""
        with disk_errors(self.path):
            got = os.preadv(self._fd, pieces, offset)
        wanted = len(pieces) // 2 * (self._row_bytes + CRC_BYTES)
        while got < wanted:  # a short read: skip what is filled and ask for the rest
            pieces, filled = list(pieces), got
            while filled >= len(pieces[0]):
                filled -= len(pieces.pop(0))
            pieces[0] = pieces[0][filled:]
            offset, wanted = offset + got, wanted - got
            with disk_errors(self.path):
                got = os.preadv(self._fd, pieces, offset)
            if got == 0:
                raise CorruptError(f"shard {self.path} ends early", hint=_VERIFY)


def _row_views(array: Bytes2D) -> list[memoryview]:
    """A writable view of each row, cut from one buffer: cheaper than one array object a row."""
    flat, width = array.reshape(-1).data, array.shape[1]
    return [flat[start : start + width] for start in range(0, len(flat), width)]


_VERIFY = "run `stillhouse verify` on the store"
