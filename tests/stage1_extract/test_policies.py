"""Draws of views: golden rows, the distributions that the recipes define, and independence of everything else.

`python tests/stage1_extract/test_policies.py` writes the section "params" of tests/golden/views_v1.json anew. Do that
only before the format is released: a changed row means that a store cannot grow by the views it would have had.
"""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from stillhouse.core.config import parse_config
from stillhouse.core.errors import DataError, UsageError
from stillhouse.stage1_extract.policies import ViewPolicyConfig, draw, draw_many
from stillhouse.storage.views import FIELDS, check_params, render

GOLDEN = Path(__file__).parents[1] / "golden" / "views_v1.json"
NUM_DRAWS = 2000


def config(policy: str = "proteus", **fields: Any) -> ViewPolicyConfig:
    return parse_config(ViewPolicyConfig, {"policy": policy, "seed": 7, **fields}, where="test")


def drawn(policy_config: ViewPolicyConfig, width: int, height: int, num: int = NUM_DRAWS) -> dict[str, NDArray[Any]]:
    rows = draw_many(policy_config, [f"n{i:05d}/img.jpg" for i in range(num)], [(width, height)] * num, 0)
    check_params(rows, np.array([[width, height]] * num), size=policy_config.size)
    return dict(zip(FIELDS, rows.T.astype(float), strict=True))


def distance(sample: NDArray[Any], other: NDArray[Any]) -> float:
    """Of two samples, by Kolmogorov and Smirnov."""
    at = np.concatenate([sample, other])
    shares = [np.searchsorted(np.sort(values), at, side="right") / len(values) for values in (sample, other)]
    return float(np.abs(shares[0] - shares[1]).max())


GOLDEN_CASES: tuple[dict[str, Any], ...] = (
    {"policy": "center", "num": 1, "key": "a.jpg", "width": 500, "height": 375, "view": 0},
    {"policy": "center", "num": 1, "key": "a.jpg", "width": 1, "height": 9, "view": 0},
    {"policy": "crop_flip", "key": "a.jpg", "width": 500, "height": 375, "view": 0},
    {"policy": "crop_flip", "key": "a.jpg", "width": 500, "height": 375, "view": 4},
    {"policy": "crop_flip", "key": "a.jpg", "width": 3000, "height": 7, "view": 1},
    {"policy": "crop_flip", "key": "a.jpg", "width": 7, "height": 3000, "view": 1, "scale": [0.5, 0.9]},
    {"policy": "proteus", "key": "a.jpg", "width": 500, "height": 375, "view": 0},
    {"policy": "proteus", "key": "a.jpg", "width": 500, "height": 375, "view": 1, "erase": 1.0},
    {"policy": "proteus", "key": "n01440764/été 1.JPEG", "width": 224, "height": 224, "view": 2},
    {"policy": "proteus", "key": "n01440764/été 1.JPEG", "width": 6000, "height": 4000, "view": 3, "seed": 2**64 - 1},
    {"policy": "proteus", "key": "x", "width": 333, "height": 500, "view": 4, "size": 518, "erase": 1.0},
    {"policy": "proteus", "key": "x", "width": 1, "height": 1, "view": 0, "size": 14, "ratio": [0.5, 2], "flip": 1.0},
)


def golden_row(case: dict[str, Any]) -> str:
    """The integers of one view in the order of `FIELDS`, as text so that a row is a line."""
    fields = dict(case)
    key, width, height, view = (fields.pop(name) for name in ("key", "width", "height", "view"))
    return " ".join(map(str, draw(config(**fields), key, width, height, view)))


def test_golden_rows() -> None:
    golden = json.loads(GOLDEN.read_text())["params"]
    assert [{**case, "row": golden_row(case)} for case in GOLDEN_CASES] == golden


