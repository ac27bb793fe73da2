"""Official files through our loader give what the published model computes, to 1e-5 of the largest value."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import clip_as_published as clip
import convnext_as_published as convnext
import dinov2_as_published as dinov2
import dinov3_as_published as dinov3
import plain_as_published as plain
import pytest
import siglip_as_published as siglip
import torch
from torch import Tensor
from vit_as_published import State, images, layer_norm

from stillhouse.core.encoders import Encoder, EncoderConfig, build_encoder, default_statistics, weights_sha256
from stillhouse.core.errors import UsageError
from stillhouse.core.families import FAMILIES, Keys
from stillhouse.core.families.base import CLIP, HALF, IMAGENET
from stillhouse.core.licences import licence_id
from stillhouse.stage1_extract.levels import levels_of

SMALL: dict[str, Any] = {"embed_dim": 48, "depth": 3, "num_heads": 3}


def built(folder: Path, state: State, keys: str, model: str, args: dict[str, Any], size: int, **fields: Any) -> Encoder:
    """Saved under its official names, read back by `keys`; `classifier` is passed on."""
    torch.save(state, folder / "official.pth")
    classifier = fields.pop("classifier", False)
    config = {"model": model, "checkpoint": str(folder / "official.pth"), "keys": keys, "model_args": args, **fields}
    return build_encoder(EncoderConfig.model_validate(config), image_size=size, classifier=classifier)


def same(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    error = float((found - expected).abs().max() / expected.abs().max())
    assert error < 1e-5, f"they differ by {error:.1e} of the largest value"


def dinov2_args(**fields: Any) -> dict[str, Any]:
    return {**SMALL, "patch_size": 4, **fields}


@pytest.mark.parametrize("size", [24, 40])
@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("vit_small_patch14_dinov2", {}),
        ("vit_small_patch14_dinov2", {"chunk": 2}),
        ("vit_small_patch14_reg4_dinov2", {"registers": 4}),
        ("vit_giant_patch14_dinov2", {"swiglu": 64}),
        ("vit_giant_patch14_reg4_dinov2", {"swiglu": 64, "registers": 4}),
    ],
)
def test_dinov2(tmp_path: Path, model: str, fields: dict[str, int], size: int) -> None:
    """A grid of 10 x 10, as released and interpolated to 6 x 6."""
    state = dinov2.draw(dim=48, depth=3, patch=4, side=10, **fields)
    args = dinov2_args(**({"mlp_ratio": 2 * 64 / 48} if "swiglu" in fields else {}))
    encoder = built(tmp_path, state, "dinov2", model, args, size)
    with torch.no_grad():
        after = dinov2.forward(state, images(size), 3)
        found = levels_of(encoder, images(size), ["cls", "patch", "cls-block2", "patch-block2", "patch-block1-normed"])
        same(encoder.last_blocks(images(size), 3)[0][-1], after[-1][:, 0])
    same(found["cls"].tokens_BTD, after[-1][:, :1])
    same(found["patch"].tokens_BTD, after[-1][:, 1:])
    same(found["cls-block2"].tokens_BTD, after[1][:, :1])
    same(found["patch-block2"].tokens_BTD, after[1][:, 1:])
    same(found["patch-block1-normed"].tokens_BTD, layer_norm(state, "norm", after[0], dinov2.EPS)[:, 1:])
    assert found["patch"].grid == found["patch-block2"].grid == (size // 4, size // 4) and found["cls"].grid is None
    assert FAMILIES["dinov2"].positions(state) == ("antialias" if "registers" in fields else "offset")
    assert encoder.remarks == (f"of {tmp_path}/official.pth the encoder needs no mask token (1)",)


@pytest.mark.parametrize("rule", ["plain", "antialias", "offset"])
def test_the_rule_for_positions_can_be_named(tmp_path: Path, rule: str) -> None:
    """From 37 x 37 to 16 x 16, as at 518 and 224 pixels: rules differ, and each is a teacher of its own."""
    state = dinov2.draw(dim=48, depth=1, patch=2, side=37)
    args = {**dinov2_args(patch_size=2), "depth": 1}
    own = built(tmp_path, state, "dinov2", "vit_small_patch14_dinov2", args, 32)
    named = built(tmp_path, state, "dinov2", "vit_small_patch14_dinov2", args, 32, positions=rule)
    with torch.no_grad():
        difference = float((own(images(32)).patch_BTD - named(images(32)).patch_BTD).abs().max())
    assert (difference == 0) == (weights_sha256(own) == weights_sha256(named)) == (rule == "offset")


def test_timms_names_and_the_hubs_are_one_teacher(tmp_path: Path) -> None:
    """The hash is over the tensors of the model, whatever they were called in the file."""
    state = dinov2.draw(dim=48, depth=3, patch=4, side=6)
    one = built(tmp_path, state, "dinov2", "vit_small_patch14_dinov2", dinov2_args(), 24)
    timms = {name: tensor for name, tensor in state.items() if name != "mask_token"}
    other = built(tmp_path, timms, "exact", "vit_small_patch14_dinov2", {**dinov2_args(), "num_classes": 0}, 24)
    assert weights_sha256(one) == weights_sha256(other)
    assert other.remarks == ()


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("vit_base_patch16_dinov3_qkvb", {}),
        ("vit_base_patch16_dinov3", {"zero_bias": True}),
        ("vit_7b_patch16_dinov3", {"zero_bias": True, "swiglu": 128}),
    ],
)
def test_dinov3(tmp_path: Path, model: str, fields: dict[str, Any]) -> None:
    state = dinov3.draw(dim=48, depth=3, num_heads=3, **fields)
    if "swiglu" in fields:
        state |= {f"local_cls_norm.{kind}": torch.ones(48) for kind in ("weight", "bias")}
    args = {**SMALL, **({"mlp_ratio": 2} if "swiglu" in fields else {})}
    encoder = built(tmp_path, state, "dinov3", model, args, 80)
    with torch.no_grad():
        expected = dinov3.forward(state, images(80), 3)
        found = levels_of(encoder, images(80), ["cls", "patch", "cls-block3-normed"])
        cls, _ = encoder.last_blocks(images(80), 2)
    same(found["cls"].tokens_BTD, expected[:, :1])
    same(found["patch"].tokens_BTD, expected[:, 5:])
    same(found["cls-block3-normed"].tokens_BTD, expected[:, :1])
    assert len(cls) == 2
    same(cls[-1], expected[:, 0])


def test_dinov3_periods_are_those_of_the_file(tmp_path: Path) -> None:
    """They are rounded in the release; timm computes them anew, and that is another teacher."""
    state = dinov3.draw(dim=48, depth=2, num_heads=3, zero_bias=True)
    encoder = built(tmp_path, state, "dinov3", "vit_base_patch16_dinov3", {**SMALL, "depth": 2}, 80)
    assert torch.equal(encoder.model.rope.periods, state["rope_embed.periods"].float())
    state["rope_embed.periods"] = state["rope_embed.periods"] * 1.5
    other = built(tmp_path, state, "dinov3", "vit_base_patch16_dinov3", {**SMALL, "depth": 2}, 80)
    assert weights_sha256(encoder) != weights_sha256(other)


def test_dinov3_biases_that_a_model_cannot_hold_are_reported(tmp_path: Path) -> None:
    state = dinov3.draw(dim=48, depth=1, num_heads=3)
    args = {**SMALL, "depth": 1}
    with pytest.raises(UsageError, match=r"1 unexpected \(blocks.0.attn.qkv.bias\)"):
        built(tmp_path, state, "dinov3", "vit_base_patch16_dinov3", args, 80)
    state["blocks.0.attn.qkv.bias_mask"] = torch.ones(144)  # keys that have a bias after all
    with pytest.raises(UsageError, match=r"1 unexpected \(blocks.0.attn.qkv.bias\)"):
        built(tmp_path, state, "dinov3", "vit_base_patch16_dinov3_qkvb", args, 80)
    with pytest.raises(UsageError, match="keys: dinov3 is for a ViT with rotary positions"):
        built(tmp_path, state, "dinov3", "vit_base_patch16_224", args, 80)


CLIP_MODEL, CLIP_ARGS = "vit_base_patch16_clip_quickgelu_224", {**SMALL, "patch_size": 8}


@pytest.mark.parametrize(
    ("keys", "extra"), [("clip", {}), ("clip", {"input_resolution": torch.tensor(48)}), ("openclip", {})]
)
def test_clip(tmp_path: Path, keys: str, extra: State) -> None:
    """cls after ln_post and before the projection; `patch-block3` is what Proteus' module has as patches."""
    state = clip.draw(dim=48, depth=3, patch=8, side=6)
    encoder = built(tmp_path, {**state, **extra}, keys, CLIP_MODEL, CLIP_ARGS, 48)
    with torch.no_grad():
        last, normed = clip.forward(state, images(48), 3)
        found = levels_of(encoder, images(48), ["cls", "patch", "patch-block3"])
    same(found["cls"].tokens_BTD, normed[:, :1])
    same(found["patch"].tokens_BTD, normed[:, 1:])
    same(found["patch-block3"].tokens_BTD, last[:, 1:])
    assert "projection (1), text tower" in encoder.remarks[0]


