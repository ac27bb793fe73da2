"""Made-up trees in the official layouts, for tests: tiny images, each class of a colour of its own."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from . import SetName
from .voc2007 import CLASSES as VOC_CLASSES

SIDE = 20


def paint(path: Path, label: int, seed: int) -> None:
    """An image in the colour of its class, under noise."""
    random = np.random.default_rng((label, seed))
    colour = np.random.default_rng(label).integers(40, 216, 3)
    pixels = colour + random.integers(-40, 40, (SIDE, SIDE + 3, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def make_folders(root: Path, parts: Mapping[str, int], classes: Sequence[str] = ("ant", "bee", "cat")) -> None:
    """`part/class/` with so many images a class."""
    for number, part in enumerate(parts):
        for label, name in enumerate(classes):
            for i in range(parts[part]):
                paint(root / part / name / f"{i}.png", label, 100 * number + i)


def make_aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b" / "data"
    variants = ["707-320", "Boeing 717", "A300B4"]
    write_lines(data / "variants.txt", variants)
    for part, first in (("train", 0), ("val", 6), ("test", 12)):
        rows = [(f"{first + i:07d}", i % 3) for i in range(6)]
        for name, label in rows:
            paint(data / "images" / f"{name}.jpg", label, int(name))
        write_lines(data / f"images_variant_{part}.txt", [f"{name} {variants[label]}" for name, label in rows])


def make_caltech101(root: Path) -> None:
    """102 classes of 31 or 32 images, all of them one image."""
    top = root / "101_ObjectCategories"
    paint(root / "image.jpg", 0, 0)
    data = (root / "image.jpg").read_bytes()
    for label, name in enumerate(["BACKGROUND_Google", *(f"class{n:03d}" for n in range(101))]):
        (top / name).mkdir(parents=True)
        for i in range(31 + label % 2):
            (top / name / f"image_{i + 1:04d}.jpg").write_bytes(data)


def make_cars(root: Path) -> None:
    top, names = root / "stanford_cars", ["Audi A4", "BMW M3", "Fiat 500"]
    (top / "devkit").mkdir(parents=True)
    scipy.io.savemat(top / "devkit" / "cars_meta.mat", {"class_names": np.array([names], object)})
    kinds = [("fname", object), ("class", np.uint8), ("bbox_x1", np.uint8)]
    for part, listed in (
        ("train", "devkit/cars_train_annos.mat"),
        ("test", "cars_test_annos_withlabels.mat"),
    ):
        rows = [(f"{i:05d}.jpg", i % 3 + 1, 1) for i in range(9)]
        for name, label, _ in rows:
            paint(top / f"cars_{part}" / name, label, int(name[:5]) + 9 * (part == "test"))
        scipy.io.savemat(top / listed, {"annotations": np.array([rows], kinds)})


def cifar_pixels(labels: Sequence[int], seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """uint8 [N, 3, 32, 32]."""
    return np.random.default_rng(seed).integers(0, 256, (len(labels), 3, 32, 32), np.uint8)


def make_cifar10(root: Path) -> None:
    """Three images a batch, of the labels 0, 1, 2 plus the batch's number."""
    top = root / "cifar-10-batches-bin"
    write_lines(top / "batches.meta.txt", [f"class{n}" for n in range(10)])
    for number, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        labels = [number, number + 1, number + 2]
        rows = zip(labels, cifar_pixels(labels, number), strict=True)
        (top / f"{name}.bin").write_bytes(b"".join(bytes([label]) + pixels.tobytes() for label, pixels in rows))


def make_cifar100(root: Path) -> None:
    """A record has a coarse label, here 7, and a fine one."""
    top = root / "cifar-100-binary"
    write_lines(top / "fine_label_names.txt", [f"class{n}" for n in range(100)])
    for number, name in enumerate(["train", "test"]):
        labels = [99, 0, 50, 3, 2]
        rows = zip(labels, cifar_pixels(labels, number), strict=True)
        (top / f"{name}.bin").write_bytes(b"".join(bytes([7, label]) + pixels.tobytes() for label, pixels in rows))


def make_dtd(root: Path) -> None:
    top, names = root / "dtd", ["banded", "blotchy", "woven"]
    for number, part in enumerate(["train", "val", "test"]):
        rows = [(names[i % 3], i + 6 * number) for i in range(6)]
        for name, i in rows:
            paint(top / "images" / name / f"{name}_{i:04d}.jpg", names.index(name), i)
        write_lines(top / "labels" / f"{part}1.txt", [f"{name}/{name}_{i:04d}.jpg" for name, i in rows])


