"""Every form that image formats have, mutated, in folders, tars and Parquet files, from the listing to embeddings.

    python benchmarks/mutated_files.py --count 2000 --seed 0

A third of the files is a folder, a third the members of tars, a third the cells of Parquet files. Each is decoded alone
first, which is timed; then each source is listed and embedded in this process as `hostile_files.py` does. It prints a
line of JSON, and exits with 1 when a file is in neither images nor rejects, is there twice, or takes too long.
"""

import argparse
import io
import json
import random
import sys
import tarfile
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hostile_files import embed_alone
from measured import peak_bytes
from picture_files import picture_files

from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.tables import IMAGES, REJECTS
from dxmc_core.images.decode import ImageRejectedError, decode_image
from dxmc_core.images.sources import ImageSource, ImagesSource, ParquetSource, WebDatasetSource

_FILES_A_CONTAINER = 200
#: No file here has more than some thousand pixels; what takes longer hangs, or would on a larger one.
_MAX_SECONDS = 20.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mutated-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's on damaged metadata
        result = embed_mutated_files(Path(folder), options.count, options.seed)
    print(json.dumps(result))
    sys.exit(1 if result["wrong"] else 0)


def embed_mutated_files(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Write the files, decode and embed them, and say what became of them."""
    started = time.perf_counter()
    files = dict(mutated_files(count, seed))
    slowest, slow = _decode_each(files)
    wrong = [f"{name} took longer than {_MAX_SECONDS} s" for name in slow]
    images, reasons = 0, Counter[str]()
    for kind, (write, source) in _CONTAINERS.items():
        own = {name: data for number, (name, data) in enumerate(files.items()) if list(_CONTAINERS)[number % 3] == kind}
        place = folder / kind
        place.mkdir()
        write(place, own)
        stage = embed_alone(source(place), RunDir.at(str(folder / f"run-{kind}"))).stage("embed_images")
        rejects = stage.read_table(REJECTS, ["image_id", "reason"])
        found = Counter(stage.read_table(IMAGES, ["image_id"])["image_id"].to_pylist())
        images += found.total()
        reasons.update(rejects["reason"].to_pylist())
        found.update(rejects["image_id"].to_pylist())
        wrong += [f"{kind}: {n} is there {found[n]} times" for n in {*own, *found} if found[n] != (n in own)]
    return {
        "files": count,
        "seed": seed,
        "images": images,
        "rejects": dict(reasons.most_common()),
        "slowest_seconds": round(slowest, 2),
        "seconds": round(time.perf_counter() - started, 1),
        "peak_gigabytes": round(peak_bytes() / 1e9, 2),
        "wrong": wrong,
    }


def _decode_each(files: dict[str, bytes]) -> tuple[float, list[str]]:
    """Seconds of a core for the file that takes longest, and the files that take too long."""
    seconds = {}
    for name, data in files.items():
        before = time.process_time()
        with suppress(ImageRejectedError):
            decode_image(data)
        seconds[name] = time.process_time() - before
    return max(seconds.values()), [name for name, value in seconds.items() if value > _MAX_SECONDS]


def _write_folder(place: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (place / name).write_bytes(data)


def _groups(files: dict[str, bytes]) -> Iterator[list[tuple[str, bytes]]]:
    items = list(files.items())
    return (items[start : start + _FILES_A_CONTAINER] for start in range(0, len(items), _FILES_A_CONTAINER))


def _write_tars(place: Path, files: dict[str, bytes]) -> None:
    for number, group in enumerate(_groups(files)):
        with tarfile.open(place / f"{number:03}.tar", "w") as archive:
            for name, data in group:
                info = tarfile.TarInfo(f"{name}.jpg")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def _write_parquet(place: Path, files: dict[str, bytes]) -> None:
    for number, group in enumerate(_groups(files)):
        table = pa.table({"id": [name for name, _ in group], "image": [data for _, data in group]})
        pq.write_table(table, place / f"{number:03}.parquet", row_group_size=50)


_CONTAINERS: dict[str, tuple[Callable[[Path, dict[str, bytes]], None], Callable[[Path], ImageSource]]] = {
    "folder": (_write_folder, lambda place: ImagesSource(uri=str(place))),
    "tars": (_write_tars, lambda place: WebDatasetSource(kind="webdataset", uri=str(place))),
    "parquet": (_write_parquet, lambda place: ParquetSource(kind="parquet", uri=str(place), id_column="id")),
}


def mutated_files(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """So many (name, file), the formats in turn, each with forms from all over what it has; one in eight is whole."""
    chance = random.Random(seed)
    formats: dict[str, list[bytes]] = {}
    for name, data in picture_files():
        formats.setdefault(name.split()[0], []).append(data)
    every = [data for forms in formats.values() for data in forms]
    for number in range(count):
        data = chance.choice(list(formats.values())[number % len(formats)])
        yield f"{number:06}", data if number % 8 == 5 else _mutated(data, chance.choice(every), chance)


def _mutated(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """Changed in some places, most of them near the beginning, where formats keep their numbers."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 4, 16])):
        zone = min(chance.choice([32, 128, 512, len(data)]), len(changed))
        if not zone:
            break
        place = chance.randrange(zone)
        length = chance.choice([1, 2, 4, 8, 64])
        kind = chance.choice(["bit", "byte", "zeros", "ones", "number", "dropped", "doubled", "spliced", "cut"])
        if kind == "bit":
            changed[place] ^= 1 << chance.randrange(8)
        elif kind == "cut" and chance.random() < 0.5:
            del changed[max(place, 4) :]
        else:
            instead = {
                "byte": chance.randbytes(1),
                "zeros": bytes(length),
                "ones": b"\xff" * length,
                "number": chance.randrange(1 << 64).to_bytes(8, "little")[:length],
                "dropped": b"",
                "doubled": bytes(changed[place : place + length]) * 2,
                "spliced": other[place : place + length],
            }.get(kind, b"")
            changed[place : place + length] = instead
    return bytes(changed)


if __name__ == "__main__":
    main()
