"""Tars and Parquet files with random damage: what can be read is, the rest is rejected or the source is refused."""

import io
import random
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dxmc_core.errors import DxmcError
from dxmc_core.images.catalog import list_source
from dxmc_core.images.decode import ImageRejectedError
from dxmc_core.images.fetch import FetchImages
from dxmc_core.images.sources import ParquetSource, WebDatasetSource

_NUM_IMAGES = 12


def picture(number: int) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 0)).save(sink, "PNG")
    return sink.getvalue()


PICTURES = [picture(number) for number in range(_NUM_IMAGES)]


def tar_file(chance: random.Random) -> bytes:
    sink = io.BytesIO()
    kind = chance.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    with tarfile.open(fileobj=sink, mode="w", format=kind) as archive:
        for number, data in enumerate(PICTURES):
            for suffix, content in (("png", data), ("cls", b"3")):
                info = tarfile.TarInfo(f"{'d' * chance.choice([1, 120])}/{number:03}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return sink.getvalue()


def parquet_file(chance: random.Random) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table({"id": [f"{number}" for number in range(_NUM_IMAGES)], "image": PICTURES})
    pq.write_table(table, sink, row_group_size=chance.choice([3, 100]), compression=chance.choice(["none", "zstd"]))
    return sink.getvalue().to_pybytes()


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Cut off, or with changed, dropped, doubled or zeroed bytes."""
    start = chance.randrange(len(data))
    length = chance.choice([1, 4, 512, 2000])
    piece = data[start : start + length]
    instead = {
        "cut": b"",
        "changed": chance.randbytes(len(piece)),
        "dropped": b"",
        "doubled": piece * 2,
        "zeroed": b"\0" * len(piece),
    }
    kind = chance.choice(list(instead))
    return data[:start] + instead[kind] + (b"" if kind == "cut" else data[start + length :])


@pytest.mark.parametrize(
    ("make", "source", "name"),
    [(tar_file, WebDatasetSource(kind="webdataset", uri=""), "x.tar"),
     (parquet_file, ParquetSource(kind="parquet", uri="", image_column="image"), "x.parquet")],
)  # fmt: skip
def test_damage_costs_what_it_hits(make, source, name, tmp_path, amount, torture_seed):
    chance = random.Random(torture_seed)
    path = tmp_path / name
    source = source.model_copy(update={"uri": str(path)})
    outcomes = {"whole": 0, "rejected": 0, "refused": 0}
    for _ in range(amount(150, 3000)):
        path.write_bytes(damaged(make(chance), chance))
        try:
            tables = list(list_source(source).tables())
        except DxmcError as error:
            assert "\n" not in str(error)  # noqa: PT017 - a damaged file may also be read in part
            outcomes["refused"] += 1
            continue
        for rows in tables:
            files = list(FetchImages(source)(rows))
            assert len(files) == rows.num_rows
            for file in files:
                assert isinstance(file, bytes | ImageRejectedError)
                outcomes["rejected" if isinstance(file, ImageRejectedError) else "whole"] += 1
    assert outcomes["whole"] > outcomes["rejected"] > 0, outcomes
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [name]
