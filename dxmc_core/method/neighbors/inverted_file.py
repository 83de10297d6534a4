"""Approximate nearest neighbours of all rows among all rows: an inverted file that is searched a cell at a time.

Rows are grouped into cells by k-means. All queries of a cell look through the same cells, those whose centres are
nearest to its own, so a cell's search is one matrix product on CPU or GPU; a scan query by query, as faiss' IVF does
it, reads each row of a cell once for every query and is bound by memory. Rows lie in the order of cells, where the
caller wants them: in a mapped file the index may be larger than the memory.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from dxmc_core.method.clusters.kmeans import kmeans_work, spherical_kmeans
from dxmc_core.method.neighbors.top_scores import top_scores
from dxmc_core.method.row_source import RowSource
from dxmc_core.method.unit_rows import unit_rows
from dxmc_core.method.work import Work
from dxmc_core.runtime.slices import slices_of

#: Cells are to hold so many rows, enough for a matrix product; but assigning rows to more cells than a multiple of
#: sqrt(N) would cost more than searching them.
_ROWS_PER_CELL = 256
_CELLS_PER_SQRT = 2

#: The recall is measured on so many rows of so many cells: one row of a thousand cells would be ten times the work.
_SAMPLED_CELLS, _SAMPLED_ROWS_PER_CELL = 64, 16

#: k-means of the cells need not converge: what it gets wrong, more probes mend.
_TRAINING_ROWS_PER_CELL = 32
_TRAINING_ITERATIONS = 10

#: Cells a query looks through, tried in this order until the recall is reached; then all of them, which is exact.
_PROBES = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)

#: Scores at a time: of queries of one cell against candidates.
_SCORES_PER_BLOCK = 2**24
_CANDIDATES_PER_BLOCK = 2**16

#: A row scores like the k-th exact neighbour when it is this near: equal rows differ so much by rounding.
_TIE = 2e-6

_ROWS_PER_READ = 65_536

#: For estimates only: cells that a query looks through in the end, and how often finding the best candidates of a
#: query passes over their scores.
TYPICAL_PROBES = 12
_PASSES_OVER_SCORES = 30

#: Makes an array of a shape and a type.
Allocate = Callable[[tuple[int, ...], np.dtype], np.ndarray]


@dataclass(frozen=True)
class Cells:
    """Which cell each row is in, and how many cells a query looks through.

    Attributes:
        centers: (L, D) float32, unit rows.
        labels: (N,) int32 in 0..L-1.
        num_probes: cells that a query looks through, the nearest ones to the centre of its own, that one included.
    """

    centers: np.ndarray
    labels: np.ndarray
    num_probes: int


@dataclass(frozen=True)
class InvertedFile:
    """Rows in the order of their cells, ready to be searched.

    Attributes:
        order: (N,) int64 position of each stored row; ascending within a cell.
        offsets: (L+1,) int64 where each cell begins in `order` and `rows`.
        rows: (N, D) as the source has them.
        inverse_norms: (N,) float32.
    """

    cells: Cells
    order: np.ndarray
    offsets: np.ndarray
    rows: np.ndarray
    inverse_norms: np.ndarray
    device: str = "cpu"


def num_cells(num_rows: int) -> int:
    """Cells for so many rows."""
    return max(1, min(round(num_rows / _ROWS_PER_CELL), round(_CELLS_PER_SQRT * math.sqrt(num_rows))))


def make_cells(rows: RowSource, *, seed: int, device: str = "cpu") -> Cells:
    """Group rows (normalised here) into cells by a short spherical k-means on a sample; a query looks through all."""
    count = num_cells(len(rows))
    found = spherical_kmeans(
        rows,
        count,
        num_restarts=1,
        num_iterations=_TRAINING_ITERATIONS,
        max_points_per_center=_TRAINING_ROWS_PER_CELL,
        seed=seed,
        device=device,
    )
    return Cells(found.centers, found.labels, count)


def fill_file(rows: RowSource, cells: Cells, *, allocate: Allocate = np.empty, device: str = "cpu") -> InvertedFile:
    """Put the rows in the order of their cells.

    Args:
        allocate: gives the array (N, D), of the source's type, that takes the rows: in a mapped file where it may be
            larger than memory. What is in memory besides is a block, and 28 bytes per row.
    """
    order = np.argsort(cells.labels, kind="stable")
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    offsets = np.searchsorted(cells.labels[order], np.arange(len(cells.centers) + 1))
    inverse_norms = np.empty(len(order), dtype=np.float32)
    stored: np.ndarray | None = None
    start = 0
    for block in rows.blocks(_ROWS_PER_READ):
        if stored is None:
            stored = allocate((len(order), rows.width), block.dtype)
        part = places[start : start + len(block)]
        stored[part] = block
        inverse_norms[part] = 1 / np.linalg.norm(block.astype(np.float32), axis=1)
        start += len(block)
    assert stored is not None
    return InvertedFile(cells, order, offsets, stored, inverse_norms, device)


def search_cells(
    index: InvertedFile, positions: np.ndarray, num_neighbors: int, *, num_probes: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest rows of some rows by cosine, without the row itself, among the cells they look through.

    Equal scores rank by position; which of many rows that tie for the last places are returned is fixed, but not by
    position. A query whose cells hold too few rows looks through more of them. The result of a query depends on the
    other queries of its cell only by rounding.

    Args:
        positions: (Q,) distinct.
        num_probes: in place of the index's own.

    Returns:
        Positions (Q, num_neighbors) int64 and cosines (Q, num_neighbors) float32, both best first.

    Raises:
        ValueError: the index has too few rows.
    """
    if not 1 <= num_neighbors < len(index.order):
        raise ValueError(
            f"expected num_neighbors between 1 and {len(index.order) - 1} for {len(index.order)} rows, "
            f"found {num_neighbors}"
        )
    found = np.empty((len(positions), num_neighbors), dtype=np.int64)
    scores = np.empty((len(positions), num_neighbors), dtype=np.float32)
    centers = torch.from_numpy(index.cells.centers).to(index.device)
    places = np.empty(len(index.order), dtype=np.int64)
    places[index.order] = np.arange(len(index.order))
    labels = index.cells.labels[positions]
    by_cell = np.argsort(labels, kind="stable")
    bounds = np.flatnonzero(np.diff(labels[by_cell], prepend=-1, append=-1))
    for start, stop in pairwise(bounds):
        queries = by_cell[start:stop]
        cell = int(labels[queries[0]])
        probed = _cells_to_probe(index, centers, cell, num_probes or index.cells.num_probes, num_neighbors + 1)
        found[queries], scores[queries] = _search_cell(index, places[positions[queries]], probed, num_neighbors)
    return found, scores


