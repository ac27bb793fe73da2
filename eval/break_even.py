"""After how many students a store has paid for itself against a teacher that runs at every step. Pure arithmetic.

From a store, k students cost `once + k * student`. With a live teacher they cost `k * (student + live)`, where `live` is
what the teacher takes for the images of one student. The store is the cheaper way from `k > once / live` on.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakEven:
    """Seconds on one machine; all measured in the run, but that no teacher ran live.

    Assumed: a live teacher is as fast as the teacher pass was, which also rendered views and wrote the store; a step of
    a live student otherwise takes what one from the store takes; a live student sees as many images.
    """

    once_s: float
    """Ingest and teacher pass."""
    student_s: float
    """Training one student from the store, the mean of those there are."""
    student_images: int
    """Images that one student saw, each as often as it saw it."""
    teacher_rate: float
    """Images a second of the teacher pass."""

    @property
    def live_s(self) -> float:
        """What a live teacher would take for one student."""
        return self.student_images / self.teacher_rate

    @property
    def ratio(self) -> float:
        """Students at which both ways cost the same."""
        return self.once_s / self.live_s

    @property
    def students(self) -> int:
        """The first whole number of students, at least one, for which the store is not the dearer way."""
        return max(1, math.ceil(self.ratio - 1e-9))

    def curves(self, num: int) -> tuple[list[float], list[float]]:
        """Seconds of 0 … num students: (from the store, with a live teacher)."""
        both = [(self.once_s + k * self.student_s, k * (self.student_s + self.live_s)) for k in range(num + 1)]
        return [store for store, _ in both], [live for _, live in both]
