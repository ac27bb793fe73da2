"""The image rule: what odd but sound files become. Bad ones are in test_decode.py."""

import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from image_files import chunk, encode, exif, png_of
from PIL import Image, ImageOps

from stillhouse.storage.decode import decode, encode_png, pixel_hash

WIDTH, HEIGHT = 20, 12
GRAY = Image.linear_gradient("L").resize((WIDTH, HEIGHT))
RGB = Image.merge("RGB", (GRAY, GRAY.transpose(Image.Transpose.ROTATE_180), GRAY.point(lambda level: level ^ 85)))
ALPHA = GRAY.transpose(Image.Transpose.FLIP_LEFT_RIGHT).point(lambda level: 255 - level)
RGBA = Image.merge("RGBA", (*RGB.split(), ALPHA))
PALETTE = RGB.quantize(16)
FRAMES = [RGB.rotate(90), RGB.rotate(180)]


def on_white(rgba: Image.Image) -> Image.Image:
    colours, alpha = np.asarray(rgba)[..., :3].astype(int), np.asarray(rgba)[..., 3:].astype(int)
    return Image.fromarray(((colours * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8))


def as_pil(data: bytes) -> Image.Image:
    with Image.open(BytesIO(data)) as image:
        return image.convert("RGB")


JPEG, PNG, WEBP = encode(RGB, "JPEG"), encode(RGB, "PNG"), encode(RGB, "WEBP", lossless=True)
GIF, BMP = encode(PALETTE, "GIF"), encode(RGB, "BMP")
CMYK = encode(RGB.convert("CMYK"), "JPEG")
GRAY16 = np.arange(WIDTH * HEIGHT, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 273
WIDE = Image.linear_gradient("L").rotate(90).resize((65500, 1)).convert("RGB")
KEYED = np.where(np.asarray(GRAY) == 128, 255, np.asarray(GRAY))
MPO = encode(RGB, "MPO", save_all=True, append_images=FRAMES)
APNG = encode(RGB, "PNG", save_all=True, append_images=FRAMES, default_image=True)

GOOD: dict[str, tuple[bytes, Image.Image]] = {
    "jpeg": (JPEG, as_pil(JPEG)),
    "jpeg gray": (encode(GRAY, "JPEG"), as_pil(encode(GRAY, "JPEG"))),
    "jpeg progressive": (encode(RGB, "JPEG", progressive=True), as_pil(JPEG)),
    "jpeg cmyk": (CMYK, as_pil(CMYK)),
    "jpeg with a profile, a comment and XMP": (
        encode(RGB, "JPEG", icc_profile=b"x" * 99, comment=b"\xff\xd9", xmp=b"<x/>"),
        as_pil(JPEG),
    ),
    "jpeg with bytes behind it": (JPEG + b"\xff\xda" * 500, as_pil(JPEG)),
    "jpeg with junk between segments": (JPEG[:20] + b"\0\1\xff\xff" + JPEG[20:], as_pil(JPEG)),
    "mpo": (MPO, as_pil(MPO)),
    "png": (PNG, RGB),
    "png gray": (encode(GRAY, "PNG"), GRAY.convert("RGB")),
    "png 1 bit": (encode(GRAY.convert("1"), "PNG"), GRAY.convert("1").convert("RGB")),
    "png 16-bit gray is shifted, not clipped": (
        encode(Image.fromarray(GRAY16), "PNG"),
        Image.fromarray((GRAY16 >> 8).astype(np.uint8)).convert("RGB"),
    ),
    "png 16-bit colour": (
        png_of(1, 1, 16, 2, b"\0\x12\x34\xab\xcd\xff\x00"),
        Image.new("RGB", (1, 1), (0x12, 0xAB, 0xFF)),
    ),
    "png palette": (encode(PALETTE, "PNG"), PALETTE.convert("RGB")),
    "png palette with one clear entry": (
        encode(PALETTE, "PNG", transparency=3),
        on_white(Image.open(BytesIO(encode(PALETTE, "PNG", transparency=3))).convert("RGBA")),
    ),
    "png palette with alpha": (
        encode(PALETTE, "PNG", transparency=bytes(range(0, 256, 16))),
        on_white(Image.open(BytesIO(encode(PALETTE, "PNG", transparency=bytes(range(0, 256, 16))))).convert("RGBA")),
    ),
    "png gray and alpha": (
        encode(Image.merge("LA", (GRAY, ALPHA)), "PNG"),
        on_white(Image.merge("RGBA", (GRAY, GRAY, GRAY, ALPHA))),
    ),
    "png rgba": (encode(RGBA, "PNG"), on_white(RGBA)),
    "png gray with a colour key": (encode(GRAY, "PNG", transparency=128), Image.fromarray(KEYED).convert("RGB")),
    "png 16-bit with a colour key": (
        png_of(1, 1, 16, 0, b"\0\x12\x34", chunk(b"tRNS", b"\x12\x34")),
        Image.new("RGB", (1, 1), (0x12,) * 3),
    ),
    "png with a text bomb": (PNG[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80 << 20), 9)) + PNG[33:], RGB),
    "png with a damaged comment": (PNG[:33] + chunk(b"tEXt", b"a\0b")[:-1] + b"?" + PNG[33:], RGB),
    "png with bytes behind it": (PNG + b"<html>", RGB),
    "apng": (APNG, RGB),
    "apng with nonsense for control": (PNG[:33] + chunk(b"acTL", b"") + PNG[33:], RGB),
    "webp": (WEBP, RGB),
    "webp lossy": (encode(RGB, "WEBP"), as_pil(encode(RGB, "WEBP"))),
    "webp alpha": (encode(RGBA, "WEBP", lossless=True, exact=True), on_white(RGBA)),
    "webp animated": (encode(RGB, "WEBP", lossless=True, save_all=True, append_images=FRAMES), RGB),
    "gif": (GIF, PALETTE.convert("RGB")),
    "gif animated": (encode(PALETTE, "GIF", save_all=True, append_images=FRAMES), PALETTE.convert("RGB")),
    "gif with comments and stray bytes": (
        GIF[:61] + b"\0\0" + b"!\xfe" + (b"\xff" + b"x" * 255) * 9 + b"\0" + b"!\xfe\1x\0" * 9 + GIF[61:],
        PALETTE.convert("RGB"),
    ),
    "gif with a frame larger than its canvas": (GIF[:6] + b"\2\0\2\0" + GIF[10:], PALETTE.convert("RGB")),
    "gif gray with a clear level": (
        encode(GRAY, "GIF", transparency=128, optimize=False),
        Image.fromarray(KEYED).convert("RGB"),
    ),
    "bmp": (BMP, RGB),
    "bmp palette": (encode(PALETTE, "BMP"), PALETTE.convert("RGB")),
    "1 x 1": (encode(RGB.crop((0, 0, 1, 1)), "PNG"), RGB.crop((0, 0, 1, 1))),
    "65500 x 1": (encode(WIDE, "PNG"), WIDE),
}


