"""Does a student trained from a store of few bits equal the one from fp16? Equal students but for the bits, seed by seed.

`python benchmarks/codec_students.py --data cifar10 --work /tmp/study --bed cnn` writes the bed's tokens once as fp16, encodes
them anew with every choice (`klt:1`; `int8+klt:1` is int8 for cls and klt:1 for patches), and trains one student a choice and
seed. A seed fixes initialisation, order and masks, so students of one seed differ by their targets alone. Every student is
a line in `students-<bed>.jsonl`: stop and run again to go on, or share the work between processes with `--shard 0/2` and
`--shard 1/2`; the same command without `--shard` then prints the table. Set OMP_NUM_THREADS=1 for one core a process.

fp16 is encoded anew too, so that all choices share the statistics by which targets are centred.

Judged by kNN and linear probe (top 1 on held-out images), and by the objective: token and feature loss of the
finished student and its heads against the exact tokens of the training rows, last view, nothing masked.

How they are compared is told in paired.py.
"""

import argparse
import contextlib
import fcntl
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import threadpoolctl  # type: ignore[import-untyped]
import torch
from harness import Bars, write_json
from paired import MEASURES, NOISE, REFERENCE, UNTRAINED, Line, Row, flat, print_table, table_of
from recode import Choice, recode
from testbed import BEDS, config, ingest_and_extract, unpack

from stillhouse.core.config import config_digest, parse_config
from stillhouse.core.encoders import normalise, weights_sha256
from stillhouse.core.events import Reporter
from stillhouse.eval.config import EvalConfig
from stillhouse.eval.run import Evaluation
from stillhouse.eval.subjects import Subject
from stillhouse.stage1_extract.remaining import undecided
from stillhouse.stage2_distill.config import DistillConfig
from stillhouse.stage2_distill.identity import MEANS
from stillhouse.stage2_distill.loader import Loader, Pixels
from stillhouse.stage2_distill.objectives import OBJECTIVES, Predictions, Targets
from stillhouse.stage2_distill.targets import LevelTargets, build_targets
from stillhouse.stage2_distill.teachers import taught_by
from stillhouse.stage2_distill.trainer import Trainer
from stillhouse.storage import layout
from stillhouse.storage.codecs import check_choice
from stillhouse.storage.specs import Preprocessing
from stillhouse.storage.store import Store

CHOICES = (REFERENCE, "int8", "int4", "klt:2", "klt:1", "klt:0.5", "klt:0.25", "pq:80")
LEVELS = ("cls", "patch")
ONE_BIT = 1.05
"""On disk: codes of one bit, crc and index of each row, and what a rate fitted on other rows misses by."""
PROBES = {"logistic": None}
"""What is unlike the bed: logistic regression on a CNN's 512 dimensions takes longer than training it."""

Cache = dict[tuple[int, int, int], Pixels]


@dataclass(frozen=True, slots=True)
class Run:
    """One student to make; `setup` names all else that decides it."""

    bed: str
    choice: str
    seed: int
    setup: str

    @property
    def name(self) -> str:
        return f"{self.bed}-{plain(self.choice)}-seed{self.seed}-{self.setup}"


def plain(choice: str) -> str:
    """A choice as a name on disk."""
    return choice.replace(":", "-").replace("+", "_")


def parsed(choice: str) -> Choice:
    """`CHOICE`, or `CLS+PATCH`."""
    parts = [check_choice(part) for part in choice.split("+")]
    return parts[0] if len(parts) == 1 else dict(zip(LEVELS, parts, strict=True))


