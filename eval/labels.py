"""Where the labels of dots go, so that none hides a dot or another label: pure geometry in pixels."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Point = tuple[float, float]
DOT_PX = 6.0
DISTANCES_PX = (7.0, 14.0, 24.0, 36.0, 50.0, 66.0, 84.0, 104.0)
DIRECTIONS, ROUNDS = 16, 6
LABEL_COST, LEADER_COST, DISTANCE_COST = 4.0, 20.0, 2.0
"""Of a square pixel of a label or dot that is covered, of a pixel of one under a leader, of a pixel from the dot."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: "Box") -> float:
        """The area that two boxes share."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return wide * high if wide > 0 and high > 0 else 0.0

    def nearest(self, x: float, y: float) -> Point:
        """The point of the box that is nearest to (x, y)."""
        return min(max(x, self.left), self.right), min(max(y, self.top), self.bottom)

    def crossed(self, begin: Point, end: Point) -> float:
        """How much of the way from `begin` to `end` lies within."""
        enter, leave = 0.0, 1.0
        for at, to, low, high in zip(begin, end, (self.left, self.top), (self.right, self.bottom), strict=True):
            if at == to:
                if not low < at < high:
                    return 0.0
            else:
                first, last = sorted(((low - at) / (to - at), (high - at) / (to - at)))
                enter, leave = max(enter, first), min(leave, last)
        return max(leave - enter, 0.0) * math.dist(begin, end)


@dataclass(frozen=True, slots=True)
class _Place:
    """A box for a label, the ends of the line from its dot to it, and how bad it is without other labels."""

    box: Box
    begin: Point
    end: Point
    cost: float

    def clash(self, other: "_Place") -> float:
        """How bad two places are together."""
        under = other.box.crossed(self.begin, self.end) + self.box.crossed(other.begin, other.end)
        hidden = self.box.overlap(other.box)
        return LABEL_COST * (hidden + 25 * (hidden > 0)) + LEADER_COST * (under + 10 * _meet(self, other))


def place(dots: Sequence[Point], sizes: Sequence[Point], frame: Box, line: Sequence[Point] = ()) -> list[Box]:
    """A box of each size beside its dot, inside `frame`; near the dot where there is room, and off the `line` if it can be.

    Each label in turn takes the best place that the others leave, a few times over.
    """
    bodies = [Box(x - DOT_PX, y - DOT_PX, x + DOT_PX, y + DOT_PX) for x, y in dots]
    passed = [Box(x - 1, y - 1, x + 1, y + 1) for x, y in line]
    places = [
        sorted(_places(dot, size, frame, bodies, passed), key=lambda one: one.cost)
        for dot, size in zip(dots, sizes, strict=True)
    ]
    found = [each[0] for each in places]
    for _ in range(ROUNDS):
        before = list(found)
        for index, each in enumerate(places):
            found[index] = _best(each, found[:index] + found[index + 1 :])
        if found == before:
            break
    return [one.box for one in found]


def _best(places: Sequence[_Place], others: Sequence[_Place]) -> _Place:
    """The cheapest of places that are sorted by what they cost alone."""
    best, least = places[0], math.inf
    for one in places:
        if one.cost >= least:
            break
        cost = one.cost + sum(map(one.clash, others))
        if cost < least:
            best, least = one, cost
    return best


def _places(dot: Point, size: Point, frame: Box, bodies: Sequence[Box], passed: Sequence[Box]) -> Iterator[_Place]:
    """Places around a dot, pushed back into the frame; `bodies` are all dots, `passed` is the line."""
    (x, y), (wide, high) = dot, size
    for distance in DISTANCES_PX:
        for step in range(DIRECTIONS):
            turn = math.tau * step / DIRECTIONS
            left = x + math.cos(turn) * (distance + wide / 2) - wide / 2
            top = y + math.sin(turn) * (distance + high / 2) - high / 2
            left, top = min(max(left, frame.left), frame.right - wide), min(max(top, frame.top), frame.bottom - high)
            box = Box(left, top, left + wide, top + high)
            end = box.nearest(x, y)
            cost = DISTANCE_COST * math.dist(dot, end) + sum(map(box.overlap, passed))
            cost += LEADER_COST * sum(body.crossed(dot, end) for body in bodies)  # its own body alike in every place
            cost += LABEL_COST * sum(map(box.overlap, bodies))
            yield _Place(box, dot, end, cost)


def _meet(one: _Place, other: _Place) -> bool:
    """Whether the lines to two labels cross."""
    return _side(one, other.begin) * _side(one, other.end) < 0 and _side(other, one.begin) * _side(other, one.end) < 0


def _side(place: _Place, point: Point) -> float:
    """Above 0 on one side of the line to a label, below on the other."""
    (x, y), (end_x, end_y) = place.begin, place.end
    return (end_x - x) * (point[1] - y) - (end_y - y) * (point[0] - x)
