"""Checkpoints: whole or not used, the newest whole one wins, two are kept."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from stillhouse.stage2_distill import checkpoint as module
from stillhouse.stage2_distill.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, truncate_jsonl

FILES = ("state.safetensors", "COMPLETE.json")


def state(step: int) -> Checkpoint:
    torch.manual_seed(step)
    tensors = {"a.weight": torch.randn(3, 4), "step": torch.tensor(float(step)), "b": torch.randn(5).bfloat16()}
    return Checkpoint(tensors, {"step": step, "identity": {"name": "é"}, "seconds": 1.5})


def saved(folder: Path, *steps: int) -> Path:
    for step in steps:
        save_checkpoint(folder, step, state(step))
    return folder


def assert_loads(folder: Path, step: int | None, damaged: list[int]) -> None:
    found, broken = load_checkpoint(folder)
    assert broken == [folder / f"step-{number:08d}" for number in damaged]
    if step is None:
        assert found is None
        return
    assert found is not None and found.facts == state(step).facts
    assert found.tensors.keys() == state(step).tensors.keys()
    for name, tensor in state(step).tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    assert_loads(saved(tmp_path, 7), 7, [])


def test_nothing_there(tmp_path: Path) -> None:
    assert_loads(tmp_path / "absent", None, [])


def test_views_and_gradients_can_be_saved(tmp_path: Path) -> None:
    whole = torch.arange(12.0, requires_grad=True).reshape(3, 4)
    save_checkpoint(tmp_path, 1, Checkpoint({"turned": whole.T, "part": whole[:, 1]}, {"step": 1}))
    found, _ = load_checkpoint(tmp_path)
    assert found is not None
    assert torch.equal(found.tensors["turned"], whole.T) and torch.equal(found.tensors["part"], whole[:, 1])


def test_the_two_newest_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, 5, 10, 100, 1000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000100", "step-00001000"]
    assert_loads(tmp_path, 1000, [])


def test_the_same_step_again_replaces(tmp_path: Path) -> None:
    saved(tmp_path, 5, 10)
    save_checkpoint(tmp_path, 10, Checkpoint({"other": torch.ones(1)}, {"step": 10}))
    found, damaged = load_checkpoint(tmp_path)
    assert found is not None and set(found.tensors) == {"other"} and not damaged


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.9, 0.98])
def test_a_torn_newest_is_named_and_the_older_used(tmp_path: Path, name: str, share: float) -> None:
    path = saved(tmp_path, 1, 2) / "step-00000002" / name
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert_loads(tmp_path, 1, [2])


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_damage(tmp_path: Path, name: str) -> None:
    (saved(tmp_path, 1, 2) / "step-00000002" / name).unlink()
    assert_loads(tmp_path, 1, [2])


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_seen(tmp_path: Path, name: str) -> None:
    """Facts included: a step that reads 3 instead of 2 would train on other data."""
    path = saved(tmp_path, 1, 2) / "step-00000002" / name
    data = path.read_bytes()
    for position in range(len(data.rstrip())):  # the newline at the end of JSON says nothing
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        found, damaged = load_checkpoint(tmp_path)
        assert found is not None and found.facts["step"] == 1, f"bit of byte {position}"
        assert len(damaged) == 1
    path.write_bytes(data)
    assert_loads(tmp_path, 2, [])


def test_all_damaged_is_none(tmp_path: Path) -> None:
    for path in saved(tmp_path, 1, 2).glob("step-*/state.safetensors"):
        path.write_bytes(b"")
    assert_loads(tmp_path, None, [2, 1])


def test_other_json_is_damage(tmp_path: Path) -> None:
    for text in ("[]", "{}", "null", '{"sha256": 3}', '{"sha256": {}, "facts": {}}'):
        (saved(tmp_path, 1, 2) / "step-00000002" / "COMPLETE.json").write_text(text)
        assert_loads(tmp_path, 1, [2])


def test_a_save_that_dies_leaves_the_older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 1)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "publish_folder", die)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, 2, state(2))
    monkeypatch.undo()
    assert_loads(tmp_path, 1, [])
    assert_loads(saved(tmp_path, 2), 2, [])
    assert not list(tmp_path.glob(".*"))


def test_a_removal_that_dies_leaves_the_newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old checkpoint of which only a part is gone is older than the two that are whole."""
    saved(tmp_path, 1, 2)
    removed = shutil.rmtree

    def die(path: Path, ignore_errors: bool = False) -> None:
        if path.name == "step-00000001":
            (path / FILES[0]).unlink()
            raise KeyboardInterrupt
        removed(path, ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", die)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, 3, state(3))
    monkeypatch.undo()
    assert_loads(tmp_path, 3, [])


def test_truncate_drops_later_and_torn_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "total": 0.5}) for step in (1, 2, 3, 4)]
    path.write_text("\n".join([*lines, '{"step": 2, "tot', "", "[]", '{"total": 1}']))
    truncate_jsonl(path, 2)
    assert path.read_text().splitlines() == lines[:2]
    truncate_jsonl(path, 0)
    assert path.read_text() == ""
    truncate_jsonl(tmp_path / "absent.jsonl", 3)
    assert not (tmp_path / "absent.jsonl").exists()
