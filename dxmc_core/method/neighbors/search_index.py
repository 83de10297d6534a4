"""A FAISS index of all rows that answers any query: its kind by size, how it is filled, and what recall it reaches.

Scores are inner products with the rows as they are stored. In float16, which is what they are stored in, an index gives
exactly these; 8 bits and product quantisation give candidates, which their reader ranks again by the stored rows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import faiss
import numpy as np

from dxmc_core.method.row_source import RowSource
from dxmc_core.method.work import Work

IndexKind = Literal["flat", "ivf", "ivf_sq8", "ivf_pq", "hnsw"]
KINDS: tuple[str, ...] = get_args(IndexKind)

#: Up to so many rows all of them are looked at: at 50,000 that takes a few milliseconds.
_MAX_FLAT_ROWS = 50_000
#: An index in float16, and one in 8 bits, is chosen while it takes at most so many bytes.
_MAX_FLOAT16_BYTES = 4 << 30
_MAX_SQ8_BYTES = 16 << 30
_MAX_PQ_PARTS = 64
#: Product quantisation has 256 centres in each part, and needs as many rows to find them.
LEAST_PQ_ROWS = 256
#: Neighbours of a row in the graph of HNSW, and candidates while it is built.
_HNSW_NEIGHBORS, _HNSW_CONSTRUCTION = 32, 80

#: Candidates for each wanted row where codes are lossy; they are ranked again by the stored rows.
CANDIDATES_PER_RESULT = 4

#: Candidates that a search in a graph keeps, tried in this order until the recall is reached.
_GRAPH_EFFORTS = (16, 32, 64, 128, 256, 512, 1024, 2048)

#: A row scores like the k-th best when it is this near: float32 rounds differently in different orders.
_TIE = 2e-6
_ROWS_PER_BLOCK = 65_536
#: Queries on which the recall is measured, and how often rows are passed over on their way into an index; for estimates
#: only, as is the number of rows that a new one is compared with in a graph.
_MEASURED_QUERIES, _PASSES_TO_ADD, _COMPARED_IN_GRAPH = 768, 4, 1500


@dataclass(frozen=True)
class IndexChoice:
    """The kind of an index and why, for the log and the manifest."""

    kind: IndexKind
    reason: str

    @property
    def has_cells(self) -> bool:
        return self.kind.startswith("ivf")

    @property
    def is_lossy(self) -> bool:
        return self.kind in ("ivf_sq8", "ivf_pq")

    @property
    def num_candidates(self) -> int:
        """Candidates for each wanted row."""
        return CANDIDATES_PER_RESULT if self.is_lossy else 1


def choose_kind(num_rows: int, width: int) -> IndexChoice:
    """The most exact kind of index that is searched in milliseconds and can be held."""
    if num_rows <= _MAX_FLAT_ROWS:
        return IndexChoice("flat", f"{num_rows:,} rows are at most {_MAX_FLAT_ROWS:,}, all of which are soon looked at")
    float16, sq8 = 2 * num_rows * width, num_rows * width
    if float16 <= _MAX_FLOAT16_BYTES:
        return IndexChoice(
            "ivf", f"{num_rows:,} rows in float16 take {_gib(float16)}, at most {_gib(_MAX_FLOAT16_BYTES)}"
        )
    if sq8 <= _MAX_SQ8_BYTES:
        return IndexChoice("ivf_sq8", f"{num_rows:,} rows take {_gib(sq8)} in 8 bits, {_gib(float16)} in float16")
    return IndexChoice(
        "ivf_pq", f"{num_rows:,} rows take {_gib(num_rows * num_pq_parts(width))} by parts, {_gib(sq8)} in 8 bits"
    )


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


def num_pq_parts(width: int) -> int:
    """Parts that product quantisation cuts a row into, a byte each: the most, up to 64, that divide the width."""
    return max(parts for parts in range(1, min(_MAX_PQ_PARTS, width) + 1) if width % parts == 0)


def empty_index(kind: IndexKind, width: int, *, centers: np.ndarray | None = None) -> faiss.Index:
    """An index without rows, which kinds with lossy codes still have to be trained (`train_codes`).

    Args:
        centers: (L, D) float32 of the cells, of kinds that have them.
    """
    ip, float16 = faiss.METRIC_INNER_PRODUCT, faiss.ScalarQuantizer.QT_fp16
    if kind == "flat":
        return faiss.IndexIDMap(float16_rows(width))
    if kind == "hnsw":
        graph = faiss.IndexHNSWSQ(width, float16, _HNSW_NEIGHBORS, ip)
        graph.hnsw.efConstruction = _HNSW_CONSTRUCTION
        _without_training(faiss.downcast_index(graph.storage))
        return faiss.IndexIDMap(_without_training(graph))
    assert centers is not None
    cells = faiss.IndexFlatIP(width)
    cells.add(np.ascontiguousarray(centers, dtype=np.float32))
    if kind == "ivf":
        return _without_training(faiss.IndexIVFScalarQuantizer(cells, width, cells.ntotal, float16, ip, False))
    if kind == "ivf_sq8":
        return faiss.IndexIVFScalarQuantizer(cells, width, cells.ntotal, faiss.ScalarQuantizer.QT_8bit, ip, True)
    return faiss.IndexIVFPQ(cells, width, cells.ntotal, num_pq_parts(width), 8, ip)


def float16_rows(width: int) -> faiss.Index:
    """An index without rows that keeps no ids: its rows are known by their places."""
    return _without_training(
        faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    )


def _without_training(index: faiss.Index) -> faiss.Index:
    """float16 has nothing to learn."""
    index.is_trained = True
    return index


def train_codes(index: faiss.Index, sample: np.ndarray) -> None:
    """Fit the codes of an index with cells to a sample (n, D) float32; the cells stay as they are."""
    if not index.is_trained:
        index.train(sample)


def add_to_cells(index: faiss.Index, rows: np.ndarray, row_ids: np.ndarray, labels: np.ndarray) -> None:
    """Add rows (n, D) with their ids (n,) to the cells (n,) that they are known to be in."""
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    ids, cells = (np.ascontiguousarray(numbers, dtype=np.int64) for numbers in (row_ids, labels))
    index.add_core(len(rows), faiss.swig_ptr(rows), faiss.swig_ptr(ids), faiss.swig_ptr(cells))


def is_in_cells(index: faiss.Index) -> bool:
    return isinstance(index, faiss.IndexIVF)


def _graph(index: faiss.Index) -> faiss.IndexHNSW | None:
    inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap) else None
    return inner if isinstance(inner, faiss.IndexHNSW) else None


def effort_of(index: faiss.Index) -> int | None:
    """Cells that a query looks through, or candidates of a search in the graph; None where all rows are looked at."""
    if is_in_cells(index):
        return index.nprobe
    graph = _graph(index)
    return graph.hnsw.efSearch if graph is not None else None


def set_effort(index: faiss.Index, effort: int) -> None:
    """What a search of the index takes by default; it is kept in its file."""
    graph = _graph(index)
    if is_in_cells(index):
        index.nprobe = effort
    elif graph is not None:
        graph.hnsw.efSearch = effort


def _most_effort(index: faiss.Index) -> int:
    if is_in_cells(index):
        return index.nlist
    return index.ntotal if _graph(index) is not None else 1


def search_rows(
    index: faiss.Index, queries: np.ndarray, num_results: int, *, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The best rows of each query, best first.

    Args:
        queries: (Q, D) float32.
        allowed: (M,) bool by row id; others are not found. The fewer are allowed, the further the search goes, so that
            it looks at about as many of them as it would of all; of very few, at each.

    Returns:
        Row ids (Q, num_results) int64, -1 where there are no more, and scores (Q, num_results) float32.
    """
    num_results = min(num_results, max(index.ntotal, 1))
    effort = effort_of(index)
    options: dict = {}
    if allowed is not None:
        bits = np.packbits(allowed, bitorder="little")
        options["sel"] = faiss.IDSelectorBitmap(bits)
        if effort is not None:
            share = max(np.count_nonzero(allowed), 1) / max(index.ntotal, 1)
            effort = min(math.ceil(effort / min(share, 1)), _most_effort(index))
    if is_in_cells(index):
        parameters = faiss.SearchParametersIVF(nprobe=effort, **options)
    elif effort is not None:
        parameters = faiss.SearchParametersHNSW(efSearch=max(effort, num_results), **options)
    else:
        parameters = faiss.SearchParameters(**options)
    scores, ids = index.search(np.ascontiguousarray(queries, dtype=np.float32), num_results, params=parameters)
    return ids, scores


