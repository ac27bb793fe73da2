"""A disk that is full, broken, read-only or somebody else's; a machine that asks us to stop.

Each ends with one line that names a file a person knows and what to do, exit code 6 (8 for signals), nothing torn at a
final name, and work that goes on to the same content.

Faults are put in at every call that changes the disk (`Injected`), in this process for a small store without a teacher
and through the command line for the real verbs; beside them stand real ones: a small file system, strace, a limit of
the file size, a read-only mount, another user. What the machine does not allow is a row that says so.
"""

import contextlib
import os
import random
import re
import resource
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from disk_commands import HERE, STUDENT, VERBS, Commands
from disk_injection import FAULTS, Call, Fault, Injected, cases_of, spread, wrong_in_end, wrong_in_message
from disk_stops import stops
from outcome import Outcome, Size
from what_is_seen import attempts, content, wrong_in_files

from stillhouse.core.errors import ResourceError
from stillhouse.storage.layout import STAGE
from stillhouse.storage.seal import latest_seal
from stillhouse.storage.specs import TRAIN
from stillhouse.storage.store import Store
from stillhouse.storage.testing import StoreShape, make_store
from stillhouse.storage.verify import verify
from stillhouse.testing import Ended, Forks

SHAPE = StoreShape(blocks=((TRAIN, 3), ("test", 2)), teachers={"tiny": "fp16"}, num_views=1)
NOBODY = 65534


# --- a store without a teacher ---------------------------------------------------------------------------------------


class Build:
    """A small store, built over and over on a disk that fails."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "store"
        with Injected(self.root) as counted:
            make_store(self.root, SHAPE)
        self.calls = counted.calls
        self.content = content(self.root)
        shutil.rmtree(self.root)

    def wrong(self, call: Call, fault: Fault) -> list[str]:
        """Everything wrong with a build whose n-th call fails, and with the one after it."""
        with Injected(self.root, fault, call.number) as injected:
            found = list(self.interrupted())
        found += [f"synced again after a failure: {path}" for path in injected.synced_again]
        found += self._decided_unsynced(injected.unsynced)
        found += self.gone_on()
        return [f"{fault.name} at call {call.number} ({call.name} {call.path}): {line}" for line in found]

    def interrupted(self) -> Iterator[str]:
        """Build once; what is wrong with the error, if there is one."""
        try:
            make_store(self.root, SHAPE)
        except ResourceError as error:
            yield from wrong_in_message(str(error), self.root)
        except Exception as error:  # noqa: BLE001 - every other one is what we look for
            yield f"{type(error).__name__}: {error}"

    def gone_on(self) -> Iterator[str]:
        """What is torn now, and whether the build goes on to the same content. The store is removed."""
        if self.root.exists():
            yield from wrong_in_files(self.root, self.content)
            before = attempts(self.root)
        else:
            before = {}
        make_store(self.root, SHAPE)
        after = attempts(self.root)
        if {unit: after[unit] for unit in before} != before:
            yield "a unit that was decided was made again"
        result, sealed = verify(Store.open(self.root)), latest_seal(self.root)
        yield from (f"in the end: {problem}" for problem in result.problems)
        if sealed is None or not sealed.content_sha256 == result.content_sha256 == self.content.digest:
            yield f"content {result.content_sha256}, sealed {sealed}, expected {self.content.digest}"
        shutil.rmtree(self.root)

    def _decided_unsynced(self, paths: Sequence[str]) -> Iterator[str]:
        """Records of what never came to be on the disk."""
        for path in map(Path, paths):
            parts = path.relative_to(self.root).parts
            if parts[:1] == ("_stage",) and len(parts) > 1 and parts[1] in attempts(self.root).values():
                yield f"a record names the attempt whose {path.name} was not synced"
            named = re.fullmatch(r"\.(.+)\.[0-9a-f]{16}", path.name)
            if named and named[1] != "zarr.json" and path.with_name(named[1]).exists():
                yield f"{named[1]} is there, though its bytes were not synced"


def sweep(folder: Path, size: Size) -> Outcome:
    """Every call of a small build with every fault."""
    build = Build(folder)
    cases = cases_of(build.calls)
    chosen = cases if size == "full" else spread(cases, 120, seed=1)
    violations = [line for call, fault in chosen for line in build.wrong(call, fault)]
    what = "a fault at every call of a small build: one clear line, no record of what was not synced, same content"
    return Outcome(what, len(chosen), tuple(violations), {"calls": len(build.calls), "faults": len(FAULTS)})


# --- the real commands -----------------------------------------------------------------------------------------------


def commands(made: Commands, size: Size) -> list[Outcome]:
    """A draw of the calls of every verb, with the faults they can have."""
    found = []
    for verb in VERBS:
        cases = cases_of(made.calls[verb])
        chosen = spread(cases, 48 if size == "full" else 2, seed=2)
        violations = tuple(line for call, fault in chosen for line in made.wrong(verb, call, fault))
        what = f"a fault at a call of `{verb}`: one clear line and exit 6, nothing torn, the same end when run again"
        found.append(Outcome(what, len(chosen), violations, {"calls": len(made.calls[verb]), "of": len(cases)}))
    return found


# --- real disks ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[str]:
    """A file system on `folder`, gone afterwards; yields why not if there can be none."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", *arguments, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        yield done.stderr.strip() or "mount failed"
        return
    try:
        yield ""
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _not_here(what: str, why: str) -> Outcome:
    return Outcome(what, 0, (), {"not possible here": why})


