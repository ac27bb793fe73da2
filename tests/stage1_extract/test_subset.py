"""Subsets of the training images: nested, of the share asked for, blind to everything but names."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.core.config import parse_config
from stillhouse.core.errors import DataError, SpecMismatchError, UsageError
from stillhouse.core.events import Reporter
from stillhouse.stage1_extract.config import IngestConfig
from stillhouse.stage1_extract.ingest import ingest
from stillhouse.stage1_extract.plan import plan_blocks
from stillhouse.stage1_extract.sources import FolderSource, Item
from stillhouse.stage1_extract.subset import SubsetConfig, choose
from stillhouse.stage1_extract.testing import TINY_VIEWS, tiny_images, tiny_ingest
from stillhouse.storage.specs import TRAIN, StoreSpec
from stillhouse.storage.store import Store

names = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=4)
listings = st.dictionaries(names, st.sampled_from("abcde"), min_size=1, max_size=60).map(
    lambda found: [Item(key, label, (key,)) for key, label in sorted(found.items())]
)
seeds = st.integers(0, 2**64 - 1)
shares = st.floats(0.001, 1)
RULES = ("of_each_class", "of_classes")


def keys(items: list[Item]) -> set[str]:
    return {item.key for item in items}


def many(num_classes: int, of_each: int) -> list[Item]:
    return [Item(f"c{c}/{i:05d}.jpg", f"c{c}", (c, i)) for c in range(num_classes) for i in range(of_each)]


@pytest.mark.parametrize("rule", RULES)
@given(items=listings, two=st.tuples(shares, shares), seed=seeds)
def test_a_smaller_share_lies_inside_a_larger_one(
    rule: str, items: list[Item], two: tuple[float, float], seed: int
) -> None:
    small, large = (choose(items, SubsetConfig(**{rule: share}), seed) for share in sorted(two))
    assert keys(small) <= keys(large) <= keys(items)
    assert choose(items, SubsetConfig(**{rule: 1.0}), seed) == items


@given(items=listings, two=st.tuples(st.integers(1, 60), st.integers(1, 60)), seed=seeds)
def test_a_smaller_number_lies_inside_a_larger_one(items: list[Item], two: tuple[int, int], seed: int) -> None:
    small, large = (choose(items, SubsetConfig(num=min(num, len(items))), seed) for num in sorted(two))
    assert keys(small) <= keys(large)
    assert len(small) == min(*two, len(items))


@given(items=listings, share=shares, seed=seeds)
def test_classes_are_kept_whole_or_not_at_all(items: list[Item], share: float, seed: int) -> None:
    kept = choose(items, SubsetConfig(of_classes=share), seed)
    before, after = Counter(item.label for item in items), Counter(item.label for item in kept)
    assert all(before[label] == num for label, num in after.items())
    assert len(after) == max(1, int(share * len(before) + 0.5))


@given(items=listings, more=listings, share=shares, seed=seeds)
def test_an_image_that_is_added_pushes_none_out_of_its_class(
    items: list[Item], more: list[Item], share: float, seed: int
) -> None:
    """But for one that was kept so that its class has any."""
    rule = SubsetConfig(of_each_class=share)
    both = {item.key: item for item in [*more, *items]}
    before, after = choose(items, rule, seed), choose(list(both.values()), rule, seed)
    lost = [item for item in before if item.key not in keys(after)]
    alone = Counter(item.label for item in before)
    assert all(alone[item.label] == 1 for item in lost)
    assert {item.label for item in before} == {item.label for item in items}
    added = keys(after) & keys(items) - keys(before)
    assert added == set()


@given(items=listings, share=shares, seed=seeds, mix=st.randoms())
def test_the_order_of_the_listing_does_not_matter(items: list[Item], share: float, seed: int, mix: Any) -> None:
    shuffled = items[:]
    mix.shuffle(shuffled)
    for rule in RULES:
        subset = SubsetConfig(**{rule: share})
        assert keys(choose(items, subset, seed)) == keys(choose(shuffled, subset, seed))


@given(seed=seeds)
def test_each_class_has_its_share(seed: int) -> None:
    kept = Counter(item.label for item in choose(many(4, 400), SubsetConfig(of_each_class=0.2), seed))
    deviation = (400 * 0.2 * 0.8) ** 0.5
    assert all(abs(kept[f"c{c}"] - 80) < 6.5 * deviation for c in range(4)), kept


def test_another_seed_draws_others_and_splits_are_another_draw() -> None:
    items, rule = many(1, 2000), SubsetConfig(of_each_class=0.5)
    one, other = (keys(choose(items, rule, seed)) for seed in (0, 1))
    config = IngestConfig(source=FolderSource(path=Path("/x")), split={"test": 0.5})
    split = {item.key for block in plan_blocks(items, config).items[:1] for item in block}
    for two in (other, split):  # independent halves share a quarter
        assert abs(len(one & two) - len(two) / 2) < 100


def test_what_is_drawn_is_pinned() -> None:
    """A change here gives every ablation another proxy set."""
    items = many(5, 4)
    found = [item.key.removesuffix(".jpg") for item in choose(items, SubsetConfig(of_each_class=0.4), 0)]
    assert found == ["c0/00001", "c1/00000", "c2/00000", "c2/00002", "c3/00000", "c3/00001", "c4/00001"]
    assert {item.label for item in choose(items, SubsetConfig(of_classes=0.4), 0)} == {"c2", "c3"}
    assert sorted(item.key for item in choose(items, SubsetConfig(num=2), 0)) == ["c3/00000.jpg", "c4/00001.jpg"]


def test_a_missing_label_is_named() -> None:
    items = [*many(2, 3), Item("lost.jpg", None, ("lost.jpg",))]
    for rule in RULES:
        with pytest.raises(DataError) as caught:
            choose(items, SubsetConfig(**{rule: 0.5}), 0)
        assert str(caught.value) == (
            "ingest.subset chooses by class, and image 'lost.jpg' has no label; set the `label` of the source, or keep "
            "a number: subset: {num: 10000}"
        )
    assert len(choose(items, SubsetConfig(num=7), 0)) == 7
    with pytest.raises(DataError, match="keeps 8 training images, and there are 7; make"):
        choose(items, SubsetConfig(num=8), 0)


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({}, "give one of of_each_class, of_classes and num; got none"),
        ({"num": 3, "of_classes": 0.5}, "got of_classes, num"),
        ({"num": 0}, "greater than or equal to 1"),
        ({"of_classes": 0}, "greater than 0"),
        ({"of_each_class": 1.5}, "less than or equal to 1"),
        ({"of_class": 0.5}, "did you mean 'of_classes'"),
    ],
)
def test_configs_out_of_range_are_refused(given_: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_config(SubsetConfig, given_, where="config")


def test_only_training_is_cut() -> None:
    """So that all subsets are judged on the same images."""
    items = many(6, 100)
    whole, part = (
        plan_blocks(items, IngestConfig(source=FolderSource(path=Path("/x")), split={"test": 0.3}, subset=subset))
        for subset in (None, SubsetConfig(of_classes=0.5))
    )
    of = {split: [item for b in whole.store.blocks_of(split) for item in whole.items[b]] for split in (TRAIN, "test")}
    assert [item for b in part.store.blocks_of("test") for item in part.items[b]] == of["test"]
    kept = [item for b in part.store.blocks_of(TRAIN) for item in part.items[b]]
    assert kept == [item for item in of[TRAIN] if item.label in {item.label for item in kept}]
    assert len({item.label for item in kept}) == 3


def test_a_store_of_a_subset(tmp_path: Path) -> None:
    source, reporter = tiny_images(tmp_path / "images", 24), Reporter(quiet=True)
    subset = SubsetConfig(num=10)
    result = ingest(tmp_path / "store", tiny_ingest(source, subset=subset), TINY_VIEWS, reporter)
    assert result.num_samples == 10
    store = Store.open(tmp_path / "store")
    assert store.spec.ingest["subset"] == {"of_each_class": None, "of_classes": None, "num": 10}
    again = ingest(tmp_path / "store", tiny_ingest(source, subset=subset), TINY_VIEWS, reporter)
    assert (again.num_blocks_written, again.num_blocks_found) == (0, 2)
    with pytest.raises(SpecMismatchError, match="subset"):
        ingest(tmp_path / "store", tiny_ingest(source), TINY_VIEWS, reporter)


def test_a_store_of_all_says_nothing_of_subsets() -> None:
    """Stores that were made before there were any keep their spec, and its hash."""
    config = tiny_ingest(Path("/images"))
    assert "subset" not in config.spec()
    spec = StoreSpec(ingest=config.spec(), views=TINY_VIEWS.model_dump(mode="json"))
    assert spec.sha256() == "bf4234d643a59679c323c12144f3ec1878a9129ac97197ed0f6cdb7a878a4787"
    assert IngestConfig.model_validate(config.spec()) == config


def test_the_page_says_what_is_so() -> None:
    page = (Path(__file__).parents[2] / "docs" / "proxy-sets.md").read_text(encoding="utf-8")
    first, second = (yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL))
    assert IngestConfig.model_validate(first["ingest"]).subset == SubsetConfig(of_each_class=0.2)
    for rule in re.findall(r"# (subset: \{.*?\})", page):
        parse_config(SubsetConfig, yaml.safe_load(rule)["subset"], where="page")
    assert IngestConfig.model_validate(second["ingest"]).source.kind == "crops"
