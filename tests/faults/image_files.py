"""Image files written sample by sample, and the rule of `stillhouse.storage.decode` in numpy.

What a sound file must become is computed from the samples that went in, not with the code under test; only lossy
formats are asked of PIL, for their raw samples.
"""

import hashlib
import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Kind:
    """One image.

    Args:
        make: its bytes; large ones are made only when they are needed.
        expected: a reason, several joined by " or ", "pixels <digest>", "pixels" (any), or "any" (pixels or a reason).
    """

    name: str
    make: Callable[[], bytes]
    expected: str


def digest(image: Image.Image) -> str:
    """Size and pixels of an RGB image; a band at a time, large ones must not be held twice."""
    found = hashlib.sha256(struct.pack("<II", *image.size))
    for top in range(0, image.height, 256):
        found.update(image.crop((0, top, image.width, min(top + 256, image.height))).tobytes())
    return found.hexdigest()[:16]


def becomes(pixels_HW3: npt.ArrayLike) -> str:
    return f"pixels {digest(Image.fromarray(np.ascontiguousarray(pixels_HW3, np.uint8)))}"


# --- writing files ---------------------------------------------------------------------------------------------------


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(
    width: int, height: int, depth: int, colour: int, rows: bytes, *between: bytes, interlaced: bool = False
) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    return b"".join((b"\x89PNG\r\n\x1a\n", head, *between, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")))


def png_rows(samples_HWC: npt.NDArray[Any], depth: int) -> bytes:
    """Unfiltered scan lines of uint samples."""
    flat = samples_HWC.reshape(len(samples_HWC), -1)
    if depth == 16:
        lines = [row.astype(">u2").tobytes() for row in flat]
    else:
        bits = np.unpackbits(flat.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
        lines = [np.packbits(row.reshape(-1)).tobytes() for row in bits]
    return b"".join(b"\0" + line for line in lines)


def png_array(samples_HWC: npt.NDArray[Any], depth: int, colour: int, *between: bytes, adam7: bool = False) -> bytes:
    height, width = samples_HWC.shape[:2]
    if not adam7:
        return png_of(width, height, depth, colour, png_rows(samples_HWC, depth), *between)
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    parts = [samples_HWC[top::down, left::right] for top, left, down, right in passes]
    rows = b"".join(png_rows(part, depth) for part in parts if part.size)
    return png_of(width, height, depth, colour, rows, *between, interlaced=True)


def after_header(png: bytes, *chunks: bytes) -> bytes:
    return png[:33] + b"".join(chunks) + png[33:]


def exif(value: int, order: str = "<") -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return b"Exif\0\0" + mark + struct.pack(f"{order}IHHHIHHI", 8, 1, 0x0112, 3, 1, value, 0, 0)


def segment(code: int, body: bytes) -> bytes:
    return b"\xff" + bytes((code,)) + struct.pack(">H", len(body) + 2) + body


def after_start(jpeg: bytes, *segments: bytes) -> bytes:
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def jpeg_sized(jpeg: bytes, width: int, height: int) -> bytes:
    at = max(jpeg.find(b"\xff\xc0"), jpeg.find(b"\xff\xc2"))
    return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(k + struct.pack("<I", len(b)) + b + bytes(len(b) % 2) for k, b in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def vp8x(width: int, height: int) -> tuple[bytes, bytes]:
    return b"VP8X", bytes(4) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]


def bmp(width: int, height: int, bits: int, body: bytes, compression: int = 0, palette: bytes = b"") -> bytes:
    start = 54 + len(palette)
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(body), 0, 0, len(palette) // 4, 0)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + head + palette + body


# --- the rule, in numpy ----------------------------------------------------------------------------------------------


def gray(samples_HW: npt.NDArray[Any]) -> Pixels:
    return np.repeat(np.asarray(samples_HW, np.uint8).reshape(*samples_HW.shape[:2], 1), 3, axis=2)


def on_white(colour_HW3: npt.NDArray[Any], alpha_HW1: npt.NDArray[Any]) -> Pixels:
    colour, alpha = colour_HW3.astype(int), alpha_HW1.astype(int)
    return np.asarray((colour * alpha + 255 * (255 - alpha) + 127) // 255, np.uint8)


def from_cmyk(samples_HW4: Pixels) -> Pixels:
    paper = 255 - samples_HW4[..., 3:].astype(int)
    product = samples_HW4[..., :3] * paper + 128
    return np.asarray(np.clip(paper - ((product >> 8) + product >> 8), 0, 255), np.uint8)


def turned(pixels_HW3: Pixels, orientation: int) -> Pixels:
    """As EXIF says: where row 0 and column 0 of the file belong."""
    image = pixels_HW3.transpose(1, 0, 2) if orientation > 4 else pixels_HW3
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(orientation, ())
    return np.flip(image, flips)


def stored(data: bytes, mode: str = "RGB") -> Pixels:
    """The samples of frame 0 as PIL has them."""
    with Image.open(io.BytesIO(data)) as image:
        assert mode == "RGB" or image.mode == mode, image.mode
        return np.asarray(image.convert(mode))
