"""kill -9 at random moments: several workers at once on one store, each killed and started again until all is done.

The moments are drawn uniformly from the time that undisturbed workers take, measured here and now. What a worker was
told is done is looked for right after its death, while the others go on, and once more at the end.
"""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from kill_points import NOWHERE, ended, fork, read_trace
from killed_commands import Commands
from outcome import Outcome, Size
from what_is_seen import Content, attempts, content, wrong_in_files

from stillhouse.storage import layout
from stillhouse.storage.records import read_record
from stillhouse.storage.seal import latest_seal
from stillhouse.storage.specs import TRAIN
from stillhouse.storage.store import Store
from stillhouse.storage.testing import StoreShape, make_store
from stillhouse.storage.verify import verify

SHAPE = StoreShape(blocks=((TRAIN, 4), (TRAIN, 4), (TRAIN, 3), ("test", 2)), num_views=3)
KILLS = 12
"""In each extraction, of all its workers together."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A running process, and where it notes what it was told is done."""

    trace: Path
    send: Callable[[int], None]
    wait: Callable[[], int]


@dataclass(frozen=True, slots=True)
class Crew:
    """Who works: `start` begins the n-th worker on a folder, anew or where a killed one stopped.

    Args:
        begin: makes the folder that an extraction starts from.
        store: where in that folder the store is.
        expected: what comes of it undisturbed.
    """

    name: str
    start: Callable[[Path, int], Worker]
    begin: Callable[[Path], None]
    store: str
    expected: Content


@dataclass(slots=True)
class Seen:
    """What came of some extractions."""

    extractions: int = 0
    kills: int = 0
    acknowledged: int = 0
    wasted: int = 0
    """Attempts that were staged and not decided."""
    violations: list[str] = field(default_factory=list)


def undisturbed_seconds(crew: Crew, root: Path, num_workers: int) -> float:
    """How long the workers take when nobody kills them."""
    crew.begin(root)
    begin = time.monotonic()
    running = [crew.start(root, worker) for worker in range(num_workers)]
    statuses = [worker.wait() for worker in running]
    if any(statuses):
        raise AssertionError(f"{crew.name}, undisturbed: {statuses}")
    seconds = time.monotonic() - begin
    shutil.rmtree(root)
    return seconds


def extraction(crew: Crew, root: Path, num_workers: int, seconds: float, seed: int, seen: Seen) -> None:
    """One extraction from its first byte to its seal, through kills at random moments."""
    draw = random.Random(seed)
    store = root / crew.store
    crew.begin(root)
    acknowledged = attempts(store) if store.exists() else {}
    before = len(acknowledged)
    wrong: list[str] = []
    begin = time.monotonic()
    running = {number: crew.start(root, number) for number in range(num_workers)}
    for moment in sorted(draw.uniform(0, seconds) for _ in range(KILLS)):
        time.sleep(max(0.0, begin + moment - time.monotonic()))
        if not running:
            break
        number = draw.choice(sorted(running))
        worker = running.pop(number)
        worker.send(signal.SIGKILL)
        status = worker.wait()
        wrong += _end(store, worker, status, acknowledged)
        if status == -signal.SIGKILL:
            seen.kills += 1
            running[number] = crew.start(root, number)
    for worker in running.values():
        wrong += _end(store, worker, worker.wait(), acknowledged)
    wrong += _wrong_at_the_end(store, crew.expected, acknowledged)
    seen.extractions += 1
    seen.acknowledged += len(acknowledged) - before
    seen.wasted += len(list((store / layout.STAGE).iterdir()))
    seen.violations += [f"{crew.name}, {num_workers} workers, seed {seed}: {line}" for line in wrong]
    shutil.rmtree(root)


