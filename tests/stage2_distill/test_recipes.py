"""Recipes: published numbers, the config above them, and what runs were called before there were recipes."""

from pathlib import Path
from typing import Any

import pytest

from stillhouse.core.config import load_config
from stillhouse.core.errors import UsageError
from stillhouse.stage2_distill.config import LATER, LATER_OF_STUDENT, DistillConfig
from stillhouse.stage2_distill.recipes import RECIPES

SCRIPT: dict[str, Any] = {
    "epochs": 300,
    "batch": 512,
    "repeats": 3,
    "lr": 5e-4,
    "min_lr": 1e-5,
    "warmup_lr": 1e-6,
    "warmup_epochs": 5,
    "schedule": "epoch",
    "weight_decay": 0.05,
    "ema": 0.99996,
    "precision": "fp16",
    "targets": "raw",
    "basis": "channels",
}
"""Proteus' published script, item by item, beside the recipe."""


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_the_published_script(name: str) -> None:
    config = DistillConfig.model_validate({"recipe": name})
    assert {key: getattr(config, key) for key in SCRIPT} == SCRIPT
    assert (config.mask.probability, config.mask.ratio) == (0.5, 0.5)
    student = config.student
    objectives = {"token": 1.0} if name == "proteus_clip" else {"token": 1.0, "feature": 1.0, "patch": 1.0}
    assert config.objectives == objectives
    assert student.layer_scale == (1.0 if name == "proteus_dinov2" else None)
    assert student.mask_token_std == (0.02 if name == "proteus_synclr" else 0.0)


def test_the_config_stands_above_its_recipe() -> None:
    given = {"recipe": "proteus_clip", "epochs": 2, "objectives": {"feature": 2}, "mask": {"ratio": 0.25}}
    config = DistillConfig.model_validate(given)
    assert (config.epochs, config.batch, config.objectives) == (2, 512, {"feature": 2.0})
    assert (config.mask.probability, config.mask.ratio) == (0.5, 0.25)
    wider = DistillConfig.model_validate({"recipe": "proteus_clip", "student": {"image_size": 196}}).student
    assert (wider.image_size, wider.model_args) == (196, {"patch_size": 14})
    other = DistillConfig.model_validate({"recipe": "proteus_clip", "student": {"model": "resnet18"}}).student
    assert (other.model_args, other.layer_scale) == ({}, None)


def test_a_resolved_config_is_the_same_config() -> None:
    config = DistillConfig.model_validate({"recipe": "proteus_synclr", "epochs": 7, "student": {"layer_scale": 0.5}})
    assert DistillConfig.model_validate(config.model_dump(mode="json")) == config


def test_an_unknown_recipe_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "distill.yaml"
    path.write_text("recipe: proteus\n")
    with pytest.raises(UsageError, match="recipe: unknown recipe 'proteus'; known: proteus_dinov2, proteus_clip, prot"):
        load_config(DistillConfig, path)


def test_the_table_of_the_docs_has_every_recipe_and_number() -> None:
    text = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
    table = [line for line in text.splitlines() if line.startswith("| `")]
    assert all(name in text for name in RECIPES)
    for key, value in SCRIPT.items():
        row = next(line for line in table if line.startswith(f"| `{key}`"))
        assert str(value) in row or f"{value:.0e}".replace("e-0", "e-") in row, row


def test_digests_of_configs_from_before_are_what_they_were() -> None:
    """Pinned with the version before recipes and several teachers."""
    assert DistillConfig().digest() == "dfb7a28461b8347b"
    student = {"model": "vit_small_patch14_dinov2"}
    given = {"student": student, "targets": "centred", "batch": 64}
    assert DistillConfig.model_validate(given).digest() == "cd00bef43a5ee8ae"


def test_what_came_later_is_kept_when_it_is_used() -> None:
    used = {"temperature": 2.0, "repeats": 2, "teachers": {"a": {}}, "recipe": "proteus_clip", "accumulate": 2}
    used["pixels"] = "rendered"
    assert used.keys() == LATER.keys()
    described = DistillConfig.model_validate({**used, "student": {"mask_token_std": 0.02}}).described()
    assert LATER.keys() < described.keys() and LATER_OF_STUDENT.keys() < described["student"].keys()
