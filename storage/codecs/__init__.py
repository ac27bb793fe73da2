"""The codecs by name. A new one is a file here and a line in the table."""

from collections.abc import Mapping
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from stillhouse.core.errors import UsageError

from .base import Codec, Codes, CodeType, Tokens
from .fp16 import Fp16
from .int8 import Int8

CodecName = Literal["fp16", "int8"]

CODECS: Final[Mapping[str, type[Fp16] | type[Int8]]] = {"fp16": Fp16, "int8": Int8}

__all__ = ["CODECS", "CodeType", "Codec", "CodecName", "Codes", "Tokens", "fit_codec", "load_codec"]


def fit_codec(name: str, tokens_NTD: Tokens) -> Codec:
    """Fit codec `name` on a sample of tokens, float32 [N, T, D]."""
    return _class(name).fit(tokens_NTD)


def load_codec(name: str, dim: int, arrays: Mapping[str, npt.NDArray[np.float32]]) -> Codec:
    """The codec that `arrays()` of a fitted one describes."""
    return _class(name).from_arrays(dim, arrays)


def _class(name: str) -> type[Fp16] | type[Int8]:
    if name not in CODECS:
        raise UsageError(f"unknown codec {name!r}", hint=f"known: {', '.join(CODECS)}")
    return CODECS[name]
