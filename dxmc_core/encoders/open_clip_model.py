"""The open_clip encoder: any of its models, with open_clip's own preprocessing and forward passes.

Two things are done for speed, and both give open_clip's results: pixels travel as bytes and are normalised on the
device, and a batch of texts is cut to its length where the text tower is causal.
"""

import math
import pickle
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import nn
from torchvision import transforms

from dxmc_core.encoders.aspect_ratio import limit_aspect_ratio, max_aspect_ratio
from dxmc_core.encoders.batching import map_batches, normalize_rows, rows_by_length
from dxmc_core.encoders.open_clip import OpenClipConfig
from dxmc_core.encoders.open_clip_weights import fetch_tag, require_hub, tag_preprocessing
from dxmc_core.encoders.work import count_work
from dxmc_core.errors import InputError, on_one_line
from dxmc_core.method.work import Work
from dxmc_core.runtime.slices import slices_of
from dxmc_core.workload import EncoderWork

#: The seven templates of CLIP's own prompt search that the programs of DXMC and TAC average over.
NOUN_TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
#: Tokens of such a prompt, the ends included, with a noun of WordNet (two to three tokens).
_TOKENS_PER_PROMPT = 11
#: Nouns whose prompts are tokenised and held at a time.
_NOUN_BLOCK = 2048
#: Reading weights and making a model of them passes over them so often.
_PASSES_TO_LOAD = 20
_MAX_SAID = 200

_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
#: Entries beside the weights in the files that OpenAI published.
_TORCHSCRIPT_EXTRAS = frozenset({"input_resolution", "context_length", "vocab_size"})
#: What reading a file that is no checkpoint, or another model's, has been seen to raise.
_LOAD_ERRORS = (
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.PickleError,
)


