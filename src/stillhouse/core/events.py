"""What a person and a log see of a run: messages, progress, JSON lines.

On a terminal progress is a live bar; elsewhere (SLURM logs, CI) a plain line every few seconds. Events also go to
`events.jsonl` in the run's folder. Everything a person reads goes to stderr; stdout is for results.
"""

import contextlib
import json
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PLAIN_EVERY_S = 15.0


class Task:
    """Progress of one step; `advance` it as work is done."""

    def __init__(self, reporter: "Reporter", name: str, total: int, unit: str, bar: Progress | None) -> None:
        self._reporter, self._name, self._total, self._unit, self._bar = reporter, name, total, unit, bar
        self._id: TaskID | None = bar.add_task(name, total=total, rate="") if bar else None
        self._begin = self._last_line = time.monotonic()
        self.done = 0
        self._before = 0

    def resume(self, num: int) -> None:
        """`num` units were done in an earlier sitting; they do not count into the rate."""
        self.done, self._before = num, num
        if self._bar is not None and self._id is not None:
            self._bar.update(self._id, completed=num)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begin

    @property
    def rate(self) -> float:
        """Units a second since the start of the task."""
        return (self.done - self._before) / max(self.seconds, 1e-9)

    def advance(self, num: int, note: str = "") -> None:
        """`num` more units are done; `note` is shown beside the rate."""
        self.done += num
        if self._bar is not None and self._id is not None:
            rate = f"{self.rate:,.0f} {self._unit}/s {note}"
            self._bar.update(self._id, advance=num, rate=rate)
        elif time.monotonic() - self._last_line >= PLAIN_EVERY_S:
            self._last_line = time.monotonic()
            left = (self._total - self.done) / max(self.rate, 1e-9)
            share = 100 * self.done / max(self._total, 1)
            counts = f"{self.done:,}/{self._total:,} {self._unit} ({share:.0f} %)"
            self._reporter.say(
                f"{self._name}: {counts}, {self.rate:,.0f} {self._unit}/s, {left:,.0f} s left {note}".rstrip()
            )


class Reporter:
    """Where messages, progress and events of a run go."""

    def __init__(self, *, console: Console | None = None, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self.quiet = quiet
        self._events: FileIO | None = None

    def open_events(self, folder: Path) -> None:
        """Append events to `folder/events.jsonl` from now on."""
        self.close()
        folder.mkdir(parents=True, exist_ok=True)
        self._events = open(folder / "events.jsonl", "ab", buffering=0)  # noqa: SIM115 - open until close()

    def close(self) -> None:
        """Close the event log."""
        if self._events is not None:
            with contextlib.suppress(OSError):  # a disk that fails has been told of, or took no more than a log
                self._events.close()
            self._events = None

    def say(self, text: str) -> None:
        """One line for a person."""
        if not self.quiet:
            try:
                self.console.print(printable(text), markup=False, emoji=False, highlight=False)
            except BrokenPipeError:
                raise
            except OSError:  # stderr is a file on a full disk: there is nowhere left to say so
                pass

    def event(self, kind: str, **facts: Any) -> None:
        """One JSON line for machines."""
        if self._events is not None:
            body = {"time": round(time.time(), 3), "event": kind, **facts}
            try:
                self._events.write(json.dumps(body, ensure_ascii=False).encode() + b"\n")
            except OSError as error:
                error.filename = self._events.name  # a write does not know it
                raise

    @contextlib.contextmanager
    def task(self, name: str, total: int, unit: str = "img") -> Iterator[Task]:
        """Progress of a step of `total` units."""
        live = self.console.is_terminal and not self.quiet
        bar = _bar(self.console) if live else None
        with bar or contextlib.nullcontext():
            task = Task(self, name, total, unit, bar)
            yield task
        facts = {"name": name, "units": task.done, "unit": unit, "seconds": round(task.seconds, 3)}
        self.event("task", **facts)


def printable(text: str) -> str:
    """`text` with an escape for each character that a terminal would obey: names come from stores and from images."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def results_console() -> Console:
    """Where tables of results go: stdout, and wide enough in a log or a pipe to keep their rows whole."""
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=120)


def _bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True)
