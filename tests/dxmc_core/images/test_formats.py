import struct

import pytest

from dxmc_core.images.formats import Format, announced_size, ends_early, sniff_format


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (b"\xff\xd8\xff\xe0", Format.JPEG),
        (b"GIF89a", Format.GIF),
        (b"RIFF\x10\0\0\0WEBPVP8 ", Format.WEBP),
        (b"RIFF\x10\0\0\0WAVEfmt ", None),
        (b"BM" + struct.pack("<IIII", 100, 0, 54, 40), Format.BMP),
        (b"MM\0*", Format.TIFF),
        (b"II+\0", Format.TIFF),
        (b"P6\n", Format.PNM),
        (b"Public domain", None),
        (b"\0\0\0\x1cftypavif\0\0\0\0", Format.AVIF),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", Format.AVIF),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", Format.HEIF),
        (b"\0\0\0\x18ftypqt  \0\0\0\0qt  ", None),
        (b"  \n<svg width='1'>", Format.SVG),
        (b"<?xml version='1.0'?><note/>", None),
        (b"", None),
    ],
)
def test_sniff_format(start, expected):
    assert sniff_format(start) == expected


def test_a_box_may_last_to_the_end():
    file = struct.pack(">I4s8s", 16, b"ftyp", b"avif\0\0\0\0") + struct.pack(">I4s", 0, b"mdat") + b"x" * 20
    assert not ends_early(file, Format.AVIF)
    assert ends_early(file[:14], Format.AVIF)


def test_padding_after_the_end_is_no_cut():
    assert not ends_early(b"\xff\xd8\xff" + b"x" * 100 + b"\xff\xd9" + b"\0" * 16, Format.JPEG)
    assert ends_early(b"\xff\xd8\xff" + b"x" * 100, Format.JPEG)


def test_icon_whose_pictures_lie_outside():
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, 10, 22)
    assert not ends_early(struct.pack("<HHH", 0, 1, 1) + entry + b"x" * 10, Format.ICO)
    assert ends_early(struct.pack("<HHH", 0, 1, 1) + entry + b"x" * 9, Format.ICO)


def test_tiff_whose_directory_lies_outside():
    directory = struct.pack("<H", 1) + b"\0" * 12 + b"\0" * 4
    assert not ends_early(b"II*\0" + struct.pack("<I", 8) + directory, Format.TIFF)
    assert ends_early(b"II*\0" + struct.pack("<I", 80) + directory, Format.TIFF)
    assert ends_early(b"MM\0+\0\x08\0\0" + struct.pack(">Q", 80) + directory, Format.TIFF)


def test_icon_announces_the_largest_of_its_pictures():
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 90_000, 3)
    bmp = struct.pack("<Iii", 40, 32, 64)
    entries = b"".join(
        struct.pack("<BBBBHHII", 32, 32, 0, 0, 1, 32, len(picture), 38 + start)
        for picture, start in ((bmp, 0), (png, len(bmp)))
    )
    icon = struct.pack("<HHH", 0, 1, 2) + entries + bmp + png
    assert announced_size(icon, Format.ICO) == (90_000, 3)
    assert announced_size(icon[:40], Format.ICO) is None
    assert announced_size(struct.pack("<HHH", 0, 1, 0), Format.ICO) is None


def test_webp_announces_its_canvas():
    canvas = (59_999).to_bytes(3, "little") + (49_999).to_bytes(3, "little")
    file = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0" + canvas
    assert announced_size(file, Format.WEBP) == (60_000, 50_000)
    assert announced_size(file[:12] + b"VP8 " + file[16:], Format.WEBP) is None
    assert announced_size(b"\x89PNG", Format.PNG) is None
