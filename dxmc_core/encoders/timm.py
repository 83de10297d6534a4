"""Configuration and identity of the timm encoder; the model is in timm_model.py.

timm has image towers of all kinds, self-supervised ones such as DINOv2 among them, and none for text.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from dxmc_core.encoders.checkpoints import file_identity
from dxmc_core.encoders.settings import EncoderSettings, Precision
from dxmc_core.errors import InputError


class TimmConfig(EncoderSettings):
    """An image tower through timm, with its own transforms and without its classifier. It has no text tower."""

    kind: Literal["timm"]
    model: str
    """A name of `timm.list_models(pretrained=True)`, such as vit_base_patch14_dinov2.lvd142m."""
    pretrained: str | None = None
    """The path of a checkpoint file (.safetensors, or tensors that torch.load reads with weights_only) of this model;
    by default its weights are downloaded from the hub, once."""
    image_size: int | None = Field(None, ge=32)
    """Pixels of the squares that the model sees; by default its own. DINOv2's 518 take six times as long as 224."""
    precision: Precision = "auto"
    """auto: float16 on a GPU, float32 on the CPU."""


def checkpoint_path(config: TimmConfig) -> Path | None:
    """The local checkpoint, None where the weights are the hub's.

    Raises:
        InputError: there is no such file.
    """
    if config.pretrained is None:
        return None
    path = Path(config.pretrained).expanduser()
    if not path.is_file():
        raise InputError(
            f"encoder.pretrained: there is no file {path}; expected a checkpoint file of {config.model}, or null for "
            "the weights of the hub"
        )
    return path.absolute()


def identity(config: TimmConfig) -> dict:
    """Model, weights, size and precision. A local checkpoint counts by its content, so it may be moved and renamed."""
    path = checkpoint_path(config)
    return {
        "kind": config.kind,
        "model": config.model,
        "pretrained": None if path is None else file_identity(path),
        "image_size": config.image_size,
        "precision": config.precision,
    }


def local_files(config: TimmConfig) -> list[tuple[str, Path]]:
    """The local file that the encoder is loaded from, with the key of the configuration that names it."""
    path = checkpoint_path(config)
    return [] if path is None else [("encoder.pretrained", path)]
