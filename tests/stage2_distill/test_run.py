"""`distill` from end to end on a tiny store: what it makes, what it refuses, and how it goes on after a stop."""

import json
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import safetensors.torch
import timm
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stillhouse.core.errors import SpecMismatchError, UsageError
from stillhouse.core.events import Reporter
from stillhouse.stage1_extract.config import ExtractConfig
from stillhouse.stage1_extract.extract import extract
from stillhouse.stage1_extract.testing import TINY_VIT, TINY_VIT_ARGS, tiny_store, tiny_teacher
from stillhouse.stage2_distill import result as result_module
from stillhouse.stage2_distill import run as run_module
from stillhouse.stage2_distill.config import DistillConfig
from stillhouse.stage2_distill.export import card as export_module
from stillhouse.stage2_distill.export import export_student
from stillhouse.stage2_distill.metrics import read_metrics
from stillhouse.stage2_distill.result import DistillResult
from stillhouse.stage2_distill.run import distill
from stillhouse.stage2_distill.trainer import Trainer
from stillhouse.storage import layout
from stillhouse.storage.growth import Growth, add_growth
from stillhouse.storage.seal import latest_seal, read_seal
from stillhouse.storage.signed_json import signed_json
from stillhouse.storage.store import Store

DEFAULTS: dict[str, Any] = {
    "student": {"model": TINY_VIT, "model_args": TINY_VIT_ARGS},
    "targets": "centred",
    "batch": 8,
    "epochs": 3,
    "warmup_epochs": 1,
    "lr": 0.128,
    "ema": 0.9,
    "device": "cpu",
    "checkpoint_steps": 2,
    "log_steps": 1,
}
"""9 steps: 28 samples are 3 batches of 8."""


class Lines(Reporter):
    """Keeps what it is told to say."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


class Stop(Exception):
    pass


def run(store: Store, folder: Path, reporter: Reporter | None = None, **fields: Any) -> tuple[DistillResult, bool]:
    return distill(store, DistillConfig.model_validate(DEFAULTS | fields), folder, reporter or Reporter(quiet=True))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every exported tensor, raw and averaged."""
    found: dict[str, torch.Tensor] = {}
    for name in ("student", "student-ema"):
        tensors = safetensors.torch.load_file(folder / name / "model.safetensors")
        found |= {f"{name}/{key}": value for key, value in tensors.items()}
    return found


def assert_same_run(folder: Path, undisturbed: Path) -> None:
    ours, theirs = weights(folder), weights(undisturbed)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    lines, expected = read_metrics(folder / "metrics.jsonl"), read_metrics(undisturbed / "metrics.jsonl")
    assert [{**line, "wait_s": 0} for line in lines] == [{**line, "wait_s": 0} for line in expected]


