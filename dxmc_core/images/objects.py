"""Reads one object of a disk or a service, or says why it cannot be had."""

import errno
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec.asyn
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from dxmc_core.artifacts.storage import filesystem_of, kind_of_place, refusal_of, storage_errors
from dxmc_core.errors import InputError
from dxmc_core.images.decode import ImageRejectedError, RejectReason

DEFAULT_TIMEOUT_S = 120.0
#: Links in a circle, names longer than the system takes, a file where a folder is expected.
_NO_SUCH_PLACE = frozenset({errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR})
#: What a web server says of one address; all else it says of itself.
_HTTP_REASONS = {
    **dict.fromkeys((401, 402, 403, 407, 451), RejectReason.ACCESS_DENIED),
    **dict.fromkeys((404, 410), RejectReason.MISSING),
}

File = bytes | ImageRejectedError


def fetch(uri: str, *, start: int | None = None, stop: int | None = None, timeout_s: float = DEFAULT_TIMEOUT_S) -> File:
    """The content of one object, or its bytes [start, stop), or why there is none.

    A service that is overloaded or breaks a connection is asked again, with growing pauses, until `timeout_s` is over:
    on S3 botocore tries a request 5 times and s3fs repeats that 5 times.

    Raises:
        InputError: the service refuses whatever this process asks for, which tells nothing of the object.
    """
    try:
        fs, path = filesystem_of(uri)
        if isinstance(fs, LocalFileSystem):
            mode = Path(path).stat().st_mode
            if not stat.S_ISREG(mode):  # opening a pipe never ends
                return ImageRejectedError(RejectReason.NOT_AN_IMAGE, f"{kind_of_place(mode)}, expected a file")
        return _read(fs, path, start, stop, timeout_s)
    except FileNotFoundError:
        return ImageRejectedError(RejectReason.MISSING, "the object is gone or never was there")
    except PermissionError as error:
        _require_not_refused(uri, error)
        hint = "; S3 says this of objects that do not exist, too, where s3:ListBucket is lacking"
        return _rejected(RejectReason.ACCESS_DENIED, error, hint if uri.startswith("s3://") else "")
    except TimeoutError:
        return ImageRejectedError(RejectReason.TIMEOUT, f"not delivered within {timeout_s:g} s, with all retries")
    except storage_errors() as error:
        _require_not_refused(uri, error)
        return _rejected(_reason_of(error), error)
    except InputError as error:  # a scheme without its package, which may be installed
        return _rejected(RejectReason.UNREACHABLE, error)
    except ValueError as error:
        return _rejected(RejectReason.MISSING, error)


def _reason_of(error: Exception) -> RejectReason:
    """Tell what a disk or service says of the object from what it says of itself."""
    if getattr(error, "errno", None) in _NO_SUCH_PLACE:
        return RejectReason.MISSING
    aiohttp = sys.modules.get("aiohttp")  # it takes long to load, and what is not loaded has raised nothing
    if aiohttp is not None and isinstance(error, aiohttp.ClientResponseError):
        return _HTTP_REASONS.get(error.status, RejectReason.UNREACHABLE)
    return RejectReason.UNREACHABLE


def _read(fs: AbstractFileSystem, path: str, start: int | None, stop: int | None, timeout_s: float) -> bytes:
    if not isinstance(fs, fsspec.asyn.AsyncFileSystem):
        return fs.cat_file(path, start=start, end=stop)
    # With max_concurrency above 1 s3fs asks for the size of every object before it reads it.
    options = {"max_concurrency": 1} if "s3" in fs.protocol else {}
    read: Callable[..., Any] = fs._cat_file
    return fsspec.asyn.sync(fs.loop, read, path, start=start, end=stop, timeout=timeout_s, **options)


def _require_not_refused(uri: str, error: Exception) -> None:
    refusal = refusal_of(error)
    if refusal is not None:
        raise InputError(f"cannot read {uri}: {refusal}, then run again to go on from here") from error


def _rejected(reason: RejectReason, error: Exception, hint: str = "") -> ImageRejectedError:
    return ImageRejectedError(reason, " ".join(f"{type(error).__name__}: {error}{hint}".split()))
