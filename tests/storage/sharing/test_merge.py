"""Merging: a store that was taken apart and put together again is the store; what cannot be mixed is refused by name."""

import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from static_server import StaticServer

from stillhouse.core.errors import CorruptError, DataError, SpecMismatchError
from stillhouse.core.events import Reporter
from stillhouse.storage import layout
from stillhouse.storage.remote.opening import Reach, open_store
from stillhouse.storage.seal import Seal, latest_seal, read_seal
from stillhouse.storage.sharing.merge import Merged, merge
from stillhouse.storage.sharing.pull import pull
from stillhouse.storage.sharing.selection import Selection
from stillhouse.storage.specs import TRAIN
from stillhouse.storage.store import Store
from stillhouse.storage.testing import StoreShape, make_store
from stillhouse.storage.verify import verify
from stillhouse.testing import Forks

QUIET = Reporter(quiet=True)
SHAPE = StoreShape(
    blocks=((TRAIN, 4), ("test", 2), (TRAIN, 3), (TRAIN, 1)),
    bad_rows=frozenset({(0, 2)}),
    teachers={"tiny": "fp16", "packed": "klt:2"},
    num_views=3,
)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Do not write to it."""
    return make_store(tmp_path_factory.mktemp("whole") / "store", SHAPE)


def part(store: Store, folder: Path, **asked: object) -> Path:
    pull(str(store.root), folder, Selection.model_validate(asked), Reach(), QUIET)
    return folder


def merged(root: Path, other: Path) -> Merged:
    found = merge(root, Store.open(other), QUIET)
    assert not verify(Store.open(root)).problems
    Store.open(root).check_metadata()
    return found


def sealed(root: Path) -> Seal:
    found = latest_seal(root)
    assert found is not None
    return found


def assert_holds(found: Store, expected: Store) -> None:
    """Every sample, view and feature of `expected`, wherever its block is now."""
    numbers = {plan.keys_sha256: block for block, plan in enumerate(found.plan.blocks)}
    assert {teacher.name for teacher in expected.teachers()} <= {teacher.name for teacher in found.teachers()}
    for was, plan in enumerate(expected.plan.blocks):
        block = numbers[plan.keys_sha256]
        ours, theirs = found.samples(block), expected.samples(was)
        assert [sample.key for sample in ours] == [sample.key for sample in theirs]
        for row in expected.good_rows(was).tolist():
            assert found.image_bytes(block, row) == expected.image_bytes(was, row)
        for view in range(expected.spec.num_views if plan.split == TRAIN else 0):
            np.testing.assert_array_equal(found.view_params(view, block), expected.view_params(view, was))
            np.testing.assert_array_equal(found.view_hashes(view, block), expected.view_hashes(view, was))
            for teacher in expected.teachers():
                for level in teacher.levels:
                    mine, its = found.features(teacher.name, level), expected.features(teacher.name, level)
                    np.testing.assert_array_equal(mine.read(view, block), its.read(view, was))


def test_another_teacher_of_the_same_samples(whole: Store, tmp_path: Path) -> None:
    a, b = part(whole, tmp_path / "a", columns=["tiny"]), part(whole, tmp_path / "b", columns=["packed"])
    found = merged(a, b)
    assert (found.teachers, found.num_blocks, found.num_views, found.missing) == (("packed",), 0, 0, 0)
    assert_holds(Store.open(a), whole)
    again = merged(a, b)
    assert (again.units, again.teachers) == (0, ())


def test_other_samples(whole: Store, tmp_path: Path) -> None:
    a, b = part(whole, tmp_path / "a", blocks="0:2"), part(whole, tmp_path / "b", blocks="2:")
    found = merged(a, b)
    assert (found.num_blocks, found.missing) == (2, 0)
    assert_holds(Store.open(a), whole)


def test_more_views(whole: Store, tmp_path: Path) -> None:
    a, b = part(whole, tmp_path / "a", views=1), part(whole, tmp_path / "b", columns=["tiny"])
    found = merged(a, b)
    assert (found.num_views, found.missing) == (2, 2 * 3)  # nobody's features of `packed` for two views of three blocks
    assert_holds(Store.open(a), Store.open(b))
    merged(a, part(whole, tmp_path / "c"))
    assert_holds(Store.open(a), whole)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(st.sampled_from(["0:1", "1:2", "2:3", "3:4", "0:2", "2:4"]), min_size=1, max_size=4), data=st.data()
)
def test_in_any_order(
    whole: Store, tmp_path_factory: pytest.TempPathFactory, parts: list[str], data: st.DataObject
) -> None:
    """Overlapping parts, and then all of it: nothing is there twice, nothing is lost."""
    folder = tmp_path_factory.mktemp("merge")
    begun = part(whole, folder / "begun", blocks=parts[0])
    for number, blocks in enumerate(parts[1:]):
        columns = data.draw(st.sampled_from([["tiny"], ["packed"], ["tiny", "packed"]]))
        merged(begun, part(whole, folder / f"{number}", blocks=blocks, columns=columns))
    merged(begun, whole.root)
    found = Store.open(begun)
    assert len(found.plan.blocks) == len(whole.plan.blocks)
    assert_holds(found, whole)
    contents = [
        sorted((entry.num_bytes, entry.sha256) for entry in sealed(root).objects if "/c/" in entry.path)
        for root in (begun, whole.root)
    ]
    assert contents[0] == contents[1]


def test_who_opened_the_old_seal_goes_on_reading_it(whole: Store, tmp_path: Path) -> None:
    a, b = part(whole, tmp_path / "a", columns=["tiny"], blocks="0:2"), part(whole, tmp_path / "b")
    old, was = Store.open(a), sealed(a)
    kept = {entry.path: (a / entry.path).read_bytes() for entry in was.objects if not entry.path.endswith("/zarr.json")}
    merged(a, b)
    assert len(old.plan.blocks) == 2 and [teacher.name for teacher in old.teachers() if teacher.name == "tiny"]
    assert_holds(old.at(0), part_store(whole, tmp_path / "again"))
    assert {path: (a / path).read_bytes() for path in kept} == kept
    assert read_seal(a, was.generation) == was and sealed(a).generation == was.generation + 1


def part_store(whole: Store, folder: Path) -> Store:
    return Store.open(part(whole, folder, columns=["tiny"], blocks="0:2"))


def test_from_a_url(whole: Store, tmp_path: Path) -> None:
    a, b = part(whole, tmp_path / "a", columns=["tiny"]), part(whole, tmp_path / "b", columns=["packed"])
    with StaticServer(b) as server:
        merge(a, open_store(server.url, Reach(cache=tmp_path / "cache"), QUIET), QUIET)
    assert_holds(Store.open(a), whole)


def test_a_dry_run_writes_nothing(whole: Store, tmp_path: Path) -> None:
    a, b = part(whole, tmp_path / "a", blocks="0:1", views=1, columns=["tiny"]), whole.root
    before = sorted((path, path.stat().st_mtime_ns) for path in a.rglob("*"))
    told = merge(a, Store.open(b), QUIET, dry_run=True)
    assert sorted((path, path.stat().st_mtime_ns) for path in a.rglob("*")) == before
    found = merged(a, b)
    assert (told.num_blocks, told.num_views, told.teachers) == (found.num_blocks, found.num_views, found.teachers)
    assert (told.units, told.num_bytes) == (found.units, found.num_bytes)


# --- what cannot be mixed --------------------------------------------------------------------------------------------


def test_other_views(whole: Store, tmp_path: Path) -> None:
    other = make_store(tmp_path / "other", StoreShape(view_size=16))
    with pytest.raises(SpecMismatchError, match=r"made otherwise than store .*size: stored 8, asked for 16"):
        merge(part(whole, tmp_path / "a"), other, QUIET)
    other = make_store(tmp_path / "blocks", StoreShape(block_samples=8))
    with pytest.raises(SpecMismatchError, match="block_samples: stored 4, asked for 8"):
        merge(tmp_path / "a", other, QUIET)


def test_another_teacher_of_that_name(whole: Store, tmp_path: Path) -> None:
    other = make_store(tmp_path / "other", StoreShape(teachers={"tiny": "fp16"}, seed=1))
    with pytest.raises(SpecMismatchError, match="holds features of another 'tiny': weights_sha256"):
        merge(part(whole, tmp_path / "a"), other, QUIET)


def test_codecs_that_were_fitted_apart(tmp_path: Path) -> None:
    """The same teacher over other samples: fp16 fits nothing, so its features mix; klt's do not."""
    ours = StoreShape(teachers={"tiny": "fp16", "packed": "klt:2"})
    a = make_store(tmp_path / "a", ours)
    theirs = OtherSamples(teachers={"tiny": "fp16", "packed": "klt:2"})
    b = make_store(tmp_path / "b", theirs)
    with pytest.raises(SpecMismatchError, match=r"features/packed/codecs/.* is not that of store .*fitted apart"):
        merge(a.root, b, QUIET)


