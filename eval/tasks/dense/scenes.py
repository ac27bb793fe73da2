"""Generated scenes whose masks and depths are known: coloured boards that stand on a plane before a wall.

A pinhole camera looks along the plane; a board at distance z stands upright, so all of it is z metres deep. The class of a
board is its colour, and things are darker the farther they are, so an encoder of plain colours can answer perfectly. Every
draw is keyed by (seed, number): a scene is the same on every machine.

Legend: h and w rows and columns of pixels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillhouse.core import rng
from stillhouse.core.errors import UsageError

COLOURS = (
    (150, 160, 170),  # wall
    (120, 130, 60),  # ground
    (230, 40, 40),
    (40, 60, 230),
    (240, 220, 30),
    (40, 210, 70),
    (220, 60, 220),
    (40, 220, 220),
)
IGNORED = 255
NEAREST_M, FARTHEST_M = 2.0, 10.0
CAMERA_M = 1.2
"""Height of the camera over the plane."""


@dataclass(frozen=True, slots=True)
class SceneConfig:
    """What scenes look like; class 0 is the wall, 1 the ground, 2 .. num_classes - 1 are boards by their colour."""

    height: int = 48
    width: int = 64
    num_classes: int = 5
    boards: int = 4
    border: bool = False
    """Label the pixels at the edge of two classes as ignored, as VOC does."""
    noise: int = 0
    """Grey levels up to which each colour is moved, uniformly."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 3 <= self.num_classes <= len(COLOURS):
            message = f"scenes of {self.num_classes} classes: there are colours for 3 to {len(COLOURS)}"
            raise UsageError(message, hint="set num_classes to one of these")


@dataclass(frozen=True, eq=False, slots=True)
class Scene:
    """image_hw3 uint8; mask_hw uint8, IGNORED or a class; depth_hw float32 in metres, everywhere known."""

    image_hw3: NDArray[np.uint8]
    mask_hw: NDArray[np.uint8]
    depth_hw: NDArray[np.float32]


def scene(number: int, config: SceneConfig) -> Scene:
    """Scene `number` of an endless list."""
    draws = rng.Draws(rng.seed_bytes(config.seed), f"scene {number}", 0)
    mask_hw, depth_hw = _room(config)
    boards = sorted((_Board.drawn(draws, i, config) for i in range(config.boards)), key=lambda board: -board.z)
    for board in boards:
        inside_hw = board.inside(config)
        mask_hw[inside_hw], depth_hw[inside_hw] = board.label, board.z
    colours_hw3 = np.array(COLOURS, dtype=np.float64)[mask_hw]
    shade_hw = 1.0 - 0.06 * depth_hw  # 0.88 at two metres, 0.4 at ten
    pixels_hw3 = np.rint(colours_hw3 * shade_hw[..., None])
    if config.noise:
        words = rng.uniform_words(config.seed, pixels_hw3.size, "scene", number, "noise").reshape(pixels_hw3.shape)
        pixels_hw3 += (words % np.uint64(2 * config.noise + 1)).astype(np.float64) - config.noise
    if config.border:
        mask_hw[_edges(mask_hw)] = IGNORED
    return Scene(pixels_hw3.clip(0, 255).astype(np.uint8), mask_hw, depth_hw.astype(np.float32))


@dataclass(frozen=True, slots=True)
class _Board:
    label: int
    z: float
    across: float
    """Column of its middle, as a share of the width."""
    size_m: float
    shape: int

    @classmethod
    def drawn(cls, draws: rng.Draws, i: int, config: SceneConfig) -> "_Board":
        return cls(
            label=2 + draws.below(config.num_classes - 2, "label", i),
            z=NEAREST_M + draws.below(96, "z", i) / 16,
            across=(1 + draws.below(62, "across", i)) / 64,
            size_m=1 + draws.below(64, "size", i) / 64,
            shape=draws.below(3, "shape", i),
        )

    def inside(self, config: SceneConfig) -> NDArray[np.bool_]:
        """True where the board is seen: a box, a triangle that points upwards, or an ellipse."""
        rows_h1, columns_1w = _centres(config)
        foot = config.height / 2 + _focal(config) * CAMERA_M / self.z
        side = _focal(config) * self.size_m / self.z
        up_h1 = (foot - rows_h1) / side  # 0 at its foot, 1 at its top
        aside_1w = (columns_1w - self.across * config.width) / side
        within_h1 = (up_h1 >= 0) & (up_h1 <= 1)
        if self.shape == 0:
            return within_h1 & (abs(aside_1w) <= 0.5)
        if self.shape == 1:
            return within_h1 & (abs(aside_1w) <= 0.5 * (1 - up_h1))
        return aside_1w**2 + (up_h1 - 0.5) ** 2 <= 0.25


def _room(config: SceneConfig) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Wall and ground: mask and depth."""
    rows_h1, columns_1w = _centres(config)
    below_h1 = np.maximum(rows_h1 - config.height / 2, 1e-9)
    depth_h1 = np.minimum(_focal(config) * CAMERA_M / below_h1, FARTHEST_M)
    depth_hw = np.repeat(depth_h1, columns_1w.shape[1], axis=1)
    return (depth_hw < FARTHEST_M).astype(np.uint8), depth_hw


def _centres(config: SceneConfig) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.arange(0.5, config.height)[:, None], np.arange(0.5, config.width)[None, :]


def _focal(config: SceneConfig) -> float:
    """In pixels: the ground at the lower border is NEAREST_M away."""
    return config.height / 2 * NEAREST_M / CAMERA_M


def _edges(mask_hw: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels whose right or lower neighbour is of another class, and those neighbours."""
    edges = np.zeros(mask_hw.shape, dtype=np.bool_)
    across, down = mask_hw[:, 1:] != mask_hw[:, :-1], mask_hw[1:] != mask_hw[:-1]
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    edges[1:] |= down
    edges[:-1] |= down
    return edges
