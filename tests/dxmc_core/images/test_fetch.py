"""Fetching: what is wrong with an object is a reason, what is wrong with a service is retried."""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pyarrow as pa
import pytest

from dxmc_core.images.decode import ImageRejectedError, RejectReason
from dxmc_core.images.fetch import FetchImages
from dxmc_core.images.listing import ListedImage, problem_of, tables_of
from dxmc_core.images.objects import fetch
from dxmc_core.images.quarantine import TRANSIENT
from dxmc_core.images.sources import ImagesSource


def rows_of(*images: ListedImage) -> pa.Table:
    (table,) = tables_of(images)
    return table


def reason_of(file) -> str:
    assert isinstance(file, ImageRejectedError), file
    assert "\n" not in file.message
    return str(file.reason)


def test_files_come_in_the_order_of_the_rows(tmp_path):
    for number in range(50):
        (tmp_path / str(number)).write_bytes(b"x" * number)
    rows = rows_of(*(ListedImage(str(n), str(tmp_path / str(n)), n, "") for n in reversed(range(50))))
    files = list(FetchImages(ImagesSource(uri=""))(rows))
    assert files == [b"x" * number for number in reversed(range(50))]


def test_problems_of_the_listing_are_not_fetched(tmp_path):
    problem = problem_of(RejectReason.TRUNCATED, "known before")
    (file,) = FetchImages(ImagesSource(uri=""))(rows_of(ListedImage("a", str(tmp_path), -1, "", problem=problem)))
    assert (file.reason, file.message) == (RejectReason.TRUNCATED, "known before")


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("{tmp}/gone", "missing"),
        ("{tmp}", "not_an_image"),
        ("{tmp}/" + "x" * 300, "missing"),
        ("{tmp}/file/below", "missing"),
        ("{tmp}/circle", "missing"),
        ("nosuchscheme://x/y", "unreachable"),
        ("{tmp}/a\0b", "missing"),
    ],
)
def test_local_reasons(tmp_path, uri, reason):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    assert reason_of(fetch(uri.format(tmp=tmp_path))) == reason


def test_a_scheme_without_its_package_is_tried_again_and_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    rejected = fetch("gs://bucket/picture.jpg")
    assert reason_of(rejected) == "unreachable"
    assert rejected.reason in TRANSIENT
    assert "gcsfs" in rejected.message


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, "access_denied"), (403, "access_denied"), (404, "missing"), (410, "missing"), (500, "unreachable")],
)
def test_reasons_of_a_web_server(status, reason):
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(status)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        rejected = fetch(f"http://127.0.0.1:{server.server_port}/picture.jpg")
        server.shutdown()
    assert reason_of(rejected) == reason
    assert rejected.reason in TRANSIENT


def test_reasons_of_a_bucket(s3_bucket):
    s3_bucket.put("there", b"x")
    assert fetch(f"{s3_bucket.uri}/there") == b"x"
    assert reason_of(fetch(f"{s3_bucket.uri}/gone")) == "missing"
    assert reason_of(fetch("s3://no-such-bucket-here/x")) == "missing"
    s3_bucket.faults.always["there"] = "denied"
    rejected = fetch(f"{s3_bucket.uri}/there")
    assert reason_of(rejected) == "access_denied"
    assert "s3:ListBucket" in rejected.message


@pytest.mark.parametrize("kind", ["slow_down", "reset", "cut"])
def test_broken_requests_are_tried_again_until_time_is_up(s3_bucket, kind):
    s3_bucket.put("there", b"x" * 1000)
    s3_bucket.faults.always["there"] = kind
    assert reason_of(fetch(f"{s3_bucket.uri}/there", timeout_s=20.0)) in ("timeout", "unreachable")
    assert s3_bucket.faults.counts[kind] >= 2


def test_download_that_is_cut_short_every_time_is_unreachable(s3_bucket):
    s3_bucket.put("there", b"x" * 1000)
    s3_bucket.faults.always["there"] = "cut"
    assert reason_of(fetch(f"{s3_bucket.uri}/there", timeout_s=60.0)) == "unreachable"


def test_service_that_never_answers_is_a_timeout(s3_bucket):
    s3_bucket.put("there", b"x")
    s3_bucket.faults.always["there"] = "silence"
    assert reason_of(fetch(f"{s3_bucket.uri}/there", timeout_s=1.0)) == "timeout"


def test_every_object_arrives_though_a_third_of_the_requests_break(s3_bucket):
    for number in range(60):
        s3_bucket.put(f"{number:02}", bytes([number]) * 500)
    s3_bucket.faults.share = 0.33
    rows = rows_of(*(ListedImage(f"{n:02}", f"{s3_bucket.uri}/{n:02}", 500, "") for n in range(60)))
    assert list(FetchImages(ImagesSource(uri=""))(rows)) == [bytes([number]) * 500 for number in range(60)]
    assert sum(s3_bucket.faults.counts.values()) > 10


def test_one_request_an_object(s3_bucket):
    for number in range(10):
        s3_bucket.put(str(number), b"x")
    before = s3_bucket.faults.num_requests
    rows = rows_of(*(ListedImage(str(n), f"{s3_bucket.uri}/{n}", 1, "") for n in range(10)))
    assert list(FetchImages(ImagesSource(uri=""))(rows)) == [b"x"] * 10
    assert s3_bucket.faults.num_requests - before <= 12
