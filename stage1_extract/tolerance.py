"""What half precision costs: the tokens of a teacher beside those of the same weights in float32.

Legend: B views of a batch, T tokens, D dimensions.
"""

import numpy as np

from .recompute import cosine
from .teachers import Teacher
from .units import Seen, TeacherPass, Unit


def against_fp32(work: TeacherPass, unit: Unit, seen: Seen) -> dict[str, dict[str, float]]:
    """Of each level how far `seen`, the first batch of a unit, is from what the teacher says in float32.

    For as long as this takes a second teacher, in float32, is on the device.

    Returns:
        per level `nmse`, the squared error as a share of the variance around the channel means; `mean_cosine` and
        `min_cosine` over all tokens; `rows`, the number of views.
    """
    config = work.teacher.config.model_copy(update={"precision": "fp32"})
    teacher = Teacher(config, view_size=work.policy.size, device=str(work.teacher.device))
    _, exact = next(TeacherPass(work.store, teacher, work.policy, work.pool).ask([unit]))
    found = {}
    for level, half_BTD in seen.said.tokens().items():
        exact_BTD = exact.said.tokens()[level].astype(np.float64)
        spread = ((exact_BTD - exact_BTD.mean(axis=(0, 1))) ** 2).sum()
        error = ((half_BTD - exact_BTD) ** 2).sum()
        cosines = cosine(half_BTD, exact.said.tokens()[level])
        found[level] = {
            "nmse": float(error / max(spread, np.finfo(np.float64).tiny)),
            "mean_cosine": float(cosines.mean()),
            "min_cosine": float(cosines.min()),
            "rows": len(half_BTD),
        }
    return found
