"""TIFF: which of its layouts are decoded, and how levels wider than a byte become bytes.

A TIFF says little of how it is to be shown, and Pillow decodes some layouts otherwise than other readers do. What is
decoded here is what ImageMagick and libvips show; docs/SOURCES.md has the table. The rest is refused.
"""

import numpy as np
from PIL import TiffImagePlugin
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COLORMAP,
    COMPRESSION,
    COMPRESSION_INFO,
    EXTRASAMPLES,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
)

from dxmc_core.images.levels import float_to_bytes

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_SIGNED, _FLOAT = 2, 3
_UNSPECIFIED, _ALPHA = 0, 2
_SEPARATE_PLANES = 2
_RAW = 1
_NAMES = {
    4: "a mask",
    8: "CIELab",
    9: "ICCLab",
    10: "ITULab",
    32803: "a camera's raw data",
    34892: "a camera's raw data",
}
#: 32-bit levels that end below this are those of 8 or 16 bits, which some readers show black and others do not.
_MIN_HIGH_OF_32_BITS = 1 << 16


class TiffFile(TiffImagePlugin.TiffImageFile):
    """Pillow's reader (13), kept to what it shows as other readers do."""

    def _open(self) -> None:
        assert self.fp is not None
        if self.fp.read(4) == b"MM\0+":
            raise NotImplementedError("BigTIFF in big-endian order; save it in little-endian order")
        self.fp.seek(0)
        super()._open()

    def _setup(self) -> None:
        """Take the one directory that has been read.

        Raises:
            NotImplementedError: the layout is not decoded.
        """
        self._require_known_layout()
        extra = self.tag_v2.get(EXTRASAMPLES, ())
        if extra[:1] == (_UNSPECIFIED,) and self._photometric != _CMYK:
            # A sample of which nothing is said is shown as alpha by other readers; Pillow leaves it out.
            self.tag_v2[EXTRASAMPLES] = (_ALPHA, *extra[1:])
        colors = self.tag_v2.get(COLORMAP)
        if colors and max(colors) < 256:
            # Old programs write bytes here. libtiff corrects them in the same way.
            self.tag_v2[COLORMAP] = tuple(257 * level for level in colors)
        try:
            super()._setup()
        except SyntaxError as error:
            raise NotImplementedError(f"{self._layout}: {error}") from error
        if self.use_load_libtiff:
            self._read_native_order()

    @property
    def _photometric(self) -> int:
        return self.tag_v2.get(PHOTOMETRIC_INTERPRETATION, _WHITE_IS_ZERO)

    @property
    def _bits(self) -> tuple[int, ...]:
        return self.tag_v2.get(BITSPERSAMPLE, (1,))

    @property
    def _sample_format(self) -> int:
        return self.tag_v2.get(SAMPLEFORMAT, (1,))[0]

    @property
    def _layout(self) -> str:
        return (
            f"photometric interpretation {self._photometric}, {self.tag_v2.get(SAMPLESPERPIXEL, 1)} samples of "
            f"{self._bits[0]} bits, sample format {self._sample_format}"
        )

    def _require_known_layout(self) -> None:
        compression = self.tag_v2.get(COMPRESSION, _RAW)
        if compression not in COMPRESSION_INFO:
            raise NotImplementedError(f"compression {compression}")
        if self._photometric in _NAMES:
            raise NotImplementedError(f"its samples are {_NAMES[self._photometric]}")
        if self._photometric == _CMYK and self.tag_v2.get(EXTRASAMPLES):
            raise NotImplementedError("CMYK with alpha")
        if self._sample_format == _SIGNED:
            raise NotImplementedError("signed levels, whose black readers do not agree on; scale them to unsigned ones")
        if self._sample_format == _FLOAT and self._photometric == _WHITE_IS_ZERO:
            raise NotImplementedError("float levels of which 0 is white, which some readers invert and others do not")
        if self.tag_v2.get(PLANAR_CONFIGURATION) == _SEPARATE_PLANES and self.tag_v2.get(SAMPLESPERPIXEL, 1) > 1:
            wide = max(self._bits) > 8 and compression == _RAW
            is_unnamed = _UNSPECIFIED in self.tag_v2.get(EXTRASAMPLES, ())
            if wide or is_unnamed or min(self._bits) < 8 or self._photometric not in (_RGB, _CMYK, _YCBCR):
                raise NotImplementedError(f"separate planes of {self._layout}")

    def _read_native_order(self) -> None:
        """libtiff hands over numbers in the order of this machine; Pillow takes floats for what the file has."""
        (tile,) = self.tile
        assert isinstance(tile.args, tuple)
        if tile.args[0] == "F;32BF":
            self.tile = [tile._replace(args=("F;32NF", *tile.args[1:]))]

    def gray_bytes(self) -> np.ndarray:
        """The levels of a loaded picture that are wider than a byte, as bytes, (H, W) uint8.

        Raises:
            NotImplementedError: nothing says which levels are black and white.
        """
        values = np.asarray(self)
        if values.dtype.kind == "f":
            return float_to_bytes(values, to_255=True)
        bits = self._bits[0]
        if bits == 32:
            values = values.view(np.uint32)
            if 0 < values.max() < _MIN_HIGH_OF_32_BITS:
                raise NotImplementedError(
                    f"32-bit levels that end at {values.max()}, black to many readers; save it with 8 or 16 bits"
                )
        gray = (values >> (bits - 8)).astype(np.uint8)
        return 255 - gray if self._photometric == _WHITE_IS_ZERO else gray
