"""What a newcomer gets wrong: one clear line that names the thing, the rule and the remedy, and the right exit code."""

import io
import os
import re
import struct
import tarfile
import zlib
from pathlib import Path

import pytest

from stillhouse.stage1_extract.testing import random_weights, tiny_images
from stillhouse.testing import Ended, run_here


def refused(ended: Ended, status: int = 2) -> str:
    """The last line, without `error: `; steps that were done before it may have said so."""
    assert ended.status == status, ended
    assert ended.out == "" and "Traceback" not in ended.err
    *steps, last = ended.err.splitlines()
    assert all(re.match(r"(ingest|extract|distill|eval): ", line) for line in steps) and last.startswith("error: ")
    return last.removeprefix("error: ")


# --- the config ------------------------------------------------------------------------------------------------------

CONFIGS = {
    "distil.epochs=3": "config PATH: unknown key 'distil'; did you mean 'distill'?",
    "distill.epoch=3": "override 'distill.epoch=3': unknown key 'distill.epoch'; did you mean 'epochs'?",
    "distill.epochs=many": (
        "override 'distill.epochs=many': distill.epochs: Input should be a valid integer, unable to parse string as an "
        "integer; got 'many'"
    ),
    "distill.epochs=0": (
        "override 'distill.epochs=0': distill.epochs: Input should be greater than or equal to 1; got 0"
    ),
    "ingest.source.kind=floder": (
        "override 'ingest.source.kind=floder': ingest.source.kind: unknown kind 'floder'; did you mean 'folder'?"
    ),
    "ingest.source={path: /x}": "override 'ingest.source={path: /x}': 'ingest.source.kind' is required and not given",
    "ingest.source.pth=/x": "override 'ingest.source.pth=/x': unknown key 'ingest.source.pth'; did you mean 'path'?",
    "distill.objectives={tokn: 1}": (
        "override 'distill.objectives={tokn: 1}': distill.objectives: unknown objective 'tokn'; known: token, feature,"
    ),
    "ingest.split={test: 1.5}": "override 'ingest.split={test: 1.5}': ingest.split: shares must be above 0 and add up",
    "views.policy=center": "config PATH:10: views: policy 'center' gives every view the same pixels, so 2 views would",
    "out=": "override 'out=': out: Input should be a valid string; got None",
    "teachers=[]": "override 'teachers=[]': teachers: Tuple should have at least 1 item",
    "epochs": "override 'epochs' is not of the form section.key=value",
}


@pytest.mark.parametrize("override", CONFIGS)
def test_a_wrong_setting(pipeline: Path, tmp_path: Path, override: str) -> None:
    told = refused(run_here("run", pipeline, f"out={tmp_path / 'out'}", override))
    assert told.startswith(CONFIGS[override].replace("PATH", str(pipeline))), told
    assert not (tmp_path / "out").exists()


