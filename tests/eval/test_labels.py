"""Labels: beside their dots, in the frame, and off each other while there is room."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.eval.labels import Box, place

FRAME = Box(0, 0, 400, 300)
SIZE = (40.0, 14.0)


def boxes(dots: list[tuple[float, float]], line: list[tuple[float, float]] | None = None) -> list[Box]:
    return place(dots, [SIZE] * len(dots), FRAME, line or [])


@pytest.mark.parametrize("gap", [0.0, 9.0])
def test_labels_of_crowded_dots_lie_apart(gap: float) -> None:
    dots = [(200 + gap * (number % 4), 150 + gap * (number // 4)) for number in range(12)]
    found = boxes(dots)
    assert not [pair for pair in combinations(found, 2) if pair[0].overlap(pair[1])]
    for box in found:
        assert not [dot for dot in dots if box.left < dot[0] < box.right and box.top < dot[1] < box.bottom]


def test_a_dot_alone_has_its_label_near_and_off_the_line() -> None:
    line = [(float(x), 150.0) for x in range(0, 400, 2)]
    (box,) = boxes([(200, 160)], line)
    assert box.top > 150 and max(abs(200 - x) + abs(160 - y) for x, y in [box.nearest(200, 160)]) < 15


def test_a_way_through_a_box_is_measured() -> None:
    box = Box(10, 10, 30, 20)
    assert box.crossed((0, 15), (40, 15)) == pytest.approx(20)
    assert box.crossed((20, 0), (20, 15)) == pytest.approx(5)
    assert box.crossed((0, 0), (40, 5)) == 0
    assert box.crossed((0, 30), (9, 0)) == 0


@given(st.lists(st.tuples(st.floats(0, 400), st.floats(0, 300)), max_size=8))
def test_every_label_is_in_the_frame(dots: list[tuple[float, float]]) -> None:
    found = boxes(dots)
    assert len(found) == len(dots)
    for box in found:
        assert -1e-6 <= box.left < box.right <= 400 + 1e-6 and -1e-6 <= box.top < box.bottom <= 300 + 1e-6
