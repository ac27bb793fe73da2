"""What of a store elsewhere is going to be read: fetched while what is here is used."""

import contextlib
from collections.abc import Collection, Mapping, Sequence

from stillhouse.core.errors import MissingError
from stillhouse.storage import layout
from stillhouse.storage.store import Store


def fetch_ahead(
    store: Store, blocks: Sequence[int], views: Sequence[int], levels: Mapping[str, Collection[str]] | None = None
) -> None:
    """Begin to fetch whole objects: images, indexes and views of some blocks, and the shards of levels. At once back.

    Does nothing for a store on this disk, and nothing about objects that no record names: who reads them says so.
    """
    if store.objects is None:
        return
    for block in blocks:
        _unit(store, layout.images_unit(block), [layout.index_path(block), layout.images_path(block)])
        for view in views:
            for teacher, names in (levels or {}).items():
                paths = [layout.features_chunk(teacher, level, view, block) for level in names]
                _unit(store, layout.features_unit(teacher, view, block), paths)
            _unit(
                store,
                layout.views_unit(view, block),
                [layout.params_chunk(view, block), layout.hash_chunk(view, block)],
            )


def fetch_indexes_ahead(store: Store, blocks: Sequence[int]) -> None:
    """Begin to fetch what says which samples are in some blocks."""
    for block in blocks if store.objects is not None else ():
        _unit(store, layout.images_unit(block), [layout.index_path(block)])


def _unit(store: Store, unit: str, paths: Sequence[str]) -> None:
    assert store.objects is not None
    with contextlib.suppress(MissingError):
        for entry in store.require(unit, unit).objects:
            if entry.path in paths:
                store.objects.ahead(entry)
