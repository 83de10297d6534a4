"""Listing in parallel gives every key once and in order, whatever the keys look like."""

import bisect
import random
import threading

import pytest

from dxmc_core.images.object_listing import list_objects


class Pages:
    """Answers ListObjectsV2 over keys in memory, some a page."""

    def __init__(self, keys):
        self._keys = sorted(keys, key=lambda key: key.encode())
        self._lock = threading.Lock()
        self.num_requests = 0

    def call_s3(self, method, *, Bucket, Prefix, MaxKeys, StartAfter=""):
        assert method == "list_objects_v2"
        with self._lock:
            self.num_requests += 1
        start = max(bisect.bisect_left(self._keys, Prefix), bisect.bisect_right(self._keys, StartAfter))
        found = [key for key in self._keys[start : start + MaxKeys + 1] if key.startswith(Prefix)]
        contents = [{"Key": key, "Size": len(key), "ETag": f'"{key}"'} for key in found[:MaxKeys]]
        return {"Contents": contents, "IsTruncated": len(found) > MaxKeys}


def _keys(kind):
    chance = random.Random(0)
    return {
        "numbered": [f"p/IMG_{index:07}.jpg" for index in range(120_000)],
        "hashes": [f"p/{chance.getrandbits(128):032x}" for _ in range(60_000)],
        "folders": [
            f"p/{word}{index}/{n:05}" for word in ("ape", "bear", "Über") for index in range(8) for n in range(2500)
        ],
        "one folder in another": [f"p/{'a/' * depth}{n}" for depth in range(30) for n in range(400)],
        "other alphabets": [f"p/{chr(0x4E00 + n)}" for n in range(9000)] + [f"p/\U0001f600{n}" for n in range(9000)],
        "few": ["p/", "p/a", "p/z", "q"],
        "none": ["a", "q"],
    }[kind]


@pytest.mark.parametrize(
    "kind", ["numbered", "hashes", "folders", "one folder in another", "other alphabets", "few", "none"]
)
def test_every_key_once_and_in_order(kind):
    pages = Pages(_keys(kind))
    expected = [key for key in pages._keys if key.startswith("p/")]
    found = list(list_objects(pages, "bucket", "p/"))
    assert [item.key for item in found] == expected
    assert all(item.etag == item.key and item.size == len(item.key) for item in found)
    assert pages.num_requests < 4 * len(expected) / 1000 + 300


def test_error_of_one_request_is_the_error_of_the_listing():
    class Failing(Pages):
        def call_s3(self, method, **arguments):
            if self.num_requests > 10:
                raise PermissionError("Access Denied")
            return super().call_s3(method, **arguments)

    with pytest.raises(PermissionError, match="Access Denied"):
        list(list_objects(Failing(_keys("numbered")), "bucket", "p/"))
