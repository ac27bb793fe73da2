"""Published results of the protocols that stillhouse implements, each with its source. Never mixed into our own.

Values are as printed: per cent without the sign, RMSE in metres. `spec` is the section of spec/methods.md that tells the
protocol. `Proteus (ICLR 2025)` stands for its paper and the tables and figures of its repository.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

DINOV2, PROTEUS = "DINOv2 (TMLR 2024)", "Proteus (ICLR 2025)"
FAMILIES = ("dinov2", "clip", "synclr")


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One number that somebody printed."""

    task: str
    """The kind of task: knn, linear, fine-grained, segmentation, depth, retrieval, robustness."""
    teacher: str
    """The family that the model is of, or was distilled from: one of FAMILIES; "" for others."""
    model: str
    data: str
    protocol: str
    metric: str
    value: float
    higher_is_better: bool = True
    source: str
    spec: str


def _rows(
    task: str,
    data: str,
    protocol: str,
    metric: str,
    source: str,
    spec: str,
    values: str,
    *,
    higher_is_better: bool = True,
) -> Iterator[Published]:
    """`values`: `model value` pairs separated by commas."""
    for pair in values.split(","):
        model, _, value = pair.strip().rpartition(" ")
        yield Published(
            task=task,
            teacher=_family(model),
            model=model,
            data=data,
            protocol=protocol,
            metric=metric,
            value=float(value),
            higher_is_better=higher_is_better,
            source=source,
            spec=spec,
        )


def _family(model: str) -> str:
    """Of whose teacher a model is; Proteus without another name after the arrow is distilled from DINOv2."""
    name = model.lower().rpartition("← ")[2]
    return next((family for family in FAMILIES if name.startswith(family)), "dinov2" if "proteus" in name else "")


_PROTEUS_IN = "Proteus-Ti/14 75.2, Proteus-S/14 81.8, Proteus-B/14 84.9, Proteus-L/14 86.2"
_OTHERS_IN = (
    "CLIP-B/16 78.7, CLIP-L/14 83.4, SynCLR-B/16 80.5, SynCLR-L/14 82.8, Proteus-B ← CLIP-L/14 81.2, "
    "Proteus-B ← SynCLR-L/14 81.4"
)
_PROTEUS_FINE = "Proteus-Ti/14 80.2, Proteus-S/14 85.8, Proteus-B/14 88.6, Proteus-L/14 91.0"
_OTHERS_FINE = (
    "CLIP-B/16 85.8, CLIP-L/14 89.1, SynCLR-B/16 88.8, SynCLR-L/14 90.5, Proteus-B ← CLIP-L/14 85.7, "
    "Proteus-B ← SynCLR-L/14 87.4"
)
_IN1K, _ADE, _NYU = "ImageNet-1k", "ADE20K", "NYU depth v2"
_LOW = "RMSE in m"


def _sizes(name: str, values: str, sizes: str = "S/14 B/14 L/14 g/14") -> str:
    """`_sizes("X", "1 2 3 4")`: X-S/14 1, X-B/14 2, …"""
    return ", ".join(f"{name}-{size} {value}" for size, value in zip(sizes.split(), values.split(), strict=True))


def _deit(values: str) -> str:
    """DeiT in three sizes, as distilled from a RegNetY."""
    return ", ".join(
        f"DeiT-{size} ← RegNetY {value}" for size, value in zip(("Ti", "S", "B"), values.split(), strict=True)
    )


def _classification() -> Iterator[Published]:
    yield from _rows("knn", _IN1K, "kNN", "top-1", DINOV2, "§3.1", _sizes("DINOv2", "79.0 82.1 83.5 83.5"))
    yield from _rows("linear", _IN1K, "linear probe", "top-1", PROTEUS, "§1.5", _PROTEUS_IN)
    again = _sizes("DINOv2", "81.1 84.5 86.3", "S/14 B/14 L/14")
    yield from _rows("linear", _IN1K, "linear probe, run by Proteus", "top-1", PROTEUS, "§1.5", again)
    others = f"{_OTHERS_IN}, {_deit('74.5 81.2 83.4')}"
    yield from _rows("linear", _IN1K, "linear probe", "top-1", PROTEUS, "§1.5", others)

    twelve, mean = "12 fine-grained sets", "mean metric"
    dinov2 = _sizes("DINOv2", "87.7 90.1 91.2 92.1")
    yield from _rows("fine-grained", twelve, "logistic regression (DINOv2)", mean, DINOV2, "§3.4", dinov2)
    how = "logistic regression (Proteus)"
    yield from _rows("fine-grained", twelve, how, mean, PROTEUS, "§1.5", _PROTEUS_FINE)
    again = _sizes("DINOv2", "87.6 90.0 91.0", "S/14 B/14 L/14")
    yield from _rows("fine-grained", twelve, f"{how}, run by Proteus", mean, PROTEUS, "§1.5", again)
    others = f"{_OTHERS_FINE}, {_deit('73.3 77.8 81.4')}"
    yield from _rows("fine-grained", twelve, how, mean, PROTEUS, "§1.5", others)


