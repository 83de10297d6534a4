"""Samples of WebDataset tars: found where they lie, never mixed up, and damage reported."""

import tarfile

import pytest

from dxmc_core.errors import InputError
from dxmc_core.images.fetch import FetchImages
from dxmc_core.images.sources import WebDatasetSource
from dxmc_core.images.tar_listing import list_tars


def rows_of(uri, **options):
    tables = list(list_tars(WebDatasetSource(kind="webdataset", uri=str(uri), **options)))
    return [row for table in tables for row in table.to_pylist()]


def fetched(uri, **options):
    """image_id: bytes, or the reason why there are none."""
    source = WebDatasetSource(kind="webdataset", uri=str(uri), **options)
    fetch = FetchImages(source)
    return {
        image_id: file if isinstance(file, bytes) else str(file.reason)
        for table in list_tars(source)
        for image_id, file in zip(table["image_id"].to_pylist(), fetch(table), strict=True)
    }


@pytest.fixture
def shards(tmp_path, tar_of):
    for shard in range(2):
        members = [(".", None), ("./._junk.jpg", b"resource fork")]
        for number in range(3):
            key = f"cats/{shard}{number}"
            members += [
                (f"{key}.cls", str(number).encode()),
                (f"{key}.jpg", f"jpeg {shard}{number}".encode()),
                (f"{key}.json", b'{"caption": "a cat", "score": 3}'),
            ]
        (tmp_path / f"shard-{shard:03}.tar").write_bytes(tar_of(members))
    return tmp_path


@pytest.mark.parametrize("place", ["", "/*.tar", "/shard-{000..001}.tar", "/shard-{000,001}.tar"])
def test_samples_are_fetched_by_their_keys(shards, place):
    expected = {f"cats/{shard}{number}": f"jpeg {shard}{number}".encode() for shard in range(2) for number in range(3)}
    assert fetched(f"{shards}{place}") == expected


@pytest.mark.parametrize(
    ("label_from", "expected"),
    [("cls", "2"), ("json.caption", "a cat"), ("json.score", "3"), ("json.nothing", None), ("txt", None),
     ("parent_folder", "cats"), (None, None)],
)  # fmt: skip
def test_labels(shards, label_from, expected):
    assert rows_of(shards / "shard-001.tar", label_from=label_from)[-1]["label"] == expected


def test_image_id_may_carry_the_shard(shards):
    rows = rows_of(shards, image_id="shard_and_key")
    assert rows[0]["image_id"] == "shard-000/cats/00"
    assert rows[-1]["image_id"] == "shard-001/cats/12"


def test_key_that_comes_back_is_reported_and_not_mixed_up(tmp_path, caplog, tar_of):
    members = [
        ("a.jpg", b"first a"),
        ("b.jpg", b"b"),
        ("a.txt", b"label of which a?"),
        ("a.jpg", b"second a"),
        ("c.jpg", b"c"),
    ]
    (tmp_path / "x.tar").write_bytes(tar_of(members))
    rows = {row["image_id"]: row for row in rows_of(tmp_path / "x.tar", label_from="txt")}
    assert len(rows) == 4
    assert rows["a"]["label"] is None
    found = fetched(tmp_path / "x.tar")
    assert found.pop("a") == b"first a"
    assert found.pop("b") == b"b"
    assert found.pop("c") == b"c"
    assert list(found.values()) == ["duplicate_key"]
    assert "1 keys come back after other keys (a)" in caplog.text


def test_member_that_is_there_twice_in_a_row_is_a_second_sample(tmp_path, tar_of):
    (tmp_path / "x.tar").write_bytes(tar_of([("a.jpg", b"one"), ("a.jpg", b"two"), ("b.jpg", b"b")]))
    assert sorted(map(str, fetched(tmp_path / "x.tar").values())) == ["b'b'", "b'one'", "duplicate_key"]


