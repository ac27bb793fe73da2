"""Students: masked tokens, grids that match, and timm's private path pinned.

Legend: B batch, M masked samples, T patches, D width.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stillhouse.core.encoders import Encoder, create_timm
from stillhouse.core.errors import UsageError
from stillhouse.stage1_extract.testing import TINY_VIT, TINY_VIT_ARGS
from stillhouse.stage2_distill.config import StudentConfig
from stillhouse.stage2_distill.masking import draw_masks
from stillhouse.stage2_distill.students import Student, build_student
from stillhouse.storage.specs import LevelSpec

B, T = 6, 16
TARGET = LevelSpec(num_tokens=T, dim=48, grid=(4, 4))
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "registers": {"reg_tokens": 3},
    "position-without-cls": {"no_embed_class": True},
    "average-pooled": {"global_pool": "avg"},
    "no-cls": {"class_token": False, "global_pool": "avg"},
    "norm-before": {"pre_norm": True},
    "any-size": {"dynamic_img_size": True},
}


def make(**fields: Any) -> Student:
    """A float64 student whose every parameter is drawn, so that none of them could be left out unnoticed."""
    torch.manual_seed(0)
    args = {**TINY_VIT_ARGS, **fields.pop("model_args", {})}
    student = build_student(StudentConfig(model=TINY_VIT, model_args=args, **fields), TARGET, view_size=32).double()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return student


def pixels() -> Tensor:
    return torch.from_numpy(np.random.Generator(np.random.PCG64(0)).normal(size=(B, 3, 32, 32)))


def masks(num: int = 3) -> Tensor:
    return torch.from_numpy(draw_masks(seed=0, step=0, batch=2 * num, num_patches=T, probability=0.5, ratio=0.5))


def proteus_pass(student: Student, x_BCHW: Tensor, mask_BT: Tensor) -> Tensor:
    """Patch tokens [B, T, D] of one full pass as the paper describes it: mask token, cls, position, blocks, norm."""
    model: Any = student.encoder.model
    x = model.patch_embed.proj(x_BCHW).flatten(2).transpose(1, 2)
    x = torch.where(mask_BT[..., None], student.mask_token, x)
    x = torch.cat([model.cls_token.expand(len(x), 1, -1), x], dim=1) + model.pos_embed
    for block in model.blocks:
        x = block(x)
    tokens: Tensor = model.norm(x)
    return tokens


def gradients(student: Student, *outputs: Tensor) -> dict[str, Tensor]:
    """Of every parameter, through a scalar in which each element of the outputs weighs something else."""
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(output.shape, generator=generator, dtype=output.dtype) for output in outputs]
    total = torch.stack([(output * weight).sum() for output, weight in zip(outputs, weights, strict=True)]).sum()
    named = dict(student.named_parameters())
    return dict(zip(named, torch.autograd.grad(total, list(named.values())), strict=True))


def test_the_masked_half_alone_is_proteus_full_second_pass() -> None:
    """Fast path = slow path: values, and gradients of every parameter."""
    student, x_BCHW, mask_MT = make(), pixels(), masks()
    fast = student(x_BCHW, mask_MT)
    whole_BT = torch.cat([mask_MT, torch.zeros(B - len(mask_MT), T, dtype=torch.bool)])
    seen, hidden = proteus_pass(student, x_BCHW, torch.zeros_like(whole_BT)), proteus_pass(student, x_BCHW, whole_BT)
    slow = (seen[:, 0], seen[:, 1:], hidden[:, 1:][whole_BT])
    for ours, theirs in zip((fast.cls_BD, fast.patch_BTD, fast.hidden_KD), slow, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    found, expected = gradients(student, fast.cls_BD, fast.patch_BTD, fast.hidden_KD), gradients(student, *slow)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-9, msg=name)
    assert float(found["mask_token"].abs().max()) > 0


def test_the_masked_half_alone_saves_a_quarter_of_the_student() -> None:
    """Operations of forward and backward, against both full passes."""
    torch.manual_seed(0)
    config = StudentConfig(model=TINY_VIT, model_args={**TINY_VIT_ARGS, "depth": 4})
    student = build_student(config, TARGET, view_size=32)
    x_BCHW, mask_MT = pixels().float(), masks()
    whole_BT = torch.cat([mask_MT, torch.zeros(B - len(mask_MT), T, dtype=torch.bool)])

    def operations(forward: Callable[[], Tensor]) -> int:
        with FlopCounterMode(display=False) as counter:
            forward().sum().backward()  # type: ignore[no-untyped-call]
        return int(counter.get_total_flops())

    def once() -> Tensor:
        tokens = student(x_BCHW, mask_MT)
        return torch.cat([tokens.patch_BTD.flatten(), tokens.hidden_KD.flatten()])

    def twice() -> Tensor:
        passes = [proteus_pass(student, x_BCHW, mask) for mask in (torch.zeros_like(whole_BT), whole_BT)]
        return torch.cat([passes[0].flatten(), passes[1][:, 1:][whole_BT].flatten()])

    assert operations(once) / operations(twice) == pytest.approx(0.75, abs=0.02)


def test_hidden_patches_are_not_seen() -> None:
    student, x_BCHW, mask_MT = make(), pixels(), torch.zeros(1, T, dtype=torch.bool)
    mask_MT[0, 5] = True
    other = x_BCHW.clone()
    other[0, :, 8:16, 8:16] += 1.0  # patch 5 of a 4 x 4 grid
    one, two = student(x_BCHW, mask_MT), student(other, mask_MT)
    torch.testing.assert_close(one.hidden_KD, two.hidden_KD, rtol=0, atol=1e-12)
    assert not torch.allclose(one.patch_BTD[0], two.patch_BTD[0])
    other[0, :, :8, :8] += 1.0
    assert not torch.allclose(one.hidden_KD, student(other, mask_MT).hidden_KD)


def test_hidden_patches_keep_their_position() -> None:
    """The mask token comes before the position embedding: with every patch hidden, tokens still differ."""
    hidden_TD = make()(pixels(), torch.ones(1, T, dtype=torch.bool)).hidden_KD
    assert hidden_TD.shape == (T, 48)
    assert len(torch.unique(hidden_TD[:, 0])) == T


def test_hidden_tokens_come_in_the_order_of_the_mask() -> None:
    student, x_BCHW, mask_MT = make(), pixels(), masks(num=1)
    hidden_KD = student(x_BCHW, mask_MT).hidden_KD
    assert len(hidden_KD) == int(mask_MT.sum()) == 8
    whole = proteus_pass(student, x_BCHW[:1], mask_MT)[0, 1:]
    for row, position in enumerate(mask_MT[0].nonzero()[:, 0].tolist()):
        torch.testing.assert_close(hidden_KD[row], whole[position])


@pytest.mark.parametrize("name", VARIANTS)
def test_our_path_through_timm_is_its_forward_features(name: str) -> None:
    """Pinned: `_after_patches` uses a private method of timm; a release that changes it fails here."""
    student, x_BCHW = make(model_args=VARIANTS[name]), pixels()
    model: Any = student.encoder.model
    ours = student._after_patches(model.patch_embed(x_BCHW))
    torch.testing.assert_close(ours, model.forward_features(x_BCHW), rtol=0, atol=0)
    masked, plain = student(x_BCHW, masks()), student(x_BCHW)
    torch.testing.assert_close(masked.cls_BD, plain.cls_BD, rtol=0, atol=1e-12)
    torch.testing.assert_close(masked.patch_BTD, plain.patch_BTD, rtol=0, atol=1e-12)
    assert plain.patch_BTD.shape == (B, T, 48)
    assert plain.hidden_KD is None


def test_no_masks_is_one_pass() -> None:
    student, x_BCHW = make(), pixels()
    assert student(x_BCHW, torch.zeros(0, T, dtype=torch.bool)).hidden_KD is None


@pytest.mark.parametrize(
    ("layer_scale", "model_args", "expected"),
    [(1.0, {}, 1.0), (1e-5, {}, 1e-5), (None, {}, None), (1.0, {"init_values": 0.5}, 0.5)],
)
def test_layer_scale(layer_scale: float | None, model_args: dict[str, Any], expected: float | None) -> None:
    config = StudentConfig(model=TINY_VIT, model_args={**TINY_VIT_ARGS, **model_args}, layer_scale=layer_scale)
    block: Any = build_student(config, TARGET, view_size=32).encoder.model.blocks[0]
    if expected is None:
        assert isinstance(block.ls1, nn.Identity)
    else:
        assert (block.ls1.gamma == expected).all() and (block.ls2.gamma == expected).all()


def test_initial_values_are_proteus() -> None:
    torch.manual_seed(0)
    student = build_student(StudentConfig(model=TINY_VIT, model_args={"depth": 1}), TARGET, view_size=224)
    model: Any = student.encoder.model
    assert (student.mask_token == 0).all()
    assert float(model.cls_token.detach().std()) < 1e-5
    assert float(model.pos_embed.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert float(model.blocks[0].mlp.fc1.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert model.norm.eps == 1e-6
    assert student.training


@pytest.mark.parametrize(("patch_size", "size"), [(8, 32), (4, 16), (16, 64)])
def test_the_default_size_gives_the_teachers_grid(patch_size: int, size: int) -> None:
    config = StudentConfig(model=TINY_VIT, model_args={**TINY_VIT_ARGS, "patch_size": patch_size})
    student = build_student(config, TARGET, view_size=32)
    assert student.image_size == size
    assert student(torch.zeros(1, 3, size, size)).patch_BTD.shape == (1, T, 48)


def test_a_size_of_its_own_gives_a_grid_of_its_own() -> None:
    config = StudentConfig(model=TINY_VIT, model_args=TINY_VIT_ARGS, image_size=40)
    student = build_student(config, TARGET, view_size=32)
    assert student.image_size == 40 and student.grid == (5, 5)
    assert student(torch.zeros(1, 3, 40, 40)).patch_BTD.shape == (1, 25, 48)


def test_a_cnn_takes_the_size_of_the_views() -> None:
    config = StudentConfig(model="test_resnet")
    assert build_student(config, TARGET, view_size=32).grid == (1, 1)
    student = build_student(config, TARGET, view_size=128)
    assert student.image_size == 128 and not student.can_mask
    assert not hasattr(student, "mask_token") and student.grid == (4, 4)
    tokens = student(torch.zeros(2, 3, 128, 128))
    assert tokens.patch_BTD.shape == (2, T, student.patch_dim)
    assert tokens.cls_BD.shape == (2, student.cls_dim)


def test_vits_whose_patches_cannot_be_hidden_still_train_without() -> None:
    """EVA's blocks need rotary positions beside the tokens."""
    config = StudentConfig(model="eva02_tiny_patch14_224", model_args=TINY_VIT_ARGS, layer_scale=None)
    student = build_student(config, TARGET, view_size=32)
    assert not student.can_mask
    assert student(torch.zeros(2, 3, 32, 32)).patch_BTD.shape == (2, T, 48)


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
@pytest.mark.parametrize(("patch", "side"), [(14, 224), (16, 256), (32, 512)])
def test_vits_of_every_size_and_patch(size: str, patch: int, side: int) -> None:
    """One block of each; the size of the image follows from the grid, 16 x 16 as that of the published teachers."""
    config = StudentConfig(model=f"vit_{size}_patch16_224", model_args={"patch_size": patch, "depth": 1})
    target = LevelSpec(num_tokens=256, dim=1024, grid=(16, 16))
    student = build_student(config, target, view_size=224)
    width = {"tiny": 192, "small": 384, "base": 768, "large": 1024}[size]
    heads = {"tiny": 3, "small": 6, "base": 12, "large": 16}[size]
    model: Any = student.encoder.model
    assert (student.image_size, student.grid, student.cls_dim) == (side, (16, 16), width)
    assert model.blocks[0].attn.num_heads == heads and student.can_mask


