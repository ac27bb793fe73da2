"""What training on codes does to the minimiser that is expected, on a problem that has a closed form.

A teacher's value is y = b + a x + s n, with n normal; q is what its code stands for; e = y - q. A student that minimises the
expected square against q instead of y lands on E[q|x] instead of E[y|x], or on the nearest of its class: it moves by the
projection of -E[e|x]. Decision 0005 says what follows.

Holds for every law and every quantiser whose points are conditional means, q = E[y|code]:

1. E[q] = E[y]: the mean prediction, which is the intercept over centred x, does not move.
2. E[e g(q)] = 0 for every g: a minimiser over functions of the code does not move at all.
3. E[e|x] is zero on average, and its mean square is at most D = E[e^2].
4. E[y e] = D: the code varies less than the value, by D. If x and y are jointly normal, the slope and E[q|x] - E[q] shrink by the
   factor 1 - D / var(y), however large the noise is. At a high rate D is step^2 / 12.

Does not hold: E[q|x] = E[y|x]. No noise makes the shrinking of 4. vanish; only cells small against var(y) do. Rounding to the
middle of cells is the other way round: 1. and 2. fail, and E[e|x] vanishes as noise grows against a cell, as with dither
(Widrow and Kollar, Quantization Noise, 2008): at most step / pi * sum over k of exp(-2 (pi k s / step)^2) / k.

Legend: X values of x, M cells.
"""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import ndtr

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class World:
    """x_X with probabilities p_X, of mean zero and variance one; y = intercept + slope x + noise n."""

    x_X: Array
    p_X: Array
    slope: float = 1.0
    noise: float = 1.0
    intercept: float = 0.3

    @property
    def variance(self) -> float:
        """var(y)."""
        return self.slope**2 + self.noise**2

    @property
    def mean_X(self) -> Array:
        """E[y|x]."""
        mean_X: Array = self.intercept + self.slope * self.x_X
        return mean_X

    def line(self, target_X: Array) -> tuple[float, float]:
        """(mean prediction, slope) of the straight line that minimises the expected square, for targets of E[.|x] = target_X."""
        return float(self.p_X @ target_X), float((self.p_X * self.x_X) @ target_X)


def world(law: str, *, slope: float = 1.0, noise: float = 1.0) -> World:
    """Normal x, or skewed as values after a ReLU are: gamma of shape 2."""
    x_X = np.linspace(-9, 9, 601) if law == "normal" else np.linspace(0, 40, 801)
    p_X = np.exp(-(x_X**2) / 2) if law == "normal" else x_X * np.exp(-x_X)
    p_X /= p_X.sum()
    x_X = x_X - p_X @ x_X
    return World(x_X / np.sqrt(p_X @ x_X**2), p_X, slope, noise)


@dataclass(frozen=True, slots=True)
class Quantiser:
    """Cell i is edges[i] ... edges[i + 1], the outer ones without end; every y in it is decoded as points[i]."""

    edges: Array
    points_M: Array

    def moments(self, of: World) -> tuple[Array, Array]:
        """P(cell|x) and E[y; cell|x], [X, M] each."""
        scaled = (self.edges - of.mean_X[:, None]) / of.noise
        below, density = ndtr(scaled), np.exp(-(scaled**2) / 2) / np.sqrt(2 * np.pi)
        p_XM = np.diff(below, axis=1)
        return p_XM, of.mean_X[:, None] * p_XM - of.noise * np.diff(density, axis=1)

    def expected(self, of: World) -> Array:
        """E[q|x], [X]."""
        expected_X: Array = self.moments(of)[0] @ self.points_M
        return expected_X

    def centred(self, of: World) -> "Quantiser":
        """The same cells with conditional means as points; a cell that nothing is in keeps its own."""
        p_M, y_M = (of.p_X @ moments for moments in self.moments(of))
        seen = p_M > 1e-200
        return Quantiser(self.edges, np.where(seen, y_M / np.where(seen, p_M, 1), self.points_M))

    def error(self, of: World) -> float:
        """D = E[(y - q)^2]."""
        p_M, y_M = (of.p_X @ moments for moments in self.moments(of))
        second = of.variance + of.intercept**2
        return float(second - 2 * y_M @ self.points_M + p_M @ self.points_M**2)


def rounding(step: float, *, at: float = 0.5) -> Quantiser:
    """Equal cells, with points `at` that part of each: 0.5 the middle, 0 the lower edge."""
    inner = np.arange(-np.ceil(60 / step), np.ceil(60 / step) + 1) * step
    points_M = np.append(inner[0] - step, inner) + at * step
    return Quantiser(np.concatenate([[-np.inf], inner, [np.inf]]), points_M)


def lloyd(of: World, num: int) -> Quantiser:
    """`num` points, each the mean of what is nearest to it (Lloyd, 1982)."""
    points_M = of.intercept + np.sqrt(of.variance) * np.linspace(-2, 2, num)
    for _ in range(2000):
        middles = (points_M[1:] + points_M[:-1]) / 2
        found = Quantiser(np.concatenate([[-np.inf], middles, [np.inf]]), points_M).centred(of)
        moved, points_M = np.abs(found.points_M - points_M).max(), found.points_M
        if moved < 1e-9:
            break
    return found


def centred_quantisers(of: World) -> list[Quantiser]:
    return [lloyd(of, 3), lloyd(of, 16)] + [rounding(step).centred(of) for step in (4.0, 1.0, 0.25)]


LAWS, NOISES = ("normal", "skewed"), (0.2, 1.0, 3.0)
WORLDS = pytest.mark.parametrize("of", [world(law, noise=noise) for law in LAWS for noise in NOISES])


