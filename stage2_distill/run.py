"""`distill`: train one student from a store. No teacher, no original data, no network."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from stillhouse.core.errors import DivergedError, UsageError
from stillhouse.core.events import Reporter
from stillhouse.core.licences import missing_notice
from stillhouse.storage.disk import only_process_in
from stillhouse.storage.seal import Seal, latest_seal
from stillhouse.storage.store import Store

from .config import DistillConfig
from .identity import growth_told, identity_of
from .loader import Batch, Loader
from .ranks import ALONE, Ranks
from .result import DistillResult, finish, finished_as
from .sitting import Sitting
from .teachers import Taught, classes_for, grid_lines, taught_by
from .trainer import Trainer, has_batch_norm
from .waiting import where_it_went
from .watch import SeenEnough, Watch

Left = DivergedError | SeenEnough
"""Why a run is left before its end, while others go on."""


@dataclass(frozen=True, slots=True)
class Run:
    """One student to train: how, and in which folder."""

    config: DistillConfig
    folder: Path


def distill(
    store: Store,
    config: DistillConfig,
    folder: Path,
    reporter: Reporter,
    watch: Watch | None = None,
    ranks: Ranks = ALONE,
) -> tuple[DistillResult, bool]:
    """Train a student to the end, or find it finished; (result, whether anything was done).

    Args:
        watch: looks at the student from time to time; it is no part of what the run is. One that may want to stop it is for
            a run of one rank.
        ranks: all of them call this alike; the first one writes.

    Raises:
        UsageError: no such teacher, too few samples for a batch, a student whose grid is not the teacher's.
        SpecMismatchError: `folder` holds a run of another config or on other features.
        BusyError: another process is training in `folder`.
        DivergedError: the loss is not finite.
        SeenEnough: the watch wants it to stop.
    """
    ((result, worked),) = distill_together(store, [Run(config, folder)], reporter, watch, ranks)
    if isinstance(result, Left):
        raise result
    return result, worked


def distill_together(
    store: Store, runs: Sequence[Run], reporter: Reporter, watch: Watch | None = None, ranks: Ranks = ALONE
) -> list[tuple[DistillResult | Left, bool]]:
    """Train students to the end, step by step beside each other; what `distill` gives of each, in their order.

    Those that want the same batches share each one; every student is bit for bit what it is alone. One whose loss is not
    finite, or which the watch wants to stop, is left where it is, and the others go on. Arguments and errors as of `distill`.
    """
    found: dict[int, tuple[DistillResult | Left, bool]] = {}
    begun: dict[int, _Begun] = {}
    with contextlib.ExitStack() as holds:
        with ranks.agreement():
            sealed = _require_seal(store)
            store = store.at(sealed.growths)  # what it grows by is read once it is sealed
            for place, run in enumerate(runs):
                taught = taught_by(run.config, store)
                identity = identity_of(run.config, taught, sealed)
                finished = ranks.from_first(partial(_held_or_finished, store, run.folder, identity, holds, reporter))
                if finished is None:
                    begun[place] = _begin(store, run, taught, identity, ranks, reporter)
                else:
                    found[place] = finished, False
        for places in _sharing(begun):
            results = _train(store, sealed, [begun[place] for place in places], watch, reporter)
            found |= {place: (result, True) for place, result in zip(places, results, strict=True)}
    return [found[place] for place in range(len(runs))]


def _require_seal(store: Store) -> Seal:
    sealed = latest_seal(store.root)
    if sealed is None:
        if not store.teachers():
            raise UsageError(f"store {store.name} has no features yet", hint="run `stillhouse extract` first")
        raise UsageError(
            f"store {store.name} is not sealed: its extraction did not finish", hint="run `stillhouse extract`"
        )
    return sealed


def _held_or_finished(
    store: Store, folder: Path, identity: dict[str, Any], holds: contextlib.ExitStack, reporter: Reporter
) -> DistillResult | None:
    """The run's result if it is finished; else its folder is ours until `holds` ends."""
    with growth_told(store):
        finished = finished_as(folder, identity, reporter)
        if finished is None:
            holds.enter_context(only_process_in(folder))
            finished = finished_as(
                folder, identity, Reporter(quiet=True)
            )  # by another process, just before we were alone
        return finished


@dataclass(frozen=True, slots=True)
class _Begun:
    """A run that is not finished: who teaches it, what it is, and its trainer before its first step."""

    run: Run
    taught: tuple[Taught, ...]
    identity: dict[str, Any]
    trainer: Trainer


