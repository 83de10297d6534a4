"""Local paths on a cluster: every host looks at them, before the first stage and wherever a worker starts later.

A path of one host's disk may not be there on another, or lead to other files. Images would then be missing, and parts
that one host has written would be gone for the next.
"""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from dxmc_core.artifacts.generations import open_run_dir
from dxmc_core.artifacts.lease import LOCK_NAME, held_above
from dxmc_core.artifacts.manifest import MANIFEST_NAME
from dxmc_core.artifacts.storage import is_local, normalize_uri
from dxmc_core.config import PipelineConfig
from dxmc_core.errors import InputError
from dxmc_core.images.catalog import CATALOG_PART_ROWS, Listing
from dxmc_core.images.listing import LIST_SUFFIXES
from ray_jobs.context import RunContext

_REMEDY = "on a cluster of several hosts it has to lie in object storage, or on a disk that all of them mount there"
_SAMPLE_FILES = 64
_REMOTE = "^[A-Za-z][A-Za-z0-9+.-]*://"


@dataclass(frozen=True)
class LocalFile:
    """A file that a worker will read, as the driver knows it.

    Attributes:
        key: of the configuration, by which a person knows the place.
        size: in bytes; None when it is not known.
        content: a text that the file holds, by which it is known where others have its size; None to leave that.
        is_written_beside: workers write into its folder.
    """

    key: str
    path: str
    size: int | None = None
    content: str | None = None
    is_written_beside: bool = False

    def problem(self) -> str | None:
        """What is wrong with it on the host that asks; None when nothing is."""
        path = Path(self.path)
        try:
            size = path.stat().st_size
            if self.content is not None and self.content not in path.read_text(errors="replace"):
                return f"{path.parent} there is another folder"
        except OSError as error:
            return f"{path}: {error.strerror}"
        if self.size is not None and size != self.size:
            return f"{path} has {size} bytes there, not {self.size}"
        if self.is_written_beside and not os.access(path.parent, os.W_OK):
            return f"{path.parent} may not be written there"
        return None


def require_here(files: tuple[LocalFile, ...]) -> None:
    """Check that this host has the files.

    Raises:
        InputError: it has not, or others by their name.
    """
    for file in files:
        problem = file.problem()
        if problem is not None:
            raise InputError(f"{file.key} is local, and host {socket.gethostname()} lacks it ({problem}); {_REMEDY}")


def local_files_of(context: RunContext) -> tuple[LocalFile, ...]:
    """What workers of a run will read from local paths: of a source with many files, some of all over it."""
    config = context.config
    return (
        *_run_dir(context.run_dir.uri),
        *_source(config, context.listing),
        *_checkpoints(config),
        *_earlier_run(config),
    )


def _run_dir(uri: str) -> Iterator[LocalFile]:
    """The run directory is known by its lock, which no other folder has."""
    held = held_above(uri) if is_local(uri) else None
    if held is not None:
        folder, owner = held
        yield LocalFile("run_dir", f"{folder}/{LOCK_NAME}", content=owner, is_written_beside=True)


def _source(config: PipelineConfig, listing: Listing | None) -> Iterator[LocalFile]:
    uri = config.source.uri
    is_list = uri.lower().endswith(LIST_SUFFIXES)
    if listing is None or not (is_local(uri) or is_list):
        return
    rows: dict[str, int | None] = {}
    tables = max(listing.num_rows // CATALOG_PART_ROWS, 1)
    for table in listing.tables():
        found = table.filter(~pc.match_substring_regex(pc.field("uri"), _REMOTE) & pc.is_null(pc.field("problem")))
        step = max(found.num_rows * tables // _SAMPLE_FILES, 1)
        for row in found.take(pa.array(range(0, found.num_rows, step))).to_pylist():
            rows[row["uri"]] = row["size"] if row["offset"] is None and row["size"] >= 0 else None
        if not is_list and len(rows) >= _SAMPLE_FILES:
            break
    for path, size in rows.items():
        yield LocalFile("source.uri", path, size)


def _checkpoints(config: PipelineConfig) -> Iterator[LocalFile]:
    if config.needs_encoder:
        for encoder in config.encoder_of_table.values():
            for key, path in encoder.local_files():
                yield LocalFile(key, str(path), path.stat().st_size)


def _earlier_run(config: PipelineConfig) -> Iterator[LocalFile]:
    uri = config.assign_clusters.keep_ids_from
    if uri is not None and is_local(uri):
        stage = open_run_dir(uri).stage("assign_clusters").storage
        path = Path(normalize_uri(stage.uri)) / MANIFEST_NAME
        if path.exists():
            yield LocalFile("assign_clusters.keep_ids_from", str(path))
