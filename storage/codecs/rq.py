"""`rq`: residual quantisation (Chen et al., Approximate Nearest Neighbor Search by Residual VQ, 2010).

Each codebook quantises what the ones before have left, and a token is the sum of its centroids.

Legend: M bytes a token, L = 255 centroids, D teacher dimensions, W paths that the search keeps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from stillhouse.core.errors import CorruptError, UsageError

from .base import Codes, CodeType, Tokens, require_finite
from .pq import CENTROIDS, CHUNK, RESERVED, Float32, codebook, nearest, training_tokens

PATHS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Rq:
    """x ~ the sum over m of centroid code[m] of codebook m."""

    books_MLD: Float32
    name: ClassVar[str] = "rq"

    @classmethod
    def fit(cls, tokens_NTD: Tokens, num_bytes: int | None = None) -> "Rq":
        dim = tokens_NTD.shape[-1]
        chosen = max(1, dim // 8) if num_bytes is None else num_bytes
        if chosen < 1:
            raise UsageError(f"{chosen} bytes a token", hint="one is the least")
        left, books = training_tokens(tokens_NTD).copy(), []
        for _ in range(chosen):
            book = codebook(left)
            left -= book[nearest(left, book)]
            books.append(book)
        return cls(np.stack(books))

    @classmethod
    def from_arrays(cls, dim: int, arrays: Mapping[str, Float32]) -> "Rq":
        books = arrays.get("books")
        if books is None or books.ndim != 3 or books.shape[1:] != (CENTROIDS, dim) or not np.isfinite(books).all():
            message = f"rq has no finite codebooks of {CENTROIDS} centroids of {dim} dimensions"
            raise CorruptError(message, hint="run `stillhouse verify` on the store")
        return cls(books)

    @property
    def dim(self) -> int:
        return int(self.books_MLD.shape[2])

    @property
    def code_type(self) -> CodeType:
        return CodeType("uint8", len(self.books_MLD), RESERVED)

    def encode(self, tokens_NTD: Tokens) -> Codes:
        """uint8 [N, T, M], by a search that keeps the best eight paths. DataError when a value is not finite."""
        require_finite(tokens_NTD)
        flat = tokens_NTD.reshape(-1, self.dim)
        parts = [self._search(flat[start : start + CHUNK]) for start in range(0, len(flat), CHUNK)]
        codes = np.concatenate(parts) if parts else np.empty((0, len(self.books_MLD)), np.uint8)
        return codes.reshape(*tokens_NTD.shape[:2], len(self.books_MLD))

    def _search(self, points_ND: Float32) -> Codes:
        num_points = len(points_ND)
        left_NWD = points_ND.astype(np.float64)[:, None]
        paths_NWM = np.empty((num_points, 1, 0), np.uint8)
        rows = np.arange(num_points)[:, None]
        for book_LD in self.books_MLD.astype(np.float64):
            norms_L = (book_LD**2).sum(axis=1)
            distance_NWL = (left_NWD**2).sum(axis=-1)[..., None] - 2 * left_NWD @ book_LD.T + norms_L
            flat = distance_NWL.reshape(num_points, -1)
            best = np.argsort(flat, axis=1, kind="stable")[:, :PATHS]
            path, code = best // CENTROIDS, best % CENTROIDS
            left_NWD = left_NWD[rows, path] - book_LD[code]
            paths_NWM = np.concatenate([paths_NWM[rows, path], code[..., None].astype(np.uint8)], axis=2)
        found = (left_NWD**2).sum(axis=-1).argmin(axis=1)
        codes: Codes = paths_NWM[np.arange(num_points), found]
        return codes

    def decode(self, codes_NTC: Codes) -> Tokens:
        decoded = np.zeros((*codes_NTC.shape[:2], self.dim), np.float32)
        for m, book in enumerate(self.books_MLD):
            decoded += book[codes_NTC[..., m]]
        return decoded

    def arrays(self) -> Mapping[str, Float32]:
        return {"books": self.books_MLD}
