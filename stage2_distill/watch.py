"""A student looked at while it is trained, so that a loss that falls for nothing is seen before the run is paid for.

Who looks is given by the caller. A look is at a copy, so training goes on bit for bit as without it.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from stillhouse.core.encoders import Encoder
from stillhouse.core.events import Reporter
from stillhouse.storage.disk import disk_errors
from stillhouse.storage.specs import Preprocessing

from .metrics import METRICS, read_metrics
from .trainer import Trainer

WATCH = "watch.jsonl"
"""In a run's folder: a line a look, cut to the checkpoint that a run goes on from, as the metrics are."""

Line = Mapping[str, Any]


class SeenEnough(Exception):
    """A watch wants a run to stop here. Its checkpoint is kept: it goes on from there if it is asked to."""


class Watch(Protocol):
    """Judges an encoder, at the same price and by the same images at every look."""

    @property
    def steps(self) -> int:
        """Training steps from one look to the next."""
        ...

    def look(self, encoder: Encoder, sees: Preprocessing) -> Mapping[str, float]:
        """What a frozen encoder in eval mode is worth: numbers by name, the first one for people."""
        ...

    def warning(self, lines: Sequence[Line]) -> str | None:
        """What a person should know by the looks so far, each with its `step` and its `loss` (None: not known)."""
        ...

    def enough(self, lines: Sequence[Line]) -> bool:
        """Whether the run is to stop, by the looks so far; asked after each of them but those at its ends."""
        ...


class Looks:
    """The looks at one run: when they are due, what they found, what was said of it."""

    def __init__(self, watch: Watch, trainer: Trainer, folder: Path, reporter: Reporter) -> None:
        self._watch, self._trainer, self._folder, self._reporter = watch, trainer, folder, reporter
        self._lines: list[Line] = [*read_metrics(folder / WATCH)] if (folder / WATCH).exists() else []

    def begin(self) -> None:
        """Look at the student as it is before its first step."""
        if self._trainer.step == 0 and not self._lines:
            self._look()

    def after_step(self) -> bool:
        """Look if it is time: every so many steps, and at the end. Returns whether that was enough."""
        step, last = self._trainer.step, self._trainer.num_steps
        if step % self._watch.steps == 0 or step == last:
            self._look()
            return step < last and self._watch.enough(self._lines)
        return False

    def _look(self) -> None:
        trainer, name = self._trainer, self._trainer.config.name
        found = self._judged()
        line: dict[str, Any] = {"step": trainer.step, "loss": self._loss(), **found}
        warning = self._watch.warning([*self._lines, line])
        if warning is not None and not any("warning" in earlier for earlier in self._lines):
            line["warning"] = warning
        self._append(line)
        score, loss = next(iter(found)), "" if line["loss"] is None else f"loss {line['loss']:.4f}, "
        self._reporter.say(f"distill {name}: step {trainer.step:,}: {loss}{score} {found[score]:.3f}")
        if "warning" in line:
            self._reporter.say(f"distill {name}: warning: {warning}")
        self._reporter.event("watch", run=name, **line)

    def _judged(self) -> Mapping[str, float]:
        """What a copy of the student is worth: neither its buffers nor its mode nor any random state changes."""
        device = self._trainer.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            frozen = copy.deepcopy(self._trainer.student.encoder).eval().requires_grad_(False)
            return self._watch.look(frozen, self._trainer.sees)

    def _loss(self) -> float | None:
        """The mean total loss that was logged since the last look."""
        path = self._folder / METRICS
        since = self._lines[-1]["step"] if self._lines else 0
        lines = read_metrics(path) if path.exists() else []
        logged = [line["total"] for line in lines if since < line["step"] <= self._trainer.step]
        return sum(logged) / len(logged) if logged else None

    def _append(self, line: Line) -> None:
        path = self._folder / WATCH
        with disk_errors(path):
            self._folder.mkdir(parents=True, exist_ok=True)
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        self._lines.append(line)
