"""Step four: teacher, students and their untrained selves through probes and tasks, and what each student kept."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stillhouse.core.config import config_digest
from stillhouse.core.events import Reporter
from stillhouse.eval.judged import Judgement
from stillhouse.eval.kept import Kept, decide, flat, keep
from stillhouse.eval.leakage import LeakageReport
from stillhouse.eval.leakage_kept import find_leakage
from stillhouse.eval.report_data import Verdict
from stillhouse.eval.run import Evaluation
from stillhouse.eval.stored import StoredEvaluation, StoredScores
from stillhouse.eval.subjects import Subject, exported_student, teacher_subject, untrained_student
from stillhouse.eval.tasks.base import Context
from stillhouse.eval.tasks.kept import keep_task
from stillhouse.eval.tasks.kinds import task_of
from stillhouse.eval.tasks.run import TaskJudgement, TaskRuns
from stillhouse.stage2_distill.result import STUDENT, DistillResult
from stillhouse.storage.remote.opening import open_store
from stillhouse.storage.specs import Preprocessing, TeacherSpec
from stillhouse.storage.store import Store

from .ledger import Ledger, already, counted
from .pipeline_config import StudentsConfig, student_folder


@dataclass(frozen=True, slots=True)
class JudgedTask:
    """What was kept on one task, in the order of the seeds, and what the first of each kind of subject showed."""

    name: str
    kind: str
    kept: tuple[Kept, ...]
    shown: Mapping[str, TaskJudgement]
    """By "teacher", "student" and "untrained"."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Teacher, students and their untrained selves in the order of the seeds, and what was kept on each probe and task."""

    teacher: Judgement
    students: tuple[Judgement, ...]
    untrained: tuple[Judgement, ...]
    kept: tuple[tuple[Kept, ...], ...]
    """By seed, then by probe."""
    verdict: Verdict
    seeds: tuple[int, ...]
    evaluation: Evaluation
    tasks: tuple[JudgedTask, ...] = ()
    leakage: LeakageReport | None = None
    stored: StoredScores | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """An encoder that is built only when there is something to do."""

    name: str
    weights: str
    load: Callable[[], Subject]
    sees: Preprocessing

    @property
    def identity(self) -> str:
        """Names weights and how pixels are seen, without loading anything."""
        return config_digest({"weights": self.weights, "sees": self.sees.model_dump(mode="json")})


@dataclass(frozen=True, slots=True)
class _Field:
    """Everybody who is judged."""

    teacher: Candidate
    students: tuple[Candidate, ...]
    untrained: tuple[Candidate, ...]


def run_eval(
    config: StudentsConfig,
    store: Store,
    students: Sequence[DistillResult],
    reporter: Reporter,
    ledger: Ledger,
    *,
    only_kept: bool = False,
) -> Judged:
    """Probes and tasks on the teacher, on each student, and on each student as it was before training.

    With `only_kept` nobody is judged: UsageError where an earlier run has not done it.
    """
    begin = time.monotonic()
    field, folder = _field(config, store, students), Path(config.out) / "eval"
    evaluation = Evaluation(judged_on(config, store), config.eval, folder, reporter, only_kept=only_kept)

    def judge(one: Candidate) -> Judgement:
        return evaluation.judge(one.name, one.weights, one.load, sees=one.sees)

    teacher = judge(field.teacher)
    pairs = [(judge(new), judge(old)) for new, old in zip(field.students, field.untrained, strict=True)]
    kept = tuple(_kept(evaluation, teacher, *pair) for pair in pairs)
    leakage = None
    if config.eval.leakage is not None and config.eval.has_probes:
        judged, one = [teacher, *(student for student, _ in pairs)], field.teacher
        leakage = find_leakage(evaluation, judged, one.weights, one.load, sees=one.sees)
    runs = TaskRuns(folder / "tasks", _context(config, reporter), only_kept=only_kept)
    tasks = tuple(_judged_tasks(config, runs, field))
    ledger.enter("eval", time.monotonic() - begin, evaluation.num_judged + runs.num_judged > 0)
    _say_judged(evaluation, runs, len(students), leakage, reporter)
    stored = run_stored(config, store, reporter, ledger) if config.eval.stored is not None else None
    by_seed = [(*probes, *(task.kept[n] for task in tasks)) for n, probes in enumerate(kept)]
    return Judged(
        teacher=teacher,
        students=tuple(student for student, _ in pairs),
        untrained=tuple(untrained for _, untrained in pairs),
        kept=kept,
        verdict=decide(by_seed),
        seeds=tuple(int(student.config["seed"]) for student in students),
        evaluation=evaluation,
        tasks=tasks,
        leakage=leakage,
        stored=stored,
    )


