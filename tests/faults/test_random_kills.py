"""A few random kills, and that what goes wrong would be noticed."""

from pathlib import Path

import pytest
from random_kills import forked_crew, many

from stillhouse.storage import redo
from stillhouse.storage.disk import replace_file


def test_workers_killed_at_random_lose_nothing(tmp_path: Path) -> None:
    seen = many(forked_crew(tmp_path), tmp_path, (2, 3), num=2, num_kills=10)
    assert seen.violations == []
    assert seen.kills >= 10 and seen.acknowledged > 0


def test_a_decision_that_can_be_taken_twice_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def last_wins(path: Path, data: bytes) -> bool:
        replace_file(path, data)
        return True

    crew = forked_crew(tmp_path)
    monkeypatch.setattr(redo, "create_once", last_wins)
    seen = many(crew, tmp_path, (4,), num=3, num_kills=0)
    assert any(" was acknowledged as " in line for line in seen.violations)
