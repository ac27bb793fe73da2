"""The ledger of a report: what each stage took, and when the store has paid for itself."""

import numpy as np

from stillhouse.eval.break_even import BreakEven
from stillhouse.eval.report_data import StageCost
from stillhouse.stage2_distill.result import DistillResult
from stillhouse.storage.specs import TRAIN
from stillhouse.storage.store import Store

from .pipeline import RunResult


def stage_costs(result: RunResult) -> tuple[StageCost, ...]:
    """One line a stage."""
    seconds, store = result.ledger.seconds, result.store
    steps = sum(_images_seen(student) for student in result.students)
    each = f"{len(result.students)} students" if len(result.students) > 1 else "this student"
    return (
        StageCost(name="ingest", seconds=seconds.get("ingest", 0.0), num_images=store.plan.num_samples, once=True),
        StageCost(name="teacher pass", seconds=seconds.get("extract", 0.0), num_images=_num_views(store), once=True),
        StageCost(name="distill", seconds=sum(s.seconds for s in result.students), num_images=steps, note=each),
        StageCost(name="eval", seconds=seconds.get("eval", 0.0), note="teacher, students, untrained students"),
    )


def _num_views(store: Store) -> int:
    return store.spec.num_views * sum(store.plan.blocks[b].num_rows for b in store.plan.blocks_of(TRAIN))


def _images_seen(student: DistillResult) -> int:
    return student.num_steps * int(student.config["batch"])


def break_even(result: RunResult) -> BreakEven | str:
    """When the store has paid for itself, from the ledger; or why that is not known."""
    seconds, students = result.ledger.seconds, result.students
    once = [seconds.get(step, 0.0) for step in ("ingest", "extract")]
    if min(once) <= 0:
        return "the store was filled before this run, and its teacher pass was not timed here"
    used = set(students[0].teachers) or {students[0].teacher}
    stored = {spec.name for spec in result.store.teachers()}
    if used != stored:
        return f"the ledger times the teachers of the store together, and the student learnt from {len(used)} of {len(stored)}"
    images = float(np.mean([_images_seen(student) for student in students]))
    return BreakEven(
        once_s=sum(once),
        student_s=float(np.mean([student.seconds for student in students])),
        student_images=round(images),
        teacher_rate=_num_views(result.store) / once[1],
    )
