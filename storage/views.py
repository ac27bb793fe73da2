"""Replay: the resolved integers of a stored view become its uint8 pixels, with PIL and no randomness.

Shapes: N samples, P fields, [H, W, C] pixels. A view is, in this order: a crop box of the source image resized to a
square, a mirror image, two operations of `view_ops.OPS`, and one erased box. Anything that once was random is an
integer in `FIELDS`, so the same source pixels and the same integers give the same view on every machine.
"""

import hashlib
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stillhouse.core.errors import CorruptError, UsageError

from .view_ops import OPS, Fill

FIELDS: tuple[str, ...] = (
    "crop_x",  # left edge of the crop, source pixels
    "crop_y",  # top edge of the crop, source pixels
    "crop_w",  # width of the crop, source pixels, at least 1
    "crop_h",  # height of the crop, source pixels, at least 1
    "flip",  # 1: mirrored left to right after the resize
    "op1",  # id in view_ops.OPS of the first operation, 0 = none
    "strength1",  # its strength, in the unit that the table gives
    "op2",  # the second operation
    "strength2",
    "erase_x",  # left edge of the erased box, view pixels
    "erase_y",  # top edge of the erased box, view pixels
    "erase_w",  # width of the erased box, view pixels; 0 = nothing is erased, and then all five are 0
    "erase_h",  # height of the erased box, view pixels
    "erase_seed",  # names the noise in the box, at least 0
)
"""Names of the P int32 fields of one view, in stored order."""

FILL: Fill = (124, 116, 104)
"""What affine operations leave outside the image: the ImageNet mean colour, round(255 * mean)."""
NOISE_MEAN = (0.485, 0.456, 0.406)
NOISE_STD = (0.229, 0.224, 0.225)

_REMEDY = "run `stillhouse verify` on the store"


def render(
    image: Image.Image,
    params_P: NDArray[np.int32],
    size: int,
    *,
    fill: Fill = FILL,
    noise_mean: tuple[float, float, float] = NOISE_MEAN,
    noise_std: tuple[float, float, float] = NOISE_STD,
) -> NDArray[np.uint8]:
    """One view: RGB image + int32 [P] -> uint8 [size, size, 3], writable.

    The crop is resized by PIL's antialiased bicubic filter with `box=`, so pixels next to the crop count at its edges,
    as in Resize followed by CenterCrop. Where torchvision's RandomResizedCrop cuts first, those edges differ a little.

    Args:
        image: the whole source image, mode RGB; the crop refers to its pixels.
        params_P: values in the order of `FIELDS`.
        size: side of the view in pixels; the erased box refers to it.
        fill: RGB colour left by affine operations outside the image.
        noise_mean: mean of the erased box's noise per channel, as a share of 255; the teacher's input mean.
        noise_std: its standard deviation per channel, as a share of 255; the teacher's input deviation.

    Raises:
        UsageError: the image is not RGB.
        CorruptError: a value out of its range (`check_params`).
    """
    if image.mode != "RGB":
        raise UsageError(f"a view is rendered from an RGB image, got mode {image.mode!r}", hint="convert it to RGB")
    check_params(params_P[None], np.array([image.size]), size=size)
    x, y, w, h, flip, op1, strength1, op2, strength2, *erase = params_P.tolist()
    view = image.resize((size, size), Image.Resampling.BICUBIC, box=(x, y, x + w, y + h))
    if flip:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    view = OPS[op1].apply(view, strength1, fill)
    view = OPS[op2].apply(view, strength2, fill)
    pixels_HWC = np.array(view)
    left, top, width, height, seed = erase
    if width:
        noise = erase_noise(seed, height, width, mean=noise_mean, std=noise_std)
        pixels_HWC[top : top + height, left : left + width] = noise
    return pixels_HWC


