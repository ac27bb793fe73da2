"""The vision tower of SigLIP 2 from the names of its Hugging Face release: tanh GELU, attention pooling with a probe."""

import functools

import torch.nn.functional as F
from torch import Tensor
from vit_as_published import Drawn, State, attend, layer_norm, linear, mlp, patches, resized

EPS = 1e-6
GELU = functools.partial(F.gelu, approximate="tanh")


def draw(*, dim: int, depth: int, patch: int, side: int, seed: int = 0) -> State:
    drawn = Drawn(seed)
    root = "vision_model"
    drawn.normal(f"{root}.embeddings.patch_embedding.weight", dim, 3, patch, patch, std=0.1)
    drawn.normal(f"{root}.embeddings.patch_embedding.bias", dim)
    drawn.normal(f"{root}.embeddings.position_embedding.weight", side * side, dim, std=1.0)
    for i in range(depth):
        name = f"{root}.encoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            drawn.linear(f"{name}.self_attn.{part}", dim, dim)
        for number in (1, 2):
            drawn.norm(f"{name}.layer_norm{number}", dim)
        drawn.linear(f"{name}.mlp.fc1", dim, 4 * dim)
        drawn.linear(f"{name}.mlp.fc2", 4 * dim, dim)
    drawn.norm(f"{root}.post_layernorm", dim)
    head = f"{root}.head"
    drawn.normal(f"{head}.probe", 1, 1, dim)
    drawn.normal(f"{head}.attention.in_proj_weight", 3 * dim, dim, std=1.5 * dim**-0.5)
    drawn.normal(f"{head}.attention.in_proj_bias", 3 * dim)
    drawn.linear(f"{head}.attention.out_proj", dim, dim)
    drawn.norm(f"{head}.layernorm", dim)
    drawn.linear(f"{head}.mlp.fc1", dim, 4 * dim)
    drawn.linear(f"{head}.mlp.fc2", 4 * dim, dim)
    drawn.normal("text_model.embeddings.token_embedding.weight", 9, 16)
    drawn.normal("logit_scale", 1)
    drawn.normal("logit_bias", 1)
    return drawn.state


def forward(state: State, x_BCHW: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    """(pooled [B, D], patches [B, T, D] after the final norm)."""
    root = "vision_model"
    patch = state[f"{root}.embeddings.patch_embedding.weight"].shape[-1]
    grid = (x_BCHW.shape[2] // patch, x_BCHW.shape[3] // patch)
    positions = resized(state[f"{root}.embeddings.position_embedding.weight"][None], grid)
    x = patches(state, f"{root}.embeddings.patch_embedding", x_BCHW) + positions
    depth = sum(name.endswith(".layer_norm1.weight") for name in state)
    for name in (f"{root}.encoder.layers.{i}" for i in range(depth)):
        normed = layer_norm(state, f"{name}.layer_norm1", x, EPS)
        query, key, value = (linear(state, f"{name}.self_attn.{part}_proj", normed) for part in "qkv")
        x = x + linear(state, f"{name}.self_attn.out_proj", attend(query, key, value, num_heads))
        x = x + mlp(state, f"{name}.mlp", layer_norm(state, f"{name}.layer_norm2", x, EPS), GELU)
    x = layer_norm(state, f"{root}.post_layernorm", x, EPS)
    head = f"{root}.head"
    weights = state[f"{head}.attention.in_proj_weight"].chunk(3)
    biases = state[f"{head}.attention.in_proj_bias"].chunk(3)
    probe = state[f"{head}.probe"].expand(len(x), -1, -1)
    sources = (probe, x, x)
    query, key, value = (F.linear(s, w, b) for s, w, b in zip(sources, weights, biases, strict=True))
    pooled = linear(state, f"{head}.attention.out_proj", attend(query, key, value, num_heads))
    pooled = pooled + mlp(state, f"{head}.mlp", layer_norm(state, f"{head}.layernorm", pooled, EPS), GELU)
    return pooled[:, 0], x
