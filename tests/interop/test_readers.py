"""Other Zarr readers get from a sealed store, bit for bit, what we get: zarr-python, zarrs, tensorstore, and zarrita over HTTP."""

import base64
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr
from static_server import StaticServer

from stillhouse.storage import layout
from stillhouse.storage.codecs import CODECS
from stillhouse.storage.seal import latest_seal
from stillhouse.storage.specs import TRAIN
from stillhouse.storage.store import Store
from stillhouse.storage.testing import StoreShape, make_store

RATES = {"ecsq": "ecsq:2", "klt": "klt:2", "pq": "pq:2", "opq": "opq:2", "rq": "rq:2"}
TEACHERS = {name: RATES.get(name, name) for name in CODECS}
Array = npt.NDArray[Any]
Read = Callable[[str], Array]
"""The whole array at a path of the store."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Every codec, a sample in quarantine, a block that is not full, one without features."""
    return make_store(tmp_path_factory.mktemp("interop") / "store", StoreShape(teachers=TEACHERS))


def arrays_of(store: Store) -> list[str]:
    """The path of every array that the seal names."""
    sealed = latest_seal(store.root)
    assert sealed is not None
    found = [entry.path.removesuffix("/zarr.json") for entry in sealed.objects if entry.path.endswith("/zarr.json")]
    return [path for path in found if json.loads((store.root / path / "zarr.json").read_text())["node_type"] == "array"]


def expected(store: Store, path: str) -> Array:
    """What we read of an array; rows that are not there hold the fill value."""
    metadata = json.loads((store.root / path / "zarr.json").read_text())
    match path.split("/"):
        case ["views", name]:
            whole = _filled(metadata)
            for view, block in _units(store):
                found = store.view_params(view, block) if name == "params" else store.view_hashes(view, block)
                whole[view, _rows(store, block)] = found
            return whole
        case ["features", teacher, level]:
            whole = _filled(metadata)
            stored = _stored(store, teacher, level)
            for view, block in _units(store):
                start = block * store.plan.block_samples
                whole[view, start + store.good_rows(block)] = stored(view, block)
            return whole
        case ["features", teacher, "codecs", level, name]:
            if name in ("mean", "std") and name not in store.codec(teacher, level).arrays():
                return dict(zip(("mean", "std"), store.statistics(teacher, level), strict=True))[name]
            return np.asarray(store.codec(teacher, level).arrays().get(name, store.statistics(teacher, level)[0]))
    raise AssertionError(path)


def _stored(store: Store, teacher: str, level: str) -> Callable[[int, int], Array]:
    """Codes as they lie on disk: those of an entropy coder are packed."""
    from stillhouse.storage.codecs import pack

    features, codec = store.features(teacher, level), store.codec(teacher, level)
    return lambda view, block: pack(codec, np.ascontiguousarray(features.read(view, block)))


def _filled(metadata: dict[str, Any]) -> Array:
    value = metadata["fill_value"]
    return np.full(metadata["shape"], np.nan if value == "NaN" else value, metadata["data_type"])


def _units(store: Store) -> Iterator[tuple[int, int]]:
    return ((view, block) for view in range(store.spec.num_views) for block in store.plan.blocks_of(TRAIN))


def _rows(store: Store, block: int) -> slice:
    start = block * store.plan.block_samples
    return slice(start, start + store.plan.blocks[block].num_rows)


def assert_bit_equal(found: Array, wanted: Array, path: str) -> None:
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype), path
    if found.dtype.kind == "f":  # a NaN is a NaN
        np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted), err_msg=path)
        found, wanted = np.nan_to_num(found), np.nan_to_num(wanted)
    assert np.ascontiguousarray(found).tobytes() == np.ascontiguousarray(wanted).tobytes(), path


def by_zarr_python(store: Store) -> Read:
    group = zarr.open_group(store.root, mode="r")
    return lambda path: np.asarray(group[path][...])  # type: ignore[index]


