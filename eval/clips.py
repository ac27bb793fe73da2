"""Frames of one clip as one sample: the mean of their features.

Works on anything whose rows have keys `<class>/<clip>/<frame>`: features of files, or those that a store holds of a teacher.

Legend: N frames, M clips, T tokens, D width, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stillhouse.core.errors import UsageError
from stillhouse.storage.specs import TRAIN
from stillhouse.storage.store import Store

from .probe import Features, FloatArray


@dataclass(frozen=True, eq=False)
class Frames:
    """What an encoder says of N frames: cls tokens of its last blocks, the last one LAST, the mean patch, their keys."""

    blocks: tuple[FloatArray, ...]
    patch_mean: FloatArray
    keys: tuple[str, ...]


def clip_of(key: str) -> str:
    """What the keys of one clip's frames begin with: all before the last slash."""
    return key.rpartition("/")[0]


def class_of(key: str) -> str:
    """The folder that the folder of a frame lies in; UsageError when there is none."""
    parts = key.split("/")
    if len(parts) < 3:
        raise UsageError(f"key {key!r} names no class and clip", hint="lay frames out as <class>/<clip>/<frame>")
    return parts[-3]


def average_rows(rows_ND: FloatArray, keys: Sequence[str]) -> FloatArray:
    """float32 [M, D]: the mean over the frames of each clip, summed in float64; clips sorted by name.

    Raises:
        UsageError: another number of keys than of rows.
    """
    if len(keys) != len(rows_ND):
        raise UsageError(f"{len(rows_ND)} rows of features and {len(keys)} keys", hint="give each row its key")
    clips, clip_N = np.unique([clip_of(key) for key in keys], return_inverse=True)
    sums_MD = np.zeros((len(clips), rows_ND.shape[1]))
    np.add.at(sums_MD, clip_N, rows_ND.astype(np.float64))
    means: FloatArray = (sums_MD / np.bincount(clip_N)[:, None]).astype(np.float32)
    return means


def clip_features(frames: Frames, classes: Sequence[str]) -> tuple[Features, tuple[str, ...]]:
    """A row a clip for any probe, labelled with the place of its class among `classes`; and the clips' names, sorted.

    Raises:
        UsageError: a frame of another class, or a key that names none.
    """
    number = {name: place for place, name in enumerate(classes)}
    labels = {clip_of(key): class_of(key) for key in frames.keys}
    if others := sorted(set(labels.values()) - number.keys()):
        raise UsageError(
            f"{others[0]!r} is none of {len(classes)} classes", hint="train and test need the same classes"
        )
    clips = tuple(sorted(labels))
    blocks = tuple(average_rows(block, frames.keys) for block in frames.blocks)
    patch_mean = average_rows(frames.patch_mean, frames.keys)
    labels_M = np.array([number[labels[clip]] for clip in clips], np.int64)
    return Features(blocks, patch_mean, labels_M, len(classes)), clips


def stored_frames(store: Store, teacher: str, *, view: int = 0) -> Frames:
    """What a store holds of a teacher about the images of its training split; no image and no teacher is needed.

    The class token of the last block is the only one there is; a teacher without stored patches gives it as their mean too.

    Raises:
        UsageError: no such teacher.
        MissingError: features of a block are not there yet.
    """
    keys: list[str] = []
    for block in store.plan.blocks_of(TRAIN):
        samples = store.samples(block)
        keys += [samples[row].key for row in store.good_rows(block).tolist()]
    cls_ND = _stored(store, teacher, "cls", view)
    has_patches = "patch" in store.teacher(teacher).levels
    return Frames((cls_ND,), _stored(store, teacher, "patch", view) if has_patches else cls_ND, tuple(keys))


def _stored(store: Store, teacher: str, level: str, view: int) -> FloatArray:
    """float32 [N, D]: the mean over the tokens of a level."""
    features, codec = store.features(teacher, level), store.codec(teacher, level)
    blocks = (codec.decode(features.read(view, block)) for block in store.plan.blocks_of(TRAIN))
    means: FloatArray = np.concatenate([tokens_NTD.mean(axis=1, dtype=np.float32) for tokens_NTD in blocks])
    return means
