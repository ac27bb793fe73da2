"""Features of encoders on disk, so that a probe that is added later needs no pass of the encoder.

One subject is one small Zarr v3 group beside the scores, which any Zarr reader opens:

    <folder>/<name>/zarr.json               attributes: what the features are of, the arrays, the sha256 of every chunk
    <folder>/<name>/<array>/zarr.json       float32 [N, D]
    <folder>/<name>/<array>/c/<i>/0         some rows, then their crc32c

It is a cache: it may be deleted at any time, and whatever is wrong with it is told and made again.

Legend: N images, D width of a token.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stillhouse.core.errors import CorruptError, MissingError, ResourceError
from stillhouse.core.events import Reporter
from stillhouse.storage import layout
from stillhouse.storage.crc import with_crc, without_crc
from stillhouse.storage.disk import disk_errors, one_at_a_time, publish_folder, sync_folder, write_synced
from stillhouse.storage.room import require_room
from stillhouse.storage.signed_json import canonical_json, read_json

from .probe import FloatArray

CHUNK_BYTES = 64 << 20
"""Of an array, at most, in one chunk and so in one file."""

Arrays = Mapping[str, FloatArray]


class FeatureCache:
    """The features of any number of subjects below a folder; each name has those of one identity at a time."""

    def __init__(self, folder: Path, reporter: Reporter) -> None:
        self._folder, self._reporter = folder, reporter

    def get(self, name: str, identity: Mapping[str, Any], make: Callable[[], Arrays]) -> Arrays:
        """What `make` returned for this identity, float32 [N, D] by name; it is called when that is not known.

        Args:
            identity: all that decides the features, as plain JSON values.
        """
        try:
            kept = read_arrays(self._folder / name, identity)
        except CorruptError as error:
            self._reporter.say(f"eval {name}: {error.message}; its features are made again")
            kept = None
        if kept is not None:
            return kept
        made = make()
        self._keep(name, identity, made)
        return made

    def drop(self, name: str) -> None:
        """Forget a subject, if it is known."""
        shutil.rmtree(self._folder / name, ignore_errors=True)

    def _keep(self, name: str, identity: Mapping[str, Any], arrays: Arrays) -> None:
        try:
            require_room(self._folder, sum(array.nbytes for array in arrays.values()), "keeping the features")
        except ResourceError as error:
            self._reporter.say(f"eval {name}: {error.message}; they are not kept")
        else:
            write_arrays(self._folder / name, identity, arrays)


def write_arrays(folder: Path, identity: Mapping[str, Any], arrays: Arrays) -> None:
    """Write arrays float32 [N, D], N and D at least 1, as a Zarr group in the place of what is at `folder`."""
    staged = folder.with_name(f".{folder.name}.writing")
    with one_at_a_time(folder.parent), disk_errors(folder):
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        sha256: dict[str, str] = {}
        for name, array in arrays.items():
            (staged / name / "c").mkdir(parents=True)
            write_synced(staged / name / "zarr.json", [canonical_json(_metadata(array.shape))])
            for i, chunk in enumerate(_chunks(array)):
                place = staged / name / "c" / str(i)
                place.mkdir()
                _, sha256[f"{name}/c/{i}/0"] = write_synced(place / "0", [with_crc(chunk)])
                sync_folder(place)
            sync_folder(staged / name / "c")
            sync_folder(staged / name)
        shapes = {name: list(array.shape) for name, array in arrays.items()}
        attributes = _signed({"identity": dict(identity), "arrays": shapes, "sha256": sha256})
        write_synced(staged / "zarr.json", [canonical_json(layout.group_metadata(attributes))])
        shutil.rmtree(folder, ignore_errors=True)
        publish_folder(staged, folder)


def read_arrays(folder: Path, identity: Mapping[str, Any]) -> dict[str, FloatArray] | None:
    """What `write_arrays` was given; None when there is nothing of this identity.

    Raises:
        CorruptError: a file is gone, or is not the bytes that were written.
    """
    if not folder.exists():
        return None
    group = read_json(folder / "zarr.json")
    if group is None:
        raise MissingError(f"{folder / 'zarr.json'} is not there")
    attributes = dict(group.get("attributes") or {})
    body = {name: value for name, value in attributes.items() if name != "self_sha256"}
    if group != layout.group_metadata(_signed(body)):
        raise CorruptError(f"{folder / 'zarr.json'} is not what was written")
    if body["identity"] != identity:
        return None
    return {name: _read(folder, name, (num, dim), body["sha256"]) for name, (num, dim) in body["arrays"].items()}


def _read(folder: Path, name: str, shape: tuple[int, int], sha256: Mapping[str, str]) -> FloatArray:
    if read_json(folder / name / "zarr.json") != _metadata(shape):
        raise CorruptError(f"{folder / name / 'zarr.json'} is not what was written")
    rows, array = _chunk_rows(shape), np.empty(shape, np.float32)
    for i, start in enumerate(range(0, shape[0], rows)):
        path = folder / name / "c" / str(i) / "0"
        try:
            with disk_errors(path):
                data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise MissingError(f"{path} is not there") from None
        if hashlib.sha256(data).hexdigest() != sha256[f"{name}/c/{i}/0"]:
            raise CorruptError(f"{path} is not what was written")
        part = np.frombuffer(without_crc(data, str(path)), "<f4").reshape(rows, shape[1])
        array[start : start + rows] = part[: shape[0] - start]
    return array


def _chunk_rows(shape: tuple[int, ...]) -> int:
    return max(1, min(shape[0], CHUNK_BYTES // (4 * shape[1])))


def _chunks(array_ND: FloatArray) -> Iterator[bytes]:
    """The bytes of each chunk; Zarr has no shorter last one, so that ends in NaN."""
    rows = _chunk_rows(array_ND.shape)
    for start in range(0, len(array_ND), rows):
        chunk = np.full((rows, array_ND.shape[1]), np.nan, "<f4")
        part = array_ND[start : start + rows]
        chunk[: len(part)] = part
        yield chunk.tobytes()


def _metadata(shape: tuple[int, ...]) -> dict[str, Any]:
    return layout.array_metadata(
        shape=shape,
        chunk=(_chunk_rows(shape), shape[1]),
        dtype="float32",
        fill_value="NaN",
        dimension_names=("image", "channel"),
    )


def _signed(body: dict[str, Any]) -> dict[str, Any]:
    """Attributes with the sha256 of themselves among them."""
    return body | {"self_sha256": hashlib.sha256(canonical_json(body)).hexdigest()}
