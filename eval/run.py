"""`eval`: probe a teacher, students and their untrained selves on the same images.

What each probe said of a subject is kept as `<name>.json` beside the report, its features below `features/`, and used
again while its weights, the images and the probe are the same.
"""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stillhouse.core.config import config_digest
from stillhouse.core.errors import SpecMismatchError
from stillhouse.core.events import Reporter
from stillhouse.storage import layout
from stillhouse.storage.records import ObjectEntry
from stillhouse.storage.seal import content_digest
from stillhouse.storage.specs import Preprocessing
from stillhouse.storage.store import Store

from .config import EvalConfig
from .feature_cache import Arrays, FeatureCache
from .features import LINEAR_BLOCKS, LabelledRows, classes_of, encode_images, labelled_rows, middle_pixels
from .judged import Judge, Judgement, not_judged
from .knn import KnnProbe
from .linear import LinearProbe
from .logistic import LogisticProbe
from .probe import Features, FloatArray, Probe
from .subjects import Subject

DECIDING = frozenset({"train", "test", "knn", "linear", "logistic", "seed", "batch"})
"""What earlier versions kept all probes by."""


def probes_of(config: EvalConfig) -> list[Probe]:
    """The probes of a config, in the order of the report."""
    found: list[Probe] = []
    if config.knn is not None:
        found.append(KnnProbe(config.knn))
    if config.linear is not None:
        found.append(LinearProbe(config.linear))
    if config.logistic is not None:
        found.append(LogisticProbe(config.logistic))
    return found


class Evaluation:
    """One run of the probes over any number of subjects; images are rendered when the first one needs them."""

    def __init__(
        self, store: Store, config: EvalConfig, folder: Path, reporter: Reporter, *, only_kept: bool = False
    ) -> None:
        """With `only_kept` nobody is judged: what was not kept of an earlier run is an error."""
        self.store, self.config, self.folder, self.only_kept = store, config, folder, only_kept
        self._reporter = reporter
        self._images_sha256 = content_digest(_image_objects(store))
        self._judge = Judge(probes_of(config), folder, reporter)
        self._cache = FeatureCache(folder / "features", reporter)

    @property
    def num_judged(self) -> int:
        """Subjects that were not known."""
        return self._judge.num_judged

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The class names in the order of their numbers."""
        return classes_of(self.store)

    @cached_property
    def train(self) -> LabelledRows:
        """What the probes are fitted on."""
        return labelled_rows(self.store, self.config.train)

    @cached_property
    def test(self) -> LabelledRows:
        """What they are judged on."""
        return labelled_rows(self.store, self.config.test)

    @cached_property
    def _pixels(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        parts, threads = (self.train, self.test), self.config.threads
        with self._reporter.task("eval: images", sum(len(rows.keys) for rows in parts)) as task:
            train, test = (middle_pixels(self.store, rows, threads, task.advance) for rows in parts)
        return train, test

    def judge(self, name: str, weights: str, load: Callable[[], Subject], *, sees: Preprocessing) -> Judgement:
        """Run every probe on one subject, or read what an earlier run said.

        Args:
            weights: names the subject's weights without loading them: a hash, or how they are made.
            load: builds the subject; not called when nothing has to be done, or its features are known.
            sees: the subject's preprocessing.

        Raises:
            UsageError: with `only_kept`, a probe is not kept of these weights and images.
        """
        identity = self.identity(weights, sees)
        probes = config_digest(self.config.model_dump(mode="json", include=set(DECIDING)))
        earlier = {"weights": weights, "images_sha256": self._images_sha256, "config": probes}
        return self._judge.judge(name, identity, lambda: self.features(name, weights, load, sees=sees), earlier=earlier)

    def identity(self, weights: str, sees: Preprocessing) -> dict[str, Any]:
        """All that decides the features of a subject, as plain JSON values."""
        images = {"images_sha256": self._images_sha256, "view_size": self.store.spec.view_size}
        splits = {"train": self.config.train, "test": self.config.test}
        return {"weights": weights, "sees": sees.model_dump(mode="json"), **images, **splits}

    def features(
        self, name: str, weights: str, load: Callable[[], Subject], *, sees: Preprocessing
    ) -> tuple[Features, Features]:
        """What the probes are fitted on and judged on, of one subject: kept, or encoded. Arguments as of `judge`."""
        if self.only_kept:
            raise not_judged(self.folder / f"{name}.json")
        identity = {**self.identity(weights, sees), "blocks": LINEAR_BLOCKS}
        arrays = self._cache.get(name, identity, lambda: self._encoded(load(), sees))
        num = len(self.classes)
        train, test = (
            Features(_blocks(arrays, part), arrays[f"{part}-patch-mean"], rows.labels_N, num)
            for part, rows in (("train", self.train), ("test", self.test))
        )
        return train, test

    def forget_features(self, name: str) -> None:
        """Drop the kept features of a subject that no other probe is going to ask for."""
        self._cache.drop(name)

    def _encoded(self, subject: Subject, sees: Preprocessing) -> Arrays:
        """The features of both parts: train-cls-0, ..., train-patch-mean, test-cls-0, ..."""
        if subject.preprocessing != sees:
            message = f"{subject.name} sees pixels as {subject.preprocessing}, and was to be judged as {sees}"
            raise SpecMismatchError(message, hint="give the run and its folder the same teacher")
        pixels, found = self._pixels, dict[str, FloatArray]()
        with self._reporter.task(f"eval {subject.name}: features", sum(len(each) for each in pixels)) as task:
            for part, images, rows in zip(("train", "test"), pixels, (self.train, self.test), strict=True):
                feats = encode_images(subject, images, rows.labels_N, len(self.classes), self.config, task.advance)
                found |= {f"{part}-cls-{i}": block for i, block in enumerate(feats.blocks)}
                found[f"{part}-patch-mean"] = feats.patch_mean
        return found


def _blocks(arrays: Arrays, part: str) -> tuple[FloatArray, ...]:
    num = sum(name.startswith(f"{part}-cls-") for name in arrays)
    return tuple(arrays[f"{part}-cls-{i}"] for i in range(num))


def _image_objects(store: Store) -> list[ObjectEntry]:
    units = (layout.images_unit(block) for block in range(len(store.plan.blocks)))
    return [entry for unit in units for entry in store.require(unit, f"unit {unit}").objects]
