"""Files of weights on this machine, and by what a fingerprint knows them."""

import hashlib
from functools import cache
from pathlib import Path

#: Of files that hold weights.
CHECKPOINT_SUFFIXES = frozenset({".pt", ".pth", ".bin", ".safetensors", ".npz"})


def file_identity(path: Path) -> dict:
    """A checkpoint counts by its content, so it may be moved and renamed."""
    stat = path.stat()
    return {"size": stat.st_size, "sha256": _sha256(path, stat.st_size, stat.st_mtime_ns)}


@cache
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    """Digest of a file; size and time make a changed file a new entry of the cache."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
