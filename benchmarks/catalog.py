"""Time and memory of listing a million images, writing their catalog, and comparing it with the next listing.

`python benchmarks/catalog.py --images 1000000 --source s3` lists with s3fs from a server of its own on loopback, which
answers ListObjectsV2 as S3 does but has the keys alone; `folder` makes a folder of so many empty files first, `list`
a CSV file. Prints a line of JSON; memory is the peak of this process, the server is another.
"""

import argparse
import bisect
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

from measured import peak_bytes

from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.storage import Storage
from dxmc_core.images.catalog import list_source
from dxmc_core.images.renewal import renew_catalog
from dxmc_core.images.sources import ImagesSource
from dxmc_core.stages.embedded_rows import EmbeddedRows

PER_FOLDER = 5000


def key_of(number: int) -> str:
    return f"photos/{number // PER_FOLDER:05}/IMG_{number % PER_FOLDER:07}.jpg"


class _ListingHandler(BaseHTTPRequestHandler):
    """Answers ListObjectsV2 over `keys`."""

    protocol_version = "HTTP/1.1"
    keys: list[str]
    latency_s: float

    def do_GET(self) -> None:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        time.sleep(self.latency_s)
        prefix, after = asked.get("prefix", ""), asked.get("continuation-token", asked.get("start-after", ""))
        max_keys = int(asked.get("max-keys", 1000))
        start = max(bisect.bisect_left(self.keys, prefix), bisect.bisect_right(self.keys, after))
        found = [key for key in self.keys[start : start + max_keys + 1] if key.startswith(prefix)]
        body = self._answer(found[:max_keys], is_truncated=len(found) > max_keys)
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _answer(self, keys: list[str], *, is_truncated: bool) -> bytes:
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;{hash(key) & (1 << 128) - 1:032x}&quot;</ETag><Size>{len(key) * 1000}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for key in keys
        )
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<IsTruncated>{str(is_truncated).lower()}</IsTruncated><KeyCount>{len(keys)}</KeyCount>"
            f"{f'<NextContinuationToken>{escape(keys[-1])}</NextContinuationToken>' if is_truncated else ''}{contents}"
            "</ListBucketResult>"
        ).encode()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _serve(count: int, latency_s: float, port: Connection) -> None:
    _ListingHandler.keys = [key_of(number) for number in range(count)]
    _ListingHandler.latency_s = latency_s
    server = ThreadingHTTPServer(("127.0.0.1", 0), _ListingHandler)
    port.send(server.server_port)
    server.serve_forever()


@contextmanager
def s3_source(count: int, latency_s: float) -> Iterator[ImagesSource]:
    """A prefix of so many keys."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_serve, args=(count, latency_s, there), daemon=True)
    process.start()
    os.environ.update(
        AWS_ENDPOINT_URL=f"http://127.0.0.1:{here.recv()}",
        AWS_ACCESS_KEY_ID="loopback-only",
        AWS_SECRET_ACCESS_KEY="loopback-only",
        AWS_DEFAULT_REGION="us-east-1",
    )
    try:
        yield ImagesSource(uri="s3://bucket/photos/")
    finally:
        process.terminate()
        process.join()


@contextmanager
def folder_source(count: int, work: Path) -> Iterator[ImagesSource]:
    """A folder of so many empty files."""
    for number in range(count):
        path = work / key_of(number)
        if number % PER_FOLDER == 0:
            path.parent.mkdir(parents=True)
        path.touch()
    yield ImagesSource(uri=str(work / "photos"))


@contextmanager
def list_file_source(count: int, work: Path) -> Iterator[ImagesSource]:
    """A CSV file of so many rows, with size and etag."""
    path = work / "list.csv"
    with path.open("w") as file:
        file.write("uri,size,etag,camera\n")
        file.writelines(f"s3://bucket/{key_of(number)},1000,{number:032x},X100\n" for number in range(count))
    yield ImagesSource(uri=str(path))


def peak_mib() -> int:
    return peak_bytes() >> 20


def measure(source: ImagesSource, run_dir: Path) -> dict[str, float]:
    """List, write the catalog, see what is done, list again and renew."""
    stage = StageDir(Storage(str(run_dir)), "embed_images")
    result: dict[str, float] = {"start_mib": peak_mib()}
    started = time.perf_counter()
    listing = list_source(source)
    result["listing_s"] = round(time.perf_counter() - started, 1)
    result["rows"] = listing.num_rows
    result["keys_per_s"] = round(listing.num_rows / result["listing_s"])
    result["after_listing_mib"] = peak_mib()
    started = time.perf_counter()
    catalog = renew_catalog(stage, listing, fingerprint=listing.digest)
    result["catalog_s"] = round(time.perf_counter() - started, 1)
    result["catalog_mb"] = round(sum(part.bytes for part in catalog.manifest.tables["catalog"]) / 1e6, 1)
    result["after_catalog_mib"] = peak_mib()
    done = EmbeddedRows.of(catalog, fingerprint=listing.digest)
    result["chunks"] = sum(1 for _ in done.chunks(catalog.chunk_rows))
    result["after_bookkeeping_mib"] = peak_mib()
    started = time.perf_counter()
    again = list_source(source)
    assert again.digest == listing.digest
    renewed = renew_catalog(stage, again, fingerprint="f" * 32)
    result["unchanged"] = renewed.manifest.metrics["changes"]["unchanged"]
    result["second_listing_and_comparison_s"] = round(time.perf_counter() - started, 1)
    result["peak_mib"] = peak_mib()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--source", choices=("s3", "folder", "list"), default="s3")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="what each answer of the S3 server waits")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        source = {
            "s3": lambda: s3_source(arguments.images, arguments.latency_ms / 1000),
            "folder": lambda: folder_source(arguments.images, work),
            "list": lambda: list_file_source(arguments.images, work),
        }[arguments.source]()
        with source as images:
            print(json.dumps({"source": arguments.source, **measure(images, work / "run")}))


if __name__ == "__main__":
    main()
