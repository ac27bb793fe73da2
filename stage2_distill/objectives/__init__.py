"""The terms of the loss by name (Proteus, ICLR 2025, section 3). One term a file, each a pure function.

Legend: B batch, T patches, M masked patches of the batch, D width of the targets.
"""

from collections.abc import Mapping
from typing import Final

from .base import Objective, Predictions, Targets
from .feature import feature_loss
from .patch import patch_loss
from .token import token_loss

OBJECTIVES: Final[Mapping[str, Objective]] = {
    "token": Objective(token_loss, in_any_basis=True),
    "feature": Objective(feature_loss, in_any_basis=True),
    "patch": Objective(patch_loss, in_any_basis=True),
}

__all__ = ["OBJECTIVES", "Objective", "Predictions", "Targets", "feature_loss", "patch_loss", "token_loss"]
