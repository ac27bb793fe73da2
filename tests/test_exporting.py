"""The verb `export`: from a finished run alone to a folder that others open, with what is known of it on its card."""

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

from stillhouse.core.config import parse_config
from stillhouse.stage1_extract.config import TeacherConfig
from stillhouse.stage2_distill.export import FORMATS
from stillhouse.storage.signed_json import canonical_json
from stillhouse.testing import Ended, run_here

PAGE = Path(__file__).parents[1] / "docs" / "export.md"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A finished run of its own, with what `eval` said of it; store and teacher are gone."""
    shutil.copytree(finished / "students", tmp_path / "o" / "students")
    shutil.copytree(finished / "eval", tmp_path / "o" / "eval")
    return tmp_path / "o" / "students" / "student-seed0"


def edit(path: Path, **changes: Any) -> None:
    path.write_bytes(canonical_json({**json.loads(path.read_text()), **changes}))


def license_it(run: Path, licence: str, notice: str = "") -> None:
    card = json.loads((run / "student" / "card.json").read_text())
    spec = {**card["teacher_spec"], "licence": licence, **({"notice": notice} if notice else {})}
    edit(run / "student" / "card.json", teacher_spec=spec)


def export(run: Path, to: str, out: Path, *more: str | Path) -> Ended:
    return run_here("export", run, "--to", to, "--out", out, *more)


def refused(ended: Ended, status: int = 2) -> str:
    assert ended.status == status and ended.out == "" and ended.err.count("\n") == 1, ended
    return ended.err.removeprefix("error: ").strip()


@pytest.mark.parametrize("to", FORMATS)
def test_every_format_comes_with_its_card(run: Path, tmp_path: Path, to: str) -> None:
    ended = export(run, to, tmp_path / "out", "--json")
    assert ended.status == 0, ended.err
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    result = json.loads((run / "result.json").read_text())
    told = ended.json()
    assert told == {
        "folder": str(tmp_path / "out"),
        "format": to,
        "files": card["files"],
        "weights_sha256": result["weights_sha256"],
        "warnings": ["teacher 'tiny' names no licence: find out what its weights allow before you pass this on"],
    }
    assert ended.err.startswith(f"mind: {told['warnings'][0]}\nexport: vit_tiny_patch16_224 as {to} in ")
    assert ended.err.endswith("card.json, README.md), with its scores\n")
    assert card["store_sha256"] == result["store_sha256"] and card["config"] == result["config"]
    assert card["teacher_spec"]["name"] == "tiny" and card["made_with"].keys() == {"stillhouse", "torch", "timm"}
    assert set(card["scores"]) == {"student", "teacher", "untrained"}
    assert set(card["scores"]["student"]) == {"knn", "linear", "logistic-dinov2"}
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {*card["files"], "card.json", "README.md"}
    readme = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(readme.split("---")[1])
    assert front["license"] == "other" and front["pipeline_tag"] == "image-feature-extraction"
    score = card["scores"]["student"]["knn"]["top1"]
    assert re.search(rf"\| knn \| top1 \| {score:.3f} \| ", readme)
    assert "**Mind:** teacher 'tiny' names no licence" in readme and "Intended use: " in readme


@pytest.mark.parametrize("to", FORMATS)
def test_what_the_readme_says_opens_it(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str) -> None:
    export(run, to, tmp_path / "out")
    (usage,) = re.findall(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path / "out")
    found = executed(usage, to, monkeypatch, {})
    assert any(name in found for name in ("model", "weights", "session"))


@pytest.mark.parametrize("to", FORMATS)
def test_what_the_page_says_opens_it(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    heading = {"timm": "timm", "dinov2": "DINOv2", "proteus": "Proteus", "onnx": "ONNX"}.get(to, to)
    found = re.search(rf"## {heading}\n\n```python\n(.*?)```", page, re.DOTALL)
    assert found is not None and found[1].count("\n") <= 5
    export(run, to, tmp_path / "DIR")
    monkeypatch.chdir(tmp_path)
    executed(found[1], to, monkeypatch, json.loads((tmp_path / "DIR" / "card.json").read_text()))


def executed(lines: str, to: str, monkeypatch: pytest.MonkeyPatch, card: dict[str, Any]) -> dict[str, Any]:
    """The names after some lines; DINOv2's model stands in as one that knows its names."""
    if to == "transformers" and importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed: its example was not run")

    class Dino:
        def __init__(self, **arguments: Any) -> None:
            assert (arguments["embed_dim"], arguments["num_heads"], arguments["block_chunks"]) == (48, 3, 0)

        def load_state_dict(self, weights: dict[str, torch.Tensor]) -> None:
            assert {"mask_token", "blocks.1.ls2.gamma", "norm.bias"} <= weights.keys()

    module = ModuleType("dinov2.models.vision_transformer")
    module.DinoVisionTransformer = Dino  # type: ignore[attr-defined] # a stand-in
    for name in ("dinov2", "dinov2.models"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "dinov2.models.vision_transformer", module)
    names: dict[str, Any] = {"pixels": torch.randn(2, 3, 32, 32), "card": card}
    exec(lines, names)  # noqa: S102 - lines of ours
    return names


