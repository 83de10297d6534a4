"""WebDataset shards of one cluster each, cluster-00012-000000.tar: an image, its cluster and its record a sample."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

from dxmc_core.export.images import Export, ExportedImage

MAX_SHARD_BYTES = 512 << 20
_BLOCK = tarfile.BLOCKSIZE


def write(export: Export, images: Iterator[ExportedImage], *, name: str) -> None:
    """Write the samples as they come, each to the end of its cluster's newest shard; no shard is held in memory.

    A sample's key is its row id; its members are the image, `.cls` (the cluster_id as text) and `.json` (the record).
    """
    shards: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for image in images:
        cluster_id = image.record["cluster_id"]
        sample = _sample(image)
        if cluster_id not in shards:
            shards[cluster_id], sizes[cluster_id] = 0, 0
        elif sizes[cluster_id] + len(sample) > MAX_SHARD_BYTES:
            shards[cluster_id], sizes[cluster_id] = shards[cluster_id] + 1, 0
        # Opened for each sample: there may be more clusters than a process may have files open.
        with _shard(export.folder, cluster_id, shards[cluster_id]).open("ab") as file:
            file.write(sample)
        sizes[cluster_id] += len(sample)
    for cluster_id, last in shards.items():
        for number in range(last + 1):
            with _shard(export.folder, cluster_id, number).open("ab") as file:
                file.write(bytes(2 * _BLOCK))  # the end of a tar archive


def _shard(folder: Path, cluster_id: int, number: int) -> Path:
    return folder / f"cluster-{cluster_id:05}-{number:06}.tar"


def _sample(image: ExportedImage) -> bytes:
    members = {
        image.suffix: image.data,
        "cls": str(image.record["cluster_id"]).encode(),
        "json": json.dumps(image.record).encode(),
    }
    return b"".join(_member(f"{image.row_id:09}.{suffix}", data) for suffix, data in members.items())


def _member(name: str, data: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info.tobuf() + data + bytes(-len(data) % _BLOCK)
