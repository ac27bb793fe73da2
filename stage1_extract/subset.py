"""Which training samples a proxy-set ablation keeps: pure functions of keys and labels.

A subset is nested, 20 % lies inside 50 %, and looks at nothing but names, so that it is the same on every machine.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Self

from pydantic import Field, model_validator

from stillhouse.core import rng
from stillhouse.core.config import Config
from stillhouse.core.errors import DataError

from .sources import Item


class SubsetConfig(Config):
    """What is kept of the training images; exactly one of these. The other splits keep all of theirs."""

    of_each_class: float | None = Field(default=None, gt=0, le=1)
    """This share of the images of each class, by a fair coin per image; a class keeps at least one."""
    of_classes: float | None = Field(default=None, gt=0, le=1)
    """All images of this share of the classes, rounded to a whole number of them, at least one."""
    num: int | None = Field(default=None, ge=1)
    """So many images, whatever their classes; needs no labels."""

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        given = [name for name, value in self if value is not None]
        if len(given) != 1:
            raise ValueError(f"give one of of_each_class, of_classes and num; got {', '.join(given) or 'none'}")
        return self


def choose(items: Sequence[Item], subset: SubsetConfig, seed: int) -> list[Item]:
    """The items of the subset, in their order.

    `of_each_class` keeps an image for good: one that is added later pushes none out, but for the only image of a class
    that no coin fell for. `of_classes` changes when classes come or go, `num` when an image comes that is drawn earlier.

    Raises:
        DataError: an item without the label that the rule needs, or fewer items than `num`.
    """
    if subset.num is not None:
        if subset.num > len(items):
            message = f"ingest.subset keeps {subset.num:,} training images, and there are {len(items):,}"
            raise DataError(message, hint="make `ingest.subset.num` smaller or leave it out")
        kept = set(sorted((item.key for item in items), key=lambda key: _drawn(seed, key))[: subset.num])
        return [item for item in items if item.key in kept]
    classes = _by_class(items)
    if subset.of_classes is not None:
        num = max(1, math.floor(subset.of_classes * len(classes) + 0.5))
        chosen = set(sorted(classes, key=lambda label: _drawn(seed, label))[:num])
        return [item for item in items if item.label in chosen]
    assert subset.of_each_class is not None
    limit, kept = subset.of_each_class * 2.0**64, set()
    for keys in classes.values():
        drawn = sorted((_drawn(seed, key), key) for key in keys)
        kept |= {key for position, key in drawn if position < limit} or {drawn[0][1]}
    return [item for item in items if item.key in kept]


def _by_class(items: Iterable[Item]) -> dict[str, list[str]]:
    """Label -> keys."""
    found: dict[str, list[str]] = {}
    for item in items:
        if item.label is None:
            message = f"ingest.subset chooses by class, and image {item.key!r} has no label"
            raise DataError(message, hint="set the `label` of the source, or keep a number: subset: {num: 10000}")
        found.setdefault(item.label, []).append(item.key)
    return found


def _drawn(seed: int, name: str) -> int:
    """When a key or label is drawn: uniform below 2^64, another draw than those of splits and order."""
    return int(rng.block(rng.seed_bytes(seed), name, 0, "subset")[0])
