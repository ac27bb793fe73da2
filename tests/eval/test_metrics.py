import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from stillhouse.core.errors import UsageError
from stillhouse.eval.metrics import all_scores, mean_per_class, top1, top_k


def test_agree_with_scikit_learn() -> None:
    random = np.random.default_rng(0)
    labels, predictions = random.integers(0, 5, 200), random.integers(0, 5, 200)
    assert all_scores(predictions, labels) == {
        "top1": pytest.approx(accuracy_score(labels, predictions)),
        "mean_per_class": pytest.approx(balanced_accuracy_score(labels, predictions)),
    }


def test_mean_per_class_counts_only_classes_that_occur() -> None:
    labels = np.array([0, 0, 0, 3])
    assert mean_per_class(np.array([0, 0, 1, 3]), labels) == pytest.approx((2 / 3 + 1) / 2)
    assert mean_per_class(np.array([7, 7, 7, 3]), labels) == pytest.approx(1 / 2)


def test_top_k_breaks_ties_by_class() -> None:
    scores = np.array([[0.5, 0.5, 0.5], [0.1, 0.2, 0.7]])
    assert top_k(scores, np.array([1, 0]), 2) == 0.5
    assert top_k(scores, np.array([2, 0]), 2) == 0.0
    assert top_k(scores, np.array([2, 0]), 3) == 1.0


@pytest.mark.parametrize("num", [0, 3])
def test_unequal_or_empty_vectors_are_refused(num: int) -> None:
    with pytest.raises(UsageError, match="must be two vectors of one length"):
        top1(np.zeros(num, np.int64), np.zeros(0, np.int64))
