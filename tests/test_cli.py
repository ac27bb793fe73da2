"""The command line: every verb, its exit codes, what it prints where, and the configs it refuses."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import timm
import torch
import typer

from stillhouse import __version__, cli
from stillhouse import guarded as module
from stillhouse.core.errors import (
    BusyError,
    CorruptError,
    DataError,
    MissingError,
    Preempted,
    ResourceError,
    SpecMismatchError,
    StillhouseError,
    UsageError,
)
from stillhouse.core.events import Reporter
from stillhouse.core.families import FAMILIES
from stillhouse.testing import Ended, run_here

VERBS = (
    "run",
    "ingest",
    "extract",
    "render",
    "distill",
    "sweep",
    "eval",
    "report",
    "export",
    "inspect",
    "verify",
    "repair",
    "gc",
    "card",
    "drop",
    "merge",
    "pull",
    "push",
    "models",
    "doctor",
    "plan",
)


def refused(ended: Ended, status: int = 2) -> str:
    """The one line that a refused command says, without `error: `."""
    assert ended.status == status, ended
    assert ended.out == "" and ended.err.count("\n") == 1 and ended.err.startswith("error: "), ended.err
    return ended.err.removeprefix("error: ").strip()


# --- the program itself ----------------------------------------------------------------------------------------------


def test_without_a_verb_it_says_what_there_is() -> None:
    nothing, asked = run_here(), run_here("--help")
    assert (nothing.status, asked.status) == (2, 0)
    for ended in (nothing, asked):
        assert [verb for verb in VERBS if not re.search(rf"^\W*{verb} ", ended.out + ended.err, re.MULTILINE)] == []


def test_the_version() -> None:
    assert run_here("--version") == Ended(0, f"stillhouse {__version__}\n", "")


def test_options_are_few_and_known() -> None:
    """A new flag is a decision, made here; a setting belongs into the config."""
    command = typer.main.get_command(cli.app)
    found = {option for parameter in command.params for option in parameter.opts if option.startswith("-")}
    for verb, its in command.commands.items():  # type: ignore[attr-defined] # a group
        found |= {f"{verb} {option}" for parameter in its.params for option in parameter.opts if option[:1] == "-"}
    known = {"--version", "run --seeds", "distill --seeds", "eval --seeds", "eval --stored", "models --pretrained"}
    known |= {"report --seeds"}
    known |= {f"plan --{name}" for name in ("samples", "price", "students", "seconds", "paper", "tflops")}
    known |= {"verify --deep", "verify --pixels", "verify --recompute", "verify --config"}
    known |= {
        f"{verb} --{name}" for verb in ("pull", "push") for name in ("views", "columns", "blocks", "split", "share")
    }
    known |= {f"{verb} --{name}" for verb in ("pull", "push") for name in ("threads", "dry-run")}
    known |= {"merge --dry-run", "drop --undo", "gc --dropped"}
    known |= {"card --to", "card --scores", "card --licence"}
    known |= {"pull --expect", "verify --expect"}
    known |= {"gc --older-than", "gc --dry-run", "doctor --hub"}
    known |= {"export --to", "export --out", "export --ema", "export --notice"}
    assert found == known | {f"{verb} --json" for verb in VERBS}


@pytest.mark.parametrize("arguments", [["foo"], ["run"], ["run", "x.yaml", "--seeds", "0"], ["inspect", "x", "--yes"]])
def test_a_wrong_command_is_refused(arguments: list[str]) -> None:
    ended = run_here(*arguments)
    assert ended.status == 2 and "Usage: stillhouse" in ended.err and "Traceback" not in ended.err


# --- errors and signals ----------------------------------------------------------------------------------------------


Body = Callable[[Reporter], tuple[int, dict[str, Any]]]


def guarded(what: BaseException | Body | None, *, as_json: bool = False) -> Ended:
    """What a verb comes to whose body raises an error, or is a function, or is fine."""
    app = typer.Typer()

    @app.command()
    def verb() -> None:
        def body(reporter: Reporter) -> tuple[int, dict[str, Any]]:
            if isinstance(what, BaseException):
                raise what
            return (0, {"fine": True}) if what is None else what(reporter)

        module.guarded(as_json, body)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "app", app)
        return run_here()


CODES = {
    StillhouseError: (1, "error"),
    UsageError: (2, "usage"),
    DataError: (2, "data"),
    SpecMismatchError: (3, "spec-mismatch"),
    CorruptError: (4, "corrupt"),
    MissingError: (4, "missing"),
    BusyError: (5, "busy"),
    ResourceError: (6, "resource"),
    Preempted: (8, "preempted"),
}


@pytest.mark.parametrize("error", CODES, ids=lambda error: error.__name__)
def test_errors_are_a_line_and_a_code(error: type[StillhouseError]) -> None:
    code, kind = CODES[error]
    ended = guarded(error("this [is] wrong", hint="do that"), as_json=True)
    assert ended.status == code
    assert ended.json() == {
        "error": {"kind": kind, "message": "this [is] wrong", "hint": "do that", "exit_code": code},
    }
    first = "stopped" if error is Preempted else "error"
    assert ended.last == f"{first}: this [is] wrong; do that"
    plain = guarded(error("this is wrong"))
    assert (plain.status, plain.out, plain.last) == (code, "", f"{first}: this is wrong")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(28, "No space left on device", "/x/y"), 6, "no space left while writing /x/y; free some space"),
        (PermissionError(13, "Permission denied", "/x"), 6, "/x: Permission denied (as uid "),
        (NotADirectoryError(20, "Not a directory", "/a/b"), 2, "/a/b lies below a file, not a folder"),
        (MemoryError(), 6, "out of memory; make `batch` smaller"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried\nto"), 6, "out of memory: CUDA out of memory. Tried; make"),
    ],
)
def test_what_the_machine_raises_is_explained(error: Exception, code: int, said: str) -> None:
    ended = guarded(error)
    assert ended.status == code and ended.err.startswith(f"error: {said}") and ended.err.count("\n") == 1


@pytest.mark.parametrize("error", [KeyError("x\ny"), ZeroDivisionError(), FileNotFoundError(2, "No such file", "f")])
def test_a_fault_of_ours_says_so_and_shows_where(error: Exception) -> None:
    ended = guarded(error, as_json=True)
    assert ended.status == 1 and ended.json()["error"]["kind"] == "error"
    assert "Traceback" in ended.err and "in body" in ended.err
    fault = f"error: a fault of stillhouse itself, {type(error).__name__}: "
    assert ended.last.startswith(fault) and ended.last.endswith("; please report it, with the lines above")


def test_output_that_nobody_reads_ends_quietly() -> None:
    ended = guarded(BrokenPipeError(32, "Broken pipe"))
    assert ended.status == 1 and "Traceback" not in ended.err


def test_success_is_one_object() -> None:
    assert guarded(None, as_json=True) == Ended(0, '{"fine": true}\n', "")
    assert guarded(None) == Ended(0, "", "")


@pytest.fixture
def handlers() -> Iterator[None]:
    """Puts signal handlers back."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("handlers")
