"""Multinomial logistic regression as a convex problem: the objective and its first two derivatives.

    C * sum_i cross_entropy(softmax(W x_i + b), y_i) + |W|^2 / 2          (scikit-learn's; b is not penalised)

In torch and not numpy, because its number of threads can be set for one computation (`threads.py`): on two busy cores
numpy's thin products took 48 ms on two threads and 1.2 ms on one.

Shape letters: N images, D width, E = D + 1 (a last column of ones carries the bias), K classes,
M = K - 1 contrasts between classes.
"""

from dataclasses import dataclass
from typing import Self

import torch


def contrasts(num_classes: int) -> torch.Tensor:
    """float64 [K, K-1]: orthogonal columns, each summing to zero (Helmert), that span all softmax logits.

    Columns have length 1, so |W| is the norm of its coordinates. Two classes follow scikit-learn and penalise the one
    difference vector w = w_1 - w_0 by |w|^2 / 2, which is the softmax penalty with columns of length 1/sqrt(2).
    """
    columns_KM = torch.zeros(num_classes, num_classes - 1, dtype=torch.float64)
    for j in range(num_classes - 1):
        columns_KM[: j + 1, j] = -1.0
        columns_KM[j + 1, j] = j + 1.0
    columns_KM /= columns_KM.norm(dim=0)
    return columns_KM / 2**0.5 if num_classes == 2 else columns_KM


@dataclass(frozen=True, eq=False)
class Problem:
    """The data, and the objective with its derivatives in the coordinates theta [M, E], W = contrasts @ theta."""

    feats_NE: torch.Tensor
    one_hot_KN: torch.Tensor
    contrasts_KM: torch.Tensor
    penalty_E: torch.Tensor
    """1 for weights, 0 for the bias."""
    scale_E: torch.Tensor
    """Root mean square of each column."""
    narrow_NE: torch.Tensor
    """feats / scale in float32, for preconditioners."""

    @classmethod
    def build(cls, centred_ND: torch.Tensor, targets_N: torch.Tensor, num_classes: int) -> Self:
        """From float64 features [N, D] with zero mean and int64 targets that hold every class 0..num_classes-1."""
        num = len(centred_ND)
        feats_NE = torch.cat([centred_ND, centred_ND.new_ones(num, 1)], dim=1)
        penalty_E = feats_NE.new_ones(feats_NE.shape[1])
        penalty_E[-1] = 0.0
        rms_E = feats_NE.square().mean(dim=0).sqrt()
        scale_E = torch.where(rms_E > 0, rms_E, 1.0)
        one_hot_KN = torch.nn.functional.one_hot(targets_N, num_classes).T.double().contiguous()
        return cls(feats_NE, one_hot_KN, contrasts(num_classes), penalty_E, scale_E, (feats_NE / scale_E).float())

    @property
    def zero(self) -> torch.Tensor:
        """float64 [M, E]: no weights, no bias."""
        return self.feats_NE.new_zeros(self.contrasts_KM.shape[1], self.feats_NE.shape[1])

    def logits(self, theta_ME: torch.Tensor) -> torch.Tensor:
        """float64 [M, N] in contrast coordinates."""
        return theta_ME @ self.feats_NE.T

    def objective(self, logits_MN: torch.Tensor, theta_ME: torch.Tensor, c: float) -> tuple[float, torch.Tensor]:
        """The value, and the class probabilities [K, N]."""
        logs_KN = torch.log_softmax(self.contrasts_KM @ logits_MN, dim=0)
        return self.size(theta_ME) / 2 - c * float((logs_KN * self.one_hot_KN).sum()), logs_KN.exp()

    def size(self, theta_ME: torch.Tensor) -> float:
        """The penalised squared norm."""
        return float((theta_ME.square() * self.penalty_E).sum())

    def gradient(self, probs_KN: torch.Tensor, theta_ME: torch.Tensor, c: float) -> torch.Tensor:
        """float64 [M, E]."""
        excess_MN = self.contrasts_KM.T @ (probs_KN - self.one_hot_KN)
        return c * (excess_MN @ self.feats_NE) + theta_ME * self.penalty_E

    def hessian_product(
        self, probs_KN: torch.Tensor, direction_ME: torch.Tensor, moved_MN: torch.Tensor, c: float
    ) -> torch.Tensor:
        """Hessian times a direction whose logits are `moved_MN`, float64 [M, E]."""
        moved_KN = self.contrasts_KM @ moved_MN
        # Deviations first, then products: p - p^2 would lose all digits where p is nearly 1.
        spread_KN = probs_KN * (moved_KN - (probs_KN * moved_KN).sum(dim=0))
        return c * ((self.contrasts_KM.T @ spread_KN) @ self.feats_NE) + direction_ME * self.penalty_E
