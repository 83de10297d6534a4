"""Fifty neighbours of every row: our searches beside FAISS' and NN-descent, in one run, on rows of several kinds.

    python benchmarks/neighbors.py --folder DIR --rows 100000 200000
    python benchmarks/neighbors.py --folder DIR --rows 1000000 --data planted --methods cells faiss_ivf faiss_hnsw
    python benchmarks/neighbors.py --folder DIR --rows 200000 --data real --embeddings ucf101.npy

Prints JSON, and a table on stderr. Data: `planted` (a mixture whose components cells fit), `spread` (rows on a curved
surface of 12 dimensions, without components) and `real` (a file of embeddings, each repeated with noise). Methods:
`exact` and `cells` are ours; `faiss_flat` is IndexFlatIP, `faiss_ivf` an inverted file in float16 with the same cells,
its queries sorted by cell and in batches, `faiss_hnsw` M 32, efConstruction 80, each with all threads of FAISS;
`nn_descent` is EVoC's (the extra `benchmarks`).

Each method runs in a process of its own. What is built is built for all rows. Each recall of --recalls is reached on a
sample by the least probes (efSearch, iterations) that reach it; the search with these is timed on --queries rows, those
of whole cells, and `seconds` is building it and searching all rows in proportion. The recall is by scores: a
neighbour counts that is as near as the 50th exact one. A method that takes longer than --limit-s is stopped.
"""

import argparse
import json
import math
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from measured import peak_bytes
from planted import WIDTH, planted_parts

from dxmc_core.method.neighbors.exact import build_index, search
from dxmc_core.method.neighbors.inverted_file import (
    exact_scores,
    fill_file,
    make_cells,
    recall,
    sample_rows,
    search_cells,
)
from dxmc_core.method.neighbors.search_index import add_to_cells, empty_index
from dxmc_core.method.row_source import ArrayRows
from dxmc_core.method.unit_rows import unit_rows
from dxmc_core.runtime.cpu_products import prefer_onednn

