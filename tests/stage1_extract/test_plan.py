"""The plan: splits that depend on keys alone, blocks that are fair draws."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.core.errors import DataError
from stillhouse.stage1_extract.config import IngestConfig
from stillhouse.stage1_extract.plan import IngestPlan, plan_blocks, split_of
from stillhouse.stage1_extract.sources import FolderSource, Item
from stillhouse.storage.specs import TRAIN
from stillhouse.storage.writer import keys_digest


def config(**fields: Any) -> IngestConfig:
    return IngestConfig(**{"source": FolderSource(path=Path("/nowhere")), "block_samples": 4, **fields})


def listing(keys: Sequence[str]) -> list[Item]:
    return [Item(key, None, (key,)) for key in sorted(keys)]


def numbered(num: int) -> list[Item]:
    return listing([f"n{i:06d}.jpg" for i in range(num)])


def keys_of(plan: IngestPlan, split: str) -> set[str]:
    return {item.key for block in plan.store.blocks_of(split) for item in plan.items[block]}


keys = st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1), unique=True, max_size=30)
shares = st.fixed_dictionaries({}, optional={"test": st.floats(0.01, 0.4), "val": st.floats(0.01, 0.4)})
configs = st.builds(
    config,
    split=shares,
    seed=st.integers(0, 2**64 - 1),
    order=st.sampled_from(["hashed", "source"]),
    block_samples=st.integers(1, 7),
)


def plan_or_none(items: list[Item], chosen: IngestConfig) -> IngestPlan | None:
    """None where no sample is left for training, which is refused."""
    if all(split_of(item.key, chosen) != TRAIN for item in items):
        with pytest.raises(DataError):
            plan_blocks(items, chosen)
        return None
    return plan_blocks(items, chosen)


@given(keys=keys, chosen=configs)
def test_every_sample_is_in_one_block_of_its_split(keys: list[str], chosen: IngestConfig) -> None:
    items = listing(keys)
    plan = plan_or_none(items, chosen)
    if plan is None:
        return
    assert sorted(item.key for block in plan.items for item in block) == sorted(keys)
    assert len(plan.items) == len(plan.store.blocks)
    assert plan.store.num_samples == len(items)
    for block, members in zip(plan.store.blocks, plan.items, strict=True):
        assert {split_of(item.key, chosen) for item in members} == {block.split}
        assert 1 <= block.num_rows == len(members) <= chosen.block_samples
        assert block.keys_sha256 == keys_digest(item.key for item in members)
    for split in (TRAIN, *chosen.split):
        sizes = [plan.store.blocks[block].num_rows for block in plan.store.blocks_of(split)]
        assert all(size == chosen.block_samples for size in sizes[:-1])


@given(keys=keys, chosen=configs, seed=st.randoms())
def test_the_plan_does_not_depend_on_the_order_of_the_listing(keys: list[str], chosen: IngestConfig, seed: Any) -> None:
    items = listing(keys)
    shuffled = items[:]
    seed.shuffle(shuffled)
    if plan_or_none(items, chosen) is not None:
        assert plan_blocks(items, chosen) == plan_blocks(shuffled, chosen)


@given(keys=keys, more=keys, chosen=configs)
def test_new_samples_never_move_old_ones_to_another_split(
    keys: list[str], more: list[str], chosen: IngestConfig
) -> None:
    before = plan_or_none(listing(keys), chosen)
    after = plan_or_none(listing([*{*keys, *more}]), chosen)
    if before is not None and after is not None:
        for split in (TRAIN, *chosen.split):
            assert keys_of(before, split) == keys_of(after, split) & set(keys)


@given(key=st.text(), chosen=configs)
def test_the_split_looks_at_key_seed_and_shares_alone(key: str, chosen: IngestConfig) -> None:
    other = chosen.model_copy(update={"order": "source", "block_samples": 9, "source": FolderSource(path=Path("/x"))})
    assert split_of(key, chosen) == split_of(key, other)


def test_splits_have_their_shares() -> None:
    chosen = config(split={"test": 0.2, "val": 0.1}, block_samples=100)
    plan = plan_blocks(numbered(4000), chosen)
    found = {split: len(keys_of(plan, split)) for split in (TRAIN, "test", "val")}
    for split, share in {TRAIN: 0.7, "test": 0.2, "val": 0.1}.items():
        assert abs(found[split] - 4000 * share) < 4 * (4000 * share * (1 - share)) ** 0.5, found


def test_a_larger_share_keeps_what_it_had() -> None:
    """Growing the first split moves samples into it and none out of it."""
    small, large = (keys_of(plan_blocks(numbered(500), config(split={"test": s})), "test") for s in (0.1, 0.3))
    assert small < large


def test_another_seed_is_another_split() -> None:
    one, other = (keys_of(plan_blocks(numbered(500), config(split={"test": 0.3}, seed=s)), "test") for s in (0, 1))
    assert one != other


def test_hashed_blocks_are_fair_draws() -> None:
    """Samples of one class, neighbours in the listing, spread over all blocks as chance would have it."""
    plan = plan_blocks(numbered(4096), config(block_samples=256))
    first = [sum(item.key < "n001024" for item in block) for block in plan.items]
    assert sum(first) == 1024 and len(first) == 16
    expected, deviation = 64, (256 * 0.25 * 0.75 * (1 - 256 / 4096)) ** 0.5
    assert max(abs(count - expected) for count in first) < 4 * deviation
    ranks = np.array([int(item.key[1:7]) for block in plan.items for item in block])
    assert abs(float(np.corrcoef(ranks, np.arange(4096))[0, 1])) < 4 / 64


def test_blocks_in_the_order_of_the_source() -> None:
    plan = plan_blocks(numbered(10), config(order="source"))
    assert [item.key for block in plan.items for item in block] == [item.key for item in numbered(10)]
    assert [block.num_rows for block in plan.store.blocks] == [4, 4, 2]


def test_the_order_inside_a_hashed_block_is_the_hashs() -> None:
    """Pinned: a change here gives every store another layout."""
    plan = plan_blocks(numbered(12), config(split={"test": 0.25}))
    expected = [["06", "10", "07", "02"], ["08", "00", "05", "03"], ["09", "04"], ["01", "11"]]
    assert [[item.key[5:7] for item in block] for block in plan.items] == expected
    assert [block.split for block in plan.store.blocks] == ["train", "train", "train", "test"]


def test_nothing_left_for_training_is_refused() -> None:
    chosen = config(split={"test": 0.999})
    items = [item for item in numbered(50) if split_of(item.key, chosen) == "test"]
    with pytest.raises(DataError, match=rf"all {len(items)} samples fall into test 0.999; make `ingest.split` smaller"):
        plan_blocks(items, chosen)


@pytest.mark.parametrize(
    "fields",
    [
        {"split": {"train": 0.5}},
        {"split": {"test": 0.0}},
        {"split": {"test": 0.6, "val": 0.4}},
        {"block_samples": 0},
        {"seed": 2**64},
        {"seed": -1},
    ],
)
def test_configs_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        config(**fields)
