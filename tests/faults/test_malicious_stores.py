"""A few crafted stores of each kind, and that the campaign sees a product that does not look."""

from pathlib import Path

import pytest
from malicious_stores import (
    Case,
    Reading,
    crafted_stores,
    every_case,
    honest_store,
    judge,
    mutated_documents,
    run_case,
)

from stillhouse.core.errors import StillhouseError
from stillhouse.storage import foreign, zarr_rules

CHOSEN = (
    "images is a link",
    "_log/units is a link",
    "index/000000.parquet: a link out",
    "index/000000.parquet: a pipe",
    "parquet: one label for every row",
    "parquet: no UTF-8",
    "index: keys with control characters",
    "index: lengths of everything",
    "shard: an offset that overflows",
    "shard: a zstd bomb for a row",
    "_log/spec.json: deep lists",
    "_log/plan.json: block_samples is 2^63",
    "_log/teachers/tiny.json: levels.patch.dim is 2^63",
    "views/params/zarr.json: deep lists",
    'features/tiny/patch/zarr.json: data_type is "object"',
    "a note to make ../../canary again",
)


def chosen(names: tuple[str, ...]) -> list[Case]:
    cases = {case.name: case for case in every_case()}
    return [cases[name] for name in names]


def test_some_of_each_kind(tmp_path: Path) -> None:
    outcome = crafted_stores(tmp_path, chosen(CHOSEN))
    assert outcome.violations == ()
    assert outcome.cases == len(CHOSEN)
    assert list(tmp_path.iterdir()) == [tmp_path / "base"]


def test_every_case_has_a_name_of_its_own() -> None:
    names = [case.name for case in every_case()]
    assert len(set(names)) == len(names) >= 200


def test_mutated_metadata(tmp_path: Path) -> None:
    outcome = mutated_documents(tmp_path, 500)
    assert outcome.violations == () and 100 < int(outcome.facts["refused"]) < 500


def broken_by(folder: Path, name: str) -> str:
    """What the campaign says of one case."""
    base, honest = honest_store(folder)
    broken, _ = run_case(chosen((name,))[0], base, folder / "case", honest)
    return "\n".join(broken)


def test_links_that_are_followed_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("verify", "foreign", "zarr_rules"):
        monkeypatch.setattr(f"stillhouse.storage.{module}.regular_file", lambda root, path: root / path)
    assert "opened 000000.tar outside" in broken_by(tmp_path, "images is a link")


def test_a_hang_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("malicious_stores.SECONDS", 0.5)
    monkeypatch.setattr("stillhouse.storage.foreign.regular_file", lambda root, path: root / path)
    assert "hung" in broken_by(tmp_path, "index/000000.parquet: a pipe")


def test_memory_that_is_taken_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillhouse.storage.index.decoded_bytes", lambda data, metadata: 0)
    monkeypatch.setattr("stillhouse.storage.index._text_bytes", lambda column: 0)
    assert "took" in broken_by(tmp_path, "parquet: a label of 150 MB")


def test_texts_that_unfold_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillhouse.storage.index._text_bytes", lambda column: 0)
    assert "samples 0 differs" in broken_by(tmp_path, "parquet: one label for every row")


def test_other_errors_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "check_facts", lambda unit, value, where: None)
    name = "_log/units/images/000000.json: facts.quarantined is null"
    assert "TypeError" in broken_by(tmp_path, name)


def test_escapes_on_the_terminal_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillhouse.inspection.printable", lambda text: text)
    name = "_log/units/images/000000.json: facts.quarantined.0.key is a control character"
    assert "inspect: ValueError: printed" in broken_by(tmp_path, name)


def test_silence_and_other_content_are_seen() -> None:
    case, honest = Case("c", lambda root, canary: None), Reading({"codes": "1"}, {}, [])
    assert judge(case, Reading({"codes": "2"}, {}, []), honest) == ["c: codes differs"]
    assert judge(case, honest, honest) == ["c: nothing noticed"]
    assert judge(case, Reading({"codes": "1"}, {"open": "x"}, []), honest) == []


def test_a_mutation_that_breaks_a_reader_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(metadata: object, where: str, *, inside: bool = False) -> None:
        if not isinstance(metadata, dict):
            raise StillhouseError("no object")
        metadata["shape"][0]

    monkeypatch.setattr(zarr_rules, "check_node", careless)
    assert any("Error" in line for line in mutated_documents(tmp_path, 300).violations)
