"""Crops of a few photographs: a data set out of one image."""

import threading
from collections.abc import Sequence
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Self

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from stillhouse.core.config import Config
from stillhouse.core.errors import DataError, missing_package
from stillhouse.core.rng import Draws, log_uniform_table, seed_bytes
from stillhouse.storage.decode import BadImage, decode, encode_png

from .base import Item, check_items, item_key
from .local_files import read_bytes


class CropsSource(Config):
    """Square crops of one or a few photographs, at random places and scales, as samples."""

    kind: Literal["crops"] = "crops"
    paths: tuple[Path, ...] = ()
    """The photographs; or none, and `sklearn_samples`."""
    sklearn_samples: bool = False
    """Use the two photographs that come with scikit-learn, china.jpg and flower.jpg (640 x 427)."""
    num: int = Field(default=2000, ge=1, le=10**8)
    """Number of crops; the photographs take turns."""
    min_side: int = Field(default=48, ge=1)
    """Smallest crop, in pixels of the photograph."""
    max_side: int = Field(default=384, ge=1)
    """Largest crop; sides are log-uniform between the two, so each octave of scale is equally frequent."""
    output_side: int = Field(default=128, ge=1, le=8000)
    """Every crop is resized (PIL, bicubic) to a square of this side."""
    seed: int = Field(default=0, ge=0, lt=1 << 64)
    """Of the places and sizes: each crop's box is a pure function of the seed and its key."""
    label: Literal["photo", "none"] = "photo"
    """`photo`: the name of the photograph that a crop is from."""

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if bool(self.paths) == self.sklearn_samples:
            raise ValueError("give either `paths` or `sklearn_samples: true`")
        if self.min_side > self.max_side:
            raise ValueError("min_side is larger than max_side")
        return self


class CropsReader:
    """Reads a `CropsSource`; holds the decoded photographs."""

    def __init__(self, config: CropsSource) -> None:
        self.config = config
        self.where = f"source crops {', '.join(map(str, config.paths)) or 'of the scikit-learn samples'}"
        self._lock = threading.Lock()
        self._photos: dict[int, Image.Image] = {}

    def items(self) -> list[Item]:
        """`num` items; each locator is (number of the photograph, left, top, side).

        Raises:
            DataError: a photograph that cannot be read or is smaller than `max_side`.
        """
        config, paths = self.config, self._paths()
        sizes = [self._photo(number).size for number in range(len(paths))]
        for path, size in zip(paths, sizes, strict=True):
            if min(size) < config.max_side:
                raise DataError(
                    f"{self.where}: {path} has {size[0]} x {size[1]} pixels, crops of {config.max_side} do not fit",
                    hint=f"set max_side to at most {min(size)}",
                )
        seed, sides = seed_bytes(config.seed), log_uniform_table(Fraction(config.min_side), Fraction(config.max_side))
        items = []
        for number in range(config.num):
            photo = number % len(paths)
            stem = item_key(paths[photo].stem)
            key = f"{stem}/{number:08d}"
            box = draw_box(Draws(seed, key, 0), sizes[photo], sides)
            items.append(Item(key, stem if config.label == "photo" else None, (photo, *box)))
        return check_items(items, self.where)

    def read(self, item: Item) -> bytes:
        """The crop as PNG bytes, `output_side` pixels square."""
        photo, left, top, side = (int(part) for part in item.locator)
        crop = self._photo(photo).crop((left, top, left + side, top + side))
        output = (self.config.output_side, self.config.output_side)
        return encode_png(np.asarray(crop.resize(output, Image.Resampling.BICUBIC)))

    def _paths(self) -> tuple[Path, ...]:
        return sklearn_photographs() if self.config.sklearn_samples else self.config.paths

    def _photo(self, number: int) -> Image.Image:
        with self._lock:
            if number not in self._photos:
                path = self._paths()[number]
                try:
                    self._photos[number] = decode(read_bytes(path, self.where))
                except BadImage as error:
                    raise DataError(f"{self.where}: {path}: {error.message}", hint=error.hint) from error
            return self._photos[number]


def draw_box(draws: Draws, size: tuple[int, int], sides_q16: Sequence[int]) -> tuple[int, int, int]:
    """(left, top, side) of a square inside a photograph of `size`, its side one of `sides_q16` (in 1/65536)."""
    side = max(1, sides_q16[draws.below(len(sides_q16), "crop.side")] >> 16)
    return draws.below(size[0] - side + 1, "crop.left"), draws.below(size[1] - side + 1, "crop.top"), side


def sklearn_photographs() -> tuple[Path, ...]:
    """The files behind `sklearn.datasets.load_sample_images`, found without the second that importing it takes."""
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise missing_package("sklearn")
    folder = Path(spec.origin).parent / "datasets" / "images"
    return folder / "china.jpg", folder / "flower.jpg"
