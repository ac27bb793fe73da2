"""The training log: JSON lines for machines, TensorBoard events for eyes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from torch import Tensor


class MetricsLog:
    """Appends to `metrics.jsonl` and `tensorboard/` in a run's folder. Use as a context manager."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._lines = open(folder / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115 - open until __exit__
        self._board: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._board.close()

    def write(self, step: int, lr: float, losses: Mapping[str, Tensor], wait_s: float) -> float:
        """Log one step; returns its total loss."""
        values = {name: float(value) for name, value in losses.items()}
        line = {"step": step, "lr": lr, "wait_s": round(wait_s, 4), **values}
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()
        for name, value in {**values, "lr": lr}.items():
            self._board.add_scalar(name, value, step)
        return values["total"]


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a `metrics.jsonl`."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
