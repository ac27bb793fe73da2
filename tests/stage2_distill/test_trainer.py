"""One training step against a second computation, and the state around it.

Legend: B batch, T patches, D width.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.core.encoders import normalise
from stillhouse.core.errors import DivergedError, UsageError
from stillhouse.stage1_extract.testing import TINY_VIT, TINY_VIT_ARGS
from stillhouse.stage2_distill import trainer as module
from stillhouse.stage2_distill.checkpoint import load_checkpoint, save_checkpoint
from stillhouse.stage2_distill.config import DistillConfig
from stillhouse.stage2_distill.heads import Head
from stillhouse.stage2_distill.loader import Batch, Loader
from stillhouse.stage2_distill.masking import draw_masks
from stillhouse.stage2_distill.teachers import taught_by
from stillhouse.stage2_distill.trainer import Trainer
from stillhouse.storage.store import Store

CNN = {"student": {"model": "test_resnet", "image_size": 128}, "objectives": {"token": 1, "feature": 1}}

DROPPING = {"student": {"model": TINY_VIT, "model_args": {**TINY_VIT_ARGS, "drop_path_rate": 0.5}}}


def make(store: Store, **fields: Any) -> Trainer:
    student = {"model": TINY_VIT, "model_args": TINY_VIT_ARGS}
    defaults = {"student": student, "batch": 8, "epochs": 4, "warmup_epochs": 0, "device": "cpu", "lr": 0.064}
    config = DistillConfig.model_validate(defaults | fields)
    trainer = Trainer(config, store, taught_by(config, store))
    trainer.begin(3)
    return trainer


def batches(store: Store, trainer: Trainer, num: int = 3) -> list[Batch]:
    with Loader(store, {"tiny": ("cls", "patch")}, trainer.config, trainer.student.image_size) as loader:
        return list(loader.epoch(0))[:num]


def head(trainer: Trainer, name: str, tokens: Tensor) -> NDArray[np.float64]:
    module = trainer.heads[name]
    assert isinstance(module, Head)
    projected: NDArray[np.float64] = module.double()(tokens.double()).detach().numpy()
    module.float()
    return projected


def second_opinion(store: Store, trainer: Trainer, batch: Batch) -> dict[str, float]:
    """The losses of a step from the formulae: two full passes, numpy codecs, means over elements."""
    target = {}
    for level in ("cls", "patch"):
        target[level] = store.codec("tiny", level).decode(batch.codes["tiny"][level]).astype(np.float64)
        if trainer.config.targets == "centred":
            mean, std = (array.astype(np.float64) for array in store.statistics("tiny", level))
            target[level] = (target[level] - mean) / np.sqrt((std**2).mean())
    spec = store.teacher("tiny").preprocessing
    x_BCHW = normalise(batch.pixels_BSSC, spec.mean, spec.std, torch.device("cpu"))
    seen = trainer.student(x_BCHW)
    cls, patch = head(trainer, "token", seen.cls_BD), head(trainer, "feature", seen.patch_BTD)
    together = np.concatenate([cls[:, None], patch], axis=1) - np.concatenate([target["cls"], target["patch"]], axis=1)
    losses = {"token": ((cls - target["cls"][:, 0]) ** 2).mean(), "feature": (together**2).mean()}
    if "patch" in trainer.config.objectives:
        mask = draw_masks(seed=0, step=trainer.step, batch=8, num_patches=16, probability=0.5, ratio=0.5)
        assert mask.shape == (4, 16)
        hidden = head(trainer, "patch", trainer.student(x_BCHW, torch.from_numpy(mask)).hidden_KD)
        losses["patch"] = ((hidden - target["patch"][:4][mask]) ** 2).mean()
    weights = trainer.config.objectives
    return losses | {"total": sum(weights[name] * loss for name, loss in losses.items())}


def floats(losses: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(loss) for name, loss in losses.items()}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"objectives": {"token": 0.5, "feature": 2.0, "patch": 3.0}},
        {"targets": "centred"},
        {"objectives": {"token": 1.0, "feature": 1.0}},
    ],
)
def test_the_losses_are_those_of_the_formulae(sealed_store: Store, fields: dict[str, Any]) -> None:
    trainer = make(sealed_store, **fields)
    for batch in batches(sealed_store, trainer):
        expected = second_opinion(sealed_store, trainer, batch)
        assert floats(trainer.train_step(batch)) == pytest.approx(expected, rel=1e-5)
    assert trainer.step == 3


def test_a_weight_of_zero_leaves_a_term_out(sealed_store: Store) -> None:
    trainer = make(sealed_store, objectives={"token": 1, "patch": 0, "feature": 0})
    losses = trainer.train_step(batches(sealed_store, trainer)[0])
    assert set(losses) == {"token", "total"}
    assert set(trainer.heads) == {"token", "feature"}


def test_a_cnn_learns_tokens_and_features(sealed_store: Store) -> None:
    trainer = make(sealed_store, **CNN)
    batch = batches(sealed_store, trainer)[0]
    assert batch.pixels_BSSC.shape == (8, 128, 128, 3)
    losses = [float(trainer.train_step(batch)["total"]) for _ in range(6)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("student", [CNN["student"], {"model": "eva02_tiny_patch14_224", "model_args": TINY_VIT_ARGS}])
def test_the_patch_objective_is_refused_for_what_cannot_mask(sealed_store: Store, student: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=rf"objective 'patch' hides single patches, which student {student['model']}"):
        make(sealed_store, student={"layer_scale": None, **student})


@pytest.mark.parametrize("mask", [{"probability": 0.1}, {"probability": 0}, {"ratio": 0.01}])
def test_masks_that_hide_nothing_are_refused(sealed_store: Store, mask: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"hide nothing in batches of 8 with 16 patches; make them larger, or leave"):
        make(sealed_store, mask=mask)


def test_vectors_and_biases_are_not_decayed_and_tokens_are(sealed_store: Store) -> None:
    """Proteus decays position, class and mask tokens; norms, LayerScale and biases are left out."""
    trainer = make(sealed_store, weight_decay=0.07)
    decayed, kept = trainer.optimiser.param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.07, 0.0)
    names = {id(parameter): name for name, parameter in trainer._trained()}
    assert len(names) == len(decayed["params"]) + len(kept["params"])
    found = {names[id(parameter)] for parameter in decayed["params"]}
    tokens = {"student.mask_token", "student.encoder.model.cls_token", "student.encoder.model.pos_embed"}
    assert tokens <= found
    assert all(name.endswith("weight") and "norm" not in name for name in found - tokens)
    left = {names[id(parameter)] for parameter in kept["params"]}
    assert {"student.encoder.model.blocks.0.ls1.gamma", "heads.token.0.weight", "heads.patch.1.bias"} <= left
    assert all(name.endswith(("bias", "gamma")) or "norm" in name or ".0.weight" in name for name in left)


def test_the_rate_is_scaled_with_the_batch(sealed_store: Store) -> None:
    trainer = make(sealed_store, lr=5e-4)
    trainer.train_step(batches(sealed_store, trainer)[0])
    assert trainer.lr == pytest.approx(5e-4 * 8 / 512)
    assert {group["lr"] for group in trainer.optimiser.param_groups} == {trainer.lr}


def test_the_average_follows_the_student(sealed_store: Store) -> None:
    trainer = make(sealed_store, ema=0.9)
    name = "blocks.0.attn.qkv.weight"
    expected = trainer.student_weights()[name].detach().clone()
    for batch in batches(sealed_store, trainer):
        trainer.train_step(batch)
        expected = 0.9 * expected + 0.1 * trainer.student_weights()[name]
    torch.testing.assert_close(trainer.ema_weights()[name], expected)
    assert trainer.ema_weights().keys() == trainer.student_weights().keys()
    assert make(sealed_store, ema=0)._ema is None


def test_a_loss_that_is_not_finite_stops_the_run(sealed_store: Store) -> None:
    trainer = make(sealed_store, log_steps=1)
    with torch.no_grad():
        trainer.student.mask_token.fill_(torch.nan)
    with pytest.raises(DivergedError, match=r"the loss of step 1 is nan; use a smaller distill.lr"):
        trainer.train_step(batches(sealed_store, trainer)[0])


def test_bf16_is_near_fp32(sealed_store: Store) -> None:
    exact, half = make(sealed_store), make(sealed_store, precision="bf16")
    batch = batches(sealed_store, exact)[0]
    assert floats(half.train_step(batch)) == pytest.approx(floats(exact.train_step(batch)), rel=0.05)


def test_bf16_trains_float32_masters_as_fp32_does(sealed_store: Store) -> None:
    """What is kept, averaged and exported is float32, and learns at the same pace."""
    exact, half = make(sealed_store), make(sealed_store, precision="bf16", ema=0.9)
    assert half._half is not None and exact._half is None
    curves = []
    for trainer in (exact, half):
        found = [floats(trainer.train_step(batch))["total"] for batch in batches(sealed_store, trainer) * 4]
        curves.append(found)
    assert curves[1] == pytest.approx(curves[0], rel=0.02)
    assert curves[1][-1] < curves[1][0]
    assert {weight.dtype for weight in (*half.student_weights().values(), *half.ema_weights().values())} == {
        torch.float32
    }


def test_a_step_is_that_of_two_full_passes(sealed_store: Store) -> None:
    """Proteus runs its masked pass over the whole batch: the same losses, and gradients of every weight."""
    trainer = make(sealed_store)
    batch = batches(sealed_store, trainer)[0]
    spec, heads = sealed_store.teacher("tiny").preprocessing, trainer.losses[0].heads
    x_BCHW = normalise(batch.pixels_BSSC, spec.mean, spec.std, torch.device("cpu"))
    hidden = draw_masks(seed=0, step=0, batch=8, num_patches=16, probability=0.5, ratio=0.5)
    mask_BT = torch.cat([torch.from_numpy(hidden), torch.zeros(4, 16, dtype=torch.bool)])
    cls_BD, patch_BTD = (
        torch.from_numpy(sealed_store.codec("tiny", level).decode(batch.codes["tiny"][level]))
        for level in ("cls", "patch")
    )
    seen, model = trainer.student(x_BCHW), trainer.student.encoder.model
    patches = model.patch_embed(x_BCHW)
    patches = torch.where(mask_BT[..., None], trainer.student.mask_token, patches)
    masked = trainer.student._after_patches(patches)[:, 1:][mask_BT]
    token = heads.apply_head("token", seen.cls_BD)
    feature = torch.cat([token[:, None], heads.apply_head("feature", seen.patch_BTD)], dim=1)
    total = (token - cls_BD[:, 0]).square().mean()
    total = total + (feature - torch.cat([cls_BD, patch_BTD], dim=1)).square().mean()
    total = total + (heads.apply_head("patch", masked) - patch_BTD[mask_BT]).square().mean()
    named = dict(trainer._trained())
    expected = dict(zip(named, torch.autograd.grad(total, list(named.values())), strict=True))
    assert float(trainer.train_step(batch)["total"]) == pytest.approx(float(total.detach()), rel=1e-5)
    for name, parameter in named.items():
        assert parameter.grad is not None
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5 * scale, msg=name)


def test_fp16_is_refused_without_a_gpu(sealed_store: Store) -> None:
    with pytest.raises(UsageError, match="precision fp16 scales gradients on a GPU, and this run is on device cpu"):
        make(sealed_store, precision="fp16")


def test_a_gradient_that_overflows_is_skipped_and_the_scale_kept(
    sealed_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU does with fp16, by a CPU's slow one."""
    monkeypatch.setattr(module, "device_for", lambda config: torch.device("cpu"))
    trainer, resumed = (make(sealed_store, precision="fp16", ema=0) for _ in range(2))
    one, two, _ = batches(sealed_store, trainer)
    trainer._scaler._init_scale = 2.0**40
    before = trainer.student_weights()["blocks.0.attn.qkv.weight"].clone()
    trainer.train_step(one)
    assert torch.equal(trainer.student_weights()["blocks.0.attn.qkv.weight"], before)
    assert trainer._scaler.get_scale() == 2.0**39
    trainer._scaler.update(1024.0)
    trainer.train_step(one)
    assert not torch.equal(trainer.student_weights()["blocks.0.attn.qkv.weight"], before)
    save_checkpoint(tmp_path, 2, trainer.checkpoint({}))
    found, _ = load_checkpoint(tmp_path)
    assert found is not None
    resumed.restore(found)
    assert resumed._scaler.get_scale() == 1024.0
    assert floats(trainer.train_step(two)) == floats(resumed.train_step(two))


