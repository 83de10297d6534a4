"""What `best` starts from, as one safetensors file: the discriminant, its labels, and the evidence beside them."""

import json
import struct

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from dxmc_core.errors import ArtifactError
from dxmc_core.method.best.best_start import BestStart
from dxmc_core.method.best.discriminant import Discriminant
from dxmc_core.method.best.whitening import WhiteningMap

START_NAME = "start.safetensors"
_EVIDENCE = ("num_looks", "is_settled", "num_rows", "num_copies", "text_agreement", "text_weight", "size_exponent")
#: One number for each further encoder, where there are some.
_OF_ENCODERS = ("encoder_agreements", "encoder_weights")


def serialize_start(start: BestStart) -> bytes:
    """The file that `deserialize_start` reads."""
    found = start.discriminant
    arrays = {
        "mean": found.whitening.mean,
        "matrix": found.whitening.matrix,
        "centers": found.centers,
        "labels": found.labels,
        "cluster_shares": start.cluster_shares,
    }
    tensors = {name: torch.from_numpy(array).contiguous() for name, array in arrays.items()}
    return save(tensors, metadata={"evidence": json.dumps(evidence_of(start))})


def evidence_of(start: BestStart) -> dict:
    """What the choices of a start rest on, as JSON types."""
    agreements = {str(exponent): agreement for exponent, agreement in start.agreements.items()}
    evidence = {name: getattr(start, name) for name in _EVIDENCE} | {"agreements": agreements}
    if start.encoder_weights:
        evidence |= {name: list(getattr(start, name)) for name in _OF_ENCODERS}
    return evidence


def deserialize_start(data: bytes, *, where: str) -> BestStart:
    """The start that `serialize_start` wrote.

    Raises:
        ArtifactError: the file is damaged or of another version.
    """
    try:
        (length,) = struct.unpack("<Q", data[:8])
        evidence = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["evidence"])
        tensors = {name: tensor.numpy() for name, tensor in load(data).items()}
        agreements = {float(exponent): agreement for exponent, agreement in evidence.pop("agreements").items()}
        evidence |= {name: tuple(evidence[name]) for name in _OF_ENCODERS if name in evidence}
        whitening = WhiteningMap(tensors["mean"], tensors["matrix"])
        discriminant = Discriminant(whitening, tensors["centers"], tensors["labels"])
        return BestStart(discriminant, tensors["cluster_shares"], agreements=agreements, **evidence)
    except (struct.error, AttributeError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise ArtifactError(f"{where} does not hold a start of this version: {error}") from error