def test_a_typing_error_in_the_file_names_its_line(pipeline: Path, tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(pipeline.read_text().replace("epochs: 3", "epoch: 3", 1))
    number = next(n for n, line in enumerate(path.read_text().splitlines(), 1) if "epoch: 3" in line)
    told = refused(run_here("run", path, f"out={tmp_path / 'out'}"))
    assert told == f"config {path}:{number}: unknown key 'distill.epoch'; did you mean 'epochs'?"


def test_a_config_that_is_none(tmp_path: Path) -> None:
    for path, said in (
        (tmp_path / "gone.yaml", "No such file or directory; name a file that exists"),
        (tmp_path, "Is a directory; name a file that exists"),
    ):
        assert refused(run_here("run", path)) == f"config {path}: {said}"
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    assert "not UTF-8 text (byte 0)" in refused(run_here("run", tmp_path / "image.png"))


def test_places_that_cannot_be_folders(pipeline: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nope")):
        told = refused(run_here("run", pipeline, f"out={out}"))
        assert told.startswith(f"out: '{out}' cannot be a folder: ") and told.endswith("or can be made")
    told = refused(run_here("run", pipeline, f"out={tmp_path / 'out'}", f"store={tmp_path / 'file'}"))
    assert told == f"{tmp_path / 'file'} is not empty and not a store; name an empty folder for the store"
    told = refused(run_here("run", pipeline, f"out={tmp_path / 'out'}", f"store={tmp_path / 'file' / 'below'}"))
    assert "lies below a file, not a folder" in told


# --- the images ------------------------------------------------------------------------------------------------------


def test_no_images(pipeline: Path, tmp_path: Path) -> None:
    out = f"out={tmp_path / 'out'}"
    (tmp_path / "empty").mkdir()
    told = refused(run_here("run", pipeline, out, f"ingest.source.path={tmp_path / 'empty'}"))
    assert told.startswith(f"source folder {tmp_path / 'empty'}: no images found; put files there that end in one of")
    told = refused(run_here("run", pipeline, out, f"ingest.source.path={tmp_path / 'gone'}"))
    assert told == f"source folder {tmp_path / 'gone'}: no such folder; set `path` to a folder of images"
    assert not (tmp_path / "out" / "store").exists()


def test_two_samples_of_one_key(pipeline: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            member = tarfile.TarInfo("0001.png")
            member.size = 5
            tar.addfile(member, io.BytesIO(b"image"))
    source = f"{{kind: webdataset, path: '{tmp_path}/{{a,b}}.tar'}}"
    told = refused(run_here("run", pipeline, f"out={tmp_path / 'out'}", f"ingest.source={source}"))
    assert f"two samples have the key '0001' ({tmp_path}/a.tar:512:5 and {tmp_path}/b.tar:512:5)" in told
    assert told.endswith("; make keys unique or set prefix_tar: true")


def bomb(width: int, height: int) -> bytes:
    """A small PNG that says it is a huge one."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" * 99)), chunk(b"IEND", b""))
    return b"".join((b"\x89PNG\r\n\x1a\n", *parts))


def test_bad_images_are_left_out_and_told(pipeline: Path, tmp_path: Path) -> None:
    """The run goes on without them and ends with 7, every time; `inspect` lists them."""
    images = tiny_images(tmp_path / "images", 42)
    whole = (images / "a" / "0000.png").read_bytes()
    bad = {"bomb.png": bomb(60_000, 60_000), "cut.png": whole[:300], "text.png": b"hello", "zero.png": b""}
    for name, data in bad.items():
        (images / "a" / name).write_bytes(data)
    chosen = [f"out={tmp_path / 'out'}", f"ingest.source.path={images}"]
    told = (
        "ingest: 4 images left out, in quarantine (1 empty, 1 not-an-image, 1 too-many-pixels, 1 truncated); "
        f"`stillhouse inspect {tmp_path / 'out' / 'store'}` lists them\n"
    )
    for _ in range(2):
        ended = run_here("run", pipeline, *chosen)
        assert ended.status == 7 and told in ended.err and "held-out images" in ended.out
    found = run_here("inspect", tmp_path / "out" / "store", "--json").json()
    reasons = {"a/bomb.png": "too-many-pixels", "a/cut.png": "truncated", "a/text.png": "not-an-image"}
    listed = {bad["key"]: bad["reason"] for bad in found["quarantined"]}
    assert listed == {**reasons, "a/zero.png": "empty"} and found["samples"] == 46
    assert "a/bomb.png" in (tmp_path / "out" / "report.html").read_text()
    assert run_here("verify", tmp_path / "out" / "store").status == 0


def test_nothing_but_bad_images(pipeline: Path, tmp_path: Path) -> None:
    for i in range(12):
        path = tmp_path / "images" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no image")
    for _ in range(2):
        chosen = [f"out={tmp_path / 'out'}", f"ingest.source.path={tmp_path / 'images'}", "distill.batch=2"]
        told = refused(run_here("run", pipeline, *chosen))
        store = tmp_path / "out" / "store"
        assert told == (
            f"none of the training images of store {store} can be read (12 not-an-image); "
            f"`stillhouse inspect {store}` lists them; mend them and name a new `store`"
        )


# --- the teacher -----------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_is_none(pipeline: Path, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("gone.safetensors", "noise.safetensors", "noise.pth")}
    for name in ("noise.safetensors", "noise.pth"):
        files[name].write_bytes(os.urandom(999))
    out = f"out={tmp_path / 'out'}"
    told = refused(run_here("run", pipeline, out, f"teachers.0.checkpoint={files['gone.safetensors']}"), 6)
    assert told == f"checkpoint {files['gone.safetensors']}: no such file; name a .safetensors or .pth file"
    for name in ("noise.safetensors", "noise.pth"):
        told = refused(run_here("run", pipeline, out, f"teachers.0.checkpoint={files[name]}"))
        assert told.startswith(f"checkpoint {files[name]} cannot be read: ") and told.endswith("; is it whole?")


def test_a_checkpoint_of_another_model(pipeline: Path, tmp_path: Path) -> None:
    other = random_weights(tmp_path / "resnet.safetensors", "test_resnet", {})
    told = refused(run_here("run", pipeline, f"out={tmp_path / 'out'}", f"teachers.0.checkpoint={other}"))
    assert told.startswith(f"checkpoint {other} is not for this model: ")
    assert "missing (blocks.0.attn.proj.bias, " in told and "unexpected (bn1.bias, " in told
    assert told.endswith("; check `model` and `keys`")


def test_arguments_that_the_model_does_not_take(pipeline: Path, tmp_path: Path) -> None:
    for args, said in (
        ("{embed_dim: 50, num_heads: 3}", "dim should be divisible by num_heads"),
        ("{wings: 2}", "got an unexpected keyword argument 'wings'"),
    ):
        told = refused(run_here("run", pipeline, f"out={tmp_path / 'out'}", f"teachers.0.model_args={args}"))
        assert told.startswith("model 'vit_tiny_patch16_224' with {") and said in told
        assert told.endswith("; see timm's documentation")


# --- a store, and what is trained from it ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("views.size=48", "views.size: stored 32, asked for 48"),
        ("views.seed=7", "views.seed: stored 0, asked for 7"),
        ("ingest.split={test: 0.4}", "ingest.split.test: stored 0.3, asked for 0.4"),
        ("ingest.source.recursive=false", "ingest.source.recursive: stored True, asked for False"),
    ],
)
def test_a_store_of_another_spec(finished: Path, pipeline: Path, tmp_path: Path, override: str, field: str) -> None:
    store = finished / "store"
    ended = run_here("run", pipeline, f"out={tmp_path}", f"store={store}", override, "--json")
    assert ended.status == 3
    message = f"store {store} was made from another spec: {field}"
    hint = "undo the change, or name another folder as `store`"
    assert ended.json()["error"] == {"kind": "spec-mismatch", "message": message, "hint": hint, "exit_code": 3}
    assert ended.last == f"error: {message}; {hint}"


def test_a_teacher_of_another_setting(finished: Path, pipeline: Path, tmp_path: Path) -> None:
    chosen = [f"out={tmp_path}", f"store={finished / 'store'}", "teachers.0.codec=int8"]
    told = refused(run_here("run", pipeline, *chosen), 3)
    assert told == (
        f"store {finished / 'store'} holds features of another 'tiny': codec: stored 'fp16', asked for 'int8'; "
        "give this teacher another name"
    )


CNN = "distill.student={model: test_resnet, image_size: 128}"
BATCH = "store STORE has 30 training samples, a batch needs 31; set distill.batch to 30 or less"
MASK = (
    "objective 'patch' hides single patches, which student test_resnet cannot do; "
    "use a timm VisionTransformer, or objectives: {token: 1, feature: 1}"
)
NAN = "the loss of step 4 is nan; use a smaller distill.lr, targets: centred, or precision: fp32"


def test_a_student_on_another_grid_is_trained_and_told_of(finished: Path, pipeline: Path, tmp_path: Path) -> None:
    override = "distill.student.image_size=48"
    ended = run_here("distill", pipeline, f"out={tmp_path}", f"store={finished / 'store'}", override)
    assert ended.status == 0, ended
    assert "its patches lie on a grid of 6x6, those of teacher tiny of 4x4: resampled bilinearly" in ended.err


@pytest.mark.parametrize(
    ("override", "status", "said"),
    [
        ("distill.batch=31", 2, BATCH),
        (CNN, 2, MASK),
        ("distill.mask={probability: 0.01}", 2, "mask probability 0.01 and ratio 0.5 hide nothing in batches of 8"),
        ("distill.lr=1e9", 6, NAN),
        ("distill.device=cuda:9", 6, "device 'cuda:9': no CUDA device is visible; use device: cpu or auto"),
    ],
)
def test_a_student_that_cannot_be(
    finished: Path, pipeline: Path, tmp_path: Path, override: str, status: int, said: str
) -> None:
    ended = run_here("distill", pipeline, f"out={tmp_path}", f"store={finished / 'store'}", override)
    told = refused(ended, status)
    assert told.startswith(said.replace("STORE", str(finished / "store"))), told


def test_a_cnn_student_without_the_patch_objective(finished: Path, pipeline: Path, tmp_path: Path) -> None:
    """As the message says."""
    chosen = [f"out={tmp_path}", f"store={finished / 'store'}", CNN, "distill.objectives={token: 1, feature: 1}"]
    ended = run_here("run", pipeline, *chosen)
    assert ended.status == 0, ended.err
    assert "test_resnet at 128 pixels" in (tmp_path / "report.html").read_text()


def test_another_setting_for_a_finished_student(own: Path, pipeline: Path) -> None:
    told = refused(run_here("run", pipeline, f"out={own}", "distill.epochs=4"), 3)
    folder = own / "students" / "student-seed0"
    assert told == (
        f"run {folder} was made with another setting: config.epochs: stored 3, asked for 4; "
        "name the new run otherwise (distill.name), or remove the folder"
    )


def test_damage_that_is_met_while_training(own: Path, pipeline: Path) -> None:
    images = own / "store" / "images" / "000000.tar"
    data = bytearray(images.read_bytes())
    start = data.index(b"IDAT") + 20
    data[start : start + 4] = b"!!!!"
    images.write_bytes(data)
    told = refused(run_here("distill", pipeline, f"out={own}", "distill.name=other"), 4)
    where = rf"image '[abc]/\d{{4}}\.png' at offset \d+ of {images}"
    assert re.fullmatch(rf"{where} does not match its crc32c; run `stillhouse verify` on the store", told), told
