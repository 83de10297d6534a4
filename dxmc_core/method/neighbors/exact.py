"""Nearest neighbours by inner product, exact, among images and among text counterparts (DXMC section 3.2).

A matrix product on the CPU, or faiss on a GPU, proposes a few more candidates than are wanted; their scores are then
computed again in a fixed order of addition, which alone decides the ranking. So the result does not depend on how
queries are sharded, batched or threaded, nor on what proposed the candidates, as long as it proposed the right ones.
Whether it did is checked: where a row that was left out may score as high as the last neighbour, the query is searched
again, with more care. So many rows can be proposed by products of 8 bits, which are the quickest and err the most.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from dxmc_core.extras import needed_for
from dxmc_core.method.neighbors.int8_rows import Int8Rows
from dxmc_core.method.neighbors.top_scores import top_scores
from dxmc_core.method.unit_rows import check_same_width, unit_rows
from dxmc_core.method.work import Work
from dxmc_core.runtime.cpu_products import has_fast_int8_products
from dxmc_core.runtime.slices import slices_of

if TYPE_CHECKING:
    import faiss

#: Position of a query that is not among the indexed rows.
NOT_INDEXED = -1

#: Queries go in batches of exactly this many, the last one filled up: products of one shape round alike.
_QUERIES_PER_BATCH = 1024

#: Indexed rows that a batch is multiplied with at a time: 256 MiB of scores.
_ROWS_PER_BLOCK = 65_536

#: Fewer rows are searched so soon in float32 that rounding them first gains nothing, and narrow ones are not rounded
#: finely enough to tell neighbours apart.
_LEAST_INT8_ROWS = 16_384
_LEAST_INT8_WIDTH = 64

#: Candidates fetched beyond the wanted neighbours and the query itself.
_EXTRA_CANDIDATES = 8

#: Among more candidates than this (faiss' limit on GPUs) ties are no longer followed.
_MAX_CANDIDATES = 2048

#: Scores closer than this may change places between the rounding of float32 proposals and that of the ranking.
_SCORE_TOLERANCE = 4e-6

#: Finding the best candidates passes over the scores so often; for estimates only.
_PASSES_OVER_SCORES = 3

#: 4 MiB, which stay in the cache between being gathered and being multiplied.
_CANDIDATE_VALUES_PER_BLOCK = 2**20


@dataclass(frozen=True)
class NeighborIndex:
    """An index over N rows, built once and searched with any part of the queries.

    Attributes:
        embeddings: (N, D) float32, the rows at unit norm.
        on_gpu: a faiss index by inner product that holds the same rows in order of position; None on the CPU.
        rounded: the rows in 8 bits, for the first proposal; None where float32 is as quick.
    """

    embeddings: np.ndarray
    on_gpu: "faiss.Index | None"
    rounded: Int8Rows | None

    def __len__(self) -> int:
        return len(self.embeddings)


def build_index(embeddings: np.ndarray, *, device: str = "cpu") -> NeighborIndex:
    """Index all rows for exact search.

    Args:
        embeddings: (N, D), rows normalised here. The index needs N x D float32, on a GPU in addition to the host, and
            for many rows on the CPU another N x D bytes.
        device: "cpu", or "cuda" / "cuda:1" with a faiss that has GPUs.

    Raises:
        ValueError: unusable rows, or a device that this faiss does not have.
    """
    rows = unit_rows(embeddings, name="embeddings")
    if device == "cpu":
        is_rounded = len(rows) >= _LEAST_INT8_ROWS and rows.shape[1] >= _LEAST_INT8_WIDTH and has_fast_int8_products()
        return NeighborIndex(rows, None, Int8Rows.of(rows) if is_rounded else None)
    on_gpu = _empty_index(rows.shape[1], device)
    on_gpu.add(rows)
    return NeighborIndex(rows, on_gpu, None)


def _empty_index(width: int, device: str) -> "faiss.Index":
    with needed_for(f"device {device!r}", extra="pipeline"):
        import faiss  # late: on the CPU nothing needs it
    kind, _, number = device.partition(":")
    available = faiss.get_num_gpus()
    if kind != "cuda" or not (number or "0").isdigit() or int(number or 0) >= available:
        raise ValueError(
            f"expected device cpu or one of {available} GPUs (cuda:0, ...) that faiss sees, found {device!r}"
        )
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), int(number or 0), faiss.IndexFlatIP(width))


def nearest_neighbors(
    embeddings: np.ndarray, *, num_neighbors: int, queries: slice | None = None, device: str = "cpu"
) -> np.ndarray:
    """Neighbours of the rows in `queries` (all by default) among all rows; see `search`.

    Returns:
        (Q, num_neighbors) int64 positions in 0..N-1.
    """
    index = build_index(embeddings, device=device)
    positions = np.arange(len(index))[queries if queries is not None else slice(None)]
    return search(index, embeddings[positions], positions, num_neighbors)


def search(
    index: NeighborIndex, queries: np.ndarray, query_positions: np.ndarray | None, num_neighbors: int
) -> np.ndarray:
    """Positions of the nearest rows of each query, nearest first; see `search_with_scores`.

    Returns:
        (Q, num_neighbors) int64.
    """
    return search_with_scores(index, queries, query_positions, num_neighbors)[0]


def search_with_scores(
    index: NeighborIndex, queries: np.ndarray, query_positions: np.ndarray | None, num_neighbors: int
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest rows of each query by cosine, without the query itself.

    A query is left out of its own neighbours by position, not as the first hit: with duplicate vectors it need not be
    the first. Equal scores rank by position. Where more than 2,048 rows tie for the last places, which of them are
    returned is fixed, but not by position.

    Args:
        queries: (Q, D), rows normalised here.
        query_positions: (Q,) position of each query among the indexed rows, -1 for one that is not; None when none is.

    Returns:
        Positions (Q, num_neighbors) int64 and cosines (Q, num_neighbors) float32, both best first.

    Raises:
        ValueError: the index has too few rows (cap num_neighbors at N - 1), or queries do not fit the index.
    """
    check_same_width(queries, index.embeddings, names=("queries", "indexed embeddings"))
    query_positions = _checked_positions(query_positions, len(queries), len(index))
    others = len(index) - int((query_positions != NOT_INDEXED).any())
    if not 1 <= num_neighbors <= others:
        raise ValueError(
            f"expected num_neighbors between 1 and {others} for {len(index)} indexed rows, found {num_neighbors}; "
            "at most the number of rows less the query itself"
        )
    positions = np.empty((len(queries), num_neighbors), dtype=np.int64)
    scores = np.empty((len(queries), num_neighbors), dtype=np.float32)
    pending = np.arange(len(queries))
    room = _room_for_scores(index)
    for attempt in _attempts(index, num_neighbors):
        is_unsure = np.zeros(len(pending), dtype=bool)
        for block in slices_of(len(pending), _QUERIES_PER_BATCH):
            batch = pending[block]
            rows = unit_rows(queries[batch], name="queries", first_row=int(batch[0]))
            found, found_scores, ceiling = _search_batch(index, rows, query_positions[batch], attempt, room)
            positions[batch], scores[batch] = found[:, :num_neighbors], found_scores[:, :num_neighbors]
            is_unsure[block] = ceiling >= scores[batch, -1]
        pending = pending[is_unsure]
    return positions, scores


