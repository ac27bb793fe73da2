"""Images with depths: what every layout gives, and how a depth PNG is read.

`storage/decode.py` makes 8 bits of 16-bit gray, so depths have a reader of their own.

Legend: h and w rows and columns of pixels.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import PngImagePlugin

from stillhouse.core.errors import DataError, one_line
from stillhouse.storage.decode import MAX_PIXELS

from ..files import files_sha256, read_image


@dataclass(frozen=True, eq=False, slots=True)
class Pair:
    """image_hw3 uint8 and depth_hw float32 in metres, 0 where it is not known."""

    image_hw3: NDArray[np.uint8]
    depth_hw: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Part:
    """The training or the test images by key, and how to read one."""

    keys: tuple[str, ...]
    read: Callable[[int], Pair]

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, slots=True)
class DepthData:
    """A data set. `is_nyu`: frames of NYU Depth v2 with their white border, judged inside Eigen's crop."""

    train: Part
    test: Part
    identity: Mapping[str, Any]
    is_nyu: bool = False
    notes: Mapping[str, Any] = field(default_factory=dict)


def part_of_files(keys: list[str], images: list[Path], depths: list[Path], depth_scale: float) -> Part:
    """Image files with one depth PNG each."""

    def read(i: int) -> Pair:
        image_hw3, depth_hw = np.asarray(read_image(images[i])), read_depth(depths[i], depth_scale)
        if image_hw3.shape[:2] != depth_hw.shape:
            sizes = [" x ".join(map(str, array.shape[:2])) for array in (image_hw3, depth_hw)]
            raise DataError(f"{images[i]} is {sizes[0]} pixels, its depth {depths[i]} {sizes[1]}")
        return Pair(image_hw3, depth_hw)

    return Part(tuple(keys), read)


def identity_of_files(root: Path, parts: Mapping[str, list[Path]]) -> dict[str, Any]:
    """What a data set on disk is known by: how many files of each part, and their names and sizes."""
    return {name: {"files": len(paths), "sha256": files_sha256(root, paths)} for name, paths in parts.items()}


def read_depth(path: Path, depth_scale: float) -> NDArray[np.float32]:
    """Metres [h, w] of a 16-bit grayscale PNG that holds metres times `depth_scale`; 0 stays 0, which means unknown.

    Raises:
        DataError: not such a PNG, larger than what is decoded, or damaged.
    """
    try:
        with PngImagePlugin.PngImageFile(io.BytesIO(path.read_bytes())) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"{path}: {image.width} x {image.height} pixels declared")
            mode, codes_hw = image.mode, np.asarray(image)
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(f"{path}: {one_line(error)}", hint="copy the file again") from error
    if not mode.startswith("I"):
        hint = "a depth map is a 16-bit grayscale PNG"
        raise DataError(f"{path}: pixels of PIL mode {mode}, not of 16 bits", hint=hint)
    depth_hw: NDArray[np.float32] = (codes_hw.astype(np.float64) / depth_scale).astype(np.float32)
    return depth_hw
