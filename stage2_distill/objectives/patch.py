"""Patch objective: what the student infers at the positions it cannot see (Proteus eq. 5)."""

from torch import Tensor
from torch.nn.functional import mse_loss

from .base import Predictions, Targets


def patch_loss(predicted: Predictions, target: Targets) -> Tensor:
    """Scalar: mean over M and D of (patch_head(student token) - teacher token)^2 at masked positions only."""
    assert predicted.masked_MD is not None and target.masked_MD is not None
    return mse_loss(predicted.masked_MD, target.masked_MD)
