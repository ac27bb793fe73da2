"""The rule by which a loss that falls for nothing is told of."""

import numpy as np
import pytest

from stillhouse.eval.metrics import METRICS, MetricName
from stillhouse.eval.transfer import Point, noise_of, warning

NOISE = 0.02


def points(*pairs: tuple[float | None, float]) -> list[Point]:
    """Looks every hundred steps, by (loss, score)."""
    return [Point(100 * n, loss, score, NOISE) for n, (loss, score) in enumerate(pairs)]


FALLING = ((None, 0.30), (1.0, 0.40), (0.9, 0.50), (0.8, 0.45), (0.7, 0.44), (0.6, 0.43))


def test_a_probe_that_falls_while_the_loss_falls() -> None:
    assert warning(points(*FALLING)) == (
        "loss falls, transfer does not: the loss fell from 0.9 at step 200 to 0.6 at step 500, and knn was at most "
        "0.450 meanwhile; at step 200 it was 0.500, with a noise of 0.020"
    )


def test_a_probe_that_never_rose() -> None:
    flat = points((None, 0.30), (1.0, 0.31), (0.8, 0.33), (0.7, 0.335), (0.6, 0.32))
    assert warning(flat) == (
        "loss falls, transfer does not: the loss fell from 1 at step 100 to 0.6 at step 400, and knn has not been above "
        "0.335; at step 0 it was 0.300, with a noise of 0.020"
    )
    assert warning([*flat, Point(500, 0.5, 0.35, NOISE)]) is None, "above the first by more than twice its noise"


@pytest.mark.parametrize(
    "looks",
    [
        (),
        FALLING[:1],
        FALLING[:3],
        FALLING[:5],  # one of the last three is the best of all
        ((None, 0.30), (1.0, 0.4), (0.8, 0.5), (0.7, 0.6), (0.6, 0.6)),  # it rises
        ((None, 0.30), (1.0, 0.50), (0.9, 0.47), (0.8, 0.47), (0.7, 0.47)),  # it falls by less than its noise
        ((None, 0.30), (1.0, 0.50), (0.99, 0.40), (0.98, 0.40), (0.96, 0.40)),  # the loss does not fall enough
        ((None, 0.30), (1.0, 0.50), (1.1, 0.40), (1.2, 0.40), (1.3, 0.40)),  # it rises: that is another trouble
        ((None, 0.30), (1.0, 0.50), (0.9, 0.52), (0.8, 0.52), (0.7, 0.52)),  # what it will reach is reached
        ((None, 0.50), (1.0, 0.30), (0.8, 0.30), (0.5, 0.30)),  # no loss to compare with
    ],
)
def test_what_is_not_warned_of(looks: tuple[tuple[float | None, float], ...]) -> None:
    assert warning(points(*looks)) is None


def test_losses_below_zero_fall_too() -> None:
    looks = [(None, 0.5), (-1.0, 0.5), (-1.02, 0.4), (-1.04, 0.4), (-1.06, 0.4)]
    assert warning(points(*looks)) is not None
    assert warning(points(*looks[:-1], (-1.04, 0.4))) is None


@pytest.mark.parametrize("metric", METRICS)
def test_noise_is_the_deviation_of_redrawn_coins(metric: MetricName) -> None:
    """Classes of 150, 40 and 10 images, hit with chances 0.9, 0.5 and 0.3."""
    labels_N = np.repeat([0, 1, 2], [150, 40, 10])
    random, chance_N = np.random.default_rng(0), np.array([0.9, 0.5, 0.3])[labels_N]
    noises, scores = [], []
    for _ in range(400):
        predictions_N = np.where(random.random(200) < chance_N, labels_N, 3)
        noises.append(noise_of(predictions_N, labels_N, metric))
        scores.append(METRICS[metric](predictions_N, labels_N))
    if metric == "top1":  # counted as coins of one chance, whose variance is the larger
        assert np.std(scores) < np.mean(noises) < 1.3 * np.std(scores)
    else:
        assert np.mean(noises) == pytest.approx(np.std(scores), rel=0.1)


def test_a_perfect_score_is_not_without_noise() -> None:
    labels_N = np.zeros(98, np.int64)
    assert noise_of(labels_N, labels_N, "top1") == pytest.approx((0.99 * 0.01 / 98) ** 0.5)
