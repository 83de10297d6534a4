"""Finds the images of a source: all below a folder or prefix, the matches of a glob, or the rows of a list file."""

import csv
import io
import itertools
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from dxmc_core.artifacts.storage import FileStat, filesystem_of, is_local, normalize_uri, stat_of
from dxmc_core.errors import InputError

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
_GLOB_CHARACTERS = "*?["
_STAT_FAILED = -1


@dataclass(frozen=True)
class ListedImage:
    """One row of the catalog to be. `size` is -1 when only the list file vouches for it."""

    image_id: str
    uri: str
    size: int
    etag: str
    label: str | None


def list_images(uri: str, *, label_from: str | None = None) -> list[ListedImage]:
    """List a source in the order of its image ids, each id once.

    Args:
        uri: a folder or prefix (searched at all depths), a glob, or a .txt, .csv or .parquet list with a `uri` column.
        label_from: `parent_folder`, or a column of the list file; labels serve evaluation only.

    Raises:
        InputError: the place does not exist, may not be read, or holds no image.
    """
    uri = normalize_uri(uri)
    if uri.endswith(LIST_SUFFIXES) and not _is_glob(uri):
        images = list(_list_file(uri, label_from))
    else:
        if label_from not in (None, "parent_folder"):
            raise InputError(
                f"source.label_from: a folder has no column {label_from!r}; expected parent_folder or null"
            )
        images = list(_list_folder(uri, label_from))
    if not images:
        raise InputError(
            f"no images in {uri}; looked for files ending in {' '.join(sorted(IMAGE_SUFFIXES))} at all depths"
        )
    images.sort(key=lambda image: image.image_id)
    for previous, image in itertools.pairwise(images):
        if previous.image_id == image.image_id:
            raise InputError(f"{uri} lists {image.image_id!r} twice; image ids are what results are joined on")
    return images


def _list_folder(uri: str, label_from: str | None) -> Iterator[ListedImage]:
    fs, path = filesystem_of(uri)
    is_pattern = _is_glob(path) and not fs.exists(path)
    root = _glob_root(path) if is_pattern else path
    try:
        if is_pattern:
            found = fs.glob(path, detail=True)
        else:
            if not fs.exists(path):
                raise InputError(f"{uri} does not exist; check source.uri")
            if fs.isfile(path):
                raise InputError(
                    f"{uri} is one file; source.uri takes a folder, a glob, or a list ending in "
                    f"{', '.join(LIST_SUFFIXES)}"
                )
            found = fs.find(path, detail=True)
    except PermissionError as error:
        raise InputError(f"{uri} may not be listed: {error}") from error
    scheme = "" if is_local(uri) else uri.split("://", 1)[0] + "://"
    for file_path, info in found.items():
        if info["type"] != "file" or not _may_be_image(file_path):
            continue
        stat = stat_of(fs, scheme + file_path, info)
        image_id = posixpath.relpath(file_path, root)
        yield ListedImage(image_id, stat.uri, stat.size, stat.etag, _folder_label(file_path, label_from))


def _may_be_image(path: str) -> bool:
    """True for image suffixes and for names without any (object keys are often hashes), never for hidden files."""
    name = PurePosixPath(path)
    return not name.name.startswith(".") and (name.suffix.lower() in IMAGE_SUFFIXES or name.suffix == "")


def _is_glob(path: str) -> bool:
    return any(character in path for character in _GLOB_CHARACTERS)


def _glob_root(path: str) -> str:
    """The longest folder of a glob before its first pattern."""
    parts = path.split("/")
    first = next(i for i, part in enumerate(parts) if _is_glob(part))
    return "/".join(parts[:first]) or "/"


def _folder_label(path: str, label_from: str | None) -> str | None:
    return PurePosixPath(path).parent.name if label_from == "parent_folder" else None


def _list_file(uri: str, label_from: str | None) -> Iterator[ListedImage]:
    rows = _read_list(uri)
    base = uri.rsplit("/", 1)[0]
    for row_number, row in enumerate(rows, start=1):
        listed = (row.get("uri") or "").strip()
        if not listed:
            continue
        if label_from not in (None, "parent_folder") and label_from not in row:
            raise InputError(f"{uri} has no column {label_from!r} for source.label_from; it has {sorted(row)}")
        image_uri = listed if "://" in listed or listed.startswith(("/", "~")) else f"{base}/{listed}"
        image_uri = normalize_uri(image_uri)
        stat = _stat_or_unknown(image_uri)
        label = row[label_from] if label_from in row else _folder_label(image_uri, label_from)
        image_id = row.get("image_id") or listed
        if not isinstance(image_id, str):
            raise InputError(f"{uri}, row {row_number}: image_id is {type(image_id).__name__}, expected text")
        yield ListedImage(image_id, image_uri, stat.size, stat.etag, None if label is None else str(label))


def _stat_or_unknown(uri: str) -> FileStat:
    """Size and etag, or size -1: a listed file that is not there becomes a row in rejects when it is read."""
    fs, path = filesystem_of(uri)
    try:
        return stat_of(fs, uri, fs.info(path))
    except OSError:
        return FileStat(uri, _STAT_FAILED, "")


def _read_list(uri: str) -> Iterable[dict]:
    try:
        with fsspec.open(uri, "rb") as file:
            data = file.read()
    except (FileNotFoundError, PermissionError) as error:
        raise InputError(f"cannot read the list {uri}: {error}; check source.uri") from error
    try:
        if uri.endswith(".txt"):
            return [{"uri": line} for line in data.decode().splitlines()]
        if uri.endswith(".csv"):
            rows: list[dict] = list(csv.DictReader(io.StringIO(data.decode(), newline="")))
        else:
            rows = pq.read_table(pa.BufferReader(data)).to_pylist()
    except (UnicodeDecodeError, pa.ArrowInvalid, csv.Error) as error:
        raise InputError(f"{uri} is not a readable {uri.rsplit('.', 1)[1]} file: {error}") from error
    if rows and "uri" not in rows[0]:
        raise InputError(f"{uri} has no column 'uri'; it has {sorted(rows[0])}")
    return rows
