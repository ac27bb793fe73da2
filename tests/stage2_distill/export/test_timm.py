"""Export as timm: timm opens the folder, its features are the trained student's, and nothing else is in it."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from timm.data.config import resolve_model_data_config

from stillhouse.core.encoders import Encoder
from stillhouse.stage2_distill.export import Finished, export_student
from stillhouse.stage2_distill.export.testing import MEAN, OTHER, PLAIN, STD, FormatTests, Opened, pixels_of, trained


def export(finished: Finished, folder: Path) -> str:
    return export_student(folder, dict(finished.weights), dict(finished.config), {"teacher": "tiny"})


class TestTimm(FormatTests):
    name = "timm"
    tolerance = 0

    def open(self, folder: Path, finished: Finished) -> Opened:
        opened = Encoder(timm.create_model(f"local-dir:{folder}", pretrained=True).eval(), "student")

        def features(x_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            tokens = opened(x_BCHW)
            return tokens.cls_BD, tokens.patch_BTD

        return features


def test_it_has_no_classifier(tmp_path: Path) -> None:
    student, finished = trained(OTHER["cnn"][0])
    export(finished, tmp_path / "student")
    opened: Any = timm.create_model(f"local-dir:{tmp_path / 'student'}", pretrained=True).eval()
    x_BCHW = pixels_of(finished)
    assert torch.equal(opened(x_BCHW), student.encoder(x_BCHW).cls_BD)
    assert opened.num_features == student.cls_dim


def test_no_heads_and_no_mask_token_are_in_it(tmp_path: Path) -> None:
    student, finished = trained(PLAIN["vit"])
    export(finished, tmp_path / "student")
    tensors = safetensors.torch.load_file(tmp_path / "student" / "model.safetensors")
    assert tensors.keys() == student.encoder.model.state_dict().keys()
    assert not any(name.startswith(("head", "heads", "student")) or "mask" in name for name in tensors)
    assert sorted(path.name for path in (tmp_path / "student").iterdir()) == [
        "README.md",
        "card.json",
        "config.json",
        "model.safetensors",
    ]


def test_the_preprocessing_is_the_teachers(tmp_path: Path) -> None:
    export(trained(PLAIN["vit"])[1], tmp_path / "student")
    opened = timm.create_model(f"local-dir:{tmp_path / 'student'}", pretrained=True)
    resolve: Any = resolve_model_data_config
    data = resolve(opened)
    assert (tuple(data["mean"]), tuple(data["std"]), data["input_size"]) == (MEAN, STD, (3, 32, 32))
    assert data["interpolation"] == "bicubic"


def test_the_card_names_the_weights(tmp_path: Path) -> None:
    folder, finished = tmp_path / "student", trained(PLAIN["vit"])[1]
    sha256 = export(finished, folder)
    card = json.loads((folder / "card.json").read_text())
    assert (card["teacher"], card["weights_sha256"]) == ("tiny", sha256)
    assert card["files"]["model.safetensors"] == sha256
    assert card["input"] == {"image_size": 32, "mean": list(MEAN), "std": list(STD)}
    assert export(finished, folder) == sha256


def test_a_second_export_replaces_the_first(tmp_path: Path) -> None:
    folder, cnn = tmp_path / "student", trained(OTHER["cnn"][0])
    first, second = export(trained(PLAIN["vit"])[1], folder), export(cnn[1], folder)
    assert first != second
    assert timm.create_model(f"local-dir:{folder}", pretrained=True).num_features == cnn[0].cls_dim
    assert [path.name for path in tmp_path.iterdir()] == ["student"]
