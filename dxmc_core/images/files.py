"""Finds files: all below a folder or prefix, or those that a glob matches, in the order of their names."""

import errno
import os
import posixpath
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from dxmc_core.artifacts.storage import (
    filesystem_of,
    is_http,
    kind_of_place,
    normalize_uri,
    refusal_of,
    require_file,
    stat_file,
    stat_of,
    storage_errors,
)
from dxmc_core.errors import DxmcError, InputError, on_one_line
from dxmc_core.images.decode import ImageRejectedError, RejectReason
from dxmc_core.images.object_listing import list_objects, listing_filesystem
from dxmc_core.images.selection import Reason, Selection, hidden_part

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
        problem: why it cannot be read, when the listing has shown it; as the catalog carries it.
    """

    name: str
    uri: str
    size: int
    etag: str
    problem: str | None = None


def is_glob(uri: str) -> bool:
    return any(character in uri for character in _GLOB_CHARACTERS)


def find_files(
    uri: str, *, accept: Callable[[str], bool], selection: Selection | None = None, hold_images: bool = False
) -> Iterator[FoundFile]:
    """The files of a folder or prefix at all depths, or those matching a glob, in the order of their names.

    A folder whose name has the characters of a glob is a folder. Local folders are followed through links, once.

    Args:
        accept: is given each name; files it refuses are passed over.
        selection: what else is passed over; counts all that is.
        hold_images: the files are tars or Parquet files, so that patterns to be included may be meant for what is in
            them.

    Raises:
        InputError: the place does not exist, is a single file, or may not be listed.
    """
    uri = normalize_uri(uri)
    fs, path = filesystem_of(uri)
    root, pattern = literal_part(fs, path, is_glob)
    selection = selection or Selection()
    wanted = _Wanted(uri, pattern, accept, selection, hold_images, own=_names_below(fs, root, selection.own))
    if isinstance(fs, LocalFileSystem):
        yield from _LocalWalk(root, wanted, uri=uri).files()
    elif "s3" in fs.protocol:
        yield from _s3_files(fs, root, wanted, uri=uri)
    else:
        yield from _other_files(fs, root, wanted, uri=uri)


def _names_below(fs: AbstractFileSystem, root: str, uris: Iterable[str]) -> tuple[str, ...]:
    """Folders as names relative to a root, with a slash at their end; those that lie elsewhere are left out."""
    real = os.path.realpath if isinstance(fs, LocalFileSystem) else str
    base = f"{real(root).rstrip('/')}/"
    places = (filesystem_of(uri) for uri in uris)
    paths = [real(path) for other, path in places if type(other) is type(fs)]
    return tuple(f"{path.removeprefix(base)}/" for path in paths if path.startswith(base))


def find_holders(uri: str, endings: tuple[str, ...], selection: Selection) -> Iterator[FoundFile]:
    """Tars or Parquet files: the one of exactly this name, or those of a folder, prefix or glob.

    Raises:
        InputError: as of `find_files`, or there is no such file.
    """
    uri = normalize_uri(uri)
    is_named = uri.lower().endswith(endings)
    if (is_named and not is_glob(uri) and not is_folder(uri)) or (is_file(uri) and (is_named or not is_http(uri))):
        fs, path = filesystem_of(uri)
        if isinstance(fs, LocalFileSystem) and fs.exists(path):
            require_file(path)
        found = stat_file(uri)
        yield FoundFile(posixpath.basename(uri), found.uri, found.size, found.etag)
        return
    yield from find_files(
        uri, accept=lambda name: name.lower().endswith(endings), selection=selection, hold_images=True
    )


def is_file(uri: str) -> bool:
    """Whether there is a file of exactly this name."""
    return _is_known(uri, "file")


def is_folder(uri: str) -> bool:
    return _is_known(uri, "directory")


def _is_known(uri: str, kind: str) -> bool:
    """False also where it may not be asked: what is done next then says why, which S3's answer to a HEAD does not."""
    fs, path = filesystem_of(uri)
    try:
        return fs.info(path)["type"] == kind
    except storage_errors(ValueError):
        return False


def literal_part(fs: Any, path: str, is_pattern: Callable[[str], bool]) -> tuple[str, str]:
    """Split a path where it stops being the name of something and is a pattern; the pattern may be empty.

    A part that looks like a pattern is none when there is a file or folder of just this name.
    """
    parts = path.split("/")
    for at, part in enumerate(parts):
        if is_pattern(part) and not _is_known_to_exist(fs, "/".join(parts[: at + 1])):
            return "/".join(parts[:at]), "/".join(parts[at:])
    return path, ""


