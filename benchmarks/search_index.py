"""The index that mine_neighbors publishes: what it costs to build, what it finds, and how soon `dxmc search` answers.

    python benchmarks/search_index.py --folder DIR --num-images 100000 1000000
    python benchmarks/search_index.py --folder DIR --num-images 1000000 --kind hnsw

Prints JSON, one document for each number of images. The images are the planted mixture (`planted.py`), a cluster for
each component; queries are its nouns, as a file of embeddings, so no encoder is loaded. `first_query_seconds` is of a
command with all of its start-up, twice: the second one finds the files in the memory of the kernel. Bare FAISS is asked
for the same 1,000 queries.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import pyarrow as pa
from measured import measured, peak_bytes
from planted import FINGERPRINT, NUM_COMPONENTS, WIDTH, planted_nouns, planted_parts_with_components, planted_run

from dxmc_core.artifacts.index_file import METRICS_KEY
from dxmc_core.artifacts.matrices import embedding_column
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.tables import ASSIGNMENTS, CATALOG, CENTERS, CLUSTERS, NOUNS
from dxmc_core.method.neighbors.search_index import IndexChoice, IndexKind, choose_kind
from dxmc_core.method.unit_rows import unit_rows
from dxmc_core.search import open_run
from dxmc_core.stages.search_index import FillShard, IndexSource, prepare_index, publish_index

_ROWS_PER_SHARD = 262_144
_NUM_QUERIES = 1000
_TOP = 10


def complete_run(folder: Path, num_images: int) -> RunDir:
    """The planted run with what `dxmc search` reads: a catalog, nouns, assignments; written at the first call."""
    run_dir = planted_run(folder, num_images)
    stage = run_dir.stage("assign_clusters")
    if stage.manifest() is not None:
        return run_dir
    source = {"kind": "embeddings", "uri": "planted.npy"}
    config = {"source": source, "vocabulary": {"kind": "embeddings", "uri": "nouns.npz"}, "run_dir": run_dir.uri}
    run_dir.write_record({"source": source, "encoder": None, "config": config})
    nouns = unit_rows(planted_nouns()[:: 117_798 // 10_000], name="nouns").astype(np.float16)
    noun_table = pa.table(
        {
            "noun_id": np.arange(len(nouns), dtype=np.int32),
            "noun": [f"noun {number}" for number in range(len(nouns))],
            "synset_id": pa.nulls(len(nouns), pa.string()),
            "embedding": embedding_column(nouns),
        }
    )
    _publish(run_dir, "build_semantic_space", {"nouns": [noun_table.cast(NOUNS.schema(WIDTH))]})
    np.save(folder / "queries.npy", nouns[:_NUM_QUERIES].astype(np.float32))
    assignments, sums, start = [], np.zeros((NUM_COMPONENTS, WIDTH)), 0
    sizes = np.zeros(NUM_COMPONENTS, dtype=np.int64)
    for rows, components in planted_parts_with_components(num_images):
        row_ids = np.arange(start, start + len(rows))
        np.add.at(sums, components, rows)
        sizes += np.bincount(components, minlength=NUM_COMPONENTS)
        columns = {"row_id": row_ids, "image_id": row_ids.astype(str), "cluster_id": components.astype(np.int32)}
        columns |= {name: np.ones(len(rows), np.float32) for name in ("confidence", "margin", "outlier_score")}
        assignments.append(pa.table(columns | {"runner_up": components.astype(np.int32)}).select(
            ASSIGNMENTS.schema().names).cast(ASSIGNMENTS.schema()))  # fmt: skip
        start += len(rows)
    _add_catalog(run_dir, num_images)
    numbers = np.arange(NUM_COMPONENTS, dtype=np.int32)
    centers = pa.table(
        {
            "cluster_id": numbers,
            "mean_distance": np.zeros(NUM_COMPONENTS, np.float32),
            "embedding": embedding_column(unit_rows(sums + 1e-9, name="centers")),
        }
    )
    cluster = {
        "names": [], "name_evidence": [], "name_source": "noun", "exemplars": [], "border": [], "cohesion": 1.0,
        "mean_confidence": 1.0, "nearest_clusters": [],
    }  # fmt: skip
    clusters = [
        {"cluster_id": number, "size": int(sizes[number]), "name": f"component {number}", **cluster}
        for number in range(NUM_COMPONENTS)
    ]
    _publish(
        run_dir,
        "assign_clusters",
        {
            "assignments": assignments,
            "centers": [centers.cast(CENTERS.schema(WIDTH))],
            "clusters": [pa.Table.from_pylist(clusters, schema=CLUSTERS.schema())],
        },
    )
    return run_dir


def _add_catalog(run_dir: RunDir, num_images: int) -> None:
    images = run_dir.stage("embed_images")
    row_ids = np.arange(num_images)
    columns = {"row_id": row_ids, "image_id": row_ids.astype(str), "uri": row_ids.astype(str), "size": row_ids}
    nothing = {name: pa.nulls(num_images, CATALOG.schema().field(name).type) for name in ("label", "offset", "problem")}
    table = pa.table(columns | {"etag": pa.repeat("", num_images)} | nothing).select(CATALOG.schema().names)
    parts = [images.write_part("catalog", table.cast(CATALOG.schema()), fingerprint=FINGERPRINT)]
    tables = {"images": images.require_manifest().tables["images"], "catalog": parts}
    images.publish(fingerprint=FINGERPRINT, inputs={}, tables=tables, seconds=0)


def _publish(run_dir: RunDir, stage: str, tables: dict[str, list[pa.Table]]) -> None:
    folder = run_dir.stage(stage)
    parts = {
        name: [folder.write_part(name, table, fingerprint=FINGERPRINT) for table in of_name]
        for name, of_name in tables.items()
    }
    folder.publish(fingerprint=FINGERPRINT, inputs={}, tables=parts, seconds=0)


def build(folder: Path, num_images: int, kind: IndexKind | Literal["auto"]) -> dict[str, Any]:
    """Build and publish the index as the stage does on one node; the cells are made here, too."""
    run_dir = complete_run(folder, num_images)
    images, output = run_dir.stage("embed_images"), run_dir.stage("mine_neighbors")
    choice = choose_kind(num_images, WIDTH) if kind == "auto" else IndexChoice(kind, "asked for")
    source = IndexSource(images, "images", run_dir.stage("build_semantic_space"), choice, "image_neighbors", seed=0)
    output.begin(FINGERPRINT)
    before, clock = peak_bytes(), [time.perf_counter()]
    empty = prepare_index(source, output, fingerprint=FINGERPRINT, has_cells=False)
    clock.append(time.perf_counter())
    shards = []
    if choice.has_cells:
        starts = range(0, num_images, _ROWS_PER_SHARD)
        slices = {"start": list(starts), "stop": [min(start + _ROWS_PER_SHARD, num_images) for start in starts]}
        fill = FillShard(source, output, fingerprint=FINGERPRINT, empty=empty)
        shards = [row["name"] for row in fill(pa.table(slices)).to_pylist()]
    clock.append(time.perf_counter())
    part, facts = publish_index(source, output, empty, shards, min_recall=0.98)
    clock.append(time.perf_counter())
    output.publish(
        fingerprint=FINGERPRINT,
        inputs={},
        tables={},
        files={source.file_name: part},
        metrics={METRICS_KEY: {source.file_name: facts}},
        seconds=0,
    )
    cells, fill_seconds, rest = np.diff(clock).round(1).tolist()
    return {
        "cells_and_codes_seconds": cells,
        "fill_seconds": fill_seconds,
        "measure_and_write_seconds": rest,
        "start_gib": round(before / 2**30, 2),
        **facts,
    }


def ask(folder: Path, num_images: int) -> dict[str, Any]:
    """Ask for nouns one by one and all together, and bare FAISS for the same."""
    run_dir = complete_run(folder, num_images)
    queries = [f"{folder}/queries.npy#{row}" for row in range(_NUM_QUERIES)]
    with open_run(run_dir) as run:
        seconds = [_seconds(lambda text=text: run.query(text, top=_TOP)) for text in queries[:100]]
        with_where = [
            _seconds(lambda text=text: run.query(text, top=_TOP, where=["cluster=7"])) for text in queries[:5]
        ]
        started = time.perf_counter()
        found = run.query_all(queries, top=_TOP)
        together = time.perf_counter() - started
    index = faiss.read_index(run_dir.stage("mine_neighbors").storage.path("index.faiss"), faiss.IO_FLAG_MMAP)
    scores, ids = index.search(np.stack([result.query.embedding for result in found]), _TOP)
    is_same = [
        {hit.row_id for hit in result.images} == set(of_query.tolist())
        for result, of_query in zip(found, ids, strict=True)
    ]
    largest = max(
        abs(hit.similarity - score)
        for result, of_query in zip(found, scores.tolist(), strict=True)
        for hit, score in zip(result.images, of_query, strict=True)
    )
    return {
        "open_and_first_query_seconds": round(seconds[0], 3),
        "next_query_ms": {"median": _ms(np.median(seconds[1:])), "most": _ms(max(seconds[1:]))},
        "query_in_a_cluster_ms": _ms(np.median(with_where[1:])),
        "queries_together_seconds": round(together, 3),
        "queries_with_the_ids_of_bare_faiss": f"{sum(is_same)} of {len(is_same)}",
        "largest_difference_of_scores": round(largest, 7),
    }


def _seconds(call: Any) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _ms(seconds: float) -> float:
    return round(1000 * float(seconds), 1)


def first_query_seconds(folder: Path, num_images: int) -> list[float]:
    command = [sys.executable, "-m", "ray_jobs.cli", "search", complete_run(folder, num_images).uri]
    command.append(f"{folder}/queries.npy#5")
    return [round(_seconds(lambda: subprocess.run(command, check=True, capture_output=True)), 2) for _ in range(2)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the planted runs")
    parser.add_argument("--num-images", type=int, nargs="+", required=True)
    parser.add_argument("--kind", default="auto", help="flat, ivf, ivf_sq8, ivf_pq or hnsw; by default by size")
    arguments = parser.parse_args()
    for num_images in arguments.num_images:
        complete_run(arguments.folder, num_images)
        result = {
            "num_images": num_images,
            "build": measured(build, arguments.folder, num_images, arguments.kind),
            "ask": measured(ask, arguments.folder, num_images),
            "first_query_seconds": first_query_seconds(arguments.folder, num_images),
        }
        print(json.dumps(result, indent=1), flush=True)


if __name__ == "__main__":
    main()
