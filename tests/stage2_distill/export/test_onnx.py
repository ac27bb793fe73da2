"""Export as ONNX: onnxruntime gives the student's features at any batch size, and a graph that does not is kept back."""

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from stillhouse.core.errors import ResourceError
from stillhouse.stage2_distill.export import FORMATS, Finished
from stillhouse.stage2_distill.export import onnx as module
from stillhouse.stage2_distill.export.testing import OTHER, PLAIN, FormatTests, Opened, pixels_of, trained, written


class TestOnnx(FormatTests):
    name = "onnx"
    takes = ("vit", "registers without position", "cnn", "pooled")  # seconds each; whatever torch exports, it takes
    same_bytes = False  # torch names nodes as it likes

    def open(self, folder: Path, finished: Finished) -> Opened:
        session = onnxruntime.InferenceSession(folder / "student.onnx", providers=["CPUExecutionProvider"])

        def features(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
            cls, patch = session.run(["cls", "patch"], {"pixels": x_BCHW.numpy()})
            return torch.from_numpy(cls), torch.from_numpy(patch)

        return features


def test_the_graph_says_what_it_takes(tmp_path: Path) -> None:
    finished = trained(PLAIN["vit"])[1]
    folder = written(finished, "onnx", tmp_path / "out")
    model = onnx.load(folder / "student.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(each.domain, each.version) for each in model.opset_import if each.domain == ""] == [("", 18)]
    sizes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert sizes == {"pixels": ["batch", 3, 32, 32], "cls": ["batch", 48], "patch": ["batch", 16, 48]}
    session = onnxruntime.InferenceSession(folder / "student.onnx", providers=["CPUExecutionProvider"])
    for num in (1, 5):
        assert session.run(["cls"], {"pixels": pixels_of(finished, num).numpy()})[0].shape == (num, 48)


def test_the_difference_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    finished = trained(PLAIN["vit"])[1]
    facts = FORMATS["onnx"](finished).facts
    assert (facts["opset"], facts["precision"]) == (18, "fp32") and 0 < facts["largest_difference"] < 1e-5
    exported, other = module._export, trained(PLAIN["cls without position"])[1]
    monkeypatch.setattr(module, "_export", lambda model, it, path: exported(module._TwoOutputs(other).eval(), it, path))
    with pytest.raises(ResourceError, match=r"the ONNX graph differs from the student by .* of its largest feature"):
        FORMATS["onnx"](finished)


def test_large_weights_lie_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_INLINE_BYTES", 1000)
    finished = trained(PLAIN["vit"])[1]
    folder = written(finished, "onnx", tmp_path / "out")
    assert sorted(path.name for path in folder.iterdir()) == ["student.onnx", "student.onnx.data"]
    cls, _ = TestOnnx().open(folder, finished)(pixels_of(finished))
    assert cls.shape == (2, 48)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "onnxscript" else True)
    with pytest.raises(ResourceError) as caught:
        FORMATS["onnx"](trained(OTHER["cnn"][0])[1])
    assert str(caught.value) == "the package 'onnxscript' is not installed; run `pip install 'stillhouse[onnx]'`"
