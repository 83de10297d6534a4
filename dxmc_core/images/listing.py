"""Lists a source of images as rows of the catalog to be, a table at a time; nothing holds all of them.

Folders, prefixes and globs come in the order of their names; list files, tars and Parquet files in their own.
"""

import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from dxmc_core.artifacts.storage import (
    filesystem_of,
    is_http,
    normalize_uri,
    open_file,
    refusal_of,
    scheme_of,
    stat_of,
    storage_errors,
)
from dxmc_core.artifacts.tables import CATALOG
from dxmc_core.artifacts.user_values import as_labels, as_text
from dxmc_core.errors import InputError, on_one_line
from dxmc_core.images.decode import ImageRejectedError, RejectReason
from dxmc_core.images.files import UNKNOWN_SIZE, FoundFile, find_files, is_file, is_folder, is_glob
from dxmc_core.images.formats import sniff_format
from dxmc_core.images.objects import fetch
from dxmc_core.images.selection import IMAGE_SUFFIXES, Reason, Selection, ending_of
from dxmc_core.runtime.lookahead import map_ahead

LIST_SUFFIXES = (".txt", ".csv", ".parquet")
#: Columns that every listing has, in the order of `ListedImage`; others follow them.
LISTED = pa.schema([field for field in CATALOG.schema() if field.name != "row_id"])
TABLE_ROWS = 8192
#: Read of a file whose content decides whether it is listed; signatures are shorter.
SNIFFED_BYTES = 1024
_STAT_THREADS = 32


class ListedImage(NamedTuple):
    """One row of the catalog to be.

    Attributes:
        size: -1 when it is not known.
        offset: where in `uri` the image lies: byte of a tar, row of a Parquet file; None when it is the whole file.
        problem: why there can be no image, when the listing has shown it; see `problem_of`.
    """

    image_id: str
    uri: str
    size: int
    etag: str
    label: str | None = None
    offset: int | None = None
    problem: str | None = None


def problem_of(reason: RejectReason, message: str) -> str:
    """A rejection as the catalog carries it."""
    return str(ImageRejectedError(reason, message))


def rejection_of(problem: str) -> ImageRejectedError:
    """What `problem_of` wrote."""
    reason, _, message = problem.partition(": ")
    return ImageRejectedError(RejectReason(reason), message)


def list_images(uri: str, *, label_from: str | None = None, selection: Selection | None = None) -> Iterator[pa.Table]:
    """List image files.

    Args:
        uri: a folder or prefix (searched at all depths), a glob, or a .txt, .csv or .parquet list with a `uri` column.
        label_from: `parent_folder`, or a column of the list file; labels serve evaluation only.
        selection: which of the images; counts what is passed over.

    Raises:
        InputError: the place does not exist, may not be read, or holds no image.
    """
    uri = normalize_uri(uri)
    selection = selection or Selection()
    kind = _list_kind(uri)
    if kind is not None:
        tables = _list_file(uri, kind, label_from, selection)
        nothing = f"no images in {uri}; a list names one image a row"
    else:
        if label_from not in (None, "parent_folder"):
            raise InputError(
                f"source.label_from: a folder has no column {label_from!r}; expected parent_folder or null"
            )
        tables = tables_of(
            ListedImage(
                file.name, file.uri, file.size, file.etag, folder_label(file.uri, label_from), problem=file.problem
            )
            for file in _image_files(uri, selection)
        )
        endings = " ".join(sorted(IMAGE_SUFFIXES))
        nothing = f"no images in {uri}; looked for files ending in {endings} at all depths"
    first = next(tables, None)
    if first is None:
        raise InputError(selection.passed_over.said_after(nothing))
    return itertools.chain([first], tables)


