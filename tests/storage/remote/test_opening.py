"""A store at a URL reads as the folder does, through a cache that never gives anything else."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fault_proxy import FaultProxy
from faults import CutBody, DropAnswer, FlipBit, Refuse, Reset, always, none, storm
from static_server import StaticServer

from stillhouse.core.errors import CorruptError, MissingError, RemoteError, UsageError
from stillhouse.core.events import Reporter
from stillhouse.storage import layout
from stillhouse.storage.places.patience import Patience
from stillhouse.storage.records import ObjectEntry
from stillhouse.storage.remote.ahead import fetch_ahead
from stillhouse.storage.remote.cache import ObjectCache, RemoteObjects
from stillhouse.storage.remote.documents import is_document
from stillhouse.storage.remote.opening import Reach, open_store
from stillhouse.storage.seal import Seal, latest_seal, seal
from stillhouse.storage.signed_json import canonical_json, signed_json
from stillhouse.storage.specs import TRAIN
from stillhouse.storage.store import Store
from stillhouse.storage.testing import StoreShape, make_store
from stillhouse.storage.verify import verify
from stillhouse.storage.writer import commit_view

QUIET = Reporter(quiet=True)
SHAPE = StoreShape(teachers={"tiny": "fp16", "packed": "klt:2", "books": "pq:2"})
WAITS_NOT = Patience(tries=12, wait=lambda seconds: None)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with codecs of every kind: fixed width, entropy-coded, with books. Do not write to it."""
    return make_store(tmp_path_factory.mktemp("shared") / "store", SHAPE)


@pytest.fixture
def reach(tmp_path: Path) -> Reach:
    return Reach(cache=tmp_path / "cache", patience=WAITS_NOT)


def assert_reads_the_same(found: Store, expected: Store) -> None:
    assert (found.spec, found.plan, found.teachers()) == (expected.spec, expected.plan, expected.teachers())
    for block in range(len(expected.plan.blocks)):
        assert list(found.samples(block)) == list(expected.samples(block))
        for row in expected.good_rows(block).tolist():
            assert found.image_bytes(block, row) == expected.image_bytes(block, row)
    for block in expected.plan.blocks_of(TRAIN):
        for view in range(expected.spec.num_views):
            np.testing.assert_array_equal(found.view_params(view, block), expected.view_params(view, block))
            np.testing.assert_array_equal(found.view_hashes(view, block), expected.view_hashes(view, block))
            for teacher in expected.teachers():
                for level in teacher.levels:
                    ours, theirs = (one.features(teacher.name, level).read(view, block) for one in (found, expected))
                    np.testing.assert_array_equal(ours, theirs)


def test_over_http(shared: Store, serve: Callable[[Path], str], reach: Reach) -> None:
    found = open_store(f"{serve(shared.root.parent)}/store", reach, QUIET)
    assert_reads_the_same(found, shared)
    assert found.name.startswith("http://127.0.0.1:") and found.root.is_relative_to(reach.folder)


def test_objects_are_fetched_once(shared: Store, reach: Reach) -> None:
    with StaticServer(shared.root) as server, FaultProxy(server.url) as proxy:
        assert_reads_the_same(open_store(proxy.url, reach, QUIET), shared)
        asked = [exchange.request.path for exchange in proxy.exchanges]
        assert sorted(asked) == sorted(set(asked))
        before = len(asked)
        assert_reads_the_same(open_store(proxy.url, reach, QUIET), shared)
        assert [exchange.request.path for exchange in proxy.exchanges[before:]] == ["/zarr.json"]


def test_nothing_is_listed_and_nothing_else_is_asked_for(shared: Store, reach: Reach) -> None:
    """Only files that the store has: a static server needs no more."""
    with StaticServer(shared.root) as server, FaultProxy(server.url) as proxy:
        open_store(proxy.url, reach, QUIET)
        assert {(one.request.method, one.status) for one in proxy.exchanges} == {("GET", 200)}
        fetched = {one.request.path for one in proxy.exchanges}
        assert not any(path.endswith((".tar", ".parquet")) or "/c/" in path for path in fetched)


