"""A tour: each place once, alone in order, and several share the work without a word."""

import heapq
import random
from collections.abc import Callable

import pytest

from stillhouse.stage1_extract.tour import Tour, longest_run


def first(below: int) -> int:
    return 0


def test_alone_it_goes_around() -> None:
    assert list(Tour("abcd", lambda _: False, lambda below: 2 if below == 4 else 0)) == ["c", "d", "a", "b"]
    assert list(Tour([], lambda _: False)) == []


def test_what_others_did_meanwhile_is_left_alone() -> None:
    done = {"b", "c"}
    tour = Tour("abcdefgh", done.__contains__, first)
    assert tour.next() == "a"
    assert tour.next() == "f"  # the middle of d to h
    done |= {"d", "e", "g", "h"}
    assert tour.next() is None


@pytest.mark.parametrize(
    ("indices", "around", "run"),
    [
        ([0], 1, (0, 1)),
        ([0, 1, 4, 5, 6], 9, (4, 3)),
        ([0, 1, 4, 8], 9, (8, 3)),
        ([0, 1, 2], 3, (0, 3)),
        ([1, 3], 5, (1, 1)),
    ],
)
def test_longest_run(indices: list[int], around: int, run: tuple[int, int]) -> None:
    assert longest_run(indices, around) == run


def shared(num: int, paces: list[float], draw: Callable[[int], int]) -> int:
    """How many times a place was done, all workers together; each place takes a worker so many seconds."""
    done: set[int] = set()
    tours = [Tour(range(num), done.__contains__, draw) for _ in paces]
    working = [(0.0, worker, -1) for worker in range(len(paces))]
    times = 0
    while working:
        now, worker, place = heapq.heappop(working)
        if place >= 0:
            times += 1
            if place in done:
                tours[worker].jump()
            done.add(place)
        following = tours[worker].next()
        if following is not None:
            heapq.heappush(working, (now + paces[worker], worker, following))
    assert done == set(range(num))
    return times


@pytest.mark.parametrize("paces", [[1.0, 1.0], [1.0, 0.3], [1.0, 1.01, 0.99], [1.0] * 6])
@pytest.mark.parametrize("num", [7, 60, 400])
def test_several_waste_next_to_nothing(paces: list[float], num: int) -> None:
    draw = random.Random(num).randrange
    wasted = [shared(num, paces, draw) - num for _ in range(20)]
    assert sum(wasted) / 20 <= 2.0 * (len(paces) - 1)
