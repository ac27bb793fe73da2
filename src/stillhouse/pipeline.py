"""The whole way: pipeline.yaml to report. Each step is skipped when its output is there and whole.

ingest -> extract (per teacher) -> distill (per seed) -> eval -> report
"""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, model_validator

from stillhouse.core.checkpoints import find_checkpoint
from stillhouse.core.config import Config, config_digest
from stillhouse.core.encoders import require_model
from stillhouse.core.errors import EXIT_CORRUPT, EXIT_OK, CorruptError, UsageError, missing_package
from stillhouse.core.events import Reporter
from stillhouse.eval.config import EvalConfig
from stillhouse.eval.features import require_labels
from stillhouse.eval.judged import Judgement
from stillhouse.eval.kept import Kept, decide, keep
from stillhouse.eval.report_data import Verdict
from stillhouse.eval.run import Evaluation
from stillhouse.eval.stored import StoredEvaluation, StoredScores, stored_parts
from stillhouse.eval.subjects import exported_student, teacher_subject, untrained_student
from stillhouse.eval.watch import KnnWatch
from stillhouse.stage1_extract.config import ExtractConfig, IngestConfig, TeacherConfig
from stillhouse.stage1_extract.extract import extract
from stillhouse.stage1_extract.ingest import IngestResult, ingest, ingest_result
from stillhouse.stage1_extract.policies import ViewPolicyConfig
from stillhouse.stage1_extract.repair import Plant, repair
from stillhouse.stage2_distill.config import DistillConfig
from stillhouse.stage2_distill.order import views_of
from stillhouse.stage2_distill.run import RESULT, STUDENT, DistillResult, distill, finished_run
from stillhouse.stage2_distill.trainer import device_for
from stillhouse.storage import layout
from stillhouse.storage.collect import collect, collected_line
from stillhouse.storage.disk import replace_file
from stillhouse.storage.signed_json import canonical_json, read_json
from stillhouse.storage.specs import TRAIN
from stillhouse.storage.store import Store


