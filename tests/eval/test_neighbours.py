"""Neighbours that a report shows: found by brute force too, kept by the kNN probe, of the same test images for any encoder."""

import json

import numpy as np

from stillhouse.eval.knn import KnnConfig, KnnProbe
from stillhouse.eval.neighbours import NUM_NEAREST, NUM_SHOWN, Neighbours, labels_in_turn
from stillhouse.eval.probe import Features


def features(num: int, seed: int) -> Features:
    rng = np.random.default_rng(seed)
    cls = rng.normal(size=(num, 6)).astype(np.float32)
    return Features((cls,), cls, rng.integers(0, 3, num), 3)


def find_neighbours(train: Features, test: Features, k: int = 20) -> Neighbours:
    """As the kNN probe keeps them."""
    details = KnnProbe(KnnConfig(ks=(k,), report_k=k)).run(train, test).details
    return Neighbours.from_json(json.loads(json.dumps(details["neighbours"])))


def test_they_are_those_of_brute_force() -> None:
    train, test = features(40, 0), features(20, 1)
    found = find_neighbours(train, test)
    assert len(found.test) == NUM_SHOWN
    unit_train, unit_test = (part.cls / np.linalg.norm(part.cls, axis=1, keepdims=True) for part in (train, test))
    cosines = unit_test.astype(np.float64) @ unit_train.astype(np.float64).T
    for number, row in enumerate(found.test):
        order = np.argsort(-cosines[row])[:NUM_NEAREST]
        assert found.train[number] == tuple(order)
        np.testing.assert_allclose(found.similarity[number], cosines[row][order], atol=1e-6)


def test_few_training_images_or_a_small_k_give_few_neighbours() -> None:
    assert {len(row) for row in find_neighbours(features(4, 0), features(2, 1)).train} == {4}
    assert {len(row) for row in find_neighbours(features(40, 0), features(2, 1), k=1).train} == {1}


def test_the_labels_come_in_turn() -> None:
    labels = np.array([2, 0, 0, 0, 1, 2, 0])
    assert labels_in_turn(labels, 5) == [1, 4, 0, 2, 5]
    assert labels_in_turn(labels, 99) == [1, 4, 0, 2, 5, 3, 6]
