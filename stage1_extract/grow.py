"""What a pipeline asks of its store beyond what the store has: more views, more samples.

A growth is decided by one document in the store (`storage/growth.py`). The steps that follow make what is missing, as
they would on the first day.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from stillhouse.core.errors import BusyError, CorruptError, DataError, MissingError, SpecMismatchError, UsageError
from stillhouse.core.events import Reporter
from stillhouse.storage import layout
from stillhouse.storage.extent import extend
from stillhouse.storage.growth import Growth, add_growth, differences
from stillhouse.storage.room import require_writable
from stillhouse.storage.specs import StoreSpec
from stillhouse.storage.store import Store

from .config import IngestConfig
from .plan import IngestPlan, plan_added, plan_blocks
from .sources import Item

Blocks = Mapping[int, tuple[Item, ...]]
"""The items of blocks, in row order."""


def require_spec(store: Store, spec: StoreSpec) -> None:
    """SpecMismatchError, naming each differing field, unless the store has exactly this spec."""
    found = differences(store.spec, store.generations, spec)
    if found:
        message = f"store {store.root} was made from another spec: {'; '.join(found)}"
        fewer = len(found) == 1 and spec.num_views < store.spec.num_views
        keeps = f"a store keeps its views: set views.num to {store.spec.num_views}"
        other = "undo the change, or name another folder as `store`"
        raise SpecMismatchError(message, hint=keeps if fewer else other)


def open_grown(root: Path, spec: StoreSpec, reporter: Reporter, *, any_source: bool = False) -> Store:
    """The store at `root`, with as many views as `spec` asks for; the views that it has stay as they are.

    Args:
        any_source: let the source be one that the store does not know.

    Raises:
        SpecMismatchError: the store has another spec, or more views.
    """
    while True:
        store = Store.open(root)
        asked, has = spec.num_views, store.spec.num_views
        ingest = spec.ingest | ({"source": store.spec.ingest["source"]} if any_source else {})
        require_spec(store, StoreSpec(ingest=ingest, views=spec.views | {"num": min(asked, has)}))
        if asked <= has:
            extend(store)
            return store
        require_writable(root)
        if add_growth(root, len(store.growths) + 1, Growth(views=asked)):
            reporter.say(f"store {root} grows from {has} to {asked} views")


def add_samples(store: Store, listed: Sequence[Item], config: IngestConfig, reporter: Reporter) -> Store:
    """The store with blocks for what is listed and not in it yet. All its images must be in.

    A source that the store knows must still list every sample that came from it; one that the store does not know adds
    to it, and may list none that it has.

    Raises:
        DataError: a sample is gone from its source, or the key of another source's sample is taken.
        UsageError: the store was made with a subset.
        BusyError: another process has begun to add other samples.
    """
    if config.subset is not None:
        message = f"store {store.root} holds an `ingest.subset`, which is chosen from all images at once"
        raise UsageError(message, hint="leave `ingest.grow` out, or name another folder as `store`")
    keys = {item.key for item in listed}
    for generation in store.generations:
        stored = [sample.key for block in generation.blocks for sample in store.samples(block)]
        if generation.ingest == config.spec():
            gone = [key for key in stored if key not in keys]
            _refuse_keys(store, gone, "is no longer in its source", "bring it back: a store keeps its samples")
        else:
            taken = [key for key in stored if key in keys]
            _refuse_keys(store, taken, "is there from another source", "give the new image a name that is free")
        keys.difference_update(stored)
    added = plan_added([item for item in listed if item.key in keys], config)
    if not added.items:
        reporter.say(f"store {store.root} has every image of its source")
        return store
    growth = Growth(blocks=added.store.blocks, ingest=config.spec())
    number = len(store.growths) + 1
    if add_growth(store.root, number, growth):
        splits = ", ".join(f"{num:,} {split}" for split, num in added.store.num_samples_of().items())
        reporter.say(f"store {store.root} grows by {added.store.num_samples:,} images ({splits})")
    grown = Store.open(store.root)
    if grown.growths[number - 1] != growth:
        message = f"another process has begun to add to store {store.root}"
        raise BusyError(message, hint="wait until it is done, then run the same command again")
    extend(grown)
    return grown


def _refuse_keys(store: Store, keys: Sequence[str], what: str, hint: str) -> None:
    if keys:
        more = f" (and {len(keys) - 1:,} more)" if len(keys) > 1 else ""
        raise DataError(f"image {keys[0]!r} of store {store.root} {what}{more}", hint=hint)


def block_items(store: Store, listed: Sequence[Item], config: IngestConfig, todo: Sequence[int]) -> Blocks:
    """The items of the blocks that are to be made.

    Those of a block are told by its index, or, where that cannot be read, by planning again what was planned with it.

    Raises:
        SpecMismatchError: they cannot be told from what is listed now.
        DataError: they came from another source than the config's.
    """
    generations = store.generations
    if len(generations) == 1:
        return _as_planned(store, generations[0].blocks, plan_blocks(listed, config))
    by_key = {item.key: item for item in listed}
    keys = {block: _keys(store, block) for one in generations for block in one.blocks}
    found: dict[int, tuple[Item, ...]] = {}
    for generation in generations:
        wanted = [block for block in generation.blocks if block in todo]
        if wanted and generation.ingest != config.spec():
            message = (
                f"the images of block {wanted[0]} of store {store.root} came from another source than the config's"
            )
            raise DataError(message, hint=f"its `ingest` was {generation.ingest}: run the command with that")
        told = {block: by_key.keys() >= set(names) for block in wanted if (names := keys[block]) is not None}
        found |= {block: tuple(by_key[key] for key in keys[block] or ()) for block in told if told[block]}
        if all(told.get(block) for block in wanted):
            continue
        others = [block for one in generations if one is not generation for block in one.blocks]
        elsewhere = {key for block in others for key in keys[block] or _refuse_unknown(store, block)}
        found |= _as_planned(
            store, generation.blocks, plan_added([item for item in listed if item.key not in elsewhere], config)
        )
    return found


def _as_planned(store: Store, blocks: range, planned: IngestPlan) -> Blocks:
    if store.plan.blocks[blocks.start : blocks.stop] != planned.store.blocks:
        when = "the store grew by them" if blocks.start else "the store was begun"
        message = f"the source of store {store.root} has other samples than when {when}"
        hint = "bring its listing back as it was and run again; `ingest.grow=true` then adds what is new"
        raise SpecMismatchError(message, hint=hint)
    return dict(zip(blocks, planned.items, strict=True))


def _keys(store: Store, block: int) -> list[str] | None:
    """The keys of a block; None when they cannot be read."""
    try:
        return [sample.key for sample in store.samples(block)]
    except (MissingError, CorruptError):
        return None


def _refuse_unknown(store: Store, block: int) -> NoReturn:
    message = f"{layout.index_path(block)} of store {store.root} cannot be read, so it is unknown what it holds"
    raise SpecMismatchError(message, hint="put it back from a copy of the store, then run the same command again")
