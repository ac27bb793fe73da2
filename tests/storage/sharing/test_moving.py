"""Pulls and pushes: what arrives is a store in itself, whole, whatever happened on the way."""

import json
import random
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fault_proxy import FaultProxy
from faults import CutBody, DropAnswer, FlipBit, Refuse, Reset, always, none, storm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from seaweedfs import Bucket
from static_server import StaticServer

from stillhouse.core.errors import BusyError, CorruptError, RemoteError, UsageError
from stillhouse.core.events import Reporter
from stillhouse.storage import layout
from stillhouse.storage.collect import collect
from stillhouse.storage.deep import deep_problems, pixel_problems
from stillhouse.storage.disk import only_process_in
from stillhouse.storage.places.base import Access
from stillhouse.storage.places.patience import Patience
from stillhouse.storage.records import Record
from stillhouse.storage.remote.documents import is_document
from stillhouse.storage.remote.opening import Reach, open_store
from stillhouse.storage.seal import Seal, latest_seal, records, store_id
from stillhouse.storage.sharing.origin import read_origin
from stillhouse.storage.sharing.pull import pull
from stillhouse.storage.sharing.push import push
from stillhouse.storage.sharing.selection import Selection, choose
from stillhouse.storage.specs import TRAIN
from stillhouse.storage.store import Store
from stillhouse.storage.testing import StoreShape, make_store
from stillhouse.storage.verify import verify
from stillhouse.testing import Forks

