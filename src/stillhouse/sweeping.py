"""`sweep`: train many students from one store, judge each, and rank them. What is done already is found done.

A grid is every combination of the values; a study draws the next trial by those before it. Every student is an ordinary run
in a folder of its own, so a sweep that was stopped goes on where it was.
"""

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from stillhouse.core.errors import ResourceError, UsageError
from stillhouse.core.events import Reporter
from stillhouse.stage2_distill.config import DistillConfig
from stillhouse.stage2_distill.identity import MEANS, identity_of
from stillhouse.stage2_distill.sweep.config import LOCAL, Range
from stillhouse.stage2_distill.sweep.space import Trial, edges, grid
from stillhouse.stage2_distill.sweep.study import Study
from stillhouse.stage2_distill.teachers import lead_of, taught_by
from stillhouse.storage.disk import only_process_in, replace_file
from stillhouse.storage.seal import latest_seal
from stillhouse.storage.signed_json import canonical_json

from .ledger import Ledger, already
from .pipeline_config import StudentsConfig
from .sweep_page import sweep_page
from .sweep_ranks import Swept, ranked
from .sweep_trials import Bench, Group, Job, Outcome, jobs_of, left, sweep_folder, sweep_of

TABLE, PAGE = "sweep.json", "sweep.html"
Variant = Callable[[Sequence[str]], StudentsConfig]
"""Overrides -> the pipeline with them, as the command line would read it."""


def sweep(pipeline: StudentsConfig, variant: Variant, reporter: Reporter) -> Swept:
    """Train and judge every student that is asked for.

    Raises:
        UsageError: there is no section `sweep`, or a combination is no valid config.
        ResourceError: every student diverged, or a study is asked for and Optuna is not installed.
        SpecMismatchError: the study in this sweep's folder was begun with another setting.
        BusyError: another process is at work on this sweep.
    """
    asked, folder, begin = sweep_of(pipeline), sweep_folder(pipeline), time.monotonic()
    first = _read_all(pipeline, variant)
    bench = Bench(pipeline, reporter)
    teacher = lead_of(taught_by(first, bench.store)).name
    with contextlib.ExitStack() as held:
        held.enter_context(only_process_in(folder))
        study = None
        if asked.study is not None:
            study = held.enter_context(Study(folder, asked, _about(pipeline, first, bench)))
        groups = _drawn_groups(study, pipeline, variant) if study else iter(_grid_groups(pipeline, variant))
        score = bench.teacher_score(teacher) if asked.teacher else None
        swept = Swept(asked, folder, pipeline.eval.metric, bench.evaluation.config.test, score, ())
        trials, found = dict[int, Trial](), dict[int, list[Outcome]]()
        for group, outcomes in held.enter_context(contextlib.closing(_outcomes(groups, pipeline, bench, reporter))):
            for job, outcome in zip(
                group.jobs[: len(outcomes)], outcomes, strict=True
            ):  # what is pruned has no further seeds
                trials[outcome.trial] = job.trial
                found.setdefault(outcome.trial, []).append(outcome)
                _say(reporter, job.trial, outcome)
            swept = ranked(swept, trials, found)
            if study is not None and group.drawn:
                one = next(row for row in swept.trials if row.trial is group.jobs[0].trial)
                study.tell(one.trial.number, one.state, one.score, one.note)
            replace_file(folder / TABLE, canonical_json(swept.to_json()))
            replace_file(folder / PAGE, sweep_page(pipeline, swept, teacher).encode())
        if swept.trials:
            reporter.say(f"report: {folder / PAGE}")
        Ledger(Path(pipeline.out)).enter("sweep", time.monotonic() - begin, not swept.idle)
    if swept.trials and all(one.state == "diverged" for one in swept.trials):
        raise ResourceError(f"every trial diverged: {swept.trials[0].note}", hint="vary distill.lr below these values")
    return swept


def _read_all(pipeline: StudentsConfig, variant: Variant) -> DistillConfig:
    """Read every combination of a grid, and every value of a study, as a config before anything is trained: the first."""
    space, study = sweep_of(pipeline).space, sweep_of(pipeline).study
    values = {key: (axis.low, axis.high) if isinstance(axis, Range) else axis for key, axis in space.items()}
    points = [trial.values for trial in grid(values)] if study is None else edges(values)
    first, *_ = [variant(Trial(0, point).overrides).distill for point in points]
    return first


