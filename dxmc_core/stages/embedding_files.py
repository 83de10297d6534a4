"""Reads arrays that users bring: .npz, .npy and Parquet, from local disk or S3. Nothing is ever unpickled."""

import io
import zipfile
from dataclasses import dataclass

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dxmc_core.artifacts.storage import normalize_uri
from dxmc_core.errors import InputError


@dataclass(frozen=True)
class EmbeddingFile:
    """Embeddings (N, D) of any float type, an id for each row, labels as text where there are some."""

    embeddings: np.ndarray
    image_ids: list[str]
    labels: list[str] | None


def read_embedding_file(uri: str, *, label_from: str | None = None) -> EmbeddingFile:
    """Read `embeddings`, and `image_ids` and `labels` when they are there.

    Raises:
        InputError: the file is missing, of another kind, needs pickle, or its arrays do not fit one another.
    """
    uri = normalize_uri(uri)
    arrays = _read_arrays(uri)
    if "embeddings" not in arrays and "embedding" in arrays:
        arrays["embeddings"] = arrays["embedding"]
    if "embeddings" not in arrays:
        raise InputError(f"{uri} has no array 'embeddings'; it has {sorted(arrays)}")
    embeddings = arrays["embeddings"]
    if embeddings.ndim != 2 or not np.issubdtype(embeddings.dtype, np.floating) or 0 in embeddings.shape:
        raise InputError(
            f"{uri}: 'embeddings' has shape {embeddings.shape} and type {embeddings.dtype}; expected floats (N, D)"
        )
    label_name = label_from or "labels"
    if label_from is not None and label_from not in arrays:
        raise InputError(f"{uri} has no array {label_from!r} for source.label_from; it has {sorted(arrays)}")
    image_ids = _as_text(uri, "image_ids", arrays, len(embeddings))
    if image_ids is not None and len(set(image_ids)) != len(image_ids):
        raise InputError(f"{uri}: 'image_ids' holds the same id twice; ids are what results are joined on")
    return EmbeddingFile(
        embeddings=embeddings,
        image_ids=image_ids or [str(row) for row in range(len(embeddings))],
        labels=_as_text(uri, label_name, arrays, len(embeddings)),
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
    try:
        with fsspec.open(uri, "rb") as file:
            parquet = pq.ParquetFile(file)
            names = [name for name in ("embeddings", "embedding") if name in parquet.schema_arrow.names]
            if not names or parquet.metadata.num_rows == 0:
                raise InputError(f"{uri} has no rows in a column 'embeddings'; it has {parquet.schema_arrow.names}")
            first = next(parquet.iter_batches(1, columns=names[:1])).column(0)
            return parquet.metadata.num_rows, len(first[0])
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"cannot read {uri}: {error}; check source.uri") from error


def _as_text(uri: str, name: str, arrays: dict[str, np.ndarray], count: int) -> list[str] | None:
    if name not in arrays:
        return None
    values = arrays[name]
    if values.shape != (count,):
        raise InputError(f"{uri}: {name!r} has shape {values.shape}, expected ({count},) like the rows of 'embeddings'")
    return [str(value) for value in values.tolist()]


def _read_arrays(uri: str) -> dict[str, np.ndarray]:
    try:
        with fsspec.open(uri, "rb") as file:
            data = file.read()
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise InputError(f"cannot read {uri}: {error}; check source.uri") from error
    try:
        if uri.endswith(".npz"):
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        if uri.endswith(".npy"):
            return {"embeddings": np.load(io.BytesIO(data), allow_pickle=False)}
        if uri.endswith(".parquet"):
            table = pq.read_table(pa.BufferReader(data))
            return {name: _column_values(table[name]) for name in table.column_names}
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{uri} is not a readable file of arrays: {error}") from error
    raise InputError(f"{uri}: expected a file ending in .npz, .npy or .parquet")


def _column_values(column: pa.ChunkedArray) -> np.ndarray:
    if not (pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)):
        return column.to_numpy(zero_copy_only=False)
    values = column.combine_chunks()
    lengths = np.unique(values.value_lengths().to_numpy(zero_copy_only=False))
    if len(lengths) != 1:
        raise ValueError(f"a list column has rows of lengths {list(lengths)[:5]}, expected one width")
    return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), int(lengths[0]))
