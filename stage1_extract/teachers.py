"""A teacher: an encoder with an identity and a way of seeing pixels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stillhouse.core.encoders import (
    STATISTICS,
    Encoder,
    build_encoder,
    default_statistics,
    normalise,
    pick_device,
    weights_sha256,
)
from stillhouse.core.errors import DataError
from stillhouse.core.pixels import resize_pixels
from stillhouse.storage.specs import LevelSpec, Preprocessing, TeacherSpec

from .config import TeacherConfig
from .levels import LOGITS, Level, levels_of


class Teacher:
    """A frozen encoder on a device: uint8 views in, float32 tokens of each level out."""

    def __init__(self, config: TeacherConfig, *, view_size: int, device: str = "auto") -> None:
        size = config.image_size or view_size
        self.device = pick_device(device)
        self.encoder: Encoder = build_encoder(config, image_size=size, classifier=LOGITS in config.levels).to(
            self.device
        )
        mean, std = STATISTICS.get(config.statistics) or default_statistics(self.encoder)
        self.preprocessing = Preprocessing(mean=config.mean or mean, std=config.std or std, size=size)
        self.config = config
        self.spec = self._describe()

    def _describe(self) -> TeacherSpec:
        size = self.preprocessing.size
        levels = self._levels(np.zeros((1, size, size, 3), np.uint8))
        self._arrays(levels)  # a teacher that gives no numbers is refused before any work
        described = {
            name: LevelSpec(num_tokens=level.tokens_BTD.shape[1], dim=level.tokens_BTD.shape[2], grid=level.grid)
            for name, level in levels.items()
        }
        return TeacherSpec(
            name=self.config.name,
            model=self.config.model,
            weights_sha256=weights_sha256(self.encoder),
            preprocessing=self.preprocessing,
            levels=described,
            codec=self.config.codec_told,
            precision=self.config.precision,
            licence=self.config.licence or (self.encoder.family.licence if self.encoder.family else ""),
            notice=self.config.notice,
        )

    def __call__(self, pixels_BHWC: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        """float32 tokens per level [B, T, D], as levels.py says, of uint8 views of any size.

        Raises:
            DataError: a feature is NaN or infinite.
        """
        return self._arrays(self._levels(pixels_BHWC))

    def _arrays(self, levels: Mapping[str, Level]) -> dict[str, npt.NDArray[np.float32]]:
        found = {name: _array(level.tokens_BTD) for name, level in levels.items()}
        for level, array in found.items():
            if not np.isfinite(array).all():
                message = f"teacher {self.config.name} gives {level} features that are not finite"
                raise DataError(message, hint="use precision: fp32, or another image_size")
        return found

    def _levels(self, pixels_BHWC: npt.NDArray[np.uint8]) -> dict[str, Level]:
        pixels = resize_pixels(pixels_BHWC, self.preprocessing.size)
        x_BCHW = normalise(pixels, self.preprocessing.mean, self.preprocessing.std, self.device)
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")
        with torch.inference_mode(), autocast:
            return levels_of(self.encoder, x_BCHW, self.config.levels)


def _array(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[Any] = tensor.float().cpu().contiguous().numpy()
    return array
