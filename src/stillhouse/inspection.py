"""What `inspect`, `verify` and `gc` tell about a store."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from stillhouse.core.cores import num_cores
from stillhouse.core.errors import EXIT_CORRUPT, EXIT_OK
from stillhouse.core.events import Reporter, printable, results_console
from stillhouse.core.licences import licence_warnings
from stillhouse.storage import layout
from stillhouse.storage.collect import collect, collected_line
from stillhouse.storage.deep import deep_problems, pixel_problems
from stillhouse.storage.dropped import drop, free, take_back
from stillhouse.storage.records import Record
from stillhouse.storage.seal import latest_seal, records, seal, store_id
from stillhouse.storage.sharing.origin import read_origin
from stillhouse.storage.sharing.selection import Selection
from stillhouse.storage.store import Store
from stillhouse.storage.verify import SEAL, Problem, read_records, verify

if TYPE_CHECKING:  # they need torch, whose import takes longer than most stores
    from stillhouse.stage1_extract.config import ExtractConfig, TeacherConfig
    from stillhouse.stage1_extract.recompute import Agreement

SHOWN = 20


def inspect_store(store: Store) -> dict[str, Any]:
    """Facts about a store from its metadata and records, ready for JSON."""
    root = store.root
    found = records(root)
    sizes: Counter[str] = Counter()
    for record in found:
        for entry in record.objects:
            sizes[column_of(entry.path)] += entry.num_bytes
    sealed, origin = latest_seal(root), read_origin(root)
    return {
        "store": store.name,
        "store_id": store_id(root),
        "format_version": store.spec.format_version,
        "samples": store.plan.num_samples,
        "splits": store.plan.num_samples_of(),
        "blocks": len(store.plan.blocks),
        "block_samples": store.plan.block_samples,
        "views": store.spec.views,
        "teachers": [_teacher(store, spec.name, sizes, found) for spec in store.teachers()],
        "warnings": [line for spec in store.teachers() for line in licence_warnings(spec.name, spec.licence)],
        "bytes": dict(sorted(sizes.items())),
        "total_bytes": sum(sizes.values()),
        "objects": sum(len(record.objects) for record in found),
        "quarantined": quarantined(store),
        "origin": None if origin is None else origin.model_dump(mode="json", exclude_none=True),
        "sealed": None
        if sealed is None
        else {
            "generation": sealed.generation,
            "content_sha256": sealed.content_sha256,
            "pin": f"sha256:{sealed.root_sha256}",
        },
    }


def column_of(path: str) -> str:
    """The column that an object belongs to: images, index, views, or features/<teacher>/<level>."""
    parts = path.split("/")
    return "/".join(parts[:3]) if parts[0] == "features" and len(parts) > 3 else parts[0]


def _teacher(store: Store, name: str, sizes: Counter[str], found: Sequence[Record]) -> dict[str, Any]:
    spec = store.teacher(name)
    done = sum(record.facts.get("rows", 0) for record in found if record.unit.startswith(f"features/{name}/"))
    fitted: dict[str, Any] = next(
        (record.facts["levels"] for record in found if record.unit == layout.codecs_unit(name)), {}
    )
    levels = {}
    for level, shape in spec.levels.items():
        num_bytes = sizes[layout.features_array(name, level)]
        per_token = num_bytes / (done * shape.num_tokens) if done else None
        levels[level] = {
            "tokens": shape.num_tokens,
            "dim": shape.dim,
            "codec": fitted[level]["codec"] if level in fitted else None,
            "bytes": num_bytes,
            "bytes_per_token": per_token,
        }
    return {
        "name": name,
        "model": spec.model,
        "weights_sha256": spec.weights_sha256,
        "codec": spec.codec,
        "levels": levels,
    }


def quarantined(store: Store) -> list[dict[str, str]]:
    """Key and reason of every sample that could not be used, over the blocks that are done."""
    found = []
    for block in range(len(store.plan.blocks)):
        record = store.record(layout.images_unit(block))
        for bad in record.facts["quarantined"] if record else ():
            found.append({"key": bad["key"], "reason": bad["reason"]})
    return found


def print_inspection(facts: dict[str, Any]) -> None:
    """The facts as a person reads them, on stdout."""
    console = results_console()
    for name, text in _inspection_rows(facts):
        console.print(
            Text(printable(f"{name:<12}{text}"))
        )  # as Text: keys and paths may hold what rich takes for markup


def _inspection_rows(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    splits = ", ".join(f"{num:,} {name}" for name, num in facts["splits"].items())
    views, sealed, bad = facts["views"], facts["sealed"], facts["quarantined"]
    yield "store", f"{facts['store']}  (format {facts['format_version']}, id {facts['store_id'][:12]})"
    yield "images", f"{facts['samples']:,} ({splits}) in {facts['blocks']:,} blocks of {facts['block_samples']:,}"
    yield "views", f"{views['num']} x {views.get('policy')} at {views['size']} pixels, seed {views.get('seed')}"
    for teacher in facts["teachers"]:
        yield "teacher", f"{teacher['name']}: {teacher['model']}, weights {teacher['weights_sha256'][:12]}"
        for level, shape in teacher["levels"].items():
            size = shape["bytes_per_token"]
            stored = "nothing stored yet" if size is None else f"{size:,.0f} bytes a token on disk"
            yield "", f"{level}: {shape['tokens']} x {shape['dim']}, {shape['codec'] or teacher['codec']}, {stored}"
    for warning in facts["warnings"]:
        yield "mind", warning
    for column, num_bytes in facts["bytes"].items():
        yield "bytes", f"{num_bytes:>15,}  {column}"
    yield "", f"{facts['total_bytes']:>15,}  in {facts['objects']:,} objects"
    yield "seal", f"{sealed['content_sha256']} (generation {sealed['generation']})" if sealed else "not sealed yet"
    if sealed:
        yield "pin", sealed["pin"]
    if origin := facts["origin"]:
        asked = Selection.model_validate(origin["selection"]).told()
        yield "origin", f"{asked} of store {origin['store_id'][:12]}, content {origin['content_sha256'][:12]}"
    for one in bad[:SHOWN]:
        yield "quarantine", f"{one['reason']}: {one['key']}"
    if len(bad) > SHOWN:
        yield "", f"and {len(bad) - SHOWN:,} more; --json lists all"


@dataclass(frozen=True, slots=True)
class Checks:
    """How far `verify` goes beyond sizes and sha256."""

    deep: bool = False
    pixels: bool = False
    recompute: int = 0
    teachers: "Sequence[TeacherConfig]" = ()
    run: "ExtractConfig | None" = None


def verify_store(store: Store, checks: Checks, reporter: Reporter) -> tuple[int, dict[str, Any]]:
    """Check a store. Returns the exit code and the facts."""
    readable, _ = read_records(store.root)
    total = sum(entry.num_bytes for record in readable for entry in record.objects)
    with reporter.task("verify", total, "byte") as task:
        result = verify(store, task.advance)
    problems = list(result.problems)
    if checks.deep:
        problems += _decoded(store, readable, problems, reporter)
    if checks.pixels:
        problems += _rendered(store, problems, reporter)
    agreements, wrong = _recomputed(store, checks, reporter)
    problems += wrong
    for problem in problems:
        reporter.say(f"damaged: {_told(problem)}")
    for one in agreements:
        reporter.say(_agreement(one))
    damaged = sorted({problem.redone_by for problem in problems} - {None}, key=str)
    if damaged:
        reporter.say(
            f"{_units(damaged)} damaged; `stillhouse repair CONFIG` with the config of the store mends {store.name}"
        )
    elif not problems:
        state = f"content {result.content_sha256}" + ("" if result.sealed else ", not sealed yet")
        reporter.say(f"whole: {result.num_objects:,} objects, {result.num_bytes:,} bytes, {state}")
    facts = {
        "units": result.num_units,
        "objects": result.num_objects,
        "bytes": result.num_bytes,
        "content_sha256": result.content_sha256,
        "sealed": result.sealed,
        "problems": [{"unit": p.unit, "path": p.path, "found": p.found, "next": _next(p)} for p in problems],
        "damaged_units": damaged,
        "recomputed": [asdict(one) for one in agreements],
    }
    return (EXIT_CORRUPT if problems else EXIT_OK), facts


def _told(problem: Problem) -> str:
    unit = problem.redone_by or problem.unit
    where = problem.path if unit == SEAL else f"{problem.path} of unit {unit}"
    return f"{where}: {problem.found}; {_next(problem)}"


def _next(problem: Problem) -> str:
    return problem.remedy or f"run `stillhouse repair CONFIG {problem.redone_by}`"


def _recomputed(store: Store, checks: Checks, reporter: Reporter) -> "tuple[list[Agreement], list[Problem]]":
    agreements: list[Agreement] = []
    problems: list[Problem] = []
    if checks.run is not None:
        from stillhouse.stage1_extract.recompute import recompute

        for teacher in checks.teachers:
            with reporter.task(f"recompute {teacher.name}", checks.recompute, "row") as task:
                found, wrong = recompute(store, teacher, checks.run, checks.recompute, on_rows=task.advance)
            agreements += found
            problems += wrong
    return agreements, problems


def _agreement(one: "Agreement") -> str:
    return (
        f"recomputed: {one.teacher}/{one.level} ({one.codec}), {one.num_rows} rows: cosine to the teacher "
        f"min {one.min_cosine:.6f}, mean {one.mean_cosine:.6f}, NMSE {one.nmse:.2e}; "
        f"worst row {one.min_same:.6f}, at least {one.limit} is asked for"
    )


def _decoded(
    store: Store, readable: Sequence[Record], known: Sequence[Problem], reporter: Reporter
) -> Iterator[Problem]:
    """Problems of whole units that rest on whole units; what the others hold cannot be told before they are mended."""
    damaged = {problem.redone_by for problem in known}
    chosen = [record for record in readable if not damaged & {record.unit, *_rests_on(record.unit)}]
    total = sum(entry.num_bytes for record in chosen for entry in record.objects)
    with reporter.task("decode", total, "byte") as task:
        for record in chosen:
            yield from deep_problems(store, record, task.advance)
    if len(chosen) < len(readable):
        reporter.say(f"not decoded: {_units(readable[len(chosen) :])}, which are damaged or rest on damaged ones")


def _rests_on(unit: str) -> list[str]:
    """The units that must be whole for this one to be decoded."""
    match unit.split("/"):
        case ["views", _, block]:
            return [layout.images_unit(int(block))]
        case ["features", teacher, _, block]:
            return [layout.images_unit(int(block)), layout.codecs_unit(teacher)]
    return []


def _rendered(store: Store, known: Sequence[Problem], reporter: Reporter) -> Iterator[Problem]:
    damaged = {problem.redone_by for problem in known}
    blocks = [block for block in range(len(store.plan.blocks)) if layout.images_unit(block) not in damaged]
    total = sum(store.plan.blocks[block].num_rows for block in blocks)
    threads = num_cores()
    with reporter.task("pixels", total) as task:
        for block in blocks:
            yield from pixel_problems(store, block, threads, task.advance)
    if len(blocks) < len(store.plan.blocks):
        reporter.say(f"not rendered: {len(store.plan.blocks) - len(blocks):,} blocks whose images are damaged")


def _units(units: Sequence[object]) -> str:
    return f"{len(units):,} unit{'' if len(units) == 1 else 's'} of work"


def collect_store(
    root: Path, older_than_hours: float | None, dry_run: bool, reporter: Reporter
) -> tuple[int, dict[str, Any]]:
    """Remove what dead attempts left in a store. Returns the exit code and the facts."""
    older = None if older_than_hours is None else older_than_hours * 3600
    found = collect(Store.open(root), older_than_s=older, dry_run=dry_run)
    for leftover in found.leftovers:
        state = "removed" if leftover.removed else "would be removed" if leftover.old else "kept, too young"
        reporter.say(f"{state}: {leftover.path} ({leftover.num_bytes:,} bytes, {leftover.age_s / 3600:.1f} h old)")
    reporter.say(collected_line(found))
    facts = {
        "leftovers": [asdict(leftover) for leftover in found.leftovers],
        "removed": len(found.removed),
        "removed_bytes": found.num_bytes,
        "older_than_hours": found.min_age_s / 3600,
    }
    return EXIT_OK, facts


def drop_teacher(root: Path, teacher: str, undo: bool, reporter: Reporter) -> dict[str, Any]:
    """Drop a teacher, or take it back, and seal the store as it is then."""
    store = Store.open(root)
    if undo:
        take_back(store, teacher)
    else:
        drop(store, teacher)
    sealed = seal(Store.open(root))
    what = "taken back into" if undo else "no part any more of"
    kept = "" if undo else "; its objects stay for who has an earlier seal open, until `stillhouse gc --dropped`"
    reporter.say(f"drop: teacher {teacher} is {what} {root}, sealed as {sealed.content_sha256[:12]}{kept}")
    pin = f"sha256:{sealed.root_sha256}"
    return {"teacher": teacher, "dropped": not undo, "content_sha256": sealed.content_sha256, "pin": pin}


def free_dropped(root: Path, dry_run: bool, reporter: Reporter) -> dict[str, Any]:
    """Remove the teachers that were dropped for good."""
    store = Store.open(root)
    if not dry_run and latest_seal(root) is not None:
        seal(
            store
        )  # a `drop` that was killed has not come to it: the last seal names nothing that is going to be freed
    freed = free(store, records(root), dry_run=dry_run)
    verb = "would be removed" if dry_run else "removed"
    for teacher in freed.teachers:
        reporter.say(f"{verb}: teacher {teacher}")
    reporter.say(f"dropped teachers: {freed.num_objects:,} objects, {freed.num_bytes:,} bytes {verb}")
    return {"dropped_teachers": list(freed.teachers), "dropped_bytes": freed.num_bytes}
