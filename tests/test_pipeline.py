"""`run`: the whole way, once; what a second run does, and what a run refuses before it has cost anything."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from stillhouse import page
from stillhouse.core.config import load_config
from stillhouse.core.errors import ResourceError
from stillhouse.eval.run import Evaluation
from stillhouse.ledger import Ledger
from stillhouse.pipeline_config import PipelineConfig
from stillhouse.stage1_extract import ingest, teachers
from stillhouse.stage1_extract.testing import TINY_VIT_ARGS, tiny_images, tiny_teacher
from stillhouse.stage2_distill.metrics import read_metrics
from stillhouse.storage.seal import latest_seal
from stillhouse.testing import Ended, run_here


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    """sha256 and modification time of every file; the event log, which only grows, left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "events.jsonl":
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found[path.relative_to(folder).as_posix()] = digest, path.stat().st_mtime_ns
    return found


def refused(ended: Ended, status: int = 2) -> str:
    """What a refused run says; it has said and done nothing else."""
    assert ended.status == status, ended
    assert ended.out == "" and ended.err.count("\n") == 1, ended.err
    return ended.err.removeprefix("error: ").strip()


# --- a run and the next one ------------------------------------------------------------------------------------------


def test_a_run_leaves_a_sealed_store_a_student_and_a_report(finished: Path) -> None:
    seal = latest_seal(finished / "store")
    assert seal is not None and seal.generation == 1
    assert json.loads((finished / "ledger.json").read_text()).keys() == {"ingest", "extract", "distill", "eval"}
    assert sorted(path.name for path in (finished / "students" / "student-seed0" / "student").iterdir()) == [
        "README.md",
        "card.json",
        "config.json",
        "model.safetensors",
    ]
    names = ["features", "leakage.json", "student-seed0-untrained.json", "student-seed0.json", "teacher-tiny.json"]
    assert sorted(path.name for path in (finished / "eval").iterdir()) == names
    events = [json.loads(line) for line in (finished / "events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "block"] == ["ingest"] * 6 + ["extract"] * 8


def test_a_second_run_does_nothing_and_says_so(own: Path, pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_here("run", pipeline, f"out={own}")  # the report shows the config, in which `out` is another one now
    monkeypatch.setattr(teachers, "build_encoder", None)  # no teacher is loaded
    monkeypatch.setattr(ingest, "open_source", None)  # and no image of the source is needed
    before = contents(own)
    ended = run_here("run", pipeline, f"out={own}")
    assert ended.status == 0 and contents(own) == before
    *steps, last = ended.err.splitlines()
    assert [line.partition(":")[0] for line in steps] == ["ingest", "extract", "distill", "eval"]
    assert all(line.endswith("(already done)") for line in steps)
    assert last == f"nothing to do, everything is there; report: {own / 'report.html'}"
    assert "held-out images" in ended.out


def test_a_finished_run_needs_no_faiss(finished: Path, pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was judged on a machine that has it; this one may look at it."""
    monkeypatch.setattr("stillhouse.pipeline.find_spec", lambda name: None)
    assert run_here("run", pipeline).status == 0


def test_json_is_one_object_with_every_score(finished: Path, pipeline: Path) -> None:
    ended = run_here("run", pipeline, "--json")
    told = ended.json()
    assert told["nothing_to_do"] is True and told["report"] == str(finished / "report.html")
    assert told["seeds"] == [0] and told["metric"] == "top1" and told["go"] in (True, False)
    (probes,) = told["probes"]
    assert [probe["probe"] for probe in probes] == ["knn", "linear", "logistic-dinov2"]
    for probe in probes:
        assert probe["gain_low"] <= probe["gain"] <= probe["gain_high"]
        assert probe["gain"] == pytest.approx(probe["student"] - probe["untrained"])


def test_another_probe_needs_neither_teacher_nor_student(
    own: Path, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their features are kept beside the scores."""
    for name in ("build_encoder", "create_timm"):
        monkeypatch.setattr(f"stillhouse.eval.subjects.{name}", None)
    monkeypatch.setattr("stillhouse.eval.subjects.timm", None)
    ended = run_here("eval", pipeline, f"out={own}", "eval.logistic.preset=proteus", "--json")
    assert ended.status == 0, ended.err
    assert [probe["probe"] for probe in ended.json()["probes"][0]] == ["knn", "linear", "logistic-proteus"]


def test_teachers_are_judged_from_the_store_without_their_weights(
    own: Path, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(own / "eval")
    shutil.rmtree(own / "students")
    monkeypatch.setattr("stillhouse.eval.subjects.build_encoder", None)
    ended = run_here("eval", pipeline, f"out={own}", "--stored", "eval.stored.test=0.4")
    assert ended.status == 0, ended.err
    shown = r"teacher tiny from the store: knn 0\.\d+, linear 0\.\d+, logistic-dinov2 0\.\d+ "
    images = r"\(top1; view 0 of (\d+) training images, the probes fitted on (\d+) others\)\n"
    found = re.fullmatch(shown + images, ended.out)
    assert found, ended.out
    assert ended.last == f"eval: from the store, 1 teacher, judged on {found[1]} training images"
    told = run_here("eval", pipeline, f"out={own}", "--stored", "--json", "eval.stored.test=0.4").json()
    kept = json.loads((own / "eval" / "stored-tiny.json").read_text())["probes"]
    assert told["teachers"]["tiny"] == {probe: body["scores"] for probe, body in kept.items()}
    assert (told["num_judged"], told["num_fitted"], told["test"]) == (int(found[1]), int(found[2]), 0.4)


def test_a_run_that_asks_for_it_shows_the_stored_teacher_too(own: Path, pipeline: Path) -> None:
    asked = (f"out={own}", "eval.stored.view=1", "eval.stored.test=0.4")
    ended = run_here("eval", pipeline, *asked)
    assert ended.status == 0, ended.err
    assert ended.out.splitlines()[-1].startswith("teacher tiny from the store: knn ")
    assert ended.err.splitlines()[-2:][0].endswith("held-out images (already done)")
    told = run_here("eval", pipeline, *asked, "--json").json()
    assert told["stored"]["view"] == 1 and told["stored"]["teachers"].keys() == {"tiny"}


def test_a_stored_view_that_is_not_there_is_refused_before_any_training(own: Path, pipeline: Path) -> None:
    shutil.rmtree(own / "students")
    message = refused_at_last(run_here("run", pipeline, f"out={own}", "eval.stored.view=2"))
    assert message == f"eval.stored.view is 2, store {own / 'store'} has views 0 to 1; name one of them"
    assert not (own / "students").exists()


def refused_at_last(ended: Ended) -> str:
    """What a run that was refused after some steps says of it."""
    assert ended.status == 2, ended
    return ended.last.removeprefix("error: ")


def test_a_watched_run_trains_the_same_student(own: Path, finished: Path, pipeline: Path) -> None:
    """And a run that is finished stays so when it is asked to be watched."""
    ended = run_here("distill", pipeline, f"out={own}", "eval.watch.steps=4")
    assert ended.err.splitlines()[0].endswith("(already done)")
    shutil.rmtree(own / "students")
    ended = run_here("distill", pipeline, f"out={own}", "eval.watch.steps=4", "eval.watch.images=16")
    assert ended.status == 0, ended.err
    weights = Path("students") / "student-seed0" / "student" / "model.safetensors"
    assert (own / weights).read_bytes() == (finished / weights).read_bytes()
    lines = read_metrics(own / "students" / "student-seed0" / "watch.jsonl")
    assert [line["step"] for line in lines] == [0, 4, 8, 9]
    assert {(line["fitted"], line["judged"]) for line in lines} == {(12, 4)}
    shown = [line for line in ended.err.splitlines() if ", knn " in line or ": knn " in line]
    assert shown[-1] == f"distill student: step 9: loss {lines[-1]['loss']:.4f}, knn {lines[-1]['knn']:.3f}"


def test_looks_more_often_than_losses_are_refused(pipeline: Path) -> None:
    message = refused(run_here("distill", pipeline, "eval.watch.steps=1"))
    assert (
        "eval.watch.steps is 1, and the loss is logged every distill.log_steps 2 steps; look no more often" in message
    )


def test_seeds_share_the_store_and_the_teachers_scores(own: Path, pipeline: Path) -> None:
    before = contents(own / "store")
    ended = run_here("run", pipeline, f"out={own}", "--seeds", "2")
    assert ended.status == 0 and contents(own / "store") == before
    assert "seed 0: 9 steps" in ended.err and "seed 1: 9 steps" in ended.err
    assert "eval: teacher, 2 students and the same untrained, judged on 12 held-out images\n" in ended.err
    assert "mean of 2 seeds ± 95 % t-interval" in ended.out and ended.out.count(" ± ") > 9
    html = (own / "report.html").read_text()
    assert 'id="seeds"' in html
    again = run_here("run", pipeline, f"out={own}", "--seeds", "2", "--json").json()
    assert again["nothing_to_do"] and again["seeds"] == [0, 1] and len(again["probes"]) == 2


def test_the_resolved_config_is_kept_and_is_the_same_config(own: Path, pipeline: Path) -> None:
    overrides = [f"out={own}", "eval.bootstrap=150", "distill.student.image_size=32"]
    run_here("ingest", pipeline, *overrides)
    saved = own / "pipeline.resolved.yaml"
    assert load_config(PipelineConfig, saved) == load_config(PipelineConfig, pipeline, overrides)
    assert yaml.safe_load(saved.read_text())["distill"]["lr"] == 5e-4  # every default is filled in


def test_the_shipped_configs_are_sound() -> None:
    repository = Path(__file__).parents[1]
    for path in (repository / "pipeline.yaml", *(repository / "examples").glob("*.yaml")):
        config = load_config(PipelineConfig, path)
        assert config.eval.test in config.ingest.split


def test_a_second_teacher_later(own: Path, pipeline: Path) -> None:
    """It needs no original data, changes no object, and the first student stays finished."""
    first = yaml.safe_load(pipeline.read_text())["teachers"][0]
    second = tiny_teacher(pipeline.parent / "weights", "second", seed=1).model_dump(mode="json", exclude_defaults=True)
    both = f"teachers={json.dumps([first, second])}"
    before = contents(own / "store")
    said = refused(run_here("run", pipeline, f"out={own}", both, "distill.name=next"))
    assert said == "there are 2 teachers (tiny, second); name one as distill.teacher"
    extracted = run_here("extract", pipeline, f"out={own}", both)
    assert extracted.status == 0 and "teacher second for" in extracted.err
    after = contents(own / "store")
    assert {path for path in before if after.get(path) != before[path]} == {"zarr.json"}
    ended = run_here("run", pipeline, f"out={own}", both, "distill.teacher=tiny")
    assert "seed 0: 9 steps" in ended.err and ended.err.count("(already done)") == 5
    other = run_here("run", pipeline, f"out={own}", both, "distill.teacher=second", "distill.name=next")
    assert other.status == 0 and (own / "eval" / "teacher-second.json").exists()
    said = refused(run_here("distill", pipeline, f"out={own}", "distill.name=third"))
    assert said.endswith("has 2 teachers (second, tiny); name one as distill.teacher")


def test_two_teachers_at_once(own: Path, pipeline: Path) -> None:
    """From ingest to report; retention is measured against the heavier one."""
    first = yaml.safe_load(pipeline.read_text())["teachers"][0]
    second = tiny_teacher(pipeline.parent / "weights", "second", seed=1).model_dump(mode="json", exclude_defaults=True)
    both = f"teachers={json.dumps([first, second])}"
    terms = "distill.teachers={second: {weight: 2, objectives: {token: 1}}, tiny: {}}"
    ended = run_here("run", pipeline, f"out={own}", both, terms, "distill.name=both")
    assert ended.status == 0, ended.err
    result = json.loads((own / "students" / "both-seed0" / "result.json").read_text())
    assert (result["teacher"], result["teachers"]) == ("second", {"second": 2.0, "tiny": 1.0})
    assert (own / "eval" / "teacher-second.json").exists()
    unknown = run_here("run", pipeline, f"out={own}", both, "distill.teachers={third: {}}")
    assert refused(unknown).endswith("distill.teachers 'third' is not in `teachers`: tiny, second")


def test_soft_and_hard_labels_alone(own: Path, pipeline: Path) -> None:
    """The conventional baseline from a teacher's own classifier to the report, which then has no patch maps to show."""
    fields = {"levels": ["cls", "logits"], "model_args": {**TINY_VIT_ARGS, "num_classes": 3}}
    scorer = tiny_teacher(pipeline.parent / "weights", "scorer", seed=2, **fields)
    teachers = f"teachers={json.dumps([scorer.model_dump(mode='json', exclude_defaults=True)])}"
    labels = ["distill.teacher=scorer", "distill.objectives={ce: 1, kl: 1}", "distill.name=labels"]
    ended = run_here("run", pipeline, f"out={own}", teachers, *labels)
    assert ended.status == 0, ended.err
    lines = (own / "students" / "labels-seed0" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1]).keys() == {"step", "lr", "wait_s", "ce", "kl", "total"}
    told = refused(run_here("distill", pipeline, f"out={own}", teachers, *labels[:1], "distill.name=tokens"))
    assert "objective 'feature' needs level 'patch'; teacher 'scorer' of store " in told


# --- what is damaged or gone is made again ---------------------------------------------------------------------------


def test_a_student_that_is_gone_or_damaged_is_made_again(own: Path, pipeline: Path) -> None:
    folder = own / "students" / "student-seed0" / "student"
    weights = (folder / "model.safetensors").read_bytes()
    for damage in ("weights", "config", "all"):
        if damage == "weights":
            (folder / "model.safetensors").write_bytes(weights[:-1] + b"\0")
        elif damage == "config":
            (folder / "config.json").unlink()
        else:
            shutil.rmtree(folder)
        ended = run_here("run", pipeline, f"out={own}")
        assert ended.status == 0, ended.err
        assert f"distill student: {folder} is damaged or gone, and is made again\n" in ended.err
        assert "distill student: going on from step 8 of 9\n" in ended.err
        assert (folder / "model.safetensors").read_bytes() == weights


def test_a_damaged_result_says_what_to_do(own: Path, pipeline: Path) -> None:
    path = own / "students" / "student-seed0" / "result.json"
    for text in ("{}", "{", "[]"):
        path.write_text(text)
        ended = run_here("run", pipeline, f"out={own}")
        assert ended.status == 4 and str(path) in ended.last and "delete it; `stillhouse distill` then" in ended.last
    path.unlink()
    assert run_here("run", pipeline, f"out={own}").status == 0


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_scores_that_are_damaged_are_made_again(own: Path, pipeline: Path, damage: str) -> None:
    path = own / "eval" / "student-seed0.json"
    whole = path.read_text()
    text = {"cut": whole[:99], "changed": whole.replace('"top1":0.', '"top1":1.'), "empty": "{}"}[damage]
    assert text != whole
    path.write_text(text)
    ended = run_here("run", pipeline, f"out={own}")
    assert ended.status == 0 and f"eval student-seed0: {path} " in ended.err and "; it is judged again" in ended.err
    assert path.read_text() == whole


def test_a_damaged_ledger_starts_anew(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.enter("eval", 1.25, worked=True)
    ledger.enter("eval", 1.0, worked=False)
    assert not ledger.idle and Ledger(tmp_path).seconds == {"eval": 1.25}
    (tmp_path / "ledger.json").write_text("{")
    damaged = Ledger(tmp_path)
    assert damaged.seconds == {} and damaged.idle
    damaged.enter("eval", 2.0, worked=True)
    assert Ledger(tmp_path).seconds == {"eval": 2.0}


# --- refused before it costs anything --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["ingest.split={}"],
            "eval.test is 'test', and ingest.split makes no such split; set ingest.split, e.g. {test",
        ),
        (
            ["eval.train=fit"],
            "eval.train is 'fit', and ingest.split makes no such split; set ingest.split, e.g. {fit: ",
        ),
        (["distill.student.model=vit_tiny_patch16_225"], "unknown model 'vit_tiny_patch16_225'; did you mean vit_tiny"),
        (["teachers.0.model=dinov2_vit_small"], "unknown model 'dinov2_vit_small'; did you mean vit_small_patch14_di"),
        (["teachers.0.name=Big Teacher"], "config PATH: teacher name 'Big Teacher'; use 1-64 of a-z"),
        (["distill.name=../x"], "config PATH: student name '../x'; use 1-64 of a-z"),
        (
            ["distill.repeats=3"],
            "repeats 3 shows a sample in as many views of an epoch, the store has 2; set distill.re",
        ),
        (["distill.recipe=proteus_clip", "distill.repeats=1", "distill.device=cpu"], "precision fp16 scales gradients"),
        (["distill.teacher=nobody"], "config PATH: distill.teacher 'nobody' is not in `teachers`: tiny"),
        (
            ["eval.knn=null", "eval.linear=null", "eval.logistic=null"],
            "config PATH:37: eval: knn, linear and logistic are all null and there are no tasks",
        ),
        (["eval.test=train"], "config PATH:37: eval: train and test are one split, 'train'; judge on"),
    ],
)
def test_what_no_step_could_finish(pipeline: Path, tmp_path: Path, overrides: list[str], said: str) -> None:
    out = tmp_path / "out"
    told = refused(run_here("run", pipeline, f"out={out}", *overrides))
    assert told.startswith(said.replace("PATH", str(pipeline))), told
    assert not (out / "store").exists()


def test_a_missing_faiss_is_told_at_once(pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillhouse.pipeline.find_spec", lambda name: None)
    told = refused(run_here("run", pipeline, f"out={tmp_path / 'out'}"), ResourceError.exit_code)
    assert told == "the package 'faiss' is not installed; run `pip install 'stillhouse[cpu]'`"
    assert not (tmp_path / "out" / "store").exists()


def stopped_at_ingest(ended: Ended) -> str:
    """What a run says that ends after ingest, before the teacher pass."""
    assert ended.status == 2 and ended.out == ""
    first, said = ended.err.splitlines()
    assert first.startswith("ingest: ")
    return said.removeprefix("error: ")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["distill.batch=31"],
            "store STORE has 30 training images, distill.batch is 31; set distill.batch to 30 or less",
        ),
        (["ingest.split={test: 0.001}"], "store STORE has no split 'test', only train; set ingest.split"),
        (["ingest.source.label=none"], "no image of split 'train' of store STORE has a label, and probes need labels;"),
    ],
)
def test_what_these_images_cannot_give(pipeline: Path, tmp_path: Path, overrides: list[str], said: str) -> None:
    told = stopped_at_ingest(run_here("run", pipeline, f"out={tmp_path}", *overrides))
    assert told.startswith(said.replace("STORE", str(tmp_path / "store"))), told


