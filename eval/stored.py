"""Teachers judged by what a store holds of them: no image is decoded, no teacher is asked.

A store has features of its training images alone, so a share of those is judged, by a hash of their keys, and the probes
are fitted on the others. Nothing was trained on their labels. These scores are of one stored view, so they stand beside each
other, not beside those of `run.py`, which are of the plain middle of held-out images.

Legend: N images, T tokens, D width.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np

from stillhouse.core.errors import UsageError
from stillhouse.core.events import Reporter
from stillhouse.storage import layout
from stillhouse.storage.records import ObjectEntry
from stillhouse.storage.seal import content_digest
from stillhouse.storage.signed_json import read_signed_json
from stillhouse.storage.specs import TRAIN, TeacherSpec
from stillhouse.storage.store import Store

from .config import EvalConfig, StoredConfig
from .features import LabelledRows, classes_of, encode_images, labelled_rows, view_pixels
from .judged import Judge, Judgement
from .parts import drawn, taken
from .probe import Features, FloatArray
from .run import probes_of
from .subjects import Subject

PIECE_BYTES = 64 << 20
"""Of decoded tokens, float32, held at once."""
_BLOCK = re.compile(r"cls-block([1-9][0-9]*)-normed")


@dataclass(frozen=True, slots=True)
class StoredLevels:
    """Which levels of a teacher the probes read: cls tokens of its last blocks, the last one last, and patches, if any."""

    blocks: tuple[str, ...]
    patch: str | None

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.blocks, *(() if self.patch is None else (self.patch,)))


def levels_read(spec: TeacherSpec) -> StoredLevels:
    """Level `cls`, behind the three highest `cls-block...-normed` where these are neighbours; the mean of level `patch`.

    Four blocks are what the linear probe reads beside the last one alone.

    Raises:
        UsageError: the teacher has no level `cls`.
    """
    if "cls" not in spec.levels:
        message = f"teacher {spec.name!r} has no level 'cls', only {', '.join(spec.levels)}"
        raise UsageError(message, hint="list 'cls' in `levels` of a teacher of another name and extract it")
    numbers = sorted(int(match[1]) for name in spec.levels if (match := _BLOCK.fullmatch(name)))[-3:]
    neighbours = len(numbers) == 3 and numbers[2] - numbers[0] == 2
    before = tuple(f"cls-block{number}-normed" for number in numbers) if neighbours else ()
    return StoredLevels((*before, "cls"), "patch" if "patch" in spec.levels else None)


def stored_parts(store: Store, config: StoredConfig) -> tuple[LabelledRows, LabelledRows]:
    """The images to fit on and those to judge on.

    Raises:
        UsageError: the store has no such view, or no labels, or a part is without an image.
    """
    if config.view >= store.spec.num_views:
        message = f"eval.stored.view is {config.view}, store {store.name} has views 0 to {store.spec.num_views - 1}"
        raise UsageError(message, hint="name one of them")
    rows = labelled_rows(store, TRAIN)
    judged_N = drawn(rows, config.seed, "eval.stored") < config.test
    parts = taken(rows, np.flatnonzero(~judged_N)), taken(rows, np.flatnonzero(judged_N))
    if not all(part.keys for part in parts):
        message = f"eval.stored.test: {config.test:g} of {len(rows.keys)} labelled training images leaves a part empty"
        raise UsageError(message, hint="use another share, or more labelled images")
    return parts


def stored_features(
    store: Store,
    teacher: str,
    view: int,
    rows: LabelledRows,
    num_classes: int,
    advance: Callable[[int], None] = lambda num: None,
) -> Features:
    """What the store holds of some images, decoded; without level `patch` the mean patch has no dimension.

    Raises:
        MissingError: features that are not in the store.
        CorruptError: bytes on disk are not the bytes that were written.
    """
    levels = levels_read(store.teacher(teacher))
    blocks = tuple(_means(store, teacher, level, view, rows, advance) for level in levels.blocks)
    mean = np.empty((len(rows.keys), 0), np.float32)
    if levels.patch is not None:
        mean = _means(store, teacher, levels.patch, view, rows, advance)
    return Features(blocks, mean, rows.labels_N, num_classes)


def live_features(
    subject: Subject,
    store: Store,
    view: int,
    rows: LabelledRows,
    num_classes: int,
    config: EvalConfig,
    num_blocks: int = 1,
) -> Features:
    """The same of a live encoder: pixels of the stored view, replayed. Equal to `stored_features` up to the codec's error."""
    pixels = view_pixels(store, view, rows, config.threads)
    found = encode_images(subject, pixels, rows.labels_N, num_classes, config)
    return replace(found, blocks=found.blocks[-num_blocks:])


