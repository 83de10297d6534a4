"""What the workers of embed_images do: `DecodeImages`, `EncodeImages` and `WriteEmbeddings`.

`EmbedImages` is all three in one process: the next batch is fetched and decoded while the current one is in the model,
and a chunk is written while the next one is encoded. `DecodeChunks` and `EmbedDecoded` are the two halves of it, for
GPUs that need more cores than a process uses well. What is in memory at a time is bounded: the files by their bytes,
what is being decoded by its pixels, crops by their number.

Where there are several encoders, each process has all of them: a picture is fetched and decoded once, resized for each
model, and goes through one after the other. So no model waits for another, whichever of them takes longer. An encoder
goes by the table that its embeddings are for.
"""

import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from dxmc_core.artifacts.matrices import embedding_column
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.tables import IMAGES, MEASURES, REJECTS, with_measures
from dxmc_core.encoders import Encoder, EncoderConfig, load_encoder
from dxmc_core.encoders.batch_size import GPU_BATCHES, tune_batch_size
from dxmc_core.images.catalog import Catalog, catalog_rows
from dxmc_core.images.decode import ImageRejectedError, RejectReason, open_image
from dxmc_core.images.fetch import FetchImages
from dxmc_core.images.quality import Measures, measure
from dxmc_core.images.sources import ImageSource
from dxmc_core.runtime.allocator import reuse_freed_memory
from dxmc_core.runtime.lookahead import Budget, map_ahead, prefetched
from dxmc_core.stages.embedded_rows import pack_rows

#: Files that are fetched together, at most, and what the fetched and not yet decoded ones may take.
_FETCH_ROWS = 64
_FETCH_BYTES = 64 << 20
#: What a file is taken to have when the catalog does not know.
_USUAL_FILE_BYTES = 1 << 20
#: Pixels that the threads of a process decode at a time; Pillow takes 4 bytes for each, and twice that to convert.
#: A picture with more is decoded alone.
_PIXELS_AT_A_TIME = 64_000_000

#: Decoded chunks that go from process to process have at most so many bytes, which is below what Ray Data cuts up.
_DECODED_BYTES = 80 << 20

logger = logging.getLogger(__name__)

File = bytes | ImageRejectedError
Decoded = tuple[dict[str, np.ndarray], Measures]


def column_of(name: str, table: str) -> str:
    """The column of a batch that belongs to a table: pixels for `images`, pixels-NAME for `images-NAME`."""
    return name + table.removeprefix(IMAGES.name)


