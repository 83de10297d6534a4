"""Stage 1: from a source of images, or a file of embeddings, to one embedding or one reject for every catalog row.

The catalog is written first and gives every image a dense `row_id`. A chunk of rows then flows through `DecodeImages`,
`EncodeImages` and `WriteEmbeddings`; each part written carries its row ids, so what a killed run has done is a bitmap
over rows, and a rerun embeds what the bitmap lacks.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dxmc_core.artifacts import schemas
from dxmc_core.artifacts.manifest import Manifest, Part, fingerprint_of
from dxmc_core.artifacts.matrices import embedding_column
from dxmc_core.artifacts.stage_dir import StageDir, select_disjoint
from dxmc_core.artifacts.storage import check_free_space
from dxmc_core.encoders import Encoder, EncoderConfig, encoder_identity, load_encoder
from dxmc_core.errors import ArtifactError, InputError
from dxmc_core.images.catalog import Catalog, catalog_rows, write_catalog
from dxmc_core.images.decode import ImageRejectedError, RejectReason, decode_image
from dxmc_core.images.fetch import FetchImages
from dxmc_core.images.sources import EmbeddingsSource, ImagesSource
from dxmc_core.stages.embedding_files import read_embedding_file

_IMPORT_PART_ROWS = 8192
_OTHER_BYTES_PER_ROW = 1200  # catalog, 2 x 50 neighbours, assignments
_OTHER_BYTES = 300_000_000  # nouns, heads, checkpoints, report
_REJECT_EXAMPLES = 3


def source_identity(source: ImagesSource | EmbeddingsSource, encoder: EncoderConfig | None) -> dict:
    """What the embeddings depend on, JSON-able: the settings of source and encoder."""
    return {
        "source": source.model_dump(mode="json"),
        "encoder": encoder_identity(encoder) if encoder is not None and source.kind == "images" else None,
    }


def check_disk(run_dir_uri: str, *, num_rows: int, embedding_width: int) -> None:
    """Raises InputError when the run's artifacts would not fit the disk of a local run directory."""
    counterparts_too = 2
    bytes_per_row = counterparts_too * embedding_width * np.dtype(np.float16).itemsize + _OTHER_BYTES_PER_ROW
    check_free_space(run_dir_uri, num_rows * bytes_per_row + _OTHER_BYTES)


@dataclass(frozen=True)
class EmbeddingPlan:
    """What is done and what is left to do.

    Attributes:
        kept: parts of earlier attempts that count, by table; every row at most once.
        chunks: (row_start, row_stop, todo) of each unfinished chunk; `todo` are the row ids to embed.
        num_done: rows covered by `kept`.
    """

    kept: dict[str, list[Part]]
    chunks: list[tuple[int, int, np.ndarray]]
    num_done: int


def plan_embedding(catalog: Catalog, *, fingerprint: str) -> EmbeddingPlan:
    """Compare the catalog with the parts that lie there already (memory: one byte a row)."""
    stage_dir = catalog.stage_dir
    covered = np.zeros(catalog.num_rows, dtype=bool)
    kept: dict[str, list[Part]] = {"images": [], "rejects": []}
    for name in kept:
        staged = stage_dir.staged_parts(name, fingerprint=fingerprint)
        kept[name] = select_disjoint(_with_row_ids(stage_dir, staged), covered)
    chunks = []
    for start in range(0, catalog.num_rows, catalog.chunk_rows):
        stop = min(start + catalog.chunk_rows, catalog.num_rows)
        todo = start + np.flatnonzero(~covered[start:stop])
        if len(todo):
            chunks.append((start, stop, todo))
    return EmbeddingPlan(kept, chunks, int(covered.sum()))


def _with_row_ids(stage_dir: StageDir, parts: Sequence[Part]) -> Iterator[tuple[Part, np.ndarray]]:
    for part in parts:
        try:
            table = stage_dir.read_part(part, ["row_id"])
        except ArtifactError:
            continue  # half-written or damaged: its rows are simply embedded again
        yield part, table["row_id"].to_numpy()


_DECODED = pa.schema(
    [
        ("row_id", pa.int64()),
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("pixels", pa.binary()),
        ("reason", pa.string()),
        ("message", pa.string()),
    ]
)


class DecodeImages:
    """Catalog rows to pixels: decodes and resizes the files that `fetch` yields for them, in the order of the rows.

    The result has the columns row_id, image_id, uri, pixels (uint8 (image_size, image_size, 3) as bytes, null for a
    reject), reason and message (null for an image).
    """

    def __init__(
        self,
        encoder: Encoder,
        fetch: Callable[[pa.Table], Iterable[bytes | ImageRejectedError]],
        *,
        max_pixels: int,
        fast_jpeg: bool = False,
    ) -> None:
        self._encoder = encoder
        self._fetch = fetch
        self._max_pixels = max_pixels
        self._min_size = encoder.image_size if fast_jpeg else None

    def __call__(self, rows: pa.Table) -> pa.Table:
        columns: dict[str, list] = {name: [] for name in ("pixels", "reason", "message")}
        for data in self._fetch(rows):
            pixels, reason, message = self._decode(data)
            columns["pixels"].append(pixels)
            columns["reason"].append(reason)
            columns["message"].append(message)
        kept = rows.select(["row_id", "image_id", "uri"]).to_pydict()
        return pa.table({**kept, **columns}, schema=_DECODED)

    def _decode(self, data: bytes | ImageRejectedError) -> tuple[bytes | None, str | None, str | None]:
        try:
            if isinstance(data, ImageRejectedError):
                raise data
            image = decode_image(data, max_pixels=self._max_pixels, min_size=self._min_size)
            return self._encoder.preprocess(image).tobytes(), None, None
        except ImageRejectedError as error:
            return None, str(error.reason), error.message


