"""Makes embeddings of what people search a run for: by its nouns, its images, its encoder, or a file of embeddings."""

import difflib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dxmc_core.artifacts.matrices import RowFinder, matrix_of
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.storage import filesystem_of
from dxmc_core.artifacts.tables import NOUNS
from dxmc_core.config import PipelineConfig
from dxmc_core.encoders import Encoder, load_encoder
from dxmc_core.errors import InputError
from dxmc_core.images.decode import ImageRejectedError, decode_image
from dxmc_core.images.formats import MAX_PIXELS
from dxmc_core.images.objects import fetch
from dxmc_core.images.selection import IMAGE_SUFFIXES
from dxmc_core.images.sources import EmbeddingsSource
from dxmc_core.method.unit_rows import to_unit_norm, why_no_direction
from dxmc_core.search.kind import QueryKind

_NPY_SUFFIX = ".npy"

logger = logging.getLogger(__name__)


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
class Nouns:
    """The nouns of a run in lower case, and their embeddings (M, D)."""

    names: pa.Array
    embeddings: np.ndarray

    def find(self, words: str) -> np.ndarray | None:
        """The embedding (D,) of a noun, by the words in any case."""
        position = pc.index(self.names, " ".join(words.lower().split())).as_py()
        return self.embeddings[position] if position >= 0 else None


@dataclass
class Queries:
    """Makes queries of texts, for one run. What it has read or loaded for one it keeps for the next.

    Attributes:
        assigned: the columns row_id and image_id of all images.
    """

    run_dir: RunDir
    config: PipelineConfig
    assigned: pa.Table
    _file: tuple[str, np.ndarray] | None = field(default=None, init=False)

    def resolve(self, texts: Sequence[str], kind: QueryKind | None) -> list[Query]:
        """A query of each text; words that only the encoder knows are encoded together.

        Raises:
            InputError: nothing can be made of one of them; the message says what is possible.
        """
        found = [self._resolve(text, kind) for text in texts]
        words = [place for place, query in enumerate(found) if query is None]
        if words:
            embeddings = self._encoder.encode_nouns([texts[place] for place in words])
            for place, embedding in zip(words, embeddings, strict=True):
                found[place] = Query(texts[place], QueryKind.WORDS, embedding)
        return [query for query in found if query is not None]

    def _resolve(self, text: str, kind: QueryKind | None) -> Query | None:
        """None for words that the encoder has to read."""
        if not text.strip():
            raise InputError("the query is empty; type words, an image file or an image_id of the run")
        makers = {
            QueryKind.EMBEDDING: self._embedding,
            QueryKind.IMAGE: self._image,
            QueryKind.IMAGE_ID: self._image_id,
            QueryKind.WORDS: self._words,
        }
        if kind is None:
            return self._guess(text)
        query = makers[kind](text)
        if query is None and kind is QueryKind.IMAGE_ID:
            raise InputError(f"no image of the run has the id {text!r}; an id here is {self._some_image_id()!r}")
        return query

    def _guess(self, text: str) -> Query | None:
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

    def _words(self, text: str) -> Query | None:
        query = self._noun(text)
        if query is None and not self.config.needs_encoder:
            raise InputError(self._no_nouns(text) if self.config.vocabulary is None else self._unknown_noun(text))
        return query

    def _noun(self, text: str) -> Query | None:
        """A noun that the run has embedded already."""
        embedding = self._nouns.find(text)
        return Query(text, QueryKind.WORDS, _unit(embedding, text)) if embedding is not None else None

    @cached_property
    def _nouns(self) -> Nouns:
        if self.config.vocabulary is None:
            return Nouns(pa.array([], pa.string()), np.empty((0, 0), dtype=np.float32))
        table = self.run_dir.read_table(NOUNS, ["noun", "embedding"])
        return Nouns(pc.utf8_lower(table["noun"]), matrix_of(table["embedding"]))

    def _no_nouns(self, text: str) -> str:
        return f"{text!r} cannot be searched for: this run has neither nouns nor an encoder. {self._possible()}"

    def _unknown_noun(self, text: str) -> str:
        nouns = self._nouns.names.to_pylist()
        close = difflib.get_close_matches(text.lower(), nouns, n=3) or nouns[:3]
        return (
            f"{text!r} is not among the {len(nouns)} nouns of this run (such as {', '.join(close)}), and it has no "
            f"encoder for other words: its images came as embeddings. {self._possible()}"
        )

    def _possible(self) -> str:
        return f"An image_id of the run works, such as {self._some_image_id()!r}, or a row of embeddings: FILE.npy#ROW"

    def _some_image_id(self) -> str:
        return self.assigned["image_id"][0].as_py()

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
        encoder = self._encoder
        return Query(text, QueryKind.IMAGE, encoder.encode_images(encoder.preprocess(image)[None])[0])

    @cached_property
    def _encoder(self) -> Encoder:
        logger.info("search: loading the encoder %s", self.config.encoder.kind)
        return load_encoder(self.config.encoder)

    def _image_id(self, text: str) -> Query | None:
        position = pc.index(self.assigned["image_id"], text).as_py()
        if position < 0:
            return None
        row_id = self.assigned["row_id"][position].as_py()
        rows = self._stored_images.read(np.array([row_id]), ["row_id", "embedding"])
        return Query(text, QueryKind.IMAGE_ID, _unit(matrix_of(rows["embedding"])[0], text), row_id)

    @cached_property
    def _stored_images(self) -> RowFinder:
        return RowFinder.open(self.run_dir.stage("embed_images"), "images")

    def _embedding(self, text: str) -> Query:
        location = _npy_location(text)
        if location is None:
            raise InputError(f"{text!r} is no file of an embedding; expected FILE.npy, or FILE.npy#ROW for one of many")
        path, row = location
        if self._file is None or self._file[0] != path:
            self._file = path, load_embeddings(path)
        values = self._file[1]
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


def load_embeddings(path: str) -> np.ndarray:
    """The array of a .npy file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        fs, place = filesystem_of(path)
        with fs.open(place, "rb") as file:
            return np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cannot read an embedding from {path}: {error}") from error


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