def _cells_to_probe(index: InvertedFile, centers: Tensor, cell: int, num_probes: int, num_rows: int) -> np.ndarray:
    """The cells nearest to a cell, itself first, as many as asked for and as hold enough rows; ascending."""
    cosines = centers @ centers[cell]
    cosines[cell] = 2
    nearest = cosines.argsort(descending=True, stable=True).cpu().numpy()
    held = np.cumsum(np.diff(index.offsets)[nearest])
    return np.sort(nearest[: max(num_probes, int(np.searchsorted(held, num_rows)) + 1)])


def _search_cell(
    index: InvertedFile, query_places: np.ndarray, probed: np.ndarray, num_neighbors: int
) -> tuple[np.ndarray, np.ndarray]:
    """Positions and cosines (q, num_neighbors) of the best rows of the probed cells for queries of one cell."""
    queries = _unit(index, query_places)
    own = torch.from_numpy(query_places).to(index.device)
    best_scores = torch.full((len(queries), num_neighbors), -math.inf, device=index.device)
    best_places = torch.zeros((len(queries), num_neighbors), dtype=torch.int64, device=index.device)
    for places in _candidate_blocks(index, probed):
        candidates = torch.cat([torch.from_numpy(index.rows[part]).to(index.device) for part in places]).float()
        candidate_places = torch.from_numpy(np.concatenate([np.arange(part.start, part.stop) for part in places]))
        norms = torch.from_numpy(np.concatenate([index.inverse_norms[part] for part in places])).to(index.device)
        candidate_places = candidate_places.to(index.device)
        size = max(1, _SCORES_PER_BLOCK // len(candidates))
        for part in slices_of(len(queries), size):
            scores = (queries[part] @ candidates.T).mul_(norms)
            _leave_out(scores, candidate_places, own[part])
            nearest, columns = top_scores(scores, min(num_neighbors, scores.shape[1]))
            joined_scores = torch.cat([best_scores[part], nearest], dim=1)
            joined_places = torch.cat([best_places[part], candidate_places[columns]], dim=1)
            kept = joined_scores.topk(num_neighbors, dim=1)
            best_scores[part], best_places[part] = kept.values, joined_places.gather(1, kept.indices)
    cosines, positions = best_scores.cpu().numpy(), index.order[best_places.cpu().numpy()]
    ranking = np.lexsort((positions, -cosines), axis=1)
    return np.take_along_axis(positions, ranking, axis=1), np.take_along_axis(cosines, ranking, axis=1)


def _leave_out(scores: Tensor, candidate_places: Tensor, own: Tensor) -> None:
    """Give each query's own row, if it is among the candidates (n,) at ascending places, the score -inf."""
    columns = torch.searchsorted(candidate_places, own).clamp_(max=len(candidate_places) - 1)
    rows = (candidate_places[columns] == own).nonzero()[:, 0]
    scores[rows, columns[rows]] = -math.inf


def _unit(index: InvertedFile, places: np.ndarray) -> Tensor:
    return torch.from_numpy(unit_rows(index.rows[places], name="queries")).to(index.device)


def _candidate_blocks(index: InvertedFile, probed: np.ndarray) -> Iterator[list[slice]]:
    """The stored rows of some cells as slices, in blocks of bounded size: one cell of copies may hold most rows."""
    block: list[slice] = []
    room = _CANDIDATES_PER_BLOCK
    for start, stop in zip(index.offsets[probed], index.offsets[probed + 1], strict=True):
        while start < stop:
            taken = min(room, stop - start)
            block.append(slice(start, start + taken))
            start, room = start + taken, room - taken
            if room == 0:
                yield block
                block, room = [], _CANDIDATES_PER_BLOCK
    if block:
        yield block


def sample_rows(cells: Cells, *, seed: int) -> np.ndarray:
    """Ascending positions of about a thousand rows to measure the recall on: a few of each cell drawn by size."""
    rng = np.random.default_rng([seed, 0])
    sizes = np.bincount(cells.labels)
    count = min(_SAMPLED_CELLS, int(np.count_nonzero(sizes)))
    drawn = rng.choice(len(sizes), count, replace=False, p=sizes / sizes.sum())
    members = (np.flatnonzero(cells.labels == cell) for cell in drawn)
    chosen = [rng.choice(rows, min(_SAMPLED_ROWS_PER_CELL, len(rows)), replace=False) for rows in members]
    return np.sort(np.concatenate(chosen))


def exact_scores(rows: RowSource, positions: np.ndarray, num_neighbors: int, *, device: str = "cpu") -> np.ndarray:
    """Cosines (Q, num_neighbors) float32, best first, of the exact neighbours of the rows at ascending positions."""
    queries = torch.from_numpy(unit_rows(rows.take(positions), name="queries")).to(device)
    best = torch.full((len(queries), num_neighbors), -math.inf, device=device)
    start = 0
    for block in rows.blocks(_ROWS_PER_READ // 4):
        scores = queries @ torch.from_numpy(unit_rows(block, name="rows", first_row=start)).to(device).T
        here = np.flatnonzero((positions >= start) & (positions < start + len(block)))
        scores[here, positions[here] - start] = -math.inf
        best = torch.cat([best, scores.topk(min(num_neighbors, len(block)), dim=1).values], dim=1)
        best = best.topk(num_neighbors, dim=1).values
        start += len(block)
    return best.cpu().numpy()


def recall(scores: np.ndarray, exact: np.ndarray) -> float:
    """Share of found neighbours (Q, k) that are as near as the k-th exact one: rows that tie with it are right too."""
    return float((scores >= exact[:, -1:] - _TIE).mean())


def choose_num_probes(
    index: InvertedFile,
    positions: np.ndarray,
    exact: np.ndarray,
    *,
    min_recall: float,
    on_trial: Callable[[int, float], None] = lambda num_probes, found: None,
) -> tuple[InvertedFile, float]:
    """The index with the fewest probes that reach a recall on a sample of its rows, and that recall.

    Args:
        positions: (Q,) the sample; exact (Q, k), as of `exact_scores`.
        on_trial: called with the probes tried and the recall they gave.
    """
    num_neighbors = exact.shape[1]
    most = len(index.cells.centers)
    for num_probes in (*(probes for probes in _PROBES if probes < most), most):
        found = recall(search_cells(index, positions, num_neighbors, num_probes=num_probes)[1], exact)
        on_trial(num_probes, found)
        if found >= min_recall or num_probes == most:
            break
    return replace(index, cells=replace(index.cells, num_probes=num_probes)), found


def cells_work(num_rows: int, width: int) -> Work:
    """What it takes to make cells, to lay the rows out, and to measure the recall on a sample against all rows."""
    made = kmeans_work(
        num_rows,
        width,
        num_cells(num_rows),
        num_restarts=1,
        num_iterations=_TRAINING_ITERATIONS,
        max_points_per_center=_TRAINING_ROWS_PER_CELL,
    )
    sampled = min(_SAMPLED_CELLS * _SAMPLED_ROWS_PER_CELL, num_rows)
    laid_out = 8.0 * num_rows * width
    return made + Work(2.0 * width * sampled * num_rows, laid_out + 4.0 * _PASSES_OVER_SCORES * sampled * num_rows)


def cell_search_work(num_rows: int, width: int) -> Work:
    """What `search_cells` does for all rows with a typical number of probes, the layout of the rows included."""
    cells = num_cells(num_rows)
    searched = num_rows / cells * min(TYPICAL_PROBES, cells)
    converted = 8.0 * width * (cells * searched + num_rows)
    return Work(2.0 * width * num_rows * searched, 4.0 * _PASSES_OVER_SCORES * num_rows * searched + converted)


def cells_bytes(num_rows: int, width: int, num_neighbors: int, *, slice_rows: int) -> float:
    """The most memory that making cells, or searching a slice of the rows, holds beside the file that they lie in."""
    cells = num_cells(num_rows)
    trained = min(num_rows, _TRAINING_ROWS_PER_CELL * cells)
    found = min(num_rows, slice_rows) * num_neighbors * 40.0
    return trained * width * 6.0 + cells * width * 8.0 + num_rows * 60.0 + found + _ROWS_PER_READ * width * 8.0
