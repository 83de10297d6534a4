"""Listing a prefix of a million keys: ours beside pyarrow's and obstore's, in one run.

    python benchmarks/listing.py --keys 1000000 --latency-ms 0 30

Prints a line of JSON for each. The server is that of `catalog.py`, on loopback: it answers ListObjectsV2 and has the
keys alone. Each listing runs in a process of its own and gives key, size and etag of every object, as far as the
library tells them: pyarrow tells no etag. obstore (the extra `benchmarks`) asks for one page after the other.
"""

import argparse
import json
import os
from collections.abc import Iterator
from typing import Any

from catalog import s3_source
from measured import measured


def ours() -> Iterator[tuple[str, int, str | None]]:
    from dxmc_core.artifacts.storage import filesystem_of
    from dxmc_core.images.object_listing import list_objects, listing_filesystem

    fs = listing_filesystem(filesystem_of("s3://bucket/photos/")[0])
    yield from ((found.key, found.size, found.etag) for found in list_objects(fs, "bucket", "photos/"))


def pyarrow() -> Iterator[tuple[str, int, str | None]]:
    from pyarrow import fs

    scheme, _, endpoint = os.environ["AWS_ENDPOINT_URL"].partition("://")
    store = fs.S3FileSystem(endpoint_override=endpoint, scheme=scheme, region="us-east-1")
    for found in store.get_file_info(fs.FileSelector("bucket/photos", recursive=True)):
        if found.is_file:
            yield found.path, found.size, None


def obstore() -> Iterator[tuple[str, int, str | None]]:
    import obstore as client
    from obstore.store import S3Store

    store = S3Store("bucket", endpoint=os.environ["AWS_ENDPOINT_URL"], client_options={"allow_http": True})
    for batch in client.list(store, prefix="photos/", chunk_size=10_000):
        yield from ((found["path"], found["size"], found["e_tag"]) for found in batch)


LISTINGS = {listing.__name__: listing for listing in (ours, pyarrow, obstore)}


def count(name: str) -> dict[str, Any]:
    """Go through a listing."""
    keys = sizes = etags = 0
    for _, size, etag in LISTINGS[name]():
        keys, sizes, etags = keys + 1, sizes + size, etags + (etag is not None)
    return {"keys": keys, "bytes": sizes, "etags": etags}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--latency-ms", type=float, nargs="+", default=[0, 30], help="what each answer waits")
    parser.add_argument("--listings", choices=LISTINGS, nargs="+", default=list(LISTINGS))
    arguments = parser.parse_args()
    for latency in arguments.latency_ms:
        with s3_source(arguments.keys, latency / 1000):
            for name in arguments.listings:
                print(json.dumps({"listing": name, "latency_ms": latency, **measured(count, name)}), flush=True)


if __name__ == "__main__":
    main()