@dataclass(frozen=True)
class Exact:
    """What exact search finds for some queries.

    Attributes:
        queries: (Q, D) float32.
        own_ids: (Q,) row id of a query that is a row itself, which is not among its own results; -1 of others.
        ids, scores: (Q, k), best first.
    """

    queries: np.ndarray
    own_ids: np.ndarray
    ids: np.ndarray
    scores: np.ndarray

    @property
    def num_results(self) -> int:
        return self.ids.shape[1]


def exact_results(
    rows: RowSource, row_ids: np.ndarray, queries: np.ndarray, own_ids: np.ndarray, num_results: int
) -> Exact:
    """Search all rows, a block at a time, for queries (Q, D); see `Exact` for the others."""
    heap = faiss.ResultHeap(len(queries), num_results + 1, keep_max=True)
    start = 0
    for block in rows.blocks(_ROWS_PER_BLOCK):
        scores, places = faiss.knn(
            queries, block.astype(np.float32), min(num_results + 1, len(block)), metric=faiss.METRIC_INNER_PRODUCT
        )
        heap.add_result(scores, row_ids[start + places])
        start += len(block)
    heap.finalize()
    ids, scores = without_own(heap.I, heap.D, own_ids, num_results)
    return Exact(queries, own_ids, ids, scores)