class PipelineConfig(Config):
    """A pipeline.yaml: one section a verb."""

    name: str = Field(min_length=1)
    """Names the run in reports."""
    out: str = Field(min_length=1)
    """Folder for students, scores and the report."""
    store: str | None = None
    """Folder of the store; None: `<out>/store`."""
    ingest: IngestConfig
    views: ViewPolicyConfig
    teachers: tuple[TeacherConfig, ...] = Field(min_length=1)
    extract: ExtractConfig = ExtractConfig()
    distill: DistillConfig = DistillConfig()
    eval: EvalConfig = EvalConfig()

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [teacher.name for teacher in self.teachers]
        if len(set(names)) != len(names):
            raise ValueError(f"two teachers have one name: {', '.join(names)}")
        try:
            for what, name in (*(("teacher", name) for name in names), ("student", self.distill.name)):
                layout.check_name(name, what)
        except UsageError as error:
            raise ValueError(str(error)) from error
        for key, asked in (("teacher", [self.distill.teacher]), ("teachers", self.distill.teachers)):
            unknown = [one for one in asked if one not in (None, *names)]
            if unknown:
                raise ValueError(f"distill.{key} {unknown[0]!r} is not in `teachers`: {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _looks_have_a_loss(self) -> Self:
        if self.eval.watch is not None and self.eval.watch.steps < self.distill.log_steps:
            given = f"{self.eval.watch.steps}, and the loss is logged every distill.log_steps {self.distill.log_steps}"
            raise ValueError(f"eval.watch.steps is {given} steps; look no more often")
        return self

    @property
    def store_path(self) -> Path:
        return Path(self.store) if self.store else Path(self.out) / "store"

    def teacher_of(self, name: str) -> TeacherConfig:
        """The config of one teacher by name."""
        for teacher in self.teachers:
            if teacher.name == name:
                return teacher
        known = ", ".join(teacher.name for teacher in self.teachers)
        raise UsageError(f"the student was trained on {name!r}, which is not in `teachers`: {known}", hint="add it")


def save_resolved(config: PipelineConfig) -> None:
    """Keep the config with every default filled in beside the output."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    path = Path(config.out) / "pipeline.resolved.yaml"
    try:
        if not (path.is_file() and path.read_bytes() == text.encode()):
            replace_file(path, text.encode())
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        message = f"out: {config.out!r} cannot be a folder: {error.strerror}"
        raise UsageError(message, hint="name a folder that is there or can be made") from error


class Ledger:
    """Seconds that each step took, summed over the sittings of a run and kept in `<out>/ledger.json`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ledger.json"
        self.seconds: dict[str, float] = {}
        with contextlib.suppress(CorruptError):  # no more than a log: what a damaged one knew is lost
            self.seconds = dict(read_json(self._path) or {})
        self.idle = True

    def enter(self, step: str, seconds: float, worked: bool) -> None:
        """Add a step's time, if it did anything."""
        if worked:
            self.idle = False
            self.seconds[step] = round(self.seconds.get(step, 0.0) + seconds, 3)
            replace_file(self._path, canonical_json(self.seconds))


@dataclass(frozen=True, slots=True)
class Judged:
    """Teacher, students and their untrained selves in the order of the seeds, and what was kept of each probe."""

    teacher: Judgement
    students: tuple[Judgement, ...]
    untrained: tuple[Judgement, ...]
    kept: tuple[tuple[Kept, ...], ...]
    verdict: Verdict
    seeds: tuple[int, ...]
    evaluation: Evaluation
    stored: StoredScores | None = None


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished pipeline: its store, students by seed, and what they kept."""

    store: Store
    ingested: IngestResult
    students: tuple[DistillResult, ...]
    judged: Judged
    ledger: Ledger


def run_ingest(config: PipelineConfig, reporter: Reporter, ledger: Ledger) -> tuple[Store, IngestResult]:
    """Images into the store."""
    result = ingest(config.store_path, config.ingest, config.views, reporter)
    ledger.enter("ingest", result.seconds, result.num_blocks_written > 0)
    store = Store.open(config.store_path)
    splits = ", ".join(f"{num:,} {split}" for split, num in store.plan.num_samples_of().items())
    done = f"{counted(result.num_samples, 'image')} ({splits}) in store {config.store_path}"
    reporter.say(f"ingest: {done}{_already(result.num_blocks_written == 0)}")
    if result.quarantined:
        num = sum(result.quarantined.values())
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(result.quarantined.items()))
        how = f"`stillhouse inspect {config.store_path}` lists them"
        reporter.say(f"ingest: {counted(num, 'image')} left out, in quarantine ({reasons}); {how}")
    return store, result


def run_extract(config: PipelineConfig, store: Store, reporter: Reporter, ledger: Ledger) -> None:
    """Every teacher over every view."""
    for teacher in config.teachers:
        result = extract(store, teacher, config.extract, reporter)
        ledger.enter("extract", result.seconds, result.num_units_written > 0)
        images = counted(store.plan.num_samples_of().get(TRAIN, 0), "training image")
        done = f"features of teacher {teacher.name} for {images} x {counted(store.spec.num_views, 'view')}"
        sealed = f"store sealed as {result.seal.content_sha256[:12]}"
        reporter.say(f"extract: {done}; {sealed}{_already(result.num_units_written == 0)}")
    _collect(store, reporter)


def _collect(store: Store, reporter: Reporter) -> None:
    """Remove what interrupted work left behind, once it is old enough."""
    found = collect(store)
    if found.removed:
        reporter.say(f"gc: {collected_line(found)}")


def run_repair(config: PipelineConfig, units: Sequence[str], reporter: Reporter) -> tuple[int, dict[str, Any]]:
    """Make damaged units again, or those that are named. Returns the exit code and the facts."""
    plant = Plant(config.store_path, config.ingest, config.views, config.teachers, config.extract)
    result = repair(plant, units, reporter)
    for problem in result.left:
        reporter.say(f"not mended: {problem.path}: {problem.found}; {problem.remedy}")
    sealed = result.seal
    content = f"; content {sealed.content_sha256[:12]}, seal {sealed.generation}" if sealed else ""
    if not result.redone and not result.left:
        reporter.say(f"repair: nothing to do, all units are whole{content}")
    elif result.redone:
        done = f"repair: {counted(len(result.redone), 'unit')} of work made again"
        others = len(result.changed)
        bytes_ = f"{others:,} with other bytes than before: {', '.join(result.changed[:5])}{', …' * (others > 5)}"
        reporter.say(f"{done}, {bytes_ if others else 'with the bytes they had'}{content}")
    facts = {
        "asked": list(result.asked),
        "redone": list(result.redone),
        "changed": list(result.changed),
        "left": [{"path": p.path, "found": p.found, "next": p.remedy} for p in result.left],
        "content_sha256": sealed.content_sha256 if sealed else None,
        "generation": sealed.generation if sealed else None,
    }
    return (EXIT_CORRUPT if result.left else EXIT_OK), facts


def run_distill(
    config: PipelineConfig, store: Store, seeds: Sequence[int], reporter: Reporter, ledger: Ledger
) -> tuple[DistillResult, ...]:
    """One student a seed."""
    results = []
    watch = None if config.eval.watch is None else KnnWatch(_judged_on(config, store), config.eval)
    for seed in seeds:
        result, worked = distill(store, _seeded(config, seed), student_folder(config, seed), reporter, watch)
        ledger.enter("distill", result.seconds, worked)
        reporter.say(
            f"distill: student {result.name}, seed {seed}: {result.num_steps:,} steps at "
            f"{result.images_per_second:,.0f} img/s{_already(not worked)}"
        )
        results.append(result)
    return tuple(results)


def run_eval(
    config: PipelineConfig,
    store: Store,
    students: Sequence[DistillResult],
    reporter: Reporter,
    ledger: Ledger,
    *,
    only_kept: bool = False,
) -> Judged:
    """Probes on the teacher, on each student, and on each student as it was before training.

    With `only_kept` nobody is judged: UsageError where an earlier run has not done it.
    """
    begin = time.monotonic()
    spec = store.teacher(students[0].teacher)
    seeds = tuple(int(student.config["seed"]) for student in students)
    folder = Path(config.out) / "eval"
    evaluation = Evaluation(_judged_on(config, store), config.eval, folder, reporter, only_kept=only_kept)
    source = config.teacher_of(spec.name)
    sees = spec.preprocessing
    teacher = evaluation.judge(
        f"teacher-{spec.name}", spec.weights_sha256, lambda: teacher_subject(source, spec), sees=sees
    )
    trained, untrained = [], []
    for seed, student in zip(seeds, students, strict=True):
        folder, name = student_folder(config, seed) / STUDENT, f"{student.name}-seed{seed}"
        sees = spec.preprocessing.model_copy(update={"size": student.image_size})
        load = partial(exported_student, folder, name)
        trained.append(evaluation.judge(name, student.weights_sha256, load, sees=sees))
        start, made_by = (
            f"{name}-untrained",
            f"{config_digest(student.config['student'])} at {student.image_size}, seed {seed}",
        )
        load = partial(untrained_student, folder, start, seed)
        untrained.append(evaluation.judge(start, made_by, load, sees=sees))
    labels = evaluation.test.labels_N
    kept = tuple(keep(config.eval, labels, teacher, *pair) for pair in zip(trained, untrained, strict=True))
    ledger.enter("eval", time.monotonic() - begin, evaluation.num_judged > 0)
    encoders = f"teacher, {counted(len(students), 'student')} and the same untrained"
    images = counted(len(labels), "held-out image")
    reporter.say(f"eval: {encoders}, judged on {images}{_already(evaluation.num_judged == 0)}")
    stored = run_stored(config, store, reporter, ledger) if config.eval.stored is not None else None
    return Judged(teacher, tuple(trained), tuple(untrained), kept, decide(kept), seeds, evaluation, stored)


def run_stored(config: PipelineConfig, store: Store, reporter: Reporter, ledger: Ledger) -> StoredScores:
    """Probes on the stored features of every teacher; needs neither images nor weights."""
    begin = time.monotonic()
    evaluation = StoredEvaluation(store, config.eval, Path(config.out) / "eval", reporter)
    found = evaluation.judge_all()
    ledger.enter("eval", time.monotonic() - begin, evaluation.num_judged > 0)
    done = f"{counted(len(found.teachers), 'teacher')}, judged on {counted(found.num_judged, 'training image')}"
    reporter.say(f"eval: from the store, {done}{_already(evaluation.num_judged == 0)}")
    return found


def _judged_on(config: PipelineConfig, store: Store) -> Store:
    """The store whose labelled images the probes read."""
    return Store.open(Path(config.eval.store)) if config.eval.store else store


def student_folder(config: PipelineConfig, seed: int) -> Path:
    """Where the student of a seed is trained and exported."""
    return Path(config.out) / "students" / f"{config.distill.name}-seed{seed}"


def _seeded(config: PipelineConfig, seed: int) -> DistillConfig:
    return config.distill.model_copy(update={"seed": seed})


def counted(num: int, what: str) -> str:
    """A number and what it counts: 1 image, 2 images."""
    return f"{num:,} {what}{'' if num == 1 else 's'}"


def _already(found: bool) -> str:
    return " (already done)" if found else ""


def _require_beginning(config: PipelineConfig) -> None:
    """Refuse before any work what config and machine alone show to fail after hours of it."""
    if config.distill.teacher is None and not config.distill.teachers and len(config.teachers) > 1:
        names = ", ".join(teacher.name for teacher in config.teachers)
        raise UsageError(f"there are {len(config.teachers)} teachers ({names})", hint="name one as distill.teacher")
    views_of(0, config.views.num, config.distill.repeats)
    device_for(config.distill)
    if config.eval.store is not None:
        Store.open(Path(config.eval.store))
    for key, split in (("train", config.eval.train), ("test", config.eval.test)):
        if config.eval.store is None and split not in (TRAIN, *config.ingest.split):
            message = f"eval.{key} is {split!r}, and ingest.split makes no such split"
            raise UsageError(message, hint=f"set ingest.split, e.g. {{{split}: 0.2}}")
    if config.eval.knn is not None and find_spec("faiss") is None:
        raise missing_package("faiss")
    require_model(config.distill.student.model)
    for teacher in config.teachers:
        if not (config.store_path / layout.record_path(layout.codecs_unit(teacher.name))).exists():
            require_model(teacher.model)
            if teacher.checkpoint is not None:
                find_checkpoint(teacher.checkpoint)


def _require_samples(config: PipelineConfig, store: Store) -> None:
    """Refuse before the teacher pass what these images cannot give."""
    num, batch = store.plan.num_samples_of().get(TRAIN, 0), config.distill.batch
    if num < batch:
        message = f"store {store.root} has {counted(num, 'training image')}, distill.batch is {batch}"
        raise UsageError(message, hint=f"set distill.batch to {num} or less")
    require_labels(_judged_on(config, store), config.eval)
    if config.eval.stored is not None:
        stored_parts(store, config.eval.stored)


def run(config: PipelineConfig, seeds: Sequence[int], reporter: Reporter) -> RunResult:
    """Walk the whole way. What is done already is left alone."""
    ledger = Ledger(Path(config.out))
    finished = all((student_folder(config, seed) / RESULT).exists() for seed in seeds)
    if not finished:
        _require_beginning(config)
    store, ingested = run_ingest(config, reporter, ledger)
    if not finished:
        _require_samples(config, store)
    run_extract(config, store, reporter, ledger)
    students = run_distill(config, store, seeds, reporter, ledger)
    return RunResult(store, ingested, students, run_eval(config, store, students, reporter, ledger), ledger)


def judge(config: PipelineConfig, seeds: Sequence[int], reporter: Reporter) -> Judged:
    """Judge students that are trained already; UsageError when one is not."""
    store = Store.open(config.store_path)
    students = [finished_run(student_folder(config, seed)) for seed in seeds]
    return run_eval(config, store, students, reporter, Ledger(Path(config.out)))


def judge_stored(config: PipelineConfig, reporter: Reporter) -> StoredScores:
    """Judge the teachers of a store by its features alone."""
    return run_stored(config, Store.open(config.store_path), reporter, Ledger(Path(config.out)))


def finished(config: PipelineConfig, seeds: Sequence[int], reporter: Reporter) -> RunResult:
    """A pipeline that was walked before, from what is on disk: nothing is made or judged.

    Raises:
        UsageError: there is no store, a student is not trained, or not judged.
    """
    store, ledger = Store.open(config.store_path), Ledger(Path(config.out))
    students = tuple(finished_run(student_folder(config, seed)) for seed in seeds)
    judged = run_eval(config, store, students, reporter, ledger, only_kept=True)
    return RunResult(store, ingest_result(store), students, judged, ledger)
