"""A task: a data set on disk and a protocol; what it says of one encoder, and how its score follows from its items.

Legend: N items (images, queries, clips), K numbers of an item.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.config import Config
from stillhouse.core.events import Reporter

from ..pictures import Pixels
from ..subjects import Subject

Items = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Metric:
    """How a headline score reads: its name, whether it is a share shown in per cent, and which way is better."""

    name: str
    percent: bool = True
    higher_is_better: bool = True


@dataclass(frozen=True, slots=True)
class Context:
    """The machine and the messages of a run; nothing here changes a score."""

    reporter: Reporter
    device: str = "auto"
    threads: int = 2
    batch: int = 32


@dataclass(frozen=True, eq=False, kw_only=True)
class Example:
    """A picture for the report: an image and what was said of it, uint8 [h, w, 3] each, with a title each."""

    key: str
    panels: tuple[tuple[str, Pixels], ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class TaskResult:
    """What a task found."""

    items_NK: Items
    """One row an item in the order of the data set; `Task.score` makes the headline from any rows of it."""
    chosen: dict[str, Any] = field(default_factory=dict)
    """Hyper-parameters behind the headline, and how they were selected."""
    details: dict[str, Any] = field(default_factory=dict)
    """Every other number worth keeping, as plain JSON values (no NaN)."""
    examples: tuple[Example, ...] = ()


class TaskConfig(Config):
    """What the config of every kind of task has; `kind` is the discriminator of its union."""

    path: str
    """Folder of the data set in its official layout."""
    name: str = ""
    """In tables and file names; "": the kind and what tells it apart, such as the data set."""


class Task(Protocol):
    """One evaluation. Construction only stores the config; `identity` and `run` touch the disk."""

    @property
    def name(self) -> str:
        """Unique among the tasks of a pipeline; letters, digits, `-` and `.`."""
        ...

    @property
    def metric(self) -> Metric: ...

    def identity(self) -> dict[str, Any]:
        """All that decides the result beside the encoder: settings, and the data set by names and sizes of its files.

        Raises:
            MissingError: the data set, or a part of it, is not there; names the path that was expected.
        """
        ...

    def score(self, items_NK: Items) -> float:
        """The headline of these items; the bootstrap calls it with redrawn rows."""
        ...

    def run(self, subject: Subject, context: Context) -> TaskResult:
        """Judge one encoder. Deterministic: the same weights and data give the same result."""
        ...
