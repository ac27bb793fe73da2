"""Frames of a clip as one row: by hand, and from a store as from the live teacher."""

from pathlib import Path

import numpy as np
import pytest

from stillhouse.core.errors import UsageError
from stillhouse.core.events import Reporter
from stillhouse.eval.clips import Frames, average_rows, clip_features, stored_frames
from stillhouse.eval.config import EvalConfig
from stillhouse.eval.features import encode_images
from stillhouse.eval.linear import LinearConfig, LinearProbe
from stillhouse.eval.subjects import teacher_subject
from stillhouse.stage1_extract.config import ExtractConfig
from stillhouse.stage1_extract.extract import extract
from stillhouse.stage1_extract.ingest import ingest
from stillhouse.stage1_extract.testing import TINY_VIEWS, tiny_images, tiny_ingest, tiny_teacher
from stillhouse.storage.decode import decode
from stillhouse.storage.store import Store
from stillhouse.storage.views import render

KEYS = ("hop/c2/1.jpg", "run/c1/1.jpg", "hop/c2/2.jpg", "hop/c1/1.jpg", "run/c1/2.jpg", "run/c1/3.jpg")
ROWS = np.array([[1, 0], [2, 2], [3, 0], [7, 7], [4, 0], [6, 1]], np.float32)


def test_rows_of_a_clip_are_averaged() -> None:
    found = average_rows(ROWS, KEYS)
    assert found.tolist() == [[7, 7], [2, 0], [4, 1]] and found.dtype == np.float32
    with pytest.raises(UsageError, match="6 rows of features and 5 keys"):
        average_rows(ROWS, KEYS[1:])


def test_means_do_not_depend_on_how_frames_stand_among_others() -> None:
    rows = np.random.default_rng(0).standard_normal((600, 16)).astype(np.float32)
    keys = [f"a/{i % 7}/{i:03d}.jpg" for i in range(600)]
    found = average_rows(rows, keys)
    for clip in range(7):
        mine = rows[clip::7]
        np.testing.assert_allclose(found[clip], mine.astype(np.float64).mean(axis=0), rtol=1e-6)
        np.testing.assert_array_equal(found[clip], average_rows(mine, keys[clip::7])[0])


def test_clips_are_labelled_by_the_folder_that_they_lie_in() -> None:
    features, clips = clip_features(Frames((ROWS + 1, ROWS), 2 * ROWS, KEYS), ("fly", "hop", "run"))
    assert clips == ("hop/c1", "hop/c2", "run/c1")
    assert features.labels.tolist() == [1, 1, 2] and features.num_classes == 3
    assert features.cls.tolist() == [[7, 7], [2, 0], [4, 1]] and features.patch_mean.tolist() == [
        [14, 14],
        [4, 0],
        [8, 2],
    ]
    assert features.blocks[0].tolist() == [[8, 8], [3, 1], [5, 2]]
    with pytest.raises(UsageError, match="'run' is none of 1 classes"):
        clip_features(Frames((ROWS,), ROWS, KEYS), ("hop",))
    with pytest.raises(UsageError, match=r"key 'c1/1\.jpg' names no class and clip"):
        clip_features(Frames((ROWS[:1],), ROWS[:1], ("c1/1.jpg",)), ("hop",))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips of three frames each in two classes, with a tiny teacher's features in a store."""
    folder = tmp_path_factory.mktemp("clips")
    images = sorted(tiny_images(folder / "drawn", 36).rglob("*.png"))
    for number, image in enumerate(images):
        clip = number // 3
        to = folder / "frames" / ("hop", "run")[clip % 2] / f"c{clip:02d}" / f"{number % 3}.png"
        to.parent.mkdir(parents=True, exist_ok=True)
        image.rename(to)
    reporter = Reporter(quiet=True)
    ingest(folder / "store", tiny_ingest(folder / "frames"), TINY_VIEWS, reporter)
    extract(Store.open(folder / "store"), tiny_teacher(folder / "weights"), ExtractConfig(device="cpu"), reporter)
    return folder


def test_stored_frames_are_those_of_the_live_teacher(clips: Path) -> None:
    store = Store.open(clips / "store")
    frames = stored_frames(store, "tiny")
    assert len(frames.keys) == 36 and frames.keys != tuple(sorted(frames.keys)), "in the order of the store"
    pixels = []
    for block in store.plan.blocks_of("train"):
        params = store.view_params(0, block)
        pixels += [
            render(decode(store.image_bytes(block, row)), params[row], 32) for row in store.good_rows(block).tolist()
        ]
    subject = teacher_subject(tiny_teacher(clips / "weights"), store.teacher("tiny"))
    live = encode_images(subject, np.stack(pixels), np.zeros(36, np.int64), 1, EvalConfig(device="cpu"))
    for ours, theirs in ((frames.blocks[0], live.cls), (frames.patch_mean, live.patch_mean)):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, atol=2e-3 * float(np.abs(theirs).max()))


def test_a_probe_on_stored_clips(clips: Path) -> None:
    features, names = clip_features(stored_frames(Store.open(clips / "store"), "tiny"), ("hop", "run"))
    assert len(names) == len(features) == 12 and sorted(features.labels.tolist()) == [0] * 6 + [1] * 6
    result = LinearProbe(LinearConfig(iterations=300, learning_rates=(0.1,), selection="test")).run(features, features)
    assert result.scores["top1"] > 0.8, "what it was fitted on"


def test_a_teacher_without_patches_gives_its_cls_twice(taught_store: Store) -> None:
    frames = stored_frames(taught_store, "scorer")
    assert frames.patch_mean is frames.blocks[0] and frames.patch_mean.shape == (28, 48)
