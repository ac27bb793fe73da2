"""The section `distill` of a pipeline: one student and how it is trained."""

from collections.abc import Mapping
from typing import Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from stillhouse.core.config import Config, config_digest

from .objectives import OBJECTIVES
from .recipes import RECIPES, with_recipe


class StudentConfig(Config):
    """The student: any model of timm or of your own, from scratch."""

    model: str = "vit_tiny_patch16_224"
    """A timm name, or `module:factory`: a function of yours whose module has timm's `forward_features` and `forward_head`."""
    model_args: dict[str, Any] = Field(default_factory=dict)
    """Passed to `timm.create_model` or to your factory, e.g. `{depth: 6, patch_size: 32}`."""
    image_size: int | None = Field(default=None, ge=1)
    """Pixels a side; None: the size whose patch grid is the teacher's (ViT), or the size of the views (CNN).

    On another grid than the teacher's, predictions are resampled to it.
    """
    layer_scale: float | None = 1.0
    """Initial LayerScale of a ViT; Proteus starts at 1.0. None: the model's own."""
    mask_token_std: float = Field(default=0.0, ge=0)
    """Deviation of the mask token's initial values; 0: zeros."""


class MaskConfig(Config):
    """Which patches the masked pass hides (Proteus: half of the samples, half of their patches)."""

    probability: float = Field(default=0.5, ge=0, le=1)
    """Share of the batch's samples that are masked: the first ones, whose order is random already."""
    ratio: float = Field(default=0.5, gt=0, le=1)
    """Share of their patches that are masked, uniformly without replacement."""


class TeacherTerms(Config):
    """One of several teachers: how much of the loss, and which terms."""

    weight: float = Field(default=1.0, gt=0)
    objectives: dict[str, float] | None = None
    """None: those of the run."""

    @field_validator("objectives")
    @classmethod
    def _known(cls, objectives: dict[str, float] | None) -> dict[str, float] | None:
        return None if objectives is None else _checked(objectives)


class DistillConfig(Config):
    """One training run. The defaults are Proteus' (ICLR 2025) except where a comment says otherwise."""

    name: str = "student"
    """Names the run's folder."""
    recipe: str | None = None
    """A published recipe, whose values stand wherever the config gives none: proteus_dinov2, proteus_clip, proteus_synclr."""
    teacher: str | None = None
    """Whose features; None: the only teacher in the store."""
    teachers: dict[str, TeacherTerms] = Field(default_factory=dict)
    """Several teachers at once, each with heads of its own; instead of `teacher`."""
    student: StudentConfig = StudentConfig()
    objectives: dict[str, float] = Field(default_factory=lambda: {"token": 1.0, "feature": 1.0, "patch": 1.0})
    """Weight of each term of the loss."""
    targets: Literal["raw", "centred", "standardised", "phi_s"] = "raw"
    """`raw`: features as they are (Proteus). `centred`: minus their mean, over one scalar deviation for all channels.

    `standardised`: over the deviation of each channel. `phi_s`: centred, turned so that all channels vary alike.
    """
    temperature: float = Field(default=1.0, gt=0)
    """Of objective `kl`: what logits are divided by."""
    basis: Literal["auto", "channels"] = "auto"
    """`auto`: heads predict in a codec's own basis where the loss is the same in it. `channels`: always in channels."""
    mask: MaskConfig = MaskConfig()
    epochs: int = Field(default=300, ge=1)
    """Passes over the samples; epoch e trains on view e mod V."""
    repeats: int = Field(default=1, ge=1)
    """Views of a sample in one epoch, which then goes over as much fewer samples: repeated augmentation."""
    batch: int = Field(default=512, ge=2)
    """Samples of a step, of all ranks together."""
    accumulate: int = Field(default=1, ge=1)
    """Turns in which a rank goes through its part of a batch, when all at once do not fit in memory."""
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
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the student's passes, its weights are float32. `bf16`: on a copy in half precision (half.py), or by autocast where it
    has running statistics. `fp16`: autocast, scales gradients, and needs a GPU."""
    seed: int = Field(default=0, ge=0, lt=1 << 64)
    device: str = "auto"
    pixels: Literal["replay", "rendered"] = "replay"
    """`replay`: each view from its source image, as the teacher saw it. `rendered`: from the JPEGs of `stillhouse render`."""
    threads: int = Field(default=2, ge=1)
    """Threads that decode and render images."""
    window_blocks: int = Field(default=4, ge=1)
    """Blocks held in memory and shuffled together."""
    pixel_cache_mb: int = Field(default=1024, ge=0)
    """Rendered views kept in memory from one epoch to the next, as far as they fit."""
    checkpoint_steps: int = Field(default=500, ge=1)
    log_steps: int = Field(default=20, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        return with_recipe(given) if isinstance(given, Mapping) else given

    @field_validator("recipe")
    @classmethod
    def _published(cls, recipe: str | None) -> str | None:
        if recipe not in (None, *RECIPES):
            raise ValueError(f"unknown recipe {recipe!r}; known: {', '.join(RECIPES)}")
        return recipe

    @field_validator("objectives")
    @classmethod
    def _known(cls, objectives: dict[str, float]) -> dict[str, float]:
        return _checked(objectives)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.teacher is not None and self.teachers:
            raise ValueError("give `teacher` or `teachers`, not both")
        return self

    def described(self) -> dict[str, Any]:
        """The config as runs keep it: what a later version added is left out at its default, so old runs are found."""
        found = self.model_dump(mode="json")
        for names, section in ((LATER, found), (LATER_OF_STUDENT, found["student"])):
            for name, default in names.items():
                if section[name] == default:
                    del section[name]
        return found

    def digest(self) -> str:
        return config_digest(self.described())


LATER: Final[Mapping[str, Any]] = {
    "recipe": None,
    "teachers": {},
    "temperature": 1.0,
    "repeats": 1,
    "accumulate": 1,
    "pixels": "replay",
}
LATER_OF_STUDENT: Final[Mapping[str, Any]] = {"mask_token_std": 0.0}
"""Fields that came after the first runs, with the default that means what was done before."""


def _checked(objectives: dict[str, float]) -> dict[str, float]:
    unknown = sorted(objectives.keys() - OBJECTIVES.keys())
    if unknown:
        raise ValueError(f"unknown objective {unknown[0]!r}; known: {', '.join(OBJECTIVES)}")
    if any(weight < 0 for weight in objectives.values()):
        raise ValueError("a weight must not be below 0")
    if not any(weight > 0 for weight in objectives.values()):
        raise ValueError("at least one objective needs a weight above 0")
    return objectives
