"""What a codec is: fitted parameters, encode, decode. One codec a file.

Legend: N rows, T tokens, D teacher dimensions, C codes a token.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from stillhouse.core.errors import DataError

Tokens = npt.NDArray[np.float32]
Codes = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class CodeType:
    """How codes look on disk.

    Args:
        dtype: in Zarr's spelling.
        width: C.
        fill_value: reserved: no code has it.
        compressed: each row is stored with its tokens last, [C, T], and goes through zstd: values of one channel lie
            together, and channels that hold nothing cost nothing.
    """

    dtype: str
    width: int
    fill_value: int | str
    compressed: bool = False


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


@runtime_checkable
class Packs(Protocol):
    """A codec whose codes are packed without loss before they are stored, such as by an entropy coder."""

    @property
    def stored_type(self) -> CodeType:
        """How packed codes look on disk; no row of them is all fill value."""
        ...

    def pack(self, codes_NTC: Codes) -> Codes: ...

    def unpack(self, packed_NTS: Codes) -> Codes: ...


def stored_type(codec: Codec) -> CodeType:
    """What lies on disk for a codec."""
    return codec.stored_type if isinstance(codec, Packs) else codec.code_type


def pack(codec: Codec, codes_NTC: Codes) -> Codes:
    """Codes as they lie on disk."""
    return codec.pack(codes_NTC) if isinstance(codec, Packs) else codes_NTC


def unpack(codec: Codec, stored_NTS: Codes) -> Codes:
    """Codes of what lies on disk. CorruptError when it cannot be codes."""
    return codec.unpack(stored_NTS) if isinstance(codec, Packs) else stored_NTS


def require_finite(tokens_NTD: Tokens) -> None:
    """DataError when a value is NaN or infinite."""
    if not np.isfinite(tokens_NTD).all():
        raise DataError("a feature is NaN or infinite", hint="look for the image that makes it")
