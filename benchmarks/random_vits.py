"""ViTs of real sizes with random weights: what a pass of them costs does not depend on what they have learnt.

Teachers by factory: `model: "random_vits:vit", model_args: {name: vit_base_patch14_dinov2, img_size: 224}`.
"""

from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from stillhouse.core.events import Reporter
from stillhouse.stage1_extract.config import ExtractConfig, TeacherConfig
from stillhouse.stage1_extract.extract import extract
from stillhouse.stage1_extract.ingest import ingest
from stillhouse.stage1_extract.policies import ViewPolicyConfig
from stillhouse.stage1_extract.testing import tiny_images, tiny_ingest
from stillhouse.storage.store import Store

SIDE = 224
NAMES = {
    "S": "vit_small_patch14_dinov2",
    "B": "vit_base_patch14_dinov2",
    "L": "vit_large_patch14_dinov2",
    "g": "vit_giant_patch14_dinov2",
}


def vit(name: str, img_size: int) -> nn.Module:
    """timm's model `name`, initialised from seed 0."""
    torch.manual_seed(0)
    made: nn.Module = timm.create_model(name, img_size=img_size, num_classes=0)
    return made


def teacher_config(size: str, **fields: Any) -> TeacherConfig:
    """The teacher of a size: S, B, L or g."""
    args = {"name": NAMES[size], "img_size": SIDE}
    return TeacherConfig(name=f"vit-{size.lower()}", model="random_vits:vit", model_args=args, **fields)


def store_of(folder: Path, teacher: TeacherConfig, num: int) -> Store:
    """A sealed store of `num` images in one view of 224 pixels with the features of a teacher; found if it is there."""
    reporter, images = Reporter(), folder / f"images-{num}"
    if not images.exists():
        tiny_images(images, num, side=256)
    views = ViewPolicyConfig(policy="crop_flip", num=1, size=SIDE)
    ingest(folder / f"store-{num}", tiny_ingest(images, block_samples=num), views, reporter)
    store = Store.open(folder / f"store-{num}")
    extract(store, teacher, ExtractConfig(), reporter)
    return Store.open(store.root)
