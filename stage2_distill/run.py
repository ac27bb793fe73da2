"""`distill`: train one student from a store. No teacher, no original data, no network."""

import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from stillhouse.core.config import Config, parse_config
from stillhouse.core.errors import CorruptError, UsageError
from stillhouse.core.events import Reporter
from stillhouse.core.licences import missing_notice
from stillhouse.core.stops import stops_wait
from stillhouse.storage.disk import only_process_in, replace_file
from stillhouse.storage.seal import latest_seal
from stillhouse.storage.signed_json import canonical_json, read_json
from stillhouse.storage.store import Store

from .checkpoint import load_checkpoint, save_checkpoint, truncate_jsonl
from .config import DistillConfig
from .export.mask_token import save_mask_token
from .export.timm import export_student, is_whole, timm_config
from .identity import identity_of, require_same
from .loader import Batch, Loader
from .metrics import METRICS, MetricsLog
from .teachers import Taught, classes_for, grid_lines, lead_of, taught_by
from .trainer import Trainer
from .watch import WATCH, Looks, Watch

RESULT = "result.json"
STUDENT = "student"


class DistillResult(Config):
    """What a finished run says about itself; kept as `result.json` in its folder."""

    name: str
    config: dict[str, Any]
    config_digest: str
    store_sha256: str
    """Content digest of the store as it was then sealed."""
    trained_on_sha256: str
    """Content digest of what was read from it: images, views and the features of its teachers."""
    teacher: str
    """The only one, or the one that weighs most."""
    num_steps: int
    num_parameters: int
    image_size: int
    weights_sha256: str
    seconds: float
    images_per_second: float
    last_losses: dict[str, float]
    student: str
    """Folder of the exported student, relative to the run's."""
    bases: dict[str, str] = Field(default_factory=dict)
    """level -> codec in whose own basis its heads predicted; levels that are not here: in the teacher's channels.

    Of several teachers: teacher/level.
    """
    mask_token_sha256: str = ""
    """Of the file with the mask token; "": none was kept."""
    teachers: dict[str, float] = Field(default_factory=dict)
    """Where there were several: the weight of each."""


def distill(
    store: Store, config: DistillConfig, folder: Path, reporter: Reporter, watch: Watch | None = None
) -> tuple[DistillResult, bool]:
    """Train a student to the end, or find it finished; (result, whether anything was done).

    Args:
        watch: looks at the student from time to time; it is no part of what the run is.

    Raises:
        UsageError: no such teacher, too few samples for a batch, a student whose grid is not the teacher's.
        SpecMismatchError: `folder` holds a run of another config or on other features.
        BusyError: another process is training in `folder`.
    """
    sealed = latest_seal(store.root)
    if sealed is None and store.teachers():
        raise UsageError(
            f"store {store.root} is not sealed: its extraction did not finish", hint="run `stillhouse extract`"
        )
    taught = taught_by(config, store)  # which refuses a store without teachers
    assert sealed is not None
    identity = identity_of(config, taught, sealed)
    finished = _finished(folder, identity, reporter)
    if finished is not None:
        return finished, False
    with only_process_in(folder):
        finished = _finished(folder, identity, Reporter(quiet=True))  # by another process, just before we were alone
        if finished is not None:
            return finished, False
        for one in taught:
            if missing := missing_notice(one.name, one.spec.licence, one.spec.notice):
                reporter.say(f"distill {config.name}: {missing}; `stillhouse export` will ask for it")
        trainer = Trainer(config, store, taught)
        for line in grid_lines(trainer.student.grid, taught):
            reporter.say(f"distill {config.name}: {line}")
        levels = {one.name: one.levels for one in taught}
        with Loader(store, levels, config, trainer.student.image_size, classes_for(taught)) as loader:
            if loader.steps_per_epoch == 0:
                message = f"store {store.root} has {loader.num_rows} training samples, a batch needs {config.batch}"
                raise UsageError(message, hint=f"set distill.batch to {loader.num_rows} or less")
            trainer.begin(loader.steps_per_epoch)
            _resume(trainer, folder, identity, reporter)
            looks = None if watch is None else Looks(watch, trainer, folder, reporter)
            with _Checkpoints(trainer, folder / "checkpoints", identity) as checkpoints:
                seconds = _train(trainer, loader, folder, checkpoints, looks, reporter)
                result = _finish(trainer, taught, folder, identity | {"store_sha256": sealed.content_sha256}, seconds)
    return result, True


class _Checkpoints:
    """Saves a run when it is told to, and when it is stopped: no step is lost to a stop. A context manager."""

    def __init__(self, trainer: Trainer, folder: Path, identity: dict[str, Any]) -> None:
        self._trainer, self._folder, self._identity = trainer, folder, identity
        self._saved, self._whole = trainer.step, True

    def save(self) -> None:
        """Write the checkpoint of this step."""
        save_checkpoint(self._folder, self._trainer.step, self._trainer.checkpoint(self._identity))
        self._saved = self._trainer.step

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """A step with all that belongs to it; a stop waits for its end."""
        with stops_wait():
            self._whole = False
            yield
            self._whole = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is KeyboardInterrupt and self._whole and self._saved < self._trainer.step:
            with stops_wait(signal.SIGALRM):
                self.save()


