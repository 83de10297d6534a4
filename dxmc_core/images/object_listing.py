"""Lists the keys below an S3 prefix with many requests at a time, in the order of the keys and in bounded memory.

S3 answers 1,000 keys a request, one after the other. A long stretch of keys is therefore cut into ranges that are
listed side by side: wherever a range turns out to be long, the rest of it is cut again, by the characters that its keys
may go on with. What is found lies in files until it is read, so a million keys are never in memory together.
"""

import itertools
import logging
import queue
import string
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from aiobotocore.session import get_session
from s3fs import S3FileSystem

_REQUESTS_IN_FLIGHT = 16
_LOG_EVERY_S = 15.0
#: Pages that are read one after the other before the rest of a range is cut. A cut costs some hundred requests, most of
#: them for ranges without keys; a range that came from a cut has to be long before it is cut in turn.
_PAGES_BEFORE_CUT = (4, 40)
#: Keys of a first page: most ranges that come from a cut are empty, and what lies behind them is not wanted.
_PROBE_KEYS = 20
_PAGE_KEYS = 1000
#: What keys go on with, in the order of their bytes. Other characters fall into the range before them.
_NEXT_CHARACTERS = sorted(string.digits + string.ascii_letters)

_PAGE_SCHEMA = pa.schema([("key", pa.string()), ("size", pa.int64()), ("etag", pa.string())])

logger = logging.getLogger(__name__)


class ListedObject(NamedTuple):
    """One object of a bucket."""

    key: str
    size: int
    etag: str


@dataclass
class _KeyRange:
    """The keys in (after, until], without a bound where it is None; first those in `path`, then those of `rest`."""

    after: str | None
    until: str | None
    path: Path
    depth: int = 0
    rest: list["_KeyRange"] = field(default_factory=list)


def listing_filesystem(fs: S3FileSystem) -> S3FileSystem:
    """The same file system for listing: botocore spends three quarters of a page on times that nobody looks at."""
    session = get_session()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
    return S3FileSystem(**{**fs.storage_options, "session": session})


def list_objects(fs: Any, bucket: str, prefix: str) -> Iterator[ListedObject]:
    """The objects whose keys start with a prefix, in the order of their keys' bytes.

    Args:
        fs: from `listing_filesystem`, whose retries are what gets over a service that is overloaded.

    Raises:
        OSError: the bucket does not exist or may not be listed (before the first object is yielded).
    """
    with tempfile.TemporaryDirectory(prefix="dxmc-listing-") as folder:
        listing = _ParallelListing(fs, bucket, prefix, Path(folder))
        yield from _objects_of(listing.run())


class _ParallelListing:
    def __init__(self, fs: Any, bucket: str, prefix: str, folder: Path) -> None:
        self._fs = fs
        self._bucket = bucket
        self._prefix = prefix
        self._folder = folder
        self._threads = ThreadPoolExecutor(_REQUESTS_IN_FLIGHT, thread_name_prefix="dxmc-list")
        self._pending: queue.SimpleQueue[Future[None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._num_ranges = self._num_objects = 0
        self._last_line = time.monotonic()

    def run(self) -> _KeyRange:
        """List everything; the tree of ranges."""
        root = self._start(None, None, depth=0)
        try:
            # A range starts the ranges it is cut into before it ends, so the queue is empty only when all is done.
            while not self._pending.empty():
                self._pending.get().result()
        finally:
            self._threads.shutdown(cancel_futures=True)
        return root

    def _start(self, after: str | None, until: str | None, *, depth: int) -> _KeyRange:
        with self._lock:
            self._num_ranges += 1
            key_range = _KeyRange(after, until, self._folder / f"{self._num_ranges}.arrow", depth)
        self._pending.put(self._threads.submit(self._list, key_range))
        return key_range

    def _list(self, key_range: _KeyRange) -> None:
        first: str | None = None
        last = key_range.after
        num_pages = _PAGES_BEFORE_CUT[min(key_range.depth, len(_PAGES_BEFORE_CUT) - 1)]
        with (
            pa.OSFile(str(key_range.path), "wb") as sink,
            pa.ipc.new_stream(sink, _PAGE_SCHEMA, options=_COMPRESSED) as writer,
        ):
            while True:
                for _ in range(num_pages):
                    max_keys = _PROBE_KEYS if key_range.depth and last == key_range.after else _PAGE_KEYS
                    objects, is_last = self._page(last, key_range.until, max_keys=max_keys)
                    self._log_progress(len(objects))
                    if objects:
                        writer.write_batch(_batch_of(objects))
                        first, last = first or objects[0].key, objects[-1].key
                    if is_last:
                        return
                assert first is not None
                assert last is not None
                cuts = _cuts(self._prefix, first, last, key_range.until)
                if cuts:
                    break
        bounds = [last, *cuts, key_range.until]
        key_range.rest = [
            self._start(after, until, depth=key_range.depth + 1) for after, until in itertools.pairwise(bounds)
        ]

    def _log_progress(self, num_objects: int) -> None:
        with self._lock:
            self._num_objects += num_objects
            if time.monotonic() - self._last_line > _LOG_EVERY_S:
                self._last_line = time.monotonic()
                logger.info("s3://%s/%s: %d objects listed so far", self._bucket, self._prefix, self._num_objects)

    def _page(self, after: str | None, until: str | None, *, max_keys: int) -> tuple[list[ListedObject], bool]:
        """The objects of one page that lie in a range, and whether the range ends with them."""
        start = {"MaxKeys": max_keys} if after is None else {"MaxKeys": max_keys, "StartAfter": after}
        answer = self._fs.call_s3("list_objects_v2", Bucket=self._bucket, Prefix=self._prefix, **start)
        objects = [
            ListedObject(item["Key"], int(item["Size"]), item.get("ETag", "").strip('"'))
            for item in answer.get("Contents", [])
        ]
        inside = objects if until is None else [item for item in objects if item.key <= until]
        return inside, len(inside) < len(objects) or not answer.get("IsTruncated")


_COMPRESSED = pa.ipc.IpcWriteOptions(compression="zstd")


def _batch_of(objects: list[ListedObject]) -> pa.RecordBatch:
    keys, sizes, etags = zip(*objects, strict=True)
    return pa.record_batch([keys, sizes, etags], schema=_PAGE_SCHEMA)


def _objects_of(key_range: _KeyRange) -> Iterator[ListedObject]:
    with pa.memory_map(str(key_range.path)) as source, pa.ipc.open_stream(source) as batches:
        for batch in batches:
            yield from map(ListedObject, *(column.to_pylist() for column in batch.columns))
    key_range.path.unlink()
    for part in key_range.rest:
        yield from _objects_of(part)


def _cuts(prefix: str, first: str, last: str, until: str | None) -> list[str]:
    """Where to cut the keys in (last, until], ascending, having seen those from `first` to `last`.

    Keys are cut where those seen begin to differ, one character before that, and at the start of every folder's name:
    `a/001.jpg ... a/999.jpg` becomes, after `last`, the ranges of the next digits and letters there, and then b, c, ...
    """
    shared = next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    folders = (place + 1 for place in range(len(prefix), shared) if last[place] == "/")
    places = [place for place in {len(prefix), shared - 1, shared, *folders} if len(prefix) <= place < len(last)]
    cuts = {last[:place] + character for place in places for character in _NEXT_CHARACTERS}
    return sorted(cut for cut in cuts if cut > last and (until is None or cut < until))
