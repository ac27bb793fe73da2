"""Pixels of a training view: drawn again from the source image against decoded from the rendered view, on one core.

`python benchmarks/render.py` takes about a minute. The images are JPEGs of 500 x 375 pixels, the size of ImageNet's, cut out of
the two photographs that come with scikit-learn; the views are Proteus' at 224 pixels. Reading and the sums are part of both.
The table says too how far the rendered pixels are from the views, and what they take on disk.
"""

import io
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from harness import Bars, alternate, parser, print_table, write_json
from PIL import Image
from sklearn.datasets import load_sample_images

from stillhouse.core import rng
from stillhouse.core.events import Reporter
from stillhouse.stage1_extract.ingest import ingest
from stillhouse.stage1_extract.policies import ViewPolicyConfig
from stillhouse.stage1_extract.testing import tiny_ingest
from stillhouse.stage1_extract.units import drawn
from stillhouse.stage2_distill.render import render_views
from stillhouse.storage import layout
from stillhouse.storage.decode import decode
from stillhouse.storage.rendered import read_rendered
from stillhouse.storage.replay import replay
from stillhouse.storage.store import Store
from stillhouse.storage.views import render, view_hash
from stillhouse.storage.writer import commit_view

SIZE, QUIET = 224, Reporter(quiet=True)


def photographs(folder: Path, num: int) -> Path:
    """`num` different cuts of two photographs, each of 500 x 375 pixels."""
    whole = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    places = rng.uniform_words(0, 3 * num, "cuts").reshape(num, 3).tolist()
    folder.mkdir()
    for number, (left, top, scale) in enumerate(places):
        width = 480 + scale % 160
        height = width * 3 // 4
        source = whole[number % 2]
        left, top = left % (source.width - width + 1), top % max(1, source.height - height + 1)
        cut, data = (
            source.resize((500, 375), box=(left, top, left + width, min(top + height, source.height))),
            io.BytesIO(),
        )
        cut.save(data, "JPEG", quality=90)
        (folder / f"{number:04d}.jpg").write_bytes(data.getvalue())
    return folder


def viewed_store(folder: Path, num: int) -> Store:
    """A store of `num` photographs in one view, without a teacher."""
    policy = ViewPolicyConfig(policy="proteus", num=1, size=SIZE)
    ingest(folder / "store", tiny_ingest(photographs(folder / "images", num), block_samples=num), policy, QUIET)
    store = Store.open(folder / "store")
    params = drawn(store, policy, 0, 0)
    pixels = [render(decode(store.image_bytes(0, row)), params[row], SIZE) for row in range(num)]
    commit_view(store, 0, 0, params, np.array([view_hash(each) for each in pixels], np.uint64))
    return Store.open(store.root)


def main() -> None:
    options = parser(__doc__, quick="fewer images and rounds").parse_args()
    num, num_rounds = (32, 3) if options.quick else (256, 9)
    with TemporaryDirectory() as folder:
        store = viewed_store(Path(folder), num)
        rendering = render_views(store, QUIET)
        rows = range(num)

        def replayed(_: int) -> int:
            return len([replay(store, 0, 0, row) for row in rows])

        def rendered(_: int) -> int:
            return len([read_rendered(store, 0, 0, row) for row in rows])

        found = alternate({"replay": replayed, "rendered": rendered}, num_rounds)
        apart = np.stack([read_rendered(store, 0, 0, row).astype(int) - replay(store, 0, 0, row) for row in rows])
        source_bytes = store.entry(layout.images_unit(0), layout.images_path(0), "images").num_bytes
    table = {
        name: {"ms a view": 1e3 / found.median(name), "to replay": found.ratio(name, "replay")}
        for name in ("replay", "rendered")
    }
    table["replay"] |= {"KB a view": source_bytes / num / 1e3, "mean error of 255": 0.0}
    table["rendered"] |= {
        "KB a view": rendering.num_bytes / num / 1e3,
        "mean error of 255": float(np.abs(apart).mean()),
        "PSNR dB": float(20 * np.log10(255 / np.sqrt(np.square(apart).mean()))),
    }
    title = "views of 224 pixels, one core; replay reads source images of 500 x 375"
    print_table(f"{title}: {', '.join(table['rendered'])}", table)
    write_json(options.json, Bars(), {title: table})


if __name__ == "__main__":
    main()
