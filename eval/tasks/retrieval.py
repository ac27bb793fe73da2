"""Instance retrieval: a database ranked by the cosine of class tokens for each query, and mean average precision.

Nothing is fitted. Revisited Oxford and Paris follow the official evaluation (Radenović et al., CVPR 2018): junk is taken
out of the ranking, average precision is by trapezoids, precision at k ends at the last positive. DINOv2 (TMLR 2024)
reports medium and hard and has released no code for it; what it leaves open is a setting here. docs/evaluations/retrieval.md

Legend: Q queries, N images of the database, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from stillhouse.core.errors import DataError

from ..knn import unit_rows
from ..probe import FloatArray
from ..ranking import average_precision, positive_places, precision_at, ranking
from ..subjects import Subject
from .base import Context, Items, Metric, TaskConfig, TaskResult
from .encode import Statistics, Transform, encode_pixels
from .files import files_sha256, read_image
from .retrieval_sets import ALL, Box, Difficulty, Query, RetrievalSet, read_instances, read_revisited
from .retrieval_sheet import sheet
from .sizes import nearest_size, resized

KS = (1, 5, 10)
SCALES = (1.0, 0.5**0.5, 0.5)
"""Of `multi_scale`: DINO's (v1) evaluation of retrieval."""


class RetrievalConfig(TaskConfig):
    """Which images are looked for among which, and how they are seen."""

    kind: Literal["retrieval"] = "retrieval"
    set: Literal["roxford5k", "rparis6k", "folder"]
    """`folder`: queries/<instance>/ and database/<instance>/."""
    difficulty: Difficulty = "medium"
    """Which mAP is the headline of Oxford and Paris; the others are kept beside it."""
    crop_queries: bool = True
    """A query is the box of the ground truth, as the protocol asks for; published numbers without cropping exist."""
    size: int | None = Field(default=None, ge=1)
    """Pixels a side to which images are squashed, whatever their shape; null: what the encoder was built for."""
    multi_scale: bool = False
    """Mean class token over the sides 1, 1/sqrt(2) and 1/2 of `size`."""
    statistics: Statistics = "subject"


@dataclass(frozen=True)
class RetrievalTask:
    """mAP of one difficulty; an item is the average precision of one query that has a positive."""

    config: RetrievalConfig
    metric: ClassVar[Metric] = Metric("mAP")

    @property
    def name(self) -> str:
        kind, which = self.config.kind, self.config.set
        return self.config.name or "-".join([kind, which] if which == "folder" else [kind, which, self._headline])

    @property
    def _headline(self) -> str:
        return ALL if self.config.set == "folder" else self.config.difficulty

    def identity(self) -> dict[str, Any]:
        root, found = Path(self.config.path), self._read()
        settings = self.config.model_dump(mode="json", exclude={"path", "name"})
        truths = sorted(root.glob("gnd_*"))
        return {"settings": settings, "files_sha256": files_sha256(root, (*truths, *found.files))}

    def score(self, items_NK: Items) -> float:
        return float(items_NK[:, 0].mean())

    def run(self, subject: Subject, context: Context) -> TaskResult:
        found = self._read()
        queries_QD, database_ND = self._features(subject, found, context)
        ranked_QN = ranking(database_ND, queries_QD)
        places = {difficulty: self._places(found, ranked_QN, difficulty) for difficulty in found.queries[0].judged}
        precisions = {
            difficulty: [None if p is None else average_precision(*p) for p in each]
            for difficulty, each in places.items()
        }
        at_k = {
            difficulty: np.mean([precision_at(p[0], KS) for p in each if p is not None], axis=0).tolist()
            for difficulty, each in places.items()
            if any(p is not None for p in each)
        }
        kept = {difficulty: [ap for ap in each if ap is not None] for difficulty, each in precisions.items()}
        details = {
            "mAP": {difficulty: float(np.mean(each)) for difficulty, each in kept.items() if each},
            **{f"mP@{k}": {difficulty: means[i] for difficulty, means in at_k.items()} for i, k in enumerate(KS)},
            "queries": len(found.queries),
            "queries_without_positives": {name: each.count(None) for name, each in precisions.items()},
            "database": len(found.database),
            "average_precision": precisions,
        }
        if not kept[self._headline]:
            message = f"no query of {self.config.path} has a positive of difficulty {self._headline!r}"
            raise DataError(message, hint="name another `difficulty`")
        items = np.array(kept[self._headline], np.float64)[:, None]
        shown = sheet(found, self._headline, ranked_QN, queries_QD, database_ND, self._query_image)
        return TaskResult(items_NK=items, details=details, examples=shown)

    def _read(self) -> RetrievalSet:
        root = Path(self.config.path)
        return read_instances(root) if self.config.set == "folder" else read_revisited(root, self.config.set)

    def _query_image(self, query: Query) -> Image.Image:
        return _image(query.path, query.box if self.config.crop_queries else None)

    def _features(self, subject: Subject, found: RetrievalSet, context: Context) -> tuple[FloatArray, FloatArray]:
        """Unit rows [Q, D] and [N, D]."""
        size = self.config.size or subject.preprocessing.size
        scales = SCALES if self.config.multi_scale else (1.0,)
        sizes = [nearest_size(subject.encoder, size * scale) if scale < 1 else size for scale in scales]
        images = [partial(self._query_image, query) for query in found.queries]
        images += [partial(_image, path, None) for path in found.database]
        sums_ND = sum(self._cls(resized(subject, side, context), images, side, context) for side in sizes)
        rows_ND = unit_rows(np.asarray(sums_ND))
        return rows_ND[: len(found.queries)], rows_ND[len(found.queries) :]

    def _cls(
        self, subject: Subject, images: Sequence[Callable[[], Image.Image]], side: int, context: Context
    ) -> FloatArray:
        mean_std = Transform(side, side, self.config.statistics).mean_std(subject)
        return encode_pixels(subject, [partial(_squashed, image, side) for image in images], mean_std, context).cls

    def _places(
        self, found: RetrievalSet, ranked_QN: NDArray[np.int64], difficulty: str
    ) -> list[tuple[NDArray[np.int64], int] | None]:
        """Of each query: where its positives stand, and how many there are; None without one."""
        judged = [query.judged[difficulty] for query in found.queries]
        return [
            (positive_places(ranked_N, positives, junk), len(positives)) if len(positives) else None
            for ranked_N, (positives, junk) in zip(ranked_QN, judged, strict=True)
        ]


def _image(path: Path, box: Box | None) -> Image.Image:
    image = read_image(path)
    if box is None:
        return image
    left, top, right, bottom = map(round, box)
    return image.crop((left, top, right, bottom))


def _squashed(image: Callable[[], Image.Image], side: int) -> NDArray[np.uint8]:
    """uint8 [side, side, 3]: all of an image, its shape given up so that nothing of it is cut away."""
    return np.asarray(image().resize((side, side), Image.Resampling.BICUBIC))