@pytest.mark.parametrize("name", GOOD)
def test_pixels_follow_the_rule(name: str) -> None:
    data, expected = GOOD[name]
    image = decode(data)
    assert type(image) is Image.Image and image.mode == "RGB" and image.info == {}
    assert image.size == expected.size
    assert image.tobytes() == expected.tobytes()


def test_large_images_are_converted_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {name: pixel_hash(decode(data)) for name, (data, _) in GOOD.items()}
    monkeypatch.setattr(sys.modules[decode.__module__], "BAND_PIXELS", 50)  # two rows and a half
    for name, (data, expected) in GOOD.items():
        image = decode(data)
        assert image.tobytes() == expected.tobytes(), name
        assert image.info == {} and type(image) is Image.Image
        assert pixel_hash(image) == whole[name]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("value", range(1, 9))
def test_exif_orientation_as_pil_applies_it(value: int, kind: str, order: str) -> None:
    data = encode(RGB, kind, exif=exif(value, order))
    with Image.open(BytesIO(data)) as image:
        expected = ImageOps.exif_transpose(image)
    assert decode(data).size == ((WIDTH, HEIGHT) if value < 5 else (HEIGHT, WIDTH))
    assert decode(data).tobytes() == expected.convert("RGB").tobytes()


BROKEN_EXIF = {
    "out of range": exif(9),
    "zero": exif(0),
    "cut": exif(6)[:20],
    "table outside": exif(6)[:10] + b"\xff\xff\xff\x7f" + exif(6)[14:],
    "many entries": exif(6)[:14] + b"\xff\xff\x13" + exif(6)[17:],
    "no byte order": exif(6).replace(b"II*", b"ZZ*"),
    "empty": b"Exif\0\0",
}


@pytest.mark.parametrize("name", BROKEN_EXIF)
def test_broken_exif_counts_as_none(name: str) -> None:
    assert decode(encode(RGB, "JPEG", exif=BROKEN_EXIF[name])).tobytes() == as_pil(JPEG).tobytes()


def test_threads_get_the_same_pixels() -> None:
    data = [data for data, _ in GOOD.values()] * 8
    with ThreadPoolExecutor(8) as pool:
        hashes = list(pool.map(lambda one: pixel_hash(decode(one)), data))
    assert hashes == [pixel_hash(expected) for _, expected in GOOD.values()] * 8


def test_pixel_hash_is_fixed() -> None:
    assert pixel_hash(Image.new("RGB", (2, 1), (1, 2, 3))) == 9181612757863493950
    assert pixel_hash(Image.new("RGB", (1, 2), (1, 2, 3))) != pixel_hash(Image.new("RGB", (2, 1), (1, 2, 3)))


def test_encode_png_keeps_pixels_and_bytes() -> None:
    pixels_HWC = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    assert (np.asarray(decode(encode_png(pixels_HWC))) == pixels_HWC).all()
    assert encode_png(pixels_HWC) == encode_png(pixels_HWC[::-1][::-1])
