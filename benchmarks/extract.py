"""The teacher pass against the bare teacher, two workers against one, and the teacher against the machine's matrix peak.

Random images, and a ViT/14 with random weights. `pass` renders, asks the teacher, encodes and commits whole units of a fresh copy of
a store; `bare` asks the same teacher about as many views that are in memory, and drops what it says. Loading the teacher
and fitting codecs are left out of both. Workers have a single-threaded teacher each, and the codecs are there before they
begin; their rate is that of the blocks after the first quarter, when all of them are at work.

With one GPU there is nothing for a second worker to use, so that bar is measured on the CPU.
"""

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from harness import Bars, alternate, parser, print_table, write_json
from random_vits import SIDE, teacher_config
from torch.utils.flop_counter import FlopCounterMode

from stillhouse.core.events import Reporter
from stillhouse.core.stops import worker_threads
from stillhouse.stage1_extract.config import ExtractConfig, TeacherConfig
from stillhouse.stage1_extract.extract import extract
from stillhouse.stage1_extract.fitting import fit_codecs
from stillhouse.stage1_extract.ingest import ingest
from stillhouse.stage1_extract.policies import ViewPolicyConfig
from stillhouse.stage1_extract.remaining import undecided
from stillhouse.stage1_extract.station import ready_pass, write_units
from stillhouse.stage1_extract.teachers import Teacher
from stillhouse.stage1_extract.testing import tiny_images, tiny_ingest
from stillhouse.stage1_extract.units import TeacherPass
from stillhouse.storage.store import Store

PASS = "the pass against the bare teacher, images a second"
ALONE = "the teacher against the matrix peak, TFLOP/s"
WORKERS = "two workers against one, blocks a second"
QUIET = Reporter(quiet=True)


