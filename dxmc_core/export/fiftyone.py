"""A FiftyOne dataset, where FiftyOne is installed: image files in the folder, and a persistent dataset over them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dxmc_core.errors import InputError
from dxmc_core.export import huggingface
from dxmc_core.export.images import Export, ExportedImage

_SAMPLES_AT_A_TIME = 1000


def require_fiftyone(dataset_name: str) -> Any:
    """The package, if a dataset of that name can be made.

    Raises:
        InputError: it is not installed, or it has such a dataset already.
    """
    try:
        import fiftyone
    except ImportError as error:
        raise InputError("--format fiftyone needs the package fiftyone: pip install fiftyone") from error
    if fiftyone.dataset_exists(dataset_name):
        raise InputError(f"FiftyOne has a dataset {dataset_name!r} already; delete it or name another folder")
    return fiftyone


def write(export: Export, images: Iterator[ExportedImage], *, name: str) -> None:
    """Write image files and metadata; `load` makes samples of them when the folder is in its place."""
    huggingface.write(export, images, name=name)


def load(place: Path) -> None:
    """Make the dataset, named like the folder: `cluster` and, where known, `ground_truth` are classifications."""
    fiftyone = require_fiftyone(place.name)
    dataset = fiftyone.Dataset(place.name, persistent=True)
    waiting = []
    with (place / "train/metadata.jsonl").open(encoding="utf-8") as metadata:
        for line in metadata:
            waiting.append(_sample(fiftyone, place, json.loads(line)))
            if len(waiting) == _SAMPLES_AT_A_TIME:
                dataset.add_samples(waiting)
                waiting = []
    if waiting:
        dataset.add_samples(waiting)


def _sample(fiftyone: Any, place: Path, record: dict[str, Any]) -> Any:
    sample = fiftyone.Sample(filepath=str(place / "train" / record["file_name"]))
    sample["image_id"] = record["image_id"]
    sample["cluster_id"] = record["cluster_id"]
    sample["cluster"] = fiftyone.Classification(label=record["cluster"], confidence=record["confidence"])
    sample["outlier_score"] = record["outlier_score"]
    if record["label"] is not None:
        sample["ground_truth"] = fiftyone.Classification(label=record["label"])
    return sample
