"""A folder on local disk or in object storage, with the few operations artifacts need.

Every write is all or nothing: a local file is written beside its place, synced and renamed; an S3 object appears
with its last byte. Nothing here needs a rename on S3.
"""

import errno
import fcntl
import hashlib
import io
import os
import re
import shutil
import stat
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from dxmc_core.errors import DxmcError, InputError, on_one_line

_S3_SCHEMES = ("s3", "s3a")


#: What S3 refuses every request of a process for, and what a person can do about it.
_REFUSALS = {
    "ExpiredToken": "the credentials have expired; renew them",
    "InvalidAccessKeyId": "these credentials are unknown there; check them",
    "SignatureDoesNotMatch": "the secret key does not fit; check the credentials",
    "RequestTimeTooSkewed": "the clock of this machine differs too much from that of the service; set it",
    "NoSuchBucket": "there is no such bucket; make it, or give another address",
}


def storage_errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """What a file system raises when a service fails for good: s3fs hands on what botocore and aiohttp raised last.

    Args:
        others: to be caught with them.
    """
    aiohttp = sys.modules.get("aiohttp")  # it takes long to load, and what is not loaded has raised nothing
    own = (OSError, BotoCoreError, ClientError, *others)
    return own if aiohttp is None else (*own, aiohttp.ClientError)


_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def scheme_of(uri: str) -> str | None:
    """`s3` of s3://bucket/key; None for a path of this machine, whatever its folders and files are called."""
    found = _SCHEME.match(uri)
    return None if found is None or found[1] == "file" else found[1]


def normalize_uri(uri: str) -> str:
    """An absolute path for local places (with ~ expanded), the URI itself, without a trailing slash, otherwise."""
    uri = uri.removeprefix("file://")
    if scheme_of(uri) is not None:
        return uri.rstrip("/")
    # Path.expanduser raises where there is no such user; such a name is a name.
    return str(Path(os.path.expanduser(uri)).absolute())  # noqa: PTH111


def is_local(uri: str) -> bool:
    return scheme_of(uri) is None


def is_http(uri: str) -> bool:
    return scheme_of(uri) in ("http", "https")


def filesystem_of(uri: str) -> tuple[AbstractFileSystem, str]:
    """The fsspec file system of a URI and the path in it.

    What follows the scheme is a name and nothing else: fsspec by itself takes `::` for a chain of file systems.
    The file system keeps no listings: other processes write and delete where this one has listed before, and s3fs takes
    an object that its kept listing lacks for one that does not exist.

    Raises:
        InputError: the URI's scheme is unknown or needs a package that is not installed.
    """
    scheme = scheme_of(uri)
    if is_http(uri):
        # No server is ever sent what follows a #, so there it can only be a part of a name.
        return fsspec.filesystem(scheme, use_listings_cache=False), uri.replace("#", "%23")
    uri = normalize_uri(uri)
    if scheme is None:
        return LocalFileSystem(), uri
    if scheme in _S3_SCHEMES:
        from dxmc_core.artifacts.s3 import S3, retry_refused_connections  # late: it takes long to load

        retry_refused_connections()
        return S3(use_listings_cache=False), uri.partition("://")[2]
    try:
        kind = fsspec.get_filesystem_class(scheme)
        fs = kind(**kind._get_kwargs_from_urls(uri), use_listings_cache=False)
    except (ValueError, ImportError, TypeError, OSError) as error:
        raise InputError(
            f"cannot use {uri!r}: {on_one_line(error)}; expected a local path or s3://bucket/prefix"
        ) from error
    return fs, kind._strip_protocol(uri)


