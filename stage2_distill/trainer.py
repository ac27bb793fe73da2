"""One training step and the state around it.

Legend: B batch, M masked samples, T patches, D width of the targets.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stillhouse.core import rng
from stillhouse.core.attention import prefer_products
from stillhouse.core.encoders import normalise, pick_device
from stillhouse.core.errors import DivergedError, UsageError
from stillhouse.storage.specs import Preprocessing
from stillhouse.storage.store import Store

from .checkpoint import Checkpoint
from .config import DistillConfig
from .half import Half, can_be_halved
from .loader import Batch
from .losses import TeacherLoss
from .masking import draw_masks
from .phi_s import Turned
from .schedule import lr_at
from .students import build_student
from .teachers import Taught, lead_of

LR_BATCH = 512
"""The batch that `lr` is given for."""
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def device_for(config: DistillConfig) -> torch.device:
    """Where a run trains; UsageError when its precision cannot be had there."""
    device = pick_device(config.device)
    if config.precision == "fp16" and device.type != "cuda":
        message = f"precision fp16 scales gradients on a GPU, and this run is on device {device.type}"
        raise UsageError(message, hint="set distill.precision: fp32 or bf16, or distill.device: cuda")
    return device


class Trainer:
    """Student, heads, optimiser and average, advanced by `train_step`.

    Raises:
        UsageError: the student, the precision or the masks cannot be had.
    """

    def __init__(self, config: DistillConfig, store: Store, taught: Sequence[Taught]) -> None:
        self.config, self._pixels = config, lead_of(taught).spec.preprocessing
        self.device = device_for(config)
        torch.manual_seed(config.seed)
        target = lead_of(taught).spec.levels.get("patch")
        self.student = build_student(config.student, target, view_size=store.spec.view_size).to(self.device)
        half = AUTOCAST.get(config.precision, torch.float32)
        prefer_products(self.student, num_tokens=self._num_patches, dtype=half, device=self.device)
        self._half = Half(self.student, half) if half == torch.bfloat16 and can_be_halved(self.student) else None
        self._masks = any("patch" in one.weights for one in taught)
        if self._masks:
            self._require_masks()
        self.losses = tuple(TeacherLoss(one, store, config, self.student, self.device) for one in taught)
        self._weights = {name: weight for loss in self.losses for name, weight in loss.weights.items()}
        heads = [loss.heads for loss in self.losses]
        self.heads: nn.ModuleDict = (
            heads[0] if len(heads) == 1 else nn.ModuleDict({str(i): h for i, h in enumerate(heads)})
        )
        self.optimiser = torch.optim.AdamW(_parameter_groups(self._trained(), config.weight_decay), lr=0.0, fused=True)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self._ema = copy.deepcopy(self.student.encoder) if config.ema > 0 else None
        self.step, self.num_steps, self.seconds = 0, 0, 0.0
        self.lr = 0.0
        self.last_losses: dict[str, float] = {}

    def _require_masks(self) -> None:
        config, mask, num_patches = self.config, self.config.mask, self._num_patches
        if not self.student.can_mask:
            message = f"objective 'patch' hides single patches, which student {config.student.model} cannot do"
            raise UsageError(message, hint="use a timm VisionTransformer, or objectives: {token: 1, feature: 1}")
        if int(mask.probability * config.batch) == 0 or int(mask.ratio * num_patches) == 0:
            message = f"mask probability {mask.probability} and ratio {mask.ratio} hide nothing"
            where = f"in batches of {config.batch} with {num_patches} patches"
            raise UsageError(f"{message} {where}", hint="make them larger, or leave objective 'patch' out")

    @property
    def sees(self) -> Preprocessing:
        """How the student sees pixels: normalised as its teacher does, at its own size."""
        return self._pixels.model_copy(update={"size": self.student.image_size})

    @property
    def _num_patches(self) -> int:
        return self.student.grid[0] * self.student.grid[1]

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
            DivergedError: the loss is not finite.
        """
        self.lr = self._lr()
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr
        torch.manual_seed(rng.block(rng.seed_bytes(self.config.seed), "", self.step, "dropout")[0])
        if self._half is not None:
            self._half.refresh()
        losses = self._losses(batch)
        self.optimiser.zero_grad(set_to_none=True)
        self._scaler.scale(losses["total"]).backward()  # type: ignore[no-untyped-call]
        if self._half is not None:
            self._half.hand_over()
        self._scaler.step(self.optimiser)
        self._scaler.update()
        self._update_ema()
        losses = {name: loss.detach() for name, loss in losses.items()}
        self.step += 1
        if self.step % self.config.log_steps == 0 or self.step == self.num_steps:
            self.last_losses = {name: float(value) for name, value in losses.items()}
            if not np.isfinite(self.last_losses["total"]):
                message = f"the loss of step {self.step} is {self.last_losses['total']}"
                raise DivergedError(message, hint="use a smaller distill.lr, targets: centred, or precision: fp32")
        return losses

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        mask_MT = self._mask(len(batch.pairs)) if self._masks else None
        label_B = None if batch.label_B is None else torch.from_numpy(batch.label_B).to(self.device)
        pixels = normalise(batch.pixels_BSSC, self._pixels.mean, self._pixels.std, self.device)
        half = AUTOCAST.get(self.config.precision)
        with torch.autocast(self.device.type, half, enabled=half is not None):
            tokens = (
                self.student(pixels, mask_MT) if self._half is None else self._half.module(pixels.to(half), mask_MT)
            )
            predictions = [loss.predict(tokens) for loss in self.losses]
        losses: dict[str, Tensor] = {}
        for loss, predicted in zip(self.losses, predictions, strict=True):
            losses |= loss.compare(predicted, batch.codes[loss.taught.name], mask_MT, label_B)
        return {**losses, "total": torch.stack([self._weights[name] * loss for name, loss in losses.items()]).sum()}

    def _mask(self, batch: int) -> Tensor:
        mask = self.config.mask
        masks = draw_masks(
            seed=self.config.seed,
            step=self.step,
            batch=batch,
            num_patches=self._num_patches,
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
        for loss in self.losses:
            for level, turned in loss.turned.items():
                prefix = f"turned.{loss.taught.name}/{level}."
                tensors |= {f"{prefix}matrix": torch.from_numpy(turned.matrix_DD)}
                tensors |= {f"{prefix}shift": torch.from_numpy(turned.shift_D)}
        facts = {"identity": identity, "step": self.step, "seconds": self.seconds, "last_losses": self.last_losses}
        return Checkpoint(tensors, facts | {"scaler": self._scaler.state_dict()})

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
        for loss in self.losses:
            for level in loss.turned:
                kept = _below(tensors, f"turned.{loss.taught.name}/{level}.")
                loss.turn(level, Turned(kept["matrix"].numpy(), kept["shift"].numpy()))
        self._scaler.load_state_dict(checkpoint.facts["scaler"] if self._scaler.is_enabled() else {})
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
