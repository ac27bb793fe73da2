"""Export as ONNX: one graph from normalised pixels to `cls` and `patch`, compared with the student before it leaves.

Legend: B batch, T patches, D width, H and W pixels.
"""

import contextlib
import io
import tempfile
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.core.encoders import Encoder
from stillhouse.core.errors import ResourceError, missing_package

from .base import Finished, Written

OPSET = 18
GRAPH = "student.onnx"
TOLERANCE = 1e-4
"""Largest difference between graph and student, as a share of the largest feature where that is above 1."""
MAX_INLINE_BYTES = 1 << 30
"""Above it the weights lie in a file of their own: a protobuf ends at 2 GB."""


def to_onnx(finished: Finished) -> Written:
    """`student.onnx`, fp32, any batch size, input `pixels` [B, 3, H, W], outputs `cls` [B, D] and `patch` [B, T, D].

    Raises:
        ResourceError: a package of the extra `onnx` is missing, or the graph does not give what the student gives.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise missing_package(package)
    model = _TwoOutputs(finished).eval()
    with tempfile.TemporaryDirectory(prefix="stillhouse-onnx-") as folder:
        _export(model, finished, Path(folder) / GRAPH)
        difference = _difference(model, finished, Path(folder) / GRAPH)
        files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
    if not difference <= TOLERANCE:
        message = f"the ONNX graph differs from the student by {difference:.1e} of its largest feature"
        raise ResourceError(f"{message}, at most {TOLERANCE:g} is let out", hint="try other versions of torch and onnx")
    usage = (
        "import onnxruntime\n\n"
        f'session = onnxruntime.InferenceSession("{GRAPH}", providers=["CPUExecutionProvider"])\n'
        'cls, patch = session.run(["cls", "patch"], {"pixels": pixels.numpy()})\n'
    )
    facts = {"format": "onnx", "opset": OPSET, "precision": "fp32", "largest_difference": difference}
    return Written(files, usage, "onnx", facts)


class _TwoOutputs(nn.Module):
    """An encoder whose tokens are a plain tuple."""

    def __init__(self, finished: Finished) -> None:
        super().__init__()
        self.encoder = Encoder(finished.model(), str(finished.config["architecture"]))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """cls_BD and patch_BTD of pixels_BCHW."""
        tokens = self.encoder(pixels)
        return tokens.cls_BD, tokens.patch_BTD


def _pixels(finished: Finished, num: int) -> Tensor:
    size = (num, 3, finished.image_size, finished.image_size)
    return torch.randn(size, generator=torch.Generator().manual_seed(num))


def _export(model: nn.Module, finished: Finished, path: Path) -> None:
    large = sum(tensor.numel() * tensor.element_size() for tensor in finished.weights.values()) > MAX_INLINE_BYTES
    with _quiet():
        program: Any = torch.onnx.export(
            model,
            (_pixels(finished, 2),),
            input_names=["pixels"],
            output_names=["cls", "patch"],
            dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        program.save(path, external_data=large)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's progress and its warnings about itself are of no use: what counts is compared afterwards."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _difference(model: nn.Module, finished: Finished, path: Path) -> float:
    """The largest between graph and student on random pixels, in batches of two sizes; relative where features are large."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    largest = 0.0
    for num in (1, 3):
        pixels = _pixels(finished, num)
        with torch.inference_mode():
            expected = model(pixels)
        found = session.run(["cls", "patch"], {"pixels": pixels.numpy()})
        for ours, theirs in zip(expected, map(torch.from_numpy, found), strict=True):
            if ours.shape != theirs.shape:
                return float("inf")
            largest = max(largest, float((ours - theirs).abs().max()) / max(1.0, float(ours.abs().max())))
    return largest
