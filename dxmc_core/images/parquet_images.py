"""Images in a column of Parquet files: lists their rows without reading the images, and reads single cells in order."""

import bisect
import itertools
import logging
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dxmc_core.artifacts.storage import filesystem_of, normalize_uri, open_file, storage_errors
from dxmc_core.artifacts.user_tables import common_types, open_parquet, require_utf8
from dxmc_core.artifacts.user_values import as_labels, as_text, require_once
from dxmc_core.errors import DxmcError, InputError, on_one_line
from dxmc_core.images.decode import ImageRejectedError, RejectReason
from dxmc_core.images.files import UNKNOWN_SIZE, FoundFile, find_holders
from dxmc_core.images.listing import (
    TABLE_ROWS,
    ListedImage,
    carried_names,
    problem_of,
    tables_of,
)
from dxmc_core.images.selection import Selection
from dxmc_core.images.sources import ParquetSource

#: Cells that are decoded from a file together.
_CELLS = 16
#: Read of a column at once, so that a row group is never in memory as a whole.
_BUFFER_BYTES = 4 << 20
#: Footers that are read at a time.
_FOOTER_THREADS = 16

logger = logging.getLogger(__name__)


def list_parquet(source: ParquetSource, selection: Selection | None = None) -> Iterator[pa.Table]:
    """List the rows of the Parquet files of a source, in the order of the files' names and of the rows in them.

    A file that is no Parquet is one row with a `problem`. Columns that hold no bytes are carried, those of all files,
    in types that hold what each file has (`user_tables.common_types`); where a file lacks one, it is null.

    Raises:
        InputError: there are no such files, or a column of the configuration is not there.
    """
    selection = selection or Selection.of(source)
    files = list(_files(normalize_uri(source.uri), selection))
    with ThreadPoolExecutor(_FOOTER_THREADS, thread_name_prefix="dxmc-footers") as threads:
        shards = [_Shard(file, found) for file, found in zip(files, threads.map(_schema_of, files), strict=True)]
    columns = _carried_columns(shards, source)
    usual = source.image_column or next((name for shard in shards for name in shard.image_columns), None)
    for shard in shards:
        for table in _list_shard(shard, source, columns, usual):
            yield rows_taken(table, selection, holder=shard.file.name)


def rows_taken(rows: pa.Table, selection: Selection, *, holder: str) -> pa.Table:
    """The rows of a listing whose `image_id`, or holder, the user's patterns take; and those with a problem."""
    if selection.takes_all:
        return rows
    columns = (rows[name].to_pylist() for name in ("image_id", "problem"))
    kept = [
        problem is not None or selection.takes_name(name, holder=holder) for name, problem in zip(*columns, strict=True)
    ]
    return rows.filter(pa.array(kept, pa.bool_()))


@dataclass(frozen=True)
class _Shard:
    """A Parquet file and its columns, or why it has none to read: a `problem` of the catalog."""

    file: FoundFile
    found: pa.Schema | str

    @property
    def image_columns(self) -> list[str]:
        """Columns that may be the images."""
        return [] if isinstance(self.found, str) else _image_columns(self.found)


@dataclass(frozen=True)
class _Carried:
    """A column of the user's, what it is called in the catalog, and its type there."""

    column: str
    name: str
    type: pa.DataType

    def of(self, table: pa.Table, file: FoundFile, lost: set[str]) -> pa.ChunkedArray:
        """The column of some rows; null where the file does not have it, or holds what cannot be carried.

        Args:
            lost: columns of this file that a line has been written about.
        """
        if table.column_names.count(self.column) == 1:
            try:
                table[self.column].validate(full=True)
                return table[self.column].cast(self.type)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                if self.column not in lost:
                    lost.add(self.column)
                    logger.warning(
                        "%s: column %r cannot be carried as %s and stays empty where that is so: %s",
                        file.uri, self.column, self.type, on_one_line(error),
                    )  # fmt: skip
        return pa.chunked_array([pa.nulls(table.num_rows, self.type)])


def _schema_of(file: FoundFile) -> pa.Schema | str:
    """The columns of a file, or the problem with it."""
    if file.problem is not None:
        return file.problem
    try:
        with open_file(file.uri, within=True) as opened:
            return open_parquet(opened, file.uri).schema_arrow
    except (pa.ArrowException, ValueError) as error:
        return _damage(error)
    except OSError as error:
        if not _is_damage(error):
            raise DxmcError(f"reading {file.uri} failed: {error}; run again") from error
        return _damage(error)


def _carried_columns(shards: Sequence[_Shard], source: ParquetSource) -> list[_Carried]:
    """The columns that are carried into the catalog; what is left out or renamed is said in a line."""
    types: dict[str, dict[str, pa.DataType]] = {}
    twice: set[tuple[str, str]] = set()
    for shard in shards:
        if isinstance(shard.found, str):
            continue
        for field in shard.found:
            if field.name in (source.id_column, source.label_from, source.image_column) or _holds_bytes(field.type):
                continue
            if shard.found.names.count(field.name) == 1:
                types.setdefault(field.name, {})[shard.file.uri] = field.type
            else:
                twice.add((shard.file.uri, field.name))
    for uri, name in sorted(twice):
        logger.warning("%s has several columns called %r; they are left out", uri, name)
    common = common_types(types)
    names = carried_names(common)
    for column, name in names.items():
        if name != column:
            logger.info("column %r is called like one of the catalog's and is carried as %r", column, name)
    return [_Carried(column, name, common[column]) for column, name in names.items()]


