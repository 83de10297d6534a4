"""The timm encoder: an image tower as timm builds it, with timm's own transforms; features, not classes.

Weights come from a file: one that the configuration names, or the hub's, which is asked for it only when it is not
cached. Pixels travel as bytes and are normalised on the device, which gives timm's results.
"""

import difflib
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import timm
import torch
from huggingface_hub import constants
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torchvision import transforms

from dxmc_core.encoders import hub
from dxmc_core.encoders.aspect_ratio import limit_aspect_ratio, max_aspect_ratio
from dxmc_core.encoders.batching import map_batches, normalize_rows
from dxmc_core.encoders.timm import TimmConfig
from dxmc_core.encoders.work import count_work
from dxmc_core.errors import InputError, on_one_line
from dxmc_core.method.preparation import CLIP_RETRIEVAL_TEMPERATURE
from dxmc_core.method.work import Work
from dxmc_core.workload import EncoderWork

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
#: What reading a file that is no checkpoint, or another model's, has been seen to raise.
_LOAD_ERRORS = (AssertionError, AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError)
_WAY_OUT = "give the path of a checkpoint file in encoder.pretrained"
#: Reading weights and making a model of them passes over them so often.
_PASSES_TO_LOAD = 20
_MAX_SAID = 200


class TimmEncoder:
    """See the module; the protocol is `dxmc_core.encoders.Encoder`, but for texts, which no timm model reads."""

    #: For nouns that come as embeddings.
    retrieval_temperature = CLIP_RETRIEVAL_TEMPERATURE

    def __init__(self, model: Any, name: str, *, image_size: int | None, device: str, batch_size: int) -> None:
        """Wrap a timm model without its classifier that is on its device, in evaluation mode."""
        self._model = model
        self._name = name
        self._device = device
        self._dtype = next(model.parameters()).dtype
        self.batch_size = batch_size
        self.preprocess, normalization = _split_transform(model, image_size)
        self._mean_1_3_1_1 = normalization.mean.to(device).view(1, 3, 1, 1)
        self._std_1_3_1_1 = normalization.std.to(device).view(1, 3, 1, 1)
        self.image_size = self.preprocess.image_size
        self.embedding_width = _measure_width(model, self.image_size, device, self._dtype)

    @classmethod
    def load(cls, config: TimmConfig, *, device: str, batch_size: int) -> "TimmEncoder":
        """Build the model and load its weights.

        Raises:
            InputError: the weights cannot be had, or are not this model's; one line that says what to do.
        """
        precision = config.precision
        if precision == "auto":
            precision = "float32" if torch.device(device).type == "cpu" else "float16"
        _require_model(config.model)
        path = config.checkpoint_path() or _fetch(config)
        try:
            # All of its weights, the classifier's included, have to fit: timm is strict only then.
            model: Any = timm.create_model(
                config.model,
                pretrained=True,
                pretrained_cfg_overlay={"file": str(path)},
                **_size_arguments(config),
            )
        except (*_LOAD_ERRORS, pickle.PickleError) as error:
            raise InputError(_explain(config, path, error)) from error
        model.reset_classifier(0)
        model = model.eval().requires_grad_(False).to(device, _DTYPES[precision])
        model = model.to(memory_format=torch.channels_last)
        return cls(model, config.model, image_size=config.image_size, device=device, batch_size=batch_size)

    def encode_images(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels uint8 (B, H, W, 3) to unit vectors float32 (B, D)."""
        vectors = map_batches(
            self._forward, pixels, device=self._device, batch_size=self.batch_size, width=self.embedding_width
        )
        return normalize_rows(vectors)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Raises InputError, as there is no text tower."""
        raise self._without_text()

    def encode_nouns(self, nouns: Sequence[str]) -> np.ndarray:
        """Raises InputError, as there is no text tower."""
        raise self._without_text()

    def _without_text(self) -> InputError:
        return InputError(
            f"encoder.kind=timm: {self._name} reads no text; ask with an image, or take an encoder with a text tower, "
            "such as one of kind open_clip"
        )

    def _forward(self, pixels_BHW3: torch.Tensor) -> torch.Tensor:
        x_B3HW = pixels_BHW3.to(self._device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)
        x_B3HW = x_B3HW.sub_(self._mean_1_3_1_1).div_(self._std_1_3_1_1)
        return self._model(x_B3HW.to(self._dtype).contiguous(memory_format=torch.channels_last))


@dataclass(frozen=True)
class TimmPreprocess:
    """timm's own resize and crop, but for pictures that are many times as long as wide."""

    image_size: int
    _resize_and_crop: transforms.Compose
    _max_ratio: int

    def __call__(self, image: Image.Image) -> np.ndarray:
        image = limit_aspect_ratio(image.convert("RGB"), self._max_ratio)
        return np.asarray(self._resize_and_crop(image))


def load_preprocess(config: TimmConfig) -> TimmPreprocess:
    """What `TimmEncoder.load(config).preprocess` would be, without the weights.

    Raises:
        InputError: there is no such model.
    """
    return _split_transform(_without_weights(config), config.image_size)[0]


def embedding_width(config: TimmConfig) -> int:
    """D, by the model without its weights.

    Raises:
        InputError: there is no such model.
    """
    model = _without_weights(config)
    return _measure_width(model, _split_transform(model, config.image_size)[0].image_size, "meta", torch.float32)


def encoder_work(config: TimmConfig) -> EncoderWork:
    """What `TimmEncoder` does, counted without weights.

    Raises:
        InputError: there is no such model.
    """
    model = _without_weights(config)
    size = _split_transform(model, config.image_size)[0].image_size
    num_bytes = 4.0 * sum(weight.numel() for weight in model.parameters())
    return EncoderWork(
        image=count_work(model, 3, size, size),
        loading=Work(moved_bytes=_PASSES_TO_LOAD * num_bytes),
        num_bytes=num_bytes,
    )


def require_weights(config: TimmConfig) -> None:
    """Check that the weights are on this machine or that who has them answers; nothing is loaded or downloaded.

    Raises:
        InputError: there is no such model, or its weights cannot be had.
    """
    _require_model(config.model)
    if config.checkpoint_path() is None:
        repository, names = _place_on_hub(config)
        if hub.cached_on_hub(repository, names) is None:
            _require_answer(config)
            hub.announce_download(config.model)


def _fetch(config: TimmConfig) -> Path:
    """The file of the hub's weights, downloaded if it is not cached."""
    repository, names = _place_on_hub(config)
    cached = hub.cached_on_hub(repository, names)
    if cached is not None:
        return cached
    _require_answer(config)
    missing: Exception | None = None
    for name in names:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, name))
        except huggingface_hub.errors.EntryNotFoundError as error:
            missing = error
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(_not_downloaded(config, error)) from error
    raise InputError(_not_downloaded(config, missing)) from missing


