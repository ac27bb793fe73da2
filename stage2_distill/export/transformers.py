"""Export for `transformers`: config.json and model.safetensors of a Dinov2Model, or of one with registers.

The names on disk are those of the released checkpoints, which every version of transformers reads. Nothing of
transformers is needed to write them.
"""

import json
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from stillhouse.core.errors import UsageError

from .base import Finished, Written
from .plain_vit import EPS, plain_vit
from .timm import CONFIG, WEIGHTS, safetensor_bytes

_EMBEDDINGS = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "register_tokens": "embeddings.register_tokens",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
_IN_BLOCK = {
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}


def to_transformers(finished: Finished) -> Written:
    """`model.safetensors`, `config.json` and `preprocessor_config.json`, as `AutoModel.from_pretrained` reads them."""
    model, weights = plain_vit(finished, "transformers")
    ratio = model.blocks[0].mlp.fc1.out_features / model.embed_dim
    if not ratio.is_integer():
        message = f"student {finished.config['architecture']} has no transformers form: its mlp_ratio is {ratio:g}"
        raise UsageError(f"{message}, not a whole number", hint="--to timm and --to onnx take any student")
    renamed = {name: tensor for old, value in weights.items() for name, tensor in hf_names(old, value)}
    files = {
        WEIGHTS: safetensor_bytes(renamed),
        CONFIG: json.dumps(_config(model, int(ratio)), indent=2).encode(),
        "preprocessor_config.json": json.dumps(_preprocessor(finished), indent=2).encode(),
    }
    usage = (
        "from transformers import AutoModel\n\n"
        'model = AutoModel.from_pretrained(".").eval()\n'
        "tokens = model(pixels).last_hidden_state  # [batch, 1 + registers + patches, width], cls first\n"
    )
    return Written(files, usage, "transformers", {"format": "transformers"})


def hf_names(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A tensor of DINOv2's under the name, or the three names, that transformers has for it."""
    if not name.startswith("blocks."):
        yield _EMBEDDINGS[name], tensor
        return
    _, number, rest = name.split(".", 2)
    layer = f"encoder.layer.{number}"
    if rest.startswith("attn.qkv."):
        kind = rest.removeprefix("attn.qkv.")
        for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
            yield f"{layer}.attention.attention.{part}.{kind}", piece
        return
    for ours, theirs in _IN_BLOCK.items():
        rest = rest.replace(ours, theirs)
    yield f"{layer}.{rest}", tensor


def _config(model: Any, mlp_ratio: int) -> dict[str, Any]:
    registers = {"num_register_tokens": model.num_reg_tokens} if model.num_reg_tokens else {}
    return {
        "architectures": ["Dinov2WithRegistersModel" if registers else "Dinov2Model"],
        "model_type": "dinov2_with_registers" if registers else "dinov2",
        "hidden_size": model.embed_dim,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": model.blocks[0].attn.num_heads,
        "mlp_ratio": mlp_ratio,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
        "layer_norm_eps": EPS,
        "image_size": model.patch_embed.img_size[0],
        "patch_size": model.patch_embed.patch_size[0],
        "num_channels": 3,
        "qkv_bias": True,
        "layerscale_value": 1.0,
        "use_swiglu_ffn": False,
        "torch_dtype": "float32",
        **registers,
    }


def _preprocessor(finished: Finished) -> dict[str, Any]:
    """Resize the short side, crop the middle, normalise: as timm does with this student."""
    size = finished.image_size
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": int(size / finished.config["pretrained_cfg"]["crop_pct"])},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": finished.mean,
        "image_std": finished.std,
    }
