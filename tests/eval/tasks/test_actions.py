"""Clips on disk in their layouts, which frames are seen, and the whole evaluation on clips that anyone could tell apart."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stillhouse.core.encoders import Encoder, create_timm
from stillhouse.core.errors import DataError, MissingError
from stillhouse.core.events import Reporter
from stillhouse.eval.linear import LinearConfig
from stillhouse.eval.subjects import Subject
from stillhouse.eval.tasks.action_sets import Clip, read_folders, read_ucf101
from stillhouse.eval.tasks.actions import ActionsConfig, ActionsTask
from stillhouse.eval.tasks.base import Context
from stillhouse.eval.tasks.run import TaskRuns
from stillhouse.stage1_extract.testing import TINY_VIT, TINY_VIT_ARGS
from stillhouse.storage.decode import encode_png
from stillhouse.storage.specs import Preprocessing

CONTEXT = Context(Reporter(quiet=True), device="cpu", threads=1, batch=16)
COLOURS = {"Archery": (220, 60, 40), "Bowling": (40, 90, 220)}
PROBE = LinearConfig(iterations=60, learning_rates=(0.1,))


@pytest.fixture(scope="module")
def subject() -> Subject:
    torch.manual_seed(0)
    encoder = Encoder(create_timm(TINY_VIT, **TINY_VIT_ARGS, img_size=32, num_classes=0), TINY_VIT)
    statistics = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), size=32)
    return Subject("tiny", encoder.eval().requires_grad_(False), statistics, "0")


def film(folder: Path, label: str, seed: int, num: int) -> None:
    """`num` frames of one colour and some noise, numbered without leading zeros."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(1, num + 1):
        noise = random.integers(-30, 31, (40, 48, 3))
        (folder / f"frame{number}.jpg").write_bytes(encode_png((noise + COLOURS[label]).clip(0, 255).astype(np.uint8)))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for part, clips in (("train", 5), ("val", 3)):
        for at, label in enumerate(COLOURS):
            for clip in range(clips):
                film(tmp_path / part / label / f"clip{clip}", label, 100 * at + clip, num=3 + clip)
    return tmp_path


@pytest.fixture
def ucf101(tmp_path: Path) -> Path:
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    train: list[str] = []
    test: list[str] = []
    for at, label in enumerate(COLOURS):
        for group in range(1, 6):
            film(tmp_path / "UCF-101" / label / f"v_{label}_g{group:02d}_c01", label, 10 * at + group, num=2)
            line = f"{label}/v_{label}_g{group:02d}_c01.avi"
            (test if group < 3 else train).append(line if group < 3 else f"{line} {at + 1}")
    (lists / "trainlist01.txt").write_text("\r\n".join(train) + "\r\n")
    (lists / "testlist01.txt").write_text("\n".join(test) + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("total", "num", "expected"),
    [
        (10, 1, [5]),
        (10, 2, [2, 7]),
        (10, 5, [1, 3, 5, 7, 9]),
        (8, 8, list(range(8))),
        (3, 8, [0, 1, 2]),
        (9, 8, [0, 1, 2, 3, 5, 6, 7, 8]),
    ],
)
def test_frames_are_spread_evenly(total: int, num: int, expected: list[int]) -> None:
    clip = Clip("a", "b", tuple(Path(str(i)) for i in range(total)))
    assert [int(frame.name) for frame in clip.evenly(num)] == expected


def test_folders_of_clips(folders: Path) -> None:
    split = read_folders(folders)
    assert split.classes == ("Archery", "Bowling") and (len(split.train), len(split.val)) == (10, 6)
    last = split.val[-1]
    assert (last.label, last.name, last.key(last.frames[0])) == ("Bowling", "clip2", "Bowling/clip2/frame1.jpg")
    (folders / "val" / "Bowling" / "clip2" / "frame10.jpg").write_bytes(last.frames[0].read_bytes())
    (folders / "val" / "Bowling" / "clip2" / "frame1.txt").write_text("no frame")
    names = [frame.name for frame in read_folders(folders).val[-1].frames]
    assert names == [f"frame{i}.jpg" for i in (1, 2, 3, 4, 5, 10)], "in the order of numbers"


def test_official_lists(ucf101: Path) -> None:
    split = read_ucf101(ucf101, 1)
    assert [clip.name for clip in split.train] == [f"v_{c}_g{g:02d}_c01" for c in COLOURS for g in (3, 4, 5)]
    assert [clip.name for clip in split.val] == [f"v_{c}_g{g:02d}_c01" for c in COLOURS for g in (1, 2)]
    assert split.val[0].frames[0] == ucf101 / "UCF-101" / "Archery" / "v_Archery_g01_c01" / "frame1.jpg"


