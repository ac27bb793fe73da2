"""An epoch of features and images from a bucket and over HTTP, cold and from the warm cache, against local disk and WebDataset.

`python benchmarks/remote.py --work DIR` makes a store of random numbers with the shape of ViT-S/16 patch tokens in fp16 and images
of 30 KB, serves it on loopback by nginx and by SeaweedFS (as the tests do: tests/servers), and reads whole epochs in shuffled windows
of blocks, fetching the next window ahead as training does. Cold: the cache is removed before. WebDataset streams the same samples,
tars of the block size with the tokens as .npy beside each image, from the same nginx, in file order; it verifies nothing.
"""

import hashlib
import io
import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from harness import Bars, alternate, parser, print_table, write_json
from stores import LEVEL, TEACHER, begin_store

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "servers"))
from nginx import Nginx, no_nginx
from seaweedfs import SeaweedFS, no_seaweedfs

from stillhouse.core.events import Reporter
from stillhouse.stage2_distill.order import epoch_windows
from stillhouse.storage.index import SampleRow
from stillhouse.storage.places.base import Access
from stillhouse.storage.remote.ahead import fetch_ahead
from stillhouse.storage.remote.opening import Reach, open_store
from stillhouse.storage.seal import seal
from stillhouse.storage.sharing.push import push
from stillhouse.storage.sharing.selection import Selection
from stillhouse.storage.store import Store
from stillhouse.storage.writer import BlockSample, commit_features, commit_images, commit_view, keys_digest

TOKENS, DIM = 197, 384
IMAGE_BYTES = 30_000
ROWS = 64
QUIET = Reporter(quiet=True)


def make_store(root: Path, blocks: int) -> Store:
    """Random codes and bytes, one view; the same block over and over but for its first token."""
    store = begin_store(root, blocks=blocks, block_rows=ROWS, views=1, tokens=TOKENS, dim=DIM, codec="fp16")
    random = np.random.Generator(np.random.PCG64(0))
    codes = random.standard_normal((ROWS, TOKENS, DIM), np.float32).astype(np.float16)
    images = [random.bytes(IMAGE_BYTES) for _ in range(ROWS)]
    assert store.plan.blocks[0].keys_sha256 == keys_digest(_key(row) for row in range(ROWS))
    for block in range(blocks):
        codes[:, 0, 0] = block
        rows = [_row(_key(row), data) for row, data in enumerate(images)]
        commit_images(store, block, [BlockSample(row, data) for row, data in zip(rows, images, strict=True)])
        commit_view(store, 0, block, np.zeros((ROWS, 14), np.int32), np.ones(ROWS, np.uint64))
        commit_features(store, TEACHER, 0, block, {LEVEL: codes}, np.arange(ROWS), {})
    seal(store)
    return store


def _key(row: int) -> str:
    return f"sample/{row:08d}.jpg"


def _row(key: str, data: bytes) -> SampleRow:
    return SampleRow(key, "a label", None, 1, 1, "jpg", 0, len(data), 0, hashlib.sha256(data).hexdigest(), 1)