def test_a_storm_over_everything(shared: Store, reach: Reach) -> None:
    faults = (Refuse(503), Reset(), DropAnswer(), CutBody(100), FlipBit(50))
    with StaticServer(shared.root) as server, FaultProxy(server.url) as proxy:
        for seed in range(3):
            proxy.plan = storm(0.3, faults[:4], seed)  # a document with another bit is an error at once, see below
            shutil.rmtree(reach.folder, ignore_errors=True)
            found = open_store(proxy.url, reach, QUIET)
            proxy.plan = storm(0.3, faults, seed)
            assert_reads_the_same(found, shared)


def test_a_document_with_another_bit_is_never_believed(shared: Store, reach: Reach) -> None:
    with StaticServer(shared.root) as server, FaultProxy(server.url) as proxy:
        for seed in range(20):
            proxy.plan = storm(0.02, [FlipBit(seed * 37)], seed)
            shutil.rmtree(reach.folder, ignore_errors=True)
            try:
                assert_reads_the_same(open_store(proxy.url, reach, QUIET), shared)
            except (CorruptError, UsageError) as error:
                assert str(error)
            assert not list((reach.folder / "stores").glob(".*/**/*.json"))  # nothing half is left


def test_no_answer_is_an_error_with_an_end(shared: Store, reach: Reach) -> None:
    with StaticServer(shared.root) as server, FaultProxy(server.url) as proxy:
        found = open_store(proxy.url, reach, QUIET)
        proxy.plan = always(Refuse(503))
        with pytest.raises(RemoteError, match=r"asked 12 times, at last: .*503.*the same command again"):
            found.image_bytes(0, 0)
        proxy.plan = none()
        assert found.image_bytes(0, 0) == shared.image_bytes(0, 0)


def test_no_store_there(tmp_path: Path, reach: Reach) -> None:
    Store.create(tmp_path / "unsealed", SHAPE.spec, SHAPE.plan)
    with StaticServer(tmp_path) as server:
        with pytest.raises(UsageError, match=r"no store at .*/nothing; give the address"):
            open_store(f"{server.url}/nothing", reach, QUIET)
        with pytest.raises(UsageError, match="holds no sealed store; only sealed stores are shared"):
            open_store(f"{server.url}/unsealed", reach, QUIET)


# --- damage and lies -------------------------------------------------------------------------------------------------


def test_a_damaged_object_is_refused_by_name(own_store: Store, reach: Reach) -> None:
    path = own_store.root / layout.images_path(0)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with StaticServer(own_store.root) as server:
        found = open_store(server.url, reach, QUIET)
        with pytest.raises(CorruptError, match=r"images/000000.tar is not what its record says: sha256 \w+ came"):
            found.image_bytes(0, 0)
        problems = verify(found).problems
        assert [problem.path for problem in problems] == [layout.images_path(0)]
        path.unlink()
        with pytest.raises(MissingError, match=r"images/000000.tar is not there; ask who shared the store"):
            found.image_bytes(0, 0)
        assert [problem.found for problem in verify(found).problems] == ["is missing"]


def test_verify_reads_where_the_store_is(shared: Store, reach: Reach) -> None:
    with StaticServer(shared.root) as server, FaultProxy(server.url) as proxy:
        found = open_store(proxy.url, reach, QUIET)
        assert_reads_the_same(found, shared)
        before = len(proxy.exchanges)
        result = verify(found)
        assert not result.problems and result.num_bytes == verify(shared).num_bytes
        read = sorted(exchange.request.path[1:] for exchange in proxy.exchanges[before:])
        objects = sorted(entry.path for entry in sealed(shared).objects if not is_document(entry.path))
        assert read == objects  # all of them, though all are kept here; metadata is a document, and was compared


