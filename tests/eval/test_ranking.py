"""Rankings and average precision against hand values and against counting."""

import numpy as np
import pytest

from stillhouse.eval.knn import unit_rows
from stillhouse.eval.ranking import average_precision, positive_places, precision_at, ranking


def places(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def test_average_precision_by_hand() -> None:
    assert average_precision(places(0, 1, 2), 3) == 1.0
    # at the second rank: precision 0 before, 1/2 at it
    assert average_precision(places(1), 1) == 0.25
    # ranks 1 and 4 of two: (1 + 1) / 2 and (1/3 + 2/4) / 2, each half of the recall
    assert average_precision(places(0, 3), 2) == pytest.approx((1 + (1 / 3 + 1 / 2) / 2) / 2, abs=1e-15)
    # a positive that was not ranked counts as recall that is never reached
    assert average_precision(places(0), 2) == 0.5
    assert average_precision(places(), 2) == 0.0
    with pytest.raises(ValueError, match="without positives"):
        average_precision(places(), 0)


def test_precision_ends_at_the_last_positive() -> None:
    assert precision_at(places(0, 3), (1, 2, 4, 10)) == [1.0, 0.5, 0.5, 0.5]
    assert precision_at(places(2), (1, 5)) == [0.0, 1 / 3]
    assert precision_at(places(), (1, 5)) == [0.0, 0.0]


def test_junk_moves_what_is_behind_it_forward() -> None:
    ranked = np.array([4, 0, 3, 1, 2])
    assert positive_places(ranked, np.array([3, 2]), np.array([4, 1])).tolist() == [1, 2]
    assert positive_places(ranked, np.array([3, 2]), np.array([], np.int64)).tolist() == [2, 4]
    assert positive_places(ranked, np.array([4]), np.array([0, 1, 2, 3])).tolist() == [0]


@pytest.mark.parametrize("seed", range(20))
def test_average_precision_is_the_area_that_is_counted(seed: int) -> None:
    """Walk down the list one by one and add up trapezoids under precision over recall."""
    random = np.random.default_rng(seed)
    num, num_positives, num_junk = int(random.integers(5, 60)), int(random.integers(1, 5)), int(random.integers(0, 5))
    roles = random.permutation(num)
    positives, junk = roles[:num_positives], roles[num_positives : num_positives + num_junk]
    ranked = random.permutation(num)
    area, found, seen, recall, precision = 0.0, 0, 0, 0.0, 1.0
    for row in ranked.tolist():
        if row in junk:
            continue
        seen += 1
        found += row in positives
        area += (found / num_positives - recall) * (found / seen + precision) / 2
        recall, precision = found / num_positives, found / seen
    assert average_precision(positive_places(ranked, positives, junk), num_positives) == pytest.approx(area, abs=1e-12)


def test_rankings_equal_sorting_exact_products() -> None:
    random = np.random.default_rng(0)
    database, queries = (
        unit_rows(random.standard_normal((80, 16), np.float32)),
        unit_rows(random.standard_normal((300, 16), np.float32)),
    )
    found = ranking(database, queries)
    assert found.shape == (300, 80) and found.dtype == np.int64
    for query, rows in zip(queries.astype(float), found, strict=True):
        exact = [sum(a * b for a, b in zip(query.tolist(), row.tolist(), strict=True)) for row in database]
        assert rows.tolist() == sorted(range(80), key=lambda row: (-exact[row], row))


def test_copies_rank_by_row() -> None:
    random = np.random.default_rng(1)
    once = unit_rows(random.standard_normal((37, 129), np.float32))
    database = once[random.permutation(np.arange(37).repeat(7))]
    for rows in ranking(database, once[:5]):
        images = [database[row].tobytes() for row in rows]
        for start in range(0, len(rows), 7):
            assert len(set(images[start : start + 7])) == 1, "the seven copies of an image stand together"
            assert (np.diff(rows[start : start + 7]) > 0).all()
