"""The pixel operations a stored view may name: an append-only table from op id to what it does.

A row of `views/params` holds an op id and one int32 strength. Ids are written into stores, so an id is never reused and
its meaning never changes; new operations get new ids at the end. Id 0 is no operation.

The operations are those of RandAugment (Cubuk et al. 2019, arXiv 1909.13719) in the form timm gives them, on uint8 RGB
images in PIL, whose pixels are the same over versions and CPUs. Affine ones are bicubic and leave `fill` outside.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from PIL import Image, ImageEnhance, ImageOps

Q16 = 1 << 16
IDENTITY = 0

Fill = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Op:
    """One operation on a uint8 RGB image; `apply(image, strength, fill)` returns a new image of the same size."""

    name: str
    """A stable word for messages and reports."""
    strength: str
    """What the stored strength means, and its unit."""
    low: int
    """Smallest strength a store may hold."""
    high: int
    """Largest strength a store may hold."""
    apply: Callable[[Image.Image, int, Fill], Image.Image]


def _identity(image: Image.Image, strength: int, fill: Fill) -> Image.Image:
    return image


def _autocontrast(image: Image.Image, strength: int, fill: Fill) -> Image.Image:
    return ImageOps.autocontrast(image)


def _equalize(image: Image.Image, strength: int, fill: Fill) -> Image.Image:
    return ImageOps.equalize(image)


def _invert(image: Image.Image, strength: int, fill: Fill) -> Image.Image:
    return ImageOps.invert(image)


def _rotate(image: Image.Image, strength: int, fill: Fill) -> Image.Image:
    return image.rotate(strength / Q16, resample=Image.Resampling.BICUBIC, fillcolor=fill)


def _posterize(image: Image.Image, strength: int, fill: Fill) -> Image.Image:
    # Not ImageOps.posterize: it allowed 0 bits (a black image) for years, and Pillow 13 refuses them.
    mask = 0xFF & ~((1 << (8 - strength)) - 1)
    return _point(image, [level & mask for level in range(256)])


def _solarize(image: Image.Image, strength: int, fill: Fill) -> Image.Image:
    return _point(image, [level if level < strength else 255 - level for level in range(256)])


def _solarize_add(image: Image.Image, strength: int, fill: Fill) -> Image.Image:
    return _point(image, [min(255, level + strength) if level < 128 else level for level in range(256)])


def _point(image: Image.Image, table: list[int]) -> Image.Image:
    return image.point(table * 3)


def _color(image: Image.Image, strength: int, fill: Fill) -> Image.Image:
    return ImageEnhance.Color(image).enhance(strength / Q16)


def _contrast(image: Image.Image, strength: int, fill: Fill) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(strength / Q16)


def _brightness(image: Image.Image, strength: int, fill: Fill) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(strength / Q16)


def _sharpness(image: Image.Image, strength: int, fill: Fill) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(strength / Q16)


def _shear_x(image: Image.Image, strength: int, fill: Fill) -> Image.Image:
    return _affine(image, (1, strength / Q16, 0, 0, 1, 0), fill)


def _shear_y(image: Image.Image, strength: int, fill: Fill) -> Image.Image:
    return _affine(image, (1, 0, 0, strength / Q16, 1, 0), fill)


def _translate_x(image: Image.Image, strength: int, fill: Fill) -> Image.Image:
    return _affine(image, (1, 0, strength / Q16 * image.width, 0, 1, 0), fill)


def _translate_y(image: Image.Image, strength: int, fill: Fill) -> Image.Image:
    return _affine(image, (1, 0, 0, 0, 1, strength / Q16 * image.height), fill)


def _affine(image: Image.Image, matrix: tuple[float, ...], fill: Fill) -> Image.Image:
    """Output pixel (x, y) is the input at (a x + b y + c, d x + e y + f), for matrix (a, b, c, d, e, f)."""
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BICUBIC, fillcolor=fill
    )


_UNUSED = "unused, 0"
_FACTOR = "enhancement factor in 1/65536: 65536 changes nothing"
_SHEAR = "source shift per pixel across, in 1/65536"
_SHIFT = "source shift as a share of the view's side, in 1/65536"

# Append only: an id is part of the stored format.
_TABLE = (
    Op(name="none", strength=_UNUSED, low=0, high=0, apply=_identity),
    Op(name="autocontrast", strength=_UNUSED, low=0, high=0, apply=_autocontrast),
    Op(name="equalize", strength=_UNUSED, low=0, high=0, apply=_equalize),
    Op(name="invert", strength=_UNUSED, low=0, high=0, apply=_invert),
    Op(
        name="rotate",
        strength="degrees counter-clockwise in 1/65536",
        low=-180 * Q16,
        high=180 * Q16,
        apply=_rotate,
    ),
    Op(name="posterize", strength="high bits kept of each channel", low=0, high=8, apply=_posterize),
    Op(name="solarize", strength="levels from this one up are inverted", low=0, high=256, apply=_solarize),
    Op(name="solarize_add", strength="added to levels below 128", low=0, high=255, apply=_solarize_add),
    Op(name="color", strength=_FACTOR, low=0, high=4 * Q16, apply=_color),
    Op(name="contrast", strength=_FACTOR, low=0, high=4 * Q16, apply=_contrast),
    Op(name="brightness", strength=_FACTOR, low=0, high=4 * Q16, apply=_brightness),
    Op(name="sharpness", strength=_FACTOR, low=0, high=4 * Q16, apply=_sharpness),
    Op(name="shear_x", strength=_SHEAR, low=-Q16, high=Q16, apply=_shear_x),
    Op(name="shear_y", strength=_SHEAR, low=-Q16, high=Q16, apply=_shear_y),
    Op(name="translate_x", strength=_SHIFT, low=-Q16, high=Q16, apply=_translate_x),
    Op(name="translate_y", strength=_SHIFT, low=-Q16, high=Q16, apply=_translate_y),
)

OPS: Mapping[int, Op] = MappingProxyType(dict(enumerate(_TABLE)))
"""Op id to operation; ids are 0, 1, 2, … without gaps."""

OP_IDS: Mapping[str, int] = MappingProxyType({op.name: op_id for op_id, op in OPS.items()})
"""The same table from name to id."""
