"""Zarr v3 shards written in one pass and read directly, one inner chunk per row.

zarr-python reads the same files; it asks its event loop once per row, which costs forty times the disk. A shard here
is rows, each followed by its crc32c, then the index of (offset, length) pairs and the index's own crc32c. A row that was
never written has the index entry (2^64-1, 2^64-1). Rows have one size, unless zstd made each of them small.

Legend: B rows of a block, R bytes of a row, S = R + 4 bytes of a row with its crc.
"""

import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stillhouse.core.errors import CorruptError, MissingError
from stillhouse.core.timing import timed

from .crc import CRC_BYTES, RESIDUE, append_crcs, crc32c, run_residue, with_crc, without_crc
from .disk import disk_errors
from .zstd_rows import compress, decompress, largest_frame

ABSENT = np.uint64(2**64 - 1)
PIECE_BYTES = 4 << 20
"""Rows are written and checked this much at a time, while the processor still has them near."""
FINGERPRINT_ROWS = 8

Rows = npt.NDArray[np.uint8]


def shard_chunks(rows_NR: Rows, present_B: npt.NDArray[np.bool_], *, zstd: bool = False) -> Iterator[memoryview]:
    """The bytes of one shard in pieces, rows then index.

    Args:
        rows_NR: uint8 payloads of the rows that exist, in their order.
        present_B: which rows of the block those are.
    """
    kept = np.flatnonzero(present_B)
    if len(rows_NR) != len(kept):
        raise ValueError(f"{len(rows_NR)} rows for {len(kept)} places")
    index = np.full((len(present_B), 2), ABSENT, "<u8")
    if zstd:
        frames = [with_crc(compress(row)) for row in rows_NR]
        lengths = np.array([len(frame) for frame in frames], np.uint64)
        yield from (memoryview(frame) for frame in frames)
    else:
        lengths = np.full(len(kept), rows_NR.shape[1] + CRC_BYTES, np.uint64)
        yield from _padded(rows_NR)
    index[kept, 0] = np.cumsum(lengths) - lengths
    index[kept, 1] = lengths
    yield memoryview(with_crc(index.tobytes()))


