"""An hour of training and reading while another process extracts and collects garbage: what grows, and what becomes slower.

`python benchmarks/soak.py` takes an hour, `--quick` under one minute. One process trains: it opens the store, makes a loader,
takes a step for each batch, reads rows and images at random, closes all of it, and begins anew. Another one works in turns: it
makes the features of a second teacher in the same store again, fills a store of its own, is stopped half-way and goes on, and
leaves attempts behind that the garbage collector of both stores removes. At the end of each round a process looks at itself:
resident memory, open files, threads. A line an interval goes to `soak.jsonl` as it is known.

What is compared are the first and the last quarter of the intervals, after the first tenth, in which caches fill.
"""

import itertools
import json
import multiprocessing
import os
import secrets
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from harness import Bars, parser, print_table, write_json

from stillhouse.core import rng
from stillhouse.core.events import Reporter
from stillhouse.stage1_extract.config import ExtractConfig, TeacherConfig
from stillhouse.stage1_extract.extract import extract
from stillhouse.stage1_extract.ingest import ingest
from stillhouse.stage1_extract.repair import Plant, repair
from stillhouse.stage1_extract.testing import (
    TINY_VIEWS,
    TINY_VIT,
    TINY_VIT_ARGS,
    tiny_images,
    tiny_ingest,
    tiny_teacher,
)
from stillhouse.stage2_distill.config import DistillConfig
from stillhouse.stage2_distill.loader import Loader
from stillhouse.stage2_distill.teachers import taught_by
from stillhouse.stage2_distill.trainer import Trainer
from stillhouse.storage import layout
from stillhouse.storage.collect import collect
from stillhouse.storage.specs import TRAIN
from stillhouse.storage.store import Store

NUM_IMAGES, BLOCK_SAMPLES = 512, 64
READS = 64
"""Rows and images at random in a round of training."""
WARM_UP = 0.1
"""Share of the intervals before the first quarter begins."""
LOG = "soak.jsonl"

Vitals = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Stage:
    """What both processes work on. `seconds` in all, a line every `interval` of them."""

    folder: Path
    seconds: float
    interval: float

    def plant(self, name: str) -> Plant:
        source = tiny_images(self.folder / "images", 0)
        teachers = (self.teacher("first", 0), self.teacher("second", 1))
        blocks = tiny_ingest(source, block_samples=BLOCK_SAMPLES)
        return Plant(self.folder / name, blocks, TINY_VIEWS, teachers, ExtractConfig(device="cpu"))

    def teacher(self, name: str, seed: int) -> TeacherConfig:
        return tiny_teacher(self.folder / "weights", name, seed=seed)


def fill(plant: Plant) -> Store:
    """The store of a plant, with all of its teachers."""
    ingest(plant.root, plant.ingest, plant.views, Reporter(quiet=True))
    store = Store.open(plant.root)
    for teacher in plant.teachers:
        extract(store, teacher, plant.run, Reporter(quiet=True))
    return store