QUIET = Reporter(quiet=True)
WAITS_NOT = Patience(tries=12, wait=lambda seconds: None)
LOCAL = Reach(patience=WAITS_NOT)
SHAPE = StoreShape(
    blocks=((TRAIN, 4), ("test", 2), (TRAIN, 3), (TRAIN, 1)),
    bad_rows=frozenset({(0, 2), (2, 0)}),
    teachers={"tiny": "fp16", "packed": "klt:2"},
    num_views=3,
)
EVERYTHING = Selection()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Do not write to it."""
    return make_store(tmp_path_factory.mktemp("shared") / "store", SHAPE)


def sealed(root: Path) -> Seal:
    found = latest_seal(root)
    assert found is not None
    return found


def assert_whole(root: Path) -> Store:
    store = Store.open(root)
    store.check_metadata()
    assert not verify(store).problems
    assert not [problem for record in records(root) for problem in deep_problems(store, record, lambda num: None)]
    assert not [
        problem
        for block in range(len(store.plan.blocks))
        for problem in pixel_problems(store, block, 1, lambda num: None)
    ]
    return store


def assert_part(found: Store, of: Store, asked: Selection) -> None:
    """Row for row and bit for bit what was asked for."""
    chosen = choose(of, asked)
    assert found.spec.num_views == chosen.num_views
    assert {teacher.name: tuple(teacher.levels) for teacher in found.teachers()} == dict(chosen.levels)
    for block, was in enumerate(chosen.blocks):
        assert found.plan.blocks[block] == of.plan.blocks[was]
        assert list(found.samples(block)) == list(of.samples(was))
        for row in of.good_rows(was).tolist():
            assert found.image_bytes(block, row) == of.image_bytes(was, row)
        for view in range(chosen.num_views if of.plan.blocks[was].split == TRAIN else 0):
            np.testing.assert_array_equal(found.view_params(view, block), of.view_params(view, was))
            for name, levels in chosen.levels.items():
                for level in levels:
                    ours, theirs = found.features(name, level), of.features(name, level)
                    np.testing.assert_array_equal(ours.read(view, block), theirs.read(view, was))


# --- pull ------------------------------------------------------------------------------------------------------------


def test_all_of_it_is_the_same_store(shared: Store, tmp_path: Path) -> None:
    moved = pull(str(shared.root), tmp_path / "here", EVERYTHING, LOCAL, QUIET)
    found = assert_whole(tmp_path / "here")
    assert_part(found, shared, EVERYTHING)
    assert moved.sealed == sealed(shared.root) == sealed(found.root)
    assert store_id(found.root) == store_id(shared.root)
    origin = read_origin(found.root)
    assert origin is not None and origin.root_sha256 == sealed(shared.root).root_sha256


selections = st.builds(
    Selection,
    views=st.none() | st.integers(1, 3),
    columns=st.none()
    | st.lists(st.sampled_from(["tiny", "packed", "cls", "patch", "tiny/cls"]), max_size=2).map(tuple),
    blocks=st.none() | st.sampled_from(["0:2", "1:", ":1", "2:4", "1:3"]),
    split=st.none() | st.sampled_from([TRAIN, "test"]),
    share=st.none() | st.sampled_from([0.3, 0.6]),
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=selections)
def test_any_part_is_a_store_in_itself(
    shared: Store, tmp_path_factory: pytest.TempPathFactory, asked: Selection
) -> None:
    folder = tmp_path_factory.mktemp("part")
    try:
        choose(shared, asked)
    except UsageError:
        return
    pull(str(shared.root), folder / "a", asked, LOCAL, QUIET)
    pull(str(shared.root), folder / "b", asked, LOCAL, QUIET)
    found = assert_whole(folder / "a")
    assert_part(found, shared, asked)
    assert sealed(folder / "a").root_sha256 == sealed(folder / "b").root_sha256
    assert store_id(folder / "a") == store_id(folder / "b")


def test_a_part_of_a_part(shared: Store, tmp_path: Path) -> None:
    pull(str(shared.root), tmp_path / "a", Selection(views=2, blocks="1:4"), LOCAL, QUIET)
    pull(str(tmp_path / "a"), tmp_path / "b", Selection(views=1, columns=("tiny/cls",), split=TRAIN), LOCAL, QUIET)
    assert_part(
        assert_whole(tmp_path / "b"), Store.open(tmp_path / "a"), Selection(views=1, columns=("tiny/cls",), split=TRAIN)
    )


def test_two_of_five_views_and_cls_move_what_they_must(tmp_path: Path) -> None:
    """Within 5 % of the bytes of exactly the objects that were asked for, documents and all that HTTP asks included."""
    shape = StoreShape(block_samples=256, blocks=((TRAIN, 256), (TRAIN, 256)), bad_rows=frozenset(), num_views=5)
    store = make_store(tmp_path / "store", shape)
    with StaticServer(store.root) as server, FaultProxy(server.url) as proxy:
        pull(proxy.url, tmp_path / "here", Selection(views=2, columns=("cls",)), LOCAL, QUIET)
        asked = [exchange.request.path[1:] for exchange in proxy.exchanges]
    assert len(asked) == len(set(asked))
    objects = [path for path in asked if not is_document(f"/{path}") and not path.startswith(layout.LOG)]
    wanted = [entry for entry in sealed(tmp_path / "here").objects if not is_document(entry.path)]
    ideal = sum(entry.num_bytes for entry in wanted)
    came = sum((store.root / path).stat().st_size for path in objects)
    assert came == ideal
    everything = sum(entry.num_bytes for entry in sealed(store.root).objects)
    assert came < everything
    assert_part(assert_whole(tmp_path / "here"), store, Selection(views=2, columns=("cls",)))


def test_it_says_what_it_is_going_to_move(shared: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = pull(str(shared.root), tmp_path / "here", Selection(views=1), LOCAL, Reporter(), dry_run=True)
    assert not (tmp_path / "here").exists()
    assert found.moved_objects == found.num_objects > 0
    assert f"{shared.root} to {tmp_path / 'here'}: {found.num_objects} objects, 0.0 MB" in capsys.readouterr().err
    pull(str(shared.root), tmp_path / "here", Selection(views=1), LOCAL, Reporter())
    again = pull(str(shared.root), tmp_path / "here", Selection(views=1), LOCAL, Reporter())
    assert (again.moved_objects, again.moved_bytes) == (0, 0)
    assert f"0 objects, 0.0 MB ({found.num_objects} of {found.num_objects} are there)" in capsys.readouterr().err


def test_the_rate_is_told_beforehand(
    shared: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what the place gives in a moment; one that gives nothing then is no error yet."""
    monkeypatch.setattr("stillhouse.storage.sharing.pull.PROBE_BYTES", 1)
    with StaticServer(shared.root) as server, FaultProxy(server.url) as proxy:
        pull(proxy.url, tmp_path / "a", EVERYTHING, LOCAL, Reporter(), dry_run=True)
        assert re.search(r"MB, about \d+ s at \d+ MB/s", capsys.readouterr().err)
        proxy.plan = always(Reset(), about=lambda request: request.path.endswith(".tar"))
        pull(proxy.url, tmp_path / "a", Selection(columns=()), LOCAL, Reporter(), dry_run=True)
        assert "MB/s" not in capsys.readouterr().err


