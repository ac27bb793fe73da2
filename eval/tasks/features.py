"""Parts of an image set as the features that probes read.

Legend: N images, C classes, D width.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from ..features import LINEAR_BLOCKS
from ..knn import KnnConfig
from ..linear import LinearConfig
from ..pictures import Pixels
from ..probe import Features, IntArray
from ..subjects import Subject
from .base import Context, Example
from .encode import Encoded, Statistics, Transform, encode_pixels
from .sets.base import Part, Picture, read_picture
from .sizes import resized

PUBLISHED_SIZE = 224
PICTURES = 6


def published_transform(subject: Subject, size: int | None, statistics: Statistics, *, margin: bool) -> Transform:
    """The middle `size` pixels, None: as many as the subject is built for.

    Args:
        margin: of an image resized to 256/224 of that, as for kNN and the linear probe; without, as for logistic
            regression, of one resized to just that.
    """
    crop = size or subject.preprocessing.size
    return Transform(round(crop * 256 / PUBLISHED_SIZE) if margin else crop, crop, statistics)


def encode_parts(
    subject: Subject, parts: Sequence[Part], transform: Transform, context: Context, *, num_blocks: int = 1
) -> list[Encoded]:
    """Features of each part. A picture that is in several places is encoded once."""
    places: dict[Picture, int] = {}
    for part in parts:
        for picture in part.pictures:
            places.setdefault(picture, len(places))
    sized = resized(subject, transform.crop, context)
    reads = [partial(_pixels, picture, transform) for picture in places]
    found = encode_pixels(sized, reads, transform.mean_std(subject), context, num_blocks=num_blocks)
    rows = (np.array([places[picture] for picture in part.pictures], np.int64) for part in parts)
    return [Encoded(tuple(block[at] for block in found.blocks), found.patch_mean[at]) for at in rows]


def _pixels(picture: Picture, transform: Transform) -> Pixels:
    return transform.pixels(read_picture(picture))


def labelled(encoded: Encoded, labels_N: IntArray, num_classes: int) -> Features:
    """Features with their class numbers."""
    return Features(encoded.blocks, encoded.patch_mean, labels_N, num_classes)


def blocks_of(probe: KnnConfig | LinearConfig) -> int:
    """How many blocks' cls tokens a probe reads."""
    return LINEAR_BLOCKS if isinstance(probe, LinearConfig) else 1


def answers(part: Part, predictions_N: IntArray, classes: Sequence[str], transform: Transform) -> tuple[Example, ...]:
    """A few test images, evenly over the part, with what was said of them."""
    rows = np.unique(np.linspace(0, len(part) - 1, PICTURES).astype(np.int64))
    found = []
    for row in rows.tolist():
        said, true = classes[predictions_N[row]], classes[part.labels[row]]
        title = f"{true}: right" if said == true else f"{true}: taken for {said}"
        found.append(Example(key=f"test/{row}", panels=((title, _pixels(part.pictures[row], transform)),)))
    return tuple(found)
