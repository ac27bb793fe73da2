"""`inspect` and `verify`: what they tell about a store, and that a damaged one becomes whole again."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from stillhouse.inspection import column_of
from stillhouse.stage1_extract.testing import tiny_images
from stillhouse.storage import deep
from stillhouse.storage.decode import pixel_hash
from stillhouse.storage.seal import latest_seal
from stillhouse.testing import Ended, run_here


def sha256(out: Path) -> str:
    seal = latest_seal(out / "store")
    assert seal is not None
    return seal.content_sha256


def flip(path: Path) -> None:
    """Change one bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# --- inspect ---------------------------------------------------------------------------------------------------------


def test_inspect_tells_what_is_there(finished: Path) -> None:
    store = finished / "store"
    ended = run_here("inspect", store)
    assert ended.status == 0 and ended.err == ""
    facts = run_here("inspect", store, "--json").json()
    (teacher,) = facts["teachers"]
    cls, patch = (f"{teacher['levels'][level]['bytes_per_token']:,.0f} bytes a token" for level in ("cls", "patch"))
    assert ended.out.splitlines()[:6] == [
        f"store       {store}  (format 1, id {facts['store_id'][:12]})",
        "images      42 (30 train, 12 test) in 6 blocks of 8",
        "views       2 x crop_flip at 32 pixels, seed 0",
        f"teacher     tiny: vit_tiny_patch16_224, weights {teacher['weights_sha256'][:12]}",
        f"            cls: 1 x 48, fp16, {cls} on disk",
        f"            patch: 16 x 48, fp16, {patch} on disk",
    ]
    pin = facts["sealed"]["pin"]
    assert ended.out.splitlines()[-2:] == [f"seal        {sha256(finished)} (generation 1)", f"pin         {pin}"]


def test_inspect_counts_every_object_once(finished: Path) -> None:
    """Sizes by column are those of the files; the log is no column."""
    facts = run_here("inspect", finished / "store", "--json").json()
    files = [path for path in (finished / "store").rglob("*") if path.is_file()]
    names = {path: path.relative_to(finished / "store").as_posix() for path in files}
    objects = [path for path in files if not names[path].startswith("_") and names[path] != "zarr.json"]
    assert facts["objects"] == len(objects)
    for column, num_bytes in facts["bytes"].items():
        assert num_bytes == sum(path.stat().st_size for path in objects if column_of(names[path]) == column)
    assert facts["total_bytes"] == sum(facts["bytes"].values())
    assert facts["splits"] == {"train": 30, "test": 12} and facts["quarantined"] == []
    sealed = latest_seal(finished / "store")
    assert sealed is not None and facts["origin"] is None
    pin = f"sha256:{sealed.root_sha256}"
    assert facts["sealed"] == {"generation": 1, "content_sha256": sha256(finished), "pin": pin}


def test_columns() -> None:
    assert [column_of(path) for path in ("images/0.tar", "features/zarr.json", "features/t/patch/c/0/0")] == [
        "images",
        "features",
        "features/t/patch",
    ]


def test_inspect_lists_the_quarantine_whatever_names_look_like(pipeline: Path, tmp_path: Path) -> None:
    """Brackets and colons are no markup."""
    images = tiny_images(tmp_path / "images", 30)
    names = ["x[bold].png", ":cat:.png", "[link=a]b.png", "ünï.png", *(f"{n:02d}.png" for n in range(20))]
    for name in names:
        (images / "a" / name).write_bytes(b"no image")
    out = tmp_path / "out"
    ended = run_here("ingest", pipeline, f"out={out}", f"ingest.source.path={images}")
    assert ended.status == 7
    last = f"24 images left out, in quarantine (24 not-an-image); `stillhouse inspect {out}/store` lists them"
    assert ended.last == f"ingest: {last}"
    shown = run_here("inspect", out / "store").out.splitlines()
    listed = run_here("inspect", out / "store", "--json").json()["quarantined"]
    assert sorted(bad["key"] for bad in listed) == sorted(f"a/{name}" for name in names)
    lines = [line for line in shown if line.startswith("quarantine")]
    assert lines == [f"quarantine  not-an-image: {bad['key']}" for bad in listed[:20]]
    assert shown[-1] == "            and 4 more; --json lists all"
    assert "seal        not sealed yet" in shown


