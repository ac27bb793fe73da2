"""What kind of image file some bytes are, and which of their parts decide pixels.

PIL is given only those parts. Metadata never reaches it: no EXIF, XMP or colour profile parser runs on strangers'
bytes, no compressed text chunk can expand, no warning can be raised (in threads a warning cannot be silenced locally),
and an animation's control chunks cannot change what frame 0 means. The one piece of metadata that matters for pixels,
the EXIF orientation, is read here.

A walk over a file's parts also finds what PIL does not look at: a PNG cut behind its last row, a flipped bit in its
compressed rows, a JPEG with thousands of scans.

Raises of every function: EOFError when the file is cut short, ValueError when it is damaged, struct.error and
IndexError never.
"""

import math
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

MAX_PARTS = 1 << 18  # segments or chunks of one file; walking more is a way to waste time, not a photograph
MAX_JPEG_SCANS = 100  # encoders write about ten; a scan costs the time of a whole image whatever its size
MAX_JPEG_HEAD = 1 << 20  # tables in front of the first scan; a few thousand bytes are usual, and PIL walks each slowly
MAX_JPEG_FILL = 1 << 16  # bytes of 0xff in one run inside a scan; PIL reads a run again for every 64 KiB of it

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\x01\xd0-\xd8]")  # not those without a length; EOI is handled
JPEG_METADATA = frozenset(range(0xE1, 0xF0)) - {0xEE} | {0xFE}
JPEG_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the segments that hold height and width
GIF_GRAPHIC_CONTROL = 0xF9
BMP_RUN_LENGTHS = (b"\1\0\0\0", b"\2\0\0\0")
BMP_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)
# Files that are images, but of no format that we decode; named so that the message can say what to convert.
OTHER_FORMATS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "BigTIFF"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypheic", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"jP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"JXL \r\n\x87\n", "JPEG XL"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\0\0\1\0", "ICO"),
    (0, b"<svg", "SVG"),
    (0, b"P5\n", "PGM"),
    (0, b"P6\n", "PPM"),
)


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of an image file that decide its pixels.

    Args:
        data: a file of the same format without the parts that do not matter.
        exif: the EXIF block as found, empty when there is none.
        size: (width, height) by the header; None where PIL reads it safely itself.
        extra: bytes that decoding takes beside `data` and 4 a pixel.
    """

    data: bytes
    exif: bytes = b""
    size: tuple[int, int] | None = None
    extra: int = 0


def sniff(data: bytes) -> str | None:
    """The format of `data` by its first bytes: a key of `WALKS`, the name of another image format, or None."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(PNG_SIGNATURE):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in BMP_HEADER_SIZES:
        return "run-length coded BMP" if data[30:34] in BMP_RUN_LENGTHS and data[14] >= 40 else "BMP"
    return next((name for start, magic, name in OTHER_FORMATS if data.startswith(magic, start)), None)


