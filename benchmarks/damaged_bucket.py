"""A bucket of pictures in which every kind of damage is planted at known keys, and whether a run finds just those.

`python benchmarks/damaged_bucket.py --images 20000 --faults 0.05` fills a bucket of `s3_server`, runs embed_images on
it with Ray, compares `images` and `rejects` with what was planted, and prints a line of JSON; it exits with 1 when they
differ.
"""

import argparse
import io
import json
import os
import random
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import yaml
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from PIL import Image
from s3_server import S3Server, serve_s3

from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.tables import IMAGES, REJECTS
from dxmc_core.demo import SCENES, open_picture

#: One key in so many is damaged.
DAMAGED_EVERY = 8


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


# ---- whole pictures


def picture(chance: random.Random) -> Image.Image:
    """A picture of few bytes that is like no other: a smooth random surface."""
    values = np.frombuffer(chance.randbytes(3 * 4 * 3), dtype=np.uint8).reshape(3, 4, 3)
    return Image.fromarray(values).resize((96, 72), Image.Resampling.BICUBIC)


@cache
def _photographs() -> list[Image.Image]:
    return [open_picture(scene.picture).convert("RGB") for scene in SCENES]


def photograph(chance: random.Random) -> Image.Image:
    """A piece of a real photograph."""
    whole = chance.choice(_photographs())
    edge = min(*whole.size, 160)
    left, top = chance.randrange(whole.width - edge + 1), chance.randrange(whole.height - edge + 1)
    return whole.crop((left, top, left + edge, top + edge))


def _rotated_jpeg(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, "JPEG", exif=exif)


WHOLE: tuple[Callable[[Image.Image], bytes], ...] = (
    lambda image: encoded(image, "JPEG"),
    lambda image: encoded(image, "JPEG", progressive=True),
    lambda image: encoded(image.convert("L"), "JPEG"),
    lambda image: encoded(image.convert("CMYK"), "JPEG"),
    _rotated_jpeg,
    lambda image: encoded(image, "PNG"),
    lambda image: encoded(image.quantize(32), "PNG"),
    lambda image: encoded(image.convert("RGBA"), "PNG"),
    lambda image: encoded(Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), "PNG"),
    lambda image: encoded(image, "WEBP"),
    lambda image: encoded(image, "GIF"),
    lambda image: encoded(image, "GIF", save_all=True, append_images=[image.rotate(180)]),
    lambda image: encoded(image, "BMP"),
    lambda image: encoded(image, "TIFF", compression="tiff_lzw"),
    lambda image: _with_text_bomb(image),
)


# ---- damaged ones


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(width: int, height: int, *chunks: bytes) -> bytes:
    header = _png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + _png_chunk(b"IEND", b"")


def _cut(data: bytes) -> bytes:
    return data[: len(data) * 3 // 5]


def _with_jpeg_size(data: bytes, width: int, height: int) -> bytes:
    """The same JPEG with other dimensions in its frame header."""
    at = data.index(b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def _damaged_pixels(image: Image.Image) -> bytes:
    """A PNG whose checksums fit but whose compressed pixels are noise."""
    return _png(image.width, image.height, _png_chunk(b"IDAT", b"\x78\x9c" + bytes(range(200))))


@cache
def _bomb() -> bytes:
    return zlib.compress(b"\0" * (64 << 20))


def _with_text_bomb(image: Image.Image) -> bytes:
    """A PNG with a compressed comment of 64 MB, which is skipped."""
    comment = _png_chunk(b"zTXt", b"Comment\0\0" + _bomb())
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in np.asarray(image)))
    return _png(image.width, image.height, comment, _png_chunk(b"IDAT", pixels))


def _header_damaged(data: bytes) -> bytes:
    return data[:17] + bytes([data[17] ^ 0xFF]) + data[18:]


