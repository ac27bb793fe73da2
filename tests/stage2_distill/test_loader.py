"""The loader: its batches are what the store gives row by row, whatever the threads, windows, cache and start."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillhouse.core.errors import CorruptError, UsageError
from stillhouse.core.pixels import resize_pixels
from stillhouse.stage1_extract.testing import tiny_images, tiny_store
from stillhouse.stage2_distill.config import DistillConfig
from stillhouse.stage2_distill.loader import Batch, Loader
from stillhouse.stage2_distill.order import epoch_windows
from stillhouse.storage import layout, replay
from stillhouse.storage.decode import decode
from stillhouse.storage.store import Store
from stillhouse.storage.views import render


def make(store: Store, *, size: int = 32, **fields: Any) -> Loader:
    config = DistillConfig(**{"batch": 5, "window_blocks": 2, "seed": 3, **fields})
    return Loader(store, {"tiny": ("cls", "patch")}, config, size)


def epoch(store: Store, number: int = 0, *, start: int = 0, size: int = 32, **fields: Any) -> list[Batch]:
    with make(store, size=size, **fields) as loader:
        return list(loader.epoch(number, start=start))


def assert_equal(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.pairs, other.pairs)
        np.testing.assert_array_equal(one.pixels_BSSC, other.pixels_BSSC)
        assert one.codes.keys() == other.codes.keys() == {"tiny"}
        for level in ("cls", "patch"):
            np.testing.assert_array_equal(one.codes["tiny"][level], other.codes["tiny"][level])


@pytest.fixture(scope="module")
def holed_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of 8 + 8 + 8 + 6 samples, nine of them in quarantine, a whole block among them."""
    folder = tmp_path_factory.mktemp("holed")
    images = tiny_images(folder / "images", 30)
    store = tiny_store(folder / "first", images)
    doomed = [(1, row) for row in range(8)] + [(2, 3)]
    for block, row in doomed:
        (images / store.samples(block)[row].key).write_bytes(b"not an image")
    return tiny_store(folder / "second", images)


@pytest.mark.parametrize("number", [0, 1, 5])
@pytest.mark.parametrize("size", [32, 16])
def test_batches_are_what_the_store_gives_row_by_row(sealed_store: Store, number: int, size: int) -> None:
    batches, view = epoch(sealed_store, number, size=size), number % 2
    assert len(batches) == 5
    for batch in batches:
        assert batch.pixels_BSSC.shape == (5, size, size, 3)
        for i, (block, row) in enumerate(batch.pairs.tolist()):
            for level in ("cls", "patch"):
                code = sealed_store.codes("tiny", level, view, block, [row])[0]
                np.testing.assert_array_equal(batch.codes["tiny"][level][i], code)
                assert batch.codes["tiny"][level].dtype == code.dtype
            image = decode(sealed_store.image_bytes(block, row))
            whole = render(image, sealed_store.view_params(view, block)[row], 32)
            np.testing.assert_array_equal(batch.pixels_BSSC[i], resize_pixels(whole[None], size)[0])


def test_the_order_is_that_of_the_windows(sealed_store: Store) -> None:
    """Batches cut the windows' rows one after the other; a batch may span two windows."""
    windows = list(epoch_windows(range(4), sealed_store.good_rows, seed=3, epoch=2, window_blocks=2))
    assert len(windows[0].pairs) % 5 != 0
    found = np.concatenate([batch.pairs for batch in epoch(sealed_store, 2)])
    np.testing.assert_array_equal(found, np.concatenate([window.pairs for window in windows])[:25])


@pytest.mark.parametrize(("batch", "window_blocks"), [(5, 2), (5, 1), (8, 1), (3, 4), (2, 3), (12, 1), (28, 1)])
def test_a_start_is_the_tail_of_the_epoch(sealed_store: Store, batch: int, window_blocks: int) -> None:
    fields = {"batch": batch, "window_blocks": window_blocks}
    whole = epoch(sealed_store, 1, **fields)
    assert len(whole) == 28 // batch
    for start in range(len(whole) + 1):
        assert_equal(epoch(sealed_store, 1, start=start, **fields), whole[start:])


