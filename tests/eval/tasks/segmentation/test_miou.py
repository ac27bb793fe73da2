"""Mean IoU against sets of pixels counted one by one."""

import numpy as np
import pytest

from stillhouse.eval.tasks.segmentation.miou import areas, class_iou, mean_accuracy, mean_iou, pixel_accuracy

K = 6


def masks(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A prediction and a truth of 9 x 7 pixels; class 4 is never true, class 5 is neither true nor said."""
    draw = np.random.Generator(np.random.PCG64(seed))
    truth = draw.integers(0, 4, (9, 7)).astype(np.uint8)
    truth[draw.random((9, 7)) < 0.2] = 255
    return draw.integers(0, 5, (9, 7)).astype(np.uint8), truth


def test_it_is_what_counting_pixels_gives() -> None:
    pairs = [masks(seed) for seed in range(5)]
    items_NK = np.stack([areas(predicted, truth, K) for predicted, truth in pairs])
    for rows in ([0, 1, 2, 3, 4], [2], [1, 1, 4]):
        judged = [
            (int(p), int(t))
            for i in rows
            for p, t in zip(pairs[i][0].ravel(), pairs[i][1].ravel(), strict=True)
            if t != 255
        ]
        ious, accuracies = [], []
        for k in range(K):
            both, union = sum(p == k == t for p, t in judged), sum(k in (p, t) for p, t in judged)
            label = sum(t == k for _, t in judged)
            ious += [both / union] if union else []
            accuracies += [both / label] if label else []
        assert len(ious) == 5 and len(accuracies) == 4
        assert mean_iou(items_NK[rows]) == pytest.approx(sum(ious) / len(ious), abs=1e-12)
        assert mean_accuracy(items_NK[rows]) == pytest.approx(sum(accuracies) / len(accuracies), abs=1e-12)
        assert pixel_accuracy(items_NK[rows]) == pytest.approx(sum(p == t for p, t in judged) / len(judged), abs=1e-12)


def test_the_truth_scores_exactly_one() -> None:
    truths = [masks(seed)[1] for seed in range(3)]
    said = [np.where(truth == 255, 3, truth) for truth in truths]
    items_NK = np.stack([areas(one, truth, K) for one, truth in zip(said, truths, strict=True)])
    assert mean_iou(items_NK) == mean_accuracy(items_NK) == pixel_accuracy(items_NK) == 1.0
    assert np.array_equal(np.isnan(class_iou(items_NK)), [False] * 4 + [True] * 2)


def test_one_class_everywhere_scores_its_share() -> None:
    """10 pixels judged: 6 of class 0, 3 of 1, 1 of 2; all said to be 0: IoU 0.6, 0, 0."""
    truth = np.array([[0, 0, 0, 0, 0, 0], [1, 1, 1, 2, 255, 255]], np.uint8)
    items_NK = areas(np.zeros_like(truth), truth, 3)[None]
    assert mean_iou(items_NK) == pytest.approx(0.6 / 3, abs=1e-15)
    assert mean_accuracy(items_NK) == pytest.approx(1 / 3, abs=1e-15) and pixel_accuracy(items_NK) == 0.6


def test_nothing_judged_is_no_score() -> None:
    items_NK = areas(np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8), 3)[None]
    assert mean_iou(items_NK) == mean_accuracy(items_NK) == pixel_accuracy(items_NK) == 0.0