def _image_files(uri: str, selection: Selection) -> Iterator[FoundFile]:
    """The files that are taken; where content decides, also those of other endings that begin like images."""
    if not selection.by_content:
        yield from find_files(uri, accept=selection.may_be_image, selection=selection)
        return

    def looked_at(file: FoundFile) -> tuple[FoundFile, bool]:
        if file.problem is not None or selection.may_be_image(file.name):
            return file, True
        start = fetch(file.uri, start=0, stop=SNIFFED_BYTES)
        return file, isinstance(start, ImageRejectedError) or sniff_format(start) is not None

    with ThreadPoolExecutor(_STAT_THREADS, thread_name_prefix="dxmc-sniff") as threads:
        found = find_files(uri, accept=lambda name: True, selection=selection)
        for file, is_image in map_ahead(looked_at, found, threads=threads, ahead=2 * _STAT_THREADS):
            if is_image:
                yield file
            else:
                selection.passed_over.add(Reason.CONTENT, ending_of(file.name))


def tables_of(images: Iterable[ListedImage]) -> Iterator[pa.Table]:
    """Rows as tables of the columns of `LISTED`."""
    rows = iter(images)
    while batch := list(itertools.islice(rows, TABLE_ROWS)):
        columns = dict(zip(ListedImage._fields, zip(*batch, strict=True), strict=True))
        yield pa.table([pa.array(columns[field.name], field.type) for field in LISTED], schema=LISTED)


def folder_label(path: str, label_from: str | None) -> str | None:
    return PurePosixPath(path).parent.name if label_from == "parent_folder" else None


def carried(table: pa.Table, *, taken: Iterable[str]) -> list[tuple[str, pa.ChunkedArray]]:
    """Columns of a user's table that go into the catalog as they are, but for those that hold bytes.

    One that is named like a column of the catalog becomes source_<name>.
    """
    left_out = set(taken)
    names = [
        name
        for name in table.column_names
        if name not in left_out and "binary" not in str(table.schema.field(name).type)
    ]
    return [(carried_as, table[name]) for name, carried_as in carried_names(names).items()]


def carried_names(names: Iterable[str]) -> dict[str, str]:
    """What a user's columns are called in the catalog: as they are, or source_<name> where the catalog has such one."""
    given = list(names)
    taken = {*given, *CATALOG.schema().names}
    found = {}
    for name in given:
        carried_as = name
        if name in CATALOG.schema().names:
            while carried_as in taken:
                carried_as = f"source_{carried_as}"
            taken.add(carried_as)
        found[name] = carried_as
    return found


def _list_kind(uri: str) -> str | None:
    """`.csv` for a list that is one; None for folders and for globs that match lists."""
    # An address may go on behind the name.
    name = (urlsplit(uri).path if is_http(uri) else uri).lower()
    kind = next((suffix for suffix in LIST_SUFFIXES if name.endswith(suffix)), None)
    if kind is None or (is_glob(uri) and not is_file(uri)) or is_folder(uri):
        return None
    return kind


def _list_file(uri: str, kind: str, label_from: str | None, selection: Selection) -> Iterator[pa.Table]:
    base = (uri.partition("?")[0] if is_http(uri) else uri).rsplit("/", 1)[0]
    with ThreadPoolExecutor(_STAT_THREADS, thread_name_prefix="dxmc-stat") as threads:
        for table in _read_list(uri, kind):
            if label_from not in (None, "parent_folder", *table.column_names):
                raise InputError(
                    f"{uri} has no column {label_from!r} for source.label_from; it has {sorted(table.column_names)}"
                )
            # Lines without a uri are no rows: files end with them.
            listed = [value or "" for value in as_text(table["uri"].to_pylist())]
            given = as_text(table["image_id"].to_pylist()) if "image_id" in table.column_names else listed
            kept = [
                value.strip() != "" and selection.takes_name(image_id or value)
                for value, image_id in zip(listed, given, strict=True)
            ]
            table = table.filter(pa.array(kept, pa.bool_()))
            if table.num_rows:
                yield _listed_rows(table, list(itertools.compress(listed, kept)), base, label_from, threads)