def test_images_of_one_class_or_none(pipeline: Path, tmp_path: Path) -> None:
    images = tiny_images(tmp_path / "images", 36)
    out = [f"out={tmp_path / 'out'}", f"ingest.source.path={images}"]
    for folder in ("b", "c"):
        for path in (images / folder).iterdir():
            path.rename(images / "a" / f"{folder}{path.name}")
        (images / folder).rmdir()
    told = stopped_at_ingest(run_here("run", pipeline, *out))
    assert told.startswith("all labelled images of split 'train' of store ") and "are 'a'; a probe needs two" in told
    flat = [f"out={tmp_path / 'flat'}", f"ingest.source.path={images / 'a'}"]
    told = stopped_at_ingest(run_here("run", pipeline, *flat))
    assert "has a label, and probes need labels; give labels (in a folder source: one folder a class)" in told
    for verb in ("extract", "distill"):  # as the message says
        assert run_here(verb, pipeline, *flat).status == 0
    assert "no image of split 'train'" in refused(run_here("eval", pipeline, *flat))


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_shows_the_run(finished: Path) -> None:
    html = (finished / "report.html").read_text()
    for words in ("knn", "linear", "logistic-dinov2", "Rule: GO when", "vit_tiny_patch16_224", "30 train and"):
        assert words in html
    assert "<strong>GO</strong>" in html or "<strong>NO-GO</strong>" in html
    assert html.count("data:image/png;base64,") >= 2 * 4  # two rows: the view, and three encoders' maps
    for outside in ("http://", "https://", "//cdn", 'src="/', "@import"):
        assert outside not in html.replace("http://www.w3.org/", "")


