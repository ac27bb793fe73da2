"""Images of a data set through an encoder, under a published transform.

Legend: B batch, C channels, H and W pixels, S side, N images, D width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from stillhouse.core.encoders import normalise, pick_device

from ..probe import FloatArray
from ..subjects import Subject
from .base import Context
from .files import read_image

Statistics = Literal["subject", "imagenet", "clip", "half"]
STATISTICS: Mapping[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Mean and deviation of pixels as shares of 255; `subject` stands for the encoder's own."""


@dataclass(frozen=True, slots=True)
class Transform:
    """Shorter side to `resize` pixels (bicubic, antialiased), the middle `crop` x `crop` of it, normalised."""

    resize: int
    crop: int
    statistics: Statistics = "subject"

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """uint8 [crop, crop, 3]; an image whose resized form is smaller than the crop is padded with black."""
        width, height = image.size
        if width <= height:
            size = (self.resize, int(self.resize * height / width))
        else:
            size = (int(self.resize * width / height), self.resize)
        resized = image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
        left, top = round((size[0] - self.crop) / 2), round((size[1] - self.crop) / 2)
        return np.asarray(resized.crop((left, top, left + self.crop, top + self.crop)))

    def mean_std(self, subject: Subject) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The statistics that this transform normalises by for a subject."""
        seen = subject.preprocessing
        return (seen.mean, seen.std) if self.statistics == "subject" else STATISTICS[self.statistics]


@dataclass(frozen=True, eq=False)
class Encoded:
    """What an encoder says about N images: cls tokens of its last blocks, the last one LAST, and the mean patch."""

    blocks: tuple[FloatArray, ...]
    patch_mean: FloatArray

    @property
    def cls(self) -> FloatArray:
        """float32 [N, D]: the cls token of the last block."""
        return self.blocks[-1]


def encode_files(
    subject: Subject, paths: Sequence[Path], transform: Transform, context: Context, *, num_blocks: int = 1
) -> Encoded:
    """Features of image files in order, float32; progress is told to the context's reporter."""
    reads = [partial(_read, path, transform) for path in paths]
    return encode_pixels(subject, reads, transform.mean_std(subject), context, num_blocks=num_blocks)


def encode_pixels(
    subject: Subject,
    reads: Sequence[Callable[[], NDArray[np.uint8]]],
    mean_std: tuple[Sequence[float], Sequence[float]],
    context: Context,
    *,
    num_blocks: int = 1,
) -> Encoded:
    """Features of uint8 [S, S, 3], float32, in order; `reads` are called in threads, a batch at a time."""
    device = pick_device(context.device)
    encoder = subject.encoder.to(device)
    mean, std = mean_std
    cls: list[list[FloatArray]] = []
    means: list[FloatArray] = []
    with context.reporter.task(f"eval {subject.name}: features", len(reads)) as task:
        for pixels_BSSC in _batches(reads, context):
            with torch.inference_mode():
                x_BCHW = normalise(pixels_BSSC, mean, std, device)
                blocks, patch_BTD = encoder.last_blocks(x_BCHW, num_blocks)
            cls.append([block.float().cpu().numpy() for block in blocks])
            means.append(patch_BTD.mean(dim=1).float().cpu().numpy())
            task.advance(len(pixels_BSSC))
    return Encoded(tuple(np.concatenate(parts) for parts in zip(*cls, strict=True)), np.concatenate(means))


def _read(path: Path, transform: Transform) -> NDArray[np.uint8]:
    return transform.pixels(read_image(path))


def _batches(reads: Sequence[Callable[[], NDArray[np.uint8]]], context: Context) -> Iterator[NDArray[np.uint8]]:
    with ThreadPoolExecutor(context.threads) as pool:
        for start in range(0, len(reads), context.batch):
            part = reads[start : start + context.batch]
            yield np.stack(list(pool.map(lambda read: read(), part)))