def make_tars(store: Store, folder: Path) -> list[Path]:
    """The same samples for WebDataset."""
    folder.mkdir()
    found = []
    for block in range(len(store.plan.blocks)):
        found.append(folder / f"{block:06d}.tar")
        codes = store.features(TEACHER, LEVEL).read(0, block)
        with tarfile.open(found[-1], "w") as tar:
            for row in range(ROWS):
                tokens = io.BytesIO()
                np.save(tokens, codes[row])
                for name, data in (("jpg", store.image_bytes(block, row)), ("npy", tokens.getvalue())):
                    member = tarfile.TarInfo(f"{block:06d}{row:06d}.{name}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return found


def epoch(store: Store, number: int) -> int:
    """Read everything once, in the windows of an epoch; returns the samples."""
    blocks, done = store.plan.blocks_of("train"), 0
    windows = list(
        epoch_windows(blocks, store.good_rows, seed=0, epoch=number, window_blocks=4, views=(0,), most=10**9)
    )
    features = store.features(TEACHER, LEVEL)
    for place, window in enumerate(windows):
        for near in windows[place + 1 : place + 2] if place else windows[:2]:
            fetch_ahead(store, near.blocks, [0], {TEACHER: (LEVEL,)})
        codes = features.window(0, window.blocks)
        for start in range(0, len(window.pairs), ROWS):
            places = window.places[start : start + ROWS]
            done += len(codes.take(places))
        for block, row in window.pairs.tolist():
            store.image_bytes(block, row)
    return done


def stream(urls: list[str]) -> int:
    """What WebDataset gives of its tars."""
    done = 0
    for image, tokens in (
        webdataset.WebDataset(urls, shardshuffle=False).decode(only=["npy"], partial=True).to_tuple("jpg", "npy")
    ):
        done += len(image) > 0 and len(tokens) == TOKENS
    return done


def contestants(store: Store, work: Path, nginx: Nginx, bucket: Any) -> dict[str, Callable[[int], int]]:
    url = f"s3://{bucket.name}/store"
    over_http = Reach(cache=work / "cache-http")
    over_s3 = Reach(Access(endpoint=bucket.endpoint, region="us-east-1"), cache=work / "cache-s3")
    push(store.root, url, Selection(), over_s3, QUIET)
    places = {"http": (f"{nginx.url}/store", over_http), "s3": (url, over_s3)}
    tars = [f"{nginx.url}/tars/{path.name}" for path in make_tars(store, work / "served" / "tars")]

    def cold(where: str, reach: Reach, number: int) -> int:
        shutil.rmtree(reach.folder, ignore_errors=True)
        return epoch(open_store(where, reach, QUIET), number)

    found: dict[str, Callable[[int], int]] = {"local": lambda number: epoch(Store.open(store.root), number)}
    for name, (where, reach) in places.items():
        warm = Reach(reach.access, cache=work / f"warm-{name}")
        epoch(open_store(where, warm, QUIET), 0)
        found[f"{name} cold"] = lambda number, where=where, reach=reach: cold(where, reach, number)  # type: ignore[misc]
        found[f"{name} warm"] = lambda number, where=where, warm=warm: epoch(open_store(where, warm, QUIET), number)  # type: ignore[misc]
    return found | {"webdataset": lambda number: stream(tars)}


def main() -> None:
    options_of = parser(__doc__, quick="a small store, three rounds")
    options_of.add_argument("--work", type=Path, required=True, help="where the store and the caches go; made anew")
    options = options_of.parse_args()
    if why := no_nginx() or no_seaweedfs():
        raise SystemExit(why)
    shutil.rmtree(options.work, ignore_errors=True)
    blocks, num_rounds = (8, 3) if options.quick else (48, 9)
    store = make_store(options.work / "served" / "store", blocks)
    bars = Bars()
    with (
        Nginx(options.work / "served", options.work / "nginx") as nginx,
        SeaweedFS(options.work / "weed") as weed,
        weed.bucket() as bucket,
    ):
        os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"] = bucket.access_key, bucket.secret_key
        rounds = alternate(contestants(store, options.work, nginx, bucket), num_rounds)
    sample_mb = (TOKENS * DIM * 2 + IMAGE_BYTES) / 1e6
    table = {
        name: {
            "samples_per_s": rounds.median(name),
            "mb_per_s": rounds.median(name) * sample_mb,
            "of_local": rounds.ratio(name, "local"),
            "of_webdataset": rounds.ratio(name, "webdataset"),
        }
        for name in rounds.rates
    }
    print_table("an epoch: samples a second, MB a second, ratio to local disk, ratio to WebDataset over HTTP", table)
    for name in ("http", "s3"):
        bars.check(f"remote.{name}.warm_over_local", rounds.ratio(f"{name} warm", "local"), ">=", 0.9)
    bars.print()
    write_json(options.json, bars, {"an epoch": table})


if __name__ == "__main__":
    main()