def test_clip_in_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    state = {name: tensor.half() for name, tensor in clip.draw(dim=48, depth=1, patch=8, side=6).items()}
    encoder = built(tmp_path, state, "clip", CLIP_MODEL, {**CLIP_ARGS, "depth": 1}, 48)
    with torch.no_grad():
        last = clip.forward({name: tensor.float() for name, tensor in state.items()}, images(48), 3)[-1]
        same(encoder(images(48)).cls_BD, last[:, 0])


def test_clip_without_quickgelu_is_refused(tmp_path: Path) -> None:
    state = clip.draw(dim=48, depth=3, patch=8, side=6)
    with pytest.raises(
        UsageError, match=r"keys: clip is for towers with QuickGELU.*name the model vit_\*_clip_quickgelu"
    ):
        built(tmp_path, state, "clip", "vit_base_patch16_clip_224", CLIP_ARGS, 48)
    told = built(tmp_path, state, "clip", "vit_base_patch16_clip_224", {**CLIP_ARGS, "act_layer": "quick_gelu"}, 48)
    named = built(tmp_path, state, "clip", CLIP_MODEL, CLIP_ARGS, 48)
    with torch.no_grad():
        assert torch.equal(told(images(48)).cls_BD, named(images(48)).cls_BD)


def test_timms_own_clip_weights_need_the_activation_they_were_trained_with() -> None:
    with pytest.raises(UsageError) as caught:
        build_encoder(EncoderConfig(model="vit_large_patch14_clip_224.openai"))
    assert str(caught.value) == (
        "the weights of 'vit_large_patch14_clip_224.openai' were trained with QuickGELU, the model has GELU; "
        "use vit_large_patch14_clip_quickgelu_224.openai"
    )


