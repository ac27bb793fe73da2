"""Feature objective: every token of the unmasked pass, the class token included (Proteus eq. 4)."""

from torch import Tensor
from torch.nn.functional import mse_loss

from .base import Predictions, Targets, pair


def feature_loss(predicted: Predictions, target: Targets) -> Tensor:
    """Scalar: mean squared error over the B x (1 + T) x D elements of [cls; patches].

    The class token goes through the token head, as published, so its total weight is lambda_token +
    lambda_feature / (1 + T). A teacher whose cls is of another width than its patches (some CNNs) counts elements, those
    of dropped components included.
    """
    (cls_s_BD, cls_t_BD), (patch_s_BTD, patch_t_BTD) = (
        pair(predicted.cls_BD, target.cls_BD),
        pair(predicted.patch_BTD, target.patch_BTD),
    )
    num_cls = cls_t_BD[..., 0].numel() * (cls_t_BD.shape[-1] + target.dropped_cls)
    num_patch = patch_t_BTD[..., 0].numel() * (patch_t_BTD.shape[-1] + target.dropped_patch)
    squares = mse_loss(cls_s_BD, cls_t_BD, reduction="sum")
    squares = squares + mse_loss(patch_s_BTD, patch_t_BTD, reduction="sum")
    return squares / (num_cls + num_patch)
