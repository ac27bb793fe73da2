"""`plan`: what a pipeline is going to take, before anything of it is there. Writes nothing that stays."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from stillhouse.core.errors import DataError, ResourceError, UsageError
from stillhouse.core.events import Reporter, results_console
from stillhouse.eval.formatting import duration, size
from stillhouse.stage1_extract.plan import IngestPlan, plan_blocks
from stillhouse.stage1_extract.sources import open_source
from stillhouse.storage.room import nearest
from stillhouse.storage.specs import TRAIN, LevelSpec

from .pipeline_config import PipelineConfig
from .plan_paper import RECORD_BYTES, images_on_paper, sketch_student, sketch_teacher, teacher_on_paper, times_on_paper
from .plan_probe import probe
from .planning import (
    Facts,
    Hours,
    LevelFacts,
    Number,
    Shape,
    Training,
    columns,
    good_block_samples,
    hours,
    num_objects,
    shard_bytes,
    total_of,
)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked beside the pipeline.

    Args:
        samples: assume so many samples; None: those of the source.
        price: of an hour of the device.
        students: trained from the store.
        seconds: that the probe may take.
        tflops: on paper alone: what the device does, in 10^12 operations a second; None: measure here.
    """

    samples: int | None = None
    price: float | None = None
    students: int = 1
    seconds: float = 30.0
    tflops: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is told."""

    question: Question
    shape: Shape
    facts: Facts
    columns: Mapping[str, Number]
    hours: Hours
    free: int
    remarks: tuple[str, ...]

    @property
    def total(self) -> Number:
        return total_of(list(self.columns.values()))


def make_plan(config: PipelineConfig, question: Question, reporter: Reporter) -> Plan:
    """Ask the source, then the machine or paper.

    Raises:
        UsageError: no source to list, and no number of samples to assume.
    """
    listed, remarks = _listed(config, question)
    if listed is None:
        assert question.samples is not None
        rows = _split(question.samples, config)
    else:
        rows = {TRAIN: 0, **listed.store.num_samples_of()}
        if question.samples is not None:
            remarks.append(f"the source has {sum(rows.values()):,} samples; {question.samples:,} were asked about")
            rows = _split(question.samples, config)
    shape = Shape(rows, config.ingest.block_samples, config.views.num)
    if question.tflops is not None or listed is None:
        facts = on_paper(config, question.tflops or 0)
        remarks.append("nothing was run: times come from counted operations")
    else:
        facts = probe(config, listed, question.seconds, reporter)
    training = Training(
        config.distill.epochs, config.distill.batch, facts.image_size, config.distill.pixel_cache_mb << 20
    )
    taught_by = list(config.distill.teachers) or [config.distill.teacher or config.teachers[0].name]
    disk = os.statvfs(nearest(config.store_path))
    found = columns(shape, facts.images, facts.teachers, facts.record_bytes)
    planned = hours(shape, facts.times, training, taught_by)
    return Plan(question, shape, facts, found, planned, disk.f_bavail * disk.f_frsize, tuple(remarks))


def _listed(config: PipelineConfig, question: Question) -> tuple[IngestPlan | None, list[str]]:
    """The listing of the source, and what is to be said of it; None: it is not here, and the question is about a number."""
    try:
        return plan_blocks(open_source(config.ingest.source).items(), config.ingest), []
    except (DataError, ResourceError, UsageError, OSError) as error:
        if question.samples is None:
            raise
        if question.tflops is None:
            message = "the source is not here, so nothing can be measured"
            raise UsageError(message, hint="add --paper to plan without running anything") from error
        return None, ["the source is not here: images like ImageNet's are assumed"]


def _split(num: int, config: PipelineConfig) -> dict[str, int]:
    """Rows of each split when so many samples fall as their shares say."""
    others = {name: round(num * share) for name, share in config.ingest.split.items()}
    train, subset = num - sum(others.values()), config.ingest.subset
    if subset is not None:
        share = subset.of_each_class or subset.of_classes
        train = min(train, subset.num or train) if share is None else round(train * share)
    return {TRAIN: train, **others}


def on_paper(config: PipelineConfig, tflops: float) -> Facts:
    """Facts without running anything."""
    sketches = {teacher.name: sketch_teacher(teacher, config.views.size) for teacher in config.teachers}
    teachers = {teacher.name: teacher_on_paper(teacher, sketches[teacher.name]) for teacher in config.teachers}
    lead = config.distill.teacher or next(iter(config.distill.teachers), config.teachers[0].name)
    target: LevelSpec | None = sketches[lead].levels.get("patch")
    size, flops = sketch_student(config.distill, target, config.views.size)
    times = times_on_paper(config, sketches, flops, tflops)
    return Facts(images_on_paper(), teachers, Number(RECORD_BYTES, "assumed"), times, size)


def cost(plan: Plan) -> Mapping[str, float]:
    """Seconds of device time of the students that are asked about, from the store and with a live teacher; their price."""
    k, even = plan.question.students, plan.hours.break_even
    from_store = plan.hours.once.value + k * even.student_s
    live = k * (even.student_s + even.live_s)
    price = 0.0 if plan.question.price is None else plan.question.price
    return {"store_s": from_store, "live_s": live, "store": price * from_store / 3600, "live": price * live / 3600}


def as_json(plan: Plan) -> dict[str, Any]:
    """Every number with its origin."""
    shape, found, times = plan.shape, plan.hours, plan.facts.times
    told = {name: _told(getattr(times, name)) for name in ("start", "ingest", "render", "train_begin", "cold", "warm")}
    told |= {
        name: {one: _told(number) for one, number in getattr(times, name).items()}
        for name in ("begin", "view", "forward")
    }
    return {
        "samples": dict(shape.rows),
        "blocks": shape.num_blocks,
        "block_samples": shape.block_samples,
        "good_block_samples": good_block_samples(_levels(plan)),
        "views": shape.num_views,
        "objects": num_objects(shape, plan.facts.teachers),
        "bytes": {name: _told(number) for name, number in plan.columns.items()},
        "total_bytes": _told(plan.total),
        "free_bytes": plan.free,
        "seconds_each": told,
        "seconds": {
            "ingest": _told(found.ingest),
            "extract": {name: _told(number) for name, number in found.teachers.items()},
            "distill": _told(found.student),
        },
        "steps": found.num_steps,
        "students": plan.question.students,
        "cost": dict(cost(plan)),
        "break_even": {"ratio": found.break_even.ratio, "students": found.break_even.students},
        "remarks": list(plan.remarks),
    }


def _told(number: Number) -> dict[str, Any]:
    return {"value": number.value, "origin": number.origin, **({"note": number.note} if number.note else {})}


def _levels(plan: Plan) -> list[LevelFacts]:
    return [level for levels in plan.facts.teachers.values() for level in levels.values()]


def print_plan(plan: Plan) -> None:
    """The tables and lines on stdout."""
    console, shape = results_console(), plan.shape
    splits = ", ".join(f"{num:,} {split}" for split, num in shape.rows.items())
    console.print(f"{sum(shape.rows.values()):,} samples ({splits}) x {shape.num_views} views")
    biggest = max(_levels(plan), key=lambda level: level.row.value)
    shard = size(round(shard_bytes(biggest, min(shape.block_samples, shape.train_rows), shape.block_samples)))
    good = good_block_samples(_levels(plan))
    console.print(
        f"{shape.num_blocks:,} blocks of {shape.block_samples:,}, {num_objects(shape, plan.facts.teachers):,} objects; "
        f"largest shards {shard} (`ingest.block_samples: {good}` makes shards of {size(round(shard_bytes(biggest, good, good)))})"
    )
    table = Table("column", "bytes", "share", "from", title="Store", title_justify="left")
    for name, number in plan.columns.items():
        table.add_row(name, size(round(number.value)), f"{100 * number.value / plan.total.value:.1f} %", _from(number))
    table.add_row("total", size(round(plan.total.value)), "", plan.total.origin)
    _print(console, table)
    short = "" if plan.free >= plan.total.value else ": NOT ENOUGH"
    console.print(f"{size(plan.free)} are free where the store goes{short}")
    _print_times(console, plan)
    for remark in plan.remarks:
        console.print(remark)


def _print_times(console: Any, plan: Plan) -> None:
    found, times = plan.hours, plan.facts.times
    table = Table("step", "time", "rate", "from", title="Time", title_justify="left")
    table.add_row("ingest", duration(found.ingest.value), f"{1 / times.ingest.value:,.0f} img/s", _from(times.ingest))
    for name, number in found.teachers.items():
        forward, view = times.forward[name].value, times.view[name]
        rate = f"{1 / view.value:,.0f} views/s (teacher alone {1 / forward:,.0f})"
        table.add_row(f"extract {name}", duration(number.value), rate, _from(view))
    batch = found.break_even.student_images / max(1, found.num_steps)
    rate = f"{batch / times.cold.value:,.0f} img/s rendered, {batch / times.warm.value:,.0f} img/s from memory"
    table.add_row(f"distill, {found.num_steps:,} steps", duration(found.student.value), rate, _from(times.cold))
    _print(console, table)
    spent, k = cost(plan), plan.question.students
    students = f"{k} student{'' if k == 1 else 's'}"
    console.print(
        f"{students} from the store: {spent['store_s'] / 3600:,.2f} h; with a live teacher {spent['live_s'] / 3600:,.2f} h"
    )
    if plan.question.price is not None:
        console.print(f"at {plan.question.price:g} an hour: {spent['store']:,.2f} and {spent['live']:,.2f}")
    even = found.break_even
    console.print(
        f"the store has paid for itself from {even.students} student{'' if even.students == 1 else 's'} on ({even.ratio:.2f})"
    )


def _from(number: Number) -> str:
    return f"{number.origin}{': ' if number.note else ''}{number.note}"


def _print(console: Any, table: Table) -> None:
    for column in table.columns[1:-1]:
        column.justify, column.no_wrap = "right", True
    console.print(table)
