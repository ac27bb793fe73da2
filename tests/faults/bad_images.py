"""Bad and odd images: pixels by the written rule or a reason code; never a crash, a hang or more memory than promised.

Every image is decoded in a forked child that has 5 seconds for it, and 512 MiB of address space more than it had.
The images come from image_kinds.py and large_images.py, which also say what each must become.
"""

import json
import os
import random
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml
from image_files import Kind, digest
from image_kinds import kinds, sound_files
from large_images import large_kinds
from outcome import Outcome, Size

from stillhouse.storage.decode import MAX_DECODE_BYTES, REASONS, BadImage, decode
from stillhouse.storage.store import Store
from stillhouse.testing import run_here, tiny_pipeline

SEEDS: Mapping[Size, int] = {"quick": 1, "full": 3}
FUZZED: Mapping[Size, int] = {"quick": 1_000, "full": 50_000}
SECONDS = 5
CHUNK = 100
SLACK_BYTES = 8 << 20
"""Of address space beside the promise: stacks and the allocator's own blocks."""
WORDS = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1", b"\xff\xd9", b"\xff\xda", b"IDAT", b"ANMF")


@dataclass(frozen=True, slots=True)
class Told:
    """What became of one image: a reason, "pixels <digest>", or the error that should not be."""

    said: str
    seconds: float
    growth_mib: int


def fuzzed(num: int, seed: int) -> Iterator[Kind]:
    """Sound files of each format with bytes flipped, put in, taken out, overwritten or spliced from another one."""
    sound = sound_files(seed)
    names = sorted(sound)
    for number in range(num):
        chance = random.Random(f"{seed} {number}")
        name = names[number % len(names)]
        data = bytearray(sound[name])
        for _ in range(chance.choice((1, 1, 2, 5, 30))):
            at = chance.randrange(len(data) + 1)
            match chance.randrange(6):
                case 0 | 1 if at < len(data):
                    data[at] ^= 1 << chance.randrange(8)
                case 2:
                    data[at : at + 4] = chance.choice(WORDS)
                case 3:
                    del data[at : at + chance.choice((1, 4, 100))]
                case 4:
                    data[at:at] = chance.randbytes(chance.choice((1, 4, 100)))
                case 5:
                    other = sound[chance.choice(names)]
                    start = chance.randrange(len(other))
                    data[at : at + 200] = other[start : start + 200]
        yield Kind(f"fuzzed {name}, seed {seed}, number {number}", bytes(data).__bytes__, "any")


def tell(data: bytes) -> str:
    """What the decoder says of some bytes."""
    try:
        image = decode(data)
    except BadImage as error:
        fair = error.reason in REASONS and "\n" not in str(error) and len(str(error)) < 600
        return error.reason if fair else f"an unfair message: {error!r}"
    except BaseException as error:  # noqa: BLE001 - whatever else comes out is what we look for
        return f"{type(error).__name__}: {error}"
    return f"pixels {digest(image)}" if image.mode == "RGB" else f"mode {image.mode}"


def violation(kind: Kind, told: Told) -> str:
    """What of the promise a decode broke, "" when nothing."""
    if told.seconds > SECONDS:
        return f"{kind.name}: {told.seconds:.1f} s"
    if told.growth_mib > MAX_DECODE_BYTES >> 20:
        return f"{kind.name}: took {told.growth_mib} MiB"
    decoded = told.said.startswith("pixels ")
    if kind.expected == "any":
        right = decoded or told.said in REASONS
    else:
        right = decoded if kind.expected == "pixels" else told.said in kind.expected.split(" or ")
    return "" if right else f"{kind.name}: {told.said}, expected {kind.expected}"


def examined(
    chosen: Sequence[Kind], folder: Path, *, chunk: int = CHUNK, teller: Callable[[bytes], str] = tell
) -> Iterator[tuple[Kind, Told]]:
    """Each image with what became of it. A child that dies costs the image that it was at, and no other.

    Args:
        chunk: how many images one child decodes; a large one needs a child whose memory nobody used before.
    """
    folder.mkdir(exist_ok=True)
    for start in range(0, len(chosen), chunk):
        some = chosen[start : start + chunk]
        _, status = _in_child(partial(_make, some, folder))
        if status:
            raise RuntimeError(f"the images from {some[0].name!r} on could not be made")
        at = 0
        while at < len(some):
            lines, status = _in_child(partial(_judge, at, len(some), folder, teller))
            for line in lines:
                yield some[at], Told(**json.loads(line))
                at += 1
            if at < len(some):
                died = "more than the time allowed" if status == -signal.SIGALRM else f"the decoder died: {status}"
                yield some[at], Told(died, 0.0, 0)
                at += 1


