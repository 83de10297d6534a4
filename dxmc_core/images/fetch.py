"""Brings the files of catalog rows here, many at a time; what cannot be had is a reason for `rejects`."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from dxmc_core.artifacts.storage import filesystem_of
from dxmc_core.images.decode import ImageRejectedError, RejectReason

_IO_THREADS = 16


class FetchImages:
    """Catalog rows to the bytes of their files, in the order of the rows."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_IO_THREADS, thread_name_prefix="dxmc-fetch")

    def __call__(self, rows: pa.Table) -> Iterator[bytes | ImageRejectedError]:
        """Start fetching all rows, and yield the file of each, or why there is none."""
        return self._threads.map(fetch, rows["uri"].to_pylist())


def fetch(uri: str) -> bytes | ImageRejectedError:
    """The content of one object, or why there is none."""
    try:
        fs, path = filesystem_of(uri)
        return fs.cat_file(path)
    except FileNotFoundError:
        return ImageRejectedError(RejectReason.MISSING, "the object is gone or never was there")
    except PermissionError as error:
        return ImageRejectedError(RejectReason.ACCESS_DENIED, str(error))
    except TimeoutError as error:
        return ImageRejectedError(RejectReason.TIMEOUT, str(error))
    except OSError as error:
        return ImageRejectedError(RejectReason.UNREADABLE, f"{type(error).__name__}: {error}")
