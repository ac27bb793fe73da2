"""A training step of a ViT student against the plain loop: timm, autocast, AdamW, two passes, as Proteus' script has it.

`python benchmarks/train_step.py --work DIR` trains ViT-Ti/14 at 224 pixels on the tokens of a ViT-S/14 with random weights, one
batch again and again, with both: same weights at the start, same masks, same learning rate. `masked` is the step with all three
objectives, whose second pass the plain loop runs over the whole batch; `one pass` has neither masks nor a second pass. Batches
come from memory. The share of the peak counts the products that the step needs, each once, against the largest product of
two square matrices that this machine does in bf16.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import Bars, alternate, parser, print_table, write_json
from random_vits import store_of, teacher_config
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from stillhouse.core.encoders import normalise
from stillhouse.stage2_distill.config import DistillConfig, StudentConfig
from stillhouse.stage2_distill.loader import Batch, Loader
from stillhouse.stage2_distill.masking import draw_masks
from stillhouse.stage2_distill.teachers import taught_by
from stillhouse.stage2_distill.trainer import Trainer
from stillhouse.storage.store import Store

OBJECTIVES = {"masked": {"token": 1.0, "feature": 1.0, "patch": 1.0}, "one pass": {"token": 1.0, "feature": 1.0}}
CURVE = 0.02
"""How far the two losses may be apart at any step, as a share."""
STEPS = 2
"""Of a slice."""


def settings(objectives: dict[str, float], batch: int) -> DistillConfig:
    """A constant learning rate, so that the plain loop needs no schedule."""
    student = StudentConfig(model="vit_tiny_patch16_224", model_args={"patch_size": 14})
    lr = {"lr": 1e-3, "min_lr": 1e-3 * batch / 512, "warmup_epochs": 0.0}
    rest: dict[str, Any] = {
        "targets": "centred",
        "epochs": 100_000,
        "ema": 0.0,
        "precision": "bf16",
        "log_steps": 1_000_000,
    }
    return DistillConfig(student=student, objectives=objectives, batch=batch, **lr, **rest)


class Plain:
    """The loop that one writes first, on tensors that are ready."""

    def __init__(self, trainer: Trainer, batch: Batch) -> None:
        self._seed, self._batch = trainer.config.seed, len(batch.pairs)
        self.model, self.token = trainer.student.encoder.model, trainer.student.mask_token
        self.heads, self._step, loss = trainer.heads, 0, trainer.losses[0]
        (codes,) = batch.codes.values()
        self.cls_BD = loss.targets["cls"](torch.from_numpy(codes["cls"]))[:, 0].clone()
        self.patch_BTD = loss.targets["patch"](torch.from_numpy(codes["patch"])).clone()
        sees = trainer.sees
        self.x_BCHW = normalise(batch.pixels_BSSC, sees.mean, sees.std, torch.device("cpu"))
        self.masked = "patch" in trainer.config.objectives
        trained = [*trainer.student.parameters(), *trainer.heads.parameters()]
        lr = trainer.config.lr * self._batch / 512
        self.optimiser = torch.optim.AdamW(trained, lr=lr, weight_decay=trainer.config.weight_decay)

    def _features(self, mask_BT: Tensor | None = None) -> Tensor:
        model = self.model
        x = model.patch_embed(self.x_BCHW)
        if mask_BT is not None:
            x = torch.where(mask_BT[..., None], self.token.to(x.dtype), x)
        found: Tensor = model.norm(model.blocks(model.norm_pre(model._pos_embed(x))))
        return found

    def losses(self) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            seen = self._features()
            cls_BD = self.heads["token"](seen[:, 0]).float()
            patch_BTD = self.heads["feature"](seen[:, 1:]).float()
        total = (cls_BD - self.cls_BD).square().mean()
        both = torch.cat([cls_BD[:, None], patch_BTD], dim=1)
        total = total + (both - torch.cat([self.cls_BD[:, None], self.patch_BTD], dim=1)).square().mean()
        if self.masked:
            num = self.patch_BTD.shape[1]
            hidden = draw_masks(
                seed=self._seed, step=self._step, batch=self._batch, num_patches=num, probability=0.5, ratio=0.5
            )
            mask_BT = torch.zeros(self._batch, num, dtype=torch.bool)
            mask_BT[: len(hidden)] = torch.from_numpy(hidden)
            with torch.autocast("cpu", torch.bfloat16):
                guessed = self.heads["patch"](self._features(mask_BT)[:, 1:]).float()
            total = total + (guessed[mask_BT] - self.patch_BTD[mask_BT]).square().mean()
        whole: Tensor = total
        return whole

    def step(self) -> Tensor:
        total = self.losses()
        self.optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self._step += 1
        return total.detach()


def ours_and_plain(store: Store, config: DistillConfig) -> tuple[Callable[[], Tensor], Callable[[], Tensor], float]:
    """A step of each, and the operations of one of ours."""
    taught = taught_by(config, store)
    trainer, other = (Trainer(config, store, taught) for _ in range(2))
    with Loader(store, {one.name: one.levels for one in taught}, config, trainer.student.image_size) as loader:
        batch = next(iter(loader.epoch(0)))
        trainer.begin(loader.steps_per_epoch)
    plain = Plain(_as_timm_made_it(other), batch)
    with FlopCounterMode(display=False) as counter:
        trainer.train_step(batch)
        plain.step()
        both = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        plain.step()
        of_plain = counter.get_total_flops()
    trainer.train_step(batch)
    return lambda: trainer.train_step(batch)["total"], plain.step, float(both - of_plain)


def _as_timm_made_it(trainer: Trainer) -> Trainer:
    """With torch's fused attention, which timm chooses by itself."""
    layer: Any
    for layer in trainer.student.modules():
        if hasattr(layer, "fused_attn"):
            layer.fused_attn = True
    return trainer


