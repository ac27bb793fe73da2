"""Weighted k-nearest-neighbour classification of frozen class tokens, the DINOv2 protocol (spec/methods.md §3.1).

Shape letters: N train images, Q test images, K neighbours, D width, C classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from stillhouse.core.config import Config
from stillhouse.core.errors import missing_package

from .metrics import all_scores, top_k
from .neighbours import shown_neighbours
from .probe import Features, FloatArray, IntArray, ProbeResult, Steps, check_features, untold

SEARCH_ROWS = 1024  # queries a search; faiss blocks its matrix product by itself
RESCORE_ROWS = 32  # queries a rescoring: 32 x 232 x 1280 float64 candidates are 76 MB
SLACK = 32  # candidates beyond K, so that float32 rounding at the border rarely asks for a wider search


class KnnConfig(Config):
    """Settings of the kNN probe; the defaults are the published ones."""

    name: Literal["knn"] = "knn"
    ks: tuple[Annotated[int, Field(ge=1)], ...] = Field((10, 20, 100, 200), min_length=1)
    """Numbers of neighbours to score; each is capped to the number of training images."""
    report_k: int = 20
    """The k of the headline scores, one of `ks`: fixed beforehand, because choosing it on the test images flatters."""
    temperature: float = Field(0.07, gt=0)
    """Votes weigh exp(similarity / temperature)."""

    @model_validator(mode="after")
    def _report_one_of_ks(self) -> Self:
        if self.report_k not in self.ks:
            raise ValueError(f"report_k must be one of ks {list(self.ks)}; got {self.report_k}")
        return self


@dataclass(frozen=True)
class KnnProbe:
    """Cosine neighbours of the last class token vote with softmax(similarity / T), taken once over the largest k."""

    config: KnnConfig = field(default_factory=KnnConfig)
    name: ClassVar[str] = "knn"

    def run(self, train: Features, test: Features, steps: Steps = untold) -> ProbeResult:
        check_features(train, test)
        capped = {k: min(k, len(train)) for k in self.config.ks}
        with steps(self.name, len(test), "img") as task:
            bank_ND, query_QD = unit_rows(train.cls), unit_rows(test.cls)
            neighbours_QK, sims_QK = nearest(bank_ND, query_QD, max(capped.values()), task.advance)
        weights_QK = _softmax(sims_QK / self.config.temperature)
        voters_QK = train.labels[neighbours_QK]
        headline = capped[self.config.report_k]
        details: dict[str, Any] = {"neighbours": asdict(shown_neighbours(test.labels, neighbours_QK, sims_QK))}
        predictions_Q = np.zeros(len(test), dtype=np.int64)
        for k in sorted(set(capped.values())):
            votes_QC = _votes(voters_QK[:, :k], weights_QK[:, :k], train.num_classes)
            predicted_Q = votes_QC.argmax(axis=1).astype(np.int64)  # equal votes: the lowest class
            details |= {f"{metric}_k{k}": score for metric, score in all_scores(predicted_Q, test.labels).items()}
            if train.num_classes > 5:
                details[f"top5_k{k}"] = top_k(votes_QC, test.labels, 5)
            if k == headline:
                predictions_Q = predicted_Q
        return ProbeResult(
            name=self.name,
            scores=all_scores(predictions_Q, test.labels),
            predictions=predictions_Q,
            chosen={"k": headline, "temperature": self.config.temperature, "selection": "fixed beforehand"},
            details=details,
        )

    def fit(self, train: Features) -> "KnnClassifier":
        """The training images as voters, `report_k` of them for each image."""
        check_features(train, train)
        k = min(self.config.report_k, len(train))
        return KnnClassifier(
            unit_rows(train.cls), train.labels, train.num_classes, k, self.config.temperature, {"k": k}
        )


@dataclass(frozen=True, eq=False)
class KnnClassifier:
    """Training images with their classes; the k nearest vote with exp(similarity / temperature)."""

    train_ND: FloatArray
    labels_N: IntArray
    num_classes: int
    k: int
    temperature: float
    chosen: Mapping[str, Any]

    def scores(self, feats: Features) -> NDArray[np.float64]:
        """Votes of each class, float64 [N, C]; they sum to 1."""
        neighbours_QK, sims_QK = nearest(self.train_ND, unit_rows(feats.cls), self.k)
        return _votes(self.labels_N[neighbours_QK], _softmax(sims_QK / self.temperature), self.num_classes)


def unit_rows(feats_ND: FloatArray) -> FloatArray:
    """float32 [N, D] with rows of length 1, contiguous; a zero row stays zero."""
    norms_N1 = np.linalg.norm(feats_ND.astype(np.float64), axis=1, keepdims=True)
    return np.ascontiguousarray(feats_ND / np.maximum(norms_N1, 1e-12), dtype=np.float32)


def nearest(
    train_ND: FloatArray, query_QD: FloatArray, k: int, advance: Callable[[int], None] = lambda num: None
) -> tuple[IntArray, NDArray[np.float64]]:
    """The k most similar train rows of each query: (rows int64 [Q, k], dot products float64 [Q, k]), best first.

    Rows must have length at most 1. faiss proposes candidates from float32 products; float64 products rank them, equal
    ones by train row, and the search widens until no row left out can belong. So the answer depends on neither faiss's
    handling of ties nor its batching, threads or instruction set: copies of an image always rank by row.

    Raises:
        ResourceError: faiss is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise missing_package("faiss") from error
    index = faiss.IndexFlatIP(train_ND.shape[1])
    index.add(train_ND)
    rows_QK = np.empty((len(query_QD), k), dtype=np.int64)
    sims_QK = np.empty((len(query_QD), k), dtype=np.float64)
    open_Q = np.arange(len(query_QD))
    num_candidates = min(k + SLACK, len(train_ND))
    while len(open_Q):
        unsure = []
        for start in range(0, len(open_Q), SEARCH_ROWS):
            part = open_Q[start : start + SEARCH_ROWS]
            coarse_QM, candidates_QM = index.search(query_QD[part], num_candidates)
            rows_QK[part], sims_QK[part] = _rank(train_ND, query_QD[part], candidates_QM, k)
            # A row left out has at most the last candidate's product, up to float32 rounding of a sum of D products.
            rounding = train_ND.shape[1] * 2.0**-24
            whole = num_candidates == len(train_ND)
            unsure.append(part[:0] if whole else part[sims_QK[part, -1] <= coarse_QM[:, -1] + rounding])
            advance(len(part) - len(unsure[-1]))
        open_Q = np.concatenate(unsure)
        num_candidates = min(4 * num_candidates, len(train_ND))
    return rows_QK, sims_QK


