"""The contestants of read.py: each writes the same rows its own way and delivers batches of them as one array.

Legend: N rows, T tokens, C codes a token, R bytes of a row, B rows of a batch.
"""

import io
import os
import struct
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import webdataset
import zarr
from stores import LEVEL, TEACHER, begin_store, fill_block

from stillhouse.core import rng
from stillhouse.storage.images import TarLayout, tar_end
from stillhouse.storage.layout import features_array
from stillhouse.storage.store import Store

BATCH = 64
Rows = npt.NDArray[np.int64] | range
"""The rows of a batch: a range in order, an array at random."""
Shuffled = npt.NDArray[np.int64]
Bytes2D = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Kind:
    """One size of rows: T tokens of C codes; `blocks` shards of `block_rows` rows."""

    name: str
    tokens: int
    width: int
    dtype: str
    blocks: int
    block_rows: int

    @property
    def row_bytes(self) -> int:
        return self.tokens * self.width * np.dtype(self.dtype).itemsize

    @property
    def rows(self) -> int:
        return self.blocks * self.block_rows


@dataclass(frozen=True)
class Reader:
    """What one contestant can do.

    Args:
        batch: deliver any rows, as one array.
        stream: deliver batches in order from the start, for formats that know no other way.
        window: deliver the batches of one block in a shuffled order, the block read as a whole.
        share: a slow contestant does one such part of a round's batches.
    """

    batch: Callable[[Rows], Any] | None = None
    stream: Callable[[], Generator[Any]] | None = None
    window: Callable[[int, Shuffled], Any] | None = None
    share: int = 1


