"""Theia's objective (Shang et al., 2024): the direction of the whole map, and a smooth absolute error."""

from torch import Tensor
from torch.nn.functional import cosine_similarity, smooth_l1_loss

from .base import Predictions, Targets, pair

COSINE, SMOOTH_L1, BETA = 0.9, 0.1, 1.0


def theia_loss(predicted: Predictions, target: Targets) -> Tensor:
    """Scalar: 0.9 (1 - cos) + 0.1 smooth-L1 of the patch map.

    The cosine is that of the map flattened to T x D values, one a sample, as its published code has it; its mean is over B.
    The smooth-L1 (beta 1) is a mean over all elements.
    """
    patch_s_BTD, patch_t_BTD = pair(predicted.patch_BTD, target.patch_BTD)
    cosine_B = cosine_similarity(patch_s_BTD.flatten(1), patch_t_BTD.flatten(1), dim=1)
    return COSINE * (1 - cosine_B.mean()) + SMOOTH_L1 * smooth_l1_loss(patch_s_BTD, patch_t_BTD, beta=BETA)
