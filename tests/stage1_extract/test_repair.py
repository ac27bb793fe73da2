"""`repair`: just what is damaged is made again, from whatever is needed and nothing else, and any stop is carried on."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stillhouse.core.errors import CorruptError, MissingError, SpecMismatchError, UsageError
from stillhouse.core.events import Reporter
from stillhouse.stage1_extract import fitting, teachers
from stillhouse.stage1_extract import ingest as ingest_module
from stillhouse.stage1_extract.config import ExtractConfig
from stillhouse.stage1_extract.extract import extract, write_features
from stillhouse.stage1_extract.ingest import ingest
from stillhouse.stage1_extract.repair import Plant, Repair, repair
from stillhouse.stage1_extract.testing import TINY_VIEWS, Stop, Stopping, tiny_images, tiny_ingest, tiny_teacher
from stillhouse.storage import layout
from stillhouse.storage.codecs import fit_codec
from stillhouse.storage.commit import Attempt
from stillhouse.storage.seal import decided_units, latest_seal, records
from stillhouse.storage.store import Store
from stillhouse.storage.testing import flip_bit
from stillhouse.storage.verify import forget, noted_units, verify

QUIET = Reporter(quiet=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`images` of which one is bad, `store` with the teachers `tiny` (fp16) and `small` (int8), and `weights`."""
    folder = tmp_path_factory.mktemp("home")
    images = tiny_images(folder / "images", 20)
    (images / "a/0000.png").write_bytes(b"no image")
    plant = planted(folder, folder / "store")
    ingest(plant.root, plant.ingest, plant.views, QUIET)
    for teacher in plant.teachers:
        extract(Store.open(plant.root), teacher, plant.run, QUIET)
    return folder


def planted(home: Path, root: Path) -> Plant:
    configs = [tiny_teacher(home / "weights"), tiny_teacher(home / "weights", "small", codec="int8")]
    return Plant(root, tiny_ingest(home / "images"), TINY_VIEWS, configs, ExtractConfig(device="cpu"))


@pytest.fixture
def plant(home: Path, tmp_path: Path) -> Plant:
    """A copy of the store, with images of its own."""
    shutil.copytree(home / "store", tmp_path / "store")
    return planted(home, tmp_path / "store")


@pytest.fixture
def moved(plant: Plant, home: Path) -> Iterator[None]:
    """The source is somewhere else for the time of a test."""
    (home / "images").rename(home / "gone")
    yield
    (home / "gone").rename(home / "images")


def sha256(plant: Plant) -> tuple[int, str]:
    sealed = latest_seal(plant.root)
    assert sealed is not None
    return sealed.generation, sealed.content_sha256


def whole(plant: Plant) -> bool:
    return verify(Store.open(plant.root)).problems == () and noted_units(plant.root) == []


def damage(plant: Plant, *paths: str) -> None:
    for path in paths:
        flip_bit(plant.root / path, 4 * (plant.root / path).stat().st_size)


def attempts(plant: Plant) -> dict[str, str]:
    store = Store.open(plant.root)
    assert verify(store).problems == ()
    return {record.unit: record.attempt for record in records(plant.root)}


DAMAGES = {
    "features/tiny/001/000001": ["features/tiny/patch/c/1/1/0/0"],
    "features/small/000/000002": ["_log/units/features/small/000/000002.json"],
    "views/000/000000": ["views/hash/c/0/0"],
    "images/000001": ["images/000001.tar"],
    "images/000002": ["index/000002.parquet"],
    "codecs/small": ["features/small/codecs/patch/scale/c/0"],
    "codecs/tiny": ["features/tiny/cls/zarr.json", "_log/units/codecs/tiny.json"],
    "layout": ["views/zarr.json"],
}


@pytest.mark.parametrize("unit", DAMAGES)
def test_just_what_is_damaged_is_made_again(plant: Plant, unit: str) -> None:
    before, records = sha256(plant), attempts(plant)
    damage(plant, *DAMAGES[unit])
    done = repair(plant, [], QUIET)
    assert (done.asked, done.redone, done.changed, done.left) == ((unit,), (unit,), (), ())
    assert sha256(plant) == before and whole(plant)
    after = attempts(plant)
    assert {name for name in records if records[name] != after[name]} == {unit}


