"""The image rule: with which reason bad files are refused, and that nothing else escapes. See test_decode_pixels.py."""

import pickle
import random
import struct
import sys

import pytest
from image_files import chunk, encode, png_of
from PIL import Image, ImageFile

from stillhouse.core.errors import DataError
from stillhouse.storage.decode import REASONS, BadImage, decode

WIDTH, HEIGHT = 20, 12
GRAY = Image.linear_gradient("L").resize((WIDTH, HEIGHT))
RGB = Image.merge("RGB", (GRAY, GRAY.transpose(Image.Transpose.ROTATE_180), GRAY.point(lambda level: level ^ 85)))
PALETTE = RGB.quantize(16)
FRAMES = [RGB.rotate(90), RGB.rotate(180)]


JPEG, PNG, WEBP = encode(RGB, "JPEG"), encode(RGB, "PNG"), encode(RGB, "WEBP", lossless=True)
GIF, BMP = encode(PALETTE, "GIF"), encode(RGB, "BMP")
TIFF = b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6" + bytes(7)  # EXIF: orientation 6
CMYK = encode(RGB.convert("CMYK"), "JPEG")
MPO = encode(RGB, "MPO", save_all=True, append_images=FRAMES)
APNG = encode(RGB, "PNG", save_all=True, append_images=FRAMES, default_image=True)

