"""From the bytes of a file to an upright RGB picture, or one of a closed list of reasons why there is none.

Files are decoded as strangers' files: the format is read off the first bytes, giant pictures are refused by the size in
their header, and whatever goes wrong in a decoder becomes an `ImageRejectedError`. Pillow's global settings stay as
they are; the one exception is that the HEIF plugin, where installed, is imported when the first HEIF file comes.
"""

import importlib.util
import io
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    IcoImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    WebPImagePlugin,
)

from dxmc_core.errors import on_one_line
from dxmc_core.images.formats import MAX_PIXELS, UNDECODABLE, Format, announced_size, ends_early, sniff_format
from dxmc_core.images.levels import float_to_bytes
from dxmc_core.images.png import mend_transparent_level, without_needless_chunks
from dxmc_core.images.tiff import TiffFile

THUMBNAIL_QUALITY = 80
_HEIF_PACKAGE = "pillow_heif"

#: A JPEG is decoded at a half, a quarter or an eighth while this many times the wanted size is left. Measured with the
#: offline encoder (224 pixels) on 52 pictures of 2,000 to 4,000 pixels, against the full decode: at 4 the embeddings'
#: cosine is 0.9996 in the mean and 0.9987 at the lowest, decoding and resizing take 2.4 to 4 times less; at 2, 0.98.
DRAFT_MARGIN = 4


class RejectReason(StrEnum):
    """Why a row of the catalog has no embedding. A row of `rejects` carries one of these, and no other word.

    `unreadable` is damage in what was read, `unreachable` a service that did not deliver it.
    """

    MISSING = "missing"
    EMPTY = "empty"
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    TOO_LARGE = "too_large"
    UNSUPPORTED = "unsupported"
    TIMEOUT = "timeout"
    ACCESS_DENIED = "access_denied"
    UNREADABLE = "unreadable"
    UNREACHABLE = "unreachable"
    DUPLICATE_KEY = "duplicate_key"
    NOT_FINITE = "not_finite"
    ZERO_NORM = "zero_norm"


class ImageRejectedError(Exception):
    """One image cannot be used; it becomes a row of `rejects`, and the others go on.

    Attributes:
        reason: the word for statistics.
        message: one line for a person, with what the decoder said.
    """

    def __init__(self, reason: RejectReason, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


@dataclass(frozen=True)
class OpenedImage:
    """A file whose header has been read and found usable; its pixels have not been decoded.

    Attributes:
        size: width and height of the file's picture.
        num_pixels: that `decode` will make.
    """

    size: tuple[int, int]
    num_pixels: int
    _image: ImageFile.ImageFile
    _data: bytes
    _format: Format

    def decode(self) -> Image.Image:
        """The first frame, upright, in RGB; see `decode_image`."""
        with _rejecting(self._data, self._format):
            self._image.load()
            return _upright(_to_rgb(self._image, self._data), self._image)


def open_image(data: bytes, *, max_pixels: int = MAX_PIXELS, min_size: int | None = None) -> OpenedImage:
    """Read the header of one file; the arguments and what is raised are those of `decode_image`."""
    found = _require_image(data)
    _check_size(announced_size(data, found) or (0, 0), max_pixels)
    with _rejecting(data, found):
        image = _PLUGINS[found](io.BytesIO(data))
        size = image.size
        _check_size(size, max_pixels)
        if min_size is not None:
            # Formats other than JPEG ignore this.
            image.draft(None, (DRAFT_MARGIN * min_size, DRAFT_MARGIN * min_size))
        width, height = image.size
        return OpenedImage(size, width * height, image, data, found)


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS, min_size: int | None = None) -> Image.Image:
    """Decode one file: the first frame, upright by its EXIF orientation, in RGB, transparency on white.

    16-bit channels keep their high byte. Colour profiles are not applied; CLIP's own preprocessing does not either.

    Args:
        data: the whole file: JPEG, PNG, GIF, WebP, BMP, TIFF, AVIF, JPEG 2000, PNM, ICO, and HEIF with pillow-heif.
        max_pixels: width times height above which the picture is refused, from the header, before it is decoded.
        min_size: the size in pixels that the picture will be resized to. A JPEG at least 8 times as large is then
            decoded at a fraction of its size and in a fraction of the time, for almost the same embedding; its shorter
            side stays at least 4 times this. By default all pixels are decoded.

    Raises:
        ImageRejectedError: there is no picture; nothing else is raised for any bytes.
    """
    return open_image(data, max_pixels=max_pixels, min_size=min_size).decode()


