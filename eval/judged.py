"""What the probes said of a subject, kept as `<name>.json`, each probe as soon as it is through.

A run that is stopped between two probes goes on with the next one, and a probe that is added later is the only one to run.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stillhouse.core.errors import CorruptError, UsageError
from stillhouse.core.events import Reporter, Task
from stillhouse.storage.disk import replace_file
from stillhouse.storage.signed_json import read_signed_json, signed_json

from .neighbours import Neighbours
from .probe import Features, Probe, Steps

Identity = Mapping[str, Any]
"""All that decides what a probe finds beside its own settings, as plain JSON values."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """All that the probes say of one subject. `predictions` are class numbers of the test images per probe.

    `neighbours` is None without the kNN probe, and of subjects that it judged before it kept any.
    """

    name: str
    scores: Mapping[str, Mapping[str, float]]
    chosen: Mapping[str, Mapping[str, Any]]
    predictions: Mapping[str, npt.NDArray[np.int64]]
    neighbours: Neighbours | None = None


class Judge:
    """Runs probes over subjects and keeps what they find below `folder`; `num_judged` subjects were not known."""

    def __init__(self, probes: Sequence[Probe], folder: Path, reporter: Reporter) -> None:
        self._probes, self._folder, self._reporter = probes, folder, reporter
        self.num_judged = 0

    def judge(
        self,
        name: str,
        identity: Identity,
        features: Callable[[], tuple[Features, Features]],
        *,
        earlier: Identity | None = None,
    ) -> Judgement:
        """What every probe says of one subject, from disk where it is known.

        Args:
            features: gives those to fit on and those to judge on; not called when every probe is known.
            earlier: the identity as earlier versions wrote it, which kept all probes or none.
        """
        path = self._folder / f"{name}.json"
        kept = self._kept(name, path, identity, earlier)
        todo = [probe for probe in self._probes if kept.get(probe.name, {}).get("config") != probe.config.digest()]
        if todo:
            train, test = features()
            self.num_judged += 1
        for probe in todo:
            kept[probe.name] = _found(probe, train, test, self._steps(name))
            _write(path, identity, kept)
        return _judgement(name, {probe.name: kept[probe.name] for probe in self._probes})

    def _kept(self, name: str, path: Path, identity: Identity, earlier: Identity | None) -> dict[str, Any]:
        """What is known of a subject: by probe."""
        try:
            stored = read_signed_json(path, "")
        except CorruptError as error:
            self._reporter.say(f"eval {name}: {error.message}; it is judged again")
            return {}
        if stored is None:
            return {}
        if stored["identity"] == identity:
            return dict(stored["probes"])
        if stored["identity"] == earlier:
            configs = {probe.name: probe.config.digest() for probe in self._probes}
            kept = {probe: found | {"config": configs[probe]} for probe, found in stored["probes"].items()}
            _write(path, identity, kept)
            return kept
        if "config" in stored["identity"]:
            why = "was kept by an earlier version, of other settings, images or weights"
            self._reporter.say(f"eval {name}: {path} {why}; it is judged again")
        return {}

    def _steps(self, name: str) -> Steps:
        def begin(what: str, total: int, unit: str) -> AbstractContextManager[Task]:
            return self._reporter.task(f"eval {name}: {what}", total, unit)

        return begin


def _write(path: Path, identity: Identity, kept: Mapping[str, Any]) -> None:
    replace_file(path, signed_json({"identity": dict(identity), "probes": dict(kept)}))


def _found(probe: Probe, train: Features, test: Features, steps: Steps) -> dict[str, Any]:
    """What one probe found, as plain JSON values."""
    result = probe.run(train, test, steps)
    return {
        "config": probe.config.digest(),
        "scores": result.scores,
        "chosen": result.chosen,
        "details": result.details,
        "predictions": result.predictions.tolist(),
    }


def _judgement(name: str, probes: Mapping[str, Any]) -> Judgement:
    neighbours = probes.get("knn", {}).get("details", {}).get("neighbours")
    return Judgement(
        name,
        {probe: found["scores"] for probe, found in probes.items()},
        {probe: found["chosen"] for probe, found in probes.items()},
        {probe: np.array(found["predictions"], np.int64) for probe, found in probes.items()},
        None if neighbours is None else Neighbours.from_json(neighbours),
    )


def not_judged(path: Path) -> UsageError:
    """What is said where only what is kept may be read, and `path` does not hold it."""
    lacks = "is of other weights, images or settings" if path.exists() else "is not there"
    return UsageError(f"{path.stem} is not judged yet: {path} {lacks}", hint="run `stillhouse eval` first")
