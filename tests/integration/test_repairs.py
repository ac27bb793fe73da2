"""Repairs as processes: two at once, killed in the middle, and beside readers who opened the store before."""

import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from stillhouse.core.errors import CorruptError
from stillhouse.storage.seal import latest_seal
from stillhouse.storage.store import Store
from stillhouse.storage.testing import flip_bit
from stillhouse.storage.verify import noted_units, verify
from stillhouse.testing import Forks

DAMAGED = (
    "images/000001.tar",
    "views/hash/c/0/2",
    "features/tiny/patch/c/1/2/0/0",
    "features/tiny/cls/c/0/3/0/0",
    "features/tiny/codecs/cls/zarr.json",
)

KILL_AT = """
import os
from stillhouse.storage import commit
left = [{after}]
def before(name):
    real = getattr(os, name)
    def call(*arguments, **named):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), 9)
        return real(*arguments, **named)
    setattr(os, name, call)
for name in ("link", "rename", "replace", "unlink", "rmdir"):
    before(name)
"""
"""Dies by kill -9 before the n-th call that gives or takes a name."""


def damage(out: Path) -> None:
    for path in DAMAGED:
        flip_bit(out / "store" / path, 4 * (out / "store" / path).stat().st_size)


def state(out: Path) -> tuple[int, str]:
    sealed = latest_seal(out / "store")
    assert sealed is not None
    return sealed.generation, sealed.content_sha256


def assert_whole(out: Path, before: tuple[int, str]) -> None:
    assert verify(Store.open(out / "store")).problems == ()
    assert noted_units(out / "store") == [] and state(out) == before
    assert list((out / "store" / "_stage").iterdir()) == []


def test_two_repairs_at_once(forks: Forks, pipeline: Path, own: Path) -> None:
    before = state(own)
    damage(own)
    both = [forks.start("repair", pipeline, f"out={own}") for _ in range(2)]
    for ended in [child.wait() for child in both]:
        assert ended.status == 0, ended.err
    assert_whole(own, before)


@pytest.mark.parametrize("after", [0, 3, 8, 14, 21, 28, 36, 44, 52, 60])
def test_a_killed_repair(forks: Forks, pipeline: Path, own: Path, after: int) -> None:
    before = state(own)
    damage(own)
    killed = forks.run("repair", pipeline, f"out={own}", prelude=KILL_AT.format(after=after))
    assert killed.status == -signal.SIGKILL, killed.err
    for problem in verify(Store.open(own / "store")).problems:
        assert problem.unit in UNITS or problem.path == "zarr.json", problem
    ended = forks.run("repair", pipeline, f"out={own}")
    assert ended.status == 0, ended.err
    shutil.rmtree(own / "store" / "_stage")  # what the killed one staged: it is young, and gc leaves it for a day
    (own / "store" / "_stage").mkdir()
    assert_whole(own, before)


UNITS = {"images/000001", "views/000/000002", "features/tiny/001/000002", "features/tiny/000/000003", "codecs/tiny"}


def test_readers_of_the_old_seal(forks: Forks, pipeline: Path, own: Path) -> None:
    """Whatever is repaired, and whenever they look, they read what the seal says or get an error."""
    store = Store.open(own / "store")
    expected = store.codes("tiny", "patch", 1, 2, store.good_rows(2)).copy()
    wrong: list[str] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            for reader in (store, Store.open(own / "store")):
                try:
                    codes = reader.codes("tiny", "patch", 1, 2, reader.good_rows(2))
                    if not np.array_equal(codes, expected):
                        wrong.append("other codes")
                except CorruptError as error:
                    if "features/tiny/patch/c/1/2/0/0" not in str(error):
                        wrong.append(str(error))

    before = state(own)
    damage(own)
    thread = threading.Thread(target=read)
    thread.start()
    try:
        for _ in range(3):
            ended = forks.run("repair", pipeline, f"out={own}", "features/tiny/001/000002")
            assert ended.status == 0, ended.err
        assert forks.run("repair", pipeline, f"out={own}").status == 0
    finally:
        stop.set()
        thread.join()
    assert wrong == []
    assert_whole(own, before)
