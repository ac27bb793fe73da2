"""What a pipeline says of a depth task."""

from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from stillhouse.core.config import parse_config
from stillhouse.core.errors import UsageError

from ..base import TaskConfig
from ..dense.scenes import SceneConfig
from .layouts import Layout
from .presets import PRESETS, PresetName
from .protocol import Protocol, at_side


class DepthConfig(TaskConfig):
    """Depth on one data set by one protocol."""

    kind: Literal["depth"] = "depth"
    path: str = ""
    """Folder of the data set; not for `layout: scenes`."""
    layout: Layout = "nyu"
    depth_scale: float = Field(1000.0, gt=0)
    """What a depth PNG of `layout: folder` holds for one metre."""
    preset: PresetName = "dinov2_lin4"
    changes: dict[str, Any] = Field(default_factory=dict)
    """Numbers of the preset that are to differ, e.g. {iterations: 2000}; docs/evaluations/depth.md lists them.

    `iterations` alone keep the preset's share of warm-up."""
    resolution: Literal["published"] | Annotated[int, Field(ge=1)] | None = "published"
    """Shorter side of the images as the encoder sees them; null: the encoder's own size. Crops and windows go with it."""
    scene: SceneConfig = Field(default_factory=SceneConfig)
    num_train: int = Field(256, ge=1)
    num_test: int = Field(64, ge=1)
    """How many scenes, for `layout: scenes`."""
    examples: int = Field(4, ge=0)
    seed: int = Field(0, ge=0)
    """Of the head's start, the order of images and their augmentation."""

    @model_validator(mode="after")
    def _complete(self) -> "DepthConfig":
        if bool(self.path) == (self.layout == "scenes"):
            raise ValueError("path names the data set, unless the layout is scenes")
        try:
            self.protocol()
        except UsageError as error:
            raise ValueError(error.message) from error
        return self

    def protocol(self, own_size: int = 224) -> Protocol:
        """The preset with its changes at the resolution asked for; `own_size` is the encoder's.

        Raises:
            UsageError: a change of what no protocol has, or to what it cannot be.
        """
        published = PRESETS[self.preset]
        protocol = parse_config(Protocol, {**published, **self.changes}, where="changes")
        if "warmup" not in self.changes:
            share = Fraction(published["warmup"], published["iterations"])
            protocol = protocol.model_copy(update={"warmup": round(share * protocol.iterations)})
        if (protocol.window is None) != (protocol.stride is None):
            raise UsageError("changes: window and stride are set together, or both null")
        if self.resolution == "published":
            return protocol
        return at_side(protocol, own_size if self.resolution is None else self.resolution)
