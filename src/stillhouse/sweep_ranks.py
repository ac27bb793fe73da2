"""The trials of a sweep from the best to the worst, as its table, its page and its JSON show them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stillhouse.stage2_distill.sweep.config import SweepConfig
from stillhouse.stage2_distill.sweep.space import Trial, short_names

from .sweep_trials import Outcome, State


@dataclass(frozen=True, slots=True)
class Ranked:
    """A trial and its students, one a seed. `score` is their mean; None unless all are done."""

    trial: Trial
    students: tuple[Outcome, ...]

    @property
    def state(self) -> State:
        return next((one.state for one in self.students if one.state != "done"), "done")

    @property
    def score(self) -> float | None:
        scores = [one.score for one in self.students if one.score is not None]
        return float(np.mean(scores)) if len(scores) == len(self.students) else None

    @property
    def note(self) -> str:
        """Why it did not come to its end; "": it did."""
        return next((one.note for one in self.students if one.note), "")

    @property
    def seconds(self) -> float:
        """Of training, summed over the students."""
        return sum(one.seconds for one in self.students)


@dataclass(frozen=True, slots=True)
class Swept:
    """A sweep: its trials from the best to the worst, those that did not come to an end last."""

    asked: SweepConfig
    folder: Path
    metric: str
    split: str
    teacher: float | None
    trials: tuple[Ranked, ...]

    @property
    def names(self) -> dict[str, str]:
        """The keys that are varied, each with its short name."""
        return short_names(list(self.asked.space))

    @property
    def best(self) -> Ranked | None:
        return self.trials[0] if self.trials and self.trials[0].score is not None else None

    @property
    def idle(self) -> bool:
        """Whether everything was there already."""
        return not any(student.worked for one in self.trials for student in one.students)

    def share(self, one: Ranked) -> float | None:
        """Its score over the teacher's."""
        return None if one.score is None or not self.teacher else one.score / self.teacher

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.asked.name,
            "probe": self.asked.probe,
            "metric": self.metric,
            "split": self.split,
            "teacher": self.teacher,
            "best": None if self.best is None else self.best.students[0].folder,
            "trials": [
                {
                    "rank": rank if one.score is not None else None,
                    "number": one.trial.number,
                    "values": dict(one.trial.values),
                    "overrides": one.trial.overrides,
                    "state": one.state,
                    "score": one.score,
                    "of_teacher": self.share(one),
                    "seconds": one.seconds,
                    "students": [student.to_json() for student in one.students],
                }
                for rank, one in enumerate(self.trials, 1)
            ],
        }


def ranked(swept: Swept, trials: Mapping[int, Trial], found: Mapping[int, Sequence[Outcome]]) -> Swept:
    """The sweep with what was found of each trial by now."""
    rows = [
        Ranked(trials[number], tuple(sorted(outcomes, key=lambda one: one.seed))) for number, outcomes in found.items()
    ]
    rows.sort(key=lambda one: (one.score is None, -(one.score or 0.0), one.trial.number))
    return replace(swept, trials=tuple(rows))