def test_the_page_is_drawn_again_only_when_it_would_change(
    own: Path, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*overrides: str) -> bool:
        """True when the report was drawn."""
        ended = run_here("run", pipeline, f"out={own}", *overrides)
        assert ended.status == 0, ended.err
        drawn = "report: drawing\n" in ended.err
        assert ended.last.startswith("nothing to do") != drawn
        return drawn

    assert run()  # `out` is another one
    assert not run()
    assert run("eval.metric=mean_per_class") and run()
    for damage in (b"<html>", None):
        (own / "report.html").unlink() if damage is None else (own / "report.html").write_bytes(damage)
        assert run() and not run()
    (own / "report.json").write_text("{")
    assert run() and not run()
    monkeypatch.setattr(page, "__version__", "9.9.9")
    assert run() and not run()


def test_the_page_is_made_again_from_what_is_on_disk(
    own: Path, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the teacher, without judging; its tables lie beside it as JSON."""
    monkeypatch.setattr(teachers, "build_encoder", None)
    monkeypatch.setattr(ingest, "open_source", None)
    monkeypatch.setattr(Evaluation, "features", None)
    (own / "report.html").unlink()
    (own / "report-data.json").unlink()
    scores = contents(own / "eval")
    ended = run_here("report", pipeline, f"out={own}", "--json")
    assert ended.status == 0, ended.err
    assert ended.json()["report"] == str(own / "report.html") and contents(own / "eval") == scores
    html, tables = (own / "report.html").read_text(), json.loads((own / "report-data.json").read_text())
    assert 'id="neighbours"' in html and 'id="published"' in html and "Break-even" in html
    assert [probe["probe"] for probe in tables["probes"]] == ["knn", "linear", "logistic-dinov2"]
    assert [len(near) for row in tables["neighbours"]["rows"] for near in row["neighbours"]] == [5] * 4
    assert tables["break_even"]["student_images"] == 72 and tables["break_even"]["students"] >= 1
    ended = run_here("run", pipeline, f"out={own}")
    assert ended.last.startswith("nothing to do")  # it is the page of this run
    (own / "report-data.json").unlink()
    assert "report: drawing" in run_here("run", pipeline, f"out={own}").err


def test_a_page_needs_a_store_a_student_and_scores(own: Path, pipeline: Path, tmp_path: Path) -> None:
    def said(*overrides: str) -> str:
        return refused(run_here("report", pipeline, *overrides))

    assert "no store" in said(f"out={tmp_path / 'nothing'}")
    assert said(f"out={own}", "distill.seed=5").endswith("run `stillhouse distill` first")
    (own / "eval" / "student-seed0.json").unlink()
    lost = said(f"out={own}")
    assert "student-seed0 is not judged yet" in lost and lost.endswith("run `stillhouse eval` first")
    run_here("eval", pipeline, f"out={own}")
    assert run_here("report", pipeline, f"out={own}").status == 0
    assert "or settings" in said(f"out={own}", "eval.knn.temperature=0.5")


def test_what_was_not_timed_is_not_reckoned(own: Path, pipeline: Path) -> None:
    (own / "ledger.json").unlink()
    assert run_here("report", pipeline, f"out={own}").status == 0
    assert "Not measured: the store was filled before this run" in (own / "report.html").read_text()


def test_looks_at_a_student_in_training_are_drawn(own: Path, pipeline: Path) -> None:
    looks = [{"step": step, "loss": 1.0, "knn": 0.4, "noise": 0.1} for step in (0, 4, 9)]
    looks[1]["warning"] = "loss falls, transfer does not"  # type: ignore[assignment] # a sentence among numbers
    (own / "students" / "student-seed0" / "watch.jsonl").write_text("\n".join(map(json.dumps, looks)) + "\n")
    assert run_here("report", pipeline, f"out={own}").status == 0
    assert "<strong>Warning</strong> loss falls, transfer does not" in (own / "report.html").read_text()
    watch = json.loads((own / "report-data.json").read_text())["watch"]
    assert watch["warned_at"] == 4 and watch["curves"][0]["steps"] == [0, 4, 9]
