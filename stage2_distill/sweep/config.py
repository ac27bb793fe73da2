"""The section `sweep` of a pipeline: which settings of `distill` are varied, and how the students are trained."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from stillhouse.core.config import Config
from stillhouse.core.errors import UsageError
from stillhouse.stage2_distill.identity import MEANS
from stillhouse.storage import layout

from .space import text_of

SECTION = "distill"
LOCAL = "local"


class Range(Config):
    """Numbers from `low` to `high`, for a study; whole ones if both are whole."""

    low: int | float
    high: int | float
    log: bool = False
    """Drawn evenly by their logarithm."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range begins above 0, this one at {self.low}")
        return self


def _kind(axis: Any) -> str:
    return "values" if isinstance(axis, (list, tuple)) else "range"


Axis = Annotated[Annotated[tuple[Any, ...], Tag("values")] | Annotated[Range, Tag("range")], Discriminator(_kind)]


class StudyConfig(Config):
    """A search by Optuna, instead of every combination."""

    trials: int = Field(ge=1)
    """How many points of the space are tried, those of earlier sittings included."""
    sampler: Literal["tpe", "random"] = "tpe"
    """`tpe`: by what the trials so far have scored. `random`: evenly."""
    pruner: Literal["none", "median", "hyperband"] = "none"
    """Which trials end early, by the looks of `eval.watch`."""
    seed: int = Field(default=0, ge=0, lt=1 << 64)


class SweepConfig(Config):
    """Many students from one store."""

    name: str = "sweep"
    """Names its folder, `<out>/sweeps/<name>`."""
    space: dict[str, Axis] = Field(min_length=1)
    """By dotted key, such as `distill.lr`: a list of values, or in a study also {low, high, log}."""
    study: StudyConfig | None = None
    """None: a grid, every combination of the values."""
    seeds: int = Field(default=1, ge=1)
    """Students of each point of the space, from `distill.seed` on; it counts by their mean."""
    probe: Literal["knn", "linear", "logistic"] = "knn"
    """Which probe of `eval` ranks the students, by `eval.metric`."""
    split: str | None = None
    """Split they are judged on; None: `eval.test`. What a choice was made by flatters what was chosen."""
    teacher: bool = True
    """Also judge the teacher, for the share that each student kept; false where its weights are not at hand."""
    together: int = Field(default=1, ge=1)
    """Students trained beside each other in one process, which share each batch if they want the same ones."""
    workers: int = Field(default=1, ge=1)
    """Processes on this machine that train at the same time, over its GPUs in turn; 1: this process, one after the other."""
    cluster: str = LOCAL
    """`local`, or the address of a Dask scheduler, e.g. `tcp://10.0.0.1:8786`, whose workers see store and output at the same paths."""

    @field_validator("space", mode="before")
    @classmethod
    def _of_lists_and_ranges(cls, space: Any) -> Any:
        for key, axis in space.items() if isinstance(space, Mapping) else ():
            _check_key(str(key))
            known = isinstance(axis, (list, tuple, Mapping, Range))
            if not known:
                raise ValueError(f"{key} is varied over {axis!r}; give a list of values, or {{low, high}} in a study")
        return space

    @field_validator("space")
    @classmethod
    def _distinct(cls, space: dict[str, Axis]) -> dict[str, Axis]:
        for key, axis in space.items():
            texts = [] if isinstance(axis, Range) else [text_of(value) for value in axis]
            if not texts and not isinstance(axis, Range):
                raise ValueError(f"{key} has no values")
            twice = next((text for text in texts if texts.count(text) > 1), None)
            if twice is not None:
                raise ValueError(f"{key} has the value {twice} twice")
        return space

    @field_validator("name")
    @classmethod
    def _a_folder(cls, name: str) -> str:
        try:
            layout.check_name(name, "sweep")
        except UsageError as error:
            raise ValueError(str(error)) from error
        return name

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ranges = [key for key, axis in self.space.items() if isinstance(axis, Range)]
        if self.study is None and ranges:
            raise ValueError(f"{ranges[0]} is a range, which only a study draws from; list its values, or set `study`")
        if self.study is not None and self.together > 1:
            raise ValueError("a study draws a trial by those before it; `together` is for grids")
        elsewhere = re.fullmatch(r"(tcp|tls|ucx)://\S+:\d+", self.cluster) is not None
        if self.cluster != LOCAL and not elsewhere:
            raise ValueError(f"cluster must be local or an address as tcp://host:port; got {self.cluster!r}")
        if elsewhere and self.workers > 1:
            raise ValueError(f"the scheduler at {self.cluster} has workers of its own; leave `workers` out")
        return self


def _check_key(key: str) -> None:
    """ValueError, with the reason, for what a sweep cannot vary."""
    section, _, name = key.partition(".")
    if section != SECTION or not name:
        raise ValueError(
            f"{key} cannot be varied: all students of a sweep learn from one store, give keys of `{SECTION}`"
        )
    if name == "seed":
        raise ValueError(f"{key} is varied by `seeds`, so that a point counts by its mean over them")
    if name == "name" or name in MEANS:
        raise ValueError(f"{key} says how a run goes, not what comes out of it, and cannot be varied")
