"""What a sweep says on stdout: its trials from the best to the worst."""

from rich.table import Table

from stillhouse.core.events import results_console
from stillhouse.eval.formatting import duration, percent
from stillhouse.eval.retention import seed_interval
from stillhouse.stage2_distill.sweep.space import shown

from .sweep_ranks import Ranked, Swept


def print_sweep(swept: Swept) -> None:
    """One row a trial, and which student is the best."""
    console, several = results_console(), swept.asked.seeds > 1
    over = f", mean of {swept.asked.seeds} seeds ± 95 % t-interval" if several else ""
    title = f"{swept.asked.probe}, {swept.metric.replace('_', ' ')} on split {swept.split}{over}"
    known = None if swept.teacher is None else f"of teacher = student / teacher, whose score is {swept.teacher:.3f}"
    table = Table(title=title, title_justify="left", caption=known, caption_justify="left")
    for name in ("rank", *swept.names.values(), "score", "of teacher", "steps", "training"):
        table.add_column(name, justify="left" if name in swept.names.values() else "right", overflow="fold")
    for rank, ranked in enumerate(swept.trials, 1):
        values = (shown(ranked.trial.values[key]) for key in swept.names)
        steps = f"{ranked.students[0].num_steps:,}"
        share = percent(swept.share(ranked))
        table.add_row(
            str(rank) if ranked.score is not None else "",
            *values,
            scored(ranked),
            share,
            steps,
            duration(ranked.seconds or None),
        )
    console.print(table)
    if swept.best is not None:
        console.print(f"best: {swept.best.students[0].folder} ({' '.join(swept.best.trial.overrides)})")


def scored(ranked: Ranked) -> str:
    """A trial's score, over seeds with its interval, or what came of it instead."""
    if ranked.score is None:
        return ranked.state
    scores = [student.score for student in ranked.students if student.score is not None]
    if len(scores) == 1:
        return f"{ranked.score:.3f}"
    interval = seed_interval(scores)
    return f"{interval.value:.3f} ± {interval.value - interval.low:.3f}"
