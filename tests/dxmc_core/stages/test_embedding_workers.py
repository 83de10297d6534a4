"""What flows between the workers: batches of crops in the order of the rows, rejects beside them, memory bounded."""

import io
import threading

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dxmc_core.images.decode import ImageRejectedError, RejectReason
from dxmc_core.stages import embedding_workers
from dxmc_core.stages.embedding_workers import DecodeImages, EncodeImages, WriteEmbeddings


def png(color, size=(12, 12)):
    sink = io.BytesIO()
    Image.new("RGB", size, color).save(sink, "png")
    return sink.getvalue()


def rows_of(files, first_row=0, sizes=None):
    """A chunk of catalog rows; `fetch` below finds the file of a row by its uri."""
    count = len(files)
    return pa.table(
        {
            "row_id": np.arange(first_row, first_row + count),
            "image_id": [f"i{row}" for row in range(count)],
            "uri": [str(row) for row in range(count)],
            "size": sizes or [len(file) if isinstance(file, bytes) else -1 for file in files],
        }
    )


def fetch_from(files):
    return lambda rows: [files[int(uri)] for uri in rows["uri"].to_pylist()]


def decoder(mean_color, fetch, *, batch_size=4, **kwargs):
    return DecodeImages(
        {"images": mean_color.preprocess},
        fetch,
        image_size=8,
        batch_size=batch_size,
        max_pixels=10_000,
        num_threads=2,
        **kwargs,
    )


BAD = [b"", b"no image", ImageRejectedError(RejectReason.MISSING, "gone"), png("red", (200, 200))]
REASONS = ["empty", "not_an_image", "missing", "too_large"]


def test_rejects_keep_their_rows_and_take_no_place_in_a_batch(mean_color):
    files = [png((row, 0, 0)) for row in range(9)]
    for at, bad in zip((0, 3, 4, 8), BAD, strict=True):
        files.insert(at, bad)
    tables = list(decoder(mean_color, fetch_from(files))(rows_of(files)))
    assert [table["pixels"].is_valid().to_numpy().sum() for table in tables] == [4, 4, 1]
    whole = pa.concat_tables(tables)
    assert whole["row_id"].to_pylist() == list(range(13))
    assert [reason for reason in whole["reason"].to_pylist() if reason] == REASONS
    assert [message is None for message in whole["message"].to_pylist()] == whole["pixels"].is_valid().to_pylist()

    encoded = pa.concat_tables([EncodeImages({"images": mean_color})(table) for table in tables])
    expected = iter(mean_color.encode_images(np.full((1, 8, 8, 3), (row, 0, 0), np.uint8))[0] for row in range(9))
    for reason, embedding in zip(encoded["reason"].to_pylist(), encoded["embedding"].to_pylist(), strict=True):
        if reason is None:
            np.testing.assert_allclose(embedding, next(expected), atol=1e-3)
        else:
            assert embedding is None


def test_batches_may_be_joined_cut_and_sent_before_they_are_encoded(mean_color):
    """Ray cuts and joins tables on their way from worker to worker."""
    files = [png((row, 3, 0)) if row % 5 else b"bad" for row in range(20)]
    tables = list(decoder(mean_color, fetch_from(files))(rows_of(files)))
    encode = EncodeImages({"images": mean_color})
    expected = pa.concat_tables([encode(table) for table in tables])
    joined = pa.concat_tables(tables)
    assert encode(joined).equals(expected)
    for cut in (1, 7, 18):
        assert pa.concat_tables([encode(joined.slice(0, cut)), encode(joined.slice(cut))]).equals(expected)
    with pa.BufferOutputStream() as sink:
        with pa.ipc.new_stream(sink, joined.schema) as writer:
            writer.write_table(joined.slice(3))
        sent = pa.ipc.open_stream(sink.getvalue()).read_all()
    assert encode(sent).equals(expected.slice(3))


def test_chunks_follow_one_another_and_never_share_a_batch(mean_color):
    files = [png((row, 0, 0)) for row in range(10)]
    chunks = [rows_of(files[:6]), rows_of(files[:1], first_row=6), rows_of(files[:4], first_row=7)]
    found = [(i, table["row_id"].to_pylist()) for i, table in decoder(mean_color, fetch_from(files)).stream(chunks)]
    assert found == [(0, [0, 1, 2, 3]), (0, [4, 5]), (1, [6]), (2, [7, 8, 9, 10])]


def test_chunk_of_rejects_only(mean_color, tmp_path):
    from dxmc_core.artifacts.stage_dir import StageDir
    from dxmc_core.artifacts.storage import Storage

    stage = StageDir(Storage(str(tmp_path)), "embed_images")
    [table] = decoder(mean_color, fetch_from(BAD))(rows_of(BAD))
    receipts = WriteEmbeddings(stage, fingerprint="a" * 32)(EncodeImages({"images": mean_color})(table)).to_pylist()
    assert [(receipt["table"], receipt["rows"]) for receipt in receipts] == [("rejects", 4)]


def test_error_of_fetching_is_raised_and_the_decoder_works_on(mean_color):
    files = [png("red")] * 6

    def fetch(rows):
        yield from files[:2]
        raise ConnectionError("the network is gone")

    decode = decoder(mean_color, fetch)
    for _ in range(3):
        with pytest.raises(ConnectionError, match="the network is gone"):
            list(decode(rows_of(files)))


def test_files_are_fetched_in_groups_of_bounded_size(mean_color, monkeypatch):
    monkeypatch.setattr(embedding_workers, "_FETCH_ROWS", 3)
    monkeypatch.setattr(embedding_workers, "_FETCH_BYTES", 1000)
    files = [png("red")] * 8
    groups = []

    def fetch(rows):
        groups.append(rows["size"].to_pylist())
        return files[: rows.num_rows]

    list(decoder(mean_color, fetch)(rows_of(files, sizes=[100, 100, 100, 600, 500, 5000, 100, 100])))
    assert groups == [[100, 100, 100], [600], [500], [5000], [100, 100]]


def test_large_pictures_are_decoded_one_at_a_time(mean_color, monkeypatch):
    monkeypatch.setattr(embedding_workers, "_PIXELS_AT_A_TIME", 150)
    lock, running, most = threading.Lock(), [], []

    def preprocess(image):
        with lock:
            running.append(image)
            most.append(len(running))
        threading.Event().wait(0.01)
        with lock:
            running.pop()
        return mean_color.preprocess(image)

    files = [png("red")] * 12  # 144 pixels each
    decode = DecodeImages(
        {"images": preprocess}, fetch_from(files), image_size=8, batch_size=4, max_pixels=10_000, num_threads=4
    )
    assert sum(table.num_rows for table in decode(rows_of(files))) == 12
    assert max(most) == 1