class DecodeImages:
    """Catalog rows to crops: decodes and resizes the files that `fetch` yields for them, in the order of the rows.

    Yields tables of the columns row_id, image_id, uri, pixels for each table (uint8 (image_size, image_size, 3) as
    bytes), those of `MEASURES` (all null for a reject), reason and message (null for an image). Each has
    `batch_size` images but the last of a chunk; rejects take no place in a batch, so the batches of a chunk do not
    depend on which of its rejects a killed run had written.

    Args:
        preprocess: the resizing of each encoder, by its table.
        image_size: the largest that one of them makes.
    """

    def __init__(
        self,
        preprocess: Mapping[str, Callable[[Image.Image], np.ndarray]],
        fetch: Callable[[pa.Table], Iterable[File]],
        *,
        image_size: int,
        batch_size: int,
        max_pixels: int,
        fast_jpeg: bool = False,
        num_threads: int = 1,
    ) -> None:
        self._preprocess = dict(preprocess)
        self._fetch = fetch
        self._batch_size = batch_size
        self._max_pixels = max_pixels
        self._min_size = image_size if fast_jpeg else None
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="dxmc-decode")
        self._pixels = Budget(_PIXELS_AT_A_TIME)

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        """The decoded batches of one chunk."""
        return (table for _, table in self.stream([rows]))

    def stream(self, chunks: Iterable[pa.Table]) -> Iterator[tuple[int, pa.Table]]:
        """The decoded batches of chunk after chunk, each with the number of its chunk, a batch ahead."""
        return prefetched(self._batches(chunks), ahead=1)

    def _batches(self, chunks: Iterable[pa.Table]) -> Iterator[tuple[int, pa.Table]]:
        file_bytes = Budget(_FETCH_BYTES)

        def decode(item: tuple[int, pa.Table, int, File]) -> tuple[int, pa.Table, int, Decoded | ImageRejectedError]:
            index, rows, row, file = item
            try:
                return index, rows, row, self._decode(file)
            finally:
                file_bytes.release(_num_bytes(file))

        files = self._files(chunks, file_bytes)
        decoded = map_ahead(decode, files, threads=self._threads, ahead=self._batch_size)
        for index, of_chunk in itertools.groupby(decoded, key=lambda item: item[0]):
            batch = _Batch(self._batch_size, self._preprocess)
            for _, rows, row, result in of_chunk:
                if batch.is_full and not isinstance(result, ImageRejectedError):
                    yield index, batch.table(rows)
                    batch = _Batch(self._batch_size, self._preprocess, first_row=row)
                batch.add(result)
            yield index, batch.table(rows)

    def _files(self, chunks: Iterable[pa.Table], file_bytes: Budget) -> Iterator[tuple[int, pa.Table, int, File]]:
        """The files of the rows, with chunk and row; a group of files is on its way while the one before is taken."""
        groups = ((index, rows, *group) for index, rows in enumerate(chunks) for group in _fetch_groups(rows))
        started = (
            (index, rows, start, self._fetch(rows.slice(start, length))) for index, rows, start, length in groups
        )
        for index, rows, start, files in _one_ahead(started):
            for row, file in enumerate(files, start=start):
                file_bytes.acquire(_num_bytes(file))
                yield index, rows, row, file

    def _decode(self, file: File) -> Decoded | ImageRejectedError:
        if isinstance(file, ImageRejectedError):
            return file
        try:
            opened = open_image(file, max_pixels=self._max_pixels, min_size=self._min_size)
            with self._pixels.using(opened.num_pixels):
                picture = opened.decode()
                crops = {table: resize(picture) for table, resize in self._preprocess.items()}
                return crops, measure(opened.size, picture, next(iter(crops.values())))
        except ImageRejectedError as error:
            return error


def _num_bytes(file: File) -> int:
    return len(file) if isinstance(file, bytes) else 0


def _fetch_groups(rows: pa.Table) -> Iterator[tuple[int, int]]:
    """(start, length) of rows to fetch together: so many, and so many bytes; a larger file is alone."""
    sizes = rows["size"].to_numpy()
    sizes = np.where(sizes < 0, _USUAL_FILE_BYTES, sizes)
    start, total = 0, 0
    for row, size in enumerate(sizes.tolist()):
        if row > start and (row - start == _FETCH_ROWS or total + size > _FETCH_BYTES):
            yield start, row - start
            start, total = row, 0
        total += size
    if start < len(sizes):
        yield start, len(sizes) - start


def _one_ahead(items: Iterable[Any]) -> Iterator[Any]:
    """The items; each is handed out when the next one has been made."""
    iterator = iter(items)
    for item in iterator:
        for following in iterator:
            yield item
            item = following
        yield item


class _Batch:
    """Crops side by side in memory as models take them, and the rows of a chunk that they and rejects came from."""

    def __init__(self, batch_size: int, tables: Iterable[str], *, first_row: int = 0) -> None:
        self._batch_size = batch_size
        self._tables = list(tables)
        self._crops: dict[str, np.ndarray] = {}
        self._first_row = first_row
        self._num_images = 0
        self._rejections: list[ImageRejectedError | None] = []
        self._measures: list[Measures | None] = []

    @property
    def is_full(self) -> bool:
        return self._num_images == self._batch_size

    def add(self, result: Decoded | ImageRejectedError) -> None:
        """Take what became of the next row."""
        if isinstance(result, ImageRejectedError):
            self._rejections.append(result)
            self._measures.append(None)
            return
        crops, measures = result
        for table, crop in crops.items():
            if table not in self._crops:
                self._crops[table] = np.empty((self._batch_size, *crop.shape), dtype=np.uint8)
            self._crops[table][self._num_images] = crop
        self._num_images += 1
        self._rejections.append(None)
        self._measures.append(measures)

    def table(self, rows: pa.Table) -> pa.Table:
        """The batch as `DecodeImages` yields it, given all rows of its chunk."""
        table = rows.slice(self._first_row, len(self._rejections)).select(["row_id", "image_id", "uri"])
        is_image = np.array([rejection is None for rejection in self._rejections])
        for name in self._tables:
            crops = self._crops[name][: self._num_images] if self._num_images else np.empty((0, 0), dtype=np.uint8)
            table = table.append_column(column_of("pixels", name), _pixels_column(crops, is_image))
        for name, type_ in MEASURES.items():
            table = table.append_column(
                name, pa.array([found and getattr(found, name) for found in self._measures], type_)
            )
        return with_rejections(table, self._rejections)


