"""Finds the clusters and images of a finished run that are nearest to words or to an image.

Nothing is indexed for it: the run's own artifacts answer, embeddings part by part, so memory holds a few parts of them.
"""

import difflib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dxmc_core.artifacts import schemas
from dxmc_core.artifacts.matrices import load_rows, matrix_of, read_rows
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.storage import filesystem_of
from dxmc_core.config import PipelineConfig
from dxmc_core.encoders import Encoder, load_encoder
from dxmc_core.errors import InputError
from dxmc_core.images.decode import ImageRejectedError, decode_image
from dxmc_core.images.formats import MAX_PIXELS
from dxmc_core.images.objects import fetch
from dxmc_core.images.selection import IMAGE_SUFFIXES
from dxmc_core.images.sources import EmbeddingsSource
from dxmc_core.lookahead import prefetched
from dxmc_core.method.unit_rows import to_unit_norm, why_no_direction

_NPY_SUFFIX = ".npy"
#: Parts that are read while one is searched.
_PARTS_AHEAD = 2

logger = logging.getLogger(__name__)


class QueryKind(StrEnum):
    """What a query is taken for."""

    WORDS = "words"
    IMAGE = "image"
    IMAGE_ID = "image_id"
    EMBEDDING = "embedding"


@dataclass(frozen=True)
class Query:
    """What is searched for.

    Attributes:
        text: as it was typed.
        embedding: (D,) float32, unit norm.
        row_id: of a query that is an image of the run; it is not among its own results.
    """

    text: str
    kind: QueryKind
    embedding: np.ndarray
    row_id: int | None = None


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


def search_run(
    run_dir: RunDir, config: PipelineConfig, text: str, *, kind: QueryKind | None = None, top: int = 10
) -> SearchResult:
    """The `top` clusters and images nearest to a query.

    Args:
        config: the run's own, for its encoder.
        text: words; the path or URI of an image; an image_id of the run; or a .npy file of one embedding, of which
            `#17` at its end takes row 17.
        kind: what to take the query for; by default a file where there is one, then a noun of the run, an image_id,
            and any other words.

    Raises:
        ArtifactError: the run is not finished.
        InputError: nothing can be made of the query; the message says what is possible.
    """
    clusters = run_dir.stage("assign_clusters").read_table(
        "clusters", ["cluster_id", "name", "size"], schema=schemas.CLUSTERS
    )
    query = _Queries(run_dir, config).resolve(" ".join(text.split()) if kind is QueryKind.WORDS else text, kind)
    return SearchResult(
        query=query,
        clusters=_nearest_clusters(run_dir, clusters, query, top=top),
        images=_nearest_images(run_dir, clusters, query, top=top),
    )


def _nearest_clusters(run_dir: RunDir, clusters: pa.Table, query: Query, *, top: int) -> list[ClusterHit]:
    centers = run_dir.stage("assign_clusters").read_table("centers", ["cluster_id", "embedding"])
    centers = centers.filter(pc.is_in(centers["cluster_id"], clusters["cluster_id"]))
    matrix = matrix_of(centers["embedding"])
    _check_width(query, matrix.shape[1])
    similarity_of = dict(zip(centers["cluster_id"].to_pylist(), (matrix @ query.embedding).tolist(), strict=True))
    hits = [ClusterHit(similarity=similarity_of[row["cluster_id"]], **row) for row in clusters.to_pylist()]
    return sorted(hits, key=lambda hit: (-hit.similarity, hit.cluster_id))[:top]


def _check_width(query: Query, width: int) -> None:
    if len(query.embedding) != width:
        raise InputError(
            f"{query.text!r} gives an embedding of width {len(query.embedding)}, the images' have {width}; it must "
            "come from the encoder of the run"
        )


def _nearest_images(run_dir: RunDir, clusters: pa.Table, query: Query, *, top: int) -> list[ImageHit]:
    similarities, row_ids = np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64)
    parts = run_dir.stage("embed_images").iter_parts("images", ["row_id", "embedding"])
    for part in prefetched(parts, ahead=_PARTS_AHEAD):
        found = matrix_of(part["embedding"]).astype(np.float32) @ query.embedding
        similarities = np.concatenate([similarities, found])
        row_ids = np.concatenate([row_ids, part["row_id"].to_numpy()])
        best = np.lexsort((row_ids, -similarities))
        best = best[row_ids[best] != query.row_id][:top]
        similarities, row_ids = similarities[best], row_ids[best]
    rows = read_rows(
        run_dir.stage("assign_clusters"), "assignments", row_ids, ["row_id", "image_id", "cluster_id"]
    ).to_pylist()
    assigned = {row["row_id"]: row for row in rows}
    names = dict(zip(clusters["cluster_id"].to_pylist(), clusters["name"].to_pylist(), strict=True))
    return [
        ImageHit(similarity=similarity, cluster=names[assigned[row_id]["cluster_id"]], **assigned[row_id])
        for row_id, similarity in zip(row_ids.tolist(), similarities.tolist(), strict=True)
    ]


