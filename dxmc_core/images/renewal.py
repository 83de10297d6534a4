"""A run over a source that has changed: finds what is new, changed or gone, and takes over what is known of the rest.

Row ids are dense in every catalog, so an image that stays may get another one. It is known again by its id, and counts
as unchanged while size and etag (and its place in a tar) are the same. Its embedding is written again under its new row
id, which costs a kilobyte of storage traffic and no computation.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dxmc_core.artifacts.manifest import Manifest, Part
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.tables import IMAGES, with_measures
from dxmc_core.artifacts.user_tables import take_rows
from dxmc_core.errors import ArtifactError
from dxmc_core.images.catalog import Catalog, Listing, freeze_catalog, hash_texts, read_catalog, stage_catalog
from dxmc_core.images.files import UNKNOWN_SIZE
from dxmc_core.runtime.lookahead import map_ahead

_PARTS_AT_A_TIME = 8
#: The metric of catalog and manifest that holds `FurtherEncoders`.
_FURTHER = "further_encoders"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListingChanges:
    """How many images of a listing are there since an earlier one, and how many of that one are gone."""

    new: int
    changed: int
    deleted: int
    unchanged: int


@dataclass(frozen=True)
class FurtherEncoders:
    """What decides what a run with several encoders takes over of an earlier one, beside the embeddings of the first.

    Attributes:
        identities: of each further encoder by its table, as JSON has it: embeddings by another are not taken over.
        first_fingerprint: of the same run with the first encoder alone: where that is the same and encoders are but
            added, rejects stay rejected.
    """

    identities: Mapping[str, Any]
    first_fingerprint: str

    def as_metrics(self) -> dict[str, Any]:
        """What the manifest says of it; nothing with one encoder."""
        return {_FURTHER: asdict(self)} if self.identities else {}

    def taken_over(self, before: Manifest) -> list[str]:
        """The tables of an earlier catalog that still hold."""
        found = before.metrics.get(_FURTHER, {"identities": {}, "first_fingerprint": before.fingerprint})
        known = found["identities"]
        tables = [table for table, identity in self.identities.items() if known.get(table) == identity]
        # What an encoder has rejected that is gone may be no reject for the others.
        are_added = len(tables) == len(known) < len(self.identities)
        is_same = are_added and found["first_fingerprint"] == self.first_fingerprint
        return [IMAGES.name, *tables, *(["rejects"] if is_same else [])]


def renew_catalog(
    stage_dir: StageDir,
    listing: Listing,
    *,
    fingerprint: str,
    base: StageDir | None = None,
    further: FurtherEncoders | None = None,
) -> Catalog:
    """Freeze the catalog of a listing, with parts of `images` for all that an earlier catalog has embedded.

    The earlier one may be that of a run that was killed here, of the stage as it was published here, or of `base`, the
    same stage of another run. A kill during this leaves the earlier one in place.

    Args:
        further: by default there is one encoder.
    """
    further = further or FurtherEncoders({}, fingerprint)
    earlier = read_catalog(stage_dir) or _published_catalog(stage_dir)
    if earlier is None and base is not None:
        earlier = _published_catalog(base)
    catalog = stage_catalog(stage_dir, listing.tables(), fingerprint=fingerprint)
    metrics = further.as_metrics()
    if earlier is not None:
        changes, new_rows = compare_catalogs(earlier, catalog)
        if changes.new or changes.changed or changes.deleted:
            logger.info(
                "%s: the source has changed: %d images are new, %d changed, %d gone, %d as they were",
                stage_dir.stage, changes.new, changes.changed, changes.deleted, changes.unchanged,
            )  # fmt: skip
        num_taken = {}
        for table in further.taken_over(earlier.manifest):
            parts = _embedded_parts(earlier, table)
            taken = take_over_rows(earlier.stage_dir, parts, stage_dir, table, new_rows, fingerprint=fingerprint)
            num_taken[table] = sum(part.rows for part, _ in taken)
        logger.info("%s: %d embeddings were taken over", stage_dir.stage, num_taken[IMAGES.name])
        metrics |= {"changes": {**asdict(changes), "taken_over": num_taken[IMAGES.name]}}
    return freeze_catalog(Catalog(catalog.manifest.model_copy(update={"metrics": metrics}), stage_dir))


def _embedded_parts(catalog: Catalog, table: str) -> list[Part]:
    """The parts of a table that a catalog has, staged ones where it is not published."""
    if table in catalog.manifest.tables:
        return catalog.manifest.tables[table]
    staged = catalog.stage_dir.staged_row_ids(table, fingerprint=catalog.manifest.fingerprint)
    return [part for part, _ in staged]


def _published_catalog(stage_dir: StageDir) -> Catalog | None:
    try:
        manifest = stage_dir.manifest()
    except ArtifactError:
        return None
    return None if manifest is None else Catalog(manifest, stage_dir)


def compare_catalogs(before: Catalog, after: Catalog) -> tuple[ListingChanges, np.ndarray]:
    """Compare two catalogs by 16 bytes of hashes per row.

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
        table = with_measures(source.read_part(part)) if table_name == "images" else source.read_part(part)
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
