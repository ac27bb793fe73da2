"""Class numbers from the index."""

from pathlib import Path

import numpy as np
import pytest

from stillhouse.core.errors import UsageError
from stillhouse.storage.labels import block_classes, classes_in
from stillhouse.storage.store import Store
from stillhouse.storage.testing import StoreShape, make_store


def test_numbers_are_places_among_the_sorted_labels(sealed_store: Store) -> None:
    names = classes_in(sealed_store, range(4))
    assert names == ("a", "b", "c")
    number = {label: place for place, label in enumerate(names)}
    for block in range(4):
        labels = [sample.label for sample in sealed_store.samples(block)]
        assert [names[found] for found in block_classes(sealed_store, block, number)] == labels
    assert set(classes_in(sealed_store, [0])) <= set(names)


def test_rows_in_quarantine_have_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path / "store", StoreShape())
    samples = store.samples(0)
    monkeypatch.setattr(type(samples), "labels", lambda self: ["x", "y", None, "x"])
    assert classes_in(store, [0]) == ("x", "y")
    np.testing.assert_array_equal(block_classes(store, 0, {"x": 0, "y": 1}), [0, 1, -1, 0])


def test_a_good_row_without_a_label_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path / "store", StoreShape())
    monkeypatch.setattr(type(store.samples(0)), "labels", lambda self: ["x", None, None, "x"])
    with pytest.raises(UsageError, match=r"sample 'künstlich/0/1.png' of store .* has no label; give every training"):
        block_classes(store, 0, {"x": 0})