def open_file(uri: str, *, within: bool = False, **options: Any) -> Any:
    """A file for reading, as a context manager.

    Args:
        within: it will be read from its middle too, so a service has to say how long it is and to send parts of it.
        options: fsspec's, for buffering.

    Raises:
        InputError: it is no file (opening a pipe never returns), or not that.
    """
    fs, path = filesystem_of(uri)
    if isinstance(fs, LocalFileSystem):
        require_file(path)
    file = fs.open(path, "rb", **options)
    if within and is_http(uri) and _is_stream(file):
        if fs.info(path)["size"] == 0:
            return io.BytesIO()
        raise InputError(
            f"{uri} cannot be read in parts: the server says no length, or sends all or nothing; copy it elsewhere"
        )
    return file


def _is_stream(file: Any) -> bool:
    """Whether the parts of a file on a server cannot be asked for."""
    from fsspec.implementations.http import HTTPStreamFile  # late, as above

    return isinstance(file, HTTPStreamFile)


def require_file(path: str) -> None:
    """Raises an InputError when there is something at a local path that is no file."""
    mode = Path(path).stat().st_mode
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is {kind_of_place(mode)}, expected a file")


def kind_of_place(mode: int) -> str:
    """What `st_mode` says, in words."""
    kinds = (
        (stat.S_ISREG, "a file"), (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
    )  # fmt: skip
    return next((name for is_kind, name in kinds if is_kind(mode)), "no file")


@dataclass(frozen=True)
class FileStat:
    """What a listing knows of one file.

    Attributes:
        size: in bytes; -1 when it is not known.
        etag: changes when the content does (local: size and mtime in ns).
    """

    uri: str
    size: int
    etag: str


def stat_of(fs: AbstractFileSystem, uri: str, info: dict) -> FileStat:
    """A `FileStat` from what fsspec's `info`, `ls` or `find` returned for one file."""
    if info.get("size") is None:  # a server that does not say
        return FileStat(uri=uri, size=-1, etag=str(info.get("ETag") or "").strip('"'))
    size = int(info["size"])
    etag = info.get("ETag") or f"{size}-{int(info['mtime'] * 1e9) if 'mtime' in info else 0}"
    return FileStat(uri=uri, size=size, etag=str(etag).strip('"'))


def stat_file(uri: str) -> FileStat:
    """Size and etag of one file.

    A server that tells neither size nor version of a file is asked for the file: its digest is the etag then.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    fs, path = filesystem_of(uri)
    try:
        if isinstance(fs, LocalFileSystem):
            require_file(path)
        info = fs.info(path)
    except FileNotFoundError as error:
        raise InputError(f"{uri} does not exist; check the path in the configuration") from error
    except storage_errors(ValueError) as error:
        raise _read_error(uri, error) from error
    if info["type"] == "directory":
        raise InputError(f"{uri} is a folder, expected a file")
    found = stat_of(fs, normalize_uri(uri), info)
    if found.etag:
        return found
    data = read_user_file(uri)
    return FileStat(found.uri, len(data), hashlib.sha256(data).hexdigest())


def read_user_file(uri: str) -> bytes:
    """The content of a file that a person has named, wherever it lies.

    Raises:
        InputError: there is none, it may not be read, or it is a folder, a device or a pipe that nobody writes to.
        DxmcError: object storage failed.
    """
    with _user_file(uri) as (fs, path):
        return fs.cat_file(path)


def digest_of_user_file(uri: str) -> str:
    """SHA-256 of such a file as hexadecimal digits, without holding its content; errors as of `read_user_file`."""
    with _user_file(uri) as (fs, path), fs.open(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _user_file(uri: str) -> Iterator[tuple[AbstractFileSystem, str]]:
    fs, path = filesystem_of(uri)
    try:
        # Folders of a store are no objects, and not every server answers the question what a path is.
        if isinstance(fs, LocalFileSystem) and not path.startswith(_OPEN_FILES):
            require_file(path)
        yield fs, path
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"there is no file {uri}; check the path") from error
    except storage_errors(ValueError) as error:
        raise _read_error(uri, error) from error


#: What a shell hands over by `<(...)` or as standard input; somebody writes to these pipes.
_OPEN_FILES = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")


def _read_error(uri: str, error: Exception) -> DxmcError:
    failure = storage_failure(error)
    if failure is not None:
        return type(failure)(f"cannot read {uri}: {failure}")
    return InputError(f"cannot read {uri}: {getattr(error, 'strerror', None) or on_one_line(error)}")


@dataclass(frozen=True)
class Storage:
    """One folder, named by URI; relative file names below it use forward slashes."""

    uri: str

    @cached_property
    def _location(self) -> tuple[AbstractFileSystem, str]:
        return filesystem_of(self.uri)

    @property
    def fs(self) -> AbstractFileSystem:
        return self._location[0]

    def path(self, name: str = "") -> str:
        """The path of `name` as the file system wants it."""
        root = self._location[1]
        return f"{root}/{name}" if name else root

    def child(self, name: str) -> "Storage":
        return Storage(f"{self.uri}/{name}")

    def exists(self, name: str = "") -> bool:
        return self.fs.exists(self.path(name))

    def read_bytes(self, name: str) -> bytes:
        """The content of a file; FileNotFoundError when there is none."""
        return self.fs.cat_file(self.path(name))

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a whole file so that a reader sees the old content or the new, never a part of it.

        Raises:
            InputError: the disk is full, or the place may not be written.
            DxmcError: writing failed for another reason.
        """
        try:
            if isinstance(self.fs, LocalFileSystem):
                _write_local(Path(self.path(name)), data)
            else:
                self.fs.pipe_file(self.path(name), data, **_headers(self.fs, name))
        except storage_errors() as error:
            raise write_error(f"{self.uri}/{name}", error) from error

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """For a block, a path of this machine for a large file, which takes its place when the block ends, whole.

        Raises:
            InputError: the disk is full, or the place may not be written.
            DxmcError: writing failed for another reason.
        """
        try:
            if isinstance(self.fs, LocalFileSystem):
                with _taking_the_place_of(Path(self.path(name))) as temporary:
                    yield temporary
                return
            with tempfile.TemporaryDirectory(prefix="dxmc-") as folder:
                temporary = Path(folder) / "file"
                yield temporary
                self.fs.put_file(str(temporary), self.path(name))
        except storage_errors() as error:
            raise write_error(f"{self.uri}/{name}", error) from error

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """For a block, a file as one of this machine; one in object storage is fetched into TMPDIR.

        Raises:
            FileNotFoundError: there is none.
        """
        if isinstance(self.fs, LocalFileSystem):
            yield Path(self.path(name))
            return
        with tempfile.TemporaryDirectory(prefix="dxmc-") as folder:
            self.fs.get_file(self.path(name), f"{folder}/file")
            yield Path(folder) / "file"

    def create_bytes(self, name: str, data: bytes) -> bool:
        """Write a file only where none is; False when one was there first (the test is atomic, on S3 too).

        On a local disk it is so among processes of one machine.
        """
        path = self.path(name)
        if isinstance(self.fs, LocalFileSystem):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with _locked_folder(Path(path).parent):
                if Path(path).exists():
                    return False
                _write_local(Path(path), data)
            return True
        try:
            self.fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        return True

    def replace_bytes(self, name: str, data: bytes, *, expected: bytes) -> bool:
        """Replace a file whose content is as expected; False when it is not (the test is atomic, on S3 too).

        On a local disk it is so among processes of one machine.
        """
        path = self.path(name)
        if isinstance(self.fs, LocalFileSystem):
            with _locked_folder(Path(path).parent):
                if not Path(path).exists() or Path(path).read_bytes() != expected:
                    return False
                _write_local(Path(path), data)
            return True
        try:
            etag = self.fs.info(path)["ETag"]
            if self.fs.cat_file(path) != expected:
                return False
            self.fs.pipe_file(path, data, IfMatch=etag)
        except FileNotFoundError:
            return False
        except OSError as error:
            if isinstance(error.__cause__, ClientError) and _is_lost_race(error.__cause__):
                return False
            raise
        return True

    def list_folders(self, name: str = "") -> list[str]:
        """Names of the folders in a folder; empty when it is not there."""
        try:
            found = self.fs.ls(self.path(name), detail=True)
        except FileNotFoundError:
            return []
        return [info["name"].rstrip("/").rsplit("/", 1)[-1] for info in found if info["type"] == "directory"]

    def names(self, limit: int) -> list[str]:
        """Names of files and folders that lie right in this folder, `limit` at most; none when it is not there."""
        if "s3" not in self.fs.protocol:
            try:
                found = [str(path).rstrip("/") for path in self.fs.ls(self.path(), detail=False)]
            except FileNotFoundError:
                return []
            return [path.rsplit("/", 1)[-1] for path in found[:limit]]
        # A whole listing would take minutes where somebody has put millions of objects.
        bucket, key, _ = self.fs.split_path(self.path())
        prefix = f"{key}/" if key else ""
        try:
            found = self.fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, Delimiter="/", MaxKeys=limit)
        except FileNotFoundError:
            return []
        keys = [entry["Key"] for entry in found.get("Contents", ())]
        keys += [entry["Prefix"] for entry in found.get("CommonPrefixes", ())]
        # The key of the prefix itself is what consoles make for a new folder.
        return [name for key in keys if (name := key.removeprefix(prefix).rstrip("/"))]

    def list_files(self, name: str = "") -> dict[str, int]:
        """Sizes in bytes of all files below a folder, by name relative to this storage; empty when it is not there."""
        prefix = self.path() + "/"
        try:
            found = self.fs.find(self.path(name), detail=True)
        except FileNotFoundError:
            return {}
        # A key that ends in a slash stands for a folder.
        files = {path: int(info["size"]) for path, info in found.items() if not path.endswith("/")}
        return {path.removeprefix(prefix): size for path, size in files.items()}

    def copy_file(self, name: str, target: "Storage") -> None:
        """Copy a file to the same name in another folder of the same file system; S3 does it without a download.

        On a local disk that has hard links, both names have one content: no file that is copied is ever written again.
        """
        if isinstance(self.fs, LocalFileSystem):
            copy = Path(target.path(name))
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.unlink(missing_ok=True)
            with suppress(OSError):
                copy.hardlink_to(self.path(name))
                return
        self.fs.cp_file(self.path(name), target.path(name))

    def delete_files(self, names: Iterable[str]) -> None:
        """Remove files, and the folders below this one that are empty without them."""
        folders: set[PurePosixPath] = set()
        for name in names:
            self.delete(name)
            folders.update(PurePosixPath(name).parents[:-1])
        for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
            self.delete_empty_folder(str(folder))

    def delete_empty_folder(self, name: str = "") -> None:
        """Remove a folder if nothing is in it; on S3 the key that stands for it, if there is one."""
        if isinstance(self.fs, LocalFileSystem):
            with suppress(OSError):  # something is, or somebody else was first
                Path(self.path(name)).rmdir()
        elif "s3" in self.fs.protocol and not (self.child(name) if name else self).names(2):
            bucket, key, _ = self.fs.split_path(self.path(name))
            self.fs.call_s3("delete_object", Bucket=bucket, Key=f"{key}/")

    def delete(self, name: str) -> None:
        """Remove a file; nothing happens when it is not there."""
        try:
            self.fs.rm_file(self.path(name))
        except FileNotFoundError:
            return


