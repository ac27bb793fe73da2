"""A teacher: an encoder with an identity and a way of seeing pixels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillhouse.core.attention import prefer_products
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

Pixels = npt.NDArray[np.uint8]


class Asked:
    """What a teacher was asked, on its way from the device: float32 [B, T, D] a level.

    The teacher may be asked more before this has come. Where that is a GPU, `came` is when it has, and `pixels` must stay
    until then.
    """

    def __init__(
        self, teacher: str, levels: Mapping[str, Tensor], came: torch.cuda.Event | None = None, pixels: Any = None
    ) -> None:
        self._teacher, self._levels, self._came, self._pixels = teacher, levels, came, pixels
        self._found: dict[str, npt.NDArray[np.float32]] | None = None

    def tokens(self) -> dict[str, npt.NDArray[np.float32]]:
        """Wait for the tokens.

        Raises:
            DataError: a feature is NaN or infinite.
        """
        if self._found is not None:
            return self._found
        if self._came is not None:
            self._came.synchronize()
        found = {name: _array(tensor) for name, tensor in self._levels.items()}
        for level, array in found.items():
            if not np.isfinite(array).all():
                message = f"teacher {self._teacher} gives {level} features that are not finite"
                raise DataError(message, hint="use precision: fp32, or another image_size")
        self._found, self._levels, self._came, self._pixels = found, {}, None, None
        return found


class Teacher:
    """A frozen encoder on a device: uint8 views in, float32 tokens of each level out."""

    def __init__(self, config: TeacherConfig, *, view_size: int, device: str = "auto") -> None:
        size = config.image_size or view_size
        self.device = pick_device(device)
        encoder = build_encoder(config, image_size=size, classifier=LOGITS in config.levels)
        self._weights_sha256 = weights_sha256(encoder)
        self._half = config.precision == "bf16" and _all_weights(encoder)
        if self._half:
            encoder.to(torch.bfloat16)
        self.encoder: Encoder = encoder.to(self.device)
        if config.precision == "bf16" and encoder.is_vit:
            num_tokens = size**2 // encoder.model.patch_embed.patch_size[0] ** 2
            prefer_products(encoder, num_tokens=num_tokens, dtype=torch.bfloat16, device=self.device)
        mean, std = STATISTICS.get(config.statistics) or default_statistics(self.encoder)
        self.preprocessing = Preprocessing(mean=config.mean or mean, std=config.std or std, size=size)
        self.config = config
        self._copies = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self.spec = self._describe()

    def _describe(self) -> TeacherSpec:
        pixels = self.empty_pixels(1)
        pixels[:] = 0
        levels = self._levels(pixels)
        self._fetched(levels, pixels).tokens()  # a teacher that gives no numbers is refused before any work
        described = {
            name: LevelSpec(num_tokens=level.tokens_BTD.shape[1], dim=level.tokens_BTD.shape[2], grid=level.grid)
            for name, level in levels.items()
        }
        return TeacherSpec(
            name=self.config.name,
            model=self.config.model,
            weights_sha256=self._weights_sha256,
            preprocessing=self.preprocessing,
            levels=described,
            codec=self.config.codec_told,
            precision=self.config.precision,
            licence=self.config.licence or (self.encoder.family.licence if self.encoder.family else ""),
            notice=self.config.notice,
        )

    def empty_pixels(self, num: int) -> Pixels:
        """uint8 [num, size, size, 3] for the teacher to see, in memory that its device copies from without waiting."""
        size = self.preprocessing.size
        pinned = self.device.type == "cuda" and num > 0
        pixels: Pixels = torch.empty((num, size, size, 3), dtype=torch.uint8, pin_memory=pinned).numpy()
        return pixels

    def __call__(self, pixels_BHWC: Pixels) -> dict[str, npt.NDArray[np.float32]]:
        """float32 tokens per level [B, T, D], as levels.py says, of uint8 views of any size.

        Raises:
            DataError: a feature is NaN or infinite.
        """
        return self.ask(resize_pixels(pixels_BHWC, self.preprocessing.size)).tokens()

    def ask(self, pixels_BHWC: Pixels) -> Asked:
        """Begin to look at uint8 views of the teacher's size; on a GPU this does not wait for the answer."""
        return self._fetched(self._levels(pixels_BHWC), pixels_BHWC)

    def _fetched(self, levels: Mapping[str, Level], pixels_BHWC: Pixels) -> Asked:
        """Send tokens on their way to the CPU, beside what the device does next."""
        tensors = {name: level.tokens_BTD for name, level in levels.items()}
        if self._copies is None:
            return Asked(self.config.name, tensors)
        found: dict[str, Tensor] = {}
        self._copies.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._copies):
            for name, tensor in tensors.items():
                found[name] = torch.empty(tensor.shape, dtype=torch.float32, pin_memory=True)
                found[name].copy_(tensor.float(), non_blocking=True)
                tensor.record_stream(self._copies)
            came = torch.cuda.Event()
            came.record(self._copies)
        return Asked(self.config.name, found, came, pixels_BHWC)

    def _levels(self, pixels_BHWC: Pixels) -> dict[str, Level]:
        x_BCHW = normalise(pixels_BHWC, self.preprocessing.mean, self.preprocessing.std, self.device)
        if self._half:
            x_BCHW = x_BCHW.to(torch.bfloat16)
        autocasts = self.config.precision == "bf16" and not self._half
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=autocasts)
        with torch.inference_mode(), autocast:
            return levels_of(self.encoder, x_BCHW, self.config.levels)


def _all_weights(encoder: Encoder) -> bool:
    """True for a ViT whose numbers are all weights, as DINOv2's and CLIP's are: it can be in bf16 as a whole.

    Running statistics and tables of positions cannot; models that have them need autocast.
    """
    return encoder.is_vit and not any(buffer.is_floating_point() for buffer in encoder.buffers())


def _array(tensor: Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[Any] = tensor.float().cpu().contiguous().numpy()
    return array
