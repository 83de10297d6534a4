"""Configuration and identity of the open_clip encoder; the model is in open_clip_model.py."""

import difflib
import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import field_validator

from dxmc_core.encoders.checkpoints import CHECKPOINT_SUFFIXES, file_identity
from dxmc_core.encoders.settings import EncoderSettings, Precision
from dxmc_core.errors import InputError

if TYPE_CHECKING:
    from dxmc_core.encoders.protocol import Encoder, Preprocess
    from dxmc_core.workload import EncoderWork

#: Prefixes of `model` that bring their own weights; `pretrained` has no meaning beside them.
_SCHEMES = ("hf-hub:", "local-dir:")


class OpenClipConfig(EncoderSettings):
    """CLIP and its relatives through open_clip."""

    kind: Literal["open_clip"] = "open_clip"
    model: str = "ViT-B-32-quickgelu"
    """A model of `open_clip.list_models()`, or hf-hub:ORGANISATION/MODEL, or local-dir:/folder."""
    pretrained: str = "openai"
    """A tag of `open_clip.list_pretrained()`, downloaded once, or the path of a checkpoint file."""
    precision: Precision = "auto"
    """auto: float16 on a GPU, float32 on the CPU."""
    compile: bool = False
    """Let torch.compile make kernels for the image tower when it is loaded: minutes, worth it for millions of images.
    Embeddings change in their last bits only, so it is part of no fingerprint."""

    @field_validator("model")
    @classmethod
    def _check_model(cls, model: str) -> str:
        names = model_names()
        if model.startswith(_SCHEMES) or model.replace("/", "-") in names:
            return model
        close = difflib.get_close_matches(model, names, n=3, cutoff=0.4) or ["ViT-B-32-quickgelu"]
        raise ValueError(f"open_clip has no model {model!r}; names like it: {', '.join(close)}")

    @property
    def title(self) -> str:
        return self.model if self.brings_weights else f"{self.model} ({self.pretrained})"

    @property
    def brings_weights(self) -> bool:
        """True when the model's name says where its weights are, and `pretrained` is not looked at."""
        return self.model.startswith(_SCHEMES)

    def checkpoint_path(self) -> Path | None:
        """The local checkpoint that `pretrained` names, None when it is a tag.

        Raises:
            InputError: it looks like a path, and there is no such file.
        """
        path = Path(self.pretrained).expanduser()
        if path.is_file():
            return path.absolute()
        if "/" in self.pretrained or path.suffix in CHECKPOINT_SUFFIXES:
            raise InputError(
                f"encoder.pretrained: there is no file {path}; expected a checkpoint file or a pretrained tag"
            )
        return None

    def identity(self) -> dict:
        """Model, weights and precision. A local checkpoint counts by its content, so it may be moved and renamed."""
        known = {"kind": self.kind, "model": self.model, "precision": self.precision}
        if self.model.startswith("local-dir:"):
            files = self._files_of_folder()
            return {**known, "model": "local-dir", "files": {path.name: file_identity(path) for path in files}}
        if self.brings_weights:
            return known
        path = self.checkpoint_path()
        return {**known, "pretrained": self.pretrained if path is None else file_identity(path)}

    def local_files(self) -> list[tuple[str, Path]]:
        if self.model.startswith("local-dir:"):
            return [("encoder.model", path.absolute()) for path in self._files_of_folder()]
        path = None if self.brings_weights else self.checkpoint_path()
        return [] if path is None else [("encoder.pretrained", path)]

    def _files_of_folder(self) -> list[Path]:
        folder = Path(self.model.removeprefix("local-dir:")).expanduser()
        files = sorted(path for path in folder.glob("*") if path.suffix in CHECKPOINT_SUFFIXES | {".json"})
        if not files:
            raise InputError(f"encoder.model: {folder} holds neither open_clip_config.json nor weights")
        return files

    def width(self) -> int | None:
        """D as open_clip's description of the model has it; None for a model on the hub, which is not asked."""
        if self.model.startswith("hf-hub:"):
            return None
        if self.model.startswith("local-dir:"):
            path = Path(self.model.removeprefix("local-dir:")).expanduser() / "open_clip_config.json"
        else:
            path = _model_configs_dir() / f"{self.model.replace('/', '-')}.json"
        try:
            description = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"encoder.model: cannot read the model's description: {error}") from error
        return int(description.get("model_cfg", description)["embed_dim"])

    def load(self, *, device: str, batch_size: int) -> "Encoder":
        from dxmc_core.encoders.open_clip_model import OpenClipEncoder

        return OpenClipEncoder.load(self, device=device, batch_size=batch_size)

    def load_preprocess(self) -> "Preprocess":
        from dxmc_core.encoders import open_clip_model

        return open_clip_model.load_preprocess(self)

    def require_weights(self) -> None:
        from dxmc_core.encoders import open_clip_weights

        open_clip_weights.require_weights(self)

    def work(self) -> "EncoderWork":
        from dxmc_core.encoders import open_clip_model

        return open_clip_model.encoder_work(self)


@cache
def model_names() -> list[str]:
    """The models open_clip can build, read from its files: importing it would take seconds."""
    return sorted(path.stem for path in _model_configs_dir().glob("*.json"))


def _model_configs_dir() -> Path:
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise InputError("encoder.kind=open_clip needs the package open_clip_torch: pip install open_clip_torch")
    return Path(spec.origin).parent / "model_configs"