def test_a_signal_is_no_exception_that_a_library_swallows(number: signal.Signals) -> None:
    """timm and torch try imports and catch every Exception."""
    module._stop_on_signals()
    with pytest.raises(KeyboardInterrupt, match=number.name):
        try:
            os.kill(os.getpid(), number)
        except Exception:  # noqa: BLE001 - as libraries do
            pytest.fail("caught as an ordinary error")


@pytest.mark.usefixtures("handlers")
def test_a_signal_that_is_lost_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.05)
    module._stop_on_signals()
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:  # as Python does in callbacks of its garbage collector
            time.sleep(5)


@pytest.mark.usefixtures("handlers")
def test_a_signal_in_the_import_machinery_waits_until_it_is_left() -> None:
    """What is raised in there may be raised in a callback, from which nothing can be raised."""
    module._stop_on_signals()
    inside = compile("os.kill(os.getpid(), 15)\nreached = True", "<frozen importlib._bootstrap>", "exec")
    found: dict[str, Any] = {"os": os}
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        exec(inside, found)  # noqa: S102 - code with a file name of our choice
        time.sleep(5)
    assert found["reached"]


def test_a_cleanup_that_fails_after_a_stop_is_no_fault() -> None:
    """As joining a thread does whose start the signal hit."""

    class Failing(KeyError):
        pass

    def body(reporter: Reporter) -> NoReturn:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            raise Failing

    ended = guarded(body)
    assert ended.status == 8 and ended.err.startswith("stopped: SIGINT received; ") and ended.err.count("\n") == 1


def test_a_stop_is_one_line() -> None:
    ended = guarded(KeyboardInterrupt("SIGTERM"))
    message = "stopped: SIGTERM received; what was finished is kept; run the same command again to go on\n"
    assert ended == Ended(8, "", message)


# --- verbs, one after the other --------------------------------------------------------------------------------------