def _listed_rows(
    table: pa.Table, listed: list[str], base: str, label_from: str | None, threads: ThreadPoolExecutor
) -> pa.Table:
    columns = {name: table[name].to_pylist() for name in ("image_id", "size", "etag") if name in table.column_names}
    if "size" in columns and "etag" in columns:
        found = [
            _Named(value, uri_beside(value, base), _size_of(size), str(etag or "").strip('"'))
            for value, size, etag in zip(listed, columns["size"], columns["etag"], strict=True)
        ]
    else:
        found = list(threads.map(lambda value: _look_up(value, base), listed))
    if label_from == "parent_folder":
        labels = [folder_label(named.uri, label_from) for named in found]
    else:
        labels = as_labels(table[label_from].to_pylist()) if label_from is not None else [None] * len(found)
    ids = as_text(columns.get("image_id", [None] * len(found)))
    (rows,) = tables_of(
        ListedImage(image_id or named.value, named.uri, named.size, named.etag, label, problem=named.problem)
        for image_id, named, label in zip(ids, found, labels, strict=True)
    )
    for name, column in carried(table, taken=("uri", *columns, *([label_from] if label_from else []))):
        rows = rows.append_column(name, column)
    return rows


class _Named(NamedTuple):
    """What a row of a list names, as `ListedImage` has it."""

    value: str
    uri: str
    size: int
    etag: str
    problem: str | None = None


def uri_beside(value: str, base: str) -> str:
    """The whole URI of a file that is named in a file of the folder `base`."""
    if is_http(value):
        return value
    if value.startswith(("/", "file://")) or scheme_of(value) is not None:
        return normalize_uri(value)
    if is_http(base):
        return f"{base}/{quote(value)}"  # a name; only a whole address has a query
    return normalize_uri(f"{base}/{value}")


def _look_up(value: str, base: str) -> _Named:
    """The file of exactly this name, or else of the name without the blanks around it.

    Where there is none the size is -1; it becomes a row in rejects when it is read.
    """
    named = _Named(value, uri_beside(value, base), UNKNOWN_SIZE, "")
    try:
        fs, path = filesystem_of(named.uri)
        info = fs.info(path)
    except (OSError, InputError, ValueError):
        return named if value == value.strip() else _look_up(value.strip(), base)
    if info["type"] == "directory":
        return named._replace(problem=problem_of(RejectReason.NOT_AN_IMAGE, "it is a folder, not a file"))
    stat = stat_of(fs, named.uri, info)
    return named._replace(size=stat.size, etag=stat.etag)


def _size_of(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return UNKNOWN_SIZE


def _read_list(uri: str, kind: str) -> Iterator[pa.Table]:
    """The list file's rows as they stand there, in tables of at most `TABLE_ROWS`.

    Raises:
        InputError: it cannot be read, or has no column `uri`.
    """
    try:
        with open_file(uri, within=kind == ".parquet") as file:
            if kind == ".parquet":
                parquet = pq.ParquetFile(file)
                _require_uri_column(uri, parquet.schema_arrow.names)
                for batch in parquet.iter_batches(batch_size=TABLE_ROWS):
                    yield pa.Table.from_batches([batch])
                return
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            if kind == ".txt":
                lines = (line.rstrip("\r\n") for line in text)
                while batch := list(itertools.islice(lines, TABLE_ROWS)):
                    yield pa.table({"uri": batch})
                return
            rows = csv.reader(text)
            names = next(rows, [])
            _require_uri_column(uri, names)
            while found := list(itertools.islice(rows, TABLE_ROWS)):
                yield _csv_table(uri, names, found)
    except storage_errors() as error:
        said = refusal_of(error) or on_one_line(error)
        raise InputError(f"cannot read the list {uri}: {said}; check source.uri") from error
    except (UnicodeDecodeError, pa.ArrowInvalid, csv.Error) as error:
        raise InputError(f"{uri} is not a readable {kind.removeprefix('.')} file: {error}") from error


def _csv_table(uri: str, names: list[str], rows: list[list[str]]) -> pa.Table:
    rows = [row for row in rows if row]
    wrong = next((row for row in rows if len(row) != len(names)), None)
    if wrong is not None:
        raise InputError(f"{uri} has a row of {len(wrong)} values under {len(names)} columns: {','.join(wrong)[:80]}")
    return pa.table({name: pa.array([row[at] for row in rows], pa.string()) for at, name in enumerate(names)})


def _require_uri_column(uri: str, names: Sequence[str]) -> None:
    if "uri" not in names:
        raise InputError(f"{uri} has no column 'uri'; it has {sorted(names)}")