def make_flowers102(root: Path) -> None:
    top = root / "flowers-102"
    labels = np.arange(18) % 3 + 1
    for i, label in enumerate(labels.tolist()):
        paint(top / "jpg" / f"image_{i + 1:05d}.jpg", label, i)
    scipy.io.savemat(top / "imagelabels.mat", {"labels": labels[None].astype(np.uint8)})
    numbers = np.arange(1, 19, dtype=np.uint16)[None]
    ids = {"trnid": numbers[:, 12:], "valid": numbers[:, 6:12], "tstid": numbers[:, :6]}
    scipy.io.savemat(top / "setid.mat", ids)


def make_food101(root: Path) -> None:
    """The lists in JSON have the classes in another order than `classes.txt`."""
    top, names = root / "food-101", ["apple_pie", "churros", "waffles"]
    write_lines(top / "meta" / "classes.txt", names)
    for number, part in enumerate(["train", "test"]):
        listed = {name: [f"{name}/{100 * number + i}" for i in range(4)] for name in (names[1], names[0], names[2])}
        for name, images in listed.items():
            for i, image in enumerate(images):
                paint(top / "images" / f"{image}.jpg", names.index(name), 100 * number + i)
        (top / "meta" / f"{part}.json").write_text(json.dumps(listed))


def make_pets(root: Path) -> None:
    top, names = root / "oxford-iiit-pet", ["Abyssinian", "american_bulldog", "Birman"]
    for part, num in (("trainval", 15), ("test", 6)):
        rows = [(f"{names[i % 3]}_{i + 100 * (part == 'test')}", i % 3 + 1) for i in range(num)]
        for i, (name, label) in enumerate(rows):
            paint(top / "images" / f"{name}.jpg", label, i + 100 * (part == "test"))
        write_lines(top / "annotations" / f"{part}.txt", [f"{name} {label} 1 1" for name, label in rows])


def make_sun397(root: Path) -> None:
    names = ["/a/abbey", "/a/apartment_building/outdoor", "/z/zoo"]
    write_lines(root / "Partitions" / "ClassName.txt", names)
    for number, part in enumerate(["Training", "Testing"]):
        images = [(f"{names[i % 3]}/sun_{part[:2]}{i}.jpg", i) for i in range(6)]
        for image, i in images:
            paint(root / "SUN397" / image[1:], i % 3, i + 100 * number)
        write_lines(root / "Partitions" / f"{part}_01.txt", [image for image, _ in images])


def voc_labels(num: int, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """1, 0 (difficult) and -1, [num, 20]; each class is shown by some of any eight images in a row, and not by others."""
    labels_NC = np.random.default_rng(seed).choice([1, 0, -1, -1], (num, len(VOC_CLASSES)))
    for c in range(len(VOC_CLASSES)):
        labels_NC[c % 4 :: 8, c], labels_NC[c % 4 + 4 :: 8, c] = 1, -1
    return labels_NC.astype(np.int64)


def make_voc2007(root: Path) -> None:
    top = root / "VOCdevkit" / "VOC2007"
    for number, part in enumerate(["train", "val", "test"]):
        labels_NC = voc_labels(24, number)
        names = [f"{1000 * number + i:06d}" for i in range(24)]
        for i, name in enumerate(names):
            paint(top / "JPEGImages" / f"{name}.jpg", int(labels_NC[i, 0]) + 1, i + 100 * number)
        for c, label in enumerate(VOC_CLASSES):
            rows = [f"{name} {labels_NC[i, c]:2d}" for i, name in enumerate(names)]
            write_lines(top / "ImageSets" / "Main" / f"{label}_{part}.txt", rows)


def make_cub(root: Path) -> None:
    top, names = root / "CUB_200_2011", ["001.Albatross", "002.Auklet", "003.Wren"]
    write_lines(top / "classes.txt", [f"{i + 1} {name}" for i, name in enumerate(names)])
    images = [f"{names[i % 3]}/{i}.jpg" for i in range(18)]
    for i, image in enumerate(images):
        paint(top / "images" / image, i % 3, i)
    write_lines(top / "images.txt", [f"{i + 1} {image}" for i, image in enumerate(images)])
    write_lines(top / "image_class_labels.txt", [f"{i + 1} {i % 3 + 1}" for i in range(18)])
    write_lines(top / "train_test_split.txt", [f"{i + 1} {int(i // 3 % 2 == 0)}" for i in range(18)])


MAKERS: Mapping[SetName, Callable[[Path], None]] = {
    "aircraft": make_aircraft,
    "caltech101": make_caltech101,
    "cars": make_cars,
    "cifar10": make_cifar10,
    "cifar100": make_cifar100,
    "dtd": make_dtd,
    "flowers102": make_flowers102,
    "food101": make_food101,
    "pets": make_pets,
    "sun397": make_sun397,
    "voc2007": make_voc2007,
    "cub": make_cub,
    "folders": lambda root: make_folders(root, {"train": 4, "val": 2}),
}
