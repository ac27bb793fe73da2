"""What `codec: auto` chose from, as the store recorded it: bits against error for each candidate."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated

from pydantic import BaseModel, Field, FiniteFloat, TypeAdapter, ValidationError

from stillhouse.core.errors import CorruptError
from stillhouse.storage import layout
from stillhouse.storage.store import Store

from .report_data import CodecChoice, RatePoint
from .scales import HUGE

LEAST_NMSE = 1e-30
"""What is smaller counts as this: 300 dB."""

_Positive = Annotated[FiniteFloat, Field(gt=0, lt=HUGE)]
_Error = Annotated[FiniteFloat, Field(ge=0, lt=HUGE)]


class _Point(BaseModel):
    choice: str
    bits: _Positive
    nmse: _Error
    cosine: FiniteFloat
    bound_nmse: _Error
    leading_nmse: _Error


class _Chosen(BaseModel):
    choice: str
    why: str
    curve: Annotated[list[_Point], Field(min_length=1)]
    dropped: Mapping[str, str]


_CHOSEN = TypeAdapter(dict[str, _Chosen])


def codec_choices(store: Store) -> tuple[CodecChoice, ...]:
    """The curve of every level whose codec was chosen by measuring; none where the config named it.

    Raises:
        CorruptError: a record tells of a choice in a way that stillhouse does not write.
    """
    found = []
    for spec in store.teachers():
        record = store.record(layout.codecs_unit(spec.name))
        try:
            chosen = _CHOSEN.validate_python(record.facts.get("chosen", {}) if record else {})
        except ValidationError as error:
            message = f"record of {layout.codecs_unit(spec.name)} in {store.root}: `chosen` is not a choice of codecs"
            raise CorruptError(message, hint=f"run `stillhouse verify {store.root}`") from error
        for level, one in chosen.items():
            if level in spec.levels:
                curve = tuple(_rate_point(point, spec.levels[level].dim) for point in one.curve)
                told = one.model_dump(exclude={"curve"})
                found.append(CodecChoice(teacher=spec.name, level=level, curve=curve, **told))
    return tuple(found)


def bound_line(curve: Sequence[RatePoint], num_between: int = 32) -> tuple[list[float], list[float]]:
    """(bits, dB) of the bound: as recorded at each candidate, and straight in bits between two of them."""
    known = sorted({(point.bits, point.bound_db) for point in curve})
    bits, decibels = [known[0][0]], [known[0][1]]
    for (low, low_db), (high, high_db) in pairwise(known):
        parts = [part / num_between for part in range(1, num_between + 1)]
        bits += [low + (high - low) * part for part in parts]
        decibels += [low_db + (high_db - low_db) * part for part in parts]
    return bits, decibels


def _rate_point(point: _Point, dim: int) -> RatePoint:
    return RatePoint(
        choice=point.choice,
        bits=point.bits,
        bytes_per_token=point.bits * dim / 8,
        snr_db=_decibels(point.nmse),
        leading_db=_decibels(point.leading_nmse),
        cosine=point.cosine,
        bound_db=_decibels(point.bound_nmse),
    )


def _decibels(nmse: float) -> float:
    return -10 * math.log10(max(nmse, LEAST_NMSE))
