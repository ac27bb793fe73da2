"""An approximate inverse of the Hessian of logistic regression, good enough that few conjugate gradients remain.

Two forms. With few classes the whole Hessian is factored, in float32: only rounding and the drift of the probabilities
since then are left to the conjugate gradients. With many classes that matrix would be too large, and all contrasts share
one factor of X^T diag(mean curvature) X + penalty.

Shape letters as in `logistic_problem`; G rows that share a factor, each of U unknowns (G * U = M * E).
"""

from collections.abc import Callable

import torch

from .logistic_problem import Problem

Solve = Callable[[torch.Tensor], torch.Tensor]

JOINT_UNKNOWNS = 5000  # 100 MB in float32
JOINT_WORK = 2e11  # multiplications to form the whole Hessian: some seconds of one core
JITTERS = (3e-7, 1e-5, 1e-3, 1e-1, 10.0)  # times the unit diagonal, until the factorisation gets through


def factor(problem: Problem, probs_KN: torch.Tensor, c: float) -> Solve:
    """Solve(gradient [M, E]) ~ Hessian^-1 @ gradient, at the given class probabilities; symmetric and positive."""
    hessian_UU = (_joint_hessian if _affordable(problem) else _shared_hessian)(problem, probs_KN, c)
    # A unit diagonal first: it halves the digits that float32 has to span.
    balance_U = hessian_UU.diagonal().double().clamp(min=1e-30).rsqrt()
    hessian_UU *= balance_U.float()
    hessian_UU *= balance_U.float()[:, None]
    triangle_UU = _cholesky(hessian_UU)

    def solve(gradient_ME: torch.Tensor) -> torch.Tensor:
        scaled_GU = (gradient_ME / problem.scale_E).reshape(-1, len(balance_U)) * balance_U
        peak = scaled_GU.abs().max().clamp(min=1e-300)  # near the optimum gradients would underflow in float32
        solved_UG = torch.cholesky_solve((scaled_GU.T / peak).float(), triangle_UU).double() * peak
        return (solved_UG.T * balance_U).reshape(gradient_ME.shape) / problem.scale_E

    return solve


def _affordable(problem: Problem) -> bool:
    """Whether the whole Hessian may be formed and factored."""
    num_contrasts, num_columns = problem.zero.shape
    num_classes, num = problem.one_hot_KN.shape
    work = num_contrasts**2 * num * (num_columns**2 + num_classes)
    return num_contrasts * num_columns <= JOINT_UNKNOWNS and work <= JOINT_WORK


def _joint_hessian(problem: Problem, probs_KN: torch.Tensor, c: float) -> torch.Tensor:
    """Lower triangle of the Hessian over (contrast, column) pairs, float32 [M*E, M*E], in scaled columns."""
    num_contrasts, num_columns = problem.zero.shape
    hessian_UU = problem.narrow_NE.new_zeros(num_contrasts * num_columns, num_contrasts * num_columns)
    means_MN = problem.contrasts_KM.T @ probs_KN
    for a in range(num_contrasts):
        for b in range(a + 1):
            products_K = problem.contrasts_KM[:, a] * problem.contrasts_KM[:, b]
            curvature_N = c * (products_K @ probs_KN - means_MN[a] * means_MN[b])
            rows = slice(a * num_columns, (a + 1) * num_columns)
            columns = slice(b * num_columns, (b + 1) * num_columns)
            hessian_UU[rows, columns] = _gram(problem, curvature_N)
    hessian_UU.diagonal().add_((problem.penalty_E / problem.scale_E**2).float().repeat(num_contrasts))
    return hessian_UU


def _shared_hessian(problem: Problem, probs_KN: torch.Tensor, c: float) -> torch.Tensor:
    """Mean over the contrasts of the Hessian's diagonal blocks, float32 [E, E], in scaled columns."""
    column_K = problem.contrasts_KM[:, 0]
    trace_N = (column_K @ column_K) * (1 - probs_KN.square().sum(dim=0)).clamp(min=0)
    hessian_UU = _gram(problem, c * trace_N / problem.contrasts_KM.shape[1])
    hessian_UU.diagonal().add_((problem.penalty_E / problem.scale_E**2).float())
    return hessian_UU


def _gram(problem: Problem, curvature_N: torch.Tensor) -> torch.Tensor:
    """X^T diag(curvature) X, float32 [E, E], in scaled columns."""
    weighted_NE = problem.narrow_NE * curvature_N.float()[:, None]
    return weighted_NE.T @ problem.narrow_NE


def _cholesky(unit_UU: torch.Tensor) -> torch.Tensor:
    """Lower factor of the matrix given by its lower triangle; of the identity when no jitter helps (overflow)."""
    for jitter in JITTERS:
        trial_UU = unit_UU.clone()
        trial_UU.diagonal().add_(jitter)
        triangle_UU: torch.Tensor
        triangle_UU, info = torch.linalg.cholesky_ex(trial_UU)
        if int(info) == 0:
            return triangle_UU
    return torch.eye(len(unit_UU))
