"""One scene as a file in every form that image formats have: depths, colour types, sample formats, transparency.

`picture_files()` yields them by name. The tests compare what is decoded of each with what ImageMagick and libvips show,
and `mutated_files.py` damages them. TIFF, PNG, BMP, TGA and PNM are written here byte by byte, because no library
writes the rarer forms; the others are Pillow's.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

#: Odd on purpose: rows do not end at bytes or words.
WIDTH, HEIGHT = 37, 29
_LUMA = np.array([0.299, 0.587, 0.114])


def scene() -> np.ndarray:
    """(HEIGHT, WIDTH, 3) float64 of 0 to 1: no turn, mirror or swap of channels leaves it alike."""
    x, y = np.meshgrid(np.linspace(0, 1, WIDTH), np.linspace(0, 1, HEIGHT))
    colors = np.stack([x, y, (1 - x) * (1 - y)], axis=2)
    colors[(x - 0.3) ** 2 + (y - 0.25) ** 2 < 0.03] = (1.0, 0.9, 0.1)
    return colors


def gray_scene() -> np.ndarray:
    """(HEIGHT, WIDTH) float64 of 0 to 1."""
    gray = scene() @ _LUMA
    return gray / gray.max()


def alpha_scene() -> np.ndarray:
    """(HEIGHT, WIDTH) float64: opaque on the left, clear on the right."""
    return np.repeat(np.linspace(1, 0, WIDTH)[None], HEIGHT, axis=0)


def levels(values: np.ndarray, bits: int) -> np.ndarray:
    """Values of 0 to 1 as whole levels of so many bits, uint64."""
    if bits > 32:
        return levels(values, 32) << np.uint64(bits - 32)
    return np.floor(values * (2**bits - 1) + 0.5).astype(np.uint64)


def _packed(rows: np.ndarray, bits: int) -> bytes:
    """(H, N) levels of 1 to 16 bits, most significant bit first, each row filled up to a byte."""
    shifts = np.arange(bits - 1, -1, -1, dtype=np.uint64)
    as_bits = (rows[..., None] >> shifts & np.uint64(1)).astype(np.uint8)
    return np.packbits(as_bits.reshape(len(rows), -1), axis=1).tobytes()


# ---- TIFF

_TIFF_TYPES = {1: "B", 2: "s", 3: "H", 4: "I", 12: "d", 16: "Q"}


def tiff(
    samples: np.ndarray,
    *,
    photometric: int,
    bits: int = 8,
    order: str = "<",
    big: bool = False,
    planar: bool = False,
    tile: int | None = None,
    rows_per_strip: int | None = None,
    deflate: bool = False,
    reversed_bits: bool = False,
    tags: Sequence[tuple[int, int, Sequence[Any]]] = (),
) -> bytes:
    """A TIFF of (H, W, S) samples: integers of `bits` packed as they are, other numbers in their own type.

    Args:
        order: "<" or ">".
        tile: edge of square tiles; by default there are strips.
        reversed_bits: FillOrder 2.
        tags: more (tag, type, values).
    """
    height, width, num_samples = samples.shape
    planes = np.moveaxis(samples, 2, 0)[..., None] if planar else samples[None]
    pieces = [piece for plane in planes for piece in _tiff_pieces(plane, tile, rows_per_strip or height)]
    data = [_tiff_bytes(piece, bits, order) for piece in pieces]
    if deflate:
        data = [zlib.compress(piece) for piece in data]
    if reversed_bits:
        data = [bytes(int(f"{byte:08b}"[::-1], 2) for byte in piece) for piece in data]
    entries: dict[int, tuple[int, Sequence[Any]]] = {
        256: (4, [width]), 257: (4, [height]), 258: (3, [bits] * num_samples), 259: (3, [8 if deflate else 1]),
        262: (3, [photometric]), 277: (3, [num_samples]), 284: (3, [2 if planar else 1]),
    }  # fmt: skip
    if reversed_bits:
        entries[266] = (3, [2])
    if tile:
        entries |= {322: (3, [tile]), 323: (3, [tile])}
    else:
        entries[278] = (4, [rows_per_strip or height])
    start = 16 if big else 8
    offsets = [start + sum(map(len, data[:index])) for index in range(len(data))]
    entries |= {324 if tile else 273: (4, offsets), 325 if tile else 279: (4, [len(piece) for piece in data])}
    entries |= {tag: (kind, values) for tag, kind, values in tags}
    return _tiff_file(b"".join(data), entries, order, big)


def _tiff_pieces(plane: np.ndarray, tile: int | None, rows_per_strip: int) -> Iterator[np.ndarray]:
    height, width, _ = plane.shape
    if tile is None:
        yield from (plane[top : top + rows_per_strip] for top in range(0, height, rows_per_strip))
        return
    padded = np.pad(plane, ((0, -height % tile), (0, -width % tile), (0, 0)))
    for top in range(0, height, tile):
        yield from (padded[top : top + tile, left : left + tile] for left in range(0, width, tile))


def _tiff_bytes(piece: np.ndarray, bits: int, order: str) -> bytes:
    if piece.dtype.kind == "u" and bits % 8:
        return _packed(piece.reshape(len(piece), -1), bits)
    num_bytes = bits // 8 if piece.dtype.kind == "u" else piece.dtype.itemsize
    return np.ascontiguousarray(piece).astype(f"{order}{piece.dtype.kind}{num_bytes}").tobytes()


def _tiff_file(data: bytes, entries: dict[int, tuple[int, Sequence[Any]]], order: str, big: bool) -> bytes:
    offset_code, count_code, inline = ("Q", "Q", 8) if big else ("I", "H", 4)
    data += b"\0" * (len(data) % 2)
    header_bytes = 16 if big else 8
    directory = header_bytes + len(data)
    entry_bytes = 20 if big else 12
    extra_start = directory + struct.calcsize(order + count_code) + entry_bytes * len(entries) + inline
    body, extra = b"", b""
    for tag, (kind, values) in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(values)}{_TIFF_TYPES[kind]}", *values)
        if len(packed) > inline:
            place = struct.pack(order + offset_code, extra_start + len(extra))
            extra += packed + b"\0" * (len(packed) % 2)
        else:
            place = packed.ljust(inline, b"\0")
        body += struct.pack(f"{order}HH{offset_code}", tag, kind, len(values)) + place
    mark = b"II" if order == "<" else b"MM"
    header = mark + (
        struct.pack(order + "HHHQ", 43, 8, 0, directory) if big else struct.pack(order + "HI", 42, directory)
    )
    count = struct.pack(order + count_code, len(entries))
    return header + data + count + body + struct.pack(order + offset_code, 0) + extra


_SAMPLE_FORMAT, _EXTRA_SAMPLES, _COLORMAP, _PREDICTOR, _ORIENTATION = 339, 338, 320, 317, 274


def _tiff_grays() -> Iterator[tuple[str, bytes]]:
    gray = gray_scene()[..., None]
    for order in "<>":
        end = "little" if order == "<" else "big"
        for bits in (1, 2, 4, 6, 8, 10, 12, 14, 16, 32, 64):
            for photometric, name in ((1, "black is zero"), (0, "white is zero")):
                values = levels(gray if photometric else 1 - gray, bits)
                yield (
                    f"tiff gray {bits} bit {name} {end} endian",
                    tiff(values, photometric=photometric, bits=bits, order=order),
                )
        for kind in ("i1", "i2", "i4"):
            size = int(kind[1]) * 8
            signed = (levels(gray, size).astype(np.int64) - 2 ** (size - 1)).astype(kind)
            above_zero = (levels(gray, size) // 2).astype(kind)
            marks = [(_SAMPLE_FORMAT, 3, [2])]
            yield (
                f"tiff gray signed {size} bit {end} endian",
                tiff(signed, photometric=1, bits=size, order=order, tags=marks),
            )
            yield (
                f"tiff gray signed {size} bit above zero {end} endian",
                tiff(above_zero, photometric=1, bits=size, order=order, tags=marks),
            )
        for kind in ("f2", "f4", "f8"):
            size = int(kind[1]) * 8
            marks = [(_SAMPLE_FORMAT, 3, [3])]
            for name, values in (
                ("to 1", gray), ("to 0.5", gray / 2), ("to 1.02", gray * 1.02), ("to 4", gray ** 8 * 4),
                ("to 255", gray * 255), ("to 1000", gray * 1000), ("from -5 to 5", gray * 10 - 5),
                ("with NaN", np.where(gray > 0.9, np.nan, gray)),
                ("with infinity", np.where(gray > 0.9, np.inf, gray)),
            ):  # fmt: skip
                for photometric in (1, 0):
                    inverted = "" if photometric else " white is zero"
                    shown = values if photometric or name != "to 1" else 1 - values
                    yield (
                        f"tiff gray float {size} bit {name}{inverted} {end} endian",
                        tiff(shown.astype(kind), photometric=photometric, bits=size, order=order, tags=marks),
                    )
    for bits in (8, 16, 32):
        low = (gray * 200).astype(np.uint64)
        yield f"tiff gray {bits} bit with levels to 200", tiff(low, photometric=1, bits=bits)
        void = [(_SAMPLE_FORMAT, 3, [4])]
        yield f"tiff gray {bits} bit of undefined format", tiff(levels(gray, bits), photometric=1, bits=bits, tags=void)
    yield "tiff gray 12 bit deflated", tiff(levels(gray, 12), photometric=1, bits=12, deflate=True)
    yield "tiff gray 16 bit deflated white is zero", tiff(levels(1 - gray, 16), photometric=0, bits=16, deflate=True)
    yield "tiff gray 32 bit deflated", tiff(levels(gray, 32), photometric=1, bits=32, deflate=True)
    yield (
        "tiff gray 32 bit deflated big endian",
        tiff(levels(gray, 32), photometric=1, bits=32, deflate=True, order=">"),
    )
    yield (
        "tiff gray 16 bit deflated big endian",
        tiff(levels(gray, 16), photometric=1, bits=16, deflate=True, order=">"),
    )
    yield (
        "tiff gray signed 16 bit deflated big endian",
        tiff(
            (levels(gray, 16) // 2).astype("i2"),
            photometric=1,
            bits=16,
            deflate=True,
            order=">",
            tags=[(_SAMPLE_FORMAT, 3, [2])],
        ),
    )
    yield (
        "tiff gray float 32 bit deflated big endian",
        tiff(gray.astype("f4"), photometric=1, bits=32, deflate=True, order=">", tags=[(_SAMPLE_FORMAT, 3, [3])]),
    )
    for bits in (1, 2, 4, 8, 12, 16):
        for deflate in (False, True):
            for photometric in (0, 1):
                name = (
                    f"tiff gray {bits} bit reversed bits{' deflated' * deflate}{' white is zero' * (not photometric)}"
                )
                values = levels(gray if photometric else 1 - gray, bits)
                yield name, tiff(values, photometric=photometric, bits=bits, reversed_bits=True, deflate=deflate)
    for bits in (8, 12, 16, 32):
        yield f"tiff gray {bits} bit big tiff", tiff(levels(gray, bits), photometric=1, bits=bits, big=True)
        for deflate in (False, True):
            compressed = " deflated" * deflate
            for order in "<>":
                yield (
                    f"tiff gray {bits} bit tiled{compressed} {order}",
                    tiff(levels(gray, bits), photometric=1, bits=bits, tile=16, deflate=deflate, order=order),
                )
            yield (
                f"tiff gray {bits} bit strips{compressed}",
                tiff(levels(gray, bits), photometric=1, bits=bits, rows_per_strip=5, deflate=deflate),
            )


def _tiff_colors() -> Iterator[tuple[str, bytes]]:
    rgb, gray, alpha = scene(), gray_scene()[..., None], alpha_scene()[..., None]
    opacity = {"unspecified": 0, "premultiplied": 1, "alpha": 2}
    for bits in (1, 2, 4, 8, 12, 16, 32):
        for order in "<>":
            for layout in ({}, {"planar": True}, {"tile": 16}, {"planar": True, "tile": 16}, {"deflate": True},
                           {"planar": True, "deflate": True}, {"rows_per_strip": 7, "planar": True}, {"big": True},
                           {"tile": 16, "deflate": True}):  # fmt: skip
                name = f"{bits} bit {order} {' '.join(layout)}".strip()
                options: dict[str, Any] = {"bits": bits, "order": order, **layout}
                yield f"tiff rgb {name}", tiff(levels(rgb, bits), photometric=2, **options)
                ink = np.concatenate([1 - rgb, gray * 0.3], axis=2)
                yield f"tiff cmyk {name}", tiff(levels(ink, bits), photometric=5, tags=[(332, 3, [1])], **options)
                for kind, code in opacity.items():
                    colors = rgb * alpha if code == 1 else rgb
                    grays = gray * alpha if code == 1 else gray
                    marks = [(_EXTRA_SAMPLES, 3, [code])]
                    with_alpha = levels(np.concatenate([colors, alpha], axis=2), bits)
                    yield f"tiff rgb {kind} {name}", tiff(with_alpha, photometric=2, tags=marks, **options)
                    with_alpha = levels(np.concatenate([grays, alpha], axis=2), bits)
                    yield f"tiff gray {kind} {name}", tiff(with_alpha, photometric=1, tags=marks, **options)
                    if code != 1:
                        with_alpha = levels(np.concatenate([1 - grays, alpha], axis=2), bits)
                        yield (
                            f"tiff gray {kind} white is zero {name}",
                            tiff(with_alpha, photometric=0, tags=marks, **options),
                        )
    for first, second in ((0, 0), (1, 0), (2, 0)):
        marks = [(_EXTRA_SAMPLES, 3, [first, second])]
        samples = levels(np.concatenate([rgb * alpha if first == 1 else rgb, alpha, gray], axis=2), 8)
        yield f"tiff rgb 8 bit of extra samples {first} {second}", tiff(samples, photometric=2, tags=marks)
    indices, palette = _palette_of(rgb, 256)
    entries = np.zeros((256, 3), dtype=np.uint16)
    entries[: len(palette)] = palette.astype(np.uint16) * 257
    inks = np.concatenate([1 - rgb, gray * 0.3, alpha], axis=2)
    for kind, code in opacity.items():
        marks = [(_EXTRA_SAMPLES, 3, [code])]
        samples = np.concatenate([indices[..., None].astype(np.uint64), levels(alpha, 8)], axis=2)
        yield (
            f"tiff palette 8 bit {kind}",
            tiff(samples, photometric=3, tags=[*marks, (_COLORMAP, 3, entries.T.ravel().tolist())]),
        )
        yield f"tiff cmyk 8 bit {kind}", tiff(levels(inks, 8), photometric=5, tags=marks)
    for bits in (8, 16):
        plain = levels(np.concatenate([rgb, alpha], axis=2), bits)
        yield f"tiff rgb {bits} bit with a fourth sample unnamed", tiff(plain, photometric=2, bits=bits)
        plain = levels(np.concatenate([gray, alpha], axis=2), bits)
        yield f"tiff gray {bits} bit with a second sample unnamed", tiff(plain, photometric=1, bits=bits)
    for kind in ("f2", "f4", "f8"):
        size = int(kind[1]) * 8
        marks = [(_SAMPLE_FORMAT, 3, [3] * 3)]
        yield f"tiff rgb float {size} bit", tiff(rgb.astype(kind), photometric=2, bits=size, tags=marks)
    yield (
        "tiff rgb signed 8 bit",
        tiff((levels(rgb, 8) // 2).astype("i1"), photometric=2, tags=[(_SAMPLE_FORMAT, 3, [2] * 3)]),
    )
    yield (
        "tiff rgb signed 16 bit",
        tiff((levels(rgb, 16) // 2).astype("i2"), photometric=2, bits=16, tags=[(_SAMPLE_FORMAT, 3, [2] * 3)]),
    )
    for orientation in range(1, 9):
        for deflate in (False, True):
            marks = [(_ORIENTATION, 3, [orientation])]
            yield (
                f"tiff rgb orientation {orientation}{' deflated' * deflate}",
                tiff(levels(rgb, 8), photometric=2, tags=marks, deflate=deflate),
            )
            yield (
                f"tiff gray 12 bit orientation {orientation}{' deflated' * deflate}",
                tiff(levels(gray, 12), photometric=1, bits=12, tags=marks, deflate=deflate),
            )
    yield from _tiff_other_colors()


def _tiff_other_colors() -> Iterator[tuple[str, bytes]]:
    rgb, gray = scene(), gray_scene()[..., None]
    for bits in (1, 2, 4, 8, 16):
        for order in "<>":
            indices, palette = _palette_of(rgb, min(2**bits, 256))
            entries = np.zeros((2**bits, 3), dtype=np.uint16)
            entries[: len(palette)] = palette.astype(np.uint16) * 257
            marks = [(_COLORMAP, 3, entries.T.ravel().tolist())]
            for deflate in (False, True):
                name = f"tiff palette {bits} bit {order}{' deflated' * deflate}"
                yield (
                    name,
                    tiff(
                        indices[..., None].astype(np.uint64),
                        photometric=3,
                        bits=bits,
                        order=order,
                        tags=marks,
                        deflate=deflate,
                    ),
                )
            if bits == 8:
                small = [(_COLORMAP, 3, (entries // 257).T.ravel().tolist())]
                yield (
                    f"tiff palette of 8 bit colours {order}",
                    tiff(indices[..., None].astype(np.uint64), photometric=3, tags=small, order=order),
                )
    picture = Image.fromarray(levels(rgb, 8).astype(np.uint8))
    ycbcr = np.asarray(picture.convert("YCbCr")).astype(np.uint64)
    for deflate in (False, True):
        name = f"tiff ycbcr 8 bit{' deflated' * deflate}"
        yield name, tiff(ycbcr, photometric=6, tags=[(530, 3, [1, 1])], deflate=deflate)
    lab = np.asarray(_lab(picture))
    yield "tiff cielab 8 bit", tiff(lab.astype(np.uint64), photometric=8)
    yield "tiff icclab 8 bit", tiff((lab ^ np.array([0, 128, 128], dtype=np.uint8)).astype(np.uint64), photometric=9)
    yield "tiff cielab 16 bit", tiff(lab.astype(np.uint64) * 256, photometric=8, bits=16)
    yield "tiff mask", tiff(levels(gray, 1), photometric=4, bits=1)
    yield "tiff raw of a camera", tiff(levels(gray, 16), photometric=32803, bits=16)
    yield "tiff linear raw", tiff(levels(rgb, 16), photometric=34892, bits=16)
    for name, options in {
        "lzw": {"compression": "tiff_lzw"}, "packbits": {"compression": "packbits"}, "jpeg": {"compression": "jpeg"},
        "zstd": {"compression": "zstd"}, "lzma": {"compression": "lzma"},
    }.items():  # fmt: skip
        yield f"tiff rgb {name}", _saved(picture, "TIFF", **options)
        yield f"tiff gray {name}", _saved(picture.convert("L"), "TIFF", **options)
    wide = Image.fromarray(levels(gray_scene(), 16).astype(np.uint16))
    for compression in ("tiff_lzw", "tiff_adobe_deflate"):
        for name, image in (("rgb", picture), ("gray", picture.convert("L")), ("gray 16 bit", wide)):
            differences = _saved(image, "TIFF", compression=compression, tiffinfo={_PREDICTOR: 2})
            yield f"tiff {name} of differences {compression}", differences
    for name in ("group3", "group4", "tiff_ccitt"):
        yield f"tiff bilevel {name}", _saved(picture.convert("1"), "TIFF", compression=name)


def _lab(picture: Image.Image) -> Image.Image:
    from PIL import ImageCms

    transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    converted = ImageCms.applyTransform(picture, transform)
    assert converted is not None
    return converted


def _palette_of(rgb: np.ndarray, num_colors: int) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) indices and (N, 3) uint8 colours."""
    small = Image.fromarray(levels(rgb, 8).astype(np.uint8)).quantize(num_colors)
    palette = np.array(small.getpalette(), dtype=np.uint8).reshape(-1, 3)
    return np.asarray(small), palette