@pytest.mark.parametrize("size", [48, 32])
def test_siglip2(tmp_path: Path, size: int) -> None:
    state = siglip.draw(dim=48, depth=3, patch=8, side=6)
    encoder = built(tmp_path, state, "siglip", "vit_base_patch16_siglip_224", {**SMALL, "patch_size": 8}, size)
    with torch.no_grad():
        pooled, patch_BTD = siglip.forward(state, images(size), 3)
        tokens = encoder(images(size))
    same(tokens.cls_BD, pooled)
    same(tokens.patch_BTD, patch_BTD)


@pytest.mark.parametrize("size", [48, 32])
@pytest.mark.parametrize(
    ("keys", "model", "prefix", "extra"),
    [
        ("synclr", "vit_base_patch16_224", "module.visual.", {"module.image_mlp.0.weight": torch.ones(2, 48)}),
        (
            "mae",
            "vit_base_patch16_224",
            "",
            {"mask_token": torch.ones(1, 1, 8), "decoder_embed.weight": torch.ones(8, 48)},
        ),
        ("deit3", "deit3_base_patch16_224", "", {"head.weight": torch.ones(5, 48), "head.bias": torch.ones(5)}),
    ],
)
def test_plain_vits(tmp_path: Path, keys: str, model: str, prefix: str, extra: State, size: int) -> None:
    state = plain.draw(dim=48, depth=3, patch=8, side=6, prefix=prefix, deit3=keys == "deit3")
    encoder = built(tmp_path, {**state, **extra}, keys, model, {**SMALL, "patch_size": 8}, size)
    with torch.no_grad():
        expected = plain.forward(state, images(size), 3, prefix=prefix, deit3=keys == "deit3")
        tokens = encoder(images(size))
    same(tokens.cls_BD, expected[:, 0])
    same(tokens.patch_BTD, expected[:, 1:])


@pytest.mark.parametrize(
    ("model", "v2"),
    [("convnext_tiny", False), ("convnext_atto", False), ("convnextv2_tiny", True), ("convnextv2_atto", True)],
)
def test_convnext(tmp_path: Path, model: str, v2: bool) -> None:
    """Both of timm's forms, linear layers and 1 x 1 convolutions; the classifier only when its logits are wanted."""
    state = convnext.draw(dims=(8, 16, 24, 32), depths=(1, 1, 2, 1), classes=5, v2=v2)
    args = {"dims": (8, 16, 24, 32), "depths": (1, 1, 2, 1)}
    encoder = built(tmp_path, state, "convnext", model, args, 64)
    judged = built(tmp_path, state, "convnext", model, args, 64, classifier=True)
    with torch.no_grad():
        pooled, map_BTD, logits = convnext.forward(state, images(64))
        tokens = encoder(images(64))
        found = levels_of(judged, images(64), ["logits", "cls", "patch-block2"])
    same(tokens.cls_BD, pooled)
    same(tokens.patch_BTD, map_BTD)
    same(found["logits"].tokens_BTD, logits[:, None])
    same(found["cls"].tokens_BTD, pooled[:, None])
    assert found["patch-block2"].grid == (8, 8) and found["patch-block2"].tokens_BTD.shape == (2, 64, 16)
    assert encoder.remarks == (f"of {tmp_path}/official.pth the encoder needs no classifier (2)",)
    assert judged.remarks == ()


