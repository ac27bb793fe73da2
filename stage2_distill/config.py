"""The section `distill` of a pipeline: one student and how it is trained."""

from typing import Any, Literal

from pydantic import Field, field_validator

from stillhouse.core.config import Config
from stillhouse.core.encoders import Precision

from .objectives import OBJECTIVES


class StudentConfig(Config):
    """The student: any timm model, by default from scratch."""

    model: str = "vit_tiny_patch16_224"
    model_args: dict[str, Any] = Field(default_factory=dict)
    """Passed to `timm.create_model`, e.g. `{depth: 6, patch_size: 32}`."""
    image_size: int | None = Field(default=None, ge=1)
    """Pixels a side; None: the size whose patch grid is the teacher's (ViT), or the size of the views (CNN)."""
    layer_scale: float | None = 1.0
    """Initial LayerScale of a ViT; Proteus starts at 1.0. None: the model's own."""


class MaskConfig(Config):
    """Which patches the masked pass hides (Proteus: half of the samples, half of their patches)."""

    probability: float = Field(default=0.5, ge=0, le=1)
    """Share of the batch's samples that are masked: the first ones, whose order is random already."""
    ratio: float = Field(default=0.5, gt=0, le=1)
    """Share of their patches that are masked, uniformly without replacement."""


class DistillConfig(Config):
    """One training run. The defaults are Proteus' (ICLR 2025) except where a comment says otherwise."""

    name: str = "student"
    """Names the run's folder."""
    teacher: str | None = None
    """Whose features; None: the only teacher in the store."""
    student: StudentConfig = StudentConfig()
    objectives: dict[str, float] = Field(default_factory=lambda: {"token": 1.0, "feature": 1.0, "patch": 1.0})
    """Weight of each term of the loss."""
    targets: Literal["raw", "centred"] = "raw"
    """`raw`: features as they are (Proteus). `centred`: minus their mean, over one scalar deviation for all channels."""
    basis: Literal["auto", "channels"] = "auto"
    """`auto`: heads predict in a codec's own basis where the loss is the same in it. `channels`: always in channels."""
    mask: MaskConfig = MaskConfig()
    epochs: int = Field(default=300, ge=1)
    """Passes over the samples; epoch e trains on view e mod V."""
    batch: int = Field(default=512, ge=2)
    lr: float = Field(default=5e-4, gt=0)
    """Peak learning rate at batch 512; scaled linearly with the batch."""
    min_lr: float = Field(default=1e-5, ge=0)
    warmup_lr: float = Field(default=1e-6, ge=0)
    warmup_epochs: float = Field(default=5, ge=0)
    schedule: Literal["step", "epoch"] = "step"
    """`step`: warm-up and cosine per step. `epoch`: per epoch and one epoch late, as Proteus' script runs."""
    weight_decay: float = Field(default=0.05, ge=0)
    ema: float = Field(default=0.99996, ge=0, lt=1)
    """Decay of the averaged student that is saved beside the raw one; 0: none."""
    precision: Precision = "fp32"
    seed: int = Field(default=0, ge=0, lt=1 << 64)
    device: str = "auto"
    threads: int = Field(default=2, ge=1)
    """Threads that decode and render images."""
    window_blocks: int = Field(default=4, ge=1)
    """Blocks held in memory and shuffled together."""
    pixel_cache_mb: int = Field(default=1024, ge=0)
    """Rendered views kept in memory from one epoch to the next, as far as they fit."""
    checkpoint_steps: int = Field(default=500, ge=1)
    log_steps: int = Field(default=20, ge=1)

    @field_validator("objectives")
    @classmethod
    def _known(cls, objectives: dict[str, float]) -> dict[str, float]:
        unknown = sorted(objectives.keys() - OBJECTIVES.keys())
        if unknown:
            raise ValueError(f"unknown objective {unknown[0]!r}; known: {', '.join(OBJECTIVES)}")
        if any(weight < 0 for weight in objectives.values()):
            raise ValueError("a weight must not be below 0")
        if not any(weight > 0 for weight in objectives.values()):
            raise ValueError("at least one objective needs a weight above 0")
        return objectives