def test_all_of_it_at_once_and_nothing_then(plant: Plant) -> None:
    before = sha256(plant)
    for paths in DAMAGES.values():
        damage(plant, *paths)
    (plant.root / layout.record_path("features/tiny/000/000000")).unlink()
    (plant.root / "zarr.json").unlink()
    done = repair(plant, [], QUIET)
    assert set(done.redone) == {*DAMAGES, "features/tiny/000/000000"} and done.changed == () and done.left == ()
    assert sha256(plant) == before and whole(plant)
    again = repair(plant, [], QUIET)
    assert again.redone == again.asked == () and again.left == ()


def test_named_units(plant: Plant) -> None:
    """Whole ones too; the path of an object stands for its unit; what is damaged beside them stays damaged."""
    damage(plant, "images/000001.tar")
    done = repair(plant, ["features/tiny/cls/c/1/0/0/0", "views/001/000002"], QUIET)
    assert done.redone == ("views/001/000002", "features/tiny/001/000000")
    assert {problem.unit for problem in verify(Store.open(plant.root)).problems} == {"images/000001"}


@pytest.mark.parametrize(
    "name", ["features/tiny/001/00001", "views/002/000000", "nonsense", "features/tony/000/000001"]
)
def test_a_name_that_no_unit_has(plant: Plant, name: str) -> None:
    with pytest.raises(UsageError, match=f"no unit '{name}'"):
        repair(plant, [name], QUIET)
    assert noted_units(plant.root) == []


@pytest.mark.parametrize("unit", ["views/000/000000", "layout", "codecs/tiny"])
def test_neither_teacher_nor_source_is_touched_without_need(
    plant: Plant, moved: None, monkeypatch: pytest.MonkeyPatch, unit: str
) -> None:
    monkeypatch.setattr(teachers, "build_encoder", None)
    monkeypatch.setattr(ingest_module, "open_source", None)
    before = sha256(plant)
    damage(
        plant,
        {"views/000/000000": "views/hash/c/0/0", "layout": "views/zarr.json"}.get(
            unit, "features/tiny/codecs/zarr.json"
        ),
    )
    assert repair(plant, [], QUIET).redone == (unit,)
    assert sha256(plant) == before and whole(plant)


def test_images_without_their_source(plant: Plant, moved: None) -> None:
    damage(plant, "images/000001.tar")
    with pytest.raises(MissingError) as caught:
        repair(plant, [], QUIET)
    message = str(caught.value)
    assert message.startswith(f"images/000001 of store {plant.root} cannot be made again: ")
    assert message.endswith(
        "bring the source back, or put images/000001.tar and index/000001.parquet back from a copy of the store, "
        "then run the same command again"
    )


def test_the_source_comes_back(plant: Plant, home: Path) -> None:
    """What an interrupted repair noted, the next one does, whatever it was asked for."""
    before = sha256(plant)
    damage(plant, "images/000001.tar")
    (home / "images").rename(home / "gone")
    with pytest.raises(MissingError):
        repair(plant, [], QUIET)
    (home / "gone").rename(home / "images")
    assert noted_units(plant.root) == ["images/000001"]
    assert repair(plant, [], QUIET).redone == ("images/000001",)
    assert sha256(plant) == before and whole(plant)


def test_an_image_put_back_from_a_copy(plant: Plant, home: Path, moved: None) -> None:
    damage(plant, "images/000001.tar")
    with pytest.raises(MissingError):
        repair(plant, [], QUIET)
    shutil.copyfile(home / "store/images/000001.tar", plant.root / "images/000001.tar")
    done = repair(plant, [], QUIET)
    assert done.redone == () and whole(plant)


def key_in(plant: Plant, block: int) -> str:
    return next(sample.key for sample in Store.open(plant.root).samples(block) if sample.reason is None)


