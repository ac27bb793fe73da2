"""Token objective: the class token (Proteus eq. 3)."""

from torch import Tensor
from torch.nn.functional import mse_loss

from .base import Predictions, Targets


def token_loss(predicted: Predictions, target: Targets) -> Tensor:
    """Scalar: mean over B and D of (token_head(cls_s) - cls_t)^2."""
    return mse_loss(predicted.cls_BD, target.cls_BD)