def matrix_peak(dtype: torch.dtype, side: int = 2048) -> Callable[[int], int]:
    """One product of two square matrices; returns its operations."""
    left, right = (torch.randn(side, side, dtype=torch.float32).to(dtype) for _ in range(2))

    def product(number: int) -> int:
        torch.mm(left, right)
        return 2 * side**3

    return product


def main() -> None:
    options_of = parser(__doc__, quick="a smaller batch, fewer rounds")
    options_of.add_argument("--work", type=Path, required=True, help="where the store goes")
    options = options_of.parse_args()
    batch, num_rounds, curve_steps = (8, 3, 6) if options.quick else (16, 7, 16)
    store, bars, table = store_of(options.work, teacher_config("S"), batch), Bars(), {}
    for name, objectives in OBJECTIVES.items():
        ours, plain, flops = ours_and_plain(store, settings(objectives, batch))
        curves = [(float(ours()), float(plain())) for _ in range(curve_steps)]
        apart = max(abs(mine / theirs - 1) for mine, theirs in curves)

        def steps(step: Callable[[], Tensor]) -> Callable[[int], int]:
            def work(number: int) -> int:
                for _ in range(STEPS):
                    step()
                return STEPS * batch

            return work

        rounds = alternate(
            {"ours": steps(ours), "plain": steps(plain), "peak": matrix_peak(torch.bfloat16)}, num_rounds
        )
        rate = {one: rounds.median(one) for one in ("ours", "plain")}
        peak = rounds.median("peak")
        table[name] = {
            "ours_img_per_s": rate["ours"],
            "plain_img_per_s": rate["plain"],
            "over_plain": rounds.ratio("ours", "plain"),
            "share_of_peak": rate["ours"] / batch * flops / peak,
            "gflop_per_s_of_peak": peak / 1e9,
            "losses_apart": apart,
            "first_loss": curves[0][0],
            "last_loss": curves[-1][0],
        }
        bars.check(f"step.{name.replace(' ', '_')}.over_plain", table[name]["over_plain"], ">=", 1.5)
        bars.check(f"step.{name.replace(' ', '_')}.over_plain.stretch", table[name]["over_plain"], ">=", 2.0)
        bars.check(f"step.{name.replace(' ', '_')}.losses_apart", apart, "<=", CURVE)
    print_table(
        "ViT-Ti/14 from ViT-S/14: images a second of ours and the plain loop, their ratio, share of peak, ...", table
    )
    bars.print()
    write_json(options.json, bars, {f"a training step, batch {batch}": table})


if __name__ == "__main__":
    main()
