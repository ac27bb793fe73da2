"""Published transforms by their definition, and what is missing of a data set."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stillhouse.core.errors import DataError, MissingError
from stillhouse.eval.tasks.encode import Transform
from stillhouse.eval.tasks.files import files_sha256, read_image, require, require_files


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (224, 224), (501, 333), (64, 40)])
def test_the_shorter_side_is_resized_and_the_middle_cut(size: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8))
    short = min(size)
    wide = (int(256 * size[0] / short), int(256 * size[1] / short))
    whole = np.asarray(image.resize(wide, Image.Resampling.BICUBIC))
    top, left = round((wide[1] - 224) / 2), round((wide[0] - 224) / 2)
    assert np.array_equal(Transform(256, 224).pixels(image), whole[top : top + 224, left : left + 224])


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(MissingError, match=r"a/b is not there: set needs .*a/b/c"):
        require(tmp_path, "a", "b", "c", what="set")
    (tmp_path / "a" / "1.jpg").write_bytes(b"1")
    with pytest.raises(MissingError, match=r"2 of 3 files of set are not there; the first is .*a/2\.jpg"):
        require_files(tmp_path / "a", ["1.jpg", "2.jpg", "3.jpg"], "set")
    with pytest.raises(DataError, match=r"1\.jpg: "):
        read_image(tmp_path / "a" / "1.jpg")


def test_a_data_set_is_known_by_names_and_sizes(tmp_path: Path) -> None:
    path = tmp_path / "1.jpg"
    path.write_bytes(b"1")
    before = files_sha256(tmp_path, [path])
    assert files_sha256(tmp_path, [path]) == before
    path.write_bytes(b"12")
    assert files_sha256(tmp_path, [path]) != before
