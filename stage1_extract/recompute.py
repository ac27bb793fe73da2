"""Ask the teacher again about some stored rows: do the store's tokens say what it says today?

Features are never compared by hash: two machines agree to about 1e-6 only. Rows are compared by cosine.

Legend: N rows, T tokens, D dimensions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stillhouse.core.config import parse_config
from stillhouse.core.errors import CorruptError, SpecMismatchError
from stillhouse.storage import layout
from stillhouse.storage.replay import replay
from stillhouse.storage.specs import TRAIN, spec_differences
from stillhouse.storage.store import Store
from stillhouse.storage.verify import Problem
from stillhouse.storage.views import view_hash

from .config import ExtractConfig, TeacherConfig
from .policies import ViewPolicyConfig
from .teachers import Teacher

SAME_COSINE = 0.99
"""A stored row and what the codec would store today are one row above this. Machines and batch sizes differ by about
1e-6 (fp32) and 1e-4 (bf16) from 1, other rows or other weights by 0.1 and more."""

Tokens = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the stored tokens of one level are from the teacher's, over the rows that were asked about.

    Args:
        codec: what the tokens went through; its error is part of the first three figures.
        min_cosine: of the worst token.
        mean_cosine: over all tokens.
        nmse: squared error as a share of the teacher's variance around its channel means.
        min_same: the worst row's cosine to what the codec would store today; `limit` is what it must reach.
    """

    teacher: str
    level: str
    codec: str
    num_rows: int
    min_cosine: float
    mean_cosine: float
    nmse: float
    min_same: float
    limit: float = SAME_COSINE


def recompute(
    store: Store,
    config: TeacherConfig,
    run: ExtractConfig,
    num_rows: int,
    *,
    seed: int = 0,
    on_rows: Callable[[int], None] = lambda num: None,
) -> tuple[list[Agreement], list[Problem]]:
    """Run a teacher again on `num_rows` random rows of random views and blocks.

    Raises:
        SpecMismatchError: the store's features of that name are another teacher's.
    """
    policy = parse_config(ViewPolicyConfig, store.spec.views, where=f"spec of {store.root}")
    teacher = Teacher(config, view_size=policy.size, device=run.device)
    stored = store.teacher(config.name)
    differences = list(spec_differences(stored.deciding(), teacher.spec.deciding()))
    if differences:
        message = f"store {store.root} holds features of another {config.name!r}: {'; '.join(differences)}"
        raise SpecMismatchError(message, hint="name the teacher that made them")
    problems: list[Problem] = []
    asked: dict[str, list[Tokens]] = {level: [] for level in stored.levels}
    kept: dict[str, list[Tokens]] = {level: [] for level in stored.levels}
    for (view, block), rows in draw_rows(store, config.name, num_rows, seed).items():
        unit = layout.features_unit(config.name, view, block)
        try:
            pixels = _rendered(store, view, block, rows)
            decoded = {
                level: store.codec(config.name, level).decode(store.codes(config.name, level, view, block, rows))
                for level in stored.levels
            }
        except CorruptError as error:
            problems.append(Problem(unit, layout.hash_chunk(view, block), error.message))
            continue
        batches = [teacher(pixels[start : start + config.batch]) for start in range(0, len(rows), config.batch)]
        for level, tokens_NTD in decoded.items():
            fresh_NTD = np.concatenate([batch[level] for batch in batches])
            kept[level].append(tokens_NTD)
            asked[level].append(fresh_NTD)
            codec = store.codec(config.name, level)
            same_N = cosine(tokens_NTD, codec.decode(codec.encode(fresh_NTD))).mean(axis=1)
            path = layout.features_chunk(config.name, level, view, block)
            problems += [
                Problem(unit, path, f"row {row} has cosine {same:.4f} to what the teacher says, below {SAME_COSINE}")
                for row, same in zip(rows.tolist(), same_N.tolist(), strict=True)
                if not same >= SAME_COSINE
            ]
        on_rows(len(rows))
    agreements = [
        _agreement(store, config.name, level, np.concatenate(kept[level]), np.concatenate(asked[level]))
        for level in stored.levels
        if kept[level]
    ]
    return agreements, problems


def draw_rows(store: Store, teacher: str, num_rows: int, seed: int) -> dict[tuple[int, int], npt.NDArray[np.int64]]:
    """(view, block) -> rows: a seeded draw over all rows of a teacher, or all of them if there are no more."""
    units = [
        (view, block)
        for block in store.plan.blocks_of(TRAIN)
        for view in range(store.spec.num_views)
        if store.record(layout.features_unit(teacher, view, block)) is not None
    ]
    ends = np.cumsum([len(store.good_rows(block)) for _, block in units])
    total = int(ends[-1]) if len(ends) else 0
    random = np.random.Generator(np.random.PCG64(seed))
    chosen = np.sort(random.choice(total, min(num_rows, total), replace=False)) if total else np.empty(0, np.int64)
    places = np.searchsorted(ends, chosen, side="right")
    found = {}
    for place in np.unique(places).tolist():
        view, block = units[place]
        good = store.good_rows(block)
        found[view, block] = good[chosen[places == place] - (ends[place] - len(good))]
    return found


def cosine(a_NTD: Tokens, b_NTD: Tokens) -> npt.NDArray[np.float64]:
    """float64 [N, T]; two tokens of zeros are equal."""
    a, b = a_NTD.astype(np.float64), b_NTD.astype(np.float64)
    norms = np.linalg.norm(a, axis=2) * np.linalg.norm(b, axis=2)
    same = (a * b).sum(axis=2) / np.where(norms > 0, norms, 1)
    result: npt.NDArray[np.float64] = np.where(norms > 0, same, (a == b).all(axis=2))
    return result


def _rendered(store: Store, view: int, block: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """uint8 [N, size, size, 3]: the recorded views, and CorruptError if they have other pixels than recorded."""
    hashes = store.view_hashes(view, block)
    pixels = [replay(store, view, block, row) for row in rows.tolist()]
    for row, one in zip(rows.tolist(), pixels, strict=True):
        if view_hash(one) != int(hashes[row]):
            key = store.samples(block)[row].key
            raise CorruptError(f"view {view} of {key!r} renders to other pixels than recorded; see verify --pixels")
    return np.stack(pixels)


def _agreement(store: Store, teacher: str, level: str, kept_NTD: Tokens, asked_NTD: Tokens) -> Agreement:
    codec = store.codec(teacher, level)
    cosines = cosine(kept_NTD, asked_NTD)
    error = ((kept_NTD.astype(np.float64) - asked_NTD) ** 2).sum()
    spread = ((asked_NTD.astype(np.float64) - asked_NTD.mean(axis=(0, 1), dtype=np.float64)) ** 2).sum()
    same = cosine(kept_NTD, codec.decode(codec.encode(asked_NTD))).mean(axis=1).min()
    return Agreement(
        teacher=teacher,
        level=level,
        codec=codec.name,
        num_rows=len(kept_NTD),
        min_cosine=float(cosines.min()),
        mean_cosine=float(cosines.mean()),
        nmse=float(error / max(spread, np.finfo(np.float64).tiny)),
        min_same=float(same),
    )
