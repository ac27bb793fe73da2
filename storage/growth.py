"""How a store grows: numbered documents beside its spec and plan, each of which adds views, or blocks of new samples.

Spec and plan are never written again. What a store is now is what they say with every growth applied in order, and what
it was at any earlier time is what they say with fewer of them. A growth is decided by create-if-absent, before the first
unit of it is made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from stillhouse.core.config import Config, parse_config
from stillhouse.core.errors import CorruptError, MissingError, SpecMismatchError, UsageError

from . import foreign, layout
from .disk import create_once, names_in
from .signed_json import read_signed_json, signed_json
from .specs import MAX_BLOCKS, MAX_VIEWS, BlockPlan, StorePlan, StoreSpec, spec_differences

MAX_GROWTHS = 9999
RESTORE = "restore it from a copy of the store"


class Growth(Config):
    """One growth: either more views, or more blocks."""

    views: int | None = Field(default=None, strict=True, ge=1, le=MAX_VIEWS)
    """Views of each sample from here on."""
    blocks: tuple[BlockPlan, ...] = Field(default=(), max_length=MAX_BLOCKS)
    """They follow those that are there."""
    ingest: dict[str, Any] | None = None
    """Where the samples of the blocks come from, as `StoreSpec.ingest` says it of the first ones."""

    @model_validator(mode="after")
    def _one_thing(self) -> Self:
        if (self.views is None) == (not self.blocks) or (self.ingest is None) == bool(self.blocks):
            raise ValueError("a growth is either views, or blocks with what they were ingested with")
        return self


@dataclass(frozen=True, slots=True)
class Generation:
    """Blocks that were planned at one time, from one listing of a source."""

    blocks: range
    ingest: dict[str, Any]


def grown(spec: StoreSpec, plan: StorePlan, growths: Sequence[Growth]) -> tuple[StoreSpec, StorePlan]:
    """Spec and plan after growths.

    Raises:
        ValueError: a growth adds nothing, or the plan it makes is none.
    """
    for growth in growths:
        if growth.views is not None:
            if growth.views <= spec.num_views:
                raise ValueError(f"a growth to {growth.views} views of a store that has {spec.num_views}")
            spec = StoreSpec.model_validate(spec.model_dump() | {"views": spec.views | {"num": growth.views}})
    if blocks := tuple(block for growth in growths for block in growth.blocks):
        plan = StorePlan(block_samples=plan.block_samples, blocks=plan.blocks + blocks)
    return spec, plan


def extents(spec: StoreSpec, plan: StorePlan, growths: Sequence[Growth]) -> list[tuple[int, int]]:
    """(V, N) of the arrays as the store was begun, and after each growth."""
    found = [(spec.num_views, plan.num_rows)]
    for growth in growths:
        views, rows = found[-1]
        found.append((growth.views or views, rows + len(growth.blocks) * plan.block_samples))
    return found


def generations(spec: StoreSpec, plan: StorePlan, growths: Sequence[Growth]) -> list[Generation]:
    """The blocks of a plan that has grown, by when they were planned."""
    added = [growth for growth in growths if growth.ingest is not None]
    start = len(plan.blocks) - sum(len(growth.blocks) for growth in added)
    found = [Generation(range(start), spec.ingest)]
    for growth in added:
        found.append(Generation(range(start, start + len(growth.blocks)), growth.ingest or {}))
        start += len(growth.blocks)
    return found


def read_growths(root: Path) -> tuple[Growth, ...]:
    """Every growth of a store, in order.

    Raises:
        MissingError, CorruptError: one is gone, or is not what was written.
    """
    folder = root / layout.GROWTHS
    numbers = sorted(int(name[:-5]) for name in names_in(folder) if name.endswith(".json") and name[:-5].isdecimal())
    if len(numbers) > MAX_GROWTHS:
        raise CorruptError(f"{folder} has {len(numbers)} growths, at most {MAX_GROWTHS} are read", hint=RESTORE)
    found = []
    for number in range(1, 1 + max(numbers, default=0)):
        path = root / layout.growth_path(number)
        body = read_signed_json(path, RESTORE, root=root, max_bytes=foreign.MAX_PLAN_BYTES)
        if body is None:
            raise MissingError(f"{path} is not there", hint=RESTORE)
        try:
            found.append(parse_config(Growth, body, where=str(path)))
        except UsageError as error:
            raise CorruptError(error.message, hint=RESTORE) from error
    return tuple(found)


def add_growth(root: Path, number: int, growth: Growth) -> bool:
    """Decide the growth of that number; False when another process has decided it, perhaps otherwise."""
    body = growth.model_dump(mode="json", exclude_defaults=True)
    return create_once(root / layout.growth_path(number), signed_json(body))


def differences(spec: StoreSpec, found: Sequence[Generation], asked: StoreSpec) -> list[str]:
    """What of a spec that is asked for a store does not have. The source may be that of any of its generations."""
    ingest = asked.ingest if any(one.ingest == asked.ingest for one in found) else spec.ingest
    return list(spec_differences(spec.model_dump(mode="json") | {"ingest": ingest}, asked.model_dump(mode="json")))


def require_begun(root: Path, spec: StoreSpec) -> None:
    """SpecMismatchError, naming each differing field, unless the store at `root` was begun with exactly this spec."""
    stored = read_signed_json(root / layout.SPEC, RESTORE, root=root, max_bytes=foreign.MAX_SPEC_BYTES)
    found = list(spec_differences(stored, spec.model_dump(mode="json")))
    if found:
        message = f"store {root} was made from another spec: {'; '.join(found)}"
        raise SpecMismatchError(message, hint="undo the change, or name another folder as `store`")
