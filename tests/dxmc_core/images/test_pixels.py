"""What is decoded of each form of a picture is what ImageMagick or libvips shows of it, or nothing.

`benchmarks/picture_files.py` makes the files: format, depth, colour type, sample format, orientation, transparency.
"""

import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
from picture_files import picture_files
from PIL import Image

from dxmc_core.images.decode import ImageRejectedError, RejectReason, decode_image

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
#: Mean difference of levels that rounding makes, and the chroma and the coefficients of lossy formats.
_CLOSE = 1.5

Outcome = np.ndarray | ImageRejectedError


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    found = list(picture_files())
    assert len({name for name, _ in found}) == len(found)
    return dict(found)


@pytest.fixture(scope="module")
def outcomes(files) -> dict[str, Outcome]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's on the metadata of TIFF files
        return {name: _outcome(data) for name, data in files.items()}


def _outcome(data: bytes) -> Outcome:
    try:
        return np.asarray(decode_image(data))
    except ImageRejectedError as error:
        return error


@pytest.fixture(scope="module")
def magick() -> dict[str, list[str]]:
    """Commands of ImageMagick; another program may be called `convert` too."""
    for commands in (
        {"convert": ["/usr/bin/convert"], "mogrify": ["/usr/bin/mogrify"]},
        {"convert": ["magick"], "mogrify": ["magick", "mogrify"]},
    ):
        if all(shutil.which(command[0]) and _is_image_magick(command) for command in commands.values()):
            return commands
    pytest.skip("ImageMagick is not installed: apt-get install imagemagick")


def _is_image_magick(command: list[str]) -> bool:
    return "ImageMagick" in subprocess.run([*command, "-version"], capture_output=True, text=True, check=False).stdout


@pytest.fixture(scope="module")
def vips() -> str:
    found = shutil.which("vips")
    if found is None:
        pytest.skip("libvips is not installed: apt-get install libvips-tools")
    return found


_SUFFIXES = {"tiff": "tif", "pnm": "pnm", "jpeg": "jpg"}


def _suffix(name: str) -> str:
    if name.startswith("jpeg 2000"):
        return "j2k" if name.endswith("j2k") else "jp2"
    kind = name.split()[0]
    return _SUFFIXES.get(kind, kind)


def _shown_by_magick(commands: dict[str, list[str]], files: dict[str, bytes], folder: Path) -> dict[str, np.ndarray]:
    """The pictures by name that ImageMagick makes, on white and upright, many in one process."""
    paths = {folder / f"{number}.{_suffix(name)}": name for number, (name, data) in enumerate(files.items())}
    for path, name in paths.items():
        path.write_bytes(files[name])
    shown = folder / "shown"
    shown.mkdir()
    has_frames = [path for path, name in paths.items() if path.suffix == ".gif" or "animated" in name]
    for path in has_frames:
        target = f"ppm:{shown / path.stem}.ppm"
        command = [*commands["convert"], f"{path}[0]", "-background", "white", "-flatten", "-depth", "8", target]
        subprocess.run(command, capture_output=True, check=False)
    left = [path for path in paths if path not in has_frames]
    options = ["-auto-orient", "-background", "white", "-alpha", "remove", "-colorspace", "sRGB", "-depth", "8"]
    while left:
        command = [*commands["mogrify"], "-quiet", "-path", str(shown), "-format", "ppm", *options, *map(str, left)]
        subprocess.run(command, capture_output=True, check=False)
        not_shown = [path for path in left if not (shown / f"{path.stem}.ppm").exists()]
        left = not_shown if len(not_shown) < len(left) else not_shown[1:]  # it ends at a file that it cannot read
    return {paths[path]: _read(shown / f"{path.stem}.ppm") for path in paths if (shown / f"{path.stem}.ppm").exists()}


def _shown_by_vips(vips: str, data: bytes, suffix: str, folder: Path) -> np.ndarray | None:
    """The picture that libvips makes, on white and upright."""
    folder.mkdir()
    (folder / f"it.{suffix}").write_bytes(data)
    steps = (
        ["autorot", f"it.{suffix}", "upright.v"],
        ["colourspace", "upright.v", "rgb.v", "srgb"],
        ["cast", "rgb.v", "it.png", "uchar"],
    )
    for step in steps:
        subprocess.run([vips, *step], cwd=folder, capture_output=True, check=False)
    return _read(folder / "it.png") if (folder / "it.png").exists() else None


def _read(path: Path) -> np.ndarray:
    image = Image.open(path).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return np.asarray(white.convert("RGB"))


def _is_close(first: np.ndarray, second: np.ndarray | None) -> bool:
    if second is None or first.shape != second.shape:
        return False
    return float(np.abs(first.astype(float) - second).mean()) <= _CLOSE


