"""`pq`: product quantisation (Jégou et al., Product Quantization for Nearest Neighbor Search, 2011), trained by faiss.

A token is cut into M parts of equal size; each is stored as the number of the nearest of 255 centroids. The 256th is
reserved, so that no code is the fill value.

Legend: M bytes a token, P = D / M dimensions of a part, L = 255 centroids.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from stillhouse.core.errors import CorruptError, UsageError, missing_package

from .base import Codes, CodeType, Tokens, require_finite

CENTROIDS = 255
RESERVED = 255
SEED = 1234
ITERATIONS = 20
MAX_TRAINING = 256 * 256
"""Tokens that codebooks are trained on, at most."""
CHUNK = 8192
FAR = 1e38
"""A centroid that nothing is near."""

Float32 = npt.NDArray[np.float32]


def faiss() -> Any:
    try:
        return importlib.import_module("faiss")
    except ImportError:
        raise missing_package("faiss") from None


def training_tokens(tokens_NTD: Tokens) -> Float32:
    flat = np.ascontiguousarray(tokens_NTD.reshape(-1, tokens_NTD.shape[-1]), np.float32)
    step = -(-len(flat) // MAX_TRAINING)
    return flat[::step]


def codebook(part_NP: Float32) -> Float32:
    """float32 [L, P]: centroids by k-means; fewer points than centroids are centroids themselves."""
    points = np.ascontiguousarray(part_NP, np.float32)
    if len(points) <= CENTROIDS:
        own = np.unique(points, axis=0)
        book = np.full((CENTROIDS, points.shape[1]), FAR, np.float32)  # twins would tie, and rounding choose
        book[: len(own)] = own
        return book
    options = {"niter": ITERATIONS, "seed": SEED, "min_points_per_centroid": 1, "max_points_per_centroid": MAX_TRAINING}
    clustering = faiss().Kmeans(points.shape[1], CENTROIDS, **options)
    clustering.train(points)
    found: Float32 = np.asarray(clustering.centroids, np.float32).reshape(CENTROIDS, -1)
    return found


def nearest(points_NP: Float32, centroids_LP: Float32) -> npt.NDArray[np.uint8]:
    """The number of the nearest centroid of each point."""
    half_norms = (centroids_LP.astype(np.float64) ** 2).sum(axis=1) / 2
    found = np.empty(len(points_NP), np.uint8)
    for start in range(0, len(points_NP), CHUNK):
        part = points_NP[start : start + CHUNK].astype(np.float64)
        found[start : start + CHUNK] = (half_norms - part @ centroids_LP.T.astype(np.float64)).argmin(axis=1)
    return found


def check_bytes(num_bytes: int | None, dim: int) -> int:
    chosen = max(1, dim // 8) if num_bytes is None else num_bytes
    if chosen < 1 or dim % chosen:
        fitting = ", ".join(str(m) for m in range(1, dim + 1) if dim % m == 0)
        raise UsageError(f"{chosen} bytes a token do not divide {dim} dimensions", hint=f"these do: {fitting}")
    return chosen


@dataclass(frozen=True, slots=True, eq=False)
class Pq:
    """Part m of a token is centroid code[m] of codebook m."""

    books_MLP: Float32
    name: ClassVar[str] = "pq"

    @classmethod
    def fit(cls, tokens_NTD: Tokens, num_bytes: int | None = None) -> Self:
        num_parts = check_bytes(num_bytes, tokens_NTD.shape[-1])
        parts = np.split(training_tokens(tokens_NTD), num_parts, axis=1)
        return cls(np.stack([codebook(part) for part in parts]))

    @classmethod
    def from_arrays(cls, dim: int, arrays: Mapping[str, Float32]) -> Self:
        books = arrays.get("books")
        whole = books is not None and books.ndim == 3 and books.shape[1] == CENTROIDS
        if books is None or not whole or books.shape[0] * books.shape[2] != dim or not np.isfinite(books).all():
            message = f"pq has no finite codebooks of {CENTROIDS} centroids for {dim} dimensions"
            raise CorruptError(message, hint="run `stillhouse verify` on the store")
        return cls(books)

    @property
    def dim(self) -> int:
        return int(self.books_MLP.shape[0] * self.books_MLP.shape[2])

    @property
    def code_type(self) -> CodeType:
        return CodeType("uint8", len(self.books_MLP), RESERVED)

    def encode(self, tokens_NTD: Tokens) -> Codes:
        """uint8 [N, T, M]. DataError when a value is not finite."""
        require_finite(tokens_NTD)
        parts = np.split(tokens_NTD.reshape(-1, self.dim), len(self.books_MLP), axis=1)
        codes = np.stack([nearest(part, book) for part, book in zip(parts, self.books_MLP, strict=True)], axis=1)
        return codes.reshape(*tokens_NTD.shape[:2], len(self.books_MLP))

    def decode(self, codes_NTC: Codes) -> Tokens:
        parts = [book[codes_NTC[..., m]] for m, book in enumerate(self.books_MLP)]
        return np.concatenate(parts, axis=-1)

    def arrays(self) -> Mapping[str, Float32]:
        return {"books": self.books_MLP}
