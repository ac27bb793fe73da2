"""The written rule by which image bytes become uint8 RGB pixels. Whoever follows it gets our pixels, bit for bit.

1. Formats: JPEG, PNG, WebP, GIF, BMP, told by content; names do not matter. TIFF is refused: it is a family of codecs,
   sample types and page layouts that no short rule covers, and its decoders have a long record of security holes.
   Run-length coded BMP is refused: nobody decodes it fast and alike.
2. At most 256 MiB encoded, 65535 pixels a side and 64 megapixels, read from the header before a pixel is decoded; and
   no more than decode in 512 MiB of memory. That takes the encoded bytes and 4 bytes a pixel; 2 more for each stored
   sample of a JPEG of several scans, which must hold all of them; for WebP the encoded bytes twice and 16 a pixel.
3. Frame 0 of an animation; the default image of an APNG.
4. Gray of 16 bits is shifted right by 8 (PIL's own conversion clips it to white); colour of 16 bits likewise.
5. Alpha, palette transparency and 8-bit colour keys are composited on white. CMYK by PIL's profile-free formula.
   Colour profiles and gamma are ignored.
6. EXIF orientation is applied last; a broken EXIF block counts as none.
7. A file that is cut short or damaged is refused, never filled in. What cannot be seen is compressed data that ends
   early in good form, and damage inside JPEG and GIF data that still decodes: the hash of the source bytes covers it.
"""

import hashlib
import io
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from stillhouse.core.errors import DataError

from .containers import WALKS, Parts, orientation, sniff

MAX_ENCODED_BYTES = 256 << 20
MAX_PIXELS = 64_000_000
MAX_SIDE = 65535
"""What JPEG and GIF can say; a PNG or BMP may say more, and PIL takes 8 bytes a row however short the row is."""
MAX_DECODE_BYTES = 512 << 20
BAND_PIXELS = 1 << 20
"""Pixels converted at a time, so that a conversion never holds a third copy of an image."""
WHITE = (255, 255, 255)

Reason = Literal[
    "empty",
    "too-many-bytes",
    "not-an-image",
    "format",
    "zero-size",
    "too-many-pixels",
    "mode",
    "truncated",
    "corrupt",
]
# The closed set of reasons, each with what a user can do about it. Append only: quarantine lists hold these words.
REASONS: Mapping[Reason, str] = {
    "empty": "copy the file again",
    "too-many-bytes": f"store it in at most {MAX_ENCODED_BYTES >> 20} MiB",
    "not-an-image": "remove it from the source",
    "format": f"convert it to one of {', '.join(WALKS)}",
    "zero-size": "remove it from the source",
    "too-many-pixels": (
        f"shrink it to at most {MAX_PIXELS // 10**6} megapixels and {MAX_SIDE} pixels a side, "
        "to 24 megapixels if it is WebP or progressive JPEG"
    ),
    "mode": "convert it to 8-bit RGB",
    "truncated": "copy the file again",
    "corrupt": "copy the file again, or remove it",
}

# The plugin classes themselves, not Image.open: no global registry to initialise in threads, no guess among formats,
# no switch to multi-picture JPEG, and no pixel-count warning, whose threshold is a global of PIL's.
_PLUGINS: Mapping[str, Callable[[io.BytesIO], Image.Image]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
}
_UPRIGHT: Mapping[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImage(DataError):
    """Bytes that the rule of this module does not turn into pixels.

    Args:
        reason: a key of `REASONS`, for machines.
        detail: what was found, one line.
    """

    kind = "bad-image"

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"bad image ({reason}): {detail}", hint=REASONS[reason])
        self.reason: Reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["BadImage"], tuple[Reason, str]]:
        return BadImage, (self.reason, self.detail)


def decode(data: bytes) -> Image.Image:
    """Encoded bytes -> a loaded PIL image of mode RGB, upright, without metadata. Safe in threads.

    Raises:
        BadImage: the bytes are refused; nothing else leaves but MemoryError.
    """
    name = _admit(data)
    try:
        loaded, turn = _load(name, data)
        pixels = _to_rgb(loaded)
        del loaded
        upright = pixels if turn is None else pixels.transpose(turn)
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # PIL raises nearly anything on damaged bytes
        raise BadImage(*_explain(name, error)) from error
    upright.info = {}
    return upright


