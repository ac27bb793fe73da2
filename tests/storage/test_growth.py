"""A store that grows: no object changes, whoever opened it goes on reading, any stop is resumed to the same content."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from stillhouse.core.errors import CorruptError, MissingError
from stillhouse.storage import commit, layout
from stillhouse.storage.collect import collect
from stillhouse.storage.deep import deep_problems, pixel_problems
from stillhouse.storage.extent import extend
from stillhouse.storage.growth import Growth, add_growth, generations
from stillhouse.storage.redo import replace_record
from stillhouse.storage.seal import latest_seal, read_seal, records, seal
from stillhouse.storage.signed_json import signed_json
from stillhouse.storage.specs import TRAIN
from stillhouse.storage.store import Store
from stillhouse.storage.testing import LEVELS, StoreShape, make_store, write_missing
from stillhouse.storage.verify import UNPUBLISHED, verify

SHAPE = StoreShape()
MORE_VIEWS = StoreShape(num_views=3)
MORE_BLOCKS = StoreShape(blocks=(*SHAPE.blocks, (TRAIN, 2), ("test", 1)))
ADDED = {"source": "somebody else's"}
GROWTHS = {
    "views": (Growth(views=3), MORE_VIEWS),
    "blocks": (Growth(blocks=MORE_BLOCKS.plan.blocks[3:], ingest=ADDED), MORE_BLOCKS),
}
ARRAYS = ["views/params", "views/hash", *(f"features/{name}/{level}" for name in SHAPE.teachers for level in LEVELS)]

grows = pytest.mark.parametrize(("growth", "shape"), GROWTHS.values(), ids=GROWTHS)


def grow(root: Path, growth: Growth, shape: StoreShape, number: int = 1) -> Store:
    """What the steps do, from the decision to the seal."""
    add_growth(root, number, growth)
    store = Store.open(root)
    extend(store)
    write_missing(store, shape)
    seal(store)
    return store


def files(root: Path) -> dict[str, tuple[str, int]]:
    """sha256 and time of every file of a store."""
    found = [path for path in root.rglob("*") if path.is_file()]
    return {
        path.relative_to(root).as_posix(): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in found
    }


def everything(store: Store) -> list[Any]:
    """All that a reader gets of a store, as long as it has it."""
    found: list[Any] = []
    for block in range(len(store.plan.blocks)):
        found += [store.image_bytes(block, int(row)) for row in store.good_rows(block)]
    for view in range(store.spec.num_views):
        for block in store.plan.blocks_of(TRAIN):
            found += [store.view_params(view, block).tolist(), store.view_hashes(view, block).tolist()]
            for teacher in (spec.name for spec in store.teachers()):
                for level in LEVELS:
                    codes = store.features(teacher, level).read(view, block)
                    found.append(store.codec(teacher, level).decode(codes).tolist())
    return found


def array(root: Path, path: str) -> Any:
    return np.asarray(zarr.open_array(root / path, mode="r")[...])


@grows
def test_no_file_changes_but_the_metadata_of_arrays(own_store: Store, growth: Growth, shape: StoreShape) -> None:
    before = files(own_store.root)
    grow(own_store.root, growth, shape)
    after = files(own_store.root)
    changed = {path for path in before if after.get(path) != before[path]}
    metadata = {f"{path}/zarr.json" for path in ARRAYS}
    assert changed == metadata | {"zarr.json", *(f"_log/units/{u}.json" for u in ("layout", *codecs()))}
    for path in metadata | {f"_log/units/{unit}.json" for unit in ("layout", *codecs())}:
        assert before[path][0] in {sha256 for name, (sha256, _) in after.items() if name.startswith(layout.FORGOTTEN)}


def codecs() -> list[str]:
    return [layout.codecs_unit(name) for name in SHAPE.teachers]


@grows
def test_a_grown_store_is_one_that_was_made_at_once(
    own_store: Store, tmp_path: Path, growth: Growth, shape: StoreShape
) -> None:
    store = grow(own_store.root, growth, shape)
    at_once = make_store(tmp_path / "at-once", shape)
    grown, other = latest_seal(store.root), latest_seal(at_once.root)
    assert grown is not None and other is not None
    assert (grown.content_sha256, grown.generation, grown.growths) == (other.content_sha256, 2, 1)
    assert everything(store) == everything(at_once)
    assert (store.spec.num_views, store.plan) == (at_once.spec.num_views, at_once.plan)
    cards = [json.loads((root / "zarr.json").read_bytes()) for root in (store.root, at_once.root)]
    assert cards[0]["consolidated_metadata"] == cards[1]["consolidated_metadata"]


@grows
def test_any_zarr_reader_sees_the_grown_arrays(own_store: Store, growth: Growth, shape: StoreShape) -> None:
    before = {path: array(own_store.root, path) for path in ARRAYS}
    store = grow(own_store.root, growth, shape)
    group = zarr.open_group(store.root, mode="r")
    for path, old in before.items():
        new, member = array(store.root, path), group[path]
        assert isinstance(member, zarr.Array)
        assert new.shape[:2] == member.shape[:2] == (store.spec.num_views, store.plan.num_rows)
        np.testing.assert_array_equal(new[: old.shape[0], : old.shape[1]], old)
    block = store.plan.blocks_of(TRAIN)[-1]
    row, view = block * store.plan.block_samples, store.spec.num_views - 1
    codes = array(store.root, "features/tiny/patch")[view, row]
    np.testing.assert_array_equal(codes, store.features("tiny", "patch").read(view, block, [0])[0])


@grows
def test_who_opened_the_store_before_goes_on_reading(own_store: Store, growth: Growth, shape: StoreShape) -> None:
    expected = everything(Store.open(own_store.root))
    cold, warm = Store.open(own_store.root), Store.open(own_store.root)
    for unit in ("layout", *codecs()):
        warm.require(unit, unit)  # it knows the record of then, and meets the metadata of now
    grow(own_store.root, growth, shape)
    assert everything(cold) == everything(warm) == expected
    assert everything(Store.open(own_store.root).at(0)) == expected
    assert (warm.spec.num_views, warm.plan) == (SHAPE.num_views, SHAPE.plan)


@grows
def test_it_is_whole_at_every_step(own_store: Store, growth: Growth, shape: StoreShape) -> None:
    root = own_store.root
    card = (root / "zarr.json").read_bytes()

    def whole() -> bool:
        store = Store.open(root)
        store.check_metadata()
        problems = [
            *verify(store).problems,
            *(p for r in records(root) for p in deep_problems(store, r, lambda n: None)),
        ]
        blocks = range(len(store.plan.blocks))
        problems += [p for block in blocks for p in pixel_problems(store, block, 1, lambda n: None)]
        return not problems

    assert add_growth(root, 1, growth) and whole()
    extend(Store.open(root))
    assert whole()
    assert (root / "zarr.json").read_bytes() == card  # what is sealed is what other readers see
    store = Store.open(root)
    write_missing(store, shape)
    assert whole()
    seal(store)
    assert whole() and (root / "zarr.json").read_bytes() != card
    assert whole() and verify(own_store).problems == ()  # a Store from before looks at all of it too


@grows
def test_every_seal_can_be_verified(own_store: Store, growth: Growth, shape: StoreShape) -> None:
    root = own_store.root
    grow(root, growth, shape)
    for generation in (1, 2):
        for entry in read_seal(root, generation).objects:
            kept = root / layout.kept_path(entry.path, entry.sha256)
            data = (kept if kept.exists() else root / entry.path).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (entry.num_bytes, entry.sha256)
    collect(Store.open(root), older_than_s=0)
    assert verify(Store.open(root)).problems == ()


def test_growths_add_up(own_store: Store, tmp_path: Path) -> None:
    both = StoreShape(num_views=3, blocks=MORE_BLOCKS.blocks)
    grow(own_store.root, *GROWTHS["blocks"])
    store = grow(own_store.root, Growth(views=3), both, 2)
    assert everything(store) == everything(make_store(tmp_path / "at-once", both))
    found = generations(store.spec, store.plan, store.growths)
    assert [(list(one.blocks), one.ingest) for one in found] == [([0, 1, 2], SHAPE.spec.ingest), ([3, 4], ADDED)]
    assert store.at(1).spec.num_views == 2 and store.at(1).plan == MORE_BLOCKS.plan and store.at(0).plan == SHAPE.plan


def test_one_of_two_growths_wins(own_store: Store) -> None:
    root = own_store.root
    assert add_growth(root, 1, Growth(views=3))
    assert not add_growth(root, 1, Growth(views=4))
    one, other = Store.open(root), Store.open(root)
    assert one.spec.num_views == other.spec.num_views == 3
    extend(one)
    decided = {unit: one.record(unit) for unit in ("layout", *codecs())}
    extend(other)
    extend(own_store)  # it knows of no growth, and takes nothing back
    assert decided == {unit: other.record(unit) for unit in ("layout", *codecs())}
    assert zarr.open_array(root / "views/hash", mode="r").shape == (3, 12)


def test_two_at_once_leave_one_record(own_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slower one has staged the same metadata, and finds the record replaced."""
    add_growth(own_store.root, 1, Growth(views=3))
    really, stores = replace_record, [Store.open(own_store.root)]

    def slow(*arguments: Any) -> None:
        if stores:
            extend(stores.pop())
        really(*arguments)

    monkeypatch.setattr(commit, "replace_record", slow)
    extend(Store.open(own_store.root))
    assert verify(Store.open(own_store.root)).problems == ()
    assert os.listdir(own_store.root / "_stage") == []


