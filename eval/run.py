"""`eval`: probe a teacher, students and their untrained selves on the same images, and say what was kept.

What is known about a subject is kept as `<name>.json` beside the report and used again while weights, images and
probes are the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stillhouse.core.config import config_digest
from stillhouse.core.events import Reporter
from stillhouse.storage.commit import canonical_json, read_json, replace_file
from stillhouse.storage.seal import content_digest, records
from stillhouse.storage.store import Store

from .config import EvalConfig
from .features import LabelledImages, classes_of, encode_images, labelled_images
from .knn import KnnProbe
from .linear import LinearProbe
from .logistic import LogisticProbe
from .probe import Features, Probe
from .subjects import Subject


@dataclass(frozen=True, slots=True)
class Judgement:
    """All that the probes say of one subject. `predictions` are class numbers of the test images per probe."""

    name: str
    weights_sha256: str
    scores: Mapping[str, Mapping[str, float]]
    chosen: Mapping[str, Mapping[str, Any]]
    predictions: Mapping[str, npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Lineup:
    """The labelled images that every subject of a run is judged on."""

    classes: tuple[str, ...]
    train: LabelledImages
    test: LabelledImages


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
        self._store, self._config, self._folder, self._reporter = store, config, folder, reporter
        self._images_sha256 = content_digest(_image_objects(store))
        self._lineup: Lineup | None = None
        self.num_judged = 0

    @property
    def lineup(self) -> Lineup:
        """The images of both splits and the class names."""
        if self._lineup is None:
            splits = [labelled_images(self._store, split, self._config) for split in (self._config.train, self._config.test)]
            self._lineup = Lineup(classes_of(self._store), *splits)
        return self._lineup

    def judge(self, name: str, weights_sha256: str, load: Callable[[], Subject]) -> Judgement:
        """Run every probe on one subject, or read what an earlier run said.

        Args:
            weights_sha256: of the subject's weights, known without loading it.
            load: builds the subject; not called when nothing has to be done.
        """
        identity = {
            "weights_sha256": weights_sha256,
            "images_sha256": self._images_sha256,
            "config": config_digest(self._config.model_dump(mode="json", exclude={"device", "threads", "pictures"})),
        }
        path = self._folder / f"{name}.json"
        stored = read_json(path)
        if stored is not None and stored["identity"] == identity:
            return _judgement(name, stored)
        subject = load()
        body = {"identity": identity, **self._run(subject)}
        replace_file(path, canonical_json(body))
        self.num_judged += 1
        return _judgement(name, body)

    def _run(self, subject: Subject) -> dict[str, Any]:
        lineup, config = self.lineup, self._config
        total = len(lineup.train.keys) + len(lineup.test.keys)
        with self._reporter.task(f"eval {subject.name}: features", total) as task:
            train, test = (
                encode_images(subject, images, len(lineup.classes), config, task.advance)
                for images in (lineup.train, lineup.test)
            )
        return {"weights_sha256": subject.weights_sha256, "probes": self._probe(subject.name, train, test)}

    def _probe(self, name: str, train: Features, test: Features) -> dict[str, Any]:
        found = {}
        probes = probes_of(self._config)
        with self._reporter.task(f"eval {name}: probes", len(probes), "probe") as task:
            for probe in probes:
                result = probe.run(train, test)
                found[result.name] = {
                    "scores": dict(result.scores),
                    "chosen": dict(result.chosen),
                    "predictions": result.predictions.tolist(),
                }
                task.advance(1, result.name)
        return found


def _image_objects(store: Store) -> list[Any]:
    return [e for record in records(store.root) if record.unit.startswith("images/") for e in record.objects]


def _judgement(name: str, body: Mapping[str, Any]) -> Judgement:
    probes: Mapping[str, Any] = body["probes"]
    return Judgement(
        name,
        body["weights_sha256"],
        {probe: found["scores"] for probe, found in probes.items()},
        {probe: found["chosen"] for probe, found in probes.items()},
        {probe: np.array(found["predictions"], np.int64) for probe, found in probes.items()},
    )


def probe_names(judgements: Sequence[Judgement]) -> list[str]:
    """The probes that every judgement has, in order."""
    return [name for name in judgements[0].scores if all(name in other.scores for other in judgements)]