def refusal_of(error: BaseException) -> str | None:
    """Why S3 refuses whatever this process asks for, and what to do; None when it is something else."""
    for cause in (error, error.__cause__):
        if isinstance(cause, NoCredentialsError):
            return "there are no credentials; give them in the environment, in ~/.aws or by the role of the machine"
        if isinstance(cause, ClientError):
            return _REFUSALS.get(cause.response["Error"].get("Code", ""))
    return None


def storage_failure(error: BaseException) -> DxmcError | None:
    """What to tell a person when object storage failed outside of a write; None when it was something else."""
    refusal = refusal_of(error)
    if refusal is not None:
        return InputError(f"object storage refuses: {refusal}, then run again to go on from here")
    causes = (error, error.__cause__)
    is_failure = any(isinstance(cause, storage_errors()[1:]) for cause in causes)
    # pyarrow's own client, which Ray Train writes with, has no errors of its own.
    if not is_failure and not (isinstance(error, OSError) and "AWS Error" in str(error)):
        return None
    # S3 answers HEAD without a body, so of why it refuses there is the number alone.
    is_bare = any(isinstance(cause, ClientError) and cause.response["Error"].get("Code") == "400" for cause in causes)
    remedy = "mostly the credentials have expired: renew them, then run again" if is_bare else "run again"
    return DxmcError(
        f"object storage failed ({type(error).__name__}: {on_one_line(error)}); {remedy} to go on from here"
    )