def _begin(
    store: Store, run: Run, taught: tuple[Taught, ...], identity: dict[str, Any], ranks: Ranks, reporter: Reporter
) -> _Begun:
    name = run.config.name
    for one in taught:
        if missing := missing_notice(one.name, one.spec.licence, one.spec.notice):
            reporter.say(f"distill {name}: {missing}; `stillhouse export` will ask for it")
    trainer = Trainer(run.config, store, taught, ranks)
    for line in grid_lines(trainer.student.grid, taught):
        reporter.say(f"distill {name}: {line}")
    if trainer.rows < run.config.batch and has_batch_norm(trainer.student):
        reporter.say(f"distill {name}: its batch norms see {trainer.rows} images at once, not {run.config.batch}")
    return _Begun(run, taught, identity, trainer)


def _sharing(begun: Mapping[int, _Begun]) -> list[list[int]]:
    """The runs that want the same batches, however many epochs of them."""
    groups: dict[tuple[int | str, ...], list[int]] = {}
    for place, one in begun.items():
        config = one.run.config
        size = one.trainer.student.image_size
        wants = (config.seed, config.batch, config.repeats, config.window_blocks, config.pixels, size)
        groups.setdefault(wants, []).append(place)
    return list(groups.values())


def _train(
    store: Store, sealed: Seal, begun: Sequence[_Begun], watch: Watch | None, reporter: Reporter
) -> list[DistillResult | Left]:
    """Students of the same batches, from where each stands to the end: a batch is read once and each takes its step."""
    first, taught = begun[0], [one for each in begun for one in each.taught]
    levels = {
        one.name: sorted({name for same in taught if same.name == one.name for name in same.levels}) for one in taught
    }
    config, size, ranks = first.run.config, first.trainer.student.image_size, first.trainer.ranks
    with contextlib.ExitStack() as entered:
        with ranks.agreement():
            loader = entered.enter_context(Loader(store, levels, config, size, classes_for(taught), ranks.part))
            if loader.steps_per_epoch == 0:
                message = f"store {store.name} has {loader.num_rows} training samples, a batch needs {config.batch}"
                raise UsageError(message, hint=f"set distill.batch to {loader.num_rows} or less")
            for one in begun:
                one.trainer.begin(loader.steps_per_epoch)
            with growth_told(store):
                sittings = [Sitting(one.trainer, one.run.folder, one.identity, watch, reporter) for one in begun]
            ranks.require_same([sitting.trainer.step for sitting in sittings], "checkpoint")
            for sitting in sittings:
                entered.enter_context(sitting)
        left = _steps(sittings, loader, reporter)

        def end(place: int, one: _Begun) -> DistillResult | Left:
            return left.get(place) or finish(
                one.run.folder, one.trainer, one.taught, one.identity, sealed.content_sha256
            )

        return ranks.from_first(lambda: [end(place, one) for place, one in enumerate(begun)])


def _steps(sittings: Sequence[Sitting], loader: Loader, reporter: Reporter) -> dict[int, Left]:
    """The loop: a batch, and the step of everyone who stands before it. Returns those who did not come to the end."""
    left: dict[int, Left] = {}
    first = min(sitting.trainer.step for sitting in sittings)
    last = max(sitting.trainer.num_steps for sitting in sittings)
    config, ranks = sittings[0].trainer.config, sittings[0].trainer.ranks
    name = config.name if len(sittings) == 1 else f"{len(sittings)} students"
    total = sum(sitting.trainer.num_steps for sitting in sittings) * config.batch
    with reporter.task(f"distill {name}", total) as task:
        task.resume(sum(sitting.trainer.step for sitting in sittings) * config.batch)
        waited, waits_s = time.monotonic(), 0.0
        for step, batch in enumerate(ranks.together(_batches(loader, first, last)), first):
            ready = [
                n for n, one in enumerate(sittings) if one.trainer.step == step and not one.ended and n not in left
            ]
            wait_s = (time.monotonic() - waited) / max(len(ready), 1)
            waits_s += wait_s * max(len(ready), 1)
            for number in ready:
                try:
                    loss = sittings[number].step(batch, wait_s)
                except (DivergedError, SeenEnough) as error:
                    left[number] = error
                    continue
                task.advance(config.batch, "" if loss is None else f"loss {loss:.4f}")
            waited = time.monotonic()
    if line := where_it_went(loader, [one.trainer for one in sittings], waits_s, last - first):
        reporter.say(f"distill {name}: {line}")
    return left


def _batches(loader: Loader, first: int, total: int) -> Iterator[Batch]:
    """Batches of step `first` to the last one."""
    for epoch in range(first // loader.steps_per_epoch, -(-total // loader.steps_per_epoch)):
        start = max(0, first - epoch * loader.steps_per_epoch)
        yield from loader.epoch(epoch, start=start)