def rewritten(root: Path, path: str, change: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
    """A signed document with other words, signed again: what a liar can do."""
    body = json.loads((root / path).read_text())
    body.pop("self_sha256")
    change(body)
    (root / path).write_bytes(signed_json(body))


def sealed(store: Store) -> Seal:
    found = latest_seal(store.root)
    assert found is not None
    return found


def test_records_that_say_something_else_than_was_sealed(own_store: Store, reach: Reach) -> None:
    record = layout.record_path(layout.images_unit(0))
    rewritten(own_store.root, record, lambda body: body["facts"]["quarantined"].clear())
    with (
        StaticServer(own_store.root) as server,
        pytest.raises(CorruptError, match="say something else than when it was sealed"),
    ):
        open_store(server.url, reach, QUIET)


def test_a_teacher_that_says_something_else(own_store: Store, reach: Reach) -> None:
    rewritten(own_store.root, layout.teacher_path("tiny"), lambda body: body.update(licence="anything goes"))
    rewritten(
        own_store.root,
        layout.record_path("codecs/tiny"),
        lambda body: body["facts"].update(teacher_sha256=_teacher_sha256(own_store)),
    )
    with (
        StaticServer(own_store.root) as server,
        pytest.raises(CorruptError, match="something else than when it was sealed"),
    ):
        open_store(server.url, reach, QUIET)


def _teacher_sha256(store: Store) -> str:
    body = json.loads((store.root / layout.teacher_path("tiny")).read_text())
    from stillhouse.storage.specs import TeacherSpec

    return TeacherSpec.model_validate({key: body[key] for key in body if key != "self_sha256"}).sha256()


def test_an_object_that_was_exchanged_with_its_record(own_store: Store, reach: Reach) -> None:
    path, data = layout.hash_chunk(0, 0), b"other bytes"

    def exchange(body: dict) -> None:  # type: ignore[type-arg]
        for entry in body["objects"]:
            if entry["path"] == path:
                entry.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    (own_store.root / path).write_bytes(data)
    rewritten(own_store.root, layout.record_path(layout.views_unit(0, 0)), exchange)
    with (
        StaticServer(own_store.root) as server,
        pytest.raises(CorruptError, match=rf"{path} of http.* is not the one that was sealed"),
    ):
        open_store(server.url, reach, QUIET)


def test_metadata_that_breaks_a_rule_is_refused_before_it_is_used(own_store: Store, reach: Reach) -> None:
    path = "features/tiny/cls/zarr.json"
    metadata = json.loads((own_store.root / path).read_text())
    metadata["codecs"] = [{"name": "numcodecs.pickle"}]
    data = canonical_json(metadata)
    digest = hashlib.sha256(data).hexdigest()

    def exchange(body: dict) -> None:  # type: ignore[type-arg]
        for entry in body["objects"]:
            if entry["path"] == path:
                entry.update(bytes=len(data), sha256=digest)

    (own_store.root / path).write_bytes(data)
    rewritten(own_store.root, layout.record_path("codecs/tiny"), exchange)
    (own_store.root / layout.seal_path(1)).unlink()
    seal(own_store)
    with StaticServer(own_store.root) as server, pytest.raises(CorruptError, match=r"features/tiny/cls/zarr.json"):
        open_store(server.url, reach, QUIET)
    assert not list((reach.folder / "stores").glob("*-*"))


# --- pins ------------------------------------------------------------------------------------------------------------


def test_the_pin_that_was_told(shared: Store, reach: Reach) -> None:
    pin = f"sha256:{sealed(shared).root_sha256}"
    with StaticServer(shared.root) as server:
        assert_reads_the_same(open_store(server.url, reach, QUIET, expect=pin), shared)
    assert open_store(str(shared.root), reach, QUIET, expect=pin).root == shared.root


def test_another_pin(shared: Store, reach: Reach) -> None:
    other = "sha256:" + "0" * 64
    with StaticServer(shared.root) as server:
        for where in (server.url, str(shared.root)):
            with pytest.raises(CorruptError, match=f"has seal sha256:{sealed(shared).root_sha256}, expected {other}"):
                open_store(where, reach, QUIET, expect=other)
            with pytest.raises(
                UsageError, match=r"is the digest of the objects.*the pin.*is sha256:" + sealed(shared).root_sha256
            ):
                open_store(where, reach, QUIET, expect=f"sha256:{sealed(shared).content_sha256}")
            with pytest.raises(UsageError, match="'latest' is no pin"):
                open_store(where, reach, QUIET, expect="latest")


def test_a_store_that_was_sealed_anew_is_refused_by_what_differs(own_store: Store, reach: Reach) -> None:
    pin = sealed(own_store).root_sha256
    (own_store.root / layout.record_path(layout.views_unit(0, 1))).unlink()
    shape = StoreShape()
    params = shape.params(0, 1) + 1
    commit_view(Store.open(own_store.root), 0, 1, params, np.ones(len(params), np.uint64))
    seal(Store.open(own_store.root))
    with StaticServer(own_store.root) as server, pytest.raises(CorruptError) as found:
        open_store(server.url, reach, QUIET, expect=pin)
    assert f"the first object that differs is {layout.hash_chunk(0, 1)}" in found.value.message


# --- the cache -------------------------------------------------------------------------------------------------------


def files_of(folder: Path) -> list[Path]:
    return [path for path in (folder / "objects").rglob("*") if path.is_file()]


def test_it_stays_within_its_bound_and_reading_goes_on(shared: Store, tmp_path: Path) -> None:
    most = 20_000
    total = sum(entry.num_bytes for entry in sealed(shared).objects)
    assert total > 1.5 * most
    with StaticServer(shared.root) as server:
        for _ in range(2):
            found = open_store(server.url, Reach(cache=tmp_path / "c", cache_gb=most / 1e9, patience=WAITS_NOT), QUIET)
            assert_reads_the_same(found, shared)
            assert sum(path.stat().st_size for path in files_of(tmp_path / "c")) <= most * 17 / 16


def test_an_object_that_is_damaged_here_is_fetched_again(shared: Store, reach: Reach) -> None:
    with StaticServer(shared.root) as server:
        found = open_store(server.url, reach, QUIET)
        assert_reads_the_same(found, shared)
        for path in files_of(reach.folder):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data if len(data) < 2000 else data[:-1])
        again = open_store(server.url, reach, QUIET)
        for block in shared.plan.blocks_of(TRAIN):
            assert list(again.samples(block)) == list(shared.samples(block))
            np.testing.assert_array_equal(again.view_params(0, block), shared.view_params(0, block))