def vitals() -> Vitals:
    """Of this process: resident megabytes, open files, threads."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    files = len(os.listdir("/proc/self/fd")) - 1  # one is that of the listing
    return {"rss_mb": int(status["VmRSS"].split()[0]) / 1024, "files": files, "threads": int(status["Threads"])}


@dataclass
class Log:
    """Gathers rounds, and appends a line an interval to a file."""

    process: str
    stage: Stage
    begin: float = field(default_factory=time.monotonic)
    written: int = 0
    seen: list[Vitals] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def rounds(self) -> Iterator[int]:
        """Round numbers until the time is over, a look at the process after each."""
        for number in itertools.count():
            yield number
            self.seen.append(vitals())
            now = time.monotonic() - self.begin
            if now >= (self.written + 1) * self.stage.interval:
                self._write(now)
            if now >= self.stage.seconds:
                return

    def count(self, **found: int) -> None:
        for name, num in found.items():
            self.counts[name] = self.counts.get(name, 0) + num

    def _write(self, now: float) -> None:
        line: dict[str, Any] = {"process": self.process, "seconds": round(now, 1), "rounds": len(self.seen)}
        line["rss_mb"] = statistics.median(one["rss_mb"] for one in self.seen)
        line |= {name: max(one[name] for one in self.seen) for name in ("files", "threads")}
        if self.latencies:
            p50, p99 = np.percentile(self.latencies, [50, 99])
            line |= {"batches": len(self.latencies), "p50_ms": 1e3 * float(p50), "p99_ms": 1e3 * float(p99)}
        with open(self.stage.folder / LOG, "a", encoding="utf-8") as file:
            file.write(json.dumps(line | self.counts) + "\n")
        self.written = int(now // self.stage.interval)
        self.seen, self.latencies, self.counts = [], [], {}


def train(stage: Stage) -> None:
    """Batches, steps and random reads, round after round."""
    config = DistillConfig.model_validate(
        {
            "teacher": "first",
            "student": {"model": TINY_VIT, "model_args": TINY_VIT_ARGS},
            "targets": "centred",
            "epochs": 10**6,
            "batch": 32,
            "warmup_epochs": 1,
            "device": "cpu",
        }
    )
    root, log = stage.folder / "store", Log("trains and reads", stage)
    first = Store.open(root)
    trainer = Trainer(config, first, taught_by(config, first))
    for number in log.rounds():
        store = Store.open(root)
        levels = {one.name: one.levels for one in taught_by(config, store)}
        with Loader(store, levels, config, trainer.student.image_size) as loader:
            if number == 0:
                trainer.begin(loader.steps_per_epoch)
            for epoch in range(2 * number, 2 * number + 2):
                asked = time.perf_counter()
                for batch in loader.epoch(epoch):
                    trainer.train_step(batch)
                    now = time.perf_counter()
                    log.latencies.append(now - asked)
                    asked = now
        read_at_random(store, number)


def read_at_random(store: Store, seed: int) -> None:
    """Rows of a view of a block, and their images."""
    blocks = store.plan.blocks_of(TRAIN)
    block = blocks[int(rng.permutation(seed, len(blocks), "block", seed)[0])]
    rows = rng.permutation(seed, store.plan.blocks[block].num_rows, "rows", seed)[:READS]
    for level in ("cls", "patch"):
        store.features("first", level).read(seed % store.spec.num_views, block, rows)
    for row in rows.tolist():
        store.image_bytes(block, row)


class Stopped(Exception):
    """What stops an extraction half-way."""


class Stopping(Reporter):
    """Lets so many blocks be done."""

    def __init__(self, blocks: int) -> None:
        super().__init__(quiet=True)
        self.left = blocks

    def event(self, kind: str, **facts: Any) -> None:
        if kind == "block":
            self.left -= 1
            if self.left == 0:
                raise Stopped


def work(stage: Stage) -> None:
    """Extraction and garbage collection in turns, in the store that is read and in one of its own."""
    log, shared, own = Log("extracts and collects", stage), stage.plant("store"), stage.plant("own")
    quiet = Reporter(quiet=True)
    for number in log.rounds():
        store = Store.open(shared.root)
        view, blocks = number % store.spec.num_views, store.plan.blocks_of(TRAIN)
        units = [layout.features_unit("second", view, block) for block in blocks]
        redone = len(repair(shared, units, quiet).redone)
        ingest(own.root, own.ingest, own.views, quiet)
        try:
            extract(Store.open(own.root), own.teachers[0], own.run, Stopping(len(blocks)))
        except Stopped:
            log.count(stopped=1)
        fill(own)
        collected = sum(abandon_and_collect(root) for root in (shared.root, own.root))
        shutil.rmtree(own.root)
        log.count(units=redone + 2 * len(blocks) * len(own.teachers), collected=collected)


def abandon_and_collect(root: Path) -> int:
    """Leave what a writer that was killed leaves, and remove it; how many were removed."""
    attempt = root / layout.STAGE / secrets.token_hex(16)
    attempt.mkdir(parents=True)
    (attempt / "0").write_bytes(bytes(1 << 16))
    removed = len(collect(Store.open(root), older_than_s=0).removed)
    assert not attempt.exists(), f"{attempt} is still there"
    return removed


def run(stage: Stage) -> None:
    """Both processes, to the end of the time."""
    tiny_images(stage.folder / "images", NUM_IMAGES)
    fill(stage.plant("store"))
    (stage.folder / LOG).unlink(missing_ok=True)
    context = multiprocessing.get_context("spawn")
    targets: tuple[Callable[[Stage], None], ...] = (train, work)
    processes = [context.Process(target=target, args=(stage,), name=target.__name__) for target in targets]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    failed = [process.name for process in processes if process.exitcode]
    if failed:
        sys.exit(f"the process that shall {failed[0]} failed")


def quarters(lines: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The first and the last quarter of the intervals, after the first tenth."""
    warm = lines[-(-round(1000 * WARM_UP) * len(lines) // 1000) :]
    num = max(1, len(warm) // 4)
    return warm[:num], warm[-num:]


def judge(lines: list[dict[str, Any]], bars: Bars) -> dict[str, dict[str, float]]:
    """A row a process: what it was at first and at last, and a bar for each."""
    table: dict[str, dict[str, float]] = {}
    for process in sorted({line["process"] for line in lines}):
        mine = [line for line in lines if line["process"] == process]
        first, last = quarters(mine)
        row = table[process] = {}
        for name in ("rss_mb", "p50_ms", "p99_ms"):
            if name in mine[0]:
                row[f"{name} first"] = statistics.median(line[name] for line in first)
                row[f"{name} last"] = statistics.median(line[name] for line in last)
        for name in ("files", "threads"):
            row[f"{name} first"], row[f"{name} last"] = (max(one[name] for one in part) for part in (first, last))
        row |= {name: sum(one.get(name, 0) for one in mine) for name in ("rounds", "batches", "units", "collected")}
        word = process.partition(" ")[0]
        bars.check(f"soak.{word}.memory_growth", row["rss_mb last"] / row["rss_mb first"] - 1, "<=", 0.05)
        for name in ("files", "threads"):
            bars.check(f"soak.{word}.more_{name}", row[f"{name} last"] - row[f"{name} first"], "<=", 0)
        if "p99_ms first" in row:
            bars.check(f"soak.{word}.p99_over_first", row["p99_ms last"] / row["p99_ms first"], "<=", 1.5)
    return table


def main() -> None:
    options_of = parser(__doc__, quick="20 seconds instead of an hour")
    options_of.add_argument("--minutes", type=float, default=60)
    options_of.add_argument("--work", type=Path, help="keep stores and soak.jsonl here; it must not hold a store yet")
    options = options_of.parse_args()
    seconds, interval = (20.0, 1.0) if options.quick else (60 * options.minutes, min(60.0, 1.5 * options.minutes))
    bars = Bars()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        run(Stage(folder, seconds, interval))
        lines = [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]
    table = judge(lines, bars)
    for process, row in table.items():
        print_table(f"{process}: {', '.join(row)}", {"": row})
    bars.print()
    write_json(options.json, bars, {f"{seconds / 60:g} minutes": table, "lines": lines})


if __name__ == "__main__":
    main()
