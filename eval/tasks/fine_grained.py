"""Logistic regression on the class token, on a set of images in its official layout (spec/methods.md §3.3 and §3.4).

The twelve sets of the fine-grained protocol, by either published form; on `folders` it is DINOv2's logistic regression on
ImageNet-1k.

Legend: N test images, C classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ..average_precision import mean_eleven_point
from ..logistic import LogisticConfig, LogisticProbe
from ..logistic_multilabel import fit_multilabel
from ..metrics import METRICS
from ..probe import IntArray
from ..subjects import Subject
from .base import Context, Items, Metric, TaskConfig, TaskResult
from .encode import Statistics
from .features import answers, encode_parts, labelled, published_transform
from .sets import SETS, SetMetric, SetName
from .sets.base import ImageSet
from .sets.holdout import dinov2_holdout, proteus_holdout


@dataclass(frozen=True, slots=True)
class Preset:
    """What differs between the published forms beside `logistic.PRESETS`: grid, standardisation and ties."""

    statistics: Statistics
    """Proteus feeds every model pixels normalised by CLIP's statistics."""
    holdout: Callable[[int], IntArray]
    """Rows held out where a set has no official validation part."""


PRESETS: Mapping[str, Preset] = {
    "dinov2": Preset(statistics="imagenet", holdout=dinov2_holdout),
    "proteus": Preset(statistics="clip", holdout=proteus_holdout),
}

METRIC_NAMES: Mapping[SetMetric, str] = {
    "top1": "accuracy",
    "mean_per_class": "mean per class",
    "map11": "11-point mAP",
}


class FineGrainedConfig(TaskConfig):
    """Settings of a fine-grained task."""

    kind: Literal["fine_grained"] = "fine_grained"
    set: SetName
    """Which set `path` is; `folders` is any tree `train/<class>/`, `val/<class>/`."""
    preset: Literal["dinov2", "proteus"] = "dinov2"
    """Which published form; docs/evaluations/classification.md has both in numbers."""
    size: int | None = Field(224, ge=1)
    """Pixels a side, as published; null: what the encoder is built for."""
    statistics: Statistics | None = None
    """Pixel statistics; null: the preset's. `subject`: the encoder's own."""
    num_c: int = Field(45, ge=2)
    """Values of C over the preset's range."""
    max_iter: int = Field(1000, ge=1)
    """Bound on the Hessian products of one fit."""


@dataclass(frozen=True)
class FineGrainedTask:
    """C is chosen on the official validation part or on training images held out; the final fit has both."""

    config: FineGrainedConfig

    @property
    def name(self) -> str:
        return self.config.name or f"{self.config.set}-logistic-{self.config.preset}"

    @property
    def metric(self) -> Metric:
        return Metric(METRIC_NAMES[SETS[self.config.set].metric])

    def identity(self) -> dict[str, Any]:
        settings = self.config.model_dump(mode="json", exclude={"path", "name"})
        return {**settings, "data_sha256": self._data().sha256()}

    def score(self, items_NK: Items) -> float:
        """From (prediction, label) a row; of VOC2007 from [N, 40]: the logits of 20 classes, then their targets."""
        metric = SETS[self.config.set].metric
        if metric == "map11":
            scores_NC, targets_NC = np.split(items_NK, 2, axis=1)
            return mean_eleven_point(scores_NC, targets_NC.astype(np.int64), origin=True)
        return METRICS[metric](items_NK[:, 0].astype(np.int64), items_NK[:, 1].astype(np.int64))

    def run(self, subject: Subject, context: Context) -> TaskResult:
        data = self._data()
        config, preset = self.config, PRESETS[self.config.preset]
        transform = published_transform(subject, config.size, config.statistics or preset.statistics, margin=False)
        train, test = encode_parts(subject, (data.trainval, data.test), transform, context)
        held = self._held(data)
        if SETS[config.set].metric == "map11":
            scores_NC, chosen, details = fit_multilabel(
                train.cls, data.trainval.labels, held, test.cls, self._logistic()
            )
            items_NK = np.concatenate([scores_NC, data.test.labels], axis=1).astype(np.float64)
            devkit = mean_eleven_point(scores_NC, data.test.labels, origin=False)
            return TaskResult(items_NK=items_NK, chosen=chosen, details={**details, "map11_without_origin": devkit})
        num_classes = len(data.classes)
        result = LogisticProbe(self._logistic()).run(
            labelled(train, data.trainval.labels, num_classes), labelled(test, data.test.labels, num_classes), held=held
        )
        return TaskResult(
            items_NK=np.stack([result.predictions, data.test.labels], axis=1).astype(np.float64),
            chosen=result.chosen,
            details={**result.scores, **result.details},
            examples=answers(data.test, result.predictions, data.classes, transform),
        )

    def _data(self) -> ImageSet:
        return SETS[self.config.set].read(Path(self.config.path))

    def _held(self, data: ImageSet) -> IntArray:
        """Rows of train + val on which C is chosen."""
        if data.val is None:
            return PRESETS[self.config.preset].holdout(len(data.train))
        return np.arange(len(data.train), len(data.trainval))

    def _logistic(self) -> LogisticConfig:
        metric = SETS[self.config.set].metric
        return LogisticConfig(
            preset=self.config.preset,
            select_by="top1" if metric == "map11" else metric,
            num_c=self.config.num_c,
            max_iter=self.config.max_iter,
        )