def _padded(rows_NR: Rows) -> Iterator[memoryview]:
    """The rows with their crcs; each piece is good until the next one is asked for."""
    row_bytes = rows_NR.shape[1]
    step = max(1, PIECE_BYTES // (row_bytes + CRC_BYTES))
    piece_NS = np.empty((min(step, len(rows_NR)), row_bytes + CRC_BYTES), np.uint8)
    for start in range(0, len(rows_NR), step):
        some = rows_NR[start : start + step]
        piece_NS[: len(some), :row_bytes] = some
        append_crcs(piece_NS[: len(some)])
        yield piece_NS[: len(some)].reshape(-1).data.toreadonly()


def fingerprint_rows(present_B: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The rows whose crcs tell one shard from another: up to eight, spread over those that exist."""
    kept = np.flatnonzero(present_B)
    chosen = np.linspace(0, len(kept) - 1, min(FINGERPRINT_ROWS, len(kept))).astype(np.int64)
    return kept[chosen]


def fingerprint(rows_NR: Rows, present_B: npt.NDArray[np.bool_]) -> list[int]:
    """The crc32c of the payloads of `fingerprint_rows`: kept in the record, so that no shard passes for another."""
    place_of = np.cumsum(present_B) - 1
    return [crc32c(rows_NR[place_of[row]]) for row in fingerprint_rows(present_B)]


class ShardReader:
    """Verified rows of one shard file. Thread-safe: reads use pread and share no position.

    Args:
        path: the shard file.
        num_rows: rows of a full block (B), which fixes the size of the index.
        row_bytes: bytes of one row without its crc (R).
        num_bytes: the size that the decision record gives; another size is an error at once.
        zstd: each row is a zstd frame.
        fingerprint: what the record says of it; a shard with other rows is an error at once.
    """

    def __init__(
        self,
        path: Path,
        num_rows: int,
        row_bytes: int,
        num_bytes: int,
        *,
        zstd: bool = False,
        fingerprint: Sequence[int] | None = None,
    ) -> None:
        self.path = path
        self._row_bytes, self._stride, self._zstd = row_bytes, row_bytes + CRC_BYTES, zstd
        try:
            with disk_errors(path):
                self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise MissingError(f"shard {path} is not there", hint=_VERIFY) from None
        try:
            with disk_errors(path):
                size = os.fstat(self._fd).st_size
            if size != num_bytes:
                raise CorruptError(f"shard {path} has {size} bytes, its record says {num_bytes}", hint=_VERIFY)
            self._offset_B, self._length_B = self._read_index(num_rows, size)
            in_order = np.arange(num_rows, dtype=np.int64) * self._stride
            self._dense = not zstd and bool((self._offset_B == in_order).all())
            if fingerprint is not None:
                self._check_fingerprint(fingerprint)
        except BaseException:
            os.close(self._fd)
            raise
        self.close = weakref.finalize(self, os.close, self._fd)

    def _read_index(self, num_rows: int, size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        index_bytes = 16 * num_rows + CRC_BYTES
        if size < index_bytes:
            raise CorruptError(f"shard {self.path} is too short for its index", hint=_VERIFY)
        raw = bytearray(index_bytes)
        self._fill(memoryview(raw), size - index_bytes)
        index = np.frombuffer(without_crc(bytes(raw), f"the index of shard {self.path}"), "<u8").reshape(num_rows, 2)
        absent = (index == ABSENT).all(axis=1)
        offsets, lengths = index[:, 0], index[:, 1]
        if self._zstd:
            sized = (lengths > CRC_BYTES) & (lengths <= np.uint64(largest_frame(self._row_bytes) + CRC_BYTES))
        else:
            sized = lengths == np.uint64(self._stride)
        room = np.uint64(size - index_bytes)
        inside = sized & (lengths <= room) & (offsets <= room - np.minimum(lengths, room))
        if not (absent | inside).all():
            raise CorruptError(
                f"shard {self.path} has index entries outside the file or of a wrong length", hint=_VERIFY
            )
        offset_B: npt.NDArray[np.int64] = np.where(absent, np.uint64(0), offsets).astype(np.int64)
        length_B: npt.NDArray[np.int64] = np.where(absent, np.uint64(0), lengths).astype(np.int64)
        order = np.argsort(offset_B[~absent], kind="stable")
        starts, ends = offset_B[~absent][order], (offset_B + length_B)[~absent][order]
        if (starts[1:] < ends[:-1]).any():
            raise CorruptError(f"shard {self.path} has rows that overlap", hint=_VERIFY)
        offset_B[absent] = -1
        return offset_B, length_B

    def _check_fingerprint(self, fingerprint: Sequence[int]) -> None:
        rows = fingerprint_rows(self.present_B)
        if self._zstd:
            found = [crc32c(row) for row in self.read(rows)]
        else:
            stored = bytearray(CRC_BYTES * len(rows))
            for i, offset in enumerate(self._offset_B[rows].tolist()):
                self._fill(memoryview(stored)[CRC_BYTES * i :][:CRC_BYTES], offset + self._row_bytes)
            found = np.frombuffer(stored, "<u4").tolist()
        if found != list(fingerprint):
            raise CorruptError(f"shard {self.path} holds other rows than its record says", hint=_VERIFY)

    @property
    def present_B(self) -> npt.NDArray[np.bool_]:
        """Which rows of the block exist."""
        return self._offset_B >= 0

    def buffer(self, num_rows: int) -> Rows:
        """What `read` fills: uint8 [num_rows, S], room for each row and its crc."""
        return np.empty((num_rows, self._stride), np.uint8)

    def read(self, rows: Sequence[int] | npt.NDArray[np.int64], out: Rows | None = None) -> Rows:
        """uint8 [len(rows), R]: the payloads of `rows` in their order, each checked against its crc32c.

        Args:
            rows: a range is the fastest.
            out: a `buffer` to use again. The result is a view of it: its rows lie S bytes apart, so that one call of
                the kernel fills many.

        Raises:
            MissingError: a row was never written (quarantined, or beyond the block's samples).
            CorruptError: a row does not match its crc32c.
        """
        if out is None:
            out = self.buffer(len(rows))
        if out.shape != (len(rows), self._stride) or out.dtype != np.uint8 or not out.flags.c_contiguous:
            wanted = f"contiguous uint8 [{len(rows)}, {self._stride}]"
            raise ValueError(f"out must be {wanted}, got {out.dtype} {list(out.shape)}")
        if (
            self._dense
            and isinstance(rows, range)
            and 0 <= rows.start < rows.stop <= len(self._offset_B)
            and rows.step == 1
        ):
            self._read_run(rows, rows.start * self._stride, out)  # nothing to look up
            return out[:, : self._row_bytes]
        rows = np.asarray(rows, np.int64)
        offsets = self._offset_B[rows]
        if len(rows) and (np.minimum.reduce(rows) < 0 or np.minimum.reduce(offsets) < 0):
            raise self._no_row(rows, offsets)
        if self._zstd:
            self._read_frames(rows, offsets, out)
        elif len(rows):
            self._read_runs(rows, offsets, out)
        return out[:, : self._row_bytes]

    def _no_row(self, rows: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]) -> IndexError | MissingError:
        if rows.min() < 0:
            return IndexError(f"row {rows.min()} of shard {self.path}: rows count from 0")
        row = rows[np.argmax(offsets < 0)]
        return MissingError(f"shard {self.path} has no row {row}", hint="quarantined samples have no features")

    def _read_runs(self, rows: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64], out: Rows) -> None:
        """Rows that lie one after the other in the file come together."""
        stride, flat = self._stride, out.reshape(-1).data
        starts = [0, *(np.flatnonzero(offsets[1:] - offsets[:-1] != stride) + 1).tolist()]
        for start, stop, offset in zip(starts, [*starts[1:], len(rows)], offsets[starts].tolist(), strict=True):
            if stop - start > 1:
                self._read_run(rows[start:stop], offset, out[start:stop])
                continue
            piece = flat[start * stride : stop * stride]  # the shortest way: at random there is no other
            self._fill(piece, offset)
            if crc32c(piece) != RESIDUE:
                raise self._mismatch(rows[start:stop], out[start:stop])

    def _read_run(self, rows: Sequence[int] | npt.NDArray[np.int64], offset: int, out: Rows) -> None:
        """Rows from one place on, a piece a call of the kernel, each checked by one sum before the next."""
        stride, most = self._stride, max(1, PIECE_BYTES // self._stride)
        flat = out.reshape(-1).data
        for start in range(0, len(rows), most):
            stop = min(len(rows), start + most)
            piece = flat[start * stride : stop * stride]
            with timed("read"):
                self._fill(piece, offset + start * stride)
            with timed("verify"):
                whole = crc32c(piece) == run_residue(stride, stop - start)
            if not whole:
                raise self._mismatch(rows[start:stop], out[start:stop])

    def _read_frames(self, rows: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64], out: Rows) -> None:
        lengths = self._length_B[rows].tolist()
        for i, (row, offset, length) in enumerate(zip(rows.tolist(), offsets.tolist(), lengths, strict=True)):
            frame = bytearray(length)
            with timed("read"):
                self._fill(memoryview(frame), offset)
            with timed("verify"):
                whole = crc32c(frame) == RESIDUE
            if not whole:
                raise CorruptError(f"row {row} of shard {self.path} does not match its crc32c", hint=_VERIFY)
            where = f"row {row} of shard {self.path}"
            with timed("decode"):
                decompress(bytes(memoryview(frame)[:-CRC_BYTES]), out[i, : self._row_bytes], where)

    def _mismatch(self, rows: Sequence[int] | npt.NDArray[np.int64], read: Rows) -> CorruptError:
        wrong = [int(row) for row, found in zip(rows, read, strict=True) if crc32c(found) != RESIDUE]
        return CorruptError(f"row {wrong[0]} of shard {self.path} does not match its crc32c", hint=_VERIFY)

    def _fill(self, piece: memoryview, offset: int) -> None:
        """Read consecutive bytes of the file straight to where they belong."""
        got = self._pread(piece, offset)
        while got < len(piece):  # a short read is carried on
            more = self._pread(piece[got:], offset + got)
            if more == 0:
                raise CorruptError(f"shard {self.path} ends early", hint=_VERIFY)
            got += more

    def _pread(self, piece: memoryview, offset: int) -> int:
        try:
            return os.preadv(self._fd, [piece], offset)
        except OSError:
            with disk_errors(self.path):
                raise


_VERIFY = "run `stillhouse verify` on the store"
