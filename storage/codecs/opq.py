"""`opq`: a rotation, then `pq` (Ge et al., Optimized Product Quantization, 2013), trained by faiss.

Legend: D teacher dimensions, M bytes a token.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from stillhouse.core.errors import CorruptError

from .base import Codes, CodeType, Tokens, require_finite
from .pq import Float32, Pq, check_bytes, codebook, faiss, training_tokens

ROUNDS = 20
MIN_TOKENS = 256
"""Fewer have no rotation worth finding."""


@dataclass(frozen=True, slots=True, eq=False)
class Opq:
    """x ~ rotation^T y, where y is what `pq` decodes; the rotation is orthonormal."""

    rotation_DD: Float32
    pq: Pq
    name: ClassVar[str] = "opq"

    @classmethod
    def fit(cls, tokens_NTD: Tokens, num_bytes: int | None = None) -> "Opq":
        dim = tokens_NTD.shape[-1]
        num_parts, points = check_bytes(num_bytes, dim), training_tokens(tokens_NTD)
        rotation = np.eye(dim, dtype=np.float32)
        if len(points) >= MIN_TOKENS and num_parts > 1:
            matrix = faiss().OPQMatrix(dim, num_parts)
            matrix.niter, matrix.max_train_points = ROUNDS, len(points)
            quantizer = faiss().ProductQuantizer(dim, num_parts, 8)
            quantizer.cp.min_points_per_centroid = 1  # faiss warns of fewer than 39, on every round
            matrix.pq = quantizer
            matrix.train(points)
            rotation = faiss().vector_to_array(matrix.A).reshape(dim, dim)
        parts = np.split(points @ rotation.T, num_parts, axis=1)
        return cls(rotation, Pq(np.stack([codebook(part) for part in parts])))

    @classmethod
    def from_arrays(cls, dim: int, arrays: Mapping[str, Float32]) -> "Opq":
        rotation = arrays.get("rotation")
        if rotation is None or rotation.shape != (dim, dim) or not np.isfinite(rotation).all():
            hint = "run `stillhouse verify` on the store"
            raise CorruptError(f"opq has no finite rotation of {dim} dimensions", hint=hint)
        return cls(rotation, Pq.from_arrays(dim, arrays))

    @property
    def dim(self) -> int:
        return len(self.rotation_DD)

    @property
    def code_type(self) -> CodeType:
        return self.pq.code_type

    def encode(self, tokens_NTD: Tokens) -> Codes:
        """uint8 [N, T, M]. DataError when a value is not finite."""
        require_finite(tokens_NTD)
        rotated = tokens_NTD.astype(np.float64) @ self.rotation_DD.T.astype(np.float64)
        return self.pq.encode(rotated.astype(np.float32))

    def decode(self, codes_NTC: Codes) -> Tokens:
        return self.pq.decode(codes_NTC) @ self.rotation_DD

    def arrays(self) -> Mapping[str, Float32]:
        return {"rotation": self.rotation_DD, **self.pq.arrays()}
