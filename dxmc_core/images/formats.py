"""Which file format some bytes are, by their first bytes, and whether the bytes end before the format says they should.

Both look at the container only; nothing is decoded here.
"""

import struct
from collections.abc import Iterator
from enum import StrEnum

#: Images with more are rejected, unless `source.max_pixels` says otherwise.
MAX_PIXELS = 200_000_000


class Format(StrEnum):
    """Formats that are recognised. Those of `UNDECODABLE` are images that this library does not decode."""

    JPEG = "JPEG"
    PNG = "PNG"
    GIF = "GIF"
    WEBP = "WebP"
    BMP = "BMP"
    TIFF = "TIFF"
    AVIF = "AVIF"
    HEIF = "HEIF"
    JPEG2000 = "JPEG 2000"
    PNM = "PNM"
    ICO = "ICO"
    JXL = "JPEG XL"
    PSD = "Photoshop"
    SVG = "SVG"
    EPS = "EPS"
    PDF = "PDF"
    PAM = "PAM"
    PFM_COLOR = "PFM of color"
    TGA = "TGA"
    EXR = "OpenEXR"
    RADIANCE = "Radiance HDR"
    DDS = "DDS"
    QOI = "QOI"
    FITS = "FITS"
    DICOM = "DICOM"
    ICNS = "Apple icon"
    CURSOR = "Windows cursor"
    XCF = "GIMP"
    JPEG_XR = "JPEG XR"
    CAMERA_RAW = "camera raw"


#: Of these a file is an image, and `unsupported`; any other is `not_an_image`.
UNDECODABLE = frozenset(
    {
        Format.JXL, Format.PSD, Format.SVG, Format.EPS, Format.PDF, Format.PAM, Format.PFM_COLOR, Format.TGA,
        Format.EXR, Format.RADIANCE, Format.DDS, Format.QOI, Format.FITS, Format.DICOM, Format.ICNS, Format.CURSOR,
        Format.XCF, Format.JPEG_XR, Format.CAMERA_RAW,
    }
)  # fmt: skip

_PREFIXES = (
    (b"\xff\xd8\xff", Format.JPEG),
    (b"\x89PNG\r\n\x1a\n", Format.PNG),
    (b"GIF87a", Format.GIF),
    (b"GIF89a", Format.GIF),
    (b"II*\0", Format.TIFF),
    (b"MM\0*", Format.TIFF),
    (b"II+\0", Format.TIFF),
    (b"MM\0+", Format.TIFF),
    (b"\0\0\0\x0cjP  \r\n\x87\n", Format.JPEG2000),
    (b"\xff\x4f\xff\x51", Format.JPEG2000),
    (b"\0\0\1\0", Format.ICO),
    (b"\xff\x0a", Format.JXL),
    (b"\0\0\0\x0cJXL \r\n\x87\n", Format.JXL),
    (b"8BPS", Format.PSD),
    (b"%!PS", Format.EPS),
    (b"%PDF-", Format.PDF),
    (b"P7\n", Format.PAM),
    (b"PF\n", Format.PFM_COLOR),
    (b"v/1\x01", Format.EXR),
    (b"#?RADIANCE", Format.RADIANCE),
    (b"#?RGBE", Format.RADIANCE),
    (b"DDS |\0\0\0", Format.DDS),
    (b"qoif", Format.QOI),
    (b"SIMPLE  =", Format.FITS),
    (b"icns", Format.ICNS),
    (b"gimp xcf", Format.XCF),
    (b"II\xbc\x01", Format.JPEG_XR),
    (b"FUJIFILMCCD-RAW", Format.CAMERA_RAW),
    (b"IIU\0", Format.CAMERA_RAW),
    (b"IIRO", Format.CAMERA_RAW),
    (b"IIRS", Format.CAMERA_RAW),
)
_BMP_HEADER_SIZES = frozenset({12, 40, 52, 56, 64, 108, 124})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})


def sniff_format(data: bytes) -> Format | None:
    """The format whose signature the data carries, None when it is no image that is known here."""
    for prefix, found in _PREFIXES:
        if data.startswith(prefix):
            return found
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return Format.WEBP
    if data[:2] == b"BM" and len(data) >= 18 and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return Format.BMP
    if data[:1] == b"P" and data[1:2] in b"123456f" and data[2:3].isspace():
        return Format.PNM
    if data[4:8] == b"ftyp":
        return _sniff_ftyp(data)
    if data[128:132] == b"DICM":
        return Format.DICOM
    if _is_tga(data):
        return Format.TGA
    if data[:4] == b"\0\0\2\0" and data[4:6] != b"\0\0":
        return Format.CURSOR
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<svg") or (start.startswith((b"<?xml", b"<!doctype svg")) and b"<svg" in start):
        return Format.SVG
    return None


def _sniff_ftyp(data: bytes) -> Format | None:
    """AVIF, HEIF or Canon's raw by their brands; a film has the same container."""
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, min(int.from_bytes(data[:4], "big"), 128), 4))}
    if brands & {b"avif", b"avis"}:
        return Format.AVIF
    if b"crx " in brands:
        return Format.CAMERA_RAW
    return Format.HEIF if brands & _HEIF_BRANDS else None


