"""`ingest` and `extract` on a store that is to grow: views by their number, samples by a word of their own."""

import shutil
from pathlib import Path

import pytest

from stillhouse.core.errors import BusyError, DataError, MissingError, SpecMismatchError, UsageError
from stillhouse.core.events import Reporter
from stillhouse.stage1_extract import grow
from stillhouse.stage1_extract.config import ExtractConfig
from stillhouse.stage1_extract.extract import extract
from stillhouse.stage1_extract.ingest import ingest
from stillhouse.stage1_extract.repair import Plant, repair
from stillhouse.stage1_extract.subset import SubsetConfig
from stillhouse.stage1_extract.testing import TINY_VIEWS, Stop, Stopping, tiny_images, tiny_ingest, tiny_teacher
from stillhouse.storage import layout
from stillhouse.storage.growth import add_growth
from stillhouse.storage.seal import latest_seal
from stillhouse.storage.store import Store
from stillhouse.storage.verify import verify

QUIET = Reporter(quiet=True)
RUN = ExtractConfig(device="cpu")
THREE_VIEWS = TINY_VIEWS.model_copy(update={"num": 3})
SPLIT = {"test": 0.2}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """20 images; the other eight of `more` are not there yet."""
    tiny_images(tmp_path / "more", 28)
    names = sorted(path.relative_to(tmp_path / "more") for path in (tmp_path / "more").rglob("*.png"))
    for name in names[:20]:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "more" / name, tmp_path / "images" / name)
    return tmp_path / "images"


def add_the_rest(images: Path) -> None:
    shutil.copytree(images.parent / "more", images, dirs_exist_ok=True)


def keys(store: Store, first: int = 0) -> list[str]:
    return [sample.key for block in range(first, len(store.plan.blocks)) for sample in store.samples(block)]


def test_more_views_are_more_views(images: Path) -> None:
    root, config = images.parent / "store", tiny_ingest(images)
    ingest(root, config, TINY_VIEWS, QUIET)
    teacher = tiny_teacher(images.parent / "weights")
    extract(Store.open(root), teacher, RUN, QUIET)
    shutil.rmtree(images)  # views need no source
    ingest(root, config, THREE_VIEWS, QUIET)
    result = extract(Store.open(root), teacher, RUN, QUIET)
    assert (result.num_units_written, result.num_units_found) == (3, 6)
    with pytest.raises(
        SpecMismatchError, match=r"views.num: stored 3, asked for 2.*keeps its views: set views.num to 3"
    ):
        ingest(root, config, TINY_VIEWS, QUIET)
    with pytest.raises(SpecMismatchError, match=r"views.seed: stored 0, asked for 1"):
        ingest(root, config, THREE_VIEWS.model_copy(update={"num": 4, "seed": 1}), QUIET)
    assert Store.open(root).spec.num_views == 3 and verify(Store.open(root)).problems == ()


