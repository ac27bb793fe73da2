"""The metadata validator: what stands before a Zarr reader that gets a store somebody else wrote."""

from typing import TYPE_CHECKING

from stillhouse.core.errors import CorruptError

from . import layout, zarr_rules
from .growth import extents, read_growths
from .views import FIELDS

if TYPE_CHECKING:
    from .store import Store


def check_metadata(store: "Store", *, damaged: bool = False) -> None:
    """Hold every zarr.json against the rules of `storage/zarr_rules.py`, and look for links that lead elsewhere.

    Reads no more than those files and their records.

    Args:
        damaged: let pass what is not what its record says, and do not look for links, as `Store.open` does: nothing here
            is read by such a file, and `verify` names it.

    Raises:
        CorruptError: names the file and the rule that it breaks.
    """
    growths = read_growths(store.root)
    *earlier, last = extents(*store.begun, growths)
    sizes = zarr_rules.Sizes(*last, store.plan.block_samples, len(FIELDS), tuple(earlier))
    recorded: dict[str, str] = {}
    for unit in ("layout", *map(layout.codecs_unit, store.teacher_names("units/codecs"))):
        try:
            record = store.record(unit)
        except CorruptError:
            if not damaged:
                raise
        else:
            recorded |= {entry.path: entry.sha256 for entry in record.objects} if record else {}
    try:
        zarr_rules.check_tree(store.root, sizes, recorded, damaged=damaged)
    except CorruptError:
        if len(read_growths(store.root)) == len(growths):
            raise
        return check_metadata(store, damaged=damaged)  # it has grown since
    if not damaged:
        zarr_rules.check_files(store.root)
