"""The reader of shards against raw pread, .npy mmap, zarr-python, WebDataset, MosaicML MDS and LMDB: same rows, warm cache.

`python benchmarks/read.py` takes a few minutes, `--quick` under one. Rows of 24 KB are int8 codes [257, 96], rows of
400 KB float16 features [257, 768], as of a ViT at 224 pixels. Every contestant delivers batches of 64 rows as one array.
Only stillhouse and zarr-python verify checksums. MDS and LMDB come with `pip install -e '.[peers]'`.
"""

import importlib.util
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from harness import Bars, Rounds, alternate, parser, print_table, write_json
from readers import BATCH, CONTESTANTS, PEERS, Kind, Reader, Rows, make_rows

from stillhouse.core import rng

ORDERS = ("in order", "random", "window")
BYTES_A_ROUND = 128 << 20


def contestants(readers: Mapping[str, Reader], kind: Kind, order: str) -> dict[str, Callable[[int], int]]:
    """What each contestant does in a round: deliver batches, and say how many bytes they were."""
    return {name: work for name, reader in readers.items() if (work := _work(reader, kind, order)) is not None}


def _work(reader: Reader, kind: Kind, order: str) -> Callable[[int], int] | None:
    batches = max(1, BYTES_A_ROUND // (BATCH * kind.row_bytes) // reader.share)

    def streamed(number: int) -> int:
        assert reader.stream is not None
        stream = reader.stream()
        for _ in range(batches):
            next(stream)
        stream.close()
        return batches * BATCH * kind.row_bytes

    def read(number: int) -> int:
        assert reader.batch is not None
        for rows in row_batches(kind, order, number, batches):
            reader.batch(rows)
        return batches * BATCH * kind.row_bytes

    def window(number: int) -> int:
        assert reader.window is not None
        reader.window(number % kind.blocks, rng.permutation(3, kind.block_rows, "window", number))
        return kind.block_rows * kind.row_bytes

    if order == "window":
        return window if reader.window else None
    if order == "in order" and reader.stream:
        return streamed
    return read if reader.batch else None


def row_batches(kind: Kind, order: str, number: int, batches: int) -> list[Rows]:
    """The rows of each batch of a round: the same for every contestant that does as many."""
    if order == "in order":
        starts = (np.arange(batches) + number * batches) * BATCH % (kind.rows - BATCH + 1) // BATCH * BATCH
        return [range(start, start + BATCH) for start in starts.tolist()]
    rows_of_a_block = np.arange(kind.block_rows) + number % kind.blocks * kind.block_rows
    words = rng.uniform_words(2, batches * BATCH, "rows", number)
    return list(rows_of_a_block[(words % np.uint64(kind.block_rows)).astype(np.int64)].reshape(batches, BATCH))


LIMITS: dict[tuple[str, str], dict[str, tuple[float, float]]] = {
    ("24 KB", "in order"): {"pread": (0.55, 0.75), "npy mmap": (0.45, 0), "zarr-python": (30, 0), "webdataset": (20, 0)}
    | {"MDS": (10, 0)},
    ("24 KB", "random"): {"pread": (0.55, 0), "zarr-python": (70, 0), "MDS": (3.5, 0)},
    ("24 KB", "window"): {"pread": (0.60, 0)},
    ("400 KB", "in order"): {"pread": (0.60, 0.75), "zarr-python": (6, 0), "webdataset": (4.5, 0), "MDS": (3, 0)},
    ("400 KB", "random"): {"pread": (0.65, 0), "zarr-python": (12, 0), "MDS": (1.5, 0)},
    ("400 KB", "window"): {"pread": (0.60, 0)},
}
"""The bars of DESIGN and of its storage study: rate of stillhouse over that of a contestant, and a stretch."""
CPU_S_PER_GB = {"in order": 0.30, "random": 0.45}


def check_bars(kind: str, order: str, rounds: Rounds, bars: Bars) -> None:
    """The bars of one table, for the contestants that ran."""
    name = f"read.{order.replace(' ', '_')}.{kind.replace(' ', '')}"
    for other, (limit, stretch) in LIMITS[kind, order].items():
        if other in rounds.rates:
            ratio = rounds.ratio("stillhouse", other)
            bars.check(f"{name}.{other.replace(' ', '_')}", ratio, ">=", limit)
            if stretch:
                bars.check(f"{name}.{other}.stretch", ratio, ">=", stretch)
    if order in CPU_S_PER_GB:
        cpu = statistics.median(rounds.cpu_per_unit["stillhouse"]) * 1e9
        bars.check(f"{name}.cpu_s_per_gb", cpu, "<=", CPU_S_PER_GB[order])


def main() -> None:
    options = parser(__doc__, quick="fewer rows and rounds").parse_args()
    scale, num_rounds = (4, 5) if options.quick else (1, 15)
    kinds = [Kind("24 KB", 257, 96, "int8", 4, 8192 // scale), Kind("400 KB", 257, 768, "float16", 4, 1024 // scale)]
    there = {name: make for name, make in CONTESTANTS.items() if importlib.util.find_spec(PEERS.get(name, "numpy"))}
    for name in CONTESTANTS.keys() - there.keys():
        print(f"without {name}: install the extra `peers` for it")
    bars, tables = Bars(), {}
    for kind in kinds:
        with tempfile.TemporaryDirectory(prefix="stillhouse-read-") as folder:
            rows_NR = make_rows(kind)
            readers = {name: make(kind, rows_NR, Path(folder)) for name, make in there.items()}
            del rows_NR
            for order in ORDERS:
                rounds = alternate(contestants(readers, kind, order), num_rounds)
                table = {
                    name: {"gb_per_s": rounds.median(name) / 1e9, "of_pread": rounds.ratio(name, "pread")}
                    for name in rounds.rates
                }
                tables[f"{kind.name} rows, {order}"] = table
                print_table(f"{kind.name} rows, {order}: GB/s, ratio to pread", table)
                check_bars(kind.name, order, rounds, bars)
    print()
    bars.print()
    write_json(options.json, bars, tables)


if __name__ == "__main__":
    main()
