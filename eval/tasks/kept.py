"""What a student kept of its teacher on a task. Pure maths; intervals as in `retention`."""

from collections.abc import Callable

from ..probe import IntArray
from ..retention import Interval, ProbeRetention, percentiles, redrawn
from .base import Task
from .run import TaskJudgement


def keep_task(
    task: Task,
    teacher: TaskJudgement,
    student: TaskJudgement,
    untrained: TaskJudgement,
    *,
    seed: int = 0,
    num: int = 1000,
    level: float = 0.95,
) -> ProbeRetention:
    """Retention on one task over `num` redrawings of its items; the gain is positive where the student is better."""
    sign = 1.0 if task.metric.higher_is_better else -1.0

    def interval(value: float, score: Callable[[IntArray], float]) -> Interval:
        draws = [score(rows_N) for rows_N in redrawn(len(teacher.result.items_NK), num, seed)]
        return percentiles(value, draws, level)

    def alone(judged: TaskJudgement) -> Interval:
        return interval(judged.score, lambda rows_N: task.score(judged.result.items_NK[rows_N]))

    def gained(rows_N: IntArray) -> float:
        scores = [task.score(each.result.items_NK[rows_N]) for each in (student, untrained)]
        return sign * (scores[0] - scores[1])

    return ProbeRetention(
        probe=task.name,
        metric=task.metric.name,
        teacher=alone(teacher),
        student=alone(student),
        untrained=alone(untrained),
        gain=interval(sign * (student.score - untrained.score), gained),
        percent=task.metric.percent,
        higher_is_better=task.metric.higher_is_better,
    )
