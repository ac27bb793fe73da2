"""Every reader on a made-up tree of its official layout: whole, half unpacked, and not there."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets as torchvision_sets

from stillhouse.core.errors import CorruptError, MissingError, StillhouseError, UsageError
from stillhouse.eval.tasks.sets import SETS, SetName, caltech101
from stillhouse.eval.tasks.sets.base import ImageSet, Part, Picture, Record, read_picture
from stillhouse.eval.tasks.sets.caltech101 import draw
from stillhouse.eval.tasks.sets.holdout import dinov2_holdout, proteus_holdout
from stillhouse.eval.tasks.sets.testing import MAKERS, cifar_pixels, make_folders, voc_labels, write_lines

ALL = sorted(SETS)
LISTED = [name for name in ALL if name not in ("caltech101", "cifar10", "cifar100", "folders")]
"""Sets that come with lists of their images."""


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Callable[[SetName], Path]:
    """One tree a set, made when it is first asked for. Shared: do not write to it."""
    made: dict[SetName, Path] = {}

    def tree(name: SetName) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            MAKERS[name](made[name])
        return made[name]

    return tree


@pytest.fixture(autouse=True)
def _small_caltech(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caltech101, "NUM_IMAGES", 51 * 31 + 51 * 32)


@pytest.mark.parametrize("name", ALL)
def test_a_whole_tree(trees: Callable[[SetName], Path], name: SetName) -> None:
    found = SETS[name].read(trees(name))
    assert len(set(found.classes)) == len(found.classes) >= 3
    for part in [found.train, found.test, *([] if found.val is None else [found.val])]:
        assert len(part) == len(part.labels) > 0 and part.labels.dtype == np.int64
        assert part.labels.min() >= 0 and part.labels.max() < len(found.classes)
        assert read_picture(part.pictures[-1]).mode == "RGB"
    assert not set(found.train.pictures) & set(found.test.pictures)
    assert found.sha256() == SETS[name].read(trees(name)).sha256()
    assert len(found.trainval) == len(found.train) + (0 if found.val is None else len(found.val))


@pytest.mark.parametrize("name", ALL)
def test_nothing_there(tmp_path: Path, name: SetName) -> None:
    with pytest.raises(MissingError) as caught:
        SETS[name].read(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in caught.value.message


@pytest.mark.parametrize("name", LISTED)
def test_half_unpacked(trees: Callable[[SetName], Path], tmp_path: Path, name: SetName) -> None:
    """An image that a list names is missing; a list itself is."""
    shutil.copytree(trees(name), tmp_path / "copy")
    found = SETS[name].read(tmp_path / "copy")
    lost = found.test.pictures[2]
    assert isinstance(lost, Path)
    lost.rename(tmp_path / "elsewhere")
    with pytest.raises(MissingError, match=f"1 of .* files of .* are not there; the first is {lost}"):
        SETS[name].read(tmp_path / "copy")
    (tmp_path / "elsewhere").rename(lost)
    lists = [path for path in (tmp_path / "copy").rglob("*") if path.suffix in (".txt", ".mat", ".json")]
    assert lists
    for listed in lists:
        data = listed.read_bytes()
        for broken in (None, b"", b"\xff\xfe\xfd"):
            listed.unlink() if broken is None else listed.write_bytes(broken)
            with pytest.raises(StillhouseError) as caught:
                SETS[name].read(tmp_path / "copy")
            assert isinstance(caught.value, CorruptError) and str(listed) in caught.value.message
            assert caught.value.hint
        listed.write_bytes(data)


def listed(part: Part) -> list[tuple[Picture, int]]:
    return list(zip(part.pictures, part.labels.tolist(), strict=True))


def theirs(found: Any) -> list[tuple[Path, int]]:
    """Images and labels of a torchvision data set."""
    if hasattr(found, "_samples"):
        return [(Path(path), int(label)) for path, label in found._samples]
    paths = found._image_files if hasattr(found, "_image_files") else found._images
    return [(Path(path), label) for path, label in zip(paths, found._labels, strict=True)]


@pytest.mark.parametrize("name", ["aircraft", "cars", "dtd", "flowers102", "food101", "pets"])
def test_the_same_as_torchvision(
    trees: Callable[[SetName], Path], name: SetName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same images, same class numbers, and same order, on which the held-out part depends."""
    kinds: dict[str, tuple[Any, str]] = {
        "aircraft": (torchvision_sets.FGVCAircraft, ""),
        "cars": (torchvision_sets.StanfordCars, ""),
        "dtd": (torchvision_sets.DTD, "dtd"),
        "flowers102": (torchvision_sets.Flowers102, ""),
        "food101": (torchvision_sets.Food101, ""),
        "pets": (torchvision_sets.OxfordIIITPet, ""),
    }
    monkeypatch.setattr("torchvision.datasets.flowers102.check_integrity", lambda path, md5: True)
    kind, above = kinds[name]
    root = trees(name)
    if above:  # torchvision wants a folder of this name around the archive's
        (root.parent / "around").mkdir(exist_ok=True)
        (root.parent / "around" / above).symlink_to(root)
        root = root.parent / "around"
    ours = SETS[name].read(trees(name))
    first = "trainval" if name == "pets" else "train"
    parts = {first: ours.train, "test": ours.test} | ({} if ours.val is None else {"val": ours.val})
    for split, part in parts.items():
        expected = theirs(kind(root, split=split))
        assert [(path.resolve(), label) for path, label in expected] == [
            (path.resolve(), label) for path, label in listed(part) if isinstance(path, Path)
        ]


