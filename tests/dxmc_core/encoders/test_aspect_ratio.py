import numpy as np
from PIL import Image
from torchvision import transforms

from dxmc_core.encoders.aspect_ratio import limit_aspect_ratio, max_aspect_ratio


def test_usual_pictures_are_untouched():
    image = Image.new("RGB", (800, 100))
    assert limit_aspect_ratio(image, max_aspect_ratio(crops=True)) is image


def test_the_centre_crop_of_a_long_picture_stays_the_same():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 1000, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    limited = limit_aspect_ratio(image, 8)
    assert limited.size == (256, 32)
    resize_and_crop = transforms.Compose([transforms.Resize(64), transforms.CenterCrop(64)])
    assert np.array_equal(np.asarray(resize_and_crop(limited)), np.asarray(resize_and_crop(image)))


def test_a_line_of_pixels_does_not_explode():
    limited = limit_aspect_ratio(Image.new("RGB", (1, 10_000)), 8)
    assert limited.size == (1, 8)
