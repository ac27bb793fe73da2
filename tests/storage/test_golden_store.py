"""A store of format 1, committed once and read for ever.

tests/golden/store_v1 was written by the first stillhouse that has format 1, and tests/golden/store_v1.json says what is
in it. Every later version must read it and find the same. `python tests/storage/test_golden_store.py` writes both anew;
do that only before format 1 is released, with a line in CHANGELOG.md. After the release a change that breaks this test
breaks the stores of users: it needs format 2, a store_v2 beside this one, and this one stays.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from stillhouse.storage.decode import decode
from stillhouse.storage.records import ObjectEntry
from stillhouse.storage.seal import latest_seal, records, store_id
from stillhouse.storage.store import Store
from stillhouse.storage.testing import StoreShape, make_store
from stillhouse.storage.verify import verify
from stillhouse.storage.views import render, view_hash

GOLDEN = Path(__file__).parents[1] / "golden"
ROOT = GOLDEN / "store_v1"
VALUES = GOLDEN / "store_v1.json"
SHAPE = StoreShape(block_samples=3, blocks=(("train", 3), ("test", 2)), bad_rows=frozenset({(0, 1)}))


def sha256(array: np.ndarray[Any, Any] | bytes) -> str:
    return hashlib.sha256(array if isinstance(array, bytes) else array.tobytes()).hexdigest()


def contents(store: Store) -> dict[str, Any]:
    """What a reader finds in a store, ready for JSON."""
    sealed = latest_seal(store.root)
    assert sealed is not None
    blocks = []
    for block, plan in enumerate(store.plan.blocks):
        samples = store.samples(block)
        images = [None if s.reason else sha256(store.image_bytes(block, row)) for row, s in enumerate(samples)]
        rows = [[s.key, s.label, s.reason, s.width, s.height, str(s.pixel_hash)] for s in samples]
        blocks.append({"split": plan.split, "samples": rows, "images": images})
    views = {
        f"{view}": {
            "params": store.view_params(view, 0).tolist(),
            "hashes": [str(value) for value in store.view_hashes(view, 0)],
        }
        for view in range(store.spec.num_views)
    }
    features: dict[str, Any] = {}
    for teacher in store.teachers():
        for level in teacher.levels:
            codec, good = store.codec(teacher.name, level), store.good_rows(0)
            codes = [store.codes(teacher.name, level, view, 0, good) for view in range(store.spec.num_views)]
            features[f"{teacher.name}/{level}"] = {
                "codec": codec.name,
                "codes_sha256": [sha256(one) for one in codes],
                "first_token": codec.decode(codes[0])[0, 0].astype(np.float64).round(6).tolist(),
                "last_token": codec.decode(codes[-1])[-1, -1].astype(np.float64).round(6).tolist(),
                "mean": store.statistics(teacher.name, level)[0].astype(np.float64).round(6).tolist(),
            }
    return {
        "store_id": store_id(store.root),
        "content_sha256": sealed.content_sha256,
        "spec_sha256": store.spec.sha256(),
        "teachers": [teacher.entry() for teacher in store.teachers()],
        "blocks": blocks,
        "views": views,
        "features": features,
    }


def expected() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(VALUES.read_text(encoding="utf-8"))
    return value


def test_the_golden_store_reads_as_it_did() -> None:
    assert contents(Store.open(ROOT)) == expected()


def test_the_golden_store_is_whole() -> None:
    """Git, checkouts and archives have changed none of its bytes."""
    result = verify(Store.open(ROOT))
    assert result.problems == () and result.sealed
    assert result.content_sha256 == expected()["content_sha256"]


def test_its_views_render_to_the_recorded_pixels() -> None:
    store = Store.open(ROOT)
    for view in range(store.spec.num_views):
        params, hashes = store.view_params(view, 0), store.view_hashes(view, 0)
        for row in store.good_rows(0):
            image = decode(store.image_bytes(0, int(row)))
            assert max(view_hash(render(image, params[row], store.spec.view_size)), 1) == hashes[row]


def test_any_zarr_reader_finds_the_same_features() -> None:
    store, group = Store.open(ROOT), zarr.open_group(ROOT, mode="r")
    for teacher in store.teachers():
        for level in teacher.levels:
            array = group[f"features/{teacher.name}/{level}"]
            assert isinstance(array, zarr.Array)
            codes = np.asarray(array[:, :3])[:, store.good_rows(0)]
            found = [sha256(np.ascontiguousarray(one)) for one in codes]
            assert found == expected()["features"][f"{teacher.name}/{level}"]["codes_sha256"]


def test_what_is_written_today_is_what_was_written_then(tmp_path: Path) -> None:
    """The same features give the same objects: a changed writer is a changed format."""
    then, now = objects(ROOT), objects(make_store(tmp_path / "s", SHAPE).root)
    assert then.keys() == now.keys()
    differing = {path for path in then if then[path] != now[path]}
    # PNG and Parquet bytes are zlib's and pyarrow's to choose
    assert {path.split("/")[0] for path in differing} <= {"images", "index"}


def objects(root: Path) -> dict[str, ObjectEntry]:
    return {entry.path: entry for record in records(root) for entry in record.objects}


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in ROOT.rglob("*") if path.is_file()) < 60_000


if __name__ == "__main__":
    if ROOT.exists():
        shutil.rmtree(ROOT)
    made = make_store(ROOT, SHAPE)
    (ROOT / "_stage").rmdir()
    VALUES.write_text(json.dumps(contents(made), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {ROOT} and {VALUES}")
