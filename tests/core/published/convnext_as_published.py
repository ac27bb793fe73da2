"""ConvNeXt and ConvNeXt V2 from the release's key names: depthwise 7 x 7, LayerNorm, LayerScale or GRN, pooling, norm."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from vit_as_published import Drawn, State, layer_norm, linear

EPS = 1e-6


def draw(*, dims: Sequence[int], depths: Sequence[int], classes: int, v2: bool = False, seed: int = 0) -> State:
    drawn = Drawn(seed)
    drawn.normal("downsample_layers.0.0.weight", dims[0], 3, 4, 4, std=0.1)
    drawn.normal("downsample_layers.0.0.bias", dims[0])
    drawn.norm("downsample_layers.0.1", dims[0])
    for i in range(1, len(dims)):
        drawn.norm(f"downsample_layers.{i}.0", dims[i - 1])
        drawn.normal(f"downsample_layers.{i}.1.weight", dims[i], dims[i - 1], 2, 2)
        drawn.normal(f"downsample_layers.{i}.1.bias", dims[i])
    for i, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
        for j in range(depth):
            name = f"stages.{i}.{j}"
            drawn.normal(f"{name}.dwconv.weight", dim, 1, 7, 7, std=0.1)
            drawn.normal(f"{name}.dwconv.bias", dim)
            drawn.norm(f"{name}.norm", dim)
            drawn.linear(f"{name}.pwconv1", dim, 4 * dim)
            drawn.linear(f"{name}.pwconv2", 4 * dim, dim)
            if v2:
                drawn.normal(f"{name}.grn.gamma", 1, 1, 1, 4 * dim)
                drawn.normal(f"{name}.grn.beta", 1, 1, 1, 4 * dim)
            else:
                drawn.normal(f"{name}.gamma", dim)
    drawn.norm("norm", dims[-1])
    drawn.linear("head", dims[-1], classes)
    return drawn.state


def _norm_map(state: State, name: str, x_BCHW: Tensor) -> Tensor:
    return layer_norm(state, name, x_BCHW.permute(0, 2, 3, 1), EPS).permute(0, 3, 1, 2)


def _block(state: State, name: str, x_BCHW: Tensor) -> Tensor:
    weight = state[f"{name}.dwconv.weight"]
    x = F.conv2d(x_BCHW, weight, state[f"{name}.dwconv.bias"], padding=3, groups=len(weight)).permute(0, 2, 3, 1)
    x = F.gelu(linear(state, f"{name}.pwconv1", layer_norm(state, f"{name}.norm", x, EPS)))
    if f"{name}.grn.gamma" in state:
        energy = x.norm(p=2, dim=(1, 2), keepdim=True)
        energy = energy / (energy.mean(dim=-1, keepdim=True) + 1e-6)
        x = state[f"{name}.grn.gamma"] * (x * energy) + state[f"{name}.grn.beta"] + x
    x = linear(state, f"{name}.pwconv2", x)
    return x_BCHW + (x * state.get(f"{name}.gamma", torch.ones(()))).permute(0, 3, 1, 2)


def forward(state: State, x_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(pooled and normed [B, D], the last map [B, h w, D], logits [B, K])."""
    x = x_BCHW
    num = sum(name.startswith("downsample_layers.") and name.endswith(".0.weight") for name in state)
    for i in range(num):
        name = f"downsample_layers.{i}"
        if i == 0:
            x = F.conv2d(x, state[f"{name}.0.weight"], state[f"{name}.0.bias"], stride=4)
            x = _norm_map(state, f"{name}.1", x)
        else:
            x = F.conv2d(_norm_map(state, f"{name}.0", x), state[f"{name}.1.weight"], state[f"{name}.1.bias"], stride=2)
        j = 0
        while f"stages.{i}.{j}.norm.weight" in state:
            x = _block(state, f"stages.{i}.{j}", x)
            j += 1
    pooled = layer_norm(state, "norm", x.mean(dim=(2, 3)), EPS)
    return pooled, x.flatten(2).transpose(1, 2), linear(state, "head", pooled)
