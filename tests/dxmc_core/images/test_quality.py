"""What is measured of a picture: its size as it stands upright, how bright and how sharp it is."""

import numpy as np
from PIL import Image, ImageFilter

from dxmc_core.images.quality import measure
from dxmc_core.stages.quality_issues import BLURRED_SHARPNESS, DARK_BRIGHTNESS


def measured(picture: Image.Image, size: tuple[int, int] | None = None):
    return measure(size or picture.size, picture, np.asarray(picture))


def test_sharpness_is_the_variance_of_the_laplacian_of_green():
    crop = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    green = crop[..., 1].astype(float)
    expected = [
        green[y - 1, x] + green[y + 1, x] + green[y, x - 1] + green[y, x + 1] - 4 * green[y, x]
        for y in range(1, 5)
        for x in range(1, 6)
    ]
    found = measure((7, 6), Image.fromarray(crop), crop)
    np.testing.assert_allclose(found.sharpness, np.var(expected), rtol=1e-5)
    np.testing.assert_allclose(found.brightness, crop.mean() / 255, rtol=1e-5)


def test_blur_and_darkness_pass_their_thresholds():
    checks = np.kron(np.indices((16, 16)).sum(axis=0) % 2, np.ones((14, 14))) * 200
    sharp = Image.fromarray(np.repeat(checks[..., None], 3, axis=2).astype(np.uint8))
    blurred = sharp.filter(ImageFilter.GaussianBlur(8))
    assert measured(sharp).sharpness > BLURRED_SHARPNESS > measured(blurred).sharpness
    assert measured(sharp).brightness > DARK_BRIGHTNESS > measured(sharp.point(lambda level: level // 8)).brightness


def test_size_is_that_of_the_file_turned_as_the_picture_stands():
    tall = Image.new("RGB", (30, 40))
    assert measured(tall, size=(4000, 3000))[:2] == (3000, 4000)
    assert measured(tall, size=(3000, 4000))[:2] == (3000, 4000)


def test_a_crop_without_an_inside_has_no_sharpness():
    assert measured(Image.new("RGB", (2, 2))).sharpness == 0.0
