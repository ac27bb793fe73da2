"""The codecs by name. A new one is a file here and a line in the table.

A choice is written `name` or `name:rate`: the rate of `ecsq` and `klt` is bits a dimension, that of `pq`, `opq` and `rq` bytes a
token.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stillhouse.core.errors import UsageError

from .base import Codec, Codes, CodeType, Tokens, pack, stored_type, unpack
from .bf16 import Bf16
from .ecsq import Ecsq
from .fp16 import Fp16
from .int4 import Int4
from .int8 import Int8
from .klt import Klt
from .opq import Opq
from .pq import Pq
from .rq import Rq

CODECS: Final[Mapping[str, Any]] = {codec.name: codec for codec in (Fp16, Bf16, Int8, Int4, Ecsq, Klt, Pq, Opq, Rq)}
RATES: Final[Mapping[str, Callable[[str], float]]] = {"ecsq": float, "klt": float, "pq": int, "opq": int, "rq": int}
"""What a rate is, for the codecs that have one."""
LOOK_AT_NEIGHBOURS: Final = frozenset({"ecsq", "klt"})

__all__ = [
    "CODECS",
    "CodeType",
    "Codec",
    "Codes",
    "Tokens",
    "check_choice",
    "fit_codec",
    "load_codec",
    "pack",
    "stored_type",
    "unpack",
]


def fit_codec(choice: str, tokens_NTD: Tokens, grid: tuple[int, int] | None = None) -> Codec:
    """Fit a codec, `name` or `name:rate`, on a sample of tokens, float32 [N, T, D].

    Args:
        grid: rows and columns of the tokens, for the codecs that look at neighbours; None: a square, or a line.
    """
    name, rate = _parsed(choice)
    args: dict[str, Any] = {"grid": grid} if name in LOOK_AT_NEIGHBOURS else {}
    codec: Codec = CODECS[name].fit(tokens_NTD, *([] if rate is None else [rate]), **args)
    return codec


def load_codec(name: str, dim: int, arrays: Mapping[str, npt.NDArray[np.float32]]) -> Codec:
    """The codec that `arrays()` of a fitted one describes."""
    codec: Codec = CODECS[_parsed(name)[0]].from_arrays(dim, arrays)
    return codec


def check_choice(choice: str) -> str:
    """`choice` if it names a codec, else UsageError."""
    _parsed(choice)
    return choice


def _parsed(choice: str) -> tuple[str, float | None]:
    name, colon, rate = choice.partition(":")
    if name not in CODECS:
        raise UsageError(f"unknown codec {name!r}", hint=f"known: {', '.join(CODECS)}")
    if not colon:
        return name, None
    if name not in RATES:
        raise UsageError(f"codec {name!r} has no rate, got {rate!r}", hint=f"write `codec: {name}`")
    try:
        value = RATES[name](rate)
    except ValueError:
        value = 0
    if not 0 < value < 1 << 16:
        what = "bits a dimension" if RATES[name] is float else "bytes a token"
        raise UsageError(f"codec {choice!r} has a rate that is no number of {what}", hint=f"such as `codec: {name}:1`")
    return name, value