def _outcomes(
    groups: Iterator[Group], pipeline: StudentsConfig, bench: Bench, reporter: Reporter
) -> Generator[tuple[Group, list[Outcome]]]:
    """What comes of each group, in the order in which they end."""
    asked = sweep_of(pipeline)
    if asked.cluster == LOCAL and asked.workers == 1:
        yield from ((group, bench.run(group)) for group in groups)
    else:
        from .sweep_workers import on_workers

        yield from on_workers(groups, pipeline, reporter)


def _grid_groups(pipeline: StudentsConfig, variant: Variant) -> list[Group]:
    """All students of a grid, those that are to share their batches beside each other."""
    asked = sweep_of(pipeline)
    space = {key: axis for key, axis in asked.space.items() if not isinstance(axis, Range)}
    jobs = [job for trial in grid(space) for job in jobs_of(pipeline, trial, variant(trial.overrides).distill)]
    first: dict[Path, Trial] = {}
    for job in jobs:
        same = first.setdefault(job.folder, job.trial)
        if same is not job.trial:
            message = f"{' '.join(job.trial.overrides)} and {' '.join(same.overrides)} are one and the same student"
            raise UsageError(message, hint="leave one of the two values out of sweep.space")
    return [Group(tuple(jobs)) for jobs in sharing(jobs, asked.together)]


def sharing(jobs: Sequence[Job], together: int) -> list[list[Job]]:
    """The jobs in groups of at most `together` that want the same batches, in the order of their first members."""
    alike: dict[tuple[Any, ...], list[Job]] = {}
    for job in jobs:
        config, student = job.config, job.config.student
        wants = (config.seed, config.batch, config.repeats, config.window_blocks, student.image_size)
        alike.setdefault(wants if together > 1 else (len(alike),), []).append(job)
    return [same[first : first + together] for same in alike.values() for first in range(0, len(same), together)]


def _drawn_groups(study: Study, pipeline: StudentsConfig, variant: Variant) -> Iterator[Group]:
    """A study's trials: those that ended, those that an earlier sitting began, then new ones, each drawn when it is due."""

    def jobs(trial: Trial) -> tuple[Job, ...]:
        return tuple(jobs_of(pipeline, trial, variant(trial.overrides).distill))

    asked = sweep_of(pipeline).study
    assert asked is not None
    for trial, came, note in list(study.ended()):
        theirs = jobs(trial)
        yield Group(theirs, settled=() if came == "done" else (left(theirs[0], came, note),))
    for trial in list(study.begun()):
        yield Group(jobs(trial), drawn=True)
    while study.num_trials < asked.trials:
        yield Group(jobs(study.draw()), drawn=True)


def _about(pipeline: StudentsConfig, first: DistillConfig, bench: Bench) -> dict[str, Any]:
    """What makes the scores of two trials comparable: all that decides them beside what is drawn."""
    asked, sealed = sweep_of(pipeline), latest_seal(bench.store.root)
    if sealed is None:
        message = f"store {bench.store.name} is not sealed: its extraction did not finish"
        raise UsageError(message, hint="run `stillhouse extract`")
    identity = identity_of(first, taught_by(first, bench.store), sealed)
    config = {name: value for name, value in identity["config"].items() if name not in MEANS}
    judging = bench.evaluation.config.model_dump(mode="json", include={"store", "train", "test", "metric", asked.probe})
    kept = asked.model_dump(mode="json", include={"space", "seeds", "probe"})
    return {"config": config, "trained_on_sha256": identity["trained_on_sha256"], "eval": judging, **kept}


def _say(reporter: Reporter, trial: Trial, outcome: Outcome) -> None:
    values = " ".join(trial.overrides).replace("distill.", "")
    came = f"{outcome.score:.3f}" if outcome.score is not None else f"{outcome.state}, {outcome.note}"
    reporter.say(f"sweep: {values}, seed {outcome.seed}: {came}{already(not outcome.worked)}")