def test_what_is_in_the_way(shared: Store, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UsageError, match="is not empty and not a store; name an empty folder"):
        pull(str(shared.root), tmp_path / "full", EVERYTHING, LOCAL, QUIET)
    with pytest.raises(UsageError, match="holds another store; remove what is there"):
        pull(str(shared.root), make_store(tmp_path / "other", StoreShape()).root, EVERYTHING, LOCAL, QUIET)
    pull(str(shared.root), tmp_path / "part", Selection(views=1), LOCAL, QUIET)
    for asked in (Selection(views=2), EVERYTHING):
        with pytest.raises(UsageError, match=r"holds another part of that store \(views 1\)"):
            pull(str(shared.root), tmp_path / "part", asked, LOCAL, QUIET)
    with (
        only_process_in(tmp_path / "part" / layout.STAGE),
        pytest.raises(BusyError, match="another process is at work"),
    ):
        pull(str(shared.root), tmp_path / "part", Selection(views=1), LOCAL, QUIET)


def test_a_pull_that_was_stopped_goes_on(shared: Store, tmp_path: Path) -> None:
    """What has come is not fetched again; what is there and damaged is."""
    here = tmp_path / "here"
    with StaticServer(shared.root) as server, FaultProxy(server.url) as proxy:
        proxy.plan = always(Refuse(503), about=lambda request: "patch/c/1" in request.path)
        with pytest.raises(RemoteError):
            pull(proxy.url, here, EVERYTHING, Reach(patience=Patience(2, wait=lambda seconds: None)), QUIET, threads=1)
        assert not (here / layout.CARD).exists() and not (here / layout.SPEC).exists()
        with pytest.raises(UsageError, match="no store at"):
            Store.open(here)
        proxy.plan = none()
        there = [path for path in (here / "features").rglob("*") if path.is_file()]
        there[0].write_bytes(there[0].read_bytes()[:-1] + bytes([there[0].read_bytes()[-1] ^ 1]))
        before = len(proxy.exchanges)
        moved = pull(proxy.url, here, EVERYTHING, LOCAL, QUIET)
        again = [one.request.path[1:] for one in proxy.exchanges[before:]]
        assert 0 < moved.moved_objects < moved.num_objects
        assert there[0].relative_to(here).as_posix() in again and len(again) == len(set(again))
    assert sealed(here) == sealed(shared.root)
    assert_part(assert_whole(here), shared, EVERYTHING)


def test_a_store_that_grew_is_pulled_further(tmp_path: Path) -> None:
    make_store(tmp_path / "store", StoreShape(teachers={"tiny": "fp16"}))
    first = pull(str(tmp_path / "store"), tmp_path / "here", EVERYTHING, LOCAL, QUIET)
    make_store(tmp_path / "store", StoreShape(teachers={"tiny": "fp16", "late": "int8"}))
    then = pull(str(tmp_path / "store"), tmp_path / "here", EVERYTHING, LOCAL, QUIET)
    assert then.num_objects - then.moved_objects == first.num_objects
    assert sealed(tmp_path / "here").generation == 2
    assert_part(assert_whole(tmp_path / "here"), Store.open(tmp_path / "store"), EVERYTHING)


def test_a_pulled_store_is_kept_as_any_other(shared: Store, tmp_path: Path) -> None:
    pull(str(shared.root), tmp_path / "here", Selection(views=2), LOCAL, QUIET)
    assert not collect(Store.open(tmp_path / "here"), older_than_s=0).removed
    assert_whole(tmp_path / "here")