@pytest.mark.parametrize(
    ("model", "args", "eps"),
    [
        ("vit_base_patch14_dinov2", {}, 1e-6),
        ("vit_base_patch16_clip_quickgelu_224", {"patch_size": 14}, 1e-5),
        ("vit_base_patch16_224", {"patch_size": 14}, 1e-6),
    ],
)
def test_the_students_of_the_recipes_start_as_published(model: str, args: dict[str, Any], eps: float) -> None:
    """timm draws what Proteus draws: positions and linear weights 0.02, cls 1e-6, biases 0."""
    torch.manual_seed(0)
    config = StudentConfig(model=model, model_args={**args, "depth": 1}, layer_scale=None, mask_token_std=0.02)
    student = build_student(config, LevelSpec(num_tokens=256, dim=8, grid=(16, 16)), view_size=224)
    built: Any = student.encoder.model
    assert built.pos_embed.shape == (1, 257, 768) and built.norm.eps == eps
    for weight, std in ((built.pos_embed, 0.02), (built.cls_token, 1e-6), (student.mask_token, 0.02)):
        assert float(weight.detach().std()) == pytest.approx(std, rel=0.1)
    for module in built.modules():
        if isinstance(module, nn.Linear):
            assert float(module.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
            assert (module.bias == 0).all()


def test_a_hybrid_is_not_masked() -> None:
    """What its convolutions make of a patch, the patches beside it have seen."""
    student = build_student(StudentConfig(model="vit_tiny_r_s16_p8_224"), TARGET, view_size=64)
    assert not student.can_mask
    assert student(torch.zeros(2, 3, student.image_size, student.image_size)).patch_BTD.shape[:2] == (2, T)


def test_a_model_without_a_map_of_tokens_is_refused() -> None:
    with pytest.raises(UsageError, match="student mixer_s32_224 at 224 pixels gives no map of tokens: "):
        build_student(StudentConfig(model="mixer_s32_224"), TARGET, view_size=224)


def test_can_mask_is_told_from_the_model() -> None:
    def can_mask(name: str) -> bool:
        return Student(Encoder(create_timm(name), name), 32, (8, 8), StudentConfig(), (4, 4)).can_mask

    assert can_mask("test_vit")
    assert not can_mask("test_efficientnet")


def test_unknown_models_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown model 'vit_tinny_patch16_224'; did you mean vit_tiny_patch16_224"):
        build_student(StudentConfig(model="vit_tinny_patch16_224"), TARGET, view_size=32)
