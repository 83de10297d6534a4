"""Parquet files that people bring: what is asked for is read, and nothing else; shards are brought to one schema."""

import itertools
import logging
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dxmc_core.artifacts.user_values import require_once
from dxmc_core.errors import InputError, on_one_line

#: What NumPy raises of an .npy or .npz that is damaged, or that holds pickled objects.
ARRAY_ERRORS = (ValueError, OSError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)
_ROWS_PER_BATCH = 8192

logger = logging.getLogger(__name__)


def open_parquet(file: IO[bytes] | pa.NativeFile, where: str, **options: Any) -> pq.ParquetFile:
    """A Parquet file.

    Raises:
        InputError: the name of a column is not UTF-8, so that none can be asked for.
        pa.ArrowInvalid: it is no Parquet, or damaged.
    """
    try:
        return pq.ParquetFile(file, **options)
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: the name of a column is not UTF-8 ({error}); write the file anew") from error


def read_columns(data: bytes, wanted: Sequence[str], where: str) -> dict[str, pa.ChunkedArray]:
    """Those of the columns asked for that a Parquet file has, in plain types (`plain_type`).

    Raises:
        InputError: it is no readable Parquet, has such a column twice, or one holds text that is not UTF-8.
    """
    try:
        parquet = open_parquet(pa.BufferReader(data), where)
        names = [name for name in wanted if name in parquet.schema_arrow.names]
        for name in names:
            require_once(name, parquet.schema_arrow.names, where)
        # In batches, because the lists of a longer column may hold more values than 32 bits count.
        batches = list(parquet.iter_batches(_ROWS_PER_BATCH, columns=names))
        columns: dict[str, pa.ChunkedArray] = {}
        for name in names:
            kind = parquet.schema_arrow.field(name).type
            column = pa.chunked_array([batch.column(name) for batch in batches], kind)
            columns[name] = column.cast(plain_type(kind))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{where} is not readable Parquet: {on_one_line(error)}") from error
    for name, column in columns.items():
        require_utf8(column, name, where)
    return columns


def column_names(data: bytes, where: str) -> list[str]:
    """The names of a Parquet file's columns, for errors."""
    return open_parquet(pa.BufferReader(data), where).schema_arrow.names


def require_utf8(column: pa.ChunkedArray, name: str, where: str) -> None:
    """Raises InputError when a column that is asked for holds text that is not UTF-8."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        raise InputError(f"{where}: column {name!r} holds text that is not UTF-8 ({on_one_line(error)})") from error


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type with dictionaries resolved, and with text and bytes in their common layout instead of views.

    Views of lists stay: pyarrow (26.0) makes of them lists with an offset too few.
    """
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(plain_type(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(plain_type(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(plain_type(field.type)) for field in kind])
    return kind


def common_types(types: Mapping[str, Mapping[str, pa.DataType]]) -> dict[str, pa.DataType]:
    """The types of columns over several files, each the narrowest that holds what all files have.

    null becomes any other type, int64 a double, list<null> a list of text. A column for which there is no such type is
    left out, with a warning.

    Args:
        types: by column, its types by the name of a file.
    """
    common = {}
    for name, by_file in types.items():
        (first, kind), *others = by_file.items()
        found = plain_type(kind)
        for file, kind in others:
            merged = _merged(found, kind)
            if merged is None:
                logger.warning(
                    "column %r is %s in %s and %s in %s; it is left out, as no type holds both",
                    name, by_file[first], first, kind, file,
                )  # fmt: skip
                break
            found = merged
        else:
            common[name] = found
    return common


def _merged(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    schemas = [pa.schema([("column", kind)]) for kind in (one, plain_type(other))]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field("column").type
    except (pa.ArrowTypeError, pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


def matrix_of_lists(column: pa.ChunkedArray) -> np.ndarray:
    """A column of lists of floats as a matrix (N, D) of their type; NaN where a row or a number is missing.

    Raises:
        ValueError: it holds something else, or lists of several lengths.
    """
    kind = getattr(column.type, "value_type", None)
    if kind is None or pa.types.is_dictionary(column.type) or not pa.types.is_floating(kind):
        raise ValueError(f"expected lists of floats, found {column.type}")
    chunks = [chunk for chunk in column.chunks if len(chunk)]
    lengths = [chunk.value_lengths().unique().to_pylist() for chunk in chunks]
    widths = sorted(set(itertools.chain(*lengths)) - {None})
    if len(widths) != 1:
        raise ValueError(f"the lists have widths {widths[:5]}, expected one width")
    matrix = np.full((len(column), widths[0]), np.nan, dtype=kind.to_pandas_dtype())
    start = 0
    for chunk in chunks:
        is_there = chunk.is_valid().to_numpy(zero_copy_only=False)
        values = chunk.flatten().to_numpy(zero_copy_only=False)
        matrix[start : start + len(chunk)][is_there] = values.reshape(-1, widths[0])
        start += len(chunk)
    return matrix


def take_rows(table: pa.Table, positions: np.ndarray) -> pa.Table:
    """Rows of a table by position, in the order given.

    `pa.Table.take` (26.0) first joins the chunks of a column, and fails where they hold more than 2 GiB of text.
    """
    wide = pa.schema([field.with_type(_wide(field.type)) for field in table.schema])
    return _taken(table.cast(wide), positions, table.schema)


def _taken(wide: pa.Table, positions: np.ndarray, schema: pa.Schema) -> pa.Table:
    """The rows in a type of 32-bit offsets again: in several pieces where one would not hold them."""
    try:
        return wide.take(pa.array(positions, pa.int64())).cast(schema)
    except pa.ArrowInvalid:
        if len(positions) < 2:
            raise
    halves = np.array_split(positions, 2)
    return pa.concat_tables([_taken(wide, half, schema) for half in halves])


def _wide(kind: pa.DataType) -> pa.DataType:
    """The type with offsets of 64 bits in text and bytes."""
    if pa.types.is_string(kind):
        return pa.large_string()
    if pa.types.is_binary(kind):
        return pa.large_binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_wide(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_wide(field.type)) for field in kind])
    return kind
