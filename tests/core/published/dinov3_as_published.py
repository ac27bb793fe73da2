"""DINOv3 from the release's key names: rotary positions, storage tokens, masked biases of keys, SwiGLU of the largest."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from vit_as_published import Drawn, State, attend, draw_block, layer_norm, linear, mlp, patches

EPS = 1e-5
BASE = 100.0


def draw(*, dim: int, depth: int, num_heads: int, swiglu: int = 0, zero_bias: bool = False, seed: int = 0) -> State:
    """Periods are rounded to bfloat16, as in the release; the mask of biases is zero for keys."""
    drawn = Drawn(seed)
    drawn.normal("patch_embed.proj.weight", dim, 3, 16, 16, std=0.1)
    drawn.normal("patch_embed.proj.bias", dim)
    drawn.normal("cls_token", 1, 1, dim)
    drawn.normal("storage_tokens", 1, 4, dim)
    drawn.normal("mask_token", 1, dim)
    drawn.norm("norm", dim)
    head = dim // num_heads
    periods = BASE ** (2 * torch.arange(head // 4) / (head // 2))
    drawn.state["rope_embed.periods"] = periods.bfloat16()
    for i in range(depth):
        name = f"blocks.{i}"
        draw_block(drawn, name, dim, 4 * dim)
        mask = torch.ones(3 * dim)
        mask[dim : 2 * dim] = 0
        drawn.state[f"{name}.attn.qkv.bias_mask"] = mask
        if zero_bias:
            drawn.state[f"{name}.attn.qkv.bias"].zero_()
        if swiglu:
            for layer in ("fc1", "fc2"):
                del drawn.state[f"{name}.mlp.{layer}.weight"], drawn.state[f"{name}.mlp.{layer}.bias"]
            drawn.linear(f"{name}.mlp.w1", dim, swiglu)
            drawn.linear(f"{name}.mlp.w2", dim, swiglu)
            drawn.linear(f"{name}.mlp.w3", swiglu, dim)
        drawn.normal(f"{name}.ls1.gamma", dim)
        drawn.normal(f"{name}.ls2.gamma", dim)
    return drawn.state


def rotation(state: State, grid: tuple[int, int]) -> Tensor:
    """Angles [T, head]: the middle of each patch in [-1, 1], by two axes, over the periods, twice."""
    rows, columns = (2 * (torch.arange(n) + 0.5) / n - 1 for n in grid)
    coords_T2 = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
    angles = 2 * math.pi * coords_T2[:, :, None] / state["rope_embed.periods"].float()
    return angles.flatten(1).tile(2)


def rotate(x_BND: Tensor, angles_TE: Tensor, num_heads: int) -> Tensor:
    """Patches are turned, the tokens before them are not."""
    x = x_BND.reshape(*x_BND.shape[:2], num_heads, -1)
    first = x.shape[1] - len(angles_TE)
    before, x = x[:, :first], x[:, first:]
    one, other = x.chunk(2, dim=-1)
    turned = x * angles_TE.cos()[:, None] + torch.cat([-other, one], dim=-1) * angles_TE.sin()[:, None]
    return torch.cat([before, turned], dim=1).flatten(2)


def forward(state: State, x_BCHW: Tensor, num_heads: int) -> Tensor:
    """[B, 1 + 4 + T, D] after the final norm."""
    batch = len(x_BCHW)
    x = patches(state, "patch_embed.proj", x_BCHW)
    x = torch.cat([state[name].expand(batch, -1, -1) for name in ("cls_token", "storage_tokens")] + [x], dim=1)
    angles = rotation(state, (x_BCHW.shape[2] // 16, x_BCHW.shape[3] // 16))
    depth = sum(name.endswith(".norm1.weight") for name in state)
    for name in (f"blocks.{i}" for i in range(depth)):
        normed = layer_norm(state, f"{name}.norm1", x, EPS)
        bias = state[f"{name}.attn.qkv.bias"] * state[f"{name}.attn.qkv.bias_mask"]
        query, key, value = F.linear(normed, state[f"{name}.attn.qkv.weight"], bias).chunk(3, dim=-1)
        query, key = rotate(query, angles, num_heads), rotate(key, angles, num_heads)
        x = x + state[f"{name}.ls1.gamma"] * linear(state, f"{name}.attn.proj", attend(query, key, value, num_heads))
        x = x + state[f"{name}.ls2.gamma"] * _feed_forward(
            state, f"{name}.mlp", layer_norm(state, f"{name}.norm2", x, EPS)
        )
    return layer_norm(state, "norm", x, EPS)


def _feed_forward(state: State, name: str, x: Tensor) -> Tensor:
    if f"{name}.w1.weight" not in state:
        return mlp(state, name, x)
    return linear(state, f"{name}.w3", F.silu(linear(state, f"{name}.w1", x)) * linear(state, f"{name}.w2", x))
