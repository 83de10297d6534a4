import io
import pickle
import random
import resource
import struct
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from dxmc_core.images.decode import DRAFT_MARGIN, ImageRejectedError, RejectReason, decode_image, thumbnail

WIDTH, HEIGHT = 96, 64


def _picture() -> Image.Image:
    """Smooth colours that differ in every corner, so that no rotation or swap of channels goes unnoticed."""
    x, y = np.meshgrid(np.linspace(0, 1, WIDTH), np.linspace(0, 1, HEIGHT))
    return Image.fromarray(np.stack([220 * x, 220 * y, 200 * (1 - x) * (1 - y)], axis=2).astype(np.uint8))


def _encode(image: Image.Image, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def _gray16() -> Image.Image:
    return Image.fromarray(np.asarray(_picture().convert("L")).astype(np.uint16) * 257)


def _files() -> dict[str, bytes]:
    """One file of every kind that is decoded."""
    picture = _picture()
    turned = picture.rotate(180)
    float_levels = np.asarray(picture.convert("L")).astype(np.float32) / 255
    return {
        "jpeg": _encode(picture, "JPEG"),
        "jpeg progressive": _encode(picture, "JPEG", progressive=True),
        "jpeg gray": _encode(picture.convert("L"), "JPEG"),
        "jpeg cmyk": _encode(picture.convert("CMYK"), "JPEG"),
        "png": _encode(picture, "PNG"),
        "png palette": _encode(picture.quantize(64), "PNG"),
        "png alpha": _encode(picture.convert("RGBA"), "PNG"),
        "png gray alpha": _encode(picture.convert("LA"), "PNG"),
        "png bilevel": _encode(picture.convert("1"), "PNG"),
        "png 16 bit": _encode(_gray16(), "PNG"),
        "gif": _encode(picture, "GIF"),
        "gif animated": _encode(picture, "GIF", save_all=True, append_images=[turned]),
        "webp": _encode(picture, "WEBP"),
        "webp lossless": _encode(picture, "WEBP", lossless=True),
        "webp animated": _encode(picture, "WEBP", save_all=True, append_images=[turned]),
        "bmp": _encode(picture, "BMP"),
        "tiff": _encode(picture, "TIFF"),
        "tiff lzw": _encode(picture, "TIFF", compression="tiff_lzw"),
        "tiff cmyk": _encode(picture.convert("CMYK"), "TIFF"),
        "tiff 16 bit": _encode(_gray16(), "TIFF"),
        "tiff float": _encode(Image.fromarray(float_levels), "TIFF"),
        "avif": _encode(picture, "AVIF"),
        "jpeg 2000": _encode(picture, "JPEG2000"),
        "ppm": _encode(picture, "PPM"),
        "ico": _encode(picture, "ICO", sizes=[(WIDTH, HEIGHT)]),
        "pgm 16 bit": _encode(_gray16().convert("I"), "PPM"),
    }


FILES = _files()


def _reason(data: bytes, **options: int) -> RejectReason:
    with pytest.raises(ImageRejectedError) as caught:
        decode_image(data, **options)
    assert "\n" not in caught.value.message
    return caught.value.reason


def _rejection(data: bytes) -> str:
    with pytest.raises(ImageRejectedError) as caught:
        decode_image(data)
    return str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_every_kind_gives_the_picture_in_rgb(name):
    image = decode_image(FILES[name])
    expected = _picture()
    if "gray" in name or "16" in name or "float" in name:
        expected = expected.convert("L").convert("RGB")
    if "bilevel" in name:
        expected = expected.convert("1").convert("RGB")
    assert image.mode == "RGB"
    assert image.size == (WIDTH, HEIGHT)
    difference = np.abs(np.asarray(image, dtype=float) - np.asarray(expected, dtype=float)).mean()
    assert difference < 9, difference


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_exif_is_undone(orientation):
    stored_as = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    picture = _picture()
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = picture if stored_as is None else picture.transpose(stored_as)
    assert np.array_equal(np.asarray(decode_image(_encode(stored, "PNG", exif=exif))), np.asarray(picture))


def test_damaged_exif_does_not_cost_the_picture():
    damaged = _encode(_picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\x07" * 40)
    assert np.array_equal(np.asarray(decode_image(damaged)), np.asarray(decode_image(FILES["jpeg"])))


def test_transparency_is_composited_on_white():
    picture = _picture().convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    decoded = np.asarray(decode_image(_encode(picture, "PNG")), dtype=float)
    pixels = np.asarray(picture, dtype=float)
    alpha = pixels[:, :, 3:] / 255
    assert np.abs(decoded - (alpha * pixels[:, :, :3] + (1 - alpha) * 255)).max() <= 1.0


def test_transparent_palette_entry_is_white():
    picture = Image.new("P", (8, 8), 0)
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putpixel((3, 4), 1)
    decoded = decode_image(_encode(picture, "PNG", transparency=0))
    assert decoded.getpixel((0, 0)) == (255, 255, 255)
    assert decoded.getpixel((3, 4)) == (200, 100, 50)


@pytest.mark.parametrize(
    ("high", "shown"), [(0.5, 128), (1.0, 255), (1.02, 255), (7.0, 255), (255.0, 255), (200.0, 200)]
)
def test_float_levels_of_0_to_1_and_of_0_to_255(high, shown):
    levels = np.linspace(0.0, min(high, 1.0) if high < 100 else high, 64, dtype=np.float32).reshape(8, 8)
    levels[7, 7] = high
    decoded = np.asarray(decode_image(_encode(Image.fromarray(levels), "TIFF")))
    assert decoded[7, 7].tolist() == [shown] * 3
    white = 255 if high >= 100 else 1
    assert np.abs(decoded[..., 0] - np.minimum(levels * 255 / white, 255)).max() <= 0.51


def test_levels_of_which_nothing_says_what_is_white_are_unsupported():
    """Readers show them black, white or stretched."""
    for low, high in ((-5.0, 1000.0), (0.0, 10.0), (0.0, 3000.0)):
        levels = np.linspace(low, high, 64, dtype=np.float32).reshape(8, 8)
        message = _rejection(_encode(Image.fromarray(levels), "TIFF"))
        assert message.startswith("unsupported: this kind of TIFF file is not decoded: float levels from ")
        assert f"{high:g}" in message
    signed = _encode(Image.fromarray(np.full((8, 8), 70_000, dtype=np.int32)), "TIFF")
    assert "signed levels" in _rejection(signed)


def test_float_levels_that_are_no_numbers_are_black_and_infinity_is_white():
    levels = np.full((8, 8), 0.25, dtype=np.float32)
    levels[0, 0], levels[0, 1], levels[0, 2] = np.nan, np.inf, -np.inf
    decoded = np.asarray(decode_image(_encode(Image.fromarray(levels), "TIFF")))[..., 0]
    assert decoded[0, :4].tolist() == [0, 255, 0, 64]


@pytest.mark.parametrize("name", [name for name in FILES if "animated" not in name])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_file_that_is_cut_off_is_truncated(name, share):
    data = FILES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's on the EXIF of TIFF files
        assert _reason(data[: int(len(data) * share)]) == RejectReason.TRUNCATED


def test_reasons():
    assert _reason(b"") == RejectReason.EMPTY
    assert _reason(b"<html><body>404 Not Found</body></html>") == RejectReason.NOT_AN_IMAGE
    assert _reason(b"\0" * 1000) == RejectReason.NOT_AN_IMAGE
    assert _reason(b"BM but this is text") == RejectReason.NOT_AN_IMAGE
    assert _reason(b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + b"\0" * 100) == RejectReason.NOT_AN_IMAGE
    assert _reason(b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>') == RejectReason.UNSUPPORTED
    assert _reason(b"%PDF-1.7 ...") == RejectReason.UNSUPPORTED
    assert _reason(b"\xff\x0a" + b"\x01" * 50) == RejectReason.UNSUPPORTED
    assert _reason(b"v/1\x01" + b"\0" * 50) == RejectReason.UNSUPPORTED
    assert _reason(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n") == RejectReason.UNSUPPORTED
    assert _reason(b"\0" * 128 + b"DICM" + b"\0" * 50) == RejectReason.UNSUPPORTED
    assert _reason(b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + b"\0" * 100) == RejectReason.UNSUPPORTED
    assert _reason(b"\0\0\1\xba" + b"\x44" * 100) == RejectReason.NOT_AN_IMAGE  # an MPEG stream, not an icon or TGA
    damaged = bytearray(FILES["png"])
    damaged[16] ^= 0xFF  # inside the header, whose checksum does not fit any more
    assert _reason(bytes(damaged)) == RejectReason.UNREADABLE


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("place", [8, 16, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("is_big", [True, False])
def test_tiff_whose_directory_lies_elsewhere_is_a_reject(order, place, is_big):
    """BigTIFF of 16 bytes: no place in the file, nor one that a C integer holds."""
    mark = b"II" if order == "<" else b"MM"
    if is_big:
        data = mark + struct.pack(order + "HHHQ", 43, 8, 0, place)
    elif place < 2**32:
        data = mark + struct.pack(order + "HI", 42, place)
    else:
        return
    assert _reason(data) in (RejectReason.TRUNCATED, RejectReason.UNSUPPORTED)


def test_tiff_with_impossible_numbers_in_its_directory_is_a_reject():
    whole = FILES["tiff"]
    (directory,) = struct.unpack_from("<I", whole, 4)
    (num_entries,) = struct.unpack_from("<H", whole, directory)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for entry in range(num_entries):
            for at, value in ((2, 0xFFFF), (4, 0xFFFFFFFF), (8, 0xFFFFFFFF), (8, 0)):
                data = bytearray(whole)
                place = directory + 2 + 12 * entry + at
                data[place : place + (2 if at == 2 else 4)] = struct.pack("<H" if at == 2 else "<I", value)
                assert _outcome(bytes(data)) in {"decoded", *RejectReason}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), RejectReason.TOO_LARGE),
        (RecursionError("maximum recursion depth exceeded"), RejectReason.UNREADABLE),
        (SystemError("tile cannot extend outside image"), RejectReason.UNREADABLE),
        (SyntaxError("broken PNG file"), RejectReason.UNREADABLE),
        (struct.error("unpack requires a buffer of 4 bytes"), RejectReason.UNREADABLE),
        (OverflowError("Python int too large to convert to C ssize_t"), RejectReason.UNREADABLE),
        (AssertionError(), RejectReason.UNREADABLE),
        (KeyError("\n no key"), RejectReason.UNREADABLE),
        (Image.DecompressionBombError("too many pixels"), RejectReason.TOO_LARGE),
        (NotImplementedError("CMYK with alpha"), RejectReason.UNSUPPORTED),
        (OSError("image file is truncated (3 bytes not processed)"), RejectReason.TRUNCATED),
        (OSError("Windows Media Photo files not yet supported"), RejectReason.UNSUPPORTED),
    ],
)
def test_whatever_a_decoder_throws_is_the_reject_of_its_image_and_is_said(error, reason, monkeypatch):
    def throw(*_):
        raise error

    monkeypatch.setattr(Image.Image, "convert", throw)  # decoding a gray picture ends with it
    with pytest.raises(ImageRejectedError) as caught:
        decode_image(FILES["png bilevel"])
    assert caught.value.reason == reason
    assert " ".join(str(error).split()) in caught.value.message
    if reason == RejectReason.UNREADABLE:
        assert type(error).__name__ in caught.value.message


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_ends_the_process_is_no_reject(error, monkeypatch):
    def throw(*_):
        raise error

    monkeypatch.setattr(Image.Image, "convert", throw)
    with pytest.raises(error):
        decode_image(FILES["png bilevel"])


def test_heif_without_its_plugin_is_unsupported(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    said = _rejection(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 100)
    assert said.startswith("unsupported: ")
    assert "pip install pillow-heif" in said
    assert "tries these files again" in said


def test_lab_is_unsupported():
    lab = Image.new("LAB", (8, 8))
    assert _reason(_encode(lab, "TIFF")) == RejectReason.UNSUPPORTED


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_bomb_is_refused_by_its_header_alone():
    """A PNG of 100,000 x 100,000 pixels whose data are missing: were it decoded, it would be truncated."""

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", header) + _png_chunk(b"IDAT", b"x")
    assert _reason(bomb) == RejectReason.TOO_LARGE


def test_bombs_of_containers_are_refused_before_their_readers_take_memory():
    """Readers of icons decode when they are opened, and those of animated WebP take memory for two whole canvases."""
    header = struct.pack(">IIBBBBB", 13_000, 13_000, 8, 2, 0, 0, 0)  # just below what Pillow itself refuses
    png = b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", header) + _png_chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    icon = struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(png), 22) + png
    animated = bytearray(FILES["webp animated"])
    animated[24:30] = (59_999).to_bytes(3, "little") * 2
    tracker = _PeakMemory()
    assert _reason(icon, max_pixels=1_000_000) == RejectReason.TOO_LARGE
    assert _reason(bytes(animated)) == RejectReason.TOO_LARGE
    assert tracker.grown_bytes() < 50 << 20


_LONG_TEXT = b'{"prompt": 1}' * 100_000  # 1.3 MB, as programs that generate images write them


@pytest.mark.parametrize(
    "chunk",
    [
        (b"tEXt", b"workflow\0" + _LONG_TEXT),
        (b"zTXt", b"workflow\0\0" + zlib.compress(_LONG_TEXT)),
        (b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(_LONG_TEXT)),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(_LONG_TEXT)),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + _LONG_TEXT),
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(_LONG_TEXT)),
        (b"iCCP", b"profile\0\0" + zlib.compress(random.Random(0).randbytes(1_500_000))),
        (b"iCCP", b"profile\0\0" + zlib.compress(b"\0" * (64 << 20))),
        (b"zTXt", b"Comment\0\0" + zlib.compress(b"\0" * (64 << 20))),
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\0" * (64 << 20))),
        (b"zTXt", b"Comment\0\0 no stream"),
        (b"quAL", bytes(2_000_000)),
    ],
    ids=lambda chunk: f"{chunk[0].decode()} {chunk[1][:21].decode(errors='replace').split(chr(0))[0]} {len(chunk[1])}",
)
def test_png_with_much_text_or_a_large_profile_is_decoded_and_takes_no_memory_for_it(chunk):
    whole = FILES["png"]
    written = _png_chunk(*chunk)
    tracker = _PeakMemory()
    for data in (whole[:33] + written + whole[33:], whole[:-12] + written + whole[-12:]):
        assert np.array_equal(np.asarray(decode_image(data)), np.asarray(_picture()))
    assert tracker.grown_bytes() < 32 << 20


