"""Conventional distillation of a classifier (Hinton et al., 2015): the baselines at the foot of Proteus' ladder."""

from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from .base import Predictions, Targets, pair


def kl_loss(predicted: Predictions, target: Targets) -> Tensor:
    """Scalar: t^2 times the mean over B of KL(softmax(teacher / t) || softmax(student / t)), t the temperature."""
    logits_s_BC, logits_t_BC = pair(predicted.logits_BC, target.logits_BC)
    log_s_BC, log_t_BC = ((logits / target.temperature).log_softmax(-1) for logits in (logits_s_BC, logits_t_BC))
    return kl_div(log_s_BC, log_t_BC, reduction="batchmean", log_target=True) * target.temperature**2


def ce_loss(predicted: Predictions, target: Targets) -> Tensor:
    """Scalar: mean over B of the cross-entropy with the labels."""
    return cross_entropy(*pair(predicted.logits_BC, target.label_B))
