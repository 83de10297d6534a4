"""The catalog: the frozen list of a run's images, which gives each a dense `row_id`, in parts of a fixed length.

A source is listed into a local file first, with a digest that tells whether anything has changed since the run was
made: an image has when its size or its etag has.
"""

import hashlib
import itertools
import mmap
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow as pa

from dxmc_core.artifacts.manifest import CATALOG_NAME, Manifest, parse_manifest
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.tables import CATALOG
from dxmc_core.errors import ArtifactError, InputError
from dxmc_core.images.selection import Reason, Selection
from dxmc_core.images.sources import ImageSource

CATALOG_PART_ROWS = 65_536


@dataclass(frozen=True)
class Listing:
    """What a source held when it was listed: rows of the catalog.

    Attributes:
        stream: the rows in Arrow's format, from a file without a name, of which nothing stays however the process ends.
        digest: changes whenever the listing does.
        passed_over: how much of the source is no row, for what reason.
    """

    stream: pa.Buffer
    digest: str
    num_rows: int
    passed_over: Mapping[Reason, int]

    def tables(self) -> Iterator[pa.Table]:
        """The rows with their row ids, in tables of `CATALOG_PART_ROWS`."""
        waiting: list[pa.RecordBatch] = []
        with pa.ipc.open_stream(self.stream) as batches:
            for batch in batches:
                waiting.append(batch)
                if sum(map(len, waiting)) == CATALOG_PART_ROWS:
                    yield pa.Table.from_batches(waiting)
                    waiting = []
        if waiting:
            yield pa.Table.from_batches(waiting)


def list_source(
    source: ImageSource, *, own: Sequence[str] = (), on_listed: Callable[[int], None] = lambda count: None
) -> Listing:
    """List an image source; memory holds one part of the catalog and 16 bytes an image. Says what was passed over.

    Args:
        own: folders that dxmc writes into; what lies there is no image of the source.
        on_listed: is told of images that have been listed, in numbers.

    Raises:
        InputError: there is nothing, it may not be listed, or an image id comes twice.
    """
    digest = hashlib.sha256()
    ids, num_rows = _Ids(), 0
    selection = Selection.of(source, own=own)
    tables = catalog_tables(_counted(source.tables(selection), on_listed))
    first = next(tables, None)
    if first is None:
        raise InputError(selection.passed_over.said_after(f"{source.uri} holds no images; check source.uri"))
    compressed = pa.ipc.IpcWriteOptions(compression="zstd")
    with tempfile.TemporaryFile(prefix="dxmc-listing-") as file:
        with pa.ipc.new_stream(file, first.schema, options=compressed) as writer:
            digest.update(first.schema.serialize())
            for table in itertools.chain([first], tables):
                # Several batches where a column holds more than 2 GiB of text.
                for batch in table.combine_chunks().to_batches():
                    digest.update(batch.serialize())
                    writer.write_batch(batch)
                ids.add(table["image_id"])
                num_rows += table.num_rows
        file.flush()
        stream = pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    selection.passed_over.log(source.uri)
    listing = Listing(stream, digest.hexdigest()[:32], num_rows, selection.passed_over.counts)
    _require_unique_ids(listing, ids, source.uri)
    return listing


def _counted(tables: Iterable[pa.Table], on_listed: Callable[[int], None]) -> Iterator[pa.Table]:
    for table in tables:
        on_listed(table.num_rows)
        yield table


