"""Stage 3: the nearest neighbours of every image, among the images and among their text counterparts."""

import numpy as np
import pyarrow as pa
from pydantic import Field

from dxmc_core.artifacts import schemas
from dxmc_core.artifacts.manifest import fingerprint_of
from dxmc_core.artifacts.matrices import embedding_column, load_matrix
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.errors import InputError
from dxmc_core.method.neighbors import build_index, search
from dxmc_core.settings import Settings


class MineNeighborsConfig(Settings):
    """How neighbours are found."""

    num_neighbors: int = Field(50, ge=1)
    """Neighbours kept a row and modality; at most the number of images less one."""


def fingerprint(config: MineNeighborsConfig, *, inputs: dict[str, str]) -> str:
    return fingerprint_of("mine_neighbors", config.model_dump(mode="json"), inputs)


def usable_num_neighbors(config: MineNeighborsConfig, num_images: int) -> int:
    """The configured number, or all other images when there are fewer.

    Raises:
        InputError: there is only one image.
    """
    if num_images < 2:
        raise InputError(f"clustering needs at least 2 readable images, found {num_images}")
    return min(config.num_neighbors, num_images - 1)


class SearchNeighbors:
    """Searches one slice of the rows against all of them, in both modalities, by exact inner product.

    Called with a table of the columns start and stop (positions in row order); the result has the columns part (the
    start) and those of the part written. The result of a slice does not depend on the other slices.
    """

    def __init__(
        self,
        images: StageDir,
        semantic_space: StageDir,
        output: StageDir,
        *,
        fingerprint: str,
        num_neighbors: int,
        device: str | None = None,
        num_threads: int | None = None,
    ) -> None:
        self._modalities = [load_matrix(images, "images"), load_matrix(semantic_space, "text_counterparts")]
        self._indexes = [
            build_index(matrix.values, device=device or "cpu", num_threads=num_threads) for matrix in self._modalities
        ]
        self._output = output
        self._fingerprint = fingerprint
        self._num_neighbors = num_neighbors

    def __call__(self, slices: pa.Table) -> pa.Table:
        found = [self._search(start, stop) for start, stop in zip(*slices.to_pydict().values(), strict=True)]
        return pa.Table.from_pylist(found)

    def _search(self, start: int, stop: int) -> dict:
        positions = np.arange(start, stop)
        row_ids = self._modalities[0].row_ids
        columns = {"row_id": pa.array(row_ids[start:stop])}
        for name, matrix, index in zip(
            ("image_neighbors", "text_neighbors"), self._modalities, self._indexes, strict=True
        ):
            nearest = search(index, matrix.values[start:stop], positions, self._num_neighbors)
            columns[name] = embedding_column(row_ids[nearest])
        table = pa.table(columns).cast(schemas.neighbors(self._num_neighbors))
        part = self._output.write_part("neighbors", table, fingerprint=self._fingerprint)
        return {"part": start, **part.model_dump()}
