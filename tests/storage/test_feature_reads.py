"""Codes in batches, whole blocks and windows: the same bytes every way, and never those of another shard."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr

from stillhouse.core.errors import CorruptError, MissingError, StillhouseError, UsageError
from stillhouse.storage import layout
from stillhouse.storage.codecs import pack
from stillhouse.storage.deep import deep_problems
from stillhouse.storage.records import read_record
from stillhouse.storage.seal import records
from stillhouse.storage.signed_json import signed_json
from stillhouse.storage.store import Store
from stillhouse.storage.testing import LEVELS, StoreShape, make_store, write_features
from stillhouse.storage.verify import verify

SHAPE = StoreShape()


def by_zarr_python(store: Store, teacher: str, level: str, view: int, block: int) -> npt.NDArray[Any]:
    """Codes [B, T, C] of a whole block as a foreign reader sees them."""
    array: Any = zarr.open_array(store.root / layout.features_array(teacher, level), mode="r")
    rows = store.plan.block_samples
    return np.asarray(array[view, block * rows : (block + 1) * rows])


@pytest.mark.parametrize("teacher", SHAPE.teachers)
@pytest.mark.parametrize("level", LEVELS)
def test_batches_blocks_and_windows_are_what_zarr_python_reads(random_store: Store, teacher: str, level: str) -> None:
    features = random_store.features(teacher, level)
    for view in range(SHAPE.num_views):
        whole = {block: by_zarr_python(random_store, teacher, level, view, block) for block in SHAPE.train_blocks}
        good = {block: random_store.good_rows(block) for block in SHAPE.train_blocks}
        for block in SHAPE.train_blocks:
            codes = features.read(view, block)
            assert codes.dtype == whole[block].dtype and codes.shape[1:] == whole[block].shape[1:]
            np.testing.assert_array_equal(codes, whole[block][good[block]])
            for row in good[block].tolist():
                np.testing.assert_array_equal(features.read(view, block, [row])[0], whole[block][row])
        for blocks in ([0, 1], [1, 0], [1], []):
            window = features.window(view, blocks)
            together = [whole[block][good[block]] for block in blocks]
            assert len(window) == sum(map(len, together))
            if blocks:
                places = np.array([len(window) - 1, 0, 0, *range(len(window))])
                np.testing.assert_array_equal(window.take(places), np.concatenate(together)[places])


@pytest.mark.parametrize("choice", ["fp16", "bf16", "int8", "int4", "ecsq:6", "klt:80", "pq:2", "opq:3", "rq:2"])
def test_every_codec_goes_to_disk_and_back(tmp_path: Path, choice: str) -> None:
    """What comes back is what was encoded; zarr-python reads the same; every byte that there is checks out."""
    shape = StoreShape(teachers={"tiny": choice})
    store = make_store(tmp_path / "store", shape)
    store.check_metadata()
    for level in LEVELS:
        codec, features = store.codec("tiny", level), store.features("tiny", level)
        for view in range(shape.num_views):
            for block in shape.train_blocks:
                good = store.good_rows(block)
                expected = codec.encode(shape.tokens("tiny", level, view, block)[good])
                np.testing.assert_array_equal(features.read(view, block), expected)
                stored = by_zarr_python(store, "tiny", level, view, block)[good]
                np.testing.assert_array_equal(stored, pack(codec, expected))
        window = features.window(1, [1, 0])
        np.testing.assert_array_equal(window.take(np.array([5, 0])), [features.read(1, 0)[2], features.read(1, 1)[0]])
    found = [problem for record in records(store.root) for problem in deep_problems(store, record, lambda num: None)]
    assert found == [] and not verify(store).problems


def test_buffers_are_used_again(random_store: Store) -> None:
    features = random_store.features("tiny", "patch")
    out = features.buffer(3)
    for view in (0, 1, 0):
        codes = features.read(view, 0, [3, 0, 1], out)
        assert np.shares_memory(codes, out)
        np.testing.assert_array_equal(codes, features.read(view, 0, [3, 0, 1]))
    whole = features.buffer(10)
    window = features.window(1, [1, 0], whole)
    assert len(window) == 6
    codes = window.take(np.array([5, 2, 0]), out)
    assert np.shares_memory(codes, out)
    np.testing.assert_array_equal(codes[2], features.read(1, 1)[0])


def test_a_place_outside_the_window(random_store: Store) -> None:
    window = random_store.features("tiny", "cls").window(0, [0])
    for places in ([-1], [0, 3]):
        with pytest.raises(IndexError, match="of a window of 3 rows"):
            window.take(np.array(places))


def test_what_is_not_there(random_store: Store) -> None:
    with pytest.raises(UsageError, match="has no teacher 'other'"):
        random_store.features("other", "patch").read(0, 0)
    with pytest.raises(UsageError, match="has no level 'pooled'"):
        random_store.features("tiny", "pooled")
    features = random_store.features("tiny", "patch")
    with pytest.raises(MissingError, match="no features of tiny/patch for view 5 of block 0"):
        features.read(5, 0)
    with pytest.raises(MissingError, match="has no row 2"):
        features.read(0, 0, [0, 2])


def test_many_threads_read_at_once(random_store: Store) -> None:
    store = Store.open(random_store.root)
    expected = [random_store.codes("tiny", "patch", view, 0, [0, 1, 3]).tobytes() for view in (0, 1)]

    def one(number: int) -> bool:
        codes = store.features("tiny", "patch").read(number % 2, 0)
        return codes.tobytes() == expected[number % 2]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(400)))


def test_a_use_after_fork_is_an_error_at_once(random_store: Store) -> None:
    """Whatever was read before, with whatever is still open; never a hang."""
    store = Store.open(random_store.root)
    features = store.features("tiny", "patch")
    features.read(0, 0)
    receiving, sending = os.pipe()
    pid = os.fork()
    if pid == 0:
        told = ""
        for use in (lambda: features.read(0, 0), lambda: features.read(1, 1), lambda: features.window(0, [0])):
            try:
                use()
            except StillhouseError as error:
                told += f"{error}\n"
        os.write(sending, told.encode())
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving) as pipe:
        told = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0
    assert told == "this Store was opened before a fork; open it again in the worker process\n" * 3
    features.read(0, 0)  # the parent goes on


# --- one shard in the place of another -----------------------------------------------------------------------------


def test_swapped_shards_are_found_when_read(own_store: Store) -> None:
    """Two views of one block: equal in size, whole in themselves."""
    first, second = (own_store.root / layout.features_chunk("tiny", "patch", view, 0) for view in (0, 1))
    aside = first.with_name("aside")
    for source, target in ((first, aside), (second, first), (aside, second)):
        source.rename(target)
    for view in (0, 1):
        with pytest.raises(CorruptError, match="holds other rows than its record says; run `stillhouse verify`"):
            own_store.features("tiny", "patch").read(view, 0, [0])
    own_store.features("tiny", "cls").read(0, 0)


def test_a_shard_of_another_store_is_found_when_read(own_store: Store, tmp_path: Path) -> None:
    other = make_store(tmp_path / "other", StoreShape(seed=1))
    path = layout.features_chunk("tiny-int8", "patch", 1, 1)
    shutil.copy(other.root / path, own_store.root / path)
    with pytest.raises(CorruptError, match="holds other rows than its record says"):
        own_store.features("tiny-int8", "patch").read(1, 1)


def test_records_without_fingerprints_are_read_too(own_store: Store) -> None:
    """They are in the facts of a record since fingerprints exist; without them `verify` finds a swap."""
    unit = layout.features_unit("tiny", 0, 0)
    record = read_record(own_store.root, unit)
    assert record is not None
    objects = [entry.to_json() for entry in record.objects]
    body = {"unit": unit, "attempt": record.attempt, "objects": objects, "facts": {"rows": 3}}
    (own_store.root / layout.record_path(unit)).write_bytes(signed_json(body))
    assert len(own_store.features("tiny", "patch").read(0, 0)) == 3


def test_fingerprints_are_those_of_what_was_written(tmp_path: Path) -> None:
    """Written again, a unit has the same facts: they are a function of its bytes."""
    store = make_store(tmp_path / "store", SHAPE)
    unit = layout.features_unit("tiny", 1, 0)
    path = store.root / layout.record_path(unit)
    before = json.loads(path.read_text(encoding="utf-8"))["facts"]
    path.unlink()
    write_features(Store.open(store.root), SHAPE, "tiny", 1, 0)
    assert json.loads(path.read_text(encoding="utf-8"))["facts"] == before
    assert not verify(Store.open(store.root)).problems
