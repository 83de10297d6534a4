"""Configuration and identity of the timm encoder; the model is in timm_model.py.

timm has image towers of all kinds, self-supervised ones such as DINOv2 among them, and none for text.
"""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dxmc_core.encoders.checkpoints import file_identity
from dxmc_core.encoders.settings import EncoderSettings, Precision
from dxmc_core.errors import InputError

if TYPE_CHECKING:
    from dxmc_core.encoders.protocol import Encoder, Preprocess
    from dxmc_core.workload import EncoderWork


class TimmConfig(EncoderSettings):
    """An image tower through timm, with its own transforms and without its classifier. It has no text tower."""

    reads_text: ClassVar[bool] = False

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

    @property
    def title(self) -> str:
        return self.model if self.pretrained is None else f"{self.model} ({self.pretrained})"

    def checkpoint_path(self) -> Path | None:
        """The local checkpoint, None where the weights are the hub's.

        Raises:
            InputError: there is no such file.
        """
        if self.pretrained is None:
            return None
        path = Path(self.pretrained).expanduser()
        if not path.is_file():
            raise InputError(
                f"encoder.pretrained: there is no file {path}; expected a checkpoint file of {self.model}, or null for "
                "the weights of the hub"
            )
        return path.absolute()

    def identity(self) -> dict:
        """Model, weights, size and precision. A local checkpoint counts by its content: it may be moved and renamed."""
        path = self.checkpoint_path()
        return {
            "kind": self.kind,
            "model": self.model,
            "pretrained": None if path is None else file_identity(path),
            "image_size": self.image_size,
            "precision": self.precision,
        }

    def local_files(self) -> list[tuple[str, Path]]:
        path = self.checkpoint_path()
        return [] if path is None else [("encoder.pretrained", path)]

    def load(self, *, device: str, batch_size: int) -> "Encoder":
        from dxmc_core.encoders.timm_model import TimmEncoder

        return TimmEncoder.load(self, device=device, batch_size=batch_size)

    def load_preprocess(self) -> "Preprocess":
        from dxmc_core.encoders import timm_model

        return timm_model.load_preprocess(self)

    def require_weights(self) -> None:
        from dxmc_core.encoders import timm_model

        timm_model.require_weights(self)

    def width(self) -> int:
        from dxmc_core.encoders import timm_model

        return timm_model.embedding_width(self)

    def work(self) -> "EncoderWork":
        from dxmc_core.encoders import timm_model

        return timm_model.encoder_work(self)