def test_sample_without_image_and_choice_of_image(tmp_path, tar_of):
    members = [("a.txt", b"alone"), ("b.depth.png", b"depth"), ("b.png", b"plain"), ("c.seg.png", b"only this")]
    (tmp_path / "x.tar").write_bytes(tar_of(members))
    assert fetched(tmp_path / "x.tar") == {"a": "missing", "b": b"plain", "c": b"only this"}


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names(tmp_path, format, tar_of):
    name = "ünïcode/" + "long" * 60
    (tmp_path / "x.tar").write_bytes(tar_of([(f"{name}.jpg", b"x")], format=format))
    assert fetched(tmp_path / "x.tar") == {name: b"x"}


def test_cut_and_damaged_tars_lose_nothing_silently(tmp_path, tar_of):
    whole = tar_of([(f"{number}.jpg", bytes([number]) * 1000) for number in range(6)])
    (tmp_path / "cut.tar").write_bytes(whole[: 3 * 1536 + 512 + 100])
    (tmp_path / "hole.tar").write_bytes(whole[: 2 * 1536] + b"\xff" * 512 + whole[2 * 1536 + 512 :])
    (tmp_path / "text.tar").write_bytes(b"this is no tar at all" * 100)
    found = fetched(tmp_path, image_id="shard_and_key")
    cut = {name: value for name, value in found.items() if name.startswith("cut")}
    assert [type(value) for value in cut.values()] == [bytes, bytes, bytes, str, str]
    assert set(list(cut.values())[3:]) == {"truncated"}
    hole = {name: value for name, value in found.items() if name.startswith("hole")}
    assert [type(value) for value in hole.values()] == [bytes, bytes, str]
    assert hole["hole.tar@3072"] == "unreadable"
    assert found["text.tar@0"] == "unreadable"


def test_tar_without_end_marker_is_whole(tmp_path, tar_of):
    whole = tar_of([("a.jpg", b"x" * 512)])
    (tmp_path / "x.tar").write_bytes(whole[:1024])
    assert fetched(tmp_path / "x.tar") == {"a": b"x" * 512}


@pytest.mark.parametrize(
    ("name", "message"),
    [("x.tar.gz", "is compressed"), ("*.tgz", "is compressed"), ("none", "does not exist"), ("empty", "no .tar files")],
)
def test_unusable_places(tmp_path, name, message):
    (tmp_path / "x.tar.gz").write_bytes(b"x")
    (tmp_path / "y.tgz").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        rows_of(tmp_path / name)


def test_label_of_an_unknown_kind(shards):
    with pytest.raises(InputError, match="labels come from parent_folder, cls"):
        rows_of(shards, label_from="caption")


def test_members_are_fetched_from_a_bucket_by_ranges(s3_bucket, picture, tar_of):
    members = [(f"{number:03}.{kind}", content) for number in range(40)
               for kind, content in (("png", picture(number)), ("txt", b"x" * 300))]  # fmt: skip
    s3_bucket.put("shards/a.tar", tar_of(members))
    assert fetched(f"{s3_bucket.uri}/shards/") == {f"{number:03}": picture(number) for number in range(40)}
    s3_bucket.faults.share = 0.6
    assert fetched(f"{s3_bucket.uri}/shards/") == {f"{number:03}": picture(number) for number in range(40)}
    assert s3_bucket.faults.counts


def test_tar_that_shrank_since_it_was_listed(s3_bucket, tar_of):
    data = tar_of([("a.jpg", b"a" * 5000), ("b.jpg", b"b" * 5000)])
    s3_bucket.put("x.tar", data)
    source = WebDatasetSource(kind="webdataset", uri=f"{s3_bucket.uri}/x.tar")
    (table,) = list_tars(source)
    s3_bucket.put("x.tar", data[:2000])
    assert {str(file.reason) for file in FetchImages(source)(table)} == {"truncated"}


def test_name_that_is_no_unicode_text(tmp_path, tar_of):
    (tmp_path / "x.tar").write_bytes(tar_of([("a\udcff.png", b"x"), ("b.png", b"y")], format=tarfile.GNU_FORMAT))
    assert fetched(tmp_path / "x.tar") == {r"a\udcff": b"x", "b": b"y"}