def _not_downloaded(config: TimmConfig, error: Exception | None) -> str:
    said = "it has none" if error is None else on_one_line(error)[:_MAX_SAID]
    return f"encoder: cannot download the weights of {config.model}: {said}; {_WAY_OUT}"


def _place_on_hub(config: TimmConfig) -> tuple[str, list[str]]:
    """The repository that has the weights and the names they may have there, safetensors before pickles."""
    known = timm.get_pretrained_cfg(config.model)
    if known is None or not known.hf_hub_id:
        tags = ", ".join(timm.list_pretrained(f"{config.model.split('.')[0]}.*")) or "none"
        raise InputError(f"encoder.model: no weights of {config.model} on the hub; with weights: {tags}; or {_WAY_OUT}")
    name = known.hf_hub_filename or "pytorch_model.bin"
    usual = {"pytorch_model.bin": "model.safetensors", "open_clip_pytorch_model.bin": "open_clip_model.safetensors"}
    safe = usual.get(name, str(Path(name).with_suffix(".safetensors")))
    return known.hf_hub_id, list(dict.fromkeys([safe, name]))


def _require_answer(config: TimmConfig) -> None:
    if constants.HF_HUB_OFFLINE or not hub.answers(constants.ENDPOINT):
        raise InputError(
            f"encoder: no network to download the weights of {config.model} from {constants.ENDPOINT}; {_WAY_OUT}"
        )


def _require_model(name: str) -> None:
    """Raises InputError when timm does not know the model, or its weights by this tag."""
    known = timm.list_pretrained()
    if name in known or name in timm.list_models():
        return
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or ["vit_base_patch14_dinov2.lvd142m"]
    raise InputError(f"encoder.model: timm has no model {name!r}; names like it: {', '.join(close)}")


def _without_weights(config: TimmConfig) -> Any:
    """The model without its classifier on the device meta, which holds shapes and no numbers."""
    _require_model(config.model)
    try:
        with torch.device("meta"):
            model: Any = timm.create_model(config.model, **_size_arguments(config))
    except _LOAD_ERRORS as error:
        raise InputError(_explain(config, None, error)) from error
    model.reset_classifier(0)
    return model.eval().requires_grad_(False)


def _size_arguments(config: TimmConfig) -> dict[str, Any]:
    """What `timm.create_model` has to know of a size that is not the model's own; others take any."""
    known = timm.get_pretrained_cfg(config.model)
    is_fixed = known is not None and known.fixed_input_size
    return {"img_size": config.image_size} if is_fixed and config.image_size is not None else {}


def _split_transform(model: Any, image_size: int | None) -> tuple[TimmPreprocess, transforms.Normalize]:
    """timm's transform for this model: what happens to the picture, and the normalisation at its end."""
    arguments = {} if image_size is None else {"input_size": (3, image_size, image_size)}
    known = resolve_model_data_config(model, arguments)
    channels, height, width = known["input_size"]
    if channels != 3 or height != width:
        raise InputError(f"encoder.model takes pictures of {known['input_size']}; only squares in color are supported")
    *on_picture, to_tensor, normalization = create_transform(**known, is_training=False).transforms
    assert type(to_tensor).__name__ == "MaybeToTensor", to_tensor
    assert isinstance(normalization, transforms.Normalize), normalization
    max_ratio = max_aspect_ratio(crops=known["crop_mode"] == "center")
    return TimmPreprocess(height, transforms.Compose(on_picture), max_ratio), normalization


def _measure_width(model: Any, image_size: int, device: str, dtype: torch.dtype) -> int:
    with torch.inference_mode():
        features = model(torch.zeros(1, 3, image_size, image_size, device=device, dtype=dtype))
    return int(features.shape[1])


def _explain(config: TimmConfig, path: Path | None, error: Exception) -> str:
    source = config.model if path is None else f"{path} as {config.model}"
    if any(isinstance(cause, pickle.PickleError) for cause in (error, error.__cause__, error.__context__)):
        # The libraries' own messages tell how to load unsafe files.
        said = "it is no checkpoint, or one that holds more than tensors"
    else:
        said = on_one_line(error)
    said = said if len(said) <= _MAX_SAID else f"{said[:_MAX_SAID]}..."
    return f"encoder: cannot load {source}: {said}; check encoder.model, encoder.pretrained and encoder.image_size"
