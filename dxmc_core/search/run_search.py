"""Finds the clusters and images of a finished run that are nearest to words or to an image.

The FAISS index that mine_neighbors has published answers, mapped into memory. Where a run has none, or not the one that
belongs to its images, every embedding is read, part by part.
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dxmc_core.artifacts.generations import open_run_dir
from dxmc_core.artifacts.index_file import IMAGE_INDEX_NAME, open_index
from dxmc_core.artifacts.matrices import RowFinder, matrix_of
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.tables import ASSIGNMENTS, CENTERS, CLUSTERS, IMAGES
from dxmc_core.config import PipelineConfig, read_run_config
from dxmc_core.errors import ArtifactError, InputError
from dxmc_core.method.neighbors.search_index import search_rows
from dxmc_core.runtime.lookahead import prefetched
from dxmc_core.runtime.slices import slices_of
from dxmc_core.search.filters import Condition, allowed_rows
from dxmc_core.search.kind import QueryKind
from dxmc_core.search.queries import Queries, Query

__all__ = ["ClusterHit", "ImageHit", "Query", "QueryKind", "RunSearch", "SearchResult", "open_run"]

#: Parts that are read while one is searched.
_PARTS_AHEAD = 2
_SCORES_AT_A_TIME = 2**24
#: Row id of a result that is none.
_NOTHING = -1

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClusterHit:
    """A cluster; `similarity` is the cosine of its centre to the query."""

    cluster_id: int
    name: str
    similarity: float
    size: int


@dataclass(frozen=True)
class ImageHit:
    """An image; `similarity` is the cosine of its embedding to the query, `cluster` the name of its cluster."""

    row_id: int
    image_id: str
    similarity: float
    cluster_id: int
    cluster: str


@dataclass(frozen=True)
class SearchResult:
    """The nearest clusters and images, nearest first."""

    query: Query
    clusters: list[ClusterHit]
    images: list[ImageHit]


def open_run(run: str | RunDir) -> "RunSearch":
    """A finished run, ready to be searched again and again; of a home of generations the current one.

    Raises:
        ArtifactError: the run is not finished.
        InputError: it is no run directory.
    """
    run_dir = open_run_dir(run) if isinstance(run, str) else run
    return RunSearch(run_dir, read_run_config(run_dir))


class RunSearch:
    """A run that is searched. What one search has read of it (names and ids of all images, nouns) is kept for the next.

    Memory is that, some 60 bytes an image, and what the kernel keeps of the index. Close it, or use it in a `with`
    block: the index of a run in object storage is fetched into a temporary file.
    """

    def __init__(self, run_dir: RunDir, config: PipelineConfig) -> None:
        self.run_dir, self.config = run_dir, config
        self._held = ExitStack()
        self._allowed_by: dict[tuple[str, ...], np.ndarray | None] = {}
        self._clusters = run_dir.read_table(CLUSTERS, ["cluster_id", "name", "size"])

    def __enter__(self) -> "RunSearch":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the index."""
        self.__dict__.pop("_index", None)
        self._held.close()

    def query(
        self, text: str, *, kind: QueryKind | None = None, top: int = 10, where: Sequence[str] = ()
    ) -> SearchResult:
        """The clusters and images nearest to a query.

        Args:
            text: words; the path or URI of an image; an image_id of the run; or a .npy file of one embedding, of which
                `#17` at its end takes row 17.
            kind: what to take the query for; by default a file where there is one, then a noun of the run, an image_id,
                and any other words.
            top: how many of each.
            where: conditions that images have to meet, all of them, such as "label=dog", "size>=100000" or
                "cluster=beach"; on columns of the catalog and of the assignments.

        Raises:
            InputError: nothing can be made of the query or of a condition; the message says what is possible.
        """
        return self.query_all([text], kind=kind, top=top, where=where)[0]

    def query_all(
        self, texts: Sequence[str], *, kind: QueryKind | None = None, top: int = 10, where: Sequence[str] = ()
    ) -> list[SearchResult]:
        """The results of many queries, searched together; see `query`."""
        allowed = self._allowed(tuple(where))
        texts = [" ".join(text.split()) for text in texts] if kind is QueryKind.WORDS else texts
        queries = self._queries.resolve(texts, kind)
        for query in queries:
            _check_width(query, self._centers.shape[1])
        embeddings = np.stack([query.embedding for query in queries])
        own = np.array([_NOTHING if query.row_id is None else query.row_id for query in queries])
        row_ids, similarities = self._nearest(embeddings, own, top, allowed)
        clusters = embeddings @ self._centers.T
        return [
            SearchResult(query, self._cluster_hits(of_clusters, top), self._image_hits(ids, of_images))
            for query, of_clusters, ids, of_images in zip(queries, clusters, row_ids, similarities, strict=True)
        ]

    @cached_property
    def _queries(self) -> Queries:
        return Queries(self.run_dir, self.config, self._assigned)

    @cached_property
    def _assigned(self) -> pa.Table:
        """The columns row_id, image_id and cluster_id of all images, by ascending row id, in one piece."""
        table = self.run_dir.read_table(ASSIGNMENTS, ["row_id", "image_id", "cluster_id"])
        schema = table.schema.set(1, pa.field("image_id", pa.large_string()))  # 2 GiB of ids and more
        table = table.cast(schema).combine_chunks()
        row_ids = table["row_id"].to_numpy()
        return table if (np.diff(row_ids) > 0).all() else table.take(np.argsort(row_ids, kind="stable"))

    @cached_property
    def _row_ids(self) -> np.ndarray:
        return self._assigned["row_id"].to_numpy()

    @cached_property
    def _names(self) -> dict[int, str]:
        return dict(zip(self._clusters["cluster_id"].to_pylist(), self._clusters["name"].to_pylist(), strict=True))

    @cached_property
    def _centers(self) -> np.ndarray:
        """Of the clusters that have images, (C, D) float32, in their order."""
        table = self.run_dir.read_table(CENTERS, ["cluster_id", "embedding"])
        places = pc.index_in(self._clusters["cluster_id"], table["cluster_id"]).to_numpy()
        return matrix_of(table["embedding"])[places]

    @cached_property
    def _index(self) -> tuple[faiss.Index, dict[str, Any]] | None:
        images, neighbors = self.run_dir.stage("embed_images"), self.run_dir.stage("mine_neighbors")
        try:
            found = open_index(images, neighbors, self._held, name=IMAGE_INDEX_NAME)
        except ArtifactError as error:
            logger.warning("search: every embedding is read, as the index cannot be used: %s", error)
            return None
        if found is None:
            logger.info("search: every embedding is read, as the run has no %s", IMAGE_INDEX_NAME)
        return found

    @cached_property
    def _stored_images(self) -> RowFinder:
        return RowFinder.open(self.run_dir.stage("embed_images"), "images")

    def _allowed(self, where: tuple[str, ...]) -> np.ndarray | None:
        """The images that meet the conditions, (M,) bool by row id; those of the last search are kept."""
        if where not in self._allowed_by:
            conditions = [Condition.parse(text) for text in where]
            self._allowed_by = {where: allowed_rows(self.run_dir, conditions, self._clusters) if where else None}
        return self._allowed_by[where]

    def _nearest(
        self, queries: np.ndarray, own: np.ndarray, top: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Row ids and cosines (Q, n) of the nearest images, nearest first; a score of -inf is no result."""
        if self._index is None:
            row_ids, scores = self._nearest_of_all(queries, top + 1, allowed)
        else:
            index, facts = self._index
            candidates = facts["candidates_per_result"]
            row_ids, scores = search_rows(index, queries, candidates * (top + 1), allowed=allowed)
            if candidates > 1:
                scores = self._scores_of(queries, row_ids)
        scores = np.where((row_ids == own[:, None]) | (row_ids == _NOTHING), -np.inf, scores)
        order = np.lexsort((row_ids, -scores), axis=1)[:, :top]
        return np.take_along_axis(row_ids, order, axis=1), np.take_along_axis(scores, order, axis=1)

    def _nearest_of_all(
        self, queries: np.ndarray, count: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same by reading every embedding; memory holds a few parts."""
        best = faiss.ResultHeap(len(queries), count, keep_max=True)
        parts = self.run_dir.stage("embed_images").iter_parts(IMAGES, ["row_id", "embedding"])
        for part in prefetched(parts, ahead=_PARTS_AHEAD):
            row_ids, rows = part["row_id"].to_numpy(), matrix_of(part["embedding"])
            if allowed is not None:
                row_ids, rows = row_ids[allowed[row_ids]], rows[allowed[row_ids]]
            step = max(_SCORES_AT_A_TIME // len(queries), 1)
            for block in slices_of(len(rows), step):
                found = queries @ rows[block].astype(np.float32).T
                best.add_result(found, np.broadcast_to(row_ids[block], found.shape))
        best.finalize()
        return best.I, best.D

    def _scores_of(self, queries: np.ndarray, row_ids: np.ndarray) -> np.ndarray:
        """Exact scores (Q, n) of candidates, by their stored rows."""
        wanted = np.unique(row_ids[row_ids != _NOTHING])
        if len(wanted) == 0:
            return np.zeros(row_ids.shape, dtype=np.float32)
        rows = matrix_of(self._stored_images.read(wanted, ["row_id", "embedding"])["embedding"]).astype(np.float32)
        places = np.searchsorted(wanted, row_ids).clip(max=len(wanted) - 1)
        return np.stack([rows[of_query] @ query for query, of_query in zip(queries, places, strict=True)])

    def _cluster_hits(self, similarities: np.ndarray, top: int) -> list[ClusterHit]:
        order = np.lexsort((self._clusters["cluster_id"].to_numpy(), -similarities))[:top]
        rows = self._clusters.take(order).to_pylist()
        return [
            ClusterHit(similarity=float(similarities[place]), **row) for place, row in zip(order, rows, strict=True)
        ]

    def _image_hits(self, row_ids: np.ndarray, similarities: np.ndarray) -> list[ImageHit]:
        is_found = np.isfinite(similarities)
        rows = self._assigned.take(np.searchsorted(self._row_ids, row_ids[is_found])).to_pylist()
        return [
            ImageHit(similarity=similarity, cluster=self._names[row["cluster_id"]], **row)
            for row, similarity in zip(rows, similarities[is_found].tolist(), strict=True)
        ]


def _check_width(query: Query, width: int) -> None:
    if len(query.embedding) != width:
        raise InputError(
            f"{query.text!r} gives an embedding of width {len(query.embedding)}, the images' have {width}; it must "
            "come from the encoder of the run"
        )
