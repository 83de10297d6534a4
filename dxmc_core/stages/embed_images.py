"""Stage 1: from a source of images, or a file of embeddings, to one embedding or one reject for every catalog row.

The catalog is written first and gives every image a dense `row_id`. Chunks of its rows go to the workers
(embedding_workers.py); each part they write carries its row ids, and so a rerun knows what is left (embedded_rows.py).
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pyarrow as pa

from dxmc_core.artifacts.manifest import Part
from dxmc_core.artifacts.matrices import embedding_column
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.stage_result import StageResult
from dxmc_core.artifacts.storage import check_free_space
from dxmc_core.artifacts.tables import IMAGES, REJECTS
from dxmc_core.errors import ArtifactError, InputError
from dxmc_core.images.catalog import Catalog, catalog_rows, catalog_tables, freeze_catalog, stage_catalog
from dxmc_core.images.decode import ImageRejectedError, RejectReason
from dxmc_core.images.quarantine import Quarantine
from dxmc_core.images.selection import Selection
from dxmc_core.images.sources import EmbeddingsSource, ImageSource
from dxmc_core.method.unit_rows import to_unit_norm
from dxmc_core.method.work import Work
from dxmc_core.stages.embedded_rows import EmbeddedRows
from dxmc_core.stages.embedding_files import EmbeddingFile, read_embedding_file
from dxmc_core.stages.embedding_workers import (
    WriteEmbeddings,
    column_of,
    rejection_without_direction,
    with_rejections,
)
from dxmc_core.workload import POOL_BYTES, POOL_STARTS, PROCESS_BYTES, RAY_BYTES, CostPart, Machine, StageCost, Workload

_IMPORT_PART_ROWS = 8192
_OTHER_BYTES_PER_ROW = 1200  # catalog, 2 x 50 neighbours, assignments
_OTHER_BYTES = 300_000_000  # nouns, heads, checkpoints, report
#: Of an image in the catalog and beside its embedding.
_CATALOG_BYTES_PER_ROW = 200
#: Importing an embedding passes over it so often: reading, digest, norm, writing.
_PASSES_TO_IMPORT = 100
#: Files, pictures that are being decoded, crops, and what the model makes of them, of a process that embeds.
_PIXEL_BYTES = 600e6
_REJECT_EXAMPLES = 3
_COMMON_REASONS = 3


def check_disk(run_dir_uri: str, *, num_rows: int, embedding_widths: Sequence[int]) -> None:
    """Raises InputError when the run's artifacts would not fit the disk of a local run directory.

    Args:
        embedding_widths: of every encoder; counterparts are as wide as the first.
    """
    columns = sum(embedding_widths) + embedding_widths[0]
    bytes_per_row = columns * np.dtype(np.float16).itemsize + _OTHER_BYTES_PER_ROW
    check_free_space(run_dir_uri, num_rows * bytes_per_row + _OTHER_BYTES)


def import_embeddings(
    source: EmbeddingsSource, stage_dir: StageDir, *, fingerprint: str, tables: Sequence[str] = (IMAGES.name,)
) -> tuple[Catalog, EmbeddedRows]:
    """Bring a file of embeddings into the artifacts: normalised, float16; rows that are not finite or zero rejected.

    Args:
        tables: that there will be; this is of the first.
    """
    file = _selected(read_embedding_file(source.uri, label_from=source.label_from), source)
    count = len(file.embeddings)
    rows = pa.table(
        {
            "image_id": file.image_ids,
            "uri": pa.array([uri or source.uri for uri in file.uris or [None] * count], pa.string()),
            "size": np.full(count, file.embeddings.shape[1] * file.embeddings.itemsize, dtype=np.int64),
            "etag": [hashlib.blake2b(row.tobytes(), digest_size=8).hexdigest() for row in file.embeddings],
            "label": file.labels if file.labels is not None else pa.nulls(count, pa.string()),
            "offset": pa.nulls(count, pa.int64()),
            "problem": pa.nulls(count, pa.string()),
        }
    )
    catalog = freeze_catalog(stage_catalog(stage_dir, catalog_tables([rows]), fingerprint=fingerprint))
    write = WriteEmbeddings(stage_dir, fingerprint=fingerprint)
    done = EmbeddedRows(count, tables)
    for start in range(0, count, _IMPORT_PART_ROWS):
        stop = min(start + _IMPORT_PART_ROWS, count)
        written = write(_normalized_rows(catalog.rows(start, stop), file.embeddings[start:stop], IMAGES.name))
        for receipt in written.to_pylist():
            done.add_receipt(receipt)
    return catalog, done


def _selected(file: EmbeddingFile, source: EmbeddingsSource) -> EmbeddingFile:
    """The rows whose ids the user's patterns take."""
    if not (source.include or source.exclude):
        return file
    selection = Selection.of(source)
    kept = [row for row, image_id in enumerate(file.image_ids) if selection.takes_name(image_id)]
    selection.passed_over.log(source.uri)
    if not kept:
        raise InputError(selection.passed_over.said_after(f"{source.uri} holds no embeddings that are wanted"))
    return EmbeddingFile(
        embeddings=file.embeddings[kept],
        image_ids=[file.image_ids[row] for row in kept],
        labels=None if file.labels is None else [file.labels[row] for row in kept],
        uris=None if file.uris is None else [file.uris[row] for row in kept],
    )


