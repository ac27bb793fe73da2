"""One training step and the state around it.

Legend: B batch, M masked samples, T patches, D width of the targets.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stillhouse.core import rng
from stillhouse.core.encoders import normalise, pick_device
from stillhouse.core.errors import ResourceError, UsageError
from stillhouse.storage.specs import TeacherSpec
from stillhouse.storage.store import Store

from .checkpoint import Checkpoint
from .config import DistillConfig
from .heads import Heads
from .loader import Batch
from .masking import draw_masks
from .objectives import OBJECTIVES, Predictions, Targets
from .schedule import lr_at
from .students import build_student
from .targets import build_targets, own_bases

LR_BATCH = 512
"""The batch that `lr` is given for."""


class Trainer:
    """Student, heads, optimiser and average, advanced by `train_step`."""

    def __init__(self, config: DistillConfig, store: Store, teacher: TeacherSpec) -> None:
        self.config, self._teacher = config, teacher
        self.device = pick_device(config.device)
        self._weights = {name: weight for name, weight in config.objectives.items() if weight > 0}
        torch.manual_seed(config.seed)
        patch = teacher.levels["patch"]
        self.student = build_student(config.student, patch, view_size=store.spec.view_size).to(self.device)
        if "patch" in self._weights:
            self._require_masks(patch.num_tokens)
        codecs = {level: store.codec(teacher.name, level) for level in teacher.levels}
        bases, centred = own_bases(config, codecs), config.targets == "centred"
        self._targets = {
            level: build_targets(
                codec,
                self.device,
                store.statistics(teacher.name, level) if centred else None,
                own_basis=level in bases,
            )
            for level, codec in codecs.items()
        }
        self.heads = Heads(
            student_cls=self.student.cls_dim,
            student_patch=self.student.patch_dim,
            teacher_cls=self._targets["cls"].width,
            teacher_patch=self._targets["patch"].width,
            masked="patch" in self._weights,
        ).to(self.device)
        self.optimiser = torch.optim.AdamW(_parameter_groups(self._trained(), config.weight_decay), lr=0.0, fused=True)
        self._ema = copy.deepcopy(self.student.encoder) if config.ema > 0 else None
        self.step, self.num_steps, self.seconds = 0, 0, 0.0
        self.lr = 0.0
        self.last_losses: dict[str, float] = {}

    def _require_masks(self, num_patches: int) -> None:
        config, mask = self.config, self.config.mask
        if not self.student.can_mask:
            message = f"objective 'patch' hides single patches, which student {config.student.model} cannot do"
            raise UsageError(message, hint="use a timm VisionTransformer, or objectives: {token: 1, feature: 1}")
        if int(mask.probability * config.batch) == 0 or int(mask.ratio * num_patches) == 0:
            message = f"mask probability {mask.probability} and ratio {mask.ratio} hide nothing"
            where = f"in batches of {config.batch} with {num_patches} patches"
            raise UsageError(f"{message} {where}", hint="make them larger, or leave objective 'patch' out")

    def begin(self, steps_per_epoch: int) -> None:
        """Fix the length of the run."""
        self._steps_per_epoch = steps_per_epoch
        self.num_steps = steps_per_epoch * self.config.epochs

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        for prefix, module in (("student", self.student), ("heads", self.heads)):
            for name, parameter in module.named_parameters():
                yield f"{prefix}.{name}", parameter

    def train_step(self, batch: Batch) -> Mapping[str, Tensor]:
        """One optimiser step; the weighted total and each objective's own value, on the device.

        Raises:
            ResourceError: the loss is not finite.
        """
        self.lr = self._lr()
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr
        torch.manual_seed(rng.block(rng.seed_bytes(self.config.seed), "", self.step, "dropout")[0])
        losses = self._losses(batch)
        self.optimiser.zero_grad(set_to_none=True)
        losses["total"].backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self._update_ema()
        losses = {name: loss.detach() for name, loss in losses.items()}
        self.step += 1
        if self.step % self.config.log_steps == 0 or self.step == self.num_steps:
            self.last_losses = {name: float(value) for name, value in losses.items()}
            if not np.isfinite(self.last_losses["total"]):
                message = f"the loss of step {self.step} is {self.last_losses['total']}"
                raise ResourceError(message, hint="use a smaller distill.lr, targets: centred, or precision: fp32")
        return losses

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        cls_B1D, patch_BTD = (self._target(level, batch) for level in ("cls", "patch"))
        mask_MT = self._mask(len(patch_BTD), patch_BTD.shape[1])
        pixels = normalise(
            batch.pixels_BSSC, self._teacher.preprocessing.mean, self._teacher.preprocessing.std, self.device
        )
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            tokens = self.student(pixels, mask_MT)
            hidden = None if tokens.hidden_KD is None else self.heads.apply_head("patch", tokens.hidden_KD)
            predicted = Predictions(
                self.heads.apply_head("token", tokens.cls_BD),
                self.heads.apply_head("feature", tokens.patch_BTD),
                hidden,
            )
        masked = None if mask_MT is None else patch_BTD[: len(mask_MT)][mask_MT]
        cls, patch = self._targets["cls"], self._targets["patch"]
        target = Targets(cls_B1D[:, 0], patch_BTD, masked, dropped_cls=cls.dropped, dropped_patch=patch.dropped)
        losses = {name: OBJECTIVES[name](predicted, target) for name in self._weights}
        return {**losses, "total": torch.stack([self._weights[name] * loss for name, loss in losses.items()]).sum()}

    def _target(self, level: str, batch: Batch) -> Tensor:
        return self._targets[level](torch.from_numpy(batch.codes[level]).to(self.device, non_blocking=True))

    def _mask(self, batch: int, num_patches: int) -> Tensor | None:
        if "patch" not in self._weights:
            return None
        mask = self.config.mask
        masks = draw_masks(
            seed=self.config.seed,
            step=self.step,
            batch=batch,
            num_patches=num_patches,
            probability=mask.probability,
            ratio=mask.ratio,
        )
        return torch.from_numpy(masks).to(self.device)

    def _lr(self) -> float:
        config, scale = self.config, self.config.batch / LR_BATCH
        return lr_at(
            self.step,
            steps_per_epoch=self._steps_per_epoch,
            epochs=config.epochs,
            warmup_epochs=config.warmup_epochs,
            peak=config.lr * scale,
            warmup=config.warmup_lr,
            floor=config.min_lr,
            per=config.schedule,
        )

    @torch.no_grad()
    def _update_ema(self) -> None:
        if self._ema is not None:
            averaged: list[Tensor] = list(self._ema.parameters())
            current: list[Tensor] = list(self.student.encoder.parameters())
            torch._foreach_lerp_(averaged, current, 1 - self.config.ema)

    def student_weights(self) -> dict[str, Tensor]:
        """The encoder's tensors under timm's names."""
        return dict(self.student.encoder.model.state_dict())

    def ema_weights(self) -> dict[str, Tensor]:
        """The averaged encoder's tensors under timm's names; buffers are the current ones."""
        assert self._ema is not None
        return self.student_weights() | dict(self._ema.model.named_parameters())

    def checkpoint(self, identity: dict[str, Any]) -> Checkpoint:
        """All state that the next step depends on."""
        tensors = {f"student.{name}": value for name, value in self.student.state_dict().items()}
        tensors |= {f"heads.{name}": value for name, value in self.heads.state_dict().items()}
        if self._ema is not None:
            tensors |= {f"ema.{name}": value for name, value in self._ema.state_dict().items()}
        for name, parameter in self._trained():
            for key, value in self.optimiser.state[parameter].items():
                tensors[f"optimiser.{name}.{key}"] = value
        facts = {"identity": identity, "step": self.step, "seconds": self.seconds, "last_losses": self.last_losses}
        return Checkpoint(tensors, facts)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of the same config; every tensor must be there."""
        tensors = checkpoint.tensors
        self.student.load_state_dict(_below(tensors, "student."))
        self.heads.load_state_dict(_below(tensors, "heads."))
        if self._ema is not None:
            self._ema.load_state_dict(_below(tensors, "ema."))
        for name, parameter in self._trained():
            state = _below(tensors, f"optimiser.{name}.")
            self.optimiser.state[parameter] = {key: value.to(self.device) for key, value in state.items()}
        self.step, self.seconds = int(checkpoint.facts["step"]), float(checkpoint.facts["seconds"])
        self.last_losses = dict(checkpoint.facts.get("last_losses", {}))


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _parameter_groups(named: Iterator[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on everything but vectors and biases; position, class and mask tokens are decayed (Proteus)."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in named:
        (kept if parameter.ndim <= 1 or name.endswith(".bias") else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