class Killed(BaseException):
    """No code may catch it."""


STEPS = ("link", "rename", "replace", "unlink", "rmdir", "mkdir")


SMALL = StoreShape(block_samples=2, blocks=((TRAIN, 2),), bad_rows=frozenset(), teachers={"tiny": "fp16"}, num_views=1)
SMALL_BLOCKS = replace(SMALL, blocks=(*SMALL.blocks, (TRAIN, 1)))
SMALL_GROWTHS = {
    "views": (Growth(views=2), replace(SMALL, num_views=2)),
    "blocks": (Growth(blocks=SMALL_BLOCKS.plan.blocks[1:], ingest=ADDED), SMALL_BLOCKS),
}
MIDWAY = {UNPUBLISHED, "is not what was written"}
"""What `verify` may say then: of metadata that is decided and not yet in place, and of a card that is older than its seal."""


@pytest.mark.parametrize("what", SMALL_GROWTHS)
def test_any_stop_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Stopped at every third call that gives, takes or changes a name up to the first unit, and at some after that."""
    growth, shape = SMALL_GROWTHS[what]
    begun = make_store(tmp_path / "begun", SMALL)
    expected = latest_seal(make_store(tmp_path / "at-once", shape).root)
    old, root = everything(begun), tmp_path / "own"
    real: dict[str, Callable[..., Any]] = {name: getattr(os, name) for name in STEPS}
    calls, stop, before_units = 0, 0, 0

    def counted(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == stop:
                raise Killed
            return real[name](*arguments, **keywords)

        return call

    def grow_again() -> None:
        nonlocal before_units
        add_growth(root, 1, growth)
        store = Store.open(root)
        extend(store)
        before_units = before_units or calls
        write_missing(store, shape)
        seal(store)

    for name in STEPS:
        monkeypatch.setattr(os, name, counted(name))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # no machine goes down here, and disks are slow at it
    shutil.copytree(begun.root, root)
    calls = 0
    grow_again()
    total = calls
    assert total > before_units > 20
    for at in (*range(1, before_units + 1, 3), *range(before_units + 1, total + 1, 12)):
        stop = 0
        shutil.rmtree(root)
        shutil.copytree(begun.root, root)
        calls, stop = 0, at
        with pytest.raises(Killed):
            grow_again()
        stop = 0
        store = Store.open(root)
        assert {problem.found for problem in verify(store).problems} <= MIDWAY
        assert everything(store.at(0)) == old
        grow_again()
        sealed = latest_seal(root)
        assert sealed is not None and expected is not None and sealed.content_sha256 == expected.content_sha256
        assert verify(Store.open(root)).problems == ()


def test_growths_that_cannot_be_are_refused(own_store: Store) -> None:
    root = own_store.root
    add_growth(root, 1, Growth(views=2))
    with pytest.raises(CorruptError, match=r"growths holds a growth to 2 views of a store that has 2"):
        Store.open(root)
    path = root / layout.growth_path(1)
    for body in ({"views": 3, "blocks": []}, {}, {"views": 3, "ingest": {}}, {"views": True}, {"views": 1 << 30}):
        path.write_bytes(signed_json({**body, "more": 1} if "blocks" in body else body))
        with pytest.raises(CorruptError, match=r"0001.json"):
            Store.open(root)
    path.write_bytes(b"{}")
    with pytest.raises(CorruptError, match=r"does not match its own sha256"):
        Store.open(root)
    path.unlink()
    add_growth(root, 2, Growth(views=3))
    with pytest.raises(MissingError, match=r"growths/0001.json is not there"):
        Store.open(root)


def test_a_growth_that_is_gone_is_missed(own_store: Store) -> None:
    """Arrays are larger than spec and plan say."""
    store = grow(own_store.root, *GROWTHS["views"])
    (store.root / layout.growth_path(1)).unlink()
    with pytest.raises(CorruptError, match=r"has shape \(3, 12, 1, 6\), the plan says \(2, 12, 1, 6\)"):
        Store.open(store.root)
