"""The open_clip encoder against open_clip's own calls, with random weights in the real ViT-B-32."""

import functools
import pickle
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from dxmc_core.encoders import (
    OpenClipConfig,
    hub,
    load_encoder,
)
from dxmc_core.encoders.open_clip_model import NOUN_TEMPLATES, CutTextTower, OpenClipEncoder
from dxmc_core.errors import InputError

MODELS = ["ViT-B-32-quickgelu", pytest.param("ViT-B-32", marks=pytest.mark.slow)]
TEXTS = ["dog", "a photo of a very large steam locomotive in the snow", "x, y; z!", "dog " * 90]
SMALL_MODEL = "ViT-S-32-alt"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint of ViT-B-32, as anybody would have it on disk; float16 to keep it small."""
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32")
    path = tmp_path_factory.mktemp("weights") / "vit_b_32.pt"
    torch.save({name: tensor.half() for name, tensor in model.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def small_checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.pt"
    torch.save({"state_dict": open_clip.create_model(SMALL_MODEL).state_dict()}, path)
    return path


@pytest.fixture(scope="module", params=MODELS)
def pair(request, checkpoint):
    """Our encoder, and model, transform and tokenizer as open_clip's README loads them."""
    config = OpenClipConfig(model=request.param, pretrained=str(checkpoint))
    model, _, transform = open_clip.create_model_and_transforms(request.param, pretrained=str(checkpoint))
    tokenizer = open_clip.get_tokenizer(request.param)
    return load_encoder(config, device="cpu", batch_size=4), model.eval(), transform, tokenizer


