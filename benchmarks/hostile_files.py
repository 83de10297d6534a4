"""Files as an enemy would write them, and whether embedding gets through them.

    python benchmarks/hostile_files.py --count 5000 --seed 0

They are damaged, spliced, of two kinds at once, giant by their header, thin, bombs, and have names that hurt. All of
them are listed and embedded with the offline encoder in this process, without Ray, so that a crash or a hang is one of
this script. It prints a line of JSON, and exits with 1 when a file is in neither images nor rejects, is there twice,
or something was written outside the run directory.
"""

import argparse
import json
import random
import struct
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from damaged_bucket import DAMAGES, WHOLE, picture
from measured import peak_bytes

from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.tables import IMAGES, REJECTS
from dxmc_core.encoders import OfflineConfig
from dxmc_core.images.catalog import list_source
from dxmc_core.images.renewal import renew_catalog
from dxmc_core.images.sources import ImageSource, ImagesSource
from dxmc_core.stages.embed_images import all_embedded
from dxmc_core.stages.embedded_rows import EmbeddedRows
from dxmc_core.stages.embedding_workers import EmbedImages

_NAMES: tuple[str, ...] = (
    "{}.jpg",
    "sp ace {}.png",
    "line\nfeed {}",
    "x..{}.jpg",
    "-rf {}",
    "'; DROP {} --",
    "<img src=x onerror=alert({})>.gif",
)
_NAMES += (
    "日本 {}.webp",
    "e\u0301 {}",
    "%2e%2e%2f{}",
    "$(reboot) {}",
    "\\..\\{}.bmp",
    "{}" + "x" * 200,
    "{}\u202egpj.png",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        result = embed_hostile_files(Path(folder), options.count, options.seed)
    print(json.dumps(result, ensure_ascii=False))
    sys.exit(1 if result["wrong"] else 0)


def embed_hostile_files(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Write the files, embed them, and say what became of them."""
    files = folder / "files"
    files.mkdir()
    names = dict(zip(hostile_names(), hostile_files(count, seed), strict=False))
    for name, data in names.items():
        (files / name).write_bytes(data)
    source = ImagesSource(uri=str(files))
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's on damaged metadata
        run_dir = embed_alone(source, RunDir.at(str(folder / "run")))
    stage = run_dir.stage("embed_images")
    rejects = stage.read_table(REJECTS, ["image_id", "reason"]).to_pylist()
    found = Counter(stage.read_table(IMAGES, ["image_id"])["image_id"].to_pylist())
    num_images = found.total()
    found.update(row["image_id"] for row in rejects)
    wrong = [f"{name!r} is there {found[name]} times" for name in {*names, *found} if found[name] != (name in names)]
    wrong += [f"{path} was written" for path in sorted(folder.iterdir()) if path.name not in ("files", "run")]
    wrong += [f"{name!r} was changed" for name, data in names.items() if (files / name).read_bytes() != data]
    return {
        "files": count,
        "seed": seed,
        "images": num_images,
        "rejects": dict(Counter(row["reason"] for row in rejects).most_common()),
        "seconds": round(time.perf_counter() - started, 1),
        "peak_gigabytes": round(peak_bytes() / 1e9, 2),
        "wrong": wrong,
    }


def embed_alone(source: ImageSource, run_dir: RunDir) -> RunDir:
    """embed_images in this process, without Ray."""
    listing = list_source(source)
    stage, fingerprint = run_dir.stage("embed_images"), listing.digest
    catalog = renew_catalog(stage, listing, fingerprint=fingerprint)
    embed = EmbedImages(
        {"images": OfflineConfig(kind="offline")},
        source,
        catalog,
        fingerprint=fingerprint,
        device="cpu",
        batch_size=None,
        num_threads=2,
    )
    done = EmbeddedRows(catalog.num_rows)
    for receipts in embed.stream(done.chunks(catalog.chunk_rows)):
        for receipt in receipts.to_pylist():
            done.add_receipt(receipt)
    all_embedded(catalog, done, fingerprint=fingerprint).publish(
        catalog.stage_dir, fingerprint=fingerprint, inputs={}, started=time.perf_counter()
    )
    return run_dir


def hostile_names() -> Iterator[str]:
    """File names without end, no two alike; none has a slash or is hidden from listings."""
    number = 0
    while True:
        for pattern in _NAMES:
            yield pattern.format(number)
            number += 1


def hostile_files(count: int, seed: int) -> Iterator[bytes]:
    """So many files; about one in nine is whole."""
    chance = random.Random(seed)
    makers: list[Callable[[random.Random], bytes]] = [
        _whole,
        _planted,
        _bits_flipped,
        _cut,
        _header_of_another,
        _two_kinds_at_once,
        _thin,
        _bytes_repeated,
        _bomb,
    ]
    for number in range(count):
        yield makers[number % len(makers)](chance)


def _whole(chance: random.Random) -> bytes:
    return chance.choice(WHOLE)(picture(chance))


def _planted(chance: random.Random) -> bytes:
    return DAMAGES[chance.choice(list(DAMAGES))][1](picture(chance))


def _bits_flipped(chance: random.Random) -> bytes:
    data = bytearray(_whole(chance))
    for _ in range(chance.choice([1, 4, 64])):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def _cut(chance: random.Random) -> bytes:
    data = _whole(chance)
    return data[: chance.randrange(len(data))]


def _header_of_another(chance: random.Random) -> bytes:
    first, second = _whole(chance), _whole(chance)
    length = chance.choice([2, 4, 8, 16, 64, 256])
    return first[:length] + second[length:]


def _two_kinds_at_once(chance: random.Random) -> bytes:
    """One picture behind another, or a picture in front of an archive, a page or a program."""
    tail = chance.choice([_whole(chance), b"PK\x03\x04" + chance.randbytes(200), b"<html><script>alert(1)</script>"])
    return _whole(chance) + tail


def _thin(chance: random.Random) -> bytes:
    """A PNG of one row or column and up to 60,000 of the other: legal, and an aspect ratio that no one expects."""
    length = chance.choice([1, 300, 60_000])
    width, height = (1, length) if chance.random() < 0.5 else (length, 1)
    pixels = zlib.compress((b"\0" + chance.randbytes(3) * width) * height)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    )


def _bytes_repeated(chance: random.Random) -> bytes:
    """A piece of the file many times over: endless chunks, endless frames."""
    data = _whole(chance)
    start = chance.randrange(len(data))
    piece = data[start : start + chance.choice([1, 12, 200])]
    return data[:start] + piece * chance.choice([10, 1000]) + data[start:]


def _bomb(chance: random.Random) -> bytes:
    """A PNG whose compressed pixels are far more than its header says."""
    body = zlib.compress(b"\0" * (32 << 20))
    header = struct.pack(">IIBBBBB", chance.choice([1, 100, 20_000]), 100, 8, chance.choice([0, 2, 6]), 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    )


if __name__ == "__main__":
    main()
