"""Students from a store against students with the teacher at every step, on CIFAR-10: what they score, what they cost.

`python benchmarks/cached_vs_live.py --data cifar10 --work DIR` trains the student of the bed `cnn` of testbed.py (resnet10t from
EfficientNet-Lite0; 5,000 images, 10 passes) in four ways that share seeds, initialisation, order and steps:

    fresh    the teacher runs at every step, on a view that is drawn anew in every pass
    live     the teacher runs at every step, on the V stored views in turn
    cached   from the store, tokens in fp16
    coded    from the store, tokens in about one bit a value

for V = 1, 2, 5 and 10. `live` and `fresh` train on what the teacher says in float32. All are judged by kNN on held-out images.
Wall time and CPU seconds are medians over seeds. `--shard 0/4` does a part of the seeds, so that shards can share a machine; the same
command without it then does what is left and prints the tables, or those of what is there with `--kept`. Every student is kept as
a line, and is compared with those of its own seeds.

`--pairs DIR` is another table: a step with the teacher over the step from a store, for ViTs of real sizes with random weights,
beside the ratio of the operations that the two need.
"""

import json
import statistics
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from codec_students import alone
from harness import Bars, Rounds, alternate, parser, print_table, write_json
from paired import Line, compared
from random_vits import store_of, teacher_config
from scipy import stats
from testbed import LITE0, config, unpack
from torch.utils.flop_counter import FlopCounterMode

from stillhouse.core.config import parse_config
from stillhouse.core.events import Reporter
from stillhouse.core.pixels import resize_pixels
from stillhouse.eval.config import EvalConfig
from stillhouse.eval.features import classes_of, encode_images, labelled_rows, middle_pixels
from stillhouse.eval.knn import KnnConfig, KnnProbe
from stillhouse.eval.subjects import Subject
from stillhouse.ledger import Ledger
from stillhouse.pipeline import run_extract, run_ingest
from stillhouse.pipeline_config import PipelineConfig
from stillhouse.stage1_extract.policies import ViewPolicyConfig, draw
from stillhouse.stage1_extract.teachers import Teacher
from stillhouse.stage2_distill.config import DistillConfig, StudentConfig
from stillhouse.stage2_distill.loader import Batch, Loader
from stillhouse.stage2_distill.order import epoch_windows, views_of
from stillhouse.stage2_distill.teachers import taught_by
from stillhouse.stage2_distill.trainer import Trainer
from stillhouse.storage.decode import decode
from stillhouse.storage.specs import TRAIN
from stillhouse.storage.store import Store
from stillhouse.storage.views import render

FRESH, LIVE, CACHED, CODED = "fresh", "live", "cached", "coded"
CODES = {CACHED: "fp16", CODED: {"cls": "ecsq:2", "patch": "ecsq:0.92"}}
WAYS = (FRESH, LIVE, CACHED, CODED)
VIEWS = (1, 2, 5, 10)
READ_AHEAD = 4
NOISE = 2.0
"""Deviations between seeds within which two ways agree."""
PAIRS = (("Ti", "B"), ("S", "B"), ("S", "L"), ("S", "g"))
STUDENTS = {"Ti": "vit_tiny_patch16_224", "S": "vit_small_patch16_224"}


