"""The whole way: pipeline.yaml to report. Each step is skipped when its output is there and whole.

ingest -> extract (per teacher) -> distill (per seed) -> eval -> report
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stillhouse.core.checkpoints import find_checkpoint
from stillhouse.core.encoders import require_model
from stillhouse.core.errors import EXIT_CORRUPT, EXIT_OK, UsageError, missing_package
from stillhouse.core.events import Reporter
from stillhouse.eval.features import require_labels
from stillhouse.eval.stored import StoredScores, stored_parts
from stillhouse.eval.tasks.kinds import task_of
from stillhouse.eval.watch import KnnWatch
from stillhouse.stage1_extract.extract import extract
from stillhouse.stage1_extract.grow import open_grown
from stillhouse.stage1_extract.ingest import IngestResult, ingest, ingest_result
from stillhouse.stage1_extract.repair import Plant, repair
from stillhouse.stage2_distill.config import DistillConfig
from stillhouse.stage2_distill.order import views_of
from stillhouse.stage2_distill.ranks import joined
from stillhouse.stage2_distill.render import RenderResult, render_views
from stillhouse.stage2_distill.result import RESULT, DistillResult, finished_run
from stillhouse.stage2_distill.run import distill
from stillhouse.stage2_distill.trainer import device_for
from stillhouse.storage import layout
from stillhouse.storage.collect import collect, collected_line
from stillhouse.storage.remote.opening import open_store
from stillhouse.storage.rendered import rendered_folder
from stillhouse.storage.specs import TRAIN, StoreSpec
from stillhouse.storage.store import Store

from .judging import Judged, judged_on, run_eval, run_stored
from .ledger import Ledger, already, counted
from .pipeline_config import PipelineConfig, StudentsConfig, open_stored, student_folder


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished pipeline: its store, students by seed, and what they kept."""

    store: Store
    ingested: IngestResult
    students: tuple[DistillResult, ...]
    judged: Judged
    ledger: Ledger


def run_ingest(config: PipelineConfig, reporter: Reporter, ledger: Ledger) -> tuple[Store, IngestResult]:
    """Images into the store."""
    result = ingest(config.store_path, config.ingest, config.views, reporter)
    ledger.enter("ingest", result.seconds, result.num_blocks_written > 0)
    store = Store.open(config.store_path)
    splits = ", ".join(f"{num:,} {split}" for split, num in store.plan.num_samples_of().items())
    done = f"{counted(result.num_samples, 'image')} ({splits}) in store {config.store_path}"
    reporter.say(f"ingest: {done}{already(result.num_blocks_written == 0)}")
    if result.quarantined:
        num = sum(result.quarantined.values())
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(result.quarantined.items()))
        how = f"`stillhouse inspect {config.store_path}` lists them"
        reporter.say(f"ingest: {counted(num, 'image')} left out, in quarantine ({reasons}); {how}")
    return store, result


def open_for_extract(config: PipelineConfig, reporter: Reporter) -> Store:
    """The store for the teacher pass; it grows by the views that the config asks for beyond what it has."""
    store = Store.open(config.store_path)
    views = config.views.model_dump(mode="json")
    more = config.views.num > store.spec.num_views and store.spec.views == views | {"num": store.spec.num_views}
    if not more:
        return store
    return open_grown(store.root, StoreSpec(ingest=store.spec.ingest, views=views), reporter)


def run_extract(config: PipelineConfig, store: Store, reporter: Reporter, ledger: Ledger) -> None:
    """Every teacher over every view."""
    for teacher in config.teachers:
        result = extract(store, teacher, config.extract, reporter)
        ledger.enter("extract", result.seconds, result.num_units_written > 0)
        images = counted(store.plan.num_samples_of().get(TRAIN, 0), "training image")
        done = f"features of teacher {teacher.name} for {images} x {counted(store.spec.num_views, 'view')}"
        sealed = f"store sealed as {result.seal.content_sha256[:12]}"
        reporter.say(f"extract: {done}; {sealed}{already(result.num_units_written == 0)}")
    _collect(store, reporter)


def _collect(store: Store, reporter: Reporter) -> None:
    """Remove what interrupted work left behind, once it is old enough."""
    found = collect(store)
    if found.removed:
        reporter.say(f"gc: {collected_line(found)}")


def run_repair(config: PipelineConfig, units: Sequence[str], reporter: Reporter) -> tuple[int, dict[str, Any]]:
    """Make damaged units again, or those that are named. Returns the exit code and the facts."""
    plant = Plant(config.store_path, config.ingest, config.views, config.teachers, config.extract)
    result = repair(plant, units, reporter)
    for problem in result.left:
        reporter.say(f"not mended: {problem.path}: {problem.found}; {problem.remedy}")
    sealed = result.seal
    content = f"; content {sealed.content_sha256[:12]}, seal {sealed.generation}" if sealed else ""
    if not result.redone and not result.left:
        reporter.say(f"repair: nothing to do, all units are whole{content}")
    elif result.redone:
        done = f"repair: {counted(len(result.redone), 'unit')} of work made again"
        others = len(result.changed)
        bytes_ = f"{others:,} with other bytes than before: {', '.join(result.changed[:5])}{', …' * (others > 5)}"
        reporter.say(f"{done}, {bytes_ if others else 'with the bytes they had'}{content}")
    facts = {
        "asked": list(result.asked),
        "redone": list(result.redone),
        "changed": list(result.changed),
        "left": [{"path": p.path, "found": p.found, "next": p.remedy} for p in result.left],
        "content_sha256": sealed.content_sha256 if sealed else None,
        "generation": sealed.generation if sealed else None,
    }
    return (EXIT_CORRUPT if result.left else EXIT_OK), facts


