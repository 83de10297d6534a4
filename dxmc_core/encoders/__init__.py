"""Encoders: pictures and words to unit vectors of one space. Which one is used is one line of the configuration.

`open_clip` is for real work; `timm` sees and does not read, for a further view of the images; `offline` needs no
network and no GPU. The models themselves are imported when one is loaded, so that reading a configuration does not
wait for PyTorch.
"""

from typing import Annotated

from pydantic import Field

from dxmc_core.encoders.embedded import EmbeddedConfig
from dxmc_core.encoders.offline import OfflineConfig
from dxmc_core.encoders.open_clip import OpenClipConfig
from dxmc_core.encoders.protocol import Encoder, Preprocess
from dxmc_core.encoders.timm import TimmConfig
from dxmc_core.runtime.allocator import reuse_freed_memory

__all__ = [
    "EmbeddedConfig",
    "Encoder",
    "EncoderConfig",
    "FurtherEncoderConfig",
    "OfflineConfig",
    "OpenClipConfig",
    "Preprocess",
    "TimmConfig",
    "load_encoder",
]

_AnyEncoder = OpenClipConfig | TimmConfig | OfflineConfig
EncoderConfig = Annotated[_AnyEncoder, Field(discriminator="kind")]
#: What may stand beside the first encoder.
FurtherEncoderConfig = Annotated[_AnyEncoder | EmbeddedConfig, Field(discriminator="kind")]


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
        from dxmc_core.runtime.cpu_products import prefer_onednn

        reuse_freed_memory()
        prefer_onednn()
    batch_size = batch_size or (32 if device == "cpu" else 256)
    return config.load(device=device, batch_size=batch_size)