class Study:
    """A bed: its store, its settings, and what all its students share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.work: Path = options.work
        self._data: Path | None = options.data
        passes = {} if options.epochs is None else {"epochs": options.epochs}
        self._settings = config(self.work / "images", self.work, options.bed, **passes)
        self.source: str = self._settings["teachers"][0]["name"]
        self._distill = {**self._settings["distill"], "basis": options.basis, "threads": options.threads}
        self.epochs = int(self._distill["epochs"])
        probes = {**self._settings["eval"], **PROBES}
        self._eval = parse_config(EvalConfig, {**probes, "threads": options.threads}, where="eval")
        self._pixels: Cache = {}
        whole = parse_config(DistillConfig, self._distill, where="distill").described()
        self.setup = config_digest([{key: whole[key] for key in whole if key not in MEANS}, probes])[:8]

    @cached_property
    def store(self) -> Store:
        """The bed's store of exact tokens; made when it is not there."""
        path = self.work / "store"
        with alone(self.work):
            if not _is_whole(path, self.source):
                self._write_store()
        return Store.open(path)

    def _write_store(self) -> None:
        if self._data is None:
            raise SystemExit(f"no whole store at {self.work / 'store'}: name the folder of the images with --data")
        unpack(self._data, self.work / "images")
        ingest_and_extract(self._settings, self.work)

    @cached_property
    def _evaluation(self) -> Evaluation:
        return Evaluation(self.store, self._eval, self.work / "judged", Reporter(quiet=True))

    def run(self, run: Run) -> Line:
        """Make and judge one student."""
        line, clock = {**asdict(run), "epochs": self.epochs}, Clock()
        store, teacher = self.store, self.source  # the store may first have to be made, alone as well
        if run.choice != UNTRAINED:
            teacher = f"{self.source}.{plain(run.choice)}"
            with alone(self.work):
                made = recode(store, self.source, parsed(run.choice), teacher)
            line |= {"bits": made.bits, "points": made.points}
        clock.lap("recode")
        chosen = parse_config(DistillConfig, {**self._distill, "teacher": teacher, "seed": run.seed}, where="distill")
        trainer = Trainer(chosen, store, taught_by(chosen, store))
        if run.choice != UNTRAINED:
            with self._loader(teacher, trainer) as loader:
                train(trainer, loader)
            clock.lap("train")
            with self._loader(self.source, trainer) as loader:
                line["objective"] = exact_objective(trainer, loader, store, teacher, self.source)
            clock.lap("objective")
        line |= self._judged(run, trainer)
        clock.lap("judge")
        return {**line, "seconds": clock.laps}

    def _loader(self, teacher: str, trainer: Trainer) -> "SharedPixels":
        return SharedPixels(self._pixels, self.store, teacher, trainer.config, trainer.student.image_size)

    def _judged(self, run: Run, trainer: Trainer) -> dict[str, float]:
        seen = self.store.teacher(self.source).preprocessing
        preprocessing = Preprocessing(mean=seen.mean, std=seen.std, size=trainer.student.image_size)
        encoder = trainer.student.encoder.eval().requires_grad_(False)
        subject = Subject(run.name, encoder, preprocessing, weights_sha256(encoder))
        scores = self._evaluation.judge(run.name, subject.weights_sha256, lambda: subject, sees=preprocessing).scores
        return {name: scores[name]["top1"] for name in ("knn", "linear")}


class SharedPixels(Loader):
    """A loader that keeps rendered views in a dictionary given to it: they are the same for every student."""

    def __init__(self, pixels: Cache, store: Store, teacher: str, config: DistillConfig, image_size: int) -> None:
        super().__init__(store, {teacher: LEVELS}, config, image_size)
        self._cache = pixels