@pytest.mark.parametrize("batch", [5, 4])
def test_repeated_samples_come_in_their_views(sealed_store: Store, batch: int) -> None:
    """Codes and pixels of each are those of its view; an epoch has the batches that it has without repeats."""
    plain, batches = epoch(sealed_store, batch=batch), epoch(sealed_store, 1, batch=batch, repeats=2)
    assert len(batches) == len(plain) == 28 // batch
    position = 0
    for one in batches:
        for i, (block, row) in enumerate(one.pairs.tolist()):
            view = position % 2
            code = sealed_store.codes("tiny", "patch", view, block, [row])[0]
            np.testing.assert_array_equal(one.codes["tiny"]["patch"][i], code)
            image = decode(sealed_store.image_bytes(block, row))
            whole = render(image, sealed_store.view_params(view, block)[row], 32)
            np.testing.assert_array_equal(one.pixels_BSSC[i], whole)
            position += 1
    samples = [tuple(pair) for one in batches for pair in one.pairs.tolist()]
    assert samples[::2][: len(samples) // 2] == samples[1::2] and len(set(samples)) <= 14
    for start in range(len(batches)):
        assert_equal(epoch(sealed_store, 1, batch=batch, repeats=2, start=start), batches[start:])


def test_more_repeats_than_views_are_refused(sealed_store: Store) -> None:
    with pytest.raises(UsageError, match="repeats 3 shows a sample in as many views of an epoch, the store has 2"):
        make(sealed_store, repeats=3)


def test_labels_come_as_class_numbers(sealed_store: Store) -> None:
    config, levels = DistillConfig(batch=7), {"tiny": ("cls",)}
    with Loader(sealed_store, levels, config, 32, classes=("a", "b", "c")) as loader:
        for one in loader.epoch(0):
            assert set(one.codes["tiny"]) == {"cls"} and one.label_B is not None and one.label_B.dtype == np.int64
            named = [sealed_store.samples(block)[row].label for block, row in one.pairs.tolist()]
            assert ["abc"[number] for number in one.label_B] == named
    assert epoch(sealed_store)[0].label_B is None


def test_threads_change_nothing(sealed_store: Store) -> None:
    assert_equal(epoch(sealed_store, threads=1), epoch(sealed_store, threads=3))


def test_the_cache_changes_nothing(sealed_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []

    def counting(data: bytes) -> Any:
        decoded.append(data)
        return decode(data)

    monkeypatch.setattr(replay, "decode", counting)
    with make(sealed_store, pixel_cache_mb=16) as cached, make(sealed_store, pixel_cache_mb=0) as bare:
        first = [list(cached.epoch(number)) for number in (0, 2, 4)]
        once = len(decoded)
        second = [list(bare.epoch(number)) for number in (0, 2, 4)]
    for one, other in zip(first, second, strict=True):
        assert_equal(one, other)
    assert once <= 28  # each image once: epochs 0, 2 and 4 all show view 0
    assert len(decoded) - once == 75


def test_the_cache_has_a_limit(sealed_store: Store) -> None:
    with make(sealed_store, size=512, pixel_cache_mb=3, threads=1) as loader:
        list(loader.epoch(0))
        assert len(loader._cache) == 4


def test_views_do_not_share_the_cache(sealed_store: Store) -> None:
    with make(sealed_store) as loader:
        both = [list(loader.epoch(number)) for number in (0, 1)]
    for number, batches in enumerate(both):
        assert_equal(batches, epoch(sealed_store, number, pixel_cache_mb=0))


def test_quarantined_rows_never_appear(holed_store: Store) -> None:
    good = {(block, int(row)) for block in range(4) for row in holed_store.good_rows(block)}
    assert len(good) == 21
    with make(holed_store, batch=3, window_blocks=1) as loader:
        assert (loader.num_rows, loader.steps_per_epoch) == (21, 7)
        for number in range(3):
            batches = list(loader.epoch(number))
            assert {tuple(pair) for batch in batches for pair in batch.pairs.tolist()} == good
            for start in range(8):
                assert_equal(list(loader.epoch(number, start=start)), batches[start:])


def test_damage_is_raised_where_it_is_read(copy_store: Callable[[], Store]) -> None:
    store = copy_store()
    path = store.root / layout.features_chunk("tiny", "patch", 0, 2)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptError, match=r"row 0 of shard .*/features/tiny/patch/c/0/2/0/0 does not match"):
        epoch(store)
    assert len(epoch(store, 1)) == 5  # the other view is whole


def test_leaving_early_leaves_no_threads(sealed_store: Store) -> None:
    before = threading.active_count()
    with make(sealed_store, threads=3) as loader:
        assert len(next(iter(loader.epoch(0))).pairs) == 5
    assert threading.active_count() == before


def test_a_batch_larger_than_the_data_is_no_batch(sealed_store: Store) -> None:
    with make(sealed_store, batch=29) as loader:
        assert loader.steps_per_epoch == 0
        assert list(loader.epoch(0)) == []


def test_a_missing_image_object_is_named(copy_store: Callable[[], Store]) -> None:
    store = copy_store()
    Path(store.root / layout.images_path(1)).unlink()
    with pytest.raises(CorruptError, match=r"images .*/images/000001.tar are not there; run `stillhouse verify`"):
        epoch(store)
