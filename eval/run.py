"""`eval`: probe a teacher, students and their untrained selves on the same images.

What is known about a subject is kept as `<name>.json` beside the report and used again while its weights, the images
and the probes are the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stillhouse.core.config import config_digest
from stillhouse.core.errors import CorruptError
from stillhouse.core.events import Reporter
from stillhouse.storage import layout
from stillhouse.storage.disk import replace_file
from stillhouse.storage.records import ObjectEntry
from stillhouse.storage.seal import content_digest
from stillhouse.storage.signed_json import read_signed_json, signed_json
from stillhouse.storage.store import Store

from .config import EvalConfig
from .features import LabelledRows, classes_of, encode_images, labelled_rows, middle_pixels
from .knn import KnnProbe
from .linear import LinearProbe
from .logistic import LogisticProbe
from .probe import Features, Probe
from .subjects import Subject


@dataclass(frozen=True, slots=True)
class Judgement:
    """All that the probes say of one subject. `predictions` are class numbers of the test images per probe."""

    name: str
    scores: Mapping[str, Mapping[str, float]]
    chosen: Mapping[str, Mapping[str, Any]]
    predictions: Mapping[str, npt.NDArray[np.int64]]


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

    def __init__(self, store: Store, config: EvalConfig, folder: Path, reporter: Reporter) -> None:
        self.store, self.config = store, config
        self._folder, self._reporter = folder, reporter
        self._images_sha256 = content_digest(_image_objects(store))
        self.num_judged = 0

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
        train, test = (middle_pixels(self.store, rows, self.config.threads) for rows in (self.train, self.test))
        return train, test

    def judge(self, name: str, weights: str, load: Callable[[], Subject]) -> Judgement:
        """Run every probe on one subject, or read what an earlier run said.

        Args:
            weights: names the subject's weights without loading them: a hash, or how they are made.
            load: builds the subject; not called when nothing has to be done.
        """
        means = {"store", "device", "threads", "pictures", "bootstrap", "metric"}
        probes = config_digest(self.config.model_dump(mode="json", exclude=means))
        identity = {"weights": weights, "images_sha256": self._images_sha256, "config": probes}
        path = self._folder / f"{name}.json"
        try:
            stored = read_signed_json(path, "")
        except CorruptError as error:
            stored = None
            self._reporter.say(f"eval {name}: {error.message}; it is judged again")
        if stored is not None and stored["identity"] == identity:
            return _judgement(name, stored["probes"])
        found = self._run(load())
        replace_file(path, signed_json({"identity": identity, "probes": found}))
        self.num_judged += 1
        return _judgement(name, found)

    def _run(self, subject: Subject) -> dict[str, Any]:
        pixels, rows = self._pixels, (self.train, self.test)
        num_images, num_classes = sum(len(each) for each in pixels), len(self.classes)
        with self._reporter.task(f"eval {subject.name}: features", num_images) as task:
            train, test = (
                encode_images(subject, part, its.labels_N, num_classes, self.config, task.advance)
                for part, its in zip(pixels, rows, strict=True)
            )
        return self._probe(subject.name, train, test)

    def _probe(self, name: str, train: Features, test: Features) -> dict[str, Any]:
        found = {}
        probes = probes_of(self.config)
        with self._reporter.task(f"eval {name}: probes", len(probes), "probe") as task:
            for probe in probes:
                result = probe.run(train, test)
                found[result.name] = {
                    "scores": result.scores,
                    "chosen": result.chosen,
                    "details": result.details,
                    "predictions": result.predictions.tolist(),
                }
                task.advance(1, result.name)
        return found


def _image_objects(store: Store) -> list[ObjectEntry]:
    units = (layout.images_unit(block) for block in range(len(store.plan.blocks)))
    return [entry for unit in units for entry in store.require(unit, f"unit {unit}").objects]


def _judgement(name: str, probes: Mapping[str, Any]) -> Judgement:
    return Judgement(
        name,
        {probe: found["scores"] for probe, found in probes.items()},
        {probe: found["chosen"] for probe, found in probes.items()},
        {probe: np.array(found["predictions"], np.int64) for probe, found in probes.items()},
    )
