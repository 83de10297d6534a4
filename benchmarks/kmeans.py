"""Spherical k-means at equal objective: ours beside faiss' and superkmeans, in one run.

    python benchmarks/kmeans.py --folder DIR --rows 200000 --clusters 1000 4000
    python benchmarks/kmeans.py --folder DIR --rows 200000 --clusters 1000 --data real --embeddings ucf101.npz

Each trains one start on all rows and labels all of them, with all threads, in a process of its own, at several numbers
of iterations. `seconds` is training and labelling, without the reading of the rows; `objective` is the mean cosine
between rows and the normalised means of their clusters, by the labels alone, so that it means the same of everybody.
superkmeans (the extra `benchmarks`) runs flat, hierarchical and on 8-bit rows. Prints JSON, and a table on stderr whose
last column is the time that ours takes to the same objective, by interpolation between its own runs, as a multiple of
the row's: above 1.5 the library is faster by that much.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from measured import measured
from neighbors import stored_rows

from dxmc_core.method.clusters.kmeans import spherical_kmeans
from dxmc_core.method.unit_rows import unit_rows

_ITERATIONS = (2, 5, 10, 20, 40)


def _ours(rows: np.ndarray, num_clusters: int, iterations: int) -> np.ndarray:
    return spherical_kmeans(
        rows, num_clusters, num_restarts=1, num_iterations=iterations, max_points_per_center=None
    ).labels


def _faiss(rows: np.ndarray, num_clusters: int, iterations: int) -> np.ndarray:
    kmeans = faiss.Kmeans(
        rows.shape[1], num_clusters, niter=iterations, spherical=True, seed=0, max_points_per_centroid=len(rows)
    )
    kmeans.train(rows)
    return kmeans.index.search(rows, 1)[1][:, 0]


def _superkmeans(rows: np.ndarray, num_clusters: int, iterations: int, **settings: Any) -> np.ndarray:
    from superkmeans import SuperKMeans

    kmeans = SuperKMeans(
        num_clusters,
        rows.shape[1],
        angular=True,
        sampling_fraction=1.0,
        max_points_per_cluster=len(rows),
        early_termination=False,
        **{"hierarchical": False, "iters": iterations, **settings},
    )
    return kmeans.assign(rows, kmeans.train(rows))


def _hierarchical(rows: np.ndarray, num_clusters: int, iterations: int) -> np.ndarray:
    """The number of iterations is that of the refinement, after the package's own 3 and 5."""
    return _superkmeans(rows, num_clusters, iterations, hierarchical=True, iters_refinement=iterations)


def _quantized(rows: np.ndarray, num_clusters: int, iterations: int) -> np.ndarray:
    return _superkmeans(rows, num_clusters, iterations, quantizer="sq8", full_precision_final_centroids=True)


METHODS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "ours": _ours,
    "faiss": _faiss,
    "superkmeans": _superkmeans,
    "superkmeans_hierarchical": _hierarchical,
    "superkmeans_sq8": _quantized,
}


def _run(path: Path, method: str, num_clusters: int, iterations: int) -> dict[str, Any]:
    rows = unit_rows(np.load(path), name="rows")
    started = time.perf_counter()
    labels = METHODS[method](rows, num_clusters, iterations)
    seconds = time.perf_counter() - started
    return {"seconds": round(seconds, 2), "objective": round(_objective(rows, labels, num_clusters), 5)}


def _objective(rows: np.ndarray, labels: np.ndarray, num_clusters: int) -> float:
    """Mean cosine to the own cluster's normalised mean: the length of the sum of its rows, over all of them."""
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(num_clusters))
    starts = starts[starts < np.append(starts[1:], len(rows))]  # of clusters with members
    sums = np.add.reduceat(rows[order], starts, axis=0, dtype=np.float64)
    return float(np.linalg.norm(sums, axis=1).sum() / len(rows))


def _print_table(found: list[dict[str, Any]]) -> None:
    print("| clusters | method | iterations | seconds | objective | ours to the same |", file=sys.stderr)
    print("|---|---|---|---|---|---|", file=sys.stderr)
    for run in found:
        own = sorted(
            (other["objective"], other["seconds"])
            for other in found
            if other["method"] == "ours" and other["clusters"] == run["clusters"]
        )
        same = ""
        if own and run["objective"] <= own[-1][0]:
            objectives, seconds = zip(*own, strict=True)
            same = f"{np.interp(run['objective'], objectives, seconds) / run['seconds']:.2f}"
        print(
            f"| {run['clusters']:,} | {run['method']} | {run['iterations']} | {run['seconds']} | {run['objective']} | "
            f"{same} |",
            file=sys.stderr,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the rows")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--clusters", type=int, nargs="+", default=[1000])
    parser.add_argument("--data", choices=("planted", "spread", "real"), default="planted")
    parser.add_argument("--embeddings", type=Path, help="for --data real")
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=list(METHODS))
    parser.add_argument("--iterations", type=int, nargs="+", default=list(_ITERATIONS))
    arguments = parser.parse_args()
    path = stored_rows(arguments.folder, arguments.data, arguments.rows, arguments.embeddings)
    found = []
    for num_clusters in arguments.clusters:
        for method in arguments.methods:
            for iterations in arguments.iterations:
                run = measured(_run, path, method, num_clusters, iterations)
                found.append({"clusters": num_clusters, "method": method, "iterations": iterations, **run})
                print(found[-1], file=sys.stderr)
    _print_table(found)
    print(json.dumps({"rows": arguments.rows, "data": arguments.data, "runs": found}, indent=1))


if __name__ == "__main__":
    main()