@pytest.fixture
def without_network(monkeypatch, tmp_path):
    """A hub that refuses connections, and an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "hub"


def _assert_same(found: np.ndarray, expected: torch.Tensor) -> None:
    reference = expected.numpy()
    assert found.dtype == np.float32
    assert np.allclose(found, reference, atol=1e-5)
    assert (found * reference).sum(axis=1).min() > 0.9999


def test_images_equal_open_clips(pair, photographs):
    encoder, model, transform, _ = pair
    images = [photographs["cat"], photographs["rocket"], photographs["gravel"].convert("L").convert("RGB")]
    with torch.no_grad():
        expected = model.encode_image(torch.stack([transform(image) for image in images]), normalize=True)
    pixels = np.stack([encoder.preprocess(image) for image in images])
    assert pixels.dtype == np.uint8
    assert pixels.shape == (3, encoder.image_size, encoder.image_size, 3)
    _assert_same(encoder.encode_images(pixels), expected)
    assert np.array_equal(encoder.encode_images(pixels[1:2]), encoder.encode_images(pixels)[1:2])


def test_texts_cut_to_their_length_equal_open_clips(pair):
    encoder, model, _, tokenizer = pair
    assert encoder._text_tower.can_cut
    with torch.no_grad():
        expected = model.encode_text(tokenizer(TEXTS), normalize=True)
    _assert_same(encoder.encode_texts(TEXTS), expected)
    assert np.array_equal(encoder.encode_texts(TEXTS[1:2]), encoder.encode_texts(TEXTS)[1:2])


def test_nouns_average_the_templates_before_normalising(pair):
    encoder, model, _, tokenizer = pair
    nouns = ["dog", "grand piano"]
    with torch.no_grad():
        features = [model.encode_text(tokenizer([t.format(noun) for t in NOUN_TEMPLATES])) for noun in nouns]
        expected = torch.nn.functional.normalize(torch.stack([rows.mean(dim=0) for rows in features]), dim=1)
    _assert_same(encoder.encode_nouns(nouns), expected)


def test_nothing_to_encode(pair):
    encoder = pair[0]
    assert encoder.encode_nouns([]).shape == (0, 512)
    assert encoder.encode_images(np.empty((0, 224, 224, 3), dtype=np.uint8)).shape == (0, 512)


def test_very_long_pictures_are_cropped_around_their_middle(pair):
    assert pair[0].preprocess(Image.new("RGB", (3, 9000))).shape == (224, 224, 3)


def _tiny_model(**text: object) -> torch.nn.Module:
    torch.manual_seed(1)
    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
    sizes = {"context_length": 16, "vocab_size": 50, "width": 64, "heads": 2, "layers": 2}
    return open_clip.CustomTextCLIP(32, vision, {**sizes, **text}).eval()


TOKENS = torch.tensor([[48, 5, 6, 49] + [0] * 12, [48, 5, 6, 7, 8, 9, 49] + [0] * 9])


@pytest.mark.parametrize("text", [{"pool_type": "argmax"}, {"pool_type": "eos", "eos_id": 49}])
def test_cut_at_the_end_token_changes_nothing_and_one_token_less_does(text):
    model = _tiny_model(**text)
    tower = CutTextTower(model)
    assert tower.used_lengths(TOKENS.numpy()).tolist() == [4, 7]
    with torch.no_grad():
        expected = model.encode_text(TOKENS)
        assert torch.allclose(tower(TOKENS[:, :7]), expected, atol=1e-6)
        assert torch.allclose(tower(TOKENS[:1, :4]), expected[:1], atol=1e-6)
        assert torch.allclose(tower(TOKENS), expected, atol=1e-6)
        assert not torch.allclose(tower(TOKENS[:1, :3]), expected[:1], atol=1e-2)


@pytest.mark.parametrize(
    "text", [{"no_causal_mask": True}, {"pool_type": "last"}, {"pool_type": "first"}, {"embed_cls": True}]
)
def test_towers_that_look_beyond_the_end_token_get_every_token(text):
    model = _tiny_model(**text)
    tower = CutTextTower(model)
    assert not tower.can_cut
    assert tower.used_lengths(TOKENS.numpy()).tolist() == [16, 16]
    with torch.no_grad():
        assert torch.equal(tower(TOKENS), model.encode_text(TOKENS))


def test_retrieval_temperature_is_half_of_what_the_model_learned():
    model = open_clip.create_model(SMALL_MODEL)
    tokenizer = open_clip.get_tokenizer(SMALL_MODEL)

    def temperature(learned: float) -> float:
        with torch.no_grad():
            model.logit_scale.fill_(-np.log(learned))
        encoder = OpenClipEncoder(model, tokenizer, precision="fp32", device="cpu", batch_size=1)
        return encoder.retrieval_temperature

    assert temperature(0.01) == 0.005  # OpenAI's CLIP: what TAC and DXMC use
    assert temperature(0.04) == 0.02
    assert temperature(1.0) == 0.05


def test_preprocessing_is_known_without_the_weights(small_checkpoint, photographs, without_network):
    """Processes that only decode have neither weights nor, with a tag, a network to fetch them."""
    config = OpenClipConfig(model=SMALL_MODEL, pretrained=str(small_checkpoint))
    with_weights = load_encoder(config, device="cpu", batch_size=2).preprocess
    without = pickle.loads(pickle.dumps(config.load_preprocess()))
    assert without.image_size == with_weights.image_size == 224
    for photograph in photographs.values():
        assert np.array_equal(without(photograph), with_weights(photograph))
    siglip = OpenClipConfig(model="ViT-B-16-SigLIP-256", pretrained="webli").load_preprocess()
    assert siglip(Image.new("RGB", (600, 300))).shape == (256, 256, 3)
    assert "squash" in str(open_clip.get_pretrained_cfg("ViT-B-16-SigLIP-256", "webli"))
    with pytest.raises(InputError, match="laion400m_e32"):
        OpenClipConfig(pretrained="laion").load_preprocess()


def test_compiled_tower_gives_the_same_embeddings(small_checkpoint, photographs, monkeypatch):
    compile_without_a_compiler = functools.partial(torch.compile, backend="eager")
    config = OpenClipConfig(model=SMALL_MODEL, pretrained=str(small_checkpoint))
    plain = load_encoder(config, device="cpu", batch_size=2)
    monkeypatch.setattr(torch, "compile", compile_without_a_compiler)
    compiled = load_encoder(config.model_copy(update={"compile": True}), device="cpu", batch_size=2)
    pixels = np.stack([plain.preprocess(photographs[name]) for name in ("cat", "palace", "rocket")])
    np.testing.assert_allclose(compiled.encode_images(pixels), plain.encode_images(pixels), atol=1e-5)
    assert config.model_copy(update={"compile": True}).identity() == config.identity()


@pytest.mark.slow
def test_half_precision_stays_close(small_checkpoint, photographs):
    config = OpenClipConfig(model=SMALL_MODEL, pretrained=str(small_checkpoint), precision="float32")
    full = load_encoder(config, device="cpu", batch_size=2)
    half = load_encoder(config.model_copy(update={"precision": "bfloat16"}), device="cpu", batch_size=2)
    pixels = np.stack([full.preprocess(photographs["cat"]), full.preprocess(photographs["palace"])])
    for ours, theirs in [
        (half.encode_images(pixels), full.encode_images(pixels)),
        (half.encode_nouns(["dog"]), full.encode_nouns(["dog"])),
    ]:
        assert ours.dtype == np.float32
        assert (ours * theirs).sum(axis=1).min() > 0.999
        assert not np.array_equal(ours, theirs)


@pytest.mark.slow
def test_torchscript_archives_as_openai_published_them_are_read(small_checkpoint, tmp_path):
    class Archive(torch.nn.Module):
        """The weights under their names, and the three numbers that OpenAI's files carry."""

        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            for name, child in model.named_children():
                self.add_module(name, child)
            for name, parameter in model.named_parameters(recurse=False):
                self.register_parameter(name, parameter)
            for name, value in {"input_resolution": 224, "context_length": 77, "vocab_size": 49408}.items():
                self.register_buffer(name, torch.tensor(value))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.logit_scale

    model = open_clip.create_model(SMALL_MODEL, pretrained=str(small_checkpoint))
    path = tmp_path / "archive.pt"
    torch.jit.trace(Archive(model), torch.zeros(1)).save(path)
    encoder = load_encoder(OpenClipConfig(model=SMALL_MODEL, pretrained=str(path)), device="cpu", batch_size=2)
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer(SMALL_MODEL)(TEXTS), normalize=True)
    _assert_same(encoder.encode_texts(TEXTS), expected)


