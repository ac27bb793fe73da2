"""Fitting the codecs of a teacher on what it says of the first views.

Legend: N views, T tokens, D dimensions.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stillhouse.core.errors import DataError
from stillhouse.core.events import Reporter
from stillhouse.storage import layout
from stillhouse.storage.codecs import Codec, fit_codec
from stillhouse.storage.codecs.auto import Budget, Chosen, candidates, choose
from stillhouse.storage.codecs.distortion import nmse
from stillhouse.storage.specs import TRAIN, TeacherSpec
from stillhouse.storage.writer import commit_codecs

from .config import TeacherConfig
from .levels import DEFAULT
from .tolerance import against_fp32
from .units import TeacherPass, Unit

FIT_ROWS = 2048
"""Views that codecs are fitted on: the first ones of view 0, of as many blocks as it takes."""
FIT_BYTES = 1 << 30
"""Of float32 tokens; a teacher with larger ones is fitted on fewer views. They are held until their units are written."""
ERROR_TOKENS = 1 << 12
"""That the error of a codec is measured on: it goes into the record, for the card of the store."""
FIT_TOKENS = 1 << 16
"""That a level is fitted on, at most: of a level with more, every so-manyth view."""
LATER: dict[str, Any] = {"positions": None, "levels": list(DEFAULT), "statistics": "own"}
"""Settings that stores of an earlier version do not tell of, and what they were then."""

Tokens = npt.NDArray[np.float32]


def identity(config: TeacherConfig) -> dict[str, Any]:
    """What of a teacher's config decides its features; the batch size does not."""
    told = config.model_dump(mode="json", exclude={"batch", "licence", "notice"})
    return {name: value for name, value in told.items() if name not in LATER or value != LATER[name]}


def fit_codecs(work: TeacherPass, reporter: Reporter) -> None:
    """Fit and commit the codecs on the first views, unless they are there.

    What the teacher said of those views is kept in `work` for the units that they begin.
    """
    store, spec, config = work.store, work.teacher.spec, work.teacher.config
    if store.done(layout.codecs_unit(spec.name)):
        return
    sample = _sample(work)
    fitted_on = {
        "blocks": sorted(unit.block for unit in work.kept),
        "view": 0,
        "rows": {level: len(one) for level, one in sample.items()},
    }
    facts: dict[str, Any] = {"fitted_on": fitted_on, "config": identity(config)}
    if config.precision != "fp32":
        unit, kept = next(iter(work.kept.items()))
        facts["against_fp32"] = found = against_fp32(work, unit, kept[0])
        told = ", ".join(f"{level} {one['nmse']:.1e}" for level, one in found.items())
        reporter.say(
            f"teacher {config.name}: squared error of {config.precision} against fp32, of the variance: {told}"
        )
    if config.budget is None:
        codecs = {
            level: fit_codec(config.codec_of(level), tokens, spec.levels[level].grid)
            for level, tokens in sample.items()
        }
    else:
        chosen = {level: _choose(spec, level, tokens, config.budget, reporter) for level, tokens in sample.items()}
        codecs = {level: one.codec for level, one in chosen.items()}
        facts["chosen"] = {level: one.to_json() for level, one in chosen.items()}
        for level, one in chosen.items():
            reporter.say(f"codec of {config.name}/{level}: {one.choice}, {one.why}")
    facts["nmse"] = {level: _error(codecs[level], tokens) for level, tokens in sample.items()}
    statistics = {level: channel_statistics(tokens) for level, tokens in sample.items()}
    commit_codecs(store, spec, codecs, statistics, facts)


def _error(codec: Codec, tokens_NTD: Tokens) -> float:
    """Squared error of a codec as a share of the variance, to six digits, over some of the tokens that it was fitted on."""
    some = tokens_NTD[:: -(-tokens_NTD.shape[0] * tokens_NTD.shape[1] // ERROR_TOKENS)]
    return float(f"{nmse(codec.decode(codec.encode(some)), some):.6g}")


def _choose(spec: TeacherSpec, level: str, tokens: Tokens, budget: Budget, reporter: Reporter) -> Chosen:
    """The codec of one level, chosen by measuring: minutes when tokens are wide, so each candidate is told of."""
    shape = spec.levels[level]
    total = len(candidates(shape.num_tokens, shape.dim, budget))
    with reporter.task(f"codec of {spec.name}/{level}", total, "candidate") as task:
        return choose(tokens, budget, shape.grid, lambda choice: task.advance(1, choice))


def _sample(work: TeacherPass) -> dict[str, Tokens]:
    """Tokens to fit on, float32 [N, T, D] a level; what the teacher said is kept for the units that it belongs to."""
    store, levels = work.store, work.teacher.spec.levels
    row_bytes = sum(4 * level.num_tokens * level.dim for level in levels.values())
    wanted, found = max(1, min(FIT_ROWS, FIT_BYTES // row_bytes)), 0
    for unit, seen in work.ask(Unit(block, 0) for block in store.plan.blocks_of(TRAIN)):
        work.kept.setdefault(unit, deque()).append(seen)
        found += len(seen.hashes)
        if found >= wanted:
            break
    if not found:
        message = f"no training image of store {store.root} can be read"
        raise DataError(message, hint=f"see `stillhouse inspect {store.root}`")
    batches = [seen.said.tokens() for kept in work.kept.values() for seen in kept]
    return {level: _thinned([batch[level] for batch in batches], wanted) for level in levels}


def _thinned(batches: Sequence[Tokens], wanted: int) -> Tokens:
    """The first rows that are wanted, or every so-manyth of them where that is enough."""
    joined = np.concatenate(batches)[:wanted]
    return joined[:: -(-joined.shape[0] * joined.shape[1] // FIT_TOKENS)]


def channel_statistics(tokens_NTD: Tokens) -> dict[str, Tokens]:
    """`mean` and `std` of every channel over all tokens, float32 [D] each, for objectives that standardise targets."""
    flat = tokens_NTD.reshape(-1, tokens_NTD.shape[-1]).astype(np.float64)
    return {"mean": flat.mean(axis=0).astype(np.float32), "std": flat.std(axis=0).astype(np.float32)}