def _train(
    trainer: Trainer,
    loader: Loader,
    folder: Path,
    checkpoints: _Checkpoints,
    looks: Looks | None,
    reporter: Reporter,
) -> float:
    """The loop: batch, step, log, look, checkpoint. Returns the seconds it took, those of earlier sittings included."""
    config, total = trainer.config, trainer.num_steps
    earlier, begin = trainer.seconds, time.monotonic()
    if looks is not None:
        looks.begin()
    with MetricsLog(folder, trainer.step) as log, reporter.task(f"distill {config.name}", total * config.batch) as task:
        task.resume(trainer.step * config.batch)
        waited = time.monotonic()
        for batch in _batches(loader, trainer.step, total):
            wait_s = time.monotonic() - waited
            with checkpoints.step():
                losses = trainer.train_step(batch)
                trainer.seconds = earlier + time.monotonic() - begin
                if trainer.step % config.log_steps == 0 or trainer.step == total:
                    shown = log.write(trainer.step, trainer.lr, losses, wait_s)
                    task.advance(0, f"loss {shown:.4f}")
                if looks is not None:  # before the checkpoint, after which its line would never be written
                    looks.after_step()
                if trainer.step % config.checkpoint_steps == 0 and trainer.step < total:
                    checkpoints.save()
                task.advance(config.batch)
            waited = time.monotonic()
    return trainer.seconds


def _batches(loader: Loader, first: int, total: int) -> Iterator[Batch]:
    """Batches of step `first` to the last one."""
    for epoch in range(first // loader.steps_per_epoch, -(-total // loader.steps_per_epoch)):
        start = max(0, first - epoch * loader.steps_per_epoch)
        yield from loader.epoch(epoch, start=start)


def finished_run(folder: Path) -> DistillResult:
    """The result of a run that is finished; UsageError when it is not."""
    result = _read_result(folder)
    if result is None:
        raise UsageError(f"no finished student at {folder}", hint="run `stillhouse distill` first")
    return result


def _read_result(folder: Path) -> DistillResult | None:
    path, hint = folder / RESULT, "delete it; `stillhouse distill` then goes on from the last checkpoint"
    body = read_json(path, hint)
    try:
        return None if body is None else parse_config(DistillResult, body, where=str(path))
    except UsageError as error:
        raise CorruptError(error.message, hint=hint) from error


def _finished(folder: Path, identity: dict[str, Any], reporter: Reporter) -> DistillResult | None:
    """The result of the run, if it is finished, is this very run, and its exported student is whole."""
    result = _read_result(folder)
    if result is None:
        return None
    stored = {"config": result.config, "trained_on_sha256": result.trained_on_sha256, "teacher": result.teacher}
    require_same(folder, stored | {"bases": result.bases, "teachers": result.teachers}, identity)
    if not is_whole(folder / result.student, result.weights_sha256):
        reporter.say(f"distill {result.name}: {folder / result.student} is damaged or gone, and is made again")
        return None
    return result


def _resume(trainer: Trainer, folder: Path, identity: dict[str, Any], reporter: Reporter) -> None:
    found, damaged = load_checkpoint(folder / "checkpoints")
    for path in damaged:
        reporter.say(f"checkpoint {path} is damaged and not used")
    if found is not None:
        require_same(folder, found.facts["identity"], identity)
        trainer.restore(found)
        reporter.say(f"distill {trainer.config.name}: going on from step {trainer.step:,} of {trainer.num_steps:,}")
    for log in (METRICS, WATCH):
        truncate_jsonl(folder / log, trainer.step)


def _finish(
    trainer: Trainer, taught: Sequence[Taught], folder: Path, identity: dict[str, Any], seconds: float
) -> DistillResult:
    """Export the student, then write the result, whose presence says that the run is finished."""
    config, spec = trainer.config, lead_of(taught).spec
    card = {**identity, "teacher_spec": spec.model_dump(mode="json"), "num_steps": trainer.num_steps}
    if len(taught) > 1:
        card["teacher_specs"] = {one.name: one.spec.model_dump(mode="json") for one in taught}
    described = timm_config(trainer.student, spec.preprocessing.mean, spec.preprocessing.std)
    sha256 = export_student(folder / STUDENT, trainer.student_weights(), described, card)
    if config.ema > 0:
        export_student(folder / f"{STUDENT}-ema", trainer.ema_weights(), described, card)
    images = trainer.num_steps * config.batch
    result = DistillResult(
        name=config.name,
        config=identity["config"],
        config_digest=config.digest(),
        store_sha256=identity["store_sha256"],
        trained_on_sha256=identity["trained_on_sha256"],
        teacher=spec.name,
        num_steps=trainer.num_steps,
        num_parameters=sum(p.numel() for p in trainer.student.encoder.parameters()),
        image_size=trainer.student.image_size,
        weights_sha256=sha256,
        seconds=seconds,
        images_per_second=images / max(seconds, 1e-9),
        last_losses=trainer.last_losses,
        student=STUDENT,
        bases=identity["bases"],
        mask_token_sha256=save_mask_token(folder, getattr(trainer.student, "mask_token", None)),
        teachers=identity["teachers"],
    )
    replace_file(folder / RESULT, canonical_json(result.model_dump(mode="json")))
    return result
