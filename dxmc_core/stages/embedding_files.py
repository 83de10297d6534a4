"""Reads arrays that users bring: .npz, .npy and Parquet, from local disk or S3. Nothing is ever unpickled."""

import io
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from dxmc_core.artifacts.storage import normalize_uri, open_file, read_user_file, stat_file
from dxmc_core.artifacts.user_tables import (
    ARRAY_ERRORS,
    column_names,
    matrix_of_lists,
    open_parquet,
    read_columns,
)
from dxmc_core.artifacts.user_values import as_labels, as_text, require_once
from dxmc_core.encoders import EmbeddedConfig, FurtherEncoderConfig
from dxmc_core.errors import InputError, named, on_one_line
from dxmc_core.images.listing import uri_beside

_SHAPE_ROWS = 1024


@dataclass(frozen=True)
class EmbeddingFile:
    """Embeddings (N, D) of any float type, and an id for each row.

    Attributes:
        labels, uris: as text where there are some (None: missing); URIs are whole.
    """

    embeddings: np.ndarray
    image_ids: list[str]
    labels: list[str | None] | None
    uris: list[str | None] | None = None


def read_embedding_file(uri: str, *, label_from: str | None = None) -> EmbeddingFile:
    """Read `embeddings`, and `image_ids`, `labels` and `uris` when they are there; nothing else is looked at.

    A row without an id gets `<file>#<row>`. A row of Parquet that is null is one of NaN.

    Raises:
        InputError: the file is missing, of another kind, needs pickle, or its arrays do not fit one another.
    """
    uri = normalize_uri(uri)
    label_name = label_from or "labels"
    arrays, names = _read_arrays(uri, ("embeddings", "embedding", "image_ids", "uris", "uri", label_name))
    embeddings = arrays.get("embeddings", arrays.get("embedding"))
    if embeddings is None:
        raise InputError(f"{uri} has no array 'embeddings'; it has {sorted(names)}")
    if embeddings.ndim != 2 or not np.issubdtype(embeddings.dtype, np.floating) or 0 in embeddings.shape:
        raise InputError(
            f"{uri}: 'embeddings' has shape {embeddings.shape} and type {embeddings.dtype}; expected floats (N, D)"
        )
    if label_from is not None and label_from not in arrays:
        raise InputError(f"{uri} has no array {label_from!r} for source.label_from; it has {sorted(names)}")
    labels = _values(uri, label_name, arrays, len(embeddings))
    return EmbeddingFile(
        embeddings=embeddings,
        image_ids=_image_ids(uri, _values(uri, "image_ids", arrays, len(embeddings)), len(embeddings)),
        labels=None if labels is None else as_labels(labels),
        uris=_uris(uri, _values(uri, "uris" if "uris" in arrays else "uri", arrays, len(embeddings))),
    )


def embedding_file_shape(uri: str) -> tuple[int, int]:
    """Rows N and width D of a file of embeddings; of Parquet only the footer and one row group are read.

    Raises:
        InputError: as of `read_embedding_file`.
    """
    uri = normalize_uri(uri)
    if not uri.endswith(".parquet"):
        count, width = read_embedding_file(uri).embeddings.shape
        return count, width
    stat_file(uri)
    try:
        with open_file(uri, within=True) as file:
            parquet = open_parquet(file, uri)
            names = [name for name in ("embeddings", "embedding") if name in parquet.schema_arrow.names]
            if not names or parquet.metadata.num_rows == 0:
                raise InputError(f"{uri} has no rows in a column 'embeddings'; it has {parquet.schema_arrow.names}")
            require_once(names[0], parquet.schema_arrow.names, uri)
            batch = next(parquet.iter_batches(_SHAPE_ROWS, columns=names[:1]))
            return parquet.metadata.num_rows, matrix_of_lists(pa.chunked_array([batch.column(0)])).shape[1]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"cannot read {uri}: {on_one_line(error)}; check source.uri") from error


def embedding_width_of(config: FurtherEncoderConfig) -> int | None:
    """D of an encoder or of a file in the place of one; None when only loading the model would tell."""
    if isinstance(config, EmbeddedConfig):
        return embedding_file_shape(config.uri)[1]
    return config.width()


def _values(uri: str, name: str, arrays: dict[str, np.ndarray], count: int) -> list[Any] | None:
    if name not in arrays:
        return None
    values = arrays[name]
    if values.shape != (count,):
        raise InputError(f"{uri}: {name!r} has shape {values.shape}, expected ({count},) like the rows of 'embeddings'")
    return (values.astype(str) if values.dtype.kind in "mM" else values).tolist()


def _image_ids(uri: str, values: list[Any] | None, count: int) -> list[str]:
    if values is None:
        return [str(row) for row in range(count)]
    file = posixpath.basename(uri)
    image_ids = [text or f"{file}#{row}" for row, text in enumerate(as_text(values))]
    if len(set(image_ids)) != len(image_ids):
        raise InputError(f"{uri}: 'image_ids' holds the same id twice; ids are what results are joined on")
    return image_ids


def _uris(uri: str, values: list[Any] | None) -> list[str | None] | None:
    if values is None:
        return None
    base = uri.rsplit("/", 1)[0]
    return [uri_beside(text, base) if text else None for text in as_text(values)]


def _read_arrays(uri: str, wanted: Sequence[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Those of the arrays asked for that the file has, and the names of all."""
    with named("source.uri"):
        data = read_user_file(uri)
    try:
        if uri.endswith(".npz"):
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                return {name: archive[name] for name in wanted if name in archive.files}, archive.files
        if uri.endswith(".npy"):
            return {"embeddings": np.load(io.BytesIO(data), allow_pickle=False)}, ["embeddings"]
        if uri.endswith(".parquet"):
            columns = read_columns(data, wanted, uri)
            return {name: _column_values(column) for name, column in columns.items()}, column_names(data, uri)
    except ARRAY_ERRORS as error:
        raise InputError(f"{uri} is not a readable file of arrays: {on_one_line(error)}") from error
    raise InputError(f"{uri}: expected a file ending in .npz, .npy or .parquet")


def _column_values(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_nested(column.type):
        return matrix_of_lists(column)
    values = np.empty(len(column), dtype=object)
    values[:] = column.to_pylist()
    return values
