"""Writing shards with crc32c against zarr-python and a plain write of the same bytes, to the file system's cache.

`python benchmarks/write.py` takes about two minutes, `--quick` under one. `stillhouse` makes and writes a shard in one
pass; `commit` is the whole way of a unit: that, a sha256, fsync of file and folders, the record, publication.
"""

import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from harness import Bars, alternate, parser, print_table, write_json
from readers import Kind, make_rows, make_store
from stores import LEVEL, TEACHER

from stillhouse.storage.layout import features_array
from stillhouse.storage.shards import shard_chunks
from stillhouse.storage.writer import commit_features

KINDS = (Kind("24 KB", 257, 96, "int8", 1, 4096), Kind("400 KB", 257, 768, "float16", 1, 256))


def contestants(kind: Kind, folder: Path) -> dict[str, Callable[[int], int]]:
    """Each writes the rows of one shard anew and says how many bytes of rows that were."""
    rows_NR = make_rows(kind)
    store = make_store(kind, rows_NR, folder / "store")
    present = np.ones(kind.rows, np.bool_)
    codes = rows_NR.view(kind.dtype).reshape(1, kind.rows, kind.tokens, kind.width)
    foreign = folder / "zarr"
    shutil.copytree(folder / "store" / features_array(TEACHER, LEVEL), foreign, ignore=lambda *_: ["c"])
    array: Any = zarr.open_array(foreign, mode="r+", config={"write_empty_chunks": True})

    def ours(number: int) -> int:
        with open(folder / "shard", "wb", buffering=0) as file:
            file.writelines(shard_chunks(rows_NR, present))
        return rows_NR.nbytes

    def commit(number: int) -> int:
        shutil.rmtree(store.root / "_log/units/features", ignore_errors=True)
        commit_features(store, TEACHER, 0, 0, {LEVEL: codes[0]}, np.arange(kind.rows), {})
        return rows_NR.nbytes

    def zarr_python(number: int) -> int:
        array[:] = codes
        return rows_NR.nbytes

    def plain(number: int) -> int:
        with open(folder / "plain", "wb", buffering=0) as file:
            file.write(rows_NR.data)
        return rows_NR.nbytes

    return {"stillhouse": ours, "commit": commit, "zarr-python": zarr_python, "plain write": plain}


def main() -> None:
    options = parser(__doc__, quick="fewer rounds").parse_args()
    bars, tables = Bars(), {}
    for kind in KINDS:
        with tempfile.TemporaryDirectory(prefix="stillhouse-write-") as folder:
            rounds = alternate(contestants(kind, Path(folder)), 5 if options.quick else 15)
        table = {
            name: {"gb_per_s": rounds.median(name) / 1e9, "of_zarr_python": rounds.ratio(name, "zarr-python")}
            for name in rounds.rates
        }
        tables[f"{kind.name} rows"] = table
        shard = f"one shard of {kind.rows * kind.row_bytes / 1e6:.0f} MB"
        print_table(f"{kind.name} rows, {shard}: GB/s, ratio to zarr-python", table)
        key = kind.name.replace(" ", "")
        bars.check(f"write.{key}.zarr-python", rounds.ratio("stillhouse", "zarr-python"), ">=", 4)
        bars.check(f"write.{key}.gb_per_s", statistics.median(rounds.rates["stillhouse"]) / 1e9, ">=", 1.3)
    print()
    bars.print()
    write_json(options.json, bars, tables)


if __name__ == "__main__":
    main()
