"""What a PNG has besides its pixels: the chunks that its decoder needs, and the level that is transparent."""

import struct
import zlib
from collections.abc import Iterator

from PIL import PngImagePlugin

_SIGNATURE_BYTES = 8
#: Chunks that say how the pixels look, or which way is up.
_NEEDED = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"})
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
#: Texts in which programs put the orientation that belongs into eXIf.
_KEYWORDS_OF_EXIF = (b"Raw profile type exif", b"Raw profile type APP1", b"XML:com.adobe.xmp")
#: Such a text is left out when it is longer; Pillow would refuse the whole file.
_MAX_TEXT_BYTES = PngImagePlugin.MAX_TEXT_CHUNK


def without_needless_chunks(data: bytes) -> bytes:
    """The PNG without texts, colour profiles and the frames of an animation, however long they are.

    Pillow decompresses each text and profile, and refuses the picture of which one is longer than 1 MiB; programs that
    generate images write longer ones. What follows a damaged length is kept as it is.
    """
    kept, start = [], 0
    for position, end in _needless_chunks(data):
        kept.append(data[start:position])
        start = end
    return b"".join([*kept, data[start:]]) if kept else data


def _needless_chunks(data: bytes) -> Iterator[tuple[int, int]]:
    """Where the chunks begin and end that are left out."""
    position, keywords = _SIGNATURE_BYTES, set[bytes]()
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data) or kind == b"IEND":
            return
        if kind not in _NEEDED and _is_ancillary(kind):
            keyword = _keyword_of_exif(kind, data[position + 8 : end - 4])
            if keyword is None or keyword in keywords:
                yield position, end
            else:
                keywords.add(keyword)
        position = end


def _is_ancillary(kind: bytes) -> bool:
    return kind.isalpha() and kind[:1].islower()


def _keyword_of_exif(kind: bytes, body: bytes) -> bytes | None:
    """The keyword of a text that may hold the orientation, None for any other chunk and for a text too long."""
    keyword, _, rest = body.partition(b"\0")
    if kind not in _TEXTS or keyword not in _KEYWORDS_OF_EXIF or len(body) > _MAX_TEXT_BYTES:
        return None
    is_compressed = kind == b"zTXt" or (kind == b"iTXt" and rest[:1] == b"\1")
    return None if is_compressed and not _is_short(rest if kind == b"zTXt" else _text_of_itxt(rest)) else keyword


def _text_of_itxt(rest: bytes) -> bytes:
    """With a byte before it, as in zTXt, that says how it is compressed."""
    return b"\0" + rest[2:].partition(b"\0")[2].partition(b"\0")[2]


def _is_short(compressed: bytes) -> bool:
    decompressor = zlib.decompressobj()
    try:
        decompressor.decompress(compressed[1:], _MAX_TEXT_BYTES)
    except zlib.error:
        return False
    return not decompressor.unconsumed_tail


def mend_transparent_level(image: PngImagePlugin.PngImageFile, data: bytes) -> None:
    """Make the level that is transparent one of the levels that Pillow (13) decodes, which fill a byte.

    Raises:
        NotImplementedError: of the color that is transparent Pillow decodes a part of the bits.
    """
    bits, color = data[24], data[25]
    clear = image.info.get("transparency")
    if isinstance(clear, tuple) and bits == 16:
        raise NotImplementedError("16-bit RGB of which one color is transparent; save it with an alpha channel")
    if color == 0 and isinstance(clear, int):
        if clear >= 1 << bits:
            del image.info["transparency"]
        elif bits in (2, 4):
            image.info["transparency"] = clear * 255 // ((1 << bits) - 1)
