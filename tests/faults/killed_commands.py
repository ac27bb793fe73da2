"""The real commands, killed at any call that changes the disk and run again."""

import json
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from kill_points import Trace, read_trace
from what_is_seen import attempts, content, wrong_for_reader, wrong_in_files

from stillhouse.core.errors import StillhouseError
from stillhouse.testing import Child, Ended, Forks, tiny_pipeline

STUDENT = Path("students/student-seed0")
STEPS = [2, 4, 6, 8, 9]
"""Those that the tiny pipeline logs."""

PRELUDE = """
import sys
sys.path.insert(0, {faults!r})
from pathlib import Path
from kill_points import Points
points = Points(Path({root!r}), Path({trace!r}), {at})
points.install()
if {verb!r} == "distill":
    import stillhouse.stage2_distill.sitting as sitting
    points.tell_of(sitting, "save_checkpoint", lambda path: path.name)
"""


class Commands:
    """The tiny pipeline, verb by verb; `kill` tries a point of one verb. A context manager."""

    VERBS = ("ingest", "extract", "distill")

    def __init__(self, folder: Path) -> None:
        (folder / "forks").mkdir(parents=True)
        self._folder, self._num = folder, 0
        self._forks = Forks(folder / "forks")

    def __enter__(self) -> Self:
        self._forks.__enter__()
        try:
            self._walk()
        except BaseException:
            self._forks.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._forks.__exit__()

    def _walk(self) -> None:
        """The undisturbed run of every verb; each leaves what the next one begins with."""
        self._config = tiny_pipeline(self._folder)
        self.whole = self._folder / "whole"
        self.undisturbed: dict[str, Trace] = {}
        befores = [self._folder / f"before-{verb}" for verb in self.VERBS]
        for verb, after in zip(self.VERBS, [*befores[1:], self.whole], strict=True):
            out = self._fresh(verb)
            status, self.undisturbed[verb] = self._ended(verb, out)
            if status != 0:
                raise AssertionError(f"{verb}, undisturbed: status {status}")
            out.rename(after)
        self.content = content(self.whole / "store")

    def logged(self) -> list[int]:
        """The points at which training writes its log, from when there is a checkpoint on."""
        points = enumerate(self.undisturbed["distill"].points, 1)
        return [number for number, point in points if point == f"write {STUDENT}/metrics.jsonl"][1:]

    def kill(self, verb: str, *ats: int) -> list[str]:
        """Kill a verb at a point, look, kill it again at the next one and so on, run it; returns what was wrong."""
        out = self._fresh(verb)
        points = self.undisturbed[verb].points
        name = points[ats[0] - 1] if ats[0] <= len(points) else "no point"
        where = f"{verb}, killed at {' and then '.join(str(at) for at in ats)} ({name})"
        try:
            return [f"{where}: {line}" for line in self._wrong(verb, out, ats)]
        except (StillhouseError, OSError) as error:
            return [f"{where}: {type(error).__name__}: {error}"]
        finally:
            shutil.rmtree(out, ignore_errors=True)

    def _wrong(self, verb: str, out: Path, ats: Sequence[int]) -> Iterator[str]:
        acknowledged = attempts(out / "store") if out.exists() else {}
        for at in ats:
            status, trace = self._ended(verb, out, at)
            acknowledged |= trace.commits
            if status not in (0, -signal.SIGKILL):
                yield f"ended with {status}"
            if verb == "distill":
                yield from self._wrong_checkpoints(out / STUDENT, trace.done)
            else:
                yield from wrong_in_files(out / "store", self.content)
                yield from wrong_for_reader(out / "store", self.content, trace.done, acknowledged)
        before = attempts(out / "store")
        ended = self.run(verb, out)
        if ended.status != 0:
            yield f"run again, it ended with {ended.status}: {ended.last}"
            return
        after = attempts(out / "store")
        if any(after[unit] != attempt for unit, attempt in before.items()):
            yield "a decided unit was made again"
        yield from (f"at the end: {line}" for line in wrong_in_files(out / "store", self.content))
        if verb == "distill":
            yield from self._wrong_student(out / STUDENT)
        elif verb == "extract" and content(out / "store").digest != self.content.digest:
            yield "at the end: another content"

    def _wrong_checkpoints(self, folder: Path, done: Sequence[str]) -> Iterator[str]:
        """A reader finds the newest checkpoint that was acknowledged, or a newer one; a student is whole or not there."""
        from stillhouse.stage2_distill.checkpoint import load_checkpoint

        saved = max((int(name.removeprefix("step-")) for name in done if name.startswith("step-")), default=0)
        found, damaged = load_checkpoint(folder / "checkpoints")
        if damaged or (found is None and saved) or (found is not None and found.facts["step"] < saved):
            yield f"step {saved} was acknowledged; found {found and found.facts['step']}, damaged {damaged}"
        weights = folder / "student/model.safetensors"
        if (
            weights.parent.exists()
            and weights.read_bytes() != (self.whole / STUDENT / "student" / weights.name).read_bytes()
        ):
            yield "a student is there that is not the one"

    def _wrong_student(self, folder: Path) -> Iterator[str]:
        for name in ("student/model.safetensors", "student/config.json"):
            if (folder / name).read_bytes() != (self.whole / STUDENT / name).read_bytes():
                yield f"at the end: {name} is not, bit for bit, that of the undisturbed run"
        steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        if steps != STEPS:
            yield f"at the end: metrics.jsonl has the steps {steps}"

    def start(self, verb: str, out: Path, at: int = 0) -> tuple[Child, Path]:
        """Start a verb, to be killed at a point or else not at all; the process, and the trace it will leave."""
        self._num += 1
        trace = self._folder / f"trace-{self._num}"
        values = {"faults": str(Path(__file__).parent), "root": str(out), "trace": str(trace), "at": at, "verb": verb}
        prelude = PRELUDE.format(**values)
        return self._forks.start(verb, self._config, f"out={out}", prelude=prelude), trace

    def run(self, verb: str, out: Path) -> Ended:
        """A verb from its start to its end, undisturbed."""
        return self._forks.run(verb, self._config, f"out={out}")

    def begin(self, verb: str, out: Path) -> None:
        """Make the folder that a verb starts from."""
        before = self._folder / f"before-{verb}"
        if before.exists():
            shutil.copytree(before, out)

    def _ended(self, verb: str, out: Path, at: int = 0) -> tuple[int, Trace]:
        child, path = self.start(verb, out, at)
        status, trace = child.wait().status, read_trace(path)
        path.unlink(missing_ok=True)
        return status, trace

    def _fresh(self, verb: str) -> Path:
        self._num += 1
        out = self._folder / str(self._num)
        self.begin(verb, out)
        return out
