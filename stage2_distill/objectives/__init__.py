"""The terms of the loss by name (Proteus, ICLR 2025, section 3). One term a file, each a pure function.

Legend: B batch, T patches, M masked patches of the batch, D teacher width.
"""

from collections.abc import Mapping
from typing import Final

from .base import Objective, Predictions, Targets
from .feature import feature_loss
from .patch import patch_loss
from .token import token_loss

OBJECTIVES: Final[Mapping[str, Objective]] = {"token": token_loss, "feature": feature_loss, "patch": patch_loss}

__all__ = ["OBJECTIVES", "Objective", "Predictions", "Targets", "feature_loss", "patch_loss", "token_loss"]
