"""A store's exact tokens once more through another codec, as one more teacher of the same store.

The comparison of codecs needs equal images, views and rows, and only other bits. What is written goes through the product's
own writer, so it is read and trained on like any teacher's features.

Legend: N rows, T tokens, D dimensions, C codes a token.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stillhouse.stage1_extract.fitting import channel_statistics
from stillhouse.stage1_extract.remaining import undecided
from stillhouse.storage import layout
from stillhouse.storage.codecs import Codec, Tokens, fit_codec
from stillhouse.storage.codecs.distortion import measure
from stillhouse.storage.seal import seal
from stillhouse.storage.specs import TRAIN
from stillhouse.storage.store import Store
from stillhouse.storage.writer import commit_codecs, commit_features

FIT_ROWS, TEST_ROWS = 2048, 256
MOST_TOKENS = 65_536
"""That a level is fitted on: of levels with more, every so-manyth row."""

Choice = str | Mapping[str, str]
"""A codec for all levels, or one for each."""


@dataclass(frozen=True, slots=True)
class Recoded:
    """What a recoded teacher takes and keeps.

    Args:
        bits: on disk, a dimension, all levels together: bytes of the shards over the dimensions of the rows in them.
        points: per level, on rows of the last block, which nothing was fitted on.
    """

    bits: float
    points: Mapping[str, Mapping[str, Any]]


def recode(store: Store, source: str, choice: Choice, name: str) -> Recoded:
    """Add teacher `name`: the features of `source`, stored as fp16, in codec `choice`. What is there already is left.

    Raises:
        SpecMismatchError: the store has another teacher, or another choice, under that name.
    """
    spec, by_level = store.teacher(source), _by_level(store, source, choice)
    described = by_level["cls"] if isinstance(choice, str) else ", ".join(f"{k} {v}" for k, v in by_level.items())
    store.add_teacher(spec.model_copy(update={"name": name, "codec": described}))
    if not store.done(layout.codecs_unit(name)):
        _commit_codecs(store, source, by_level, name)
    for block, view in undecided(store, name):
        rows = store.good_rows(block)
        codes = {
            level: store.codec(name, level).encode(_decoded(store, source, level, view, block)) for level in by_level
        }
        commit_features(store, name, view, block, codes, rows, {})
    seal(store)
    return recoded(store, name)


def recoded(store: Store, name: str) -> Recoded:
    """What is known of a recoded teacher."""
    record = store.require(layout.codecs_unit(name), f"codec of teacher {name}")
    return Recoded(bits_on_disk(store, name), record.facts["points"])


def bits_on_disk(store: Store, name: str) -> float:
    """Bits a dimension over all levels of a teacher: bytes of its shards over what they hold."""
    levels, num_bytes, num_rows = store.teacher(name).levels, 0, 0
    for block, view in _units(store):
        paths = (layout.features_chunk(name, level, view, block) for level in levels)
        num_bytes += sum((store.root / path).stat().st_size for path in paths)
        num_rows += len(store.good_rows(block))
    return 8 * num_bytes / (num_rows * sum(level.num_tokens * level.dim for level in levels.values()))


def _units(store: Store) -> Iterator[tuple[int, int]]:
    return ((block, view) for block in store.plan.blocks_of(TRAIN) for view in range(store.spec.num_views))


def _by_level(store: Store, source: str, choice: Choice) -> dict[str, str]:
    levels = store.teacher(source).levels
    wanted = dict.fromkeys(levels, choice) if isinstance(choice, str) else dict(choice)
    if wanted.keys() != levels.keys():
        raise SystemExit(f"{source} has levels {', '.join(levels)}; the choice is for {', '.join(wanted)}")
    stored = {store.codec(source, level).name for level in levels}
    if stored != {"fp16"}:
        raise SystemExit(
            f"{source} is stored as {', '.join(sorted(stored))}; this needs tokens as they were: codec fp16"
        )
    return wanted


def _commit_codecs(store: Store, source: str, choices: Mapping[str, str], name: str) -> None:
    """Fit, measure and commit the codecs; the channel statistics are those of the sample that they are fitted on."""
    sample = {level: _sample(store, source, level) for level in choices}
    codecs: dict[str, Codec] = {
        level: fit_codec(choice, sample[level], store.teacher(source).levels[level].grid)
        for level, choice in choices.items()
    }
    last = store.plan.blocks_of(TRAIN)[-1]
    points = {
        level: measure(choices[level], codec, _decoded(store, source, level, 0, last)[-TEST_ROWS:]).to_json()
        for level, codec in codecs.items()
    }
    facts: dict[str, Any] = {
        "config": {"recoded_from": source, "choices": dict(choices)},
        "fitted_on": {"view": 0, "rows": {level: len(tokens) for level, tokens in sample.items()}},
        "points": points,
    }
    statistics = {level: channel_statistics(tokens) for level, tokens in sample.items()}
    commit_codecs(store, store.teacher(name), codecs, statistics, facts)


def _sample(store: Store, source: str, level: str) -> Tokens:
    """float32 [N, T, D]: the first rows of view 0; never any of the last block, which the codecs are measured on."""
    blocks = store.plan.blocks_of(TRAIN)[:-1]
    if not blocks:
        raise SystemExit(f"store {store.root} has one block of training images; fit and measure need one each")
    found: list[npt.NDArray[np.float32]] = []
    for block in blocks:
        found.append(_decoded(store, source, level, 0, block))
        if sum(map(len, found)) >= FIT_ROWS:
            break
    tokens = np.concatenate(found)[:FIT_ROWS]
    step = -(-tokens.shape[0] * tokens.shape[1] // MOST_TOKENS)
    return tokens[::step]


def _decoded(store: Store, source: str, level: str, view: int, block: int) -> Tokens:
    """float32 [N, T, D]: the tokens of the good rows of a block."""
    return store.codec(source, level).decode(store.features(source, level).read(view, block))