def small_disk(folder: Path, size: Size) -> Outcome:
    """A small build on a file system with every number of pages and of files that is too small, and then enough."""
    what = "a real file system with too few pages or files for a small build: one clear line, same content"
    with mounted(folder / "disk", "-t", "tmpfs", "-o", "size=64m", "none") as why:
        if why:
            return _not_here(what, why)
        build = Build(folder / "disk")
        make_store(build.root, SHAPE)
        disk = os.statvfs(folder / "disk")
        pages, files = disk.f_blocks - disk.f_bfree, disk.f_files - disk.f_ffree
        shutil.rmtree(build.root)
        step = 1 if size == "full" else 16
        options = [f"size={disk.f_frsize * n}" for n in range(2, pages, step)]
        options += [f"nr_inodes={n}" for n in range(2, files, step)]
        violations = []
        for option in options:
            _remount(folder / "disk", option)
            found = list(build.interrupted())
            _remount(folder / "disk", "size=64m,nr_inodes=100000")
            violations += [f"{option}: {line}" for line in (*found, *build.gone_on())]
        return Outcome(what, len(options), tuple(violations), {"pages": pages, "files": files})


def _remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def small_files(folder: Path, size: Size) -> Outcome:
    """A small build where no file may grow beyond a limit; write(2) itself fails, half-way through."""
    build = Build(folder)
    make_store(build.root, SHAPE)
    sizes = sorted({path.stat().st_size for path in build.root.rglob("*") if path.is_file()})
    shutil.rmtree(build.root)
    limits = [limit for each in sizes for limit in (each // 2, each - 1)]
    if size == "quick":
        limits = limits[::8]
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    violations = []
    for limit in limits:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            found = list(build.interrupted())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        violations += [f"limit {limit}: {line}" for line in (*found, *build.gone_on())]
    what = "a limit of the file size (RLIMIT_FSIZE) for a small build: one clear line, same content"
    return Outcome(what, len(limits), tuple(violations), {"largest file": sizes[-1]})


TRACED = (("fsync", "EIO"), ("fsync", "ENOSPC"), ("rename", "EDQUOT"), ("link", "EPERM"), ("mkdir", "EROFS"))


def traced(folder: Path, size: Size) -> Outcome:
    """A small build whose n-th system call fails in the kernel, by strace."""
    what = "a system call of a small build that strace lets fail: one clear line, same content"
    if shutil.which("strace") is None:
        return _not_here(what, "no strace")
    build = Build(folder)
    totals = Counter(call.name for call in build.calls)
    draw = random.Random(3)
    kinds = TRACED * 5 if size == "full" else TRACED[::2]
    chosen = [(name, number, draw.randint(1, totals[name])) for name, number in kinds]
    script = (
        f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        "from disk_faults import SHAPE, Path, ResourceError, make_store\n"
        f"root = Path({str(build.root)!r})\n"
        "try: make_store(root, SHAPE)\n"
        "except ResourceError as error: sys.exit(str(error))\n"
    )
    violations = []
    failed = 0
    for name, number, at in chosen:
        inject = ["-f", "-qq", "-o", os.devnull, "-e", f"trace={name}", "-e", f"inject={name}:error={number}:when={at}"]
        command = ["strace", *inject, sys.executable, "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        failed += done.returncode != 0
        found = list(wrong_in_message(done.stderr.strip(), build.root)) if done.returncode else []
        violations += [f"{number} at {name} {at}: {line}" for line in (*found, *build.gone_on())]
    if failed == 0 and chosen:
        violations.append("strace let no call fail")
    return Outcome(what, len(chosen), tuple(violations), {"ended with an error": failed})


NO_TEACHER = (
    "import stillhouse.stage1_extract.station as station, stillhouse.stage2_distill.run as run\n"
    "def refuse(*_, **__): raise AssertionError('computing began')\n"
    "station.Teacher = run.Trainer = refuse\n"
)
"""A prelude under which every computation is a fault."""


def read_only(made: Commands, _: Size) -> Outcome:
    """A finished store on a read-only mount: reading works, writing fails before anything is computed."""
    what = "a read-only mount: inspect, verify, train elsewhere, the whole way again; writing fails before any compute"
    made.back_to("end")
    finished, media = made.before("end"), made.out.parent / "media"
    with mounted(media, "--bind", str(finished)) as why:
        if why:
            return _not_here(what, why)
        _remount(media, "bind,ro")
        store, cases = media / "store", 0
        violations: list[str] = []

        def check(name: str, ended: Ended, status: int, root: Path = media) -> None:
            nonlocal cases
            cases += 1
            found = list(wrong_in_end(ended, root))
            if ended.status != status:
                found.append(f"status {ended.status}, not {status}: {ended.err[-400:]!r}")
            violations.extend(f"{name}: {line}" for line in found)

        for verb in ("inspect", "verify"):
            check(verb, made.forks.run(verb, store), 0)
        for verb in ("ingest", "extract", "run"):
            shutil.rmtree(made.out)
            check(f"{verb}, nothing to do", made.run(verb, f"store={store}"), 0)
        weights = [(folder / STUDENT / "student/model.safetensors").read_bytes() for folder in (made.out, finished)]
        if weights[0] != weights[1]:
            violations.append("a student trained from the read-only store has other weights")
        for verb in ("ingest", "extract", "distill", "eval", "run"):
            ended = made.forks.run(verb, made.pipeline, f"out={media}", "name=other", prelude=NO_TEACHER)
            check(f"{verb} into it", ended, 6)
        ended = made.run("extract", f"store={store}", "teachers.0.name=second", prelude=NO_TEACHER)
        check("a second teacher", ended, 6)
        fresh = media / "fresh"
        check("a new store", made.run("ingest", f"store={fresh}", prelude=NO_TEACHER), 6)
    return Outcome(what, cases, tuple(violations))


# --- another user ----------------------------------------------------------------------------------------------------


AS_NOBODY = f"import os; os.setgid({NOBODY}); os.setuid({NOBODY})"


def another_user(made: Commands, size: Size) -> list[Outcome]:
    """The store of a user that we are not, with every kind of file and folder shut in turn."""
    reading = "a file or folder of a store that we may not read: verify and distill name it, or do not need it"
    writing = (
        "a folder of a store that we may not write: one clear line that names it, same content when it is open again"
    )
    if os.getuid() != 0:
        return [_not_here(what, "only root can become another user") for what in (reading, writing)]
    for folder in (made.out, *made.out.parents):
        if folder.stat().st_uid == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    return [_shut_for_reading(made, reading, size), _shut_for_writing(made, writing, size)]


def _kinds(store: Path, *, folders_only: bool, size: Size) -> list[Path]:
    """One path of each kind in a store."""
    kinds: dict[str, Path] = {}
    for path in sorted(store.rglob("*")):
        if not path.name.startswith(".") and (path.is_dir() or not folders_only):
            kinds.setdefault(re.sub(r"[0-9]+", "#", path.relative_to(store).as_posix()), path)
    chosen = list(kinds.values())
    return chosen if size == "full" else chosen[::12]


def _shut_for_reading(made: Commands, what: str, size: Size) -> Outcome:
    made.back_to("end")
    store, mine = made.out / "store", made.out.parent / "mine"
    chosen = _kinds(store, folders_only=False, size=size)
    violations, noticed = [], 0
    for path in chosen:
        mode = path.stat().st_mode
        path.chmod(0)
        mine.mkdir()
        mine.chmod(0o777)
        verified = made.forks.run("verify", store, prelude=AS_NOBODY)
        asked = [f"out={mine}", f"store={store}"]
        trained = made.forks.run("distill", made.pipeline, *asked, prelude=AS_NOBODY)
        path.chmod(mode)
        shutil.rmtree(mine)
        found = [f"distill: {line}" for line in wrong_in_end(trained, store)]
        if path == store / STAGE:  # never read: nothing is missing
            found += [] if verified.status == 0 else [f"verify: {verified}"]
        elif verified.status not in (4, 6) or path.name not in verified.out + verified.err:
            found.append(f"verify: status {verified.status} without its name: {(verified.out + verified.err)[-300:]!r}")
        if "Traceback" in verified.err:
            found.append(f"verify: a traceback: {verified.err[-300:]!r}")
        noticed += trained.status != 0
        violations += [f"{path.relative_to(store)}: {line}" for line in found]
    return Outcome(what, 2 * len(chosen), tuple(violations), {"distill needed it": noticed})


def _shut_for_writing(made: Commands, what: str, size: Size) -> Outcome:
    made.back_to("extract")
    places = [path.relative_to(made.out) for path in _kinds(made.out / "store", folders_only=True, size=size)]
    violations, noticed = [], 0
    for place in (Path("store"), *places):
        made.back_to("extract")
        for path in (made.out, *made.out.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
            path.chmod(0o755 if path.is_dir() else 0o444)
        (made.out / place).chmod(0o555)
        ended = made.run("extract", prelude=AS_NOBODY)
        (made.out / place).chmod(0o755)
        noticed += ended.status != 0
        found = [*wrong_in_end(ended, made.out), *made.gone_on("extract")]
        violations += [f"{place}: {line}" for line in found]
    if not noticed:
        violations.append("no folder that was shut was missed")
    return Outcome(what, 1 + len(places), tuple(violations), {"ended with an error": noticed})


def campaign(folder: Path, size: Size) -> list[Outcome]:
    """Every fault of this module."""
    found = [sweep(_new(folder / "sweep"), size)]
    found += [part(_new(folder / part.__name__), size) for part in (small_disk, small_files, traced)]
    with Forks(_new(folder / "forks")) as forks:
        made = Commands(_new(folder / "commands"), forks)
        found += commands(made, size)
        found.append(read_only(made, size))
        found += another_user(made, size)
        long = Commands(_new(folder / "stops"), forks, "distill.epochs=12", "distill.checkpoint_steps=1000")
        found.append(stops(long, 200 if size == "full" else 8))
    return found


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder
