"""Encoders: pictures and words to unit vectors of one space. Which one is used is one line of the configuration.

`open_clip` is for real work; `offline` needs no network and no GPU. The models themselves are imported when one is
loaded, so that reading a configuration does not wait for PyTorch.
"""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from dxmc_core.allocator import reuse_freed_memory
from dxmc_core.encoders import offline, open_clip
from dxmc_core.encoders.offline import OfflineConfig
from dxmc_core.encoders.open_clip import OpenClipConfig
from dxmc_core.encoders.protocol import Encoder, Preprocess

if TYPE_CHECKING:
    from dxmc_core.workload import EncoderWork

__all__ = [
    "Encoder",
    "EncoderConfig",
    "OfflineConfig",
    "OpenClipConfig",
    "Preprocess",
    "embedding_width",
    "encoder_identity",
    "encoder_work",
    "load_encoder",
    "load_preprocess",
    "require_weights",
]

EncoderConfig = Annotated[OpenClipConfig | OfflineConfig, Field(discriminator="kind")]


def load_encoder(
    config: OpenClipConfig | OfflineConfig,
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
    from dxmc_core.encoders.open_clip_model import OpenClipEncoder

    return OpenClipEncoder.load(config, device=device, batch_size=batch_size)


def require_weights(config: OpenClipConfig | OfflineConfig) -> None:
    """Check that the weights are on this machine or can be downloaded, without loading or downloading them.

    Raises:
        InputError: they cannot be had; the message says what to do.
    """
    if isinstance(config, OfflineConfig):
        offline.require_packages()
        return
    from dxmc_core.encoders import open_clip_weights

    open_clip_weights.require_weights(config)


def load_preprocess(config: OpenClipConfig | OfflineConfig) -> Preprocess:
    """How an encoder resizes pictures, without its weights: for processes that only decode.

    Raises:
        InputError: there is no such model.
    """
    if isinstance(config, OfflineConfig):
        offline.require_packages()
        from dxmc_core.encoders.offline_model import OfflinePreprocess

        return OfflinePreprocess()
    from dxmc_core.encoders import open_clip_model

    return open_clip_model.load_preprocess(config)


def encoder_identity(config: OpenClipConfig | OfflineConfig) -> dict:
    """What a fingerprint must know of an encoder, JSON-able; loads no model.

    Raises:
        InputError: `pretrained` names a file that is not there.
    """
    return offline.identity() if isinstance(config, OfflineConfig) else open_clip.identity(config)


def embedding_width(config: OpenClipConfig | OfflineConfig) -> int | None:
    """The number of columns D of the embeddings; None when only loading the model would tell."""
    return offline.EMBEDDING_WIDTH if isinstance(config, OfflineConfig) else open_clip.width(config)


def encoder_work(config: OpenClipConfig | OfflineConfig) -> "EncoderWork":
    """What the encoder does for an image and for a noun, counted on the model without its weights.

    Raises:
        InputError: there is no such model, or its description is neither here nor to be had.
    """
    if isinstance(config, OfflineConfig):
        from dxmc_core.encoders import offline_model

        return offline_model.encoder_work()
    from dxmc_core.encoders import open_clip_model

    return open_clip_model.encoder_work(config)
