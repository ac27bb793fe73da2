"""Images at the limits of size, and small files that would grow past them. They are made when they are needed."""

import struct
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from image_files import Kind, chunk, encode, exif, jpeg_sized, png_of
from PIL import Image


def large_kinds() -> list[Kind]:
    """All of them."""
    square = 8000, 8000
    made: list[tuple[str, Callable[[], bytes], str]] = [
        ("jpeg of 64 megapixels", partial(_large, square, "JPEG"), "pixels"),
        ("jpeg of 64 megapixels, turned", partial(_large, square, "JPEG", exif=exif(6)), "pixels"),
        ("jpeg of 64 megapixels, progressive", partial(_large, square, "JPEG", progressive=True), "pixels"),
        ("jpeg of 48 megapixels, progressive 4:4:4", partial(_progressive, (8000, 6000)), "pixels"),
        ("jpeg of 64 megapixels, progressive 4:4:4", partial(_progressive, square), "too-many-pixels"),
        ("jpeg of 64 megapixels, cmyk", partial(_large, square, "JPEG", "CMYK"), "pixels"),
        (
            "jpeg of 40 megapixels, cmyk progressive",
            partial(_large, (8000, 5000), "JPEG", "CMYK", progressive=True),
            "pixels",
        ),
        (
            "jpeg of 64 megapixels, cmyk progressive",
            partial(_large, square, "JPEG", "CMYK", progressive=True),
            "too-many-pixels",
        ),
        ("jpeg of 64 megapixels, 95 scans", _many_scans, "pixels"),
        ("jpeg of 64 megapixels and a row", partial(_large, (8000, 8001), "JPEG"), "too-many-pixels"),
        ("jpeg of 65500 x 977", partial(_large, (65500, 977), "JPEG"), "pixels"),
        ("jpeg with 100 MB of fill bytes", partial(_in_scan, b"\xff", 100 << 20), "corrupt"),
        ("jpeg with 60 MB in runs of fill bytes", partial(_in_scan, b"\xff" * 65000 + b"\0", 1000), "any"),
        ("png of 64 megapixels", partial(_large, square, "PNG", compress_level=1), "pixels"),
        ("png of 64 megapixels, noise", _noise, "pixels"),
        ("png of 64 megapixels, alpha", partial(_flat_png, *square, 8, 6), "pixels"),
        (
            "png of 64 megapixels, alpha, turned",
            partial(_flat_png, *square, 8, 6, chunk(b"eXIf", exif(7)[6:])),
            "pixels",
        ),
        ("png of 64 megapixels, 16 bits with alpha", partial(_flat_png, *square, 16, 6), "pixels"),
        ("png of 64 megapixels, gray of 16 bits", partial(_flat_png, *square, 16, 0), "pixels"),
        ("png of 64 megapixels, gray and alpha", partial(_flat_png, *square, 8, 4), "pixels"),
        ("png of 64 megapixels, palette with alpha", partial(_clear_palette, square), "pixels"),
        ("png of 64 megapixels, interlaced", partial(_flat_png, *square, 8, 2, interlaced=True), "pixels"),
        ("png of 977 x 65500", partial(_flat_png, 977, 65500, 8, 2), "pixels"),
        ("png of exactly 64,000,000 pixels", partial(_flat_png, 1000, 64000, 8, 0), "pixels"),
        ("png of 64,000,001 pixels", partial(_flat_png, 5213, 12277, 8, 0), "too-many-pixels"),
        ("png of 64 megapixels and a column", partial(_flat_png, 8001, 8000, 8, 0), "too-many-pixels"),
        ("png of 200000 empty IDATs", _empty_chunks, "pixels"),
        ("webp of 30 megapixels", partial(_large, (6000, 5000), "WEBP", quality=50, method=0), "pixels"),
        ("webp of 30 megapixels, lossless", partial(_flat_webp, (6000, 5000), "RGB"), "pixels"),
        ("webp of 30 megapixels, alpha", partial(_flat_webp, (6000, 5000), "RGBA"), "pixels"),
        ("webp of 64 megapixels", partial(_flat_webp, square, "RGB"), "too-many-pixels"),
        ("gif of 64 megapixels", partial(_large, square, "GIF", "P"), "pixels"),
        ("gif of 64 megapixels, clear", partial(_large, square, "GIF", "P", transparency=3), "pixels"),
        ("gif of 64 megapixels in 30 bytes", _gif_bomb, "any"),
        ("gif with a comment of 100 MB", _gif_comment, "corrupt"),
        ("bmp of 64 megapixels", partial(_large, square, "BMP"), "pixels"),
        ("bmp of 64 megapixels of 1 bit", partial(_large, square, "BMP", "1"), "pixels"),
        ("257 MiB of zeros behind a jpeg", partial(_padded, 257 << 20), "too-many-bytes"),
    ]
    return [Kind(*one) for one in made]


