"""Where everything lives in a store: names and Zarr metadata. Pure functions, no disk.

Legend: V views, N rows (blocks x block_samples), T tokens, C codes a token, P view parameters.
"""

import re
from typing import Any

from stillhouse.core.errors import UsageError

FORMAT_VERSION = 1
LOG = "_log"
STAGE = "_stage"
SPEC = f"{LOG}/spec.json"
PLAN = f"{LOG}/plan.json"
ID = f"{LOG}/id.json"
CARD = "zarr.json"
"""The root's metadata, with a card for people."""
DROPPED = f"{LOG}/dropped"
ORIGIN = f"{LOG}/origin.json"
"""Which store this is a copy or a part of."""
UNITS = f"{LOG}/units"
SEALS = f"{LOG}/seal"
REDO = f"{LOG}/redo"
FORGOTTEN = f"{LOG}/forgotten"
GROWTHS = f"{LOG}/growths"

ZSTD_LEVEL = 1
MISSING_PARAM = -(2**31)
"""Reserved int32: no view parameter has this value."""
MISSING_HASH = 0
"""Reserved uint64: a hash that comes out as 0 is stored as 1."""

NAME = r"[a-z0-9][a-z0-9_.-]{0,63}"
_NAME = re.compile(NAME)


def check_name(name: str, what: str) -> str:
    """`name` if it can name a teacher or a run on disk, else UsageError."""
    if not _NAME.fullmatch(name) or ".." in name or name == "zarr.json":
        raise UsageError(f"{what} name {name!r}", hint="use 1-64 of a-z, 0-9, '_', '-', '.', starting with a-z or 0-9")
    return name


def block_name(block: int) -> str:
    return f"{block:06d}"


def images_path(block: int) -> str:
    return f"images/{block_name(block)}.tar"


def index_path(block: int) -> str:
    return f"index/{block_name(block)}.parquet"


def params_chunk(view: int, block: int) -> str:
    return f"views/params/c/{view}/{block}/0"


def hash_chunk(view: int, block: int) -> str:
    return f"views/hash/c/{view}/{block}"


def features_array(teacher: str, level: str) -> str:
    return f"features/{teacher}/{level}"


def features_chunk(teacher: str, level: str, view: int, block: int) -> str:
    return f"{features_array(teacher, level)}/c/{view}/{block}/0/0"


def codec_group(teacher: str, level: str) -> str:
    return f"features/{teacher}/codecs/{level}"


def codec_chunk(teacher: str, level: str, name: str, dimensions: int) -> str:
    """The one chunk of a codec's array."""
    return "/".join([codec_group(teacher, level), name, "c", *("0" * dimensions)])


def teacher_path(teacher: str) -> str:
    return f"{LOG}/teachers/{teacher}.json"


def record_path(unit: str) -> str:
    """The decision record of a unit of work."""
    return f"{UNITS}/{unit}.json"


def dropped_path(teacher: str) -> str:
    """The note that a teacher is no part of the store any more."""
    return f"{DROPPED}/{teacher}.json"


def redo_path(unit: str) -> str:
    """The note that a unit of work is to be made anew."""
    return f"{REDO}/{unit}.json"


def growth_path(number: int) -> str:
    """A document that says how the store grew."""
    return f"{GROWTHS}/{number:04d}.json"


def seal_path(generation: int) -> str:
    """A numbered statement of what the store is."""
    return f"{SEALS}/{generation:04d}.json"


def kept_path(path: str, sha256: str) -> str:
    """Where the zarr.json of an array stays as it was before the array grew."""
    return f"{FORGOTTEN}/{path.removesuffix('.json')}.{sha256[:12]}.json"


def staged_path(attempt: str, path: str) -> str:
    """Where an attempt has an object, by a flat name, until it is published."""
    return f"{STAGE}/{attempt}/{path.replace('/', '__')}"


def images_unit(block: int) -> str:
    return f"images/{block_name(block)}"


def views_unit(view: int, block: int) -> str:
    return f"views/{view:03d}/{block_name(block)}"


def features_unit(teacher: str, view: int, block: int) -> str:
    return f"features/{teacher}/{view:03d}/{block_name(block)}"


def codecs_unit(teacher: str) -> str:
    return f"codecs/{teacher}"


def unit_of(path: str) -> str | None:
    """The unit of work that an object belongs to by its path; None for what is no object."""
    match path.split("/"):
        case ["images" | "index", name] if re.fullmatch(r"\d{6,}\.(tar|parquet)", name):
            return images_unit(int(name.partition(".")[0]))
        case ["views", "params" | "hash", "c", view, block, *_] if view.isdecimal() and block.isdecimal():
            return views_unit(int(view), int(block))
        case ["views", "zarr.json"] | ["views", "params" | "hash", "zarr.json"] | ["features", "zarr.json"]:
            return "layout"
        case ["features", teacher, _, "c", view, block, "0", "0"] if view.isdecimal() and block.isdecimal():
            return features_unit(teacher, int(view), int(block))
        case ["features", teacher, *_, "zarr.json"] | ["features", teacher, "codecs", _, _, "c", *_]:
            return codecs_unit(teacher)
    return None


def group_metadata(
    attributes: dict[str, Any] | None = None, consolidated: dict[str, Any] | None = None
) -> dict[str, Any]:
    """zarr.json of a Zarr v3 group; with the metadata of all its members, readers need not list the folder."""
    metadata: dict[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": attributes or {}}
    if consolidated is not None:
        metadata["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": consolidated}
    return metadata


def array_metadata(
    *,
    shape: tuple[int, ...],
    chunk: tuple[int, ...],
    dtype: str,
    fill_value: float | str,
    dimension_names: tuple[str, ...],
    inner_chunk: tuple[int, ...] | None = None,
    compressed: bool = False,
    attributes: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """zarr.json of a Zarr v3 array whose every chunk carries a crc32c.

    With `inner_chunk` the array is sharded: `chunk` is the shard, and the shard index sits at the end of the file.
    With `compressed` the last two dimensions of each chunk change places and zstd follows, before its crc32c is taken.
    """
    endian = {} if dtype in ("int8", "uint8") else {"configuration": {"endian": "little"}}
    turned = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
    before = [{"name": "transpose", "configuration": {"order": turned}}] if compressed else []
    after = [{"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}}] if compressed else []
    bytes_and_crc = [*before, {"name": "bytes", **endian}, *after, {"name": "crc32c"}]
    index_codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    sharded = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": list(inner_chunk or ()),
            "codecs": bytes_and_crc,
            "index_codecs": index_codecs,
            "index_location": "end",
        },
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill_value,
        "codecs": [sharded] if inner_chunk else bytes_and_crc,
        "dimension_names": list(dimension_names),
        "attributes": attributes or {},
    }