def test_what_is_missing_of_the_official_layout_is_named(ucf101: Path) -> None:
    task = ActionsTask(ActionsConfig(path=str(ucf101), layout="ucf101"))
    task.identity()
    with pytest.raises(MissingError, match=r"trainlist02\.txt is not there: UCF101 with its official lists"):
        read_ucf101(ucf101, 2)
    videos = ucf101 / "UCF-101" / "Archery"
    for group in (1, 2):
        shutil.rmtree(videos / f"v_Archery_g{group:02d}_c01")
    with pytest.raises(
        MissingError, match=r"frames of 2 of 4 clips of .*testlist01\.txt .* in .*v_Archery_g01_c01; unpack"
    ):
        task.identity()
    (videos / "v_Archery_g01_c01.avi").write_bytes(b"video")
    with pytest.raises(
        MissingError, match=r"make them, as by `ffmpeg -i v_Archery_g01_c01\.avi v_Archery_g01_c01/%06d\.jpg`"
    ):
        task.identity()
    (ucf101 / "ucfTrainTestlist" / "testlist01.txt").write_text("Archery/../../x.avi\n")
    with pytest.raises(DataError, match=r"testlist01\.txt:1: 'Archery/\.\./\.\./x\.avi' is no line such as"):
        task.identity()
    (ucf101 / "ucfTrainTestlist" / "testlist01.txt").write_text("\n")
    with pytest.raises(MissingError, match=r"testlist01\.txt names no clip"):
        task.identity()


def test_folders_that_are_not_whole_are_named(folders: Path) -> None:
    with pytest.raises(MissingError, match=r"nowhere is not there: a set of clips with train/ and val/"):
        read_folders(folders / "nowhere")
    for frame in (folders / "val" / "Bowling" / "clip1").iterdir():
        frame.unlink()
    with pytest.raises(MissingError, match=r"val/Bowling/clip1 has no image; the data set is unpacked in part only"):
        read_folders(folders)
    shutil.rmtree(folders / "val" / "Bowling" / "clip1")
    shutil.rmtree(folders / "train" / "Bowling")
    with pytest.raises(DataError, match="class 'Bowling' has clips to judge on and none to fit on"):
        read_folders(folders)
    shutil.rmtree(folders / "val" / "Bowling")
    shutil.rmtree(folders / "val" / "Archery")
    with pytest.raises(MissingError, match=r"val has no folders"):
        read_folders(folders)
    shutil.rmtree(folders / "val")
    with pytest.raises(MissingError, match=r"val is not there"):
        read_folders(folders)


@pytest.mark.parametrize("layout", ["folders", "ucf101"])
def test_clips_of_two_colours_are_told_apart(layout: str, subject: Subject, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue(layout)
    task = ActionsTask(ActionsConfig.model_validate({"path": str(root), "layout": layout, "frames": 2, "probe": PROBE}))
    result = task.run(subject, CONTEXT)
    num = 6 if layout == "folders" else 4
    assert result.items_NK.tolist() == [[1.0]] * num and task.score(result.items_NK) == 1.0
    assert result.details["clips"] == {"train": 10 if layout == "folders" else 6, "val": num}
    assert task.name == {"folders": "actions-folders", "ucf101": "actions-ucf101-1"}[layout]
    json.dumps([result.details, result.chosen], allow_nan=False)
    assert len(result.examples) == num
    for example in result.examples:
        (title, pixels), *others = example.panels
        assert title == f"said {example.key.split('/')[0]}" and tuple(pixels[0, 0]) == (26, 127, 55)
        assert [said for said, _ in others] == [""], "of two frames that the probe saw"


def test_frames_count_alike_whatever_their_order(folders: Path, subject: Subject) -> None:
    """Features of a clip are the mean of those of its frames, each seen alone."""
    task = ActionsTask(ActionsConfig(path=str(folders), frames=8))
    (clip,) = [clip for clip in read_folders(folders).val if (clip.label, clip.name) == ("Archery", "clip1")]
    features, names = task._features(subject, (clip,), ("Archery", "Bowling"), CONTEXT)
    assert names == ("Archery/clip1",) and features.labels.tolist() == [0]
    alone = []
    for frame in clip.frames:
        resized = Image.open(frame).resize((int(37 * 48 / 40), 37), Image.Resampling.BICUBIC)  # 32 * 256 / 224
        left, top = round((resized.width - 32) / 2), round((37 - 32) / 2)
        pixels = np.asarray(resized.crop((left, top, left + 32, top + 32))) / np.float32(255)
        x = torch.from_numpy((pixels - 0.5) / 0.5).permute(2, 0, 1)[None].float()
        with torch.inference_mode():
            alone.append(subject.encoder(x).cls_BD[0].numpy())
    np.testing.assert_allclose(features.cls[0], np.mean(alone, axis=0), atol=1e-5)


def test_a_frame_that_is_another_is_another_data_set(folders: Path) -> None:
    task = ActionsTask(ActionsConfig(path=str(folders), frames=1))
    before = task.identity()
    (folders / "val" / "Archery" / "clip0" / "frame3.jpg").write_bytes(b"not looked at")
    assert task.identity() == before
    (folders / "val" / "Archery" / "clip0" / "frame2.jpg").write_bytes(b"other")
    assert task.identity() != before


def test_what_was_found_is_kept_and_read_again(folders: Path, subject: Subject, tmp_path: Path) -> None:
    task = ActionsTask(ActionsConfig(path=str(folders), frames=1, probe=PROBE))
    runs = TaskRuns(tmp_path / "runs", CONTEXT)
    first, second = (runs.judge(task, "tiny", "weights", lambda: subject) for _ in range(2))
    assert runs.num_judged == 1 and second.result.details == first.result.details and second.score == first.score