def run_distill(
    config: StudentsConfig, store: Store, seeds: Sequence[int], reporter: Reporter, ledger: Ledger
) -> tuple[DistillResult, ...]:
    """One student a seed, trained by this process or by all that `torchrun` started."""
    results = []
    with joined(device_for(config.distill), reporter) as ranks:
        looks = config.eval.watch is not None and ranks.is_first
        watch = KnnWatch(judged_on(config, store), config.eval) if looks else None
        for seed in seeds:
            folder = student_folder(config, seed)
            result, worked = distill(store, _seeded(config, seed), folder, reporter, watch, ranks)
            if ranks.is_first:
                ledger.enter("distill", result.seconds, worked)
            reporter.say(
                f"distill: student {result.name}, seed {seed}: {result.num_steps:,} steps at "
                f"{result.images_per_second:,.0f} img/s{already(not worked)}"
            )
            results.append(result)
    return tuple(results)


def run_render(config: StudentsConfig, store: Store, reporter: Reporter, ledger: Ledger) -> RenderResult:
    """Every training view as a JPEG beside the store."""
    result = render_views(store, reporter)
    ledger.enter("render", result.seconds, result.num_written > 0)
    size = f" ({result.num_bytes / 2**20:,.1f} MiB)" if result.num_written else ""
    done = f"{counted(result.num_views, 'view')} in {rendered_folder(store.root)}{size}"
    reporter.say(f"render: {done}{already(result.num_written == 0)}")
    return result


def _seeded(config: StudentsConfig, seed: int) -> DistillConfig:
    return config.distill.model_copy(update={"seed": seed})


def _require_beginning(config: PipelineConfig) -> None:
    """Refuse before any work what config and machine alone show to fail after hours of it."""
    if config.distill.teacher is None and not config.distill.teachers and len(config.teachers) > 1:
        names = ", ".join(teacher.name for teacher in config.teachers)
        raise UsageError(f"there are {len(config.teachers)} teachers ({names})", hint="name one as distill.teacher")
    views_of(0, config.views.num, config.distill.repeats)
    device_for(config.distill)
    if config.eval.store is not None:
        open_store(config.eval.store, config.remote.reach(), Reporter(quiet=True))
    for key, split in (("train", config.eval.train), ("test", config.eval.test)):
        if config.eval.store is None and split not in (TRAIN, *config.ingest.split):
            message = f"eval.{key} is {split!r}, and ingest.split makes no such split"
            raise UsageError(message, hint=f"set ingest.split, e.g. {{{split}: 0.2}}")
    near = config.eval.has_probes and config.eval.leakage is not None
    if (near or config.eval.knn is not None) and find_spec("faiss") is None:
        raise missing_package("faiss")
    for task in config.eval.tasks:
        task_of(task).identity()  # which says what is missing of its data set
    require_model(config.distill.student.model)
    for teacher in config.teachers:
        if not (config.store_path / layout.record_path(layout.codecs_unit(teacher.name))).exists():
            require_model(teacher.model)
            if teacher.checkpoint is not None:
                find_checkpoint(teacher.checkpoint)


def _require_samples(config: PipelineConfig, store: Store) -> None:
    """Refuse before the teacher pass what these images cannot give."""
    num, batch = store.plan.num_samples_of().get(TRAIN, 0), config.distill.batch
    if num < batch:
        message = f"store {store.name} has {counted(num, 'training image')}, distill.batch is {batch}"
        raise UsageError(message, hint=f"set distill.batch to {num} or less")
    if config.eval.has_probes:
        require_labels(judged_on(config, store), config.eval)
    if config.eval.stored is not None:
        stored_parts(store, config.eval.stored)


def run(config: PipelineConfig, seeds: Sequence[int], reporter: Reporter) -> RunResult:
    """Walk the whole way. What is done already is left alone."""
    ledger = Ledger(Path(config.out))
    finished = all((student_folder(config, seed) / RESULT).exists() for seed in seeds)
    if not finished:
        _require_beginning(config)
    store, ingested = run_ingest(config, reporter, ledger)
    if not finished:
        _require_samples(config, store)
    run_extract(config, store, reporter, ledger)
    if config.distill.pixels == "rendered" and not finished:
        run_render(config, Store.open(store.root), reporter, ledger)
    students = run_distill(config, store, seeds, reporter, ledger)
    return RunResult(store, ingested, students, run_eval(config, store, students, reporter, ledger), ledger)


def judge(config: StudentsConfig, seeds: Sequence[int], reporter: Reporter) -> Judged:
    """Judge students that are trained already; UsageError when one is not."""
    store = open_stored(config, reporter)
    students = [finished_run(student_folder(config, seed)) for seed in seeds]
    return run_eval(config, store, students, reporter, Ledger(Path(config.out)))


def judge_stored(config: StudentsConfig, reporter: Reporter) -> StoredScores:
    """Judge the teachers of a store by its features alone."""
    return run_stored(config, open_stored(config, reporter), reporter, Ledger(Path(config.out)))


def finished(config: StudentsConfig, seeds: Sequence[int], reporter: Reporter) -> RunResult:
    """A pipeline that was walked before, from what is on disk: nothing is made or judged.

    Raises:
        UsageError: there is no store, a student is not trained, or not judged.
    """
    store, ledger = open_stored(config, reporter), Ledger(Path(config.out))
    students = tuple(finished_run(student_folder(config, seed)) for seed in seeds)
    judged = run_eval(config, store, students, reporter, ledger, only_kept=True)
    return RunResult(store, ingest_result(store), students, judged, ledger)