def with_rejections(table: pa.Table, rejections: Sequence[ImageRejectedError | None]) -> pa.Table:
    """The table with the columns reason and message, null where a row is none."""
    table = table.append_column("reason", pa.array([r and str(r.reason) for r in rejections], pa.string()))
    return table.append_column("message", pa.array([r and r.message for r in rejections], pa.string()))


def rejection_without_direction(embedding: np.ndarray) -> ImageRejectedError:
    """Why an embedding (D,) for which `to_unit_norm` has found no direction is none."""
    if np.isfinite(embedding).all():
        return ImageRejectedError(RejectReason.ZERO_NORM, "the embedding is all zeros")
    return ImageRejectedError(RejectReason.NOT_FINITE, "the embedding holds NaN or infinity")


def _pixels_column(crops: np.ndarray, is_image: np.ndarray) -> pa.LargeBinaryArray:
    """Crops uint8 (B, H, W, 3) as a column of bytes, without a copy; null where `is_image` is False.

    Its offsets have 64 bits: 14,266 crops of 224 x 224 are 2 GiB.
    """
    crop_bytes = crops[0].nbytes if len(crops) else 0
    offsets = np.concatenate([[0], np.cumsum(is_image)]) * crop_bytes
    valid = np.packbits(is_image, bitorder="little")
    buffers = [pa.py_buffer(valid), pa.py_buffer(offsets.astype(np.int64)), pa.py_buffer(np.ascontiguousarray(crops))]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(is_image), buffers, int((~is_image).sum()))