def test_a_folder_that_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for verb in ("inspect", "verify"):
        for path in (tmp_path, tmp_path / "gone", tmp_path / "file"):
            ended = run_here(verb, path)
            assert (ended.status, ended.out) == (2, "")
            assert ended.err == f"error: no store at {path}; run `stillhouse ingest` first\n"


# --- verify ----------------------------------------------------------------------------------------------------------


def test_a_whole_store(finished: Path) -> None:
    ended = run_here("verify", finished / "store")
    assert ended.status == 0 and ended.out == ""
    assert re.fullmatch(rf"whole: \d+ objects, [\d,]+ bytes, content {sha256(finished)}\n", ended.err)
    facts = run_here("verify", finished / "store", "--json").json()
    assert facts["problems"] == facts["damaged_units"] == facts["recomputed"] == [] and facts["sealed"] is True
    assert run_here("verify", finished / "store", "--deep", "--pixels").err == ended.err


OBJECTS = {
    "features/tiny/patch/c/1/2/0/0": "features/tiny/001/000002",
    "features/tiny/codecs/cls/mean/c/0": "codecs/tiny",
    "features/tiny/patch/zarr.json": "codecs/tiny",
    "images/000001.tar": "images/000001",
    "index/000005.parquet": "images/000005",
    "views/hash/c/0/1": "views/000/000001",
    "views/zarr.json": "layout",
}


def damage(path: Path, how: str) -> None:
    match how:
        case "flip":
            flip(path)
        case "cut":
            path.write_bytes(path.read_bytes()[:-1])
        case "remove":
            path.unlink()


@pytest.mark.parametrize("how", ["flip", "cut", "remove"])
@pytest.mark.parametrize("path", OBJECTS)
def test_damage_is_named_repaired_and_made_again(own: Path, pipeline: Path, path: str, how: str) -> None:
    store, whole = own / "store", sha256(own)
    damage(store / path, how)
    found = run_here("verify", store)
    assert found.status == 4
    first, last = found.err.splitlines()
    assert first.startswith(f"damaged: {path} of unit {OBJECTS[path]}: ")
    assert first.endswith(f"; run `stillhouse repair CONFIG {OBJECTS[path]}`")
    assert last == f"1 unit of work damaged; `stillhouse repair CONFIG` with the config of the store mends {store}"
    repaired = run_here("repair", pipeline, f"out={own}", "--json")
    assert repaired.status == 0 and repaired.json()["redone"] == [OBJECTS[path]], repaired.err
    told = f"repair: 1 unit of work made again, with the bytes they had; content {whole[:12]}, seal 1"
    assert repaired.last == told and repaired.err.startswith(f"repair {OBJECTS[path]}: {path}: ")
    assert run_here("verify", store).status == 0 and sha256(own) == whole
    ended = run_here("run", pipeline, f"out={own}")
    assert ended.status == 0 and ended.err.count("(already done)") == 4


@pytest.mark.parametrize("unit", ["images/000000", "features/tiny/000/000001", "codecs/tiny", "views/001/000000"])
def test_a_damaged_record(own: Path, pipeline: Path, unit: str) -> None:
    store, whole = own / "store", sha256(own)
    record = store / "_log" / "units" / f"{unit}.json"
    flip(record)
    for command in (("inspect", store), ("run", pipeline, f"out={own}")):
        ended = run_here(*command)
        assert ended.status == 4 and str(record) in ended.last and f"run `stillhouse verify {store}`" in ended.last
    assert run_here("verify", store).err.startswith(f"damaged: _log/units/{unit}.json of unit {unit}: ")
    assert run_here("repair", pipeline, f"out={own}").status == 0
    assert run_here("verify", store).status == 0 and sha256(own) == whole