def _is_known_to_exist(fs: Any, path: str) -> bool:
    try:
        return fs.exists(path)
    except storage_errors(ValueError):
        return False


class _Wanted:
    """Decides by their names which files are taken."""

    def __init__(
        self,
        uri: str,
        pattern: str,
        accept: Callable[[str], bool],
        selection: Selection,
        hold_images: bool,
        *,
        own: tuple[str, ...],
    ) -> None:
        self._own = own
        self.is_glob = pattern != ""
        self.selection = selection
        self._accept = accept
        self._hold_images = hold_images
        self._may_be_hidden = self.is_glob and hidden_part(pattern) is not None
        try:
            self._matches = re.compile(glob_translate(pattern)).match if self.is_glob else None
        except ValueError as error:
            raise InputError(f"source.uri: {uri} is no glob: {error}") from error

    def is_own(self, name: str) -> bool:
        """Whether a name is in a folder that dxmc writes into, or is its name with a slash."""
        return name.startswith(self._own)

    def __call__(self, name: str) -> bool:
        if self.is_own(name):
            return False
        if self._matches is not None and not self._matches(name):
            return False
        if not (self._may_be_hidden or self.selection.takes_visible(name)):
            return False
        takes = self.selection.takes_holder if self._hold_images else self.selection.takes_name
        if not takes(name):
            return False
        if self._accept(name):
            return True
        self.selection.pass_ending(name, of_images=not self._hold_images)
        return False


@dataclass
class _Folder:
    """A folder that is being walked.

    Attributes:
        place: its device and inode.
        entries: (name, entry), folders with a slash at the end of their name, in the order of these names.
        followed: places that were entered by links since one led away from the tree; None in the tree itself.
    """

    place: tuple[int, int]
    entries: Iterator[tuple[str, os.DirEntry]]
    followed: set[tuple[int, int]] | None


class _LocalWalk:
    """The files below a local folder, in the order of their names; links to folders are followed, once."""

    def __init__(self, root: str, wanted: _Wanted, *, uri: str) -> None:
        self._root = root or "/"
        self._base = root.rstrip("/")
        self._wanted = wanted
        self._passed_over = wanted.selection.passed_over
        self._uri = uri

    def files(self) -> Iterator[FoundFile]:
        stack = [self._enter_root()]
        above = {stack[0].place}
        while stack:
            name, entry = next(stack[-1].entries, ("", None))
            if entry is None:
                above.discard(stack.pop().place)
            elif name.endswith("/") and self._wanted.is_own(f"{self._name_of(entry.path)}/"):
                continue
            elif name.endswith("/"):
                folder = self._enter(entry, above, stack[-1].followed)
                if folder is not None:
                    stack.append(folder)
                    above.add(folder.place)
            elif self._wanted(self._name_of(entry.path)):
                file = self._file(entry)
                if file is not None:
                    yield file

    def _name_of(self, path: str) -> str:
        return as_text(path.removeprefix(f"{self._base}/"))

    def _enter_root(self) -> _Folder:
        try:
            mode = Path(self._root).stat().st_mode
            if stat.S_ISREG(mode):
                raise InputError(f"{self._uri} is one file; source.uri takes a folder, a glob, or a list of files")
            if not stat.S_ISDIR(mode):
                raise InputError(f"{self._uri} is {kind_of_place(mode)}; source.uri takes a folder, a glob, or a list")
            return _Folder(_place_of(self._root), _entries_of(self._root), None)
        except (FileNotFoundError, NotADirectoryError, ValueError) as error:
            raise InputError(f"{as_text(self._root)} does not exist; check source.uri") from error
        except PermissionError as error:
            raise InputError(f"{as_text(self._root)} may not be listed: {error.strerror}") from error
        except OSError as error:
            raise InputError(f"{as_text(self._root)} cannot be listed: {error.strerror}; check source.uri") from error

    def _enter(
        self, entry: os.DirEntry, above: set[tuple[int, int]], followed: set[tuple[int, int]] | None
    ) -> _Folder | None:
        name = self._name_of(entry.path)
        try:
            is_link, place = entry.is_symlink(), _place_of(entry.path)
            if place in above or (is_link and followed is not None and place in followed):
                self._passed_over.add(Reason.CIRCLE, _shortened(name))
                return None
            if is_link:
                followed = followed if followed is not None else set()
                followed.add(place)
            return _Folder(place, _entries_of(entry.path), followed)
        except OSError as error:
            if self._wanted.selection.takes_visible(f"{name}/"):
                self._passed_over.add(Reason.FOLDER, f"{_shortened(name)}: {error.strerror}")
            return None

    def _file(self, entry: os.DirEntry) -> FoundFile | None:
        """None for what is no file."""
        name, path = self._name_of(entry.path), as_text(entry.path)
        problem = None
        if path != entry.path:
            problem = _problem(
                RejectReason.UNSUPPORTED, "the name of the file, or of its folder, is not UTF-8; rename it"
            )
        try:
            found = entry.stat()
        except OSError as error:
            if error.errno != errno.ENOENT:
                problem = problem or _problem(RejectReason.MISSING, f"it cannot be found: {error.strerror}")
            return FoundFile(name, path, UNKNOWN_SIZE, "", problem)
        if not stat.S_ISREG(found.st_mode):
            self._passed_over.add(Reason.NOT_A_FILE, kind_of_place(found.st_mode).removeprefix("a "))
            return None
        return FoundFile(name, path, found.st_size, f"{found.st_size}-{found.st_mtime_ns}", problem)


