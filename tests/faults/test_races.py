"""A few races and zombies, and that mixed or contradicting results would be noticed."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import races
from races import MEANWHILE, points_of, race, sealers, unit_name, without_late, write_unit, zombies

from stillhouse.storage import commit, layout, redo
from stillhouse.storage import seal as sealing
from stillhouse.storage.commit import Attempt, publish
from stillhouse.storage.disk import create_once, replace_file
from stillhouse.storage.records import Record
from stillhouse.storage.seal import Seal, latest_seal, seal
from stillhouse.storage.signed_json import signed_json
from stillhouse.storage.store import Store
from stillhouse.storage.testing import StoreShape, make_store, write_features
from stillhouse.storage.verify import verify


@pytest.fixture(scope="module")
def num_calls(tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many calls an attempt makes."""
    folder = tmp_path_factory.mktemp("calls")
    return points_of(lambda _: write_unit(folder / "root", unit_name(0), "one"), folder / "root", folder / "trace")


@pytest.fixture(scope="module")
def unsealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return without_late(tmp_path_factory.mktemp("unsealed"))


@pytest.mark.parametrize("together", [True, False], ids=["together", "in-any-order"])
def test_sixteen_writers_have_one_result(tmp_path: Path, together: bool) -> None:
    winners: Counter[str] = Counter()
    assert race(tmp_path, 25, 0, together, winners) == []
    assert winners.total() == 25


def test_zombies_change_nothing(tmp_path: Path, num_calls: int) -> None:
    for at in range(1, num_calls + 1, 3):
        assert zombies(tmp_path, (at,), MEANWHILE[at // 3 % 3]) == []
    for ats in ((num_calls // 2, num_calls - 3), (3, num_calls // 2, num_calls - 5)):
        assert zombies(tmp_path, ats, "nothing") == []


def test_no_seal_lists_less_than_was_decided(tmp_path: Path, unsealed: Path) -> None:
    for ats in ((0, 0), (0, 3), (3, 0), (4, 4), (4, 5), (5, 4), (9, 0), (9, 3)):
        assert sealers(tmp_path, unsealed, ats) == []


def test_a_seal_publishes_what_a_dead_process_decided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another teacher's process seals meanwhile; what its seal lists must be there."""
    shape = StoreShape()
    store = Store.open(make_store(tmp_path / "store", shape).root)
    unit = layout.features_unit("tiny", 0, 0)
    (store.root / layout.record_path(unit)).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(commit, "publish", lambda root, record: None)
        write_features(store, shape, "tiny", 0, 0)
    chunk = store.root / layout.features_chunk("tiny", "cls", 0, 0)
    chunk.unlink()
    seal(store)
    assert chunk.exists() and verify(store).problems == ()


# --- it would be noticed ---------------------------------------------------------------------------------------------


def test_two_winners_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def last_wins(path: Path, data: bytes) -> bool:
        replace_file(path, data)
        return True

    monkeypatch.setattr(redo, "create_once", last_wins)
    wrong = race(tmp_path, 10, 0, True, Counter())
    assert any("a writer was told" in line for line in wrong) and any("believe they won" in line for line in wrong)


def test_publication_before_the_decision_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_calls: int
) -> None:
    real = Attempt.commit

    def too_early(self: Attempt, facts: dict[str, Any]) -> Record:
        publish(self._root, Record(self.unit, self.id, tuple(self._objects), facts))
        self._folder.mkdir()
        return real(self, facts)

    monkeypatch.setattr(Attempt, "commit", too_early)
    wrong = [line for at in range(1, num_calls, 2) for line in zombies(tmp_path, (at,), "nothing")]
    assert any("is not what the record says" in line for line in wrong) and any(
        "is by b'zombie-0" in line for line in wrong
    )


def test_a_hasty_seal_is_noticed(tmp_path: Path, unsealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that lists the records before it looks at the last seal, and does not look again."""

    def hasty(store: Store) -> Seal:
        objects = [entry for record in sealing.records(store.root) for entry in record.objects]
        last = latest_seal(store.root)
        body = {
            "generation": 1 if last is None else last.generation + 1,
            "content_sha256": sealing.content_digest(objects),
            "objects": [[entry.path, entry.num_bytes, entry.sha256] for entry in objects],
        }
        create_once(store.root / layout.SEALS / f"{body['generation']:04d}.json", signed_json(body))
        sealed = latest_seal(store.root)
        assert sealed is not None
        replace_file(store.root / "zarr.json", sealing.root_metadata(store, sealed))
        return sealed

    monkeypatch.setattr(races, "seal", hasty)
    wrong = [line for ats in ((0, 0), (4, 4), (5, 4), (3, 3)) for line in sealers(tmp_path, unsealed, ats)]
    assert any("a seal was returned without" in line for line in wrong), wrong