def _rank(
    train_ND: FloatArray, query_QD: FloatArray, candidates_QM: IntArray, k: int
) -> tuple[IntArray, NDArray[np.float64]]:
    """The k best candidates of each query by float64 dot product, equal products by train row."""
    rows_QK = np.empty((len(query_QD), k), dtype=np.int64)
    sims_QK = np.empty((len(query_QD), k), dtype=np.float64)
    for start in range(0, len(query_QD), RESCORE_ROWS):
        part = slice(start, start + RESCORE_ROWS)
        # einsum without BLAS: equal rows give equal sums wherever they stand in the batch.
        rivals_QMD = train_ND[candidates_QM[part]].astype(np.float64)
        products_QM = np.einsum("qd,qmd->qm", query_QD[part].astype(np.float64), rivals_QMD)
        order_QK = np.lexsort((candidates_QM[part], -products_QM), axis=1)[:, :k]
        rows_QK[part] = np.take_along_axis(candidates_QM[part], order_QK, axis=1)
        sims_QK[part] = np.take_along_axis(products_QM, order_QK, axis=1)
    return rows_QK, sims_QK


def _softmax(logits_QK: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted_QK = np.exp(logits_QK - logits_QK.max(axis=1, keepdims=True))
    weights_QK: NDArray[np.float64] = shifted_QK / shifted_QK.sum(axis=1, keepdims=True)
    return weights_QK


def _votes(voters_QK: IntArray, weights_QK: NDArray[np.float64], num_classes: int) -> NDArray[np.float64]:
    """Sum of the weights per class, float64 [Q, C]."""
    cells_QK = np.arange(len(voters_QK))[:, None] * num_classes + voters_QK
    votes = np.bincount(cells_QK.ravel(), weights=weights_QK.ravel(), minlength=len(voters_QK) * num_classes)
    return votes.astype(np.float64).reshape(len(voters_QK), num_classes)
