"""What the published ViTs share, as plain functions over official state dicts; written from papers and key names.

Legend: B batch, N tokens, D width, H heads, E width of a head, T patches.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


class Drawn:
    """Random weights under names as they are asked for; norms are near one, the rest is small."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.Generator(np.random.PCG64(seed))
        self.state: State = {}

    def normal(self, name: str, *shape: int, mean: float = 0.0, std: float = 0.2) -> None:
        self.state[name] = torch.from_numpy(np.asarray(mean + std * self._random.normal(size=shape), np.float32))

    def linear(self, name: str, inputs: int, outputs: int, *, bias: bool = True) -> None:
        self.normal(f"{name}.weight", outputs, inputs, std=1.5 * inputs**-0.5)
        if bias:
            self.normal(f"{name}.bias", outputs)

    def norm(self, name: str, dim: int) -> None:
        self.normal(f"{name}.weight", dim, mean=1.0)
        self.normal(f"{name}.bias", dim)


def images(size: int, num: int = 2) -> Tensor:
    drawn = np.random.Generator(np.random.PCG64(7)).normal(size=(num, 3, size, size))
    return torch.from_numpy(drawn.astype(np.float32))


def layer_norm(state: State, name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def patches(state: State, name: str, x_BCHW: Tensor) -> Tensor:
    """[B, T, D] by a convolution whose stride is its size."""
    weight = state[f"{name}.weight"]
    return F.conv2d(x_BCHW, weight, state.get(f"{name}.bias"), stride=weight.shape[-1]).flatten(2).transpose(1, 2)


def attend(query_BND: Tensor, key_BMD: Tensor, value_BMD: Tensor, num_heads: int) -> Tensor:
    """softmax(q k / sqrt(E)) v, by head, written out."""

    def heads(x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], num_heads, -1).transpose(1, 2)

    query, key, value = heads(query_BND), heads(key_BMD), heads(value_BMD)
    weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(dim=-1)
    mixed: Tensor = weights @ value
    return mixed.transpose(1, 2).flatten(2)


def attention(state: State, name: str, x_BND: Tensor, num_heads: int) -> Tensor:
    """`qkv` in one matrix, then `proj`."""
    query, key, value = linear(state, f"{name}.qkv", x_BND).chunk(3, dim=-1)
    return linear(state, f"{name}.proj", attend(query, key, value, num_heads))


def mlp(state: State, name: str, x: Tensor, act: Callable[[Tensor], Tensor] = F.gelu) -> Tensor:
    return linear(state, f"{name}.fc2", act(linear(state, f"{name}.fc1", x)))


def draw_block(drawn: Drawn, name: str, dim: int, hidden: int) -> None:
    """A timm-named block: norm1, attn, norm2, mlp."""
    drawn.norm(f"{name}.norm1", dim)
    drawn.linear(f"{name}.attn.qkv", dim, 3 * dim)
    drawn.linear(f"{name}.attn.proj", dim, dim)
    drawn.norm(f"{name}.norm2", dim)
    drawn.linear(f"{name}.mlp.fc1", dim, hidden)
    drawn.linear(f"{name}.mlp.fc2", hidden, dim)


def draw_stem(drawn: Drawn, dim: int, patch: int, positions: int, prefix: str = "") -> None:
    """Patch embedding, cls token, positions, final norm."""
    drawn.normal(f"{prefix}patch_embed.proj.weight", dim, 3, patch, patch, std=0.1)
    drawn.normal(f"{prefix}patch_embed.proj.bias", dim)
    drawn.normal(f"{prefix}cls_token", 1, 1, dim, std=1.0)
    drawn.normal(f"{prefix}pos_embed", 1, positions, dim, std=1.0)
    drawn.norm(f"{prefix}norm", dim)


def resized(map_1TD: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bicubic to the exact size, without antialiasing."""
    side = int(map_1TD.shape[1] ** 0.5)
    found = F.interpolate(map_1TD.reshape(1, side, side, -1).permute(0, 3, 1, 2), size=grid, mode="bicubic")
    return found.permute(0, 2, 3, 1).flatten(1, 2)