@pytest.fixture
def own_images(plant: Plant, home: Path, tmp_path: Path) -> Iterator[Path]:
    """The source of the store, which a test may change."""
    shutil.copytree(home / "images", tmp_path / "kept", copy_function=shutil.copy2)
    yield home / "images"
    shutil.rmtree(home / "images")
    (tmp_path / "kept").rename(home / "images")


def test_an_image_that_cannot_be_read_any_more_is_not_quietly_left_out(plant: Plant, own_images: Path) -> None:
    key = key_in(plant, 1)
    (own_images / key).write_bytes(b"no image")
    damage(plant, "images/000001.tar")
    with pytest.raises(MissingError, match=f"image '{key}' was in store .* cannot be read from the source now"):
        repair(plant, [], QUIET)
    assert sha256(plant)[0] == 2 and Store.open(plant.root).record("images/000001") is not None


def test_an_image_that_is_another_one_now(plant: Plant, own_images: Path) -> None:
    """Its views and features follow, in both teachers, and the next seal says that the content is another."""
    before = sha256(plant)
    key, other = key_in(plant, 1), key_in(plant, 0)
    shutil.copyfile(own_images / other, own_images / key)
    damage(plant, "images/000001.tar")
    done = repair(plant, [], QUIET)
    follow = {f"{kind}/{view:03d}/000001" for kind in ("views", "features/tiny", "features/small") for view in (0, 1)}
    assert done.asked == ("images/000001",) and set(done.redone) == {"images/000001", *follow}
    assert set(done.changed) == {"images/000001", *follow}
    assert sha256(plant)[0] == before[0] + 1 and sha256(plant)[1] != before[1] and whole(plant)


