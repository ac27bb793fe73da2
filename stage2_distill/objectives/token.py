"""Token objective: the class token (Proteus eq. 3). Alone it is the hint baseline of the paper's ladder."""

from torch import Tensor

from .base import Predictions, Targets, mean_square, pair


def token_loss(predicted: Predictions, target: Targets) -> Tensor:
    """Scalar: mean over B and D of (token_head(cls_s) - cls_t)^2."""
    return mean_square(*pair(predicted.cls_BD, target.cls_BD), target.dropped_cls)
