"""The linear probe of DINOv2: a grid of linear heads on frozen features, the best of them reported.

Source: DINOv2's linear evaluation (spec/methods.md §3.2). Kept: the grid (last blocks {1, 4} x average pooling {no, yes}
x 13 learning rates = 52 heads), N(0, 0.01) starts, SGD with momentum 0.9 and no weight decay, learning rates times
batch / 256, a cosine to 0, the sum of the heads' cross-entropies. Two differences, both deliberate:

* It trains on stored features of one plain rendering of each image; the published one renders random crops and flips
  anew for 12,500 iterations. Scores compare between encoders of one run, not with published tables.
* By default the head is chosen on held-out training images and trained again on all of them; the published score is the
  best of 52 heads on the test images themselves (`selection: test`). Heads of equal score are told apart by their
  cross-entropy.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from stillhouse.core.config import Config
from stillhouse.core.errors import UsageError
from stillhouse.core.events import Task

from .holdout import hold_out, rest_of
from .metrics import all_scores, top1
from .probe import Features, FloatArray, IntArray, ProbeResult, Steps, check_features, untold
from .standardise import Standardiser

if TYPE_CHECKING:
    from .linear_heads import Judged, Layout, Schedule, WideHead

LEARNING_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)


class LinearConfig(Config):
    """Settings of the linear probe. DINOv2 ran 12,500 iterations at batch 1024, Proteus 25,020 at batch 512."""

    name: Literal["linear"] = "linear"
    iterations: int = Field(1250, ge=1)
    batch: int = Field(256, ge=1)
    learning_rates: tuple[Annotated[float, Field(gt=0)], ...] = Field(LEARNING_RATES, min_length=1)
    """At batch 256; the rate used is this times batch / 256."""
    standardise: bool = False
    """Zero mean and unit variance per dimension; the published probe reads raw features."""
    selection: Literal["holdout", "test"] = "holdout"
    """Where the head is chosen: on training images held out, or, as published, on the test images themselves."""
    holdout: float = Field(0.2, gt=0, lt=1)
    """Share of the training images held out for `selection: holdout`."""
    seed: int = Field(0, ge=0)
    """Of the heads' starts, the batches and the held-out part."""


