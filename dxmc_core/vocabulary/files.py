"""Vocabularies that users bring: lists of nouns, and nouns with embeddings, from local disk or S3."""

import csv
import io
import posixpath

import numpy as np
import pyarrow as pa

from dxmc_core.artifacts.storage import read_user_file
from dxmc_core.artifacts.user_tables import (
    ARRAY_ERRORS,
    column_names,
    matrix_of_lists,
    read_columns,
)
from dxmc_core.artifacts.user_values import require_once
from dxmc_core.errors import InputError, named, on_one_line
from dxmc_core.method.nouns.vocabulary import Vocabulary, distinct_nouns
from dxmc_core.method.unit_rows import to_unit_norm

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
        columns = read_columns(data, (column or DEFAULT_COLUMN, SYNSET_COLUMN), uri)
    else:
        raise InputError(f"vocabulary.uri: {uri} ends in {suffix or 'nothing'}, expected .txt, .csv, .tsv or .parquet")
    name = column or DEFAULT_COLUMN
    if name not in columns or not _is_text(columns[name].type):
        names = column_names(data, uri) if suffix == ".parquet" else columns
        raise InputError(f"{uri} has no text column {name!r}; set vocabulary.column to one of {sorted(names)}")
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
    unusable = np.flatnonzero(~to_unit_norm(embeddings)[1])
    if len(unusable):
        raise InputError(
            f"{uri}: {len(unusable)} embeddings are zero or not finite, the first that of {nouns[unusable[0]]!r}"
        )
    return distinct_nouns(nouns, synset_ids=synset_ids, embeddings=embeddings, where=uri)


def _read_bytes(uri: str) -> bytes:
    with named("vocabulary.uri"):
        return read_user_file(uri)


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
    names = reader.fieldnames or ()
    for name in (DEFAULT_COLUMN, SYNSET_COLUMN):
        require_once(name, names, uri)
    return {name: pa.chunked_array([[row[name] for row in rows]], pa.string()) for name in names}


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _texts(column: pa.ChunkedArray) -> list[str]:
    return [text or "" for text in column.to_pylist()]


def _npz_arrays(data: bytes, uri: str) -> tuple[list[str], np.ndarray, list[str] | None]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            names = archive.files
            arrays = {name: archive[name] for name in ("nouns", "embeddings", "synset_ids") if name in names}
    except ARRAY_ERRORS as error:
        raise InputError(f"{uri} is not an .npz of plain arrays: {on_one_line(error)}") from error
    missing = {"nouns", "embeddings"} - arrays.keys()
    if missing:
        raise InputError(f"{uri} has no array {sorted(missing)[0]!r}; it has {sorted(names)}")
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
    columns = read_columns(data, (DEFAULT_COLUMN, "embedding", SYNSET_COLUMN), uri)
    missing = {DEFAULT_COLUMN, "embedding"} - columns.keys()
    if missing:
        raise InputError(f"{uri} has no column {sorted(missing)[0]!r}; it has {sorted(column_names(data, uri))}")
    if not _is_text(columns[DEFAULT_COLUMN].type):
        raise InputError(f"{uri}: the column noun is {columns[DEFAULT_COLUMN].type}; expected text")
    try:
        embeddings = matrix_of_lists(columns["embedding"])
    except ValueError as error:
        raise InputError(f"{uri}: the column embedding: {error}") from error
    synset_ids = columns.get(SYNSET_COLUMN)
    return _texts(columns[DEFAULT_COLUMN]), embeddings, None if synset_ids is None else _texts(synset_ids)