def write_error(uri: str, error: Exception) -> DxmcError:
    """What to tell a person when a write failed: a place that cannot be used is an `InputError`."""
    refusal = refusal_of(error)
    if refusal is not None:
        return InputError(f"cannot write {uri}: {refusal}, then run again to go on from here")
    reason = getattr(error, "strerror", None) or error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(f"no space left to write {uri}; free some or choose another --run-dir, then run again")
    if isinstance(error, PermissionError | NotADirectoryError | FileExistsError | FileNotFoundError):
        return InputError(f"cannot write {uri}: {reason}; choose another --run-dir")
    return DxmcError(f"cannot write {uri}: {reason}; run again to go on from here")


def write_output(uri: str, data: bytes, *, mark: bytes) -> str:
    """Write a file that a user asked for, whole or not at all; where it lies.

    Args:
        mark: bytes that every such file has: what is there without them is not dxmc's, and is not replaced.

    Raises:
        InputError: the place may not be written, or holds another file.
    """
    uri = normalize_uri(uri)
    fs, path = filesystem_of(uri)
    if isinstance(fs, LocalFileSystem):
        path = os.path.realpath(path)  # a link stays, and what it leads to is looked at
    try:
        if fs.exists(path) and not fs.isdir(path) and not (fs.isfile(path) and mark in fs.cat_file(path)):
            raise InputError(f"{uri} is there already, and dxmc did not write it; name another file, or move it away")
        if isinstance(fs, LocalFileSystem):
            _write_local(Path(path), data)
        else:
            fs.pipe_file(path, data, **_headers(fs, path))
    except storage_errors() as error:
        raise InputError(f"cannot write {uri}: {getattr(error, 'strerror', None) or error}") from error
    return uri