def test_png_with_a_hundred_texts_is_decoded():
    whole = FILES["png"]
    texts = b"".join(_png_chunk(b"zTXt", b"t%d\0\0" % n + zlib.compress(bytes(1 << 20))) for n in range(100))
    assert np.array_equal(np.asarray(decode_image(whole[:33] + texts + whole[33:])), np.asarray(_picture()))


@pytest.mark.parametrize("keyword", ["Raw profile type exif", "Raw profile type APP1"])
def test_orientation_that_a_png_has_in_a_text_still_counts(keyword):
    exif = Image.Exif()
    exif[0x0112] = 3
    body = exif.tobytes()
    text = f"\nexif\n{len(body):8}\n{body.hex()}\n".encode()
    chunk = _png_chunk(b"zTXt", keyword.encode() + b"\0\0" + zlib.compress(text))
    data = FILES["png"][:33] + chunk + FILES["png"][33:]
    expected = _picture().transpose(Image.Transpose.ROTATE_180) if keyword.endswith("exif") else _picture()
    assert np.array_equal(np.asarray(decode_image(data)), np.asarray(expected))


class _PeakMemory:
    """How far the peak of this process's memory has risen since it was made."""

    def __init__(self) -> None:
        self._before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def grown_bytes(self) -> int:
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self._before) * 1024


