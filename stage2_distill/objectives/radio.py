"""Objectives after RADIO (Ranzinger et al., 2024): cosines token by token.

Its training code is unpublished. The mix of 0.9 and 0.1 is what is said of it (its issue 122), beta is torch's default; a port
by its makers has beta 2.
"""

from torch import Tensor
from torch.nn.functional import cosine_similarity, smooth_l1_loss

from .base import Predictions, Targets, pair

COSINE, SMOOTH_L1, BETA = 0.9, 0.1, 1.0


def radio_summary_loss(predicted: Predictions, target: Targets) -> Tensor:
    """Scalar: mean over B of 1 - cos of the class tokens."""
    return 1 - cosine_similarity(*pair(predicted.cls_BD, target.cls_BD), dim=-1).mean()


def radio_patch_loss(predicted: Predictions, target: Targets) -> Tensor:
    """Scalar: mean over B and T of 0.9 (1 - cos) + 0.1 smooth-L1, both of each patch token."""
    patch_s_BTD, patch_t_BTD = pair(predicted.patch_BTD, target.patch_BTD)
    cosine_BT = cosine_similarity(patch_s_BTD, patch_t_BTD, dim=-1)
    return COSINE * (1 - cosine_BT.mean()) + SMOOTH_L1 * smooth_l1_loss(patch_s_BTD, patch_t_BTD, beta=BETA)