def thumbnail(image: Image.Image, size: int) -> bytes:
    """A WebP of the whole picture whose longer side has at most `size` pixels."""
    scale = min(1.0, size / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    small = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    sink = io.BytesIO()
    small.save(sink, "WEBP", quality=THUMBNAIL_QUALITY)
    return sink.getvalue()


def _require_image(data: bytes) -> Format:
    if not data:
        raise ImageRejectedError(RejectReason.EMPTY, "the file has no bytes")
    found = sniff_format(data)
    if found is None:
        raise ImageRejectedError(
            RejectReason.NOT_AN_IMAGE, f"the first bytes are those of no image format: {data[:12]!r}"
        )
    if found in UNDECODABLE:
        raise ImageRejectedError(
            RejectReason.UNSUPPORTED, f"{found} files are not decoded; convert them to JPEG or PNG"
        )
    return found


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageRejectedError(
            RejectReason.TOO_LARGE, f"{width} x {height} pixels, more than the {max_pixels} of source.max_pixels"
        )


def _open_png(file: io.BytesIO) -> ImageFile.ImageFile:
    data = without_needless_chunks(file.getvalue())
    image = PngImagePlugin.PngImageFile(io.BytesIO(data))
    mend_transparent_level(image, data)
    return image


def _open_pnm(file: io.BytesIO) -> ImageFile.ImageFile:
    image = PpmImagePlugin.PpmImageFile(file)
    scale = image.info.get("scale", 1.0)
    if scale != 1:
        raise NotImplementedError(f"a scale of {scale:g}, by which some readers multiply the levels and others do not")
    decoder, _, _, args = image.tile[0]
    maximum = args[-1] if decoder == "ppm" and isinstance(args, tuple) else 255
    if 128 <= maximum < 255:
        raise NotImplementedError(f"levels to {maximum}, which some readers scale to 255 and others do not")
    return image


#: Start of a JPEG 2000 code stream, and where its components are described from there.
_CODE_STREAM, _NUM_COMPONENTS_AT, _COMPONENTS_AT = b"\xff\x4f\xff\x51", 40, 42


def _open_jpeg2000(file: io.BytesIO) -> ImageFile.ImageFile:
    image = Jpeg2KImagePlugin.Jpeg2KImageFile(file)
    data = file.getvalue()
    start = data.find(_CODE_STREAM)
    (num_components,) = struct.unpack_from(">H", data, start + _NUM_COMPONENTS_AT)
    components = data[start + _COMPONENTS_AT :][: 3 * num_components : 3]
    bits = 1 + max((component & 0x7F for component in components), default=0)
    if num_components > 1 and bits > 8:
        # Pillow (13) rounds these up beyond white, which becomes black.
        raise NotImplementedError(f"{num_components} channels of {bits} bits; save it with 8 bits")
    return image


def _open_avif(file: io.BytesIO) -> ImageFile.ImageFile:
    if not AvifImagePlugin.SUPPORTED:
        raise ImageRejectedError(RejectReason.UNSUPPORTED, "this build of Pillow has no AVIF decoder")
    return AvifImagePlugin.AvifImageFile(file)


def optional_decoders() -> list[str]:
    """The packages installed here that decode formats which are `unsupported` without them."""
    return [_HEIF_PACKAGE] if importlib.util.find_spec(_HEIF_PACKAGE) is not None else []


def _open_heif(file: io.BytesIO) -> ImageFile.ImageFile:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise ImageRejectedError(
            RejectReason.UNSUPPORTED,
            "HEIF needs a package: pip install pillow-heif, and run again, which tries these files again",
        ) from error
    return HeifImageFile(file)


_PLUGINS: dict[Format, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    Format.JPEG: JpegImagePlugin.JpegImageFile,
    Format.PNG: _open_png,
    Format.GIF: GifImagePlugin.GifImageFile,
    Format.WEBP: WebPImagePlugin.WebPImageFile,
    Format.BMP: BmpImagePlugin.BmpImageFile,
    Format.TIFF: TiffFile,
    Format.AVIF: _open_avif,
    Format.HEIF: _open_heif,
    Format.JPEG2000: _open_jpeg2000,
    Format.PNM: _open_pnm,
    Format.ICO: IcoImagePlugin.IcoImageFile,
}


def _to_rgb(image: Image.Image, data: bytes) -> Image.Image:
    """A loaded picture of any mode of Pillow's to RGB, transparency on white."""
    mode = image.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        return _wide_gray(image)
    if isinstance(image, BmpImagePlugin.BmpImageFile) and mode == "RGB":
        alpha = _fourth_bytes(image, data)
        return image if alpha is None else _on_white(image, alpha)
    if mode in ("La", "RGBa"):  # premultiplied alpha
        image = image.convert(mode.upper())
    if mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return _on_white(rgba, rgba.getchannel("A"))
    return image if mode == "RGB" else image.convert("RGB")


def _on_white(image: Image.Image, alpha: Image.Image) -> Image.Image:
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=alpha)
    return white


