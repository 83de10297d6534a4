"""A run over a source that has changed: finds what is new, changed or gone, and takes over what is known of the rest.

Row ids are dense in every catalog, so an image that stays may get another one. It is known again by its id, and counts
as unchanged while size and etag (and its place in a tar) are the same. Its embedding is written again under its new row
id, which costs a kilobyte of storage traffic and no computation.
"""

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dxmc_core.artifacts import schemas
from dxmc_core.artifacts.manifest import Part
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.user_tables import take_rows
from dxmc_core.errors import ArtifactError
from dxmc_core.images.catalog import Catalog, Listing, freeze_catalog, hash_texts, read_catalog, stage_catalog
from dxmc_core.images.files import UNKNOWN_SIZE
from dxmc_core.lookahead import map_ahead

_PARTS_AT_A_TIME = 8

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListingChanges:
    """How many images of a listing are there since an earlier one, and how many of that one are gone."""

    new: int
    changed: int
    deleted: int
    unchanged: int


def renew_catalog(stage_dir: StageDir, listing: Listing, *, fingerprint: str, base: StageDir | None = None) -> Catalog:
    """Freeze the catalog of a listing, with parts of `images` for all that an earlier catalog has embedded.

    The earlier one may be that of a run that was killed here, of the stage as it was published here, or of `base`, the
    same stage of another run. A kill during this leaves the earlier one in place.
    """
    earlier = _earlier_embeddings(stage_dir)
    if earlier is None and base is not None:
        earlier = _published_embeddings(base)
    catalog = stage_catalog(stage_dir, listing.tables(), fingerprint=fingerprint)
    if earlier is not None:
        before, parts = earlier
        changes, new_rows = compare_catalogs(before, catalog)
        logger.info(
            "%s: the source has changed: %d images are new, %d changed, %d gone, %d as they were",
            stage_dir.stage, changes.new, changes.changed, changes.deleted, changes.unchanged,
        )  # fmt: skip
        taken = take_over_rows(before.stage_dir, parts, stage_dir, "images", new_rows, fingerprint=fingerprint)
        num_taken = sum(part.rows for part, _ in taken)
        logger.info("%s: %d embeddings were taken over", stage_dir.stage, num_taken)
        metrics = {"changes": {**asdict(changes), "taken_over": num_taken}}
        catalog = Catalog(catalog.manifest.model_copy(update={"metrics": metrics}), stage_dir)
    return freeze_catalog(catalog)


def _earlier_embeddings(stage_dir: StageDir) -> tuple[Catalog, list[Part]] | None:
    """The catalog of the run before this one, and the parts of `images` that it has."""
    unfinished = read_catalog(stage_dir)
    if unfinished is not None:
        staged = stage_dir.staged_row_ids("images", fingerprint=unfinished.manifest.fingerprint)
        return unfinished, [part for part, _ in staged]
    return _published_embeddings(stage_dir)


def _published_embeddings(stage_dir: StageDir) -> tuple[Catalog, list[Part]] | None:
    try:
        manifest = stage_dir.manifest()
    except ArtifactError:
        return None
    return None if manifest is None else (Catalog(manifest, stage_dir), manifest.tables["images"])


def compare_catalogs(before: Catalog, after: Catalog) -> tuple[ListingChanges, np.ndarray]:
    """Compare two catalogs by 16 bytes of hashes a row.

    Returns:
        the counts; for each row of `before` its row in `after` where the image is unchanged, else -1, (N,) int64.
    """
    ids_before, content_before = _hashes(before)
    ids_after, content_after = _hashes(after)
    shared, rows_before, rows_after = np.intersect1d(ids_before, ids_after, assume_unique=True, return_indices=True)
    same = (content_before[rows_before] == content_after[rows_after]) & (content_before[rows_before] != 0)
    new_rows = np.full(before.num_rows, -1, dtype=np.int64)
    new_rows[rows_before[same]] = rows_after[same]
    changes = ListingChanges(
        new=len(ids_after) - len(shared),
        changed=int((~same).sum()),
        deleted=len(ids_before) - len(shared),
        unchanged=int(same.sum()),
    )
    return changes, new_rows


def _hashes(catalog: Catalog) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of image id and of content, (N,) uint64 each; content that nothing is known of has 0."""
    ids, contents = [], []
    for part in catalog.manifest.tables["catalog"]:
        rows = catalog.stage_dir.read_part(part, ["image_id", "size", "etag", "offset"])
        ids.append(hash_texts(rows["image_id"]))
        described = [rows["etag"], *(pc.fill_null(rows[name].cast(pa.string()), "") for name in ("size", "offset"))]
        content = hash_texts(pc.binary_join_element_wise(*described, " "))
        nothing_known = pc.and_(pc.equal(rows["size"], UNKNOWN_SIZE), pc.equal(rows["etag"], ""))
        contents.append(np.where(nothing_known.to_numpy(), np.uint64(0), content))
    return np.concatenate(ids), np.concatenate(contents)


def take_over_rows(
    source: StageDir,
    parts: Iterable[Part],
    target: StageDir,
    table_name: str,
    new_rows: np.ndarray,
    *,
    fingerprint: str,
) -> Iterator[tuple[Part, np.ndarray]]:
    """Write what parts of a table hold of unchanged images under their new row ids.

    Args:
        new_rows: as of `compare_catalogs`.

    Yields:
        each part written, and its row ids (n,), ascending.
    """

    def rewrite(part: Part) -> tuple[Part, np.ndarray] | None:
        table = schemas.with_measures(source.read_part(part)) if table_name == "images" else source.read_part(part)
        row_ids = new_rows[table["row_id"].to_numpy()]
        kept = np.flatnonzero(row_ids >= 0)
        if not len(kept):
            return None
        order = kept[np.argsort(row_ids[kept], kind="stable")]
        field = table.schema.field("row_id")
        renumbered = take_rows(table, order).set_column(0, field, pa.array(row_ids[order]))
        return target.write_part(table_name, renumbered, fingerprint=fingerprint), row_ids[order]

    with ThreadPoolExecutor(_PARTS_AT_A_TIME, thread_name_prefix="dxmc-renew") as threads:
        written = map_ahead(rewrite, parts, threads=threads, ahead=_PARTS_AT_A_TIME)
        yield from (result for result in written if result is not None)