def _means(
    store: Store, teacher: str, level: str, view: int, rows: LabelledRows, advance: Callable[[int], None]
) -> FloatArray:
    """float32 [N, D]: the mean over the tokens of each image."""
    features, codec = store.features(teacher, level), store.codec(teacher, level)
    spec = store.teacher(teacher).levels[level]
    found, done = np.empty((len(rows.at), spec.dim), np.float32), 0
    step = max(1, PIECE_BYTES // (4 * spec.num_tokens * spec.dim))
    for block, group in groupby(rows.at, key=lambda at: at[0]):
        numbers = [row for _, row in group]
        for start in range(0, len(numbers), step):
            tokens_NTD = codec.decode(features.read(view, block, numbers[start : start + step]))
            found[done : done + len(tokens_NTD)] = tokens_NTD.mean(axis=1, dtype=np.float64)
            done += len(tokens_NTD)
            advance(len(tokens_NTD))
    return found


@dataclass(frozen=True, slots=True)
class StoredScores:
    """What the probes say of the teachers of a store, by name, and of how many images."""

    teachers: tuple[Judgement, ...]
    config: StoredConfig
    num_fitted: int
    num_judged: int


class StoredEvaluation:
    """The probes over the teachers of a store; what each said is kept as `stored-<teacher>.json`."""

    def __init__(self, store: Store, config: EvalConfig, folder: Path, reporter: Reporter) -> None:
        self.store, self.config = store, config.stored or StoredConfig()
        self._reporter, self._judge = reporter, Judge(probes_of(config), folder, reporter)

    @property
    def num_judged(self) -> int:
        """Teachers that were not known."""
        return self._judge.num_judged

    @cached_property
    def parts(self) -> tuple[LabelledRows, LabelledRows]:
        """The images that the probes are fitted on, and those that they are judged on."""
        return stored_parts(self.store, self.config)

    def judge_all(self) -> StoredScores:
        """Judge every teacher that has a level `cls`; the others are told of.

        Raises:
            UsageError: none has.
        """
        specs = self.store.teachers()
        for spec in specs:
            if "cls" not in spec.levels:
                self._reporter.say(f"eval: the store has no cls of teacher {spec.name}, which is not judged by it")
        judged = tuple(self.judge(spec.name) for spec in specs if "cls" in spec.levels)
        if not judged:
            raise UsageError(
                f"store {self.store.name} has no cls of any teacher", hint="run `stillhouse extract` first"
            )
        fit, test = self.parts
        return StoredScores(judged, self.config, len(fit.keys), len(test.keys))

    def judge(self, teacher: str) -> Judgement:
        """Run every probe on one teacher, or read what an earlier run said."""
        spec = self.store.teacher(teacher)
        levels = levels_read(spec)
        fit, judged = self.parts
        identity = {
            "weights": spec.weights_sha256,
            "features_sha256": content_digest(_objects(self.store, teacher, levels, self.config.view)),
            "levels": list(levels.names),
            "parts": {**self.config.model_dump(mode="json"), "split": TRAIN},
            "num_fitted": len(fit.keys),
            "num_judged": len(judged.keys),
        }
        judgement = self._judge.judge(f"stored-{teacher}", identity, lambda: self._features(teacher, levels))
        return replace(judgement, name=teacher)

    def _features(self, teacher: str, levels: StoredLevels) -> tuple[Features, Features]:
        num_classes, view = len(classes_of(self.store)), self.config.view
        num = len(levels.names) * sum(len(part.keys) for part in self.parts)
        with self._reporter.task(f"eval stored-{teacher}: reading", num, "row") as task:
            fit, judged = (
                stored_features(self.store, teacher, view, part, num_classes, task.advance) for part in self.parts
            )
        return fit, judged


def kept_scores(store: Store, teachers: Sequence[str], folder: Path) -> dict[str, dict[str, float]]:
    """Top-1 by teacher and probe, as a run of `eval --stored` on this very store has kept it in its `eval` folder.

    Raises:
        UsageError: there are none, or they are of other features.
    """
    found = {}
    for teacher in teachers:
        path = folder / f"stored-{teacher}.json"
        kept = read_signed_json(path, "remove it and run `stillhouse eval --stored` again")
        if kept is None:
            continue
        spec, identity = store.teacher(teacher), kept["identity"]
        levels = levels_read(spec)
        digest = content_digest(_objects(store, teacher, levels, identity["parts"]["view"]))
        if (identity["weights"], identity["features_sha256"]) != (spec.weights_sha256, digest):
            message = f"{path} is of other features than store {store.name} has"
            raise UsageError(message, hint="run `stillhouse eval --stored` on this store")
        found[teacher] = {name: float(probe["scores"]["top1"]) for name, probe in kept["probes"].items()}
    if not found:
        raise UsageError(
            f"{folder} has no scores of this store's teachers", hint="name the `eval` folder of `eval --stored`"
        )
    return found


def _objects(store: Store, teacher: str, levels: StoredLevels, view: int) -> list[ObjectEntry]:
    """What the scores follow from: features of one view, their codecs, and the index with keys and labels."""
    entries = list(store.require(layout.codecs_unit(teacher), f"features of teacher {teacher}").objects)
    for block in store.plan.blocks_of(TRAIN):
        what = f"features of {teacher} for view {view} of block {block}"
        chunks = {layout.features_chunk(teacher, level, view, block) for level in levels.names}
        found = store.require(layout.features_unit(teacher, view, block), what).objects
        entries += [entry for entry in found if entry.path in chunks]
        index = layout.index_path(block)
        entries.append(store.entry(layout.images_unit(block), index, f"images of block {block}"))
    return entries
