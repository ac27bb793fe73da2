"""Which patches the masked pass hides: a pure function of (seed, step)."""

import numpy as np
import numpy.typing as npt

from stillhouse.core import rng


def draw_masks(
    *, seed: int, step: int, batch: int, num_patches: int, probability: float, ratio: float
) -> npt.NDArray[np.bool_]:
    """bool [floor(probability * batch), num_patches]: True where a patch of one of the first samples is hidden.

    Every row hides exactly floor(ratio * num_patches) patches, uniformly without replacement (Proteus' script: 0.5 and
    0.5, the first half of the batch, not block-wise).
    """
    num_masked = int(probability * batch)
    hidden = int(ratio * num_patches)
    words = rng.uniform_words(seed, num_masked * num_patches, "mask", step).reshape(num_masked, num_patches)
    ranks = words.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    masks: npt.NDArray[np.bool_] = ranks < hidden
    return masks
