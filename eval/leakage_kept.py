"""The search for leakage over what was judged, kept as `leakage.json` beside the scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from stillhouse.core.config import config_digest
from stillhouse.core.errors import CorruptError
from stillhouse.storage.disk import replace_file
from stillhouse.storage.signed_json import read_signed_json, signed_json
from stillhouse.storage.specs import Preprocessing

from .duplicates import Pair
from .judged import Judgement, not_judged
from .leakage import LeakageConfig, LeakageReport, check_leakage, images_of
from .run import Evaluation
from .subjects import Subject

LEAKAGE = "leakage.json"


def find_leakage(
    evaluation: Evaluation,
    judged: Sequence[Judgement],
    weights: str,
    load: Callable[[], Subject],
    *,
    sees: Preprocessing,
) -> LeakageReport:
    """Hold the test images of an evaluation against those that its probes are fitted on, or read what is kept of it.

    Args:
        judged: the teacher, whose features say which images are alike, then others; the scores of all are given with and
            without the test images that are touched.
        weights, load, sees: of the teacher, as `Evaluation.judge` was given them.

    Raises:
        UsageError: the evaluation may only read what is kept, and it is not; or `group` matches no key.
    """
    config, path = evaluation.config.leakage or LeakageConfig(), evaluation.folder / LEAKAGE
    said = {each.name: {probe: found.tolist() for probe, found in each.predictions.items()} for each in judged}
    identity = {
        "teacher": evaluation.identity(weights, sees),
        "config": config.model_dump(mode="json"),
        "predictions": config_digest(said),
    }
    try:
        kept = read_signed_json(path, "")
    except CorruptError:  # nothing but a cache: it is found again
        kept = None
    if kept is not None and kept["identity"] == identity:
        return _read(kept)
    if evaluation.only_kept:
        raise not_judged(path)
    train, test = evaluation.features(judged[0].name, weights, load, sees=sees)
    labels_Q = evaluation.test.labels_N
    correct = {
        f"{each.name}, {probe}": found == labels_Q for each in judged for probe, found in each.predictions.items()
    }
    found = check_leakage(
        images_of(evaluation.store, evaluation.train, train.cls),
        images_of(evaluation.store, evaluation.test, test.cls),
        config,
        correct,
    )
    replace_file(path, signed_json({"identity": identity, **_plain(found)}))
    return found


def _plain(found: LeakageReport) -> dict[str, Any]:
    return {
        "lines": list(found.lines),
        "warnings": list(found.warnings),
        "pairs": [asdict(pair) for pair in found.pairs],
        "touched": np.flatnonzero(found.touched_Q).tolist(),
        "num_test": len(found.touched_Q),
        "facts": found.facts,
    }


def _read(kept: Mapping[str, Any]) -> LeakageReport:
    touched_Q = np.zeros(kept["num_test"], np.bool_)
    touched_Q[kept["touched"]] = True
    return LeakageReport(
        lines=tuple(kept["lines"]),
        warnings=tuple(kept["warnings"]),
        pairs=tuple(Pair(**pair) for pair in kept["pairs"]),
        touched_Q=touched_Q,
        facts=kept["facts"],
    )
