"""The folder of one stage: parts are written under the hash of their content, and count once a manifest names them.

A task that is retried, or a killed run that is started again, may leave parts behind that no manifest names; no reader
sees them, and publishing removes them. So of dxmc's own files the folder of a finished stage holds the result and
nothing else, and `read_parquet("<stage>/<table>/*.parquet")` in any tool reads exactly that. Files of anybody else are
neither replaced nor removed (ownership.py).
"""

import hashlib
import io
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dxmc_core import __version__
from dxmc_core.artifacts.lease import confirm_lease
from dxmc_core.artifacts.manifest import (
    CHECKSUM_DIGITS,
    MANIFEST_NAME,
    Manifest,
    Part,
    checksum_of,
    read_manifest,
    require_manifest,
)
from dxmc_core.artifacts.ownership import (
    OWN_NAME,
    Ownership,
    foreign_file,
    listed,
    part_name,
    read_ownership,
    write_mark,
)
from dxmc_core.artifacts.storage import Storage, is_local
from dxmc_core.artifacts.tables import Table, table_named
from dxmc_core.errors import ArtifactError, InputError
from dxmc_core.runtime.lookahead import map_ahead

_READ_THREADS = 32

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageDir:
    """Reads and writes one stage's folder. Small and picklable: mappers on workers carry their own copy."""

    storage: Storage
    stage: str

    def manifest(self) -> Manifest | None:
        """The manifest, or None while the stage is not done.

        Raises:
            ArtifactError: there is one that cannot be read.
        """
        return read_manifest(self.storage, self.stage)

    def require_manifest(self) -> Manifest:
        """The manifest of a stage that has to be done by now."""
        return require_manifest(self.storage, self.stage)

    def incomplete(self, what: str) -> ArtifactError:
        """What to tell a person of a finished stage that lacks something; a rerun alone takes it for up to date."""
        return ArtifactError(f"{self.storage.uri} has no {what}; delete its {MANIFEST_NAME} to rebuild {self.stage}")

    def begin(self, fingerprint: str) -> None:
        """Note an attempt before it writes, so that what it leaves behind is known for dxmc's own.

        Raises:
            InputError: something that dxmc did not write has the place of a manifest.
        """
        own = read_ownership(self.storage, self.stage).including(fingerprints=[fingerprint])
        write_mark(self.storage, self.stage, fingerprints=own.fingerprints, files=own.files)

    def write_tables(self, tables: Mapping[str, pa.Table], *, fingerprint: str) -> dict[str, list[Part]]:
        """Write tables of one part each."""
        return {name: [self.write_part(name, table, fingerprint=fingerprint)] for name, table in tables.items()}

    def write_part(self, table_name: str, table: pa.Table, *, fingerprint: str) -> Part:
        """Write one Parquet part of a table; the same content always lands under the same name."""
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd", compression_level=1)
        data = sink.getvalue()
        checksum = checksum_of(data)
        name = f"{table_name}/part-{fingerprint[:12]}-{checksum}.parquet"
        self.storage.write_bytes(name, data)
        return Part(name=name, rows=table.num_rows, bytes=len(data), sha256=checksum)

    def write_file(self, name: str, data: bytes) -> Part:
        """Write a single file under a fixed name.

        Raises:
            InputError: there is one that dxmc did not write.
        """
        self._claim(name)
        self.storage.write_bytes(name, data)
        return Part(name=name, rows=0, bytes=len(data), sha256=checksum_of(data))

    def write_large_file(self, name: str, write: Callable[[Path], None]) -> Part:
        """Like `write_file` for a file that need not fit the memory; `write` is given where to write it.

        Raises:
            InputError: there is one that dxmc did not write.
        """
        self._claim(name)
        with self.storage.writing(name) as path:
            write(path)
            with path.open("rb") as file:
                checksum = hashlib.file_digest(file, "sha256").hexdigest()[:CHECKSUM_DIGITS]
            size = path.stat().st_size
        return Part(name=name, rows=0, bytes=size, sha256=checksum)

    def _claim(self, name: str) -> None:
        """Write down that a file of a fixed name is dxmc's, before it is written."""
        own = read_ownership(self.storage, self.stage)
        if name not in own.files and self.storage.exists(name):
            raise foreign_file(self.storage, name)
        if not own.is_marked or name not in own.files:
            own = own.including(files=[name])
            write_mark(self.storage, self.stage, fingerprints=own.fingerprints, files=own.files)

    def describe_file(self, name: str) -> Part:
        """The part of a single file that a worker wrote.

        Raises:
            ArtifactError: it is not there.
        """
        try:
            data = self.storage.read_bytes(name)
        except FileNotFoundError as error:
            raise ArtifactError(f"{self.storage.uri}/{name} was not written; run again") from error
        return Part(name=name, rows=0, bytes=len(data), sha256=checksum_of(data))

    def staged_row_ids(self, table_name: str, *, fingerprint: str) -> Iterator[tuple[Part, np.ndarray]]:
        """Parts that an earlier attempt with this fingerprint left, in the order of their names, with their row ids.

        Damaged ones are left out. A local file is checked against its checksum. An object in a store is whole or is
        not there, so of it only the footer and the column `row_id` are read; many at a time.
        """
        sizes = self.storage.list_files(table_name)
        names = [name for name in sorted(sizes) if self._is_part_of(name, fingerprint)]
        read = self._read_local_row_ids if is_local(self.storage.uri) else self._read_remote_row_ids
        with ThreadPoolExecutor(_READ_THREADS) as threads:
            found = map_ahead(lambda name: read(name, sizes[name]), names, threads=threads, ahead=2 * _READ_THREADS)
            yield from (part for part in found if part is not None)

    def _is_part_of(self, name: str, fingerprint: str) -> bool:
        match = part_name().match(name)
        return match is not None and match["fingerprint"] == fingerprint[:12]

    def _read_local_row_ids(self, name: str, size: int) -> tuple[Part, np.ndarray] | None:
        try:
            data = self.read_part_bytes(self._staged_part(name, size, rows=0))
            row_ids = pq.ParquetFile(pa.BufferReader(data)).read(["row_id"])["row_id"].to_numpy()
        except (ArtifactError, pa.ArrowInvalid):
            return None
        return self._staged_part(name, size, rows=len(row_ids)), row_ids

    def _read_remote_row_ids(self, name: str, size: int) -> tuple[Part, np.ndarray] | None:
        """Two requests: the end of the file, which has the footer, and the column."""
        try:
            with self.storage.fs.open(self.storage.path(name), "rb", cache_type="none", size=size) as file:
                row_ids = pq.ParquetFile(file).read(["row_id"])["row_id"].to_numpy()
        except (FileNotFoundError, pa.ArrowInvalid):
            return None
        return self._staged_part(name, size, rows=len(row_ids)), row_ids

    def _staged_part(self, name: str, size: int, *, rows: int) -> Part:
        match = part_name().match(name)
        assert match is not None, name
        return Part(name=name, rows=rows, bytes=size, sha256=match["sha256"])

    def read_part(self, part: Part, columns: Sequence[str] | None = None) -> pa.Table:
        """One part, checked against its checksum.

        Raises:
            ArtifactError: the file is gone or its content is not what was written.
        """
        # `pq.read_table` loads pyarrow.dataset, and that pandas: a quarter of a second of every command.
        file = pq.ParquetFile(pa.BufferReader(self.read_part_bytes(part)))
        return file.read() if columns is None else file.read(list(columns)).select(list(columns))

    def read_part_bytes(self, part: Part) -> bytes:
        """The content of a part or file, checked against its checksum."""
        where = f"{self.storage.uri}/{part.name}"
        try:
            data = self.storage.read_bytes(part.name)
        except FileNotFoundError as error:
            raise ArtifactError(f"{where} is gone; delete {MANIFEST_NAME} beside it to rebuild {self.stage}") from error
        if len(data) != part.bytes or checksum_of(data) != part.sha256:
            raise ArtifactError(
                f"{where} is damaged: expected {part.bytes} bytes with checksum {part.sha256}, found {len(data)} bytes "
                f"with {checksum_of(data)}; delete {MANIFEST_NAME} beside it to rebuild {self.stage}"
            )
        return data

    def iter_parts(self, table: Table | str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The parts of a published table, one at a time, in row order.

        Args:
            table: or its name, for who reads a run by hand.

        Raises:
            ArtifactError: the stage is not done, a part is damaged, or a column has another type than is declared.
        """
        table = table_named(table) if isinstance(table, str) else table
        for part in self.require_manifest().tables.get(table.name, []):
            rows = self.read_part(part, columns)
            self._check_types(rows, table, part)
            yield rows

    def read_table(self, table: Table | str, columns: Sequence[str] | None = None) -> pa.Table:
        """A whole published table, in row order; an empty one where it has no parts.

        Args:
            table: or its name.

        Raises:
            ArtifactError: as `iter_parts`; or it has no parts, which say how wide it is.
        """
        table = table_named(table) if isinstance(table, str) else table
        found = list(self.iter_parts(table, columns))
        if found:
            return pa.concat_tables(found)
        if table.has_width:
            raise self.incomplete(f"table {table.name!r}")
        return table.empty(columns)

    def read_file(self, name: str) -> bytes:
        """A published single file."""
        files = self.require_manifest().files
        if name not in files:
            raise self.incomplete(f"file {name!r}")
        return self.read_part_bytes(files[name])

    def publish(
        self,
        *,
        fingerprint: str,
        inputs: Mapping[str, str],
        tables: Mapping[str, Sequence[Part]],
        files: Mapping[str, Part] | None = None,
        metrics: Mapping[str, Any] | None = None,
        seconds: float,
    ) -> Manifest:
        """Write the manifest, then remove what else dxmc has written. From the first of the two on, the stage is done.

        Raises:
            DxmcError: this process held the run directory and another has taken it over; nothing is written or removed.
        """
        manifest = Manifest(
            stage=self.stage,
            fingerprint=fingerprint,
            inputs=dict(inputs),
            tables={name: list(parts) for name, parts in tables.items()},
            files=dict(files or {}),
            metrics=dict(metrics or {}),
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(seconds, 3),
            dxmc_version=__version__,
        )
        confirm_lease(self.storage.uri)
        own = read_ownership(self.storage, self.stage).with_manifest(manifest)
        self.storage.write_bytes(MANIFEST_NAME, manifest.to_json())
        foreign = self._delete_own(own, keep={MANIFEST_NAME, OWN_NAME, *manifest.names})
        if own.is_marked:
            write_mark(self.storage, self.stage, fingerprints=[fingerprint], files=manifest.names)
        if foreign:
            logger.warning("%s: left alone, as dxmc did not write it: %s", self.storage.uri, listed(foreign))
        return manifest

    def copy_to(self, target: "StageDir", *, without: Sequence[str] = ()) -> Manifest:
        """Copy a finished stage into another run on the same file system, but for the tables named in `without`.

        Raises:
            InputError: the place of a file there is taken by one that dxmc did not write.
        """
        found = self.require_manifest()
        tables = {name: parts for name, parts in found.tables.items() if name not in without}
        target.begin(found.fingerprint)
        parts = [part.name for of_table in tables.values() for part in of_table]
        with ThreadPoolExecutor(_READ_THREADS) as threads:
            list(threads.map(lambda name: self.storage.copy_file(name, target.storage), parts))
        for name in found.files:
            target._claim(name)
            self.storage.copy_file(name, target.storage)
        manifest = found.model_copy(update={"tables": tables})
        target.storage.write_bytes(MANIFEST_NAME, manifest.to_json())
        return manifest

    def row_ids_of(self, part: Part) -> np.ndarray:
        """The column `row_id` of a part, (n,) int64; of a remote one nothing else is read."""
        with self.storage.fs.open(self.storage.path(part.name), "rb") as file:
            return pq.ParquetFile(file).read(["row_id"])["row_id"].to_numpy()

    def read_present_columns(self, part: Part, columns: Sequence[str]) -> pa.Table:
        """Those of the columns that a part has. Nothing else is read of it, and so its checksum is not compared."""
        with self.storage.fs.open(self.storage.path(part.name), "rb") as file:
            return pq.ParquetFile(file).read([name for name in columns if name in pq.read_schema(file).names])

    def footer_of(self, part: Part) -> pq.FileMetaData:
        """The footer of a part; nothing else of it is read.

        Raises:
            ArtifactError: the file is gone, or is no Parquet file any more.
        """
        try:
            with self.storage.fs.open(self.storage.path(part.name), "rb") as file:
                return pq.read_metadata(file)
        except (FileNotFoundError, pa.ArrowInvalid) as error:
            raise ArtifactError(
                f"{self.storage.uri}/{part.name} is gone or damaged; delete {MANIFEST_NAME} beside it to rebuild "
                f"{self.stage}"
            ) from error

    def row_bounds_of(self, part: Part) -> tuple[int, int]:
        """The lowest and the highest row id of a part that has rows."""
        footer = self.footer_of(part)
        column = footer.schema.names.index("row_id")
        found = [footer.row_group(group).column(column).statistics for group in range(footer.num_row_groups)]
        return min(group.min for group in found), max(group.max for group in found)

    def delete(self) -> None:
        """Delete all that dxmc has written here. A folder of which nothing shows that it has is left as it is."""
        try:
            own = read_ownership(self.storage, self.stage)
        except InputError as error:
            logger.warning("%s", error)
            return
        self._delete_own(own, keep=set())
        self.storage.delete_empty_folder()

    def _delete_own(self, own: Ownership, *, keep: Set[str]) -> list[str]:
        """Delete dxmc's own files but for those to keep; the names of the files of others."""
        names = set(self.storage.list_files()) - keep
        unneeded = {name for name in names if own.owns(name)}
        self.storage.delete_files(unneeded)
        return sorted(names - unneeded)

    def _check_types(self, rows: pa.Table, table: Table, part: Part) -> None:
        for column in rows.schema:
            expected = table.expected_type(column.name, column.type)
            if expected != column.type:
                raise ArtifactError(
                    f"{self.storage.uri}/{part.name}: column {column.name!r} has type {column.type}, expected "
                    f"{expected}; delete {MANIFEST_NAME} beside it to rebuild {self.stage}"
                )


def parts_in_order(receipts: Iterable[Mapping[str, Any]]) -> list[Part]:
    """The parts that mappers report, in the order of what each was made from (`part`), each once."""
    by_source = {receipt["part"]: Part(**{name: receipt[name] for name in Part.model_fields}) for receipt in receipts}
    return [by_source[source] for source in sorted(by_source)]
