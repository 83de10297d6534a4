"""Makes the demo's folder of photographs: crops of ten scenes in real pictures that two Python packages bring.

Each scene is one class, so the demo has files to read, clusters to find, and labels to be measured against. Scenes were
chosen by two tests: the package states a licence that allows it, and the offline encoder, which knows ImageNet's
classes, has a fitting word for what they show.
"""

import argparse
import json
import shutil
import sys
import uuid
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from dxmc_core.errors import InputError

MARKER_NAME = ".dxmc-demo.json"
SOURCES_NAME = "SOURCES.txt"
#: Raise it when the pictures change: folders made by an earlier version are refused.
_VERSION = 1

LONG_SIDE_PX = 320
_JPEG_QUALITY = 95
#: Brightness, contrast and colour are each multiplied by a factor between 1 - this and 1 + this.
_MAX_COLOUR_CHANGE = 0.2
_MAX_STRETCH = 1.25


@dataclass(frozen=True)
class Picture:
    """A file of a package, and who made it under which licence, as the package states it."""

    package: str
    file_name: str
    credit: str


@dataclass(frozen=True)
class Scene:
    """A part of a picture that a package brings.

    Attributes:
        label: its class, the name of a folder.
        picture: what the scene is cut from.
        region: left, top, right and bottom of the scene as fractions of the picture.
        areas: smallest and largest share of the scene that a crop shows.
    """

    label: str
    picture: Picture
    region: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    areas: tuple[float, float] = (0.45, 0.95)


_ASTRONAUT = Picture("skimage.data", "astronaut.png", "NASA, public domain")
_CAMERA = Picture("skimage.data", "camera.png", "Lav Varshney, CC0")
_CHELSEA = Picture("skimage.data", "chelsea.png", "Stefan van der Walt, CC0")
_COFFEE = Picture("skimage.data", "coffee.png", "Rachel Michetti, Pikolo Espresso Bar, CC0")
_GRAVEL = Picture("skimage.data", "gravel.png", "CC0Textures, CC0")
_ROCKET = Picture("skimage.data", "rocket.jpg", "SpaceX, public domain")
_CHINA = Picture("sklearn.datasets.images", "china.jpg", "danielbuechele on Flickr, CC BY 2.0")
_FLOWER = Picture("sklearn.datasets.images", "flower.jpg", "vultilion on Flickr, CC BY 2.0")

SCENES = (
    Scene("cat", _CHELSEA, areas=(0.25, 0.9)),
    Scene("coffee", _COFFEE, (0.05, 0.0, 0.9, 1.0)),
    Scene("flower", _FLOWER, (0.15, 0.0, 0.85, 1.0), areas=(0.55, 1.0)),
    Scene("gravel", _GRAVEL, areas=(0.05, 0.35)),
    Scene("lake_shore", _CHINA, (0.55, 0.3, 1.0, 1.0)),
    Scene("palace", _CHINA, (0.05, 0.0, 0.68, 1.0)),
    Scene("photographer", _CAMERA, (0.0, 0.05, 0.9, 1.0)),
    Scene("rocket", _ROCKET, (0.25, 0.1, 0.75, 1.0)),
    Scene("space_suit", _ASTRONAUT, (0.1, 0.35, 0.75, 1.0)),
    Scene("tower", _ROCKET, (0.0, 0.0, 0.3, 1.0)),
)


def make_demo_images(folder: Path, *, seed: int = 0, per_class: int = 60) -> None:
    """Write <label>/<number>.jpg: crops, some mirrored, mildly changed in colour, `per_class` of each scene.

    The folder appears complete or not at all. One that was made with the same settings is left as it is.

    Raises:
        InputError: the folder holds other files, or pictures made with other settings, or the packages with the
            pictures are not installed.
    """
    settings = {"version": _VERSION, "seed": seed, "per_class": per_class}
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        _require_settings(folder, settings)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    draft.mkdir()
    try:
        for number, scene in enumerate(SCENES):
            rng = np.random.default_rng([seed, number])
            _write_class(draft / scene.label, scene, rng, per_class)
        credits = [f"{scene.label}: {scene.picture.file_name}, {scene.picture.credit}\n" for scene in SCENES]
        (draft / SOURCES_NAME).write_text("Crops of these photographs:\n" + "".join(credits))
        (draft / MARKER_NAME).write_text(json.dumps(settings))
        draft.rename(folder)  # an empty folder is replaced, no other
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _require_settings(folder: Path, settings: dict[str, int]) -> None:
    """Check that the pictures in a folder are those that would be made: nothing is ever deleted for new ones."""
    try:
        found = json.loads((folder / MARKER_NAME).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} holds files that the demo did not make; give it another folder") from error
    if found != settings:
        raise InputError(f"{folder} was made with {found}, asked for is {settings}; delete it, or give another folder")


def open_picture(picture: Picture) -> Image.Image:
    """The whole picture in RGB.

    Raises:
        InputError: its package is not installed.
    """
    try:
        data = resources.files(picture.package).joinpath(picture.file_name)
        with data.open("rb") as file, Image.open(file) as image:
            return image.convert("RGB")
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise InputError(
            f"the demo needs the picture {picture.file_name} of {picture.package}: pip install 'dxmc[offline]'"
        ) from error


def _write_class(folder: Path, scene: Scene, rng: np.random.Generator, count: int) -> None:
    image = open_picture(scene.picture)
    left, top, right, bottom = scene.region
    image = image.crop((left * image.width, top * image.height, right * image.width, bottom * image.height))
    folder.mkdir()
    for number in range(count):
        crop = _change_colours(_crop(image, scene.areas, rng), rng)
        crop.save(folder / f"{number:04d}.jpg", quality=_JPEG_QUALITY, subsampling=0)


def _crop(image: Image.Image, areas: tuple[float, float], rng: np.random.Generator) -> Image.Image:
    """A part of the picture, LONG_SIDE_PX long, mirrored half of the time."""
    side = rng.uniform(*areas) ** 0.5
    stretch = rng.uniform(1 / _MAX_STRETCH, _MAX_STRETCH) ** 0.5
    left, right = _span(image.width, side * stretch, rng)
    top, bottom = _span(image.height, side / stretch, rng)
    scale = LONG_SIDE_PX / max(right - left, bottom - top)
    size = (round((right - left) * scale), round((bottom - top) * scale))
    crop = image.resize(size, Image.Resampling.BICUBIC, box=(left, top, right, bottom))
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop


def _span(length: int, share: float, rng: np.random.Generator) -> tuple[float, float]:
    """Where a stretch of `share` of the length starts and ends, anywhere in it."""
    size = length * min(share, 1.0)
    start = rng.uniform(0.0, length - size)
    return start, start + size


def _change_colours(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhancer(image).enhance(rng.uniform(1 - _MAX_COLOUR_CHANGE, 1 + _MAX_COLOUR_CHANGE))
    return image


def main() -> None:
    """`python -m dxmc_core.demo FOLDER`: make the demo's photographs there, unless they are there already."""
    parser = argparse.ArgumentParser(description="Makes the demo's folder of photographs.")
    parser.add_argument("folder", type=Path)
    try:
        make_demo_images(parser.parse_args().folder)
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