def _crops_of(column: pa.ChunkedArray, image_size: int) -> np.ndarray:
    """The crops of a column that `_pixels_column` made, uint8 (B, H, W, 3), without a copy when it has one chunk."""
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    _, offset_buffer, data = array.buffers()
    offsets = np.frombuffer(offset_buffer, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    values = np.frombuffer(data, dtype=np.uint8)[first:last] if data is not None else np.empty(0, dtype=np.uint8)
    return values.reshape(-1, image_size, image_size, 3)


class EncodeImages:
    """Pixels to embeddings: each column `pixels` by one `embedding` (unit norm, float16; null for a reject).

    What one encoder rejects is rejected for all.
    """

    def __init__(self, encoders: Mapping[str, Encoder]) -> None:
        self._encoders = dict(encoders)

    def __call__(self, decoded: pa.Table) -> pa.Table:
        is_image = decoded["reason"].is_null().to_numpy()
        table = decoded.drop_columns([column_of("pixels", name) for name in self._encoders])
        found: dict[str, np.ndarray] = {}
        for name, encoder in self._encoders.items():
            found[name] = np.zeros((decoded.num_rows, encoder.embedding_width), dtype=np.float16)
            pixels = decoded[column_of("pixels", name)]
            rows = np.flatnonzero(pixels.is_valid().to_numpy())
            if len(rows):
                found[name][rows] = encoder.encode_images(_crops_of(pixels, encoder.image_size))
            has_direction = np.isfinite(found[name]).all(axis=1) & found[name].any(axis=1)
            table = _without_direction(table, found[name], np.flatnonzero(is_image & ~has_direction))
            is_image &= has_direction
        for name, embeddings in found.items():
            table = table.append_column(column_of("embedding", name), embedding_column(embeddings, mask=~is_image))
        return table


def _without_direction(table: pa.Table, embeddings: np.ndarray, rows: np.ndarray) -> pa.Table:
    """The table with these of its rows rejected: the encoder gave zeros for them, or no numbers."""
    if not len(rows):
        return table
    reasons, messages = table["reason"].to_pylist(), table["message"].to_pylist()
    for row in rows.tolist():
        rejection = rejection_without_direction(embeddings[row])
        reasons[row], messages[row] = str(rejection.reason), rejection.message
    table = table.set_column(table.column_names.index("reason"), "reason", pa.array(reasons, pa.string()))
    return table.set_column(table.column_names.index("message"), "message", pa.array(messages, pa.string()))


class WriteEmbeddings:
    """Embedded and rejected rows to parts.

    The result has one row per part written: `table`, the part's fields, and its row ids packed (row_start, row_bits).
    The rejects go first: a row whose part was not written is simply done again.

    Args:
        tables: of the encoders whose embeddings there are.
    """

    def __init__(self, stage_dir: StageDir, *, fingerprint: str, tables: Iterable[str] = (IMAGES.name,)) -> None:
        self._stage_dir = stage_dir
        self._fingerprint = fingerprint
        self._tables = list(tables)

    def __call__(self, rows: pa.Table) -> pa.Table:
        is_reject = rows["reason"].is_valid()
        rejects = rows.filter(is_reject).select(REJECTS.schema().names).cast(REJECTS.schema())
        found = rows.filter(pc.invert(is_reject))
        written = {"rejects": rejects, **{name: _images(found, name) for name in self._tables}}
        return pa.Table.from_pylist([self._written(name, table) for name, table in written.items() if table.num_rows])

    def _written(self, name: str, table: pa.Table) -> dict[str, Any]:
        part = self._stage_dir.write_part(name, table, fingerprint=self._fingerprint)
        row_start, row_bits = pack_rows(table["row_id"].to_numpy())
        return {"table": name, **part.model_dump(), "row_start": row_start, "row_bits": row_bits}


def _images(rows: pa.Table, name: str) -> pa.Table:
    """Embedded rows as the table of an encoder has them; measures go with the first."""
    embeddings = rows[column_of("embedding", name)]
    base = IMAGES.schema(embeddings.type.list_size)
    table = rows.select(["row_id", "image_id"]).append_column("embedding", embeddings)
    if name != IMAGES.name:
        return table.cast(base)
    whole = pa.schema([*base, *MEASURES.items()])
    measured = with_measures(rows).select(list(MEASURES))
    for column in measured.schema:
        table = table.append_column(column, measured[column.name])
    return table.cast(whole)


class EmbedImages:
    """The whole way from chunks of catalog rows to written parts in one process.

    It may be called by two threads at a time: then the model does not wait for the end of one chunk and the begin of
    the next.

    Args:
        encoders: by the tables that their embeddings are for.
        batch_size: images of one forward pass; by default 32 on the CPU, and on a GPU what is best there.
        num_threads: cores that this process may use: threads that decode, and on the CPU those of the model.
    """

    def __init__(
        self,
        encoders: Mapping[str, EncoderConfig],
        source: ImageSource,
        catalog: Catalog,
        *,
        fingerprint: str,
        device: str,
        batch_size: int | None,
        num_threads: int,
    ) -> None:
        models = _load_tuned(encoders, device, batch_size, num_threads=num_threads, largest=catalog.chunk_rows)
        self._catalog = catalog
        self._decode = DecodeImages(
            {table: model.preprocess for table, model in models.items()},
            FetchImages(source),
            image_size=max(model.image_size for model in models.values()),
            batch_size=max(model.batch_size for model in models.values()),
            max_pixels=source.max_pixels,
            fast_jpeg=source.fast_jpeg,
            num_threads=num_threads,
        )
        self._encode = EncodeImages(models)
        self._encoders = ThreadPoolExecutor(GPU_BATCHES, "dxmc-encode") if _is_gpu(device) else None
        self._turns = _turns_of(device)
        self._write = WriteEmbeddings(catalog.stage_dir, fingerprint=fingerprint, tables=encoders)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="dxmc-write")

    def __call__(self, chunks: pa.Table) -> pa.Table:
        """What `WriteEmbeddings` reports of some chunks, given as `EmbeddedRows.chunks` has them."""
        return pa.concat_tables(self.stream(chunks.to_pylist()))

    def stream(self, chunks: Iterable[dict[str, Any]]) -> Iterator[pa.Table]:
        """The same for chunk after chunk, without a pause between them."""
        decoded = self._decode.stream(catalog_rows(self._catalog, chunk) for chunk in chunks)
        if self._encoders is None:
            encoded: Iterator[tuple[int, pa.Table]] = map(self._encode_batch, decoded)
        else:
            encoded = map_ahead(self._encode_batch, decoded, threads=self._encoders, ahead=GPU_BATCHES - 1)
        return map_ahead(self._write, _whole_chunks(encoded), threads=self._writer, ahead=1)

    def _encode_batch(self, item: tuple[int, pa.Table]) -> tuple[int, pa.Table]:
        index, decoded = item
        with self._turns:
            return index, self._encode(decoded)


