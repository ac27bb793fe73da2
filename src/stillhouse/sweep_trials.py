"""One student of a sweep: trained as `distill` does, judged as `eval` does, and told of in a few numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from stillhouse.core.config import config_digest
from stillhouse.core.encoders import Encoder
from stillhouse.core.errors import DivergedError, SpecMismatchError, UsageError
from stillhouse.core.events import Reporter
from stillhouse.eval.config import EvalConfig
from stillhouse.eval.run import Evaluation
from stillhouse.eval.watch import KnnWatch
from stillhouse.stage2_distill.config import DistillConfig
from stillhouse.stage2_distill.identity import MEANS
from stillhouse.stage2_distill.metrics import read_metrics
from stillhouse.stage2_distill.result import DistillResult
from stillhouse.stage2_distill.run import Left, Run, distill_together
from stillhouse.stage2_distill.sweep.config import SweepConfig
from stillhouse.stage2_distill.sweep.space import Trial
from stillhouse.stage2_distill.sweep.study import Study
from stillhouse.stage2_distill.watch import WATCH, Watch
from stillhouse.storage.specs import Preprocessing

from .judging import Candidate, judged_on, student_candidate, teacher_candidate
from .pipeline_config import StudentsConfig, open_stored

State = Literal["done", "pruned", "diverged"]
Enough = Callable[[int, float], bool]
"""(how many looks since the start, what the last one found) -> whether the run is to stop."""


@dataclass(frozen=True, slots=True)
class Job:
    """One student to train and to judge: a point of the space, at one seed."""

    trial: Trial
    config: DistillConfig
    folder: Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a job. `score` is None unless it is done; `note` says why."""

    trial: int
    seed: int
    folder: str
    state: State
    worked: bool
    score: float | None = None
    num_steps: int = 0
    seconds: float = 0.0
    num_parameters: int = 0
    weights_sha256: str = ""
    looks: tuple[tuple[int, float], ...] = ()
    """(step, score) of each look at it while it was trained."""
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {name: value for name, value in asdict(self).items() if name != "worked"}


@dataclass(frozen=True, slots=True)
class Group:
    """Jobs that one process does at one time."""

    jobs: tuple[Job, ...]
    drawn: bool = False
    """They are the seeds of one trial that a study has drawn, and is to be told of."""
    settled: tuple[Outcome, ...] = ()
    """What is known to come of them without any work."""


def sweep_of(pipeline: StudentsConfig) -> SweepConfig:
    """The section; UsageError without one."""
    if pipeline.sweep is None:
        message = "the config has no section `sweep`"
        raise UsageError(message, hint="add one, e.g. sweep: {space: {distill.lr: [1.0e-3, 3.0e-3]}}")
    return pipeline.sweep


def sweep_folder(pipeline: StudentsConfig) -> Path:
    """Where the students, the database, the table and the page of a sweep are."""
    return Path(pipeline.out) / "sweeps" / sweep_of(pipeline).name


def jobs_of(pipeline: StudentsConfig, trial: Trial, config: DistillConfig) -> list[Job]:
    """The students of a trial, one a seed; folders are named by what decides a student, so that it is found again."""
    described = {name: value for name, value in config.described().items() if name not in MEANS | {"seed"}}
    digest, folder = config_digest(described)[:8], sweep_folder(pipeline)
    seeds = range(config.seed, config.seed + sweep_of(pipeline).seeds)
    return [
        Job(trial, config.model_copy(update={"seed": seed}), folder / "students" / f"{digest}-seed{seed}")
        for seed in seeds
    ]


