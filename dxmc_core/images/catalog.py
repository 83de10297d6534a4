"""The catalog: the frozen list of a run's images, which gives each a dense `row_id`, in parts of a fixed length."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from dxmc_core.artifacts import schemas
from dxmc_core.artifacts.manifest import Manifest
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.images.listing import list_images
from dxmc_core.images.sources import ImagesSource

CATALOG_PART_ROWS = 65_536
CATALOG_NAME = "_catalog.json"


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
    """The catalog that an earlier attempt wrote, or None. A damaged one counts as none: listing again is cheap."""
    try:
        manifest = Manifest.model_validate_json(stage_dir.storage.read_bytes(CATALOG_NAME))
    except (FileNotFoundError, ValueError):
        return None
    return Catalog(manifest, stage_dir)


def list_source(source: ImagesSource) -> tuple[pa.Table, str]:
    """The catalog of an image source and a digest that changes whenever the listing does."""
    images = list_images(source.uri, label_from=source.label_from)
    table = pa.table(
        {
            "row_id": np.arange(len(images), dtype=np.int64),
            "image_id": [image.image_id for image in images],
            "uri": [image.uri for image in images],
            "size": [image.size for image in images],
            "etag": [image.etag for image in images],
            "label": pa.array([image.label for image in images], pa.string()),
        }
    ).cast(schemas.CATALOG)
    digest = hashlib.sha256()
    for image in images:
        digest.update(json.dumps([image.image_id, image.uri, image.size, image.etag, image.label]).encode())
    return table, digest.hexdigest()[:32]


def write_catalog(stage_dir: StageDir, rows: pa.Table, *, fingerprint: str) -> Catalog:
    """Freeze the catalog of a run; from here on a rerun with the same fingerprint resumes."""
    parts = [
        stage_dir.write_part("catalog", rows.slice(start, CATALOG_PART_ROWS), fingerprint=fingerprint)
        for start in range(0, rows.num_rows, CATALOG_PART_ROWS)
    ]
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
    stage_dir.write_file(CATALOG_NAME, manifest.model_dump_json().encode())
    return Catalog(manifest, stage_dir)


def catalog_rows(catalog: Catalog, chunk: dict) -> pa.Table:
    """The rows that a chunk still has to do: of [row_start, row_stop) those set in the bits `todo`, or all if empty."""
    rows = catalog.rows(chunk["row_start"], chunk["row_stop"])
    if not chunk["todo"]:
        return rows
    todo = np.unpackbits(np.frombuffer(chunk["todo"], dtype=np.uint8), count=rows.num_rows)
    return rows.take(np.flatnonzero(todo))