def _place_of(path: str) -> tuple[int, int]:
    found = Path(path).stat()
    return found.st_dev, found.st_ino


def _entries_of(folder: str) -> Iterator[tuple[str, os.DirEntry]]:
    with os.scandir(folder) as entries:
        # A folder's files are named <folder>/..., so that is how it is ordered among its neighbours.
        named = ((f"{entry.name}/" if _is_folder(entry) else entry.name, entry) for entry in entries)
        return iter(sorted(named, key=lambda item: item[0]))


def _is_folder(entry: os.DirEntry) -> bool:
    """False for links that lead nowhere, or in a circle."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _problem(reason: RejectReason, message: str) -> str:
    return str(ImageRejectedError(reason, message))


def _shortened(name: str) -> str:
    return name if len(name) <= 100 else f"{name[:60]}...{name[-30:]}"


def as_text(path: str) -> str:
    r"""A path, or a name in a tar, as Unicode text; bytes that are none become \udc..."""
    return path.encode("utf-8", "backslashreplace").decode()


def _s3_files(fs: Any, root: str, wanted: _Wanted, *, uri: str) -> Iterator[FoundFile]:
    bucket, _, folder = root.partition("/")
    if not bucket:
        raise InputError(f"{uri} names no bucket; expected s3://bucket/prefix")
    prefix = f"{folder}/" if folder else ""
    found_any = False
    try:
        for item in list_objects(listing_filesystem(fs), bucket, prefix):
            found_any = True
            if item.key.endswith("/"):
                # It stands for a folder; what else it holds has no name as a file.
                if item.size:
                    wanted.selection.passed_over.add(Reason.NOT_A_FILE, "object named like a folder")
            elif wanted(name := item.key.removeprefix(prefix)):
                yield FoundFile(name, f"s3://{bucket}/{item.key}", item.size, item.etag)
    except storage_errors() as error:
        raise _listing_error(uri, error) from error
    if not found_any:
        if folder and not wanted.is_glob and fs.isfile(root):
            raise InputError(f"{uri} is one file; source.uri takes a folder, a glob, or a list of files")
        raise InputError(f"{uri} does not exist: no key starts with {prefix!r}; check source.uri")


def _listing_error(uri: str, error: Exception) -> DxmcError:
    refusal = refusal_of(error)
    if refusal is not None:
        return InputError(f"{uri} cannot be listed: {refusal}")
    if isinstance(error, FileNotFoundError):
        return InputError(f"{uri} does not exist: {on_one_line(error)}; check source.uri")
    if isinstance(error, PermissionError):
        return InputError(f"{uri} may not be listed: {on_one_line(error)}")
    return DxmcError(f"listing {uri} failed: {on_one_line(error)}; run again")


def _other_files(fs: Any, root: str, wanted: _Wanted, *, uri: str) -> Iterator[FoundFile]:
    """Any other file system that fsspec knows; its listing is held in memory."""
    scheme = uri.split("://", 1)[0]
    try:
        if not wanted.is_glob and not fs.exists(root):
            raise InputError(f"{uri} does not exist; check source.uri")
        # To a server everything is a file; one that shows a folder sends a page of links.
        if not wanted.is_glob and fs.isfile(root) and fs.info(root).get("mimetype") != "text/html":
            raise InputError(f"{uri} is one file; source.uri takes a folder, a glob, or a list of files")
        listed = fs.find(root, detail=True)
    except storage_errors(ValueError) as error:
        raise _listing_error(uri, error) from error
    for path, info in sorted(listed.items()):
        name = path.removeprefix(f"{root}/")
        if wanted(name):
            found = stat_of(fs, path if "://" in path else f"{scheme}://{path}", info)
            yield FoundFile(name, found.uri, found.size, found.etag)