def orientation(exif: bytes) -> int:
    """The EXIF orientation, 1..8; 1 when it is absent, out of range, or the block is broken."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2], "")
    if not order:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (num_entries,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * num_entries, 12):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, entry)
            if tag == 0x0112:
                (value,) = struct.unpack_from(f"{order}{'I' if kind == 4 else 'H'}", tiff, entry + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass  # a table that points outside the block; the photograph itself may well be whole
    return 1


def walk_jpeg(data: bytes) -> Parts:
    """From start to end-of-image without APP1-APP13, APP15 and comments in front of the first scan.

    APP0 (JFIF) and APP14 (Adobe) stay: they decide the colour transform.
    """
    view, exif = memoryview(data), b""
    kept, frame = [view[:2]], view[:0]
    position, first_scan, num_scans, head_bytes = 2, 0, 0, 0
    for _ in range(MAX_PARTS):
        found = JPEG_MARKER.search(data, position)
        if found is None:
            raise EOFError(f"no end-of-image mark in {len(data)} bytes of JPEG")
        mark, start = found.start(), found.end()
        code = data[start - 1]
        if code == 0xD9:
            break
        length = int.from_bytes(data[start : start + 2], "big")
        position = start + length
        if max(position, start + 2) > len(data):
            raise EOFError(f"the JPEG segment at byte {mark} ends behind the last of {len(data)} bytes")
        if length < 2:
            raise ValueError(f"the JPEG segment at byte {mark} has no length")
        if code == 0xDA:
            num_scans, first_scan = num_scans + 1, first_scan or mark
        elif not num_scans:
            if code in JPEG_FRAMES and length >= 8:
                frame = view[start - 1 : position]
            if code == 0xE1 and data[start + 2 : start + 8] == b"Exif\0\0":
                exif = exif or data[start + 2 : position]
            if code not in JPEG_METADATA:
                kept.append(view[mark:position])
                head_bytes += position - mark
    else:
        raise ValueError(f"more than {MAX_PARTS} JPEG segments")
    if head_bytes > MAX_JPEG_HEAD:
        raise ValueError(f"{head_bytes} bytes of JPEG tables; at most {MAX_JPEG_HEAD} are read")
    if data.find(b"\xff" * MAX_JPEG_FILL, first_scan, start) >= 0:
        raise ValueError(f"{MAX_JPEG_FILL} fill bytes or more in the JPEG scans")
    if not 1 <= num_scans <= MAX_JPEG_SCANS:
        raise ValueError(f"{num_scans} JPEG scans; from 1 to {MAX_JPEG_SCANS} are read")
    size, extra = None, 0
    if frame:
        height, width = struct.unpack_from(">HH", frame, 4)
        size = width, height
        if num_scans > 1 or frame[0] in JPEG_PROGRESSIVE or data[first_scan + 4] != frame[8]:
            extra = 2 * _jpeg_samples(width, height, frame[9:])
    return Parts(b"".join((*kept, view[first_scan:start])), exif, size, extra)


def _jpeg_samples(width: int, height: int, components: memoryview) -> int:
    """How many samples a decoder keeps that must keep all of them, the edges of blocks included."""
    factors = [(byte >> 4, byte & 15) for byte in components[1::3]]
    most_x, most_y = max(1, *(x for x, _ in factors)), max(1, *(y for _, y in factors))
    return sum(math.ceil(width * x / most_x / 8 + x) * math.ceil(height * y / most_y / 8 + y) * 64 for x, y in factors)


def walk_png(data: bytes) -> Parts:
    """IHDR, PLTE, tRNS, IDAT and IEND, each with its CRC checked; an APNG becomes its default image."""
    if len(data) >= 16 and data[12:16] != b"IHDR":
        raise ValueError(f"the first PNG chunk is {data[12:16]!r}")
    view, exif, position = memoryview(data), b"", 8
    kept, depth, colour = [view[:8]], data[24:25], data[25:26]
    for _ in range(MAX_PARTS):
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        end = position + 12 + length
        if end > len(data):
            raise EOFError(f"PNG chunk {kind!r} at byte {position} ends behind the last of {len(data)} bytes")
        body = view[position + 8 : end - 4]
        intact = zlib.crc32(view[position + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")
        # A colour key can be compared exactly only with 8-bit samples; PIL has already scaled the others.
        if kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND") or (kind == b"tRNS" and (colour == b"\3" or depth == b"\x08")):
            if not intact:
                raise ValueError(f"the CRC of PNG chunk {kind!r} at byte {position} does not match")
            kept.append(view[position:end])
        elif kind == b"eXIf" and intact:
            exif = bytes(body)
        elif kind[:1].isupper():
            raise ValueError(f"unknown critical PNG chunk {kind!r} at byte {position}")
        if kind == b"IEND":
            width, height = struct.unpack_from(">II", data, 16)
            return Parts(b"".join(kept), exif, (width, height))
        position = end
    raise ValueError(f"more than {MAX_PARTS} PNG chunks")


def walk_webp(data: bytes) -> Parts:
    """The file as it is, cut at the length that it declares."""
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise EOFError(f"the WebP file declares {end} bytes and has {len(data)}")
    exif, position = b"", 12
    for _ in range(MAX_PARTS):
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        if data[position : position + 4] == b"EXIF":
            exif = data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2
        if position >= end:
            width, height = _webp_size(data[12:30])
            # libwebp keeps two canvases, and hands over a third that PIL reads the image from.
            return Parts(data[:end], exif, (width, height), 12 * width * height + end)
    raise ValueError(f"more than {MAX_PARTS} WebP chunks")


def _webp_size(head: bytes) -> tuple[int, int]:
    """(width, height) from the first 18 bytes of the first chunk."""
    kind, head = head[:4], head.ljust(18, b"\0")
    if kind == b"VP8X":
        return int.from_bytes(head[12:15], "little") + 1, int.from_bytes(head[15:18], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(head[9:13], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return int.from_bytes(head[14:16], "little") & 0x3FFF, int.from_bytes(head[16:18], "little") & 0x3FFF
    raise ValueError(f"the first WebP chunk is {kind!r}")


def walk_gif(data: bytes) -> Parts:
    """Header, palettes, graphic controls and frame 0. Comments and the frames behind it are left out."""
    view, position = memoryview(data), 13
    if len(data) < position:
        raise EOFError(f"a GIF of {len(data)} bytes")
    position += _gif_palette_bytes(data[10])
    kept = [view[:position]]
    steps = iter(range(MAX_PARTS))  # of blocks and of their sub-blocks together
    for _ in steps:
        mark, kind = position, data[position : position + 1]
        if kind == b"!":
            position = _gif_end(data, mark + 2, steps)
            if data[mark + 1] == GIF_GRAPHIC_CONTROL:
                kept.append(view[mark:position])
        elif kind == b"," and len(data) >= mark + 10:
            left, top, width, height, flags = struct.unpack_from("<HHHHB", data, mark + 1)
            position = _gif_end(data, mark + 11 + _gif_palette_bytes(flags), steps)
            canvas_width, canvas_height = struct.unpack_from("<HH", data, 6)
            # A canvas is as large as its frames need, whatever it says.
            size = max(canvas_width, left + width), max(canvas_height, top + height)
            return Parts(b"".join((*kept, view[mark:position], b";")), b"", size)
        elif kind in (b",", b";", b""):
            raise EOFError(f"the GIF ends at byte {mark} without a frame")
        else:
            position += 1  # stray bytes between blocks, which some writers leave
    raise ValueError(f"more than {MAX_PARTS} GIF blocks")


def _gif_palette_bytes(flags: int) -> int:
    return 6 << (flags & 7) if flags & 128 else 0


def _gif_end(data: bytes, position: int, steps: Iterator[int]) -> int:
    """Where the sub-blocks that begin at `position` end."""
    for _ in steps:
        if position >= len(data):
            raise EOFError(f"a GIF block ends behind the last of {len(data)} bytes")
        if not data[position]:
            return position + 1
        position += 1 + data[position]
    raise ValueError(f"more than {MAX_PARTS} GIF blocks")


WALKS: Mapping[str, Callable[[bytes], Parts]] = {
    "JPEG": walk_jpeg,
    "PNG": walk_png,
    "WEBP": walk_webp,
    "GIF": walk_gif,
    "BMP": Parts,
}
