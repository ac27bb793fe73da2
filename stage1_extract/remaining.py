"""What is left to do of a teacher in a store, and how much that is."""

from collections.abc import Sequence

import numpy as np

from stillhouse.storage import layout
from stillhouse.storage.codecs import CodeType, stored_type
from stillhouse.storage.records import Record
from stillhouse.storage.redo import noted_redo
from stillhouse.storage.specs import TRAIN, TeacherSpec
from stillhouse.storage.store import Store

from .units import Unit, is_done


def undecided(store: Store, teacher: str, *, only_noted: bool = False) -> list[Unit]:
    """The units of a teacher that are still to do, publishing any that a crash left half-way.

    Args:
        only_noted: just those that are noted to be made anew.
    """
    units = [Unit(block, view) for block in store.plan.blocks_of(TRAIN) for view in range(store.spec.num_views)]
    if store.done(layout.codecs_unit(teacher)):
        units = [unit for unit in units if not is_done(store, teacher, unit)]
    if only_noted:
        named = {unit: layout.features_unit(teacher, unit.view, unit.block) for unit in units}
        units = [unit for unit in units if noted_redo(store.root, named[unit])]
    return units


def num_images(store: Store, units: Sequence[Unit]) -> int:
    """Views that units have, those of samples in quarantine left out."""
    return sum(len(store.good_rows(unit.block)) for unit in units)


def bytes_to_write(store: Store, spec: TeacherSpec, units: Sequence[Unit]) -> int:
    """What the shards of units will take, uncompressed."""

    def row_bytes(level: str, code_type: CodeType) -> int:
        return spec.levels[level].num_tokens * code_type.width * np.dtype(code_type.dtype).itemsize

    row = sum(row_bytes(level, stored_type(store.codec(spec.name, level))) for level in spec.levels)
    return num_images(store, units) * row


def codecs_record(store: Store, teacher: str) -> Record | None:
    """The decision about a teacher's codecs; None if they are to be made anew."""
    unit = layout.codecs_unit(teacher)
    return None if noted_redo(store.root, unit) else store.record(unit)