class Bench:
    """What the students of a sweep share in one process: the store, the images they are judged on, the watch."""

    def __init__(self, pipeline: StudentsConfig, reporter: Reporter) -> None:
        self._pipeline, self._asked, self._reporter = pipeline, sweep_of(pipeline), reporter
        self.store = open_stored(pipeline, reporter)
        where = judged_on(pipeline, self.store)
        folder = sweep_folder(pipeline) if self._asked.split else Path(pipeline.out)  # else a teacher is known already
        self.evaluation = Evaluation(where, _judged_by(pipeline.eval, self._asked), folder / "eval", reporter)
        self._watch = None if pipeline.eval.watch is None else KnnWatch(where, pipeline.eval)

    def run(self, group: Group) -> list[Outcome]:
        """What comes of a group; of a trial that is pruned or diverges, no further seed is trained."""
        if group.settled:
            return list(group.settled)
        if not group.drawn:
            return self.outcomes(group.jobs)
        with Study(sweep_folder(self._pipeline), self._asked) as study:
            found = self.outcomes(group.jobs[:1], partial(study.enough, group.jobs[0].trial.number))
        for job in group.jobs[1:]:
            if found[-1].state == "done":
                found += self.outcomes([job])
        return found

    def outcomes(self, jobs: Sequence[Job], enough: Enough | None = None) -> list[Outcome]:
        """Train the students beside each other and judge them, or find that done.

        Args:
            enough: asked after each look.

        Raises:
            UsageError: a student cannot be had; the message begins with its trial.
            SpecMismatchError: a student of this sweep was trained on what the store was before it grew.
        """
        watch: Watch | None = self._watch
        if self._watch is not None and enough is not None:
            watch = _Pruning(self._watch, enough)
        runs = [Run(job.config, job.folder) for job in jobs]
        try:
            found = distill_together(self.store, runs, self._reporter, watch)
        except UsageError as error:
            trials = " and ".join(sorted({" ".join(job.trial.overrides) for job in jobs}))
            raise UsageError(f"{trials}: {error.message}", hint=error.hint) from error
        except SpecMismatchError as error:  # a folder's name tells all of a student but what it was trained on
            hint = "name the new sweep otherwise (sweep.name), or remove the folder"
            raise SpecMismatchError(error.message, hint=hint) from error
        return [self._outcome(job, *each) for job, each in zip(jobs, found, strict=True)]

    def _outcome(self, job: Job, result: DistillResult | Left, worked: bool) -> Outcome:
        if isinstance(result, DivergedError):
            return left(job, "diverged", result.message, worked)
        if not isinstance(result, DistillResult):
            return left(job, "pruned", f"pruned {result}", worked)
        return Outcome(
            job.trial.number,
            job.config.seed,
            str(job.folder),
            "done",
            worked,
            self._score(
                student_candidate(
                    job.folder, f"{self._asked.name}-{job.folder.name}", result, self.store.teacher(result.teacher)
                )
            ),
            result.num_steps,
            round(result.seconds, 3),
            result.num_parameters,
            result.weights_sha256,
            _looks(job.folder),
        )

    def teacher_score(self, name: str) -> float:
        """What the teacher has by the probe that ranks its students."""
        return self._score(teacher_candidate(self._pipeline, self.store.teacher(name)), keep=True)

    def _score(self, one: Candidate, *, keep: bool = False) -> float:
        """By the one probe; the features of a student, which are as large as the images are many, are not kept."""
        judged = self.evaluation.judge(one.name, one.weights, one.load, sees=one.sees)
        if not keep:
            self.evaluation.forget_features(one.name)
        (scores,) = judged.scores.values()
        return float(scores[self._pipeline.eval.metric])


def left(job: Job, state: State, note: str, worked: bool = False) -> Outcome:
    """What came of a job that did not come to its end."""
    looks = _looks(job.folder)
    step = looks[-1][0] if looks else 0
    return Outcome(
        job.trial.number, job.config.seed, str(job.folder), state, worked, num_steps=step, looks=looks, note=note
    )


def _looks(folder: Path) -> tuple[tuple[int, float], ...]:
    path = folder / WATCH
    return tuple((int(line["step"]), line["knn"]) for line in read_metrics(path)) if path.exists() else ()


def _judged_by(config: EvalConfig, asked: SweepConfig) -> EvalConfig:
    """Only the probe that ranks, on the split that is to rank."""
    others = {probe: None for probe in ("knn", "linear", "logistic") if probe != asked.probe}
    return config.model_copy(update={**others, "tasks": (), "leakage": None, "test": asked.split or config.test})


class _Pruning:
    """A watch that stops a run by what it sees of it, in the light of others."""

    def __init__(self, watch: Watch, enough: Enough) -> None:
        self._watch, self._enough = watch, enough

    @property
    def steps(self) -> int:
        return self._watch.steps

    def look(self, encoder: Encoder, sees: Preprocessing) -> Mapping[str, float]:
        return self._watch.look(encoder, sees)

    def warning(self, lines: Sequence[Mapping[str, Any]]) -> str | None:
        return self._watch.warning(lines)

    def enough(self, lines: Sequence[Mapping[str, Any]]) -> bool:
        return self._enough(int(lines[-1]["step"]) // self.steps, float(lines[-1]["knn"]))
