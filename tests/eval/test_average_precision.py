"""Eleven-point average precision against its definition, and against the published function."""

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve

from stillhouse.eval.average_precision import eleven_point, mean_eleven_point


def by_definition(scores: np.ndarray, positives: np.ndarray) -> float:
    """Every cut between two scores, every recall."""
    points = []
    for cut in sorted(set(scores.tolist())):
        taken = scores >= cut
        points.append((positives[taken].sum() / positives.sum(), positives[taken].mean()))
    terms = [max((precision for recall, precision in points if recall >= t), default=0) for t in np.linspace(0, 1, 11)]
    return sum(terms) / 11


def as_published(scores: np.ndarray, positives: np.ndarray) -> float:
    precision, recall, _ = precision_recall_curve(positives, scores)
    return sum(float(np.max(precision[recall >= t])) / 11 for t in np.linspace(0, 1, 11))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_against_the_definition(seed: int, ties: bool) -> None:
    random = np.random.default_rng(seed)
    positives = random.random(40) < random.choice([0.05, 0.3, 0.9])
    positives[0] = True
    scores = random.standard_normal(40) + positives
    if ties:
        scores = np.round(scores)
    assert eleven_point(scores, positives, origin=False) == pytest.approx(by_definition(scores, positives), abs=1e-12)
    assert eleven_point(scores, positives, origin=True) == pytest.approx(as_published(scores, positives), abs=1e-12)


def test_by_hand() -> None:
    """Positives at ranks 2 and 4 of 4: precision 1/2 up to recall 1/2, 2/4 after; the origin makes the first term 1."""
    scores, positives = np.array([4.0, 3, 2, 1]), np.array([False, True, False, True])
    assert eleven_point(scores, positives, origin=False) == pytest.approx(0.5)
    assert eleven_point(scores, positives, origin=True) == pytest.approx((1 + 10 * 0.5) / 11)
    assert eleven_point(scores, ~positives, origin=False) == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


def test_classes_that_no_image_shows_are_left_out() -> None:
    scores = np.array([[2.0, 1, 0], [1, 2, 5]])
    targets = np.array([[1, 0, 0], [0, 0, 0]])
    assert mean_eleven_point(scores, targets, origin=False) == 1.0
    assert mean_eleven_point(scores, np.zeros((2, 3), np.int64), origin=True) == 0.0
    assert eleven_point(np.ones(3), np.zeros(3, np.bool_), origin=True) == 0.0
