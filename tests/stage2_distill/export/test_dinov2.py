"""Export under DINOv2's names: read by a forward pass written here from the paper's description, and by Proteus' rules.

Legend: B batch, T tokens, D width.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, gelu, layer_norm, linear, softmax

from stillhouse.stage2_distill.export import FORMATS, Finished
from stillhouse.stage2_distill.export.testing import PLAIN, Opened, PlainVitTests, pixels_of, trained, written


def dinov2_forward(weights: dict[str, Tensor], heads: int, x_BCHW: Tensor, mask_BT: Tensor | None = None) -> Tensor:
    """Normed tokens [B, 1 + registers + patches, D] by names alone: no module, nothing of timm, nothing of ours."""

    def norm(name: str, x: Tensor) -> Tensor:
        return layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)

    def dense(name: str, x: Tensor) -> Tensor:
        return linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    kernel = weights["patch_embed.proj.weight"]
    x = conv2d(x_BCHW, kernel, weights["patch_embed.proj.bias"], stride=kernel.shape[2]).flatten(2).transpose(1, 2)
    if mask_BT is not None:
        x = torch.where(mask_BT[..., None], weights["mask_token"], x)
    x = torch.cat([weights["cls_token"].expand(len(x), -1, -1), x], dim=1) + weights["pos_embed"]
    if "register_tokens" in weights:
        x = torch.cat([x[:, :1], weights["register_tokens"].expand(len(x), -1, -1), x[:, 1:]], dim=1)
    for number in range(len({name.split(".")[1] for name in weights if name.startswith("blocks.")})):
        at = f"blocks.{number}"
        B, T, D = x.shape
        qkv = dense(f"{at}.attn.qkv", norm(f"{at}.norm1", x)).reshape(B, T, 3, heads, D // heads).permute(2, 0, 3, 1, 4)
        scores = softmax(qkv[0] * (D // heads) ** -0.5 @ qkv[1].transpose(2, 3), dim=-1)
        seen = (scores @ qkv[2]).transpose(1, 2).reshape(B, T, D)
        x = x + weights[f"{at}.ls1.gamma"] * dense(f"{at}.attn.proj", seen)
        hidden = gelu(dense(f"{at}.mlp.fc1", norm(f"{at}.norm2", x)))
        x = x + weights[f"{at}.ls2.gamma"] * dense(f"{at}.mlp.fc2", hidden)
    return norm("norm", x)


def features(weights: dict[str, Tensor], finished: Finished) -> Opened:
    heads, skip = int(finished.config["model_args"]["num_heads"]), 1 + len(weights.get("register_tokens", [[]])[0])

    def run(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        tokens = dinov2_forward(weights, heads, x_BCHW)
        return tokens[:, 0], tokens[:, skip:]

    return run


def as_proteus_loads(path: Path) -> dict[str, Tensor]:
    """What its fine-grained and dense loaders keep, by their rules: entry `model`, names that hold `student`."""
    checkpoint: Any = torch.load(path, weights_only=True)
    kept = checkpoint.get("model", checkpoint)
    return {name.replace("student.backbone.", ""): tensor for name, tensor in kept.items() if "student" in name}


class TestDinov2(PlainVitTests):
    name = "dinov2"

    def open(self, folder: Path, finished: Finished) -> Opened:
        return features(torch.load(folder / "dinov2.pth", weights_only=True), finished)


class TestProteus(PlainVitTests):
    name = "proteus"

    def open(self, folder: Path, finished: Finished) -> Opened:
        return features(as_proteus_loads(folder / "proteus.pth"), finished)


def test_the_names_are_dinov2s(tmp_path: Path) -> None:
    weights = torch.load(
        written(trained(PLAIN["vit"])[1], "dinov2", tmp_path / "out") / "dinov2.pth", weights_only=True
    )
    parts = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    names = {f"blocks.{n}.{part}.{kind}" for n in (0, 1) for part in parts for kind in ("weight", "bias")}
    names |= {f"blocks.{n}.{scale}.gamma" for n in (0, 1) for scale in ("ls1", "ls2")}
    names |= {f"{part}.{kind}" for part in ("patch_embed.proj", "norm") for kind in ("weight", "bias")}
    assert set(weights) == names | {"cls_token", "pos_embed", "mask_token"}
    shapes = {name: tuple(weights[name].shape) for name in ("cls_token", "pos_embed", "mask_token")}
    assert shapes == {"cls_token": (1, 1, 48), "pos_embed": (1, 17, 48), "mask_token": (1, 48)}


def test_every_loader_of_proteus_matches_every_name(tmp_path: Path) -> None:
    """Its ImageNet probe first drops `backbone.` and then `student.`; the others drop both at once."""
    finished = trained(PLAIN["vit"])[1]
    plain = torch.load(written(finished, "dinov2", tmp_path / "a") / "dinov2.pth", weights_only=True)
    path = written(finished, "proteus", tmp_path / "b") / "proteus.pth"
    assert as_proteus_loads(path).keys() == plain.keys()
    wrapped = torch.load(path, weights_only=True)["model"]
    probe = {name.replace("backbone.", ""): tensor for name, tensor in wrapped.items()}
    assert {name.replace("student.", "") for name in probe if "student" in name} == plain.keys()
    assert as_proteus_loads(tmp_path / "a" / "dinov2.pth") == {}  # why there are two


def test_the_mask_token_is_the_one_that_was_trained(tmp_path: Path) -> None:
    student, finished = trained(PLAIN["vit"])
    weights = torch.load(written(finished, "dinov2", tmp_path / "out") / "dinov2.pth", weights_only=True)
    assert float(weights["mask_token"].abs().max()) > 0
    x_BCHW, mask_BT = pixels_of(finished), torch.rand(2, 16, generator=torch.Generator().manual_seed(0)) < 0.5
    with torch.inference_mode():
        ours = student(x_BCHW, mask_BT).hidden_KD
        theirs = dinov2_forward(weights, 3, x_BCHW, mask_BT)[:, 1:][mask_BT]
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)
    without = FORMATS["dinov2"](Finished(finished.config, finished.weights))
    assert without.facts["mask_token"] == "zeros: the run kept none"
    assert FORMATS["dinov2"](finished).facts["mask_token"] == "as trained"


def test_the_arguments_build_the_model() -> None:
    written_ = FORMATS["dinov2"](trained(PLAIN["registers"])[1])
    assert written_.facts["arguments"] == {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 48,
        "depth": 2,
        "num_heads": 3,
        "mlp_ratio": 4.0,
        "init_values": 1.0,
        "block_chunks": 0,
        "num_register_tokens": 2,
    }
    assert re.search(r"DinoVisionTransformer\(img_size=32, patch_size=8, .*num_register_tokens=2\)", written_.usage)


@pytest.mark.parametrize("name", ["dinov2", "proteus"])
def test_a_file_holds_no_more_than_its_tensors(name: str) -> None:
    """A saved view would bring all that it looks into."""
    finished = trained(PLAIN["vit"])[1]
    (data,) = FORMATS[name](finished).files.values()
    assert len(data) < sum(tensor.numel() * 4 for tensor in finished.weights.values()) + 64_000
