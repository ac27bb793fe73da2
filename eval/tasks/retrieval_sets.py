"""Instance retrieval on disk: revisited Oxford and Paris, and plain folders.

roxford5k and rparis6k, as the official scripts lay them out (Radenović et al., CVPR 2018):

    gnd_roxford5k.pkl     or the same as gnd_roxford5k.json: names of images, and for each query a box and lists of rows
    jpg/<name>.jpg        queries and database

A folder of your own:

    queries/<instance>/*.jpg
    database/<instance>/*.jpg     instances without a query are distractors
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stillhouse.core.errors import DataError, MissingError
from stillhouse.storage.foreign import parse_json, read_capped

from ..probe import IntArray
from .files import require, require_files
from .folders import folders_in, images_in
from .plain_pickle import MAX_BYTES, read_plain_pickle

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""
Difficulty = Literal["easy", "medium", "hard"]
ALL = "all"
"""What a set without difficulties calls its only one."""

POSITIVES: Mapping[Difficulty, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
"""Which lists of the ground truth are positives, and which are taken out of the ranking (Radenović et al., §2.3)."""


@dataclass(frozen=True, eq=False, slots=True)
class Query:
    """An image, the part of it that is asked for, and rows of the database by difficulty: (positives, junk)."""

    path: Path
    box: Box | None
    judged: Mapping[str, tuple[IntArray, IntArray]]


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """The queries, and the images among which they are looked for."""

    queries: tuple[Query, ...]
    database: tuple[Path, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """Every image, once."""
        return tuple(sorted({*self.database, *(query.path for query in self.queries)}))


def read_revisited(root: Path, name: str) -> RetrievalSet:
    """`roxford5k` or `rparis6k` in its official layout.

    Raises:
        MissingError: the folder, the ground truth or an image is not there; names it.
        DataError: the ground truth is not what it should be.
    """
    require(root, "jpg", what=f"{name} with its images in jpg/ and")
    where, truth = _ground_truth(root, name)
    queries, database = (_names(truth.get(key), key, where) for key in ("qimlist", "imlist"))
    found = truth.get("gnd")
    if not isinstance(found, list) or len(found) != len(queries):
        raise DataError(f"{where}: `gnd` is not a list of {len(queries)}, one for each of `qimlist`")
    files = require_files(root / "jpg", [f"{each}.jpg" for each in (*queries, *database)], name)
    asked, shown = files[: len(queries)], files[len(queries) :]
    judged = [_query(path, entry, len(database), where) for path, entry in zip(asked, found, strict=True)]
    return RetrievalSet(tuple(judged), tuple(shown))


def read_instances(root: Path) -> RetrievalSet:
    """A folder of queries and one of the database, an instance a folder in each.

    Raises:
        MissingError: a folder is not there, or has no image.
        DataError: no query has an image of its instance in the database.
    """
    found = {}
    for part in ("queries", "database"):
        folder = require(root, part, what="a retrieval set with queries/ and database/")
        instances = folders_in(folder, "an image lies in a folder named for what it shows")
        found[part] = [path for instance in instances for path in images_in(instance)]
    shown_N = np.array([path.parent.name for path in found["database"]])
    none = np.zeros(0, np.int64)
    queries = tuple(
        Query(path, None, {ALL: (np.flatnonzero(shown_N == path.parent.name), none)}) for path in found["queries"]
    )
    if not any(len(query.judged[ALL][0]) for query in queries):
        names = sorted({path.parent.name for path in found["queries"]})
        message = f"none of the {len(names)} instances of {root / 'queries'} is in {root / 'database'}"
        raise DataError(f"{message}; the first is {names[0]!r}", hint="name the folders of an instance alike in both")
    return RetrievalSet(queries, tuple(found["database"]))


def _ground_truth(root: Path, name: str) -> tuple[Path, Mapping[str, Any]]:
    pickled, plain = root / f"gnd_{name}.pkl", root / f"gnd_{name}.json"
    if plain.exists():
        data = read_capped(plain, MAX_BYTES)
        where, truth = plain, parse_json(data or b"", str(plain), hint="give it as the official file has it")
    elif pickled.exists():
        where, truth = pickled, read_plain_pickle(pickled)
    else:
        message = f"neither {pickled} nor {plain} is there: {name} needs its ground truth"
        raise MissingError(message, hint="copy it into the folder, or correct `path`")
    if not isinstance(truth, dict):
        raise DataError(f"{where} holds a {type(truth).__name__}, no mapping of imlist, qimlist and gnd")
    return where, truth


def _names(value: Any, key: str, where: Path) -> list[str]:
    """Names of images: one part of a path each, so that none leads out of the folder."""
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: {key!r} is not a list of names")
    for name in value:
        if not isinstance(name, str) or not name or "/" in name or "\\" in name or "\0" in name:
            raise DataError(f"{where}: {key!r} has {name!r:.80}, which is no name of an image")
    return value


def _query(path: Path, entry: Any, num_database: int, where: Path) -> Query:
    if not isinstance(entry, dict):
        raise DataError(f"{where}: what `gnd` says of {path.stem} is a {type(entry).__name__}, no mapping")
    lists = {key: _rows(entry.get(key), num_database, f"{where}: {key!r} of {path.stem}") for key in _LISTS}
    judged: dict[str, tuple[IntArray, IntArray]] = {
        difficulty: (_joined(lists, positives), _joined(lists, junk))
        for difficulty, (positives, junk) in POSITIVES.items()
    }
    return Query(path, _box(entry.get("bbx"), f"{where}: 'bbx' of {path.stem}"), judged)


_LISTS = ("easy", "hard", "junk")


def _joined(lists: Mapping[str, IntArray], names: Sequence[str]) -> IntArray:
    return np.unique(np.concatenate([lists[name] for name in names]))


def _rows(value: Any, num: int, what: str) -> IntArray:
    rows = np.asarray(value if value is not None else "", dtype=object).ravel()
    if value is None or not all(isinstance(row, int | np.integer) and 0 <= row < num for row in rows):
        raise DataError(f"{what} is not a list of rows of the database, 0 to {num - 1}")
    return rows.astype(np.int64)


def _box(value: Any, what: str) -> Box:
    try:
        left, top, right, bottom = map(float, value)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} is not a box of four numbers") from error
    if not (left < right and top < bottom):
        raise DataError(f"{what} is an empty box: {value!r:.80}")
    return left, top, right, bottom
