"""Checks beyond sha256: do the recorded bytes decode, agree with each other, and render to the pixels they promise?

`verify` tells whether objects are what was written. This tells whether what was written was right.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import PIL
from PIL import features as pil_features

from stillhouse.core.errors import CorruptError, MissingError
from stillhouse.core.stops import worker_threads

from . import layout
from .decode import BadImage, decode, pixel_hash
from .index import SampleRow
from .records import Record
from .store import Store
from .verify import Problem
from .views import check_params, render, view_hash
from .writer import keys_digest

PIECE_BYTES = 16 << 20
"""Rows are decoded this much at a time."""


def deep_problems(store: Store, record: Record, on_bytes: Callable[[int], None]) -> Iterator[Problem]:
    """Decode every row of a unit, and hold the unit against the index of samples and the plan.

    Args:
        on_bytes: told the size in bytes of each object that was decoded.
    """
    try:
        match record.unit.split("/"):
            case ["images", block] if int(block) < len(store.plan.blocks):  # or it was added since the store was opened
                yield from _images(store, record, int(block))
            case ["views", view, block] if int(block) < len(store.plan.blocks):
                yield from _views(store, record, int(view), int(block))
            case ["codecs", teacher]:
                yield from _codecs(store, record, teacher)
            case ["features", teacher, view, block] if int(block) < len(store.plan.blocks):
                yield from _features(store, record, teacher, int(view), int(block))
    except CorruptError as error:
        yield Problem(record.unit, record.objects[0].path, error.message)
    on_bytes(sum(entry.num_bytes for entry in record.objects))


def _images(store: Store, record: Record, block: int) -> Iterator[Problem]:
    """The index against plan and record, and the crc32c of every image."""
    index, planned = layout.index_path(block), store.plan.blocks[block]
    try:
        samples = list(store.samples(block))
    except CorruptError as error:
        yield Problem(record.unit, index, error.message)
        return
    if len(samples) != planned.num_rows or keys_digest(s.key for s in samples) != planned.keys_sha256:
        yield Problem(record.unit, index, f"{len(samples)} samples, and not those of the plan")
        return
    bad = [{"row": i, "key": s.key, "reason": s.reason} for i, s in enumerate(samples) if s.reason is not None]
    if bad != record.facts["quarantined"]:
        yield Problem(record.unit, index, f"has {len(bad)} samples in quarantine, the record names others")
        return
    for row, sample in enumerate(samples):
        if sample.reason is None:
            try:
                store.image_bytes(block, row)
            except CorruptError as error:
                yield Problem(record.unit, layout.images_path(block), error.message)


def _views(store: Store, record: Record, view: int, block: int) -> Iterator[Problem]:
    """Parameters that could have been drawn for just the good samples, each with a hash."""
    params, hashes = store.view_params(view, block), store.view_hashes(view, block)
    good = store.good_rows(block)
    absent = np.setdiff1d(np.arange(len(params)), good)
    samples = list(store.samples(block))
    sizes = np.array([(samples[row].width, samples[row].height) for row in good], np.int64).reshape(-1, 2)
    where = f"view {view} of block {block}"
    try:
        check_params(params[good], sizes, size=store.spec.view_size, where=where)
    except CorruptError as error:
        yield Problem(record.unit, layout.params_chunk(view, block), error.message)
    if (params[absent] != layout.MISSING_PARAM).any():
        yield Problem(record.unit, layout.params_chunk(view, block), "has parameters of samples in quarantine")
    if (hashes[good] == layout.MISSING_HASH).any() or (hashes[absent] != layout.MISSING_HASH).any():
        yield Problem(record.unit, layout.hash_chunk(view, block), "has hashes of other samples than the good ones")


def _codecs(store: Store, record: Record, teacher: str) -> Iterator[Problem]:
    """Every level has a codec and statistics of its width, all finite."""
    for level, spec in store.teacher(teacher).levels.items():
        codec, group = store.codec(teacher, level), layout.codec_group(teacher, level)
        statistics = dict(zip(("mean", "std"), store.statistics(teacher, level), strict=True))
        arrays = {**codec.arrays(), **statistics}
        if codec.dim != spec.dim:
            yield Problem(record.unit, f"{group}/zarr.json", f"is of width {codec.dim}, the teacher's is {spec.dim}")
        for name, array in statistics.items():
            if len(array) != spec.dim:
                found = f"has {len(array)} values for a teacher of width {spec.dim}"
                yield Problem(record.unit, f"{group}/{name}/zarr.json", found)
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                yield Problem(record.unit, f"{group}/{name}/c/0", "has values that are not finite")


def _features(store: Store, record: Record, teacher: str, view: int, block: int) -> Iterator[Problem]:
    """Every row against its crc32c, rows for just the good samples, and finite when decoded."""
    good = store.good_rows(block)
    absent = np.setdiff1d(np.arange(store.plan.block_samples), good)
    if record.facts.get("rows") != len(good):
        text = f"says {record.facts.get('rows')} rows, the index has {len(good)} good samples"
        yield Problem(record.unit, layout.record_path(record.unit), text)
    for level in store.teacher(teacher).levels:
        path = layout.features_chunk(teacher, level, view, block)
        try:
            features, codec = store.features(teacher, level), store.codec(teacher, level)
            step = max(1, PIECE_BYTES // max(1, features.row_bytes))
            for start in range(0, len(good), step):
                some = good[start : start + step]
                finite_N = np.isfinite(codec.decode(features.read(view, block, some))).all(axis=(1, 2))
                if not finite_N.all():
                    bad = some[~finite_N]
                    yield Problem(record.unit, path, f"{len(bad)} rows are not finite, first row {bad[0]}")
            extra = [int(row) for row in absent if _is_there(store, teacher, level, view, block, int(row))]
            if extra:
                yield Problem(record.unit, path, f"{len(extra)} rows too many, first row {extra[0]}")
        except CorruptError as error:
            yield Problem(record.unit, path, error.message)


def _is_there(store: Store, teacher: str, level: str, view: int, block: int, row: int) -> bool:
    try:
        store.features(teacher, level).read(view, block, [row])
    except MissingError:
        return False
    return True


SOURCE, DECODED, VIEW = "source bytes", "decoded pixels", "view pixels"
Difference = tuple[str, int | None]
"""The first level that differs, and the view if it is that of a view."""


def pixel_problems(store: Store, block: int, threads: int, on_image: Callable[[int], None]) -> Iterator[Problem]:
    """Decode and render every sample of a block again, and compare with the recorded hashes.

    The first level that differs is named: source bytes (the image is damaged), decoded pixels (another decoder), view
    pixels (another renderer).
    """
    unit = layout.images_unit(block)
    if store.record(unit) is None:
        return
    try:
        samples = list(store.samples(block))
        drawn = {
            view: (store.view_params(view, block), store.view_hashes(view, block))
            for view in range(store.spec.num_views)
            if store.record(layout.views_unit(view, block)) is not None
        }
    except CorruptError as error:
        yield Problem(unit, layout.index_path(block), error.message)
        return

    def one(row: int) -> Difference | None:
        sample = samples[row]
        found = _pixels(store, block, row, sample)
        if isinstance(found, str):
            return found, None
        for view, (params, hashes) in drawn.items():
            try:
                pixels = render(found, params[row], store.spec.view_size)
            except CorruptError:  # parameters that no image of this size can have
                return VIEW, view
            if view_hash(pixels) != int(hashes[row]):
                return VIEW, view
        return None

    good = [row for row, sample in enumerate(samples) if sample.reason is None]
    found: Counter[Difference] = Counter()
    first: dict[Difference, str] = {}
    with worker_threads(threads, "render") as pool:
        for row, difference in zip(good, pool.map(one, good), strict=True):
            on_image(1)
            if difference is not None:
                found[difference] += 1
                first.setdefault(difference, samples[row].key)
    for (level, view), count in found.items():
        yield _told(block, level, view, count, len(good), first[level, view])


def _pixels(store: Store, block: int, row: int, sample: SampleRow) -> "PIL.Image.Image | str":
    """The decoded image of a sample, or the level at which it differs."""
    try:
        data = store.image_bytes(block, row)
    except CorruptError:
        return SOURCE
    if hashlib.sha256(data).hexdigest() != sample.source_sha256:
        return SOURCE
    try:
        image = decode(data)
    except BadImage:
        return DECODED
    return image if pixel_hash(image) == sample.pixel_hash else DECODED


def _told(block: int, level: str, view: int | None, count: int, num: int, key: str) -> Problem:
    found = f"{count} of {num} samples differ in their {level}, first {key!r}"
    if level == SOURCE:
        return Problem(layout.images_unit(block), layout.images_path(block), found)
    remedy = f"compare with the versions that made the store; here are {decoder_versions()}"
    if view is None:
        return Problem(layout.images_unit(block), layout.images_path(block), found, remedy)
    return Problem(layout.views_unit(view, block), layout.hash_chunk(view, block), found, remedy)


def decoder_versions() -> str:
    """What turns bytes into pixels here."""
    libraries = {"jpg": "libjpeg", "libjpeg_turbo": "libjpeg-turbo", "zlib": "zlib", "webp": "webp"}
    found = {name: pil_features.version(feature) for feature, name in libraries.items()}
    if found["libjpeg-turbo"]:
        del found["libjpeg"]
    return ", ".join(
        [f"Pillow {PIL.__version__}", *(f"{name} {version}" for name, version in found.items() if version)]
    )