class DecodeChunks:
    """Chunks of catalog rows to decoded images: what a process does that has no model.

    Its chunks have at most `decoded_chunk_rows` rows. It may be called by several threads at a time: then one chunk is
    fetched while another is decoded.
    """

    def __init__(
        self, encoders: Mapping[str, EncoderConfig], source: ImageSource, catalog: Catalog, *, num_threads: int
    ) -> None:
        reuse_freed_memory()
        preprocess = {table: encoder.load_preprocess() for table, encoder in encoders.items()}
        sizes = [resize.image_size for resize in preprocess.values()]
        self._catalog = catalog
        self._decode = DecodeImages(
            preprocess,
            FetchImages(source),
            image_size=max(sizes),
            batch_size=decoded_chunk_rows(*sizes),
            max_pixels=source.max_pixels,
            fast_jpeg=source.fast_jpeg,
            num_threads=num_threads,
        )

    def __call__(self, chunks: pa.Table) -> pa.Table:
        """All rows of some chunks as `DecodeImages` yields them."""
        rows = (catalog_rows(self._catalog, chunk) for chunk in chunks.to_pylist())
        return pa.concat_tables([table for _, table in self._decode.stream(rows)])


def decoded_chunk_rows(*image_sizes: int) -> int:
    """Rows of a chunk that is decoded in one process and encoded in another: a power of two, as batches are.

    Args:
        image_sizes: of every encoder.
    """
    most = max(_DECODED_BYTES // sum(3 * size**2 for size in image_sizes), 1)
    return 1 << (most.bit_length() - 1)


class EmbedDecoded:
    """Decoded images to written parts: what a process does that has the GPU.

    It is to be called by several threads at a time: then one table is copied to the GPU while another is computed
    there, and others are written.
    """

    def __init__(
        self,
        encoders: Mapping[str, EncoderConfig],
        stage_dir: StageDir,
        *,
        fingerprint: str,
        device: str,
        batch_size: int | None,
        num_threads: int,
        chunk_rows: int,
    ) -> None:
        models = _load_tuned(encoders, device, batch_size, num_threads=num_threads, largest=chunk_rows)
        self._encode = EncodeImages(models)
        self._turns = _turns_of(device)
        self._write = WriteEmbeddings(stage_dir, fingerprint=fingerprint, tables=encoders)

    def __call__(self, decoded: pa.Table) -> pa.Table:
        with self._turns:
            encoded = self._encode(decoded)
        return self._write(encoded)


def _is_gpu(device: str) -> bool:
    return device.startswith("cuda")


def _turns_of(device: str) -> threading.Semaphore:
    """Held while a batch is in the model."""
    return threading.Semaphore(GPU_BATCHES if _is_gpu(device) else 1)


def _load_tuned(
    encoders: Mapping[str, EncoderConfig], device: str, batch_size: int | None, *, num_threads: int, largest: int
) -> dict[str, Encoder]:
    """The encoders; their batch sizes, where none is given, are found by trying on a GPU."""
    models = {}
    for table, config in encoders.items():
        models[table] = load_encoder(config, device=device, batch_size=batch_size, num_threads=num_threads)
        if batch_size is None and _is_gpu(device):
            size = tune_batch_size(models[table], largest=largest)
            logger.info("a batch of %s has %d images on this GPU", table, size)
    return models


def _whole_chunks(batches: Iterable[tuple[int, pa.Table]]) -> Iterator[pa.Table]:
    """Join the batches of each chunk."""
    for _, of_chunk in itertools.groupby(batches, key=lambda item: item[0]):
        yield pa.concat_tables([table for _, table in of_chunk])