def test_damage_at_the_source_is_named(own_store: Store, tmp_path: Path) -> None:
    path = own_store.root / layout.images_path(1)
    path.write_bytes(b"x" + path.read_bytes()[1:])
    with pytest.raises(CorruptError, match=r"images/000001.tar is not what its record says"):
        pull(str(own_store.root), tmp_path / "here", EVERYTHING, LOCAL, QUIET)
    pull(str(own_store.root), tmp_path / "without", Selection(blocks="0:1"), LOCAL, QUIET)
    assert_whole(tmp_path / "without")


def test_a_pin_is_looked_at_before_anything_comes(shared: Store, tmp_path: Path) -> None:
    pull(str(shared.root), tmp_path / "a", Selection(views=1), LOCAL, QUIET, expect=sealed(shared.root).root_sha256)
    with pytest.raises(CorruptError, match="expected sha256:0000"):
        pull(str(shared.root), tmp_path / "b", Selection(views=1), LOCAL, QUIET, expect="0" * 64)
    assert not (tmp_path / "b").exists()


# --- push ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def s3(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[str, Reach, FaultProxy]]:
    """(URL, how to reach it through the proxy, the proxy)."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", bucket.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", bucket.secret_key)
    with FaultProxy(bucket.endpoint) as proxy:
        access = Access(endpoint=proxy.url, region="us-east-1")
        yield f"s3://{bucket.name}/team/store", Reach(access, cache=tmp_path / "cache", patience=WAITS_NOT), proxy


def test_to_a_bucket_and_back(shared: Store, tmp_path: Path, s3: tuple[str, Reach, FaultProxy]) -> None:
    url, reach, _ = s3
    moved = push(shared.root, url, EVERYTHING, reach, QUIET)
    assert moved.moved_objects == moved.num_objects
    assert_part(open_store(url, reach, QUIET), shared, EVERYTHING)
    pull(url, tmp_path / "here", EVERYTHING, reach, QUIET)
    assert sealed(tmp_path / "here") == sealed(shared.root)
    assert_part(assert_whole(tmp_path / "here"), shared, EVERYTHING)
    asked = Selection(views=2, columns=("tiny/cls",), split=TRAIN)
    pull(url, tmp_path / "part", asked, reach, QUIET)
    assert_part(assert_whole(tmp_path / "part"), shared, asked)
    again = push(shared.root, url, EVERYTHING, reach, QUIET)
    assert again.moved_objects == 0


def test_readers_find_no_store_until_all_of_it_is_there(shared: Store, s3: tuple[str, Reach, FaultProxy]) -> None:
    url, reach, proxy = s3
    push(shared.root, url, Selection(views=1), reach, QUIET)
    puts = [exchange.request.path for exchange in proxy.exchanges if exchange.request.method == "PUT"]
    assert puts[0].endswith(f"/{layout.ORIGIN}") and puts[-1].endswith("/store/zarr.json")
    assert puts[-2].endswith(f"/{layout.seal_path(1)}")
    objects = [number for number, path in enumerate(puts) if "/c/" in path or path.endswith((".tar", ".parquet"))]
    documents = [number for number, path in enumerate(puts) if f"/{layout.UNITS}/" in path]
    assert max(objects) < min(documents)


def test_a_part_to_a_bucket(shared: Store, tmp_path: Path, s3: tuple[str, Reach, FaultProxy]) -> None:
    url, reach, _ = s3
    asked = Selection(views=1, columns=("packed",), share=0.4)
    push(shared.root, url, asked, reach, QUIET)
    assert_part(open_store(url, reach, QUIET), shared, asked)
    with pytest.raises(UsageError, match=r"holds another part of that store \(views 1, "):
        push(shared.root, url, EVERYTHING, reach, QUIET)
    with pytest.raises(UsageError, match="holds another store"):
        push(make_store(tmp_path / "other", StoreShape()).root, url, EVERYTHING, reach, QUIET)


def test_a_storm_over_a_push(shared: Store, tmp_path: Path, s3: tuple[str, Reach, FaultProxy]) -> None:
    url, reach, proxy = s3
    faults = (Refuse(503), Refuse(429), Reset(), DropAnswer(), DropAnswer("reset"), CutBody(10))
    proxy.plan = storm(0.25, faults, seed=1)
    push(shared.root, url, EVERYTHING, reach, QUIET)
    proxy.plan = storm(0.25, (*faults, FlipBit(20)), seed=2, about=lambda request: "/c/" in request.path)
    pull(url, tmp_path / "here", EVERYTHING, reach, QUIET)
    assert sealed(tmp_path / "here") == sealed(shared.root)
    assert_part(assert_whole(tmp_path / "here"), shared, EVERYTHING)


def test_what_takes_no_files(shared: Store, tmp_path: Path) -> None:
    with StaticServer(tmp_path) as server, pytest.raises(UsageError, match="only gives files; push to the folder"):
        push(shared.root, server.url, EVERYTHING, LOCAL, QUIET)


def test_to_a_folder(shared: Store, tmp_path: Path) -> None:
    push(shared.root, str(tmp_path / "served"), Selection(views=1), LOCAL, QUIET)
    assert_part(assert_whole(tmp_path / "served"), shared, Selection(views=1))


def test_damage_here_is_not_pushed(own_store: Store, s3: tuple[str, Reach, FaultProxy]) -> None:
    url, reach, _ = s3
    path = own_store.root / layout.images_path(1)
    path.write_bytes(b"x" + path.read_bytes()[1:])
    with pytest.raises(CorruptError, match=r"images/000001.tar has sha256 .*; run `stillhouse repair`"):
        push(own_store.root, url, EVERYTHING, reach, QUIET)
    with pytest.raises(UsageError, match="no store at"):
        open_store(url, reach, QUIET)


# --- killed ----------------------------------------------------------------------------------------------------------


def test_a_pull_that_is_killed_ends_as_the_undisturbed_one(shared: Store, tmp_path: Path, forks: Forks) -> None:
    """kill -9 at random moments, again and again, until one comes through: same seal, nothing damaged."""
    drawn, kills = random.Random(0), 0
    with StaticServer(shared.root) as server:
        for round_ in range(4):
            here = tmp_path / f"{round_}"
            for _ in range(6):
                child = forks.start("pull", server.url, here, "--threads", "2")
                time.sleep(drawn.uniform(0, 0.4))
                kills += not child.over()
                child.send(signal.SIGKILL)
                child.wait()
            ended = forks.run("pull", server.url, here)
            assert ended.status == 0, ended.err
            assert sealed(here) == sealed(shared.root)
            store = assert_whole(here)
            collect(store, older_than_s=0)
            assert sorted(path.name for path in (here / layout.STAGE).iterdir()) == [".lock"]
    assert kills >= 8


def test_a_push_that_is_killed_ends_as_the_undisturbed_one(
    shared: Store, tmp_path: Path, forks: Forks, bucket: Bucket
) -> None:
    drawn, kills = random.Random(1), 0
    access = [f"endpoint={bucket.endpoint}", "region=us-east-1", f"cache={tmp_path / 'cache'}"]
    found = {"AWS_ACCESS_KEY_ID": bucket.access_key, "AWS_SECRET_ACCESS_KEY": bucket.secret_key}
    keys = f"import os, tempfile; os.environ.update({found!r}); tempfile.tempdir = {str(tmp_path)!r}"
    url = f"s3://{bucket.name}/store"
    for _ in range(8):
        child = forks.start("push", shared.root, url, *access, "--threads", "2", prelude=keys)
        time.sleep(drawn.uniform(0, 0.4))
        kills += not child.over()
        child.send(signal.SIGKILL)
        child.wait()
    ended = forks.run("push", shared.root, url, *access, prelude=keys)
    assert ended.status == 0, ended.err
    ended = forks.run("pull", url, tmp_path / "here", *access, prelude=keys)
    assert ended.status == 0, ended.err
    assert sealed(tmp_path / "here") == sealed(shared.root)
    assert_whole(tmp_path / "here")
    assert kills >= 3


def test_records_are_only_of_what_was_asked_for(shared: Store, tmp_path: Path) -> None:
    pull(str(shared.root), tmp_path / "here", Selection(columns=()), LOCAL, QUIET)
    found: list[Record] = records(tmp_path / "here")
    assert not [record.unit for record in found if record.unit.startswith(("features/", "codecs/"))]
    card = json.loads((tmp_path / "here" / layout.CARD).read_text())
    assert card["attributes"]["stillhouse"]["teachers"] == []
    shutil.rmtree(tmp_path / "here")