def _written_by_magick(commands: dict[str, list[str]], folder: Path) -> dict[str, bytes]:
    """Files by name of forms that only ImageMagick writes of those that are at hand."""
    clear = ["(", "-size", "70x46", "gradient:", ")", "-alpha", "off", "-compose", "CopyOpacity", "-composite"]
    kinds = ("Bilevel", "Grayscale", "Palette", "TrueColor", "ColorSeparation")
    wanted = {
        f"jpeg 2000 {name} {depth} bit jp2": [*options, "-depth", str(depth), "it.jp2"]
        for depth in (4, 8, 10, 12, 16)
        for name, options in {"rgb": [], "gray": ["-colorspace", "Gray"], "rgb alpha": clear}.items()
    }
    for kind in (*kinds, *(f"{kind}Alpha" for kind in kinds)):
        options = [*(clear if kind.endswith("Alpha") else []), "-type", kind.replace("BilevelAlpha", "GrayscaleAlpha")]
        for suffix in ("tif", "png", "bmp", "gif", "ico", "jpg"):
            wanted[f"{suffix} {kind}"] = [*options, f"it.{suffix}"]
        for compression in ("LZW", "JPEG", "Group4"):
            wanted[f"tif {kind} {compression}"] = [*options, "-compress", compression, "it.tif"]
        wanted[f"tif {kind} 16 bit"] = [*options, "-depth", "16", "it.tif"]
        wanted[f"tif {kind} planes"] = [*options, "-interlace", "Plane", "it.tif"]
    for colors in (2, 16, 200):
        wanted[f"ico of {colors} colors"] = ["-colors", str(colors), "it.ico"]
    wanted["tif YCbCr halved"] = ["-colorspace", "YCbCr", "-compress", "JPEG", "-sampling-factor", "2x2", "it.tif"]
    written = {}
    for name, options in wanted.items():
        done = subprocess.run([*commands["convert"], "rose:", *options], cwd=folder, capture_output=True, check=False)
        path = folder / options[-1]
        if path.exists() and path.stat().st_size and not done.returncode:
            written[name] = path.read_bytes()
        path.unlink(missing_ok=True)
    return written


@pytest.mark.slow
def test_what_image_magick_writes_is_decoded_as_it_or_libvips_shows_it(magick, vips, tmp_path):
    files = _written_by_magick(magick, tmp_path)
    assert len(files) > 90
    outcomes = {name: _outcome(data) for name, data in files.items()}
    assert _differing(files, outcomes, magick, vips, tmp_path) == []
    rejects = {name: error for name, error in outcomes.items() if isinstance(error, ImageRejectedError)}
    assert {error.reason for error in rejects.values()} == {RejectReason.UNSUPPORTED}
    assert {"jpeg 2000 rgb 12 bit jp2", "jpeg 2000 rgb alpha 16 bit jp2"} <= set(rejects)
    assert len(rejects) < 30


@pytest.mark.slow
def test_what_is_decoded_is_what_image_magick_or_libvips_shows(files, outcomes, magick, vips, tmp_path):
    assert sum(isinstance(outcome, np.ndarray) for outcome in outcomes.values()) > 450
    assert _differing(files, outcomes, magick, vips, tmp_path) == []


def _differing(
    files: dict[str, bytes], outcomes: dict[str, Outcome], magick: dict[str, list[str]], vips: str, folder: Path
) -> list[str]:
    """What is decoded otherwise than both programs show it."""
    decoded = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, np.ndarray)}
    shown = _shown_by_magick(magick, {name: files[name] for name in decoded}, folder)
    assert len(shown) > 0.9 * len(decoded)
    otherwise = [name for name, picture in decoded.items() if not _is_close(picture, shown.get(name))]
    return [
        name
        for number, name in enumerate(otherwise)
        if not _is_close(decoded[name], _shown_by_vips(vips, files[name], _suffix(name), folder / f"vips{number}"))
    ]


@pytest.mark.parametrize(
    "name",
    [
        "tiff gray 12 bit black is zero little endian",
        "tiff gray 16 bit white is zero little endian",
        "tiff gray 32 bit black is zero little endian",
        "tiff gray float 32 bit to 1 little endian",
        "tiff gray float 32 bit deflated big endian",
        "png gray 16 bit",
        "pnm P5 maxval 1000",
        "jpeg 2000 gray 16 bit",
    ],
)
def test_every_depth_gives_the_same_picture(files, outcomes, name):
    expected = outcomes["tiff gray 8 bit black is zero little endian"].astype(float)
    assert 140 < expected.mean() < 160
    assert np.abs(outcomes[name] - expected).max() <= 1


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("suffix", ["", " interlaced"])
def test_the_transparent_level_of_a_gray_png_is_white(outcomes, bits, suffix):
    whole = outcomes[f"png gray {bits} bit{suffix}"]
    disc = whole == whole[7, 12, 0]  # of one level; of 16 bits others have the same high byte
    clear = outcomes[f"png gray {bits} bit transparent middle{suffix}"]
    assert clear[7, 12].tolist() == [255] * 3
    assert np.array_equal(clear[~disc], whole[~disc])
    assert bits == 16 or (clear[disc] == 255).all()


