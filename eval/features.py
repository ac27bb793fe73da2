"""Features of labelled images of a store: the plain middle of each image, through an encoder.

Legend: N images, B batch, S side of a view, D width, T patches.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from stillhouse.core.encoders import normalise, pick_device
from stillhouse.core.errors import UsageError
from stillhouse.core.pixels import resize_pixels
from stillhouse.storage.decode import decode
from stillhouse.storage.labels import classes_in
from stillhouse.storage.replay import replay
from stillhouse.storage.store import Store
from stillhouse.storage.views import center_params, render

from .probe import Features
from .subjects import Subject

if TYPE_CHECKING:  # it names every task, and tasks read features
    from .config import EvalConfig

LINEAR_BLOCKS = 4
"""The linear probe reads the cls tokens of the last four blocks (DINOv2)."""

UNLABELLED = (
    "give labels (in a folder source: one folder a class); or train without probes: `stillhouse ingest`, `extract`, "
    "`distill`"
)


@dataclass(frozen=True, slots=True)
class LabelledRows:
    """The samples of one split that have a label: where they are, what they are called, their class numbers."""

    at: tuple[tuple[int, int], ...]
    keys: tuple[str, ...]
    labels_N: npt.NDArray[np.int64]


def classes_of(store: Store) -> tuple[str, ...]:
    """All labels in the store, sorted; their positions are the class numbers."""
    return classes_in(store, range(len(store.plan.blocks)))


def labelled_rows(store: Store, split: str) -> LabelledRows:
    """The labelled samples of a split, from the index alone.

    Raises:
        UsageError: the store has no such split, or no labels in it.
    """
    splits = sorted({block.split for block in store.plan.blocks})
    if split not in splits:
        known = f"store {store.name} has no split {split!r}, only {', '.join(splits)}"
        raise UsageError(known, hint="set ingest.split, e.g. {test: 0.2}, with another `store`, or eval.test")
    number = {label: i for i, label in enumerate(classes_of(store))}
    found = []
    for block in store.plan.blocks_of(split):
        samples = list(store.samples(block))
        found += [((block, i), samples[i]) for i in store.good_rows(block).tolist() if samples[i].label is not None]
    if not found:
        message = f"no image of split {split!r} of store {store.name} has a label, and probes need labels"
        raise UsageError(message, hint=UNLABELLED)
    labels = np.array([number[str(sample.label)] for _, sample in found], np.int64)
    return LabelledRows(tuple(at for at, _ in found), tuple(sample.key for _, sample in found), labels)


def require_labels(store: Store, config: "EvalConfig") -> None:
    """UsageError unless both splits of the probes have labelled images, those to fit on of two classes."""
    train, _ = labelled_rows(store, config.train), labelled_rows(store, config.test)
    if len(np.unique(train.labels_N)) < 2:
        label = classes_of(store)[train.labels_N[0]]
        message = f"all labelled images of split {config.train!r} of store {store.name} are {label!r}"
        raise UsageError(message, hint=f"a probe needs two classes: {UNLABELLED}")


def middle_pixels(
    store: Store, rows: LabelledRows, threads: int, advance: Callable[[int], None] = lambda num: None
) -> npt.NDArray[np.uint8]:
    """uint8 [N, S, S, 3]: the plain middle of each image at the size of the store's views."""

    def one(at: tuple[int, int]) -> npt.NDArray[np.uint8]:
        image = decode(store.image_bytes(*at))
        return render(image, np.array(center_params(*image.size), np.int32), store.spec.view_size)

    return _rendered(one, store, rows, threads, advance)


def view_pixels(
    store: Store, view: int, rows: LabelledRows, threads: int, advance: Callable[[int], None] = lambda num: None
) -> npt.NDArray[np.uint8]:
    """uint8 [N, S, S, 3]: a stored view of each image, replayed."""

    def one(at: tuple[int, int]) -> npt.NDArray[np.uint8]:
        return replay(store, view, *at)

    return _rendered(one, store, rows, threads, advance)


def _rendered(
    one: Callable[[tuple[int, int]], npt.NDArray[np.uint8]],
    store: Store,
    rows: LabelledRows,
    threads: int,
    advance: Callable[[int], None],
) -> npt.NDArray[np.uint8]:
    """What `one` makes of each row, in threads."""
    size = store.spec.view_size
    pixels_NSSC = np.empty((len(rows.at), size, size, 3), np.uint8)
    with ThreadPoolExecutor(threads) as pool:
        for i, pixels in enumerate(pool.map(one, rows.at)):
            pixels_NSSC[i] = pixels
            advance(1)
    return pixels_NSSC


def encode_images(
    subject: Subject,
    pixels_NSSC: npt.NDArray[np.uint8],
    labels_N: npt.NDArray[np.int64],
    num_classes: int,
    config: "EvalConfig",
    advance: Callable[[int], None] = lambda num: None,
) -> Features:
    """What the probes read of one encoder, float32."""
    device = pick_device(config.device)
    encoder = subject.encoder.to(device)
    cls: list[list[npt.NDArray[np.float32]]] = []
    means: list[npt.NDArray[np.float32]] = []
    for pixels in batches(pixels_NSSC, config.batch):
        x_BCHW = _input(subject, pixels, device)
        with torch.inference_mode():
            blocks, patch_BTD = encoder.last_blocks(x_BCHW, LINEAR_BLOCKS)
        cls.append([block.float().cpu().numpy() for block in blocks])
        means.append(patch_BTD.mean(dim=1).float().cpu().numpy())
        advance(len(pixels))
    joined = tuple(np.concatenate(parts) for parts in zip(*cls, strict=True))
    return Features(joined, np.concatenate(means), labels_N, num_classes)


def patch_maps(
    subject: Subject, pixels_NSSC: npt.NDArray[np.uint8], config: "EvalConfig"
) -> tuple[list[npt.NDArray[np.float32]], tuple[int, int]]:
    """Patch tokens [T, D] of each image, and the grid they lie on."""
    device = pick_device(config.device)
    with torch.inference_mode():
        tokens = subject.encoder.to(device)(_input(subject, pixels_NSSC, device))
    return list(tokens.patch_BTD.float().cpu().numpy()), tokens.grid


def _input(subject: Subject, pixels: npt.NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    seen = subject.preprocessing
    return normalise(resize_pixels(pixels, seen.size), seen.mean, seen.std, device)


def batches(pixels: npt.NDArray[np.uint8], batch: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Consecutive pieces of at most `batch` rows."""
    for start in range(0, len(pixels), batch):
        yield pixels[start : start + batch]
