"""`doctor`: whether this machine and this disk can do the work, found out before hours of it; each failing with its own line.

The folder is tried out, not asked: names of file systems say little about what a mount gives.
"""

import importlib.metadata
import platform
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.text import Text

from stillhouse import __version__
from stillhouse.core.cores import num_cores
from stillhouse.core.errors import EXIT_OK, EXIT_RESOURCE, BusyError, ResourceError, StillhouseError, one_line
from stillhouse.core.events import results_console
from stillhouse.storage.disk import create_once, only_process_in, publish_folder, replace_file, sync_folder

PACKAGES = ("torch", "timm", "numpy", "zarr", "numcodecs", "pyarrow", "pillow", "scikit-learn", "faiss-cpu")
RACERS, RACES = 8, 5
LITTLE_MEMORY = 4 << 30
LITTLE_ROOM = 10 << 30
SLOW_SYNC_S = 0.1
HUB = "https://huggingface.co"
HUB_WAIT_S = 5.0

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what was found, and what to do when it is not well."""

    name: str
    state: State
    found: str
    hint: str = ""


def examine(folder: Path, *, hub: bool = True) -> list[Finding]:
    """Everything: machine, packages, devices, the disk of `folder`, the hub.

    Args:
        folder: where a store is or is going to be; nothing is left in it.
        hub: try to reach the hub that timm gets weights from.
    """
    return [_machine(), _memory(), _packages(), _devices(), *_disk(folder), *([_hub()] if hub else [])]


def exit_code(findings: list[Finding]) -> int:
    """0 unless something failed; a warning does not."""
    return EXIT_RESOURCE if any(one.state == "fail" for one in findings) else EXIT_OK


def as_json(findings: list[Finding]) -> dict[str, Any]:
    """The findings as plain values."""
    return {
        "version": __version__,
        "findings": [asdict(one) for one in findings],
        "well": exit_code(findings) == EXIT_OK,
    }


def print_findings(findings: list[Finding]) -> None:
    """A line a finding, and its remedy under it."""
    console = results_console()
    styles = {"ok": "green", "warn": "yellow", "fail": "red"}
    for one in findings:
        console.print(Text.assemble((f"{one.state:5}", styles[one.state]), f"{one.name}: {one.found}"))
        if one.hint and one.state != "ok":
            console.print(Text(f"      {one.hint}"))


def _machine() -> Finding:
    found = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {num_cores()} cores"
    if sys.platform != "linux":
        return Finding("machine", "warn", found, "stillhouse is written for and tested on Linux")
    return Finding("machine", "ok", found)


def _memory() -> Finding:
    free = available_memory()
    if free is None:
        return Finding(
            "memory", "warn", "the system does not say how much is free", "watch it while the first block runs"
        )
    found = f"{free / 2**30:.1f} GiB available"
    if free < LITTLE_MEMORY:
        hint = "lower `extract.batch`, `distill.batch` and `threads`, or stop other programs"
        return Finding("memory", "warn", found, hint)
    return Finding("memory", "ok", found)


def available_memory(proc: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that a process can still have: of the machine, or of its container if that is less. None: not known."""
    limits = []
    if proc.is_file():
        rows = dict(line.split(":", 1) for line in proc.read_text(encoding="utf-8").splitlines() if ":" in line)
        if "MemAvailable" in rows:
            limits.append(int(rows["MemAvailable"].split()[0]) * 1024)
    most, used = (_number(group / name) for name in ("memory.max", "memory.current"))
    if most is not None and used is not None:
        limits.append(max(most - used, 0))
    return min(limits, default=None)


def _number(path: Path) -> int | None:
    """A number from a file of the kernel's; None when there is none, or it says `max`."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _packages() -> Finding:
    have, lost = [], []
    for name in PACKAGES:
        try:
            have.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            lost.append(name)
    if lost:
        return Finding("packages", "fail", f"{', '.join(lost)} not installed", f"pip install {' '.join(lost)}")
    return Finding("packages", "ok", ", ".join(have))


def _devices() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("devices", "ok", f"CPU, {torch.get_num_threads()} threads; no GPU that torch can use")
    named = []
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        named.append(f"cuda:{number} {about.name}, {about.total_memory / 2**30:.0f} GiB")
    if not torch.cuda.is_bf16_supported():
        return Finding("devices", "warn", "; ".join(named), "it has no bf16: leave `precision` at fp32, or use fp16")
    return Finding("devices", "ok", "; ".join(named))


def _disk(folder: Path) -> Iterator[Finding]:
    """What the commit protocol asks of a file system, each tried out in a folder of its own that is then removed."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    trial = there / f".doctor-{secrets.token_hex(8)}"
    try:
        trial.mkdir()
    except OSError as error:
        what = f"no file can be made in {there}: {error.strerror}"
        yield Finding("disk", "fail", what, "name a folder that you may write to")
        return
    try:
        yield _room(there)
        yield _tried("create once", trial, _race, f"one of {RACERS} writers wins, in {RACES} races")
        yield _tried("replace and rename", trial, _renames, "a name shows the old bytes or the new ones")
        yield _tried("locks", trial, _locks, "two processes cannot write to one run")
        yield _sync(trial)
    finally:
        shutil.rmtree(trial, ignore_errors=True)