def _refusal(config: OpenClipConfig) -> str:
    with pytest.raises(InputError) as caught:
        load_encoder(config, device="cpu")
    message = str(caught.value)
    assert "\n" not in message
    return message


def _early_refusal(config: OpenClipConfig) -> str:
    """What is said before anything is loaded, which has to be what loading would say."""
    with pytest.raises(InputError) as caught:
        config.require_weights()
    assert str(caught.value) == _refusal(config)
    return str(caught.value)


def test_tag_that_cannot_be_downloaded_says_what_to_do(without_network):
    message = _early_refusal(OpenClipConfig())
    assert "'openai' of ViT-B-32-quickgelu" in message
    assert "encoder.pretrained" in message
    assert "encoder.kind=offline" in message


def test_weights_that_are_yet_to_be_downloaded_are_announced_once(without_network, monkeypatch, caplog):
    from huggingface_hub import constants

    caplog.set_level("INFO", "dxmc_core")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "answers", lambda url: True)
    for _ in range(2):
        OpenClipConfig(model="ViT-L-14-quickgelu").require_weights()
        OpenClipConfig(model="hf-hub:a/announced").require_weights()
    said = "the weights {} are not on this machine; they are downloaded before they are loaded"
    assert caplog.messages == [said.format("'openai' of ViT-L-14-quickgelu"), said.format("hf-hub:a/announced")]


def test_model_of_the_hub_that_cannot_be_reached(without_network):
    assert "does not answer" in _early_refusal(OpenClipConfig(model="hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K"))