def center_params(width: int, height: int) -> tuple[int, ...]:
    """The P fields of the plain middle of an image: what Resize(8/7 of the size) and CenterCrop(size) keep.

    That is the central square of 7/8 of the shorter side, nothing mirrored, changed or erased.
    """
    side = max(1, (min(width, height) * 7 + 4) // 8)
    return ((width - side) // 2, (height - side) // 2, side, side, *(0 for _ in FIELDS[4:]))


def erase_noise(
    seed: int, height: int, width: int, *, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> NDArray[np.uint8]:
    """Noise for an erased box -> uint8 [height, width, 3]: clip(round(255 * (mean + std * z))) per pixel and channel.

    Random erasing (Zhong et al. 2017, arXiv 1708.04896) in timm's mode "pixel" puts N(0, 1) noise into the normalised
    tensor. A view is uint8, so here the same noise is put in before normalisation: z are 256 normal quantiles indexed
    by the bytes of SHAKE-128 over the seed as four little-endian bytes. Values are clipped to 0..255 and so differ
    from timm's beyond about two sigma: with ImageNet's mean and deviation, z is cut at -2.1 … -1.8 and 2.2 … 2.6.
    """
    stream = hashlib.shake_128(seed.to_bytes(4, "little")).digest(height * width * 3)
    bytes_HWC = np.frombuffer(stream, np.uint8).reshape(height, width, 3)
    table_LC = _noise_table(mean, std)
    return table_LC[bytes_HWC, np.arange(3)]


@lru_cache(maxsize=16)
def _noise_table(mean: tuple[float, float, float], std: tuple[float, float, float]) -> NDArray[np.uint8]:
    """Byte and channel to pixel value, uint8 [256, 3]."""
    normal = NormalDist()
    # To 1/65536, so that the last bits of a C library's log and sqrt cannot reach a pixel.
    z_L = np.array([round(normal.inv_cdf((i + 0.5) / 256) * 65536) for i in range(256)]) / 65536
    levels_LC = np.rint(255 * (np.array(mean) + np.array(std) * z_L[:, None]))
    return np.clip(levels_LC, 0, 255).astype(np.uint8)


def check_params(
    params_NP: NDArray[np.int32], sizes_N2: NDArray[np.integer], *, size: int, where: str = "view parameters"
) -> None:
    """Refuse parameters that no writer of ours could have written; int32 [N, P] and (width, height) integer [N, 2].

    Args:
        params_NP: rows in the order of `FIELDS`.
        sizes_N2: width and height of each row's source image in pixels.
        size: side of the view in pixels.
        where: what the rows are part of, for the message.

    Raises:
        CorruptError: wrong shape or dtype; crop outside its image; unknown op; strength out of its op's range; erased
            box outside the view. Names the first bad row and field.
    """
    if params_NP.dtype != np.int32 or params_NP.ndim != 2 or params_NP.shape[1] != len(FIELDS):
        found = f"{params_NP.dtype} {list(params_NP.shape)}"
        raise CorruptError(f"{where}: expected int32 [N, {len(FIELDS)}], got {found}", hint=_REMEDY)
    if sizes_N2.shape != (len(params_NP), 2):
        raise UsageError(f"{where}: {len(params_NP)} rows but image sizes of shape {list(sizes_N2.shape)}")
    column = dict(zip(FIELDS, params_NP.T.astype(np.int64), strict=True))
    low_NP, high_NP = _bounds(column, sizes_N2.astype(np.int64), size)
    bad_NP = (params_NP < low_NP) | (params_NP > high_NP)
    if bad_NP.any():
        row, field = (int(index) for index in np.argwhere(bad_NP)[0])
        value, low, high = int(params_NP[row, field]), int(low_NP[row, field]), int(high_NP[row, field])
        allowed = f"{low}..{high}" if low <= high else "nothing, for the fields beside it"
        raise CorruptError(f"{where}, row {row}: {FIELDS[field]} is {value}, allowed is {allowed}", hint=_REMEDY)


def _bounds(
    column: dict[str, NDArray[np.int64]], sizes_N2: NDArray[np.int64], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Smallest and largest allowed value of every field, int64 [N, P] each, given the values of the fields beside it.

    A position is bounded by its image and an extent by its position, so a box is inside when both hold.
    """
    width_N, height_N = sizes_N2.T
    erases_N = ((column["erase_w"] != 0) | (column["erase_h"] != 0)).astype(np.int64)
    low1_N, high1_N = _strength_bounds(column["op1"])
    low2_N, high2_N = _strength_bounds(column["op2"])
    low: dict[str, NDArray[np.int64] | int] = {
        "crop_w": 1,
        "crop_h": 1,
        "strength1": low1_N,
        "strength2": low2_N,
        "erase_w": erases_N,
        "erase_h": erases_N,
    }
    high: dict[str, NDArray[np.int64] | int] = {
        "crop_x": width_N - 1,
        "crop_y": height_N - 1,
        "crop_w": width_N - column["crop_x"],
        "crop_h": height_N - column["crop_y"],
        "flip": 1,
        "op1": len(OPS) - 1,
        "strength1": high1_N,
        "op2": len(OPS) - 1,
        "strength2": high2_N,
        "erase_x": erases_N * (size - 1),
        "erase_y": erases_N * (size - 1),
        "erase_w": size - column["erase_x"],
        "erase_h": size - column["erase_y"],
        "erase_seed": erases_N * np.iinfo(np.int32).max,
    }
    return _as_columns(low, len(width_N)), _as_columns(high, len(width_N))


_STRENGTHS_O2 = np.array([(op.low, op.high) for op in OPS.values()], np.int64)


def _strength_bounds(op_N: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    known_N = np.minimum(
        np.maximum(op_N, 0), len(OPS) - 1
    )  # an unknown op is reported by its own field, which comes first
    return _STRENGTHS_O2[known_N, 0], _STRENGTHS_O2[known_N, 1]


def _as_columns(bounds: dict[str, NDArray[np.int64] | int], num_rows: int) -> NDArray[np.int64]:
    columns_NP = np.zeros((num_rows, len(FIELDS)), np.int64)
    for index, name in enumerate(FIELDS):
        columns_NP[:, index] = bounds.get(name, 0)
    return columns_NP


def view_hash(pixels_HWC: NDArray[np.uint8]) -> int:
    """Hash of a rendered view, uint8 [H, W, 3] -> uint64 as int: BLAKE2b of 8 bytes over the pixels, little-endian.

    Never 0, which `layout.MISSING_HASH` reserves: 1 stands for it.
    """
    if pixels_HWC.dtype != np.uint8:
        raise UsageError(f"a view is hashed as uint8 pixels, got {pixels_HWC.dtype}", hint="hash before normalising")
    digest = hashlib.blake2b(np.ascontiguousarray(pixels_HWC).data, digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1
