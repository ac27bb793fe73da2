"""Families: a file in its own published names gives the tokens of the published forward.

The forwards here are written from the published formulae over the published names, and share nothing with timm or with our
loader.

Legend: B batch, N tokens, D width.
"""

import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.core.checkpoints import read_weights
from stillhouse.core.encoders import EncoderConfig, build_encoder
from stillhouse.core.errors import UsageError

D, HEADS, BLOCKS, HIDDEN = 48, 3, 2, 192
Weights = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Published:
    """A family in small: its file, its forward to (cls [B, D], patches), and how a config names it."""

    file: Weights
    forward: Callable[[Weights, Tensor], tuple[Tensor, Tensor]]
    config: Mapping[str, Any]
    size: int


def drawn(shapes: Mapping[str, tuple[int, ...]]) -> Weights:
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        is_norm = len(shape) == 1 and name.endswith("weight")
        found[name] = 1 + 0.2 * value if is_norm else 0.15 * value
    return found


def norm(w: Weights, name: str, x: Tensor, eps: float = 1e-6) -> Tensor:
    return functional.layer_norm(x, (D,), w[f"{name}.weight"], w[f"{name}.bias"], eps)


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def attention(qkv_BNE: Tensor) -> Tensor:
    batch, num = qkv_BNE.shape[:2]
    q, k, v = qkv_BNE.reshape(batch, num, 3, HEADS, D // HEADS).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-2, -1) / (D // HEADS) ** 0.5).softmax(-1)
    mixed: Tensor = (weights @ v).transpose(1, 2).reshape(batch, num, D)
    return mixed


def patches_of(w: Weights, x: Tensor, name: str = "patch_embed.proj") -> Tensor:
    weight = w[f"{name}.weight"]
    return functional.conv2d(x, weight, w.get(f"{name}.bias"), weight.shape[-1]).flatten(2).transpose(1, 2)


def with_cls(w: Weights, patches: Tensor, name: str = "cls_token") -> Tensor:
    return torch.cat([w[name].reshape(1, 1, D).expand(len(patches), 1, D), patches], 1)


def vit_block(w: Weights, name: str, x: Tensor, scales: tuple[str, str] | None, swiglu: bool = False) -> Tensor:
    one, two = (1.0, 1.0) if scales is None else (w[f"{name}.{scale}"] for scale in scales)
    x = x + one * linear(w, f"{name}.attn.proj", attention(linear(w, f"{name}.attn.qkv", norm(w, f"{name}.norm1", x))))
    inner = norm(w, f"{name}.norm2", x)
    if swiglu:
        gate, value = linear(w, f"{name}.mlp.w12", inner).chunk(2, -1)
        return x + two * linear(w, f"{name}.mlp.w3", functional.silu(gate) * value)
    return x + two * linear(w, f"{name}.mlp.fc2", functional.gelu(linear(w, f"{name}.mlp.fc1", inner)))


def vit_shapes(
    names: list[str], side: int, patch: int, mlp: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, D),
        "pos_embed": (1, 1 + side * side, D),
        "patch_embed.proj.weight": (D, 3, patch, patch),
        "patch_embed.proj.bias": (D,),
        "norm.weight": (D,),
        "norm.bias": (D,),
    }
    for name in names:
        shapes |= {f"{name}.norm{i}.{part}": (D,) for i in (1, 2) for part in ("weight", "bias")}
        shapes |= {f"{name}.attn.qkv.weight": (3 * D, D), f"{name}.attn.qkv.bias": (3 * D,)}
        shapes |= {f"{name}.attn.proj.weight": (D, D), f"{name}.attn.proj.bias": (D,)}
        shapes |= {f"{name}.mlp.{part}": shape for part, shape in mlp.items()}
    return shapes


MLP: Mapping[str, tuple[int, ...]] = {
    "fc1.weight": (HIDDEN, D),
    "fc1.bias": (HIDDEN,),
    "fc2.weight": (D, HIDDEN),
    "fc2.bias": (D,),
}
SWIGLU: Mapping[str, tuple[int, ...]] = {
    "w12.weight": (256, D),
    "w12.bias": (256,),
    "w3.weight": (D, 128),
    "w3.bias": (D,),
}