def test_parts_of_cub_and_sun(trees: Callable[[SetName], Path]) -> None:
    cub = SETS["cub"].read(trees("cub"))
    top = trees("cub") / "CUB_200_2011" / "images"
    assert listed(cub.train)[:4] == [
        (top / "001.Albatross" / "0.jpg", 0),
        (top / "002.Auklet" / "1.jpg", 1),
        (top / "003.Wren" / "2.jpg", 2),
        (top / "001.Albatross" / "6.jpg", 0),
    ]
    assert listed(cub.test)[0] == (top / "001.Albatross" / "3.jpg", 0)
    sun = SETS["sun397"].read(trees("sun397"))
    assert sun.classes == ("abbey", "apartment_building/outdoor", "zoo")
    place = trees("sun397") / "SUN397" / "a" / "apartment_building" / "outdoor"
    assert listed(sun.train)[1] == (place / "sun_Tr1.jpg", 1) and listed(sun.test)[4] == (place / "sun_Te4.jpg", 1)


@pytest.mark.parametrize(("name", "labels"), [("cifar10", [0, 1, 2]), ("cifar100", [99, 0, 50, 3, 2])])
def test_records_of_cifar(trees: Callable[[SetName], Path], name: SetName, labels: list[int]) -> None:
    found = SETS[name].read(trees(name))
    assert found.train.labels[: len(labels)].tolist() == labels
    expected = cifar_pixels(labels, 0).transpose(0, 2, 3, 1)
    pictures = found.train.pictures[: len(labels)]
    assert np.array_equal(np.stack([np.asarray(read_picture(each)) for each in pictures]), expected)
    if name == "cifar10":
        assert found.train.labels.tolist() == [label for n in range(5) for label in (n, n + 1, n + 2)]
        assert found.test.labels.tolist() == [5, 6, 7]


def test_cifar_that_cannot_be_read(trees: Callable[[SetName], Path], tmp_path: Path) -> None:
    (tmp_path / "pickled" / "cifar-10-batches-py").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"cifar-10-batches-py is a pickle.*download the binary version of CIFAR-10"):
        SETS["cifar10"].read(tmp_path / "pickled")
    shutil.copytree(trees("cifar10"), tmp_path / "copy")
    batch = tmp_path / "copy" / "cifar-10-batches-bin" / "data_batch_3.bin"
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(CorruptError, match=r"data_batch_3\.bin has 9,218 bytes, no multiple of 3,073"):
        SETS["cifar10"].read(tmp_path / "copy")
    batch.unlink()
    with pytest.raises(MissingError, match=r"data_batch_3\.bin is not there"):
        SETS["cifar10"].read(tmp_path / "copy")
    with pytest.raises(CorruptError, match="ends within the image at byte 9219"):
        Record(trees("cifar10") / "cifar-10-batches-bin" / "data_batch_3.bin", 9219, (3, 32, 32)).read()


def test_cifar_as_a_tree(tmp_path: Path) -> None:
    make_folders(tmp_path, {"train": 2, "test": 1})
    found = SETS["cifar10"].read(tmp_path)
    assert (found.classes, len(found.train), found.val, len(found.test)) == (("ant", "bee", "cat"), 6, None, 3)


def test_trees_of_folders(tmp_path: Path) -> None:
    make_folders(tmp_path, {"train": 2, "val": 1})
    found = SETS["folders"].read(tmp_path)
    assert found.val is None and len(found.test) == 3
    make_folders(tmp_path, {"test": 3})
    found = SETS["folders"].read(tmp_path)
    assert found.val is not None and (len(found.val), len(found.test), len(found.trainval)) == (3, 9, 9)
    assert found.trainval.pictures[6:] == found.val.pictures
    assert found.trainval.labels.tolist() == [0, 0, 1, 1, 2, 2, 0, 1, 2]
    before = found.sha256()
    (tmp_path / "test" / "dog").mkdir()
    with pytest.raises(MissingError, match=r"class folder .*/test/dog has no image"):
        SETS["folders"].read(tmp_path)
    (tmp_path / "test" / "ant" / "0.png").rename(tmp_path / "test" / "dog" / "0.png")
    with pytest.raises(CorruptError, match=r"/test/dog is none of the 3 classes"):
        SETS["folders"].read(tmp_path)
    (tmp_path / "test" / "dog" / "0.png").rename(tmp_path / "test" / "bee" / "9.png")
    (tmp_path / "test" / "dog").rmdir()
    assert SETS["folders"].read(tmp_path).sha256() != before


