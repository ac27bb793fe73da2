"""Which sample goes into which block: pure functions of the listing and the config."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from stillhouse.core import rng
from stillhouse.core.errors import DataError
from stillhouse.storage.specs import TRAIN, BlockPlan, StorePlan
from stillhouse.storage.writer import keys_digest

from .config import IngestConfig
from .sources import Item
from .subset import choose


@dataclass(frozen=True, slots=True)
class IngestPlan:
    """The plan a store keeps, and the items of each of its blocks in row order."""

    store: StorePlan
    items: tuple[tuple[Item, ...], ...]


def plan_blocks(items: Sequence[Item], config: IngestConfig) -> IngestPlan:
    """Split the items by key hash, leave what is no part of the training subset, and cut each split into blocks.

    With `order: hashed` a block is a fair draw of its split: rows are in the order of a keyed hash of their keys. Which
    split a key falls into depends on the key, the seed and the shares alone, so new samples never move old ones.

    Raises:
        DataError: no sample is left for training, or the subset cannot be chosen.
    """
    splits = _split(items, config)
    if not splits[TRAIN]:
        shares = ", ".join(f"{name} {share}" for name, share in config.split.items())
        raise DataError(
            f"all {len(items)} samples fall into {shares}", hint="make `ingest.split` smaller or add images"
        )
    if config.subset is not None:
        splits[TRAIN] = choose(splits[TRAIN], config.subset, config.seed)
    return _cut(splits, config)


def plan_added(items: Sequence[Item], config: IngestConfig) -> IngestPlan:
    """Blocks of their own for items that come to a store later; they fall into splits as if they had been there."""
    return _cut(_split(items, config), config)


def _split(items: Sequence[Item], config: IngestConfig) -> dict[str, list[Item]]:
    splits: dict[str, list[Item]] = {TRAIN: [], **{name: [] for name in config.split}}
    for item in items:
        splits[split_of(item.key, config)].append(item)
    return splits


def _cut(splits: dict[str, list[Item]], config: IngestConfig) -> IngestPlan:
    blocks: list[BlockPlan] = []
    cut: list[tuple[Item, ...]] = []
    for split, members in splits.items():
        ordered = sorted(members, key=lambda item: _rank(item.key, config))
        for start in range(0, len(ordered), config.block_samples):
            block = tuple(ordered[start : start + config.block_samples])
            digest = keys_digest(item.key for item in block)
            blocks.append(BlockPlan(split=split, num_rows=len(block), keys_sha256=digest))
            cut.append(block)
    return IngestPlan(StorePlan(block_samples=config.block_samples, blocks=tuple(blocks)), tuple(cut))


def split_of(key: str, config: IngestConfig) -> str:
    """The split of a key: a fair, keyed coin that looks at nothing else."""
    position = rng.block(rng.seed_bytes(config.seed), key, 0, "split")[0] / 2.0**64
    for name, share in config.split.items():
        if position < share:
            return name
        position -= share
    return TRAIN


def _rank(key: str, config: IngestConfig) -> tuple[bytes, str]:
    if config.order == "source":
        return b"", key
    return hashlib.blake2b(key.encode(), digest_size=16, key=rng.seed_bytes(config.seed), person=b"order").digest(), key