def test_more_samples_are_blocks_of_their_own(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, config = images.parent / "store", tiny_ingest(images, split=SPLIT)
    ingest(root, config, TINY_VIEWS, QUIET)
    first = Store.open(root)
    num_blocks, before = len(first.plan.blocks), keys(first)
    add_the_rest(images)
    ingest(root, config, TINY_VIEWS, QUIET)
    assert len(Store.open(root).plan.blocks) == num_blocks  # nobody asked
    growing = config.model_copy(update={"grow": True})
    result = ingest(root, growing, TINY_VIEWS, Reporter())
    store = Store.open(root)
    assert "grows by 8 images (" in capsys.readouterr().err
    assert result.num_samples == 28 and result.num_blocks_found == num_blocks
    assert keys(store)[:20] == before and len(set(keys(store))) == 28
    assert set(keys(store, num_blocks)) == {key for key in keys(store) if key not in before}
    extract(store, tiny_teacher(images.parent / "weights"), RUN, QUIET)
    ingest(root, growing, TINY_VIEWS, Reporter())
    assert "has every image of its source" in capsys.readouterr().err
    assert len(Store.open(root).growths) == 1 and verify(Store.open(root)).problems == ()


def test_any_stop_is_resumed(images: Path) -> None:
    """Before any image of the growth is in, and after some; with and without the word."""
    config, digests = tiny_ingest(images, split=SPLIT), set()
    ingest(images.parent / "begun", config, TINY_VIEWS, QUIET)
    add_the_rest(images)
    growing = config.model_copy(update={"grow": True})
    for number, stop in enumerate((None, 1, 2)):
        root = images.parent / f"store-{number}"
        shutil.copytree(images.parent / "begun", root)
        if stop is not None:
            with pytest.raises(Stop):
                ingest(root, growing, TINY_VIEWS, Stopping(stop))
        ingest(root, config if stop == 1 else growing, TINY_VIEWS, QUIET)
        digests.add(verify(Store.open(root)).content_sha256)
    assert len(digests) == 1


def test_a_source_that_lacks_what_it_had_is_refused(images: Path) -> None:
    root, config = images.parent / "store", tiny_ingest(images, grow=True)
    ingest(root, config, TINY_VIEWS, QUIET)
    victim = min(images.rglob("*.png"))
    victim.unlink()
    name = victim.relative_to(images).as_posix()
    with pytest.raises(DataError, match=rf"image '{name}' of store .* is no longer in its source; bring it back"):
        ingest(root, config, TINY_VIEWS, QUIET)
    assert Store.open(root).growths == ()


def test_another_source_adds_to_a_store(images: Path) -> None:
    root, config = images.parent / "store", tiny_ingest(images)
    ingest(root, config, TINY_VIEWS, QUIET)
    theirs = images.parent / "theirs"
    (theirs / "a").mkdir(parents=True)
    image = sorted(images.rglob("*.png"))[3]
    shutil.copy(image, theirs / image.relative_to(images))
    other = tiny_ingest(theirs)
    with pytest.raises(SpecMismatchError, match=r"ingest.source.path"):
        ingest(root, other, TINY_VIEWS, QUIET)
    growing = other.model_copy(update={"grow": True})
    with pytest.raises(DataError, match=r"is there from another source; give the new image a name that is free"):
        ingest(root, growing, TINY_VIEWS, QUIET)
    (theirs / image.relative_to(images)).rename(theirs / "a" / "new.png")
    with pytest.raises(SpecMismatchError, match=r"ingest.seed"):
        ingest(root, growing.model_copy(update={"seed": 1}), TINY_VIEWS, QUIET)
    assert ingest(root, growing, TINY_VIEWS, QUIET).num_samples == 21
    for known in (config, other):  # both are the store's own now
        assert ingest(root, known, TINY_VIEWS, QUIET).num_blocks_written == 0
    store = Store.open(root)
    assert keys(store, 3) == ["a/new.png"]
    block = layout.images_path(3)
    (root / block).unlink()
    with pytest.raises(MissingError, match=r"cannot be made again: the images of block 3 .* came from another source"):
        repair(Plant(root, config, TINY_VIEWS, (), RUN), [], QUIET)
    assert repair(Plant(root, other, TINY_VIEWS, (), RUN), [], QUIET).redone == ("images/000003",)
    assert verify(Store.open(root)).problems == ()


def test_a_subset_does_not_grow(images: Path) -> None:
    root, config = images.parent / "store", tiny_ingest(images, subset=SubsetConfig(num=9), grow=True)
    ingest(root, config, TINY_VIEWS, QUIET)
    with pytest.raises(UsageError, match=r"holds an `ingest.subset`, which is chosen from all images at once"):
        ingest(root, config, TINY_VIEWS, QUIET)
    assert ingest(root, config.model_copy(update={"grow": False}), TINY_VIEWS, QUIET).num_samples == 9


def test_two_that_add_other_samples(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them is first; the other says so, and finds the store grown when it runs again."""
    root, config = images.parent / "store", tiny_ingest(images)
    ingest(root, config, TINY_VIEWS, QUIET)
    theirs = images.parent / "theirs"
    theirs.mkdir()
    shutil.copy(min(images.rglob("*.png")), theirs / "new.png")
    really, first = add_growth, [True]

    def late(*arguments: object) -> bool:
        if first and first.pop():
            ingest(root, tiny_ingest(theirs, grow=True), TINY_VIEWS, QUIET)
        return really(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(grow, "add_growth", late)
    add_the_rest(images)
    growing = config.model_copy(update={"grow": True})
    with pytest.raises(BusyError, match="another process has begun to add"):
        ingest(root, growing, TINY_VIEWS, QUIET)
    assert ingest(root, growing, TINY_VIEWS, QUIET).num_samples == 29
    assert len(Store.open(root).growths) == 2


def test_another_teacher_needs_no_source(images: Path) -> None:
    root, config = images.parent / "store", tiny_ingest(images)
    ingest(root, config, TINY_VIEWS, QUIET)
    one, other = (
        tiny_teacher(images.parent / "weights", name, seed=seed) for seed, name in enumerate(("one", "other"))
    )
    first = extract(Store.open(root), one, RUN, QUIET).seal
    shutil.rmtree(images)
    second = extract(Store.open(root), other, RUN, QUIET).seal
    assert set(first.objects) < set(second.objects) and second.generation == 2 and second.growths == 0
    ingest(root, config, THREE_VIEWS, QUIET)
    for teacher in (one, other):
        assert extract(Store.open(root), teacher, RUN, QUIET).num_units_written == 3
    assert verify(Store.open(root)).problems == ()


def test_damage_in_a_grown_store_is_mended(images: Path) -> None:
    root, config = images.parent / "store", tiny_ingest(images, split=SPLIT)
    teacher = tiny_teacher(images.parent / "weights")
    ingest(root, config, TINY_VIEWS, QUIET)
    extract(Store.open(root), teacher, RUN, QUIET)
    add_the_rest(images)
    ingest(root, config.model_copy(update={"grow": True}), THREE_VIEWS, QUIET)
    extract(Store.open(root), teacher, RUN, QUIET)
    sealed = latest_seal(root)
    assert sealed is not None and sealed.growths == 2
    last = len(Store.open(root).plan.blocks) - 1
    for path in (
        layout.index_path(0),
        layout.images_path(last),
        "features/tiny/patch/zarr.json",
        "views/hash/zarr.json",
    ):
        (root / path).unlink()
    (root / layout.features_chunk("tiny", "cls", 2, 0)).write_bytes(b"")
    result = repair(Plant(root, config, THREE_VIEWS, (teacher,), RUN), [], QUIET)
    assert len(result.redone) == 5 and result.changed == () and result.left == ()
    assert result.seal is not None and result.seal.content_sha256 == sealed.content_sha256
    assert verify(Store.open(root)).problems == ()
