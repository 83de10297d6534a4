"""Fifty neighbours of every image of a planted mixture, by the index that mine_neighbors uses, beside faiss' exact one.

    python benchmarks/neighbors.py --folder DIR --num-images 10000 100000 --min-recall 0.99
    python benchmarks/neighbors.py --folder DIR --num-images 100000 --reference-queries 100000

Prints JSON. The reference is IndexFlatIP over everything; with fewer queries than images,
`search_seconds_of_all` is in proportion. The recall is that of the queries the reference has answered, by ids.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from measured import measured
from planted import planted_run

from dxmc_core.artifacts.host_arrays import HostArrays
from dxmc_core.artifacts.matrices import StoredRows, load_matrix
from dxmc_core.cpu_products import prefer_onednn
from dxmc_core.method.inverted_file import (
    choose_num_probes,
    exact_scores,
    fill_file,
    make_cells,
    sample_rows,
    search_cells,
)
from dxmc_core.method.neighbors import build_index, search
from dxmc_core.method.unit_rows import unit_rows

NUM_NEIGHBORS = 50
_ROWS_PER_SLICE = 262_144


def cells(folder: Path, num_images: int, min_recall: float) -> dict[str, Any]:
    """The approximate search, step by step; the found positions go to a file for the comparison."""
    prefer_onednn()
    rows = StoredRows.open(planted_run(folder, num_images).stage("embed_images"), "images")
    clock = [time.perf_counter()]
    found_cells = make_cells(rows, seed=0)
    clock.append(time.perf_counter())
    sample = sample_rows(found_cells, seed=0)
    exact = exact_scores(rows, sample, NUM_NEIGHBORS)
    files = HostArrays()
    index = fill_file(rows, found_cells, allocate=files.allocate)
    index, recall = choose_num_probes(index, sample, exact, min_recall=min_recall)
    clock.append(time.perf_counter())
    slices = [
        np.arange(start, min(start + _ROWS_PER_SLICE, num_images)) for start in range(0, num_images, _ROWS_PER_SLICE)
    ]
    found = np.concatenate([search_cells(index, positions, NUM_NEIGHBORS)[0] for positions in slices])
    clock.append(time.perf_counter())
    np.save(_found_path(folder, num_images), found.astype(np.int32))
    make, plan, searched = np.diff(clock).round(1).tolist()
    return {
        "cells": len(found_cells.centers),
        "num_probes": index.cells.num_probes,
        "recall_of_sample": round(recall, 4),
        "cells_seconds": make,
        "plan_seconds": plan,
        "search_seconds": searched,
    }


def exact(folder: Path, num_images: int) -> dict[str, Any]:
    """The exact search that smaller runs use."""
    prefer_onednn()
    rows = load_matrix(planted_run(folder, num_images).stage("embed_images"), "images").values
    started = time.perf_counter()
    found = search(build_index(rows), rows, np.arange(num_images), NUM_NEIGHBORS)
    seconds = time.perf_counter() - started
    np.save(_found_path(folder, num_images), found.astype(np.int32))
    return {"search_seconds": round(seconds, 1)}


def reference(folder: Path, num_images: int, num_queries: int) -> dict[str, Any]:
    """IndexFlatIP; how much of what it finds the search before has found."""
    rows = unit_rows(load_matrix(planted_run(folder, num_images).stage("embed_images"), "images").values, name="rows")
    queries = np.sort(np.random.default_rng(1).choice(num_images, num_queries, replace=False))
    started = time.perf_counter()
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    _, nearest = index.search(rows[queries], NUM_NEIGHBORS + 1)
    seconds = time.perf_counter() - started
    found = np.load(_found_path(folder, num_images))[queries]
    hits = [
        np.isin([other for other in row if other != query][:NUM_NEIGHBORS], mine).mean()
        for query, row, mine in zip(queries, nearest, found, strict=True)
    ]
    return {
        "queries": num_queries,
        "search_seconds": round(seconds, 1),
        "search_seconds_of_all": round(seconds * num_images / num_queries, 1),
        "recall_by_ids": round(float(np.mean(hits)), 4),
    }


def _found_path(folder: Path, num_images: int) -> Path:
    return folder / f"found-{num_images}.npy"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the planted data and what is found")
    parser.add_argument("--num-images", type=int, nargs="+", required=True)
    parser.add_argument("--index", choices=("ivf", "exact"), default="ivf")
    parser.add_argument("--min-recall", type=float, default=0.98)
    parser.add_argument("--reference-queries", type=int, default=0, help="0 leaves the reference out")
    arguments = parser.parse_args()
    results = []
    for num_images in arguments.num_images:
        planted_run(arguments.folder, num_images)
        result: dict[str, Any] = {"num_images": num_images, "index": arguments.index}
        if arguments.index == "ivf":
            result["dxmc"] = measured(cells, arguments.folder, num_images, arguments.min_recall)
        else:
            result["dxmc"] = measured(exact, arguments.folder, num_images)
        if arguments.reference_queries:
            queries = min(arguments.reference_queries, num_images)
            result["reference"] = measured(reference, arguments.folder, num_images, queries)
        results.append(result)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
