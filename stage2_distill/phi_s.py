"""PHI-S (Ranzinger et al., 2024): targets turned and scaled so that every channel has the same variance, 1.

y = alpha H U^T (x - mu), where the covariance of the teacher's tokens is U L U^T, H is a Hadamard matrix over sqrt(D) and alpha
is 1 / sqrt(mean of L). One scalar and a rotation: distances keep their proportions, so with a squared error this is
`centred` in other coordinates, and several teachers come to one scale. The covariance is measured on stored tokens.

Legend: N tokens, T tokens of a sample, D teacher width.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stillhouse.storage.specs import TRAIN
from stillhouse.storage.store import Store

from .hadamard import hadamard

SAMPLE_TOKENS = 1 << 16
"""That a covariance is measured on, or all there are: a few from every block of every view."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Turned:
    """y = x @ matrix_DD + shift_D, float32 both."""

    matrix_DD: npt.NDArray[np.float32]
    shift_D: npt.NDArray[np.float32]


def phi_s(mean_D: Array, covariance_DD: Array) -> Turned:
    """The map of a level; UsageError when there is no Hadamard matrix of its width.

    Eigenvectors are known up to their signs, and where variances are equal not even that: who goes on with a run keeps
    its map.
    """
    scaled_DD = hadamard(len(mean_D)) / np.sqrt(len(mean_D))
    variances_D, axes_DD = np.linalg.eigh(covariance_DD)
    axes_DD = axes_DD * np.where(axes_DD[np.abs(axes_DD).argmax(0), np.arange(len(mean_D))] < 0, -1.0, 1.0)
    matrix_DD = axes_DD @ scaled_DD.T / np.sqrt(max(float(variances_D.mean()), 1e-24))
    return Turned(matrix_DD.astype(np.float32), (-mean_D @ matrix_DD).astype(np.float32))


def moments(store: Store, teacher: str, level: str) -> tuple[Array, Array]:
    """(mean [D], covariance [D, D]) of the decoded tokens of a level, float64: a function of what is in the store alone."""
    codec, features = store.codec(teacher, level), store.features(teacher, level)
    units = [(view, block) for block in store.plan.blocks_of(TRAIN) for view in range(store.spec.num_views)]
    each = -(-SAMPLE_TOKENS // (store.teacher(teacher).levels[level].num_tokens * len(units)))
    num, total_D, products_DD = 0, np.zeros(codec.dim), np.zeros((codec.dim, codec.dim))
    for view, block in units:
        rows = store.good_rows(block)
        if not len(rows):
            continue
        rows = rows[:: max(1, len(rows) // each)][:each]
        tokens_ND = codec.decode(features.read(view, block, rows)).reshape(-1, codec.dim).astype(np.float64)
        num += len(tokens_ND)
        total_D += tokens_ND.sum(axis=0)
        products_DD += tokens_ND.T @ tokens_ND
    mean_D = total_D / max(num, 1)
    return mean_D, products_DD / max(num, 1) - np.outer(mean_D, mean_D)
