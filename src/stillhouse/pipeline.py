"""The whole way: pipeline.yaml to report. Each step is skipped when its output is there and whole.

    ingest -> extract (per teacher) -> distill (per seed) -> eval -> report
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from pydantic import Field, field_validator

from stillhouse.core.config import Config
from stillhouse.core.errors import UsageError
from stillhouse.core.events import Reporter
from stillhouse.eval.config import EvalConfig
from stillhouse.eval.retention import ProbeRetention, retain
from stillhouse.eval.run import Evaluation, Judgement
from stillhouse.eval.subjects import exported_student, teacher_subject, untrained_student
from stillhouse.stage1_extract.config import ExtractConfig, IngestConfig, TeacherConfig
from stillhouse.stage1_extract.extract import extract
from stillhouse.stage1_extract.ingest import IngestResult, ingest
from stillhouse.stage1_extract.policies import ViewPolicyConfig
from stillhouse.stage2_distill.config import DistillConfig
from stillhouse.stage2_distill.run import STUDENT, DistillResult, distill
from stillhouse.storage import layout
from stillhouse.storage.commit import replace_file
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


@dataclass(slots=True)
class Ledger:
    """What each step did and how long it took; the last line of a run is made from it."""

    seconds: dict[str, float] = field(default_factory=dict)
    worked: dict[str, bool] = field(default_factory=dict)

    def enter(self, step: str, seconds: float, worked: bool) -> None:
        self.seconds[step] = self.seconds.get(step, 0.0) + seconds
        self.worked[step] = self.worked.get(step, False) or worked


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished pipeline: students by seed, what was kept, and where the report is."""

    ingested: IngestResult
    students: tuple[DistillResult, ...]
    judged: "Judged"
    ledger: Ledger


@dataclass(frozen=True, slots=True)
class Judged:
    """Teacher, students and their untrained selves in the order of the seeds, and retention per seed."""

    teacher: Judgement
    students: tuple[Judgement, ...]
    untrained: tuple[Judgement, ...]
    retention: tuple[tuple[ProbeRetention, ...], ...]
    evaluation: Evaluation


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
    config: PipelineConfig,
    store: Store,
    students: Sequence[DistillResult],
    seeds: Sequence[int],
    reporter: Reporter,
    ledger: Ledger,
) -> Judged:
    """Probes on the teacher, on each student, and on each student as it was before training."""
    begin = time.monotonic()
    spec = store.teacher(students[0].teacher)
    evaluation = Evaluation(store, config.eval, Path(config.out) / "eval", reporter)
    teacher_config = config.teacher_of(spec.name)
    teacher = evaluation.judge(
        f"teacher-{spec.name}", spec.weights_sha256, lambda: teacher_subject(teacher_config, spec)
    )
    judged, untrained, retained = [], [], []
    for seed, student in zip(seeds, students, strict=True):
        folder = student_folder(config, seed) / STUDENT
        name = f"{student.name}-seed{seed}"
        start = f"{name}-untrained"
        judged.append(evaluation.judge(name, student.weights_sha256, lambda f=folder, n=name: exported_student(f, n)))
        untrained.append(
            evaluation.judge(
                start, f"start of {student.config_digest}", lambda f=folder, n=start, s=seed: untrained_student(f, n, s)
            )
        )
        retained.append(retain(config.eval, evaluation, teacher, judged[-1], untrained[-1]))
    ledger.enter("eval", time.monotonic() - begin, evaluation.num_judged > 0)
    reporter.say(f"eval: {1 + 2 * len(students)} encoders judged{_already(evaluation.num_judged == 0)}")
    return Judged(teacher, tuple(judged), tuple(untrained), tuple(retained), evaluation)


def student_folder(config: PipelineConfig, seed: int) -> Path:
    """Where the student of a seed is trained and exported."""
    return Path(config.out) / "students" / f"{layout.check_name(config.distill.name, 'student')}-seed{seed}"


def _seeded(config: PipelineConfig, seed: int) -> DistillConfig:
    return config.distill.model_copy(update={"seed": seed})


def _already(found: bool) -> str:
    return " (already done)" if found else ""


def run(config: PipelineConfig, seeds: Sequence[int], reporter: Reporter) -> RunResult:
    """Walk the whole way. What is done already is left alone."""
    ledger = Ledger()
    store, ingested = run_ingest(config, reporter, ledger)
    run_extract(config, store, reporter, ledger)
    students = run_distill(config, store, seeds, reporter, ledger)
    judged = run_eval(config, store, students, seeds, reporter, ledger)
    return RunResult(ingested, students, judged, ledger)