class EncodeImages:
    """Pixels to embeddings: replaces the column `pixels` by `embedding` (unit norm, float16; null for a reject)."""

    def __init__(self, encoder: Encoder, *, batch_size: int) -> None:
        self._encoder = encoder
        self._batch_size = batch_size

    def __call__(self, decoded: pa.Table) -> pa.Table:
        size, width = self._encoder.image_size, self._encoder.embedding_width
        is_image = decoded["pixels"].is_valid().to_numpy()
        pixels = decoded["pixels"].drop_null()
        embeddings = np.zeros((decoded.num_rows, width), dtype=np.float16)
        encoded = []
        for start in range(0, len(pixels), self._batch_size):
            batch = pixels.slice(start, self._batch_size).to_pylist()
            stacked = np.frombuffer(b"".join(batch), dtype=np.uint8).reshape(len(batch), size, size, 3)
            encoded.append(self._encoder.encode_images(stacked))
        if encoded:
            embeddings[is_image] = np.concatenate(encoded).astype(np.float16)
        table = decoded.drop_columns(["pixels"])
        return table.append_column("embedding", embedding_column(embeddings, mask=~is_image))


class WriteEmbeddings:
    """Embedded and rejected rows to parts; the result has one row a part written (`table` and the part's fields).

    The rejects go first: a row whose part was not written is simply done again.
    """

    def __init__(self, stage_dir: StageDir, *, fingerprint: str) -> None:
        self._stage_dir = stage_dir
        self._fingerprint = fingerprint

    def __call__(self, rows: pa.Table) -> pa.Table:
        is_reject = rows["reason"].is_valid()
        rejects = rows.filter(is_reject).select(schemas.REJECTS.names).cast(schemas.REJECTS)
        images = rows.filter(pc.invert(is_reject)).select(["row_id", "image_id", "embedding"])
        width = images.schema.field("embedding").type.list_size
        written = {}
        if rejects.num_rows:
            written["rejects"] = self._stage_dir.write_part("rejects", rejects, fingerprint=self._fingerprint)
        if images.num_rows:
            images = images.cast(schemas.images(width))
            written["images"] = self._stage_dir.write_part("images", images, fingerprint=self._fingerprint)
        return pa.Table.from_pylist([{"table": table, **part.model_dump()} for table, part in written.items()])


class EmbedImages:
    """The whole way from chunks of catalog rows to written parts in one process: what a CPU worker runs.

    Called with a table of the columns row_start, row_stop and todo (list of row ids), one row a chunk.
    """

    def __init__(
        self,
        encoder: EncoderConfig,
        source: ImagesSource,
        catalog: Catalog,
        *,
        fingerprint: str,
        device: str | None,
        batch_size: int,
        num_threads: int | None,
    ) -> None:
        model = load_encoder(encoder, device=device, batch_size=batch_size, num_threads=num_threads)
        self._catalog = catalog
        self._decode = DecodeImages(model, FetchImages(), max_pixels=source.max_pixels, fast_jpeg=source.fast_jpeg)
        self._encode = EncodeImages(model, batch_size=batch_size)
        self._write = WriteEmbeddings(catalog.stage_dir, fingerprint=fingerprint)
        self._batch_size = batch_size

    def __call__(self, chunks: pa.Table) -> pa.Table:
        return pa.concat_tables([self._embed(chunk) for chunk in chunks.to_pylist()])

    def _embed(self, chunk: dict) -> pa.Table:
        rows = catalog_rows(self._catalog, chunk)
        encoded = [
            self._encode(self._decode(rows.slice(start, self._batch_size)))
            for start in range(0, rows.num_rows, self._batch_size)
        ]
        return self._write(pa.concat_tables(encoded))


