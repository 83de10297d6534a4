"""From files to stored embeddings against the reference: Pillow, open_clip's own transform and its own forward pass."""

import time

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from dxmc_core.artifacts.matrices import load_matrix
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.storage import Storage
from dxmc_core.demo import SCENES, open_picture
from dxmc_core.encoders import OpenClipConfig
from dxmc_core.images.catalog import list_source
from dxmc_core.images.renewal import renew_catalog
from dxmc_core.images.sources import ImagesSource
from dxmc_core.stages.embed_images import all_embedded
from dxmc_core.stages.embedded_rows import EmbeddedRows
from dxmc_core.stages.embedding_workers import EmbedImages

MODEL = "ViT-S-32-alt"
FINGERPRINT = "a" * 32


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Random weights, with positions and inputs that weigh more than at the start of a training: images then differ."""
    torch.manual_seed(0)
    model = open_clip.create_model(MODEL)
    with torch.no_grad():
        model.visual.conv1.weight.mul_(8)
        model.visual.positional_embedding.mul_(4)
    path = tmp_path_factory.mktemp("weights") / "small.pt"
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photographs as files of several kinds and sizes."""
    folder = tmp_path_factory.mktemp("photos")
    for number, picture in enumerate(dict.fromkeys(scene.picture for scene in SCENES)):
        image = open_picture(picture)
        image.save(folder / f"{number}-whole.jpg", quality=90)
        image.rotate(90, expand=True).resize((301, 430)).save(folder / f"{number}-upright.png")
        image.convert("L").crop((0, 0, image.width // 2, image.height // 3)).save(folder / f"{number}-gray.jpg")
    return folder


@pytest.fixture(scope="module")
def reference(checkpoint, photos):
    """Unit vectors float32 (N, D) in the order of the files' names."""
    model, _, transform = open_clip.create_model_and_transforms(MODEL, pretrained=str(checkpoint))
    images = [transform(Image.open(path).convert("RGB")) for path in sorted(photos.iterdir())]
    with torch.no_grad():
        return model.eval().encode_image(torch.stack(images), normalize=True).numpy()


@pytest.mark.parametrize(("precision", "least_cosine"), [("float32", 0.9999), ("bfloat16", 0.999)])
def test_stored_embeddings_are_the_references(checkpoint, photos, reference, tmp_path, precision, least_cosine):
    stage = StageDir(Storage(str(tmp_path / "embed_images")), "embed_images")
    source = ImagesSource(uri=str(photos))
    catalog = renew_catalog(stage, list_source(source), fingerprint=FINGERPRINT)
    config = OpenClipConfig(model=MODEL, pretrained=str(checkpoint), precision=precision)
    embed = EmbedImages(
        {"images": config}, source, catalog, fingerprint=FINGERPRINT, device="cpu", batch_size=8, num_threads=1
    )
    done = EmbeddedRows(catalog.num_rows)
    for receipts in embed.stream(done.chunks(catalog.chunk_rows)):
        for receipt in receipts.to_pylist():
            done.add_receipt(receipt)
    all_embedded(catalog, done, fingerprint=FINGERPRINT).publish(
        catalog.stage_dir, fingerprint=FINGERPRINT, inputs={}, started=time.perf_counter()
    )
    stored = load_matrix(stage, "images").values.astype(np.float32)

    cosines = stored @ reference.T / np.linalg.norm(stored, axis=1, keepdims=True)
    assert np.diag(cosines).min() > least_cosine
    others = cosines[~np.eye(len(cosines), dtype=bool)]
    assert np.median(others) < 0.99, "the images hardly differ for this model: it proves nothing"
