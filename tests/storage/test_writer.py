"""Writing units: what lands where, under which facts."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from stillhouse.storage import layout
from stillhouse.storage.crc import crc32c
from stillhouse.storage.records import read_record
from stillhouse.storage.seal import records
from stillhouse.storage.shards import ShardReader
from stillhouse.storage.store import Store
from stillhouse.storage.testing import LEVELS, StoreShape, make_store, write_codecs, write_features, write_images
from stillhouse.storage.verify import verify
from stillhouse.storage.writer import commit_features, commit_view, keys_digest

SHAPE = StoreShape()


def test_units_name_exactly_their_objects(random_store: Store) -> None:
    expected = {
        "images/000001": ["images/000001.tar", "index/000001.parquet"],
        "views/001/000000": ["views/params/c/1/0/0", "views/hash/c/1/0"],
        "features/tiny/001/000000": ["features/tiny/cls/c/1/0/0/0", "features/tiny/patch/c/1/0/0/0"],
        "layout": ["views/zarr.json", "features/zarr.json", "views/params/zarr.json", "views/hash/zarr.json"],
    }
    for unit, paths in expected.items():
        record = random_store.record(unit)
        assert record is not None and [entry.path for entry in record.objects] == paths


def test_facts_of_the_units(random_store: Store) -> None:
    assert random_store.require("images/000001", "it").facts == {
        "rows": 3,
        "quarantined": [],
        "keys_sha256": SHAPE.plan.blocks[1].keys_sha256,
    }
    assert random_store.require("views/001/000000", "it").facts == {"rows": 4}
    facts = random_store.require("features/tiny/000/000000", "it").facts
    assert facts == {"rows": 3, "fingerprints": facts["fingerprints"]}
    codes = random_store.codes("tiny", "patch", 0, 0, random_store.good_rows(0))
    assert facts["fingerprints"]["patch"] == [crc32c(row.tobytes()) for row in codes]
    levels = random_store.require("codecs/tiny-int8", "it").facts["levels"]
    assert levels["patch"] == {"codec": "int8", "dim": 6, "arrays": ["offset", "scale"]}


def test_no_object_belongs_to_two_units_and_none_to_nobody(random_store: Store) -> None:
    named = [entry.path for record in records(random_store.root) for entry in record.objects]
    assert len(named) == len(set(named))
    on_disk = {
        path.relative_to(random_store.root).as_posix() for path in random_store.root.rglob("*") if path.is_file()
    }
    assert {path for path in on_disk if not path.startswith("_log/")} == {*named, "zarr.json"}


def test_a_shard_is_one_view_of_one_block(random_store: Store) -> None:
    for teacher, codec in SHAPE.teachers.items():
        for level, spec in LEVELS.items():
            row = spec.num_tokens * spec.dim * {"fp16": 2, "int8": 1}[codec] + 4
            path = random_store.root / layout.features_chunk(teacher, level, 1, 0)
            assert path.stat().st_size == 3 * row + SHAPE.block_samples * 16 + 4


def test_keys_digest() -> None:
    """printf 'a\\nü\\n' | sha256sum"""
    assert keys_digest([]) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert keys_digest(["a", "ü"]) == "206145f346e145aec96fa5fba1036c5764acbea968127f599ec6927a89525bb3"
    assert keys_digest(["a", "b"]) != keys_digest(["b", "a"])


def test_a_block_without_a_good_sample(tmp_path: Path) -> None:
    shape = StoreShape(blocks=(("train", 2), ("train", 2)), bad_rows=frozenset({(1, 0), (1, 1)}))
    store = make_store(tmp_path / "s", shape)
    assert len(store.good_rows(1)) == 0
    assert store.codes("tiny", "patch", 0, 1, []).shape == (0, 4, 6)
    assert store.view_hashes(0, 1).tolist() == [0, 0]


def test_codes_may_come_in_any_memory_order(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", SHAPE.spec, SHAPE.plan)
    write_images(store, SHAPE, 0)
    store.add_teacher(SHAPE.teacher("tiny"))
    write_codecs(store, SHAPE, "tiny")
    codes = np.arange(3 * 4 * 6, dtype=">f2").reshape(6, 4, 3).T
    rows = np.array([3, 0, 1])
    commit_features(store, "tiny", 0, 0, {"patch": codes}, rows, {})
    path = store.root / layout.features_chunk("tiny", "patch", 0, 0)
    read = ShardReader(path, 4, 48, path.stat().st_size).read(rows).view("<f2").reshape(3, 4, 6)
    np.testing.assert_array_equal(read, codes)


def test_the_loser_returns_the_winners_record(own_store: Store) -> None:
    won = own_store.require("features/tiny/000/000000", "it")
    other = np.zeros((3, 4, 6), np.float16)
    record = commit_features(own_store, "tiny", 0, 0, {"patch": other}, np.array([0, 1, 3]), {})
    assert record == won
    lost = commit_view(own_store, 0, 0, np.zeros((4, 14), np.int32), np.ones(4, np.uint64))
    assert lost == own_store.require("views/000/000000", "it")
    np.testing.assert_array_equal(own_store.view_params(0, 0), SHAPE.params(0, 0))


def test_staging_is_swept(own_store: Store) -> None:
    assert list((own_store.root / layout.STAGE).iterdir()) == []


def test_a_unit_written_by_two_at_once(tmp_path: Path) -> None:
    """Two writers stage different bytes for one unit; what is published is what the record says."""
    store = make_store(tmp_path / "s", replace(SHAPE, teachers={}))
    store.add_teacher(SHAPE.teacher("tiny"))

    with ThreadPoolExecutor(8) as pool:
        shapes = [replace(SHAPE, seed=seed) for seed in range(8)]
        list(pool.map(lambda shape: write_codecs(store, shape, "tiny"), shapes))
        list(pool.map(lambda shape: write_features(store, shape, "tiny", 0, 0), shapes))
    assert verify(store).problems == ()
    record = read_record(store.root, "features/tiny/000/000000")
    assert record is not None and len(record.objects) == 2
    assert os.listdir(store.root / layout.STAGE) == []
