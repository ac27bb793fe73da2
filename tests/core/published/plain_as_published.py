"""ViTs whose files have timm's names or nearly so: MAE, SynCLR (under `module.visual.`), DeiT III (gamma_1, gamma_2)."""

import torch
from torch import Tensor
from vit_as_published import Drawn, State, attention, draw_block, draw_stem, layer_norm, mlp, patches, resized

EPS = 1e-6


def draw(*, dim: int, depth: int, patch: int, side: int, prefix: str = "", deit3: bool = False, seed: int = 0) -> State:
    """DeiT III has no position for its cls token, and a LayerScale."""
    drawn = Drawn(seed)
    draw_stem(drawn, dim, patch, side * side + (not deit3), prefix)
    for i in range(depth):
        draw_block(drawn, f"{prefix}blocks.{i}", dim, 4 * dim)
        if deit3:
            drawn.normal(f"{prefix}blocks.{i}.gamma_1", dim)
            drawn.normal(f"{prefix}blocks.{i}.gamma_2", dim)
    return drawn.state


def forward(state: State, x_BCHW: Tensor, num_heads: int, *, prefix: str = "", deit3: bool = False) -> Tensor:
    """[B, 1 + T, D] after the final norm."""
    state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    patch = state["patch_embed.proj.weight"].shape[-1]
    grid = (x_BCHW.shape[2] // patch, x_BCHW.shape[3] // patch)
    x = patches(state, "patch_embed.proj", x_BCHW)
    cls = state["cls_token"].expand(len(x), -1, -1)
    if deit3:
        x = torch.cat([cls, x + resized(state["pos_embed"], grid)], dim=1)
    else:
        positions = torch.cat([state["pos_embed"][:, :1], resized(state["pos_embed"][:, 1:], grid)], dim=1)
        x = torch.cat([cls, x], dim=1) + positions
    depth = sum(name.endswith(".norm1.weight") for name in state)
    for name in (f"blocks.{i}" for i in range(depth)):
        one, two = (state.get(f"{name}.gamma_{n}", torch.ones(())) for n in (1, 2))
        x = x + one * attention(state, f"{name}.attn", layer_norm(state, f"{name}.norm1", x, EPS), num_heads)
        x = x + two * mlp(state, f"{name}.mlp", layer_norm(state, f"{name}.norm2", x, EPS))
    return layer_norm(state, "norm", x, EPS)
