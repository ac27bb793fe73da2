"""Small stores to measure on: one of training images for the teacher, one of repeated codes for the student."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stillhouse.core.stops import worker_threads
from stillhouse.stage1_extract.config import IngestConfig
from stillhouse.stage1_extract.ingest import DECODE_THREADS, read_sample
from stillhouse.stage1_extract.policies import ViewPolicyConfig, draw
from stillhouse.stage1_extract.sources import Item, Source
from stillhouse.storage import layout
from stillhouse.storage.index import SampleRow
from stillhouse.storage.seal import seal
from stillhouse.storage.specs import TRAIN, BlockPlan, StorePlan, StoreSpec
from stillhouse.storage.store import Store
from stillhouse.storage.writer import (
    BlockSample,
    commit_codecs,
    commit_features,
    commit_images,
    commit_view,
    keys_digest,
)

from .pipeline_config import PipelineConfig
from .planning import Number

BATCHES = 16
"""Batches of the store that the student is timed on, unless they are more than `BATCH_BYTES` of codes; at least three."""
BATCH_BYTES = 256 << 20

Codes = Mapping[str, Mapping[str, npt.NDArray[Any]]]


@dataclass(frozen=True, slots=True)
class Images:
    """A store of training images with one view, what it was made with, and the seconds that an image took."""

    store: Store
    ingest: IngestConfig
    views: ViewPolicyConfig
    each: Number

    @property
    def blocks(self) -> list[int]:
        return self.store.plan.blocks_of(TRAIN)


def ingest_some(root: Path, config: PipelineConfig, source: Source, items: Sequence[Item]) -> Images:
    """Some training samples, read and committed as `ingest` does."""
    rows = min(config.ingest.block_samples, len(items))
    ingest = config.ingest.model_copy(update={"split": {}, "subset": None, "block_samples": rows})
    views = config.views.model_copy(update={"num": 1})
    cuts = [items[start : start + rows] for start in range(0, len(items), rows)]
    spec = StoreSpec(ingest=ingest.spec(), views=views.model_dump(mode="json"))
    store = Store.create(root, spec, _plan(rows, [[item.key for item in cut] for cut in cuts]))
    begin = time.perf_counter()
    with worker_threads(DECODE_THREADS, "decode") as pool:
        for number, cut in enumerate(cuts):
            commit_images(store, number, pool.map(lambda item: read_sample(source, item), cut))
    each = (time.perf_counter() - begin) / len(items)
    return Images(store, ingest, views, Number(each, "measured", f"{len(items):,} images"))


def _plan(rows: int, keys: Sequence[Sequence[str]]) -> StorePlan:
    blocks = [BlockPlan(split=TRAIN, num_rows=len(some), keys_sha256=keys_digest(some)) for some in keys]
    return StorePlan(block_samples=rows, blocks=tuple(blocks))


def store_to_train_on(root: Path, config: PipelineConfig, roots: Mapping[str, Path]) -> Store:
    """A sealed store with rows for some batches: samples and codes of others again and again, under new keys.

    Args:
        roots: by teacher the store with its features.
    """
    stores = {name: Store.open(other) for name, other in roots.items()}
    codes = {name: _codes(store, name) for name, store in stores.items()}
    row_bytes = sum(level[0].nbytes for levels in codes.values() for level in levels.values())
    batch = config.distill.batch
    num = batch * int(np.clip(BATCH_BYTES // (row_bytes * batch), 3, BATCHES))
    samples = _samples(next(iter(stores.values())))
    rows = min(config.ingest.block_samples, num)
    runs = [range(start, min(num, start + rows)) for start in range(0, num, rows)]
    keys = [f"{place}/{samples[place % len(samples)][0].key}"[:200] for place in range(num)]
    views = config.views.model_copy(update={"num": config.distill.repeats})
    spec = StoreSpec(ingest={"source": "plan"}, views=views.model_dump(mode="json"))
    store = Store.create(root, spec, _plan(rows, [[keys[place] for place in run] for run in runs]))
    for name, other in stores.items():
        _copy_codecs(store, other, name)
    for block, run in enumerate(runs):
        chosen = [(samples[place % len(samples)], keys[place]) for place in run]
        commit_images(store, block, (BlockSample(replace(row, key=key), data) for (row, data), key in chosen))
        for view in range(views.num):
            params = [draw(views, key, row.width, row.height, view) for (row, _), key in chosen]
            commit_view(store, view, block, np.stack(params), np.ones(len(run), np.uint64))
            for name, levels in codes.items():
                some = {level: np.take(found, np.array(run), 0, mode="wrap") for level, found in levels.items()}
                commit_features(store, name, view, block, some, np.arange(len(run)), {})
    seal(store)
    return store


def _samples(store: Store) -> list[tuple[SampleRow, bytes]]:
    """Every good sample of a store, with its encoded image."""
    return [
        (sample, store.image_bytes(block, row))
        for block in store.plan.blocks_of(TRAIN)
        for row, sample in enumerate(store.samples(block))
        if sample.reason is None
    ]


def _codes(store: Store, teacher: str) -> dict[str, npt.NDArray[Any]]:
    """Codes of view 0 by level, [N, T, C]."""
    blocks = store.plan.blocks_of(TRAIN)
    levels = store.teacher(teacher).levels
    return {
        level: np.concatenate([store.features(teacher, level).read(0, block) for block in blocks]) for level in levels
    }


def _copy_codecs(store: Store, other: Store, name: str) -> None:
    """A teacher of another store, with its codecs."""
    teacher = other.teacher(name)
    store.add_teacher(teacher)
    facts = other.require(layout.codecs_unit(name), f"codecs of {name}").facts
    statistics = {
        level: dict(zip(("mean", "std"), other.statistics(name, level), strict=True)) for level in teacher.levels
    }
    codecs = {level: other.codec(name, level) for level in teacher.levels}
    commit_codecs(store, teacher, codecs, statistics, {key: facts[key] for key in facts if key != "levels"})
