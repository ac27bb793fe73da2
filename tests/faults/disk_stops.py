"""SIGTERM and, after a while, SIGKILL: what was finished is kept, and no training step is lost to a stop in time."""

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from disk_commands import VERBS, Commands
from outcome import Outcome
from what_is_seen import attempts

from stillhouse.testing import Child

GRACES_S = (0.0, 0.01, 0.02, 0.05, 0.2, 2.0)
"""A tiny run stops within the longer ones; the shorter ones kill it while it does."""
TOLD_STEPS = """
from stillhouse.stage2_distill.trainer import Trainer
real = Trainer.train_step
def train_step(self, batch):
    losses = real(self, batch)
    with open({file!r}, "a") as told:
        told.write(f"{{self.step}}\\n")
    return losses
Trainer.train_step = train_step
"""


@dataclass(slots=True)
class Stopped:
    """What was seen of many stops."""

    stops: int = 0
    in_time: int = 0
    killed: int = 0
    too_early: int = 0
    longest_s: float = 0.0
    steps: int = 0
    steps_again: int = 0
    violations: list[str] = field(default_factory=list)


def stops(made: Commands, num: int, *, seed: int = 4, steps: int = 0) -> Outcome:
    """SIGTERM, some time, SIGKILL, so many times, at moments drawn from the time that a whole run takes.

    Args:
        made: with no checkpoint but those that a stop leaves, so that every step that is lost to one is seen.
        steps: stop after so many training steps of a sitting, not at drawn moments.
    """
    draw, seen = random.Random(seed), Stopped()
    made.back_to(VERBS[0])
    begin = time.monotonic()
    assert made.run("run").status == 0
    whole_s = time.monotonic() - begin
    while seen.stops < num:
        made.back_to(VERBS[0])
        _stop_often(made, seen, draw, whole_s, min(10, num - seen.stops), steps)
        seen.violations += [f"seed {seed}, after stop {seen.stops}: {line}" for line in made.gone_on("run")]
    facts = {
        "ended in time": seen.in_time,
        "killed": seen.killed,
        "before the start": seen.too_early,
        "slowest stop s": round(seen.longest_s, 2),
        "steps": seen.steps,
        "steps done again": seen.steps_again,
    }
    what = "SIGTERM, up to 2 s, SIGKILL: exit 8, nothing acknowledged lost, no step lost to a stop in time, same end"
    return Outcome(what, seen.stops, tuple(seen.violations), facts)


def _stop_often(made: Commands, seen: Stopped, draw: random.Random, whole_s: float, most: int, after: int) -> None:
    """Stop runs on one folder until one comes to its end, or `most` times."""
    told = made.out.parent / "steps"
    told.write_text("", encoding="utf-8")
    prelude = TOLD_STEPS.format(file=str(told))
    known: dict[str, str] = {}
    done: set[int] = set()
    last: int | None = None  # the step after which the sitting before was stopped in time
    for _ in range(most):
        at, grace = draw.uniform(0.0, whole_s), draw.choice(GRACES_S)
        where = f"stop {seen.stops} (at {at:.3f} s, grace {grace} s)"
        child = made.forks.start("run", made.pipeline, f"out={made.out}", *made.overrides, prelude=prelude)
        _wait(partial(_come_to, child, told, after) if after else child.over, 60 if after else at)
        begin = time.monotonic()
        alive = not child.over()
        child.send(signal.SIGTERM)
        if not _wait(child.over, grace):
            child.send(signal.SIGKILL)
        took = time.monotonic() - begin
        ended = child.wait()
        seen.stops += alive
        steps = [int(line) for line in _lines(told)]
        told.write_text("", encoding="utf-8")
        seen.steps += len(steps)
        seen.steps_again += len(done & set(steps))
        done |= set(steps)
        if last is not None and steps and steps[0] != last + 1:
            seen.violations.append(f"{where}: went on with step {steps[0]}, though the stop before came after {last}")
        if steps or ended.status != 8:
            last = steps[-1] if steps and ended.status == 8 else None
        lost = {unit: attempt for unit, attempt in known.items() if _attempts(made).get(unit) != attempt}
        if lost:
            seen.violations.append(f"{where}: lost {sorted(lost)}")
        known |= _attempts(made)
        if ended.status == 8:
            seen.in_time += 1
            seen.longest_s = max(seen.longest_s, took)
            if not ended.last.startswith("stopped: SIGTERM received; ") or "Traceback" in ended.err:
                seen.violations.append(f"{where}: {ended.err[-400:]!r}")
        elif ended.status == -signal.SIGKILL:
            seen.killed += 1
        elif ended.status == 0:
            return
        elif ended.status == -signal.SIGTERM and not ended.err and not steps:
            seen.too_early += 1  # before stillhouse had set a handler, or done anything
        else:
            seen.violations.append(f"{where}: {ended}")


def _come_to(child: Child, told: Path, steps: int) -> bool:
    return child.over() or len(_lines(told)) >= steps


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split()


def _attempts(made: Commands) -> dict[str, str]:
    store = made.out / "store"
    return attempts(store) if store.exists() else {}


def _wait(over: Callable[[], bool], seconds: float) -> bool:
    """Wait so long, or until it is over; True if it is."""
    limit = time.monotonic() + seconds
    while not over():
        if time.monotonic() >= limit:
            return False
        time.sleep(0.002)
    return True