def _is_tga(data: bytes) -> bool:
    """Its header has no signature, but only few values that are possible."""
    if len(data) < 18:
        return False
    _, has_colors, kind, colors_start, num_colors, color_bits, _, _, width, height, bits, _ = struct.unpack_from(
        "<BBBHHBHHHHBB", data
    )
    if not (width and height and bits in (8, 15, 16, 24, 32)):
        return False
    if has_colors:
        return has_colors == 1 and kind in (1, 9) and num_colors > 0 and color_bits in (15, 16, 24, 32)
    return kind in (2, 3, 10, 11) and not (colors_start or num_colors or color_bits)


def ends_early(data: bytes, found: Format) -> bool:
    """True when the container announces more bytes than there are: the file was cut off."""
    check = _END_CHECKS.get(found)
    return check is not None and check(data)


def _jpeg_ends_early(data: bytes) -> bool:
    """A whole JPEG ends with its end marker, but for a few bytes that some cameras pad."""
    return b"\xff\xd9" not in data[-64:]


def _png_ends_early(data: bytes) -> bool:
    position, kind = 8, b""
    while position + 8 <= len(data) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position)
        position += 12 + length
    return kind != b"IEND" or position > len(data)


def _gif_ends_early(data: bytes) -> bool:
    return not data.rstrip(b"\0").endswith(b";")


def _riff_ends_early(data: bytes) -> bool:
    return len(data) < 12 or int.from_bytes(data[4:8], "little") + 8 > len(data)


def _bmp_ends_early(data: bytes) -> bool:
    return int.from_bytes(data[2:6], "little") > len(data)


def _boxes_end_early(data: bytes) -> bool:
    """ISO base media files (AVIF, HEIF, JP2) are a sequence of boxes; a length of 0 means: to the end."""
    return any(end > len(data) for end in _box_ends(data))


def _box_ends(data: bytes) -> Iterator[int]:
    position = 0
    while position < len(data):
        if position + 16 > len(data):
            yield position + 16
            return
        length = int.from_bytes(data[position : position + 4], "big")
        if length == 0:
            return
        if length == 1:
            length = int.from_bytes(data[position + 8 : position + 16], "big")
        position += max(length, 8)
        yield position


def _jpeg2000_ends_early(data: bytes) -> bool:
    return _boxes_end_early(data) if data.startswith(b"\0\0\0\x0c") else not data.endswith(b"\xff\xd9")


def _tiff_ends_early(data: bytes) -> bool:
    """The directory lies outside the data. (Pixels that are cut off while the directory is there: Pillow says so.)"""
    order = "<" if data[:2] == b"II" else ">"
    is_big = b"+" in data[2:4]
    start, offset_format, count_format, entry_size = (8, "Q", "Q", 20) if is_big else (4, "I", "H", 12)
    directory = _number(data, start, order + offset_format)
    num_entries = None if directory is None else _number(data, directory, order + count_format)
    if directory is None or num_entries is None:
        return True
    return directory + struct.calcsize(order + count_format) + num_entries * entry_size > len(data)


def _number(data: bytes, start: int, number_format: str) -> int | None:
    """A number of the data, None where it lies outside of them; `struct` raises otherwise for places beyond 2^63."""
    if start + struct.calcsize(number_format) > len(data):
        return None
    return struct.unpack_from(number_format, data, start)[0]


def _ico_ends_early(data: bytes) -> bool:
    """One of the pictures, or the list of them, lies outside the data."""
    try:
        (num_pictures,) = struct.unpack_from("<H", data, 4)
        places = [struct.unpack_from("<II", data, 6 + 16 * index + 8) for index in range(num_pictures)]
    except struct.error:
        return True
    return any(offset + size > len(data) for size, offset in places)


#: PNM has no end; Pillow's own message is all there is for it.
_END_CHECKS = {
    Format.JPEG: _jpeg_ends_early,
    Format.PNG: _png_ends_early,
    Format.GIF: _gif_ends_early,
    Format.WEBP: _riff_ends_early,
    Format.BMP: _bmp_ends_early,
    Format.TIFF: _tiff_ends_early,
    Format.ICO: _ico_ends_early,
    Format.AVIF: _boxes_end_early,
    Format.HEIF: _boxes_end_early,
    Format.JPEG2000: _jpeg2000_ends_early,
}


def announced_size(data: bytes, found: Format) -> tuple[int, int] | None:
    """Width and height of the largest picture in a container whose reader takes memory for it at once (ICO, WebP).

    None for other formats, whose readers look at the header first, and where the header is too short.
    """
    try:
        if found is Format.ICO:
            return max(_icon_sizes(data), key=lambda size: size[0] * size[1], default=None)
        if found is Format.WEBP and data[12:16] == b"VP8X":
            width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
            return width, height
    except struct.error:
        pass
    return None


def _icon_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    """The sizes that the PNG and BMP pictures of an icon have by their own headers; its list says less than 257."""
    (num_pictures,) = struct.unpack_from("<H", data, 4)
    for index in range(num_pictures):
        (start,) = struct.unpack_from("<I", data, 6 + 16 * index + 12)
        if data[start : start + 8] == b"\x89PNG\r\n\x1a\n":
            yield struct.unpack_from(">II", data, start + 16)
        else:
            width, twice_the_height = struct.unpack_from("<ii", data, start + 4)
            yield abs(width), abs(twice_the_height) // 2
