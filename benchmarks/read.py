"""The shard reader against raw pread, .npy mmap, zarr-python and WebDataset, on the same rows, from a warm cache.

`python benchmarks/read.py` takes about five minutes, `--quick` under one. Rows of 24 KB are uint8 codes [257, 96], rows of
400 KB float16 features [257, 768], as of a ViT at 224 pixels. Every reader delivers batches of 64 rows as one array;
ours and WebDataset's alone hold checksums, and only ours verifies them. The file system cache is warm.
"""

import argparse
import io
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import webdataset
import zarr
from harness import Bars, Rounds, alternate, write_json

from stillhouse.core import rng
from stillhouse.storage.images import TarLayout, tar_end
from stillhouse.storage.layout import array_metadata
from stillhouse.storage.shards import ShardReader, shard_chunks

BATCH = 64
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Kind:
    """One size of rows: T tokens of C codes, `rows` of them in one shard."""

    name: str
    tokens: int
    codes: int
    dtype: str
    rows: int
    batches: int
    """Batches of a round."""

    @property
    def row_bytes(self) -> int:
        return self.tokens * self.codes * np.dtype(self.dtype).itemsize


def write_files(kind: Kind, folder: Path) -> npt.NDArray[np.uint8]:
    """The same rows as a Zarr shard, a .npy file and a WebDataset tar; returns them as bytes [rows, R]."""
    words = rng.uniform_words(1, kind.rows * kind.row_bytes // 8 + 1, kind.name)
    rows_BR = words.view(np.uint8)[: kind.rows * kind.row_bytes].reshape(kind.rows, kind.row_bytes)
    array = folder / "zarr"
    (array / "c/0/0/0").mkdir(parents=True)
    fill: Any = 0 if kind.dtype == "uint8" else "NaN"
    shape = (1, kind.rows, kind.tokens, kind.codes)
    metadata = array_metadata(
        shape=shape,
        chunk=shape,
        inner_chunk=(1, 1, kind.tokens, kind.codes),
        dtype=kind.dtype,
        fill_value=fill,
        dimension_names=("view", "row", "token", "code"),
    )
    (array / "zarr.json").write_text(json.dumps(metadata))
    with open(array / "c/0/0/0/0", "wb") as file:
        file.writelines(shard_chunks(rows_BR, np.ones(kind.rows, np.bool_)))
    np.save(folder / "rows.npy", rows_BR)
    _write_tar(kind, rows_BR, folder / "rows.tar")
    return rows_BR


def _write_tar(kind: Kind, rows_BR: npt.NDArray[np.uint8], path: Path) -> None:
    tar = TarLayout()
    with open(path, "wb") as file:
        for number, row in enumerate(rows_BR):
            sink = io.BytesIO()
            np.save(sink, row.view(kind.dtype).reshape(kind.tokens, kind.codes))
            file.writelines(tar.member(f"{number:06d}.npy", sink.getvalue())[1])
        file.write(tar_end())


def readers(kind: Kind, folder: Path) -> dict[str, Callable[[Rows], Any]]:
    """What each contestant does to deliver the rows of one batch."""
    shard = folder / "zarr/c/0/0/0/0"
    ours = ShardReader(shard, kind.rows, kind.row_bytes, shard.stat().st_size)
    fd = os.open(folder / "rows.npy", os.O_RDONLY)
    header = (folder / "rows.npy").stat().st_size - kind.rows * kind.row_bytes
    mapped = np.load(folder / "rows.npy", mmap_mode="r")
    array: Any = zarr.open_array(folder / "zarr", mode="r")
    out = np.empty((BATCH, kind.row_bytes), np.uint8)

    def pread(rows: Rows) -> None:
        if rows[-1] - rows[0] == len(rows) - 1:
            os.preadv(fd, [out.reshape(-1).data], header + int(rows[0]) * kind.row_bytes)
            return
        for i, row in enumerate(rows.tolist()):
            os.preadv(fd, [out[i].data], header + row * kind.row_bytes)

    def zarr_python(rows: Rows) -> None:
        if rows[-1] - rows[0] == len(rows) - 1:
            array[0, int(rows[0]) : int(rows[-1]) + 1]
            return
        for row in rows.tolist():  # faster than oindex, which builds one coordinate per element
            array[0, row]

    return {
        "stillhouse": lambda rows: ours.read(rows, out),
        "pread": pread,
        "npy mmap": lambda rows: np.take(mapped, rows, axis=0, out=out),
        "zarr-python": zarr_python,
    }


SLOW = {"zarr-python": 16, "webdataset": 8}
"""Contestants that do one such part of a round's batches."""


def measure(kind: Kind, folder: Path, order: str, num_rounds: int) -> Rounds:
    """Rates in bytes a second: `in order`, `random` rows, or a `window` of one shard, shuffled."""
    found = readers(kind, folder)

    def work(name: str, read: Callable[[Rows], Any]) -> Callable[[int], int]:
        batches = max(1, kind.batches // SLOW.get(name, 1))

        def one_round(number: int) -> int:
            for rows in _batches(kind, order, number, batches):
                read(rows)
            return batches * BATCH * kind.row_bytes

        return one_round

    contestants = {name: work(name, read) for name, read in found.items()}
    if order == "in order":
        contestants["webdataset"] = _webdataset(kind, folder)
    return alternate(contestants, num_rounds)


def _batches(kind: Kind, order: str, number: int, batches: int) -> list[Rows]:
    if order == "in order":
        starts = (np.arange(batches) + number * batches) * BATCH % (kind.rows - BATCH)
        return [np.arange(start, start + BATCH) for start in starts]
    words = rng.uniform_words(2, batches * BATCH, "rows", number)
    rows = (words % np.uint64(kind.rows)).astype(np.int64).reshape(batches, BATCH)
    return list(rows)


def _webdataset(kind: Kind, folder: Path) -> Callable[[int], int]:
    batches = max(1, kind.batches // SLOW["webdataset"])

    def one_round(number: int) -> int:
        stream = webdataset.WebDataset(str(folder / "rows.tar"), shardshuffle=False).decode().to_tuple("npy")
        rows = iter(stream)
        for _ in range(batches):
            np.stack([next(rows)[0] for _ in range(BATCH)])
        return batches * BATCH * kind.row_bytes

    return one_round


def bars_of(kind: str, order: str, rounds: Rounds, bars: Bars) -> None:
    """DESIGN's bars for one table."""
    small = kind == "24 KB"
    if order == "in order":
        bars.check(f"read.order.{kind}.pread", rounds.ratio("stillhouse", "pread"), ">=", 0.55 if small else 0.60)
        bars.check(f"read.order.{kind}.wds", rounds.ratio("stillhouse", "webdataset"), ">=", 20 if small else 4.5)
        cpu = sorted(rounds.cpu_per_unit["stillhouse"])[len(rounds.cpu_per_unit["stillhouse"]) // 2] * 1e9
        bars.check(f"read.order.{kind}.cpu_s_per_gb", cpu, "<=", 0.30)
    else:
        bars.check(f"read.random.{kind}.pread", rounds.ratio("stillhouse", "pread"), ">=", 0.55 if small else 0.65)
        bars.check(f"read.random.{kind}.zarr", rounds.ratio("stillhouse", "zarr-python"), ">=", 70 if small else 12)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rows and rounds")
    parser.add_argument("--json", type=Path, help="keep the result in this file")
    options = parser.parse_args()
    scale = 4 if options.quick else 1
    kinds = [
        Kind("24 KB", 257, 96, "uint8", 16384 // scale, 128 // scale),
        Kind("400 KB", 257, 768, "float16", 2048 // scale, 24 // scale),
    ]
    num_rounds = 5 if options.quick else 25
    bars, tables = Bars(), {}
    for kind in kinds:
        with tempfile.TemporaryDirectory(prefix="stillhouse-read-") as name:
            folder = Path(name)
            write_files(kind, folder)
            for order in ("in order", "random"):
                rounds = measure(kind, folder, order, num_rounds)
                table = {
                    reader: {"gb_per_s": rounds.median(reader) / 1e9, "of_pread": rounds.ratio(reader, "pread")}
                    for reader in rounds.rates
                }
                tables[f"{kind.name} rows, {order}"] = table
                print(f"\n{kind.name} rows, {order}: GB/s, ratio to pread")
                for reader, row in table.items():
                    print(f"  {reader:12} {row['gb_per_s']:8.3f} {row['of_pread']:8.3f}")
                bars_of(kind.name, order, rounds, bars)
    print()
    bars.print()
    write_json(options.json, bars, tables)


if __name__ == "__main__":
    main()
