"""Codes of one level of one teacher: batches of rows, whole blocks, windows of blocks.

Codes that a codec packs are unpacked as rows are read.

Legend: N rows, T tokens, C codes a token, S bytes of a row with its crc.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stillhouse.core.errors import CorruptError
from stillhouse.core.timing import timed

from . import layout
from .codecs import Codec, CodeType, stored_type, unpack
from .crc import CRC_BYTES
from .shards import Rows, ShardReader

if TYPE_CHECKING:
    from .store import Store

Codes = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class RowType:
    """How the codes of one sample lie in bytes: T tokens, or tokens last when they are compressed."""

    num_tokens: int
    code_type: CodeType

    @property
    def num_bytes(self) -> int:
        return self.num_tokens * self.code_type.width * np.dtype(self.code_type.dtype).itemsize

    def buffer(self, num_rows: int) -> Rows:
        return np.empty((num_rows, self.num_bytes + CRC_BYTES), np.uint8)

    def codes(self, rows_NS: Rows) -> Codes:
        payload = rows_NS[:, : self.num_bytes].view(np.dtype(self.code_type.dtype).newbyteorder("<"))
        if self.code_type.compressed:
            return payload.reshape(len(rows_NS), self.code_type.width, self.num_tokens).swapaxes(1, 2)
        return payload.reshape(len(rows_NS), self.num_tokens, self.code_type.width)


class Features:
    """Reads one level of one teacher. Get it from `Store.features`; safe for many threads, not across fork."""

    def __init__(self, store: "Store", teacher: str, level: str) -> None:
        self._store, self.teacher, self.level = store, teacher, level

        def load() -> tuple[Codec, RowType, RowType]:
            levels = store.teacher(teacher).levels
            codec = store.codec(teacher, level)
            num_tokens, stored = levels[level].num_tokens, stored_type(codec)
            path = f"{layout.features_array(teacher, level)}/zarr.json"
            told = store.metadata(layout.codecs_unit(teacher), path)
            if told["shape"][2:] != [num_tokens, stored.width] or told["data_type"] != stored.dtype:
                message = f"{store.root / path} says {told['shape']} {told['data_type']}, its codec something else"
                raise CorruptError(message, hint=f"run `stillhouse verify {store.root}`")
            return codec, RowType(num_tokens, stored), RowType(num_tokens, codec.code_type)

        self._codec, self._stored, self._held = store.cached(("row", teacher, level), load)
        self._packed = self._stored != self._held
        self.row_bytes = self._held.num_bytes

    def buffer(self, num_rows: int) -> Rows:
        """uint8 [num_rows, S]: what `read`, `window` and `Window.take` fill when it is passed as `out`."""
        return self._held.buffer(num_rows)

    def codes(self, rows_NS: Rows) -> Codes:
        """Rows of a `buffer` as codes [N, T, C]: a view, its rows S bytes apart."""
        return self._held.codes(rows_NS)

    def read(
        self,
        view: int,
        block: int,
        rows: Sequence[int] | npt.NDArray[np.int64] | None = None,
        out: Rows | None = None,
    ) -> Codes:
        """Codes [N, T, C] of rows of one block, each verified against its crc32c; by default of all that are there.

        Raises:
            MissingError: no such features yet, or a row is in quarantine.
            CorruptError: bytes on disk are not the bytes that were written.
        """
        rows = self._store.good_rows(block) if rows is None else rows
        shard = self._shard(view, block)
        out = self.buffer(len(rows)) if out is None else out
        if self._packed:
            packed = self._stored.buffer(len(rows))
            shard.read(rows, packed)
            with timed("decode"):
                self.codes(out)[:] = unpack(self._codec, self._stored.codes(packed))
        else:
            shard.read(rows, out)
        return self.codes(out)

    def window(self, view: int, blocks: Sequence[int], out: Rows | None = None) -> "Window":
        """Every row of some blocks in one buffer, each shard read in file order."""
        rows_of = [self._store.good_rows(block) for block in blocks]
        num_rows = sum(map(len, rows_of))
        out = self.buffer(num_rows) if out is None else out[:num_rows]
        start = 0
        for block, rows in zip(blocks, rows_of, strict=True):
            self.read(view, block, rows, out[start : start + len(rows)])
            start += len(rows)
        return Window(self, out)

    def _shard(self, view: int, block: int) -> ShardReader:
        def load() -> ShardReader:
            path = layout.features_chunk(self.teacher, self.level, view, block)
            unit = layout.features_unit(self.teacher, view, block)
            what = f"features of {self.teacher}/{self.level} for view {view} of block {block}"
            entry = self._store.entry(unit, path, what)
            fingerprint = self._store.require(unit, what).facts.get("fingerprints", {}).get(self.level)
            num_rows = self._store.plan.block_samples

            def reader(place: Path) -> ShardReader:
                return ShardReader(
                    place,
                    num_rows,
                    self._stored.num_bytes,
                    entry.num_bytes,
                    zstd=self._stored.code_type.compressed,
                    fingerprint=fingerprint,
                )

            return self._store.opened(entry, reader)

        return self._store.cached(("shard", self.teacher, self.level, view, block), load)


class Window:
    """The verified rows of some blocks, in memory: block after block, each in file order."""

    def __init__(self, features: Features, rows_NS: Rows) -> None:
        self._features, self._rows_NS = features, rows_NS

    def __len__(self) -> int:
        return len(self._rows_NS)

    def take(self, places: npt.NDArray[np.int64], out: Rows | None = None) -> Codes:
        """Codes [len(places), T, C] of the rows at `places`, copied to `out` or to a new buffer."""
        if out is None:
            out = self._features.buffer(len(places))
        if len(places) and not 0 <= places.min() <= places.max() < len(self):
            raise IndexError(f"places {places.min()} to {places.max()} of a window of {len(self)} rows")
        np.take(self._rows_NS, places, axis=0, out=out, mode="clip")  # any other mode would copy twice
        return self._features.codes(out)
