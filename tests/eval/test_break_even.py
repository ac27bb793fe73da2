"""When a store has paid for itself: the formula, and the two ways side by side."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.eval.break_even import BreakEven


def test_by_hand() -> None:
    """A live teacher of 100 images a second takes 50 s for 5,000 images; 120 s are paid back by the third student."""
    found = BreakEven(once_s=120, student_s=30, student_images=5000, teacher_rate=100)
    assert (found.live_s, found.students) == (50, 3) and found.ratio == pytest.approx(2.4)
    store, live = found.curves(3)
    assert store == [120, 150, 180, 210] and live == [0, 80, 160, 240]


@given(*[st.floats(0.1, 1e6)] * 3, st.integers(1, 10**6))
def test_it_is_where_the_store_is_no_longer_dearer(once: float, student: float, rate: float, images: int) -> None:
    found = BreakEven(once_s=once, student_s=student, student_images=images, teacher_rate=rate)
    live, k = images / rate, found.students
    assert k >= 1 and once + k * student <= k * (student + live) * (1 + 1e-6)
    assert k == 1 or once > (k - 1) * live * (1 - 1e-6)