@pytest.fixture(scope="module")
def undisturbed(sealed_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(sealed_store, folder)[1]
    return folder


@pytest.fixture
def unfinished(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of the undisturbed run as if it had been stopped just before its end: checkpoints of steps 6 and 8."""
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    (folder / "result.json").unlink()
    for name in ("student", "student-ema"):
        shutil.rmtree(folder / name)
    return folder


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes training raise `Stop` after a number of steps, as if the machine went away; 0 takes that back."""
    train_step = Trainer.train_step

    def arrange(steps: int) -> None:
        def stopping(self: Trainer, batch: Any) -> Any:
            if steps and self.step >= steps:
                raise Stop
            return train_step(self, batch)

        monkeypatch.setattr(Trainer, "train_step", stopping)

    return arrange


def test_the_loss_falls(sealed_store: Store, tmp_path: Path) -> None:
    result, worked = run(sealed_store, tmp_path, epochs=8, checkpoint_steps=1000)
    losses = [line["total"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert worked and len(losses) == 24
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3])
    assert result.last_losses["total"] == losses[-1]
    assert not (tmp_path / "checkpoints").exists()


def test_what_a_run_leaves(sealed_store: Store, undisturbed: Path) -> None:
    body = json.loads((undisturbed / "result.json").read_text())
    result = DistillResult.model_validate(body)
    assert (result.name, result.teacher, result.num_steps, result.image_size) == ("student", "tiny", 9, 32)
    lines = read_metrics(undisturbed / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 10))
    assert lines[0].keys() == {"step", "lr", "wait_s", "token", "feature", "patch", "total"}
    assert lines[0]["lr"] == 1e-6
    card = json.loads((undisturbed / "student" / "card.json").read_text())
    assert card["weights_sha256"] == result.weights_sha256
    assert card["teacher_spec"]["weights_sha256"] == sealed_store.teacher("tiny").weights_sha256
    assert card["store_sha256"] == result.store_sha256
    student = timm.create_model(f"local-dir:{undisturbed / result.student}", pretrained=True)
    assert sum(parameter.numel() for parameter in student.parameters()) == result.num_parameters
    assert list((undisturbed / "tensorboard").iterdir())


def test_the_same_config_gives_the_same_bits(sealed_store: Store, undisturbed: Path, tmp_path: Path) -> None:
    run(sealed_store, tmp_path, threads=3, pixel_cache_mb=0)
    assert_same_run(tmp_path, undisturbed)


@pytest.mark.parametrize("stops", [[1], [4], [3, 7, 7]])
def test_a_stopped_run_goes_on_bit_for_bit(
    sealed_store: Store, undisturbed: Path, tmp_path: Path, stop_at: Callable[[int], None], stops: list[int]
) -> None:
    for steps in stops:
        stop_at(steps)
        with pytest.raises(Stop):
            run(sealed_store, tmp_path)
        assert not (tmp_path / "result.json").exists()
    stop_at(0)
    reporter = Lines()
    result, worked = run(sealed_store, tmp_path, reporter)
    assert worked and result.num_steps == 9
    last = stops[-1] // 2 * 2  # a checkpoint every second step
    going_on = f"distill student: going on from step {last} of 9"
    assert reporter.lines == ([going_on] if last else [])
    assert_same_run(tmp_path, undisturbed)


@pytest.fixture
def signal_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Makes SIGINT arrive in the middle of a step, so many times; step 0 takes that back."""
    losses_of, handler = Trainer._losses, signal.signal(signal.SIGINT, signal.default_int_handler)

    def arrange(step: int, times: int = 1) -> None:
        def signalling(self: Trainer, *arguments: Any) -> Any:
            for _ in range(times if self.step + 1 == step else 0):
                signal.raise_signal(signal.SIGINT)
            return losses_of(self, *arguments)

        monkeypatch.setattr(Trainer, "_losses", signalling)

    yield arrange
    signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize("stops", [[1], [5], [3, 4, 8], [9]])
def test_a_stop_keeps_every_step(
    sealed_store: Store, undisturbed: Path, tmp_path: Path, signal_at: Callable[..., None], stops: list[int]
) -> None:
    """The step it comes in is finished, and there is a checkpoint of it."""
    for step in stops:
        signal_at(step)
        with pytest.raises(KeyboardInterrupt):
            run(sealed_store, tmp_path, checkpoint_steps=1000)
    signal_at(0)
    reporter = Lines()
    result, _ = run(sealed_store, tmp_path, reporter, checkpoint_steps=1000)
    assert reporter.lines == [f"distill student: going on from step {stops[-1]} of 9"]
    assert result.last_losses == json.loads((undisturbed / "result.json").read_text())["last_losses"]
    assert_same_run(tmp_path, undisturbed)


def test_a_stop_in_the_export_keeps_every_step(
    sealed_store: Store, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(result_module, "export_student", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(sealed_store, tmp_path, checkpoint_steps=1000)
    reporter = Lines()
    run(sealed_store, tmp_path, reporter, checkpoint_steps=1000)
    assert reporter.lines == ["distill student: going on from step 9 of 9"]
    assert_same_run(tmp_path, undisturbed)


def test_a_second_stop_waits_for_nothing(
    sealed_store: Store, undisturbed: Path, tmp_path: Path, signal_at: Callable[..., None]
) -> None:
    signal_at(5, times=2)
    with pytest.raises(KeyboardInterrupt):
        run(sealed_store, tmp_path)
    signal_at(0)
    reporter = Lines()
    run(sealed_store, tmp_path, reporter)
    assert reporter.lines == ["distill student: going on from step 4 of 9"]
    assert_same_run(tmp_path, undisturbed)


def test_the_curves_of_two_sittings_make_one(
    sealed_store: Store, tmp_path: Path, stop_at: Callable[[int], None]
) -> None:
    """What TensorBoard shows: every step once, those beyond the last checkpoint from the later sitting."""
    stop_at(5)
    with pytest.raises(Stop):
        run(sealed_store, tmp_path, checkpoint_steps=3)
    stop_at(0)
    run(sealed_store, tmp_path, checkpoint_steps=3)
    curves = EventAccumulator(str(tmp_path / "tensorboard"))
    curves.Reload()
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [event.step for event in curves.Scalars("total")] == [line["step"] for line in lines] == list(range(1, 10))
    assert [event.value for event in curves.Scalars("total")] == pytest.approx([line["total"] for line in lines])


def test_a_damaged_checkpoint_is_named_and_not_used(sealed_store: Store, undisturbed: Path, unfinished: Path) -> None:
    torn = unfinished / "checkpoints" / "step-00000008"
    (torn / "state.safetensors").write_bytes(b"torn")
    reporter = Lines()
    run(sealed_store, unfinished, reporter)
    assert reporter.lines == [
        f"checkpoint {torn} is damaged and not used",
        "distill student: going on from step 6 of 9",
    ]
    assert_same_run(unfinished, undisturbed)


@pytest.mark.parametrize("where", ["export", "between-exports", "result"])
def test_a_run_stopped_while_it_finishes_finishes_again(
    sealed_store: Store, undisturbed: Path, unfinished: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def die(*_: object) -> str:
        raise Stop

    def once(folder: Path, *rest: Any) -> str:
        return die() if folder.name == "student-ema" else export_student(folder, *rest)

    if where == "result":
        monkeypatch.setattr(result_module, "replace_file", die)
    elif where == "export":
        monkeypatch.setattr(export_module, "publish_folder", die)
    else:
        monkeypatch.setattr(result_module, "export_student", once)
    with pytest.raises(Stop):
        run(sealed_store, unfinished)
    monkeypatch.undo()
    assert run(sealed_store, unfinished)[1]
    assert_same_run(unfinished, undisturbed)
    assert [path.name for path in unfinished.glob(".*")] == [".lock"]


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file."""
    found = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {str(path): (stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}


def test_a_second_call_does_nothing(
    sealed_store: Store, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    monkeypatch.setattr(run_module, "Trainer", None)
    before = snapshot(folder)
    result, worked = run(sealed_store, folder)
    assert not worked and result.num_steps == 9
    assert snapshot(folder) == before
    assert not run(sealed_store, folder, threads=7, log_steps=3, pixel_cache_mb=1, checkpoint_steps=9)[1]


@pytest.mark.parametrize(
    ("fields", "difference"),
    [
        ({"lr": 0.2}, "config.lr: stored 0.128, asked for 0.2"),
        ({"seed": 1}, "config.seed: stored 0, asked for 1"),
        ({"mask": {"ratio": 0.25}}, "config.mask.ratio: stored 0.5, asked for 0.25"),
        ({"objectives": {"token": 1}}, "config.objectives.feature: stored 1.0, asked for None"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_changed_config_is_refused_and_the_field_named(
    sealed_store: Store, undisturbed: Path, unfinished: Path, fields: dict[str, Any], difference: str, finished: bool
) -> None:
    folder = undisturbed if finished else unfinished
    with pytest.raises(SpecMismatchError) as caught:
        run(sealed_store, folder, **fields)
    assert f"run {folder} was made with another setting: {difference}" in caught.value.message
    assert "distill.name" in caught.value.hint


def test_a_run_of_an_earlier_version_is_found(sealed_store: Store, undisturbed: Path, unfinished: Path) -> None:
    """Neither result nor checkpoint of those had what later versions added."""
    body = json.loads((undisturbed / "result.json").read_text())
    kept = {"recipe", "teachers", "temperature", "repeats"}
    assert not kept & body["config"].keys() and "mask_token_std" not in body["config"]["student"]
    del body["teachers"]
    (unfinished / "result.json").write_text(json.dumps(body))
    shutil.copytree(undisturbed / "student", unfinished / "student")
    assert not run(sealed_store, unfinished)[1]
    (unfinished / "result.json").unlink()
    newest = max((unfinished / "checkpoints").iterdir()) / "COMPLETE.json"
    complete = json.loads(newest.read_text())
    facts = complete["facts"]
    del facts["scaler"], facts["identity"]["teachers"]
    newest.write_bytes(signed_json({key: complete[key] for key in ("step", "sha256", "facts")}))
    reporter = Lines()
    assert run(sealed_store, unfinished, reporter)[1]
    assert reporter.lines == ["distill student: going on from step 8 of 9"]
    assert_same_run(unfinished, undisturbed)


def test_new_settings_are_part_of_what_a_run_is(sealed_store: Store, undisturbed: Path) -> None:
    for name, asked in (("repeats", "2"), ("temperature", "2.0")):
        changed: dict[str, Any] = {name: 2}
        with pytest.raises(SpecMismatchError, match=f"config.{name}: stored None, asked for {asked}"):
            run(sealed_store, undisturbed, **changed)


def test_repeated_augmentation_goes_on_bit_for_bit(
    sealed_store: Store, tmp_path: Path, stop_at: Callable[[int], None]
) -> None:
    run(sealed_store, tmp_path / "whole", repeats=2)
    stop_at(5)
    with pytest.raises(Stop):
        run(sealed_store, tmp_path / "stopped", repeats=2)
    stop_at(0)
    run(sealed_store, tmp_path / "stopped", repeats=2)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_a_stopped_run_may_go_on_with_other_threads(sealed_store: Store, undisturbed: Path, unfinished: Path) -> None:
    run(sealed_store, unfinished, threads=1, checkpoint_steps=3, pixel_cache_mb=0)
    assert_same_run(unfinished, undisturbed)


def test_a_batch_larger_than_the_data_is_refused(sealed_store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        run(sealed_store, tmp_path, batch=29)
    message = f"store {sealed_store.root} has 28 training samples, a batch needs 29; set distill.batch to 28 or less"
    assert str(caught.value) == message


def test_an_unsealed_store_is_refused(copy_store: Callable[[], Store], tmp_path: Path) -> None:
    store = copy_store()
    shutil.rmtree(store.root / layout.SEALS)
    with pytest.raises(UsageError, match=r"is not sealed: its extraction did not finish; run `stillhouse extract`"):
        run(store, tmp_path / "run")


def test_teachers_are_picked_by_name(copy_store: Callable[[], Store], tmp_path: Path) -> None:
    store = copy_store()
    with pytest.raises(UsageError, match=r"has no teacher 'tinny'; teachers in it: tiny"):
        run(store, tmp_path / "run", teacher="tinny")
    second = tiny_teacher(tmp_path, "second", seed=1, codec="int8")
    extract(store, second, ExtractConfig(device="cpu"), Reporter(quiet=True))
    with pytest.raises(UsageError, match=r"has 2 teachers \(second, tiny\); name one as distill.teacher"):
        run(store, tmp_path / "run")
    assert run(store, tmp_path / "run", teacher="second", epochs=1)[0].teacher == "second"


def test_a_second_teacher_leaves_finished_runs_finished(copy_store: Callable[[], Store], tmp_path: Path) -> None:
    """What a run was trained on is told by the objects that it read, not by the whole store."""
    store = copy_store()
    assert run(store, tmp_path / "named", teacher="tiny", epochs=1)[1]
    extract(store, tiny_teacher(tmp_path, "second", seed=1), ExtractConfig(device="cpu"), Reporter(quiet=True))
    assert not run(store, tmp_path / "named", teacher="tiny", epochs=1)[1]


def grow(store: Store, num_views: int) -> Store:
    add_growth(store.root, len(store.growths) + 1, Growth(views=num_views))
    return Store.open(store.root)


def extract_again(store: Store, folder: Path) -> None:
    extract(store, tiny_teacher(folder / "weights"), ExtractConfig(device="cpu"), Reporter(quiet=True))


def test_a_run_on_a_store_that_grew_is_another_run(
    copy_store: Callable[[], Store], undisturbed: Path, unfinished: Path, tmp_path: Path
) -> None:
    store = grow(copy_store(), 3)
    assert not run(store, undisturbed)[1]  # nobody has sealed more views
    extract_again(store, tmp_path)
    told = r"was trained on store .*/store as it was by seal 1, 2 views of 28 images; the store has grown to 3 views of 28 "
    for folder in (undisturbed, unfinished):
        with pytest.raises(SpecMismatchError, match=rf"run {folder} {told}.*name the new run otherwise"):
            run(store, folder)
    result, _ = run(Store.open(store.root), tmp_path / "grown", epochs=1)
    assert result.trained_on_sha256 != json.loads((undisturbed / "result.json").read_text())["trained_on_sha256"]


def test_views_that_nobody_has_sealed_are_not_trained_on(copy_store: Callable[[], Store], tmp_path: Path) -> None:
    """Another team is growing the store: some of its views are there and no reader sees them."""
    store = grow(copy_store(), 3)
    result, worked = run(store, tmp_path / "run", epochs=3)
    assert worked
    extract_again(store, tmp_path)
    sealed = latest_seal(store.root)
    assert sealed is not None and (sealed.growths, sealed.content_sha256 == result.store_sha256) == (1, False)
    assert read_seal(store.root, 1).content_sha256 == result.store_sha256


def test_neither_teacher_nor_images_nor_network_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stage two has the store and nothing else."""
    built = tiny_store(tmp_path / "lab")
    store = tmp_path / "elsewhere" / "store"
    shutil.copytree(built.root, store)
    shutil.rmtree(tmp_path / "lab")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked for")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    result, worked = run(Store.open(store), tmp_path / "run", epochs=1)
    assert worked and result.teacher == "tiny"
