"""The real verbs on a tiny pipeline, started over and over from where the one before ended."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from disk_injection import Call, Fault, wrong_in_end
from what_is_seen import attempts, content, wrong_in_files

from stillhouse.storage.seal import latest_seal
from stillhouse.storage.signed_json import read_signed_json
from stillhouse.storage.store import Store
from stillhouse.storage.verify import verify
from stillhouse.testing import Ended, Forks, tiny_pipeline

HERE = Path(__file__).resolve().parent
STUDENT = Path("students/student-seed0")
VERBS = ("ingest", "extract", "distill", "eval", "run")


def _is_part_of(begun: Path, whole: Path) -> bool:
    """True when scores are those of another file as far as they go: each probe is kept as it is found."""
    one, other = (read_signed_json(path, "") for path in (begun, whole))
    assert one is not None and other is not None
    return bool(one["identity"] == other["identity"] and one["probes"].items() <= other["probes"].items())


class Commands:
    """Each verb of a tiny pipeline, started over and over from where the one before it ended."""

    def __init__(self, folder: Path, forks: Forks, *overrides: str) -> None:
        self.forks, self._folder, self.overrides = forks, folder, overrides
        self.pipeline, self.out = tiny_pipeline(folder / "pipeline"), folder / "out"
        self.calls: dict[str, list[Call]] = {}
        for verb in VERBS:
            self._keep(verb)
            trace = folder / f"{verb}.trace"
            ended = self.run(verb, prelude=_injecting(self.out, trace=trace))
            assert ended.status == 0, ended
            split = [line.split(" ", 1) for line in trace.read_text(encoding="utf-8").splitlines()]
            self.calls[verb] = [Call(number, name, path) for number, (name, path) in enumerate(split, 1)]
        self._keep("end")
        self.content = content(self.out / "store")

    def run(self, verb: str, *rest: str, prelude: str = "") -> Ended:
        """A verb on `out`."""
        return self.forks.run(verb, self.pipeline, f"out={self.out}", *self.overrides, *rest, prelude=prelude)

    def _keep(self, verb: str) -> None:
        self.out.mkdir(exist_ok=True)
        shutil.copytree(self.out, self.before(verb))

    def before(self, verb: str) -> Path:
        """A copy of `out` as it was before a verb; "end": after the last."""
        return self._folder / f"before-{verb}"

    def back_to(self, verb: str) -> None:
        """Let `out` be as it was before a verb."""
        shutil.rmtree(self.out)
        shutil.copytree(self.before(verb), self.out)

    def wrong(self, verb: str, call: Call, fault: Fault) -> list[str]:
        """Everything wrong with a verb one of whose calls fails, and with the same verb after it."""
        self.back_to(verb)
        ended = self.run(verb, prelude=_injecting(self.out, fault, call.number))
        found = [*wrong_in_end(ended, self.out), *self.gone_on(verb)]
        return [f"{verb}, {fault.name} at call {call.number} ({call.name} {call.path}): {line}" for line in found]

    def gone_on(self, verb: str) -> Iterator[str]:
        """What is torn in `out` now, and whether the verb goes on to the same end."""
        yield from self._torn()
        store = self.out / "store"
        before = attempts(store) if store.exists() else {}
        ended = self.run(verb)
        if ended.status != 0:
            yield f"it did not go on: {ended}"
            return
        after = attempts(store)
        if {unit: after[unit] for unit in before} != before:
            yield "a unit that was decided was made again"
        yield from (f"in the end: {problem}" for problem in verify(Store.open(store)).problems)
        yield from self._torn(whole=verb)

    def _torn(self, whole: str = "") -> Iterator[str]:
        """What of `out` is not what the undisturbed run left; with a verb, what of it is missing too."""
        end = self.before("end")
        if (self.out / "store").exists():
            yield from wrong_in_files(self.out / "store", self.content)
        sealed = latest_seal(self.out / "store") if (self.out / "store").exists() else None
        if whole in VERBS[1:] and (sealed is None or sealed.content_sha256 != self.content.digest):
            yield f"sealed {sealed}, expected {self.content.digest}"
        finals: list[tuple[str, Path]] = [("distill", STUDENT / "student/model.safetensors")]
        finals += [("eval", Path("eval") / path.name) for path in (end / "eval").glob("*.json")]
        for verb, path in finals:
            if (self.out / path).exists():
                begun = not whole and path.suffix == ".json" and _is_part_of(self.out / path, end / path)
                if not begun and (self.out / path).read_bytes() != (end / path).read_bytes():
                    yield f"{path} holds other bytes"
            elif whole and VERBS.index(whole) >= VERBS.index(verb):
                yield f"{path} is not there"
        metrics = self.out / STUDENT / "metrics.jsonl"
        if (
            whole
            and VERBS.index(whole) >= VERBS.index("distill")
            and steps_of(metrics) != steps_of(end / STUDENT / "metrics.jsonl")
        ):
            yield f"metrics of steps {steps_of(metrics)}"
        if whole == "run" and not list(self.out.glob("*.html")):
            yield "no report"


def steps_of(metrics: Path) -> list[int]:
    """The steps that a log of metrics has lines of."""
    return [json.loads(line)["step"] for line in metrics.read_text(encoding="utf-8").splitlines()]


def _injecting(out: Path, fault: Fault | None = None, at: int = 0, trace: Path | None = None) -> str:
    """A prelude that puts a fault into a command."""
    return (
        f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        "from disk_injection import FAULTS, Injected, Path\n"
        f"Injected(Path({str(out)!r}), FAULTS.get({fault.name if fault else ''!r}), {at}, "
        f"{f'Path({str(trace)!r})' if trace else None}).__enter__()"
    )