def _picture(size: tuple[int, int]) -> Image.Image:
    return Image.radial_gradient("L").resize(size).convert("RGB")


def _large(size: tuple[int, int], kind: str, mode: str = "RGB", **options: Any) -> bytes:
    image = _picture(size)
    return encode(image if mode == "RGB" else image.convert(mode), kind, **options)


def _progressive(size: tuple[int, int]) -> bytes:
    return _large(size, "JPEG", progressive=True, subsampling=0)


def _small_jpeg(**options: Any) -> bytes:
    return encode(Image.radial_gradient("L").resize((64, 64)).convert("RGB"), "JPEG", **options)


def _many_scans() -> bytes:
    jpeg = _small_jpeg(progressive=True)
    last = jpeg.rindex(b"\xff\xda")
    return jpeg_sized(jpeg[:-2] + jpeg[last:-2] * 85 + jpeg[-2:], 8000, 8000)


def _in_scan(piece: bytes, times: int) -> bytes:
    jpeg = _small_jpeg()
    return jpeg[:-2] + piece * times + jpeg[-2:]


def _noise() -> bytes:
    pixels = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (8000, 8000, 3), np.uint8)
    return encode(Image.fromarray(pixels), "PNG", compress_level=1)


def _flat_png(width: int, height: int, depth: int, colour: int, *between: bytes, interlaced: bool = False) -> bytes:
    """All samples 0; zlib is asked for a row at a time, so that making it takes no memory either."""
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    passes = ((8, 8), (8, 8), (8, 4), (4, 4), (4, 2), (2, 2), (2, 1)) if interlaced else ((1, 1),)
    num_bytes = sum(-(-height // down) * (1 + -(-width // right) * bits // 8 + 1) for down, right in passes)
    squeeze, data = zlib.compressobj(1), bytearray()
    for _ in range(num_bytes // 1_000_000 + 1):
        data += squeeze.compress(bytes(1_000_000))
    data += squeeze.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    return b"".join((b"\x89PNG\r\n\x1a\n", head, *between, chunk(b"IDAT", bytes(data)), chunk(b"IEND", b"")))


def _clear_palette(size: tuple[int, int]) -> bytes:
    table = (chunk(b"PLTE", bytes(range(256)) * 3), chunk(b"tRNS", bytes(range(256))))
    return _flat_png(*size, 8, 3, *table)


def _empty_chunks() -> bytes:
    png = png_of(8, 8, 8, 0, bytes(72))
    return png[:33] + chunk(b"IDAT", b"") * 200_000 + png[33:]


def _flat_webp(size: tuple[int, int], mode: str) -> bytes:
    return encode(Image.new(mode, size, 7), "WEBP", lossless=True, method=0, quality=0)


def _gif_bomb() -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HH", 8000, 8000)
        + b"\0\0\0,"
        + struct.pack("<HHHHB", 0, 0, 8000, 8000, 0)
        + b"\2\1\4\0;"
    )


def _gif_comment() -> bytes:
    gif = encode(Image.new("L", (8, 8)), "GIF")
    head = 13 + (6 << (gif[10] & 7))
    return gif[:head] + b"!\xfe" + b"\1x" * (50 << 20) + b"\0" + gif[head:]


def _padded(num_bytes: int) -> bytes:
    return _small_jpeg() + bytes(num_bytes)