JPEG_HEAD = JPEG.index(b"\xff\xc0")
JPEG_SCAN = JPEG.index(b"\xff\xda")
VP8X_BOMB = b"VP8X" + struct.pack("<I4x", 10) + b"\xff\x3f\0" * 2
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "text": (b"hello, I am a caption", "not-an-image"),
    "html": (b"<!DOCTYPE html><h1>404</h1>", "not-an-image"),
    "zip": (b"PK\3\4" + bytes(99), "not-an-image"),
    "zeros": (bytes(4096), "not-an-image"),
    "one byte": (b"\xff", "not-an-image"),
    "wav": (b"RIFF\x24\0\0\0WAVEfmt ", "not-an-image"),
    "text that begins like a bmp": (b"BM is a magic number of two letters", "not-an-image"),
    "tiff": (encode(RGB, "TIFF"), "format"),
    "tiff of floats": (encode(GRAY.convert("F"), "TIFF"), "format"),
    "ppm": (encode(RGB, "PPM"), "format"),
    "ico": (encode(RGB, "ICO", sizes=[(8, 8)]), "format"),
    "avif": (b"\0\0\0\x20ftypavif" + bytes(20), "format"),
    "heic": (b"\0\0\0\x20ftypheic" + bytes(20), "format"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "format"),
    "jpeg of 3 bytes": (JPEG[:3], "truncated"),
    "jpeg cut in the header": (JPEG[:JPEG_HEAD], "truncated"),
    "jpeg cut in a segment": (JPEG[: JPEG_HEAD + 5], "truncated"),
    "jpeg cut in the scan": (JPEG[: (len(JPEG) + JPEG_SCAN) // 2], "truncated"),
    "jpeg without its last byte": (JPEG[:-1], "truncated"),
    "jpeg without a scan": (JPEG[:JPEG_SCAN] + b"\xff\xd9", "corrupt"),
    "jpeg with a segment of no length": (JPEG[:2] + b"\xff\xe0\0\0" + JPEG[2:], "corrupt"),
    "jpeg of 12 bits": (JPEG[: JPEG_HEAD + 4] + b"\x0c" + JPEG[JPEG_HEAD + 5 :], "mode"),
    "jpeg of height 0": (JPEG[: JPEG_HEAD + 5] + b"\0\0" + JPEG[JPEG_HEAD + 7 :], "zero-size"),
    "jpeg of 65535 x 65535": (JPEG[: JPEG_HEAD + 5] + b"\xff" * 4 + JPEG[JPEG_HEAD + 9 :], "too-many-pixels"),
    "jpeg of 64 megapixels that must all be kept": (
        encode(RGB, "JPEG", progressive=True, subsampling=0).replace(b"\0\x0c\0\x14\3", b"\x1f\x40\x1f\x40\3"),
        "too-many-pixels",
    ),
    "jpeg with fill bytes that take hours": (JPEG[:-2] + b"\xff" * (1 << 16) + JPEG[-2:], "corrupt"),
    "jpeg with 2 MB of tables": (JPEG[:2] + (b"\xff\xdb\0\x43" + bytes(65)) * 30000 + JPEG[2:], "corrupt"),
    "jpeg of 500 scans": (JPEG[:-2] + JPEG[JPEG_SCAN:-2] * 500 + JPEG[-2:], "corrupt"),
    "png signature alone": (PNG[:8], "truncated"),
    "png header alone": (PNG[:33], "truncated"),
    "png cut in the pixels": (PNG[: len(PNG) // 2], "truncated"),
    "png without its last byte": (PNG[:-1], "truncated"),
    "png without its end": (PNG[:-12], "truncated"),
    "png with a flipped bit in the pixels": (PNG[:60] + bytes((PNG[60] ^ 1,)) + PNG[61:], "corrupt"),
    "png that begins with another chunk": (PNG[:8] + chunk(b"tEXt", b"a\0b") + PNG[8:], "corrupt"),
    "png with a chunk nobody knows": (PNG[:33] + chunk(b"CgBI", b"\0\0\0\0") + PNG[33:], "corrupt"),
    "png without pixels": (PNG[:33] + PNG[-12:], "corrupt"),
    "png of 3 bits": (png_of(4, 4, 3, 0, bytes(20)), "corrupt"),
    "png of 20000 x 20000": (png_of(20000, 20000, 1, 0, bytes(4096)), "too-many-pixels"),
    "png of 1 x 64000000": (png_of(1, 64_000_000, 1, 0, bytes(4096)), "too-many-pixels"),
    "png of width 0": (png_of(0, 4, 8, 0, bytes(4)), "zero-size"),
    "webp header alone": (WEBP[:30], "truncated"),
    "webp without its last byte": (WEBP[:-1], "truncated"),
    "webp of 16384 x 16384": (b"RIFF" + struct.pack("<I", 4 + len(VP8X_BOMB)) + b"WEBP" + VP8X_BOMB, "too-many-pixels"),
    "webp of an unknown kind": (WEBP[:12] + b"VP9 " + WEBP[16:], "corrupt"),
    "gif header alone": (GIF[:13], "truncated"),
    "gif cut in the pixels": (GIF[: len(GIF) // 2 + 30], "truncated"),
    "gif without a frame": (GIF[:13] + b";", "truncated"),
    "gif with a comment of a million pieces": (GIF[:61] + b"!\xfe" + b"\1x" * 10**6 + b"\0" + GIF[61:], "corrupt"),
    "gif of 65535 x 65535": (GIF[:6] + b"\xff" * 4 + GIF[10:], "too-many-pixels"),
    "bmp header alone": (BMP[:54], "truncated"),
    "bmp cut in the pixels": (BMP[: len(BMP) // 2], "truncated"),
    "bmp of 20000 x 20000": (BMP[:18] + struct.pack("<ii", 20000, 20000) + BMP[26:], "too-many-pixels"),
    "bmp run-length coded": (BMP[:30] + b"\1" + BMP[31:], "format"),
    "bmp of an unknown compression": (BMP[:30] + b"\x09" + BMP[31:], "corrupt"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_refused_with_their_reason(name: str) -> None:
    data, reason = BAD[name]
    with pytest.raises(BadImage) as caught:
        decode(data)
    assert caught.value.reason == reason, caught.value.detail
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_every_reason_is_met() -> None:
    assert {reason for _, reason in BAD.values()} | {"too-many-bytes"} == set(REASONS)  # that one has its own test
    assert len(BAD) >= 40


def test_other_code_cannot_change_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert decode(PNG).tobytes() == RGB.tobytes()
    for data in (JPEG, PNG, WEBP):
        with pytest.raises(BadImage, match="truncated"):
            decode(data[: len(data) - 20])


def test_too_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[decode.__module__], "MAX_ENCODED_BYTES", len(PNG) - 1)
    with pytest.raises(BadImage, match=f"{len(PNG)} bytes encoded"):
        decode(PNG)


def test_fuzzed_files_raise_nothing_else() -> None:
    chance = random.Random(20240229)
    turned = encode(RGB, "JPEG", exif=b"Exif\0\0" + TIFF)
    seeds = [JPEG, PNG, WEBP, GIF, BMP, CMYK, MPO, APNG, turned, encode(RGB, "WEBP")]
    outcomes: dict[str, int] = {}
    for number in range(3000):
        data = bytearray(seeds[number % len(seeds)])
        for _ in range(chance.choice((1, 1, 4, 30))):
            if len(data) < 2:
                break
            start = chance.randrange(len(data))
            match chance.randrange(4):
                case 0:
                    data[start] ^= 1 << chance.randrange(8)
                case 1:
                    data[start : start + 4] = chance.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"))
                case 2:
                    data[start : start + chance.randrange(9)] = chance.randbytes(chance.randrange(9))
                case 3 if chance.random() < 0.2:
                    del data[start + 1 :]
        try:
            image = decode(bytes(data))
        except BadImage as error:
            outcomes[error.reason] = outcomes.get(error.reason, 0) + 1
        else:
            assert image.mode == "RGB" and min(image.size) > 0
            outcomes["pixels"] = outcomes.get("pixels", 0) + 1
    assert {"pixels", "corrupt", "truncated"} <= set(outcomes)


def test_bad_image_says_what_and_what_next_and_survives_pickling() -> None:
    error = BadImage("format", "the file is TIFF")
    assert str(error) == "bad image (format): the file is TIFF; convert it to one of JPEG, PNG, WEBP, GIF, BMP"
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, BadImage) and isinstance(copy, DataError)
    assert (copy.reason, str(copy)) == (error.reason, str(error))
