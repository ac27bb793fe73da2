"""Metrics against loops over pixels, constants against numbers by hand."""

import math

import numpy as np
import pytest

from stillhouse.core.errors import DataError, UsageError
from stillhouse.eval.tasks.depth.metrics import FLOOR_M, NAMES, RMSE, image_scores, judged_pixels, means


def maps(seed: int, shape: tuple[int, int] = (7, 9)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    true_hw = rng.uniform(-1, 12, shape)
    return (true_hw * rng.uniform(0.4, 2.5, shape)).clip(0.01).astype(np.float32), true_hw.astype(np.float32)


def by_loops(predicted_hw: np.ndarray, true_hw: np.ndarray, judged_hw: np.ndarray) -> list[float]:
    pixels = [
        (float(predicted_hw[row, column]), float(true_hw[row, column]))
        for row in range(true_hw.shape[0])
        for column in range(true_hw.shape[1])
        if judged_hw[row, column]
    ]
    num = len(pixels)
    logs = [math.log(p) - math.log(t) for p, t in pixels]
    return [
        *(sum(max(p / t, t / p) < 1.25**k for p, t in pixels) / num for k in (1, 2, 3)),
        sum(abs(p - t) / t for p, t in pixels) / num,
        sum((p - t) ** 2 / t for p, t in pixels) / num,
        math.sqrt(sum((p - t) ** 2 for p, t in pixels) / num),
        math.sqrt(sum(d * d for d in logs) / num),
        sum(abs(math.log10(p) - math.log10(t)) for p, t in pixels) / num,
        math.sqrt(sum(d * d for d in logs) / num - 0.5 * (sum(logs) / num) ** 2),
    ]


@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_what_loops_find(seed: int) -> None:
    predicted_hw, true_hw = maps(seed)
    judged_hw = judged_pixels(true_hw, low=1e-3, high=10, eigen=False)
    assert 0 < judged_hw.sum() < judged_hw.size
    scores = image_scores(predicted_hw, true_hw, judged_hw)
    np.testing.assert_allclose(scores.values_K, by_loops(predicted_hw, true_hw, judged_hw), rtol=1e-12, atol=1e-12)
    assert scores.non_positive == 0


def test_a_constant_prediction() -> None:
    """2 m said of 1 m and of 4 m: both a factor of 2, off by 1 and by 2."""
    scores = image_scores(np.full((1, 2), 2.0), np.array([[1.0, 4.0]]), np.ones((1, 2), dtype=bool))
    by_hand = {
        "d1": 0, "d2": 0, "d3": 0,
        "abs_rel": (1 / 1 + 2 / 4) / 2, "sq_rel": (1 / 1 + 4 / 4) / 2, "rmse": math.sqrt((1 + 4) / 2),
        "rmse_log": math.log(2), "log10": math.log10(2), "silog": math.log(2),
    }  # fmt: skip
    assert dict(zip(NAMES, scores.values_K, strict=True)) == pytest.approx(by_hand, abs=1e-12)


def test_silog_halves_a_common_factor() -> None:
    true_hw = np.array([[1.0, 3.0]])
    silog = image_scores(true_hw * 2, true_hw, np.ones((1, 2), dtype=bool)).values_K[NAMES.index("silog")]
    assert silog == pytest.approx(math.log(2) * math.sqrt(0.5), abs=1e-12)


def test_rmse_is_the_mean_of_images() -> None:
    """Images off by 1 m and by 3 m: 2 m, not the root of 5."""
    items_NK = np.stack(
        [
            image_scores(np.full((1, 1), 2.0 + off), np.full((1, 1), 2.0), np.ones((1, 1), bool)).values_K
            for off in (1, 3)
        ]
    )
    assert means(items_NK)["rmse"] == items_NK[:, RMSE].mean() == pytest.approx(2.0)


def test_eigens_crop_and_the_range() -> None:
    true_hw = np.full((480, 640), 5.0, dtype=np.float32)
    assert judged_pixels(true_hw, low=1e-3, high=10, eigen=True).sum() == (471 - 45) * (601 - 41)
    true_hw[[45, 470, 44, 471], [41, 600, 41, 41]] = [1e-3, 10, 20, 20]
    judged_hw = judged_pixels(true_hw, low=1e-3, high=10, eigen=True)
    assert judged_hw.sum() == (471 - 45) * (601 - 41) - 2 and not judged_hw[45, 41] and not judged_hw[470, 600]
    with pytest.raises(DataError, match="480 x 640, this one is 4 x 5"):
        judged_pixels(np.ones((4, 5), np.float32), low=1e-3, high=10, eigen=True)


def test_predictions_behind_the_camera_are_counted_and_never_nan() -> None:
    true_hw, judged_hw = np.array([[2.0, 2.0, 2.0, 2.0]]), np.array([[True, True, True, False]])
    scores = image_scores(np.array([[2.0, 0.0, -2.0, -9.0]]), true_hw, judged_hw)
    found = dict(zip(NAMES, scores.values_K, strict=True))
    assert scores.non_positive == 2
    assert found["d3"] == pytest.approx(1 / 3)  # two numbers of unlike sign are within no factor
    assert found["rmse"] == pytest.approx(math.sqrt((0 + 4 + 16) / 3))
    assert found["rmse_log"] == pytest.approx(math.sqrt(2 / 3) * math.log(2 / FLOOR_M))


def test_what_cannot_be_scored_is_refused() -> None:
    one, judged_hw = np.ones((1, 2)), np.array([[True, False]])
    with pytest.raises(UsageError, match="1 of 1 predicted depths are not finite"):
        image_scores(np.array([[np.nan, 1.0]]), one, judged_hw)
    assert np.isfinite(image_scores(np.array([[1.0, np.nan]]), one, judged_hw).values_K).all()
    with pytest.raises(DataError, match="no pixel"):
        image_scores(one, one, np.zeros((1, 2), dtype=bool))
