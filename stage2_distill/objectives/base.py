"""What an objective is and what it compares.

Legend: B batch, T patches, M masked patches of the batch, D width of the predictions, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor
from torch.nn.functional import mse_loss


@dataclass(frozen=True, slots=True)
class Predictions:
    """What the heads make of the student's tokens, in the width of the targets, float32; None: no objective asks for it.

    cls_BD from the token head and patch_BTD from the feature head, both of the unmasked pass; masked_MD from the patch
    head, of the masked pass at the masked positions; logits_BC from the classifier, of the class token.
    """

    cls_BD: Tensor | None = None
    patch_BTD: Tensor | None = None
    masked_MD: Tensor | None = None
    logits_BC: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Targets:
    """The teacher's tokens, float32; masked_MD are patch tokens of its unmasked pass at the masked positions.

    dropped_cls and dropped_patch say how many components of a whole token are left out, of predictions too, because the
    store knows nothing of them: a mean counts them, as elements without error. label_B are class numbers, int64.
    """

    cls_BD: Tensor | None = None
    patch_BTD: Tensor | None = None
    masked_MD: Tensor | None = None
    logits_BC: Tensor | None = None
    label_B: Tensor | None = None
    dropped_cls: int = field(default=0, kw_only=True)
    dropped_patch: int = field(default=0, kw_only=True)
    temperature: float = field(default=1.0, kw_only=True)


@dataclass(frozen=True, slots=True)
class Objective:
    """One term of the loss: a scalar of predictions and targets.

    Args:
        loss: the term; a pure function.
        in_any_basis: it depends on predictions and targets by the squares of their differences alone, so that neither
            one rotation of both nor one shift of both changes it, and components whose target is a constant only add a
            part of their own. Not so: absolute values, cosines, a normalisation per channel.
    """

    loss: Callable[[Predictions, Targets], Tensor]
    in_any_basis: bool

    def __call__(self, predicted: Predictions, target: Targets) -> Tensor:
        return self.loss(predicted, target)


def pair(predicted: Tensor | None, target: Tensor | None) -> tuple[Tensor, Tensor]:
    """Both, which whoever calls an objective has to give it."""
    assert predicted is not None and target is not None
    return predicted, target


def mean_square(predicted: Tensor, target: Tensor, dropped: int) -> Tensor:
    """Scalar: mean squared difference of [..., D], over D + `dropped` components."""
    width = target.shape[-1]
    return mse_loss(predicted, target) * (width / (width + dropped))