@dataclass(frozen=True)
class LinearProbe:
    """52 heads (26 for an encoder with fewer than four blocks) in one pass; the best one's test score."""

    config: LinearConfig = field(default_factory=LinearConfig)
    name: ClassVar[str] = "linear"

    def run(
        self, train: Features, test: Features, steps: Steps = untold, *, held: IntArray | None = None
    ) -> ProbeResult:
        """As every probe; `held` are the rows of `train` on which the head is chosen, None: a seeded draw."""
        from .linear_heads import wide_features

        check_features(train, test)
        if self.config.selection == "holdout":
            with self._told(steps, 2) as task:
                grid, best = self._choose(train, held, task.advance)
                predictions_N = self._fit(train, best, task.advance).scores(test).argmax(axis=1).astype(np.int64)
        else:
            train_NW, layouts = wide_features(train)
            test_NW, _ = wide_features(test)
            split = _Split(train_NW, train.labels, test_NW, test.labels)
            with self._told(steps, 1) as task:
                grid = self._train(split, layouts, train.num_classes, task.advance)
            best = max(grid, key=lambda scored: scored.best)
            predictions_N = best.predictions_HN[best.best_rate]
        return ProbeResult(
            name=self.name,
            scores=all_scores(predictions_N, test.labels),
            predictions=predictions_N,
            chosen=self._chosen(grid, best),
            details={"selection_top1": {scored.layout.name: scored.scores_H for scored in grid}},
        )

    def fit(self, train: Features) -> "LinearClassifier":
        """The head that is best on held-out training images, trained on all of them.

        Raises:
            UsageError: `selection: test`; which test images would it be?
        """
        if self.config.selection == "test":
            raise UsageError(
                "a linear head for other images cannot be chosen on the test images", hint="set selection: holdout"
            )
        check_features(train, train)
        return self._fit(train, self._choose(train, None)[1])

    def _told(self, steps: Steps, rounds: int) -> AbstractContextManager[Task]:
        return steps(self.name, self.config.iterations * rounds, "iteration")

    def _choose(
        self, train: Features, held: IntArray | None, advance: Callable[[int], None] = lambda num: None
    ) -> "tuple[list[_Scored], _Scored]":
        """All heads as they do on the held-out rows, and the best one's layout."""
        from .linear_heads import wide_features

        if held is None:
            fit, held = hold_out(train.labels, self.config.holdout, self.config.seed, self.name)
        else:
            fit = rest_of(train.labels, held, self.name)
        train_NW, layouts = wide_features(train)
        split = _Split(train_NW[fit], train.labels[fit], train_NW[held], train.labels[held])
        grid = self._train(split, layouts, train.num_classes, advance)
        return grid, max(grid, key=lambda scored: scored.best)

    def _fit(
        self, train: Features, best: "_Scored", advance: Callable[[int], None] = lambda num: None
    ) -> "LinearClassifier":
        from .linear_heads import train_heads, wide_features

        train_NW, _ = wide_features(train)
        scaler = Standardiser.fit(train_NW) if self.config.standardise else None
        inputs_NW = scaler.apply(train_NW).astype(np.float32) if scaler else train_NW
        rates = (self._rate(best),)
        (head,) = train_heads(
            inputs_NW, train.labels, train.num_classes, (best.layout,), rates, self._schedule, advance
        )
        return LinearClassifier(head, scaler, {"layout": best.layout.name, "learning_rate": rates[0]})

    def _train(
        self, split: "_Split", layouts: "tuple[Layout, ...]", num_classes: int, advance: Callable[[int], None]
    ) -> "list[_Scored]":
        from .linear_heads import judge_heads, train_heads

        if self.config.standardise:
            split = split.standardised()
        rates = self.config.learning_rates
        heads = train_heads(split.fit_NW, split.fit_labels, num_classes, layouts, rates, self._schedule, advance)
        judged = (judge_heads(split.eval_NW, split.eval_labels, head) for head in heads)
        return [_Scored(each, split.eval_labels) for each in judged]

    @property
    def _schedule(self) -> "Schedule":
        from .linear_heads import Schedule

        return Schedule(iterations=self.config.iterations, batch=self.config.batch, seed=self.config.seed)

    def _rate(self, best: "_Scored") -> float:
        return self.config.learning_rates[best.best_rate]

    def _chosen(self, grid: "list[_Scored]", best: "_Scored") -> dict[str, Any]:
        num_heads = len(grid) * len(self.config.learning_rates)
        images = "the test images" if self.config.selection == "test" else "held-out training images"
        return {
            "layout": best.layout.name,
            "learning_rate": self._rate(best),
            "selection": f"best of {num_heads} heads on {images}",
        }


@dataclass(frozen=True, eq=False)
class LinearClassifier:
    """One trained head, and the scaling before it."""

    head: "WideHead"
    scaler: Standardiser | None
    chosen: Mapping[str, Any]

    def scores(self, feats: Features) -> FloatArray:
        """Logits, float32 [N, C]."""
        from .linear_heads import logits_of, wide_features

        feats_NW, _ = wide_features(feats)
        inputs_NW = self.scaler.apply(feats_NW).astype(np.float32) if self.scaler else feats_NW
        return np.concatenate([logits_BHC[:, 0].numpy() for _, logits_BHC in logits_of(inputs_NW, self.head)])


@dataclass(frozen=True, eq=False)
class _Split:
    """Images that heads are fitted on, and images that they are judged on."""

    fit_NW: FloatArray
    fit_labels: IntArray
    eval_NW: FloatArray
    eval_labels: IntArray

    def standardised(self) -> "_Split":
        scaler = Standardiser.fit(self.fit_NW)
        fit_NW, eval_NW = (scaler.apply(part_NW).astype(np.float32) for part_NW in (self.fit_NW, self.eval_NW))
        return _Split(fit_NW, self.fit_labels, eval_NW, self.eval_labels)


class _Scored:
    """The heads of one layout by top-1.

    Of equal scores the lowest cross-entropy is best: on easy data many heads find every held-out image, and the first of
    them has the smallest learning rate and has hardly been trained.
    """

    def __init__(self, judged: "Judged", labels_N: IntArray) -> None:
        self.layout = judged.layout
        self.predictions_HN = judged.predictions_HN
        self.scores_H = [top1(predictions_N, labels_N) for predictions_N in judged.predictions_HN]
        ranks = [(score, -loss) for score, loss in zip(self.scores_H, judged.losses_H.tolist(), strict=True)]
        self.best = max(ranks)
        self.best_rate = ranks.index(self.best)
