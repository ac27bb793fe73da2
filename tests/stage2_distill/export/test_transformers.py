"""Export for transformers: the names of the released checkpoints, and the library itself where it is installed."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from stillhouse.core.errors import UsageError
from stillhouse.stage2_distill.config import StudentConfig
from stillhouse.stage2_distill.export import FORMATS, Finished
from stillhouse.stage2_distill.export.testing import PLAIN, SMALL, VIT, Opened, PlainVitTests, trained, written
from stillhouse.stage2_distill.export.transformers import hf_names

WITHOUT = "transformers is not installed (13 MB and two compiled packages): only names and config were compared"


class TestTransformers(PlainVitTests):
    name = "transformers"

    def open(self, folder: Path, finished: Finished) -> Opened:
        if importlib.util.find_spec("transformers") is None:
            pytest.skip(WITHOUT)
        from transformers import AutoModel

        model, told = AutoModel.from_pretrained(folder, output_loading_info=True)
        assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), told
        registers = getattr(model.config, "num_register_tokens", 0)

        def features(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
            tokens = model.eval()(x_BCHW).last_hidden_state
            return tokens[:, 0], tokens[:, 1 + registers :]

        return features


def test_the_names_are_those_of_the_released_checkpoints(tmp_path: Path) -> None:
    finished = trained(PLAIN["registers"])[1]
    folder = written(finished, "transformers", tmp_path / "out")
    found = safetensors.torch.load_file(folder / "model.safetensors")
    layer = [f"attention.attention.{part}" for part in ("query", "key", "value")]
    layer += ["attention.output.dense", "mlp.fc1", "mlp.fc2", "norm1", "norm2"]
    names = {f"encoder.layer.{n}.{part}.{kind}" for n in (0, 1) for part in layer for kind in ("weight", "bias")}
    names |= {f"encoder.layer.{n}.layer_scale{k}.lambda1" for n in (0, 1) for k in (1, 2)}
    names |= {f"embeddings.{part}" for part in ("cls_token", "mask_token", "register_tokens", "position_embeddings")}
    names |= {f"embeddings.patch_embeddings.projection.{kind}" for kind in ("weight", "bias")}
    assert set(found) == names | {"layernorm.weight", "layernorm.bias"}
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("dinov2_with_registers", ["Dinov2WithRegistersModel"])
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "image_size", "patch_size")
    assert [config[name] for name in sizes] == [48, 2, 3, 4, 32, 8]
    seen = json.loads((folder / "preprocessor_config.json").read_text())
    assert (seen["crop_size"], seen["size"]) == ({"height": 32, "width": 32}, {"shortest_edge": 36})
    assert (seen["image_mean"], seen["image_std"]) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])


def test_query_key_and_value_are_thirds() -> None:
    qkv = torch.arange(6.0).reshape(6, 1)
    split = dict(hf_names("blocks.3.attn.qkv.weight", qkv))
    at = "encoder.layer.3.attention.attention"
    assert {name: tensor[:, 0].tolist() for name, tensor in split.items()} == {
        f"{at}.query.weight": [0, 1],
        f"{at}.key.weight": [2, 3],
        f"{at}.value.weight": [4, 5],
    }


def test_one_without_registers_is_a_plain_one() -> None:
    config: Any = json.loads(FORMATS["transformers"](trained(PLAIN["vit"])[1]).files["config.json"])
    assert (config["model_type"], config["architectures"]) == ("dinov2", ["Dinov2Model"])
    assert "num_register_tokens" not in config


def test_a_fraction_of_an_mlp_is_refused() -> None:
    config = StudentConfig(model=VIT, model_args={**SMALL, "mlp_ratio": 2.5})
    with pytest.raises(UsageError, match=r"no transformers form: its mlp_ratio is 2\.5, not a whole number"):
        FORMATS["transformers"](trained(config)[1])
