"""Pictures for a report: patch tokens as colours (PCA as RGB), upscaling, PNG data URIs.

Shapes: T tokens of one view, D their dimension, grid (rows, columns) with rows * columns = T.
"""

import base64
import io
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

MID_GREY = 128
EXACT_CHARS = 8_000  # a longer data URI of a picture is worth the small errors of JPEG
RANK_TOLERANCE = 1e-9  # a component with less than this share of the first one's variance is noise


def pca_rgb(tokens: Sequence[NDArray[Any]], grids: Sequence[tuple[int, int]]) -> list[Pixels]:
    """Float tokens of one encoder, a [T, D] per view -> uint8 [rows, columns, 3] per view, in one shared PCA.

    The first three principal components become red, green and blue, each scaled from its 1st to its 99th percentile
    over all views; of each component the largest loading is positive, so the same tokens give the same colours. A
    component that is constant or not there is mid-grey; a token with a NaN or an infinity is black.

    Raises:
        ValueError: another number of grids than of token arrays, a grid that does not fit, or unequal dimensions.
    """
    _check(tokens, grids)
    if not tokens:
        return []
    every = np.concatenate([np.asarray(one, dtype=np.float64) for one in tokens])
    good = np.isfinite(every).all(axis=1)
    colours = np.zeros((len(every), 3), dtype=np.uint8)
    if good.any():
        colours[good] = _to_uint8(_components(every[good]))
    ends = np.cumsum([len(one) for one in tokens])[:-1]
    split = np.split(colours, ends)
    return [one.reshape(rows, columns, 3) for one, (rows, columns) in zip(split, grids, strict=True)]


def match_colours(maps: Sequence[Pixels], reference: Sequence[Pixels]) -> list[Pixels]:
    """`maps` (uint8 [h, w, 3] each) with channels reordered and inverted to look most like `reference`.

    Two encoders' principal components have no common order or sign. One order and one set of inversions is chosen for
    all maps together, by least squared difference; no colour is otherwise changed. Maps of another size than their
    reference are compared at the reference's size.

    Raises:
        ValueError: unequal numbers of maps and references.
    """
    if len(maps) != len(reference):
        raise ValueError(f"{len(maps)} maps and {len(reference)} references")
    if not maps:
        return []
    pairs = [(_resize(one, like.shape[:2]), like) for one, like in zip(maps, reference, strict=True)]
    ours, theirs = (np.concatenate([p[i].reshape(-1, 3) for p in pairs]).astype(np.int64) for i in (0, 1))
    # cost[flip][i][j]: putting our channel i, inverted or not, where the reference has channel j
    cost = np.array([((side[:, :, None] - theirs[:, None, :]) ** 2).sum(axis=0) for side in (ours, 255 - ours)])
    best = cost.min(axis=0)
    order = min(itertools.permutations(range(3)), key=lambda p: int(sum(best[p[j], j] for j in range(3))))
    flips = np.array([255 if cost[1, order[j], j] < cost[0, order[j], j] else 0 for j in range(3)], dtype=np.uint8)
    return [one[:, :, list(order)] ^ flips for one in maps]  # x ^ 255 is 255 - x


def upscale_nearest(pixels: Pixels, display_px: int) -> Pixels:
    """uint8 [h, w, 3] -> [k h, k w, 3] with the least whole k whose longer side reaches `display_px`."""
    times = max(1, -(-display_px // max(pixels.shape[:2])))
    return pixels.repeat(times, axis=0).repeat(times, axis=1)


def shrink(pixels: Pixels, longest: int) -> Pixels:
    """uint8 [h, w, 3] with its longer side at most `longest`, averaged over what each pixel covers."""
    height, width = pixels.shape[:2]
    if max(height, width) <= longest:
        return pixels
    size = [max(1, round(side * longest / max(height, width))) for side in (width, height)]
    image = Image.fromarray(np.ascontiguousarray(pixels)).resize((size[0], size[1]), Image.Resampling.BOX)
    return np.asarray(image)


def data_uri_photo(pixels: Pixels) -> str:
    """uint8 [h, w, 3] as a data URI: the same pixels as PNG where that is small, nearly the same as JPEG elsewhere."""
    exact = data_uri_png(pixels)
    if len(exact) <= EXACT_CHARS:
        return exact
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.save(buffer, format="JPEG", quality=88, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def data_uri_png(pixels: Pixels) -> str:
    """uint8 [h, w, 3] -> the same pixels as a `data:image/png;base64,` URI."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _check(tokens: Sequence[NDArray[Any]], grids: Sequence[tuple[int, int]]) -> None:
    if len(tokens) != len(grids):
        raise ValueError(f"{len(tokens)} token arrays and {len(grids)} grids")
    for number, (one, (rows, columns)) in enumerate(zip(tokens, grids, strict=True)):
        if one.ndim != 2 or len(one) != rows * columns or one.shape[1] != tokens[0].shape[1]:
            dim = tokens[0].shape[-1]
            raise ValueError(f"tokens {number}: shape {one.shape} is not ({rows} * {columns}, {dim})")


def _components(tokens: NDArray[np.float64]) -> NDArray[np.float64]:
    """[T, D] finite -> scores [T, 3] on the first three principal components; absent ones are zero."""
    largest = np.abs(tokens).max(initial=0.0)
    scores = np.zeros((len(tokens), 3))
    if largest == 0:
        return scores
    centred = tokens / largest  # first, so that nothing below overflows
    centred -= centred.mean(axis=0)
    wide = centred.shape[1] > len(centred)  # the smaller of the two Gram matrices has the same eigenvalues
    variances, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    variances, vectors = variances[::-1][:3], vectors[:, ::-1][:, :3]
    real = variances > max(RANK_TOLERANCE * variances[0], 1e-24 * len(tokens))
    axes = (centred.T @ vectors[:, real] / np.sqrt(variances[real])) if wide else vectors[:, real]
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    scores[:, : axes.shape[1]] = centred @ (axes * signs)
    return scores


def _to_uint8(scores: NDArray[np.float64]) -> Pixels:
    """[T, 3] -> uint8 [T, 3], the 1st percentile of each column at 0 and the 99th at 255."""
    low, high = np.percentile(scores, (1, 99), axis=0)
    spread = high - low
    flat = spread <= 0
    scaled = (scores - low) / np.where(flat, 1.0, spread)
    scaled[:, flat] = MID_GREY / 255
    pixels: Pixels = np.rint(np.clip(scaled, 0.0, 1.0) * 255).astype(np.uint8)
    return pixels


def _resize(pixels: Pixels, shape: tuple[int, ...]) -> Pixels:
    """Nearest-neighbour sampling to `shape` = (h, w)."""
    if pixels.shape[:2] == shape:
        return pixels
    rows, columns = (np.arange(new) * old // new for new, old in zip(shape, pixels.shape[:2], strict=True))
    resized: Pixels = pixels[rows][:, columns]
    return resized
