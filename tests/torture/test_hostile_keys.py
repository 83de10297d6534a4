"""Keys of a bucket and names of files may be any text: each image is found, fetched, shown and exported as itself."""

import csv
import io
from pathlib import Path

import pyarrow as pa
import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from dxmc_core.images.catalog import list_source
from dxmc_core.images.fetch import FetchImages
from dxmc_core.images.sources import ImagesSource

KEYS = [
    "a b.png", "ü/ж.png", "e\u0301.png", "日本 語.png", "tab\t.png", "carriage\rreturn.png",
    "../../escape.png", "x/../../../escape.png", "dots/x...png", "%2e%2e%2f.png", "%00.png", "100%.png",
    "+plus&amp=.png", "question?mark.png", "hash#mark.png", "semi;colon.png", "'quotes\".png", "back\\slash.png",
    "<img src=x onerror=alert(1)>.png", "$(reboot).png", "`reboot`.png", "star*.png", "brace{0..3}.png",
    "[a-z].png", "~.png", "\u202egpj.png", "\u200b.png", "s3:/other-bucket.png", "=cmd|' /C calc'!A0.png",
    "k" * 1013 + ".png", "deep/" * 150 + "x.png", "emoji-\U0001f600.png", "partition=1/x.png",
    "cat", "cat::2.png", "12::30::05.png", "my::folder/x.png", "simplecache::s3:/x.png", "file:a.png", "a.png",
    "a.png?versionId=7", "a.png?versionId=", "arn:aws:s3:::b.png", "[2021] trip/*.png", "~root/x.png", " lead.png",
]  # fmt: skip

#: The S3 server of the tests finds no object whose key has a line feed.
FILE_NAMES = ["line\nfeed.png", *(key for key in KEYS if "/" not in key and len(key.encode()) < 256)]


def fill(bucket) -> dict[str, bytes]:
    """An object a key, past the client, which takes some keys for others."""
    contents = {key: f"content of {number}".encode() for number, key in enumerate(KEYS)}
    for key, data in contents.items():
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(bucket.name, f"photos/{key}", data)
    return contents


def test_every_object_is_listed_and_fetched_as_itself(s3_bucket):
    contents = fill(s3_bucket)
    source = ImagesSource(uri=f"{s3_bucket.uri}/photos/")
    rows = pa.concat_tables(list_source(source).tables())
    assert sorted(rows["image_id"].to_pylist()) == sorted(contents)
    assert rows["problem"].null_count == len(contents)
    files = dict(zip(rows["image_id"].to_pylist(), FetchImages(source)(rows), strict=True))
    assert files == contents


def test_keys_named_by_a_list(s3_bucket, tmp_path):
    contents = fill(s3_bucket)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["uri"])
    writer.writerows([[f"{s3_bucket.uri}/photos/{key}"] for key in KEYS])
    path = tmp_path / "list.csv"
    path.write_bytes(text.getvalue().encode())
    source = ImagesSource(uri=str(path))
    rows = pa.concat_tables(list_source(source).tables())
    assert rows["size"].to_pylist() == [len(data) for data in contents.values()]
    assert list(FetchImages(source)(rows)) == list(contents.values())


@pytest.mark.parametrize("name", FILE_NAMES)
def test_every_file_is_listed_and_fetched_as_itself(tmp_path, name):
    (tmp_path / name).write_bytes(b"content")
    source = ImagesSource(uri=str(tmp_path))
    rows = pa.concat_tables(list_source(source).tables())
    assert rows["image_id"].to_pylist() == [name]
    assert Path(rows["uri"][0].as_py()) == tmp_path / name
    assert list(FetchImages(source)(rows)) == [b"content"]
