"""Brings the images of catalog rows here, many at a time; what cannot be had is a reason for `rejects`."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from dxmc_core.images.decode import ImageRejectedError, RejectReason
from dxmc_core.images.listing import rejection_of
from dxmc_core.images.objects import File, fetch
from dxmc_core.images.sources import ImageSource

_IO_THREADS = 16
#: Images of a tar that lie this near one another are read together, up to so many bytes.
_MAX_GAP_BYTES = 64 << 10
_MAX_RUN_BYTES = 8 << 20


class FetchImages:
    """Catalog rows to the bytes of their images, in the order of the rows."""

    def __init__(self, source: ImageSource) -> None:
        self._threads = ThreadPoolExecutor(_IO_THREADS, thread_name_prefix="dxmc-fetch")
        self._timeout_s = source.timeout_s
        self._cells = source.cells()

    def __call__(self, rows: pa.Table) -> Iterator[File]:
        """Start fetching all rows, and yield the file of each, or why there is none."""
        columns = [rows[name].to_pylist() for name in ("uri", "offset", "size", "problem")]
        if self._cells is not None:
            return self._read_cells(columns)
        runs = [self._threads.submit(self._fetch_run, run) for run in _runs(zip(*columns, strict=True))]
        return (file for run in runs for file in run.result())

    def _read_cells(self, columns: list[list[Any]]) -> Iterator[File]:
        assert self._cells is not None
        for uri, offset, _, problem in zip(*columns, strict=True):
            yield rejection_of(problem) if problem is not None else self._cells.read(uri, offset)

    def _fetch_run(self, run: "list[_Row]") -> list[File]:
        """The files of rows that were put together by `_runs`."""
        uri, start, _, problem = run[0]
        if problem is not None:
            return [rejection_of(problem)]
        if start is None:
            return [fetch(uri, timeout_s=self._timeout_s)]
        stop = max(offset + size for _, offset, size, _ in run)
        data = fetch(uri, start=start, stop=stop, timeout_s=self._timeout_s)
        if isinstance(data, ImageRejectedError):
            return [data] * len(run)
        return [_member(data, offset - start, size) for _, offset, size, _ in run]


_Row = tuple[str, Any, int, str | None]


def _runs(rows: Iterable[_Row]) -> Iterator[list[_Row]]:
    """Neighbours in a tar that one request brings; every other row by itself."""
    run: list[_Row] = []
    for row in rows:
        uri, offset, size, problem = row
        if run:
            first_uri, first_offset, _, _ = run[0]
            _, last_offset, last_size, _ = run[-1]
            if (
                offset is None
                or problem is not None
                or uri != first_uri
                or not 0 <= offset - (last_offset + last_size) <= _MAX_GAP_BYTES
                or offset + size - first_offset > _MAX_RUN_BYTES
            ):
                yield run
                run = []
        run.append(row)
        if offset is None or problem is not None:
            yield run
            run = []
    if run:
        yield run


def _member(data: bytes, start: int, size: int) -> File:
    member = data[start : start + size]
    if len(member) < size:
        return ImageRejectedError(
            RejectReason.TRUNCATED, f"the tar ends {size - len(member)} bytes before the image does"
        )
    return member
