"""Levels: blocks within a teacher and its classifier, by name, as the model itself computes them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from stillhouse.core.encoders import Encoder, create_timm
from stillhouse.core.errors import UsageError
from stillhouse.core.events import Reporter
from stillhouse.stage1_extract.config import ExtractConfig, TeacherConfig
from stillhouse.stage1_extract.extract import extract
from stillhouse.stage1_extract.fitting import identity
from stillhouse.stage1_extract.ingest import ingest
from stillhouse.stage1_extract.levels import block_of, levels_of
from stillhouse.stage1_extract.teachers import Teacher
from stillhouse.stage1_extract.testing import TINY_VIEWS, tiny_images, tiny_ingest, tiny_teacher
from stillhouse.storage.decode import decode
from stillhouse.storage.store import Store
from stillhouse.storage.views import render


def vit(**fields: Any) -> Encoder:
    torch.manual_seed(0)
    args = {"embed_dim": 24, "depth": 3, "num_heads": 3, "patch_size": 8, "img_size": 32, "num_classes": 5}
    return Encoder(create_timm("vit_tiny_patch16_224", **{**args, **fields}), "vit").eval()


X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_the_last_levels_are_the_encoders_tokens() -> None:
    encoder = vit()
    with torch.inference_mode():
        found, tokens = levels_of(encoder, X, ("patch", "cls")), encoder(X)
    assert list(found) == ["patch", "cls"]
    assert torch.equal(found["cls"].tokens_BTD[:, 0], tokens.cls_BD) and found["cls"].grid is None
    assert torch.equal(found["patch"].tokens_BTD, tokens.patch_BTD) and found["patch"].grid == (4, 4)


def test_a_block_is_what_the_model_has_after_it() -> None:
    """Computed here block by block; the last block behind the norm is the default level."""
    encoder = vit()
    model = encoder.model
    with torch.inference_mode():
        found = levels_of(
            encoder, X, ("patch-block2", "cls-block2", "patch-block2-normed", "patch-block3-normed", "patch")
        )
        tokens = model._pos_embed(model.patch_embed(X))
        for block in model.blocks[:2]:
            tokens = block(tokens)
        normed = model.norm(tokens)
    torch.testing.assert_close(found["patch-block2"].tokens_BTD, tokens[:, 1:])
    torch.testing.assert_close(found["cls-block2"].tokens_BTD, tokens[:, :1])
    torch.testing.assert_close(found["patch-block2-normed"].tokens_BTD, normed[:, 1:])
    torch.testing.assert_close(found["patch-block3-normed"].tokens_BTD, found["patch"].tokens_BTD)
    assert found["patch-block2"].grid == (4, 4) and found["cls-block2"].grid is None


@pytest.mark.parametrize(
    "fields",
    [{"reg_tokens": 2}, {"class_token": False, "global_pool": "avg"}, {"class_token": False, "global_pool": "map"}],
)
def test_blocks_with_registers_and_without_a_cls(fields: dict[str, Any]) -> None:
    """Patches are what the block leaves less its prefix, of which there may be none."""
    encoder = vit(**fields)
    seen: list[torch.Tensor] = []
    encoder.model.blocks[1].register_forward_hook(lambda module, given, made: seen.append(made))
    with torch.inference_mode():
        found = levels_of(encoder, X, ("patch-block2", "patch-block2-normed", "patch"))
        normed = encoder.model.norm(seen[0])
    prefix = encoder.model.num_prefix_tokens
    assert torch.equal(found["patch-block2"].tokens_BTD, seen[0][:, prefix:])
    torch.testing.assert_close(found["patch-block2-normed"].tokens_BTD, normed[:, prefix:])
    assert found["patch-block2"].grid == found["patch"].grid == (4, 4)


def test_logits_are_the_models_own() -> None:
    encoder = vit()
    with torch.inference_mode():
        found = levels_of(encoder, X, ("logits",))["logits"]
        torch.testing.assert_close(found.tokens_BTD[:, 0], encoder.model(X))
    assert found.tokens_BTD.shape == (2, 1, 5) and found.grid is None


def test_a_stage_of_a_cnn_is_a_block() -> None:
    encoder = Encoder(create_timm("resnet10t", num_classes=0), "resnet10t").eval()
    with torch.inference_mode():
        found = levels_of(encoder, torch.ones(1, 3, 64, 64), ("patch-block4", "patch"))
    assert found["patch-block4"].grid == (4, 4) and found["patch-block4"].tokens_BTD.shape == (1, 16, 256)
    assert found["patch"].grid == (2, 2)


@pytest.mark.parametrize(
    ("model", "name", "says"),
    [
        ("vit", "patch-block4", "has 3 blocks, not 4"),
        ("headless", "logits", "has no classifier"),
        ("pooled", "cls-block2", "has no cls token within it; name level cls, or patch-block2"),
        ("cnn", "cls-block4", "neither a cls nor a final norm; name level patch-block4"),
        ("cnn", "patch-block4-normed", "neither a cls nor a final norm"),
    ],
)
def test_what_a_model_has_not_is_refused(model: str, name: str, says: str) -> None:
    encoder = vit(num_classes=0) if model == "headless" else vit()
    if model == "pooled":
        encoder = vit(class_token=False, global_pool="avg")
    if model == "cnn":
        encoder = Encoder(create_timm("resnet10t", num_classes=0), "resnet10t").eval()
    with torch.inference_mode(), pytest.raises(UsageError, match=says):
        levels_of(encoder, X, (name,))


@pytest.mark.parametrize("name", ["", "patches", "patch-block0", "patch-block", "logits-block2", "patch-block2-norm"])
def test_other_names_are_no_levels(name: str) -> None:
    with pytest.raises(ValueError, match="no level is named"):
        block_of(name)


def test_each_level_needs_a_codec(tmp_path: Path) -> None:
    teacher = tiny_teacher(tmp_path, levels=("cls",), codec={"cls": "int8"})
    assert teacher.codec_of("cls") == "int8"
    with pytest.raises(ValidationError, match="a codec for each level is needed: cls, logits; got cls"):
        tiny_teacher(tmp_path, levels=("cls", "logits"), codec={"cls": "int8"})
    with pytest.raises(ValidationError, match="each once; got cls, cls"):
        tiny_teacher(tmp_path, levels=("cls", "cls"))


def test_defaults_are_told_as_before_there_were_others(tmp_path: Path) -> None:
    """Stores that were made before stay the same teacher's."""
    told = identity(tiny_teacher(tmp_path))
    assert "levels" not in told and "positions" not in told
    assert identity(tiny_teacher(tmp_path, levels=("cls",)))["levels"] == ["cls"]
    assert identity(tiny_teacher(tmp_path, positions="plain"))["positions"] == "plain"


