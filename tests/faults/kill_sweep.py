"""kill -9 at every call that changes the disk, one after the other: nothing acknowledged is lost, nothing visible is wrong.

An undisturbed run is counted first (`kill_points`). Then, for every n, a fresh run is killed at its n-th call; what a
reader then sees is checked; the run is started again and must end with the content of the undisturbed one.

Most points are of a small store written without a teacher, in a child that is forked from this process; the others
are of the real commands.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from kill_points import Trace, ended, fork, read_trace
from killed_commands import Commands
from outcome import Outcome, Size
from what_is_seen import (
    attempts,
    collected,
    content,
    names_below,
    sha256_of,
    unfinished,
    wrong_for_reader,
    wrong_in_files,
)

from stillhouse.core.errors import StillhouseError
from stillhouse.storage import layout
from stillhouse.storage.seal import decided_units, latest_seal, seal
from stillhouse.storage.store import Store
from stillhouse.storage.testing import StoreShape, flip_bit, make_store, write_missing
from stillhouse.storage.verify import SEAL, forget, verify

SHAPE = StoreShape()
GROWN = replace(SHAPE, teachers={**SHAPE.teachers, "second": "fp16"})
DAMAGED = ("features/tiny/patch/c/1/1/0/0", "images/000000.tar", "views/hash/c/0/1")

T = TypeVar("T")
Tell = Callable[[str], None]


# --- a store without a teacher ---------------------------------------------------------------------------------------


def extraction(root: Path, tell: Tell) -> list[str]:
    """Everything from the empty folder to the seal."""
    return _made(root, SHAPE, tell)


def second_teacher(root: Path, tell: Tell) -> list[str]:
    """A sealed store gets one more teacher and a second seal."""
    return _made(root, GROWN, tell)


def _made(root: Path, shape: StoreShape, tell: Tell) -> list[str]:
    store = Store.create(root, shape.spec, shape.plan)
    tell("store")
    written = write_missing(store, shape)
    seal(store)
    tell("seal")
    return written


def repair(root: Path, tell: Tell) -> list[str]:
    """Damaged units are forgotten and written again."""
    store = Store.open(root)
    for unit in decided_units(root):
        store.done(unit)
    for unit in sorted({problem.unit for problem in verify(store).problems} - {SEAL}):
        forget(store, unit)
    written = write_missing(Store.open(root), SHAPE)
    seal(store)
    tell("seal")
    return written


def nothing(root: Path) -> None:
    """From an empty folder on."""


def sealed(root: Path) -> None:
    """From a sealed store on."""
    make_store(root, SHAPE)


def sealed_and_damaged(root: Path) -> None:
    """From a sealed store on in which objects have been damaged."""
    make_store(root, SHAPE)
    for path in DAMAGED:
        flip_bit(root / path, 100)


@dataclass(frozen=True, slots=True)
class Work:
    """Something that is done to a store, over and over.

    Args:
        run: does it; returns the units it wrote.
        begin: makes what it starts from.
    """

    name: str
    run: Callable[[Path, Tell], list[str]]
    begin: Callable[[Path], None]


WORKS = (
    Work("extraction", extraction, nothing),
    Work("second teacher", second_teacher, sealed),
    Work("repair", repair, sealed_and_damaged),
)


SYSTEM_CALLS = (
    "fsync",
    "fdatasync",
    "link",
    "linkat",
    "mkdir",
    "mkdirat",
    "pwrite64",
    "rename",
    "renameat",
    "renameat2",
    "rmdir",
    "symlink",
    "ftruncate",
    "truncate",
    "unlink",
    "unlinkat",
    "write",
    "writev",
    "openat",
)
SAME_CALL = {"replace": "rename", "create": "openat"}
"""What Python calls otherwise than the kernel does."""

STRACED = """
import sys
sys.path.insert(0, {faults!r})
from pathlib import Path
from kill_points import Points
from kill_sweep import WORKS
points = Points(Path({root!r}), Path({trace!r}))
points.install()
next(work for work in WORKS if work.name == {name!r}).run(Path({root!r}), points.tell)
"""


def no_strace() -> str:
    """Why strace cannot be used here; empty when it can."""
    try:
        tried = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "strace is not installed"
    return f"strace cannot trace here: {tried.stderr.strip()}" if tried.returncode else ""


def missed_calls(sweep: "Sweep") -> tuple[dict[str, int], list[str]]:
    """Calls that the hooks see in an undisturbed run, by kind, and those kinds of which the kernel sees another number."""
    root = sweep.fresh()
    _, trace, lines = sweep.trace_system_calls(root)
    shutil.rmtree(root)
    ours = Counter(SAME_CALL.get(name, name) for name in (point.partition(" ")[0] for point in trace.points))
    theirs = Counter(_system_call(line) for line in lines)
    del theirs[""]
    wrong = [
        f"{name}: {ours[name]} hooked, {theirs[name]} made" for name in ours | theirs if ours[name] != theirs[name]
    ]
    return dict(ours), wrong


def _system_call(line: str) -> str:
    """The name of the call that a line of strace is about; empty for an open that makes nothing."""
    name = line.split(" ", 1)[1].strip().partition("(")[0]
    return "" if name == "openat" and "O_CREAT" not in line else name


class Sweep:
    """One `Work` and its undisturbed run; `kill` tries a point of it."""

    def __init__(self, work: Work, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.work, self._folder, self._num = work, folder, 0
        self.left_over = 0
        self._base = folder / "base"
        work.begin(self._base)
        root = self.fresh()
        self._mending, self._damage, self._known = frozenset[str](), dict[str, str](), dict[str, str]()
        if root.exists():
            problems = verify(Store.open(root)).problems
            self._mending = frozenset(problem.unit for problem in problems)
            self._damage = {problem.path: sha256_of(root / problem.path) for problem in problems}
            self._known = {unit: attempt for unit, attempt in attempts(root).items() if unit not in self._mending}
        status, self.undisturbed = self._start(root, 0)
        if status != 0:
            raise AssertionError(f"{work.name}, undisturbed: {self.undisturbed.failed}")
        self.content = content(root)
        shutil.rmtree(root)

    def kill(self, *ats: int) -> list[str]:
        """Kill a fresh run at a point, the run after it at the next one, and so on; returns what was wrong."""
        points = self.undisturbed.points
        name = points[ats[0] - 1] if ats[0] <= len(points) else "no point"
        where = f"killed at {' and then '.join(str(at) for at in ats)} ({name})"
        return self._told(where, lambda root: self._wrong(root, ats))

    def kill_by_strace(self, call: str, number: int) -> list[str]:
        """Kill a fresh run, a process of its own, at the n-th time it makes a system call; returns what was wrong."""

        def wrong(root: Path) -> Iterator[str]:
            status, trace, _ = self.trace_system_calls(root, ["-e", f"inject={call}:signal=KILL:when={number}"])
            acknowledged = {**self._known, **trace.commits}
            yield from self._wrong_now(root, status, trace, acknowledged)
            yield from self._wrong_afterwards(root, acknowledged)

        return self._told(f"killed by strace at {call} {number}", wrong)

    def trace_system_calls(self, root: Path, options: Sequence[str] = ()) -> tuple[int, Trace, list[str]]:
        """Run the work under strace: exit status, our own trace, and strace's lines about the store."""
        trace, log = self._folder / "trace", self._folder / "strace"
        trace.unlink(missing_ok=True)
        script = STRACED.format(
            faults=str(Path(__file__).parent), root=str(root), trace=str(trace), name=self.work.name
        )
        command = ["strace", "-f", "-y", "-e", f"trace={','.join(SYSTEM_CALLS)}", *options, "-o", str(log)]
        done = subprocess.run([*command, sys.executable, "-c", script], capture_output=True, check=False)
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        return done.returncode, read_trace(trace), [line for line in lines if str(root) in line]

    def _told(self, where: str, wrong: Callable[[Path], Iterator[str]]) -> list[str]:
        root = self.fresh()
        try:
            return [f"{self.work.name}, {where}: {line}" for line in wrong(root)]
        except (StillhouseError, OSError) as error:  # what the next run says instead of going on
            return [f"{self.work.name}, {where}: {type(error).__name__}: {error}"]
        finally:
            shutil.rmtree(root, ignore_errors=True)

    def _wrong(self, root: Path, ats: Sequence[int]) -> Iterator[str]:
        acknowledged = dict(self._known)
        for at in ats:
            status, trace = self._start(root, at)
            acknowledged |= trace.commits
            yield from self._wrong_now(root, status, trace, acknowledged)
        yield from self._wrong_afterwards(root, acknowledged)

    def _wrong_now(self, root: Path, status: int, trace: Trace, acknowledged: Mapping[str, str]) -> Iterator[str]:
        if status not in (0, -signal.SIGKILL):
            yield f"ended with {status}: {trace.failed}"
        yield from wrong_in_files(root, self.content, self._damage)
        yield from wrong_for_reader(root, self.content, trace.done, acknowledged, self._mending)

    def _wrong_afterwards(self, root: Path, acknowledged: Mapping[str, str]) -> Iterator[str]:
        if self._num % 2:  # every other time what the dead have left is collected before the work goes on
            yield from collected(root)
        before = attempts(root)
        written = self.work.run(root, lambda _: None)
        after = attempts(root)
        kept = acknowledged if self._mending else before
        if not set(written).isdisjoint(kept) or any(after[unit] != attempt for unit, attempt in kept.items()):
            yield f"made again although decided: {sorted(set(written) & set(kept))}"
        self.left_over = max(self.left_over, len(unfinished(root)))
        yield from collected(root)
        if unfinished(root):
            yield f"at the end: not collected: {unfinished(root)}"
        found, last = verify(Store.open(root)), latest_seal(root)
        yield from (f"at the end: {problem}" for problem in found.problems)
        if last is None or not last.content_sha256 == found.content_sha256 == self.content.digest:
            yield f"at the end: content {found.content_sha256[:12]}, expected {self.content.digest[:12]}, seal {last}"
        extra = [
            name
            for name in names_below(root)
            if name not in self.content.objects and not name.startswith(f"{layout.LOG}/")
        ]
        if extra != ["zarr.json"]:
            yield f"at the end: files that nothing names: {extra}"

    def _start(self, root: Path, at: int) -> tuple[int, Trace]:
        path = self._folder / "trace"
        path.unlink(missing_ok=True)
        status = ended(fork(lambda points: self.work.run(root, points.tell), root, path, at))
        return status, read_trace(path)

    def fresh(self) -> Path:
        """What the work starts from, in a folder of its own."""
        self._num += 1
        root = self._folder / str(self._num)
        if self._base.exists():
            shutil.copytree(self._base, root)
        return root


