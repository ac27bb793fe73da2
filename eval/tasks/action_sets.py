"""Clips on disk as folders of frames.

A folder of your own:

    train/<class>/<clip>/*.jpg
    val/<class>/<clip>/*.jpg

UCF101 with its official lists, each clip's frames in a folder of the clip's name where its .avi was unpacked:

    ucfTrainTestlist/trainlist01.txt     lines such as `Archery/v_Archery_g08_c01.avi 3`
    ucfTrainTestlist/testlist01.txt      the same without numbers
    UCF-101/Archery/v_Archery_g08_c01/*.jpg
"""

import re
from dataclasses import dataclass
from pathlib import Path

from stillhouse.core.errors import DataError, MissingError

from .files import require
from .folders import folders_in, images_in

_LINE = re.compile(r"([\w-]+)/([\w-]+)\.avi(?: \d+)?")


@dataclass(frozen=True, slots=True)
class Clip:
    """A class, a name that is unique within it, and the frames in the order of time."""

    label: str
    name: str
    frames: tuple[Path, ...]

    def evenly(self, num: int) -> list[Path]:
        """The middle frames of `num` equal parts; all of them where there are no more."""
        total = len(self.frames)
        return [self.frames[(2 * i + 1) * total // (2 * num)] for i in range(num)] if total > num else list(self.frames)

    def key(self, frame: Path) -> str:
        """`<class>/<clip>/<frame>`."""
        return f"{self.label}/{self.name}/{frame.name}"


@dataclass(frozen=True, slots=True)
class Split:
    """What a probe is fitted on, and what it is judged on."""

    train: tuple[Clip, ...]
    val: tuple[Clip, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, sorted; their places are the class numbers."""
        return tuple(sorted({clip.label for clip in self.train}))


def read_folders(root: Path) -> Split:
    """Folders `train` and `val`.

    Raises:
        MissingError: a folder is not there or empty; names it.
        DataError: a class of `val` has no clip in `train`.
    """
    train, val = (_clips(require(root, part, what="a set of clips with train/ and val/")) for part in ("train", "val"))
    return _checked(Split(train, val), root)


def read_ucf101(root: Path, number: int) -> Split:
    """One of the three official splits of UCF101.

    Raises:
        MissingError: a list, or the frames of clips in it, are not there; says how many and names the first.
        DataError: a line of a list is none.
    """
    train, val = (_listed(root, f"{part}list{number:02d}.txt") for part in ("train", "test"))
    return _checked(Split(train, val), root)


def _clips(folder: Path) -> tuple[Clip, ...]:
    labels = folders_in(folder, "clips lie in folders named for their class")
    return tuple(
        Clip(label.name, clip.name, tuple(images_in(clip)))
        for label in labels
        for clip in folders_in(label, "each clip is a folder of frames")
    )


def _listed(root: Path, name: str) -> tuple[Clip, ...]:
    path = require(root, "ucfTrainTestlist", name, what="UCF101 with its official lists")
    names: list[tuple[str, str]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise DataError(f"{path}:{number}: {line!r:.80} is no line such as 'Archery/v_Archery_g08_c01.avi 3'")
        names.append((match[1], match[2]))
    folders = [root / "UCF-101" / label / clip for label, clip in names]
    lost = [folder for folder in folders if not folder.is_dir()]
    if lost or not names:
        message = f"frames of {len(lost):,} of {len(names):,} clips of {path} are not there"
        if not lost:
            raise MissingError(f"{path} names no clip", hint="unpack the lists again")
        what = "unpack the whole data set"
        if lost[0].with_suffix(".avi").is_file():
            what = f"make them, as by `ffmpeg -i {lost[0].name}.avi {lost[0].name}/%06d.jpg`"
        raise MissingError(f"{message}; the first are expected in {lost[0]}", hint=what)
    return tuple(
        Clip(label, clip, tuple(images_in(folder))) for (label, clip), folder in zip(names, folders, strict=True)
    )


def _checked(split: Split, root: Path) -> Split:
    if others := sorted({clip.label for clip in split.val} - set(split.classes)):
        message = f"{root}: class {others[0]!r} has clips to judge on and none to fit on"
        raise DataError(message, hint="name the folders of a class alike in both parts")
    return split