def test_a_damaged_seal_and_card(own: Path, pipeline: Path) -> None:
    store, whole = own / "store", sha256(own)
    (store / "zarr.json").unlink()
    ended = run_here("verify", store)
    assert ended.status == 4
    assert ended.last == "damaged: zarr.json: is not what was written; the next `stillhouse extract` seals again"
    assert run_here("extract", pipeline, f"out={own}").status == 0
    assert run_here("verify", store).status == 0
    flip(store / "_log" / "seal" / "0001.json")
    for ended in (run_here("verify", store), run_here("repair", pipeline, f"out={own}")):
        assert ended.status == 4
        assert ended.last.endswith("delete that file; the next `stillhouse extract` seals again")
    (store / "_log" / "seal" / "0001.json").unlink()
    assert run_here("extract", pipeline, f"out={own}").status == 0
    assert run_here("verify", store).status == 0 and sha256(own) == whole


@pytest.mark.parametrize("name", ["spec.json", "plan.json", "id.json", "teachers/tiny.json"])
def test_what_cannot_be_made_again_says_so(own: Path, pipeline: Path, name: str) -> None:
    path = own / "store" / "_log" / name
    flip(path)
    commands = (("verify", own / "store"), ("inspect", own / "store"), ("run", pipeline, f"out={own}"))
    for command in commands:
        ended = run_here(*command)
        assert ended.status == 4 and str(path) in ended.last and "restore it from a copy of the store" in ended.last


def test_a_spec_that_is_gone(own: Path, pipeline: Path) -> None:
    (own / "store" / "_log" / "spec.json").unlink()
    for command in (("verify", own / "store"), ("run", pipeline, f"out={own}")):
        ended = run_here(*command)
        assert ended.status == 4
        assert ended.last == (
            f"error: _log/spec.json is not in store {own / 'store'}; restore it from a copy of the store"
        )


def test_several_problems_at_once(own: Path) -> None:
    store = own / "store"
    flip(store / "images" / "000000.tar")
    shutil.rmtree(store / "features" / "tiny" / "patch" / "c")
    ended: Ended = run_here("verify", store, "--json")
    assert ended.status == 4 and len(ended.json()["problems"]) == 9
    assert ended.last.startswith("9 units of work damaged; ") and len(ended.json()["damaged_units"]) == 9
    assert json.dumps(ended.json()["problems"][0]).startswith('{"unit": "features/tiny/000/000000", "path": ')


# --- further checks --------------------------------------------------------------------------------------------------


def test_deep_leaves_out_what_rests_on_damage(own: Path) -> None:
    store = own / "store"
    flip(store / "index" / "000001.parquet")
    ended = run_here("verify", store, "--deep", "--pixels")
    assert ended.status == 4
    first, *others = ended.err.splitlines()
    assert first == "not decoded: 5 units of work, which are damaged or rest on damaged ones"
    assert others[0] == "not rendered: 1 blocks whose images are damaged"
    assert others[1].startswith("damaged: index/000001.parquet of unit images/000001: sha256 ") and len(others) == 3


def test_other_pixels_are_told_with_the_versions_here(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep, "pixel_hash", lambda image: pixel_hash(image) ^ 1)
    ended = run_here("verify", own / "store", "--pixels", "--json")
    problems = ended.json()["problems"]
    assert ended.status == 4 and len(problems) == 6 and ended.json()["damaged_units"] == []
    assert all("samples differ in their decoded pixels, first '" in problem["found"] for problem in problems)
    assert all("here are Pillow " in problem["next"] for problem in problems)


