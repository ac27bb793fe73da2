"""Planted copies, near copies, shared groups and orders are found, and nothing else is."""

import json

import numpy as np
import pytest

from stillhouse.core.config import parse_config
from stillhouse.core.errors import UsageError
from stillhouse.eval.duplicates import Pair, merged, near, same
from stillhouse.eval.features import labelled_rows
from stillhouse.eval.leakage import Images, LeakageConfig, check_leakage, images_of, shared_groups
from stillhouse.eval.order_bias import order_of_labels, order_of_rows
from stillhouse.storage.store import Store

NUM_TRAIN, NUM_TEST, WIDTH = 400, 120, 48


def rows(num: int, seed: int, mean: float = 1.5) -> np.ndarray:
    """float32 [num, WIDTH] in one cone, as features of real encoders are: cosines of strangers are about 0.7."""
    return (np.random.default_rng(seed).standard_normal((num, WIDTH)) + mean).astype(np.float32)


def images(split: str, num: int, seed: int, cls: np.ndarray | None = None) -> Images:
    random = np.random.default_rng(seed)
    return Images(
        keys=tuple(f"{split}/{i:04d}.png" for i in range(num)),
        labels_N=random.integers(0, 4, num),
        cls_ND=rows(num, seed) if cls is None else cls,
        pixel_hashes=tuple(range(seed * 10_000, seed * 10_000 + num)),
        source_hashes=tuple(f"{seed}-{i}" for i in range(num)),
    )


def named(*keys: str) -> Images:
    """Images of which nothing is known but their keys."""
    return Images(keys=keys, labels_N=np.zeros(len(keys), np.int64))


def test_planted_near_duplicates_are_found_and_nothing_else() -> None:
    train, test = rows(NUM_TRAIN, 1), rows(NUM_TEST, 2)
    planted = {3: 17, 40: 399, 41: 399, 77: 0}
    noise = np.random.default_rng(3).standard_normal((NUM_TEST, WIDTH)).astype(np.float32)
    for place, source in planted.items():
        test[place] = 7 * (
            train[source] + 0.4 * noise[place]
        )  # of another length, changed by two fifths of what differs
    found = near(train, test, cosine=0.99, ratio=0.4, neighbours=10).pairs
    assert {pair.test: pair.train for pair in found} == planted and len(found) == 4
    assert all(0.9 < (pair.cosine or 0) < 0.99 for pair in found), "found by standing out, not by the cosine"
    assert near(train, test, cosine=0.99, ratio=None, neighbours=10).pairs == ()
    loose = near(train, test, cosine=0.9, ratio=None, neighbours=10).pairs
    assert {pair.test: pair.train for pair in loose} == planted


def test_a_picture_that_is_there_many_times_is_found_by_its_cosine() -> None:
    """Its tenth neighbour is as near as the first, so nothing stands out."""
    train, test = rows(NUM_TRAIN, 1), rows(NUM_TEST, 2)
    train[100:130] = test[5]
    found = near(train, test, cosine=0.99, ratio=0.4, neighbours=10).pairs
    assert [pair.test for pair in found] == [5] * 10
    assert [pair.train for pair in found] == list(range(100, 110)), "equal ones by row"


def test_few_training_images_have_no_rest_to_stand_out_from() -> None:
    train, test = rows(5, 1), rows(NUM_TEST, 2)
    test[9] = train[2]
    assert [(pair.test, pair.train) for pair in near(train, test, cosine=0.99, ratio=0.4, neighbours=10).pairs] == [
        (9, 2)
    ]


@pytest.mark.parametrize("ratio", [None, 0.6])
def test_near_duplicates_are_those_that_counting_gives(ratio: float | None) -> None:
    train, test = rows(60, 1), rows(50, 2)
    test[:10] = train[:10] + 0.6 * test[:10]
    found = {(pair.test, pair.train) for pair in near(train, test, cosine=0.93, ratio=ratio, neighbours=4).pairs}
    expected = set()
    for i, one in enumerate(test.astype(float)):
        cosines = {
            j: float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
            for j, other in enumerate(train.astype(float))
        }
        four = sorted(cosines, key=lambda j: -cosines[j])[:4]
        far = 1 - cosines[four[-1]]
        expected |= {
            (i, j) for j in four if cosines[j] >= 0.93 or (ratio is not None and 1 - cosines[j] <= ratio * far)
        }
    assert found == expected and 5 < len(found) < 60


