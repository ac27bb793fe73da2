"""The page of a sweep, made from its ranking: `sweep.html` in the sweep's folder, which loads nothing."""

import time
from typing import Any

import yaml

from stillhouse.eval.report_data import Score
from stillhouse.eval.retention import seed_interval
from stillhouse.eval.sweep_report import SweepData, SweptStudent, SweptTrial, render_sweep
from stillhouse.stage2_distill.sweep.config import SweepConfig
from stillhouse.stage2_distill.sweep.space import shown

from .pipeline_config import StudentsConfig
from .sweep_ranks import Ranked, Swept


def sweep_page(pipeline: StudentsConfig, swept: Swept, teacher: str) -> str:
    """The HTML of what is known by now.

    Args:
        teacher: the name of the one whose share is shown.
    """
    config = pipeline.model_dump(mode="json")
    return render_sweep(
        SweepData(
            title=f"Which student keeps most of {teacher}",
            run_name=f"{pipeline.name}, {swept.asked.name}",
            probe=swept.asked.probe,
            metric=swept.metric.replace("_", " "),
            split=swept.split,
            way=_way(swept.asked),
            num_seeds=swept.asked.seeds,
            teacher=teacher,
            teacher_score=swept.teacher,
            names=tuple(swept.names.values()),
            trials=tuple(_row(swept, rank, one) for rank, one in enumerate(swept.trials, 1)),
            config_text=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
            created=time.strftime("%Y-%m-%d %H:%M %Z"),
        )
    )


def _way(asked: SweepConfig) -> str:
    if asked.study is None:
        return "A grid, every combination"
    pruned = "" if asked.study.pruner == "none" else f", pruned by {asked.study.pruner}"
    return f"A study, drawn by {asked.study.sampler}{pruned}"


def _row(swept: Swept, rank: int, one: Ranked) -> SweptTrial:
    values = [one.trial.values[key] for key in swept.names]
    return SweptTrial(
        rank=rank if one.score is not None else None,
        number=one.trial.number,
        values=[_number(value) for value in values],
        shown=[shown(value) for value in values],
        score=_scored(one),
        of_teacher=swept.share(one),
        came=one.note if one.state == "pruned" else f"{one.state}: {one.note}" if one.note else "",
        overrides=" ".join(one.trial.overrides),
        seconds=one.seconds,
        looks=one.students[0].looks,
        students=[
            SweptStudent(
                seed=student.seed,
                score=student.score,
                num_steps=student.num_steps,
                seconds=student.seconds,
                num_parameters=student.num_parameters,
                weights_sha256=student.weights_sha256,
                folder=student.folder,
            )
            for student in one.students
        ],
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _scored(one: Ranked) -> Score | None:
    if one.score is None:
        return None
    scores = [student.score for student in one.students if student.score is not None]
    if len(scores) == 1:
        return Score(one.score)
    interval = seed_interval(scores)
    return Score(interval.value, interval.low, interval.high)
