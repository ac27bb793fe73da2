"""A store of several teachers, whose grids differ and of whom one scores classes."""

from pathlib import Path

import numpy as np
import pytest

from stillhouse.core.events import Reporter
from stillhouse.stage1_extract.config import ExtractConfig
from stillhouse.stage1_extract.extract import extract
from stillhouse.stage1_extract.testing import TINY_VIT_ARGS, tiny_store, tiny_teacher
from stillhouse.storage.codecs import fit_codec
from stillhouse.storage.seal import seal
from stillhouse.storage.specs import LevelSpec
from stillhouse.storage.store import Store
from stillhouse.storage.writer import commit_codecs, commit_features


@pytest.fixture(scope="session")
def taught_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """`tiny_store` with `fine` (a grid of 8 x 8) and `scorer` (levels cls, logits of 3 classes). Shared: do not write."""
    folder = tmp_path_factory.mktemp("taught")
    return add_teachers(tiny_store(folder), folder)


def add_teachers(store: Store, folder: Path) -> Store:
    """`store` with the two others; their weights are written into `folder`."""
    args = {**TINY_VIT_ARGS, "patch_size": 4, "embed_dim": 24}
    teacher = tiny_teacher(folder / "weights", "fine", seed=1, model_args=args, mean=(0.4, 0.4, 0.4))
    extract(store, teacher, ExtractConfig(device="cpu"), Reporter(quiet=True))
    _add_scorer(store)
    seal(store)
    return Store.open(store.root)


def _add_scorer(store: Store) -> None:
    """A teacher whose scores are a function of the class tokens of `tiny`."""
    levels = {"cls": LevelSpec(num_tokens=1, dim=48), "logits": LevelSpec(num_tokens=1, dim=3)}
    spec = store.teacher("tiny").model_copy(update={"name": "scorer", "levels": levels})
    classifier = np.random.Generator(np.random.PCG64(0)).normal(size=(48, 3)).astype(np.float32)

    def tokens(view: int, block: int) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
        cls = store.codec("tiny", "cls").decode(store.features("tiny", "cls").read(view, block))
        return {"cls": cls, "logits": cls @ classifier}

    store.add_teacher(spec)
    codecs = {level: fit_codec("fp16", found) for level, found in tokens(0, 0).items()}
    statistics = {
        level: {"mean": found.mean(axis=(0, 1)), "std": found.std(axis=(0, 1))} for level, found in tokens(0, 0).items()
    }
    commit_codecs(store, spec, codecs, statistics, {"fitted_on": {"block": 0, "view": 0}})
    for block in range(len(store.plan.blocks)):
        for view in range(store.spec.num_views):
            codes = {level: codecs[level].encode(found) for level, found in tokens(view, block).items()}
            commit_features(store, "scorer", view, block, codes, store.good_rows(block), {})