def _dense() -> Iterator[Published]:
    lin, ms = _sizes("DINOv2", "44.3 47.3 47.7 49.0"), _sizes("DINOv2", "47.2 51.3 53.1 53.0")
    yield from _rows("segmentation", _ADE, "linear (DINOv2)", "mIoU", DINOV2, "§3.5", lin)
    yield from _rows("segmentation", _ADE, "linear, 4 blocks, multi-scale (+ms)", "mIoU", DINOV2, "§3.5", ms)
    small = "Proteus-S/14 41.8, DINOv2-S/14 45.7, DeiT-S 29.1, iBOT-S 30.4"
    yield from _rows("segmentation", _ADE, "linear (Proteus)", "mIoU", PROTEUS, "§1.5", small)
    tuned = "Proteus-Ti/14 40.7, Proteus-S/14 50.0, Proteus-B/14 54.4, Proteus-L/14 57.7"
    tuned += ", DINOv2-S/14 51.0, DINOv2-B/14 55.8, DINOv2-L/14 58.1"
    yield from _rows("segmentation", _ADE, "UperNet fine-tuned at 518", "mIoU", PROTEUS, "§1.5", tuned)

    for head, values in (
        ("linear, 1 block (lin.1)", ".449 .399 .384 .344"),
        ("linear, 4 blocks (lin.4)", ".417 .362 .333 .298"),
        ("DPT, frozen", ".356 .317 .293 .279"),
    ):
        models = _sizes("DINOv2", values)
        yield from _rows("depth", _NYU, head, _LOW, DINOV2, "§3.6", models, higher_is_better=False)
    frozen = "Proteus-S/14 0.404, DINOv2-S/14 0.344, DeiT-S 0.584, iBOT-S 0.461"
    yield from _rows("depth", _NYU, "DPT, frozen (Proteus)", _LOW, PROTEUS, "§1.5", frozen, higher_is_better=False)
    tuned = "Proteus-Ti/14 0.423, Proteus-S/14 0.350, Proteus-B/14 0.303, Proteus-L/14 0.240"
    tuned += ", DINOv2-S/14 0.327, DINOv2-B/14 0.281, DINOv2-L/14 0.243"
    yield from _rows("depth", _NYU, "DPT fine-tuned", _LOW, PROTEUS, "§1.5", tuned, higher_is_better=False)


def _others() -> Iterator[Published]:
    for data, medium, hard in (
        ("Oxford", "68.8 72.9 75.1 73.6", "43.2 49.5 54.0 52.3"),
        ("Paris", "84.6 90.3 92.7 92.1", "68.5 78.6 83.5 82.6"),
    ):
        for level, values in (("medium", medium), ("hard", hard)):
            models = _sizes("DINOv2", values)
            yield from _rows("retrieval", f"{data}, {level}", "cosine ranking", "mAP", DINOV2, "§3.7", models)
    met = ("GAP", "29.4"), ("GAP-", "54.3"), ("accuracy", "57.7")
    for metric, value in met:
        yield from _rows("retrieval", "Met", "cosine ranking", metric, DINOV2, "§3.7", f"DINOv2-S/14 {value}")
    models = _sizes("DINOv2", "43.5 45.6 50.0 46.7")
    yield from _rows("retrieval", "AmsterTime", "cosine ranking", "mAP", DINOV2, "§3.7", models)

    for data, metric, proteus, deit in (
        ("ImageNet-Sketch", "accuracy", "26.7 39.8 51.0", "22.6 32.0 36.0"),
        ("ImageNet-A", "accuracy", "11.3 31.1 52.4", "7.7 20.7 29.6"),
        ("ImageNet-R", "accuracy", "39.8 51.0 63.4", "36.6 46.5 50.7"),
        ("ImageNet-C", "error", "67.3 50.5 38.6", "67.4 54.6 46.1"),
    ):
        models = f"{_sizes('Proteus', proteus, 'Ti/14 S/14 B/14')}, {_deit(deit)}"
        better = metric != "error"
        yield from _rows("robustness", data, "", metric, PROTEUS, "§1.5", models, higher_is_better=better)


PUBLISHED: tuple[Published, ...] = (*_classification(), *_dense(), *_others())


def published_for(tasks: Collection[str], teachers: Sequence[str]) -> tuple[list[Published], list[Published]]:
    """(rows of the tasks that ran, other rows about a teacher's family), in the order of the table.

    Args:
        tasks: kinds of tasks and names of probes, in any case, `_` for `-`.
        teachers: model names, such as `vit_small_patch14_dinov2.lvd142m`.
    """
    ran = {task.lower().replace("_", "-") for task in tasks}
    ran |= {"knn", "linear"} if "classification" in ran else set()
    families = {family for family in FAMILIES if any(family in teacher.lower() for teacher in teachers)}
    first = [row for row in PUBLISHED if row.task in ran]
    return first, [row for row in PUBLISHED if row.task not in ran and row.teacher in families]
