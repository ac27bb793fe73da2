"""Images of many kinds, sound and bad, each with what must become of it."""

import struct
import zlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from image_files import (
    Kind,
    after_header,
    after_start,
    becomes,
    bmp,
    chunk,
    encode,
    exif,
    from_cmyk,
    gray,
    jpeg_sized,
    on_white,
    png_array,
    png_of,
    png_rows,
    riff,
    segment,
    stored,
    turned,
    vp8x,
)
from PIL import Image


class Material:
    """The images that the kinds of one seed are made from."""

    def __init__(self, seed: int) -> None:
        chance = np.random.Generator(np.random.PCG64(seed))
        self.height, self.width = int(chance.integers(9, 40)), int(chance.integers(9, 40))
        self.rgba = chance.integers(0, 256, (self.height, self.width, 4), np.uint8)
        self.rgba[:3, :3, 3] = [0, 128, 255]
        self.rgb, self.alpha = self.rgba[..., :3], self.rgba[..., 3:]
        self.deep = chance.integers(0, 1 << 16, (self.height, self.width, 4), np.uint16)
        smooth = np.linspace(0, 255, self.height * self.width * 3).reshape(self.rgb.shape)
        self.image = Image.fromarray((smooth * 0.8 + self.rgb * 0.2).astype(np.uint8))
        self.palette = Image.fromarray(self.rgb).quantize(16)
        self.frames = [self.image.rotate(90), self.image.rotate(180)]
        self.jpeg = encode(self.image, "JPEG", quality=90)
        self.png = encode(Image.fromarray(self.rgb), "PNG")
        self.webp = encode(Image.fromarray(self.rgb), "WEBP", lossless=True)
        self.gif = encode(self.palette, "GIF")
        self.bmp = encode(Image.fromarray(self.rgb), "BMP")
        self.chance = chance


def kinds(seed: int) -> Iterator[Kind]:
    """Every kind once, made from the images of one seed."""
    material = Material(seed)
    makers = (sound_jpegs, bad_jpegs, sound_pngs, bad_pngs, webps, gifs, bmps, others, cuts)
    for maker in makers:
        for name, data, expected in maker(material):
            yield Kind(f"{name}, seed {seed}", partial(bytes, data), expected)


Made = Iterator[tuple[str, bytes, str]]