def test_crop_areas_are_uniform() -> None:
    """Squares of a large square image always fit, so nothing but the area's own draw shapes them."""
    columns = drawn(config("crop_flip", ratio=[1, 1]), 4000, 4000)
    areas = columns["crop_w"] * columns["crop_h"] / 4000**2
    assert 0.0799 < areas.min() and areas.max() <= 1
    assert distance(areas, np.linspace(0.08, 1, 100_000)) < 0.036  # p = 0.01
    slack = 4000 - columns["crop_w"]
    for position in (columns["crop_x"], columns["crop_y"]):
        assert distance((position + 0.5) / (slack + 1), np.linspace(0, 1, 100_000)) < 0.036


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (800, 400)])
def test_crops_are_distributed_as_torchvisions(size: tuple[int, int]) -> None:
    width, height = size
    columns = drawn(config("crop_flip"), width, height)
    torch.manual_seed(0)
    image = torch.zeros(1, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(NUM_DRAWS)])
    y, x, h, w = theirs.T.astype(float)
    ours = (columns["crop_y"], columns["crop_x"], columns["crop_h"], columns["crop_w"])
    for mine, other in (*zip(ours, (y, x, h, w), strict=True), (ours[2] * ours[3], h * w), (ours[3] / ours[2], w / h)):
        assert distance(mine, other) < 0.062  # p = 0.001 for two samples of 2,000
    aspect = columns["crop_w"] / columns["crop_h"]
    assert 0.74 < aspect.min() < 0.78 and 1.28 < aspect.max() < 1.35


def test_a_crop_that_never_fits_falls_back_as_torchvisions_does() -> None:
    """The largest central box of an allowed aspect."""
    for width, height in ((3000, 7), (7, 3000), (1, 5), (900, 100), (100, 901)):
        theirs = RandomResizedCrop.get_params(torch.zeros(1, height, width), [1.0, 1.0], [3 / 4, 4 / 3])
        x, y, w, h = draw(config("crop_flip", scale=[1.0, 1.0]), "key", width, height, 0)[:4].tolist()
        assert (y, x, h, w) == theirs


def test_mirrors_and_erased_boxes() -> None:
    """Mirror rate 0.5; erase rate 0.25, area 0.02 … 1/3, height / width 0.3 … 1/0.3, anywhere inside."""
    columns = drawn(config("proteus"), 500, 375)
    assert abs(columns["flip"].mean() - 0.5) < 0.04
    erased = columns["erase_w"] > 0
    assert abs(erased.mean() - 0.25) < 0.035
    always = drawn(config("proteus", erase=1), 500, 375)
    w, h = always["erase_w"], always["erase_h"]
    assert (w > 0).mean() > 0.999
    # Against timm's definition, with the box refused unless it is smaller than the view on both sides.
    rng = random.Random(0)
    expected: list[tuple[int, int]] = []
    while len(expected) < NUM_DRAWS:
        area, aspect = rng.uniform(0.02, 1 / 3) * 224**2, np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3)))
        box = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if max(box) < 224:
            expected.append(box)
    heights, widths = np.array(expected, float).T
    assert distance(w * h, widths * heights) < 0.062
    assert distance(h / w, heights / widths) < 0.062
    for position, extent in ((always["erase_x"], w), (always["erase_y"], h)):
        assert distance((position + 0.5) / (224 - extent + 1), np.linspace(0, 1, 100_000)) < 0.036
    assert len(np.unique(always["erase_seed"])) > NUM_DRAWS - 3


def test_probabilities_zero_and_one_are_certain() -> None:
    for sure in (0, 1):
        columns = drawn(config("proteus", flip=sure, erase=sure), 64, 64, 200)
        assert (columns["flip"] == sure).all() and ((columns["erase_w"] > 0) == sure).all()


def test_center_is_seven_eighths() -> None:
    assert draw(config("center", num=1), "key", 512, 640, 0).tolist() == [32, 96, 448, 448] + [0] * 10
    assert draw(config("center", num=1, size=14), "key", 1, 3, 0)[:4].tolist() == [0, 1, 1, 1]


def test_policies_share_their_common_draws() -> None:
    plain, full = (draw(config(policy), "key", 500, 375, 3)[:5].tolist() for policy in ("crop_flip", "proteus"))
    assert plain == full