NUM_NEIGHBORS = 50
_PROBES = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_EF_SEARCH = (51, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_QUERIES_PER_BATCH = 4096
_SURFACE_DIMENSIONS, _WAVES = 12, 256
_SURFACE_NOISE, _REAL_NOISE = 0.3, 0.35
_CONE = 0.58


def stored_rows(folder: Path, data: str, count: int, embeddings: Path | None) -> Path:
    """A file of unit rows (count, D) float16; written at the first call."""
    path = folder / f"{data}-{count}.npy"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    blocks: Iterator[np.ndarray]
    if data == "planted":
        blocks = planted_parts(count)
    elif data == "spread":
        blocks = _spread(count)
    else:
        if embeddings is None:
            raise SystemExit("--data real needs --embeddings FILE.npy, or an .npz with an array `embeddings`")
        loaded = np.load(embeddings)
        blocks = _repeated(loaded["embeddings"] if embeddings.suffix == ".npz" else loaded, count)
    rows = np.concatenate([unit_rows(block, name="rows").astype(np.float16) for block in blocks])[:count]
    np.save(path, rows)
    return path


def _spread(count: int, *, block: int = 8192) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    cone = rng.standard_normal(WIDTH)
    cone /= np.linalg.norm(cone)
    waves = rng.standard_normal((_SURFACE_DIMENSIONS, _WAVES))
    axes = rng.standard_normal((2 * _WAVES, WIDTH)) / math.sqrt(_WAVES * WIDTH)
    for _ in range(0, count, block):
        phases = 0.5 * rng.standard_normal((block, _SURFACE_DIMENSIONS)) @ waves
        own = np.concatenate([np.cos(phases), np.sin(phases)], axis=1) @ axes
        own += _SURFACE_NOISE * rng.standard_normal((block, WIDTH)) / math.sqrt(WIDTH)
        yield math.sqrt(_CONE) * cone + math.sqrt(1 - _CONE) * own


def _repeated(embeddings: np.ndarray, count: int, *, block: int = 8192) -> Iterator[np.ndarray]:
    """Rows of a file again and again, each with noise shaped like the differences of pairs of rows."""
    rng = np.random.default_rng(0)
    rows = unit_rows(embeddings, name="embeddings")
    for _ in range(0, count, block):
        chosen, one, other = (rows[rng.integers(len(rows), size=block)] for _ in range(3))
        yield chosen + _REAL_NOISE * (one - other) / math.sqrt(2)


def _recall_of(rows: np.ndarray, sample: np.ndarray, exact: np.ndarray, found: np.ndarray) -> float:
    queries = unit_rows(rows[sample], name="queries")
    scores = np.stack([unit_rows(rows[of], name="rows") @ query for of, query in zip(found, queries, strict=True)])
    return recall(scores, exact)


def _without_own(found: np.ndarray, positions: np.ndarray) -> np.ndarray:
    order = np.argsort(found == positions[:, None], axis=1, kind="stable")[:, :NUM_NEIGHBORS]
    return np.take_along_axis(found, order, axis=1)


#: Positions of queries and an effort to their neighbours (Q, 50).
Find = Callable[[np.ndarray, int], np.ndarray]


def _swept(
    rows: np.ndarray,
    find: Find,
    *,
    efforts: Sequence[int],
    sample: np.ndarray,
    queries: np.ndarray,
    recalls: Sequence[float],
    built_s: float,
) -> dict[str, Any]:
    """For each recall the least effort that reaches it on the sample, and the time that it takes for all rows."""
    exact_of_sample = exact_scores(ArrayRows(rows), sample, NUM_NEIGHBORS)
    reached: dict[int, float] = {}
    for effort in efforts:
        reached[effort] = _recall_of(rows, sample, exact_of_sample, find(sample, effort))
        if reached[effort] >= max(recalls):
            break
    results, timed = [], {}
    for wanted in recalls:
        least = next((effort for effort, found in reached.items() if found >= wanted), None)
        if least is None:
            results.append({"wanted": wanted, "most_recall": round(max(reached.values()), 4)})
            continue
        if least not in timed:
            started = time.perf_counter()
            find(queries, least)
            timed[least] = (time.perf_counter() - started) * len(rows) / len(queries)
        results.append(
            {
                "wanted": wanted,
                "effort": least,
                "recall": round(reached[least], 4),
                "search_seconds": round(timed[least], 1),
                "seconds": round(built_s + timed[least], 1),
            }
        )
    return {"build_seconds": round(built_s, 1), "at": results}


def exact(rows: np.ndarray, num_queries: int, recalls: list[float]) -> dict[str, Any]:
    """Our exact search."""
    started = time.perf_counter()
    index = build_index(rows)
    return _swept(
        rows,
        lambda at, _: search(index, rows[at], at, NUM_NEIGHBORS),
        efforts=(1,),
        **_random_queries(rows, num_queries),
        recalls=recalls,
        built_s=time.perf_counter() - started,
    )


def cells(rows: np.ndarray, num_queries: int, recalls: list[float]) -> dict[str, Any]:
    """Our inverted file. A cell costs the same for one row of it as for some, so queries are those of whole cells."""
    started = time.perf_counter()
    source = ArrayRows(rows)
    made = make_cells(source, seed=0)
    index = fill_file(source, made)
    return _swept(
        rows,
        lambda at, probes: search_cells(index, at, NUM_NEIGHBORS, num_probes=probes)[0],
        efforts=_up_to(_PROBES, len(made.centers)),
        sample=sample_rows(made, seed=0),
        queries=_of_whole_cells(made.labels, num_queries),
        recalls=recalls,
        built_s=time.perf_counter() - started,
    )


def faiss_flat(rows: np.ndarray, num_queries: int, recalls: list[float]) -> dict[str, Any]:
    """IndexFlatIP."""
    started = time.perf_counter()
    unit = unit_rows(rows, name="rows")
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(unit)
    return _swept(
        rows,
        lambda at, _: _without_own(index.search(unit[at], NUM_NEIGHBORS + 1)[1], at),
        efforts=(1,),
        **_random_queries(rows, num_queries),
        recalls=recalls,
        built_s=time.perf_counter() - started,
    )


def faiss_ivf(rows: np.ndarray, num_queries: int, recalls: list[float]) -> dict[str, Any]:
    """An inverted file in float16 with the cells of `cells`, made by our k-means, which is quicker than FAISS'."""
    started = time.perf_counter()
    made = make_cells(ArrayRows(rows), seed=0)
    unit = unit_rows(rows, name="rows")
    index = empty_index("ivf", rows.shape[1], centers=made.centers)
    add_to_cells(index, unit, np.arange(len(rows)), made.labels)

    def find(at: np.ndarray, probes: int) -> np.ndarray:
        index.nprobe = probes
        # Queries of a cell look through the same cells, so one after the other they find these in the cache.
        order = np.argsort(made.labels[at], kind="stable")
        found = np.empty((len(at), NUM_NEIGHBORS + 1), dtype=np.int64)
        for start in range(0, len(at), _QUERIES_PER_BATCH):
            batch = order[start : start + _QUERIES_PER_BATCH]
            found[batch] = index.search(unit[at[batch]], NUM_NEIGHBORS + 1)[1]
        return _without_own(found, at)

    return _swept(
        rows,
        find,
        efforts=_up_to(_PROBES, len(made.centers)),
        sample=_random_queries(rows, num_queries)["sample"],
        queries=_of_whole_cells(made.labels, num_queries),
        recalls=recalls,
        built_s=time.perf_counter() - started,
    )


def faiss_hnsw(rows: np.ndarray, num_queries: int, recalls: list[float]) -> dict[str, Any]:
    """A graph over rows in float32."""
    started = time.perf_counter()
    unit = unit_rows(rows, name="rows")
    index = faiss.IndexHNSWFlat(rows.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 80
    index.add(unit)

    def find(at: np.ndarray, effort: int) -> np.ndarray:
        index.hnsw.efSearch = effort
        return _without_own(index.search(unit[at], NUM_NEIGHBORS + 1)[1], at)

    return _swept(
        rows,
        find,
        efforts=_EF_SEARCH,
        **_random_queries(rows, num_queries),
        recalls=recalls,
        built_s=time.perf_counter() - started,
    )


def nn_descent(rows: np.ndarray, num_queries: int, recalls: list[float]) -> dict[str, Any]:
    """EVoC's, which finds the neighbours of all rows at once; numba compiles it before, on few."""
    from evoc.knn_graph import knn_graph

    unit = unit_rows(rows, name="rows")
    knn_graph(unit[:2000], n_neighbors=NUM_NEIGHBORS + 1, random_state=np.random.RandomState(0))
    sample = _random_queries(rows, num_queries)["sample"]
    exact_of_sample = exact_scores(ArrayRows(rows), sample, NUM_NEIGHBORS)
    started = time.perf_counter()
    found = knn_graph(unit, n_neighbors=NUM_NEIGHBORS + 1, random_state=np.random.RandomState(0))[0]
    seconds = time.perf_counter() - started
    reached = _recall_of(rows, sample, exact_of_sample, _without_own(found[sample].astype(np.int64), sample))
    return {"build_seconds": 0.0, "at": [{"recall": round(reached, 4), "seconds": round(seconds, 1)}]}


METHODS = {method.__name__: method for method in (exact, cells, faiss_flat, faiss_ivf, faiss_hnsw, nn_descent)}


def _random_queries(rows: np.ndarray, num_queries: int) -> dict[str, np.ndarray]:
    chosen = np.random.default_rng(1).permutation(len(rows))
    return {"sample": np.sort(chosen[:1024]), "queries": np.sort(chosen[:num_queries])}


def _up_to(efforts: Sequence[int], most: int) -> list[int]:
    return [*(effort for effort in efforts if effort < most), most]


def _of_whole_cells(labels: np.ndarray, count: int) -> np.ndarray:
    """Positions of all rows of some cells, at least so many."""
    order = np.random.default_rng(2).permutation(labels.max() + 1)
    needed = int(np.searchsorted(np.cumsum(np.bincount(labels)[order]), count)) + 1
    return np.flatnonzero(np.isin(labels, order[:needed]))


def _run(method: str, path: Path, num_queries: int, recalls: list[float], results: Connection) -> None:
    prefer_onednn()
    rows = np.load(path)
    before, started = peak_bytes(), time.perf_counter()
    found = METHODS[method](rows, num_queries, recalls)
    found["seconds_of_the_measurement"] = round(time.perf_counter() - started, 1)
    found["rows_gib"], found["peak_gib"] = (round(size / 2**30, 2) for size in (before, peak_bytes()))
    results.send(found)


def within(limit_s: float, *arguments: Any) -> dict[str, Any]:
    """What `_run` finds in a process of its own, which is ended after a time."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(*arguments, there))
    process.start()
    there.close()
    try:
        return here.recv() if here.poll(limit_s) else {"stopped_after_s": limit_s}
    except EOFError:
        process.join()
        return {"failed": f"exit code {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def _table(results: Sequence[dict[str, Any]]) -> str:
    lines = ["| data | rows | method | build s | seconds at recall | peak GiB |", "|---|---|---|---|---|---|"]
    for row in results:
        shown = ", ".join(
            f"{at['seconds']:.0f} at {at['recall']:.3f}" if "seconds" in at else f"- at {at['most_recall']:.3f}"
            for at in row.get("at", ())
        )
        if "stopped_after_s" in row:
            shown = f"stopped after {row['stopped_after_s']:.0f} s"
        cells_of_row = (
            row["data"], f"{row['rows']:,}", row["method"], row.get("build_seconds", ""), row.get("failed", shown),
            row.get("peak_gib", ""),
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells_of_row))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the rows")
    parser.add_argument("--rows", type=int, nargs="+", required=True)
    parser.add_argument("--data", choices=("planted", "spread", "real"), nargs="+", default=["planted", "spread"])
    parser.add_argument("--embeddings", type=Path, help="for --data real")
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=list(METHODS))
    parser.add_argument("--recalls", type=float, nargs="+", default=[0.95, 0.98, 0.99])
    parser.add_argument("--queries", type=int, default=20_000, help="rows whose search is timed (default 20000)")
    parser.add_argument("--limit-s", type=float, default=1200, help="of one method on one set (default 1200)")
    arguments = parser.parse_args()
    results = []
    for data in arguments.data:
        for count in arguments.rows:
            path = stored_rows(arguments.folder, data, count, arguments.embeddings)
            for method in arguments.methods:
                found = within(arguments.limit_s, method, path, min(arguments.queries, count), arguments.recalls)
                results.append({"data": data, "rows": count, "method": method, **found})
                print(_table(results[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    print(_table(results), file=sys.stderr)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