def import_embeddings(
    source: EmbeddingsSource, stage_dir: StageDir, *, fingerprint: str
) -> tuple[Catalog, dict[str, list[Part]]]:
    """Bring a file of embeddings into the artifacts: normalised, float16; rows that are not finite or zero rejected."""
    file = read_embedding_file(source.uri, label_from=source.label_from)
    count = len(file.embeddings)
    rows = pa.table(
        {
            "row_id": np.arange(count, dtype=np.int64),
            "image_id": file.image_ids,
            "uri": pa.array([source.uri] * count, pa.string()),
            "size": np.full(count, file.embeddings.shape[1] * file.embeddings.itemsize, dtype=np.int64),
            "etag": pa.array([""] * count, pa.string()),
            "label": file.labels if file.labels is not None else pa.nulls(count, pa.string()),
        }
    ).cast(schemas.CATALOG)
    catalog = write_catalog(stage_dir, rows, fingerprint=fingerprint)
    write = WriteEmbeddings(stage_dir, fingerprint=fingerprint)
    parts: dict[str, list[Part]] = {"images": [], "rejects": []}
    for start in range(0, count, _IMPORT_PART_ROWS):
        stop = min(start + _IMPORT_PART_ROWS, count)
        written = write(_normalized_rows(catalog.rows(start, stop), file.embeddings[start:stop]))
        for table, part in parts_of(written):
            parts[table].append(part)
    return catalog, parts


def _normalized_rows(rows: pa.Table, embeddings: np.ndarray) -> pa.Table:
    values = embeddings.astype(np.float32)
    finite = np.asarray(np.isfinite(values).all(axis=1))
    norms: np.ndarray = np.linalg.norm(np.where(finite[:, None], values, 0.0), axis=1)
    usable = finite & (norms > 0)
    unit = np.zeros_like(values)
    unit[usable] = values[usable] / norms[usable, None]
    reasons = np.where(finite, str(RejectReason.ZERO_NORM), str(RejectReason.NOT_FINITE))
    messages = np.where(finite, "the embedding is all zeros", "the embedding holds NaN or infinity")
    table = rows.select(["row_id", "image_id", "uri"])
    table = table.append_column("reason", pa.array(reasons, pa.string(), mask=usable))
    table = table.append_column("message", pa.array(messages, pa.string(), mask=usable))
    return table.append_column("embedding", embedding_column(unit.astype(np.float16), mask=~usable))


def parts_of(receipts: pa.Table) -> list[tuple[str, Part]]:
    """The parts that `WriteEmbeddings` reports, each with the name of its table."""
    return [
        (row["table"], Part(name=row["name"], rows=row["rows"], bytes=row["bytes"], sha256=row["sha256"]))
        for row in receipts.to_pylist()
    ]


def publish_embeddings(
    catalog: Catalog, parts: dict[str, list[Part]], *, fingerprint: str, seconds: float, num_resumed: int = 0
) -> Manifest:
    """Check that every catalog row ended in exactly one of images and rejects, and write the manifest.

    Raises:
        InputError: not a single image could be embedded.
        ArtifactError: rows are missing or doubled (a defect; nothing is published).
    """
    stage_dir = catalog.stage_dir
    covered = np.zeros(catalog.num_rows, dtype=bool)
    ordered = {}
    for name, table_parts in parts.items():
        first_rows = {}
        for part in table_parts:
            row_ids = stage_dir.read_part(part, ["row_id"])["row_id"].to_numpy()
            if covered[row_ids].any():
                raise ArtifactError(f"{stage_dir.storage.uri}/{part.name} repeats rows of another part; rerun")
            covered[row_ids] = True
            first_rows[part.name] = int(row_ids[0])
        ordered[name] = sorted(table_parts, key=lambda part: first_rows[part.name])
    if not covered.all():
        raise ArtifactError(f"{int((~covered).sum())} catalog rows are in neither images nor rejects; rerun")
    rejects = reject_summary(stage_dir, ordered["rejects"])
    if not ordered["images"]:
        raise InputError(f"none of the {catalog.num_rows} images could be read: {_describe(rejects)}")
    return stage_dir.publish(
        fingerprint=fingerprint,
        inputs={},
        tables={"catalog": catalog.manifest.tables["catalog"], **ordered},
        metrics={
            "images": sum(part.rows for part in ordered["images"]),
            "rejects": sum(part.rows for part in ordered["rejects"]),
            "reject_reasons": {reason: len(examples) for reason, examples in rejects.items()},
            "rows_resumed": num_resumed,
        },
        seconds=seconds,
    )


def reject_summary(stage_dir: StageDir, parts: Sequence[Part]) -> dict[str, list[str]]:
    """Image ids by reason, commonest reason first."""
    counts: Counter[str] = Counter()
    ids: dict[str, list[str]] = {}
    for part in parts:
        table = stage_dir.read_part(part, ["image_id", "reason"])
        for image_id, reason in zip(table["image_id"].to_pylist(), table["reason"].to_pylist(), strict=True):
            counts[reason] += 1
            ids.setdefault(reason, []).append(image_id)
    return {reason: ids[reason] for reason, _ in counts.most_common()}


def _describe(rejects: dict[str, list[str]]) -> str:
    return "; ".join(
        f"{len(ids)} {reason} (e.g. {', '.join(ids[:_REJECT_EXAMPLES])})" for reason, ids in rejects.items()
    )


def fingerprint(identity: dict, content_digest: str) -> str:
    """The stage's fingerprint: its settings and what the source held when it was listed."""
    return fingerprint_of("embed_images", {**identity, "content": content_digest}, {})
