"""S3 by s3fs, for names that are any text. `storage.py` loads this when a place is in S3."""

from functools import cache

import s3fs
import s3fs.core
from botocore.exceptions import EndpointConnectionError


class S3(s3fs.S3FileSystem):
    """s3fs for keys that are any text. By itself it reads the object a.jpg where a.jpg?versionId=7 is asked for."""

    def split_path(self, path: str) -> tuple[str, str, None]:
        slashes = path[len(path.rstrip("/")) :]
        path = self._strip_protocol(path).lstrip("/")
        if "/" not in path:
            return path, "", None
        bucket, key = self._find_bucket_key(path)
        return bucket, f"{key}{slashes}", None


@cache
def retry_refused_connections() -> None:
    """To s3fs (2026.9) they are none of the errors that pass, but a service that is started again refuses for a while.

    botocore gives up after some seconds; with this its attempts are repeated like those that broke off.
    """
    s3fs.core.add_retryable_error(EndpointConnectionError)