@pytest.mark.parametrize("fields", [{}, CNN, DROPPING])
def test_a_restored_trainer_goes_on_bit_for_bit(sealed_store: Store, tmp_path: Path, fields: dict[str, Any]) -> None:
    """Batch statistics, moments, the average and the draws of dropped paths included."""
    undisturbed, resumed = make(sealed_store, ema=0.9, **fields), make(sealed_store, ema=0.9, **fields)
    one, two, three = batches(sealed_store, undisturbed)
    undisturbed.train_step(one)
    save_checkpoint(tmp_path, 1, undisturbed.checkpoint({"config": {}}))
    torch.manual_seed(99)
    found, _ = load_checkpoint(tmp_path)
    assert found is not None
    resumed.restore(found)
    assert resumed.step == 1
    for batch in (two, three):
        assert floats(undisturbed.train_step(batch)) == floats(resumed.train_step(batch))
    for ours, theirs in (
        (resumed.student_weights(), undisturbed.student_weights()),
        (resumed.ema_weights(), undisturbed.ema_weights()),
    ):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_seed_decides_the_start(sealed_store: Store) -> None:
    one, same, other = make(sealed_store), make(sealed_store), make(sealed_store, seed=1)
    name = "blocks.0.attn.qkv.weight"
    assert torch.equal(one.student_weights()[name], same.student_weights()[name])
    assert not torch.equal(one.student_weights()[name], other.student_weights()[name])


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        (
            {"tokn": 1},
            "unknown objective 'tokn'; known: token, feature, patch, theia, radio_patch, radio_summary, kl, ce",
        ),
        ({"token": 0}, "at least one objective needs a weight above 0"),
        ({}, "at least one objective needs a weight above 0"),
        ({"token": 1, "feature": -1}, "a weight must not be below 0"),
    ],
)
def test_objectives_are_checked(objectives: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistillConfig(objectives=objectives)
