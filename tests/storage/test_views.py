"""Replay of views: pixels against PIL, torchvision and timm, refused parameters, and hashes that never change.

`python tests/storage/test_views.py` writes the section "pixels" of tests/golden/views_v1.json anew. Do that only before
the format is released: a changed hash means that stored views can no longer be replayed.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm.data.auto_augment as timm_ops
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import functional

from stillhouse.core.errors import CorruptError, UsageError
from stillhouse.storage.view_ops import OP_IDS, OPS
from stillhouse.storage.views import FIELDS, FILL, check_params, erase_noise, render, view_hash

GOLDEN = Path(__file__).parents[1] / "golden" / "views_v1.json"
BICUBIC = Image.Resampling.BICUBIC
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
Q16 = 65536


def pattern(width: int, height: int) -> Image.Image:
    """A gradient with fine structure, by integers only."""
    y, x = np.mgrid[:height, :width]
    channels = [x * 255 // width, y * 255 // height, (x * 7 + y * 13 + (x * y) % 31 * 5) % 256]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def row(width: int, height: int, **fields: int) -> NDArray[np.int32]:
    """Parameters of the whole image, with some fields set."""
    values = dict.fromkeys(FIELDS, 0) | {"crop_w": width, "crop_h": height} | fields
    assert set(values) == set(FIELDS)
    return np.array([values[name] for name in FIELDS], np.int32)


# Strengths of every operation, on both sides where it has two and at both ends.
STRENGTHS: Mapping[str, tuple[int, ...]] = {
    "autocontrast": (0,),
    "equalize": (0,),
    "invert": (0,),
    "rotate": (0, 27 * Q16, -30 * Q16, -1234567),
    "posterize": (0, 1, 3, 4, 8),
    "solarize": (0, 25, 128, 256),
    "solarize_add": (0, 99, 110),
    "color": (6554, Q16, 124518),
    "contrast": (6554, Q16, 124518),
    "brightness": (6554, Q16, 124518),
    "sharpness": (6554, Q16, 124518),
    "shear_x": (0, 17694, -19660),
    "shear_y": (0, 17694, -19660),
    "translate_x": (0, 26542, -29491),
    "translate_y": (0, 26542, -29491),
}
# timm's increasing set lists the same operations in the same order.
TIMM_NAMES: Mapping[str, str] = dict(zip(STRENGTHS, timm_ops._RAND_INCREASING_TRANSFORMS, strict=True))
COUNTED = {"posterize", "solarize", "solarize_add"}


def as_timm(op: str, strength: int) -> tuple[float, ...]:
    if timm_ops.LEVEL_TO_ARG[TIMM_NAMES[op]] is None:
        return ()
    return (strength,) if op in COUNTED else (strength / Q16,)


@pytest.mark.parametrize("op", STRENGTHS)
@pytest.mark.parametrize("draw_image", [pattern, noise])
def test_operation_equals_timm(op: str, draw_image: Any) -> None:
    """Equal pixels for every operation. One differs: Pillow 13 refuses 0 posterize bits, ours still gives black."""
    image = draw_image(64, 64)
    for strength in STRENGTHS[op]:
        ours = render(image, row(64, 64, op1=OP_IDS[op], strength1=strength), 64)
        if op == "posterize" and strength == 0:
            assert not ours.any()
            continue
        function: Any = timm_ops.NAME_TO_OP[TIMM_NAMES[op]]
        theirs = function(image, *as_timm(op, strength), resample=BICUBIC, fillcolor=FILL)
        np.testing.assert_array_equal(ours, np.asarray(theirs), err_msg=f"{op} at {strength}")


def test_operations_come_after_the_resize_and_in_order() -> None:
    image = noise(50, 40)
    first, second = OP_IDS["rotate"], OP_IDS["solarize"]
    fields = {"op1": first, "strength1": 20 * Q16, "op2": second, "strength2": 100}
    ours = render(image, row(50, 40, flip=1, **fields), 24)
    view = image.resize((24, 24), BICUBIC).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    theirs = OPS[second].apply(OPS[first].apply(view, 20 * Q16, FILL), 100, FILL)
    np.testing.assert_array_equal(ours, np.asarray(theirs))


def test_fill_is_what_affine_operations_leave_outside() -> None:
    fields = {"op1": OP_IDS["translate_x"], "strength1": Q16 // 2}
    view = render(pattern(32, 32), row(32, 32, **fields), 32, fill=(1, 2, 3))
    np.testing.assert_array_equal(view[:, 20:], np.broadcast_to([1, 2, 3], (32, 12, 3)))


def test_crop_is_resized_within_its_surroundings() -> None:
    """As Resize + CenterCrop do. RandomResizedCrop cuts first: equal inside, to a level, and not at the edges."""
    image, box = noise(512, 512), {"crop_x": 32, "crop_y": 32, "crop_w": 448, "crop_h": 448}
    ours = render(image, row(512, 512, **box), 224).astype(int)
    whole = functional.center_crop(functional.resize(image, 256, BICUBIC), 224)
    np.testing.assert_array_equal(ours, np.asarray(whole))
    cut = np.asarray(functional.resized_crop(image, 32, 32, 448, 448, [224, 224], BICUBIC)).astype(int)
    assert np.abs(ours - cut)[2:-2, 2:-2].max() <= 1
    assert np.abs(ours - cut).max() > 1


def test_erase_touches_its_box_only() -> None:
    image = pattern(40, 30)
    plain = render(image, row(40, 30), 32)
    box = {"erase_x": 3, "erase_y": 5, "erase_w": 20, "erase_h": 7, "erase_seed": 77}
    erased = render(image, row(40, 30, **box), 32)
    np.testing.assert_array_equal(erased[5:12, 3:23], erase_noise(77, 7, 20, **IMAGENET))
    erased[5:12, 3:23] = plain[5:12, 3:23]
    np.testing.assert_array_equal(erased, plain)


def test_erase_noise_is_clipped_normal() -> None:
    """Mean and deviation of N(mean, std) clipped to 0..1, per channel; channels and seeds are independent."""
    pixels = erase_noise(5, 300, 300, **IMAGENET) / 255
    expected = np.random.default_rng(0).normal(IMAGENET["mean"], IMAGENET["std"], (200_000, 3)).clip(0, 1)
    np.testing.assert_allclose(pixels.mean((0, 1)), expected.mean(0), atol=0.004)
    np.testing.assert_allclose(pixels.std((0, 1)), expected.std(0), atol=0.004)
    assert pixels.min() == 0 and pixels.max() == 1
    other = erase_noise(6, 300, 300, **IMAGENET) / 255
    columns = np.concatenate([pixels.reshape(-1, 3), other.reshape(-1, 3)], axis=1)
    assert np.abs(np.corrcoef(columns.T) - np.eye(6)).max() < 0.02


def test_view_is_writable_and_fresh() -> None:
    image = pattern(16, 16)
    view = render(image, row(16, 16), 16)
    view[:] = 0
    np.testing.assert_array_equal(np.asarray(image), np.asarray(pattern(16, 16)))


BAD: tuple[tuple[str, dict[str, int]], ...] = (
    ("crop_x", {"crop_x": -1}),
    ("crop_x", {"crop_x": 40}),
    ("crop_y", {"crop_y": 30}),
    ("crop_w", {"crop_w": 0}),
    ("crop_w", {"crop_x": 1}),
    ("crop_w", {"crop_x": 39, "crop_w": 2**31 - 1}),
    ("crop_h", {"crop_y": 5}),
    ("flip", {"flip": 2}),
    ("op1", {"op1": len(OPS)}),
    ("op2", {"op2": -1}),
    ("strength1", {"strength1": 1}),
    ("strength1", {"op1": OP_IDS["posterize"], "strength1": 9}),
    ("strength2", {"op2": OP_IDS["rotate"], "strength2": -181 * Q16}),
    ("erase_x", {"erase_x": -1, "erase_w": 1, "erase_h": 1}),
    ("erase_x", {"erase_x": 3}),
    ("erase_w", {"erase_h": 3}),
    ("erase_w", {"erase_x": 20, "erase_w": 13, "erase_h": 1}),
    ("erase_h", {"erase_w": 3}),
    ("erase_h", {"erase_w": 3, "erase_h": -3}),
    ("erase_seed", {"erase_seed": 4}),
    ("erase_seed", {"erase_w": 3, "erase_h": 3, "erase_seed": -4}),
)


@pytest.mark.parametrize(("field", "fields"), BAD)
def test_bad_parameters_are_named(field: str, fields: dict[str, int]) -> None:
    rows = np.stack([row(40, 30), row(40, 30, **fields)])
    with pytest.raises(CorruptError, match=rf"part 7, row 1: {field} is -?\d+, allowed is .*stillhouse verify"):
        check_params(rows, np.array([[40, 30]] * 2), size=32, where="part 7")
    with pytest.raises(CorruptError, match=field):
        render(pattern(40, 30), rows[1], 32)


def test_bad_shapes_are_refused() -> None:
    rows, sizes = row(4, 4)[None], np.array([[4, 4]])
    check_params(rows, sizes, size=8)
    check_params(rows[:0], sizes[:0], size=8)
    with pytest.raises(CorruptError, match=r"expected int32 \[N, 14\], got int64"):
        check_params(rows.astype(np.int64), sizes, size=8)
    with pytest.raises(CorruptError, match=r"got int32 \[1, 13\]"):
        check_params(rows[:, :13], sizes, size=8)
    with pytest.raises(UsageError, match="1 rows but image sizes"):
        check_params(rows, sizes[0], size=8)
    with pytest.raises(UsageError, match="mode 'L'"):
        render(Image.new("L", (4, 4)), rows[0], 8)


def test_view_hash_is_of_the_pixels_in_order() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert view_hash(pixels) == 0x5114FC89F300476D  # b2sum -l 64
    assert view_hash(np.asfortranarray(pixels)) == view_hash(pixels)
    assert view_hash(pixels[::-1]) != view_hash(pixels)
    with pytest.raises(UsageError, match="float32"):
        view_hash(pixels.astype(np.float32))


def pixel_cases() -> dict[str, NDArray[np.int32]]:
    """Name to parameters over the 61x47 pattern, rendered at 32."""
    box = {"erase_x": 2, "erase_y": 3, "erase_w": 17, "erase_h": 11, "erase_seed": 123456789}
    cases = {"whole": row(61, 47), "flip": row(61, 47, flip=1), "erase": row(61, 47, **box)}
    cases["crop"] = row(61, 47, crop_x=7, crop_y=5, crop_w=23, crop_h=40)
    for op, strengths in STRENGTHS.items():
        for strength in strengths:
            cases[f"{op} {strength}"] = row(61, 47, op1=OP_IDS[op], strength1=strength)
    both = {"op1": OP_IDS["rotate"], "strength1": -27 * Q16, "op2": OP_IDS["sharpness"], "strength2": 120000}
    cases["all"] = row(61, 47, flip=1, **both, **box)
    return cases


def test_golden_pixels() -> None:
    golden = json.loads(GOLDEN.read_text())["pixels"]
    assert set(golden) == set(pixel_cases())
    hashes = {name: f"{view_hash(render(pattern(61, 47), params, 32)):016x}" for name, params in pixel_cases().items()}
    assert hashes == golden


def test_op_ids_are_append_only() -> None:
    names = json.loads(GOLDEN.read_text())["ops"]
    assert [OPS[op_id].name for op_id in range(len(names))] == names
    assert sorted(OPS) == list(range(len(OPS)))


def write_golden() -> None:
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    image = pattern(61, 47)
    golden["ops"] = [op.name for op in OPS.values()]
    golden["pixels"] = {name: f"{view_hash(render(image, params, 32)):016x}" for name, params in pixel_cases().items()}
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    write_golden()