def _in_child(work: Callable[[], Iterable[str]]) -> tuple[list[str], int]:
    """The lines that `work` yields in a child of its own, and the child's exit status."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reader)
            with os.fdopen(writer, "w", buffering=1) as out:
                for line in work():
                    print(line, file=out)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as file:
        lines = [line for line in file if line.endswith("\n")]
    return lines, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _make(some: Sequence[Kind], folder: Path) -> tuple[()]:
    for number, kind in enumerate(some):
        (folder / str(number)).write_bytes(kind.make())
    return ()


def _judge(start: int, stop: int, folder: Path, teller: Callable[[bytes], str]) -> Iterator[str]:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # it ends the child, even inside the C code of a decoder
    for number in range(start, stop):
        data = (folder / str(number)).read_bytes()
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        used, resident = _memory("VmSize"), _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the highest resident size counts from here
        limit = used + MAX_DECODE_BYTES + SLACK_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        began = time.monotonic()
        said = teller(data)
        seconds = time.monotonic() - began
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        signal.setitimer(signal.ITIMER_REAL, 0)
        growth = (_memory("VmHWM") - resident) >> 20
        yield json.dumps({"said": said, "seconds": round(seconds, 3), "growth_mib": growth})


def _memory(name: str) -> int:
    """One line of the kernel's account of this process, in bytes."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) << 10


def summed(what: str, chosen: Sequence[Kind], folder: Path, chunk: int = CHUNK) -> Outcome:
    """One row of the table for some images."""
    told = list(examined(chosen, folder, chunk=chunk))
    violations = tuple(line for kind, one in told if (line := violation(kind, one)))
    decoded = sum(one.said.startswith("pixels ") for _, one in told)
    facts = {
        "decoded": decoded,
        "refused": sum(one.said in REASONS for _, one in told),
        "reasons met": len({one.said for _, one in told} & set(REASONS)),
        "slowest s": max(one.seconds for _, one in told),
        "most MiB": max(one.growth_mib for _, one in told),
    }
    return Outcome(what, len(told), violations, facts)


def ingested(folder: Path, chosen: Sequence[Kind]) -> Outcome:
    """All of them in one source folder: exit code 7, each bad one listed with its reason, every good one stored."""
    pipeline = tiny_pipeline(folder, 12)
    images = folder / "images"
    expected: dict[str, str] = {}
    for number, kind in enumerate(chosen):
        # The wrong extension on purpose: what a file is called does not matter.
        name = f"odd/{number:04d}.{('jpg', 'png', 'webp', 'gif', 'bmp')[number % 5]}"
        path = images / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(kind.make())
        expected[name] = kind.expected
    config = yaml.safe_load(pipeline.read_text(encoding="utf-8"))
    ended = run_here("ingest", pipeline, "--json")
    violations = [] if ended.status == 7 else [f"exit status {ended.status}: {ended.last}"]
    found: dict[str, str] = {}
    if ended.status == 7:
        store = Store.open(Path(config["out"]) / "store")
        for block in range(len(store.plan.blocks)):
            found |= {sample.key: sample.reason or "pixels" for sample in store.samples(block)}
    for number, (name, wanted) in enumerate(expected.items()):
        said = found.get(name, "not in the store")
        allowed = ["pixels"] if wanted.startswith("pixels") else wanted.split(" or ")
        if said not in allowed and not (wanted == "any" and said in (*REASONS, "pixels")):
            violations.append(f"{chosen[number].name}: {said}, expected {wanted}")
    plain = [said for name, said in found.items() if name not in expected]
    violations += [f"a good image was refused: {said}" for said in plain if said != "pixels"]
    reasons = Counter(said for said in found.values() if said != "pixels")
    facts = {"in quarantine": reasons.total(), "stored": len(found) - reasons.total(), "exit code": ended.status}
    return Outcome("bad images in a source: the block goes on, each is listed", len(chosen), tuple(violations), facts)


def campaign(folder: Path, size: Size) -> list[Outcome]:
    """Every kind, the large ones, fuzzed files, and all kinds through `ingest`."""
    every = [kind for seed in range(SEEDS[size]) for kind in kinds(seed)]
    names = {kind.name.partition(", seed")[0] for kind in every}
    large = large_kinds()[:: 1 if size == "full" else 3]
    source = folder / "source"
    source.mkdir()
    return [
        summed(f"{len(names)} kinds of image: pixels by the rule, or the right reason", every, folder / "kinds"),
        summed("large images and bombs: at most 512 MiB and 5 s a decode", large, folder / "large", 1),
        summed("fuzzed files: pixels or a reason", list(fuzzed(FUZZED[size], 7)), folder / "fuzzed"),
        ingested(source, list(kinds(0))),
    ]
