"""Which part of a store is asked for, and what that is of a store at hand."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field

from stillhouse.core.config import Config
from stillhouse.core.errors import UsageError
from stillhouse.storage.foreign import MAX_LEVELS
from stillhouse.storage.specs import StorePlan, TeacherSpec, Text
from stillhouse.storage.store import Store

_RANGE = re.compile(r"(\d*):(\d*)")


class Selection(Config):
    """What is asked for; None is everything."""

    views: int | None = None
    """So many of the first views. A view's number decides how it is drawn, so there are no others without them."""
    columns: tuple[Text, ...] | None = Field(default=None, max_length=MAX_LEVELS)
    """Teachers, levels of all of them, or levels of one of them: `lite0`, `cls`, `lite0/cls`."""
    blocks: Text | None = None
    """`first:last`, the last one not included, as in Python."""
    split: Text | None = None
    """Blocks of one split."""
    share: float | None = None
    """Of the blocks of each split, those in front; at least one of each."""

    @property
    def is_everything(self) -> bool:
        return self == Selection()

    def told(self) -> str:
        """What is asked for, for people."""
        told = [f"{name} {value}" for name, value in self.model_dump(mode="json", exclude_none=True).items()]
        return ", ".join(told) or "all of it"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A selection of one store.

    Args:
        blocks: their numbers in the store, in order.
        levels: of each teacher that comes.
    """

    num_views: int
    blocks: tuple[int, ...]
    levels: Mapping[str, tuple[str, ...]]


def choose(store: Store, asked: Selection) -> Chosen:
    """What a selection means.

    Raises:
        UsageError: the store has no such view, column, block or split; the hint names what it has.
    """
    num_views = store.spec.num_views if asked.views is None else asked.views
    if not 1 <= num_views <= store.spec.num_views:
        message = f"{num_views} views were asked for"
        raise UsageError(message, hint=f"ask for 1 to {store.spec.num_views}: so many has store {store.root}")
    return Chosen(num_views, tuple(_blocks(store.plan, asked)), _levels(store.teachers(), asked.columns))


def _blocks(plan: StorePlan, asked: Selection) -> Sequence[int]:
    splits = plan.num_samples_of()
    if asked.split is not None and asked.split not in splits:
        raise UsageError(f"there is no split {asked.split!r}", hint=f"splits: {', '.join(splits)}")
    if asked.share is not None and not 0 < asked.share <= 1:
        raise UsageError(f"a share of {asked.share:g} was asked for", hint="ask for more than 0 and at most 1")
    found = _range(asked.blocks, len(plan.blocks))
    kept = []
    for split in splits if asked.split is None else [asked.split]:
        mine = [block for block in plan.blocks_of(split) if block in found]
        kept += mine if asked.share is None else mine[: math.ceil(asked.share * len(mine))]
    if not kept:
        raise UsageError("no block is in all that was asked for", hint=f"the store has blocks 0:{len(plan.blocks)}")
    return sorted(kept)


def _range(given: str | None, num: int) -> range:
    if given is None:
        return range(num)
    found = _RANGE.fullmatch(given)
    first, last = (int(found[1] or 0), int(found[2] or num)) if found else (0, 0)
    if not 0 <= first < last <= num:
        raise UsageError(f"blocks {given!r} were asked for", hint=f"write first:last, within 0:{num}")
    return range(first, last)


def _levels(teachers: Sequence[TeacherSpec], columns: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    has = {teacher.name: tuple(teacher.levels) for teacher in teachers}
    if columns is None:
        return has
    wanted: dict[str, set[str]] = {}
    for column in columns:
        teacher, slash, level = column.partition("/")
        if slash:
            found = [(teacher, level)] if level in has.get(teacher, ()) else []
        else:
            found = [(name, one) for name, levels in has.items() for one in levels if column in (name, one)]
        if not found:
            known = ", ".join(f"{name}/{one}" for name, levels in has.items() for one in levels) or "none"
            raise UsageError(f"there is no column {column!r}", hint=f"columns: {known}")
        for name, one in found:
            wanted.setdefault(name, set()).add(one)
    return {name: tuple(one for one in levels if one in wanted[name]) for name, levels in has.items() if name in wanted}
