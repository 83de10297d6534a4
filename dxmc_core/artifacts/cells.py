"""The cells that mine_neighbors groups rows into, in its folder while it runs."""

import io

import numpy as np

from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.method.neighbors.inverted_file import Cells


def save_cells(output: StageDir, modality: str, cells: Cells) -> None:
    sink = io.BytesIO()
    np.savez(sink, centers=cells.centers, labels=cells.labels, num_probes=cells.num_probes)
    output.write_file(_name(modality), sink.getvalue())


def load_cells(output: StageDir, modality: str) -> Cells:
    with np.load(io.BytesIO(output.storage.read_bytes(_name(modality))), allow_pickle=False) as arrays:
        return Cells(arrays["centers"], arrays["labels"], int(arrays["num_probes"]))


def _name(modality: str) -> str:
    return f"cells/{modality}.npz"