# --- what is taken -----------------------------------------------------------------------------------------------------


def test_the_mask_token_of_the_run_is_exported(run: Path, tmp_path: Path) -> None:
    kept = safetensors.torch.load_file(run / "mask_token.safetensors")["mask_token"]
    assert kept.shape == (1, 48) and float(kept.abs().max()) > 0
    export(run, "dinov2", tmp_path / "out")
    weights = torch.load(tmp_path / "out" / "dinov2.pth", weights_only=True)
    assert torch.equal(weights["mask_token"], kept)


def test_runs_from_before_the_mask_token_was_kept(run: Path, tmp_path: Path) -> None:
    (run / "mask_token.safetensors").unlink()
    said = refused(export(run, "dinov2", tmp_path / "out"), 4)
    assert said.startswith(f"{run}/mask_token.safetensors is not there; remove result.json: ")
    body = json.loads((run / "result.json").read_text())
    del body["mask_token_sha256"]
    (run / "result.json").write_bytes(canonical_json(body))
    assert export(run, "dinov2", tmp_path / "out").status == 0
    assert json.loads((tmp_path / "out" / "card.json").read_text())["mask_token"] == "zeros: the run kept none"


def test_averaged_weights(run: Path, tmp_path: Path) -> None:
    said = refused(export(run, "timm", tmp_path / "out", "--ema"))
    assert said == f"run {run} kept no averaged student; leave --ema out, or train with distill.ema above 0"
    shutil.copytree(run / "student", run / "student-ema")
    ended = export(run, "timm", tmp_path / "out", "--ema")
    assert ended.status == 0 and ended.last.endswith("not judged")
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["averaged"] is True and "scores" not in card
    assert "Not judged." in (tmp_path / "out" / "README.md").read_text()


def test_scores_of_other_weights_are_not_its_own(run: Path, tmp_path: Path) -> None:
    (run.parents[1] / "eval" / "student-seed0.json").unlink()
    assert export(run, "timm", tmp_path / "out").last.endswith("not judged")


def test_scores_on_other_images_are_left_out(run: Path, tmp_path: Path, finished: Path) -> None:
    """A teacher that was judged otherwise is not compared with."""
    (run.parents[1] / "eval" / "teacher-tiny.json").unlink()
    export(run, "timm", tmp_path / "out")
    assert set(json.loads((tmp_path / "out" / "card.json").read_text())["scores"]) == {"student", "untrained"}


# --- what is refused ---------------------------------------------------------------------------------------------------