def without_own(
    ids: np.ndarray, scores: np.ndarray, own_ids: np.ndarray, num_results: int
) -> tuple[np.ndarray, np.ndarray]:
    """The first results (Q, num_results) of some more (Q, n), without each query's own row."""
    order = np.argsort(ids == own_ids[:, None], axis=1, kind="stable")[:, :num_results]
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)


def recalls(index: faiss.Index, exact: Exact, counts: Sequence[int], *, is_lossy: bool) -> list[float]:
    """For each count the share of so many best rows that the index finds, copies by their score where that is exact.

    Of lossy codes: among the candidates that are ranked again, by row id.
    """
    candidates = CANDIDATES_PER_RESULT if is_lossy else 1
    counts = [min(count, exact.num_results) for count in counts]
    ids, scores = search_rows(index, exact.queries, candidates * max(counts) + 1)
    ids, scores = without_own(ids, scores, exact.own_ids, candidates * max(counts))
    if is_lossy:
        rows = list(zip(exact.ids, ids, strict=True))
        return [
            float(np.mean([np.isin(best[:count], found[: candidates * count]).mean() for best, found in rows]))
            for count in counts
        ]
    return [float((scores[:, :count] >= exact.scores[:, count - 1 : count] - _TIE).mean()) for count in counts]


def choose_probes(
    index: faiss.Index, samples: Sequence[tuple[Exact, np.ndarray]], *, min_recall: float, num_results: int
) -> None:
    """Set the least number of cells with which each sample of queries has a share of its best rows in the cells.

    Args:
        samples: with the cell of each exact result (Q, k).
    """
    centers = index.quantizer.reconstruct_n(0, index.nlist)
    needed = 1
    for exact, cells in samples:
        scores = exact.queries @ centers.T
        of_results = np.take_along_axis(scores, cells[:, :num_results], axis=1)
        ranks = np.sort(
            [(row[:, None] < others).sum(axis=1) for row, others in zip(of_results, scores, strict=True)], axis=None
        )
        needed = max(needed, int(ranks[math.ceil(min_recall * len(ranks)) - 1]) + 1)
    set_effort(index, needed)


def choose_graph_effort(index: faiss.Index, samples: Sequence[Exact], *, min_recall: float, num_results: int) -> None:
    """Set the least candidates that a search in a graph keeps at which each sample of queries reaches a recall."""
    for effort in _GRAPH_EFFORTS:
        set_effort(index, effort)
        if min(recalls(index, exact, [num_results], is_lossy=False)[0] for exact in samples) >= min_recall:
            return


def index_work(kind: str, num_rows: int, width: int) -> Work:
    """What filling an index and measuring its recall takes, with cells that are there already."""
    compared = _MEASURED_QUERIES + (_COMPARED_IN_GRAPH if kind == "hnsw" else 0)
    return Work(2.0 * width * num_rows * compared, 4.0 * width * num_rows * _PASSES_TO_ADD)


def index_bytes(kind: str, num_rows: int, width: int) -> float:
    """The size of an index: codes, ids, and the links of a graph."""
    codes = {"ivf_sq8": width, "ivf_pq": num_pq_parts(width), "hnsw": 2 * width + 8 * _HNSW_NEIGHBORS}
    return float(num_rows * (codes.get(kind, 2 * width) + 8))
