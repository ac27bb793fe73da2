"""What `inspect` and `verify` tell about a store."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from stillhouse.core.errors import EXIT_CORRUPT, EXIT_OK
from stillhouse.core.events import Reporter, results_console
from stillhouse.storage import layout
from stillhouse.storage.commit import Record
from stillhouse.storage.seal import latest_seal, records, store_id
from stillhouse.storage.store import Store
from stillhouse.storage.verify import SEAL, forget, read_records, verify

SHOWN = 20


def inspect_store(root: Path) -> dict[str, Any]:
    """Facts about a store from its metadata and records, ready for JSON."""
    store = Store.open(root)
    found = records(root)
    sizes: Counter[str] = Counter()
    for record in found:
        for entry in record.objects:
            sizes[column_of(entry.path)] += entry.num_bytes
    sealed = latest_seal(root)
    return {
        "store": str(root),
        "store_id": store_id(root),
        "format_version": store.spec.format_version,
        "samples": store.plan.num_samples,
        "splits": store.plan.num_samples_of(),
        "blocks": len(store.plan.blocks),
        "block_samples": store.plan.block_samples,
        "views": store.spec.views,
        "teachers": [_teacher(store, spec.name, sizes, found) for spec in store.teachers()],
        "bytes": dict(sorted(sizes.items())),
        "total_bytes": sum(sizes.values()),
        "objects": sum(len(record.objects) for record in found),
        "quarantined": quarantined(store),
        "sealed": None
        if sealed is None
        else {"generation": sealed.generation, "content_sha256": sealed.content_sha256},
    }


def column_of(path: str) -> str:
    """The column that an object belongs to: images, index, views, or features/<teacher>/<level>."""
    parts = path.split("/")
    return "/".join(parts[:3]) if parts[0] == "features" and len(parts) > 3 else parts[0]


def _teacher(store: Store, name: str, sizes: Counter[str], found: Sequence[Record]) -> dict[str, Any]:
    spec = store.teacher(name)
    done = sum(record.facts["rows"] for record in found if record.unit.startswith(f"features/{name}/"))
    levels = {}
    for level, shape in spec.levels.items():
        num_bytes = sizes[layout.features_array(name, level)]
        per_token = num_bytes / (done * shape.num_tokens) if done else None
        levels[level] = {"tokens": shape.num_tokens, "dim": shape.dim, "bytes": num_bytes, "bytes_per_token": per_token}
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
        console.print(Text(f"{name:<12}{text}"))  # as Text: keys and paths may hold what rich takes for markup


def _inspection_rows(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    splits = ", ".join(f"{num:,} {name}" for name, num in facts["splits"].items())
    views, sealed, bad = facts["views"], facts["sealed"], facts["quarantined"]
    yield "store", f"{facts['store']}  (format {facts['format_version']}, id {facts['store_id'][:12]})"
    yield "images", f"{facts['samples']:,} ({splits}) in {facts['blocks']:,} blocks of {facts['block_samples']:,}"
    yield "views", f"{views['num']} x {views['policy']} at {views['size']} pixels, seed {views['seed']}"
    for teacher in facts["teachers"]:
        yield "teacher", f"{teacher['name']}: {teacher['model']}, weights {teacher['weights_sha256'][:12]}"
        for level, shape in teacher["levels"].items():
            size = shape["bytes_per_token"]
            stored = "nothing stored yet" if size is None else f"{size:,.0f} bytes a token on disk"
            yield "", f"{level}: {shape['tokens']} x {shape['dim']}, {teacher['codec']}, {stored}"
    for column, num_bytes in facts["bytes"].items():
        yield "bytes", f"{num_bytes:>15,}  {column}"
    yield "", f"{facts['total_bytes']:>15,}  in {facts['objects']:,} objects"
    yield "seal", f"{sealed['content_sha256']} (generation {sealed['generation']})" if sealed else "not sealed yet"
    for one in bad[:SHOWN]:
        yield "quarantine", f"{one['reason']}: {one['key']}"
    if len(bad) > SHOWN:
        yield "", f"and {len(bad) - SHOWN:,} more; --json lists all"


def verify_store(root: Path, repair: bool, reporter: Reporter) -> tuple[int, dict[str, Any]]:
    """Check a store; with `repair`, drop damaged units. Returns the exit code and the facts."""
    store = Store.open(root)
    readable, _ = read_records(root)
    total = sum(entry.num_bytes for record in readable for entry in record.objects)
    with reporter.task("verify", total, "byte") as task:
        result = verify(store, task.advance)
    for problem in result.problems:
        where = problem.path if problem.unit == SEAL else f"{problem.path} of unit {problem.unit}"
        reporter.say(f"damaged: {where}: {problem.found}")
    damaged = sorted({problem.unit for problem in result.problems} - {SEAL})
    dropped = damaged if repair else []
    for unit in dropped:
        forget(store, unit)
    if dropped:
        reporter.say(f"dropped {_units(dropped)}; `stillhouse run` with the same config makes them again")
    elif damaged:
        reporter.say(f"{_units(damaged)} damaged; `stillhouse verify {root} --repair` drops what is damaged")
    elif any(problem.path != layout.LOG for problem in result.problems):  # those of the log name their own remedy
        reporter.say("all units are whole, the seal is not; `stillhouse extract` with the same config seals again")
    elif not result.problems:
        state = f"content {result.content_sha256}" + ("" if result.sealed else ", not sealed yet")
        reporter.say(f"whole: {result.num_objects:,} objects, {result.num_bytes:,} bytes, {state}")
    facts = {
        "units": result.num_units,
        "objects": result.num_objects,
        "bytes": result.num_bytes,
        "content_sha256": result.content_sha256,
        "sealed": result.sealed,
        "problems": [{"unit": p.unit, "path": p.path, "found": p.found} for p in result.problems],
        "dropped": dropped,
    }
    return (EXIT_CORRUPT if result.problems and not dropped else EXIT_OK), facts


def _units(units: Sequence[str]) -> str:
    return f"{len(units):,} unit{'' if len(units) == 1 else 's'} of work"
