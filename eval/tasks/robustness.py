"""ImageNet-A, -R, -Sketch and -C: a classifier fitted on ImageNet-1k, judged on images that it was not made for.

The sets are folders of WordNet-id folders; ImageNet-C has one such folder a corruption and severity. Predictions are
restricted to the classes that a set shows, as its authors do: 200 of ImageNet-A and -R.

Legend: N images, C classes, S conditions (corruption x severity).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from stillhouse.core.errors import MissingError

from ..knn import KnnConfig, KnnProbe
from ..linear import LinearConfig, LinearProbe
from ..probe import Classifier, IntArray, check_part
from ..subjects import Subject
from .base import Context, Items, Metric, TaskConfig, TaskResult
from .classification import ProbeConfig
from .encode import Statistics
from .features import answers, blocks_of, encode_parts, labelled, published_transform
from .files import files_sha256, require
from .sets.base import Part, class_folders, unpacked
from .sets.folders import tree_part
from .sizes import resized

RobustSet = Literal["imagenet_a", "imagenet_r", "imagenet_sketch", "imagenet_c"]

FOLDERS: Mapping[RobustSet, str] = {
    "imagenet_a": "imagenet-a",
    "imagenet_r": "imagenet-r",
    "imagenet_sketch": "sketch",
    "imagenet_c": "imagenet-c",
}
"""What their archives unpack to (ImageNet-C's to the corruptions' folders; people put them into one of this name)."""

CLASSES = {"imagenet_a": 200, "imagenet_r": 200, "imagenet_sketch": 1000, "imagenet_c": 1000}
"""Class folders of each set, to tell one that is unpacked in part."""

ALEXNET: Mapping[str, float] = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""AlexNet's error by corruption, mean over the five severities: what mCE divides by (Hendrycks and Dietterich, ICLR 2019;
the numbers as in AugMix's published `imagenet.py`, which took them from the authors' repository)."""

SEVERITIES = (1, 2, 3, 4, 5)


class RobustnessConfig(TaskConfig):
    """Settings of a robustness task; `path` is the folder of the set."""

    kind: Literal["robustness"] = "robustness"
    set: RobustSet
    train: str
    """Folder of ImageNet-1k's training images, one folder a WordNet id."""
    probe: ProbeConfig = KnnConfig()
    """`{name: knn}` or `{name: linear}`, with their settings."""
    size: int | None = Field(224, ge=1)
    """Pixels a side, as published; null: what the encoder is built for."""
    statistics: Statistics = "imagenet"
    """Pixel statistics, as published; `subject`: the encoder's own."""
    corruptions: tuple[str, ...] = Field(tuple(ALEXNET), min_length=1)
    """Of ImageNet-C. With all fifteen and all five severities the score is mCE, else the plain mean error."""
    severities: tuple[int, ...] = Field(SEVERITIES, min_length=1)
    """Of ImageNet-C."""

    @model_validator(mode="after")
    def _head_is_chosen_on_train(self) -> "RobustnessConfig":
        if isinstance(self.probe, LinearConfig) and self.probe.selection == "test":
            raise ValueError("probe.selection: the head is chosen on training images held out; set holdout")
        return self


