"""Published numbers: spot checks of the table, whole rows, and which rows belong to a report."""

import pytest

from stillhouse.eval.published import FAMILIES, PUBLISHED, published_for

KINDS = {"knn", "linear", "fine-grained", "segmentation", "depth", "retrieval", "robustness"}


@pytest.mark.parametrize(
    ("task", "data", "protocol", "model", "value"),
    [
        ("knn", "ImageNet-1k", "kNN", "DINOv2-g/14", 83.5),
        ("linear", "ImageNet-1k", "linear probe", "Proteus-S/14", 81.8),
        ("linear", "ImageNet-1k", "linear probe, run by Proteus", "DINOv2-S/14", 81.1),
        ("fine-grained", "12 fine-grained sets", "logistic regression (DINOv2)", "DINOv2-L/14", 91.2),
        ("fine-grained", "12 fine-grained sets", "logistic regression (Proteus)", "Proteus-B ← CLIP-L/14", 85.7),
        ("segmentation", "ADE20K", "linear, 4 blocks, multi-scale (+ms)", "DINOv2-B/14", 51.3),
        ("segmentation", "ADE20K", "UperNet fine-tuned at 518", "Proteus-Ti/14", 40.7),
        ("depth", "NYU depth v2", "linear, 4 blocks (lin.4)", "DINOv2-L/14", 0.333),
        ("depth", "NYU depth v2", "DPT fine-tuned", "Proteus-L/14", 0.24),
        ("retrieval", "Oxford, hard", "cosine ranking", "DINOv2-L/14", 54.0),
        ("retrieval", "Paris, medium", "cosine ranking", "DINOv2-S/14", 84.6),
        ("robustness", "ImageNet-C", "", "Proteus-B/14", 38.6),
    ],
)
def test_values_as_printed(task: str, data: str, protocol: str, model: str, value: float) -> None:
    key = task, data, protocol, model
    assert [row.value for row in PUBLISHED if (row.task, row.data, row.protocol, row.model) == key] == [value]


def test_every_row_is_whole_and_there_once() -> None:
    keys = [(row.task, row.data, row.protocol, row.metric, row.model) for row in PUBLISHED]
    assert len(set(keys)) == len(keys)
    for row in PUBLISHED:
        assert row.task in KINDS and row.teacher in (*FAMILIES, "") and row.spec.startswith("§")
        assert row.source in ("DINOv2 (TMLR 2024)", "Proteus (ICLR 2025)") and row.value > 0
        assert row.higher_is_better == (row.metric not in ("RMSE in m", "error"))
        assert (row.value < 2) == (row.metric == "RMSE in m")
    assert {row.task for row in PUBLISHED} == KINDS


def test_families() -> None:
    families = {row.model: row.teacher for row in PUBLISHED}
    assert families["Proteus-S/14"] == families["DINOv2-g/14"] == "dinov2"
    assert families["Proteus-B ← SynCLR-L/14"] == "synclr" and families["CLIP-B/16"] == "clip"
    assert families["DeiT-S ← RegNetY"] == families["iBOT-S"] == ""


def test_only_what_ran_or_is_of_the_family() -> None:
    assert published_for(["faces"], ["resnet50"]) == ([], [])
    ran, family = published_for(["knn", "Fine_Grained"], ["resnet50"])
    assert {row.task for row in ran} == {"knn", "fine-grained"} and family == []
    assert {row.task for row in published_for(["classification"], [])[0]} == {"knn", "linear"}
    ran, family = published_for(["depth"], ["vit_base_patch16_clip_224.openai"])
    assert {row.task for row in ran} == {"depth"}
    assert {row.teacher for row in family} == {"clip"} and {row.task for row in family} == {"linear", "fine-grained"}
