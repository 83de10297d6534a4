"""The steps of `best` on rows that are mapped from a file and fit no memory: seconds, memory, agreement.

    python benchmarks/mapped_rows.py --folder DIR [--num-images 10000000] [--num-clusters 1000]

Writes the planted mixture (`planted.py`) as one float16 .npy, which stays for the next call, finds the start of `best`
on it, without text and without neighbours that are known, assigns every row by its discriminant, and prints one JSON
document. Memory is that of the process, looked at every second, once with the pages of the file and once without.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from million import run_watched
from planted import WIDTH, planted_parts_with_components

from dxmc_core.method.best.best_start import find_start, labels_of, start_cost
from dxmc_core.method.clusters.metrics import external_scores
from dxmc_core.method.work import DataShape
from dxmc_core.runtime.cpu_products import prefer_onednn

_RESULT = "mapped.json"


def write_rows(folder: Path, num_images: int) -> tuple[Path, Path]:
    """The file of rows and that of their components; written at the first call."""
    rows, components = folder / f"rows-{num_images}.npy", folder / f"components-{num_images}.npy"
    if not components.exists():
        stored = np.lib.format.open_memmap(rows, mode="w+", dtype=np.float16, shape=(num_images, WIDTH))
        drawn, start = np.empty(num_images, dtype=np.int16), 0
        for part, of_part in planted_parts_with_components(num_images):
            stored[start : start + len(part)], drawn[start : start + len(part)] = part, of_part
            start += len(part)
        stored.flush()
        np.save(components, drawn)
    return rows, components


def cluster(folder: Path, num_images: int, num_clusters: int) -> None:
    """What the watched process does; the figures are left in a file."""
    prefer_onednn()
    rows, components = write_rows(folder, num_images)
    embeddings = np.load(rows, mmap_mode="r")
    started = time.perf_counter()
    start = find_start(embeddings, num_clusters=num_clusters)
    found_at = time.perf_counter()
    labels = labels_of(start.discriminant, embeddings)
    assigned_at = time.perf_counter()
    scores = external_scores(np.load(components), labels)
    found = {
        "looked_at": start.num_rows,
        "looks": start.num_looks,
        "seconds_to_the_start": round(found_at - started, 1),
        "seconds_to_assign": round(assigned_at - found_at, 1),
        "ari": round(scores["ari"], 4),
        "nmi": round(scores["nmi"], 4),
    }
    (folder / _RESULT).write_text(json.dumps(found))


def measure(folder: Path, num_images: int, num_clusters: int) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    rows, _ = write_rows(folder, num_images)
    sizes = ["--num-images", str(num_images), "--num-clusters", str(num_clusters)]
    load_average = os.getloadavg()[0]
    command = [sys.executable, __file__, "--folder", str(folder), *sizes, "--watched"]
    peak, peak_without_files = run_watched(command, temporary=folder)
    predicted = start_cost(DataShape(num_images, WIDTH, num_clusters), has_text=False, has_neighbors=False)
    return {
        "num_images": num_images,
        "num_clusters": num_clusters,
        "cores": os.cpu_count(),
        "load_average": load_average,
        "file_gib": round(rows.stat().st_size / 2**30, 2),
        "peak_gib": round(peak / 2**30, 2),
        "peak_gib_without_files": round(peak_without_files / 2**30, 2),
        "predicted_gib_of_the_start": round(predicted.memory_bytes / 2**30, 2),
        **json.loads((folder / _RESULT).read_text()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--num-images", type=int, default=10_000_000)
    parser.add_argument("--num-clusters", type=int, default=1000)
    parser.add_argument("--watched", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = arguments.num_images, arguments.num_clusters
    if arguments.watched:
        cluster(arguments.folder, *sizes)
    else:
        print(json.dumps(measure(arguments.folder, *sizes), indent=1))


if __name__ == "__main__":
    main()