def import_further(table: str, uri: str, catalog: Catalog, done: EmbeddedRows, *, fingerprint: str) -> None:
    """Bring a file of embeddings in for what a further encoder would do, and count it as done.

    Images are found by their ids; those that the file does not have are rejected.
    """
    file = read_embedding_file(uri)
    place_of = {image_id: place for place, image_id in enumerate(file.image_ids)}
    write = WriteEmbeddings(catalog.stage_dir, fingerprint=fingerprint, tables=(table,))
    missing = [tables for tables in done.missing() if table in tables]
    for chunk in [chunk for tables in missing for chunk in done.chunks(_IMPORT_PART_ROWS, tables)]:
        rows = catalog_rows(catalog, chunk)
        places = np.array([place_of.get(image_id, -1) for image_id in rows["image_id"].to_pylist()])
        rejections = {
            row: ImageRejectedError(RejectReason.MISSING, f"{uri} has no embedding of it")
            for row in np.flatnonzero(places < 0).tolist()
        }
        for receipt in write(_normalized_rows(rows, file.embeddings[places], table, rejections)).to_pylist():
            done.add_receipt(receipt)


def _normalized_rows(
    rows: pa.Table, embeddings: np.ndarray, table_name: str, rejected: Mapping[int, ImageRejectedError] | None = None
) -> pa.Table:
    """Rows as `WriteEmbeddings` takes them; those that are `rejected`, by position, and those without a direction."""
    unit, usable = to_unit_norm(embeddings)
    rejections: list[ImageRejectedError | None] = [None] * len(embeddings)
    for row in np.flatnonzero(~usable).tolist():
        rejections[row] = rejection_without_direction(embeddings[row])
    for row, rejection in (rejected or {}).items():
        rejections[row], usable[row] = rejection, False
    table = with_rejections(rows.select(["row_id", "image_id", "uri"]), rejections)
    column = embedding_column(unit.astype(np.float16), mask=~usable)
    return table.append_column(column_of("embedding", table_name), column)


def all_embedded(catalog: Catalog, done: EmbeddedRows, *, fingerprint: str, num_resumed: int = 0) -> StageResult:
    """What embed_images has made once every catalog row ended in images or rejects, which is checked.

    Raises:
        InputError: not a single image could be embedded.
        ArtifactError: rows are missing (a defect).
    """
    stage_dir = catalog.stage_dir
    if done.num_left:
        raise ArtifactError(f"{done.num_left} catalog rows are in neither images nor rejects; run again")
    if not done.num_images:
        found = describe_rejects(stage_dir, done.parts(REJECTS.name))
        raise InputError(f"none of the {catalog.num_rows} images could be read: {found}")
    done.replace_rejected(partial(_without_rows, stage_dir, fingerprint=fingerprint))
    tables = {table: done.parts(table) for table in (*done.tables, REJECTS.name)}
    return StageResult(
        tables={"catalog": catalog.manifest.tables["catalog"], **tables},
        metrics={
            "images": done.num_images,
            "rejects": done.num_rejects,
            "reject_reasons": dict(count_rejects(stage_dir, tables[REJECTS.name])[0].most_common()),
            "rows_resumed": num_resumed,
            **catalog.manifest.metrics,
        },
    )


def _without_rows(
    stage_dir: StageDir, table_name: str, part: Part, row_ids: np.ndarray, *, fingerprint: str
) -> Part | None:
    """The part of a table without these rows; itself where it has none of them, None where it has no others."""
    table = stage_dir.read_part(part)
    left = ~np.isin(table["row_id"].to_numpy(), row_ids)
    if left.all():
        return part
    return (
        stage_dir.write_part(table_name, table.filter(pa.array(left)), fingerprint=fingerprint) if left.any() else None
    )


