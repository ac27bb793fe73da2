"""DINOv2 from the hub's key names: LayerScale, SwiGLU of the giant, registers, chunks of blocks, positions of a 37 x 37 grid."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from vit_as_published import Drawn, State, attention, draw_block, draw_stem, layer_norm, linear, mlp, patches

EPS = 1e-6


def draw(
    *, dim: int, depth: int, patch: int, side: int, registers: int = 0, swiglu: int = 0, chunk: int = 0, seed: int = 0
) -> State:
    """A hub state dict. `swiglu` is the hidden width of the giant's; `chunk` the blocks of one FSDP chunk."""
    drawn = Drawn(seed)
    draw_stem(drawn, dim, patch, 1 + side * side)
    drawn.normal("mask_token", 1, dim)
    if registers:
        drawn.normal("register_tokens", 1, registers, dim)
    for i in range(depth):
        name = f"blocks.{i // chunk}.{i}" if chunk else f"blocks.{i}"
        draw_block(drawn, name, dim, 4 * dim)
        if swiglu:
            for layer in ("fc1", "fc2"):
                del drawn.state[f"{name}.mlp.{layer}.weight"], drawn.state[f"{name}.mlp.{layer}.bias"]
            drawn.linear(f"{name}.mlp.w12", dim, 2 * swiglu)
            drawn.linear(f"{name}.mlp.w3", swiglu, dim)
        drawn.normal(f"{name}.ls1.gamma", dim)
        drawn.normal(f"{name}.ls2.gamma", dim)
    return drawn.state


def positions(pos_embed_1ND: Tensor, grid: tuple[int, int], *, registers: bool) -> Tensor:
    """Hub settings: offset 0.1 and no antialias without registers; no offset and antialias with them."""
    cls, rest = pos_embed_1ND[:, :1], pos_embed_1ND[:, 1:]
    side = math.isqrt(rest.shape[1])
    if grid == (side, side):
        return pos_embed_1ND
    map_1Dhw = rest.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if registers:
        map_1Dhw = F.interpolate(map_1Dhw, size=grid, mode="bicubic", antialias=True)
    else:
        scale = ((grid[0] + 0.1) / side, (grid[1] + 0.1) / side)
        map_1Dhw = F.interpolate(map_1Dhw, scale_factor=scale, mode="bicubic", antialias=False)
    assert tuple(map_1Dhw.shape[2:]) == grid
    return torch.cat([cls, map_1Dhw.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def forward(state: State, x_BCHW: Tensor, num_heads: int) -> list[Tensor]:
    """[B, 1 + T, D] after each block, registers taken out; the last one is followed by itself after the final norm."""
    patch = state["patch_embed.proj.weight"].shape[-1]
    grid = (x_BCHW.shape[2] // patch, x_BCHW.shape[3] // patch)
    registers = state.get("register_tokens")
    x = torch.cat([state["cls_token"].expand(len(x_BCHW), -1, -1), patches(state, "patch_embed.proj", x_BCHW)], dim=1)
    x = x + positions(state["pos_embed"], grid, registers=registers is not None)
    num = 0
    if registers is not None:
        num = registers.shape[1]
        x = torch.cat([x[:, :1], registers.expand(len(x), -1, -1), x[:, 1:]], dim=1)
    names = sorted(
        {name.rpartition(".norm1.")[0] for name in state if ".norm1." in name}, key=lambda n: int(n.split(".")[-1])
    )
    after = []
    for name in names:
        x = x + state[f"{name}.ls1.gamma"] * attention(
            state, f"{name}.attn", layer_norm(state, f"{name}.norm1", x, EPS), num_heads
        )
        x = x + state[f"{name}.ls2.gamma"] * _feed_forward(
            state, f"{name}.mlp", layer_norm(state, f"{name}.norm2", x, EPS)
        )
        after.append(x)
    return [torch.cat([y[:, :1], y[:, 1 + num :]], dim=1) for y in (*after, layer_norm(state, "norm", x, EPS))]


def _feed_forward(state: State, name: str, x: Tensor) -> Tensor:
    if f"{name}.w12.weight" not in state:
        return mlp(state, name, x)
    gate, value = linear(state, f"{name}.w12", x).chunk(2, dim=-1)
    return linear(state, f"{name}.w3", F.silu(gate) * value)