def run_stored(config: StudentsConfig, store: Store, reporter: Reporter, ledger: Ledger) -> StoredScores:
    """Probes on the stored features of every teacher; needs neither images nor weights."""
    begin = time.monotonic()
    evaluation = StoredEvaluation(store, config.eval, Path(config.out) / "eval", reporter)
    found = evaluation.judge_all()
    ledger.enter("eval", time.monotonic() - begin, evaluation.num_judged > 0)
    done = f"{counted(len(found.teachers), 'teacher')}, judged on {counted(found.num_judged, 'training image')}"
    reporter.say(f"eval: from the store, {done}{already(evaluation.num_judged == 0)}")
    return found


def judged_on(config: StudentsConfig, store: Store) -> Store:
    """The store whose labelled images the probes read."""
    return open_store(config.eval.store, config.remote.reach(), Reporter(quiet=True)) if config.eval.store else store


def _field(config: StudentsConfig, store: Store, students: Sequence[DistillResult]) -> _Field:
    spec = store.teacher(students[0].teacher)
    trained, untrained = [], []
    for student in students:
        seed = int(student.config["seed"])
        name = f"{student.name}-seed{seed}"
        one = student_candidate(student_folder(config, seed), name, student, spec)
        start = f"{name}-untrained"
        made_by = f"{config_digest(student.config['student'])} at {student.image_size}, seed {seed}"
        load = partial(untrained_student, student_folder(config, seed) / STUDENT, start, seed)
        trained.append(one)
        untrained.append(Candidate(start, made_by, load, one.sees))
    return _Field(teacher_candidate(config, spec), tuple(trained), tuple(untrained))


def teacher_candidate(config: StudentsConfig, spec: TeacherSpec) -> Candidate:
    """The live teacher of a store."""
    source = config.teacher_of(spec.name)
    return Candidate(
        f"teacher-{spec.name}", spec.weights_sha256, lambda: teacher_subject(source, spec), spec.preprocessing
    )


def student_candidate(folder: Path, name: str, student: DistillResult, spec: TeacherSpec) -> Candidate:
    """The student of a finished run in `folder`, which sees pixels as its teacher does, at its own size."""
    sees = spec.preprocessing.model_copy(update={"size": student.image_size})
    return Candidate(name, student.weights_sha256, partial(exported_student, folder / STUDENT, name), sees)


def _kept(evaluation: Evaluation, teacher: Judgement, student: Judgement, untrained: Judgement) -> tuple[Kept, ...]:
    """On every probe; without any, nothing is read of images and labels."""
    if not evaluation.config.has_probes:
        return ()
    return keep(evaluation.config, evaluation.test.labels_N, teacher, student, untrained)


def _context(config: StudentsConfig, reporter: Reporter) -> Context:
    judging = config.eval
    return Context(reporter, judging.device, judging.threads, judging.batch)


def _judged_tasks(config: StudentsConfig, runs: TaskRuns, field: _Field) -> Iterator[JudgedTask]:
    """Every task of the config on everybody."""
    for asked in config.eval.tasks:
        task = task_of(asked)
        teacher, *others = (
            runs.judge(task, one.name, one.identity, one.load)
            for one in (field.teacher, *field.students, *field.untrained)
        )
        trained, untrained = others[: len(field.students)], others[len(field.students) :]
        draws = partial(keep_task, task, teacher, seed=config.eval.seed, num=config.eval.bootstrap)
        kept = [flat(draws(*pair)) for pair in zip(trained, untrained, strict=True)]
        shown = {"teacher": teacher, "student": trained[0], "untrained": untrained[0]}
        yield JudgedTask(task.name, asked.kind, tuple(kept), shown)


def _say_judged(
    evaluation: Evaluation, runs: TaskRuns, num_students: int, leakage: LeakageReport | None, reporter: Reporter
) -> None:
    config, said = evaluation.config, []
    if config.has_probes:
        said.append(f"judged on {counted(len(evaluation.test.keys), 'held-out image')}")
    if config.tasks:
        said.append(f"{'and ' if said else 'judged '}on {counted(len(config.tasks), 'task')}")
    encoders = f"teacher, {counted(num_students, 'student')} and the same untrained"
    idle = evaluation.num_judged + runs.num_judged == 0
    reporter.say(f"eval: {encoders}, {' '.join(said)}{already(idle)}")
    for warning in () if leakage is None else leakage.warnings:
        reporter.say(f"eval: leakage: {warning}")