def count_rejects(stage_dir: StageDir, parts: Sequence[Part]) -> tuple[Counter[str], dict[str, list[str]]]:
    """How many rejects have each reason, and the first three of them as `image_id (message)`."""
    counts: Counter[str] = Counter()
    examples: defaultdict[str, list[str]] = defaultdict(list)
    for part in parts:
        table = stage_dir.read_part(part, ["image_id", "reason", "message"])
        for image_id, reason, message in zip(*(column.to_pylist() for column in table.columns), strict=True):
            counts[reason] += 1
            if len(examples[reason]) < _REJECT_EXAMPLES:
                examples[reason].append(f"{image_id} ({message})")
    return counts, examples


def describe_rejects(stage_dir: StageDir, parts: Sequence[Part]) -> str:
    """The commonest reasons with their numbers, and three examples of each."""
    counts, examples = count_rejects(stage_dir, parts)
    shown = (
        f"{count} {reason}, e.g. {', '.join(examples[reason])}" for reason, count in counts.most_common(_COMMON_REASONS)
    )
    return "; ".join(shown)


def require_few_rejects(
    source: ImageSource, stage_dir: StageDir, num_images: int, rejects: Sequence[Part], num_rows: int
) -> None:
    """Check that not more of the catalog is rejected than may be, whenever that was.

    Raises:
        InputError: there are more.
    """
    counts = np.array([[num_images, sum(part.rows for part in rejects)]])
    quarantine = Quarantine(num_rows, max_fraction=source.max_reject_fraction, done=counts)
    if quarantine.is_exceeded:
        raise too_many_rejects(quarantine, stage_dir, rejects)


def too_many_rejects(quarantine: Quarantine, stage_dir: StageDir, rejects: Sequence[Part]) -> InputError:
    """What to tell a person when the limit is exceeded."""
    found = describe_rejects(stage_dir, rejects)
    return InputError(f"{quarantine.finding}: {found}; mend the source or raise it, and run again to go on")


def cost(load: Workload, machine: Machine) -> StageCost:
    """What the stage takes: listing, then fetching, decoding and the encoder side by side; or the import of a file."""
    if load.encoder is None:
        return _import_cost(load, machine)
    count, rates = load.num_images, machine.rates
    encoder = machine.on_all("the encoder", load.encoder_work.image * count)
    cores = machine.nodes * machine.cores
    if machine.gpus:
        # Other cores than those of the GPUs' processes decode meanwhile, see `choose_layout` of the job.
        decoding_cores = max(cores - machine.nodes * machine.gpus, 1)
        steps = [encoder, CostPart("decoding", count * rates.decode_s / decoding_cores)]
        steps.append(CostPart("fetching images", count * rates.fetch_s / decoding_cores))
        work = [max(steps, key=lambda part: part.seconds)]
    else:
        decoding = CostPart("decoding", count * rates.decode_s / cores)
        # Files are fetched while the cores are busy with others.
        waiting = count * rates.fetch_s / cores - encoder.seconds - decoding.seconds
        work = [encoder, decoding, CostPart("fetching images", max(waiting, 0.0))]
    disk = count * ((load.width + sum(load.further_widths)) * 2.0 + _CATALOG_BYTES_PER_ROW)
    workers = machine.gpus or machine.cores
    return StageCost(
        "embed_images",
        (
            CostPart("listing", count / rates.listed_per_s),
            machine.starting(POOL_STARTS),
            machine.on_cpus("loading the encoder", load.encoder_work.loading, num_cores=1),
            *work,
            machine.writing(disk),
        ),
        memory_bytes=RAY_BYTES
        + POOL_BYTES
        + PROCESS_BYTES
        + workers * (PROCESS_BYTES + load.encoder_work.num_bytes + _PIXEL_BYTES),
        disk_bytes=disk,
        note=f"{load.encoder}, {load.encoder_work.image.flops / 1e9:,.1f} GFLOP an image",
    )


def _import_cost(load: Workload, machine: Machine) -> StageCost:
    row_bytes = load.num_images * load.width * 4.0
    disk = load.num_images * (load.width * 2.0 + _CATALOG_BYTES_PER_ROW)
    return StageCost(
        "embed_images",
        (
            machine.on_cpus("importing", Work(moved_bytes=_PASSES_TO_IMPORT * row_bytes), num_cores=1),
            machine.writing(disk),
        ),
        # The file, its table, and float32 of it beside each other.
        memory_bytes=RAY_BYTES + PROCESS_BYTES + load.num_images * load.width * 8.0,
        disk_bytes=disk,
        note="embeddings are imported from their file",
    )
