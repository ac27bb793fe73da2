"""Stores to measure on: one teacher with one level, images of one byte.

Legend: N rows of a block, T tokens, D dimensions, C codes a token.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stillhouse.storage.codecs import fit_codec
from stillhouse.storage.index import SampleRow
from stillhouse.storage.specs import BlockPlan, LevelSpec, Preprocessing, StorePlan, StoreSpec, TeacherSpec
from stillhouse.storage.store import Store
from stillhouse.storage.writer import BlockSample, commit_codecs, commit_features, commit_images, keys_digest

TEACHER, LEVEL = "teacher", "patch"


def begin_store(root: Path, *, blocks: int, block_rows: int, views: int, tokens: int, dim: int, codec: str) -> Store:
    """A store with a plan, a teacher and a codec, and no block yet."""
    planned = BlockPlan(split="train", num_rows=block_rows, keys_sha256=keys_digest(_keys(block_rows)))
    spec = StoreSpec(ingest={}, views={"num": views, "size": 224, "policy": "center"})
    store = Store.create(root, spec, StorePlan(block_samples=block_rows, blocks=(planned,) * blocks))
    teacher = TeacherSpec(
        name=TEACHER,
        model="random numbers",
        weights_sha256="0" * 64,
        preprocessing=Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), size=224),
        levels={LEVEL: LevelSpec(num_tokens=tokens, dim=dim)},
        codec=codec,
        precision="fp32",
    )
    store.add_teacher(teacher)
    nothing = np.zeros((1, 1, dim), np.float32)
    statistics = {"mean": nothing[0, 0], "std": nothing[0, 0]}
    commit_codecs(store, teacher, {LEVEL: fit_codec(codec, nothing)}, {LEVEL: statistics}, {})
    return store


def fill_block(store: Store, block: int, codes_NTC: npt.NDArray[Any]) -> None:
    """The images of a block, and these codes for each of its views."""
    rows = len(codes_NTC)
    samples = [SampleRow(key, "a label", None, 1, 1, "png", 0, 1, 0, "0" * 64, 1) for key in _keys(rows)]
    commit_images(store, block, [BlockSample(sample, b"x") for sample in samples])
    for view in range(store.spec.num_views):
        commit_features(store, TEACHER, view, block, {LEVEL: codes_NTC}, np.arange(rows), {})


def _keys(rows: int) -> list[str]:
    return [f"sample/{row:08d}.jpg" for row in range(rows)]