def test_a_store_holds_the_levels_that_are_named(tmp_path: Path) -> None:
    """Without patches, with logits and a block: written and read again, equal to the teacher's word to half precision."""
    names = ("cls", "logits", "patch-block1")
    ingest(tmp_path / "store", tiny_ingest(tiny_images(tmp_path / "images", 20)), TINY_VIEWS, Reporter(quiet=True))
    store, teacher = Store.open(tmp_path / "store"), tiny_teacher(tmp_path / "weights", levels=names)
    extract(store, teacher, ExtractConfig(device="cpu"), Reporter(quiet=True))
    spec = store.teacher(teacher.name)
    assert tuple(spec.levels) == names
    assert spec.levels["logits"].grid is None and spec.levels["patch-block1"].grid is not None
    row = int(store.good_rows(0)[0])
    pixels = render(decode(store.image_bytes(0, row)), store.view_params(1, 0)[row], store.spec.view_size)
    expected = Teacher(teacher, view_size=store.spec.view_size, device="cpu")(pixels[None])
    for level in names:
        stored = store.codec(teacher.name, level).decode(
            store.features(teacher.name, level).read(1, 0, np.array([row]))
        )
        np.testing.assert_allclose(stored, expected[level], rtol=2e-3, atol=2e-3)


def test_the_default_is_what_it_was() -> None:
    assert TeacherConfig(name="t", model="m").levels == ("cls", "patch")
