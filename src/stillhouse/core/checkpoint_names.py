"""The names that tensors have in the checkpoint files of published families, and those that timm gives them.

A family says under which prefix its vision tower lies, which tensors of it an encoder does not need, how names map, and how
its position embeddings are resampled. What lies outside the prefix belongs to other towers. Everything else must match
the model tensor by tensor, and is reported when it does not.
"""

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from torch import Tensor

from .positions import PositionRule

Keys = Literal["exact", "in_order", "dinov2", "clip", "synclr", "mae", "deit3", "timm"]
"""How the names of a file map onto the model's.

`exact`: they are the model's. `in_order`: by position. A family: its own names, as published. `timm`: by timm's own converter
for the model's architecture (DINOv3, ConvNeXt, SigLIP 2 in OpenCLIP's files, EVA, ...).
"""

Weights = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Family:
    """How one family's files are named.

    Args:
        prefixes: of the vision tower, in the order they are looked for; the bare names come last.
        dropped: names within the tower that an encoder does not need; one that ends in a dot is a prefix.
        rename: names and tensors of the tower to timm's.
        positions: how position embeddings are resampled, unless the file has registers.
    """

    prefixes: tuple[str, ...]
    dropped: tuple[str, ...]
    rename: Callable[[Weights], Weights]
    positions: PositionRule

    def to_timm(self, weights: Mapping[str, Tensor]) -> Weights:
        """The tower's tensors under timm's names."""
        tower = self._tower(weights)
        return self.rename({name: value for name, value in tower.items() if not self._is_dropped(name)})

    def rule(self, weights: Mapping[str, Tensor]) -> PositionRule:
        """How this file's position embeddings are resampled."""
        has_registers = any(name.endswith(("register_tokens", "reg_token")) for name in weights)
        return "antialias" if has_registers else self.positions

    def _tower(self, weights: Mapping[str, Tensor]) -> Weights:
        for prefix in self.prefixes:
            found = {name.removeprefix(prefix): it for name, it in weights.items() if name.startswith(prefix)}
            if found:
                return found
        return dict(weights)

    def _is_dropped(self, name: str) -> bool:
        return any(name.startswith(it) if it.endswith(".") else name == it for it in self.dropped)


def _replaced(weights: Weights, *pairs: tuple[str, str]) -> Weights:
    """Names with every pattern replaced, one pair after the other."""
    found = {}
    for name, value in weights.items():
        for pattern, to in pairs:
            name = re.sub(pattern, to, name)
        found[name] = value
    return found


def _dinov2(weights: Weights) -> Weights:
    """Blocks may lie in chunks (`blocks.0.11.`); giant's SwiGLU is `w12` and `w3`; with registers only patches have positions."""
    found = _replaced(
        weights,
        (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),
        (r"\.mlp\.w12\.", ".mlp.fc1."),
        (r"\.mlp\.w3\.", ".mlp.fc2."),
    )
    if "register_tokens" in found:
        position = found["pos_embed"]
        found["reg_token"] = found.pop("register_tokens")
        found["cls_token"], found["pos_embed"] = found["cls_token"] + position[:, :1], position[:, 1:]
    return found


def _clip(weights: Weights) -> Weights:
    """OpenAI's and OpenCLIP's own ViT. The projection after `ln_post` is not part of the encoder."""
    found = _replaced(
        weights,
        (r"^conv1\.", "patch_embed.proj."),
        (r"^ln_pre\.", "norm_pre."),
        (r"^ln_post\.", "norm."),
        (r"^transformer\.resblocks\.", "blocks."),
        (r"\.ln_([12])\.", r".norm\1."),
        (r"\.attn\.in_proj_", ".attn.qkv."),
        (r"\.attn\.out_proj\.", ".attn.proj."),
        (r"\.mlp\.c_fc\.", ".mlp.fc1."),
        (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    )
    if "class_embedding" in found:
        found["cls_token"] = found.pop("class_embedding").reshape(1, 1, -1)
    if "positional_embedding" in found:
        found["pos_embed"] = found.pop("positional_embedding")[None]
    return {name: value.float() for name, value in found.items()}  # published in half precision


def _deit3(weights: Weights) -> Weights:
    return _replaced(weights, (r"\.gamma_([12])$", r".ls\1.gamma"))


FAMILIES: Final[Mapping[str, Family]] = {
    "dinov2": Family(
        ("teacher.backbone.", "backbone."),
        ("mask_token", "linear_head.", "dino_head.", "ibot_head."),
        _dinov2,
        "offset",
    ),
    "clip": Family(("module.visual.", "visual."), ("proj",), _clip, "antialias"),
    "synclr": Family(("module.visual.", "visual."), ("mask_token", "head."), dict, "plain"),
    "mae": Family(
        (),
        (
            "mask_token",
            "decoder_embed.",
            "decoder_blocks.",
            "decoder_norm.",
            "decoder_pred.",
            "decoder_pos_embed",
            "head.",
        ),
        dict,
        "plain",
    ),
    "deit3": Family((), ("head.", "head_dist."), _deit3, "plain"),
}


def by_timm(weights: Weights, model: Any) -> Weights:
    """What timm's own converter for this architecture makes of a file, less its classifier; positions on the model's grid."""
    convert = getattr(importlib.import_module(type(model).__module__), "checkpoint_filter_fn", None)
    if convert is None:
        return weights
    found: Weights = dict(convert(dict(weights), model))
    return {
        name: value for name, value in found.items() if not name.startswith(("head.fc.", "head.weight", "head.bias"))
    }