def test_features_that_tell_nothing_apart_find_no_duplicates() -> None:
    """An untrained encoder gives every image nearly the same cosine."""
    train, test = 100 + rows(NUM_TRAIN, 1), 100 + rows(NUM_TEST, 2)
    test[9] = train[2]
    found = near(train, test, cosine=0.99, ratio=0.4, neighbours=10)
    assert found.alike and [(pair.test, pair.train) for pair in found.pairs] == [(9, 2)], "it stands out all the same"
    train_images, test_images = (
        Images(keys=tuple(map(str, range(len(each)))), labels_N=np.zeros(len(each), np.int64), cls_ND=each)
        for each in (train, test)
    )
    report = check_leakage(train_images, test_images, LeakageConfig(ratio=None))
    assert report.pairs == () and not any("among" in warning for warning in report.warnings)
    assert report.lines[1].startswith(
        "near duplicates were not told by their cosine: most test images have 10 training"
    )


def test_equal_hashes_pair_with_the_first() -> None:
    assert list(same([5, 7, 7, 9], [7, 1, 9], "pixels")) == [Pair(0, 1, "pixels"), Pair(2, 3, "pixels")]


def test_pairs_of_one_picture_are_one() -> None:
    pairs = [Pair(4, 1, "pixels"), Pair(2, 9, "file"), Pair(4, 1, "near", 1.0), Pair(4, 3, "near", 0.99)]
    assert merged(pairs) == (Pair(2, 9, "file"), Pair(4, 1, "pixels", 1.0), Pair(4, 3, "near", 0.99))


def test_a_clean_split_warns_of_nothing() -> None:
    report = check_leakage(images("train", NUM_TRAIN, 1), images("test", NUM_TEST, 2), LeakageConfig())
    assert report.warnings == () and report.pairs == () and not report.touched_Q.any()
    assert report.lines[0] == "none of 120 test images is among the training images"
    assert report.lines[1] == "groups were not looked for: no `group` says which keys belong together"
    assert report.facts["touched"] == 0
    json.dumps(report.facts, allow_nan=False)


def test_scores_are_given_with_and_without_what_was_seen() -> None:
    train, test = images("train", NUM_TRAIN, 1), images("test", NUM_TEST, 2)
    assert train.cls_ND is not None and test.cls_ND is not None
    assert train.pixel_hashes is not None and train.source_hashes is not None
    train.labels_N[[7, 8, 9]] = test.labels_N[[0, 1, 2]]
    train.labels_N[9] = (train.labels_N[9] + 1) % 4
    test.cls_ND[0] = train.cls_ND[7]
    pixels, files = list(range(20_000, 20_000 + NUM_TEST)), [f"2-{i}" for i in range(NUM_TEST)]
    pixels[1], files[2] = train.pixel_hashes[8], train.source_hashes[9]
    test = Images(
        keys=test.keys,
        labels_N=test.labels_N,
        cls_ND=test.cls_ND,
        pixel_hashes=tuple(pixels),
        source_hashes=tuple(files),
    )
    right = np.arange(NUM_TEST) < 60
    report = check_leakage(train, test, LeakageConfig(), {"knn": right})
    assert [(pair.test, pair.train, pair.kind) for pair in report.pairs] == [
        (0, 7, "near"),
        (1, 8, "pixels"),
        (2, 9, "file"),
    ]
    assert np.flatnonzero(report.touched_Q).tolist() == [0, 1, 2]
    (warning,) = report.warnings
    assert warning == (
        "3 of 120 test images (2.50%) are among the training images: 1 the same file, 1 the same pixels, 1 near duplicates, "
        "1 of them with another label; test/0000.png is train/0007.png; test/0001.png is train/0008.png; "
        "test/0002.png is train/0009.png"
    )
    assert "knn: top-1 0.5000 on all test images, 0.4872 without those touched" in report.lines
    assert report.facts["top1"] == {"knn": {"all": 0.5, "untouched": 57 / 117}}
    assert (
        report.facts["pairs"] == {"near": 1, "pixels": 1, "file": 1} and report.facts["pairs_with_another_label"] == 1
    )


def test_what_was_not_looked_for_is_said() -> None:
    report = check_leakage(named("train"), named("test"), LeakageConfig())
    assert report.lines[:2] == (
        "copies were not looked for: there are no hashes of pixels",
        "near duplicates were not looked for: there are no features",
    )
    assert report.warnings == ()


