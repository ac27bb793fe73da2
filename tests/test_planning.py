"""`plan`: bytes are those that the store then has, hours follow from the facts, and nothing is left behind."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from stillhouse.core.errors import EXIT_OK, EXIT_USAGE
from stillhouse.plan_paper import codes_bytes
from stillhouse.plan_probe import halfway
from stillhouse.planning import (
    ImageFacts,
    LevelFacts,
    Number,
    Shape,
    Times,
    Training,
    columns,
    good_block_samples,
    hours,
    member_bytes,
    num_objects,
    num_units,
    total_of,
)
from stillhouse.storage import layout
from stillhouse.storage.seal import decided_units
from stillhouse.storage.specs import TRAIN
from stillhouse.storage.store import Store
from stillhouse.storage.testing import StoreShape, make_store
from stillhouse.testing import run_here, tiny_pipeline

MADE = StoreShape(bad_rows=frozenset(), teachers={"tiny": "fp16", "tiny-int8": "int8"})


def shape_of(store: Store) -> Shape:
    return Shape(store.plan.num_samples_of(), store.plan.block_samples, store.spec.num_views)


def level_of(store: Store, teacher: str, level: str) -> LevelFacts:
    spec, codec = store.teacher(teacher).levels[level], store.codec(teacher, level)
    row = codes_bytes(codec, spec.num_tokens)
    assert row is not None
    return LevelFacts(spec.num_tokens, spec.dim, codec.name, Number(row, "exact"), 0)


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_columns_are_those_of_a_store_to_the_byte(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", MADE)
    root, samples = store.root, [sample for block in range(3) for sample in store.samples(block)]
    members = [member_bytes(one.length, one.key, one.label) for one in samples]
    images = ImageFacts(Number(sum(members) / len(members), "exact"), 0, 0)
    teachers = {name: {level: level_of(store, name, level) for level in ("cls", "patch")} for name in MADE.teachers}
    found = columns(shape_of(store), images, teachers, Number(0, "measured"))
    assert found["images"].value == pytest.approx(bytes_of(root / "images"), abs=0.01)
    assert found["views"].value == bytes_of(root / "views/params/c") + bytes_of(root / "views/hash/c")
    for teacher in MADE.teachers:
        for level in ("cls", "patch"):
            assert found[f"{teacher}/{level}"].value == bytes_of(root / layout.features_array(teacher, level) / "c")
    assert found["images"].origin == "exact" and total_of(list(found.values())).origin == "measured"


def test_units_and_objects_are_those_of_a_store(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", MADE)
    teachers = {name: {level: level_of(store, name, level) for level in ("cls", "patch")} for name in MADE.teachers}
    assert num_units(shape_of(store), 2) == len(decided_units(store.root))
    chunks = [path for path in store.root.glob("*/**/c/**/*") if path.is_file() and "codecs" not in path.parts]
    files = len(list((store.root / "images").iterdir())) + len(list((store.root / "index").iterdir()))
    assert num_objects(shape_of(store), teachers) == files + len(chunks)


def test_the_block_that_is_named_makes_shards_of_a_good_size() -> None:
    for row in (24_000, 400_000, 786_432):
        level = LevelFacts(256, 1536, "fp16", Number(row, "exact"), 0)
        assert 64 << 20 <= good_block_samples([level]) * row <= 512 << 20
    assert good_block_samples([LevelFacts(1, 2, "int8", Number(2, "exact"), 0)]) == 65536


def test_pixels_are_rendered_once_where_they_fit_into_memory() -> None:
    shape = Shape({TRAIN: 1000}, 100, 2)
    whole = Training(epochs=8, batch=100, image_size=10, pixel_cache_bytes=10**9)
    assert whole.steps(1000) == 80 and whole.cold_share(shape) == 2 / 8
    assert Training(8, 100, 10, 0).cold_share(shape) == 1
    assert Training(8, 100, 10, 300 * 1000).cold_share(shape) == pytest.approx((2 + 6 / 2) / 8)
    assert Training(1, 100, 10, 10**9).cold_share(shape) == 1


def times(**fields: Any) -> Times:
    one = Number(1, "measured")
    found: dict[str, Any] = {name: one for name in ("start", "ingest", "render", "train_begin", "cold", "warm")}
    found |= {name: {"a": one, "b": one} for name in ("begin", "view", "forward")}
    return Times(**found | {"fitted": {"a": 500, "b": 0}} | fields)


def test_seconds_add_up() -> None:
    shape = Shape({TRAIN: 1000, "test": 200}, 100, 2)
    training = Training(epochs=8, batch=100, image_size=10, pixel_cache_bytes=10**9)
    found = hours(shape, times(cold=Number(3, "assumed"), warm=Number(2, "measured")), training, ["a"])
    assert found.ingest.value == 1 + 1200
    assert found.teachers["a"].value == 1 + 1 + 2000 - 500 and found.teachers["b"].value == 1 + 1 + 2000
    assert found.student == Number(1 + 1 + 20 * 3 + 60 * 2, "assumed")
    assert found.break_even.once_s == found.ingest.value + found.teachers["a"].value
    assert found.break_even.live_s == 80 * 100


def test_a_plan_is_what_the_store_then_is(tmp_path: Path) -> None:
    pipeline = tiny_pipeline(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    ended = run_here("plan", pipeline, "--seconds", "1", "--price", "2", "--json")
    assert ended.status == EXIT_OK, ended.err
    assert sorted(tmp_path.rglob("*")) == before
    planned = ended.json()
    assert run_here("ingest", pipeline).status == EXIT_OK
    assert run_here("extract", pipeline).status == EXIT_OK
    store = Store.open(tmp_path / "out" / "store")
    assert planned["samples"] == store.plan.num_samples_of() and planned["blocks"] == len(store.plan.blocks)
    features = ("features/tiny/patch", "features/tiny/codecs/patch")
    for column, folders in (("images", ("images",)), ("tiny/patch", features)):
        found = sum(bytes_of(store.root / folder) for folder in folders)
        assert planned["bytes"][column]["value"] == pytest.approx(found, rel=0.001)
    assert planned["total_bytes"]["value"] == pytest.approx(bytes_of(store.root), rel=0.1)  # it is nearly all records
    assert planned["bytes"]["tiny/patch"]["origin"] == "exact" and planned["seconds"]["ingest"]["origin"] == "measured"
    assert planned["cost"]["store"] == pytest.approx(2 * planned["cost"]["store_s"] / 3600)


def test_a_klt_of_few_views_is_taken_for_halfway_to_what_was_asked_for() -> None:
    found = halfway(Number(90.0, "measured", "200 views"), Number(110.0, "assumed", "1 bit"))
    assert found == Number(100.0, "measured", "200 views, ± 10 %")


def test_a_plan_tells_how_sure_it_is_of_a_klt(tmp_path: Path) -> None:
    pipeline = tiny_pipeline(tmp_path)
    settings = yaml.safe_load(pipeline.read_text())
    settings["teachers"][0]["codec"] = "klt:2"
    pipeline.write_text(yaml.safe_dump(settings))
    ended = run_here("plan", pipeline, "--seconds", "1", "--json")
    assert ended.status == EXIT_OK, ended.err
    column = ended.json()["bytes"]["tiny/patch"]
    assert column["origin"] == "measured" and "±" in column["note"]


def test_on_paper_nothing_is_needed(tmp_path: Path) -> None:
    config = {
        "name": "big",
        "out": str(tmp_path / "out"),
        "ingest": {"source": {"kind": "folder", "path": str(tmp_path / "nowhere")}, "split": {"test": 0.1}},
        "views": {"policy": "crop_flip", "num": 5, "size": 224},
        "teachers": [{"name": "g", "model": "vit_giant_patch14_dinov2.lvd142m"}],
        "distill": {"student": {"model": "vit_small_patch14_dinov2"}},
    }
    path = tmp_path / "pipeline.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")
    refused = run_here("plan", path)
    assert refused.status == EXIT_USAGE and "nowhere" in refused.last
    unmeasured = run_here("plan", path, "--samples", "1000")
    assert unmeasured.status == EXIT_USAGE and "--paper" in unmeasured.last
    ended = run_here("plan", path, "--samples", "1281167", "--paper", "--students", "10", "--price", "2.5")
    assert ended.status == EXIT_OK, ended.err
    assert "1,281,167 samples (1,153,050 train, 128,117 test) x 5 views" in ended.out
    assert "g/patch" in ended.out and "NOT ENOUGH" in ended.out and "10 students from the store" in ended.out
    told = run_here("plan", path, "--samples", "1000", "--paper", "--json").json()
    row = 256 * 1536 * 2 + 4
    assert told["bytes"]["g/patch"]["value"] == pytest.approx(5 * 900 * row, rel=0.001)
    assert told["bytes"]["g/patch"]["origin"] == "exact" and told["seconds"]["distill"]["origin"] == "assumed"
    assert not (tmp_path / "out").exists()
