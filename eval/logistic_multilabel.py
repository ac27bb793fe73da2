"""Logistic regression where an image shows several classes: one binary fit a class, all with the same C.

The protocol of VOC2007 in SynCLR's and Proteus' scripts (spec/methods.md §3.4): C is chosen by the mean over the classes
of the 11-point average precision; what else differs between the presets is as in `logistic.py`.

Shape letters: N images, Q test images, D width, C classes, G values of the regularisation C.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.errors import UsageError

from .average_precision import mean_eleven_point
from .logistic import PRESETS, LogisticConfig, LogisticProbe, best_of
from .probe import FloatArray, IntArray


def fit_multilabel(
    train_ND: FloatArray, targets_NC: IntArray, held: IntArray, test_QD: FloatArray, config: LogisticConfig
) -> tuple[NDArray[np.float64], dict[str, Any], dict[str, Any]]:
    """(float64 [Q, C] logits of the test images, what was chosen, details).

    Args:
        targets_NC: zeros and ones.
        held: rows on which C is chosen; the final fits have all rows.

    Raises:
        UsageError: a class of which the rows to fit show no image, or nothing else.
    """
    probe = LogisticProbe(config)
    fit = np.setdiff1d(np.arange(len(train_ND)), held)
    for c, shown in enumerate(targets_NC[fit].mean(axis=0)):
        if shown in (0.0, 1.0):
            raise UsageError(
                f"class number {c} is shown by {'none' if shown == 0 else 'all'} of {len(fit)} images to fit",
                hint="a binary fit needs images with and without the class: unpack the whole data set",
            )
    num_c, num_classes = len(probe.grid), targets_NC.shape[1]
    held_GNC = np.empty((num_c, len(held), num_classes))
    not_converged = []
    for c in range(num_classes):
        for place, (value, model) in enumerate(probe.models(train_ND[fit], targets_NC[fit, c], probe.grid)):
            held_GNC[place, :, c] = margins(model.logits(train_ND[held]))
            not_converged += [] if model.fit.converged else [[c, value]]
    maps = [mean_eleven_point(scores_NC, targets_NC[held], origin=True) for scores_NC in held_GNC]
    best = best_of(maps, PRESETS[config.preset].ties)
    finals = [probe.final_model(train_ND, targets_NC[:, c], best) for c in range(num_classes)]
    scores_QC = np.stack([margins(model.logits(test_QD)) for model in finals], axis=1)
    chosen = {
        "c": probe.grid[best],
        "selection": f"mean 11-point average precision on {len(held)} held-out images, of equal ones the "
        f"{PRESETS[config.preset].ties} C",
    }
    details = {
        "grid": list(probe.grid),
        "selection_map11": maps,
        "not_converged": not_converged,
        "final_converged": all(model.fit.converged for model in finals),
    }
    return scores_QC, chosen, details


def margins(logits_N2: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log odds of the class, float64 [N]."""
    odds_N: NDArray[np.float64] = logits_N2[:, 1] - logits_N2[:, 0]
    return odds_N