def _saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, kind, **options)
    return sink.getvalue()


# ---- PNG


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    samples: np.ndarray, *, color: int, bits: int = 8, interlaced: bool = False, chunks: Sequence[bytes] = ()
) -> bytes:
    """A PNG of (H, W, S) levels; `chunks` stand before the pixels."""
    height, width, _ = samples.shape
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b""
    for top, left, down, right in passes:
        part = samples[top::down, left::right]
        if part.size:
            packed = _packed(part.reshape(len(part), -1), bits)
            stride = len(packed) // len(part)
            rows += b"".join(b"\0" + packed[at : at + stride] for at in range(0, len(packed), stride))
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlaced)
    body = [png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", zlib.compress(rows)), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def _pngs() -> Iterator[tuple[str, bytes]]:
    rgb, gray, alpha = scene(), gray_scene()[..., None], alpha_scene()[..., None]
    for interlaced in (False, True):
        suffix = " interlaced" * interlaced
        for bits in (1, 2, 4, 8, 16):
            values = levels(gray, bits)
            yield f"png gray {bits} bit{suffix}", png(values, color=0, bits=bits, interlaced=interlaced)
            for name, clear in (
                ("black", 0),
                ("white", 2**bits - 1),
                ("middle", int(values[HEIGHT // 4, WIDTH // 3, 0])),
            ):
                chunk = png_chunk(b"tRNS", struct.pack(">H", clear))
                yield (
                    f"png gray {bits} bit transparent {name}{suffix}",
                    png(values, color=0, bits=bits, interlaced=interlaced, chunks=[chunk]),
                )
            if bits < 16:
                yield from _palette_pngs(bits, interlaced)
        for bits in (8, 16):
            yield f"png rgb {bits} bit{suffix}", png(levels(rgb, bits), color=2, bits=bits, interlaced=interlaced)
            values = levels(rgb, bits)
            clear = values[HEIGHT // 4, WIDTH // 3]
            chunk = png_chunk(b"tRNS", struct.pack(">3H", *clear.tolist()))
            yield (
                f"png rgb {bits} bit transparent color{suffix}",
                png(values, color=2, bits=bits, interlaced=interlaced, chunks=[chunk]),
            )
            with_alpha = levels(np.concatenate([gray, alpha], axis=2), bits)
            yield f"png gray alpha {bits} bit{suffix}", png(with_alpha, color=4, bits=bits, interlaced=interlaced)
            with_alpha = levels(np.concatenate([rgb, alpha], axis=2), bits)
            yield f"png rgb alpha {bits} bit{suffix}", png(with_alpha, color=6, bits=bits, interlaced=interlaced)
    near = levels(gray, 16) & np.uint64(0xFF00) | np.uint64(7)
    chunk = png_chunk(b"tRNS", struct.pack(">H", int(near[3, 3, 0]) + 1))
    yield "png gray 16 bit transparent near miss", png(near, color=0, bits=16, chunks=[chunk])
    near = levels(rgb, 16) & np.uint64(0xFF00) | np.uint64(7)
    chunk = png_chunk(b"tRNS", struct.pack(">3H", *(near[HEIGHT // 4, WIDTH // 3] + np.uint64(1)).tolist()))
    yield "png rgb 16 bit transparent near miss", png(near, color=2, bits=16, chunks=[chunk])
    background = png_chunk(b"bKGD", struct.pack(">3H", 255, 0, 0))
    with_alpha = levels(np.concatenate([rgb, alpha], axis=2), 8)
    yield "png rgb alpha 8 bit with a background", png(with_alpha, color=6, chunks=[background])
    significant = png_chunk(b"sBIT", b"\x05\x06\x05")
    yield "png rgb 8 bit of 5 significant", png(levels(rgb, 8) & np.uint64(0xF8), color=2, chunks=[significant])
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[_ORIENTATION] = orientation
        chunk = png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
        yield f"png rgb 8 bit orientation {orientation}", png(levels(rgb, 8), color=2, chunks=[chunk])
        yield f"png gray 16 bit orientation {orientation}", png(levels(gray, 16), color=0, bits=16, chunks=[chunk])


def _palette_pngs(bits: int, interlaced: bool) -> Iterator[tuple[str, bytes]]:
    indices, palette = _palette_of(scene(), 2**bits)
    values = indices[..., None].astype(np.uint64)
    colors = png_chunk(b"PLTE", palette.tobytes())
    opacities = np.linspace(0, 255, len(palette)).astype(np.uint8).tobytes()
    for name, chunks in (
        ("", []),
        (" transparent first", [png_chunk(b"tRNS", b"\0")]),
        (" transparent each", [png_chunk(b"tRNS", opacities)]),
        (" transparent some", [png_chunk(b"tRNS", opacities[: max(1, len(palette) // 2)])]),
    ):
        suffix = " interlaced" * interlaced
        yield (
            f"png palette {bits} bit{name}{suffix}",
            png(values, color=3, bits=bits, interlaced=interlaced, chunks=[colors, *chunks]),
        )


# ---- the others


def _pnms() -> Iterator[tuple[str, bytes]]:
    rgb, gray = scene(), gray_scene()[..., None]
    size = f"{WIDTH} {HEIGHT}"
    bits = (gray[..., 0] < 0.5).astype(int)
    yield (
        "pnm P1",
        f"P1\n# remark\n{size}\n".encode() + b"\n".join(" ".join(map(str, row)).encode() for row in bits.tolist()),
    )
    yield "pnm P4", f"P4\n{size}\n".encode() + np.packbits(bits.astype(np.uint8), axis=1).tobytes()
    for maxval in (1, 3, 15, 100, 200, 255, 256, 1000, 1023, 4095, 32767, 65535):
        for values, plain, raw in ((gray, "P2", "P5"), (rgb, "P3", "P6")):
            whole = np.floor(values * maxval + 0.5).astype(np.int64)
            text = "\n".join(" ".join(map(str, row.ravel())) for row in whole).encode()
            yield f"pnm {plain} maxval {maxval}", f"{plain}\n{size}\n{maxval}\n".encode() + text + b"\n"
            stored = whole.astype("u1" if maxval < 256 else ">u2").tobytes()
            yield f"pnm {raw} maxval {maxval}", f"{raw}\n{size}\n{maxval}\n".encode() + stored
    alpha = alpha_scene()[..., None]
    for depth, kind, values in ((1, "GRAYSCALE", gray), (2, "GRAYSCALE_ALPHA", np.concatenate([gray, alpha], axis=2)),
                                (3, "RGB", rgb), (4, "RGB_ALPHA", np.concatenate([rgb, alpha], axis=2))):  # fmt: skip
        header = f"P7\nWIDTH {WIDTH}\nHEIGHT {HEIGHT}\nDEPTH {depth}\nMAXVAL 255\nTUPLTYPE {kind}\nENDHDR\n".encode()
        yield f"pam {kind}", header + levels(values, 8).astype(np.uint8).tobytes()
    for scale in (1.0, -1.0, 255.0, -0.5):
        order = "<f4" if scale < 0 else ">f4"
        for name, most in (("to 1", 1.0), ("to 1.02", 1.02), ("to 255", 255.0)):
            for mark, picture in (("Pf", gray), ("PF", rgb)):
                flipped = (picture[::-1] * most).astype(order)
                yield f"pfm {mark} scale {scale:g} {name}", f"{mark}\n{size}\n{scale}\n".encode() + flipped.tobytes()


def _bmp(
    pixels: bytes,
    *,
    bits: int,
    compression: int = 0,
    palette: bytes = b"",
    masks: bytes = b"",
    height: int = HEIGHT,
    header_bytes: int = 40,
) -> bytes:
    """A BMP of rows that are padded already."""
    if header_bytes == 12:
        header = struct.pack("<IHHHH", 12, WIDTH, height, 1, bits)
    else:
        num_colors = len(palette) // 4
        header = struct.pack(
            "<IiiHHIIiiII", header_bytes, WIDTH, height, 1, bits, compression, len(pixels), 2835, 2835, num_colors, 0
        )
        header += masks if header_bytes == 40 else masks.ljust(header_bytes - 40, b"\0")
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + header + palette + pixels


def _bmp_rows(rows: np.ndarray) -> bytes:
    """(H, N) bytes from the top down, as the format wants them: from the bottom up, in words of 4."""
    return np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))[::-1].tobytes()


def _bmps() -> Iterator[tuple[str, bytes]]:
    rgb, alpha = scene(), alpha_scene()[..., None]
    for bits in (1, 4, 8):
        indices, palette = _palette_of(rgb, 2**bits)
        entries = np.zeros((2**bits, 4), dtype=np.uint8)
        entries[: len(palette), :3] = palette[:, ::-1]
        packed = np.frombuffer(_packed(indices.astype(np.uint64), bits), dtype=np.uint8).reshape(HEIGHT, -1)
        yield f"bmp palette {bits} bit", _bmp(_bmp_rows(packed), bits=bits, palette=entries.tobytes())
        core = entries[:, :3].tobytes()
        yield f"bmp palette {bits} bit of OS/2", _bmp(_bmp_rows(packed), bits=bits, palette=core, header_bytes=12)
        if bits == 8:
            runs = (
                b"".join(b"".join(bytes([1, index]) for index in row) + b"\0\0" for row in indices[::-1].tolist())
                + b"\0\1"
            )
            yield "bmp palette 8 bit in runs", _bmp(runs, bits=8, compression=1, palette=entries.tobytes())
    bgr = levels(rgb, 8).astype(np.uint8)[..., ::-1]
    yield "bmp rgb 24 bit", _bmp(_bmp_rows(bgr.reshape(HEIGHT, -1)), bits=24)
    yield "bmp rgb 24 bit top down", _bmp(_bmp_rows(bgr.reshape(HEIGHT, -1)[::-1]), bits=24, height=-HEIGHT)
    yield "bmp rgb 24 bit of OS/2", _bmp(_bmp_rows(bgr.reshape(HEIGHT, -1)), bits=24, header_bytes=12)
    for name, masks, widths in (("555", (0x7C00, 0x3E0, 0x1F), (5, 5, 5)), ("565", (0xF800, 0x7E0, 0x1F), (5, 6, 5))):
        red, green, blue = (levels(rgb[..., channel], width) for channel, width in enumerate(widths))
        words = (red << np.uint64(widths[1] + widths[2]) | green << np.uint64(widths[2]) | blue).astype("<u2")
        rows = words.view(np.uint8).reshape(HEIGHT, -1)
        yield (
            f"bmp rgb 16 bit {name} by masks",
            _bmp(_bmp_rows(rows), bits=16, compression=3, masks=struct.pack("<III", *masks)),
        )
        if name == "555":
            yield "bmp rgb 16 bit", _bmp(_bmp_rows(rows), bits=16)
    bgra = np.concatenate([bgr, levels(alpha, 8).astype(np.uint8)], axis=2)
    yield "bmp rgb 32 bit with a fourth byte", _bmp(_bmp_rows(bgra.reshape(HEIGHT, -1)), bits=32)
    bgr0 = bgra * np.array([1, 1, 1, 0], dtype=np.uint8)
    yield "bmp rgb 32 bit with zeros", _bmp(_bmp_rows(bgr0.reshape(HEIGHT, -1)), bits=32)
    bgra_masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs"
    for header_bytes in (56, 108, 124):
        yield (
            f"bmp rgb alpha 32 bit header {header_bytes}",
            _bmp(
                _bmp_rows(bgra.reshape(HEIGHT, -1)),
                bits=32,
                compression=3,
                masks=bgra_masks[: header_bytes - 40],
                header_bytes=header_bytes,
            ),
        )
    no_alpha = struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)
    yield "bmp rgb 32 bit by masks", _bmp(_bmp_rows(bgra.reshape(HEIGHT, -1)), bits=32, compression=3, masks=no_alpha)


def _tga(
    pixels: np.ndarray, *, kind: int, bits: int, descriptor: int = 0x20, palette: bytes = b"", footer: bool = True
) -> bytes:
    colors = struct.pack("<HHB", 0, len(palette) // 3, 24 if palette else 0)
    header = struct.pack("<BBB", 0, bool(palette), kind) + colors
    header += struct.pack("<HHHHBB", 0, 0, WIDTH, HEIGHT, bits, descriptor)
    return header + palette + pixels.tobytes() + (b"\0" * 8 + b"TRUEVISION-XFILE.\0") * footer


def _tgas() -> Iterator[tuple[str, bytes]]:
    bgr = levels(scene(), 8).astype(np.uint8)[..., ::-1]
    gray = levels(gray_scene(), 8).astype(np.uint8)
    alpha = levels(alpha_scene()[..., None], 8).astype(np.uint8)
    indices, palette = _palette_of(scene(), 256)
    yield "tga rgb 24 bit", _tga(bgr, kind=2, bits=24)
    yield "tga rgb 24 bit bottom up", _tga(bgr[::-1], kind=2, bits=24, descriptor=0)
    yield "tga rgb 24 bit without a footer", _tga(bgr, kind=2, bits=24, footer=False)
    yield "tga rgb alpha 32 bit", _tga(np.concatenate([bgr, alpha], axis=2), kind=2, bits=32, descriptor=0x28)
    yield "tga gray 8 bit", _tga(gray, kind=3, bits=8)
    yield "tga palette 8 bit", _tga(indices, kind=1, bits=8, palette=palette[:, ::-1].tobytes())


def _by_pillow() -> Iterator[tuple[str, bytes]]:
    picture = Image.fromarray(levels(scene(), 8).astype(np.uint8))
    gray = picture.convert("L")
    mask = Image.fromarray(levels(alpha_scene(), 8).astype(np.uint8))
    clear = picture.copy()
    clear.putalpha(mask)
    gray_clear = gray.copy()
    gray_clear.putalpha(mask)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[_ORIENTATION] = orientation
        yield f"jpeg rgb orientation {orientation}", _saved(picture, "JPEG", exif=exif, quality=95, subsampling=0)
        yield f"webp rgb orientation {orientation}", _saved(picture, "WEBP", exif=exif, lossless=True)
        yield f"avif rgb orientation {orientation}", _saved(picture, "AVIF", exif=exif, quality=95, subsampling="4:4:4")
    for name, image in (("gray", gray), ("rgb", picture), ("cmyk", picture.convert("CMYK"))):
        for options in ({}, {"progressive": True}, {"subsampling": 2}, {"keep_rgb": True}):
            if not (options.get("keep_rgb") and name != "rgb"):
                yield f"jpeg {name} {' '.join(options)}".strip(), _saved(image, "JPEG", quality=95, **options)
    yield "jpeg ycck", _as_ycck(_saved(_ycck(picture), "JPEG", quality=95))
    yield "jpeg cmyk without Adobe's mark", _without_adobe(_saved(picture.convert("CMYK"), "JPEG", quality=95))
    for name, image in (("rgb", picture), ("rgb alpha", clear), ("gray", gray), ("gray alpha", gray_clear)):
        if name != "gray alpha":
            yield f"webp {name} lossless", _saved(image, "WEBP", lossless=True, exact=True)
            yield f"webp {name}", _saved(image, "WEBP", quality=95)
            yield f"avif {name}", _saved(image, "AVIF", quality=95, subsampling="4:4:4")
        for kind in ("jp2", "j2k"):
            yield f"jpeg 2000 {name} {kind}", _saved(image, "JPEG2000", no_jp2=kind == "j2k")
    yield "webp animated alpha", _saved(clear, "WEBP", lossless=True, save_all=True, append_images=[clear.rotate(180)])
    yield "png animated", _saved(clear, "PNG", save_all=True, append_images=[clear.rotate(180)])
    yield "jpeg 2000 gray 16 bit", _saved(Image.fromarray(levels(gray_scene(), 16).astype(np.uint16)), "JPEG2000")
    yield "jpeg 2000 ycbcr", _saved(picture.convert("YCbCr"), "JPEG2000")
    yield "ico rgb alpha png", _saved(clear, "ICO", sizes=[(WIDTH, HEIGHT)])
    yield "ico rgb alpha bmp", _saved(clear, "ICO", sizes=[(WIDTH, HEIGHT)], bitmap_format="bmp")
    for name, image in (("palette", picture.quantize(64)), ("gray", gray)):
        yield f"gif {name}", _saved(image, "GIF", interlace=0)
        yield f"gif {name} interlaced", _saved(image, "GIF", interlace=1)
        yield f"gif {name} transparent", _saved(image, "GIF", transparency=int(np.asarray(image)[5, 12]))
    yield (
        "gif animated",
        _saved(picture.quantize(64), "GIF", save_all=True, append_images=[picture.rotate(180).quantize(64)]),
    )
    yield "gif smaller than its canvas", _on_canvas(_saved(picture.quantize(64), "GIF", transparency=5), 50, 40)


def _ycck(picture: Image.Image) -> Image.Image:
    """Four channels that a JPEG of YCCK holds, inverted as Adobe writes them."""
    black = levels(gray_scene() * 0.3, 8).astype(np.uint8)
    colors = np.asarray(Image.fromarray(255 - np.asarray(picture)).convert("YCbCr"))
    return Image.fromarray(np.concatenate([colors, black[..., None]], axis=2), "CMYK")


def _as_ycck(data: bytes) -> bytes:
    """The Adobe marker's transform set to 2."""
    at = data.index(b"Adobe") + 11
    return data[:at] + b"\2" + data[at + 1 :]


def _without_adobe(data: bytes) -> bytes:
    start = data.index(b"Adobe") - 4
    length = int.from_bytes(data[start + 2 : start + 4], "big")
    return data[:start] + data[start + 2 + length :]


def _on_canvas(gif: bytes, width: int, height: int) -> bytes:
    """The same picture at (9, 4) of a larger canvas."""
    data = bytearray(gif)
    data[6:10] = struct.pack("<HH", width, height)
    at = len(data) - 1
    at = bytes(data).index(b",\0\0\0\0" + struct.pack("<HH", WIDTH, HEIGHT))
    data[at + 1 : at + 5] = struct.pack("<HH", 9, 4)
    return bytes(data)


_FAMILIES: tuple[Callable[[], Iterator[tuple[str, bytes]]], ...] = (
    _tiff_grays, _tiff_colors, _pngs, _pnms, _bmps, _tgas, _by_pillow,
)  # fmt: skip


def picture_files() -> Iterator[tuple[str, bytes]]:
    """(name, file): the name begins with the format."""
    for family in _FAMILIES:
        yield from family()
