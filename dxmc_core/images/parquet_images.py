"""Images in a column of Parquet files: lists their rows without reading the images, and reads single cells in order."""

import bisect
import itertools
import sys
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dxmc_core.artifacts.storage import STORAGE_ERRORS, filesystem_of, normalize_uri, open_file
from dxmc_core.errors import DxmcError, InputError
from dxmc_core.images.decode import ImageRejectedError, RejectReason
from dxmc_core.images.files import UNKNOWN_SIZE, FoundFile, find_holders
from dxmc_core.images.listing import (
    TABLE_ROWS,
    ListedImage,
    as_text,
    carried,
    problem_of,
    tables_of,
)
from dxmc_core.images.selection import Selection
from dxmc_core.images.sources import ParquetSource

#: Cells that are decoded from a file together.
_CELLS = 16
#: Read of a column at once, so that a row group is never in memory as a whole.
_BUFFER_BYTES = 4 << 20


def list_parquet(source: ParquetSource, selection: Selection | None = None) -> Iterator[pa.Table]:
    """List the rows of the Parquet files of a source, in the order of the files' names and of the rows in them.

    A file that is no Parquet is one row with a `problem`. Columns that hold no bytes are carried, those of the first
    file; where another file lacks one, it is null.

    Raises:
        InputError: there are no such files, or a column of the configuration is not there.
    """
    uri = normalize_uri(source.uri)
    selection = selection or Selection.of(source)
    schema: pa.Schema | None = None
    damaged: list[pa.Table] = []  # which say nothing of the columns
    for file in _files(uri, selection):
        for table in _list_file(file, source):
            table = selection.takes_rows(table, holder=file.name)
            if schema is None and table["problem"].null_count == 0:
                damaged.append(table)
                continue
            schema = schema or table.schema
            yield from [_as_schema(rows, schema, file.uri) for rows in (*damaged, table)]
            damaged = []
    yield from damaged


def _files(uri: str, selection: Selection) -> Iterator[FoundFile]:
    found = find_holders(uri, (".parquet",), selection)
    first = next(found, None)
    if first is None:
        raise InputError(selection.passed_over.said_after(f"no .parquet files in {uri}; check source.uri"))
    yield from itertools.chain([first], found)


