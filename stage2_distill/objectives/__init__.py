"""The terms of the loss by name. One idea a file, each term a pure function; docs/methods.md has their formulae.

`token`, `feature` and `patch` are Proteus' (ICLR 2025, section 3), `theia` and `radio_*` those of these systems, `ce` and
`kl` conventional distillation.

Legend: B batch, T patches, M masked patches of the batch, D width of the targets.
"""

from collections.abc import Mapping
from typing import Final

from .base import Objective, Predictions, Targets
from .feature import feature_loss
from .patch import patch_loss
from .radio import radio_patch_loss, radio_summary_loss
from .soft_labels import ce_loss, kl_loss
from .theia import theia_loss
from .token import token_loss

OBJECTIVES: Final[Mapping[str, Objective]] = {
    "token": Objective(token_loss, in_any_basis=True),
    "feature": Objective(feature_loss, in_any_basis=True),
    "patch": Objective(patch_loss, in_any_basis=True),
    "theia": Objective(theia_loss, in_any_basis=False),
    "radio_patch": Objective(radio_patch_loss, in_any_basis=False),
    "radio_summary": Objective(radio_summary_loss, in_any_basis=False),
    "kl": Objective(kl_loss, in_any_basis=False),
    "ce": Objective(ce_loss, in_any_basis=False),
}
OF_CLASSES: Final = frozenset({"kl", "ce"})
"""Those that compare scores of classes; the others compare tokens."""

__all__ = [
    "OBJECTIVES",
    "OF_CLASSES",
    "Objective",
    "Predictions",
    "Targets",
    "feature_loss",
    "patch_loss",
    "token_loss",
]
