"""Logistic regression on frozen class tokens, in the two published forms (spec/methods.md §3.3).

`dinov2` reads raw features and scans C from 1e-6 to 1e5 on a held-out 10 % of train; of equal scores the smallest C stays.
`proteus` (inherited from SynCLR) standardises each dimension with the statistics of the part it is fitted on, scans C from
1e6 down to 1e-5 on a held-out 20 %; of equal scores the largest C stays. Both fit all of train with the C they found.

Both publish cuML's L-BFGS, stopped after 1000 iterations. The objective is strictly convex, so every solver that arrives
gives the same classifier; ours arrives at all 45 values of C, where L-BFGS at the largest ones does not.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stillhouse.core.config import Config

from .holdout import hold_out, rest_of
from .metrics import METRICS, MetricName, all_scores
from .probe import Features, FloatArray, IntArray, ProbeResult, Steps, check_features, untold
from .standardise import Standardiser

if TYPE_CHECKING:
    from .logistic_solver import Fit

FINAL_STRIDE = 4  # the final fit walks to its C along every 4th value of the grid: a factor of 10 a step


@dataclass(frozen=True)
class Preset:
    """What differs between the published forms. `low` and `high` are the powers of ten of the grid of C."""

    standardise: bool
    holdout: float
    low: float
    high: float
    ties: Literal["smallest", "largest"]


PRESETS: Mapping[str, Preset] = {
    "dinov2": Preset(standardise=False, holdout=0.1, low=-6, high=5, ties="smallest"),
    "proteus": Preset(standardise=True, holdout=0.2, low=-5, high=6, ties="largest"),
}


class LogisticConfig(Config):
    """Settings of the logistic-regression probe."""

    name: Literal["logistic"] = "logistic"
    preset: Literal["dinov2", "proteus"] = "dinov2"
    select_by: MetricName = "top1"
    """Score on the held-out images that chooses C; Proteus chooses by the metric that a data set reports."""
    num_c: int = Field(45, ge=2)
    """Values of C, evenly spaced in log C over the preset's range."""
    max_iter: int = Field(1000, ge=1)
    """Bound on the Hessian products of one fit; ten to thirty suffice for few classes."""
    seed: int = Field(0, ge=0)
    """Of the held-out part."""


@dataclass(frozen=True)
class LogisticProbe:
    """Multinomial logistic regression with an L2 penalty, C chosen on held-out training images."""

    config: LogisticConfig = field(default_factory=LogisticConfig)

    @property
    def name(self) -> str:
        return f"logistic-{self.config.preset}"

    @property
    def grid(self) -> tuple[float, ...]:
        """The values of C, rising."""
        preset = PRESETS[self.config.preset]
        return tuple((10.0 ** np.linspace(preset.low, preset.high, self.config.num_c)).tolist())

    def run(
        self, train: Features, test: Features, steps: Steps = untold, *, held: IntArray | None = None
    ) -> ProbeResult:
        """As every probe; `held` are the rows of `train` on which C is chosen, None: a seeded draw by the preset's share."""
        check_features(train, test)
        preset, grid = PRESETS[self.config.preset], self.grid
        if held is None:
            fit, held = hold_out(train.labels, preset.holdout, self.config.seed, self.name)
        else:
            fit = rest_of(train.labels, held, self.name)
        metric = METRICS[self.config.select_by]
        scores, iterations, not_converged = [], [], []
        with steps(self.name, len(grid) + 1, "fit") as task:
            for c, model in self.models(train.cls[fit], train.labels[fit], grid):
                scores.append(metric(model.predict(train.cls[held]), train.labels[held]))
                iterations.append(model.fit.iterations)
                not_converged += [] if model.fit.converged else [c]
                task.advance(1, f"C {c:.0e}")
            best = best_of(scores, preset.ties)
            final = self.final_model(train.cls, train.labels, best)
            task.advance(1)
        predictions_N = final.predict(test.cls)
        return ProbeResult(
            name=self.name,
            scores=all_scores(predictions_N, test.labels),
            predictions=predictions_N,
            chosen={
                "c": grid[best],
                "selection": f"{self.config.select_by} on {len(held)} held-out training images, of equal ones the "
                f"{preset.ties} C",
            },
            details={
                "grid": list(grid),
                f"selection_{self.config.select_by}": scores,
                "iterations": iterations,
                "not_converged": not_converged,
                "final_converged": final.fit.converged,
            },
        )

    def final_model(self, feats_ND: FloatArray, labels_N: IntArray, best: int) -> "LogisticClassifier":
        """The fit at the C that was chosen, number `best` of the grid."""
        *_, (_, final) = self.models(feats_ND, labels_N, self.grid[best % FINAL_STRIDE : best + 1 : FINAL_STRIDE])
        return final

    def models(
        self, feats_ND: FloatArray, labels_N: IntArray, cs: tuple[float, ...]
    ) -> Iterator[tuple[float, "LogisticClassifier"]]:
        """(C, fit) for each C, in order, with the preset's scaling by these features."""
        from .logistic_solver import fit_path

        scaler = Standardiser.fit(feats_ND) if PRESETS[self.config.preset].standardise else None
        # Only classes that occur: the unpenalised bias of one that does not would run off to minus infinity.
        classes_K, targets_N = np.unique(labels_N, return_inverse=True)
        inputs_ND = scaler.apply(feats_ND) if scaler else feats_ND.astype(np.float64)
        for fit in fit_path(inputs_ND, targets_N, len(classes_K), cs, self.config.max_iter):
            yield fit.c, LogisticClassifier(fit, classes_K, scaler)


@dataclass(frozen=True, eq=False)
class LogisticClassifier:
    """A fit, and what surrounds it: the scaling before, the class numbers after."""

    fit: "Fit"
    classes_K: IntArray
    scaler: Standardiser | None

    def logits(self, feats_ND: FloatArray) -> NDArray[np.float64]:
        """float64 [N, K], of the classes that were fitted."""
        return self.fit.logits(self.scaler.apply(feats_ND) if self.scaler else feats_ND.astype(np.float64))

    def predict(self, feats_ND: FloatArray) -> IntArray:
        """int64 [N]; of equal logits the lowest class."""
        predictions_N: IntArray = self.classes_K[self.logits(feats_ND).argmax(axis=1)]
        return predictions_N


def best_of(scores: list[float], ties: Literal["smallest", "largest"]) -> int:
    """Position of the highest score on a rising grid of C."""
    top = max(scores)
    if ties == "smallest":
        return scores.index(top)
    return len(scores) - 1 - scores[::-1].index(top)
