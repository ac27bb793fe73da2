"""What the probes read: which images, which labels, which pixels, and the tokens of an encoder."""

from pathlib import Path

import numpy as np
import pytest
import torch

from stillhouse.core.errors import UsageError
from stillhouse.core.events import Reporter
from stillhouse.eval.config import EvalConfig
from stillhouse.eval.features import (
    batches,
    classes_of,
    encode_images,
    labelled_rows,
    middle_pixels,
    patch_maps,
    require_labels,
)
from stillhouse.eval.subjects import Subject, exported_student
from stillhouse.stage1_extract.ingest import ingest
from stillhouse.stage1_extract.testing import TINY_VIEWS, tiny_images, tiny_ingest
from stillhouse.storage.decode import decode
from stillhouse.storage.store import Store

CONFIG = EvalConfig(device="cpu", threads=2, batch=5)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Forty images, one of them bad, some of them without a label, no features."""
    folder = tmp_path_factory.mktemp("features")
    images = tiny_images(folder / "images", 40)
    (images / "a" / "0000.png").write_bytes(b"no image")
    for path in list((images / "c").iterdir())[:3]:
        path.rename(images / path.name)  # not in a folder: no label
    ingest(folder / "store", tiny_ingest(images, split={"test": 0.3}), TINY_VIEWS, Reporter(quiet=True))
    return Store.open(folder / "store")


@pytest.fixture(scope="module")
def student(finished: Path) -> Subject:
    return exported_student(finished / "students" / "student-seed0" / "student", "student")


def test_labelled_rows_are_the_good_ones_with_a_label(store: Store) -> None:
    assert classes_of(store) == ("a", "b", "c")
    train, test = labelled_rows(store, "train"), labelled_rows(store, "test")
    assert len(train.keys) + len(test.keys) == 40 - 1 - 3
    assert not set(train.keys) & set(test.keys) and "a/0000.png" not in train.keys + test.keys
    for rows in (train, test):
        assert [
            ("abc"[label], store.samples(b)[i].key) for label, (b, i) in zip(rows.labels_N, rows.at, strict=True)
        ] == [(key.split("/")[0], key) for key in rows.keys]
        assert rows.labels_N.dtype == np.int64


def test_splits_that_are_not_there(store: Store) -> None:
    with pytest.raises(UsageError, match=r"has no split 'val', only test, train; set ingest.split, e.g. {test: 0.2}"):
        labelled_rows(store, "val")
    with pytest.raises(UsageError, match="has no split 'val'"):
        require_labels(store, EvalConfig(test="val"))
    require_labels(store, EvalConfig())


def test_pixels_are_the_plain_middle(store: Store) -> None:
    """Of a 40 x 36 image the central 32 x 32: 7/8 of the shorter side, which is the size of a view here."""
    rows = labelled_rows(store, "test")
    pixels = middle_pixels(store, rows, threads=3)
    assert pixels.shape == (len(rows.keys), 32, 32, 3) and pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, middle_pixels(store, rows, threads=1))
    for at, found in zip(rows.at, pixels, strict=True):
        np.testing.assert_array_equal(found, decode(store.image_bytes(*at)).crop((4, 2, 36, 34)))


def test_features_do_not_depend_on_the_batch(store: Store, student: Subject) -> None:
    rows = labelled_rows(store, "test")
    pixels = middle_pixels(store, rows, threads=1)
    counted: list[int] = []
    found = encode_images(student, pixels, rows.labels_N, 3, CONFIG, counted.append)
    whole = encode_images(student, pixels, rows.labels_N, 3, CONFIG.model_copy(update={"batch": 64}))
    assert sum(counted) == len(pixels) and max(counted) == 5
    assert len(found.blocks) == 2, "a student of two blocks gives two, where four are asked for"
    assert found.cls.shape == found.patch_mean.shape == (len(pixels), 48) and found.num_classes == 3
    for one, other in zip((*found.blocks, found.patch_mean), (*whole.blocks, whole.patch_mean), strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=1e-5)
    np.testing.assert_array_equal(found.labels, rows.labels_N)


def test_features_are_those_of_a_forward_pass(store: Store, student: Subject) -> None:
    rows = labelled_rows(store, "test")
    pixels = middle_pixels(store, rows, threads=1)
    found = encode_images(student, pixels, rows.labels_N, 3, CONFIG)
    tokens, grid = patch_maps(student, pixels[:4], CONFIG)
    x = torch.from_numpy((pixels[:4] / 255 - 0.5) / 0.5).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        expected = student.encoder(x)
    np.testing.assert_allclose(found.cls[:4], expected.cls_BD.numpy(), atol=1e-5)
    np.testing.assert_allclose(found.patch_mean[:4], expected.patch_BTD.mean(dim=1).numpy(), atol=1e-5)
    assert grid == expected.grid == (4, 4)
    np.testing.assert_allclose(np.stack(tokens), expected.patch_BTD.numpy(), atol=1e-5)


def test_batches_keep_the_order_and_the_rest() -> None:
    pixels = np.arange(7, dtype=np.uint8).reshape(7, 1)
    assert [len(part) for part in batches(pixels, 3)] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(list(batches(pixels, 3))), pixels)
    assert list(batches(pixels[:0], 3)) == []
