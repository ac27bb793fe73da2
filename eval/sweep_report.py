"""The page of a sweep: `SweepData` in, one self-contained HTML document out. Pure: the caller writes the text."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from . import formatting
from .report import page_environment
from .report_data import Score
from .sweep_charts import Axis, LookedAt, axis_charts, looks_chart


@dataclass(frozen=True, slots=True, kw_only=True)
class SweptStudent:
    """One student of a trial; `score` is None unless it is done."""

    seed: int
    score: float | None
    num_steps: int
    seconds: float
    num_parameters: int
    weights_sha256: str
    folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SweptTrial:
    """A row of the ranking: the values in the order of the axes, as numbers where they are, and as they are shown.

    `rank` and `score` are None for a trial that did not come to its end, and `came` says why; `overrides` make its students again.
    """

    rank: int | None
    number: int
    values: Sequence[float | None]
    shown: Sequence[str]
    score: Score | None
    of_teacher: float | None
    came: str
    overrides: str
    seconds: float
    looks: Sequence[tuple[int, float]]
    """(step, score) of the first student's."""
    students: Sequence[SweptStudent]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepData:
    """All that the page shows; trials from the best to the worst; scores lie in [0, 1]."""

    title: str
    run_name: str
    probe: str
    metric: str
    split: str
    way: str
    """How the points were chosen."""
    num_seeds: int
    teacher: str
    teacher_score: float | None
    names: Sequence[str]
    """Of what is varied."""
    trials: Sequence[SweptTrial]
    config_text: str
    created: str

    @property
    def best(self) -> SweptTrial | None:
        """None while no trial is done."""
        return self.trials[0] if self.trials and self.trials[0].score is not None else None

    @property
    def num_students(self) -> int:
        return sum(len(trial.students) for trial in self.trials)

    @property
    def seconds(self) -> float:
        """Of training, summed over all students."""
        return sum(trial.seconds for trial in self.trials)


def render_sweep(data: SweepData) -> str:
    """`data` as one HTML document that can be encoded in UTF-8.

    Raises:
        ValueError: a trial has another number of values than there are names.
    """
    for trial in data.trials:
        if not len(trial.values) == len(trial.shown) == len(data.names):
            raise ValueError(f"trial {trial.number}: {len(trial.values)} values for {len(data.names)} names")
    environment = page_environment()
    script = environment.get_template("report.js").render()
    page = environment.get_template("sweep.html.j2").render(
        data=data,
        style=Markup(environment.get_template("report.css").render()),
        script=Markup(script),
        best=_said(data, data.best) if data.best else "",
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        axis_charts=axis_charts(_axes(data), f"{data.probe} {data.metric} in per cent", data.teacher_score),
        looks_chart=looks_chart(
            [LookedAt(f"{trial.rank or trial.came}: {_said(data, trial)}", trial.looks) for trial in data.trials]
        ),
    )
    return formatting.printable(page)


def _said(data: SweepData, trial: SweptTrial) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(data.names, trial.shown, strict=True))


def _axes(data: SweepData) -> list[Axis]:
    """What each value came to, over the trials that are done."""
    done = [trial for trial in data.trials if trial.score is not None]
    return [
        Axis(
            name,
            [trial.values[place] for trial in done],
            [trial.shown[place] for trial in done],
            [trial.score.value for trial in done if trial.score is not None],
            [str(trial.rank) for trial in done],
        )
        for place, name in enumerate(data.names)
    ]