def _end(store: Path, worker: Worker, status: int, acknowledged: dict[str, str]) -> Iterator[str]:
    """What a worker that is over was told, compared with what is there."""
    trace = read_trace(worker.trace)
    if status not in (0, -signal.SIGKILL):
        yield f"a worker ended with {status}: {trace.failed}"
    for unit, attempt in trace.commits.items():
        if acknowledged.setdefault(unit, attempt) != attempt:
            yield f"{unit} was acknowledged as {attempt} and as {acknowledged[unit]}"
        record = read_record(store, unit)
        if record is None or record.attempt != attempt:
            yield f"{unit} was acknowledged as {attempt}, the record says {record and record.attempt}"
    worker.trace.unlink(missing_ok=True)


def _wrong_at_the_end(store: Path, expected: Content, acknowledged: Mapping[str, str]) -> Iterator[str]:
    decided = attempts(store)
    for unit, attempt in acknowledged.items():
        if decided.get(unit) != attempt:
            yield f"{unit} was acknowledged as {attempt}, at the end the record says {decided.get(unit)}"
    found, last = verify(Store.open(store)), latest_seal(store)
    yield from (f"at the end: {problem}" for problem in found.problems)
    if last is None or not last.content_sha256 == found.content_sha256 == expected.digest:
        yield f"at the end: content {found.content_sha256[:12]}, expected {expected.digest[:12]}, seal {last}"
    yield from (f"at the end: {line}" for line in wrong_in_files(store, expected))


def forked_crew(folder: Path) -> Crew:
    """Workers that write a small store without a teacher, half of them from the other end."""
    make_store(folder / "whole", SHAPE)
    numbers = iter(range(1 << 30))

    def start(root: Path, number: int) -> Worker:
        trace = folder / f"trace-{next(numbers)}"
        names = list(SHAPE.teachers)[:: 1 if number % 2 == 0 else -1]
        shape = replace(SHAPE, teachers={name: SHAPE.teachers[name] for name in names})
        pid = fork(lambda _: make_store(root, shape), NOWHERE, trace)
        return Worker(trace, partial(os.kill, pid), partial(ended, pid))

    return Crew("small store", start, lambda root: None, "", content(folder / "whole"))


def command_crew(commands: Commands) -> Crew:
    """Workers that are `stillhouse extract`."""

    def start(root: Path, _: int) -> Worker:
        child, trace = commands.start("extract", root)
        return Worker(trace, child.send, lambda: child.wait().status)

    return Crew("stillhouse extract", start, lambda root: commands.begin("extract", root), "store", commands.content)


def many(crew: Crew, folder: Path, crews: tuple[int, ...], num: int, num_kills: int) -> Seen:
    """At least `num` extractions and `num_kills` kills, with each number of workers in turn."""
    seen, seed = Seen(), 0
    seconds = {size: undisturbed_seconds(crew, folder / "measured", size) for size in crews}
    while seen.extractions < num or (seen.kills < num_kills and seen.extractions < 10 * num):
        size = crews[seed % len(crews)]
        extraction(crew, folder / f"extraction-{seed}", size, seconds[size], seed, seen)
        seed += 1
    if seen.kills < num_kills:
        seen.violations.append(f"{crew.name}: only {seen.kills} kills in {seen.extractions} extractions hit a worker")
    return seen


def campaign(folder: Path, size: Size) -> list[Outcome]:
    """500 kills in 100 extractions of the small store, and some of the real command."""
    full = size == "full"
    forked = many(forked_crew(folder), folder, (2, 3, 4), *((100, 500) if full else (4, 30)))
    with Commands(folder / "commands") as commands:
        real = many(command_crew(commands), folder, (2, 3), *((10, 80) if full else (1, 5)))
    return [
        _outcome("workers of a small store killed at random moments", forked),
        _outcome("`stillhouse extract` processes on one store killed at random moments", real),
    ]


def _outcome(what: str, seen: Seen) -> Outcome:
    facts = {
        "extractions": seen.extractions,
        "blocks acknowledged": seen.acknowledged,
        "attempts wasted": seen.wasted,
    }
    promise = "no acknowledged unit lost or made twice, no wrong byte, same content"
    return Outcome(f"{what}: {promise}", seen.kills, tuple(seen.violations), facts)
