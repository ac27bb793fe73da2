"""One student in training: its trainer, and all that is written in its folder from its first step to its last."""

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from stillhouse.core.events import Reporter
from stillhouse.core.stops import stops_wait

from .checkpoint import load_checkpoint, save_checkpoint, truncate_jsonl
from .identity import require_same
from .loader import Batch
from .metrics import METRICS, MetricsLog
from .trainer import Trainer
from .watch import WATCH, Looks, SeenEnough, Watch


class Sitting:
    """A run from where it stands: step, log, look, checkpoint. No step is lost to a stop. A context manager.

    Of several ranks the first one looks and writes.

    Args:
        trainer: at its beginning; it goes on from the newest checkpoint in `folder`.
        identity: what the run is.
        watch: looks at the student from time to time.
    """

    def __init__(
        self, trainer: Trainer, folder: Path, identity: dict[str, Any], watch: Watch | None, reporter: Reporter
    ) -> None:
        self.trainer, self.folder, self.identity = trainer, folder, identity
        self._resume(reporter)
        self._saved, self._whole = trainer.step, True
        first = trainer.ranks.is_first
        self._looks = Looks(watch, trainer, folder, reporter) if watch is not None and first else None
        self._log: MetricsLog | None = None

    def _resume(self, reporter: Reporter) -> None:
        trainer = self.trainer
        found, damaged = load_checkpoint(self._checkpoints)
        for path in damaged:
            reporter.say(f"checkpoint {path} is damaged and not used")
        if found is not None:
            require_same(self.folder, found.facts["identity"], self.identity)
            trainer.restore(found)
            reporter.say(f"distill {trainer.config.name}: going on from step {trainer.step:,} of {trainer.num_steps:,}")
        for log in (METRICS, WATCH) if trainer.ranks.is_first else ():
            truncate_jsonl(self.folder / log, trainer.step)

    def __enter__(self) -> Self:
        if self._looks is not None:
            self._looks.begin()
        if self.trainer.ranks.is_first:
            self._log = MetricsLog(self.folder, self.trainer.step)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._log is not None:
            self._log.__exit__()
        if kind is KeyboardInterrupt and self._whole and self._saved < self.trainer.step:
            with stops_wait(signal.SIGALRM):
                self.save()

    @property
    def ended(self) -> bool:
        """Whether its last step is done."""
        return self.trainer.step >= self.trainer.num_steps

    def step(self, batch: Batch, wait_s: float) -> float | None:
        """A step with all that belongs to it, for whose end a stop waits; the total loss, if it was logged.

        Args:
            wait_s: seconds that it waited for the batch.

        Raises:
            DivergedError: the loss is not finite.
            SeenEnough: the watch wants it to stop here.
        """
        trainer, config, shown, enough = self.trainer, self.trainer.config, None, False
        before, begin = trainer.seconds + wait_s, time.monotonic()
        with self._one_step():
            losses = trainer.train_step(batch)
            with trainer.ranks.telling():
                if self._log is not None and (trainer.step % config.log_steps == 0 or self.ended):
                    shown = self._log.write(trainer.step, trainer.lr, losses, wait_s)
                if self._looks is not None:  # before the checkpoint, after which its line would never be written
                    enough = self._looks.after_step()
                trainer.seconds = before + time.monotonic() - begin
                if enough or (trainer.step % config.checkpoint_steps == 0 and not self.ended):
                    self.save()
        trainer.seconds = before + time.monotonic() - begin
        if enough:
            raise SeenEnough(f"at step {trainer.step:,} of {trainer.num_steps:,}")
        return shown

    def save(self) -> None:
        """Write the checkpoint of this step; the first rank does, for all."""
        if self.trainer.ranks.is_first:
            save_checkpoint(self._checkpoints, self.trainer.step, self.trainer.checkpoint(self.identity))
        self._saved = self.trainer.step

    @property
    def _checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @contextlib.contextmanager
    def _one_step(self) -> Iterator[None]:
        with stops_wait():
            self._whole = False
            yield
            self._whole = True