@pytest.mark.parametrize("name", FILES)
def test_max_pixels_holds_for_every_kind(name):
    assert _reason(FILES[name], max_pixels=WIDTH * HEIGHT - 1) == RejectReason.TOO_LARGE
    decode_image(FILES[name], max_pixels=WIDTH * HEIGHT)


def test_large_jpeg_is_decoded_small_but_not_too_small():
    data = _encode(_picture().resize((1920, 1280)), "JPEG")
    full = decode_image(data)
    small = decode_image(data, min_size=80)
    assert full.size == (1920, 1280)
    assert small.size == (480, 320)  # 4 x 80, a quarter of the whole
    assert min(small.size) >= DRAFT_MARGIN * 80
    reference = np.asarray(full.resize(small.size, Image.Resampling.BOX), dtype=float)
    assert np.abs(np.asarray(small, dtype=float) - reference).mean() < 2


def test_jpeg_of_about_the_wanted_size_is_decoded_in_full():
    assert decode_image(FILES["jpeg"], min_size=HEIGHT).size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("seed", range(4))
def test_no_bytes_raise_anything_but_a_reject(seed, capfd):
    chance = random.Random(seed)
    outcomes = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's on damaged metadata
        for data in FILES.values():
            for _ in range(40):
                outcomes.add(_outcome(_damage(data, chance)))
    capfd.readouterr()  # libtiff writes to stderr by itself
    assert {"decoded", RejectReason.TRUNCATED, RejectReason.UNREADABLE, RejectReason.NOT_AN_IMAGE} <= outcomes
    assert outcomes <= {"decoded", *RejectReason}


