"""The whole way in small, as a person runs it: one command, stopped, killed, and run again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from stillhouse.stage1_extract.testing import tiny_images, tiny_teacher
from stillhouse.storage.seal import records


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A pipeline of 60 images, a teacher of random weights and a student of two blocks."""
    teacher = tiny_teacher(tmp_path / "weights")
    tiny_images(tmp_path / "images", 60)
    student = {"model_args": {"embed_dim": 48, "depth": 2, "num_heads": 3, "patch_size": 8}}
    pipeline: dict[str, Any] = {
        "name": "tiny",
        "out": str(tmp_path / "out"),
        "ingest": {
            "source": {"kind": "folder", "path": str(tmp_path / "images")},
            "split": {"test": 0.3},
            "block_samples": 8,
        },
        "views": {"policy": "crop_flip", "num": 2, "size": 32},
        "teachers": [teacher.model_dump(mode="json")],
        "distill": {"student": student, "epochs": 4, "batch": 8, "warmup_epochs": 1, "checkpoint_steps": 3},
        "eval": {"linear": {"iterations": 20}, "logistic": {"num_c": 5}, "bootstrap": 100},
    }
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump(pipeline))
    return path


def stillhouse(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it."""
    command = [sys.executable, "-m", "stillhouse", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=_environment())


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def attempts(config: Path) -> dict[str, str]:
    """Which attempt decided each unit of the store."""
    return {record.unit: record.attempt for record in records(config.parent / "out/store")}


def test_run_twice(config: Path) -> None:
    first = stillhouse("run", config)
    assert first.returncode == 0, first.stderr
    for word in ("knn", "linear", "logistic", "GO"):
        assert word in first.stdout
    report = config.parent / "out/report.html"
    assert report.exists() and "report.html" in first.stderr
    decided, written = attempts(config), report.stat().st_mtime_ns
    second = stillhouse("run", config, "--json")
    assert second.returncode == 0, second.stderr
    body = json.loads(second.stdout)
    assert body["nothing_to_do"] and "nothing to do" in second.stderr
    assert attempts(config) == decided and report.stat().st_mtime_ns == written


def test_killed_at_many_moments(config: Path) -> None:
    """kill -9, later each time; what was decided stays, and the end is the end of an undisturbed run."""
    kept: dict[str, str] = {}
    for wait_s in (4.0, 5.0, 6.0, 7.0, 8.0):
        process = subprocess.Popen(
            [sys.executable, "-m", "stillhouse", "run", str(config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=_environment(),
        )
        time.sleep(wait_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = attempts(config)
        assert kept.items() <= now.items()
        kept = now
    assert stillhouse("run", config).returncode == 0
    assert kept.items() <= attempts(config).items()
    digest = json.loads(stillhouse("inspect", config.parent / "out/store", "--json").stdout)["sealed"]["content_sha256"]
    other = stillhouse("run", config, f"out={config.parent / 'other'}")
    assert other.returncode == 0
    again = json.loads(stillhouse("inspect", config.parent / "other/store", "--json").stdout)["sealed"][
        "content_sha256"
    ]
    assert digest == again


def test_judged_on_another_store(config: Path) -> None:
    """Training images without labels; the probes read the labelled images of another store."""
    assert stillhouse("ingest", config).returncode == 0
    other = [f"out={config.parent / 'other'}", "ingest.source.label=none", f"eval.store={config.parent / 'out/store'}"]
    refused = stillhouse("run", config, *other[:2])
    assert refused.returncode == 2 and "probes need labels" in refused.stderr
    judged = stillhouse("run", config, *other)
    assert judged.returncode == 0, judged.stderr
    assert (config.parent / "other/report.html").exists()
