"""Rendered views: what is written is read, and nothing else passes for it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stillhouse.core.errors import CorruptError, MissingError
from stillhouse.storage.rendered import (
    encode_jpeg,
    is_rendered,
    read_rendered,
    rendered_folder,
    require_rendered,
    write_rendered,
)
from stillhouse.storage.replay import replay
from stillhouse.storage.signed_json import signed_json
from stillhouse.storage.store import Store

VIEW, BLOCK = 1, 0


@pytest.fixture
def rendered(copy_store: Callable[[], Store]) -> Store:
    """A store of which one block of one view is rendered."""
    store = copy_store()
    rows = store.good_rows(BLOCK).tolist()
    write_rendered(store, VIEW, BLOCK, [(row, encode_jpeg(replay(store, VIEW, BLOCK, row))) for row in rows])
    return Store.open(store.root)


def files(store: Store) -> tuple[Path, Path]:
    folder = rendered_folder(store.root) / "001"
    return folder / "000000.tar", folder / "000000.json"


def test_a_rendered_view_is_the_view_but_for_what_jpeg_loses(rendered: Store) -> None:
    for row in rendered.good_rows(BLOCK).tolist():
        found, whole = read_rendered(rendered, VIEW, BLOCK, row), replay(rendered, VIEW, BLOCK, row)
        assert found.shape == whole.shape == (32, 32, 3) and found.dtype == np.uint8
        assert 0 < np.abs(found.astype(int) - whole).mean() < 4


def test_the_folder_lies_beside_the_store_and_webdataset_could_read_its_tars(rendered: Store) -> None:
    import tarfile

    assert rendered_folder(rendered.root) == rendered.root.parent / "store.rendered"
    with tarfile.open(files(rendered)[0]) as tar:
        assert [member.name for member in tar] == [f"{row:06d}.jpg" for row in rendered.good_rows(BLOCK)]


def test_what_is_not_rendered_is_named(rendered: Store) -> None:
    assert is_rendered(rendered, VIEW, BLOCK) and not is_rendered(rendered, 0, BLOCK)
    with pytest.raises(MissingError, match=r"000/000000\.tar are not there, or of another store"):
        read_rendered(rendered, 0, BLOCK, 0)
    with pytest.raises(MissingError, match=r"3 of 4 blocks of rendered views are not in .*store\.rendered") as caught:
        require_rendered(rendered, [BLOCK, 1])
    assert caught.value.hint == "run `stillhouse render`"


def test_a_row_in_quarantine_is_not_there(copy_store: Callable[[], Store]) -> None:
    store = copy_store()
    write_rendered(store, VIEW, BLOCK, [(0, encode_jpeg(replay(store, VIEW, BLOCK, 0)))])
    with pytest.raises(MissingError, match="has no row 1"):
        read_rendered(store, VIEW, BLOCK, 1)


def test_views_of_another_store_are_not_taken(rendered: Store) -> None:
    body = json.loads(files(rendered)[1].read_text())
    del body["self_sha256"]
    files(rendered)[1].write_bytes(signed_json(body | {"of": "0" * 64}))
    assert not is_rendered(rendered, VIEW, BLOCK)
    with pytest.raises(MissingError, match="or of another store"):
        read_rendered(rendered, VIEW, BLOCK, 0)


@pytest.mark.parametrize("cut", [False, True])
def test_a_damaged_tar_is_an_error_that_says_what_to_do(rendered: Store, cut: bool) -> None:
    tar, index = files(rendered)
    data = bytearray(tar.read_bytes())
    data[600] ^= 1
    tar.write_bytes(data[:-512] if cut else data)
    with pytest.raises(CorruptError) as caught:
        read_rendered(rendered, VIEW, BLOCK, 0)
    assert caught.value.hint == f"delete {index} and run `stillhouse render` again"
    assert is_rendered(rendered, VIEW, BLOCK) is not cut


def test_a_damaged_index_counts_as_not_rendered(rendered: Store) -> None:
    index = files(rendered)[1]
    index.write_bytes(index.read_bytes().replace(b"[", b"{", 1))
    assert not is_rendered(rendered, VIEW, BLOCK)
    with pytest.raises(CorruptError, match=r"000000\.json"):
        read_rendered(rendered, VIEW, BLOCK, 0)
