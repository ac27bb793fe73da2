"""kNN or the linear probe on a set of images in its official layout, or on a tree such as ImageNet-1k's.

Both presets have the same transform (spec/methods.md §3.1 and §3.2): shorter side 256, middle 224, ImageNet's statistics.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from ..knn import KnnConfig, KnnProbe
from ..linear import LinearConfig, LinearProbe
from ..metrics import METRICS
from ..probe import Features, ProbeResult
from ..subjects import Subject
from .base import Context, Items, Metric, TaskConfig, TaskResult
from .encode import Statistics
from .features import answers, blocks_of, encode_parts, labelled, published_transform
from .fine_grained import METRIC_NAMES
from .sets import SETS, SetName
from .sets.base import ImageSet

ProbeConfig = Annotated[KnnConfig | LinearConfig, Field(discriminator="name")]


class ClassificationConfig(TaskConfig):
    """Settings of a classification task."""

    kind: Literal["classification"] = "classification"
    set: SetName = "folders"
    """Which set `path` is; `folders` is any tree `train/<class>/`, `val/<class>/`."""
    probe: ProbeConfig = KnnConfig()
    """`{name: knn}` or `{name: linear}`, with their settings."""
    size: int | None = Field(224, ge=1)
    """Pixels a side, as published; null: what the encoder is built for."""
    statistics: Statistics = "imagenet"
    """Pixel statistics, as published; `subject`: the encoder's own."""

    @field_validator("set")
    @classmethod
    def _one_class_an_image(cls, name: SetName) -> SetName:
        if SETS[name].metric == "map11":
            raise ValueError(f"an image of {name} shows several classes; use kind: fine_grained")
        return name


@dataclass(frozen=True)
class ClassificationTask:
    """A probe fitted on train and val, judged on test by the metric that the set reports."""

    config: ClassificationConfig

    @property
    def name(self) -> str:
        return self.config.name or f"{self.config.set}-{self.config.probe.name}"

    @property
    def metric(self) -> Metric:
        return Metric(METRIC_NAMES[SETS[self.config.set].metric])

    def identity(self) -> dict[str, Any]:
        settings = self.config.model_dump(mode="json", exclude={"path", "name"})
        return {**settings, "data_sha256": self._data().sha256()}

    def score(self, items_NK: Items) -> float:
        """From (prediction, label) a row."""
        metric = SETS[self.config.set].metric
        assert metric != "map11"  # the config refuses it
        return METRICS[metric](items_NK[:, 0].astype(np.int64), items_NK[:, 1].astype(np.int64))

    def run(self, subject: Subject, context: Context) -> TaskResult:
        data = self._data()
        transform = published_transform(subject, self.config.size, self.config.statistics, margin=True)
        parts = (data.trainval, data.test)
        encoded = encode_parts(subject, parts, transform, context, num_blocks=blocks_of(self.config.probe))
        train, test = (
            labelled(each, part.labels, len(data.classes)) for each, part in zip(encoded, parts, strict=True)
        )
        result = self._probe(train, test, data)
        return TaskResult(
            items_NK=np.stack([result.predictions, test.labels], axis=1).astype(np.float64),
            chosen=result.chosen,
            details={**result.scores, **result.details},
            examples=answers(data.test, result.predictions, data.classes, transform),
        )

    def _probe(self, train: Features, test: Features, data: ImageSet) -> ProbeResult:
        if isinstance(self.config.probe, KnnConfig):
            return KnnProbe(self.config.probe).run(train, test)
        held = None if data.val is None else np.arange(len(data.train), len(data.trainval))
        return LinearProbe(self.config.probe).run(train, test, held=held)

    def _data(self) -> ImageSet:
        return SETS[self.config.set].read(Path(self.config.path))