def _files(uri: str, selection: Selection) -> Iterator[FoundFile]:
    found = find_holders(uri, (".parquet",), selection)
    first = next(found, None)
    if first is None:
        raise InputError(selection.passed_over.said_after(f"no .parquet files in {uri}; check source.uri"))
    yield from itertools.chain([first], found)


def _list_shard(
    shard: _Shard, source: ParquetSource, columns: Sequence[_Carried], usual_image_column: str | None
) -> Iterator[pa.Table]:
    file, schema = shard.file, shard.found
    if isinstance(schema, str):
        yield _problem_row(file, columns, schema)
        return
    problem = None
    if not shard.image_columns and usual_image_column in schema.names:  # of a type that holds nothing
        problem = problem_of(RejectReason.MISSING, "the cell holds no bytes")
    else:
        _image_column(schema, source, file.uri)
    _require_columns(schema, source, file.uri)
    asked = [column for column in (source.id_column, source.label_from) if column is not None]
    wanted = list(dict.fromkeys([*(column.column for column in columns if column.column in schema.names), *asked]))
    lost: set[str] = set()
    try:
        with open_file(file.uri, within=True) as opened:
            start = 0
            for batch in open_parquet(opened, file.uri).iter_batches(batch_size=TABLE_ROWS, columns=wanted):
                table = pa.Table.from_batches([batch])
                rows = _listed_rows(table, start, file, source, problem)
                for column in columns:
                    rows = rows.append_column(column.name, column.of(table, file, lost))
                yield rows
                start += batch.num_rows
    except (pa.ArrowException, ValueError) as error:
        yield _problem_row(file, columns, _damage(error))
    except OSError as error:
        if not _is_damage(error):
            raise DxmcError(f"reading {file.uri} failed: {error}; run again") from error
        yield _problem_row(file, columns, _damage(error))


def _is_damage(error: Exception) -> bool:
    """pyarrow says OSError, without a number, of damaged pages; file systems give a number."""
    return type(error) is OSError and error.errno is None


def _damage(error: Exception) -> str:
    return problem_of(RejectReason.UNREADABLE, f"the file cannot be read as Parquet: {on_one_line(error)}")


def _problem_row(file: FoundFile, columns: Sequence[_Carried], problem: str) -> pa.Table:
    (rows,) = tables_of([ListedImage(file.name, file.uri, file.size, file.etag, problem=problem)])
    for column in columns:
        rows = rows.append_column(column.name, pa.nulls(1, column.type))
    return rows


def _listed_rows(table: pa.Table, start: int, file: FoundFile, source: ParquetSource, problem: str | None) -> pa.Table:
    numbers = range(start, start + table.num_rows)
    ids: list[str | None] = [f"{file.name}#{number}" for number in numbers]
    if source.id_column is not None:
        found = as_text(_values(table, source.id_column, file.uri))
        ids = [value or default for value, default in zip(found, ids, strict=True)]
    labels: list[str | None] = [None] * len(ids)
    if source.label_from is not None:
        labels = as_labels(_values(table, source.label_from, file.uri))
    (rows,) = tables_of(
        ListedImage(image_id or "", file.uri, UNKNOWN_SIZE, file.etag, label, number, problem)
        for image_id, label, number in zip(ids, labels, numbers, strict=True)
    )
    return rows


def _values(table: pa.Table, column: str, uri: str) -> list[Any]:
    """The values of a column, or of a field of a struct column, as in `image.path`."""
    name, field = (column, None) if column in table.column_names else column.split(".", 1)
    require_utf8(table[name], name, uri)
    values = table[name].to_pylist()
    return values if field is None else [value and value.get(field) for value in values]


def _holds_bytes(kind: pa.DataType) -> bool:
    return "binary" in str(kind)


def _image_column(schema: pa.Schema, source: ParquetSource, uri: str) -> str:
    candidates = _image_columns(schema)
    if source.image_column is not None:
        require_once(source.image_column, schema.names, uri)
        if source.image_column in candidates:
            return source.image_column
        raise InputError(f"{uri}: source.image_column {source.image_column!r} holds no bytes, only {candidates} do")
    if len(candidates) != 1:
        raise InputError(f"{uri}: expected one column of bytes, found {candidates}; name it in source.image_column")
    return candidates[0]


def _image_columns(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if _is_image_type(field.type)]


def _is_image_type(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and _is_image_type(kind.field(at).type)
    if pa.types.is_dictionary(kind):
        return _is_image_type(kind.value_type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _require_columns(schema: pa.Schema, source: ParquetSource, uri: str) -> None:
    for setting in ("id_column", "label_from"):
        column = getattr(source, setting)
        if column is None:
            continue
        if column in schema.names:
            require_once(column, schema.names, uri)
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
        except storage_errors() as error:
            if _is_damage(error):
                return self._lose(uri, row, RejectReason.UNREADABLE, f"damaged Parquet file: {error}")
            return self._lose(uri, row, RejectReason.UNREACHABLE, f"{type(error).__name__}: {error}")
        return _content(self._cells[row - self._start])

    def _open(self, uri: str, row: int) -> None:
        """Start reading at the row group of a row."""
        self._close()
        fs, path = filesystem_of(uri)
        self._file = fs.open(path, "rb", cache_type="readahead")
        # A struct with more than 2 GiB of bytes in a batch is read with offsets of 64 bits only.
        options = {"buffer_size": _BUFFER_BYTES, "pre_buffer": False, "binary_type": pa.large_binary()}
        parquet = open_parquet(self._file, uri, **options)
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