def interpolated(position_1ND: Tensor, side: int, **how: Any) -> Tensor:
    """Patch positions for a grid of side x side."""
    old = int(position_1ND.shape[1] ** 0.5)
    image = position_1ND.reshape(1, old, old, D).permute(0, 3, 1, 2)
    made = functional.interpolate(image, mode="bicubic", **how)
    assert made.shape[-2:] == (side, side)
    return made.permute(0, 2, 3, 1).reshape(1, side * side, D)


def dinov2(kind: str, *, registers: int = 0, swiglu: bool = False, chunked: bool = False) -> Published:
    """hub `dinov2_vit*14`: 5 x 5 positions here for 37 x 37, a 4 x 4 grid at 56 pixels."""
    names = [f"blocks.0.{i}" if chunked else f"blocks.{i}" for i in range(BLOCKS)]
    shapes = vit_shapes(names, 5, 14, SWIGLU if swiglu else MLP)
    shapes |= {f"{name}.ls{i}.gamma": (D,) for name in names for i in (1, 2)}
    shapes |= {"mask_token": (1, D)} | ({"register_tokens": (1, registers, D)} if registers else {})

    def forward(w: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
        tokens = with_cls(w, patches_of(w, x))
        how: dict[str, Any] = {"scale_factor": (4.1 / 5, 4.1 / 5)}  # interpolate_offset 0.1
        if registers:
            how = {"size": (4, 4), "antialias": True}
        position = torch.cat([w["pos_embed"][:, :1], interpolated(w["pos_embed"][:, 1:], 4, **how)], 1)
        tokens = tokens + position
        if registers:
            extra = w["register_tokens"].expand(len(x), -1, -1)
            tokens = torch.cat([tokens[:, :1], extra, tokens[:, 1:]], 1)
        for name in names:
            tokens = vit_block(w, name, tokens, ("ls1.gamma", "ls2.gamma"), swiglu)
        tokens = norm(w, "norm", tokens)
        return tokens[:, 0], tokens[:, 1 + registers :]

    return Published(drawn(shapes), forward, {"model": kind, "keys": "dinov2"}, 56)


def plain(keys: str, prefix: str, extra: Mapping[str, tuple[int, ...]]) -> Published:
    """MAE and SynCLR: a ViT without LayerScale; 5 x 5 positions, a 4 x 4 grid at 64 pixels."""
    names = [f"blocks.{i}" for i in range(BLOCKS)]
    inner = drawn(vit_shapes(names, 5, 16, MLP))

    def forward(w: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
        w = {name.removeprefix(prefix): value for name, value in w.items()}
        position = interpolated(w["pos_embed"][:, 1:], 4, size=(4, 4), align_corners=False)
        tokens = with_cls(w, patches_of(w, x) + position)
        tokens = torch.cat([tokens[:, :1] + w["pos_embed"][:, :1], tokens[:, 1:]], 1)
        for name in names:
            tokens = vit_block(w, name, tokens, None)
        tokens = norm(w, "norm", tokens)
        return tokens[:, 0], tokens[:, 1:]

    file = {f"{prefix}{name}": value for name, value in inner.items()} | drawn(extra)
    return Published(file, forward, {"model": "vit_small_patch16_224", "keys": keys}, 64)


def deit3() -> Published:
    """DeiT III: positions for patches alone, LayerScale as `gamma_1`."""
    names = [f"blocks.{i}" for i in range(BLOCKS)]
    shapes = vit_shapes(names, 5, 16, MLP) | {"pos_embed": (1, 25, D), "head.weight": (10, D), "head.bias": (10,)}
    shapes |= {f"{name}.gamma_{i}": (D,) for name in names for i in (1, 2)}

    def forward(w: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
        position = interpolated(w["pos_embed"], 4, size=(4, 4), align_corners=False)
        tokens = with_cls(w, patches_of(w, x) + position)
        for name in names:
            tokens = vit_block(w, name, tokens, ("gamma_1", "gamma_2"))
        tokens = norm(w, "norm", tokens)
        return tokens[:, 0], tokens[:, 1:]

    return Published(drawn(shapes), forward, {"model": "deit3_small_patch16_224", "keys": "deit3"}, 64)


def clip(prefix: str, others: Mapping[str, tuple[int, ...]]) -> Published:
    """The visual tower of OpenAI's CLIP: QuickGELU, `ln_pre`, cls after `ln_post` and before the projection."""
    names = [f"transformer.resblocks.{i}" for i in range(BLOCKS)]
    shapes: dict[str, tuple[int, ...]] = {
        "class_embedding": (D,),
        "positional_embedding": (17, D),
        "proj": (D, 20),
        "conv1.weight": (D, 3, 16, 16),
    }
    shapes |= {f"{name}.{part}": (D,) for name in ("ln_pre", "ln_post") for part in ("weight", "bias")}
    for name in names:
        shapes |= {f"{name}.ln_{i}.{part}": (D,) for i in (1, 2) for part in ("weight", "bias")}
        shapes |= {f"{name}.attn.in_proj_weight": (3 * D, D), f"{name}.attn.in_proj_bias": (3 * D,)}
        shapes |= {f"{name}.attn.out_proj.weight": (D, D), f"{name}.attn.out_proj.bias": (D,)}
        shapes |= {f"{name}.mlp.c_fc.weight": (HIDDEN, D), f"{name}.mlp.c_fc.bias": (HIDDEN,)}
        shapes |= {f"{name}.mlp.c_proj.weight": (D, HIDDEN), f"{name}.mlp.c_proj.bias": (D,)}

    def forward(w: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
        w = {name.removeprefix(prefix): value for name, value in w.items() if name.startswith(prefix)}
        tokens = with_cls(w, patches_of(w, x, "conv1"), "class_embedding") + w["positional_embedding"]
        tokens = norm(w, "ln_pre", tokens, 1e-5)
        for name in names:
            inner = norm(w, f"{name}.ln_1", tokens, 1e-5)
            qkv = inner @ w[f"{name}.attn.in_proj_weight"].T + w[f"{name}.attn.in_proj_bias"]
            tokens = tokens + linear(w, f"{name}.attn.out_proj", attention(qkv))
            inner = linear(w, f"{name}.mlp.c_fc", norm(w, f"{name}.ln_2", tokens, 1e-5))
            tokens = tokens + linear(w, f"{name}.mlp.c_proj", inner * torch.sigmoid(1.702 * inner))
        tokens = norm(w, "ln_post", tokens, 1e-5)  # Proteus' module leaves the patches without it and does not use them
        return tokens[:, 0], tokens[:, 1:]

    file = {f"{prefix}{name}": value for name, value in drawn(shapes).items()} | drawn(others)
    return Published(file, forward, {"model": "vit_base_patch16_clip_quickgelu_224", "keys": "clip"}, 64)


TEXT = {"token_embedding.weight": (30, 16), "transformer.resblocks.0.ln_1.weight": (16,), "logit_scale": ()}
FAMILIES: Mapping[str, Callable[[], Published]] = {
    "dinov2": lambda: dinov2("vit_small_patch14_dinov2"),
    "dinov2 in chunks": lambda: dinov2("vit_small_patch14_dinov2", chunked=True),
    "dinov2 with registers": lambda: dinov2("vit_small_patch14_reg4_dinov2", registers=4),
    "dinov2 giant": lambda: dinov2("vit_giant_patch14_dinov2", swiglu=True),
    "dinov2 giant with registers": lambda: dinov2("vit_giant_patch14_reg4_dinov2", registers=4, swiglu=True),
    "mae": lambda: plain("mae", "", {"decoder_pos_embed": (1, 26, 8), "decoder_blocks.0.norm1.weight": (8,)}),
    "synclr": lambda: plain("synclr", "module.visual.", {"module.image_mlp.0.weight": (7, D)}),
    "deit3": deit3,
    "clip": lambda: clip("visual.", TEXT),
    "clip's visual tower alone": lambda: clip("", {}),
}


def config_of(published: Published, path: Path, **fields: Any) -> EncoderConfig:
    args = {"embed_dim": D, "depth": BLOCKS, "num_heads": HEADS}
    return EncoderConfig.model_validate({"checkpoint": str(path), "model_args": args, **published.config, **fields})


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_are_those_of_the_published_forward(name: str, tmp_path: Path) -> None:
    published = FAMILIES[name]()
    torch.save(published.file, tmp_path / "weights.pth")
    encoder = build_encoder(config_of(published, tmp_path / "weights.pth"), image_size=published.size)
    x = torch.randn(2, 3, published.size, published.size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        tokens = encoder(x)
        cls, patches = published.forward(published.file, x)
    assert tokens.grid == (4, 4)
    torch.testing.assert_close(tokens.cls_BD, cls, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tokens.patch_BTD, patches, rtol=1e-5, atol=1e-5)


def test_how_positions_are_resampled_shows(tmp_path: Path) -> None:
    """DINOv2's offset is no detail: a teacher without it is another one."""
    published = FAMILIES["dinov2"]()
    torch.save(published.file, tmp_path / "weights.pth")
    x, found = torch.ones(1, 3, 56, 56), {}
    for rule in (None, "offset", "plain", "antialias"):
        encoder = build_encoder(config_of(published, tmp_path / "weights.pth", positions=rule), image_size=56)
        with torch.inference_mode():
            found[rule] = encoder(x).patch_BTD
    assert torch.equal(found[None], found["offset"])
    assert (found["offset"] - found["plain"]).abs().max() > 1e-4
    assert (found["plain"] - found["antialias"]).abs().max() > 1e-4


@pytest.mark.parametrize("name", FAMILIES)
def test_a_missing_and_a_foreign_tensor_are_named(name: str, tmp_path: Path) -> None:
    published = FAMILIES[name]()
    lost = next(key for key in published.file if key.endswith(("attn.proj.bias", "attn.out_proj.bias")))
    prefix = lost[: lost.index("blocks" if "resblocks" not in lost else "transformer.resblocks")]
    file = {key: value for key, value in published.file.items() if key != lost} | {f"{prefix}surprise": torch.zeros(1)}
    torch.save(file, tmp_path / "weights.pth")
    with pytest.raises(UsageError, match=r"1 missing \(blocks.0.attn.proj.bias\); 1 unexpected \(surprise\)"):
        build_encoder(config_of(published, tmp_path / "weights.pth"), image_size=published.size)


class Tower(torch.nn.Module):
    """Tensors under a name, as a scripted module holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = torch.nn.Sequential(torch.nn.Linear(3, 4).half(), torch.nn.LayerNorm(4))
        self.register_buffer("context_length", torch.tensor(77))
        self.logit_scale = torch.nn.Parameter(torch.tensor(2.5))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.visual(x)
        return found


def archived(path: Path) -> Tower:
    """A TorchScript archive, as OpenAI publishes CLIP."""
    torch.manual_seed(0)
    tower = Tower()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.script(tower), path)
    return tower


def test_a_torchscript_archive_gives_its_tensors(tmp_path: Path) -> None:
    wanted = archived(tmp_path / "model.pt").state_dict()
    found = read_weights(tmp_path / "model.pt")
    assert found.keys() - {"training"} == wanted.keys()
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


def test_nothing_but_tensors_is_made_from_a_torchscript_archive(tmp_path: Path) -> None:
    """A class that is no module of the archive is refused before it is called."""
    archived(tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "model.pt") as whole, zipfile.ZipFile(tmp_path / "bad.pt", "w") as bad:
        for name in whole.namelist():
            crafted = b"cos\nmkdir\n(Vhere\ntR." if name.endswith("/data.pkl") else whole.read(name)
            bad.writestr(name, crafted)
    with pytest.raises(UsageError, match=r"bad.pt cannot be read: os.mkdir has no place in a tree of modules"):
        read_weights(tmp_path / "bad.pt")


def test_a_clip_archive_is_a_teacher(tmp_path: Path) -> None:
    """OpenAI's way: half precision, inside TorchScript, text tower beside it."""
    published = FAMILIES["clip"]()
    tree = torch.nn.Module()
    for name, value in published.file.items():
        *parents, leaf = name.split(".")
        node = tree
        for parent in parents:
            if not hasattr(node, parent):
                node.add_module(parent, torch.nn.Module())
            node = node.get_submodule(parent)
        node.register_buffer(leaf, value.half())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.script(tree), tmp_path / "ViT.pt")
    encoder = build_encoder(config_of(published, tmp_path / "ViT.pt"), image_size=published.size)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        cls, _ = published.forward({name: value.half().float() for name, value in published.file.items()}, x)
        torch.testing.assert_close(encoder(x).cls_BD, cls, rtol=1e-5, atol=1e-5)
