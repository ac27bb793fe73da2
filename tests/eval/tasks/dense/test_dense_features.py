"""Maps of named blocks are the model's own, at any size, from the released positions."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stillhouse.core.encoders import Encoder, EncoderConfig, build_encoder, create_timm
from stillhouse.core.errors import UsageError
from stillhouse.core.positions import resample
from stillhouse.eval.tasks.dense.features import (
    at_size,
    dense_maps,
    num_blocks,
    pad_to_patches,
    patch_size,
    quarters,
    resampling,
)
from stillhouse.stage1_extract.testing import random_weights

VIT = "vit_tiny_patch16_224"
ARGS: dict[str, Any] = {"embed_dim": 24, "depth": 3, "num_heads": 2, "patch_size": 8, "img_size": 32}


def vit(**fields: Any) -> Encoder:
    torch.manual_seed(0)
    return Encoder(create_timm(VIT, **{**ARGS, "num_classes": 0, **fields}).eval(), "vit")


def images(*size: int) -> torch.Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


def by_hand(model: Any, x_BCHW: torch.Tensor, block: int) -> torch.Tensor:
    feats = model.norm_pre(model._pos_embed(model.patch_embed(x_BCHW)))
    for one in model.blocks[: block + 1]:
        feats = one(feats)
    return feats  # type: ignore[no-any-return]


@pytest.mark.parametrize("norm", [False, True])
def test_blocks_of_a_vit_are_counted_from_zero(norm: bool) -> None:
    encoder, x_BCHW = vit(), images(32, 32)
    with torch.no_grad():
        found = dense_maps(encoder, x_BCHW, ["last", 0], norm=norm)
        for block, map_BDhw, cls_BD in zip((2, 0), found.maps, found.cls, strict=True):
            feats = by_hand(encoder.model, x_BCHW, block)
            feats = encoder.model.norm(feats) if norm else feats
            assert torch.equal(map_BDhw, feats[:, 1:].transpose(1, 2).reshape(2, 24, 4, 4))
            assert torch.equal(cls_BD, feats[:, 0])


def test_the_last_block_after_the_norm_is_what_stores_hold() -> None:
    encoder, x_BCHW = vit(), images(32, 32)
    with torch.no_grad():
        found, tokens = dense_maps(encoder, x_BCHW, ["last"], norm=True), encoder(x_BCHW)
    assert torch.equal(found.maps[0].flatten(2).transpose(1, 2), tokens.patch_BTD)
    assert torch.equal(found.cls[0], tokens.cls_BD)


def test_a_vit_without_a_cls_token_gives_the_mean_of_its_map() -> None:
    encoder = vit(class_token=False, global_pool="avg")
    with torch.no_grad():
        found = dense_maps(encoder, images(32, 32), [1], norm=False)
    assert torch.equal(found.cls[0], found.maps[0].mean(dim=(2, 3)))


def test_stages_of_a_cnn() -> None:
    torch.manual_seed(0)
    encoder = Encoder(create_timm("test_resnet", num_classes=0).eval(), "cnn")
    x_BCHW = images(48, 80)
    with torch.no_grad():
        found = dense_maps(encoder, x_BCHW, [2, "last"], norm=True)
        expected = encoder.model.forward_intermediates(x_BCHW, indices=[2], intermediates_only=True)[0]
        tokens = encoder(x_BCHW)
    assert num_blocks(encoder) == 5 and patch_size(encoder) == (1, 1) and at_size(encoder, (48, 80)) is encoder
    assert torch.equal(found.maps[0], expected) and torch.equal(found.cls[0], expected.mean(dim=(2, 3)))
    assert torch.equal(found.maps[1].flatten(2).transpose(1, 2), tokens.patch_BTD)
    assert torch.equal(found.cls[1], tokens.cls_BD)


def test_a_model_of_ones_own_has_its_output_alone() -> None:
    class Own(nn.Module):
        def forward_features(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            return x_BCHW[:, :, ::2, ::2]

        def forward_head(self, feats: torch.Tensor, pre_logits: bool) -> torch.Tensor:
            return feats.mean(dim=(2, 3))

    encoder, x_BCHW = Encoder(Own(), "own"), images(8, 12)
    assert torch.equal(dense_maps(encoder, x_BCHW, ["last"], norm=True).maps[0], x_BCHW[:, :, ::2, ::2])
    with pytest.raises(UsageError, match="own gives no intermediate maps; set blocks"):
        dense_maps(encoder, x_BCHW, [0], norm=True)


def test_what_cannot_be_had_is_said() -> None:
    with pytest.raises(UsageError, match="vit has 3 transformer blocks, no block 3; count from 0"):
        dense_maps(vit(), images(32, 32), [3], norm=True)
    with pytest.raises(UsageError, match=r"vit gives no map of 64 x 32 pixels: .*bring it to that size with `at_size`"):
        dense_maps(vit(), images(64, 32), ["last"], norm=True)


def test_padding_is_in_the_middle() -> None:
    padded = pad_to_patches(torch.ones(1, 1, 512, 480), (14, 14))
    assert padded.shape == (1, 1, 518, 490)
    assert padded.sum() == 512 * 480 and bool((padded[:, :, 3:515, 5:485] == 1).all())
    odd = pad_to_patches(torch.ones(1, 1, 7, 8), (8, 8))
    assert bool((odd[:, :, :7] == 1).all()) and bool((odd[:, :, 7] == 0).all())


def test_quarters_of_the_published_depths() -> None:
    assert quarters(12) == (2, 5, 8, 11) and quarters(40) == (9, 19, 29, 39) and quarters(2) == (0, 1)


def test_another_size_starts_from_the_released_positions(tmp_path: Path) -> None:
    """Positions of a model that was built at 24 pixels from a file of 64 are the file's own at 64, not a blur of them."""
    at_64 = {**ARGS, "img_size": 64}
    path = random_weights(tmp_path / "w.safetensors", VIT, at_64)
    args = {name: value for name, value in ARGS.items() if name != "img_size"}
    config = EncoderConfig(model=VIT, model_args=args, checkpoint=str(path), positions="offset")
    small, whole = build_encoder(config, image_size=24), build_encoder(config, image_size=64)
    assert small.released is not None and small.released.rule == "offset"
    grown = at_size(small, (63, 61))
    assert torch.equal(grown.model.pos_embed, whole.model.pos_embed)
    assert torch.equal(dense_maps(grown, images(64, 64), [1], norm=False).maps[0],
                       dense_maps(whole, images(64, 64), [1], norm=False).maps[0])  # fmt: skip
    assert resampling(small, (63, 61)) == "positions for 8 x 8 patches from the released 8 x 8 (offset)"
    wide = at_size(small, (64, 128))
    assert torch.equal(wide.model.pos_embed, resample(whole.model.pos_embed, (8, 16), 1, "offset"))
    assert wide.model.blocks[0].attn.qkv.weight is small.model.blocks[0].attn.qkv.weight
    assert tuple(small.model.patch_embed.img_size) == (24, 24) and at_size(small, (20, 24)) is small


def test_a_model_of_unknown_origin_is_resampled_as_timm_does() -> None:
    encoder = vit()
    wide = at_size(encoder, (32, 64))
    expected = resample(encoder.model.pos_embed, (4, 8), 1, "antialias")
    torch.testing.assert_close(wide.model.pos_embed.data, expected.data)
    assert resampling(encoder, (32, 64)) == "positions for 4 x 8 patches from its present 4 x 4, by timm's rule"
    assert resampling(encoder, (32, 32)) == ""
    assert dense_maps(wide, images(32, 64), ["last"], norm=True).maps[0].shape == (2, 24, 4, 8)


def test_rotary_positions_come_along() -> None:
    args = {"embed_dim": 24, "depth": 1, "num_heads": 2, "img_size": 64, "dynamic_img_size": False}
    torch.manual_seed(0)
    encoder = Encoder(create_timm("vit_small_patch16_dinov3", num_classes=0, **args).eval(), "rotary")
    with torch.no_grad():
        (map_BDhw,) = dense_maps(at_size(encoder, (96, 160)), images(96, 160), ["last"], norm=True).maps
    assert map_BDhw.shape == (2, 24, 6, 10)
