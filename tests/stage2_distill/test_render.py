"""`render`: the pass over all training views, what a stop leaves of it, and training from what it made."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from stillhouse.core.errors import BusyError, CorruptError, MissingError, SpecMismatchError
from stillhouse.core.events import Reporter
from stillhouse.stage1_extract.testing import TINY_VIT, TINY_VIT_ARGS
from stillhouse.stage2_distill import render as module
from stillhouse.stage2_distill.config import DistillConfig
from stillhouse.stage2_distill.loader import Loader
from stillhouse.stage2_distill.render import render_views
from stillhouse.stage2_distill.run import distill
from stillhouse.storage.disk import only_process_in
from stillhouse.storage.rendered import read_rendered, rendered_folder, write_rendered
from stillhouse.storage.replay import replay
from stillhouse.storage.store import Store
from stillhouse.testing import run_here

QUIET = Reporter(quiet=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def config_of(**fields: Any) -> DistillConfig:
    student = {"model": TINY_VIT, "model_args": TINY_VIT_ARGS}
    given = {"student": student, "epochs": 1, "batch": 8, "ema": 0, "pixels": "rendered", **fields}
    return DistillConfig.model_validate(given)


def test_a_pass_renders_every_view_once(copy_store: Callable[[], Store]) -> None:
    store = copy_store()
    first = render_views(store, QUIET)
    assert first.num_views == first.num_written == 2 * 28 and first.num_bytes > 0
    written = contents(rendered_folder(store.root))
    again = render_views(store, QUIET)
    assert again.num_views == 2 * 28 and again.num_written == again.num_bytes == 0
    assert contents(rendered_folder(store.root)) == written


def test_a_pass_that_was_stopped_goes_on(copy_store: Callable[[], Store], monkeypatch: pytest.MonkeyPatch) -> None:
    store, wrote, left = copy_store(), write_rendered, [3]

    def stopping(*arguments: Any) -> int:
        if not left.pop():
            raise KeyboardInterrupt
        left.append(0)
        return wrote(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_rendered", stopping)
        with pytest.raises(KeyboardInterrupt):
            render_views(store, QUIET)
    result = render_views(store, QUIET)
    assert 0 < result.num_written < result.num_views == 56


def test_a_view_that_comes_out_otherwise_is_refused(
    copy_store: Callable[[], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = copy_store()
    monkeypatch.setattr(module, "replay", lambda *place: replay(*place) ^ np.uint8(place[1:] == (1, 2, 3)))
    with pytest.raises(CorruptError, match="view 1 of row 3 of block 2 is not rendered as the teacher saw it"):
        render_views(store, QUIET)


def test_one_pass_at_a_time(copy_store: Callable[[], Store]) -> None:
    store = copy_store()
    with only_process_in(rendered_folder(store.root)), pytest.raises(BusyError, match=r"store\.rendered"):
        render_views(store, QUIET)


def test_batches_come_from_rendered_views(copy_store: Callable[[], Store]) -> None:
    store = copy_store()
    render_views(store, QUIET)
    with Loader(store, {"tiny": ("cls",)}, config_of(), 32) as loader:
        for batch in loader.epoch(1):
            for pixels, (block, row) in zip(batch.pixels_BSSC, batch.pairs.tolist(), strict=True):
                np.testing.assert_array_equal(pixels, read_rendered(store, 1, block, row))


def test_training_from_views_that_are_not_there_names_the_verb(copy_store: Callable[[], Store], tmp_path: Path) -> None:
    store = copy_store()
    with pytest.raises(MissingError, match="8 of 8 blocks of rendered views") as caught:
        distill(store, config_of(), tmp_path / "run", QUIET)
    assert caught.value.hint == "run `stillhouse render`"


def test_a_run_is_another_one_from_rendered_views(copy_store: Callable[[], Store], tmp_path: Path) -> None:
    store = copy_store()
    render_views(store, QUIET)
    result, worked = distill(store, config_of(), tmp_path / "run", QUIET)
    assert worked and result.config["pixels"] == "rendered"
    with pytest.raises(SpecMismatchError, match="pixels"):
        distill(store, config_of(pixels="replay"), tmp_path / "run", QUIET)


def test_run_renders_before_it_trains(pipeline: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = run_here("run", pipeline, f"out={out}", "distill.pixels=rendered", "eval.linear=null", "eval.logistic=null")
    assert ended.status == 0, ended
    views = yaml.safe_load((out / "pipeline.resolved.yaml").read_text())["views"]["num"]
    assert f"views in {out}/store.rendered (" in ended.err and views == 2
    again = run_here("render", pipeline, f"out={out}", "--json")
    assert again.status == 0 and again.json()["written"] == 0 and "(already done)" in again.err
