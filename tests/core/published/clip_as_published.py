"""The visual tower of OpenAI's CLIP from its key names: QuickGELU, ln_pre, ln_post, the projection left out."""

import torch
from torch import Tensor
from vit_as_published import Drawn, State, attend, layer_norm, linear, patches

EPS = 1e-5


def draw(*, dim: int, depth: int, patch: int, side: int, seed: int = 0) -> State:
    """A state dict with a small text tower beside the visual one."""
    drawn = Drawn(seed)
    drawn.normal("visual.conv1.weight", dim, 3, patch, patch, std=0.1)
    drawn.normal("visual.class_embedding", dim, std=1.0)
    drawn.normal("visual.positional_embedding", 1 + side * side, dim, std=1.0)
    drawn.normal("visual.proj", dim, 24)
    for name in ("visual.ln_pre", "visual.ln_post"):
        drawn.norm(name, dim)
    for prefix, width in (("visual.transformer.resblocks", dim), ("transformer.resblocks", 16)):
        for i in range(depth):
            name = f"{prefix}.{i}"
            drawn.norm(f"{name}.ln_1", width)
            drawn.norm(f"{name}.ln_2", width)
            drawn.normal(f"{name}.attn.in_proj_weight", 3 * width, width, std=1.5 * width**-0.5)
            drawn.normal(f"{name}.attn.in_proj_bias", 3 * width)
            drawn.linear(f"{name}.attn.out_proj", width, width)
            drawn.linear(f"{name}.mlp.c_fc", width, 4 * width)
            drawn.linear(f"{name}.mlp.c_proj", 4 * width, width)
    drawn.normal("token_embedding.weight", 9, 16)
    drawn.normal("positional_embedding", 5, 16)
    drawn.normal("text_projection", 16, 24)
    drawn.norm("ln_final", 16)
    drawn.normal("logit_scale")
    return drawn.state


def forward(state: State, x_BCHW: Tensor, num_heads: int) -> list[Tensor]:
    """[B, 1 + T, D] as the last block leaves it, and after ln_post."""
    x = patches(state, "visual.conv1", x_BCHW)
    cls = state["visual.class_embedding"].expand(len(x), 1, -1)
    x = torch.cat([cls, x], dim=1) + state["visual.positional_embedding"]
    x = layer_norm(state, "visual.ln_pre", x, EPS)
    depth = sum(name.startswith("visual.") and name.endswith(".ln_1.weight") for name in state)
    for name in (f"visual.transformer.resblocks.{i}" for i in range(depth)):
        normed = layer_norm(state, f"{name}.ln_1", x, EPS)
        qkv = normed @ state[f"{name}.attn.in_proj_weight"].T + state[f"{name}.attn.in_proj_bias"]
        query, key, value = qkv.chunk(3, dim=-1)
        x = x + linear(state, f"{name}.attn.out_proj", attend(query, key, value, num_heads))
        hidden = linear(state, f"{name}.mlp.c_fc", layer_norm(state, f"{name}.ln_2", x, EPS))
        x = x + linear(state, f"{name}.mlp.c_proj", hidden * torch.sigmoid(1.702 * hidden))
    return [x, layer_norm(state, "visual.ln_post", x, EPS)]
