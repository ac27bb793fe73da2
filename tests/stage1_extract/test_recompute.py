"""Asking the teacher again: a store that is right agrees, and one that is not is told by unit and row."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillhouse.core.errors import SpecMismatchError
from stillhouse.core.events import Reporter
from stillhouse.stage1_extract import recompute as module
from stillhouse.stage1_extract.config import ExtractConfig
from stillhouse.stage1_extract.extract import extract
from stillhouse.stage1_extract.recompute import SAME_COSINE, cosine, draw_rows, recompute
from stillhouse.stage1_extract.testing import tiny_store, tiny_teacher
from stillhouse.storage import layout
from stillhouse.storage.store import Store
from stillhouse.storage.writer import commit_features

RUN = ExtractConfig(device="cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`store` with the teachers `tiny` (fp16) and `small` (int8), and `weights`."""
    folder = tmp_path_factory.mktemp("home")
    store = tiny_store(folder)
    extract(store, tiny_teacher(folder / "weights", "small", codec="int8"), RUN, Reporter(quiet=True))
    return folder


@pytest.fixture
def own(home: Path, tmp_path: Path) -> Store:
    shutil.copytree(home / "store", tmp_path / "own")
    return Store.open(tmp_path / "own")


@pytest.mark.parametrize(("name", "codec", "nmse"), [("tiny", "fp16", 1e-3), ("small", "int8", 0.05)])
def test_a_store_agrees_with_its_teacher(home: Path, name: str, codec: Any, nmse: float) -> None:
    told: list[int] = []
    store = Store.open(home / "store")
    found, problems = recompute(store, tiny_teacher(home / "weights", name, codec=codec), RUN, 20, on_rows=told.append)
    assert problems == [] and sum(told) == 20
    assert [(one.teacher, one.level, one.codec, one.num_rows) for one in found] == [
        (name, "cls", codec, 20),
        (name, "patch", codec, 20),
    ]
    for one in found:
        assert one.min_same > 0.99999 and 0.98 < one.min_cosine <= one.mean_cosine <= 1 + 1e-9
        assert 0 < one.nmse < nmse and one.limit == SAME_COSINE


def test_a_notice_that_came_later_is_no_other_teacher(home: Path) -> None:
    noticed = tiny_teacher(home / "weights", notice="Copyright")
    assert recompute(Store.open(home / "store"), noticed, RUN, 2)[1] == []


def test_other_batches_agree(home: Path) -> None:
    store = Store.open(home / "store")
    found, problems = recompute(store, tiny_teacher(home / "weights", batch=3), RUN, 1000)
    assert problems == [] and found[0].num_rows == 2 * 28, "asked for more than there are: all rows"
    assert min(one.min_same for one in found) > 0.99999


def rewritten(store: Store, unit: tuple[int, int], change: Any) -> None:
    """A unit of features whose codes were changed before they were written."""
    view, block = unit
    rows = store.good_rows(block)
    codes = {level: change(store.codes("tiny", level, view, block, rows).copy()) for level in ("cls", "patch")}
    (store.root / layout.record_path(layout.features_unit("tiny", view, block))).unlink()
    commit_features(store, "tiny", view, block, codes, rows, {})


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda codes: np.roll(codes, 1, axis=0), 8),
        (lambda codes: np.concatenate([-codes[:1], codes[1:]]), 1),
        (lambda codes: np.concatenate([np.zeros_like(codes[:1]), codes[1:]]), 1),
    ],
    ids=["rows in another order", "one row with its sign turned", "one row of zeros"],
)
def test_wrong_rows_are_told(home: Path, own: Store, change: Any, wrong: int) -> None:
    rewritten(own, (1, 2), change)
    found, problems = recompute(Store.open(own.root), tiny_teacher(home / "weights"), RUN, 1000)
    assert {problem.unit for problem in problems} == {"features/tiny/001/000002"}
    assert {problem.path for problem in problems} <= {
        layout.features_chunk("tiny", level, 1, 2) for level in ("cls", "patch")
    }
    rows = {int(problem.found.split()[1]) for problem in problems}
    assert len(rows) == wrong and all(f"below {SAME_COSINE}" in problem.found for problem in problems)
    assert all(problem.redone_by == problem.unit for problem in problems)
    assert min(one.min_same for one in found) < SAME_COSINE


def test_another_teacher_is_refused(home: Path) -> None:
    with pytest.raises(SpecMismatchError, match="weights_sha256"):
        recompute(Store.open(home / "store"), tiny_teacher(home / "weights", seed=1), RUN, 4)


def test_damage_is_told_and_other_rows_are_asked(home: Path, own: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = own.root / layout.features_chunk("tiny", "patch", 0, 0)
    path.write_bytes(bytes(path.stat().st_size))
    found, problems = recompute(own, tiny_teacher(home / "weights"), RUN, 1000)
    assert [problem.unit for problem in problems] == ["features/tiny/000/000000"]
    assert found[0].num_rows == 2 * 28 - 8
    monkeypatch.setattr(module, "replay", lambda *args: np.zeros((32, 32, 3), np.uint8))
    found, problems = recompute(Store.open(home / "store"), tiny_teacher(home / "weights"), RUN, 5)
    assert found == [] and all("renders to other pixels" in problem.found for problem in problems) and problems


def test_rows_are_drawn_over_views_and_blocks(home: Path) -> None:
    store = Store.open(home / "store")
    drawn = draw_rows(store, "tiny", 20, 0)
    again, other = draw_rows(store, "tiny", 20, 0), draw_rows(store, "tiny", 20, 1)
    as_lists = [{unit: rows.tolist() for unit, rows in one.items()} for one in (drawn, again, other)]
    assert as_lists[0] == as_lists[1] != as_lists[2]
    assert sum(map(len, drawn.values())) == 20 and len(drawn) == 8, "two views of four blocks"
    for (_, block), rows in drawn.items():
        assert len(set(rows.tolist())) == len(rows) and set(rows.tolist()) <= set(store.good_rows(block).tolist())
    assert draw_rows(store, "tiny", 0, 0) == {}


def test_cosine() -> None:
    one = np.array([[[3, 4], [0, 0]]], np.float32)
    np.testing.assert_allclose(cosine(one, one), [[1, 1]])
    np.testing.assert_allclose(cosine(one, -one), [[-1, 1]])
    np.testing.assert_allclose(cosine(one, np.array([[[4, -3], [1, 0]]], np.float32)), [[0, 0]], atol=1e-12)