def _headers(fs: AbstractFileSystem, name: str) -> dict[str, str]:
    """What S3 is to say of a page when it hands it out: a browser saves what has no type instead of showing it."""
    return {"ContentType": "text/html; charset=utf-8"} if name.endswith(".html") and "s3" in fs.protocol else {}


def check_free_space(uri: str, needed_bytes: int) -> None:
    """Refuse to start what would fill the disk; object storage is taken as endless.

    Raises:
        InputError: the local disk has less room than is needed.
    """
    if not is_local(uri):
        return
    place = Path(normalize_uri(uri))
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed_bytes:
        raise InputError(
            f"{uri} is on a disk with {free / 1e9:.1f} GB free, this run needs about {needed_bytes / 1e9:.1f} GB; "
            "choose another --run-dir"
        )


def _is_lost_race(error: ClientError) -> bool:
    """Whether S3 refused a conditional write because the object was written in between."""
    return error.response["Error"]["Code"] in ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey")


@contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    """Keep other processes of this machine that ask for the same out."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write_local(path: Path, data: bytes) -> None:
    with _taking_the_place_of(path) as temporary, temporary.open("xb") as file:
        file.write(data)


@contextmanager
def _taking_the_place_of(path: Path) -> Iterator[Path]:
    """For a block, where to write what then takes the place of a local file, in one step and safe on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
