"""Photographs that packages bring, and the offline encoder loaded once."""

import pytest
from PIL import Image

from dxmc_core.demo import SCENES, open_picture
from dxmc_core.encoders import Encoder, OfflineConfig, load_encoder


@pytest.fixture(scope="session")
def photographs() -> dict[str, Image.Image]:
    """Whole pictures of the demo, by the label of a scene in them."""
    return {scene.label: open_picture(scene.picture) for scene in SCENES}


@pytest.fixture(scope="session")
def offline_encoder() -> Encoder:
    return load_encoder(OfflineConfig(kind="offline"), device="cpu", batch_size=8)
