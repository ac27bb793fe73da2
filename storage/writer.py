"""Writing units: the images of a block, one view of a block, a teacher's codecs, its features of one view of a block.

Each function stages the unit's objects, commits them and returns the record that won.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from . import layout
from .codecs import Codec, pack, stored_type
from .commit import Attempt
from .crc import crc32c, with_crc
from .images import TarLayout, tar_end
from .index import SampleRow, encode_index
from .records import Record
from .shards import fingerprint, shard_chunks
from .signed_json import canonical_json
from .specs import TeacherSpec
from .store import Store


class BlockSample:
    """One sample on its way into a block: its index row, and its encoded bytes unless it is in quarantine."""

    __slots__ = ("data", "row")

    def __init__(self, row: SampleRow, data: bytes | None) -> None:
        self.row, self.data = row, data


def commit_images(store: Store, block: int, samples: Iterable[BlockSample]) -> Record:
    """Write a block's tar and index from samples in row order; their offsets are filled in here."""
    rows: list[SampleRow] = []
    tar = TarLayout()
    prefix = block * store.plan.block_samples

    def chunks() -> Iterator[bytes]:
        for i, sample in enumerate(samples):
            row = sample.row
            if sample.data is not None:
                name = f"{prefix + i:012d}.{(row.format or 'bin').lower()}"
                offset, pieces = tar.member(name, sample.data)
                row = _placed(row, offset, sample.data)
                yield from pieces
                described = canonical_json({"key": row.key, "label": row.label})
                yield from tar.member(f"{prefix + i:012d}.json", described)[1]
            rows.append(row)
        yield tar_end()

    with Attempt(store.root, layout.images_unit(block)) as attempt:
        attempt.add(layout.images_path(block), chunks())
        attempt.add(layout.index_path(block), [encode_index(rows)])
        bad = [{"row": i, "key": r.key, "reason": r.reason} for i, r in enumerate(rows) if r.reason is not None]
        keys_sha256 = keys_digest(row.key for row in rows)
        return attempt.commit({"rows": len(rows), "quarantined": bad, "keys_sha256": keys_sha256})


def _placed(row: SampleRow, offset: int, data: bytes) -> SampleRow:
    values = {name: getattr(row, name) for name in SampleRow.__slots__}
    return SampleRow(**values | {"offset": offset, "length": len(data), "crc32c": crc32c(data)})


def keys_digest(keys: Iterable[str]) -> str:
    """sha256 of keys in order, each followed by a newline."""
    digest = hashlib.sha256()
    for key in keys:
        digest.update(key.encode() + b"\n")
    return digest.hexdigest()


def commit_view(
    store: Store, view: int, block: int, params_NP: npt.NDArray[np.int32], hash_N: npt.NDArray[np.uint64]
) -> Record:
    """Write the resolved parameters and pixel hashes of one view of a block.

    Args:
        params_NP: int32, one row per sample; rows of quarantined samples hold MISSING_PARAM.
        hash_N: uint64; MISSING_HASH for quarantined samples.
    """
    rows = store.plan.block_samples
    params = np.full((rows, params_NP.shape[1]), layout.MISSING_PARAM, "<i4")
    params[: len(params_NP)] = params_NP
    hashes = np.full(rows, layout.MISSING_HASH, "<u8")
    hashes[: len(hash_N)] = hash_N
    with Attempt(store.root, layout.views_unit(view, block)) as attempt:
        attempt.add(layout.params_chunk(view, block), [with_crc(params.tobytes())])
        attempt.add(layout.hash_chunk(view, block), [with_crc(hashes.tobytes())])
        return attempt.commit({"rows": len(params_NP)})


