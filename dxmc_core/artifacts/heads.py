"""Trained heads as one safetensors file: weights, and the description they are rebuilt from. Nothing is unpickled."""

import json
import struct
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load, save

from dxmc_core.errors import ArtifactError
from dxmc_core.method.heads import Heads, build_heads

if TYPE_CHECKING:  # a file of heads is read without Arrow, see docs/PYTHON.md
    from dxmc_core.artifacts.stage_dir import StageDir

HEADS_NAME = "heads.safetensors"


def serialize_heads(heads: Heads) -> bytes:
    """Weights with the description that `deserialize_heads` rebuilds them from, as one safetensors file."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in heads.state_dict().items()}
    return save(tensors, metadata={"architecture": json.dumps(heads.architecture())})


def deserialize_heads(data: bytes, *, where: str = "heads.safetensors") -> Heads:
    """Heads in evaluation mode on the CPU.

    Raises:
        ArtifactError: the file is not what `serialize_heads` writes.
    """
    try:
        (length,) = struct.unpack("<Q", data[:8])
        architecture = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["architecture"])
        heads = build_heads(architecture)
        heads.load_state_dict(load(data))
    except (struct.error, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise ArtifactError(
            f"{where} does not hold heads of this version: {error}; delete _manifest.json beside it to rebuild "
            "train_heads"
        ) from error
    return heads.eval()


def load_heads(stage_dir: "StageDir") -> Heads:
    """The published heads of a run."""
    return deserialize_heads(stage_dir.read_file(HEADS_NAME), where=f"{stage_dir.storage.uri}/{HEADS_NAME}")