def test_a_codec_that_comes_out_otherwise_takes_its_features_along(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine fits another scale: codes of the old one would decode to other tokens."""
    before = sha256(plant)
    monkeypatch.setattr(fitting, "fit_codec", lambda name, tokens, grid: fit_codec(name, tokens * 1.001, grid))
    damage(plant, "features/small/codecs/patch/scale/c/0")
    done = repair(plant, [], QUIET)
    features = {f"features/small/{view:03d}/{block:06d}" for view in (0, 1) for block in (0, 1, 2)}
    assert set(done.redone) == {"codecs/small", *features} and "codecs/small" in done.changed
    assert sha256(plant)[0] == before[0] + 1 and sha256(plant)[1] != before[1] and whole(plant)


def test_a_teacher_that_the_config_lacks(plant: Plant) -> None:
    damage(plant, "features/small/patch/c/1/1/0/0")
    fewer = Plant(plant.root, plant.ingest, plant.views, plant.teachers[:1], plant.run)
    with pytest.raises(
        UsageError, match=r"features/small/001/000001 .* needs teacher 'small', and the config has tiny"
    ):
        repair(fewer, [], QUIET)
    assert noted_units(plant.root) == []


def test_another_teacher_of_that_name(plant: Plant, home: Path) -> None:
    damage(plant, "features/tiny/patch/c/1/1/0/0")
    other = Plant(plant.root, plant.ingest, plant.views, [tiny_teacher(home / "weights", seed=1)], plant.run)
    with pytest.raises(SpecMismatchError, match="holds features of another 'tiny'"):
        repair(other, [], QUIET)


def test_another_config(plant: Plant) -> None:
    views = TINY_VIEWS.model_copy(update={"num": 3})
    with pytest.raises(SpecMismatchError, match="num: stored 2, asked for 3"):
        repair(Plant(plant.root, plant.ingest, views, plant.teachers, plant.run), [], QUIET)


def test_what_no_unit_mends_is_told(plant: Plant) -> None:
    (plant.root / layout.teacher_path("tiny")).unlink()
    done: Repair = repair(plant, [], QUIET)
    assert done.redone == () and [problem.path for problem in done.left] == [layout.teacher_path("tiny")]
    assert "restore it from a copy" in done.left[0].remedy


def test_an_unfinished_store_stays_unfinished(home: Path, tmp_path: Path) -> None:
    """Of a store without a seal, only the damaged unit is made, and no seal."""
    plant = planted(home, tmp_path / "store")
    ingest(plant.root, plant.ingest, plant.views, QUIET)
    with pytest.raises(Stop):
        extract(Store.open(plant.root), plant.teachers[0], plant.run, Stopping(3))
    before = decided_units(plant.root)
    written = [unit for unit in before if unit.startswith("features/")]
    assert 3 <= len(written) < TINY_VIEWS.num * len(Store.open(plant.root).plan.blocks_of("train"))
    view, block = (int(part) for part in written[0].split("/")[2:])
    damage(plant, f"features/tiny/cls/c/{view}/{block}/0/0", "images/000001.tar")
    done = repair(plant, [], QUIET)
    assert done.redone == ("images/000001", written[0]) and done.seal is None
    assert latest_seal(plant.root) is None and decided_units(plant.root) == before
    for teacher in plant.teachers:
        extract(Store.open(plant.root), teacher, plant.run, QUIET)
    assert sha256(plant)[1] == sha256(planted(home, home / "store"))[1]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("carried_on_by", ["repair", "the ordinary steps"])
@pytest.mark.parametrize("after", range(7))
def test_a_repair_that_dies_is_carried_on(
    plant: Plant, monkeypatch: pytest.MonkeyPatch, after: int, carried_on_by: str
) -> None:
    """After each of its commits; until then readers see nothing but whole records, old or new."""
    before = sha256(plant)
    for unit in ("features/tiny/001/000001", "views/000/000000", "images/000001", "images/000002", "codecs/small"):
        damage(plant, *DAMAGES[unit])
    real: Callable[..., Any] = Attempt.commit
    commits = 0

    def commit(attempt: Attempt, facts: dict[str, Any]) -> Any:
        nonlocal commits
        commits += 1
        if commits > after:
            raise Killed
        return real(attempt, facts)

    with monkeypatch.context() as patch:
        patch.setattr(Attempt, "commit", commit)
        if after < 5:
            with pytest.raises(Killed):
                repair(plant, [], QUIET)
        else:
            repair(plant, [], QUIET)
    if carried_on_by == "repair":
        repair(plant, [], QUIET)
    else:
        ingest(plant.root, plant.ingest, plant.views, QUIET)
        for teacher in plant.teachers:
            extract(Store.open(plant.root), teacher, plant.run, QUIET)
    assert sha256(plant) == before and whole(plant)


def test_a_changed_image_and_a_death_lose_no_follower(
    plant: Plant, own_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed right after the images were replaced: the features of the old ones are known to be stale."""
    shutil.copyfile(own_images / key_in(plant, 0), own_images / key_in(plant, 1))
    damage(plant, "images/000001.tar")

    def die(*args: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("stillhouse.stage1_extract.repair._make_views", die)
        with pytest.raises(Killed):
            repair(plant, [], QUIET)
    stale = {problem.unit for problem in verify(Store.open(plant.root)).problems if "made again" in problem.found}
    assert len(stale) == 6
    done = repair(plant, [], QUIET)
    assert set(done.redone) == stale and whole(plant)


def test_forgetting_by_hand_is_enough_for_the_ordinary_steps(plant: Plant) -> None:
    forget(Store.open(plant.root), "features/tiny/001/000001")
    result = extract(Store.open(plant.root), plant.teachers[0], plant.run, QUIET)
    assert result.num_units_written == 1 and whole(plant)


def test_damage_while_it_is_repaired(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that breaks what was just written is no success."""
    damage(plant, "features/tiny/patch/c/1/1/0/0")

    def breaking(*args: Any, **kwargs: Any) -> Any:
        done = write_features(*args, **kwargs)
        damage(plant, "features/tiny/patch/c/1/1/0/0")
        return done

    monkeypatch.setattr("stillhouse.stage1_extract.repair.write_features", breaking)
    with pytest.raises(CorruptError, match="is damaged again"):
        repair(plant, [], QUIET)