def test_each_verb_alone(pipeline: Path, tmp_path: Path) -> None:
    """Each says what the next one needs; with --json nothing but one object is on stdout."""
    out = f"out={tmp_path / 'out'}"
    store = tmp_path / "out" / "store"
    for verb in ("extract", "distill", "eval"):
        assert refused(run_here(verb, pipeline, out)) == f"no store at {store}; run `stillhouse ingest` first"

    ingested = run_here("ingest", pipeline, out, "--json")
    assert ingested.status == 0
    assert ingested.json() == {"samples": 42, "quarantined": {}, "store": str(store)}
    assert ingested.err == f"ingest: 42 images (30 train, 12 test) in store {store}\n"
    said = refused(run_here("distill", pipeline, out))
    assert said == f"store {store} has no features yet; run `stillhouse extract` first"

    extracted = run_here("extract", pipeline, out, "--json")
    sha256 = extracted.json()["content_sha256"]
    assert re.fullmatch("[0-9a-f]{64}", sha256)
    features = "features of teacher tiny for 30 training images x 2 views"
    assert extracted.err == f"extract: {features}; store sealed as {sha256[:12]}\n"
    student = tmp_path / "out" / "students" / "student-seed0"
    assert refused(run_here("eval", pipeline, out)) == (
        f"no finished student at {student}; run `stillhouse distill` first"
    )

    distilled = run_here("distill", pipeline, out, "--json")
    assert distilled.json()["folders"] == [str(student)]
    (result,) = distilled.json()["students"]
    assert (result["name"], result["num_steps"], result["store_sha256"]) == ("student", 9, sha256)
    assert re.match(r"distill: student student, seed 0: 9 steps at [\d,]+ img/s\n", distilled.err)
    assert distilled.last == f"student: {student}/student"

    judged = run_here("eval", pipeline, out, "--json")
    assert judged.status == 0
    assert set(judged.json()["teacher"]) == {"knn", "linear", "logistic-dinov2"}
    assert judged.last == "eval: teacher, 1 student and the same untrained, judged on 12 held-out images"
    table = run_here("eval", pipeline, out)
    assert "logistic-dinov2" in table.out and table.last.endswith("(already done)")
    assert not (tmp_path / "out" / "report.html").exists()  # `run` draws it


def test_models() -> None:
    found = run_here("models", "vit_tiny_patch16", "--json").json()
    assert "vit_tiny_patch16_224" in found["models"]
    told = run_here("models", "vit_tiny_patch16").out
    assert all(name in told for name in found["models"])
    tagged = run_here("models", "vit_small*dinov2*", "--pretrained", "--json").json()
    assert tagged["models"] == ["vit_small_patch14_dinov2.lvd142m", "vit_small_patch14_reg4_dinov2.lvd142m"]
    assert tagged["rows"][0] == {
        "name": "vit_small_patch14_dinov2.lvd142m",
        "keys": "dinov2",
        "size": 518,
        "width": [384, 384],
        "grid": [37, 37],
        "num_parameters": 22_056_192,
        "licence": "Apache-2.0",
        "bytes_per_view": 2 * 384 * (1 + 37 * 37),
    }
    table = run_here("models", "vit_small*dinov2*", "--pretrained").out
    assert "1 + 37x37" in table and "22.1 M" in table and "1,052,160" in table
    assert refused(run_here("models", "vit_smal_")) == "no model matches 'vit_smal_'; try a shorter part of the name"


def test_many_models_are_names_and_families() -> None:
    """Without a pattern nothing is built; with one that matches many, the first are, those of families before others."""
    everything = run_here("models", "--json").json()
    assert len(everything["models"]) > 1000 and everything["rows"] == []
    assert {family["keys"] for family in everything["families"]} == set(FAMILIES)
    told = run_here("models").out
    assert "OpenAI CLIP" in told and "resnet50" in told.split()
    many = run_here("models", "resnet").out
    assert "the first 20 are in numbers" in many and len(many.splitlines()) > 40


def test_models_of_families_are_there() -> None:
    """Every name that a family gives as an example is one of timm's, tag and all."""
    known = set(timm.list_models(pretrained=True)) | set(timm.list_models())
    assert [name for family in FAMILIES.values() for name in family.examples if name not in known] == []


def test_overrides_and_seeds(own: Path, pipeline: Path) -> None:
    name = "distill.name=other"
    ended = run_here("distill", pipeline, f"out={own}", name, "distill.epochs=1", "distill.lr=1e-3", "--seeds", "2")
    assert ended.status == 0 and "student other, seed 1: 3 steps" in ended.err
    configs = [json.loads((own / "students" / f"other-seed{n}" / "result.json").read_text())["config"] for n in (0, 1)]
    assert [(config["seed"], config["epochs"], config["lr"]) for config in configs] == [(0, 1, 0.001), (1, 1, 0.001)]


# --- as a user starts it ---------------------------------------------------------------------------------------------


def started(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`python -m stillhouse`, a process from its first import on."""
    command = [sys.executable, "-m", "stillhouse", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_a_run_as_a_process(pipeline: Path, own: Path) -> None:
    """Table on stdout, the rest on stderr, and a student of another seed trained."""
    done = started("run", pipeline, f"out={own}", "distill.seed=3")
    assert done.returncode == 0, done.stderr
    assert "held-out images" in done.stdout and re.search(r"^(GO|NO-GO): ", done.stdout, re.MULTILINE)
    lines = done.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == ["ingest", "extract", "distill", "eval", "report", "report"]
    assert lines[-1] == f"report: {own / 'report.html'}" and (own / "report.html").is_file()


def test_a_reader_that_leaves_is_no_error(finished: Path) -> None:
    command = f"{sys.executable} -m stillhouse inspect {finished / 'store'} | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.startswith("store ") and done.stderr == ""


def test_paths_that_are_no_text(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "stillhouse", "inspect", os.fsdecode(os.fsencode(tmp_path) + b"/\xff")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr == f"error: no store at {tmp_path}/\\udcff; run `stillhouse ingest` first\n"