@WORLDS
def test_errors_of_conditional_means_say_nothing_of_the_code(of: World) -> None:
    """1 and 2: E[e g(q)] = 0, cell by cell, and so for every g; g = 1 is the mean."""
    for quantiser in centred_quantisers(of):
        p_M, y_M = (of.p_X @ moments for moments in quantiser.moments(of))
        np.testing.assert_allclose(y_M - p_M * quantiser.points_M, 0, atol=1e-12)
        for g in (np.ones_like, np.cos, np.exp, np.sign):
            assert abs((y_M - p_M * quantiser.points_M) @ g(np.clip(quantiser.points_M, -5, 5))) < 1e-12


@WORLDS
def test_conditional_means_leave_the_intercept_where_it_is(of: World) -> None:
    intercept, _ = of.line(of.mean_X)
    for quantiser in centred_quantisers(of):
        assert abs(of.line(quantiser.expected(of))[0] - intercept) < 1e-12


@WORLDS
def test_lower_edges_move_the_intercept_by_half_a_step(of: World) -> None:
    moved = of.line(rounding(0.25, at=0).expected(of))[0] - of.line(of.mean_X)[0]
    assert moved == pytest.approx(-0.125, rel=0.01)


def test_middles_of_coarse_cells_move_the_intercept() -> None:
    of = world("skewed", noise=0.2)
    for step, least in ((4.0, 0.1), (2.0, 0.05)):
        assert abs(of.line(rounding(step).expected(of))[0] - of.line(of.mean_X)[0]) > least
        assert abs(of.line(rounding(step).centred(of).expected(of))[0] - of.line(of.mean_X)[0]) < 1e-12


@WORLDS
def test_the_shift_is_zero_on_average_and_bounded_by_the_error(of: World) -> None:
    """3; the slope moves by no more than sqrt(D), as x has variance one."""
    for quantiser in centred_quantisers(of):
        shift_X, error = quantiser.expected(of) - of.mean_X, quantiser.error(of)
        assert abs(of.p_X @ shift_X) < 1e-12
        assert of.p_X @ shift_X**2 <= error
        assert of.p_X @ shift_X**2 > 1e-9  # it is not zero: E[q|x] is not E[y|x]


@pytest.mark.parametrize("signal", [0.2, 0.6, 0.98])
def test_normal_slopes_shrink_by_the_share_of_the_error(signal: float) -> None:
    """4: with var(y) = 1, the same cells shrink the slope by 1 - D, whatever part of y is noise."""
    of = world("normal", slope=signal, noise=np.sqrt(1 - signal**2))
    for quantiser in centred_quantisers(of):
        _, slope = of.line(quantiser.expected(of))
        assert slope / of.slope == pytest.approx(1 - quantiser.error(of), rel=1e-10)


@pytest.mark.parametrize("law", LAWS)
def test_slopes_shift_as_the_square_of_the_cell_against_the_spread(law: str) -> None:
    """Halving the step quarters the shift; more noise makes it smaller, by way of the spread of y alone."""
    shifts = {}
    for noise in NOISES:
        of = world(law, noise=noise)
        for step in (1.0, 0.5, 0.25):
            shifts[noise, step] = 1 - of.line(rounding(step).centred(of).expected(of))[1] / of.slope
            assert shifts[noise, step] == pytest.approx(step**2 / 12 / of.variance, rel=0.2)
        assert shifts[noise, 1.0] / shifts[noise, 0.25] == pytest.approx(16, rel=0.2)
    assert shifts[0.2, 1.0] > shifts[1.0, 1.0] > shifts[3.0, 1.0]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("step", "noise"), [(2.0, 1.0), (1.0, 1.0), (2.0, 0.2)])
def test_noise_hides_the_cells_of_rounding_only(law: str, step: float, noise: float) -> None:
    """Point by point within the bound of the docstring; conditional means shrink on."""
    of, terms = world(law, noise=noise), np.arange(1, 50)
    bound = step / np.pi * float((np.exp(-2 * (np.pi * terms * noise / step) ** 2) / terms).sum())
    inner = np.abs(of.mean_X) < 40
    rounded_X, centred_X = (found.expected(of) - of.mean_X for found in (rounding(step), rounding(step).centred(of)))
    assert np.abs(rounded_X[inner]).max() <= bound + 1e-12
    assert np.sqrt(of.p_X @ centred_X**2) > step**2 / 12 / of.variance / 2
    if noise >= step / 2:
        assert np.abs(rounded_X[inner]).max() < 0.1 * np.sqrt(of.p_X @ centred_X**2)


def test_a_head_can_take_up_the_shrinking_and_a_trunk_that_is_too_small_cannot() -> None:
    """Two values of x of their own, both normal: coding weighs them by (1 - D / var)^2 and leaves their directions.

    A student that has both only scales its head. One that has room for one takes the one whose target varies more with
    x: of the values the second, of their codes the first, whose noise makes its cells small against it.
    """
    first, second = world("normal", slope=1.0, noise=2.0), world("normal", slope=1.1, noise=0.1)
    coded = [of.line(rounding(2.0).centred(of).expected(of))[1] for of in (first, second)]
    assert first.slope < second.slope and coded[0] > coded[1]


def test_a_gain_would_put_normal_slopes_back() -> None:
    """Points further out by 1 / (1 - D / var(y)): nothing moves, for more noise in the targets."""
    of = world("normal")
    for quantiser in centred_quantisers(of):
        gain = 1 / (1 - quantiser.error(of) / of.variance)
        stretched = Quantiser(quantiser.edges, of.intercept + gain * (quantiser.points_M - of.intercept))
        np.testing.assert_allclose(of.line(stretched.expected(of)), of.line(of.mean_X), rtol=1e-10)
        assert stretched.error(of) > quantiser.error(of)
