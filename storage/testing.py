"""For tests, ours and other people's: small stores without a teacher, damage to order, what every codec promises.

Nothing here needs torch or pytest. A `StoreShape` says what is in a small store; its images, view parameters and tokens
are a function of the shape alone, so two stores of one shape have one content.

Legend: N rows, T tokens, D dimensions, C codes a token, P view parameters.
"""

import hashlib
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from stillhouse.core.errors import DataError

from . import layout
from .codecs import Codec, CodeType, fit_codec, load_codec, pack, stored_type, unpack
from .decode import decode, pixel_hash
from .index import SampleRow
from .seal import seal
from .specs import TRAIN, BlockPlan, LevelSpec, Preprocessing, StorePlan, StoreSpec, TeacherSpec
from .store import Store
from .views import FIELDS, center_params, render, view_hash
from .writer import BlockSample, commit_codecs, commit_features, commit_images, commit_view, keys_digest

LEVELS: Mapping[str, LevelSpec] = {
    "cls": LevelSpec(num_tokens=1, dim=6),
    "patch": LevelSpec(num_tokens=4, dim=6, grid=(2, 2)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreShape:
    """What is in a small store.

    Args:
        blocks: (split, rows) of each block.
        bad_rows: (block, row) of the samples that are in quarantine.
        teachers: the codec of each teacher.
        seed: another seed is another content.
    """

    block_samples: int = 4
    blocks: tuple[tuple[str, int], ...] = ((TRAIN, 4), (TRAIN, 3), ("test", 2))
    bad_rows: frozenset[tuple[int, int]] = frozenset({(0, 2)})
    teachers: Mapping[str, str] = field(default_factory=lambda: {"tiny": "fp16", "tiny-int8": "int8"})
    num_views: int = 2
    view_size: int = 8
    seed: int = 0

    @property
    def spec(self) -> StoreSpec:
        views = {"num": self.num_views, "size": self.view_size, "policy": "center"}
        return StoreSpec(ingest={"source": "stillhouse.storage.testing", "seed": self.seed}, views=views)

    @property
    def plan(self) -> StorePlan:
        blocks = [
            BlockPlan(split=split, num_rows=rows, keys_sha256=keys_digest(self.key(number, row) for row in range(rows)))
            for number, (split, rows) in enumerate(self.blocks)
        ]
        return StorePlan(block_samples=self.block_samples, blocks=tuple(blocks))

    @property
    def train_blocks(self) -> list[int]:
        return self.plan.blocks_of(TRAIN)

    def key(self, block: int, row: int) -> str:
        return f"künstlich/{block}/{row}.png"

    def image(self, block: int, row: int) -> bytes:
        """One encoded image of random pixels."""
        pixels = self._random("image", block, row).integers(0, 256, (12 + row, 16, 3), np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG")
        return out.getvalue()

    def params(self, view: int, block: int) -> npt.NDArray[np.int32]:
        """int32 [N, P]: the middle of each image, mirrored in odd views."""
        rows = self.blocks[block][1]
        params = np.array([center_params(16, 12 + row) for row in range(rows)], np.int32)
        params[:, FIELDS.index("flip")] = view % 2
        params[[row for row in range(rows) if (block, row) in self.bad_rows]] = layout.MISSING_PARAM
        return params

    def tokens(self, teacher: str, level: str, view: int, block: int) -> npt.NDArray[np.float32]:
        """float32 [N, T, D]: what the teacher would have said about every row of a block."""
        spec, rows = LEVELS[level], self.blocks[block][1]
        random = self._random(teacher, level, view, block)
        return random.standard_normal((rows, spec.num_tokens, spec.dim), np.float32)

    def teacher(self, name: str) -> TeacherSpec:
        return TeacherSpec(
            name=name,
            model="random numbers",
            weights_sha256=hashlib.sha256(f"{name} {self.seed}".encode()).hexdigest(),
            preprocessing=Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), size=self.view_size),
            levels=dict(LEVELS),
            codec=self.teachers[name],
            precision="fp32",
        )

    def _random(self, *labels: str | int) -> np.random.Generator:
        digest = hashlib.sha256(repr((self.seed, *labels)).encode()).digest()
        return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


def make_store(root: Path, shape: StoreShape) -> Store:
    """A whole, sealed store at `root`; units that are there are left alone, as every step of stillhouse does."""
    store = Store.create(root, shape.spec, shape.plan)
    write_missing(store, shape)
    seal(store)
    return store


def write_missing(store: Store, shape: StoreShape) -> list[str]:
    """Write every unit that is not decided; returns their names in the order of writing."""
    written = []

    def missing(unit: str) -> bool:
        written.extend([] if store.done(unit) else [unit])
        return not store.done(unit)

    for block in range(len(shape.blocks)):
        if missing(layout.images_unit(block)):
            write_images(store, shape, block)
    for teacher in shape.teachers:
        store.add_teacher(shape.teacher(teacher))
        if missing(layout.codecs_unit(teacher)):
            write_codecs(store, shape, teacher)
        for block in shape.train_blocks:
            for view in range(shape.num_views):
                if missing(layout.views_unit(view, block)):
                    write_view(store, shape, view, block)
                if missing(layout.features_unit(teacher, view, block)):
                    write_features(store, shape, teacher, view, block)
    return written


def write_images(store: Store, shape: StoreShape, block: int) -> None:
    """The tar and index of a block."""
    commit_images(store, block, [_sample(shape, block, row) for row in range(shape.blocks[block][1])])


def _sample(shape: StoreShape, block: int, row: int) -> BlockSample:
    data, bad = shape.image(block, row), (block, row) in shape.bad_rows
    image = decode(data)
    described = SampleRow(
        key=shape.key(block, row),
        label=None if row == 1 else f"class {row % 2}",
        reason="truncated" if bad else None,
        width=0 if bad else image.width,
        height=0 if bad else image.height,
        format=None if bad else "png",
        offset=-1 if bad else 0,
        length=0 if bad else len(data),
        crc32c=0,
        source_sha256=hashlib.sha256(data).hexdigest(),
        pixel_hash=0 if bad else pixel_hash(image),
    )
    return BlockSample(described, None if bad else data)


def write_view(store: Store, shape: StoreShape, view: int, block: int) -> None:
    """The parameters and pixel hashes of one view of a block."""
    params = shape.params(view, block)
    hashes = np.full(len(params), layout.MISSING_HASH, np.uint64)
    for row in store.good_rows(block):
        pixels = render(decode(store.image_bytes(block, int(row))), params[row], shape.view_size)
        hashes[row] = view_hash(pixels)
    commit_view(store, view, block, params, hashes)


def write_codecs(store: Store, shape: StoreShape, teacher: str) -> None:
    """The codecs of a teacher, fitted on view 0 of the first block."""
    tokens = {level: shape.tokens(teacher, level, 0, shape.train_blocks[0]) for level in LEVELS}
    codecs = {level: fit_codec(shape.teachers[teacher], found) for level, found in tokens.items()}
    statistics = {
        level: {"mean": found.mean(axis=(0, 1)), "std": found.std(axis=(0, 1))} for level, found in tokens.items()
    }
    commit_codecs(store, shape.teacher(teacher), codecs, statistics, {"fitted_on": {"block": 0, "view": 0}})


def write_features(store: Store, shape: StoreShape, teacher: str, view: int, block: int) -> None:
    """The shards of one view of a block."""
    rows = store.good_rows(block)
    codes = {
        level: store.codec(teacher, level).encode(shape.tokens(teacher, level, view, block)[rows]) for level in LEVELS
    }
    commit_features(store, teacher, view, block, codes, rows, {})


def flip_bit(path: Path, bit: int) -> None:
    """Change one bit of a file in place; once more changes it back."""
    with open(path, "r+b", buffering=0) as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


class CodecTests:
    """What every codec promises. Derive a class whose name starts with Test, set `name` and `largest`, give the bound."""

    name: ClassVar[str]
    largest: ClassVar[float]
    """The largest magnitude that the codec stores."""

    def error_bound(self, codec: Codec, tokens_NTD: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """The declared largest error of each value inside the fitted range, broadcastable to [N, T, D]."""
        raise NotImplementedError

    def tokens(self, seed: int = 0, scale: float = 1.0) -> npt.NDArray[np.float32]:
        """float32 [32, 5, 12] with channels of unequal scale and offset."""
        random = np.random.Generator(np.random.PCG64(seed))
        values = random.standard_normal((32, 5, 12)) * np.geomspace(0.01, 10, 12) + np.linspace(-3, 3, 12)
        return (values * scale).astype(np.float32)

    def test_shape_and_type(self) -> None:
        tokens = self.tokens()
        codec = fit_codec(self.name, tokens)
        codes = codec.encode(tokens)
        assert codec.name == self.name and codec.dim == 12
        assert codes.shape == (32, 5, codec.code_type.width) and codes.dtype == np.dtype(codec.code_type.dtype)
        decoded = codec.decode(codes)
        assert decoded.shape == tokens.shape and decoded.dtype == np.float32

    def test_no_rows_are_no_codes(self) -> None:
        codec = fit_codec(self.name, self.tokens())
        codes = codec.encode(self.tokens()[:0])
        assert codes.shape == (0, 5, codec.code_type.width) and codec.decode(codes).shape == (0, 5, 12)

    def test_equal_input_equal_codes(self) -> None:
        first, second = fit_codec(self.name, self.tokens()), fit_codec(self.name, self.tokens())
        np.testing.assert_array_equal(first.encode(self.tokens(1)), second.encode(self.tokens(1)))

    def test_rows_are_coded_each_for_itself(self) -> None:
        tokens = self.tokens()
        codec = fit_codec(self.name, tokens)
        one_by_one = np.concatenate([codec.encode(row[None]) for row in tokens])
        np.testing.assert_array_equal(one_by_one, codec.encode(tokens))
        strided = np.asfortranarray(tokens)
        np.testing.assert_array_equal(codec.encode(strided), codec.encode(tokens))

    def test_arrays_describe_the_codec(self) -> None:
        tokens = self.tokens()
        codec = fit_codec(self.name, tokens)
        stored = {
            name: np.frombuffer(array.astype("<f4").tobytes(), "<f4").reshape(array.shape)
            for name, array in codec.arrays().items()
        }
        loaded = load_codec(codec.name, codec.dim, stored)
        codes = codec.encode(tokens)
        assert loaded.code_type == codec.code_type and loaded.dim == codec.dim
        np.testing.assert_array_equal(loaded.encode(tokens), codes)
        np.testing.assert_array_equal(loaded.decode(codes), codec.decode(codes))

    def test_error_is_within_the_bound(self) -> None:
        for scale in (1e-3, 1.0, 1e3):
            tokens = self.tokens(scale=scale)
            codec = fit_codec(self.name, tokens)
            error = np.abs(codec.decode(codec.encode(tokens)).astype(np.float64) - tokens)
            assert (error <= self.error_bound(codec, tokens)).all()

    def test_the_fill_value_is_never_a_code(self) -> None:
        codec = fit_codec(self.name, self.tokens())
        wild = np.concatenate([self.tokens(), self.tokens(1, 100.0), -self.tokens(2, 100.0)])
        codes = codec.encode(wild)
        assert not self._is_fill(codec.code_type, codes).any()
        kind = stored_type(codec)
        stored = pack(codec, codes)
        assert stored.shape == (len(wild), 5, kind.width) and stored.dtype == np.dtype(kind.dtype)
        assert not self._is_fill(kind, stored).all(axis=(1, 2)).any()

    def test_codes_come_back_from_disk(self) -> None:
        codec = fit_codec(self.name, self.tokens())
        for tokens in (self.tokens(), self.tokens(1, 100.0), self.tokens()[:0], self.tokens()[:1]):
            codes = codec.encode(tokens)
            np.testing.assert_array_equal(unpack(codec, pack(codec, codes)), codes)

    def test_a_channel_fifty_times_as_large_as_the_rest(self) -> None:
        """As most ViTs have: it must not take the others' share."""
        tokens = np.random.Generator(np.random.PCG64(3)).standard_normal((40, 5, 12)).astype(np.float32)
        tokens[..., 4] *= 50
        codec = fit_codec(self.name, tokens)
        error = np.abs(codec.decode(codec.encode(tokens)).astype(np.float64) - tokens)
        assert (error <= self.error_bound(codec, tokens)).all()

    def test_input_is_not_changed(self) -> None:
        tokens = self.tokens()
        before = tokens.copy()
        tokens.flags.writeable = False
        codec = fit_codec(self.name, tokens)
        codes = codec.encode(tokens)
        codes.flags.writeable = False
        codec.decode(codes)
        np.testing.assert_array_equal(tokens, before)

    def test_constant_channels(self) -> None:
        tokens = np.full((3, 2, 4), -2.5, np.float32)
        tokens[:, :, 1] = 0
        codec = fit_codec(self.name, tokens)
        np.testing.assert_array_equal(codec.decode(codec.encode(tokens)), tokens)

    def test_extreme_values(self) -> None:
        tokens = np.zeros((2, 1, 3), np.float32)
        tokens[0], tokens[1] = self.largest, -self.largest
        tokens[:, :, 2] = 1e-40  # a denormal number
        codec = fit_codec(self.name, tokens)
        decoded = codec.decode(codec.encode(tokens))
        assert np.isfinite(decoded).all()
        assert (np.abs(decoded.astype(np.float64) - tokens) <= self.error_bound(codec, tokens)).all()

    def test_values_beyond_the_fitted_range_stay_finite(self) -> None:
        codec = fit_codec(self.name, self.tokens(scale=1e-6))
        decoded = codec.decode(codec.encode(np.full((1, 5, 12), self.largest, np.float32)))
        assert np.isfinite(decoded).all()

    def test_what_is_not_finite_is_refused(self) -> None:
        codec = fit_codec(self.name, self.tokens())
        for value in (math.nan, math.inf, -math.inf):
            tokens = self.tokens()
            tokens[3, 2, 1] = value
            try:
                codec.encode(tokens)
            except DataError:
                continue
            raise AssertionError(f"{self.name} stored {value}")

    @staticmethod
    def _is_fill(kind: CodeType, codes: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        fill = kind.fill_value
        found: npt.NDArray[np.bool_] = np.isnan(codes) if fill == "NaN" else codes == fill
        return found
