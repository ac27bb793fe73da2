"""The metadata of the arrays, which say how many views and rows there are: written with the store, and as it grows.

No chunk of an array changes as it grows. Its zarr.json is replaced by one of a larger shape, and stays readable as it
was below `_log/forgotten/`: an earlier seal names it.
"""

import secrets
from typing import TYPE_CHECKING, Any

from . import layout
from .commit import Attempt
from .disk import create_once, names_in
from .records import record_sha256
from .redo import noted_redo
from .signed_json import canonical_json, signed_json
from .views import FIELDS
from .zarr_rules import grows

if TYPE_CHECKING:
    from .store import Store


def commit_layout(store: "Store") -> None:
    """Commit the metadata of the arrays that every store has, unless it is there."""
    num_views, num_rows, rows = store.spec.num_views, store.plan.num_rows, store.plan.block_samples
    params = layout.array_metadata(
        shape=(num_views, num_rows, len(FIELDS)),
        chunk=(1, rows, len(FIELDS)),
        dtype="int32",
        fill_value=layout.MISSING_PARAM,
        dimension_names=("view", "row", "field"),
        attributes={"fields": list(FIELDS)},
    )
    hashes = layout.array_metadata(
        shape=(num_views, num_rows),
        chunk=(1, rows),
        dtype="uint64",
        fill_value=layout.MISSING_HASH,
        dimension_names=("view", "row"),
    )
    files = {"views": layout.group_metadata(), "features": layout.group_metadata()}
    files |= {"views/params": params, "views/hash": hashes}
    if not store.done("layout"):
        with Attempt(store.root, "layout") as attempt:
            for folder, metadata in files.items():
                attempt.add(f"{folder}/zarr.json", [canonical_json(metadata)])
            attempt.commit({})
    create_once(store.root / layout.ID, signed_json({"store_id": secrets.token_hex(16)}))
    create_once(store.root / "zarr.json", canonical_json(layout.group_metadata()))


def extend(store: "Store") -> None:
    """Give every array the views and rows that the store has by now. Any process may repeat this.

    A unit that is to be made anew is left alone: it comes out with what the store has.
    """
    folder = store.root / layout.UNITS / "codecs"
    teachers = [name.removesuffix(".json") for name in names_in(folder) if name.endswith(".json") and name[0] != "."]
    for unit in ("layout", *map(layout.codecs_unit, teachers)):
        if noted_redo(store.root, unit) is None:
            _extend_unit(store, unit)


def _extend_unit(store: "Store", unit: str) -> None:
    replacing = record_sha256(store.root, unit)
    if replacing is None or not store.done(unit):
        return
    fresh = store.at(len(store.growths))
    record = fresh.require(unit, f"record of {unit}")
    larger: dict[str, dict[str, Any]] = {}
    for entry in record.objects:
        if grows(entry.path.removesuffix("/zarr.json")):
            metadata = fresh.metadata(unit, entry.path)
            views, rows, *rest = metadata["shape"]
            shape = [max(views, store.spec.num_views), max(rows, store.plan.num_rows), *rest]
            if shape != metadata["shape"]:
                larger[entry.path] = metadata | {"shape": shape}
                create_once(store.root / layout.kept_path(entry.path, entry.sha256), canonical_json(metadata))
    if larger:
        with Attempt(store.root, unit) as attempt:
            for entry in record.objects:
                if entry.path in larger:
                    attempt.add(entry.path, [canonical_json(larger[entry.path])])
                else:
                    attempt.keep(entry)
            attempt.commit(record.facts, replacing=replacing)