def _as_schema(table: pa.Table, schema: pa.Schema, uri: str) -> pa.Table:
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        try:
            columns.append(table[field.name].cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(
                f"{uri}: column {field.name!r} is {table[field.name].type}, in the first file it is {field.type}; "
                "write the files with one schema"
            ) from error
    return pa.table(columns, schema=schema)


def _list_file(file: FoundFile, source: ParquetSource) -> Iterator[pa.Table]:
    if file.problem is not None:
        yield from tables_of([ListedImage(file.name, file.uri, file.size, file.etag, problem=file.problem)])
        return
    try:
        with open_file(file.uri, within=True) as opened:
            parquet = pq.ParquetFile(opened)
            schema = parquet.schema_arrow
            image_column = _image_column(schema, source, file.uri)
            _require_columns(schema, source, file.uri)
            kept = [name for name in schema.names if name != image_column and not _holds_bytes(schema.field(name).type)]
            wanted = [*kept, *([source.id_column] if source.id_column and source.id_column not in kept else [])]
            start = 0
            for batch in parquet.iter_batches(batch_size=TABLE_ROWS, columns=wanted):
                yield _listed_rows(pa.Table.from_batches([batch]), start, file, source, kept)
                start += batch.num_rows
    except pa.ArrowInvalid as error:
        yield from _damaged_file(file, error)
    except OSError as error:
        if not _is_damage(error):
            raise DxmcError(f"reading {file.uri} failed: {error}; run again") from error
        yield from _damaged_file(file, error)


def _is_damage(error: Exception) -> bool:
    """pyarrow says OSError, without a number, of damaged pages; file systems give a number."""
    return type(error) is OSError and error.errno is None


def _damaged_file(file: FoundFile, error: Exception) -> Iterator[pa.Table]:
    problem = problem_of(RejectReason.UNREADABLE, " ".join(f"the file cannot be read as Parquet: {error}".split()))
    return tables_of([ListedImage(file.name, file.uri, file.size, file.etag, problem=problem)])


def _listed_rows(table: pa.Table, start: int, file: FoundFile, source: ParquetSource, kept: list[str]) -> pa.Table:
    numbers = range(start, start + table.num_rows)
    ids: list[str | None] = [f"{file.name}#{number}" for number in numbers]
    if source.id_column is not None:
        found = as_text(_values(table, source.id_column))
        ids = [value or default for value, default in zip(found, ids, strict=True)]
    labels = as_text(_values(table, source.label_from)) if source.label_from is not None else [None] * len(ids)
    (rows,) = tables_of(
        ListedImage(image_id or "", file.uri, UNKNOWN_SIZE, file.etag, label, number)
        for image_id, label, number in zip(ids, labels, numbers, strict=True)
    )
    for name, column in carried(table.select(kept), taken=(source.id_column or "", source.label_from or "")):
        rows = rows.append_column(name, column)
    return rows


def _values(table: pa.Table, column: str) -> list[Any]:
    """The values of a column, or of a field of a struct column, as in `image.path`."""
    if column in table.column_names:
        return table[column].to_pylist()
    name, _, field = column.partition(".")
    return [value and value.get(field) for value in table[name].to_pylist()]


def _holds_bytes(kind: pa.DataType) -> bool:
    return "binary" in str(kind)


def _image_column(schema: pa.Schema, source: ParquetSource, uri: str) -> str:
    candidates = [field.name for field in schema if _is_image_type(field.type)]
    if source.image_column is not None:
        if source.image_column in candidates:
            return source.image_column
        raise InputError(f"{uri}: source.image_column {source.image_column!r} holds no bytes, only {candidates} do")
    if len(candidates) != 1:
        raise InputError(f"{uri}: expected one column of bytes, found {candidates}; name it in source.image_column")
    return candidates[0]


def _is_image_type(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and _is_image_type(kind.field(at).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _require_columns(schema: pa.Schema, source: ParquetSource, uri: str) -> None:
    for setting in ("id_column", "label_from"):
        column = getattr(source, setting)
        if column is None or column in schema.names:
            continue
        name, _, field = column.partition(".")
        kind = schema.field(name).type if name in schema.names else None
        if kind is None or not pa.types.is_struct(kind) or kind.get_field_index(field) < 0:
            raise InputError(f"{uri} has no column {column!r} for source.{setting}; it has {schema.names}")


class ParquetCells:
    """Reads image cells by file and row. Rows that ascend are read in one pass over a file, a few cells at a time."""

    def __init__(self, source: ParquetSource) -> None:
        self._source = source
        self._uri = ""
        self._file: Any = None
        self._group_ends: list[int] = []
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._cells: list[Any] = []
        self._start = 0
        self._lost: tuple[str, range, ImageRejectedError] | None = None

    def read(self, uri: str, row: int) -> bytes | ImageRejectedError:
        """The bytes of one cell, or why there are none. Damage costs the rest of its row group, and no other."""
        if self._lost is not None and uri == self._lost[0] and row in self._lost[1]:
            return self._lost[2]
        try:
            if uri != self._uri or row < self._start:
                self._open(uri, row)
            while row >= self._start + len(self._cells):
                self._start += len(self._cells)
                self._cells = next(self._batches).column(0).to_pylist()
        except FileNotFoundError:
            return self._lose(uri, row, RejectReason.MISSING, "the Parquet file is gone")
        except PermissionError as error:
            return self._lose(uri, row, RejectReason.ACCESS_DENIED, str(error))
        except (pa.ArrowException, InputError, StopIteration) as error:
            return self._lose(uri, row, RejectReason.UNREADABLE, f"damaged Parquet file: {error}")
        except STORAGE_ERRORS as error:
            if _is_damage(error):
                return self._lose(uri, row, RejectReason.UNREADABLE, f"damaged Parquet file: {error}")
            return self._lose(uri, row, RejectReason.UNREACHABLE, f"{type(error).__name__}: {error}")
        return _content(self._cells[row - self._start])

    def _open(self, uri: str, row: int) -> None:
        """Start reading at the row group of a row."""
        self._close()
        fs, path = filesystem_of(uri)
        self._file = fs.open(path, "rb", cache_type="readahead")
        parquet = pq.ParquetFile(self._file, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        column = _image_column(parquet.schema_arrow, self._source, uri)
        if pa.types.is_struct(parquet.schema_arrow.field(column).type):
            column = f"{column}.bytes"
        sizes = [parquet.metadata.row_group(index).num_rows for index in range(parquet.num_row_groups)]
        self._uri, self._group_ends = uri, list(itertools.accumulate(sizes))
        group = bisect.bisect_right(self._group_ends, row)
        if group == len(sizes):
            raise InputError(f"it has {sum(sizes)} rows, the catalog knows of row {row}")
        self._start = self._group_ends[group] - sizes[group]
        # Group by group, because pyarrow fills a batch up from the next group, and would fail with it.
        self._batches = itertools.chain.from_iterable(
            parquet.iter_batches(batch_size=_CELLS, row_groups=[index], columns=[column], use_threads=False)
            for index in range(group, len(sizes))
        )

    def _lose(self, uri: str, row: int, reason: RejectReason, message: str) -> ImageRejectedError:
        group = bisect.bisect_right(self._group_ends, row)
        known = uri == self._uri and group < len(self._group_ends)
        stop = self._group_ends[group] if known else sys.maxsize
        error = ImageRejectedError(reason, " ".join(message.split()))
        self._lost = (uri, range(row, stop), error)
        self._close()
        return error

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._uri, self._file, self._group_ends = "", None, []
        self._batches, self._cells, self._start = iter(()), [], 0


def _content(cell: Any) -> bytes | ImageRejectedError:
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if data is None:
        return ImageRejectedError(RejectReason.MISSING, "the cell holds no bytes")
    return data
