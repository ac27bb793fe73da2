"""Learning rates over steps and over layers.

Legend: N blocks of an encoder.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from timm.models import group_parameters
from torch import nn

from stillhouse.core.encoders import Encoder

WARMUP_START = 1e-6


def lr_factor(step: int, iterations: int, warmup: int, decay_from: Literal["start", "warmup"]) -> float:
    """Share of the peak learning rate at `step`, from 0.

    `start`: mmcv's hooks, with which DINOv2 trained: a decay over all steps, and the warm-up multiplied onto it. `warmup`:
    mmengine's schedulers, with which Proteus trained: one after the other, each reaching its end at its last step.
    """
    if decay_from == "start":
        ramp = 1 - (1 - step / warmup) * (1 - WARMUP_START) if step < warmup else 1.0
        return ramp * (1 - step / iterations)
    if step < warmup:
        return WARMUP_START + (1 - WARMUP_START) * step / max(warmup - 1, 1)
    return 1 - (step - warmup) / max(iterations - warmup - 1, 1)


def layer_of(name: str, num_blocks: int) -> int:
    """The layer of a ViT's parameter: 0 before the blocks, i + 1 in block i, N + 1 after them."""
    found = re.match(r"blocks\.(\d+)\.", name)
    if found:
        return int(found[1]) + 1
    return (
        0 if name.startswith(("cls_token", "pos_embed", "reg_token", "mask_token", "patch_embed.")) else num_blocks + 1
    )


def encoder_layers(encoder: Encoder) -> tuple[Mapping[str, int], int]:
    """(layer of each parameter of the model, the layer of what comes after the encoder).

    Of another model than a ViT: by timm's own coarse groups, from its stem on.
    """
    names = [name for name, _ in encoder.model.named_parameters()]
    if encoder.is_vit:
        num = len(encoder.model.blocks)
        return {name: layer_of(name, num) for name in names}, num + 1
    if not hasattr(encoder.model, "group_matcher"):
        return dict.fromkeys(names, 0), 1
    groups = group_parameters(encoder.model, encoder.model.group_matcher(coarse=True), reverse=True)
    return {name: int(groups[name]) for name in names}, max(groups.values()) + 1


def head_groups(head: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """All parameters alike: of a probe the published code decays biases too."""
    return [{"params": list(head.parameters()), "weight_decay": weight_decay, "scale": 1.0}]


def decayed_groups(encoder: Encoder, head: nn.Module, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Encoder and head; layer id has `layer_decay ** (last - id)` of the learning rate, last = N + 1 for a ViT.

    That is 0.65 ** (N + 2 - id - 1) of mmsegmentation. Vectors and biases are not decayed; position embeddings and the cls
    token are, since the published code's exception for them names them without the prefix that they have there.
    """
    layers, last = encoder_layers(encoder)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, layer, parameter in _named(encoder, head, layers, last):
        plain = parameter.ndim <= 1 or name.endswith(".bias")
        scale = layer_decay ** (last - layer)
        decay = 0.0 if plain else weight_decay
        group = groups.setdefault((layer, plain), {"params": [], "weight_decay": decay, "scale": scale})
        group["params"].append(parameter)
    return list(groups.values())


def _named(
    encoder: Encoder, head: nn.Module, layers: Mapping[str, int], last: int
) -> Iterator[tuple[str, int, nn.Parameter]]:
    for name, parameter in encoder.model.named_parameters():
        yield name, layers[name], parameter
    for name, parameter in head.named_parameters():
        yield name, last, parameter