class Study:
    """The store, and one student after the other."""

    def __init__(self, work: Path, data: Path | None, views: tuple[int, ...], epochs: int, threads: int) -> None:
        self.views = views
        self.work, self.threads, self.lines = work, threads, work / "lines"
        self.lines.mkdir(parents=True, exist_ok=True)
        settings = config(work / "images", work, "cnn", epochs=epochs)
        settings["views"] |= {"num": max(views)}
        settings["teachers"] = [{**LITE0, "name": way, "codec": codec} for way, codec in CODES.items()]
        settings["distill"] |= {"teacher": CACHED, "threads": threads, "pixel_cache_mb": 4096}
        settings["extract"] = {"threads": threads}
        self.pipeline = parse_config(PipelineConfig, settings, where="study")
        with alone(work):
            if data is not None:
                unpack(data, work / "images")
            ledger, reporter = Ledger(work), Reporter()
            self.store, _ = run_ingest(self.pipeline, reporter, ledger)
            run_extract(self.pipeline, self.store, reporter, ledger)
        self.store = Store.open(self.store.root)
        self._evaluation = EvalConfig(threads=threads)
        rows = [labelled_rows(self.store, split) for split in ("train", "test")]
        self._judged = [(part, middle_pixels(self.store, part, threads)) for part in rows]

    def first_views(self, num: int) -> Store:
        """The store as it would be with so many views."""
        spec = self.store.spec.model_copy(update={"views": {**self.store.spec.views, "num": num}})
        return Store(self.store.root, spec, self.store.plan)

    def settings(self, way: str, seed: int) -> DistillConfig:
        return self.pipeline.distill.model_copy(update={"seed": seed, "teacher": way if way in CODES else CACHED})

    def run(self, way: str, num_views: int, seed: int) -> Line:
        """One student, trained and judged, or found so."""
        path = self.lines / f"{way}-{num_views}-{seed}.json"
        if path.exists():
            return dict(json.loads(path.read_text(encoding="utf-8")))
        store, settings = self.first_views(max(num_views, 1)), self.settings(way, seed)
        taught = taught_by(settings, self.store)
        trainer = Trainer(settings, self.store, taught)
        levels = {one.name: one.levels for one in taught}
        begin, cpu = time.perf_counter(), time.process_time()
        with Loader(store, levels, settings, trainer.student.image_size) as loader:
            trainer.begin(loader.steps_per_epoch)
            for epoch in range(settings.epochs):
                batches = loader.epoch(epoch) if way in CODES else self._live(trainer, way, num_views, epoch)
                for batch in batches:
                    trainer.train_step(batch)
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        line: Line = {"choice": f"{way} {num_views}", "way": way, "views": num_views, "seed": seed}
        line |= {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - cpu}
        line |= {"steps": trainer.num_steps, "loss": trainer.last_losses["total"], "knn": self._judge(trainer)}
        path.write_text(json.dumps(line), encoding="utf-8")
        print(line, flush=True)
        return line

    def _live(self, trainer: Trainer, way: str, num_views: int, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch as the loader gives them, but for what the teacher says of them now."""
        teacher, settings, store = self._teacher(), trainer.config, self.store
        view = epoch if way == FRESH else epoch % num_views
        policy = ViewPolicyConfig.model_validate(
            {**store.spec.views, "num": max(settings.epochs, store.spec.num_views)}
        )
        windows = epoch_windows(
            store.plan.blocks_of(TRAIN),
            store.good_rows,
            seed=settings.seed,
            epoch=epoch,
            window_blocks=settings.window_blocks,
            views=views_of(view, policy.num),
        )
        pairs = np.concatenate([window.pairs for window in windows])

        def rendered(block: int, row: int) -> Any:
            sample = store.samples(block)[row]
            image = decode(store.image_bytes(block, row))
            return render(image, draw(policy, sample.key, sample.width, sample.height, view), policy.size)

        with ThreadPoolExecutor(self.threads) as pool:
            waiting: deque[tuple[Any, list[Future[Any]]]] = deque()

            def next_batch() -> Batch:
                some, futures = waiting.popleft()
                pixels = np.stack([future.result() for future in futures])
                codes = {CACHED: {level: tokens for level, tokens in teacher(pixels).items()}}
                return Batch(resize_pixels(pixels, trainer.student.image_size), codes, some)

            for start in range(0, len(pairs) // settings.batch * settings.batch, settings.batch):
                some = pairs[start : start + settings.batch]
                waiting.append((some, [pool.submit(rendered, block, row) for block, row in some.tolist()]))
                if len(waiting) > READ_AHEAD:
                    yield next_batch()
            while waiting:
                yield next_batch()

    def _teacher(self) -> Teacher:
        if not hasattr(self, "_built"):
            self._built = Teacher(self.pipeline.teacher_of(CACHED), view_size=self.store.spec.view_size)
        return self._built

    def _judge(self, trainer: Trainer) -> float:
        encoder = trainer.student.encoder.eval()
        subject, num_classes = Subject("student", encoder, trainer.sees, ""), len(classes_of(self.store))
        bank, judged = (
            encode_images(subject, pixels, part.labels_N, num_classes, self._evaluation)
            for part, pixels in self._judged
        )
        result = KnnProbe(KnnConfig(ks=(20,), report_k=20)).run(bank, judged)
        return float(result.scores["top1"])


def tasks(views: tuple[int, ...], seeds: int) -> list[tuple[str, int, int]]:
    """Every student of the study: seed 0 first."""
    ways = [(FRESH, 0), *((way, num) for num in views for way in (LIVE, CACHED, CODED))]
    return [(way, num, seed) for seed in range(seeds) for way, num in ways]


def scores(lines: list[Line], bars: Bars) -> dict[str, dict[str, float | str]]:
    """A row for each way and number of views; `live` of as many views is what stored tokens are compared with."""
    table: dict[str, dict[str, float | str]] = {}
    by_choice: dict[str, dict[int, Line]] = {}
    for line in sorted(lines, key=lambda line: (line["views"], WAYS.index(line["way"]), line["seed"])):
        by_choice.setdefault(line["choice"], {})[line["seed"]] = line
    fresh = {seed: line["knn"] for seed, line in by_choice[f"{FRESH} 0"].items()}
    for choice, by_seed in by_choice.items():
        values = {seed: line["knn"] for seed, line in by_seed.items()}
        mean, num, first = statistics.mean(values.values()), len(values), next(iter(by_seed.values()))
        row: dict[str, float | str] = {"seeds": num, "knn": mean}
        if num > 1:
            half = float(stats.t.ppf(0.975, num - 1)) * statistics.stdev(values.values()) / num**0.5
            row["interval"] = f"± {half:.3f}"
        row |= {name: median(list(by_seed.values()), name) for name in ("loss", "seconds", "cpu_seconds")}
        way = first["way"]
        if way != FRESH:
            row |= _told("to fresh", compared(values, fresh))
        if way in CODES:
            of_live = by_choice[f"{LIVE} {first['views']}"]
            found = compared(values, {seed: line["knn"] for seed, line in of_live.items()})
            row |= _told("to live", found)
            row["loss to live"] = statistics.mean(
                line["loss"] - of_live[seed]["loss"] for seed, line in by_seed.items() if seed in of_live
            )
            if "in_deviations" in found:
                name = f"cached_vs_live.{way}.{first['views']}_views.in_deviations"
                bars.check(name, abs(found["in_deviations"]), "<=", NOISE)
        table[choice] = row
    return table


def _told(name: str, found: dict[str, Any]) -> dict[str, float | str]:
    if "low" not in found:
        return {name: found["difference"]} if found else {}
    return {name: f"{found['difference']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"}


def median(lines: list[Line], name: str) -> float:
    """Of one number, over lines."""
    return float(statistics.median(line[name] for line in lines))


def costs(lines: list[Line], views: tuple[int, ...], total: float) -> dict[str, dict[str, float | str]]:
    """What the extraction of V views takes (`total` for the most), what a student then saves against the live teacher, how many pay for it."""
    seconds = {
        choice: median([line for line in lines if line["choice"] == choice], "seconds")
        for choice in {line["choice"] for line in lines}
    }
    table: dict[str, dict[str, float | str]] = {}
    for num in views:
        extraction = total * num / max(views)
        saved = seconds[f"{FRESH} 0"] - seconds[f"{CACHED} {num}"]
        row: dict[str, float | str] = {"extraction_seconds": extraction, "saved_a_student": saved}
        row["students_that_pay"] = extraction / saved if saved > 0 else "never"
        table[f"{num} views"] = row
    return table


def pairs(work: Path, batch: int, num_rounds: int, sizes: tuple[tuple[str, str], ...]) -> dict[str, dict[str, float]]:
    """A step with the live teacher over the step from a store, measured and by operations."""
    table = {}
    for student, size in sizes:
        of_teacher = teacher_config(size, precision="bf16", batch=batch)
        store = store_of(work / size, of_teacher, batch)
        settings = DistillConfig(
            student=StudentConfig(model=STUDENTS[student], model_args={"patch_size": 14}),
            teacher=of_teacher.name,
            targets="centred",
            batch=batch,
            epochs=100_000,
            ema=0.0,
            precision="bf16",
            log_steps=1_000_000,
        )
        taught = taught_by(settings, store)
        trainer = Trainer(settings, store, taught)
        teacher = Teacher(of_teacher, view_size=store.spec.view_size)
        with Loader(store, {one.name: one.levels for one in taught}, settings, trainer.student.image_size) as loader:
            held = next(iter(loader.epoch(0)))
            trainer.begin(loader.steps_per_epoch)
        with FlopCounterMode(display=False) as counter:
            trainer.train_step(held)
        of_step = counter.get_total_flops()
        with FlopCounterMode(display=False) as counter:
            teacher(held.pixels_BSSC)
        predicted = (of_step + counter.get_total_flops()) / of_step
        rounds = _step_rounds(trainer, teacher, held, num_rounds)
        found = rounds.ratio("cached", "live")
        table[f"{student} from {size}"] = {
            "cached_s": batch / rounds.median("cached"),
            "live_s": batch / rounds.median("live"),
            "live_over_cached": found,
            "by_operations": predicted,
        }
        print(f"{student} from {size}: {found:.2f} (by operations {predicted:.2f})", flush=True)
    return table


def _step_rounds(trainer: Trainer, teacher: Teacher, held: Batch, num_rounds: int) -> Rounds:
    def step(batch: Batch) -> int:
        trainer.train_step(batch)
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        return len(batch.pairs)

    def live(number: int) -> int:
        return step(Batch(held.pixels_BSSC, {teacher.config.name: teacher(held.pixels_BSSC)}, held.pairs))

    return alternate({"cached": lambda number: step(held), "live": live}, num_rounds)


def main() -> None:
    options_of = parser(__doc__, quick="one seed, one pass, two views; or one pair")
    options_of.add_argument(
        "--data", type=Path, help="a folder with train.tar and test.tar; not asked for once unpacked"
    )
    options_of.add_argument("--work", type=Path, help="where store and lines go")
    options_of.add_argument("--seeds", type=int, default=3)
    options_of.add_argument("--epochs", type=int, default=10)
    options_of.add_argument("--threads", type=int, default=2)
    options_of.add_argument("--shard", default="0/1", help="this part of the seeds after the first, e.g. 1/4")
    options_of.add_argument("--kept", action="store_true", help="only the tables, of the students that are there")
    options_of.add_argument("--pairs", type=Path, help="the table of pairs alone, with stores in this folder")
    options_of.add_argument("--batch", type=int, default=16, help="of the pairs")
    options = options_of.parse_args()
    bars = Bars()
    if options.pairs is not None:
        table = pairs(options.pairs, options.batch, 3 if options.quick else 7, PAIRS[:1] if options.quick else PAIRS)
        print_table("seconds of a step cached and live, live over cached as measured and by operations", table)
        if "S from g" in table:
            bars.check("cached_vs_live.live_over_cached.S_from_g", table["S from g"]["live_over_cached"], ">=", 8)
        write_json(options.json, bars, {"a step with the live teacher over one from the store": table})
        return
    views, epochs, seeds = ((1, 2), 1, 1) if options.quick else (VIEWS, options.epochs, options.seeds)
    if options.kept:
        lines = [
            json.loads(path.read_text(encoding="utf-8")) for path in sorted((options.work / "lines").glob("*.json"))
        ]
        tell(lines, views, extract_seconds(options.work), options.json)
        return
    study = Study(options.work, options.data, views, epochs, options.threads)
    todo, (part, of) = tasks(views, seeds), map(int, options.shard.split("/"))
    lines = [study.run(*task) for task in todo[part::of]]
    if of == 1:
        tell(lines, views, extract_seconds(options.work), options.json)


def extract_seconds(work: Path) -> float:
    """That the pass of one teacher over all views took."""
    return Ledger(work).seconds.get("extract", 0.0) / len(CODES)


def tell(lines: list[Line], views: tuple[int, ...], extraction: float, json_path: Path | None) -> None:
    """Print and keep the tables of scores and of costs."""
    bars = Bars()
    table_of_scores, table_of_costs = scores(lines, bars), costs(lines, views, extraction)
    for name, row in table_of_scores.items():
        print(name, {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()})
    for name, row in table_of_costs.items():
        print(name, {key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()})
    bars.print()
    write_json(json_path, bars, {"scores and costs": table_of_scores, "what pays": table_of_costs})


if __name__ == "__main__":
    main()