def test_model_of_the_hub_needs_its_weights_too(without_network):
    config = OpenClipConfig(model="hf-hub:a/b")
    snapshot = _cached_snapshot(without_network / "models--a--b")
    (snapshot / "open_clip_config.json").write_text("{}")
    with pytest.raises(InputError, match="does not answer"):
        config.require_weights()
    (snapshot / "open_clip_pytorch_model.bin").write_bytes(b"weights")
    config.require_weights()


def _cached_snapshot(repository: Path) -> Path:
    snapshot = repository / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abc")
    return snapshot


def test_cached_tag_needs_no_network(without_network):
    from dxmc_core.encoders.open_clip_weights import fetch_tag

    snapshot = _cached_snapshot(without_network / "models--timm--vit_base_patch32_clip_224.openai")
    (snapshot / "open_clip_model.safetensors").write_bytes(b"weights")
    path, preprocessing = fetch_tag("ViT-B-32-quickgelu", "openai")
    assert path.read_bytes() == b"weights"
    assert preprocessing["mean"] == open_clip.OPENAI_DATASET_MEAN
    OpenClipConfig().require_weights()


def test_unknown_tag_lists_the_known_ones():
    assert "laion400m_e32" in _early_refusal(OpenClipConfig(pretrained="laion"))


def test_activation_of_the_weights_is_checked():
    assert "ViT-B-32-quickgelu" in _early_refusal(OpenClipConfig(model="ViT-B-32", pretrained="openai"))


def test_missing_checkpoint():
    assert "no file /nowhere/clip.pt" in _early_refusal(OpenClipConfig(pretrained="/nowhere/clip.pt"))


def test_checkpoint_of_another_model(small_checkpoint):
    message = _refusal(OpenClipConfig(model="RN50", pretrained=str(small_checkpoint)))
    assert f"cannot load {small_checkpoint} as RN50" in message


def test_file_that_is_no_checkpoint(tmp_path):
    path = tmp_path / "notes.pt"
    path.write_text("not weights")
    assert "no checkpoint" in _refusal(OpenClipConfig(model=SMALL_MODEL, pretrained=str(path)))


def test_unknown_model_names_the_nearest():
    with pytest.raises(ValueError, match="no model 'ViT-B32'; names like it: ViT-B-32"):
        OpenClipConfig(model="ViT-B32")


def test_identity_of_a_checkpoint_is_its_content(tmp_path):
    first, second = tmp_path / "a.pt", tmp_path / "b.pt"
    first.write_bytes(b"weights")
    second.write_bytes(b"weights")
    identities = [OpenClipConfig(pretrained=str(path)).identity() for path in (first, second)]
    assert identities[0] == identities[1]
    second.write_bytes(b"others")
    assert OpenClipConfig(pretrained=str(second)).identity() != identities[0]
    assert OpenClipConfig().identity()["pretrained"] == "openai"
    with pytest.raises(InputError, match="there is no file"):
        OpenClipConfig(pretrained="missing.pt").identity()


@pytest.mark.slow
def test_local_folder_is_a_model(tmp_path, small_checkpoint):
    import json
    import shutil

    description = {"model_cfg": open_clip.get_model_config(SMALL_MODEL), "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(description))
    shutil.copy(small_checkpoint, tmp_path / "open_clip_pytorch_model.bin")
    config = OpenClipConfig(model=f"local-dir:{tmp_path}")
    encoder = load_encoder(config, device="cpu", batch_size=2)
    assert encoder.embedding_width == config.width() == 256
    assert encoder._mean_1_3_1_1.flatten().tolist() == [0.5, 0.5, 0.5]
    assert set(config.identity()["files"]) == {"open_clip_config.json", "open_clip_pytorch_model.bin"}


def test_width_is_known_without_the_model():
    assert OpenClipConfig().width() == 512
    assert OpenClipConfig(model="ViT-L-14", pretrained="openai").width() == 768
    assert OpenClipConfig(model="hf-hub:some/model").width() is None
