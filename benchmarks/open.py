"""Opening a store of ten million samples, and the memory of a reader as samples grow.

`python benchmarks/open.py` takes about two minutes, `--quick` under one. The stores are sparse: every block is the same
block under another name (hard links), with records of its own, so 10 million samples take a few megabytes of disk.
Each measurement is a fresh process: seconds from `Store.open` to the first verified batch, and how much the process
grows while it opens, and while it then reads rows, parameters and samples of a thousand blocks in a random order.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from harness import Bars, parser, print_table, write_json
from stores import LEVEL, TEACHER, begin_store, fill_block

from stillhouse.core import rng
from stillhouse.storage import layout
from stillhouse.storage.records import Record, read_record
from stillhouse.storage.signed_json import signed_json
from stillhouse.storage.store import Store
from stillhouse.storage.views import center_params
from stillhouse.storage.writer import commit_view

BLOCK_SAMPLES, NUM_VIEWS, DIM, BATCH, BLOCKS_READ = 4096, 2, 32, 64, 1000


def make_sparse_store(root: Path, num_samples: int) -> None:
    """`num_samples` samples in blocks that share their objects."""
    num_blocks = -(-num_samples // BLOCK_SAMPLES)
    shape = {"block_rows": BLOCK_SAMPLES, "views": NUM_VIEWS, "tokens": 1, "dim": DIM}
    store = begin_store(root, blocks=num_blocks, codec="fp16", **shape)
    fill_block(store, 0, np.arange(BLOCK_SAMPLES * DIM, dtype=np.float16).reshape(BLOCK_SAMPLES, 1, DIM))
    params = np.tile(np.array([center_params(500, 375)], np.int32), (BLOCK_SAMPLES, 1))
    for view in range(NUM_VIEWS):
        commit_view(store, view, 0, params, np.ones(BLOCK_SAMPLES, np.uint64))
    _repeat(root, layout.images_unit, [layout.images_path, layout.index_path], num_blocks)
    for view in range(NUM_VIEWS):
        chunks = [lambda b, v=view: layout.params_chunk(v, b), lambda b, v=view: layout.hash_chunk(v, b)]
        _repeat(root, lambda b, v=view: layout.views_unit(v, b), chunks, num_blocks)
        chunks = [lambda b, v=view: layout.features_chunk(TEACHER, LEVEL, v, b)]
        _repeat(root, lambda b, v=view: layout.features_unit(TEACHER, v, b), chunks, num_blocks)


def _repeat(root: Path, unit_of: Any, paths_of: list[Any], num_blocks: int) -> None:
    """Block 0 of a column under the name of every other block."""
    first = read_record(root, unit_of(0))
    assert isinstance(first, Record)
    for block in range(1, num_blocks):
        objects = []
        for entry, path_of in zip(first.objects, paths_of, strict=True):
            path = root / path_of(block)
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(root / entry.path, path)
            objects.append(entry.to_json() | {"path": path_of(block)})
        body = {"unit": unit_of(block), "attempt": first.attempt, "objects": objects, "facts": first.facts}
        (root / layout.record_path(unit_of(block))).write_bytes(signed_json(body))


def measure(root: Path) -> dict[str, float]:
    """What a fresh process needs to open a store and to read from it."""
    before, began = _resident_mb(), time.perf_counter()
    store = Store.open(root)
    features = store.features(TEACHER, LEVEL)
    last = len(store.plan.blocks) - 1
    features.read(1, last, np.arange(BATCH))
    seconds, opened = time.perf_counter() - began, _resident_mb()
    words = rng.uniform_words(0, BLOCKS_READ, "blocks")
    out = features.buffer(BATCH)
    for word in words.tolist():
        block = word % len(store.plan.blocks)
        features.read(word % NUM_VIEWS, block, np.arange(BATCH) * 7 + word % 100, out)
        store.view_params(word % NUM_VIEWS, block)
        assert store.samples(block)[word % BLOCK_SAMPLES].reason is None
    return {"seconds": seconds, "open_mb": opened - before, "read_mb": _resident_mb() - before}


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    arguments = parser(__doc__, quick="fewer rounds")
    arguments.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    sizes = [1_000_000, 10_000_000] if options.quick else [100_000, 1_000_000, 10_000_000]
    with tempfile.TemporaryDirectory(prefix="stillhouse-open-") as folder:
        for size in sizes:
            make_sparse_store(Path(folder) / str(size), size)
        runs: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
        for _ in range(3 if options.quick else 7):
            for size in sizes:
                command = [sys.executable, __file__, "--measure", str(Path(folder) / str(size))]
                runs[size].append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    rows = {
        f"{size:,}": {key: float(np.median([run[key] for run in found])) for key in found[0]}
        for size, found in runs.items()
    }
    print_table("samples: seconds to the first batch, MB grown by opening, MB after reading from 1,000 blocks", rows)
    most, tenth = rows[f"{sizes[-1]:,}"], rows[f"{sizes[-2]:,}"]
    bars = Bars()
    bars.check("open.10M.seconds", most["seconds"], "<=", 1)
    bars.check("open.10M.mb", most["open_mb"], "<=", 200)
    bars.check("open.reader_mb.10M_of_1M", most["read_mb"] / tenth["read_mb"], "<=", 1.1)
    bars.print()
    write_json(options.json, bars, {"samples": rows})


if __name__ == "__main__":
    main()