def _gif_of(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + b"," + struct.pack(
        "<HHHHB", 0, 0, width, height, 0
    ) + b"\x02\x02L\x01\0;"  # fmt: skip


def _tiff_of(width: int, height: int) -> bytes:
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (278, 4, height),
            (279, 4, 1)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + b"\0" * 4


#: Name: (the reason that it must be rejected with, what makes it of a whole picture).
DAMAGES: dict[str, tuple[str, Callable[[Image.Image], bytes]]] = {
    "empty file": ("empty", lambda _: b""),
    "error page": ("not_an_image", lambda _: b"<html><body>404 Not Found</body></html>"),
    "zeros": ("not_an_image", lambda _: b"\0" * 3000),
    "film": ("not_an_image", lambda _: b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + b"\0" * 500),
    "JPEG cut off": ("truncated", lambda image: _cut(encoded(image, "JPEG"))),
    "PNG cut off": ("truncated", lambda image: _cut(encoded(image, "PNG"))),
    "WebP cut off": ("truncated", lambda image: _cut(encoded(image, "WEBP"))),
    "GIF cut off": ("truncated", lambda image: _cut(encoded(image, "GIF"))),
    "BMP cut off": ("truncated", lambda image: _cut(encoded(image, "BMP"))),
    "TIFF cut off": ("truncated", lambda image: _cut(encoded(image, "TIFF"))),
    "PNG with a damaged header": ("unreadable", lambda image: _header_damaged(encoded(image, "PNG"))),
    "PNG with damaged pixels": ("unreadable", _damaged_pixels),
    "PNG of 100,000 x 100,000": ("too_large", lambda _: _png(100_000, 100_000, _png_chunk(b"IDAT", b"x"))),
    "JPEG of 65,000 x 65,000": ("too_large", lambda image: _with_jpeg_size(encoded(image, "JPEG"), 65_000, 65_000)),
    "GIF of 65,000 x 65,000": ("too_large", lambda _: _gif_of(65_000, 65_000)),
    "TIFF of 200,000 x 200,000": ("too_large", lambda _: _tiff_of(200_000, 200_000)),
    "SVG": ("unsupported", lambda _: b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>'),
    "PDF": ("unsupported", lambda _: b"%PDF-1.7\n" + b"x" * 300),
    "JPEG XL": ("unsupported", lambda _: b"\xff\x0a" + b"\x01" * 300),
    "TIFF in LAB": ("unsupported", lambda image: encoded(Image.new("LAB", image.size), "TIFF")),
    "tar": ("not_an_image", lambda _: b"x" * tarfile.BLOCKSIZE),
    "deleted after the listing": ("missing", lambda image: encoded(image, "JPEG")),
    "not to be read by us": ("access_denied", lambda image: encoded(image, "JPEG")),
}  # fmt: skip
#: Damage that the server does.
_BY_SERVER = {"deleted after the listing": "gone", "not to be read by us": "denied"}


@dataclass(frozen=True)
class PlantedObject:
    """One object of the bucket; `damage` is a key of `DAMAGES`, or None."""

    key: str
    data: bytes
    damage: str | None

    @property
    def reason(self) -> str | None:
        return None if self.damage is None else DAMAGES[self.damage][0]


def planted_objects(count: int, *, seed: int = 0) -> Iterator[PlantedObject]:
    """Pictures, one in four of them a piece of a photograph, every eighth damaged in one of the ways in turn."""
    chance = random.Random(seed)
    damages = list(DAMAGES)
    for number in range(count):
        image = photograph(chance) if number % 4 == 1 else picture(chance)
        key = f"photos/{number % 50:02}/{number:06}"
        if number % DAMAGED_EVERY == 3:
            damage = damages[number // DAMAGED_EVERY % len(damages)]
            yield PlantedObject(key, DAMAGES[damage][1](image), damage)
        else:
            yield PlantedObject(key, WHOLE[number % len(WHOLE)](image), None)


@dataclass(frozen=True)
class DamagedBucket:
    """The bucket on its server, and the reason by image id for what was damaged, None for what was not."""

    server: S3Server
    uri: str
    expected: dict[str, str | None]

    @property
    def expected_rejects(self) -> dict[str, str]:
        return {image_id: reason for image_id, reason in self.expected.items() if reason is not None}


def fill(server: S3Server, name: str, count: int, *, seed: int = 0) -> DamagedBucket:
    """Make a bucket with planted objects on a server of this process."""
    server.client().create_bucket(Bucket=name)
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    expected = {}
    for item in planted_objects(count, seed=seed):
        # Past the HTTP server, which takes some 60 objects a second.
        backend.put_object(name, item.key, item.data)
        expected[item.key.removeprefix("photos/")] = item.reason
        if item.damage in _BY_SERVER:
            server.faults.always[item.key] = _BY_SERVER[item.damage]
    return DamagedBucket(server, f"s3://{name}/photos", expected)


@contextmanager
def damaged_bucket(count: int, *, faults: float = 0.0, seed: int = 0) -> Iterator[DamagedBucket]:
    """A filled bucket on a server of its own, which breaks a share of its requests from then on."""
    with serve_s3(seed=seed) as server:
        bucket = fill(server, "damaged", count, seed=seed)
        server.faults.share = faults
        yield bucket


def differences(bucket: DamagedBucket, run_dir: RunDir) -> list[str]:
    """What a finished run has otherwise than planted, a line each."""
    stage = run_dir.stage("embed_images")
    rejects = stage.read_table(REJECTS, ["image_id", "reason", "message"]).to_pylist()
    images = stage.read_table(IMAGES, ["image_id"])["image_id"].to_pylist()
    found = Counter(images) + Counter(row["image_id"] for row in rejects)
    lines = [f"{image_id} is there {times} times" for image_id, times in found.items() if times > 1]
    lines += [f"{image_id} is not there" for image_id in bucket.expected if image_id not in found]
    for row in rejects:
        expected = bucket.expected[row["image_id"]]
        if row["reason"] != expected:
            lines.append(
                f"{row['image_id']}: expected {expected or 'an image'}, found {row['reason']} ({row['message']})"
            )
    lines += [
        f"{image_id}: expected {bucket.expected[image_id]}, found an image"
        for image_id in images
        if bucket.expected[image_id] is not None
    ]
    return lines


def run_embedding(bucket: DamagedBucket, run_dir: str, **resources: object) -> subprocess.CompletedProcess:
    """embed_images with the offline encoder, as a user starts it."""
    values = {
        "run_dir": run_dir,
        "source": {"uri": bucket.uri},
        "encoder": {"kind": "offline"},
        "resources": resources,
    }
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
        yaml.safe_dump(values, config)
        config.flush()
        return subprocess.run(
            [sys.executable, "-m", "ray_jobs.embed_images", "--config", config.name],
            env={**os.environ, **bucket.server.environment},
            check=False,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--faults", type=float, default=0.0, help="share of the requests that are broken")
    parser.add_argument("--run-dir", help="by default a temporary folder; s3://damaged/... is in the bucket itself")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        damaged_bucket(arguments.images, faults=arguments.faults, seed=arguments.seed) as bucket,
    ):
        run_dir = arguments.run_dir or str(Path(folder) / "run")
        started = time.perf_counter()
        code = run_embedding(bucket, run_dir).returncode
        seconds = time.perf_counter() - started
        os.environ.update(bucket.server.environment)
        wrong = differences(bucket, RunDir.at(run_dir)) if code == 0 else [f"exit code {code}"]
        result = {
            "images": arguments.images,
            "planted": len(bucket.expected_rejects),
            "kinds_of_damage": len(DAMAGES),
            "planted_reasons": Counter(bucket.expected_rejects.values()),
            "requests": bucket.server.faults.num_requests,
            "broken_requests": bucket.server.faults.counts,
            "seconds": round(seconds, 1),
            "differences": wrong[:20],
        }
        print(json.dumps(result))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
