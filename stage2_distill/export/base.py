"""What every export format starts from and what it gives.

Legend: D width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import timm
from torch import Tensor, nn

from stillhouse.core.checkpoints import load_weights


@dataclass(frozen=True, slots=True)
class Finished:
    """A trained student: timm's hub config of it, its encoder's tensors under timm's names, and its mask token.

    Args:
        mask_token_1D: what hidden patches were replaced with; None when the run kept none.
    """

    config: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    mask_token_1D: Tensor | None = None

    @property
    def image_size(self) -> int:
        """Pixels a side."""
        return int(self.config["pretrained_cfg"]["input_size"][1])

    @property
    def mean(self) -> list[float]:
        return list(self.config["pretrained_cfg"]["mean"])

    @property
    def std(self) -> list[float]:
        return list(self.config["pretrained_cfg"]["std"])

    def model(self) -> Any:
        """The timm model with these weights, in eval mode, without gradients."""
        made: nn.Module = timm.create_model(self.config["architecture"], num_classes=0, **self.config["model_args"])
        load_weights(made, self.weights, f"student {self.config['architecture']}")
        return made.eval().requires_grad_(False)


@dataclass(frozen=True, slots=True)
class Written:
    """An export as bytes.

    Args:
        files: by name; the first is the weights.
        facts: what the card says about it beyond what it says about any student.
        usage: lines of Python that open it, beside the files.
        library: what opens it, for hubs that sort by it.
    """

    files: Mapping[str, bytes]
    usage: str
    library: str
    facts: Mapping[str, Any] = field(default_factory=dict)


Format = Callable[[Finished], Written]
"""A pure function. UsageError, saying which property stands in the way, when the student has no such form."""