def _outcome(data: bytes) -> str:
    try:
        image = decode_image(data)
    except ImageRejectedError as error:
        return error.reason
    assert image.mode == "RGB"
    return "decoded"


def _damage(data: bytes, chance: random.Random) -> bytes:
    """Cut a file off, or change, drop or insert bytes, often near its start, where formats keep their structure."""
    if chance.random() < 0.15:
        return data[: chance.randrange(len(data))]
    damaged = bytearray(data)
    zone = min(chance.choice([40, 200, len(data)]), len(data))
    for _ in range(chance.choice([1, 1, 2, 4, 16, 64])):
        place = chance.randrange(min(zone, len(damaged)))
        kind = chance.random()
        if kind < 0.7:
            damaged[place] = chance.randrange(256)
        elif kind < 0.8:
            damaged[place : place + 4] = b"\xff\xff\xff\xff"
        elif kind < 0.9:
            del damaged[place : place + chance.randrange(1, 9)]
        else:
            damaged[place:place] = chance.randbytes(4)
    return bytes(damaged)


def test_rejection_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(ImageRejectedError(RejectReason.MISSING, "gone")))
    assert (error.reason, error.message, str(error)) == (RejectReason.MISSING, "gone", "missing: gone")


def test_thumbnail_keeps_proportions_and_never_enlarges():
    small = Image.open(io.BytesIO(thumbnail(_picture(), 48)))
    assert (small.format, small.size) == ("WEBP", (48, 32))
    assert Image.open(io.BytesIO(thumbnail(_picture(), 500))).size == (WIDTH, HEIGHT)
    assert Image.open(io.BytesIO(thumbnail(Image.new("RGB", (1000, 1)), 100))).size == (100, 1)