# --- the campaign ----------------------------------------------------------------------------------------------------


def spread(numbers: Sequence[T], num: int) -> list[T]:
    """At most `num` of them, evenly over their range."""
    return [numbers[i * len(numbers) // num] for i in range(num)] if num < len(numbers) else list(numbers)


def campaign(folder: Path, size: Size) -> list[Outcome]:
    """Every point of everything, or a few of each."""
    full = size == "full"
    outcomes = []
    for work in WORKS:
        sweep = Sweep(work, folder / work.name.replace(" ", "-"))
        outcomes.append(_each(sweep, spread(sweep.undisturbed.changing, 10**9 if full else 12)))
        if work is WORKS[0]:
            outcomes += [_twice(sweep, 200 if full else 5), _by_strace(sweep, 60 if full else 4)]
    with Commands(folder / "commands") as commands:
        for verb, num in zip(Commands.VERBS, (4, 6, 6), strict=True):
            ats = spread(commands.undisturbed[verb].changing, 10**9 if full else num)
            violations = [line for at in ats for line in commands.kill(verb, at)]
            facts: dict[str, int] = {"calls": len(commands.undisturbed[verb].points)}
            outcomes.append(
                Outcome(f"kill -9 in `stillhouse {verb}`: {PROMISES[verb]}", len(ats), tuple(violations), facts)
            )
        again = [(logged, at) for logged in commands.logged() for at in range(1, 11)]
        chosen = spread(again, 10**9 if full else 2)
        violations = [line for pair in chosen for line in commands.kill("distill", *pair)]
        what = "kill -9 in `stillhouse distill`, and again as it goes on from a checkpoint: the same, and no line of its log lost"
        outcomes.append(Outcome(what, len(chosen), tuple(violations)))
    return outcomes


PROMISES = {
    "ingest": "nothing acknowledged lost, nothing wrong visible, goes on",
    "extract": "the same, and the sealed content is the undisturbed one",
    "distill": "an acknowledged checkpoint is found; the student ends bit-equal",
}


def _each(sweep: Sweep, ats: Sequence[int]) -> Outcome:
    violations = [line for at in ats for line in sweep.kill(at)]
    what = f"kill -9 at every call of {sweep.work.name}: nothing acknowledged lost, nothing wrong visible, same content"
    facts = {"calls": len(sweep.undisturbed.points), "of them changing the disk": len(sweep.undisturbed.changing)}
    return Outcome(what, len(ats), tuple(violations), {**facts, "staged attempts left over at most": sweep.left_over})


def _twice(sweep: Sweep, num: int) -> Outcome:
    """The run that goes on is killed too."""
    draw = random.Random(0)
    changing = sweep.undisturbed.changing
    pairs = [(draw.choice(changing), draw.randint(1, len(sweep.undisturbed.points))) for _ in range(num)]
    violations = [line for pair in pairs for line in sweep.kill(*pair)]
    return Outcome(f"kill -9 in {sweep.work.name}, and again in the run that goes on: the same", num, tuple(violations))


def _by_strace(sweep: Sweep, num: int) -> Outcome:
    """The hooks against the kernel's own count, and kills by the kernel."""
    what = "kill -9 by strace at system calls: the same; the hooks miss none"
    reason = no_strace()
    if reason:
        return Outcome(what, 0, (), {"skipped": reason})
    counts, violations = missed_calls(sweep)
    kinds = [name for name in ("fsync", "link", "mkdir", "rename", "rmdir", "unlink") if counts.get(name)]
    pairs = [(kinds[i % len(kinds)], i // len(kinds)) for i in range(num)]
    for name, turn in pairs:
        turns = -(-num // len(kinds))
        violations += sweep.kill_by_strace(name, 1 + turn * (counts[name] - 1) // max(turns - 1, 1))
    return Outcome(what, num, tuple(violations), {f"{name} calls": counts[name] for name in kinds})