def sound_jpegs(m: Material) -> Made:
    plain = becomes(stored(m.jpeg))
    yield "jpeg", m.jpeg, plain
    ways: dict[str, dict[str, Any]] = {
        "jpeg 4:4:4": {"subsampling": 0},
        "jpeg 4:2:2": {"subsampling": 1},
        "jpeg progressive": {"progressive": True},
        "jpeg progressive 4:4:4": {"progressive": True, "subsampling": 0},
        "jpeg optimized": {"optimize": True},
        "jpeg with restart marks": {"restart_marker_blocks": 1},
        "jpeg of quality 1": {"quality": 1},
    }
    for name, options in ways.items():
        data = encode(m.image, "JPEG", **options)
        yield name, data, becomes(stored(data))
    for name, image in {"gray": m.image.convert("L"), "gray progressive": m.image.convert("L")}.items():
        data = encode(image, "JPEG", progressive="progressive" in name)
        yield f"jpeg {name}", data, becomes(gray(stored(data, "L")))
    cmyk = encode(m.image.convert("CMYK"), "JPEG")
    yield "jpeg cmyk", cmyk, becomes(from_cmyk(stored(cmyk, "CMYK")))
    cmyk = encode(m.image.convert("CMYK"), "JPEG", progressive=True)
    yield "jpeg cmyk progressive", cmyk, becomes(from_cmyk(stored(cmyk, "CMYK")))
    for value in range(1, 9):
        order = "<" if value % 2 else ">"
        data = after_start(m.jpeg, segment(0xE1, exif(value, order)))
        yield f"jpeg of EXIF orientation {value}", data, becomes(turned(stored(m.jpeg), value))
    for name, block in {
        "out of range": exif(9),
        "cut": exif(6)[:20],
        "pointing outside": exif(6)[:10] + b"\xff\xff\xff\x7f" + exif(6)[14:],
        "of 65535 entries": exif(6)[:14] + b"\xff\xff\x13" + exif(6)[17:],
        "of no byte order": exif(6).replace(b"II*", b"ZZ*"),
        "empty": b"Exif\0\0",
    }.items():
        yield f"jpeg with EXIF {name}", after_start(m.jpeg, segment(0xE1, block)), plain
    icc = segment(0xE2, b"ICC_PROFILE\0\1\1" + m.chance.bytes(3000))
    yield "jpeg with a broken colour profile", after_start(m.jpeg, icc), plain
    yield "jpeg with 60 pieces of colour profile", after_start(m.jpeg, icc * 60), plain
    yield "jpeg with XMP", after_start(m.jpeg, segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x" + b" " * 60000)), plain
    yield "jpeg with 20000 comments", after_start(m.jpeg, segment(0xFE, b"\xff\xd9") * 20000), plain
    yield "jpeg with a Photoshop block", after_start(m.jpeg, segment(0xED, b"Photoshop 3.0\0" + bytes(99))), plain
    yield "jpeg with a thumbnail", after_start(m.jpeg, segment(0xE1, exif(1) + m.jpeg)), plain
    yield "jpeg with bytes behind it", m.jpeg + m.chance.bytes(5000), plain
    yield "jpeg with a page behind it", m.jpeg + b"<html><script>alert(1)</script>", plain
    yield "jpeg with a second jpeg behind it", m.jpeg + encode(m.frames[0], "JPEG"), plain
    yield "jpeg with a zip behind it", m.jpeg + b"PK\3\4" + bytes(200), plain
    yield "jpeg with fill bytes", m.jpeg[:20] + b"\xff" * 99 + m.jpeg[20:], plain
    yield "jpeg with junk between segments", m.jpeg[:20] + b"\0\1\2" + m.jpeg[20:], plain
    yield "mpo", encode(m.image, "MPO", save_all=True, append_images=m.frames), becomes(stored(encode(m.image, "JPEG")))


def bad_jpegs(m: Material) -> Made:
    head, scan = m.jpeg.index(b"\xff\xc0"), m.jpeg.index(b"\xff\xda")
    yield "jpeg of 3 bytes", m.jpeg[:3], "truncated"
    yield "jpeg without a scan", m.jpeg[:scan] + b"\xff\xd9", "corrupt"
    yield "jpeg without a frame", m.jpeg[:head] + m.jpeg[scan:], "corrupt or zero-size"
    yield "jpeg without tables", m.jpeg[:2] + m.jpeg[head:], "corrupt or truncated"
    yield "jpeg with a segment of no length", after_start(m.jpeg, b"\xff\xe0\0\0"), "corrupt"
    yield "jpeg of 12 bits", m.jpeg[: head + 4] + b"\x0c" + m.jpeg[head + 5 :], "mode"
    yield "jpeg of height 0", jpeg_sized(m.jpeg, 5, 0), "zero-size"
    yield "jpeg of width 0", jpeg_sized(m.jpeg, 0, 5), "zero-size"
    yield "jpeg of 65535 x 65535", jpeg_sized(m.jpeg, 65535, 65535), "too-many-pixels"
    yield "jpeg of 500 scans", m.jpeg[:-2] + m.jpeg[scan:-2] * 500 + m.jpeg[-2:], "corrupt"
    yield "jpeg with a scan of fill bytes", m.jpeg[:-2] + b"\xff" * (1 << 16) + m.jpeg[-2:], "corrupt"
    yield (
        "jpeg with 2 MB of tables",
        after_start(m.jpeg, segment(0xDB, bytes(1) + bytes(range(1, 65))) * 30000),
        "corrupt",
    )
    yield "jpeg with sampling factors of 0", m.jpeg[: head + 11] + b"\0" + m.jpeg[head + 12 :], "corrupt"
    yield "jpeg of 255 channels", m.jpeg[: head + 9] + b"\xff" + m.jpeg[head + 10 :], "corrupt or mode"
    lossless = m.jpeg[: head + 1] + b"\xc3" + m.jpeg[head + 2 :]
    yield "jpeg lossless", lossless, "any"
    yield "jpeg arithmetic", m.jpeg[: head + 1] + b"\xc9" + m.jpeg[head + 2 :], "any"
    restarts = bytearray(encode(m.image, "JPEG", restart_marker_blocks=1))
    for at in range(restarts.index(b"\xff\xda"), len(restarts) - 2):
        if restarts[at] == 0xFF and 0xD0 <= restarts[at + 1] <= 0xD7:
            restarts[at + 1] = 0xD0 + int(m.chance.integers(8))
    yield "jpeg with restart marks out of order", bytes(restarts), "any"
    noise = bytearray(m.jpeg)
    noise[scan + 14 : -2] = m.chance.bytes(len(m.jpeg) - scan - 16).replace(b"\xff", b"\xfe")
    yield "jpeg with noise for a scan", bytes(noise), "any"


def sound_pngs(m: Material) -> Made:
    rgb = becomes(m.rgb)
    yield "png", m.png, rgb
    for depth in (1, 2, 4, 8):
        levels = m.rgb[..., :1] >> 8 - depth
        expected = becomes(gray(levels * (255 // (2**depth - 1))))
        yield f"png gray of {depth} bits", png_array(levels, depth, 0), expected
        yield f"png gray of {depth} bits interlaced", png_array(levels, depth, 0, adam7=True), expected
        colours = m.chance.integers(0, 256, (2**depth, 3), np.uint8)
        table = chunk(b"PLTE", colours.tobytes())
        yield f"png palette of {depth} bits", png_array(levels, depth, 3, table), becomes(colours[levels[..., 0]])
        opacity = m.chance.integers(0, 256, (2**depth, 1), np.uint8)
        clear = png_array(levels, depth, 3, table, chunk(b"tRNS", opacity.tobytes()))
        yield (
            f"png palette of {depth} bits with alpha",
            clear,
            becomes(on_white(colours[levels[..., 0]], opacity[levels[..., 0]])),
        )
    for adam7 in (False, True):
        how = " interlaced" if adam7 else ""
        yield (
            f"png gray of 16 bits{how}",
            png_array(m.deep[..., :1], 16, 0, adam7=adam7),
            becomes(gray(m.deep[..., :1] >> 8)),
        )
        yield (
            f"png colour of 16 bits{how}",
            png_array(m.deep[..., :3], 16, 2, adam7=adam7),
            becomes(m.deep[..., :3] >> 8),
        )
        yield f"png colour{how}", png_array(m.rgb, 8, 2, adam7=adam7), rgb
        yield f"png colour and alpha{how}", png_array(m.rgba, 8, 6, adam7=adam7), becomes(on_white(m.rgb, m.alpha))
        yield (
            f"png gray and alpha{how}",
            png_array(m.rgba[..., 2:], 8, 4, adam7=adam7),
            becomes(on_white(gray(m.rgba[..., 2:3]), m.alpha)),
        )
    deep = m.deep >> 8
    yield (
        "png gray and alpha of 16 bits",
        png_array(m.deep[..., 2:], 16, 4),
        becomes(on_white(gray(deep[..., 2:3]), deep[..., 3:])),
    )
    yield "png colour and alpha of 16 bits", png_array(m.deep, 16, 6), becomes(on_white(deep[..., :3], deep[..., 3:]))
    key = m.rgb[1, 1]
    keyed = np.where((m.rgb == key).all(axis=2, keepdims=True), 255, m.rgb)
    sample = chunk(b"tRNS", key.astype(">u2").tobytes())
    yield "png with a colour key", after_header(m.png, sample), becomes(keyed)
    deep_key = chunk(b"tRNS", m.deep[1, 1, :1].astype(">u2").tobytes())
    yield (
        "png gray of 16 bits with a colour key",
        png_array(m.deep[..., :1], 16, 0, deep_key),
        becomes(gray(m.deep[..., :1] >> 8)),
    )
    bomb = zlib.compress(bytes(40 << 20), 9)
    yield "png with a zTXt bomb", after_header(m.png, chunk(b"zTXt", b"a\0\0" + bomb)), rgb
    yield "png with an iTXt bomb", after_header(m.png, chunk(b"iTXt", b"a\0\1\0\0\0" + bomb)), rgb
    yield "png with an iCCP bomb", after_header(m.png, chunk(b"iCCP", b"a\0\0" + bomb)), rgb
    yield "png with a broken iCCP", after_header(m.png, chunk(b"iCCP", b"no profile")), rgb
    yield "png with 5000 texts", after_header(m.png, chunk(b"tEXt", b"a\0b") * 5000), rgb
    yield "png with a damaged text", after_header(m.png, chunk(b"tEXt", b"a\0b")[:-1] + b"?"), rgb
    yield "png with gamma", after_header(m.png, chunk(b"gAMA", struct.pack(">I", 22000))), rgb
    yield "png with EXIF", after_header(m.png, chunk(b"eXIf", exif(6)[6:])), becomes(turned(m.rgb, 6))
    yield "png with a broken EXIF", after_header(m.png, chunk(b"eXIf", b"II*\0\xff\xff\xff\xff")), rgb
    rows = zlib.compress(png_rows(m.rgb, 8))
    single = b"".join(chunk(b"IDAT", rows[at : at + 1]) for at in range(len(rows)))
    yield "png with an IDAT a byte", m.png[:33] + single + chunk(b"IEND", b""), rgb
    yield "png with bytes behind it", m.png + b"<html>", rgb
    yield "png with a jpeg behind it", m.png + m.jpeg, rgb
    yield "apng", encode(Image.fromarray(m.rgb), "PNG", save_all=True, append_images=m.frames, default_image=True), rgb
    yield "apng with nonsense for control", after_header(m.png, chunk(b"acTL", b"\xff" * 3)), rgb
    yield "png of 1 x 1", png_array(m.rgb[:1, :1], 8, 2), becomes(m.rgb[:1, :1])
    line = m.chance.integers(0, 256, (1, 65500, 3), np.uint8)
    yield "png of 65500 x 1", png_array(line, 8, 2), becomes(line)
    yield "png of 1 x 65500", png_array(line.reshape(65500, 1, 3), 8, 2), becomes(line.reshape(65500, 1, 3))


def bad_pngs(m: Material) -> Made:
    body = m.png.index(b"IDAT") + 4
    flipped = m.png[: body + 9] + bytes((m.png[body + 9] ^ 1,)) + m.png[body + 10 :]
    yield "png with a flipped bit in the pixels", flipped, "corrupt"
    yield "png that begins with another chunk", m.png[:8] + chunk(b"tEXt", b"a\0b") + m.png[8:], "corrupt"
    yield "png with a critical chunk nobody knows", after_header(m.png, chunk(b"CgBI", bytes(4))), "corrupt"
    yield "png without pixels", m.png[:33] + chunk(b"IEND", b""), "corrupt or truncated"
    yield "png of 3 bits", png_of(4, 4, 3, 0, bytes(20)), "corrupt"
    yield "png of an unknown colour type", png_of(4, 4, 8, 5, bytes(20)), "corrupt"
    yield "png of an unknown compression", m.png[:8] + chunk(b"IHDR", m.png[16:26] + b"\1\0\0") + m.png[33:], "any"
    yield "png of width 0", png_of(0, 4, 8, 0, bytes(4)), "zero-size"
    yield "png of 20000 x 20000", png_of(20000, 20000, 1, 0, bytes(4096)), "too-many-pixels"
    yield "png of 2147483647 x 2147483647", png_of(2**31 - 1, 2**31 - 1, 1, 0, bytes(9)), "too-many-pixels"
    yield "png of 1 x 64000000", png_of(1, 64_000_000, 1, 0, bytes(4096)), "too-many-pixels"
    yield "png of 65536 x 1", png_of(65536, 1, 8, 0, bytes(65537)), "too-many-pixels"
    yield "png whose data ends early in good form", png_of(9, 9, 8, 0, bytes(40)), "pixels"  # the rule says so
    yield "png with no zlib inside", m.png[:33] + chunk(b"IDAT", b"no zlib at all") + chunk(b"IEND", b""), "corrupt"
    yield "png with a filter nobody knows", png_of(4, 4, 8, 0, b"\x09\0\0\0\0" * 4), "corrupt or truncated"
    yield "png palette without a palette", png_of(4, 4, 8, 3, bytes(20)), "any"
    yield "png with a palette of 1 byte", png_of(4, 4, 8, 3, bytes(20), chunk(b"PLTE", b"\1")), "any"
    yield "png with a chunk of 4 GB", after_header(m.png, b"\xff\xff\xff\xfftEXt"), "truncated"


def webps(m: Material) -> Made:
    rgb = becomes(m.rgb)
    yield "webp lossless", m.webp, rgb
    lossy = encode(m.image, "WEBP")
    yield "webp lossy", lossy, becomes(stored(lossy))
    clear = encode(Image.fromarray(m.rgba), "WEBP", lossless=True, exact=True)
    yield "webp alpha", clear, becomes(on_white(m.rgb, m.alpha))
    moving = encode(Image.fromarray(m.rgb), "WEBP", lossless=True, save_all=True, append_images=m.frames)
    yield "webp animated", moving, rgb
    many = encode(Image.fromarray(m.rgb), "WEBP", lossless=True, save_all=True, append_images=m.frames * 200)
    yield "webp of 400 frames", many, rgb
    yield (
        "webp with EXIF",
        encode(Image.fromarray(m.rgb), "WEBP", lossless=True, exif=exif(5)),
        becomes(turned(m.rgb, 5)),
    )
    yield "webp with a profile", encode(Image.fromarray(m.rgb), "WEBP", lossless=True, icc_profile=b"x" * 999), rgb
    yield "webp with bytes behind it", m.webp + bytes(99), rgb
    yield "webp of 16384 x 16384", riff(vp8x(16384, 16384), (b"VP8L", b"")), "too-many-pixels"
    yield (
        "webp of 16383 x 16383 lossy",
        riff((b"VP8 ", bytes(3) + b"\x9d\x01\x2a\xff\x3f\xff\x3f" + bytes(9))),
        "too-many-pixels",
    )
    yield "webp of 8000 x 6000", riff(vp8x(8000, 6000), (b"VP8L", m.webp[20:])), "too-many-pixels"
    yield "webp of an unknown kind", m.webp[:12] + b"VP9 " + m.webp[16:], "corrupt"
    yield "webp with nothing in it", riff(vp8x(8, 8)), "corrupt or truncated"
    yield "webp of 100000 chunks", riff(vp8x(8, 8), *[(b"junk", b"")] * 100_000), "corrupt or truncated"
    flipped = bytearray(m.webp)
    flipped[40:60] = m.chance.bytes(20)
    yield "webp with noise in it", bytes(flipped), "any"


def gifs(m: Material) -> Made:
    expected = becomes(stored(m.gif))
    head = 13 + (6 << (m.gif[10] & 7))
    yield "gif", m.gif, expected
    yield "gif animated", encode(m.palette, "GIF", save_all=True, append_images=[m.palette.rotate(90)]), expected
    yield "gif without its trailer", m.gif[:-1], expected
    yield "gif with bytes behind it", m.gif + b"<html>", expected
    yield "gif with stray bytes between blocks", m.gif[:head] + bytes(9) + m.gif[head:], expected
    yield (
        "gif with a comment of 2 MB",
        m.gif[:head] + b"!\xfe" + (b"\xff" + b"x" * 255) * 8000 + b"\0" + m.gif[head:],
        expected,
    )
    yield "gif with 5000 comments", m.gif[:head] + b"!\xfe\1x\0" * 5000 + m.gif[head:], expected
    yield (
        "gif with a comment of 300000 pieces",
        m.gif[:head] + b"!\xfe" + b"\1x" * 300_000 + b"\0" + m.gif[head:],
        "corrupt",
    )
    levels = Image.fromarray(m.rgb[..., 0])
    keyed = np.where(m.rgb[..., 0] == m.rgb[2, 2, 0], 255, m.rgb[..., 0])
    clear = encode(levels, "GIF", transparency=int(m.rgb[2, 2, 0]), optimize=False)
    yield "gif with a clear level", clear, becomes(gray(keyed))
    interlaced = encode(m.palette, "GIF", interlace=1)
    yield "gif interlaced", interlaced, expected
    large = m.gif[:6] + struct.pack("<HH", m.width + 5, m.height + 7) + m.gif[10:]
    yield "gif with a frame smaller than its canvas", large, "pixels"
    small = m.gif[:6] + struct.pack("<HH", 2, 2) + m.gif[10:]
    yield "gif with a frame larger than its canvas", small, expected
    yield "gif of 65535 x 65535", m.gif[:6] + b"\xff" * 4 + m.gif[10:], "too-many-pixels"
    at = m.gif.index(b",", head)
    yield "gif with a frame of 65535 x 65535", m.gif[: at + 5] + b"\xff" * 4 + m.gif[at + 9 :], "too-many-pixels"
    yield "gif without a frame", m.gif[:head] + b";", "truncated"
    yield "gif with noise for pixels", m.gif[: at + 12] + b"\x20" + m.chance.bytes(32) + b"\0;", "any"
    yield "gif of 300 bits a code", m.gif[: at + 10] + b"\xff" + m.gif[at + 11 :], "corrupt or truncated"


def bmps(m: Material) -> Made:
    rgb = becomes(m.rgb)
    rows = b"".join(row[:, ::-1].tobytes() + bytes(-3 * m.width % 4) for row in m.rgb)
    upside = b"".join(row[:, ::-1].tobytes() + bytes(-3 * m.width % 4) for row in m.rgb[::-1])
    yield "bmp", m.bmp, rgb
    yield "bmp from the bottom", bmp(m.width, m.height, 24, upside), rgb
    yield "bmp from the top", bmp(m.width, -m.height, 24, rows), rgb
    core = (
        b"BM" + struct.pack("<IHHI", 26 + len(upside), 0, 0, 26) + struct.pack("<IHHHH", 12, m.width, m.height, 1, 24)
    )
    yield "bmp with the oldest header", core + upside, rgb
    wide = np.concatenate([m.rgb[::-1, :, ::-1], np.full_like(m.alpha, 255)], axis=2)
    yield "bmp of 32 bits", bmp(m.width, m.height, 32, wide.tobytes()), rgb
    yield "bmp palette", encode(m.palette, "BMP"), becomes(stored(encode(m.palette, "PNG")))
    yield (
        "bmp of 1 bit",
        encode(m.image.convert("1"), "BMP"),
        becomes(gray(stored(encode(m.image.convert("1"), "PNG"), "1") * 255)),
    )
    yield "bmp of 16 bits", bmp(4, 4, 16, bytes(32)), becomes(np.zeros((4, 4, 3)))
    yield "bmp run-length coded", bmp(8, 8, 8, b"\x08\1\0\0" * 8 + b"\0\1", 1, bytes(1024)), "format"
    yield "bmp run-length coded, 64 megapixels", bmp(8000, 8000, 4, b"\xff\1" * 99, 2, bytes(64)), "format"
    yield "bmp of 20000 x 20000", bmp(20000, 20000, 24, bytes(999)), "too-many-pixels"
    yield "bmp of 100000 x 2", bmp(100_000, 2, 1, bytes(999)), "too-many-pixels"
    yield "bmp of an unknown compression", bmp(8, 8, 24, bytes(999), 9), "corrupt"
    yield "bmp of 7 bits", bmp(8, 8, 7, bytes(999)), "corrupt"
    yield "bmp with pixels elsewhere", m.bmp[:10] + struct.pack("<I", 1 << 30) + m.bmp[14:], "truncated"
    yield "bmp with a palette of 4 billion", bmp(8, 8, 8, bytes(64))[:46] + b"\xff" * 4 + bytes(999), "any"


def others(m: Material) -> Made:
    texts = {
        "empty": (b"", "empty"),
        "text": (b"hello, I am a caption", "not-an-image"),
        "html": (b"<!DOCTYPE html><h1>404 Not Found</h1>", "not-an-image"),
        "json": (b'{"error": "gone"}', "not-an-image"),
        "zeros": (bytes(4096), "not-an-image"),
        "noise": (b"\x01" + m.chance.bytes(4096), "not-an-image"),
        "one byte": (b"\xff", "not-an-image"),
        "a jpeg behind a byte": (b"\0" + m.jpeg, "not-an-image"),
        "a jpeg in base64": (b"data:image/jpeg;base64,/9j/4AAQ", "not-an-image"),
        "a zip": (b"PK\3\4" + bytes(30) + m.jpeg, "not-an-image"),
        "a tar": (b"a.jpg".ljust(512, b"\0") + m.jpeg, "not-an-image"),
        "a gzip": (b"\x1f\x8b\x08" + bytes(99), "not-an-image"),
        "a pdf": (b"%PDF-1.7\n" + m.jpeg, "not-an-image"),
        "a wav": (b"RIFF\x24\0\0\0WAVEfmt ", "not-an-image"),
        "an mp4": (b"\0\0\0\x18ftypisom" + bytes(99), "not-an-image"),
        "a program": (b"\x7fELF" + bytes(99), "not-an-image"),
        "text that begins like a bmp": (b"BM is a magic number of two letters", "not-an-image"),
        "a pointer of git lfs": (b"version https://git-lfs.github.com/spec/v1\n", "not-an-image"),
        "avif": (b"\0\0\0\x20ftypavif" + bytes(20), "format"),
        "heic": (b"\0\0\0\x20ftypheic" + bytes(20), "format"),
        "heif": (b"\0\0\0\x20ftypmif1" + bytes(20), "format"),
        "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "format"),
        "photoshop": (b"8BPS\0\1" + bytes(40), "format"),
        "jpeg 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20), "format"),
        "jpeg xl": (b"\xff\x0a" + bytes(20), "format"),
        "bigtiff": (b"II+\0\x08\0\0\0" + bytes(20), "format"),
        "ico": (encode(m.image, "ICO", sizes=[(8, 8)]), "format"),
        "tiff": (encode(m.image, "TIFF"), "format"),
        "tiff of 32-bit floats": (encode(m.image.convert("F"), "TIFF"), "format"),
        "tiff of 16 bits": (encode(Image.fromarray(m.deep[..., 0]), "TIFF"), "format"),
        "ppm": (encode(m.image, "PPM"), "format"),
        "pgm": (encode(m.image.convert("L"), "PPM"), "format"),
    }
    for name, (data, reason) in texts.items():
        yield name, data, reason


def cuts(m: Material) -> Made:
    """Each format without its end; a GIF needs no trailer, a BMP no padding."""
    progressive = encode(m.image, "JPEG", progressive=True)
    for name, data, spare in (
        ("jpeg", m.jpeg, 0),
        ("jpeg progressive", progressive, 0),
        ("png", m.png, 0),
        ("webp", m.webp, 0),
        ("gif", m.gif, 2),
        ("bmp", m.bmp, 4),
    ):
        signature = {"webp": 12, "bmp": 26, "gif": 6, "png": 8}.get(name, 3)
        for share in range(20):
            first, last = signature + share * (len(data) - spare - signature) // 20, len(data) - spare
            left = int(m.chance.integers(first, max(first + 1, min(last, first + len(data) // 20))))
            yield f"{name} cut in part {share + 1} of 20", data[:left], "truncated or corrupt"


def sound_files(seed: int) -> dict[str, bytes]:
    """What fuzzed files are made from: every format and the ways it is coded."""
    m = Material(seed)
    cmyk, gray_image = m.image.convert("CMYK"), m.image.convert("L")
    return {
        "jpeg": m.jpeg,
        "jpeg progressive": encode(m.image, "JPEG", progressive=True, exif=exif(6)),
        "jpeg cmyk": encode(cmyk, "JPEG"),
        "jpeg restarts": encode(gray_image, "JPEG", restart_marker_blocks=1),
        "mpo": encode(m.image, "MPO", save_all=True, append_images=m.frames),
        "png": m.png,
        "png interlaced": png_array(m.deep, 16, 6, adam7=True),
        "png palette": encode(m.palette, "PNG", transparency=bytes(range(16))),
        "apng": encode(m.image, "PNG", save_all=True, append_images=m.frames, default_image=True),
        "webp": encode(m.image, "WEBP"),
        "webp lossless": m.webp,
        "webp alpha": encode(Image.fromarray(m.rgba), "WEBP", exif=exif(3)),
        "webp animated": encode(m.image, "WEBP", save_all=True, append_images=m.frames),
        "gif": m.gif,
        "gif animated": encode(m.palette, "GIF", save_all=True, append_images=[m.palette.rotate(90)], transparency=1),
        "bmp": m.bmp,
        "bmp palette": encode(m.palette, "BMP"),
    }
