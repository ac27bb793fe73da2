"""Processes that race for the same units with bytes of their own: one whole result a unit, the same for everyone.

What each process writes names its writer, so that objects of two attempts in one unit would be seen. Besides the race
of all at once there are zombies: writers stopped (SIGSTOP) at any call that changes the disk, and continued when others
have long finished. Sealers race too: a seal that is returned lists all that was decided before it was asked for.
"""

import hashlib
import mmap
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from kill_points import NOWHERE, Points, ended, fork, go_on, kill_all, read_trace, stopped
from kill_sweep import spread
from outcome import Outcome, Size

from stillhouse.core.errors import StillhouseError
from stillhouse.storage import layout
from stillhouse.storage import seal as sealing
from stillhouse.storage.commit import Attempt, publish
from stillhouse.storage.records import read_record, record_sha256
from stillhouse.storage.redo import Redo, note_redo
from stillhouse.storage.seal import latest_seal, root_metadata, seal
from stillhouse.storage.store import Store
from stillhouse.storage.testing import StoreShape, make_store, write_features
from stillhouse.storage.verify import verify

RACERS = 16
NUM_OBJECTS = 3


def unit_name(number: int) -> str:
    return layout.features_unit("racing", number % 8, number)


def write_unit(root: Path, unit: str, writer: str) -> str:
    """Try to be the one who writes a unit; returns the attempt that is, and this one."""
    with Attempt(root, unit) as attempt:
        for number in range(NUM_OBJECTS):
            attempt.add(f"features/{unit}/{number}", [f"{writer} {number} ".encode() * (1 + len(writer) + number)])
        record = attempt.commit({"writer": writer})
    return f"{unit} {record.attempt} {attempt.id}"


def wrong_in_unit(root: Path, unit: str, told: Iterable[str]) -> Iterator[str]:
    """What is not one attempt's, or not what the writers were told.

    Args:
        told: the attempts that the commits of this unit returned.
    """
    record = read_record(root, unit)
    if record is None:
        yield f"{unit}: no record"
        return
    for attempt in set(told) - {record.attempt}:
        yield f"{unit}: a writer was told {attempt}, the record says {record.attempt}"
    for number, entry in enumerate(record.objects):
        path = root / entry.path
        data = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            yield f"{unit}: {entry.path} is not what the record says"
        if not data.startswith(f"{record.facts['writer']} {number} ".encode()):
            yield f"{unit}: {entry.path} is by {data[:20]!r}, the record is by {record.facts['writer']!r}"


def wrong_in_stage(root: Path) -> Iterator[str]:
    """Nobody died: nothing may be left."""
    left = sorted(path.name for path in (root / layout.STAGE).iterdir())
    if left:
        yield f"{len(left)} attempts are left in {layout.STAGE}: {left[:3]}"
    hidden = [path for path in root.rglob(".*") if path.is_file() and path.name != ".lock"]
    if hidden:
        yield f"{len(hidden)} temporary files are left: {hidden[:3]}"


# --- all at once -----------------------------------------------------------------------------------------------------


class StartingLine:
    """Where forked racers wait for each other. It has no lock, so one that dies leaves none held."""

    def __init__(self) -> None:
        self._turns = memoryview(mmap.mmap(-1, 4 * RACERS)).cast("i")

    def wait(self, number: int) -> None:
        """Return when all have come here as often as this one."""
        self._turns[number] += 1
        while min(self._turns) < self._turns[number]:
            time.sleep(0.0001)

    def leave(self, number: int) -> None:
        """Nobody need wait for this one again."""
        self._turns[number] = 2**31 - 1


def race(folder: Path, num_units: int, seed: int, together: bool, winners: Counter[str]) -> list[str]:
    """Sixteen processes write the same units; returns what was wrong.

    Args:
        together: all begin each unit at the same moment; else each takes them in an order of its own.
    """
    root = folder / "race"
    start = StartingLine()

    def run(points: Points, number: int) -> None:
        order = list(range(num_units))
        if not together:
            random.Random(f"{seed} {number}").shuffle(order)
        try:
            for turn, unit in enumerate(order):
                if together or turn == 0:
                    start.wait(number)
                points.tell(f"wrote {write_unit(root, unit_name(unit), f'racer-{number}')}")
        finally:
            start.leave(number)

    traces = [folder / f"race-{number}" for number in range(RACERS)]
    pids = [
        fork(lambda points, number=number: run(points, number), NOWHERE, trace)  # type: ignore[misc]
        for number, trace in enumerate(traces)
    ]
    wrong = [f"a racer ended with {status}" for status in map(ended, pids) if status]
    told: dict[str, list[str]] = {unit_name(unit): [] for unit in range(num_units)}
    won: Counter[str] = Counter()
    for trace in traces:
        lines = [line.split(" ") for line in read_trace(trace).done if line.startswith("wrote ")]
        wrong += read_trace(trace).failed
        for _, unit, decided, own in lines:
            told[unit].append(decided)
            won[unit] += decided == own
        winners[trace.name] += sum(decided == own for _, _, decided, own in lines)
        trace.unlink()
    for unit, decided_as in told.items():
        wrong += wrong_in_unit(root, unit, decided_as)
        if len(decided_as) != RACERS or won[unit] != 1:
            wrong.append(f"{unit}: {len(decided_as)} writers were answered, {won[unit]} believe they won")
    wrong += wrong_in_stage(root)
    shutil.rmtree(root)
    how = "together" if together else "in orders of their own"
    return [f"race {how}, seed {seed}: {line}" for line in wrong]