def catalog_tables(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Listed rows in tables of `CATALOG_PART_ROWS`, with row ids."""
    waiting: list[pa.Table] = []
    num_waiting, start = 0, 0
    for table in tables:
        waiting.append(table)
        num_waiting += table.num_rows
        while num_waiting >= CATALOG_PART_ROWS:
            rows = pa.concat_tables(waiting)
            yield _with_row_ids(rows.slice(0, CATALOG_PART_ROWS), start)
            start += CATALOG_PART_ROWS
            waiting, num_waiting = [rows.slice(CATALOG_PART_ROWS)], rows.num_rows - CATALOG_PART_ROWS
    if num_waiting:
        yield _with_row_ids(pa.concat_tables(waiting), start)


def _with_row_ids(rows: pa.Table, start: int) -> pa.Table:
    rows = rows.add_column(0, "row_id", pa.array(np.arange(start, start + rows.num_rows)))
    return rows.cast(pa.schema([*CATALOG.schema(), *list(rows.schema)[len(CATALOG.schema()) :]]))


class _Ids:
    """Finds out whether ids repeat, by 8 bytes of each."""

    def __init__(self) -> None:
        self._hashes: list[np.ndarray] = []

    def add(self, ids: pa.ChunkedArray) -> None:
        self._hashes.append(hash_texts(ids))

    def repeated(self) -> np.ndarray:
        """The hashes that more than one id has."""
        hashes = np.concatenate(self._hashes)
        self._hashes.clear()
        hashes.sort()
        return np.unique(hashes[1:][hashes[1:] == hashes[:-1]])


def hash_texts(texts: pa.ChunkedArray) -> np.ndarray:
    """A hash of each text, (N,) uint64; the same on every machine."""
    return pd.util.hash_array(texts.to_numpy(zero_copy_only=False).astype(object), categorize=False)


def _require_unique_ids(listing: Listing, ids: _Ids, uri: str) -> None:
    suspects = ids.repeated()
    if not len(suspects):
        return
    places: dict[str, list[str]] = {}
    for table in listing.tables():
        mask = pa.array(np.isin(hash_texts(table["image_id"]), suspects))
        rows = table.filter(mask)
        for image_id, place in zip(rows["image_id"].to_pylist(), rows["uri"].to_pylist(), strict=True):
            places.setdefault(image_id, []).append(place)
    twice = {image_id: found for image_id, found in places.items() if len(found) > 1}
    if twice:
        image_id, found = next(iter(twice.items()))
        others = f" (and {len(twice) - 1} more ids)" if len(twice) > 1 else ""
        where = f", in {found[0]} and {found[1]}" if found[0] != found[1] else ""
        hint = "; source.image_id: shard_and_key tells equal keys of several tars apart" if where else ""
        raise InputError(
            f"{uri} lists {image_id!r} twice{where}{others}; image ids are what results are joined on{hint}"
        )


@dataclass(frozen=True)
class Catalog:
    """The frozen list of what a run is about."""

    manifest: Manifest
    stage_dir: StageDir

    @property
    def num_rows(self) -> int:
        return self.manifest.rows("catalog")

    @property
    def chunk_rows(self) -> int:
        """Rows embedded and written together. Fixed by the catalog, so that a rerun makes the same batches."""
        return min(max(-(-self.num_rows // 64 // 32) * 32, 32), 2048)

    @cached_property
    def _cache(self) -> dict[int, pa.Table]:
        return {}

    def rows(self, start: int, stop: int) -> pa.Table:
        """The rows [start, stop), of one or several parts."""
        first, last = start // CATALOG_PART_ROWS, (stop - 1) // CATALOG_PART_ROWS
        tables = []
        for index in range(first, last + 1):
            if index not in self._cache:
                if len(self._cache) > 1:
                    self._cache.clear()
                self._cache[index] = self.stage_dir.read_part(self.manifest.tables["catalog"][index])
            tables.append(self._cache[index])
        return pa.concat_tables(tables).slice(start - first * CATALOG_PART_ROWS, stop - start)


def read_catalog(stage_dir: StageDir) -> Catalog | None:
    """The catalog that an earlier attempt froze, or None. A damaged one counts as none: listing again is cheap."""
    where = f"{stage_dir.storage.uri}/{CATALOG_NAME}"
    try:
        manifest = parse_manifest(stage_dir.storage.read_bytes(CATALOG_NAME), where=where, stage=stage_dir.stage)
    except (FileNotFoundError, ArtifactError):
        return None
    return Catalog(manifest, stage_dir)


def stage_catalog(stage_dir: StageDir, tables: Iterable[pa.Table], *, fingerprint: str) -> Catalog:
    """Write the parts of a catalog, given as `Listing.tables` has them; it counts once it is frozen."""
    parts = [stage_dir.write_part("catalog", table, fingerprint=fingerprint) for table in tables]
    manifest = Manifest(
        stage=stage_dir.stage,
        fingerprint=fingerprint,
        inputs={},
        tables={"catalog": parts},
        files={},
        metrics={},
        finished_at="",
        seconds=0.0,
        dxmc_version="",
    )
    return Catalog(manifest, stage_dir)


def freeze_catalog(catalog: Catalog) -> Catalog:
    """From here on a rerun with the same fingerprint resumes."""
    catalog.stage_dir.write_file(CATALOG_NAME, catalog.manifest.to_json())
    return catalog


def catalog_rows(catalog: Catalog, chunk: dict) -> pa.Table:
    """The rows that a chunk still has to do: of [row_start, row_stop) those set in the bits `todo`, or all if empty."""
    rows = catalog.rows(chunk["row_start"], chunk["row_stop"])
    if not chunk["todo"]:
        return rows
    todo = np.unpackbits(np.frombuffer(chunk["todo"], dtype=np.uint8), count=rows.num_rows)
    return rows.filter(pa.array(todo.astype(bool)))