def test_recompute(own: Path, pipeline: Path) -> None:
    store = own / "store"
    ended = run_here("verify", store, "--recompute", "7", "--config", pipeline, "--json")
    assert ended.status == 0, ended.err
    assert [(one["level"], one["codec"], one["num_rows"]) for one in ended.json()["recomputed"]] == [
        ("cls", "fp16", 7),
        ("patch", "fp16", 7),
    ]
    assert ended.err.startswith(
        "recomputed: tiny/cls (fp16), 7 rows: cosine to the teacher min 1.000000, mean 1.000000"
    )
    for arguments in (("--recompute", "7"), ("--config", pipeline)):
        refused = run_here("verify", store, *arguments)
        assert refused.status == 2 and "--recompute K and --config FILE go together" in refused.err


def test_repair_of_named_units(own: Path, pipeline: Path) -> None:
    done = run_here("repair", pipeline, "views/001/000000", f"out={own}", "features/tiny/patch/c/0/0/0/0", "--json")
    assert done.status == 0 and done.json()["redone"] == ["views/001/000000", "features/tiny/000/000000"]
    assert done.json()["changed"] == [] and done.json()["generation"] == 1
    wrong = run_here("repair", pipeline, f"out={own}", "view/001/000000")
    assert wrong.status == 2
    assert wrong.last == "error: no unit 'view/001/000000' in this store; did you mean views/001/000000?"
    idle = run_here("repair", pipeline, f"out={own}")
    assert idle.status == 0 and idle.last.startswith("repair: nothing to do, all units are whole; content ")


def test_repair_tells_what_it_cannot_mend(own: Path, pipeline: Path) -> None:
    (own / "store" / "_log" / "teachers" / "tiny.json").unlink()
    ended = run_here("repair", pipeline, f"out={own}")
    assert ended.status == 4 and "_log/teachers/tiny.json" in ended.last and "restore it from a copy" in ended.last


# --- gc --------------------------------------------------------------------------------------------------------------


def leftover(store: Path, hours: float) -> Path:
    """The folder of an attempt that died so many hours ago."""
    folder = store / "_stage" / f"{round(hours):032x}"
    folder.mkdir(parents=True)
    (folder / "images__000000.tar").write_bytes(b"x" * 100)
    for path in (folder / "images__000000.tar", folder):
        then = path.stat().st_mtime - hours * 3600
        os.utime(path, (then, then))
    return folder


def test_gc(own: Path) -> None:
    store = own / "store"
    young, old = leftover(store, 23), leftover(store, 25)
    dry = run_here("gc", store, "--dry-run")
    assert dry.status == 0 and old.is_dir()
    assert dry.err.splitlines() == [
        f"kept, too young: _stage/{young.name} (100 bytes, 23.0 h old)",
        f"would be removed: _stage/{old.name} (100 bytes, 25.0 h old)",
        "removed 0 leftovers of unfinished work, 0 bytes; 2 kept",
    ]
    facts = run_here("gc", store, "--json").json()
    assert (facts["removed"], facts["removed_bytes"], facts["older_than_hours"]) == (1, 100, 24.0)
    assert young.is_dir() and not old.exists()
    assert run_here("gc", store, "--older-than", "22").status == 0 and not young.exists()
    assert run_here("gc", store).err == "removed 0 leftovers of unfinished work, 0 bytes\n"
    assert run_here("verify", store).status == 0


def test_gc_on_a_doubt(own: Path) -> None:
    old = leftover(own / "store", 100)
    flip(own / "store" / "_log" / "units" / "images" / "000000.json")
    ended = run_here("gc", own / "store", "--older-than", "0")
    assert ended.status == 4 and "nothing was removed" in ended.last and old.is_dir()


def test_extract_removes_what_is_old(own: Path, pipeline: Path) -> None:
    store = own / "store"
    young, old = leftover(store, 23), leftover(store, 25)
    ended = run_here("extract", pipeline, f"out={own}")
    assert ended.status == 0 and young.is_dir() and not old.exists()
    assert ended.last == "gc: removed 1 leftover of unfinished work, 100 bytes; 1 kept"