def test_the_index_of_a_store_knows_copies(sealed_store: Store) -> None:
    rows_of = labelled_rows(sealed_store, "train")
    whole = images_of(sealed_store, rows_of)
    assert whole.keys == rows_of.keys and len(set(whole.pixel_hashes or ())) == len(rows_of.keys)
    report = check_leakage(whole, whole, LeakageConfig())
    assert report.touched_Q.all() and {pair.kind for pair in report.pairs} == {"file"}
    assert any(line.startswith(f"{len(rows_of.keys)} keys are in both splits") for line in report.lines)


def test_groups_that_lie_in_both() -> None:
    train = ("a/clip1_001.jpg", "a/clip1_002.jpg", "a/clip2_001.jpg", "loose.jpg")
    test = ("a/clip1_003.jpg", "b/clip3_001.jpg", "b/clip3_002.jpg")
    assert shared_groups(train, test, r"^(.*)_\d+") == {
        "a/clip1": (2, 1),
        "a/clip2": (1, 0),
        "b/clip3": (0, 2),
        "loose.jpg": (1, 0),
    }
    assert shared_groups(train, test, r"clip\d")["clip1"] == (2, 1), "without a group of its own all that it finds"
    warned = check_leakage(named(*train), named(*test), LeakageConfig(group=r"^(.*)_\d+"))
    (warning,) = warned.warnings
    assert warning.startswith("1 of 4 groups lie in both splits, with 1 of 3 test images: 'a/clip1'; split by group")
    clean = check_leakage(named("a_1", "a_2"), named("b_1", "b_2"), LeakageConfig(group="^(.*)_"))
    assert "none of 2 groups lies in both splits" in clean.lines and clean.warnings == ()
    with pytest.raises(UsageError, match=r"group '\^x' matches none of 7 keys, such as 'a/clip1_001\.jpg'"):
        shared_groups(train, test, "^x")
    with pytest.raises(UsageError, match="group: no regular expression: "):
        parse_config(LeakageConfig, {"group": "("}, where="leakage")


def test_order_of_labels_is_that_of_rows_of_zeros_and_a_one() -> None:
    random = np.random.default_rng(0)
    for labels in (random.integers(0, 5, 200), np.sort(random.integers(0, 5, 200)), np.arange(200) % 3):
        one, other = order_of_labels(labels), order_of_rows(np.eye(5, dtype=np.float32)[labels])
        assert one.value == pytest.approx(other.value, abs=1e-6) and one.z == pytest.approx(other.z, abs=1e-4)


def test_a_random_order_has_the_spread_that_it_is_held_against() -> None:
    """z of many orders has mean 0 and deviation 1; of few wide rows, of many, and of labels of unequal classes."""
    random = np.random.default_rng(0)
    labels, few, many = np.repeat(np.arange(4), (100, 60, 30, 10)), rows(12, 1), rows(200, 1)
    many[0] *= 9
    for found in (
        [order_of_labels(random.permutation(labels)).z for _ in range(800)],
        [order_of_rows(random.permutation(few)).z for _ in range(800)],
        [order_of_rows(random.permutation(many)).z for _ in range(800)],
    ):
        assert abs(np.mean(found)) < 4 / 800**0.5 and 0.9 < np.std(found) < 1.1
        assert max(map(abs, found)) < 5, "no false alarm"


def test_orders_that_give_labels_away() -> None:
    labels = np.repeat(np.arange(10), 50)
    assert order_of_labels(labels).value > 0.95 and order_of_labels(labels).biased
    assert order_of_labels(np.arange(500) % 10).biased, "classes in turn"
    shuffled = np.random.default_rng(0).permutation(labels)
    assert not order_of_labels(shuffled).biased
    drift = rows(300, 1) + np.linspace(0, 6, 300)[:, None].astype(np.float32) * np.eye(1, WIDTH, dtype=np.float32)
    assert order_of_rows(drift).biased and not order_of_rows(np.random.default_rng(0).permutation(drift)).biased
    for few in (np.zeros(50, np.int64), np.array([0, 1]), np.array([], np.int64)):
        assert not order_of_labels(few).biased


def test_an_order_by_class_is_warned_of() -> None:
    train = images("train", NUM_TRAIN, 1)
    train.labels_N.sort()
    report = check_leakage(train, images("test", NUM_TEST, 2), LeakageConfig())
    (warning,) = report.warnings
    assert warning.startswith("labels of train follow the order of the images (autocorrelation +0.9")
    assert warning.endswith("): ingest with `order: hashed`")
    assert report.facts["order_train_labels"]["z"] > 5