class OpenClipEncoder:
    """See the module; the protocol is `dxmc_core.encoders.Encoder`."""

    def __init__(
        self, model: Any, tokenizer: Any, *, precision: str, device: str, batch_size: int, compiled: bool = False
    ) -> None:
        """Wrap an open_clip model that is on its device, in evaluation mode.

        Args:
            model: CLIP, CustomTextCLIP or CoCa; they have no class in common.
            precision: open_clip's word for the model's floats: fp32, fp16 or bf16.
            compiled: compile the image tower, at its first batch.
        """
        self._model = model
        self._text_tower = CutTextTower(model)
        self._tokenizer = tokenizer
        self._dtype = _DTYPES[precision]
        self._device = device
        self.batch_size = batch_size
        self._encode_image = torch.compile(model.encode_image, dynamic=False) if compiled else model.encode_image
        self.preprocess, normalization = split_transform(model)
        self._mean_1_3_1_1 = torch.tensor(normalization.mean, device=device).view(1, 3, 1, 1)
        self._std_1_3_1_1 = torch.tensor(normalization.std, device=device).view(1, 3, 1, 1)
        self.image_size = self.preprocess.image_size
        self.embedding_width = self._measure_width()
        self.retrieval_temperature = _retrieval_temperature(model)

    @classmethod
    def load(cls, config: OpenClipConfig, *, device: str, batch_size: int) -> "OpenClipEncoder":
        """Build the model and load its weights.

        Raises:
            InputError: the weights cannot be had, or are not this model's; one line that says what to do.
        """
        precision = config.precision
        if precision == "auto":
            precision = "float32" if torch.device(device).type == "cpu" else "float16"
        path, preprocessing = _weights_of(config)
        try:
            with _readable_checkpoint(path) as pretrained:
                model = open_clip.create_model(
                    config.model,
                    pretrained=pretrained,
                    precision=_PRECISIONS[precision],
                    device=device,
                    force_preprocess_cfg=preprocessing,
                    require_pretrained=True,
                    weights_only=True,
                )
                tokenizer = open_clip.get_tokenizer(config.model)
        except _LOAD_ERRORS as error:
            raise InputError(_explain(config, path, error)) from error
        model = model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        return cls(
            model,
            tokenizer,
            precision=_PRECISIONS[precision],
            device=device,
            batch_size=batch_size,
            compiled=config.compile,
        )

    def encode_images(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels uint8 (B, H, W, 3) to unit vectors float32 (B, D)."""
        vectors = map_batches(
            self._image_forward, pixels, device=self._device, batch_size=self.batch_size, width=self.embedding_width
        )
        return normalize_rows(vectors)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Texts to unit vectors float32 (M, D)."""
        return normalize_rows(self._text_features(texts))

    def encode_nouns(self, nouns: Sequence[str]) -> np.ndarray:
        """Nouns to unit vectors float32 (M, D): the mean of seven prompts' features, averaged before normalising."""
        vectors = np.empty((len(nouns), self.embedding_width), dtype=np.float32)
        for part in slices_of(len(nouns), _NOUN_BLOCK):
            block = nouns[part]
            prompts = [template.format(noun) for template in NOUN_TEMPLATES for noun in block]
            features = self._text_features(prompts).reshape(len(NOUN_TEMPLATES), len(block), -1)
            vectors[part] = features.mean(axis=0)
        return normalize_rows(vectors)

    def _image_forward(self, pixels_BHW3: torch.Tensor) -> torch.Tensor:
        """ToTensor and Normalize of open_clip's transform, in its order of operations, then its image tower."""
        x_B3HW = pixels_BHW3.to(self._device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)
        x_B3HW = x_B3HW.sub_(self._mean_1_3_1_1).div_(self._std_1_3_1_1)
        return self._encode_image(x_B3HW.to(self._dtype))

    def _text_features(self, texts: Sequence[str]) -> np.ndarray:
        """Features of the text tower before normalisation, float32 (M, D)."""
        if not texts:
            return np.empty((0, self.embedding_width), dtype=np.float32)
        tokens_ML = self._tokenizer(list(texts)).numpy()
        lengths = self._text_tower.used_lengths(tokens_ML)
        features = np.empty((len(texts), self.embedding_width), dtype=np.float32)
        for length, rows in rows_by_length(lengths):
            features[rows] = map_batches(
                lambda tokens_BL: self._text_tower(tokens_BL.to(self._device)),
                tokens_ML[rows, :length],
                device=self._device,
                batch_size=self.batch_size,
                width=self.embedding_width,
            )
        return features

    def _measure_width(self) -> int:
        tokens = torch.from_numpy(self._tokenizer(["a photo"]).numpy()).to(self._device)
        with torch.inference_mode():
            return int(self._model.encode_text(tokens).shape[1])


class _EncodeText(nn.Module):
    """`model.encode_text` as a forward, so that `functional_call` can reach it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens_BL: torch.Tensor) -> torch.Tensor:
        return self.model.encode_text(tokens_BL)


class CutTextTower:
    """open_clip's `encode_text` on tokens cut to the length they use, where that changes nothing.

    A causal tower that is read at the end token never looks at what follows it. open_clip's forward wants all
    positions, so the causal mask and the positional embedding are cut for the call. Towers that are not causal, or read
    elsewhere (SigLIP, CoCa, Hugging Face's), get all tokens.
    """

    def __init__(self, model: Any) -> None:
        self._encode = _EncodeText(model)
        if hasattr(model, "text"):  # CustomTextCLIP keeps the tower apart, CLIP is one itself
            tower, prefix, names = model.text, "model.text", ("pool_type", "eos_id")
        else:
            tower, prefix, names = model, "model", ("text_pool_type", "text_eos_id")
        pool_type, end_token = (getattr(tower, name, None) for name in names)
        self.can_cut = (
            isinstance(getattr(tower, "attn_mask", None), torch.Tensor)
            and pool_type in ("argmax", "eos")
            and getattr(tower, "cls_emb", None) is None
            and not getattr(tower, "use_pad_mask", False)
        )
        self._end_token = end_token if pool_type == "eos" else None
        self._mask_name, self._positions_name = f"{prefix}.attn_mask", f"{prefix}.positional_embedding"
        self._mask_LL: torch.Tensor | None = tower.attn_mask if self.can_cut else None
        self._positions_LD: torch.Tensor | None = tower.positional_embedding if self.can_cut else None

    def used_lengths(self, tokens_ML: np.ndarray) -> np.ndarray:
        """Tokens up to and with the one that the result is read at, for each text; all of them where nothing is cut."""
        if not self.can_cut:
            return np.full(len(tokens_ML), tokens_ML.shape[1])
        # CLIP's end token is the highest of its vocabulary, and argmax finds the first of several.
        ends = tokens_ML if self._end_token is None else tokens_ML == self._end_token
        return ends.argmax(axis=1) + 1

    def __call__(self, tokens_BL: torch.Tensor) -> torch.Tensor:
        """Features (B, D) before normalisation."""
        cut = {}
        if self._mask_LL is not None and self._positions_LD is not None:
            length = tokens_BL.shape[1]
            cut[self._mask_name] = self._mask_LL[:length, :length]
            cut[self._positions_name] = self._positions_LD[:length]
        return torch.func.functional_call(self._encode, cut, (tokens_BL,))


@dataclass(frozen=True)
class OpenClipPreprocess:
    """open_clip's own resize and crop, but for pictures that are many times as long as wide."""

    image_size: int
    _resize_and_crop: transforms.Compose
    _max_ratio: int

    def __call__(self, image: Image.Image) -> np.ndarray:
        return np.asarray(self._resize_and_crop(limit_aspect_ratio(image, self._max_ratio)))


def load_preprocess(config: OpenClipConfig) -> OpenClipPreprocess:
    """What `OpenClipEncoder.load(config).preprocess` would be, without the weights.

    Raises:
        InputError: there is no such model.
    """
    preprocessing = None
    if not config.brings_weights and config.checkpoint_path() is None:
        preprocessing = tag_preprocessing(config.model, config.pretrained)
    return split_transform(_without_weights(config, preprocessing))[0]


def _without_weights(config: OpenClipConfig, preprocessing: dict | None = None) -> Any:
    """The model on the device meta, which holds shapes and no numbers."""
    require_hub(config.model)
    try:
        with torch.device("meta"):
            return open_clip.create_model(
                config.model, load_weights=False, device="meta", force_preprocess_cfg=preprocessing
            )
    except _LOAD_ERRORS as error:
        raise InputError(_explain(config, None, error)) from error


def encoder_work(config: OpenClipConfig) -> EncoderWork:
    """What `OpenClipEncoder` does, counted without weights.

    Raises:
        InputError: there is no such model, or its description is neither here nor to be had.
    """
    model = _without_weights(config).eval().requires_grad_(False)
    size = _square_size(model.visual.image_size)
    tower = CutTextTower(model)
    length = _TOKENS_PER_PROMPT if tower.can_cut else model.context_length
    prompt = count_work(tower, length, dtype=torch.int64)
    num_bytes = 4.0 * sum(weight.numel() for weight in model.parameters())
    return EncoderWork(
        image=count_work(model.encode_image, 3, size, size),
        noun=prompt * len(NOUN_TEMPLATES),
        loading=Work(moved_bytes=_PASSES_TO_LOAD * num_bytes),
        num_bytes=num_bytes,
    )


def split_transform(model: Any) -> tuple[OpenClipPreprocess, transforms.Normalize]:
    """open_clip's transform for this model: what happens to the picture, and the normalisation at its end."""
    config = PreprocessCfg(**model.visual.preprocess_cfg)
    *on_picture, to_tensor, normalization = image_transform_v2(config, is_train=False).transforms
    assert isinstance(to_tensor, transforms.ToTensor), to_tensor
    assert isinstance(normalization, transforms.Normalize), normalization
    max_ratio = max_aspect_ratio(crops=config.resize_mode == "shortest")
    size = _square_size(model.visual.image_size)
    return OpenClipPreprocess(size, transforms.Compose(on_picture), max_ratio), normalization


def _square_size(size: int | Sequence[int]) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise InputError(f"encoder.model takes pictures of {tuple(sides)} pixels; only square models are supported")
    return sides.pop()


def _retrieval_temperature(model: Any) -> float:
    """Half the temperature that the model was trained to, which is TAC's and DXMC's 0.005 for OpenAI's CLIP.

    Other models learned other scales; from 0.005 to 0.05 is the range in which retrieval was found to work.
    """
    learned = math.exp(-float(model.logit_scale.detach().flatten()[0]))
    return round(min(max(learned / 2, 0.005), 0.05), 6)


def _weights_of(config: OpenClipConfig) -> tuple[Path | None, dict | None]:
    """The checkpoint file to load and the preprocessing that belongs to it; None where open_clip knows by itself."""
    if config.brings_weights:
        require_hub(config.model, weights=True)
        return None, None
    path = config.checkpoint_path()
    return fetch_tag(config.model, config.pretrained) if path is None else (path, None)


@contextmanager
def _readable_checkpoint(path: Path | None) -> Iterator[str | None]:
    """A checkpoint that torch.load reads with weights_only: OpenAI's own files are TorchScript, and are unpacked."""
    if path is None or not _is_torchscript(path):
        yield None if path is None else str(path)
        return
    weights = torch.jit.load(path, map_location="cpu").state_dict()
    tensors = {name: tensor for name, tensor in weights.items() if name not in _TORCHSCRIPT_EXTRAS}
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "weights.pt"
        torch.save(tensors, plain)
        yield str(plain)


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _explain(config: OpenClipConfig, path: Path | None, error: Exception) -> str:
    source = config.model if path is None else f"{path} as {config.model}"
    if isinstance(error, pickle.PickleError):  # torch's own message tells how to load unsafe files
        said = "it is no checkpoint, or one that holds more than tensors"
    else:
        said = on_one_line(error)
    said = said if len(said) <= _MAX_SAID else f"{said[:_MAX_SAID]}..."
    return f"encoder: cannot load {source}: {said}; check encoder.model and encoder.pretrained"