def make_rows(kind: Kind) -> Bytes2D:
    """uint8 [N, R]: uniform bytes, which is what codes look like to a disk; no float among them is NaN."""
    words = rng.uniform_words(1, kind.rows * kind.row_bytes // 8 + 1, kind.name)
    rows_NR = words.view(np.uint8)[: kind.rows * kind.row_bytes].reshape(kind.rows, kind.row_bytes)
    if kind.dtype == "float16":
        rows_NR[:, 1::2] &= 0xBF
    return rows_NR


def stillhouse(kind: Kind, rows_NR: Bytes2D, folder: Path) -> Reader:
    """A store with one view of one level, through the interface that training uses."""
    store = make_store(kind, rows_NR, folder / "store")
    features = store.features(TEACHER, LEVEL)
    out, block = features.buffer(BATCH), kind.block_rows
    whole = features.buffer(block)

    def batch(rows: Rows) -> None:
        if isinstance(rows, range):
            number = rows.start // block
            features.read(0, number, range(rows.start - number * block, rows.stop - number * block), out)
            return
        number = int(rows[0]) // block  # random batches stay in one block, for everybody
        features.read(0, number, rows - number * block, out)

    def window(number: int, order: Shuffled) -> None:
        rows = features.window(0, [number], whole)
        for start in range(0, len(order) - BATCH + 1, BATCH):
            rows.take(order[start : start + BATCH], out)

    return Reader(batch=batch, window=window)


def make_store(kind: Kind, rows_NR: Bytes2D, root: Path) -> Store:
    """A store whose one level holds these rows."""
    codec: str = "int8" if kind.dtype == "int8" else "fp16"
    shape = {"tokens": kind.tokens, "dim": kind.width}
    store = begin_store(root, blocks=kind.blocks, block_rows=kind.block_rows, views=1, codec=codec, **shape)
    for block in range(kind.blocks):
        part = rows_NR[block * kind.block_rows : (block + 1) * kind.block_rows]
        fill_block(store, block, part.view(kind.dtype).reshape(kind.block_rows, kind.tokens, kind.width))
    return store


def pread(kind: Kind, rows_NR: Bytes2D, folder: Path) -> Reader:
    """What the kernel gives: the same bytes from one .npy file, no checksum, no check."""
    np.save(folder / "rows.npy", rows_NR)
    fd = os.open(folder / "rows.npy", os.O_RDONLY)
    header, size = os.fstat(fd).st_size - rows_NR.nbytes, kind.row_bytes
    out = np.empty((BATCH, size), np.uint8)
    flat = out.reshape(-1).data
    places = [flat[i * size : (i + 1) * size] for i in range(BATCH)]
    whole = np.empty((kind.block_rows, size), np.uint8)

    def batch(rows: Rows) -> None:
        if isinstance(rows, range):
            os.preadv(fd, [flat], header + rows.start * size)
            return
        for place, row in zip(places, rows.tolist(), strict=True):
            os.preadv(fd, [place], header + row * size)

    def window(number: int, order: Shuffled) -> None:
        os.preadv(fd, [whole.reshape(-1).data], header + number * kind.block_rows * size)
        for start in range(0, len(order) - BATCH + 1, BATCH):
            np.take(whole, order[start : start + BATCH], axis=0, out=out, mode="clip")

    return Reader(batch=batch, window=window)


def npy_mmap(kind: Kind, rows_NR: Bytes2D, folder: Path) -> Reader:
    """numpy's own way; reads what `pread` wrote."""
    mapped = np.load(folder / "rows.npy", mmap_mode="r")
    out = np.empty((BATCH, kind.row_bytes), np.uint8)

    def batch(rows: Rows) -> None:
        if isinstance(rows, range):
            np.copyto(out, mapped[rows.start : rows.stop])
        else:
            np.take(mapped, rows, axis=0, out=out, mode="clip")

    return Reader(batch=batch)


def zarr_python(kind: Kind, rows_NR: Bytes2D, folder: Path) -> Reader:
    """The same shards as `stillhouse`, by its best way for each order; it checks the crcs too."""
    array: Any = zarr.open_array(folder / "store" / features_array(TEACHER, LEVEL), mode="r")

    def batch(rows: Rows) -> None:
        if isinstance(rows, range):
            array[0, rows.start : rows.stop]
            return
        for row in rows.tolist():  # faster than oindex, which builds one coordinate per element
            array[0, row]

    return Reader(batch=batch, share=16)


def webdataset_npy(kind: Kind, rows_NR: Bytes2D, folder: Path) -> Reader:
    """A .npy member a row, in one tar."""
    tar, path = TarLayout(), folder / "rows.tar"
    with open(path, "wb") as file:
        for number, row in enumerate(rows_NR):
            sink = io.BytesIO()
            np.save(sink, row.view(kind.dtype).reshape(kind.tokens, kind.width))
            file.writelines(tar.member(f"{number:06d}.npy", sink.getvalue())[1])
        file.write(tar_end())

    def stream() -> Generator[Any]:
        rows = iter(webdataset.WebDataset(str(path), shardshuffle=False).decode().to_tuple("npy"))
        while True:
            yield np.stack([next(rows)[0] for _ in range(BATCH)])

    return Reader(stream=stream, share=8)


def mosaic_mds(kind: Kind, rows_NR: Bytes2D, folder: Path) -> Reader:
    """MosaicML streaming, rows as bytes; iteration in order, `dataset[i]` at random."""
    import streaming

    target = str(folder / "mds")
    with streaming.MDSWriter(out=target, columns={"row": "bytes"}, size_limit=1 << 28) as writer:
        for row in rows_NR:
            writer.write({"row": row.tobytes()})
    streaming.base.util.clean_stale_shared_memory()
    dataset: Any = streaming.StreamingDataset(local=target, batch_size=BATCH, shuffle=False)
    out = np.empty((BATCH, kind.row_bytes), np.uint8)

    def batch(rows: Rows) -> None:
        for place, row in zip(out, np.asarray(rows).tolist(), strict=True):
            place[:] = np.frombuffer(dataset[row]["row"], np.uint8)

    def stream() -> Generator[Any]:
        rows = iter(dataset)
        try:
            while True:
                for place in out:
                    place[:] = np.frombuffer(next(rows)["row"], np.uint8)
                yield out
        finally:  # its threads would run on through the turns of the others
            dataset._iterator.exit()

    return Reader(batch=batch, stream=stream, share=4)


def lmdb_rows(kind: Kind, rows_NR: Bytes2D, folder: Path) -> Reader:
    """One key a row, values read in place from the map; no checksum."""
    import lmdb

    environment = lmdb.open(str(folder / "lmdb"), map_size=4 * rows_NR.nbytes + (1 << 26), readahead=False)
    with environment.begin(write=True) as writing:
        for number, row in enumerate(rows_NR):
            writing.put(struct.pack(">I", number), row.data, append=True)
    reading = environment.begin(buffers=True)
    out = np.empty((BATCH, kind.row_bytes), np.uint8)

    def batch(rows: Rows) -> None:
        for place, row in zip(out, np.asarray(rows).tolist(), strict=True):
            place[:] = np.frombuffer(reading.get(struct.pack(">I", row)), np.uint8)

    return Reader(batch=batch)


CONTESTANTS: dict[str, Callable[[Kind, Bytes2D, Path], Reader]] = {
    "stillhouse": stillhouse,
    "pread": pread,
    "npy mmap": npy_mmap,
    "zarr-python": zarr_python,
    "webdataset": webdataset_npy,
    "MDS": mosaic_mds,
    "LMDB": lmdb_rows,
}
PEERS = {"MDS": "streaming", "LMDB": "lmdb"}
"""Contestants of the extra `peers`, and the module that each needs."""
