"""Feature objective: every token of the unmasked pass, the class token included (Proteus eq. 4)."""

from torch import Tensor
from torch.nn.functional import mse_loss

from .base import Predictions, Targets


def feature_loss(predicted: Predictions, target: Targets) -> Tensor:
    """Scalar: mean squared error over the B x (1 + T) x D elements of [cls; patches].

    The class token goes through the token head, as published, so its total weight is lambda_token +
    lambda_feature / (1 + T). A teacher whose cls is of another width than its patches (some CNNs) counts elements, those of dropped components
    included.
    """
    num_cls = target.cls_BD[..., 0].numel() * (target.cls_BD.shape[-1] + target.dropped_cls)
    num_patch = target.patch_BTD[..., 0].numel() * (target.patch_BTD.shape[-1] + target.dropped_patch)
    squares = mse_loss(predicted.cls_BD, target.cls_BD, reduction="sum")
    squares = squares + mse_loss(predicted.patch_BTD, target.patch_BTD, reduction="sum")
    return squares / (num_cls + num_patch)