def pixel_hash(image: Image.Image) -> int:
    """RGB image -> uint64: BLAKE2b-64 of width and height (u32le) and the RGB bytes, rows from the top."""
    assert image.mode == "RGB", image.mode
    digest = hashlib.blake2b(struct.pack("<II", *image.size), digest_size=8)
    for _, band in _bands(image):
        digest.update(band.tobytes())
    return int.from_bytes(digest.digest(), "little")


def encode_png(pixels_HWC: NDArray[np.uint8]) -> bytes:
    """uint8 RGB [H, W, 3] -> PNG bytes that `decode` turns back into the same pixels.

    The same Pillow build gives the same bytes; another one may compress differently, never to other pixels.
    """
    assert pixels_HWC.dtype == np.uint8 and pixels_HWC.ndim == 3 and pixels_HWC.shape[2] == 3, pixels_HWC.shape
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels_HWC)).save(out, "PNG", compress_level=6)
    return out.getvalue()


def _admit(data: bytes) -> str:
    if not data:
        raise BadImage("empty", "0 bytes")
    if len(data) > MAX_ENCODED_BYTES:
        raise BadImage("too-many-bytes", f"{len(data)} bytes encoded")
    name = sniff(data)
    if name is None:
        raise BadImage("not-an-image", f"{len(data)} bytes that begin with {data[:12]!r}")
    if name not in WALKS:
        raise BadImage("format", f"the file is {name}")
    return name


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise BadImage("zero-size", f"{width} x {height} pixels")
    if width * height > MAX_PIXELS or max(size) > MAX_SIDE:
        raise BadImage("too-many-pixels", f"{width} x {height} pixels declared")


def _check_memory(size: tuple[int, int], parts: Parts) -> None:
    needed = len(parts.data) + 4 * size[0] * size[1] + parts.extra
    if needed > MAX_DECODE_BYTES:
        detail = f"{size[0]} x {size[1]} pixels so coded take {needed >> 20} MiB to decode"
        raise BadImage("too-many-pixels", f"{detail}, the limit is {MAX_DECODE_BYTES >> 20}")


def _load(name: str, data: bytes) -> tuple[Image.Image, Image.Transpose | None]:
    """The pixels as stored, and how to turn them upright. What the decoder held is free again on return."""
    parts = WALKS[name](data)
    if parts.size is not None:
        _check_size(parts.size)
        _check_memory(parts.size, parts)
    with _PLUGINS[name](io.BytesIO(parts.data)) as image:
        _check_size(image.size)
        image.load()
        # A plain image that shares these pixels: `copy` would hold them twice.
        return image._new(image.im), _UPRIGHT.get(orientation(parts.exif))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.width * image.height <= BAND_PIXELS:
        return _flat(image)
    canvas = Image.new("RGB", image.size)
    for top, band in _bands(image):
        canvas.paste(_flat(band), (0, top))
    return canvas


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """(first row, copy of the rows) of one band after the other, from the top."""
    rows = max(1, BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _flat(image: Image.Image) -> Image.Image:
    """Any mode that the rule covers -> RGB, for each pixel by itself."""
    if image.mode in ("I", "I;16", "I;16B", "I;16L"):  # which of them a 16-bit PNG opens as depends on Pillow
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGB", rgba.size, WHITE)
        canvas.paste(rgba, (0, 0), rgba)
        return canvas
    if image.mode in ("RGB", "L", "1", "P", "CMYK"):
        return image.convert("RGB")
    raise BadImage("mode", f"pixels of PIL mode {image.mode}")


def _explain(name: str, error: Exception) -> tuple[Reason, str]:
    text = " ".join(str(error).split())[:200] or type(error).__name__
    detail = f"{name}: {text}"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "too-many-pixels", detail  # a GIF frame larger than its canvas, met while opening
    ends_early = (EOFError, IndexError, struct.error)  # how PIL's readers meet the end; it wraps them in a SyntaxError
    if isinstance(error, EOFError) or isinstance(error.__cause__, ends_early) or "truncated" in text.lower():
        return "truncated", detail
    if "cannot handle" in text:  # PIL of a JPEG with 12-bit samples or two channels
        return "mode", detail
    return "corrupt", detail