def test_what_cannot_be_exported(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert refused(export(run, "tensorflow", out)) == (
        "unknown format 'tensorflow'; --to takes one of timm, dinov2, proteus, transformers, onnx"
    )
    assert refused(export(tmp_path, "timm", out)) == (
        f"no finished student at {tmp_path}; run `stillhouse distill` first"
    )
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert refused(export(run, "timm", out)) == f"{out} is there already; name a new folder as --out, or remove it"
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_an_empty_folder_that_is_there_will_do(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    ended = export(run, "timm", Path("."))
    assert ended.status == 0, ended.err
    assert (tmp_path / "empty" / "model.safetensors").is_file()
    assert [path.name for path in tmp_path.glob(".*")] == []


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "card.json"])
def test_a_damaged_run_is_refused(run: Path, tmp_path: Path, name: str) -> None:
    path = run / "student" / name
    if name == "model.safetensors":
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        assert "is not what the run has written; `stillhouse distill` makes it again" in refused(
            export(run, "timm", tmp_path / "out"), 4
        )
    path.unlink()
    said = refused(export(run, "timm", tmp_path / "out"), 4)
    assert said == f"{run / 'student'} is not a whole student; `stillhouse distill` makes it again"
    assert not (tmp_path / "out").exists()


# --- licences ----------------------------------------------------------------------------------------------------------


def test_a_licence_that_asks_for_a_notice_gets_one(run: Path, tmp_path: Path) -> None:
    license_it(run, "MIT")
    said = refused(export(run, "timm", tmp_path / "out"))
    assert said == (
        "teacher 'tiny' is under MIT, and what is made from it must carry its copyright line and permission text; none "
        "was given; give it as --notice FILE; for stores to come, as `notice` of the teacher in the config"
    )
    notice = tmp_path / "NOTICE"
    notice.write_text("Copyright (c) 2026 somebody\n")
    ended = export(run, "timm", tmp_path / "out", "--notice", notice)
    assert ended.status == 0 and "mind" not in ended.err
    assert json.loads((tmp_path / "out" / "card.json").read_text())["notice"] == "Copyright (c) 2026 somebody\n"
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "````text\nCopyright (c) 2026 somebody\n````" in readme and "license: mit" in readme


def test_a_notice_of_the_store_is_enough(run: Path, tmp_path: Path) -> None:
    license_it(run, "DINOv3 License", "The whole agreement")
    assert export(run, "timm", tmp_path / "out").status == 0
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "````text\nThe whole agreement\n````" in readme and "license: other" not in readme
    assert "not for military, nuclear, espionage or weapons purposes" in readme


def test_a_notice_that_is_none(run: Path, tmp_path: Path) -> None:
    empty, binary = tmp_path / "empty", tmp_path / "binary"
    empty.write_text(" \n")
    binary.write_bytes(b"\xff\xfe")
    said = [
        refused(export(run, "timm", tmp_path / "out", "--notice", path)) for path in (empty, binary, tmp_path / "no")
    ]
    assert said == [
        f"notice {empty} has 2 bytes; a notice has 1 to 65,536",
        f"notice {binary}: not UTF-8 text (byte 0)",
        f"notice {tmp_path / 'no'}: No such file or directory; name a file that exists",
    ]


def test_training_tells_of_a_missing_notice_when_it_begins(own: Path, pipeline: Path, tmp_path: Path) -> None:
    """It does not fail for it, least of all at its end."""
    config = yaml.safe_load(pipeline.read_text())
    config["teachers"][0] |= {"name": "other", "licence": "CC BY-NC 4.0"}
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump(config))
    assert run_here("extract", path, f"out={own}").status == 0
    ended = run_here("distill", path, f"out={own}", "distill.name=new", "distill.teacher=other", "distill.epochs=1")
    first = ended.err.splitlines()[0]
    assert ended.status == 0 and first == (
        "distill new: teacher 'other' is under CC BY-NC 4.0, and what is made from it must carry the credit line of its "
        "authors with a link to the licence; `stillhouse export` will ask for it"
    )
    config["teachers"][0]["notice"] = "By its authors"  # too late for this store, and no reason to refuse it
    path.write_text(yaml.safe_dump(config))
    assert run_here("extract", path, f"out={own}").status == 0


def test_the_page_shows_a_teacher_with_a_notice() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (teacher,) = yaml.safe_load(text)["teachers"]
    assert parse_config(TeacherConfig, teacher, where="page").notice.startswith("Copyright")
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)) == set(FORMATS)