def commit_codecs(
    store: Store,
    teacher: TeacherSpec,
    codecs: Mapping[str, Codec],
    statistics: Mapping[str, Mapping[str, npt.NDArray[np.float32]]],
    facts: dict[str, Any],
) -> Record:
    """Write a teacher's fitted codecs and the metadata of its feature arrays.

    Args:
        statistics: per level arrays that stand beside the codec's own: `mean` and `std` of each channel.
    """
    described: dict[str, Any] = {}
    files: dict[str, bytes] = {}
    for folder in (f"features/{teacher.name}", f"features/{teacher.name}/codecs"):
        files[f"{folder}/zarr.json"] = canonical_json(layout.group_metadata())
    for level, codec in codecs.items():
        arrays = {name: np.ascontiguousarray(array, "<f4") for name, array in codec.arrays().items()}
        described[level] = {"codec": codec.name, "dim": codec.dim, "arrays": sorted(arrays)}
        group = layout.codec_group(teacher.name, level)
        attributes = {"codec": codec.name, "dim": codec.dim}
        files[f"{group}/zarr.json"] = canonical_json(layout.group_metadata(attributes))
        for name, array in (arrays | dict(statistics[level])).items():
            metadata = layout.array_metadata(
                shape=array.shape,
                chunk=array.shape,
                dtype="float32",
                fill_value="NaN",
                dimension_names=("channel",) if array.ndim == 1 else tuple(f"axis_{i}" for i in range(array.ndim)),
            )
            files[f"{group}/{name}/zarr.json"] = canonical_json(metadata)
            files[layout.codec_chunk(teacher.name, level, name, array.ndim)] = with_crc(
                np.ascontiguousarray(array, "<f4").tobytes()
            )
        array_path = layout.features_array(teacher.name, level)
        files[f"{array_path}/zarr.json"] = canonical_json(_features_metadata(store, teacher, level, codec))
    with Attempt(store.root, layout.codecs_unit(teacher.name)) as attempt:
        for path, data in files.items():
            attempt.add(path, [data])
        return attempt.commit({"levels": described, "teacher_sha256": store.teacher(teacher.name).sha256(), **facts})


def _features_metadata(store: Store, teacher: TeacherSpec, level: str, codec: Codec) -> dict[str, Any]:
    spec, code_type = teacher.levels[level], stored_type(codec)
    attributes = {
        "teacher": teacher.name,
        "level": level,
        "codec": codec.name,
        "codec_group": layout.codec_group(teacher.name, level),
        "grid": list(spec.grid) if spec.grid else None,
    }
    return layout.array_metadata(
        shape=(store.spec.num_views, store.plan.num_rows, spec.num_tokens, code_type.width),
        chunk=(1, store.plan.block_samples, spec.num_tokens, code_type.width),
        inner_chunk=(1, 1, spec.num_tokens, code_type.width),
        dtype=code_type.dtype,
        fill_value=code_type.fill_value,
        compressed=code_type.compressed,
        dimension_names=("view", "row", "token", "code"),
        attributes=attributes,
    )


def commit_features(
    store: Store,
    teacher: str,
    view: int,
    block: int,
    codes: Mapping[str, npt.NDArray[Any]],
    rows: npt.NDArray[np.int64],
    facts: dict[str, Any],
) -> Record:
    """Write the shards of every level of one view of a block.

    Args:
        codes: per level [len(rows), T, C].
        rows: row numbers inside the block that the codes belong to; other rows stay absent.
    """
    present = np.zeros(store.plan.block_samples, np.bool_)
    present[rows] = True
    in_order = np.argsort(rows)
    fingerprints = {}
    with Attempt(store.root, layout.features_unit(teacher, view, block)) as attempt:
        for level, codes_NTC in codes.items():
            codec = store.codec(teacher, level)
            stored, compressed = pack(codec, codes_NTC), stored_type(codec).compressed
            stored = stored.swapaxes(1, 2) if compressed else stored
            payload = np.ascontiguousarray(stored, stored.dtype.newbyteorder("<"))
            rows_NR = payload.reshape(len(rows), math.prod(payload.shape[1:])).view(np.uint8)
            if (np.diff(in_order) < 0).any():
                rows_NR = rows_NR[in_order]
            fingerprints[level] = fingerprint(rows_NR, present)
            attempt.add(
                layout.features_chunk(teacher, level, view, block), shard_chunks(rows_NR, present, zstd=compressed)
            )
        return attempt.commit({"rows": len(rows), "fingerprints": fingerprints, **facts})
