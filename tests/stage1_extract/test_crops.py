"""What the crops source draws, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest

from stillhouse.core.config import parse_config
from stillhouse.core.errors import DataError, UsageError
from stillhouse.stage1_extract.sources import CropsSource, open_source
from stillhouse.storage.decode import decode, encode_png


def refusal(config: CropsSource) -> str:
    with pytest.raises(DataError) as caught:
        open_source(config).items()
    return str(caught.value)


def test_a_crop_is_a_function_of_seed_and_key() -> None:
    few, many = (open_source(CropsSource(sklearn_samples=True, num=num)) for num in (10, 40))
    assert [item for item in many.items() if int(item.key[-8:]) < 10] == few.items()
    other = open_source(CropsSource(sklearn_samples=True, num=10, seed=1))
    assert all(a.locator[1:] != b.locator[1:] for a, b in zip(few.items(), other.items(), strict=True))


def test_boxes_lie_inside_and_span_the_sides() -> None:
    config = CropsSource(sklearn_samples=True, num=2000, min_side=40, max_side=320, label="none")
    boxes = np.array([item.locator[1:] for item in open_source(config).items()], dtype=int)
    assert boxes.min() >= 0 and (boxes[:, :2] + boxes[:, 2:] <= (640, 427)).all()
    sides = boxes[:, 2]
    assert 40 <= sides.min() < 45 and 300 < sides.max() <= 320
    assert [0.3 < share < 0.37 for share in ((sides < 80).mean(), (sides >= 160).mean())] == [True, True]


def test_one_large_picture(tmp_path: Path) -> None:
    """The single-image ablation: any number of crops, no two alike, the same in every reader, some as large as it."""
    photo_HWC = np.random.default_rng(1).integers(0, 256, (300, 500, 3), dtype=np.uint8)
    (tmp_path / "big.png").write_bytes(encode_png(photo_HWC))
    config = CropsSource(paths=(tmp_path / "big.png",), num=500, min_side=30, max_side=300, output_side=32)
    one, other = open_source(config), open_source(config)
    items = one.items()
    assert items == other.items()
    assert [item.locator for item in items[:2]] == [(0, 188, 251, 42), (0, 22, 41, 51)]
    assert len({one.read(item) for item in items}) == 500
    assert [one.read(item) for item in items[:5]] == [other.read(item) for item in items[:5]]
    photos, lefts, tops, sides = (
        np.array(column, dtype=int) for column in zip(*(i.locator for i in items), strict=True)
    )
    assert set(photos) == {0} and sides.max() > 290
    assert np.ptp(lefts[sides < 60]) > 400 and np.ptp(tops[sides < 60]) > 220  # from edge to edge


def test_own_photographs(tmp_path: Path) -> None:
    photo_HWC = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    (tmp_path / "me.png").write_bytes(encode_png(photo_HWC))
    config = CropsSource(paths=(tmp_path / "me.png",), num=3, min_side=50, max_side=50, output_side=50)
    source = open_source(config)
    for item in source.items():
        _, left, top, side = (int(part) for part in item.locator)
        assert (side, top, item.label) == (50, 0, "me")
        assert (np.asarray(decode(source.read(item))) == photo_HWC[:, left : left + 50]).all()
    text = refusal(CropsSource(paths=(tmp_path / "me.png",), num=3))
    assert "me.png has 70 x 50 pixels, crops of 384 do not fit; set max_side to at most 50" in text


def test_bad_photographs_and_settings(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("hello")
    assert f"{tmp_path}/a.jpg: bad image (not-an-image)" in refusal(CropsSource(paths=(tmp_path / "a.jpg",)))
    with pytest.raises(UsageError, match="give either `paths` or `sklearn_samples: true`"):
        parse_config(CropsSource, {}, where="config")
    with pytest.raises(UsageError, match="min_side is larger than max_side"):
        parse_config(CropsSource, {"sklearn_samples": True, "min_side": 9, "max_side": 8}, where="config")
