"""RandAugment (Cubuk et al. 2019, arXiv 1909.13719) as timm's "rand-m9-mstd0.5-inc1", drawn as integers.

Two layers; each does nothing half the time, and else one of fifteen operations, all equally likely, at a level drawn
from N(9, 0.5) and cut to 0..10. "inc" means that every operation gets stronger with the level.
"""

from fractions import Fraction

from stillhouse.core.errors import UsageError
from stillhouse.core.rng import Q16, Draws
from stillhouse.storage.view_ops import IDENTITY, OP_IDS

# The operations in the order they are drawn from: names of `view_ops.OP_IDS`.
RAND_AUGMENT: tuple[str, ...] = (
    *("autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add", "color", "contrast"),
    *("brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"),
)
_LEVEL_MAX = 10 * Q16


def rand_augment(draws: Draws, name: str) -> tuple[int, int]:
    """(op id, strength) of one layer; `name` ("op1") is the prefix of its draws."""
    if not draws.chance(Fraction(1, 2), f"{name}.apply"):
        return IDENTITY, 0
    op = RAND_AUGMENT[draws.below(len(RAND_AUGMENT), f"{name}.kind")]
    level_q16 = min(max(9 * Q16 + draws.normal_q16(f"{name}.level") // 2, 0), _LEVEL_MAX)
    sign = 1 if draws.chance(Fraction(1, 2), f"{name}.sign") else -1
    return OP_IDS[op], strength_of(op, level_q16, sign)


def strength_of(op: str, level_q16: int, sign: int) -> int:
    """The stored strength of an operation at a level, in the unit that `view_ops.OPS` gives.

    At level 10: rotation by 30 degrees, shear 0.3 and translation 0.45, each on either side; enhancement 1 ± 0.9;
    posterize to 0 bits (from 4); solarize from level 0 up (from 256); 110 added to dark levels.

    Args:
        op: a name of `view_ops.OP_IDS`.
        level_q16: the level, 0 … 10 * 65536.
        sign: 1 or -1; only for operations with two sides.
    """
    match op:
        case "autocontrast" | "equalize" | "invert":
            return 0
        case "rotate":
            return sign * 3 * level_q16
        case "posterize":
            return 4 - level_q16 * 4 // _LEVEL_MAX
        case "solarize":
            return 256 - level_q16 * 256 // _LEVEL_MAX
        case "solarize_add":
            return level_q16 * 110 // _LEVEL_MAX
        case "color" | "contrast" | "brightness" | "sharpness":
            return Q16 + sign * (level_q16 * 9 // 100)
        case "shear_x" | "shear_y":
            return sign * (level_q16 * 3 // 100)
        case "translate_x" | "translate_y":
            return sign * (level_q16 * 45 // 1000)
    raise UsageError(f"RandAugment has no operation {op!r}", hint=f"known: {', '.join(RAND_AUGMENT)}")
