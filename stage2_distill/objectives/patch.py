"""Patch objective: what the student infers at the positions it cannot see (Proteus eq. 5)."""

from torch import Tensor

from .base import Predictions, Targets, mean_square, pair


def patch_loss(predicted: Predictions, target: Targets) -> Tensor:
    """Scalar: mean over M and D of (patch_head(student token) - teacher token)^2 at masked positions only."""
    return mean_square(*pair(predicted.masked_MD, target.masked_MD), target.dropped_patch)