def test_difficult_images_of_voc_are_negatives(trees: Callable[[SetName], Path]) -> None:
    found = SETS["voc2007"].read(trees("voc2007"))
    assert found.val is not None
    for seed, part in enumerate([found.train, found.val, found.test]):
        marks_NC = voc_labels(24, seed)
        assert (marks_NC == 0).any()
        assert np.array_equal(part.labels, marks_NC == 1)


def test_lists_of_voc_that_do_not_fit(trees: Callable[[SetName], Path], tmp_path: Path) -> None:
    shutil.copytree(trees("voc2007"), tmp_path / "copy")
    listed = tmp_path / "copy" / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main" / "car_val.txt"
    lines = listed.read_text().splitlines()
    write_lines(listed, lines[1:])
    with pytest.raises(CorruptError, match=r"car_val\.txt lists other images than aeroplane_val\.txt"):
        SETS["voc2007"].read(tmp_path / "copy")
    write_lines(listed, ["001000 2", *lines[1:]])
    with pytest.raises(CorruptError, match=r"car_val\.txt has labels other than 1, 0 and -1"):
        SETS["voc2007"].read(tmp_path / "copy")


def test_caltech_is_drawn_with_replacement(trees: Callable[[SetName], Path]) -> None:
    found: ImageSet = SETS["caltech101"].read(trees("caltech101"))
    assert len(found.classes) == 102 and found.classes[0] == "BACKGROUND_Google"
    assert np.bincount(found.train.labels).tolist() == [30] * 102
    unique = set(found.train.pictures)
    assert len(unique) < len(found.train)
    assert len(unique) + len(found.test) == 51 * 31 + 51 * 32
    np.random.seed(0)  # as the published script does
    rows = [np.sort(np.random.choice(list(range(31 + label % 2)), 30)) for label in range(102)]
    folder = trees("caltech101") / "101_ObjectCategories"
    names = [
        folder / name / f"image_{row + 1:04d}.jpg"
        for name, drawn in zip(found.classes, rows, strict=True)
        for row in drawn
    ]
    assert list(found.train.pictures) == names


CALTECH_SIZES = [
    *(
        467,
        435,
        435,
        200,
        798,
        55,
        800,
        42,
        42,
        47,
        54,
        46,
        33,
        128,
        98,
        43,
        85,
        91,
        50,
        43,
        123,
        47,
        59,
        62,
        107,
        47,
        69,
    ),
    *(
        73,
        70,
        50,
        51,
        57,
        67,
        52,
        65,
        68,
        75,
        64,
        53,
        64,
        85,
        67,
        67,
        45,
        34,
        34,
        51,
        99,
        100,
        42,
        54,
        88,
        80,
        31,
        64,
        86,
    ),
    *(
        114,
        61,
        81,
        78,
        41,
        66,
        43,
        40,
        87,
        32,
        76,
        55,
        35,
        39,
        47,
        38,
        45,
        53,
        34,
        57,
        82,
        59,
        49,
        40,
        63,
        39,
        84,
        57,
        35,
    ),
    *(64, 45, 86, 59, 64, 35, 85, 49, 86, 75, 239, 37, 59, 34, 56, 39, 60),
]
"""Images of the real classes, in the order of their names."""


def test_caltech_is_split_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list in github.com/linusericsson/ssl-transfer (caltech101-splits/train.txt) has these images, each once."""
    monkeypatch.undo()
    assert caltech101.NUM_IMAGES == sum(CALTECH_SIZES)
    rows = np.unique(draw(CALTECH_SIZES))
    assert (len(CALTECH_SIZES), sum(CALTECH_SIZES), len(rows)) == (102, 9144, 2416)
    digest = hashlib.sha256(" ".join(map(str, rows.tolist())).encode()).hexdigest()
    assert digest == "9445c6b2447b9e017c4ef48933e422db48eea46e7a07f0c4a14f727d7b861990"


def test_caltech_in_part(trees: Callable[[SetName], Path], tmp_path: Path) -> None:
    shutil.copytree(trees("caltech101"), tmp_path / "copy")
    (tmp_path / "copy" / "101_ObjectCategories" / "class007" / "image_0003.jpg").unlink()
    with pytest.raises(MissingError, match=r"101_ObjectCategories has 3,212 images, not 3,213"):
        SETS["caltech101"].read(tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "101_ObjectCategories" / "BACKGROUND_Google")
    with pytest.raises(MissingError, match=r"101 of 102 class folders; .*/BACKGROUND_Google is not there"):
        SETS["caltech101"].read(tmp_path / "copy")


@pytest.mark.parametrize("num", [5, 11, 100, 8144])
def test_held_out_as_published(num: int) -> None:
    indices = list(range(num))
    np.random.seed(0)
    np.random.shuffle(indices)
    assert proteus_holdout(num).tolist() == indices[: int(np.floor(0.2 * num))]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert dinov2_holdout(num).tolist() == torch.randperm(num)[: num // 10].tolist()
