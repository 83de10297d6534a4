"""Finds files: all below a folder or prefix, or those that a glob matches, in the order of their names."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from dxmc_core.artifacts.storage import STORAGE_ERRORS, filesystem_of, normalize_uri, refusal_of, stat_of
from dxmc_core.errors import DxmcError, InputError
from dxmc_core.images.object_listing import list_objects, listing_filesystem

UNKNOWN_SIZE = -1
_GLOB_CHARACTERS = "*?["


@dataclass(frozen=True)
class FoundFile:
    """One file.

    Attributes:
        name: relative to the folder, or to the part of a glob before its first pattern.
        uri: absolute path, or with its scheme.
        size: in bytes; -1 when the file system did not say (a link to nowhere).
        etag: changes when the content does.
    """

    name: str
    uri: str
    size: int
    etag: str


def is_glob(uri: str) -> bool:
    return any(character in uri for character in _GLOB_CHARACTERS)


def find_files(uri: str, *, accept: Callable[[str], bool]) -> Iterator[FoundFile]:
    """The files of a folder or prefix at all depths, or those matching a glob, in the order of their names.

    A folder whose name has the characters of a glob is a folder. Local folders are followed through links, once.

    Args:
        accept: is given each path; files it refuses are left out.

    Raises:
        InputError: the place does not exist, is a single file, or may not be listed.
    """
    uri = normalize_uri(uri)
    fs, path = filesystem_of(uri)
    is_pattern = is_glob(path) and not _is_known_to_exist(fs, path)
    root = _glob_root(path) if is_pattern else path
    matches = re.compile(glob_translate(path)).match if is_pattern else None

    def wanted(found: str) -> bool:
        return accept(found) and (matches is None or matches(found) is not None)

    if isinstance(fs, LocalFileSystem):
        if not is_pattern:
            _require_folder(fs, path, uri)
        yield from _local_files(Path(root), wanted)
    elif "s3" in fs.protocol:
        yield from _s3_files(fs, root, wanted, uri=uri)
    else:
        if not is_pattern:
            _require_folder(fs, path, uri)
        yield from _other_files(fs, root, wanted, scheme=uri.split("://", 1)[0])


def _is_known_to_exist(fs: Any, path: str) -> bool:
    """False also where it may not be asked: the listing then says why, which S3's answer to a HEAD does not."""
    try:
        return fs.exists(path)
    except STORAGE_ERRORS:
        return False


def _exists(fs: Any, path: str, uri: str) -> bool:
    try:
        return fs.exists(path)
    except PermissionError as error:
        raise InputError(f"{uri} may not be read: {error}") from error


def _require_folder(fs: Any, path: str, uri: str) -> None:
    if not _exists(fs, path, uri):
        raise InputError(f"{uri} does not exist; check source.uri")
    if fs.isfile(path):
        raise InputError(f"{uri} is one file; source.uri takes a folder, a glob, or a list of files")


def _glob_root(path: str) -> str:
    """The longest folder of a glob before its first pattern."""
    parts = path.split("/")
    first = next(i for i, part in enumerate(parts) if is_glob(part))
    return "/".join(parts[:first]) or "/"


def _local_files(root: Path, wanted: Callable[[str], bool]) -> Iterator[FoundFile]:
    base = f"{root}".rstrip("/")

    def below(folder: str, above: frozenset[tuple[int, int]]) -> Iterator[FoundFile]:
        place = Path(folder).stat()
        if (place.st_dev, place.st_ino) in above:
            return
        above = above | {(place.st_dev, place.st_ino)}
        with os.scandir(folder) as entries:
            # A folder's files are named <folder>/..., so that is how it is ordered among its neighbours.
            ordered = sorted(((f"{entry.name}/" if entry.is_dir() else entry.name), entry) for entry in entries)
        for name, entry in ordered:
            if name.endswith("/"):
                yield from below(entry.path, above)
            elif wanted(entry.path):
                yield _local_file(base, entry)

    try:
        yield from below(base or "/", frozenset())
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} does not exist; check source.uri") from error
    except PermissionError as error:
        raise InputError(f"{error.filename} may not be listed: {error.strerror}") from error


def _local_file(base: str, entry: os.DirEntry) -> FoundFile:
    path = as_text(entry.path)
    name = path.removeprefix(f"{as_text(base)}/")
    try:
        stat = entry.stat()
    except OSError:
        return FoundFile(name, path, UNKNOWN_SIZE, "")
    return FoundFile(name, path, stat.st_size, f"{stat.st_size}-{stat.st_mtime_ns}")


def as_text(path: str) -> str:
    r"""A path, or a name in a tar, as Unicode text; bytes that are none become \udc... A file with such a path keeps
    its place in the catalog, and is missing when it is read."""
    return path.encode("utf-8", "backslashreplace").decode()


def _s3_files(fs: Any, root: str, wanted: Callable[[str], bool], *, uri: str) -> Iterator[FoundFile]:
    bucket, _, folder = root.partition("/")
    prefix = f"{folder}/" if folder else ""
    found_any = False
    try:
        for item in list_objects(listing_filesystem(fs), bucket, prefix):
            found_any = True
            if not item.key.endswith("/") and wanted(f"{bucket}/{item.key}"):
                yield FoundFile(item.key.removeprefix(prefix), f"s3://{bucket}/{item.key}", item.size, item.etag)
    except STORAGE_ERRORS as error:
        raise _listing_error(uri, error) from error
    if not found_any:
        if folder and fs.isfile(root):
            raise InputError(f"{uri} is one file; source.uri takes a folder, a glob, or a list of files")
        raise InputError(f"{uri} does not exist: no key starts with {prefix!r}; check source.uri")


def _listing_error(uri: str, error: Exception) -> DxmcError:
    refusal = refusal_of(error)
    if refusal is not None:
        return InputError(f"{uri} cannot be listed: {refusal}")
    if isinstance(error, FileNotFoundError):
        return InputError(f"{uri} does not exist: {error}; check source.uri")
    if isinstance(error, PermissionError):
        return InputError(f"{uri} may not be listed: {error}")
    return DxmcError(f"listing {uri} failed: {error}; run again")


def _other_files(fs: Any, root: str, wanted: Callable[[str], bool], *, scheme: str) -> Iterator[FoundFile]:
    """Any other file system that fsspec knows; its listing is held in memory."""
    for path, info in sorted(fs.find(root, detail=True).items()):
        if wanted(path):
            stat = stat_of(fs, f"{scheme}://{path}", info)
            yield FoundFile(path.removeprefix(f"{root}/"), stat.uri, stat.size, stat.etag)
