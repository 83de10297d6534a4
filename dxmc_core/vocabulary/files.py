"""Vocabularies that users bring: lists of nouns, and nouns with embeddings, from local disk or S3."""

import csv
import hashlib
import io
import posixpath
import zipfile
import zlib
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dxmc_core.artifacts.storage import filesystem_of, is_local, stat_file
from dxmc_core.errors import InputError
from dxmc_core.vocabulary.nouns import Vocabulary, distinct_nouns

DEFAULT_COLUMN = "noun"
SYNSET_COLUMN = "synset_id"
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def read_noun_list(uri: str, *, column: str | None = None) -> Vocabulary:
    """Nouns of a .txt (one a line), .csv, .tsv or .parquet file, in their order.

    Args:
        column: where a table has its nouns; by default `noun`.

    Raises:
        InputError: the file cannot be read, is of another kind, has no such column, or holds no noun.
    """
    data = _read_bytes(uri)
    suffix = posixpath.splitext(uri)[1].lower()
    if suffix == ".txt":
        if column is not None:
            raise InputError(f"vocabulary.column: {uri} has lines, not columns; leave vocabulary.column away")
        return distinct_nouns(_decode(data, uri).splitlines(), where=uri)
    if suffix in _DELIMITERS:
        columns = _delimited_columns(_decode(data, uri), _DELIMITERS[suffix], uri)
    elif suffix == ".parquet":
        columns = {name: values for name, values in _parquet_columns(data, uri).items() if _is_text(values.type)}
    else:
        raise InputError(f"vocabulary.uri: {uri} ends in {suffix or 'nothing'}, expected .txt, .csv, .tsv or .parquet")
    name = column or DEFAULT_COLUMN
    if name not in columns:
        raise InputError(f"{uri} has no text column {name!r}; set vocabulary.column to one of {sorted(columns)}")
    nouns, synset_ids = _texts(columns[name]), columns.get(SYNSET_COLUMN)
    return distinct_nouns(nouns, synset_ids=None if synset_ids is None else _texts(synset_ids), where=uri)


def read_noun_embeddings(uri: str) -> Vocabulary:
    """Nouns with embeddings (M, D) from .npz or .parquet; the embeddings keep their float type and length.

    Raises:
        InputError: the file cannot be read, arrays are missing, do not fit one another, or hold unusable rows.
    """
    data = _read_bytes(uri)
    if uri.endswith(".npz"):
        nouns, embeddings, synset_ids = _npz_arrays(data, uri)
    elif uri.endswith(".parquet"):
        nouns, embeddings, synset_ids = _parquet_arrays(data, uri)
    else:
        raise InputError(f"vocabulary.uri: expected a file ending in .npz or .parquet, found {uri}")
    if embeddings.ndim != 2 or not np.issubdtype(embeddings.dtype, np.floating) or 0 in embeddings.shape:
        raise InputError(
            f"{uri}: the embeddings have shape {embeddings.shape} and type {embeddings.dtype}; expected floats (M, D)"
        )
    if len(nouns) != len(embeddings):
        raise InputError(f"{uri}: {len(nouns)} nouns but {len(embeddings)} embeddings; expected one for each")
    norms = np.linalg.norm(embeddings.astype(np.float32), axis=1)
    unusable = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if len(unusable):
        raise InputError(
            f"{uri}: {len(unusable)} embeddings are zero or not finite, the first that of {nouns[unusable[0]]!r}"
        )
    return distinct_nouns(nouns, synset_ids=synset_ids, embeddings=embeddings, where=uri)


def content_identity(uri: str) -> dict:
    """Size and digest of a file's content; on object storage, its size and etag (nothing is downloaded).

    Raises:
        InputError: the file does not exist or may not be read.
    """
    stat = stat_file(uri)
    if is_local(uri):
        return {"size": stat.size, "sha256": _sha256(uri, stat.etag)}
    return {"size": stat.size, "etag": stat.etag}


@cache
def _sha256(uri: str, etag: str) -> str:
    """The digest of a local file; `etag` (size and time) makes a changed file a new entry of the cache."""
    return hashlib.sha256(_read_bytes(uri)).hexdigest()


def _read_bytes(uri: str) -> bytes:
    fs, path = filesystem_of(uri)
    try:
        return fs.cat_file(path)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"vocabulary.uri: there is no file {uri}") from error
    except OSError as error:
        raise InputError(f"vocabulary.uri: cannot read {uri}: {error}") from error


def _decode(data: bytes, uri: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{uri} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def _delimited_columns(text: str, delimiter: str, uri: str) -> dict[str, pa.ChunkedArray]:
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="")
        rows = list(reader)
    except csv.Error as error:
        raise InputError(f"{uri} is not a readable table: {error}") from error
    return {name: pa.chunked_array([[row[name] for row in rows]], pa.string()) for name in reader.fieldnames or ()}


def _parquet_columns(data: bytes, uri: str) -> dict[str, pa.ChunkedArray]:
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{uri} is not readable Parquet: {error}") from error
    return {name: table[name] for name in table.column_names}


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _texts(column: pa.ChunkedArray) -> list[str]:
    return [text or "" for text in column.to_pylist()]


def _npz_arrays(data: bytes, uri: str) -> tuple[list[str], np.ndarray, list[str] | None]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{uri} is not an .npz of plain arrays: {error}") from error
    missing = {"nouns", "embeddings"} - arrays.keys()
    if missing:
        raise InputError(f"{uri} has no array {sorted(missing)[0]!r}; it has {sorted(arrays)}")
    if arrays["nouns"].ndim != 1 or arrays["nouns"].dtype.kind not in "US":
        raise InputError(
            f"{uri}: 'nouns' has shape {arrays['nouns'].shape} and type {arrays['nouns'].dtype}; expected text (M,)"
        )
    synset_ids = arrays["synset_ids"].astype(str).tolist() if "synset_ids" in arrays else None
    if synset_ids is not None and len(synset_ids) != len(arrays["nouns"]):
        raise InputError(f"{uri}: {len(arrays['nouns'])} nouns but {len(synset_ids)} synset_ids")
    return _as_text(arrays["nouns"], uri), arrays["embeddings"], synset_ids


def _as_text(values: np.ndarray, uri: str) -> list[str]:
    if values.dtype.kind == "U":
        return values.tolist()
    return _decode(b"\n".join(values.tolist()), uri).split("\n")


def _parquet_arrays(data: bytes, uri: str) -> tuple[list[str], np.ndarray, list[str] | None]:
    columns = _parquet_columns(data, uri)
    missing = {DEFAULT_COLUMN, "embedding"} - columns.keys()
    if missing:
        raise InputError(f"{uri} has no column {sorted(missing)[0]!r}; it has {sorted(columns)}")
    kind = columns["embedding"].type
    if not _is_text(columns[DEFAULT_COLUMN].type) or not (pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise InputError(
            f"{uri}: the columns noun and embedding are {columns[DEFAULT_COLUMN].type} and {kind}; "
            "expected text and lists of floats"
        )
    rows = columns["embedding"].combine_chunks()
    widths = rows.value_lengths().unique().to_pylist()
    if rows.null_count or len(widths) != 1:
        raise InputError(f"{uri}: the embeddings have widths {widths[:5]}, expected one width and no nulls")
    embeddings = rows.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), widths[0])
    synset_ids = columns.get(SYNSET_COLUMN)
    return _texts(columns[DEFAULT_COLUMN]), embeddings, None if synset_ids is None else _texts(synset_ids)