# --- zombies ---------------------------------------------------------------------------------------------------------


def points_of(body: Callable[[Points], object], root: Path, trace: Path) -> int:
    """How many points there are in an undisturbed run."""
    trace.unlink(missing_ok=True)
    if ended(fork(body, root, trace)) != 0:
        raise AssertionError(read_trace(trace).failed)
    points = read_trace(trace).points
    trace.unlink()
    return len(points)


Meanwhile = Literal["nothing", "published", "made anew"]
MEANWHILE: tuple[Meanwhile, ...] = ("nothing", "published", "made anew")
"""What else happens while writers are stopped: somebody repeats the publication of what is decided, as every next run
does; or the unit is noted to be made anew, and is."""


def zombies(folder: Path, ats: Sequence[int], meanwhile: Meanwhile) -> list[str]:
    """Writers stopped each at a point of its own; one that is not stopped goes before them; then they go on."""
    root, unit = folder / "zombies", unit_name(0)
    root.mkdir()
    traces = [folder / f"zombie-{number}" for number in range(len(ats))]
    alive: list[int] = []
    wrong: list[str] = []
    try:
        for number, (at, trace) in enumerate(zip(ats, traces, strict=True)):

            def body(points: Points, number: int = number) -> None:
                points.tell(f"wrote {write_unit(root, unit, f'zombie-{number}')}")

            pid = fork(body, root, trace, at, signal.SIGSTOP)
            alive += [pid] if stopped(pid) else []
        told = _others(root, unit, meanwhile, wrong)
        for status in go_on(alive):
            wrong += [f"a zombie ended with {status}"] if status else []
            wrong += wrong_in_unit(root, unit, told)
    finally:
        kill_all(alive)
    for trace in traces:
        found = read_trace(trace)
        wrong += found.failed
        answers = [line.split(" ")[2] for line in found.done if line.startswith("wrote ")]
        if len(answers) != 1:
            wrong.append(f"a zombie was answered {len(answers)} times")
        elif meanwhile != "made anew":  # there an answer may name what was decided before
            told += answers
        trace.unlink()
    wrong += wrong_in_unit(root, unit, told)
    wrong += wrong_in_stage(root)
    shutil.rmtree(root)
    return [f"writers stopped at {list(ats)}, meanwhile {meanwhile}: {line}" for line in wrong]


def _others(root: Path, unit: str, meanwhile: Meanwhile, wrong: list[str]) -> list[str]:
    """What is done while writers are stopped; returns the attempts that were told, and adds to what is wrong."""
    told: list[str] = []
    try:
        told.append(write_unit(root, unit, "other").split(" ")[1])
        wrong += wrong_in_unit(root, unit, told)  # whole without those that are stopped
        record = read_record(root, unit)
        if meanwhile == "published" and record is not None:
            publish(root, record)
        elif meanwhile == "made anew":
            note_redo(root, Redo(unit, record_sha256(root, unit), "a test says so"))
            before, told = told, [write_unit(root, unit, "anew").split(" ")[1]]
            wrong += [f"{unit} was noted to be made anew, and was not"] if before == told else []
        wrong += wrong_in_unit(root, unit, told)
    except StillhouseError as error:
        wrong.append(f"one that was not stopped failed: {error}")
    return told


# --- sealers ---------------------------------------------------------------------------------------------------------

SHAPE = StoreShape()
LATE = (("tiny", 1, 1), ("tiny-int8", 1, 1))
"""Teacher, view and block of what is decided late."""


def without_late(folder: Path) -> Path:
    """A store, not sealed, in which some units are not decided."""
    base = folder / "late"
    make_store(base, SHAPE)
    shutil.rmtree(base / layout.SEALS)
    for teacher, view, block in LATE:
        (base / layout.record_path(layout.features_unit(teacher, view, block))).unlink()
    return base


