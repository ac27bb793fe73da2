"""The image data set that scikit-learn carries: 1,797 handwritten digits of 8 x 8 pixels."""

import threading
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.config import Config
from stillhouse.core.errors import missing_package
from stillhouse.storage.decode import encode_png

from .base import Item, check_items


class SklearnSource(Config):
    """A data set inside scikit-learn: small, labelled, and there without a download."""

    kind: Literal["sklearn"] = "sklearn"
    dataset: Literal["digits"] = "digits"
    """`digits`: the gray levels 0..16 are scaled to 0..255; a digit is its own label."""


class SklearnReader:
    """Reads a `SklearnSource`; holds the whole set, 115 KB."""

    def __init__(self, config: SklearnSource) -> None:
        self.where = f"source sklearn {config.dataset}"
        self._lock = threading.Lock()
        self._digits: tuple[NDArray[np.uint8], list[str]] | None = None

    def items(self) -> list[Item]:
        """One item a digit, in the set's order."""
        _, labels = self._load()
        return check_items((Item(f"{row:05d}", label, (row,)) for row, label in enumerate(labels)), self.where)

    def read(self, item: Item) -> bytes:
        """The digit as a gray RGB PNG of 8 x 8 pixels."""
        images_NHW, _ = self._load()
        return encode_png(np.repeat(images_NHW[int(item.locator[0])][:, :, None], 3, axis=2))

    def _load(self) -> tuple[NDArray[np.uint8], list[str]]:
        """(images uint8 [N, 8, 8], labels)."""
        with self._lock:
            if self._digits is None:
                try:
                    from sklearn.datasets import load_digits
                except ImportError as error:
                    raise missing_package("sklearn") from error
                digits = load_digits()
                levels = np.asarray(digits.images, dtype=np.int64)
                self._digits = ((levels * 255 + 8) // 16).astype(np.uint8), [str(digit) for digit in digits.target]
            return self._digits
