"""What a codec is: fitted parameters, encode, decode. One codec a file.

Legend: N rows, T tokens, D teacher dimensions, C codes a token.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.float32]
Codes = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class CodeType:
    """How codes look on disk: `dtype` in Zarr's spelling, `width` = C, and the reserved fill value."""

    dtype: str
    width: int
    fill_value: int | str


class Codec(Protocol):
    """Tokens [N, T, D] float32 to codes [N, T, C] and back.

    `arrays()` and the name are all that a reader needs; docs/format.md decodes each codec in numpy alone.
    """

    name: ClassVar[str]

    @property
    def code_type(self) -> CodeType: ...

    @property
    def dim(self) -> int:
        """D, the width of a decoded token."""
        ...

    def encode(self, tokens_NTD: Tokens) -> Codes: ...

    def decode(self, codes_NTC: Codes) -> Tokens: ...

    def arrays(self) -> Mapping[str, npt.NDArray[np.float32]]:
        """The fitted parameters by name."""
        ...