def _room(there: Path) -> Finding:
    free = shutil.disk_usage(there).free
    found = f"{free / 1e9:,.1f} GB free at {there}"
    if free < LITTLE_ROOM:
        return Finding(
            "disk", "warn", found, "ask `stillhouse extract` early: it says how much it needs; or use another disk"
        )
    return Finding("disk", "ok", found)


def _tried(name: str, trial: Path, attempt: Callable[[Path], None], well: str) -> Finding:
    try:
        attempt(trial)
    except (OSError, StillhouseError) as error:
        hint = getattr(error, "hint", "") or "use another disk for the store, such as ext4, xfs or NFS"
        return Finding(name, "fail", one_line(error) if isinstance(error, OSError) else str(error.message), hint)
    return Finding(name, "ok", well)


def _race(trial: Path) -> None:
    """Several writers create one name; exactly one may think that it did, and its bytes must be there."""
    for race in range(RACES):
        path = trial / f"race-{race}"
        with ThreadPoolExecutor(RACERS) as pool:
            won = list(pool.map(create_once, [path] * RACERS, [str(number).encode() for number in range(RACERS)]))
        if won.count(True) != 1 or path.read_bytes() != str(won.index(True)).encode():
            message = f"{won.count(True)} of {RACERS} writers of one name were told that they made it"
            raise ResourceError(
                message, hint="this file system does not create files exclusively: use another for stores"
            )


def _renames(trial: Path) -> None:
    path, staged = trial / "replaced", trial / "staged"
    replace_file(path, b"old")
    replace_file(path, b"new")
    staged.mkdir()
    (staged / "part").write_bytes(b"whole")
    publish_folder(staged, trial / "final")
    if path.read_bytes() != b"new" or (trial / "final" / "part").read_bytes() != b"whole" or staged.exists():
        raise ResourceError("what was renamed is not what is read", hint="use another disk for the store")


def _locks(trial: Path) -> None:
    folder = trial / "locked"
    with only_process_in(folder):
        try:
            with only_process_in(folder):
                pass
        except BusyError:
            return
    message = "a folder could be locked twice: this file system has no locks"
    raise ResourceError(message, hint="never start one run twice here, or use a disk with locks")


def _sync(trial: Path) -> Finding:
    """Whether fsync is heard, and how long it takes: each unit of work waits for a few."""
    begin, num = time.perf_counter(), 10
    try:
        for number in range(num):
            replace_file(trial / f"sync-{number}", b"x" * 4096)
        sync_folder(trial)
    except (OSError, StillhouseError) as error:
        return Finding(
            "sync", "fail", one_line(error), "without fsync a crash can lose what was called done: use another disk"
        )
    each = (time.perf_counter() - begin) / num
    found = f"{1000 * each:.1f} ms to make a small file durable"
    if each > SLOW_SYNC_S:
        return Finding(
            "sync", "warn", found, "use larger blocks (`ingest.block_samples`), so that there are fewer commits"
        )
    return Finding("sync", "ok", found)


def _hub() -> Finding:
    """Whether weights can be had by name. A machine without network works with files as `checkpoint`."""
    import urllib.error
    import urllib.request

    try:
        request = urllib.request.Request(HUB, method="HEAD")
        with urllib.request.urlopen(request, timeout=HUB_WAIT_S):
            return Finding("hub", "ok", f"{HUB} answers: timm can fetch weights by name")
    except urllib.error.HTTPError as error:
        return Finding("hub", "ok", f"{HUB} answers ({error.code})")
    except OSError as error:
        hint = "name local files as `checkpoint`, or fetch the weights where there is a network"
        return Finding("hub", "warn", f"{HUB} cannot be reached: {one_line(error)}", hint)
