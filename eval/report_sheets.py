"""Sheets of pictures in a report: examples of a task, nearest neighbours, pairs that leaked. Plain frozen data.

Pixels are uint8 [h, w, 3] of any size; strings are untrusted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .pictures import Pixels

if TYPE_CHECKING:
    from .tasks.base import Example


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Panel:
    """A picture with its title."""

    title: str
    pixels: Pixels


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExampleRow:
    """One image of a task: strips of panels, each with the name of the subject it is of, "" for all of them."""

    key: str
    strips: tuple[tuple[str, tuple[Panel, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleSheet:
    """Examples of one task."""

    task: str
    rows: tuple[ExampleRow, ...]


def example_sheet(task: str, examples: Mapping[str, "Sequence[Example]"]) -> ExampleSheet:
    """The examples of every subject (name -> what its `TaskResult` holds), side by side for each key.

    What all subjects show alike, such as the image and the truth, is shown once. Where each adds one panel of its own,
    all are in one strip; where they add several, such as neighbours, each subject has a strip.
    """
    by_key: dict[str, dict[str, tuple[Panel, ...]]] = {}
    for subject, its in examples.items():
        for one in its:
            panels = tuple(Panel(title=title, pixels=pixels) for title, pixels in one.panels)
            by_key.setdefault(one.key, {})[subject] = panels
    return ExampleSheet(task=task, rows=tuple(_row(key, its) for key, its in by_key.items()))


def _row(key: str, panels: Mapping[str, tuple[Panel, ...]]) -> ExampleRow:
    first, *others = panels.values()
    shared = tuple(panel for panel in first if all(_among(panel, other) for other in others))
    own = {subject: tuple(p for p in its if not _among(p, shared)) for subject, its in panels.items()}
    if all(len(its) <= 1 for its in own.values()):
        named = [Panel(title=f"{subject}: {p.title}", pixels=p.pixels) for subject, its in own.items() for p in its]
        return ExampleRow(key=key, strips=(("", (*shared, *named)),))
    return ExampleRow(key=key, strips=tuple((subject, (*shared, *its)) for subject, its in own.items()))


def _among(panel: Panel, others: Sequence[Panel]) -> bool:
    return any(panel.title == one.title and np.array_equal(panel.pixels, one.pixels) for one in others)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Neighbour:
    """A training image near a test image; `right` where it has the same label."""

    key: str
    label: str
    similarity: float
    right: bool
    pixels: Pixels


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NeighbourRow:
    """A test image, and the training images that each encoder puts nearest to it, nearest first."""

    key: str
    label: str
    pixels: Pixels
    neighbours: tuple[tuple[Neighbour, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourSheet:
    """Nearest neighbours; `encoders` names those of every row, in order. `num_train` images were searched."""

    encoders: tuple[str, ...]
    rows: tuple[NeighbourRow, ...]
    num_train: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LeakPair:
    """A test image and the training image that it is, or nearly is; `how` says what they share."""

    test_key: str
    train_key: str
    how: str
    test: Pixels
    train: Pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Leakage:
    """What was found of the test images among the training images: a sentence a check, and pairs to look at.

    `warnings` are those of the sentences that someone must act on. `num_pairs` counts all, also those not shown.
    """

    lines: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    pairs: tuple[LeakPair, ...] = ()
    num_pairs: int = 0
