"""The whole way: pipeline.yaml to report. Each step is skipped when its output is there and whole.

ingest -> extract (per teacher) -> distill (per seed) -> eval -> report
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml
from pydantic import Field, field_validator

from stillhouse.core.config import Config, config_digest
from stillhouse.core.errors import UsageError
from stillhouse.core.events import Reporter
from stillhouse.eval.config import EvalConfig
from stillhouse.eval.kept import Kept, decide, keep
from stillhouse.eval.report_data import Verdict
from stillhouse.eval.run import Evaluation, Judgement
from stillhouse.eval.subjects import exported_student, teacher_subject, untrained_student
from stillhouse.stage1_extract.config import ExtractConfig, IngestConfig, TeacherConfig
from stillhouse.stage1_extract.extract import extract
from stillhouse.stage1_extract.ingest import IngestResult, ingest
from stillhouse.stage1_extract.policies import ViewPolicyConfig
from stillhouse.stage2_distill.config import DistillConfig
from stillhouse.stage2_distill.run import STUDENT, DistillResult, distill, finished_run
from stillhouse.storage import layout
from stillhouse.storage.commit import canonical_json, read_json, replace_file
from stillhouse.storage.store import Store


class PipelineConfig(Config):
    """A pipeline.yaml: one section a verb."""

    name: str
    """Names the run in reports."""
    out: str
    """Folder for students, scores and the report."""
    store: str | None = None
    """Folder of the store; None: `<out>/store`."""
    ingest: IngestConfig
    views: ViewPolicyConfig
    teachers: tuple[TeacherConfig, ...] = Field(min_length=1)
    extract: ExtractConfig = ExtractConfig()
    distill: DistillConfig = DistillConfig()
    eval: EvalConfig = EvalConfig()

    @field_validator("teachers")
    @classmethod
    def _names(cls, teachers: tuple[TeacherConfig, ...]) -> tuple[TeacherConfig, ...]:
        names = [layout.check_name(teacher.name, "teacher") for teacher in teachers]
        if len(set(names)) != len(names):
            raise ValueError(f"two teachers have one name: {', '.join(names)}")
        return teachers

    @property
    def store_path(self) -> Path:
        return Path(self.store) if self.store else Path(self.out) / "store"

    def teacher_of(self, name: str) -> TeacherConfig:
        """The config of one teacher by name."""
        for teacher in self.teachers:
            if teacher.name == name:
                return teacher
        known = ", ".join(teacher.name for teacher in self.teachers)
        raise UsageError(f"distill.teacher {name!r} is not in `teachers`", hint=f"known: {known}")


def save_resolved(config: PipelineConfig) -> None:
    """Keep the config with every default filled in beside the output."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    replace_file(Path(config.out) / "pipeline.resolved.yaml", text.encode())


class Ledger:
    """Seconds that each step took, summed over the sittings of a run and kept in `<out>/ledger.json`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ledger.json"
        self.seconds: dict[str, float] = dict(read_json(self._path) or {})
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
    done = f"{result.num_samples:,} samples in {result.num_blocks_written + result.num_blocks_found} blocks"
    reporter.say(f"ingest: {done}{_already(result.num_blocks_written == 0)}")
    if result.quarantined:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(result.quarantined.items()))
        reporter.say(f"ingest: in quarantine: {reasons}; `stillhouse inspect {config.store_path}` lists them")
    return Store.open(config.store_path), result


def run_extract(config: PipelineConfig, store: Store, reporter: Reporter, ledger: Ledger) -> None:
    """Every teacher over every view."""
    for teacher in config.teachers:
        result = extract(store, teacher, config.extract, reporter)
        ledger.enter("extract", result.seconds, result.num_units_written > 0)
        units = f"{result.num_units_written + result.num_units_found} view-blocks of {teacher.name}"
        sealed = f"sealed as {result.seal.content_sha256[:12]}"
        reporter.say(f"extract: {units}, {sealed}{_already(result.num_units_written == 0)}")


def run_distill(
    config: PipelineConfig, store: Store, seeds: Sequence[int], reporter: Reporter, ledger: Ledger
) -> tuple[DistillResult, ...]:
    """One student a seed."""
    results = []
    for seed in seeds:
        result, worked = distill(store, _seeded(config, seed), student_folder(config, seed), reporter)
        ledger.enter("distill", result.seconds, worked)
        reporter.say(
            f"distill: {result.name} seed {seed}, {result.num_steps:,} steps at {result.images_per_second:,.0f} img/s"
            f"{_already(not worked)}"
        )
        results.append(result)
    return tuple(results)


def run_eval(
    config: PipelineConfig, store: Store, students: Sequence[DistillResult], reporter: Reporter, ledger: Ledger
) -> Judged:
    """Probes on the teacher, on each student, and on each student as it was before training."""
    begin = time.monotonic()
    spec = store.teacher(students[0].teacher)
    seeds = tuple(int(student.config["seed"]) for student in students)
    judged_on = Store.open(Path(config.eval.store)) if config.eval.store else store
    evaluation = Evaluation(judged_on, config.eval, Path(config.out) / "eval", reporter)
    source = config.teacher_of(spec.name)
    teacher = evaluation.judge(f"teacher-{spec.name}", spec.weights_sha256, lambda: teacher_subject(source, spec))
    trained, untrained = [], []
    for seed, student in zip(seeds, students, strict=True):
        folder, name = student_folder(config, seed) / STUDENT, f"{student.name}-seed{seed}"
        trained.append(evaluation.judge(name, student.weights_sha256, partial(exported_student, folder, name)))
        start, made_by = (
            f"{name}-untrained",
            f"{config_digest(student.config['student'])} at {student.image_size}, seed {seed}",
        )
        untrained.append(evaluation.judge(start, made_by, partial(untrained_student, folder, start, seed)))
    labels = evaluation.test.labels_N
    kept = tuple(keep(config.eval, labels, teacher, *pair) for pair in zip(trained, untrained, strict=True))
    ledger.enter("eval", time.monotonic() - begin, evaluation.num_judged > 0)
    reporter.say(f"eval: {1 + 2 * len(students)} encoders judged{_already(evaluation.num_judged == 0)}")
    return Judged(teacher, tuple(trained), tuple(untrained), kept, decide(kept), seeds, evaluation)


def student_folder(config: PipelineConfig, seed: int) -> Path:
    """Where the student of a seed is trained and exported."""
    return Path(config.out) / "students" / f"{layout.check_name(config.distill.name, 'student')}-seed{seed}"


def _seeded(config: PipelineConfig, seed: int) -> DistillConfig:
    return config.distill.model_copy(update={"seed": seed})


def _already(found: bool) -> str:
    return " (already done)" if found else ""


def run(config: PipelineConfig, seeds: Sequence[int], reporter: Reporter) -> RunResult:
    """Walk the whole way. What is done already is left alone."""
    ledger = Ledger(Path(config.out))
    store, ingested = run_ingest(config, reporter, ledger)
    run_extract(config, store, reporter, ledger)
    students = run_distill(config, store, seeds, reporter, ledger)
    return RunResult(store, ingested, students, run_eval(config, store, students, reporter, ledger), ledger)


def judge(config: PipelineConfig, seeds: Sequence[int], reporter: Reporter) -> Judged:
    """Judge students that are trained already; UsageError when one is not."""
    store = Store.open(config.store_path)
    students = [finished_run(student_folder(config, seed)) for seed in seeds]
    return run_eval(config, store, students, reporter, Ledger(Path(config.out)))
