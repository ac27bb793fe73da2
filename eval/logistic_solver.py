"""Multinomial logistic regression over a path of regularisation strengths, to the optimum at each.

For every C it minimises scikit-learn's objective

    C * sum_i cross_entropy(softmax(W x_i + b), y_i) + |W|^2 / 2          (b is not penalised)

in float64. Method: Newton's, each step solved by conjugate gradients whose preconditioner is a float32 Cholesky factor of
the Hessian, kept until a step needs more than ten products (Nocedal & Wright, Numerical Optimization, 2nd ed., ch. 5.1 and
7.1). The start is extrapolated from the last three C. Measured on 1280-wide features of an EfficientNet, 3 classes, 45
values of C: 770 products in all, every C at its optimum. SciPy's L-BFGS-B, diagonally preconditioned, took 15,800
iterations and ran into its bound of 1000 from C = 1000 up.

Shape letters: N images, D width, E = D + 1 (a last column of ones carries the bias), K classes present,
M = K - 1 contrasts between classes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from .logistic_preconditioner import Solve, factor
from .logistic_problem import Problem
from .probe import IntArray
from .threads import one_thread_if

Array = NDArray[np.float64]

WEIGHT_TOLERANCE = 1e-9  # relative error of the weights, by the Newton decrement: the Hessian is at least 1
SERIAL_NUMBERS = 4_000_000  # 1440 x 1281 took 15 s on one thread, 60 s on two that shared their cores with other work
STALE_PRODUCTS = 10  # a step that takes more products than this has outgrown its preconditioner


@dataclass(frozen=True, eq=False)
class Fit:
    """The optimum at one C, for features as they were given: logits = feats @ weight_DK + bias_K."""

    c: float
    weight_DK: Array
    bias_K: Array
    objective: float
    iterations: int
    """Hessian products spent."""
    converged: bool
    """False when `max_iter` products did not suffice."""

    def logits(self, feats_ND: NDArray[np.floating]) -> Array:
        """float64 [N, K]."""
        logits_NK: Array = feats_ND.astype(np.float64) @ self.weight_DK + self.bias_K
        return logits_NK


def fit_path(
    feats_ND: Array, targets_N: IntArray, num_classes: int, cs: Sequence[float], max_iter: int
) -> Iterator[Fit]:
    """The fits for `cs`, one after the other; each starts from the ones before.

    Args:
        feats_ND: float64 [N, D], finite.
        targets_N: int64 [N]; each of 0..num_classes-1 occurs (else no optimum exists: a bias runs off to infinity).
        cs: positive, rising by a constant factor for the best starts.
        max_iter: bound on the Hessian products of one fit.
    """
    mean_D = torch.from_numpy(feats_ND.mean(axis=0))
    # The bias absorbs the shift, so the optimum stays the same and the problem is better conditioned.
    inputs_NR = torch.from_numpy(feats_ND) - mean_D
    axes_RD = None
    if inputs_NR.shape[1] > len(inputs_NR):
        # The optimal weights lie in the span of the samples (representer theorem): rotate to its N axes, exactly.
        axes_RD = torch.linalg.svd(inputs_NR, full_matrices=False).Vh
        inputs_NR = inputs_NR @ axes_RD.T
    problem = Problem.build(inputs_NR, torch.from_numpy(targets_N), num_classes)
    newton = _Newton(problem, max_iter)
    past: list[torch.Tensor] = []
    for c in cs:
        with one_thread_if(problem.feats_NE.numel() <= SERIAL_NUMBERS):
            theta_ME, iterations, converged = newton.minimise(_start(problem, past, c), c)
        past = [*past[-2:], theta_ME]
        weight_DK = (problem.contrasts_KM @ theta_ME[:, :-1]).T
        if axes_RD is not None:
            weight_DK = axes_RD.T @ weight_DK
        bias_K = problem.contrasts_KM @ theta_ME[:, -1] - mean_D @ weight_DK
        objective, _ = problem.objective(problem.logits(theta_ME), theta_ME, c)
        yield Fit(c, weight_DK.numpy(), bias_K.numpy(), objective, iterations, converged)


def _start(problem: Problem, past: Sequence[torch.Tensor], c: float) -> torch.Tensor:
    """The last optimum, or the parabola through the last three in log C, whichever is better at this C."""
    if not past:
        return problem.zero
    starts = [past[-1]]
    if len(past) == 3:
        starts.append(3 * past[-1] - 3 * past[-2] + past[-3])
    return min(starts, key=lambda theta_ME: problem.objective(problem.logits(theta_ME), theta_ME, c)[0])


class _Newton:
    """Damped Newton that keeps one preconditioner, over steps and over C, until it has outlived its use."""

    def __init__(self, problem: Problem, max_iter: int) -> None:
        self._problem, self._max_iter = problem, max_iter
        self._solve: Solve | None = None

    def minimise(self, theta_ME: torch.Tensor, c: float) -> tuple[torch.Tensor, int, bool]:
        """From a start to the optimum: (theta, Hessian products spent, converged)."""
        problem = self._problem
        logits_MN = problem.logits(theta_ME)
        value, probs_KN = problem.objective(logits_MN, theta_ME, c)
        spent, last_decrement = 0, math.inf
        while spent < self._max_iter:
            gradient_ME = problem.gradient(probs_KN, theta_ME, c)
            size = problem.size(theta_ME)
            step_ME, used = self._step(probs_KN, gradient_ME, c, size, self._max_iter - spent)
            spent += used
            decrement = -float((gradient_ME * step_ME).sum())  # about twice the distance of the value from its minimum
            rounding = decrement <= 1e-12 * abs(value)  # below this the value cannot tell better from worse
            step_MN = problem.logits(step_ME)
            length = 1.0
            while True:
                moved = problem.objective(logits_MN + length * step_MN, theta_ME + length * step_ME, c)
                if rounding or moved[0] <= value - 1e-4 * length * decrement:
                    break
                length /= 2
                if length < 1e-10:
                    return theta_ME, spent, False
            theta_ME = theta_ME + length * step_ME
            logits_MN = logits_MN + length * step_MN
            value, probs_KN = moved
            if spent >= self._max_iter:
                break  # the last step may be unfinished, so its decrement says nothing
            exhausted = rounding and decrement > last_decrement / 4  # float64 has no more to give
            if decrement <= WEIGHT_TOLERANCE**2 * size or exhausted:
                return theta_ME, spent, True
            last_decrement = decrement
        return theta_ME, spent, False

    def _step(
        self, probs_KN: torch.Tensor, gradient_ME: torch.Tensor, c: float, size: float, budget: int
    ) -> tuple[torch.Tensor, int]:
        """Preconditioned conjugate gradients on Hessian @ step = -gradient: (step [M, E], Hessian products used)."""
        problem = self._problem
        solve = self._solve = self._solve or factor(problem, probs_KN, c)
        step_ME = torch.zeros_like(gradient_ME)
        residual_ME = -gradient_ME
        direction_ME = solve(residual_ME)
        error = first_error = float((residual_ME * direction_ME).sum())  # squared, in the inverse Hessian's norm
        # Far from the optimum a rough step does; near it each step is solved as well as it will improve the weights.
        forcing = min(1e-2, max(1e-8, first_error / size)) if size > 0 else 1e-2
        enough = max(forcing * first_error, 1e-2 * WEIGHT_TOLERANCE**2 * size)
        for used in range(budget):
            if error <= 0 or (used > 0 and error <= enough):
                return step_ME, used
            if used == STALE_PRODUCTS:
                self._solve = None  # the next step gets a fresh one
            curved_ME = problem.hessian_product(probs_KN, direction_ME, problem.logits(direction_ME), c)
            rate = error / float((direction_ME * curved_ME).sum())
            step_ME += rate * direction_ME
            residual_ME -= rate * curved_ME
            solved_ME = solve(residual_ME)
            next_error = float((residual_ME * solved_ME).sum())
            direction_ME = solved_ME + next_error / error * direction_ME
            error = next_error
        return step_ME, budget
