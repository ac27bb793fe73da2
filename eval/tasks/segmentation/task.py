"""The task `segmentation`: a head trained on the maps of one encoder, judged by mean intersection over union.

Legend: N validation images, K numbers of an image (three a class).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stillhouse.core import rng
from stillhouse.core.encoders import pick_device

from ...subjects import Subject
from ..base import Context, Example, Items, Metric, TaskResult
from ..dense.features import resampling
from ..encode import STATISTICS
from .config import SegmentationConfig
from .data import OFFICIAL, DataSet, open_data
from .miou import areas, class_iou, mean_accuracy, mean_iou, pixel_accuracy
from .overlay import for_page, overlay
from .predict import predict
from .segmenter import Segmenter
from .train import Pixels, train

EXAMPLES = 4


@dataclass(frozen=True, slots=True)
class SegmentationTask:
    """Trains a head, or the encoder with it, and segments the validation images."""

    config: SegmentationConfig

    @property
    def name(self) -> str:
        return self.config.name or f"segmentation-{self.config.set}-{self.config.preset.replace('_', '-')}"

    @property
    def metric(self) -> Metric:
        return Metric("mIoU")

    def identity(self) -> dict[str, Any]:
        """Every setting, and the data by names and sizes."""
        settings = self.config.model_dump(mode="json", exclude={"path", "name"})
        return {**settings, "data": open_data(self.config).digest}

    def score(self, items_NK: Items) -> float:
        """Mean IoU of these images taken together."""
        return mean_iou(items_NK)

    def run(self, subject: Subject, context: Context) -> TaskResult:
        """Train, then segment every validation image."""
        config, data = self.config, open_data(self.config)
        self._tell_of_parts(data, context)
        pixels = self._pixels(subject, context)
        with torch.random.fork_rng([pixels.device] if pixels.device.type == "cuda" else []):
            torch.manual_seed(rng.block(rng.seed_bytes(config.seed), "segmentation", 0, "head")[0])
            encoder = subject.encoder.to(pixels.device)
            segmenter = Segmenter(encoder, config, data.num_classes, pixels.side)
            losses = train(segmenter, data.train, config, pixels, context, f"eval {subject.name}: {self.name}")
        items_NK, examples = self._judge(segmenter, data, pixels, context, subject.name)
        details = {
            "mIoU": mean_iou(items_NK),
            "mAcc": mean_accuracy(items_NK),
            "aAcc": pixel_accuracy(items_NK),
            "class_iou": [None if np.isnan(iou) else float(iou) for iou in class_iou(items_NK)],
            "images": {"train": len(data.train.keys), "val": len(data.val.keys)},
            "pixels": pixels.side,
            "built_for_pixels": subject.preprocessing.size,
            "positions": resampling(subject.encoder, (pixels.side, pixels.side)),
            "blocks": list(segmenter.blocks),
            "losses": [list(point) for point in losses],
        }
        return TaskResult(items_NK=items_NK, details=details, examples=examples)

    def _pixels(self, subject: Subject, context: Context) -> Pixels:
        seen, statistics = subject.preprocessing, self.config.statistics
        mean, std = (seen.mean, seen.std) if statistics == "subject" else STATISTICS[statistics]
        side = self.config.crop or seen.size
        if side != seen.size:
            told = f"{subject.name} is built for {seen.size} pixels and segments windows of {side}"
            positions = resampling(subject.encoder, (side, side))
            context.reporter.say(f"{told}, its {positions}" if positions else told)
        return Pixels(side, tuple(mean), tuple(std), pick_device(context.device))

    def _tell_of_parts(self, data: DataSet, context: Context) -> None:
        found, whole = (len(data.train.keys), len(data.val.keys)), OFFICIAL.get(self.config.set)
        if whole is not None and found != whole:
            message = f"{self.config.set} has {whole[0]:,} training and {whole[1]:,} validation images"
            context.reporter.say(f"{message}; found {found[0]:,} and {found[1]:,}")

    def _judge(
        self, segmenter: Segmenter, data: DataSet, pixels: Pixels, context: Context, name: str
    ) -> tuple[Items, tuple[Example, ...]]:
        num = len(data.val.keys)
        shown = {num * i // EXAMPLES for i in range(EXAMPLES)}
        rows, examples = [], []
        with context.reporter.task(f"eval {name}: {self.name} judged", num) as task:
            for i, key in enumerate(data.val.keys):
                labelled = data.val.read(i)
                predicted_hw = predict(segmenter, labelled.image_hw3, self.config, pixels)
                rows.append(areas(predicted_hw, labelled.mask_hw, data.num_classes))
                if i in shown:
                    image, truth, said = for_page(labelled.image_hw3, labelled.mask_hw, predicted_hw)
                    panels = (("image", image), ("truth", overlay(image, truth)), (name, overlay(image, said)))
                    examples.append(Example(key=key, panels=panels))
                task.advance(1)
        return np.stack(rows), tuple(examples)
