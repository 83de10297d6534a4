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

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from dxmc_core.artifacts import schemas
from dxmc_core.artifacts.storage import filesystem_of, normalize_uri, refusal_of, stat_of, storage_failure
from dxmc_core.errors import InputError
from dxmc_core.images.decode import ImageRejectedError, RejectReason
from dxmc_core.images.files import UNKNOWN_SIZE, find_files, is_glob

IMAGE_SUFFIXES = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".avif",
        ".heic",
        ".heif",
        ".ppm",
        ".pgm",
        ".jp2",
        ".ico",
    )
)
LIST_SUFFIXES = (".txt", ".csv", ".parquet")
#: Columns that every listing has, in the order of `ListedImage`; others follow them.
LISTED = pa.schema([field for field in schemas.CATALOG if field.name != "row_id"])
TABLE_ROWS = 8192
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


def list_images(uri: str, *, label_from: str | None = None) -> Iterator[pa.Table]:
    """List image files.

    Args:
        uri: a folder or prefix (searched at all depths), a glob, or a .txt, .csv or .parquet list with a `uri` column.
        label_from: `parent_folder`, or a column of the list file; labels serve evaluation only.

    Raises:
        InputError: the place does not exist, may not be read, or holds no image.
    """
    uri = normalize_uri(uri)
    if uri.endswith(LIST_SUFFIXES) and not is_glob(uri):
        tables = _list_file(uri, label_from)
    else:
        if label_from not in (None, "parent_folder"):
            raise InputError(
                f"source.label_from: a folder has no column {label_from!r}; expected parent_folder or null"
            )
        tables = tables_of(
            ListedImage(file.name, file.uri, file.size, file.etag, folder_label(file.uri, label_from))
            for file in find_files(uri, accept=_may_be_image)
        )
    first = next(tables, None)
    if first is None:
        raise InputError(
            f"no images in {uri}; looked for files ending in {' '.join(sorted(IMAGE_SUFFIXES))} at all depths"
        )
    return itertools.chain([first], tables)


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
    return [
        (f"source_{name}" if name in schemas.CATALOG.names else name, table[name])
        for name in table.column_names
        if name not in left_out and "binary" not in str(table.schema.field(name).type)
    ]


def as_text(column: Sequence[Any]) -> list[str | None]:
    """Values of any type as text."""
    return [None if value is None else str(value) for value in column]


def _may_be_image(path: str) -> bool:
    """True for image suffixes and for names without any (object keys are often hashes), never for hidden files."""
    name = PurePosixPath(path)
    return not name.name.startswith(".") and (name.suffix.lower() in IMAGE_SUFFIXES or name.suffix == "")


def _list_file(uri: str, label_from: str | None) -> Iterator[pa.Table]:
    base = uri.rsplit("/", 1)[0]
    with ThreadPoolExecutor(_STAT_THREADS, thread_name_prefix="dxmc-stat") as threads:
        for table in _read_list(uri):
            if label_from not in (None, "parent_folder", *table.column_names):
                raise InputError(
                    f"{uri} has no column {label_from!r} for source.label_from; it has {sorted(table.column_names)}"
                )
            # Lines without a uri are no rows: files end with them.
            listed = [(value or "").strip() for value in as_text(table["uri"].to_pylist())]
            table = table.filter(pa.array([value != "" for value in listed]))
            if table.num_rows:
                yield _listed_rows(table, [value for value in listed if value], base, label_from, threads)


def _listed_rows(
    table: pa.Table, listed: list[str], base: str, label_from: str | None, threads: ThreadPoolExecutor
) -> pa.Table:
    columns = {name: table[name].to_pylist() for name in ("image_id", "size", "etag") if name in table.column_names}
    uris = [
        normalize_uri(value if "://" in value or value.startswith(("/", "~")) else f"{base}/{value}")
        for value in listed
    ]
    if "size" in columns and "etag" in columns:
        stats = [(_size_of(size), etag or "") for size, etag in zip(columns["size"], columns["etag"], strict=True)]
    else:
        stats = list(threads.map(_stat, uris))
    if label_from == "parent_folder":
        labels = [folder_label(uri, label_from) for uri in uris]
    else:
        labels = as_text(table[label_from].to_pylist()) if label_from is not None else [None] * len(uris)
    ids = [found or value for found, value in zip(as_text(columns.get("image_id", listed)), listed, strict=True)]
    (rows,) = tables_of(
        ListedImage(image_id, uri, size, str(etag).strip('"'), label)
        for image_id, uri, (size, etag), label in zip(ids, uris, stats, labels, strict=True)
    )
    for name, column in carried(table, taken=("uri", *columns, *([label_from] if label_from else []))):
        rows = rows.append_column(name, column)
    return rows


def _size_of(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return UNKNOWN_SIZE


def _stat(uri: str) -> tuple[int, str]:
    """Size and etag, or size -1: a listed file that is not there becomes a row in rejects when it is read."""
    try:
        fs, path = filesystem_of(uri)
        stat = stat_of(fs, uri, fs.info(path))
    except (OSError, InputError):
        return UNKNOWN_SIZE, ""
    return stat.size, stat.etag


def _read_list(uri: str) -> Iterator[pa.Table]:
    """The list file's rows as they stand there, in tables of at most `TABLE_ROWS`.

    Raises:
        InputError: it cannot be read, or has no column `uri`.
    """
    try:
        with fsspec.open(uri, "rb") as file:
            if uri.endswith(".parquet"):
                parquet = pq.ParquetFile(file)
                _require_uri_column(uri, parquet.schema_arrow.names)
                for batch in parquet.iter_batches(batch_size=TABLE_ROWS):
                    yield pa.Table.from_batches([batch])
                return
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            if uri.endswith(".txt"):
                lines = (line.rstrip("\r\n") for line in text)
                while batch := list(itertools.islice(lines, TABLE_ROWS)):
                    yield pa.table({"uri": batch})
                return
            rows = csv.reader(text)
            names = next(rows, [])
            _require_uri_column(uri, names)
            while found := list(itertools.islice(rows, TABLE_ROWS)):
                yield _csv_table(uri, names, found)
    except OSError as error:
        if storage_failure(error) is None and not isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise InputError(f"cannot read the list {uri}: {refusal_of(error) or error}; check source.uri") from error
    except (UnicodeDecodeError, pa.ArrowInvalid, csv.Error) as error:
        raise InputError(f"{uri} is not a readable {uri.rsplit('.', 1)[1]} file: {error}") from error


def _csv_table(uri: str, names: list[str], rows: list[list[str]]) -> pa.Table:
    rows = [row for row in rows if row]
    wrong = next((row for row in rows if len(row) != len(names)), None)
    if wrong is not None:
        raise InputError(f"{uri} has a row of {len(wrong)} values under {len(names)} columns: {','.join(wrong)[:80]}")
    return pa.table({name: pa.array([row[at] for row in rows], pa.string()) for at, name in enumerate(names)})


def _require_uri_column(uri: str, names: Sequence[str]) -> None:
    if "uri" not in names:
        raise InputError(f"{uri} has no column 'uri'; it has {sorted(names)}")
