"""The depth task: train a head on an encoder's maps, predict the test images, score each.

Published scores are those of the checkpoint that was best on the test images; ours is the last iteration's.

Legend: N test images, K metrics, h and w rows and columns of pixels.
"""

from typing import Any

import numpy as np
import torch

from stillhouse.core.encoders import pick_device
from stillhouse.core.errors import DataError, UsageError

from ...subjects import Subject
from ..base import Context, Example, Items, Metric, TaskResult
from .config import DepthConfig
from .data import DepthData, Pair
from .estimator import Estimator
from .layouts import open_data
from .metrics import NAMES, RMSE, image_scores, judged_pixels, means
from .pictures import depth_colours, thinned
from .training import fit, learning_rate


class DepthTask:
    """RMSE in metres, the mean over images; lower is better."""

    metric = Metric("rmse", percent=False, higher_is_better=False)

    def __init__(self, config: DepthConfig) -> None:
        self.config = config

    @property
    def name(self) -> str:
        """`depth-<layout>-<preset>` unless the config names it."""
        return self.config.name or f"depth-{self.config.layout}-{self.config.preset.replace('_', '-')}"

    def identity(self) -> dict[str, Any]:
        """The protocol as it is for an encoder of its own size 224, and the data set."""
        kept = {"kind", "layout", "depth_scale", "preset", "changes", "resolution", "seed"}
        data = open_data(self.config).identity
        protocol = self.config.protocol().model_dump(mode="json")
        return {**self.config.model_dump(mode="json", include=kept), "protocol": protocol, "data": dict(data)}

    def score(self, items_NK: Items) -> float:
        """The mean of the images' RMSE."""
        return float(items_NK[:, RMSE].mean())

    def run(self, subject: Subject, context: Context) -> TaskResult:
        """Items are the metrics of each test image, in the order of `metrics.NAMES`."""
        data, device = open_data(self.config), pick_device(context.device)
        protocol = self.config.protocol(subject.preprocessing.size)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.config.seed)
            estimator = Estimator(subject, protocol, device)
            curve = fit(estimator, data, self.config.seed, context, f"eval {subject.name}: {self.name}")
        items_NK, non_positive_N, examples = self._judge(estimator, data, subject, context)
        chosen = {
            "preset": self.config.preset,
            "changes": self.config.changes,
            "blocks": list(estimator.blocks),
            "side": protocol.side,
            "lr": learning_rate(protocol, estimator.width),
            "selection": f"the last of {protocol.iterations:,} iterations",
        }
        details = {
            "metrics": dict(means(items_NK)),
            "names": list(NAMES),
            "pixels_predicted_non_positive": int(non_positive_N.sum()),
            "images_with_such_pixels": int(np.count_nonzero(non_positive_N)),
            "loss": curve,
            **data.notes,
        }
        return TaskResult(items_NK=items_NK, chosen=chosen, details=details, examples=examples)

    def _judge(
        self, estimator: Estimator, data: DepthData, subject: Subject, context: Context
    ) -> tuple[Items, np.ndarray[Any, np.dtype[np.int64]], tuple[Example, ...]]:
        protocol, num = estimator.protocol, len(data.test)
        shown = set(np.linspace(0, num - 1, min(self.config.examples, num)).round().astype(int).tolist())
        items_NK, non_positive_N, examples = np.empty((num, len(NAMES))), np.empty(num, dtype=np.int64), []
        with context.reporter.task(f"eval {subject.name}: {self.name}, test", num) as task:
            for i, key in enumerate(data.test.keys):
                pair = data.test.read(i)
                depth_hw = estimator.predict(pair.image_hw3)
                try:
                    limits = {"low": protocol.min_depth, "high": protocol.max_depth}
                    judged_hw = judged_pixels(pair.depth_hw, **limits, eigen=data.is_nyu)
                    scores = image_scores(depth_hw, pair.depth_hw, judged_hw)
                except (DataError, UsageError) as error:
                    raise type(error)(f"{self.name}, {key}: {error.message}", hint=error.hint) from error
                items_NK[i], non_positive_N[i] = scores.values_K, scores.non_positive
                if i in shown:
                    examples.append(_example(key, pair, depth_hw, protocol.max_depth))
                task.advance(1)
        return items_NK, non_positive_N, tuple(examples)


def _example(key: str, pair: Pair, depth_hw: np.ndarray[Any, np.dtype[np.float32]], max_depth: float) -> Example:
    """The image, what is known of it and what was predicted, both maps on the scale of the truth."""
    known = pair.depth_hw[(pair.depth_hw > 0) & (pair.depth_hw < max_depth)]
    near, far = (float(known.min()), float(known.max())) if len(known) else (0.0, max_depth)
    panels = {
        "image": pair.image_hw3,
        f"truth, {near:.1f} to {far:.1f} m": depth_colours(pair.depth_hw, near, far),
        "predicted": depth_colours(depth_hw, near, far),
    }
    return Example(key=key, panels=tuple((title, thinned(pixels)) for title, pixels in panels.items()))
