"""The pixels of a stored view, made again from the stored image and parameters."""

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.timing import timed

from .decode import decode
from .store import Store
from .views import render


def replay(store: Store, view: int, block: int, row: int) -> NDArray[np.uint8]:
    """uint8 [V, V, 3], those that the teacher saw.

    Raises:
        MissingError: the sample is in quarantine.
        CorruptError: bytes on disk are not those that were written.
    """
    data, params = store.image_bytes(block, row), store.view_params(view, block)[row]
    with timed("render"):
        return render(decode(data), params, store.spec.view_size)
