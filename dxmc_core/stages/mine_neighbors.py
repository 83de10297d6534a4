"""Stage 3: the nearest neighbours of every image, among the images and among their text counterparts.

Exact while that is affordable. Beyond, rows are grouped into cells once (`PlanSearch`), the recall is measured on a
sample against exact search, and queries look through as many cells as it takes (`SearchCells`). What the images'
neighbours show of near duplicates is kept by the way.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dxmc_core.artifacts.cells import load_cells, save_cells
from dxmc_core.artifacts.host_arrays import HostArrays
from dxmc_core.artifacts.manifest import Part
from dxmc_core.artifacts.matrices import StoredRows, embedding_column, load_matrix, read_rows
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.tables import NEAR_DUPLICATES, NEIGHBORS
from dxmc_core.errors import InputError
from dxmc_core.method.neighbors.exact import build_index, search_bytes, search_with_scores, search_work
from dxmc_core.method.neighbors.inverted_file import (
    TYPICAL_PROBES,
    InvertedFile,
    cell_search_work,
    cells_bytes,
    cells_work,
    choose_num_probes,
    exact_scores,
    fill_file,
    make_cells,
    num_cells,
    sample_rows,
    search_cells,
)
from dxmc_core.method.neighbors.near_duplicates import duplicate_groups, first_copies
from dxmc_core.method.neighbors.search_index import LEAST_PQ_ROWS, IndexChoice, choose_kind, index_bytes, index_work
from dxmc_core.stages.settings.mine_neighbors import MineNeighborsConfig
from dxmc_core.workload import PROCESS_BYTES, RAY_BYTES, CostPart, Machine, StageCost, Workload

#: Stage and table of each modality's rows, and the column of its neighbours.
MODALITIES = {
    "image_neighbors": ("embed_images", "images"),
    "text_neighbors": ("build_semantic_space", "text_counterparts"),
}


def modalities_of(inputs: Sequence[StageDir]) -> dict[str, tuple[str, str]]:
    """Those of `MODALITIES` whose stage is among the inputs: not every method trains on neighbours of the text."""
    stages = {stage.stage for stage in inputs}
    return {name: place for name, place in MODALITIES.items() if place[0] in stages}


#: Exact search is chosen up to so many rows: at 100,000 on CPUs it took a quarter of the time of cells at recall 0.99.
#: On a GPU two million rows fit the memory beside the scores.
MAX_EXACT_ROWS = {"cpu": 100_000, "cuda": 2_000_000}

#: A share of copies from which on they are worth a word; what they do to clusters stands in docs/RESULTS.md.
_MANY_COPIES = 0.1

#: Of an approximate search: a cell's candidates are read once a slice, so slices are to hold many rows of each cell.
ROWS_PER_CELL_SLICE = 262_144


@dataclass(frozen=True)
class SearchChoice:
    """How neighbours are searched ("exact" or "ivf"), and why, for the log and the manifest."""

    index: str
    reason: str


def choose_index(config: MineNeighborsConfig, num_images: int, *, device: str) -> SearchChoice:
    """Exact or approximate, by the configuration, or by size and device."""
    if config.index != "auto":
        return SearchChoice(config.index, f"mine_neighbors.index is {config.index}")
    kind = device.partition(":")[0]
    limit = MAX_EXACT_ROWS[kind]
    shown = "a GPU" if kind == "cuda" else "CPUs"
    if num_images <= limit:
        return SearchChoice("exact", f"{num_images:,} images are at most {limit:,}, where {shown} afford exact search")
    return SearchChoice(
        "ivf", f"{num_images:,} images are more than {limit:,}, up to which {shown} afford exact search"
    )


def choose_search_index(config: MineNeighborsConfig, num_images: int, width: int) -> IndexChoice | None:
    """The kind of the index that is published, by the configuration or by size; None where none is wanted.

    Raises:
        InputError: the images are too few for the kind.
    """
    if config.search_index == "none":
        return None
    if config.search_index == "auto":
        return choose_kind(num_images, width)
    if config.search_index == "ivf_pq" and num_images < LEAST_PQ_ROWS:
        raise InputError(
            f"mine_neighbors.search_index is ivf_pq, which learns from at least {LEAST_PQ_ROWS} images, found "
            f"{num_images}; set it to auto"
        )
    return IndexChoice(config.search_index, f"mine_neighbors.search_index is {config.search_index}")


def usable_num_neighbors(config: MineNeighborsConfig, num_images: int) -> int:
    """The configured number, or all other images when there are fewer.

    Raises:
        InputError: there is only one image.
    """
    if num_images < 2:
        raise InputError(f"clustering needs at least 2 readable images, found {num_images}")
    return min(config.num_neighbors, num_images - 1)


class PlanSearch:
    """Groups the rows of a modality into cells and finds how many of them a query must look through.

    Called with a table of the column modality; the result has a row for each: modality, cells, num_probes, recall,
    sampled_rows. The cells are written into the stage's folder, where the workers that search find them.
    """

    def __init__(
        self,
        inputs: Sequence[StageDir],
        output: StageDir,
        *,
        num_neighbors: int,
        min_recall: float,
        seed: int,
        device: str = "cpu",
    ) -> None:
        self._inputs = {stage.stage: stage for stage in inputs}
        self._output = output
        self._num_neighbors = num_neighbors
        self._min_recall = min_recall
        self._seed = seed
        self._device = device

    def __call__(self, modalities: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._plan(name) for name in modalities["modality"].to_pylist()])

    def _plan(self, modality: str) -> dict:
        stage, table = MODALITIES[modality]
        rows = StoredRows.open(self._inputs[stage], table)
        cells = make_cells(rows, seed=self._seed, device=self._device)
        sample = sample_rows(cells, seed=self._seed)
        exact = exact_scores(rows, sample, self._num_neighbors, device=self._device)
        with closing(HostArrays()) as files:
            index = fill_file(rows, cells, allocate=files.allocate, device=self._device)
            index, recall = choose_num_probes(index, sample, exact, min_recall=self._min_recall)
        save_cells(self._output, modality, index.cells)
        return {
            "modality": modality,
            "cells": len(cells.centers),
            "num_probes": index.cells.num_probes,
            "recall": round(recall, 4),
            "sampled_rows": len(sample),
        }


class _WriteNeighbors:
    """Writes what was found for some rows: a part of `neighbors`, and one of pairs of near duplicates among them."""

    def __init__(self, output: StageDir, *, fingerprint: str, near_duplicate_cosine: float) -> None:
        self._output = output
        self._fingerprint = fingerprint
        self._near_duplicate_cosine = near_duplicate_cosine

    def __call__(self, start: int, row_ids: np.ndarray, found: dict[str, np.ndarray], cosines: np.ndarray) -> dict:
        """The receipt of the two parts.

        Args:
            row_ids: (n,); found: modality to row ids (n, k); cosines: (n, k) of the images' neighbours.
        """
        columns = {"row_id": row_ids} | {name: embedding_column(neighbors) for name, neighbors in found.items()}
        table = pa.table(columns).cast(NEIGHBORS.schema(cosines.shape[1], optional=found))
        part = self._output.write_part("neighbors", table, fingerprint=self._fingerprint)
        rows, columns_found = np.nonzero(cosines >= self._near_duplicate_cosine)
        pairs = pa.table({"row_id": row_ids[rows], "other": found["image_neighbors"][rows, columns_found]})
        pairs_part = self._output.write_part("near_duplicate_pairs", pairs, fingerprint=self._fingerprint)
        return {"part": start, **part.model_dump(), "pairs": pairs_part.model_dump()}


class _SearchSlices(ABC):
    """Searches slices of the rows, given as a table of the columns start and stop (positions in row order).

    The result has the columns part (the start), those of the part written, and pairs.
    """

    def __call__(self, slices: pa.Table) -> pa.Table:
        found = [self._search(start, stop) for start, stop in zip(*slices.to_pydict().values(), strict=True)]
        return pa.Table.from_pylist(found)

    @abstractmethod
    def _search(self, start: int, stop: int) -> dict:
        """Search and write one slice; the receipt."""


class SearchNeighbors(_SearchSlices):
    """Searches one slice of the rows against all of them, in each modality, by exact inner product.

    The result of a slice does not depend on the other slices.
    """

    def __init__(
        self,
        inputs: Sequence[StageDir],
        output: StageDir,
        *,
        fingerprint: str,
        num_neighbors: int,
        near_duplicate_cosine: float,
        device: str = "cpu",
    ) -> None:
        stages = {stage.stage: stage for stage in inputs}
        self._matrices = {
            name: load_matrix(stages[stage], table) for name, (stage, table) in modalities_of(inputs).items()
        }
        self._indexes = {name: build_index(matrix.values, device=device) for name, matrix in self._matrices.items()}
        self._write = _WriteNeighbors(output, fingerprint=fingerprint, near_duplicate_cosine=near_duplicate_cosine)
        self._num_neighbors = num_neighbors

    def _search(self, start: int, stop: int) -> dict:
        row_ids = self._matrices["image_neighbors"].row_ids
        found, cosines = {}, {}
        for name, index in self._indexes.items():
            queries = self._matrices[name].values[start:stop]
            nearest, cosines[name] = search_with_scores(index, queries, np.arange(start, stop), self._num_neighbors)
            found[name] = row_ids[nearest]
        return self._write(start, row_ids[start:stop], found, cosines["image_neighbors"])


class SearchCells(_SearchSlices):
    """Searches one slice of the rows as `PlanSearch` has planned it, in each modality.

    A worker lays out the rows in a local file of its own (TMPDIR says where), so memory is that of a few cells.
    """

    def __init__(
        self,
        inputs: Sequence[StageDir],
        output: StageDir,
        *,
        fingerprint: str,
        num_neighbors: int,
        near_duplicate_cosine: float,
        device: str = "cpu",
    ) -> None:
        stages = {stage.stage: stage for stage in inputs}
        self._indexes: dict[str, InvertedFile] = {}
        self._files = HostArrays()
        for name, (stage, table) in modalities_of(inputs).items():
            rows = StoredRows.open(stages[stage], table)
            self._row_ids = rows.row_ids
            cells = load_cells(output, name)
            self._indexes[name] = fill_file(rows, cells, allocate=self._files.allocate, device=device)
        self._write = _WriteNeighbors(output, fingerprint=fingerprint, near_duplicate_cosine=near_duplicate_cosine)
        self._num_neighbors = num_neighbors

    def _search(self, start: int, stop: int) -> dict:
        found, cosines = {}, {}
        for name, index in self._indexes.items():
            nearest, cosines[name] = search_cells(index, np.arange(start, stop), self._num_neighbors)
            found[name] = self._row_ids[nearest]
        return self._write(start, self._row_ids[start:stop], found, cosines["image_neighbors"])


def group_near_duplicates(images: StageDir, output: StageDir, pairs: Sequence[Part]) -> pa.Table:
    """The images that have a near duplicate, each with its group: equal embeddings, and pairs that were found."""
    rows = StoredRows.open(images, "images")
    copies = first_copies(rows)
    found = [output.read_part(part) for part in pairs]
    ends = [np.stack([table["row_id"].to_numpy(), table["other"].to_numpy()], axis=1) for table in found]
    positions = np.searchsorted(rows.row_ids, np.concatenate(ends))
    groups = duplicate_groups(len(rows), positions, copies)
    sizes = np.bincount(groups, minlength=len(rows))[groups]
    members = np.flatnonzero(sizes > 1)
    image_ids = read_rows(images, "images", rows.row_ids[members], ["row_id", "image_id"])
    table = pa.table(
        {
            "row_id": rows.row_ids[members],
            "image_id": image_ids["image_id"],
            "group_id": rows.row_ids[groups[members]],
            "group_size": sizes[members],
            "copy_of": rows.row_ids[copies[members]],
        }
    )
    return table.cast(NEAR_DUPLICATES.schema())


def near_duplicate_metrics(table: pa.Table) -> dict[str, int]:
    """Counts for the manifest: groups, images in them, and how many of these equal another to the bit."""
    rows, groups = table["row_id"].to_numpy(), table["group_id"].to_numpy()
    return {
        "near_duplicate_groups": len(np.unique(groups)),
        "near_duplicate_images": len(rows),
        "exact_copies": int((table["copy_of"].to_numpy() != rows).sum()),
    }


def advice_on_copies(metrics: Mapping[str, int], num_images: int) -> str | None:
    """What to do about many near duplicates, by `near_duplicate_metrics`; None where they are few."""
    surplus = metrics["near_duplicate_images"] - metrics["near_duplicate_groups"]
    if surplus < _MANY_COPIES * num_images:
        return None
    return (
        f"{surplus:,} of {num_images:,} images are near duplicates of others and draw clusters to themselves. Method "
        "best sees one of each group that is clearly a burst; train_heads.count_near_duplicates_once=true lets every "
        "group count as one image, with any method"
    )


def cost(load: Workload, machine: Machine) -> StageCost:
    """What the stage takes for each modality searched: exact search, or cells and a search among some of them."""
    count, width, modalities = load.num_images, load.width, load.num_searched
    limit = MAX_EXACT_ROWS["cuda" if machine.gpus else "cpu"]
    disk = count * modalities * load.num_neighbors * 4.0
    if load.index == "exact" or (load.index == "auto" and count <= limit):
        speedup = 1.0 if machine.gpus else machine.rates.int8_speedup
        work = search_work(count, width, load.num_neighbors, speedup=speedup) * modalities
        parts: tuple[CostPart, ...] = (machine.on_all("exact search", work),)
        # The rows are in memory as they are stored, too.
        memory = modalities * (count * width * 2.0 + search_bytes(count, width, load.num_neighbors))
        temporary, note = 0.0, "exact search"
    else:
        parts = (
            machine.in_one_task("making cells", cells_work(count, width) * modalities),
            machine.on_all("search in cells", cell_search_work(count, width) * modalities),
        )
        memory = cells_bytes(count, width, load.num_neighbors, slice_rows=ROWS_PER_CELL_SLICE)
        temporary = modalities * count * width * 2.0
        note = f"inverted file of {num_cells(count):,} cells, about {TYPICAL_PROBES} of them a query"
    if load.search_index != "none":
        kind = choose_kind(count, width).kind if load.search_index == "auto" else load.search_index
        parts = (*parts, machine.on_cpus("the index for searches", index_work(kind, count, width)))
        written = index_bytes(kind, count, width)
        disk, memory = disk + written, max(memory, written)
    return StageCost(
        "mine_neighbors",
        (*parts, machine.writing(disk + temporary)),
        memory_bytes=RAY_BYTES + 2 * PROCESS_BYTES + memory,
        disk_bytes=disk,
        temporary_bytes=temporary,
        note=note,
    )
