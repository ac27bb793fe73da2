"""A team that got a store: no network, no teacher, no images but those in the store. Every command is a process of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

LAUNCHER = """
import os, sys
forbidden = sys.argv.pop(1)
def hook(event, args):
    if event.startswith("socket."):
        raise RuntimeError(f"the network was asked for: {event}")
    if event == "open" and isinstance(args[0], str) and os.path.abspath(args[0]).startswith(forbidden + os.sep):
        raise RuntimeError(f"what a team with a store alone does not have was opened: {args[0]}")
sys.addaudithook(hook)
"""
RUN = LAUNCHER + "from stillhouse.cli import main\nmain()\n"


@pytest.fixture(scope="module")
def theirs(pipeline: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the store and a config that knows nothing else."""
    folder = tmp_path_factory.mktemp("theirs")
    shutil.copytree(finished / "store", folder / "store")
    whole = yaml.safe_load(pipeline.read_text())
    config = {
        "name": "theirs",
        "out": str(folder / "out"),
        "store": str(folder / "store"),
        "distill": whole["distill"],
        "eval": {**whole["eval"], "stored": {"test": 0.3}},
    }
    (folder / "theirs.yaml").write_text(yaml.safe_dump(config))
    return folder


def launched(code: str, theirs: Path, forbidden: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A command with sockets blocked, nothing of the other team's in reach and no weights in any cache."""
    empty = theirs / "home"
    empty.mkdir(exist_ok=True)
    environment = {**os.environ, "HOME": str(empty), "HF_HOME": str(empty / "hf"), "TORCH_HOME": str(empty / "torch")}
    environment["OMP_NUM_THREADS"] = "1"
    command = [sys.executable, "-c", code, str(forbidden), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)


def test_the_block_blocks(theirs: Path, pipeline: Path) -> None:
    for code in (
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import urllib.request; urllib.request.urlopen('http://localhost:9')",
        "import socket; socket.getaddrinfo('localhost', 9)",
    ):
        ended = launched(LAUNCHER + code, theirs, pipeline.parent)
        assert "the network was asked for: socket." in ended.stderr
    ended = launched(LAUNCHER + f"open({str(pipeline)!r})", theirs, pipeline.parent)
    assert "what a team with a store alone does not have was opened" in ended.stderr


def test_a_teacher_cannot_be_had(theirs: Path, pipeline: Path) -> None:
    """Not by accident either: its weights are on no disk and no network."""
    code = "import timm; timm.create_model('vit_tiny_patch16_224', pretrained=True)"
    assert launched(LAUNCHER + code, theirs, pipeline.parent).returncode != 0


def test_students_and_evaluations(theirs: Path, pipeline: Path, finished: Path) -> None:
    """Everything that needs a store alone, one after the other; the student is the other team's to the last bit."""
    config, run = theirs / "theirs.yaml", theirs / "out/students/student-seed0"
    for verb in (
        ("inspect", theirs / "store"),
        ("verify", theirs / "store", "--deep", "--pixels"),
        ("distill", config),
        ("render", config),
        ("distill", config, "distill.name=small", "distill.pixels=rendered", "distill.epochs=1"),
        ("eval", config, "--stored"),
        ("export", run, "--to", "timm", "--out", theirs / "exported"),
        ("pull", theirs / "store", theirs / "part", "--views", "1", "--columns", "cls"),
    ):
        ended = launched(RUN, theirs, pipeline.parent, *verb)
        assert ended.returncode == 0, (verb, ended.stderr)
    weights = "student/model.safetensors"
    assert (run / weights).read_bytes() == (finished / "students/student-seed0" / weights).read_bytes()
    scores = json.loads(next((theirs / "out/eval").glob("stored-*.json")).read_text())
    assert scores
    assert not list((theirs / "home").rglob("*.safetensors"))


def test_a_sweep(theirs: Path, pipeline: Path) -> None:
    """Its students are judged by their kNN on images of the store, and ranked without the teacher."""
    config = yaml.safe_load((theirs / "theirs.yaml").read_text())
    swept = {"space": {"distill.lr": [0.001, 0.002]}, "probe": "knn", "teacher": False}
    (theirs / "sweep.yaml").write_text(yaml.safe_dump(config | {"sweep": swept}))
    ended = launched(RUN, theirs, pipeline.parent, "sweep", theirs / "sweep.yaml", "--json")
    assert ended.returncode == 0, ended.stderr
    assert len(json.loads(ended.stdout)["trials"]) == 2
