"""Action recognition: a linear probe on the mean features of frames, evenly spaced over each clip.

DINOv2 (TMLR 2024) does so on UCF101 and Kinetics-400 with 8 frames and has released no code for it. The probe is the one
of `eval/linear.py`, with what it says there of the published one. `eval/clips.py` has the same for features of a store.

Legend: M clips.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ..clips import Frames, clip_features
from ..features import LINEAR_BLOCKS
from ..linear import LinearConfig, LinearProbe
from ..probe import Features
from ..subjects import Subject
from .action_sets import Clip, Split, read_folders, read_ucf101
from .base import Context, Example, Items, Metric, TaskConfig, TaskResult
from .borders import RIGHT, WRONG, framed, spread
from .encode import Statistics, Transform, encode_files
from .files import files_sha256, read_image
from .sizes import resized

NUM_SHOWN, NUM_FRAMES = 6, 4
RESIZE = 256 / 224
"""Of the shorter side to what is cut from the middle, as in DINOv2's evaluations of images."""


class ActionsConfig(TaskConfig):
    """Which clips, and how they are seen."""

    kind: Literal["actions"] = "actions"
    layout: Literal["folders", "ucf101"] = "folders"
    """`folders`: train/<class>/<clip>/ and val/<class>/<clip>/; `ucf101`: the official lists."""
    split: Literal[1, 2, 3] = 1
    """Of UCF101."""
    frames: int = Field(default=8, ge=1)
    """Of each clip, evenly spaced; a shorter one gives all of its frames."""
    size: int | None = Field(default=None, ge=1)
    """Pixels a side of what is cut from the middle of a frame; null: what the encoder was built for."""
    statistics: Statistics = "subject"
    probe: LinearConfig = LinearConfig()


@dataclass(frozen=True)
class ActionsTask:
    """Top-1 over clips; an item is 1 for a clip whose class was found, else 0."""

    config: ActionsConfig
    metric: ClassVar[Metric] = Metric("top-1")

    @property
    def name(self) -> str:
        if self.config.name or self.config.layout == "folders":
            return self.config.name or "actions-folders"
        return f"actions-ucf101-{self.config.split}"

    def identity(self) -> dict[str, Any]:
        root, split = Path(self.config.path), self._read()
        settings = self.config.model_dump(mode="json", exclude={"path", "name"})
        files = [frame for clip in (*split.train, *split.val) for frame in clip.evenly(self.config.frames)]
        clips = [[f"{clip.label}/{clip.name}" for clip in part] for part in (split.train, split.val)]
        return {"settings": settings, "clips": clips, "files_sha256": files_sha256(root, files)}

    def score(self, items_NK: Items) -> float:
        return float(items_NK[:, 0].mean())

    def run(self, subject: Subject, context: Context) -> TaskResult:
        split = self._read()
        train, _ = self._features(subject, split.train, split.classes, context)
        test, clips = self._features(subject, split.val, split.classes, context)
        result = LinearProbe(self.config.probe).run(train, test)
        right_M = result.predictions == test.labels
        said = {clip: split.classes[number] for clip, number in zip(clips, result.predictions.tolist(), strict=True)}
        return TaskResult(
            items_NK=right_M.astype(np.float64)[:, None],
            chosen=result.chosen,
            details={
                **result.scores,
                **result.details,
                "classes": len(split.classes),
                "clips": {"train": len(train), "val": len(test)},
            },
            examples=tuple(self._example(split.val[i], said) for i in spread(len(split.val), NUM_SHOWN)),
        )

    def _read(self) -> Split:
        root = Path(self.config.path)
        return read_folders(root) if self.config.layout == "folders" else read_ucf101(root, self.config.split)

    def _features(
        self, subject: Subject, clips: tuple[Clip, ...], classes: tuple[str, ...], context: Context
    ) -> tuple[Features, tuple[str, ...]]:
        """A row a clip, by name."""
        size = self.config.size or subject.preprocessing.size
        transform = Transform(round(size * RESIZE), size, self.config.statistics)
        chosen = [(clip.key(frame), frame) for clip in clips for frame in clip.evenly(self.config.frames)]
        keys, files = zip(*chosen, strict=True)
        seen = resized(subject, size, context)
        encoded = encode_files(seen, files, transform, context, num_blocks=LINEAR_BLOCKS)
        return clip_features(Frames(encoded.blocks, encoded.patch_mean, keys), classes)

    def _example(self, clip: Clip, said: dict[str, str]) -> Example:
        key = f"{clip.label}/{clip.name}"
        colour = RIGHT if said[key] == clip.label else WRONG
        shown = clip.evenly(min(NUM_FRAMES, self.config.frames))
        titles = [f"said {said[key]}"] + [""] * (len(shown) - 1)
        pictures = (framed(read_image(frame), colour) for frame in shown)
        return Example(key=key, panels=tuple(zip(titles, pictures, strict=True)))