class Clock(Reporter):
    """Keeps the moment at which each block was told of."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.times: list[float] = []

    def event(self, kind: str, **facts: Any) -> None:
        if kind == "block":
            self.times.append(time.perf_counter())


def ingested(folder: Path, num: int, block: int) -> Store:
    """A store of `num` images in one view of 224 pixels, without features."""
    images = tiny_images(folder / "images", num, side=256)
    views = ViewPolicyConfig(policy="crop_flip", num=1, size=SIDE)
    ingest(folder / "store", tiny_ingest(images, block_samples=block), views, QUIET)
    return Store.open(folder / "store")


def copies(store: Store, num: int) -> Iterator[Store]:
    """So many fresh copies of a store, all made before the first one is given out, each removed after its use."""
    made = [store.root.with_name(f"{store.root.name}-{i}") for i in range(num)]
    for copy in made:
        shutil.copytree(store.root, copy)
    for copy in made:
        yield Store.open(copy)
        shutil.rmtree(copy)


def fitted(store: Store, config: TeacherConfig, run: ExtractConfig, pool: ThreadPoolExecutor) -> TeacherPass:
    """A pass whose codecs are committed, and which has kept nothing of what the teacher said for them."""
    work = ready_pass(store, config, run, pool)
    fit_codecs(work, QUIET)
    work.kept = {}
    return work


def pass_and_bare(store: Store, config: TeacherConfig, run: ExtractConfig, num_rounds: int) -> dict[str, Any]:
    """Images per second of both, and the ratio of their times."""
    num_images = store.plan.num_samples
    with worker_threads(run.threads, "render") as pool:
        work = fitted(store, config, run, pool)
        pixels = work.teacher.empty_pixels(config.batch)
        pixels[:] = np.random.Generator(np.random.PCG64(0)).integers(0, 256, pixels.shape, np.uint8)
        fresh = copies(store, num_rounds + 1)

        def whole(_: int) -> int:
            work.store = next(fresh)
            todo = undecided(work.store, config.name)
            return write_units(work, todo, lambda num: None, QUIET) * num_images // len(todo)

        def bare(_: int) -> int:
            asked = [work.teacher.ask(pixels) for _ in range(num_images // config.batch)]
            asked[-1].tokens()
            return len(asked) * config.batch

        found = alternate({"pass": whole, "bare": bare}, num_rounds)
        next(fresh, None)
    return {"pass": found.median("pass"), "bare": found.median("bare"), "ratio": 1 / found.ratio("pass", "bare")}


def against_peak(teacher: Teacher, side: int, num_rounds: int) -> dict[str, Any]:
    """Operations per second (in 1e12) of the teacher alone and of one large bf16 product."""
    device, size = teacher.device, teacher.preprocessing.size
    pixels = np.zeros((teacher.config.batch, size, size, 3), np.uint8)
    counter = FlopCounterMode(display=False)
    with counter:
        teacher(pixels)
    a, b = (torch.randn(side, side, dtype=torch.bfloat16, device=device) for _ in range(2))
    few = 1 if device.type == "cpu" else 20

    def waited(num_operations: int) -> int:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return num_operations

    def forward(_: int) -> int:
        asked = [teacher.ask(pixels) for _ in range(few)]
        asked[-1].tokens()
        return waited(few * counter.get_total_flops())

    def product(_: int) -> int:
        for _ in range(few):
            torch.mm(a, b)
        return waited(few * 2 * side**3)

    found = alternate({"teacher": forward, "product": product}, num_rounds)
    rates = {name: found.median(name) / 1e12 for name in ("teacher", "product")}
    return {**rates, "ratio": found.ratio("teacher", "product")}


def two_and_one(store: Store, config: TeacherConfig, run: ExtractConfig, num_rounds: int) -> dict[str, Any]:
    """Blocks per second of one worker process and of two, once both are at work."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    threads = torch.get_num_threads()
    with worker_threads(run.threads, "render") as pool:
        fitted(store, config, run, pool)
    fresh = copies(store, 2 * num_rounds)
    for number in range(num_rounds):
        for workers in (1, 2) if number % 2 else (2, 1):
            clock = Clock()
            torch.set_num_threads(workers)  # which they share
            extract(next(fresh), config, run.model_copy(update={"workers": workers}), clock)
            first = len(clock.times) // 4
            rates[workers].append((len(clock.times) - 1 - first) / (clock.times[-1] - clock.times[first]))
    next(fresh, None)
    torch.set_num_threads(threads)
    one, two = (sorted(rates[workers])[num_rounds // 2] for workers in (1, 2))
    return {
        "one": one,
        "two": two,
        "ratio": sorted(b / a for a, b in zip(rates[1], rates[2], strict=True))[num_rounds // 2],
    }


def main() -> None:
    options = parser(__doc__, "a ViT-S, few images, one round of each")
    options.add_argument("--device", default="auto", help="of the first two tables")
    options.add_argument("--no-workers", action="store_true", help="leave the third table out")
    args = options.parse_args()
    on_gpu = args.device != "cpu" and torch.cuda.is_available()
    size, num_rounds = ("S", 1) if args.quick else ("B", 5)
    batch = 256 if on_gpu else 16
    num = (16 if args.quick else 4096 if on_gpu else 128) // batch * batch or batch
    run = ExtractConfig(device=args.device, threads=16 if on_gpu else 2)
    config = teacher_config(size, precision="bf16", batch=batch)
    bars, tables = Bars(), {}

    def keep(title: str, teacher: str, table: dict[str, Any], bar: str, relation: str, limit: float) -> None:
        tables[title] = {teacher: table}
        print_table(f"{title}: {', '.join(table)}", tables[title])
        bars.check(bar, table["ratio"], relation, limit)

    with TemporaryDirectory() as folder:
        store = ingested(Path(folder) / "pass", num, max(1, num // 2))
        named = f"ViT-{size}, batches of {batch}"
        keep(PASS, named, pass_and_bare(store, config, run, num_rounds), "extract.pass_of_bare", "<=", 1.08)
        teacher = Teacher(config, view_size=SIDE, device=args.device)
        peak = against_peak(teacher, 8192 if on_gpu else 2048, num_rounds)
        keep(ALONE, named, peak, "extract.teacher_of_peak", ">=", 0.6)
        del teacher
        if not args.no_workers:
            images, each, block = (32, 2, 4) if args.quick else (1024, 8, 64)
            few = ingested(Path(folder) / "workers", images, block)
            cpu = ExtractConfig(device="cpu", threads=1)
            both = two_and_one(few, teacher_config("S", precision="bf16", batch=each), cpu, 1 if args.quick else 3)
            keep(WORKERS, f"ViT-S, batches of {each}", both, "extract.two_workers_of_one", ">=", 1.8)
    bars.print()
    write_json(args.json, bars, tables)


if __name__ == "__main__":
    main()
