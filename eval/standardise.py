"""Zero mean and unit variance per feature dimension, with the statistics of the training part."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Standardiser:
    """Mean and scale per dimension, float64 [D] each."""

    mean_D: NDArray[np.float64]
    scale_D: NDArray[np.float64]

    @classmethod
    def fit(cls, feats_ND: NDArray[np.floating]) -> Self:
        """Statistics of features [N, D], with the population's variance (divided by N).

        A dimension that is constant up to float32 rounding keeps scale 1: dividing by its deviation, zero or rounding
        noise, would give NaN or blow the noise up to unit variance.
        """
        mean_D = feats_ND.mean(axis=0, dtype=np.float64)
        std_D = feats_ND.std(axis=0, dtype=np.float64)
        magnitude_D = np.abs(feats_ND).max(axis=0).astype(np.float64)
        varies_D = std_D > np.finfo(np.float32).eps * magnitude_D
        return cls(mean_D, np.where(varies_D, std_D, 1.0))

    def apply(self, feats_ND: NDArray[np.floating]) -> NDArray[np.float64]:
        """(features - mean) / scale, float64 [N, D]."""
        standard_ND: NDArray[np.float64] = (feats_ND - self.mean_D) / self.scale_D
        return standard_ND
