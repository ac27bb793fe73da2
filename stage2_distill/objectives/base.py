"""What an objective compares."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Predictions:
    """What the heads make of the student's tokens, in the teacher's width, float32.

    cls_BD from the token head and patch_BTD from the feature head, both of the unmasked pass; masked_MD from the patch
    head, of the masked pass at the masked positions.
    """

    cls_BD: Tensor
    patch_BTD: Tensor
    masked_MD: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Targets:
    """The teacher's tokens, float32; masked_MD are patch tokens of its unmasked pass at the masked positions."""

    cls_BD: Tensor
    patch_BTD: Tensor
    masked_MD: Tensor | None = None


Objective = Callable[[Predictions, Targets], Tensor]