@dataclass(frozen=True)
class _Attempt:
    """How candidates are proposed."""

    num_candidates: int
    in_8_bits: bool = False


def _attempts(index: NeighborIndex, num_neighbors: int) -> Iterator[_Attempt]:
    """One after the other, for the queries of which the one before could not be sure."""
    most = min(len(index), max(_MAX_CANDIDATES, num_neighbors + 1))
    num_candidates = num_neighbors + 1 + _EXTRA_CANDIDATES
    if index.rounded is not None:
        # The errors of 8 bits exchange more places.
        yield _Attempt(min(num_candidates + num_neighbors // 2, most), in_8_bits=True)
    while num_candidates < most:
        yield _Attempt(num_candidates)
        num_candidates *= 4
    yield _Attempt(most)


def _checked_positions(query_positions: np.ndarray | None, num_queries: int, num_rows: int) -> np.ndarray:
    if query_positions is None:
        return np.full(num_queries, NOT_INDEXED)
    positions = np.asarray(query_positions)
    if positions.shape != (num_queries,) or positions.dtype.kind not in "iu":
        raise ValueError(
            f"expected query_positions of shape ({num_queries},) and an integer type, "
            f"found {positions.dtype} of shape {positions.shape}"
        )
    if num_queries and not (positions.min() >= NOT_INDEXED and positions.max() < num_rows):
        raise ValueError(f"expected query_positions in -1..{num_rows - 1}, found {positions.min()}..{positions.max()}")
    return positions


def _search_batch(
    index: NeighborIndex, queries: np.ndarray, query_positions: np.ndarray, attempt: _Attempt, room: torch.Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranked candidates of at most one batch of queries, see `_rank`, and what no other row scores higher than (Q,)."""
    batch = np.zeros((_QUERIES_PER_BATCH, queries.shape[1]), dtype=np.float32)
    batch[: len(queries)] = queries
    candidates, ceiling = (array[: len(queries)] for array in _propose(index, batch, attempt, room))
    return *_rank(index, batch[: len(queries)], query_positions, candidates), ceiling


def _room_for_scores(index: NeighborIndex) -> torch.Tensor:
    """What `_propose` fills again and again: the system would zero fresh memory for every batch."""
    return torch.empty(0 if index.on_gpu is not None else _QUERIES_PER_BATCH * min(_ROWS_PER_BLOCK, len(index)))


def _propose(
    index: NeighborIndex, queries: np.ndarray, attempt: _Attempt, room: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Positions (Q, num_candidates) of the rows that score highest, in any order, and a ceiling (Q,) of the others."""
    if index.on_gpu is not None:
        scores, positions = index.on_gpu.search(queries, attempt.num_candidates)
        return positions, scores[:, -1] + _SCORE_TOLERANCE
    # Faster than faiss on the CPU, which multiplies smaller blocks and keeps a heap for each query.
    batch = torch.from_numpy(queries)
    if attempt.in_8_bits:
        assert index.rounded is not None
        rounded = index.rounded.queries(batch)
        positions, last = _best_of_blocks(
            torch._int_mm, rounded.values, index.rounded.values, attempt.num_candidates, room.view(torch.int32)
        )
        return positions, (rounded.scale * last + rounded.offset + rounded.tolerance).numpy()
    positions, last = _best_of_blocks(torch.mm, batch, torch.from_numpy(index.embeddings), attempt.num_candidates, room)
    return positions, last.numpy() + _SCORE_TOLERANCE


def _best_of_blocks(
    product: Callable[..., torch.Tensor],
    queries: torch.Tensor,
    rows: torch.Tensor,
    num_candidates: int,
    room: torch.Tensor,
) -> tuple[np.ndarray, torch.Tensor]:
    """Positions (Q, num_candidates) of the largest products, and the least of these (Q,) float32."""
    best_scores = torch.full((len(queries), num_candidates), -math.inf)
    best_positions = torch.zeros((len(queries), num_candidates), dtype=torch.int64)
    for part in slices_of(len(rows), _ROWS_PER_BLOCK):
        block = rows[part]
        scores = product(queries, block.T, out=room[: len(queries) * len(block)].view(len(queries), len(block)))
        found, columns = top_scores(scores, min(num_candidates, len(block)))
        joined = torch.cat([best_positions, columns + part.start], dim=1)
        best_scores, kept = torch.cat([best_scores, found.float()], dim=1).topk(num_candidates, dim=1)
        best_positions = joined.gather(1, kept)
    return best_positions.numpy(), best_scores[:, -1]


def _rank(
    index: NeighborIndex, queries: np.ndarray, query_positions: np.ndarray, candidates: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Candidates (Q, c) by descending cosine, then ascending position, with their cosines; the query itself last."""
    scores = np.empty(candidates.shape, dtype=np.float32)
    size = max(1, _CANDIDATE_VALUES_PER_BLOCK // (candidates.shape[1] * queries.shape[1]))
    for part in slices_of(len(queries), size):
        # einsum adds each pair's products in one fixed order, unlike a matrix product, so equal rows score equally.
        scores[part] = np.einsum("qcd,qd->qc", index.embeddings[candidates[part]], queries[part], optimize=False)
    scores[candidates == query_positions[:, None]] = -np.inf
    order = np.lexsort((candidates, -scores), axis=1)
    return np.take_along_axis(candidates, order, axis=1), np.take_along_axis(scores, order, axis=1)


def search_bytes(num_rows: int, width: int, num_neighbors: int) -> float:
    """The most memory that `nearest_neighbors` holds for all rows on the CPU, beside the rows it is given."""
    index = (4.0 + 1.0) * num_rows * width  # float32 and 8 bits
    return index + 12.0 * num_rows * num_neighbors + 4.0 * _QUERIES_PER_BATCH * min(num_rows, _ROWS_PER_BLOCK)


def search_work(num_rows: int, width: int, num_neighbors: int, *, speedup: float = 1.0) -> Work:
    """What `nearest_neighbors` does for all rows.

    Args:
        speedup: how many times faster products of 8 bits are than those that are counted; rows that are few are not
            rounded.
    """
    if num_rows < _LEAST_INT8_ROWS or width < _LEAST_INT8_WIDTH:
        speedup = 1.0
    candidates = min(num_neighbors + 1 + _EXTRA_CANDIDATES + num_neighbors // 2, num_rows)
    ranking = 8.0 * num_rows * candidates * width
    return Work(2.0 * width * num_rows**2 / speedup, 4.0 * _PASSES_OVER_SCORES * num_rows**2 + ranking)
