"""One training step and the state around it.

Legend: B batch, M masked samples, T patches, D width of the targets.
"""

import contextlib
import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stillhouse.core import rng
from stillhouse.core.attention import prefer_products
from stillhouse.core.encoders import normalise, on_device, pick_device
from stillhouse.core.errors import DivergedError, UsageError
from stillhouse.core.timing import Seconds
from stillhouse.storage.specs import Preprocessing
from stillhouse.storage.store import Store

from .checkpoint import Checkpoint
from .config import DistillConfig
from .half import Half, can_be_halved
from .loader import Batch
from .losses import TeacherLoss
from .masking import draw_masks
from .objectives import Predictions
from .parts import Part, require_parts
from .phi_s import Turned
from .ranks import ALONE, Ranks
from .schedule import lr_at
from .students import Student, build_student
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

    Args:
        ranks: all train one student; the batches of each are its part of the batches of the run.

    Raises:
        UsageError: the student, the precision, the masks or parts of the batch cannot be had.
    """

    def __init__(self, config: DistillConfig, store: Store, taught: Sequence[Taught], ranks: Ranks = ALONE) -> None:
        self.config, self.ranks, self._pixels = config, ranks, lead_of(taught).spec.preprocessing
        self.device = ranks.device(device_for(config))
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
        self._of_masked = {f"{one.tag}patch" for one in taught}
        num_masked = int(config.mask.probability * config.batch) if self._masks else None
        require_parts(config.batch, num_masked, ranks.num, config.accumulate)
        heads = [loss.heads for loss in self.losses]
        self.heads: nn.ModuleDict = (
            heads[0] if len(heads) == 1 else nn.ModuleDict({str(i): h for i, h in enumerate(heads)})
        )
        self.optimiser = torch.optim.AdamW(_parameter_groups(self._trained(), config.weight_decay), lr=0.0, fused=True)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self._ema = copy.deepcopy(self.student.encoder) if config.ema > 0 else None
        runs = self.student if self._half is None else self._half.module
        self._predicting = ranks.synced(_Predicting(runs, self.heads, self.losses))
        self.step, self.num_steps, self.seconds = 0, 0, 0.0
        self.spent, self.num_timed, self._times = Seconds(), 0, False
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
    def rows(self) -> int:
        """Of one forward pass."""
        return self.config.batch // (self.ranks.num * self.config.accumulate)

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
        self.optimiser.zero_grad(set_to_none=True)
        if self._half is not None:
            self._half.refresh()
        self._times = (self.step + 1) % self.config.log_steps == 0
        self._finish_before()
        losses = self._gradients(batch)
        with self._timed("backward"):
            self._scaler.step(self.optimiser)
            self._scaler.update()
            self._update_ema()
        self.step += 1
        self.num_timed += self._times
        if self.step % self.config.log_steps == 0 or self.step == self.num_steps:
            losses = self.ranks.mean(losses)
            self.last_losses = {name: float(value) for name, value in losses.items()}
            if not np.isfinite(self.last_losses["total"]):
                message = f"the loss of step {self.step} is {self.last_losses['total']}"
                raise DivergedError(message, hint="use a smaller distill.lr, targets: centred, or precision: fp32")
        return losses

    def _gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Those of the whole batch in every rank, turn after turn; losses whose mean over ranks is that of the batch."""
        turns, losses = self.config.accumulate, dict[str, Tensor]()
        for turn, part in enumerate(self.ranks.part.turns(turns)):
            seed = rng.block(rng.seed_bytes(self.config.seed), "", self.step, "dropout", part.number)[0]
            torch.manual_seed(seed)
            with self._unsynced() if turn + 1 < turns else contextlib.nullcontext(), self.ranks.others_needed():
                found = self._losses(batch.turn(turn, turns) if turns > 1 else batch, part)
                with self._timed("backward"):
                    self._scaler.scale(found["total"]).backward()  # type: ignore[no-untyped-call]
            if self._half is not None:
                self._half.hand_over()  # turns are summed in float32
            losses = {name: loss.detach() + losses.get(name, 0) for name, loss in found.items()}
        return losses

    def _finish_before(self) -> None:
        """What a GPU still does of the step before is no part of a step that is timed."""
        if self._times and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @contextlib.contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        """On the steps that are logged, at whose end a GPU is waited for anyway, a part is waited for and timed."""
        begin = time.perf_counter()
        yield
        if self._times:
            self._finish_before()
            self.spent.add(part, time.perf_counter() - begin)

    def _unsynced(self) -> contextlib.AbstractContextManager[None]:
        """Gradients are summed here and not yet averaged over ranks; those of a half copy are, before they are handed over."""
        module: Any = self._predicting
        return contextlib.nullcontext() if self.ranks.num == 1 or self._half is not None else module.no_sync()

    def _losses(self, batch: Batch, part: Part) -> dict[str, Tensor]:
        """What a part of the batch adds to each loss, times the number of ranks, over which it is averaged."""
        mask_MT = self._mask(part) if self._masks else None
        half = AUTOCAST.get(self.config.precision)
        with self._timed("h2d"):
            label_B = None if batch.label_B is None else on_device(batch.label_B, self.device)
            pixels = normalise(batch.pixels_BSSC, self._pixels.mean, self._pixels.std, self.device)
            codes = [
                {level: on_device(batch.codes[one.name][level], self.device) for level in one.levels}
                for one in (loss.taught for loss in self.losses)
            ]
        with self._timed("forward"):
            with torch.autocast(self.device.type, half, enabled=half is not None):
                predictions = self._predicting(pixels if self._half is None else pixels.to(half), mask_MT)
            losses: dict[str, Tensor] = {}
            for loss, predicted, told in zip(self.losses, predictions, codes, strict=True):
                losses |= loss.compare(predicted, told, mask_MT, label_B)
        if part.of > 1:
            losses = {name: loss * self._share(name, part) for name, loss in losses.items()}
        return {**losses, "total": torch.stack([self._weights[name] * loss for name, loss in losses.items()]).sum()}

    def _share(self, name: str, part: Part) -> float:
        """Of a mean over the whole batch, times the number of ranks: that of a mean over the rows of a part."""
        rows = self.config.batch
        if name in self._of_masked:
            rows = int(self.config.mask.probability * rows)
        return self.ranks.num * part.num(rows) / rows

    def _mask(self, part: Part) -> Tensor:
        mask = self.config.mask
        masks = draw_masks(
            seed=self.config.seed,
            step=self.step,
            batch=self.config.batch,
            num_patches=self._num_patches,
            probability=mask.probability,
            ratio=mask.ratio,
        )
        return on_device(masks[part.rows], self.device)

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


class _Predicting(nn.Module):
    """All that has gradients, in one forward pass: pixels to what the heads make of them, teacher by teacher."""

    def __init__(self, student: Student, heads: nn.ModuleDict, losses: Sequence[TeacherLoss]) -> None:
        super().__init__()
        self.student, self.heads, self._losses = student, heads, losses

    def forward(self, x_BCHW: Tensor, mask_MT: Tensor | None) -> list[Predictions]:
        tokens = self.student(x_BCHW, mask_MT)
        return [loss.predict(tokens) for loss in self._losses]


def has_batch_norm(student: Student) -> bool:
    """Whether it looks at all rows of a pass at once, and so is not quite the same with another number of them."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in student.modules())


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _parameter_groups(named: Iterator[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on everything but vectors and biases; position, class and mask tokens are decayed (Proteus)."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in named:
        (kept if parameter.ndim <= 1 or name.endswith(".bias") else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
