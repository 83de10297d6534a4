"""From the bytes of a file to an upright RGB picture, or one of a closed list of reasons why there is none.

Files are decoded as strangers' files: the format is read off the first bytes, giant pictures are refused by the size in
their header, and whatever goes wrong in a decoder becomes an `ImageRejectedError`. Pillow's global settings stay as
they are; the one exception is that the HEIF plugin, where installed, is imported when the first HEIF file comes.
"""

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
    TiffImagePlugin,
    WebPImagePlugin,
)

from dxmc_core.errors import on_one_line
from dxmc_core.images.formats import UNDECODABLE, Format, announced_size, ends_early, sniff_format

MAX_PIXELS = 200_000_000
THUMBNAIL_QUALITY = 80

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
        num_pixels: that `decode` will make.
    """

    num_pixels: int
    _image: ImageFile.ImageFile
    _data: bytes
    _format: Format

    def decode(self) -> Image.Image:
        """The first frame, upright, in RGB; see `decode_image`."""
        with _rejecting(self._data, self._format):
            self._image.load()
            return _upright(_to_rgb(self._image), self._image)


def open_image(data: bytes, *, max_pixels: int = MAX_PIXELS, min_size: int | None = None) -> OpenedImage:
    """Read the header of one file; the arguments and what is raised are those of `decode_image`."""
    found = _require_image(data)
    _check_size(announced_size(data, found) or (0, 0), max_pixels)
    with _rejecting(data, found):
        image = _PLUGINS[found](io.BytesIO(data))
        _check_size(image.size, max_pixels)
        if min_size is not None:
            # Formats other than JPEG ignore this.
            image.draft(None, (DRAFT_MARGIN * min_size, DRAFT_MARGIN * min_size))
        width, height = image.size
        return OpenedImage(width * height, image, data, found)


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
            RejectReason.TOO_LARGE, f"{width} x {height} pixels, more than the {max_pixels} that are decoded"
        )


def _open_avif(file: io.BytesIO) -> ImageFile.ImageFile:
    if not AvifImagePlugin.SUPPORTED:
        raise ImageRejectedError(RejectReason.UNSUPPORTED, "this build of Pillow has no AVIF decoder")
    return AvifImagePlugin.AvifImageFile(file)


def _open_heif(file: io.BytesIO) -> ImageFile.ImageFile:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise ImageRejectedError(RejectReason.UNSUPPORTED, "HEIF needs a plugin: pip install pillow-heif") from error
    return HeifImageFile(file)


_PLUGINS: dict[Format, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    Format.JPEG: JpegImagePlugin.JpegImageFile,
    Format.PNG: PngImagePlugin.PngImageFile,
    Format.GIF: GifImagePlugin.GifImageFile,
    Format.WEBP: WebPImagePlugin.WebPImageFile,
    Format.BMP: BmpImagePlugin.BmpImageFile,
    Format.TIFF: TiffImagePlugin.TiffImageFile,
    Format.AVIF: _open_avif,
    Format.HEIF: _open_heif,
    Format.JPEG2000: Jpeg2KImagePlugin.Jpeg2KImageFile,
    Format.PNM: PpmImagePlugin.PpmImageFile,
    Format.ICO: IcoImagePlugin.IcoImageFile,
}


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode of Pillow's to RGB."""
    mode = image.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        return Image.fromarray(_to_bytes(np.asarray(image))).convert("RGB")
    if mode in ("La", "RGBa"):  # premultiplied alpha
        image = image.convert(mode.upper())
    if mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    if mode == "LAB":
        raise ImageRejectedError(RejectReason.UNSUPPORTED, "pictures in the LAB colour space are not decoded")
    return image if mode == "RGB" else image.convert("RGB")


def _to_bytes(values: np.ndarray) -> np.ndarray:
    """Gray levels wider than a byte to uint8, by the range they claim; where that is unusual, by their own range.

    16-bit levels keep the high byte, and so do 32-bit ones up to 65535; floats up to 1 are times 255; levels up to 255
    stay as they are.
    """
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind in "iu" and (values.dtype.itemsize == 2 or (low >= 0 and 255 < high <= 65535)):
        return (values >> 8).astype(np.uint8)
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        return (values * 255).round().astype(np.uint8)
    if low >= 0 and high <= 255:
        return values.astype(np.uint8)
    return ((values.astype(np.float64) - low) * (255 / max(high - low, 1e-300))).astype(np.uint8)


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


def _rejection(data: bytes, found: Format, error: Exception) -> ImageRejectedError:
    """Tell a file that was cut off from one that is damaged or of a kind the decoder does not know."""
    said = on_one_line(error)
    lowered = said.lower()
    if isinstance(error, Image.DecompressionBombError) or "decompressed data too large" in lowered:
        return ImageRejectedError(RejectReason.TOO_LARGE, said)
    if "truncated" in lowered or ends_early(data, found):
        return ImageRejectedError(RejectReason.TRUNCATED, f"{found} file cut off: {said}")
    if isinstance(error, NotImplementedError) or "unsupported" in lowered or "cannot handle" in lowered:
        return ImageRejectedError(RejectReason.UNSUPPORTED, f"this kind of {found} file is not decoded: {said}")
    return ImageRejectedError(RejectReason.UNREADABLE, f"damaged {found} file: {said}")
