"""The S3 server of tests and benchmarks breaks what it is told to break, and real clients get over it."""

import fsspec
import pytest
from botocore.exceptions import BotoCoreError, EndpointConnectionError
from s3fs import S3FileSystem


def test_clients_get_over_broken_requests(s3_bucket):
    contents = {f"photos/{index:02}": bytes([index]) * 20_000 for index in range(30)}
    for key, data in contents.items():
        s3_bucket.put(key, data)
    fs, _ = fsspec.core.url_to_fs(s3_bucket.uri)
    s3_bucket.faults.share = 0.2
    for _ in range(10):  # which requests break depends on those of the session before
        assert {key: fs.cat_file(f"{s3_bucket.name}/{key}") for key in contents} == contents
        if len(s3_bucket.faults.counts) == 3:
            break
    s3_bucket.faults.share = 0.0
    assert set(s3_bucket.faults.counts) == {"slow_down", "reset", "cut"}


def test_faults_of_one_key(s3_bucket):
    s3_bucket.put("slow", b"x")
    s3_bucket.put("fine", b"y")
    s3_bucket.faults.always["slow"] = "slow_down"
    fs, _ = fsspec.core.url_to_fs(s3_bucket.uri)
    assert fs.cat_file(f"{s3_bucket.name}/fine") == b"y"
    assert not s3_bucket.faults.counts
    with pytest.raises(OSError, match="reduce your request rate"):
        s3fs_without_patience().cat_file(f"{s3_bucket.name}/slow")
    assert s3_bucket.faults.counts["slow_down"] == 1


def test_a_server_that_is_cut_off_is_back_with_all_it_held(s3_bucket, s3_server):
    s3_bucket.put("kept", b"x")
    fs = s3fs_without_patience()
    assert fs.cat_file(f"{s3_bucket.name}/kept") == b"x"
    with s3_server.cut_off():
        with pytest.raises(BotoCoreError):  # a connection that was open
            fs.cat_file(f"{s3_bucket.name}/kept")
        with pytest.raises(EndpointConnectionError):
            fs.cat_file(f"{s3_bucket.name}/kept")
    assert fs.cat_file(f"{s3_bucket.name}/kept") == b"x"


def s3fs_without_patience() -> S3FileSystem:
    fs = S3FileSystem(config_kwargs={"retries": {"total_max_attempts": 1}}, max_concurrency=1)
    fs.retries = 1
    return fs
