"""The training log: JSON lines for machines, TensorBoard events for eyes."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from stillhouse.storage.disk import disk_errors

METRICS = "metrics.jsonl"


class MetricsLog:
    """Appends to `metrics.jsonl` and `tensorboard/` in a run's folder. Use as a context manager."""

    def __init__(self, folder: Path, step: int) -> None:
        self._path = folder / METRICS
        with disk_errors(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            self._lines = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 - open until __exit__
        self._board = _Board(folder / "tensorboard", step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._board.close()
        with disk_errors(self._path):
            self._lines.close()

    def write(self, step: int, lr: float, losses: Mapping[str, Tensor], wait_s: float) -> float:
        """Log one step; returns its total loss."""
        values = {name: float(value) for name, value in losses.items()}
        line = {"step": step, "lr": lr, "wait_s": round(wait_s, 4), **values}
        with disk_errors(self._path):
            self._lines.write(json.dumps(line) + "\n")
            self._lines.flush()
        self._board.write(step, {**values, "lr": lr})
        return values["total"]


class _Board:
    """A TensorBoard event file. Torch's own writer hands events to a thread, whose errors end nothing and name no file.

    Args:
        step: the last one of the sittings before; TensorBoard drops what they wrote beyond it.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._folder = folder
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
            self._records: Any = RecordWriter(open(path, "wb"))  # noqa: SIM115 - open until close()
        self._add(file_version="brain.Event:2")
        self._add(step=step + 1, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One point of every curve."""
        points = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._add(step=step, summary=self._summary(value=points))

    def _add(self, **facts: Any) -> None:
        with disk_errors(self._folder):
            self._records.write(self._event(wall_time=time.time(), **facts).SerializeToString())
            self._records.flush()

    def close(self) -> None:
        with disk_errors(self._folder):
            self._records.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a `metrics.jsonl`."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
