"""Encoders: pictures and words to unit vectors of one space. Which one is used is one line of the configuration.

`open_clip` is for real work; `timm` sees and does not read, for a further view of the images; `offline` needs no
network and no GPU. The models themselves are imported when one is loaded, so that reading a configuration does not
wait for PyTorch.
"""

import re
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from dxmc_core.allocator import reuse_freed_memory
from dxmc_core.encoders import embedded, offline, open_clip, timm
from dxmc_core.encoders.embedded import EmbeddedConfig
from dxmc_core.encoders.offline import OfflineConfig
from dxmc_core.encoders.open_clip import OpenClipConfig
from dxmc_core.encoders.protocol import Encoder, Preprocess
from dxmc_core.encoders.timm import TimmConfig

if TYPE_CHECKING:
    from pathlib import Path

    from dxmc_core.workload import EncoderWork

__all__ = [
    "EmbeddedConfig",
    "Encoder",
    "EncoderConfig",
    "FurtherEncoderConfig",
    "OfflineConfig",
    "OpenClipConfig",
    "Preprocess",
    "TimmConfig",
    "embedding_width",
    "encoder_identity",
    "encoder_name",
    "encoder_work",
    "load_encoder",
    "load_preprocess",
    "local_files",
    "reads_text",
    "require_weights",
]

EncoderConfig = Annotated[OpenClipConfig | TimmConfig | OfflineConfig, Field(discriminator="kind")]
#: What may stand beside the first encoder.
FurtherEncoderConfig = Annotated[
    OpenClipConfig | TimmConfig | OfflineConfig | EmbeddedConfig, Field(discriminator="kind")
]


def load_encoder(
    config: EncoderConfig,
    *,
    device: str | None = None,
    batch_size: int | None = None,
    num_threads: int | None = None,
) -> Encoder:
    """Load the weights and put them on a device. On the CPU this process keeps memory that is freed from now on,
    and oneDNN multiplies its float32 matrices (`prefer_onednn`).

    Args:
        device: a torch device such as "cuda:0"; by default the GPU if PyTorch sees one, else the CPU.
        batch_size: rows of one forward pass; by default 256 on a GPU, 32 on the CPU. Results do not depend on which
            rows share a batch; another batch size may change their last bits.
        num_threads: threads of PyTorch in this process; by default left as it is.

    Raises:
        InputError: the weights cannot be had or do not fit; the message says what to do.
    """
    import torch

    if num_threads is not None:
        torch.set_num_threads(num_threads)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cpu":
        from dxmc_core.cpu_products import prefer_onednn

        reuse_freed_memory()
        prefer_onednn()
    batch_size = batch_size or (32 if device == "cpu" else 256)
    if isinstance(config, OfflineConfig):
        offline.require_packages()
        from dxmc_core.encoders.offline_model import OfflineEncoder

        return OfflineEncoder.load(device=device, batch_size=batch_size)
    if isinstance(config, TimmConfig):
        from dxmc_core.encoders.timm_model import TimmEncoder

        return TimmEncoder.load(config, device=device, batch_size=batch_size)
    from dxmc_core.encoders.open_clip_model import OpenClipEncoder

    return OpenClipEncoder.load(config, device=device, batch_size=batch_size)


def require_weights(config: FurtherEncoderConfig) -> None:
    """Check that the weights, or a file of embeddings, are there or can be downloaded; nothing is loaded for it.

    Raises:
        InputError: they cannot be had; the message says what to do.
    """
    if isinstance(config, EmbeddedConfig):
        embedded.etag(config)
        return
    if isinstance(config, OfflineConfig):
        offline.require_packages()
        return
    if isinstance(config, TimmConfig):
        from dxmc_core.encoders import timm_model

        timm_model.require_weights(config)
        return
    from dxmc_core.encoders import open_clip_weights

    open_clip_weights.require_weights(config)


def load_preprocess(config: EncoderConfig) -> Preprocess:
    """How an encoder resizes pictures, without its weights: for processes that only decode.

    Raises:
        InputError: there is no such model.
    """
    if isinstance(config, OfflineConfig):
        offline.require_packages()
        from dxmc_core.encoders.offline_model import OfflinePreprocess

        return OfflinePreprocess()
    if isinstance(config, TimmConfig):
        from dxmc_core.encoders import timm_model

        return timm_model.load_preprocess(config)
    from dxmc_core.encoders import open_clip_model

    return open_clip_model.load_preprocess(config)


def encoder_identity(config: FurtherEncoderConfig) -> dict:
    """What a fingerprint must know of an encoder, JSON-able; loads no model.

    Raises:
        InputError: a file is not there that `pretrained` or `uri` names.
    """
    if isinstance(config, EmbeddedConfig):
        return {"kind": config.kind, "etag": embedded.etag(config)}
    if isinstance(config, OfflineConfig):
        return offline.identity()
    return timm.identity(config) if isinstance(config, TimmConfig) else open_clip.identity(config)


def local_files(config: FurtherEncoderConfig) -> list[tuple[str, "Path"]]:
    """The files of weights that workers read, each with the key of the configuration that names it.

    Raises:
        InputError: there are none where the configuration says so.
    """
    if isinstance(config, OfflineConfig | EmbeddedConfig):
        return []
    return timm.local_files(config) if isinstance(config, TimmConfig) else open_clip.local_files(config)


def encoder_name(config: FurtherEncoderConfig) -> str:
    """What an encoder is called beside others: its `name`, by default its kind and model, fit for a file's name."""
    if config.name is not None:
        return config.name
    model = "" if isinstance(config, OfflineConfig | EmbeddedConfig) else f"-{config.model}"
    return re.sub(r"[^a-z0-9._-]+", "-", f"{config.kind}{model}".lower())[:63]


def reads_text(config: EncoderConfig) -> bool:
    """Whether it has a text tower, which nouns and searches by words need."""
    return not isinstance(config, TimmConfig)


def embedding_width(config: EncoderConfig) -> int | None:
    """The number of columns D of the embeddings; None when only loading the model would tell."""
    if isinstance(config, OfflineConfig):
        return offline.EMBEDDING_WIDTH
    if isinstance(config, TimmConfig):
        from dxmc_core.encoders import timm_model

        return timm_model.embedding_width(config)
    return open_clip.width(config)


def encoder_work(config: FurtherEncoderConfig) -> "EncoderWork":
    """What the encoder does for an image and for a noun, counted on the model without its weights.

    Raises:
        InputError: there is no such model, or its description is neither here nor to be had.
    """
    if isinstance(config, EmbeddedConfig):
        from dxmc_core.workload import EncoderWork

        return EncoderWork()
    if isinstance(config, OfflineConfig):
        from dxmc_core.encoders import offline_model

        return offline_model.encoder_work()
    if isinstance(config, TimmConfig):
        from dxmc_core.encoders import timm_model

        return timm_model.encoder_work(config)
    from dxmc_core.encoders import open_clip_model

    return open_clip_model.encoder_work(config)