class OtherSamples(StoreShape):
    """Samples of other names under the same teachers."""

    def key(self, block: int, row: int) -> str:
        return f"others/{block}/{row}.png"

    def tokens(self, teacher: str, level: str, view: int, block: int) -> npt.NDArray[np.float32]:
        return StoreShape.tokens(self, teacher, level, view, block) + 1


def test_a_sample_that_is_there_in_another_block(tmp_path: Path) -> None:
    a = make_store(tmp_path / "a", StoreShape(teachers={}))
    b = make_store(tmp_path / "b", StoreShape(teachers={}, blocks=((TRAIN, 3),), bad_rows=frozenset()))
    with pytest.raises(DataError, match=r"image 'künstlich/0/0.png' of store .* is in store .* too, in another block"):
        merge(a.root, b, QUIET)


def test_damage_there_does_not_come_here(whole: Store, tmp_path: Path) -> None:
    a, b = part(whole, tmp_path / "a", columns=["tiny"]), part(whole, tmp_path / "b", columns=["packed"])
    path = b / layout.features_chunk("packed", "patch", 1, 0)
    path.write_bytes(b"x" + path.read_bytes()[1:])
    with pytest.raises(CorruptError, match=r"features/packed/patch/c/1/0/0/0 of store .* has sha256"):
        merge(a, Store.open(b), QUIET)
    assert not verify(Store.open(a)).problems


def test_a_merge_that_is_killed_ends_as_the_undisturbed_one(whole: Store, tmp_path: Path, forks: Forks) -> None:
    drawn, kills = random.Random(0), 0
    begun, other = part(whole, tmp_path / "begun", blocks="0:1", columns=["tiny"], views=1), whole.root
    shutil.copytree(begun, tmp_path / "undisturbed")
    merged(tmp_path / "undisturbed", other)
    for number in range(4):
        here = tmp_path / f"{number}"
        shutil.copytree(begun, here)
        for _ in range(5):
            child = forks.start("merge", here, other)
            time.sleep(drawn.uniform(0, 0.3))
            kills += not child.over()
            child.send(signal.SIGKILL)
            child.wait()
        assert forks.run("merge", here, other).status == 0
        assert not verify(Store.open(here)).problems
        assert sealed(here).content_sha256 == sealed(tmp_path / "undisturbed").content_sha256
    assert kills >= 6