def by_zarrs(store: Store) -> Read:
    if find_spec("zarrs") is None:
        pytest.skip("zarrs is not installed: `pip install zarrs`")

    def read(path: str) -> Array:
        with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
            return np.asarray(zarr.open_array(store.root / path, mode="r")[...])

    return read


def by_tensorstore(store: Store) -> Read:
    if find_spec("tensorstore") is None:
        pytest.skip("tensorstore is not installed: `pip install tensorstore`")
    import tensorstore

    def read(path: str) -> Array:
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(store.root / path)}}
        return np.asarray(tensorstore.open(spec, read=True, open=True).result().read().result())

    return read


@pytest.mark.parametrize("reader", [by_zarr_python, by_zarrs, by_tensorstore], ids=lambda reader: reader.__name__)
class TestReader:
    def test_every_array_is_bit_equal(self, store: Store, reader: Callable[[Store], Read]) -> None:
        read, paths = reader(store), arrays_of(store)
        assert len(paths) > 2 + 2 * len(TEACHERS)
        for path in paths:
            assert_bit_equal(read(path), expected(store, path), path)

    def test_a_store_that_grew(self, tmp_path: Path, reader: Callable[[Store], Read]) -> None:
        """More views: what is not there yet is the fill value, what was there is as it was."""
        from stillhouse.storage.extent import extend
        from stillhouse.storage.growth import Growth, add_growth
        from stillhouse.storage.seal import seal

        grown = make_store(tmp_path / "store", StoreShape(teachers={"tiny": "fp16"}))
        before = {path: expected(grown, path) for path in arrays_of(grown)}
        assert add_growth(grown.root, 1, Growth(views=3))
        grown = Store.open(grown.root)
        extend(grown)
        seal(grown)
        read = reader(grown)
        for path in (layout.features_array("tiny", "patch"), "views/params", "views/hash"):
            found = read(path)
            assert found.shape[0] == 3
            assert_bit_equal(found[:2], before[path], path)


# --- JavaScript ------------------------------------------------------------------------------------------------------

SCRIPT = """
// node 24 has it; before, the bits will do
globalThis.Float16Array ??= class extends Uint16Array {
  fill(value) { return super.fill(Number.isNaN(value) ? 0x7e00 : value); }
};
const zarr = await import("zarrita");
const [url, ...paths] = process.argv.slice(2);
const root = zarr.root(new zarr.FetchStore(url));
for (const path of paths) {
  const array = await zarr.open(root.resolve(path), { kind: "array" });
  const { data, shape, stride } = await zarr.get(array);
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  console.log(JSON.stringify({ path, shape, stride, data: bytes.toString("base64") }));
}
"""


@pytest.fixture(scope="module")
def zarrita(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which node finds zarrita."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: on Debian `apt-get install nodejs npm`")
    folder = tmp_path_factory.mktemp("zarrita")
    (folder / "package.json").write_text('{"type": "module", "private": true}')
    install = ["npm", "install", "--no-audit", "--no-fund", "--cache", str(folder / "cache"), "zarrita@0.7.5"]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        pytest.skip(f"npm cannot install zarrita: {done.stderr.strip().splitlines()[-1:]}")
    (folder / "read.mjs").write_text(SCRIPT)
    return folder


def test_zarrita_over_http(store: Store, zarrita: Path) -> None:
    """A browser's reader, of a static server that lists nothing."""
    paths = arrays_of(store)
    with StaticServer(store.root) as server:
        command = ["node", "read.mjs", server.url, *(f"/{path}" for path in paths)]
        done = subprocess.run(command, cwd=zarrita, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["path"] for line in lines] == [f"/{path}" for path in paths]
    for line, path in zip(lines, paths, strict=True):
        wanted = expected(store, path)
        flat = np.frombuffer(base64.b64decode(line["data"]), wanted.dtype)
        stride = [wanted.dtype.itemsize * step for step in line["stride"]]
        found = np.lib.stride_tricks.as_strided(flat, line["shape"], stride)
        assert_bit_equal(found, wanted, path)
