"""A teacher that was dropped: gone for who opens the store, there for who had it open, back when it is asked back."""

import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from stillhouse.core.errors import EXIT_OK, EXIT_USAGE, UsageError
from stillhouse.core.events import Reporter
from stillhouse.storage import layout
from stillhouse.storage.dropped import drop, free, take_back
from stillhouse.storage.remote.opening import Reach
from stillhouse.storage.seal import Seal, latest_seal, read_seal, records, seal
from stillhouse.storage.sharing.pull import pull
from stillhouse.storage.sharing.selection import Selection
from stillhouse.storage.store import Store
from stillhouse.storage.testing import StoreShape, make_store
from stillhouse.storage.verify import verify
from stillhouse.testing import Forks, run_here


def sealed(root: Path) -> Seal:
    found = latest_seal(root)
    assert found is not None
    return found


def names(store: Store) -> list[str]:
    return [teacher.name for teacher in store.teachers()]


def dropped(root: Path, teacher: str = "tiny-int8") -> Store:
    drop(Store.open(root), teacher)
    seal(Store.open(root))
    return Store.open(root)


def test_it_is_no_part_of_the_store(own_store: Store) -> None:
    was = sealed(own_store.root)
    found = dropped(own_store.root)
    assert names(found) == ["tiny"] and not found.has_teacher("tiny-int8")
    now = sealed(found.root)
    assert now.generation == was.generation + 1 and not [e.path for e in now.objects if "tiny-int8" in e.path]
    assert {e for e in was.objects if "tiny-int8" not in e.path} == set(now.objects)
    assert not verify(found).problems
    found.check_metadata()
    with pytest.raises(UsageError, match=r"'tiny-int8' was dropped from store .*; `stillhouse drop --undo`"):
        found.features("tiny-int8", "cls")


def test_who_had_it_open_goes_on_reading(own_store: Store, random_store: Store) -> None:
    was = sealed(own_store.root)
    dropped(own_store.root)
    assert names(own_store) == ["tiny", "tiny-int8"] == names(own_store.at(0))
    ours, theirs = (store.features("tiny-int8", "cls").read(0, 0) for store in (own_store, random_store))
    assert (ours == theirs).all()
    assert read_seal(own_store.root, was.generation) == was
    for entry in was.objects:
        assert (own_store.root / entry.path).stat().st_size == entry.num_bytes


def test_it_comes_back(own_store: Store) -> None:
    was = sealed(own_store.root)
    dropped(own_store.root)
    take_back(own_store, "tiny-int8")
    seal(Store.open(own_store.root))
    assert names(Store.open(own_store.root)) == ["tiny", "tiny-int8"]
    assert sealed(own_store.root).content_sha256 == was.content_sha256
    with pytest.raises(UsageError, match="'tiny-int8' was not dropped"):
        take_back(own_store, "tiny-int8")


def test_it_is_not_shared(own_store: Store, tmp_path: Path) -> None:
    dropped(own_store.root)
    pull(str(own_store.root), tmp_path / "here", Selection(), Reach(), Reporter(quiet=True))
    assert names(Store.open(tmp_path / "here")) == ["tiny"]
    assert not list((tmp_path / "here").rglob("*tiny-int8*"))
    assert not verify(Store.open(tmp_path / "here")).problems


def test_it_is_freed_and_made_again(own_store: Store, random_store: Store) -> None:
    store = dropped(own_store.root)
    told = free(store, records(store.root), dry_run=True)
    assert told.teachers == ("tiny-int8",) and told.num_bytes > 0 and list(store.root.rglob("*tiny-int8*"))
    assert free(store, records(store.root)) == told
    assert not [path for path in store.root.rglob("*") if "tiny-int8" in path.relative_to(store.root).as_posix()]
    assert not verify(Store.open(store.root)).problems
    before = sealed(store.root)
    seal(Store.open(store.root))
    assert sealed(store.root) == before
    make_store(store.root, StoreShape())
    assert sealed(store.root).content_sha256 == sealed(random_store.root).content_sha256


def test_an_unknown_teacher(own_store: Store) -> None:
    with pytest.raises(UsageError, match="has no teacher 'nobody'"):
        drop(own_store, "nobody")
    assert drop(own_store, "tiny") and not drop(own_store, "tiny")


def test_the_verbs(own: Path, pipeline: Path) -> None:
    """Training, extracting and freeing, as a person meets it."""
    store = own / "store"
    ended = run_here("drop", store, "tiny")
    assert ended.status == EXIT_OK and "teacher tiny is no part any more of" in ended.err
    ended = run_here("extract", pipeline, f"out={own}")
    assert ended.status == EXIT_USAGE and "was dropped" in ended.err
    ended = run_here("distill", pipeline, f"out={own}", "distill.name=again")
    assert ended.status == EXIT_USAGE
    assert run_here("gc", store, "--dropped", "--dry-run").status == EXIT_OK and (store / "features" / "tiny").is_dir()
    ended = run_here("gc", store, "--dropped", "--json")
    assert ended.json()["dropped_teachers"] == ["tiny"] and not (store / "features" / "tiny").exists()
    assert run_here("verify", store).status == EXIT_OK
    assert run_here("extract", pipeline, f"out={own}").status == EXIT_OK
    assert run_here("verify", store).status == EXIT_OK


def test_killed_anywhere(random_store: Store, tmp_path: Path, forks: Forks) -> None:
    drawn = random.Random(0)
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(random_store.root, undisturbed)
    dropped(undisturbed)
    for number in range(8):
        here = tmp_path / f"{number}"
        shutil.copytree(random_store.root, here)
        for arguments in (("drop", here, "tiny-int8"), ("gc", here, "--dropped")):
            child = forks.start(*arguments)
            time.sleep(drawn.uniform(0, 0.1))
            child.send(signal.SIGKILL)
            child.wait()
            assert not [problem for problem in verify(Store.open(here)).problems if problem.path != layout.CARD]
        assert forks.run("drop", here, "tiny-int8").status in (EXIT_OK, EXIT_USAGE)  # it may be freed already
        assert forks.run("gc", here, "--dropped").status == EXIT_OK
        seal(Store.open(here))
        assert sealed(here).content_sha256 == sealed(undisturbed).content_sha256
        assert not verify(Store.open(here)).problems and not list((here / "features").glob("tiny-int8"))
