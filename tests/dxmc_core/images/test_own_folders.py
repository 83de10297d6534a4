"""A run directory, a home of generations and a cache that lie within the source are no part of it."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dxmc_core.artifacts.generations import folders_of
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.storage import Storage
from dxmc_core.images.catalog import list_source
from dxmc_core.images.sources import ImagesSource, ParquetSource


def ids(source, run_dir_uri):
    listing = list_source(source, own=folders_of(RunDir.at(run_dir_uri)))
    return [image_id for table in listing.tables() for image_id in table["image_id"].to_pylist()]


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path):
    if request.param == "local":
        return str(tmp_path / "photos")
    return f"{request.getfixturevalue('s3_bucket').uri}/photos"


def write(place, *names):
    for name in names:
        Storage(place).write_bytes(name, b"x")


@pytest.mark.parametrize("run_dir", ["run", "run/generations/000002", "run/deep"])
def test_run_directory_within_the_source(place, run_dir):
    stages = ("embed_images/bare", "report/index", "train_heads/deep/a.png", "tensorboard/b", "suggest_k/c")
    write(place, "1.jpg", "embed_images/2.jpg", "runner/report/3.jpg", *(f"{run_dir}/{name}" for name in stages))
    write(place, "run/generations/000001/report/index")
    found = ids(ImagesSource(uri=place), f"{place}/{run_dir}")
    others = [] if run_dir != "run/deep" else ["run/generations/000001/report/index"]
    assert found == ["1.jpg", "embed_images/2.jpg", *others, "runner/report/3.jpg"]


def test_source_that_is_the_run_directory_or_within_it(place):
    write(place, "1.jpg", "embed_images/bare", "report/index", "holiday/report/2.jpg")
    assert ids(ImagesSource(uri=place), place) == ["1.jpg", "holiday/report/2.jpg"]
    assert ids(ImagesSource(uri=f"{place}/holiday"), place) == ["report/2.jpg"]
    assert ids(ImagesSource(uri=f"{place}/*"), f"{place}/") == ["1.jpg"]


def test_parts_of_a_run_are_no_images_of_a_parquet_source(tmp_path):
    (tmp_path / "data/run/embed_images/images").mkdir(parents=True)
    pq.write_table(pa.table({"image": [b"x", b"y"]}), tmp_path / "data/a.parquet")
    pq.write_table(pa.table({"row_id": [1]}), tmp_path / "data/run/embed_images/images/part.parquet")
    source = ParquetSource(kind="parquet", uri=str(tmp_path / "data"))
    assert len(ids(source, str(tmp_path / "data/run"))) == 2


def test_run_directory_that_is_reached_by_a_link(tmp_path):
    photos, link = tmp_path / "photos", tmp_path / "link"
    photos.mkdir()
    link.symlink_to(photos)
    write(str(photos), "1.jpg", "run/report/index")
    for source, run_dir in ((photos, link), (link, photos), (link, link), (photos, photos / ".." / "photos")):
        assert ids(ImagesSource(uri=str(source)), f"{run_dir}/run") == ["1.jpg"]