def _seal_and_tell(root: Path, points: Points, listed: bool) -> None:
    """Seal; if `listed`, with one stop more, between the listing of the records and what is done with it."""
    if listed:
        real = sealing.records

        def records(root: Path) -> object:
            found = real(root)
            sealing.records = real
            os.kill(os.getpid(), signal.SIGSTOP)
            return found

        sealing.records = records  # type: ignore[assignment]
    sealed = seal(Store.open(root))
    points.tell(f"sealed {' '.join(entry.path for entry in sealed.objects)}")


def sealers(folder: Path, base: Path, ats: tuple[int, int]) -> list[str]:
    """Two who seal, each stopped at a point of its own (0: when it has listed the records), a unit decided before each.

    The first is continued first. Whatever the order, the second's seal has both units and the last one says all.
    """
    root = folder / "sealers"
    shutil.copytree(base, root)
    traces = [folder / f"sealer-{number}" for number in range(2)]
    alive: list[int] = []
    wrong: list[str] = []
    try:
        for at, trace, (teacher, view, block) in zip(ats, traces, LATE, strict=True):
            write_features(Store.open(root), SHAPE, teacher, view, block)

            def body(points: Points, at: int = at) -> None:
                _seal_and_tell(root, points, at == 0)

            pid = fork(body, root, trace, at, signal.SIGSTOP)
            alive += [pid] if stopped(pid) else []
        wrong += [f"a sealer ended with {status}" for status in go_on(alive) if status]
    finally:
        kill_all(alive)
    needed: set[str] = set()
    for trace, (teacher, view, block) in zip(traces, LATE, strict=True):
        needed |= {layout.features_chunk(teacher, level, view, block) for level in ("cls", "patch")}
        found = read_trace(trace)
        wrong += found.failed
        listed = {path for line in found.done if line.startswith("sealed ") for path in line.split(" ")}
        if not needed <= listed:
            wrong.append(f"a seal was returned without {sorted(needed - listed)}")
        trace.unlink()
    store = Store.open(root)
    last = latest_seal(root)
    if last is None or not needed <= {entry.path for entry in last.objects}:
        wrong.append("the last seal lists less than was decided before it was asked for")
    elif (root / "zarr.json").read_bytes() != root_metadata(store, last):
        wrong.append("the card is not of the last seal")
    wrong += [f"verify: {problem}" for problem in verify(store).problems]
    shutil.rmtree(root)
    return [f"sealers stopped at {ats}: {line}" for line in wrong]


# --- the campaign ----------------------------------------------------------------------------------------------------


def campaign(folder: Path, size: Size) -> list[Outcome]:
    """Ten rounds of two hundred units, every stop of a zombie and many of two and three, every pair of stops of sealers."""
    full = size == "full"
    return [_races(folder, *((10, 200) if full else (2, 40))), _zombies(folder, full), _sealers(folder, full)]


def _races(folder: Path, rounds: int, num_units: int) -> Outcome:
    winners: Counter[str] = Counter()
    violations = []
    for turn in range(rounds):
        violations += race(folder, num_units, turn, turn % 2 == 0, winners)
    what = (
        f"{RACERS} processes write the same units with other bytes: one winner, its bytes alone, all are told the same"
    )
    facts = {"attempts": rounds * num_units * RACERS, "racers that won": sum(won > 0 for won in winners.values())}
    return Outcome(what, rounds * num_units, tuple(violations), facts)


def _zombies(folder: Path, full: bool) -> Outcome:
    num = points_of(lambda _: write_unit(folder / "counted", unit_name(0), "one"), folder / "counted", folder / "trace")
    every = range(1, num + 1)
    draw = random.Random(0)
    singles: list[tuple[int, ...]] = [(at,) for at in every]
    pairs: list[tuple[int, ...]] = [(one, other) for one in every for other in every]
    triples = [tuple(draw.choice(every) for _ in range(3)) for _ in range(100)]
    cases = (
        [*singles, *spread(pairs, 400), *triples] if full else [*spread(singles, 12), *spread(pairs, 12), *triples[:6]]
    )
    violations = []
    for ats in cases:
        for meanwhile in MEANWHILE:
            violations += zombies(folder, ats, meanwhile)
    what = "writers stopped at any call and continued after others finished: the same"
    return Outcome(what, len(MEANWHILE) * len(cases), tuple(violations), {"calls of an attempt": num})


def _sealers(folder: Path, full: bool) -> Outcome:
    base = without_late(folder)
    shutil.copytree(base, folder / "counted-seal")
    num = points_of(lambda _: seal(Store.open(folder / "counted-seal")), folder / "counted-seal", folder / "trace")
    pairs = [(one, other) for one in range(num + 1) for other in range(num + 1)]
    chosen = pairs if full else spread(pairs, 20)
    violations = [line for ats in chosen for line in sealers(folder, base, ats)]
    what = "two who seal while others decide, stopped at any call: no seal lists less than was decided before it"
    return Outcome(what, len(chosen), tuple(violations), {"calls of a seal": num})
