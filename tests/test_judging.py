"""`run` with tasks and a search for leakage: judged, kept, shown, and refused where a data set is not there."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from stillhouse.eval.tasks.depth.task import DepthTask
from stillhouse.eval.tasks.segmentation.task import SegmentationTask
from stillhouse.testing import run_here

SCENES = {"train": 4, "val": 3, "noise": 0}
PLANES: dict[str, Any] = {
    "kind": "segmentation",
    "set": "scenes",
    "crop": 48,
    "batch": 2,
    "iterations": 3,
    "scenes": SCENES,
}
ROOMS: dict[str, Any] = {
    "kind": "depth",
    "layout": "scenes",
    "preset": "dinov2_lin1",
    "resolution": 48,
    "num_train": 4,
    "num_test": 3,
    "examples": 1,
    "changes": {"iterations": 3, "batch": 2},
}


def asked(*tasks: dict[str, Any]) -> str:
    return f"eval.tasks={yaml.safe_dump(list(tasks), default_flow_style=True, width=10_000).strip()}"


def test_tasks_are_judged_kept_and_shown(own: Path, pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = (pipeline, f"out={own}", asked(PLANES, ROOMS))
    ended = run_here("run", *given)
    assert ended.status == 0, ended.err
    done = [line for line in ended.err.splitlines() if line.startswith("eval: teacher")]
    assert done and done[0].endswith("held-out images and on 2 tasks")
    for words in ("segmentation-scenes-dinov2-linear", "mIoU", "depth-scenes-dinov2-lin1", "less is better"):
        assert words in ended.out
    folder = own / "eval" / "tasks" / "segmentation-scenes-dinov2-linear"
    names = ["student-seed0", "student-seed0-untrained", "teacher-tiny"]
    assert sorted(path.stem for path in folder.glob("*.json")) == names
    html, tables = (own / "report.html").read_text(), json.loads((own / "report-data.json").read_text())
    assert [section["kind"] for section in tables["tasks"]] == ["segmentation", "depth"]
    assert 'id="tasks"' in html and 'id="leakage"' in html and "Examples of" in html
    for task in (SegmentationTask, DepthTask):
        monkeypatch.setattr(task, "run", None)
    again = run_here("run", *given)
    assert again.last.startswith("nothing to do") and again.out == ended.out
    (own / "report.html").unlink()
    told = run_here("report", *given, "--json").json()
    (tasks,) = told["tasks"]
    assert (tasks[0]["metric"], tasks[0]["higher_is_better"]) == ("mIoU", True)
    assert not tasks[1]["higher_is_better"] and tasks[1]["gain"] == pytest.approx(
        tasks[1]["untrained"] - tasks[1]["student"]
    )
    shutil.rmtree(folder)
    refused = run_here("report", *given)
    assert refused.status == 2 and "teacher-tiny is not judged yet" in refused.err


def test_a_student_that_gained_nothing_on_a_task_is_no_go(own: Path, pipeline: Path) -> None:
    """Three steps of a head teach it nothing: no interval is above 0."""
    told = run_here("eval", pipeline, f"out={own}", asked(ROOMS), "--json").json()
    (task,) = told["tasks"][0]
    assert task["gain_low"] <= 0 and not told["go"]


def test_tasks_without_probes_need_no_labels(pipeline: Path, tmp_path: Path) -> None:
    none = [f"eval.{probe}=null" for probe in ("knn", "linear", "logistic")]
    given: tuple[str | Path, ...] = (
        pipeline,
        f"out={tmp_path / 'out'}",
        "ingest.source.label=none",
        asked(PLANES),
        *none,
    )
    ended = run_here("run", *given)
    assert ended.status == 0, ended.err
    assert "untrained, judged on 1 task" in ended.err and "held-out images" not in ended.out and "mIoU" in ended.out
    html = (tmp_path / "out" / "report.html").read_text()
    assert 'id="tasks"' in html and 'id="retention"' not in html and "#retention" not in html
    assert run_here("run", *given).last.startswith("nothing to do")


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ([PLANES, PLANES], "the name 'segmentation-scenes-dinov2-linear' is given twice"),
        ([PLANES | {"name": "knn"}], "the name 'knn' is given twice"),
        ([PLANES | {"name": "a/b"}], "a/b"),
        ([{"kind": "segmentation", "set": "voc2012", "path": "/nowhere"}], "/nowhere"),
        ([{"kind": "sorcery"}], "sorcery"),
    ],
)
def test_what_cannot_be_judged_is_told_before_anything(
    pipeline: Path, tmp_path: Path, tasks: list[dict[str, Any]], said: str
) -> None:
    ended = run_here("run", pipeline, f"out={tmp_path / 'out'}", asked(*tasks))
    assert ended.status in (2, 4) and said in ended.err and ended.err.count("\n") == 1, ended.err
    assert not (tmp_path / "out" / "store").exists()


def test_test_images_that_were_trained_on_are_told_of(pipeline: Path, tmp_path: Path) -> None:
    """Every image twice, so that about a third of the test images is in the training split too."""
    images, out = tmp_path / "images", tmp_path / "out"
    shutil.copytree(pipeline.parent / "images", images)
    for path in [path for path in images.rglob("*") if path.is_file()]:
        shutil.copy(path, path.with_stem(f"{path.stem}-copy"))
    given = (pipeline, f"out={out}", f"ingest.source.path={images}")
    ended = run_here("run", *given)
    assert ended.status == 0, ended.err
    assert (
        "eval: leakage: " in ended.err and "are among the training images" in ended.err and "the same file" in ended.err
    )
    told = run_here("eval", *given, "--json").json()["leakage"]
    assert told["pairs"]["file"] >= told["touched"] > 0 and set(told["top1"]) >= {
        "teacher-tiny, knn",
        "student-seed0, knn",
    }
    kept = out / "eval" / "leakage.json"
    before = kept.read_bytes()
    kept.write_bytes(before[:-9])
    assert run_here("run", *given).status == 0 and kept.read_bytes() == before, "what is damaged is found again"
    assert run_here("run", *given, "eval.leakage=null", "--json").json()["leakage"] is None
