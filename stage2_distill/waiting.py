"""Where the time of a training step goes, in one line, and the one setting to change.

A step waits for its batch, copies it to the device, runs forward and backward. Beside it threads read, verify, decode and
render the batches to come. What they need is in nobody's way as long as the step does not wait.
"""

from collections.abc import Mapping, Sequence

from stillhouse.core.cores import num_cores

from .loader import Loader
from .trainer import Trainer

STEP = ("wait", "h2d", "forward", "backward")
BESIDE = ("read", "verify", "decode", "render")
SHOWN_WAIT = 0.05
"""Of a step: a run that waits less than this is not told to change anything about its batches."""

FEWEST = 50
"""Steps of a run that says where its time went; the beginning of one, when nothing is read ahead yet, says nothing."""


def where_it_went(loader: Loader, trainers: Sequence[Trainer], waits_s: float, num_steps: int) -> str | None:
    """The line of a sitting of so many steps; None: it was too short, or no step of it was timed.

    Args:
        trainers: those that shared the loader's batches; a step is that of all of them.
        waits_s: that they waited for batches, in all.
    """
    num_timed = max(trainer.num_timed for trainer in trainers)
    if num_steps < FEWEST or not num_timed:
        return None
    spent = [trainer.spent.spent() for trainer in trainers]
    step = {part: sum(one.get(part, 0.0) for one in spent) / num_timed for part in STEP}
    step["wait"] = waits_s / num_steps
    beside = {part: seconds / num_steps for part, seconds in loader.spent.spent().items()}
    config = trainers[0].config
    advice = advised(
        step,
        beside,
        threads=config.threads,
        cores=num_cores(),
        missing_cache_mb=loader.missing_cache_mb,
        rendered=config.pixels == "rendered",
        precision=config.precision,
    )
    return told(step, beside, advice)


def told(step: Mapping[str, float], beside: Mapping[str, float], advice: str) -> str:
    """One line of milliseconds: a step's parts, then what went on beside it in threads, then the advice."""
    whole = sum(step.get(part, 0.0) for part in STEP)

    def parts(names: tuple[str, ...], seconds: Mapping[str, float]) -> str:
        return ", ".join(f"{name} {1e3 * seconds.get(name, 0.0):.1f}" for name in names)

    return f"a step takes {1e3 * whole:.1f} ms: {parts(STEP, step)}; beside it {parts(BESIDE, beside)}; {advice}"


def advised(
    step: Mapping[str, float],
    beside: Mapping[str, float],
    *,
    threads: int,
    cores: int,
    missing_cache_mb: int,
    rendered: bool,
    precision: str,
) -> str:
    """The one setting to change.

    Args:
        step: seconds of each part of `STEP`.
        beside: of each part of `BESIDE`, over all threads.
        threads: those that render.
        missing_cache_mb: what `pixel_cache_mb` lacks to hold every view that training comes back to; 0: it holds them.
    """
    whole, waits = sum(step.get(part, 0.0) for part in STEP), step.get("wait", 0.0)
    if waits < SHOWN_WAIT * whole:
        if precision == "fp32":
            return "it does not wait; distill.precision: bf16 would make the step itself shorter"
        return "it does not wait, and nothing is to be changed"
    slowest = max(BESIDE, key=lambda part: beside.get(part, 0.0))
    waiting = f"it waits for {slowest} {waits / whole:.0%} of the time"
    if slowest == "render":
        if threads < cores:
            return f"{waiting}: set distill.threads: {cores}"
        if missing_cache_mb:
            return f"{waiting}: raise distill.pixel_cache_mb by {missing_cache_mb:,}"
        if not rendered:
            return (
                f"{waiting}: run `stillhouse render` and set distill.pixels: rendered; all {cores} cores render already"
            )
        return f"{waiting}: lower views.size; all {cores} cores decode rendered views already"
    if slowest == "decode":
        return f"{waiting}: store the teacher with codec: fp16, which needs no unpacking"
    return f"{waiting}: bring the store to a nearer disk"
