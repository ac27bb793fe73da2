"""The order of training: pure, complete, of whole blocks, and different in every epoch."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.core.errors import UsageError
from stillhouse.stage2_distill.order import Window, epoch_windows, num_steps, views_of

RowsOf = list[tuple[int, npt.NDArray[np.int64]]]


@st.composite
def stores(draw: st.DrawFn) -> RowsOf:
    """Good rows of some blocks, as if any of their eight rows were in quarantine."""
    blocks = draw(st.lists(st.integers(0, 999), min_size=1, max_size=9, unique=True))
    good = [draw(st.sets(st.integers(0, 7))) for _ in blocks]
    return [(block, np.array(sorted(rows), np.int64)) for block, rows in zip(blocks, good, strict=True)]


seeds = st.integers(0, 2**64 - 1)
epochs = st.integers(0, 1000)


def windows_of(rows_of: RowsOf, *, seed: int, epoch: int, window_blocks: int) -> list[Window]:
    blocks, good = [block for block, _ in rows_of], dict(rows_of)
    return list(epoch_windows(blocks, good.__getitem__, seed=seed, epoch=epoch, window_blocks=window_blocks))


def pairs_of(windows: list[Window]) -> list[tuple[int, int]]:
    return [(int(block), int(row)) for window in windows for block, row in window.pairs]


@given(rows_of=stores(), seed=seeds, epoch=epochs, window_blocks=st.integers(1, 5))
def test_every_row_comes_exactly_once(rows_of: RowsOf, seed: int, epoch: int, window_blocks: int) -> None:
    windows = windows_of(rows_of, seed=seed, epoch=epoch, window_blocks=window_blocks)
    assert sorted(pairs_of(windows)) == sorted((block, int(row)) for block, rows in rows_of for row in rows)


@given(rows_of=stores(), seed=seeds, epoch=epochs, window_blocks=st.integers(1, 5))
def test_windows_are_whole_blocks(rows_of: RowsOf, seed: int, epoch: int, window_blocks: int) -> None:
    windows = windows_of(rows_of, seed=seed, epoch=epoch, window_blocks=window_blocks)
    rows = dict(rows_of)
    assert [len(window.blocks) for window in windows[:-1]] == [window_blocks] * (len(windows) - 1)
    assert sorted(block for window in windows for block in window.blocks) == sorted(rows)
    for window in windows:
        assert window.pairs.dtype == np.int64 and window.pairs.shape[1:] == (2,)
        in_file_order = [(block, int(row)) for block in window.blocks for row in rows[block]]
        assert [in_file_order[place] for place in window.places] == [tuple(pair) for pair in window.pairs.tolist()]
        for block in window.blocks:
            mine = window.pairs[window.pairs[:, 0] == block, 1]
            np.testing.assert_array_equal(np.sort(mine), rows[block])
        assert len(window.pairs) == sum(len(rows[block]) for block in window.blocks)


@given(rows_of=stores(), seed=seeds, epoch=epochs, window_blocks=st.integers(1, 5))
def test_the_order_is_pure(rows_of: RowsOf, seed: int, epoch: int, window_blocks: int) -> None:
    one, other = (windows_of(rows_of, seed=seed, epoch=epoch, window_blocks=window_blocks) for _ in range(2))
    assert pairs_of(one) == pairs_of(other)
    assert [window.blocks for window in one] == [window.blocks for window in other]


def full(num_blocks: int = 12, rows: int = 8) -> RowsOf:
    return [(block, np.arange(rows)) for block in range(num_blocks)]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    found = [
        tuple(pairs_of(windows_of(full(), seed=seed, epoch=epoch, window_blocks=3)))
        for seed in (0, 1)
        for epoch in range(4)
    ]
    assert len(set(found)) == 8
    firsts = {windows_of(full(), seed=0, epoch=epoch, window_blocks=3)[0].blocks for epoch in range(20)}
    assert len(firsts) > 10


def test_rows_of_a_window_are_mixed() -> None:
    """A sample is as likely to come first in its window as any other."""
    first = [windows_of(full(), seed=7, epoch=epoch, window_blocks=12)[0].pairs[0] for epoch in range(960)]
    counts = np.bincount([block * 8 + row for block, row in first], minlength=96)
    chi_square = float(((counts - 10) ** 2 / 10).sum())
    assert chi_square < 145  # 95 degrees of freedom, p = 0.0007


def test_windows_of_one_epoch_are_mixed_differently() -> None:
    windows = windows_of(full(), seed=0, epoch=0, window_blocks=1)
    assert len({tuple(window.pairs[:, 1]) for window in windows}) == len(windows)


@pytest.mark.parametrize(("rows", "batch", "steps"), [(28, 8, 3), (28, 28, 1), (28, 29, 0), (0, 2, 0)])
def test_rows_that_do_not_fill_a_batch_are_left(rows: int, batch: int, steps: int) -> None:
    assert num_steps(rows, batch) == steps


def test_epochs_take_the_views_in_turn() -> None:
    assert [views_of(epoch, 3) for epoch in range(7)] == [(0,), (1,), (2,), (0,), (1,), (2,), (0,)]


@given(rows_of=stores(), seed=seeds, epoch=epochs, window_blocks=st.integers(1, 5), repeats=st.integers(2, 4))
def test_repeats_show_a_share_of_the_samples_in_several_views(
    rows_of: RowsOf, seed: int, epoch: int, window_blocks: int, repeats: int
) -> None:
    """As many pairs as there are rows; each sample in every view, one after the other, but for the last one."""
    blocks, good = [block for block, _ in rows_of], dict(rows_of)
    views, most = views_of(epoch, 5, repeats), sum(len(rows) for _, rows in rows_of)
    assert len(set(views)) == repeats
    windows = list(
        epoch_windows(
            blocks, good.__getitem__, seed=seed, epoch=epoch, window_blocks=window_blocks, views=views, most=most
        )
    )
    pairs, seen = pairs_of(windows), [int(view) for window in windows for view in window.views_n]
    assert len(pairs) == len(seen) == most
    for start in range(0, most, repeats):
        assert len(set(pairs[start : start + repeats])) == 1
        assert seen[start : start + repeats] == list(views[: most - start])
    assert len(set(pairs)) == -(-most // repeats)
    for window in windows:
        assert len(window.blocks) <= window_blocks and window.views == views
        in_file_order = [(view, block, int(row)) for view in views for block in window.blocks for row in good[block]]
        told = zip(window.views_n.tolist(), window.pairs[:, 0].tolist(), window.pairs[:, 1].tolist(), strict=True)
        assert [in_file_order[place] for place in window.places] == list(told)


def test_repeats_read_no_block_that_they_do_not_use() -> None:
    blocks, good = [block for block, _ in full()], dict(full())
    options: dict[str, Any] = {"seed": 0, "epoch": 0, "window_blocks": 5, "views": (0, 1, 2), "most": 96}
    windows = list(epoch_windows(blocks, good.__getitem__, **options))
    assert [len(window.blocks) for window in windows] == [4]  # 32 of 96 samples
    once = list(epoch_windows(blocks, good.__getitem__, **{**options, "views": (0,)}))
    assert once[0].blocks[:4] == windows[0].blocks


def test_repeats_take_the_views_in_turn_and_no_more_than_there_are() -> None:
    assert [views_of(epoch, 5, 3) for epoch in range(3)] == [(0, 1, 2), (3, 4, 0), (1, 2, 3)]
    with pytest.raises(UsageError, match=r"the store has 2; set distill.repeats to 2 or less, or extract more views"):
        views_of(0, 2, 3)


def test_golden() -> None:
    """Pinned: a change here changes every training run."""
    expected = [(0, 2), (2, 0), (2, 2), (0, 0), (0, 1), (2, 1), (1, 1), (1, 2), (1, 0)]
    assert pairs_of(windows_of(full(3, 3), seed=0, epoch=0, window_blocks=2)) == expected
