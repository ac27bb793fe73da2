"""Parts of a batch: disjoint, whole, of one size, each with its share of the masked rows; what cannot be divided is refused."""

import itertools

import numpy as np
import pytest

from stillhouse.core.errors import UsageError
from stillhouse.stage2_distill.config import DistillConfig
from stillhouse.stage2_distill.loader import Batch, Loader
from stillhouse.stage2_distill.parts import Part, require_parts
from stillhouse.storage.store import Store

RANKS_OF = {4: (1, 2, 4), 6: (1, 2, 3, 6), 7: (7,), 8: (1, 2, 4, 8), 9: (1, 3, 9)}
ORDERS = [(batch, *rest) for batch, ranks in RANKS_OF.items() for rest in itertools.product(ranks, (1, 2), (1, 3))]
"""(batch, ranks, repeats, window_blocks): 60 ways to go through epochs of three steps or more."""


@pytest.mark.parametrize(("batch", "ranks", "turns"), [(12, 1, 1), (12, 3, 2), (12, 4, 3), (8, 2, 4), (5, 5, 1)])
def test_the_parts_of_all_ranks_and_turns_are_the_batch(batch: int, ranks: int, turns: int) -> None:
    rows = np.arange(batch)
    parts = [part for rank in range(ranks) for part in Part(rank, ranks).turns(turns)]
    assert sorted(int(row) for part in parts for row in rows[part.rows]) == rows.tolist()
    assert {len(rows[part.rows]) for part in parts} == {batch // (ranks * turns)}
    for first in range(batch + 1):
        assert [part.num(first) for part in parts] == [len(rows[:first][part.rows]) for part in parts]


@pytest.mark.parametrize(("ranks", "turns"), [(1, 2), (2, 3), (3, 4)])
def test_the_turns_of_a_rank_are_turns_of_its_rows(ranks: int, turns: int) -> None:
    rows = np.arange(24)
    for rank in range(ranks):
        own = rows[Part(rank, ranks).rows]
        for turn, part in enumerate(Part(rank, ranks).turns(turns)):
            np.testing.assert_array_equal(own[turn::turns], rows[part.rows])


@pytest.mark.parametrize(
    ("batch", "masked", "ranks", "turns", "hint"),
    [
        (12, None, 5, 1, "use 1, 2, 3, 4, 6 or 12 ranks"),
        (12, 6, 12, 1, "use 1, 2, 3, 4 or 6 ranks"),
        (12, None, 5, 2, "use 1, 2, 3 or 6 ranks"),
        (12, None, 2, 5, "set distill.accumulate to 1, 2, 3 or 6"),
        (12, None, 5, 5, "set distill.accumulate: 1"),
    ],
)
def test_what_cannot_be_divided_is_refused_with_what_can(
    batch: int, masked: int | None, ranks: int, turns: int, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        require_parts(batch, masked, ranks, turns)
    assert f"distill.batch {batch}" in caught.value.message and hint in caught.value.hint
    assert str(ranks) in caught.value.message


def test_what_can_be_divided_is_not_refused() -> None:
    for ranks, turns in ((1, 1), (2, 1), (6, 1), (2, 3), (1, 6)):
        require_parts(12, 6, ranks, turns)


@pytest.mark.parametrize(("batch", "ranks", "repeats", "window_blocks"), ORDERS)
def test_the_ranks_of_each_step_have_the_rows_of_one(
    sealed_store: Store,
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
    ranks: int,
    repeats: int,
    window_blocks: int,
) -> None:
    """Undisturbed, and stopped twice within an epoch, each time to go on with other ranks and threads."""
    monkeypatch.setattr(Loader, "_pixels", lambda *_: np.zeros((1, 1, 3), np.uint8))

    def steps(num: int, threads: int, epoch: int, start: int = 0) -> list[list[tuple[int, ...]]]:
        config = DistillConfig(batch=batch, repeats=repeats, window_blocks=window_blocks, threads=threads, seed=7)
        found: list[list[Batch]] = []
        for rank in range(num):
            with Loader(sealed_store, {}, config, 1, part=Part(rank, num)) as loader:
                found.append(list(loader.epoch(epoch, start=start)))
        whole = []
        for of_ranks in zip(*found, strict=True):
            rows = np.zeros((batch, 2), np.int64)
            for rank, one in enumerate(of_ranks):
                rows[rank::num] = one.pairs
            whole.append([tuple(pair) for pair in rows.tolist()])
        return whole

    expected = steps(1, 1, epoch=3)
    assert len(expected) == 28 // batch and steps(ranks, 2, epoch=3) == expected
    others = RANKS_OF[batch][-1]
    first, second = steps(ranks, 2, epoch=3)[:1], steps(others, 1, epoch=3, start=1)[:1]
    assert first + second + steps(ranks, 3, epoch=3, start=2) == expected