class Clock:
    """Seconds by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = round(now - self._last, 2), now


@contextlib.contextmanager
def alone(work: Path) -> Iterator[None]:
    """Wait until no other process of the study writes to the store."""
    with open(work / "store.lock", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_whole(path: Path, teacher: str) -> bool:
    if not (path / layout.CARD).exists():
        return False
    store = Store.open(path)
    return store.has_teacher(teacher) and not undecided(store, teacher)


def train(trainer: Trainer, loader: Loader) -> None:
    """All epochs, as `distill` runs them, without its files."""
    trainer.begin(loader.steps_per_epoch)
    for epoch in range(trainer.config.epochs):
        for batch in loader.epoch(epoch):
            trainer.train_step(batch)


def exact_objective(trainer: Trainer, loader: Loader, store: Store, teacher: str, source: str) -> float:
    """Token and feature terms of a finished student and its heads against the exact tokens of the last view.

    In eval mode, with the weights of the config, over the batches of `loader`, which reads `source`: the exact tokens of
    what is in `teacher`. They are scaled as in training. What heads predict in a codec's basis is put into channels;
    components that the codec dropped are then at their mean.
    """
    own = trainer.losses[0].taught.bases
    trained, exact = {}, {}
    for level in LEVELS:
        scaled = store.statistics(teacher, level) if trainer.config.targets == "centred" else None
        trained[level] = build_targets(store.codec(teacher, level), trainer.device, scaled, own_basis=level in own)
        exact[level] = build_targets(store.codec(source, level), trainer.device, scaled, own_basis=False)
    weights = {name: weight for name, weight in trainer.config.objectives.items() if name in ("token", "feature")}
    seen, total, num = store.teacher(teacher).preprocessing, 0.0, 0
    trainer.student.eval()
    for batch in loader.epoch(store.spec.num_views - 1):
        wanted = {
            level: exact[level](torch.from_numpy(batch.codes[source][level]).to(trainer.device)) for level in LEVELS
        }
        made = _in_channels(trainer, trained, normalise(batch.pixels_BSSC, seen.mean, seen.std, trainer.device))
        pair = made, Targets(wanted["cls"][:, 0], wanted["patch"])
        total += len(batch.pairs) * sum(weight * float(OBJECTIVES[name](*pair)) for name, weight in weights.items())
        num += len(batch.pairs)
    return total / num


@torch.inference_mode()
def _in_channels(trainer: Trainer, trained: Mapping[str, LevelTargets], x_BCHW: torch.Tensor) -> Predictions:
    tokens, heads = trainer.student(x_BCHW), trainer.losses[0].heads
    return Predictions(
        trained["cls"].in_channels(heads.apply_head("token", tokens.cls_BD)),
        trained["patch"].in_channels(heads.apply_head("feature", tokens.patch_BTD)),
    )


def runs_of(study: Study, bed: str, choices: Sequence[str], seeds: int, shard: tuple[int, int]) -> list[Run]:
    """The runs of one process. Each starts elsewhere in the list, so that each encodes other choices first."""
    every = [Run(bed, choice, seed, study.setup) for choice in (*choices, UNTRAINED) for seed in range(seeds)]
    part, parts = shard
    mine = every[part::parts]
    start = len(mine) * part // parts
    return mine[start:] + mine[:start]


def read_lines(path: Path, setup: str) -> list[Line]:
    """The finished students of a setup; a line that a kill cut short is not one."""
    found: dict[tuple[str, int], Line] = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            line = json.loads(text)
            if line["setup"] == setup:
                found[line["choice"], line["seed"]] = line
    return list(found.values())


def append_line(path: Path, line: Line) -> None:
    """One write, on a line of its own even after one that was cut short."""
    with open(path, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        whole = file.seek(0, 2) == 0 or (file.seek(-1, 2), file.read(1))[1] == b"\n"
        file.write((b"" if whole else b"\n") + json.dumps(line).encode() + b"\n")


def check(bed: str, table: Mapping[str, Row], bars: Bars) -> None:
    """Students of at most about one bit are no worse than those of fp16, where fp16's are far from untrained ones."""
    if REFERENCE not in table or UNTRAINED not in table:
        return
    trained, start = table[REFERENCE]["knn"], table[UNTRAINED]["knn"]
    if trained.get("deviation", 0) > 0:
        gain = (trained["mean"] - start["mean"]) / trained["deviation"]
        bars.check(f"codecs.{bed}.{REFERENCE}.knn_gain_in_deviations", gain, ">=", 10)
    for name, row in table.items():
        if row.get("bits", math.inf) <= ONE_BIT and "in_deviations" in row["knn"]:
            of = f"codecs.{bed}.{name}.knn_minus_fp16_in_deviations"
            bars.check(of, row["knn"]["in_deviations"], ">=", -NOISE)


def _shard(text: str) -> tuple[int, int]:
    part, parts = (int(number) for number in text.split("/"))
    if not 0 <= part < parts:
        raise ValueError(text)
    return part, parts


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, help="a folder with train.tar and test.tar; not needed once there is a store"
    )
    parser.add_argument("--work", type=Path, required=True, help="where store, lines and scores go")
    parser.add_argument("--bed", choices=BEDS, default="cnn")
    parser.add_argument("--choices", nargs="+", default=CHOICES, help="codecs; fp16 comes first in any case")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="default: the bed's")
    parser.add_argument(
        "--shard", type=_shard, default=(0, 1), metavar="I/N", help="do every N-th run from the I-th on"
    )
    parser.add_argument("--basis", choices=("channels", "auto"), default="channels", help="what heads predict in")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one seed, one pass, fp16 and klt:1")
    parser.add_argument("--json", type=Path, help="keep the result in this file")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.epochs, options.choices = 1, 1, (REFERENCE, "klt:1")
    options.choices = tuple(dict.fromkeys((REFERENCE, *options.choices)))
    for choice in options.choices:
        parsed(choice)
    return options


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    threadpoolctl.threadpool_limits(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    study = Study(options)
    path = options.work / f"students-{options.bed}.jsonl"
    for run in runs_of(study, options.bed, options.choices, options.seeds, options.shard):
        if any((line["choice"], line["seed"]) == (run.choice, run.seed) for line in read_lines(path, study.setup)):
            continue
        line = study.run(run)
        append_line(path, line)
        told = {name: round(line[name], 4) for name in ("bits", *MEASURES) if line.get(name) is not None}
        print(run.choice, run.seed, told, line["seconds"], flush=True)
    lines = [line for line in read_lines(path, study.setup) if line["seed"] < options.seeds]
    table, bars = table_of(lines, (*options.choices, UNTRAINED)), Bars()
    check(options.bed, table, bars)
    print_table(table)
    bars.print()
    tables = {f"{options.bed}, {study.epochs} passes": {name: flat(row) for name, row in table.items()}}
    write_json(options.json, bars, tables)


if __name__ == "__main__":
    main()
