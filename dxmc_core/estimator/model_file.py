"""A fitted estimator as one safetensors file: arrays as tensors, everything else as JSON. Nothing is unpickled."""

import json
import os
import struct
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from dxmc_core.method.clusters.suggest_k import KChoice, KScores, KSuggestion
from dxmc_core.method.heads import build_heads
from dxmc_core.method.training import EpochReport

if TYPE_CHECKING:
    from dxmc_core.estimator.dxmc import DXMC

_FORMAT = 1
#: How the metadata begin in every file of ours.
_MARK = b'"__metadata__":{"dxmc":'
_ARRAYS = ("labels_", "inlier_labels_", "cluster_centers_", "noun_ids_", "noun_embeddings_")
_VALUES = ("n_clusters_", "clusters_", "cluster_names_", "stability_", "n_features_in_")
_HEADS = "heads_."


def write_model(path: str | os.PathLike, model: "DXMC") -> None:
    """Write a fitted estimator; an earlier one is replaced.

    Raises:
        FileExistsError: another file is there.
    """
    tensors = {f"{_HEADS}{name}": tensor.contiguous() for name, tensor in model.heads_.state_dict().items()}
    arrays = {name: getattr(model, name) for name in _ARRAYS}
    tensors |= {
        name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items() if array is not None
    }
    parameters = model.get_params(deep=False)
    if not isinstance(parameters["random_state"], int | np.integer):
        parameters["random_state"] = None
    document = {
        "format": _FORMAT,
        "parameters": parameters,
        "architecture": model.heads_.architecture(),
        "reports": [asdict(report) for report in model.reports_],
        "k_choice": None if model.k_choice_ is None else asdict(model.k_choice_),
        "encoder_widths": list(model.encoder_widths_),
        "feature_names": list(getattr(model, "feature_names_in_", ())),
        **{name: getattr(model, name) for name in _VALUES},
    }
    write_whole(path, save(tensors, metadata={"dxmc": json.dumps(document, default=_as_json)}), mark=_MARK)


def read_model(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters of an estimator and the attributes that were fitted.

    Raises:
        ValueError: the file is not what `write_model` of this version writes.
    """
    data = Path(path).read_bytes()
    try:
        (length,) = struct.unpack("<Q", data[:8])
        document = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["dxmc"])
        if document["format"] != _FORMAT:
            raise ValueError(f"format {document['format']}, expected {_FORMAT}")
        tensors = load(data)
        heads = build_heads(document["architecture"])
        heads.load_state_dict(
            {name.removeprefix(_HEADS): tensor for name, tensor in tensors.items() if name.startswith(_HEADS)}
        )
        fitted: dict[str, Any] = {name: tensors[name].numpy() if name in tensors else None for name in _ARRAYS}
        fitted |= {name: document[name] for name in _VALUES}
        fitted |= {
            "heads_": heads.eval(),
            "reports_": [EpochReport(**report) for report in document["reports"]],
            "k_choice_": _k_choice(document["k_choice"]),
            "encoder_widths_": tuple(document.get("encoder_widths", ())),
        }
        if document["feature_names"]:
            fitted["feature_names_in_"] = np.array(document["feature_names"], dtype=object)
        return document["parameters"], fitted
    except (struct.error, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{path} is not a file that DXMC.save of this version wrote: {error}") from error


def write_whole(path: str | os.PathLike, data: bytes, *, mark: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part of it.

    Args:
        mark: bytes that every such file has: what is there without them is not dxmc's, and is not replaced.

    Raises:
        FileExistsError: another file is there.
    """
    place = Path(os.path.realpath(path))  # a link stays
    if place.is_file() and mark not in place.read_bytes():
        raise FileExistsError(f"{path} is there already, and dxmc did not write it; name another file, or move it away")
    beside = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
    try:
        beside.write_bytes(data)
        beside.replace(place)
    finally:
        beside.unlink(missing_ok=True)


def _k_choice(stored: Mapping[str, Any] | None) -> KChoice | None:
    if stored is None:
        return None
    scores = [KScores(**score) for score in stored["scores"]]
    return KChoice(scores, [KSuggestion(**suggestion) for suggestion in stored["suggestions"]], stored["num_rows"])


def _as_json(value: Any) -> Any:
    """NumPy's numbers, and mappings that are no dict, as plain values."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"expected parameters that JSON can hold, found {value!r}")
