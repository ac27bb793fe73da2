"""What tests start from: small images, small random weights, a small store; and what every teacher promises."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from PIL import Image

from stillhouse.core.encoders import STATISTICS, create_timm, default_statistics, weights_sha256
from stillhouse.core.events import Reporter
from stillhouse.storage.codecs import fit_codec
from stillhouse.storage.decode import encode_png
from stillhouse.storage.seal import seal
from stillhouse.storage.specs import LevelSpec, Preprocessing
from stillhouse.storage.store import Store
from stillhouse.storage.writer import commit_codecs, commit_features

from .config import ExtractConfig, IngestConfig, TeacherConfig
from .extract import extract
from .fitting import channel_statistics
from .ingest import ingest
from .policies import ViewPolicyConfig
from .sources import FolderSource
from .teachers import Teacher

TINY_VIT = "vit_tiny_patch16_224"
TINY_VIT_ARGS: dict[str, Any] = {"embed_dim": 48, "depth": 2, "num_heads": 3, "patch_size": 8}
"""At 32 pixels: 16 patches of width 48."""
TINY_VIEWS = ViewPolicyConfig(policy="crop_flip", num=2, size=32, scale=(0.5, 1.0))


def tiny_images(folder: Path, num: int, *, side: int = 36) -> Path:
    """`num` smooth PNGs, no two alike, in three labelled folders; the first ones of a longer listing are the same."""
    for i in range(num):
        coarse = np.random.Generator(np.random.PCG64(i)).integers(0, 256, (5, 6, 3), np.uint8)
        pixels = np.asarray(Image.fromarray(coarse).resize((side + 4, side), Image.Resampling.BICUBIC))
        path = folder / "abc"[i % 3] / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(pixels))
    return folder


def random_weights(path: Path, model: str, model_args: dict[str, Any], *, seed: int = 0) -> Path:
    """A .safetensors file of a timm model's weights, drawn anew.

    The biases of a fresh model are zeros and its norms are the identity; here both are drawn, so that no part of the
    model could be left out unnoticed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = create_timm(model, **model_args).state_dict()
        for name, tensor in weights.items():
            if tensor.ndim == 1 and not name.endswith("running_var"):
                tensor += 0.2 * torch.randn(tensor.shape)
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    return path


def tiny_teacher(folder: Path, name: str = "tiny", *, seed: int = 0, **fields: Any) -> TeacherConfig:
    """A ViT of 100,000 random weights, which are written into `folder` unless they are there; `fields` override."""
    model, model_args = fields.pop("model", TINY_VIT), fields.pop("model_args", TINY_VIT_ARGS)
    checkpoint = folder / f"{model}-{seed}.safetensors"
    if not checkpoint.exists():
        built = {**model_args, "img_size": 32} if model == TINY_VIT else model_args
        random_weights(checkpoint, model, built, seed=seed)
    return TeacherConfig(name=name, model=model, model_args=model_args, checkpoint=str(checkpoint), **fields)


def tiny_ingest(source: Path, **fields: Any) -> IngestConfig:
    """Blocks of 8 samples."""
    return IngestConfig(**{"source": FolderSource(path=source), "block_samples": 8, **fields})


def tiny_store(folder: Path, source: Path | None = None) -> Store:
    """`folder/store`, sealed: 28 images or those of `source` in blocks of 8, two views of 32 pixels, teacher `tiny`."""
    reporter = Reporter(quiet=True)
    ingest(folder / "store", tiny_ingest(source or tiny_images(folder / "images", 28)), TINY_VIEWS, reporter)
    store = Store.open(folder / "store")
    extract(store, tiny_teacher(folder / "weights"), ExtractConfig(device="cpu"), reporter)
    return store


def taught_store(folder: Path) -> Store:
    """`tiny_store` with two more teachers: `fine` on a grid of 8 x 8, and `scorer` with levels cls and logits (3 classes)."""
    store = tiny_store(folder)
    args = {**TINY_VIT_ARGS, "patch_size": 4, "embed_dim": 24}
    fine = tiny_teacher(folder / "weights", "fine", seed=1, model_args=args, mean=(0.4, 0.4, 0.4))
    extract(store, fine, ExtractConfig(device="cpu"), Reporter(quiet=True))
    _add_scorer(store)
    seal(store)
    return Store.open(store.root)


def _add_scorer(store: Store) -> None:
    """A teacher whose scores are a function of the class tokens of `tiny`."""
    classifier = np.random.Generator(np.random.PCG64(0)).normal(size=(48, 3)).astype(np.float32)

    def tokens(view: int, block: int) -> dict[str, npt.NDArray[np.float32]]:
        cls = store.codec("tiny", "cls").decode(store.features("tiny", "cls").read(view, block))
        return {"cls": cls, "logits": cls @ classifier}

    levels = {"cls": LevelSpec(num_tokens=1, dim=48), "logits": LevelSpec(num_tokens=1, dim=3)}
    spec = store.teacher("tiny").model_copy(update={"name": "scorer", "levels": levels})
    store.add_teacher(spec)
    codecs = {level: fit_codec("fp16", found) for level, found in tokens(0, 0).items()}
    statistics = {level: channel_statistics(found) for level, found in tokens(0, 0).items()}
    commit_codecs(store, spec, codecs, statistics, {"fitted_on": {"block": 0, "view": 0}})
    for block in range(len(store.plan.blocks)):
        for view in range(store.spec.num_views):
            codes = {level: codecs[level].encode(found) for level, found in tokens(view, block).items()}
            commit_features(store, spec.name, view, block, codes, store.good_rows(block), {})


