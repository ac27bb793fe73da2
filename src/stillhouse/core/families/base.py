"""A family: teachers that were released together, and how its official files map onto a timm model.

timm has converters of its own; they drop what they do not know. Here a file is loaded strictly: what a tower does not need
is dropped by a named list, everything else is renamed, and what then is missing or left over is an error.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..positions import PositionRule

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of pixels from 0 to 1."""
Weights = Mapping[str, Tensor]

IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP: Statistics = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF: Statistics = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True, slots=True)
class Drop:
    """Tensors that a file holds and the tower does not need: names that match `pattern` whole, and what they are."""

    what: str
    pattern: str


def as_they_are(weights: Weights, wanted: Weights) -> dict[str, Tensor]:
    """A file whose names are timm's."""
    return dict(weights)


def nothing(model: Any) -> None:
    """A model that needs no preparation, or no check."""


@dataclass(frozen=True, slots=True)
class Family:
    """One family of released checkpoints.

    Args:
        key: what `keys` names it by.
        title: what people call it.
        examples: timm names that its files fit, smallest first.
        licence: of the released weights; empty where it differs between releases.
        statistics: what its pixels are normalised by; None: what timm says for the name.
        marks: a file of it has a tensor whose name matches one of these, and no other family's has.
        prefixes: of the vision tower's names, in the order they are looked for; without any, all names are the tower's.
        others: what its files hold outside the prefix.
        drops: what the tower holds that an encoder does not need, without the prefix.
        classifier: names of the classifier, which is dropped unless logits are wanted; its weight is `[classes, D]`.
        to_timm: (tensors of the tower, those of the timm model) -> the tensors under timm's names.
        positions: how its release resamples position embeddings, given the file's tensors.
        model_args: arguments without which timm's model is another one.
        prepare: changes to the timm model before its weights are loaded.
        check: raises UsageError when the timm model cannot be of this family.
    """

    key: str
    title: str
    examples: tuple[str, ...]
    licence: str
    statistics: Statistics | None
    marks: tuple[str, ...]
    prefixes: tuple[str, ...] = ()
    others: tuple[Drop, ...] = ()
    drops: tuple[Drop, ...] = ()
    classifier: str | None = None
    to_timm: Callable[[Weights, Weights], dict[str, Tensor]] = as_they_are
    positions: Callable[[Weights], PositionRule] = lambda weights: "antialias"
    model_args: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[Any], None] = nothing
    check: Callable[[Any], None] = nothing

    def fits(self, weights: Weights) -> bool:
        """True when a file looks like one of this family."""
        return any(re.fullmatch(mark, name) for mark in self.marks for name in weights)

    def split(self, weights: Weights, *, classifier: bool) -> tuple[dict[str, Tensor], dict[str, int]]:
        """(the tower's tensors without their prefix, how many were dropped of what). What no list names stays."""
        prefix = next((one for one in self.prefixes if any(name.startswith(one) for name in weights)), "")
        drops = self.drops
        if self.classifier is not None and not classifier:
            drops = (*drops, Drop("classifier", self.classifier))
        tower: dict[str, Tensor] = {}
        dropped: dict[str, int] = {}
        for name, tensor in weights.items():
            inside = name.startswith(prefix)
            inner = name.removeprefix(prefix) if inside else name
            found = _first(drops if inside else self.others, inner)
            if found is None:
                tower[inner] = tensor
            else:
                dropped[found.what] = dropped.get(found.what, 0) + 1
        return tower, dropped

    def num_classes(self, tower: Weights) -> int:
        """Classes of the classifier that is among these tensors; 0 without one."""
        if self.classifier is None:
            return 0
        found = [tensor for name, tensor in tower.items() if re.fullmatch(self.classifier, name) and tensor.ndim == 2]
        return found[0].shape[0] if found else 0


def _first(drops: Sequence[Drop], name: str) -> Drop | None:
    return next((drop for drop in drops if re.fullmatch(drop.pattern, name)), None)


def renamed(weights: Weights, rules: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Each name after all substitutions, in order; a pattern starts where the name starts or after a dot."""
    compiled = [(re.compile(rf"(?:^|(?<=\.)){pattern}"), new) for pattern, new in rules]
    found = {}
    for name, tensor in weights.items():
        for pattern, new in compiled:
            name = pattern.sub(new, name)
        found[name] = tensor
    return found
