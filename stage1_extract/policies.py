"""Draw: the parameters of one view, a pure function of (config, sample key, image size, view number).

Every random decision is a named keyed draw (`core/rng.py`), and everything after it is integer arithmetic. So no
worker, order, retry, library version or C library can change a view, and a draw added later changes none that exist.
Policies share the names of their common draws: with one seed, "proteus" crops and mirrors exactly as "crop_flip" does.

The rows are int32 in the order of `stillhouse.storage.views.FIELDS`, which `storage/views.py` replays.
Numbers in 1/65536 end in `_q16`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, model_validator

from stillhouse.core.config import Config
from stillhouse.core.errors import DataError, UsageError
from stillhouse.core.rng import Q16, Draws, log_uniform_table, seed_bytes
from stillhouse.storage.view_ops import IDENTITY
from stillhouse.storage.views import FIELDS, center_params

from .rand_augment import rand_augment

MAX_VIEWS = 50
MAX_SIDE = (1 << 31) - 1  # a crop's extent is stored as int32
ATTEMPTS = 10  # of torchvision's RandomResizedCrop and of timm's RandomErasing


def _fraction(value: float | str) -> float | str:
    try:
        Fraction(str(value))
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError("expected a number or a fraction such as 3/4") from error
    return value


Exact = Annotated[float | str, AfterValidator(_fraction)]
"""A number that is read as an exact fraction: 0.75 or "3/4"."""


class ViewPolicyConfig(Config):
    """How views are drawn. Numbers are taken as the exact decimals that are written, not as their binary neighbours."""

    policy: Literal["center", "crop_flip", "proteus"] = "proteus"
    """center: the middle, for probes; crop_flip: random resized crop and mirror; proteus: that, RandAugment, erasing."""
    num: int = Field(default=5, ge=1, le=MAX_VIEWS)
    """Views of each sample. Students gain little beyond five; more can be added later and change none that exist."""
    size: int = Field(default=224, ge=1, le=4096)
    """Side of a view in pixels, as the views are rendered, hashed and erased."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest area of a crop, as a share of the image."""
    ratio: tuple[Exact, Exact] = ("3/4", "4/3")
    """Smallest and largest width / height of a crop."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of a mirrored view."""
    erase: float = Field(default=0.25, ge=0, le=1)
    """Probability of an erased box; only for proteus."""
    seed: int = Field(default=0, ge=0, lt=1 << 64)
    """Seed of every draw."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.policy == "center" and self.num > 1:
            raise ValueError(
                f"policy 'center' gives every view the same pixels, so {self.num} views would store each feature "
                f"{self.num} times; set num to 1 or choose policy 'crop_flip' or 'proteus'"
            )
        # The outer bounds keep 1/65536 precise enough.
        if not 0.001 <= self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must hold 0.001 <= smallest <= largest <= 1, got {list(self.scale)}")
        if not Fraction(1, 1000) <= Fraction(str(self.ratio[0])) <= Fraction(str(self.ratio[1])) <= 1000:
            raise ValueError(f"ratio must hold 1/1000 <= smallest <= largest <= 1000, got {list(self.ratio)}")
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rules:
    """A config resolved to integers and exact fractions."""

    seed: bytes
    size: int
    area_q16: tuple[int, int]
    ratio: tuple[Fraction, Fraction]
    aspects_q16: tuple[int, ...]
    flip: Fraction
    erase: Fraction


@lru_cache(maxsize=64)
def _rules(config: ViewPolicyConfig) -> _Rules:
    low, high = (Fraction(str(bound)) for bound in config.ratio)
    return _Rules(
        seed=seed_bytes(config.seed),
        size=config.size,
        area_q16=(_q16(Fraction(str(config.scale[0]))), _q16(Fraction(str(config.scale[1])))),
        ratio=(low, high),
        aspects_q16=log_uniform_table(low, high),
        flip=Fraction(str(config.flip)),
        erase=Fraction(str(config.erase)),
    )


def draw(config: ViewPolicyConfig, key: str, width: int, height: int, view: int) -> NDArray[np.int32]:
    """The parameters of one view of one sample, int32 [P] in the order of `FIELDS`.

    Args:
        config: the policy; `num` only bounds `view`, so a store can grow views.
        key: the sample's key.
        width: of the decoded image, in pixels.
        height: of the decoded image, in pixels.
        view: number of the view, 0 … num-1.

    Raises:
        UsageError: no such view.
        DataError: an image without pixels, or with a side of 2^31 or more.
    """
    params_P: NDArray[np.int32] = draw_many(config, [key], [(width, height)], view)[0]
    return params_P


def draw_many(
    config: ViewPolicyConfig, keys: Sequence[str], sizes: Sequence[tuple[int, int]] | NDArray[np.integer], view: int
) -> NDArray[np.int32]:
    """`draw` for n samples: keys and (width, height) pairs -> int32 [n, P], row i for key i."""
    if not 0 <= view < config.num:
        raise UsageError(f"view {view} of a policy with {config.num} views", hint=f"ask for 0..{config.num - 1}")
    rules, policy = _rules(config), _POLICIES[config.policy]
    rows = np.empty((len(keys), len(FIELDS)), np.int32)
    for row, key, size in zip(rows, keys, sizes, strict=True):
        width, height = int(size[0]), int(size[1])
        if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
            raise DataError(f"sample {key!r}: an image of {width}x{height} pixels has no views", hint="leave it out")
        row[:] = policy(rules, Draws(rules.seed, key, view), width, height)
    return rows


_Row = tuple[int, ...]
_PLAIN: _Row = (0, IDENTITY, 0, IDENTITY, 0)  # not mirrored, no operations
_WHOLE: _Row = (0, 0, 0, 0, 0)  # nothing erased


def _center(rules: _Rules, draws: Draws, width: int, height: int) -> _Row:
    return center_params(width, height)


def _crop_flip(rules: _Rules, draws: Draws, width: int, height: int) -> _Row:
    flip = int(draws.chance(rules.flip, "flip"))
    return (*_crop(rules, draws, width, height), flip, *_PLAIN[1:], *_WHOLE)


def _proteus(rules: _Rules, draws: Draws, width: int, height: int) -> _Row:
    """The recipe of DeiT that Proteus trains with: rand-m9-mstd0.5-inc1 and erasing in mode pixel."""
    flip = int(draws.chance(rules.flip, "flip"))
    crop, erased = _crop(rules, draws, width, height), _erase(rules, draws)
    return (*crop, flip, *rand_augment(draws, "op1"), *rand_augment(draws, "op2"), *erased)


_POLICIES: Mapping[str, Callable[[_Rules, Draws, int, int], _Row]] = {
    "center": _center,
    "crop_flip": _crop_flip,
    "proteus": _proteus,
}


def _crop(rules: _Rules, draws: Draws, width: int, height: int) -> _Row:
    """Box (x, y, w, h) of a random resized crop (Szegedy et al. 2014, arXiv 1409.4842), as torchvision draws it."""
    for attempt in range(ATTEMPTS):
        area_q16 = width * height * draws.between_q16(*rules.area_q16, "crop.area", attempt)
        aspect_q16 = rules.aspects_q16[draws.below(len(rules.aspects_q16), "crop.aspect", attempt)]
        w, h = _round_sqrt(area_q16 * aspect_q16, Q16 * Q16), _round_sqrt(area_q16, aspect_q16)
        if 0 < w <= width and 0 < h <= height:
            x, y = draws.below(width - w + 1, "crop.x", attempt), draws.below(height - h + 1, "crop.y", attempt)
            return x, y, w, h
    w, h = width, height
    if width < height * rules.ratio[0]:
        h = max(1, round(width / rules.ratio[0]))
    elif width > height * rules.ratio[1]:
        w = max(1, round(height * rules.ratio[1]))
    return (width - w) // 2, (height - h) // 2, w, h


def _q16(value: Fraction) -> int:
    return round(value * Q16)


_ERASE_AREA_Q16 = (_q16(Fraction(2, 100)), _q16(Fraction(1, 3)))
_ERASE_ASPECTS_Q16 = log_uniform_table(Fraction(3, 10), Fraction(10, 3))


def _erase(rules: _Rules, draws: Draws) -> _Row:
    """(x, y, w, h, noise seed) of a box over 0.02 … 1/3 of the view, height / width from 0.3 to 1/0.3."""
    if not draws.chance(rules.erase, "erase.apply"):
        return _WHOLE
    for attempt in range(ATTEMPTS):
        area_q16 = rules.size * rules.size * draws.between_q16(*_ERASE_AREA_Q16, "erase.area", attempt)
        aspect_q16 = _ERASE_ASPECTS_Q16[draws.below(len(_ERASE_ASPECTS_Q16), "erase.aspect", attempt)]
        h, w = _round_sqrt(area_q16 * aspect_q16, Q16 * Q16), _round_sqrt(area_q16, aspect_q16)
        if 0 < w < rules.size and 0 < h < rules.size:
            x = draws.below(rules.size - w + 1, "erase.x", attempt)
            y = draws.below(rules.size - h + 1, "erase.y", attempt)
            return x, y, w, h, draws.below(1 << 31, "erase.seed")
    return _WHOLE


def _round_sqrt(numerator: int, denominator: int) -> int:
    """The integer nearest to sqrt(numerator / denominator), half up: floor(sqrt(q) + 1/2) = (isqrt(4 q) + 1) // 2."""
    return (math.isqrt(4 * numerator // denominator) + 1) // 2