def test_whole_files_that_are_not_decoded_are_unsupported_and_say_why(outcomes):
    rejected = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, ImageRejectedError)}
    assert {name: str(error) for name, error in rejected.items() if error.reason != RejectReason.UNSUPPORTED} == {}
    said = [" is not decoded: ", " files are not decoded; "]
    assert [name for name, error in rejected.items() if not any(words in error.message for words in said)] == []


#: Forms that must be decoded, by the beginning of their names: everything of them that readers agree on.
MUST_BE_DECODED = (
    *(f"tiff gray {bits} bit {zero}" for bits in (1, 2, 4, 8) for zero in ("black is zero", "white is zero")),
    "tiff gray 12 bit black is zero little",
    "tiff gray 16 bit black is zero",
    "tiff gray 16 bit white is zero little",
    "tiff gray 32 bit black is zero little",
    "tiff gray 12 bit tiled <",
    "tiff gray 12 bit deflated",
    "tiff gray 12 bit big tiff",
    "tiff gray 12 bit orientation",
    "tiff palette 8 bit alpha",
    "tiff gray 16 bit deflated",
    "tiff gray 32 bit tiled <",
    "tiff gray float 32 bit to 1 little",
    "tiff gray float 32 bit to 1.02 little",
    "tiff gray float 32 bit to 0.5 little",
    "tiff gray float 32 bit to 255 little",
    "tiff gray float 32 bit to 4 big",
    "tiff gray float 32 bit with NaN little",
    "tiff gray float 32 bit deflated",
    "tiff gray alpha 8 bit",
    "tiff gray premultiplied 8 bit",
    "tiff gray unspecified 8 bit <",
    *(f"tiff {color} 8 bit" for color in ("rgb", "cmyk", "rgb alpha", "rgb premultiplied", "rgb unspecified", "ycbcr")),
    "tiff rgb 16 bit < deflate",
    "tiff rgb alpha 16 bit <",
    "tiff cmyk 16 bit < tile",
    "tiff rgb orientation",
    *(f"tiff palette {bits} bit" for bits in (1, 2, 4, 8)),
    "tiff palette of 8 bit colours",
    "tiff bilevel",
    "tiff rgb lzw",
    "tiff rgb jpeg",
    "png gray",
    "png palette",
    "png rgb 8",
    "png rgb alpha",
    "png animated",
    "png rgb 16 bit",
    "pnm P1",
    "pnm P2",
    "pnm P3",
    "pnm P4",
    "pnm P5 maxval 1000",
    "pnm P6 maxval 4095",
    "pnm P5 maxval 65535",
    "pfm Pf scale 1 to 1.02",
    "bmp",
    "gif",
    "webp",
    "avif",
    "ico",
    "jpeg rgb",
    "jpeg gray",
    "jpeg cmyk",
    "jpeg ycck",
    "jpeg 2000",
)
#: And what of these is refused all the same: planes apart, and the order of bytes that no other BigTIFF has.
_BUT = (
    *(
        f"tiff {color} 8 bit {order} {tail}"
        for order in "<>"
        for color, tail in (
            ("gray alpha", "planar"),
            ("gray alpha", "rows_per_strip"),
            ("gray premultiplied", "planar"),
            ("gray unspecified", "planar"),
            ("gray premultiplied", "rows_per_strip"),
            ("gray unspecified", "rows_per_strip"),
            ("rgb premultiplied", "planar"),
            ("rgb premultiplied", "rows_per_strip"),
            ("rgb unspecified", "planar"),
            ("rgb unspecified", "rows_per_strip"),
        )
    ),
    *(
        f"tiff {color} 8 bit > big"
        for color in (
            "rgb",
            "cmyk",
            "rgb alpha",
            "rgb unspecified",
            "rgb premultiplied",
            "gray alpha",
            "gray premultiplied",
        )
    ),
    *(f"tiff cmyk 8 bit {name}" for name in ("unspecified", "premultiplied", "alpha")),
    "tiff palette 8 bit premultiplied",
    "tiff rgb alpha 16 bit < planar",
    "tiff rgb alpha 16 bit < rows_per_strip",
    "png rgb 16 bit transparent",
)


def test_forms_that_readers_agree_on_are_decoded(outcomes):
    must = {
        name: outcome
        for name, outcome in outcomes.items()
        if name.startswith(MUST_BE_DECODED) and not name.startswith(_BUT)
    }
    unmatched = [start for start in MUST_BE_DECODED if not any(name.startswith(start) for name in must)]
    assert unmatched == []
    assert {name: str(outcome) for name, outcome in must.items() if isinstance(outcome, ImageRejectedError)} == {}