def _wide_gray(image: Image.Image) -> Image.Image:
    """Gray levels wider than a byte."""
    if isinstance(image, TiffFile):
        return Image.fromarray(image.gray_bytes()).convert("RGB")
    values = np.asarray(image)
    # All other formats have levels of 16 bits here; Pillow makes them of those that PNM files have.
    gray = float_to_bytes(values, to_255=False) if values.dtype.kind == "f" else (values >> 8).astype(np.uint8)
    clear = image.info.get("transparency")
    if clear is not None:
        gray[values == clear] = 255
    return Image.fromarray(gray).convert("RGB")


def _fourth_bytes(image: Image.Image, data: bytes) -> Image.Image | None:
    """Alpha of an uncompressed BMP of 32 bits, whose header has no word for it; None where no pixel has any.

    Other readers take the fourth bytes for alpha as soon as one of them is not 0, Pillow (13) never.
    """
    (pixels,), (bits, compression) = struct.unpack_from("<I", data, 10), struct.unpack_from("<HI", data, 28)
    width, height = image.size
    if data[14] != 40 or (bits, compression) != (32, 0):
        return None
    alpha = np.frombuffer(data, np.uint8, count=4 * width * height, offset=pixels)[3::4].reshape(height, width)
    is_top_down = struct.unpack_from("<i", data, 22)[0] < 0
    return Image.fromarray(alpha if is_top_down else alpha[::-1]) if alpha.any() else None


_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_ORIENTATION = 0x0112
#: What Pillow 13 raises for EXIF blocks that were tampered with (found by fuzzing).
_EXIF_ERRORS = (SyntaxError, ValueError, TypeError, LookupError, OSError, EOFError, ArithmeticError, struct.error)


def _upright(rgb: Image.Image, source: Image.Image) -> Image.Image:
    """Turn the picture as the camera's EXIF says; damaged EXIF counts as none, the picture itself is whole."""
    try:
        orientation = source.getexif().get(_EXIF_ORIENTATION)
    except _EXIF_ERRORS:
        return rgb
    transposition = _TRANSPOSITIONS.get(orientation) if isinstance(orientation, int) else None
    return rgb if transposition is None else rgb.transpose(transposition)


@contextmanager
def _rejecting(data: bytes, found: Format) -> Iterator[None]:
    """Whatever a decoder raises is the rejection of its file."""
    try:
        yield
    except ImageRejectedError:
        raise
    except Exception as error:
        raise _rejection(data, found, error) from error


#: What Pillow (13) says of a file that is whole and of a kind that it does not decode.
_UNSUPPORTED_WORDS = ("unsupported", "not supported", "not yet supported", "cannot handle", "unknown raw mode")


def _rejection(data: bytes, found: Format, error: Exception) -> ImageRejectedError:
    """Tell a file that was cut off from one that is damaged or of a kind the decoder does not know."""
    said = on_one_line(error)
    thrown = f"{type(error).__name__}: {said}" if said != type(error).__name__ else said
    lowered = said.lower()
    if isinstance(error, NotImplementedError):
        return ImageRejectedError(RejectReason.UNSUPPORTED, f"this kind of {found} file is not decoded: {said}")
    if isinstance(error, Image.DecompressionBombError) or "decompressed data too large" in lowered:
        return ImageRejectedError(RejectReason.TOO_LARGE, said)
    if "truncated" in lowered or ends_early(data, found):
        return ImageRejectedError(RejectReason.TRUNCATED, f"{found} file cut off: {thrown}")
    if isinstance(error, MemoryError):
        return ImageRejectedError(
            RejectReason.TOO_LARGE, f"the {found} decoder asked for more memory than there is: {thrown}"
        )
    if any(words in lowered for words in _UNSUPPORTED_WORDS):
        return ImageRejectedError(RejectReason.UNSUPPORTED, f"this kind of {found} file is not decoded: {thrown}")
    return ImageRejectedError(RejectReason.UNREADABLE, f"damaged {found} file: {thrown}")