def test_a_draw_depends_on_nothing_but_its_own_name() -> None:
    """Neither on order, threads, other samples and views, nor on how many views there are."""
    keys, sizes = [f"k{i}" for i in range(40)], [(100 + i, 300 - i) for i in range(40)]
    once = {view: draw_many(config(), keys, sizes, view) for view in range(5)}
    jobs = [(view, i) for view in range(5) for i in range(40)]
    random.Random(1).shuffle(jobs)

    def alone(job: tuple[int, int]) -> NDArray[np.int32]:
        view, i = job
        return draw(config(num=50), keys[i], sizes[i][0], sizes[i][1], view)

    with ThreadPoolExecutor(8) as pool:
        for (view, i), row in zip(jobs, pool.map(alone, jobs), strict=True):
            np.testing.assert_array_equal(row, once[view][i])
    assert len({row.tobytes() for rows in once.values() for row in rows}) == 200
    other_seed = draw_many(config(seed=8), keys, sizes, 0)
    assert not (other_seed == once[0]).all(axis=1).any()


def test_keys_are_compared_in_nfc() -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    np.testing.assert_array_equal(draw(config(), composed, 90, 90, 0), draw(config(), decomposed, 90, 90, 0))


@settings(max_examples=150, deadline=None)
@given(
    policy=st.sampled_from(["center", "crop_flip", "proteus"]),
    width=st.one_of(st.integers(1, 40), st.integers(1, 3000)),
    height=st.one_of(st.integers(1, 9), st.integers(1, 300)),
    size=st.integers(1, 40),
    seed=st.integers(0, 2**64 - 1),
    key=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
def test_every_draw_is_accepted_and_renders(
    policy: str, width: int, height: int, size: int, seed: int, key: str
) -> None:
    num = 1 if policy == "center" else 3
    params = draw(config(policy, num=num, size=size, seed=seed, erase=0.9), key, width, height, num - 1)
    assert params.dtype == np.int32 and params.shape == (len(FIELDS),)
    check_params(params[None], np.array([[width, height]]), size=size)
    view = render(Image.new("RGB", (width, height), (10, 200, 30)), params, size)
    assert view.dtype == np.uint8 and view.shape == (size, size, 3)


@pytest.mark.parametrize("size", [(1, 1), (3000, 7), (7, 3000), (2, 1)])
def test_extreme_images_have_views(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (10, 200, 30))
    for view in range(20):
        params = draw(config(num=50, size=32), "key", size[0], size[1], view)
        assert render(image, params, 32).shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"policy": "center", "num": 5}, "policy 'center' gives every view the same pixels, so 5 views.*set num to 1"),
        ({"num": 51}, "num"),
        ({"num": 0}, "num"),
        ({"scale": [0.0, 1.0]}, "scale must hold"),
        ({"scale": [0.5, 0.2]}, "scale must hold"),
        ({"scale": [0.5, 1.2]}, "scale must hold"),
        ({"ratio": ["4/3", "3/4"]}, "ratio must hold"),
        ({"ratio": ["0", "3/4"]}, "ratio must hold"),
        ({"ratio": ["wide", 1]}, "ratio.*a number or a fraction such as 3/4"),
        ({"ratio": ["1/0", 1]}, "ratio.*a number or a fraction such as 3/4"),
        ({"flip": 1.5}, "flip"),
        ({"erase": float("nan")}, "erase"),
        ({"seed": 2**64}, "seed"),
        ({"policy": "random"}, "policy"),
        ({"sizes": 4}, "did you mean 'size'"),
    ],
)
def test_bad_configs_are_explained(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_config(ViewPolicyConfig, fields, where="views")


def test_numbers_are_read_as_written() -> None:
    assert config(ratio=[0.75, "4/3"]).ratio == (0.75, "4/3")
    assert Fraction(str(config(scale=[0.1, 1]).scale[0])) == Fraction(1, 10)
    quoted, plain = (draw(config(ratio=ratio), "key", 90, 60, 0) for ratio in (["1/2", "2"], [0.5, 2]))
    np.testing.assert_array_equal(quoted, plain)


def test_views_and_images_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match=r"view 5 of a policy with 5 views; ask for 0\.\.4"):
        draw(config(), "key", 10, 10, 5)
    with pytest.raises(DataError, match="sample 'key': an image of 0x10 pixels"):
        draw(config(), "key", 0, 10, 0)


def write_golden() -> None:
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    golden["params"] = [{**case, "row": golden_row(case)} for case in GOLDEN_CASES]
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    write_golden()