class Stop(Exception):
    """What `Stopping` raises."""


class Stopping(Reporter):
    """Raises after so many blocks, as if the machine went away."""

    def __init__(self, blocks: int) -> None:
        super().__init__(quiet=True)
        self.blocks = blocks

    def event(self, kind: str, **facts: Any) -> None:
        if kind == "block":
            self.blocks -= 1
            if self.blocks == 0:
                raise Stop


class TeacherTests:
    """What every teacher promises, a factory of your own among them. Derive, name the class `Test…`, and give a config.

    `grid` is that of level `patch`. `tolerance` is how far apart the same image may come out of batches of other sizes,
    relative to the largest value.
    """

    view_size: ClassVar[int] = 32
    grid: ClassVar[tuple[int, int]]
    tolerance: ClassVar[float] = 1e-5

    def config(self, folder: Path) -> TeacherConfig:
        """The teacher under test; its weights may be written into `folder`."""
        raise NotImplementedError

    def teacher(self, folder: Path) -> Teacher:
        return Teacher(self.config(folder), view_size=self.view_size, device="cpu")

    def pixels(self, num: int = 5) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """uint8 [num, view_size, view_size, 3], no two alike."""
        size = (num, self.view_size, self.view_size, 3)
        return np.random.Generator(np.random.PCG64(1)).integers(0, 256, size, np.uint8)

    def test_levels_have_the_shapes_that_the_spec_says(self, tmp_path: Path) -> None:
        teacher = self.teacher(tmp_path)
        tokens = teacher(self.pixels())
        assert list(tokens) == list(teacher.spec.levels) == list(teacher.config.levels)
        for level, spec in teacher.spec.levels.items():
            assert tokens[level].shape == (5, spec.num_tokens, spec.dim)
            assert tokens[level].dtype == np.float32
            assert np.isfinite(tokens[level]).all()
            if not level.startswith("patch"):
                assert spec.num_tokens == 1 and spec.grid is None
            if level == "patch":
                assert spec.grid == self.grid and spec.num_tokens == self.grid[0] * self.grid[1]

    def test_a_level_is_the_same_whatever_else_is_stored(self, tmp_path: Path) -> None:
        teacher, pixels = self.teacher(tmp_path), self.pixels(2)
        for level, tokens in teacher(pixels).items():
            alone = teacher.config.model_copy(update={"levels": (level,), "codec": "fp16"})
            found = Teacher(alone, view_size=self.view_size, device="cpu")(pixels)
            assert list(found) == [level]
            np.testing.assert_array_equal(found[level], tokens)

    def test_the_same_pixels_give_the_same_tokens(self, tmp_path: Path) -> None:
        one, other, pixels = self.teacher(tmp_path), self.teacher(tmp_path), self.pixels()
        assert one.spec == other.spec
        for level, tokens in one(pixels).items():
            np.testing.assert_array_equal(tokens, one(pixels)[level])
            np.testing.assert_array_equal(tokens, other(pixels)[level])

    def test_images_do_not_see_the_rest_of_their_batch(self, tmp_path: Path) -> None:
        teacher, pixels = self.teacher(tmp_path), self.pixels()
        for level, tokens in teacher(pixels).items():
            alone = np.concatenate([teacher(pixels[i : i + 1])[level] for i in range(len(pixels))])
            np.testing.assert_allclose(alone, tokens, rtol=0, atol=self.tolerance * float(np.abs(tokens).max()))
            assert len(np.unique(tokens[:, 0, 0])) == len(pixels)

    def test_it_is_frozen(self, tmp_path: Path) -> None:
        teacher = self.teacher(tmp_path)
        teacher(self.pixels())
        assert not any(p.requires_grad for p in teacher.encoder.parameters())
        assert not any(module.training for module in teacher.encoder.modules())
        assert weights_sha256(teacher.encoder) == teacher.spec.weights_sha256

    def test_the_spec_holds_its_preprocessing(self, tmp_path: Path) -> None:
        config, teacher = self.config(tmp_path), self.teacher(tmp_path)
        mean, std = STATISTICS.get(config.statistics) or default_statistics(teacher.encoder)
        mean, std = config.mean or mean, config.std or std
        size = config.image_size or self.view_size
        assert teacher.spec.preprocessing == Preprocessing(mean=mean, std=std, size=size)
        other = Teacher(
            config.model_copy(update={"mean": (0.1, 0.2, 0.3), "statistics": "own"}),
            view_size=self.view_size,
            device="cpu",
        )
        assert other.spec.preprocessing.mean == (0.1, 0.2, 0.3)
        assert other.spec != teacher.spec