@dataclass(frozen=True)
class _Queries:
    """Makes embeddings of what people type, by what one run has: its nouns, its images, its encoder."""

    run_dir: RunDir
    config: PipelineConfig

    def resolve(self, text: str, kind: QueryKind | None) -> Query:
        if not text.strip():
            raise InputError("the query is empty; type words, an image file or an image_id of the run")
        makers = {
            QueryKind.EMBEDDING: self._embedding,
            QueryKind.IMAGE: self._image,
            QueryKind.IMAGE_ID: self._image_id,
            QueryKind.WORDS: self._words,
        }
        query = makers[kind](text) if kind is not None else self._guess(text)
        if query is None:
            raise InputError(f"no image of the run has the id {text!r}; an id here is {self._some_image_id()!r}")
        return query

    def _guess(self, text: str) -> Query:
        if _npy_location(text) is not None:
            return self._embedding(text)
        if "://" in text or Path(text).expanduser().is_file():
            return self._image(text)
        query = self._noun(text) or self._image_id(text)
        if query is not None:
            return query
        if PurePosixPath(text).suffix.lower() in IMAGE_SUFFIXES:
            raise InputError(
                f"there is no file {text}, and no image of the run has that id; an id here is {self._some_image_id()!r}"
            )
        return self._words(text)

    def _words(self, text: str) -> Query:
        query = self._noun(text)
        if query is not None:
            return query
        if self.config.vocabulary is None and self.config.source.kind == "embeddings":
            raise InputError(
                f"{text!r} cannot be searched for: this run has neither nouns nor an encoder. {self._possible()}"
            )
        if not self.config.needs_encoder:
            raise InputError(self._unknown_noun(text))
        encoder = self._encoder()
        return Query(text, QueryKind.WORDS, encoder.encode_nouns([text])[0])

    def _noun(self, text: str) -> Query | None:
        """A noun that the run has embedded already, by the words in any case."""
        wanted = " ".join(text.lower().split())
        for part in self._noun_parts(["noun", "embedding"]):
            position = pc.index(pc.utf8_lower(part["noun"]), wanted).as_py()
            if position >= 0:
                return Query(text, QueryKind.WORDS, _unit(matrix_of(part["embedding"].slice(position, 1))[0], text))
        return None

    def _noun_parts(self, columns: list[str]) -> Iterator[pa.Table]:
        if self.config.vocabulary is None:
            return iter(())
        return self.run_dir.stage("build_semantic_space").iter_parts("nouns", columns)

    def _unknown_noun(self, text: str) -> str:
        nouns = [noun for part in self._noun_parts(["noun"]) for noun in part["noun"].to_pylist()]
        close = difflib.get_close_matches(text.lower(), nouns, n=3) or nouns[:3]
        return (
            f"{text!r} is not among the {len(nouns)} nouns of this run (such as {', '.join(close)}), and it has no "
            f"encoder for other words: its images came as embeddings. {self._possible()}"
        )

    def _possible(self) -> str:
        return f"An image_id of the run works, such as {self._some_image_id()!r}, or a row of embeddings: FILE.npy#ROW"

    def _some_image_id(self) -> str:
        part = next(self.run_dir.stage("assign_clusters").iter_parts("assignments", ["image_id"]))
        return part["image_id"][0].as_py()

    def _image(self, text: str) -> Query:
        if not self.config.needs_encoder:
            raise InputError(
                f"{text} cannot be looked at: this run has no encoder, its images came as embeddings. "
                f"{self._possible()}"
            )
        file = fetch(text)
        source = self.config.source
        max_pixels = MAX_PIXELS if isinstance(source, EmbeddingsSource) else source.max_pixels
        try:
            if isinstance(file, ImageRejectedError):
                raise file
            image = decode_image(file, max_pixels=max_pixels)
        except ImageRejectedError as error:
            raise InputError(f"{text} cannot be searched for: {error.message}") from error
        encoder = self._encoder()
        return Query(text, QueryKind.IMAGE, encoder.encode_images(encoder.preprocess(image)[None])[0])

    def _encoder(self) -> Encoder:
        logger.info("search: loading the encoder %s", self.config.encoder.kind)
        return load_encoder(self.config.encoder)

    def _image_id(self, text: str) -> Query | None:
        for part in self.run_dir.stage("assign_clusters").iter_parts("assignments", ["row_id", "image_id"]):
            position = pc.index(part["image_id"], text).as_py()
            if position >= 0:
                row_id = part["row_id"][position].as_py()
                rows = load_rows(self.run_dir.stage("embed_images"), "images", np.array([row_id]))
                return Query(text, QueryKind.IMAGE_ID, _unit(rows.values[0], text), row_id)
        return None

    def _embedding(self, text: str) -> Query:
        location = _npy_location(text)
        if location is None:
            raise InputError(f"{text!r} is no file of an embedding; expected FILE.npy, or FILE.npy#ROW for one of many")
        path, row = location
        try:
            fs, place = filesystem_of(path)
            with fs.open(place, "rb") as file:
                values = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"cannot read an embedding from {path}: {error}") from error
        if values.ndim == 2 and row is None and len(values) == 1:
            row = 0
        if values.ndim == 2 and row is not None and row < len(values):
            values = values[row]
        if values.ndim != 1 or not np.issubdtype(values.dtype, np.floating):
            raise InputError(
                f"{text} has shape {values.shape} and type {values.dtype}; expected floats (D,), or (N, D) and the row "
                f"as in {path}#0"
            )
        return Query(text, QueryKind.EMBEDDING, _unit(values, text))


def _npy_location(text: str) -> tuple[str, int | None] | None:
    """Path and row of `FILE.npy` or `FILE.npy#17`; None for anything else."""
    path, separator, row = text.rpartition("#")
    if separator and path.endswith(_NPY_SUFFIX) and row.isdecimal():
        return path, int(row)
    return (text, None) if text.endswith(_NPY_SUFFIX) else None


def _unit(values: np.ndarray, text: str) -> np.ndarray:
    """float32 of unit norm."""
    unit, has_direction = to_unit_norm(values[None])
    if not has_direction[0]:
        raise InputError(f"the embedding of {text!r} {why_no_direction(values)}")
    return unit[0]