# --- what does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.pop("norm.bias"), r"1 missing \(norm.bias\)"),
        (lambda s: s.update({"blocks.0.surprise": torch.ones(1)}), r"1 unexpected \(blocks.0.surprise\)"),
        (lambda s: s.update({"norm.bias": torch.ones(3)}), r"1 of another shape \(norm.bias\)"),
    ],
)
def test_nothing_else_is_dropped_or_made_up(tmp_path: Path, spoil: Callable[[State], Any], message: str) -> None:
    state = dinov2.draw(dim=48, depth=3, patch=4, side=6)
    spoil(state)
    with pytest.raises(UsageError, match=message + "; it is read as a file of DINOv2: check `model` and `keys`"):
        built(tmp_path, state, "dinov2", "vit_small_patch14_dinov2", dinov2_args(), 24)


@pytest.mark.parametrize(
    ("state", "model", "likely"),
    [
        (dinov2.draw(dim=48, depth=3, patch=4, side=6, registers=4), "vit_small_patch14_reg4_dinov2", "dinov2"),
        (clip.draw(dim=48, depth=3, patch=4, side=6), CLIP_MODEL, "clip or keys: openclip"),
        (siglip.draw(dim=48, depth=3, patch=4, side=6), "vit_base_patch16_siglip_224", "siglip"),
        (plain.draw(dim=48, depth=3, patch=4, side=6, deit3=True), "deit3_base_patch16_224", "deit3"),
        (plain.draw(dim=48, depth=3, patch=4, side=6, prefix="module.visual."), "vit_base_patch16_224", "synclr"),
    ],
)
def test_a_file_in_official_names_is_told_of(tmp_path: Path, state: State, model: str, likely: str) -> None:
    with pytest.raises(UsageError) as caught:
        built(tmp_path, state, "exact", model, dinov2_args(), 24)
    assert caught.value.hint == f"check `model`; its names are those of keys: {likely}"


def test_keys_of_a_family_need_a_file() -> None:
    with pytest.raises(UsageError, match="keys: mae says how a file names its tensors; name one as `checkpoint`"):
        build_encoder(EncoderConfig(model="vit_base_patch16_224", keys="mae"))


def test_a_rule_for_positions_that_are_none_is_refused(tmp_path: Path) -> None:
    state = convnext.draw(dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), classes=5)
    args = {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1)}
    with pytest.raises(UsageError, match="positions: plain: model convnext_tiny has no position embeddings"):
        built(tmp_path, state, "convnext", "convnext_tiny", args, 64, positions="plain")


def test_logits_of_a_file_without_a_classifier_are_refused(tmp_path: Path) -> None:
    state = plain.draw(dim=48, depth=3, patch=8, side=6, deit3=True)
    encoder = built(tmp_path, state, "deit3", "deit3_base_patch16_224", {**SMALL, "patch_size": 8}, 48, classifier=True)
    with pytest.raises(UsageError, match="has no classifier, which level 'logits' reads"):
        levels_of(encoder, images(48), ["logits"])


# --- the table --------------------------------------------------------------------------------------------------------


def test_every_family_can_be_named() -> None:
    named = set(Keys.__args__) - {"exact", "in_order", "timm"}  # type: ignore[attr-defined]
    assert named == set(FAMILIES)
    for key, family in FAMILIES.items():
        assert family.key == key and family.title and family.examples and family.marks
        assert family.licence == "" or licence_id(family.licence) is not None


def test_statistics_are_those_of_the_release(tmp_path: Path) -> None:
    """timm has another mean and std for the plain names that MAE and SynCLR go by."""
    state = plain.draw(dim=48, depth=3, patch=8, side=6)
    args = {**SMALL, "patch_size": 8}
    assert default_statistics(built(tmp_path, state, "mae", "vit_base_patch16_224", args, 48)) == IMAGENET
    state = clip.draw(dim=48, depth=3, patch=8, side=6)
    assert default_statistics(built(tmp_path, state, "clip", CLIP_MODEL, CLIP_ARGS, 48)) == CLIP
    assert default_statistics(built(tmp_path, state, "openclip", CLIP_MODEL, CLIP_ARGS, 48)) == CLIP
    state = siglip.draw(dim=48, depth=3, patch=8, side=6)
    assert default_statistics(built(tmp_path, state, "siglip", "vit_base_patch16_siglip_224", args, 48)) == HALF