@dataclass(frozen=True)
class RobustnessTask:
    """Accuracy on A, R and Sketch; on C the error, as mCE."""

    config: RobustnessConfig

    @property
    def name(self) -> str:
        return self.config.name or f"{self.config.set.replace('_', '-')}-{self.config.probe.name}"

    @property
    def metric(self) -> Metric:
        if self.config.set != "imagenet_c":
            return Metric("accuracy")
        return Metric("mCE" if self._is_mce else "mean error", higher_is_better=False)

    def identity(self) -> dict[str, Any]:
        settings = self.config.model_dump(mode="json", exclude={"path", "name", "train"})
        train = [path for paths in class_folders(Path(self.config.train), "ImageNet-1k").values() for path in paths]
        digests = [files_sha256(Path(self.config.train), train)]
        for folder in self._conditions().values():
            paths = [path for found in class_folders(folder, self.config.set).values() for path in found]
            digests.append(files_sha256(folder, paths))
        return {**settings, "data_sha256": digests}

    def score(self, items_NK: Items) -> float:
        """From (prediction, label) a row; of ImageNet-C from [N, S], 1 where an image was got wrong in a condition."""
        if self.config.set != "imagenet_c":
            return float(np.mean(items_NK[:, 0] == items_NK[:, 1]))
        errors = self._by_corruption(items_NK)
        if self._is_mce:
            return float(np.mean([error / ALEXNET[corruption] for corruption, error in errors.items()]))
        return float(np.mean(list(errors.values())))

    def run(self, subject: Subject, context: Context) -> TaskResult:
        conditions = self._conditions()
        classes = tuple(class_folders(Path(self.config.train), "ImageNet-1k"))
        parts = {name: self._part(folder, classes) for name, folder in conditions.items()}
        judge = _Judge(self.config, subject, context, classes)
        if self.config.set == "imagenet_c":
            _require_same_images(conditions, parts)
            wrong = [judge.predict(part) != part.labels for part in parts.values()]
            items_NS = np.stack(wrong, axis=1).astype(np.float64)
            errors = self._by_corruption(items_NS)
            details = {
                "error_by_corruption": errors,
                "error_by_condition": dict(zip(parts, items_NS.mean(axis=0).tolist(), strict=True)),
                "mean_error": float(np.mean(list(errors.values()))),
                "score": "error over AlexNet's, mean over corruptions" if self._is_mce else "plain mean error, not mCE",
            }
            return TaskResult(items_NK=items_NS, chosen=dict(judge.classifier.chosen), details=details)
        (part,) = parts.values()
        predictions_N = judge.predict(part)
        return TaskResult(
            items_NK=np.stack([predictions_N, part.labels], axis=1).astype(np.float64),
            chosen=dict(judge.classifier.chosen),
            details={"classes": len(np.unique(part.labels)), "images": len(part)},
            examples=answers(part, predictions_N, classes, judge.transform),
        )

    @property
    def _is_mce(self) -> bool:
        return sorted(self.config.corruptions) == sorted(ALEXNET) and sorted(self.config.severities) == [*SEVERITIES]

    def _by_corruption(self, items_NS: Items) -> dict[str, float]:
        """Mean over images and severities."""
        severities = len(self.config.severities)
        means = items_NS.mean(axis=0).reshape(-1, severities).mean(axis=1).tolist()
        return dict(zip(self.config.corruptions, means, strict=True))

    def _conditions(self) -> dict[str, Path]:
        """Folders of class folders: one, or of ImageNet-C one a condition."""
        top = unpacked(Path(self.config.path), FOLDERS[self.config.set])
        if self.config.set != "imagenet_c":
            return {self.config.set: require(top, what=self.config.set)}
        pairs = [(corruption, str(level)) for corruption in self.config.corruptions for level in self.config.severities]
        return {"/".join(pair): require(top, *pair, what="ImageNet-C") for pair in pairs}

    def _part(self, folder: Path, classes: tuple[str, ...]) -> Part:
        part = tree_part(folder, classes)
        found, whole = len(np.unique(part.labels)), CLASSES[self.config.set]
        if found != whole:
            raise MissingError(f"{folder} has {found} of {whole} class folders", hint="unpack the whole archive again")
        return part


class _Judge:
    """A classifier that is fitted when the first prediction is asked for."""

    def __init__(self, config: RobustnessConfig, subject: Subject, context: Context, classes: tuple[str, ...]) -> None:
        self._config, self._context, self._classes = config, context, classes
        self._subject = resized(subject, config.size or subject.preprocessing.size, context)
        # The images of ImageNet-C are 224 x 224 middles already (Hendrycks' test.py takes them as they are).
        self.transform = published_transform(subject, config.size, config.statistics, margin=config.set != "imagenet_c")

    @cached_property
    def classifier(self) -> Classifier:
        """The probe, fitted on ImageNet-1k's training images under the transform of its own protocol."""
        part = tree_part(Path(self._config.train), self._classes)
        transform = published_transform(self._subject, self._config.size, self._config.statistics, margin=True)
        (encoded,) = encode_parts(self._subject, [part], transform, self._context, num_blocks=self._blocks)
        train = labelled(encoded, part.labels, len(self._classes))
        if isinstance(self._config.probe, KnnConfig):
            return KnnProbe(self._config.probe).fit(train)
        return LinearProbe(self._config.probe).fit(train)

    def predict(self, part: Part) -> IntArray:
        """The likeliest of the classes that the part shows, int64 [N]."""
        classifier = self.classifier
        (encoded,) = encode_parts(self._subject, [part], self.transform, self._context, num_blocks=self._blocks)
        feats = labelled(encoded, part.labels, len(self._classes))
        check_part("test", feats)
        return restricted(classifier.scores(feats), np.unique(part.labels))

    @property
    def _blocks(self) -> int:
        return blocks_of(self._config.probe)


def restricted(scores_NC: NDArray[np.floating], allowed: IntArray) -> IntArray:
    """The allowed class of the highest score, int64 [N]; of equal scores the lowest."""
    predictions_N: IntArray = allowed[scores_NC[:, allowed].argmax(axis=1)]
    return predictions_N


def _require_same_images(conditions: Mapping[str, Path], parts: Mapping[str, Part]) -> None:
    """An item of ImageNet-C is one image in all conditions."""
    names = {
        name: [path.relative_to(conditions[name]) for path in part.pictures if isinstance(path, Path)]
        for name, part in parts.items()
    }
    first = next(iter(names))
    for name, found in names.items():
        if found != names[first]:
            raise MissingError(
                f"{conditions[name]} has other images ({len(found):,}) than {conditions[first]} ({len(names[first]):,})",
                hint="unpack the whole archive again",
            )