def test_other_words_about_the_same_objects_are_another_mirror(own_store: Store, reach: Reach) -> None:
    """A store that is shared anew with the same objects, and a record that says something else, is not read from the old mirror."""
    with StaticServer(own_store.root) as server:
        old = open_store(server.url, reach, QUIET)
        rewritten(own_store.root, layout.record_path("codecs/tiny"), lambda body: body["facts"].update(more="words"))
        now = seal(Store.open(own_store.root))
        new = open_store(server.url, reach, QUIET, expect=now.root_sha256)
        assert new.root != old.root and sealed(new).content_sha256 == sealed(old).content_sha256


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, 10**9)
    for number in range(10):
        path = cache.path(f"{number:064x}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(100))
        os.utime(path, (number, number))
    os.utime(cache.path(f"{0:064x}"))  # used just now
    ObjectCache(tmp_path, 500)
    left = sorted(int(path.name, 16) for path in files_of(tmp_path))
    assert left == [0, 7, 8, 9]  # nine tenths of the bound


def test_an_object_that_has_to_go_before_it_is_opened(
    shared: Store, reach: Reach, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is fetched again: a cache that others share may need its room at any time."""
    gone: set[str] = set()

    def bring(self: RemoteObjects, entry: ObjectEntry) -> Path:
        path = self.cache.bring(self.place, entry, WAITS_NOT)
        if entry.sha256 not in gone:
            gone.add(entry.sha256)
            path.unlink()
        return path

    monkeypatch.setattr(RemoteObjects, "bring", bring)
    with StaticServer(shared.root) as server:
        assert_reads_the_same(open_store(server.url, reach, QUIET), shared)
    assert len(gone) > 20


def test_what_a_killed_process_has_left_goes(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, 10**9)
    arriving = cache.path("a" * 64).with_name(".arriving")
    arriving.parent.mkdir(parents=True)
    arriving.write_bytes(bytes(10))
    cache.trim()
    assert arriving.exists()
    os.utime(arriving, (0, 0))
    cache.trim()
    assert not arriving.exists()


def test_a_damaged_mirror_is_fetched_again(shared: Store, reach: Reach) -> None:
    with StaticServer(shared.root) as server:
        found = open_store(server.url, reach, QUIET)
        (found.root / layout.SPEC).write_bytes(b"{}")
        assert_reads_the_same(open_store(server.url, reach, QUIET), shared)


def test_mirrors_that_nobody_opens_go(shared: Store, own_store: Store, reach: Reach) -> None:
    with StaticServer(shared.root) as server, StaticServer(own_store.root) as other:
        unused = open_store(server.url, reach, QUIET).root
        used = open_store(server.url, reach, QUIET).root
        assert used == unused
        left = unused.with_name(".left")
        left.mkdir()
        for folder in (unused, left):
            os.utime(folder, (0, 0))
        open_store(server.url, reach, QUIET)  # it is opened, so it stays
        fresh = open_store(other.url, reach, QUIET).root
        assert unused.is_dir() and fresh.is_dir() and not left.exists()
        os.utime(unused, (0, 0))
        shutil.rmtree(fresh)
        open_store(other.url, reach, QUIET)
        assert not unused.exists()


def test_a_store_that_grew_is_a_store_of_its_own(own_store: Store, reach: Reach) -> None:
    """Who opened the old seal goes on reading it; who opens now gets the new one, and fetches only what is new."""
    with StaticServer(own_store.root) as server, FaultProxy(server.url) as proxy:
        old = open_store(proxy.url, reach, QUIET)
        make_store(own_store.root, StoreShape(teachers={"tiny": "fp16", "tiny-int8": "int8", "late": "fp16"}))
        new = open_store(proxy.url, reach, QUIET)
        assert [teacher.name for teacher in old.teachers()] == ["tiny", "tiny-int8"]
        assert [teacher.name for teacher in new.teachers()] == ["late", "tiny", "tiny-int8"]
        assert_reads_the_same(new, Store.open(own_store.root))
        before = len(proxy.exchanges)
        assert (old.features("tiny", "cls").read(0, 0) == new.features("tiny", "cls").read(0, 0)).all()
        assert len(proxy.exchanges) == before


READ_ALL = """
import sys
from pathlib import Path
from stillhouse.core.events import Reporter
from stillhouse.storage.remote.opening import Reach, open_store

store = open_store(sys.argv[1], Reach(cache=Path(sys.argv[2])), Reporter(quiet=True))
for block in range(len(store.plan.blocks)):
    for row in store.good_rows(block).tolist():
        store.image_bytes(block, row)
for block in store.plan.blocks_of("train"):
    for view in range(store.spec.num_views):
        store.view_params(view, block), store.view_hashes(view, block)
        for teacher in store.teachers():
            for level in teacher.levels:
                store.features(teacher.name, level).read(view, block)
"""


def test_many_processes_share_it(shared: Store, tmp_path: Path) -> None:
    """Four processes begin at once on an empty cache: each object is fetched by one of them."""
    with StaticServer(shared.root) as server, FaultProxy(server.url) as proxy:
        command = [sys.executable, "-c", READ_ALL, proxy.url, str(tmp_path / "cache")]
        processes = [subprocess.Popen(command) for _ in range(4)]
        assert [process.wait(120) for process in processes] == [0] * 4
        asked = [exchange.request.path for exchange in proxy.exchanges]
        assert {path for path in asked if asked.count(path) > 1} == {"/zarr.json"}


# --- ahead -----------------------------------------------------------------------------------------------------------


def test_what_is_fetched_ahead_is_there(shared: Store, reach: Reach) -> None:
    levels = {"tiny": ("cls",), "packed": ("patch",)}
    with StaticServer(shared.root) as server, FaultProxy(server.url) as proxy:
        found = open_store(proxy.url, reach, QUIET)
        before = len(proxy.exchanges)
        fetch_ahead(found, [0, 1], [1], levels)
        for block in (0, 1):
            found.features("tiny", "cls").read(1, block)
            found.features("packed", "patch").read(1, block)
            found.view_params(1, block), found.view_hashes(1, block), found.image_bytes(block, 0)
        paths = [exchange.request.path for exchange in proxy.exchanges[before:]]
        codecs = [path for path in paths if "/codecs/" in path]
        assert len(paths) == len(set(paths)) and len(paths) - len(codecs) == 2 * (2 + 2 + 2)


def test_what_goes_wrong_ahead_is_told_when_it_is_asked_for(shared: Store, reach: Reach) -> None:
    with StaticServer(shared.root) as server, FaultProxy(server.url) as proxy:
        found = open_store(proxy.url, reach, QUIET)
        assert found.objects is not None
        proxy.plan = always(Refuse(503))
        fetch_ahead(found, [0], [0], {"tiny": ("cls",)})
        with pytest.raises(RemoteError):
            found.image_bytes(0, 0)
        found.objects.drop()
        proxy.plan = none()
        assert found.image_bytes(0, 0) == shared.image_bytes(0, 0)


def test_many_threads_ask_for_one_object(shared: Store, reach: Reach) -> None:
    with StaticServer(shared.root) as server, FaultProxy(server.url) as proxy:
        found = open_store(proxy.url, reach, QUIET)
        before = len(proxy.exchanges)
        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(lambda _: found.image_bytes(0, 0), range(32)))) == 1
        assert len(proxy.exchanges) - before == 2  # the index and the tar
