"""10,000 edits on 1,000,000 images: seconds and memory of reading the file and of applying them, as JSON.

    python benchmarks/many_edits.py --folder /tmp/edits --num-images 1000000 --num-edits 10000

The clusters are planted; the file is Parquet, as it is for many. Making the images is not timed.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from dxmc_core.artifacts.matrices import embedding_column
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.tables import ASSIGNMENTS, CENTERS, CLUSTERS, IMAGES
from dxmc_core.edits.file import format_edits, parse_edits
from dxmc_core.edits.model import Edit
from dxmc_core.stages.edited_clusters import ClusteredImages, edit_clusters
from dxmc_core.stages.settings.assign_clusters import IDS_GIVEN, AssignClustersConfig

_FINGERPRINT = "f" * 32
_ROWS_PER_PART = 50_000
#: Shares of the kinds of edits.
_KINDS = {
    "move": 0.4, "examples": 0.2, "rename": 0.1, "together": 0.1, "apart": 0.1, "merge": 0.04, "split": 0.03,
    "pin": 0.02, "hide": 0.01,
}  # fmt: skip


def make_run(run_dir: RunDir, num_images: int, num_clusters: int, width: int) -> None:
    """A run whose clusters are assigned."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(num_clusters, width)).astype(np.float32)
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    images, assigned = run_dir.stage("embed_images"), run_dir.stage("assign_clusters")
    tables: dict[str, list] = {"images": [], "assignments": []}
    for start in range(0, num_images, _ROWS_PER_PART):
        count = min(_ROWS_PER_PART, num_images - start)
        row_ids = np.arange(start, start + count)
        labels = row_ids % num_clusters
        rows = centers[labels] + 0.5 / np.sqrt(width) * rng.normal(size=(count, width)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        ids = pa.array([image_id(row) for row in row_ids.tolist()])
        embedded = pa.table(
            {"row_id": row_ids, "image_id": ids, "embedding": embedding_column(rows.astype(np.float16))}
        )
        tables["images"].append(
            images.write_part("images", embedded.cast(IMAGES.schema(width)), fingerprint=_FINGERPRINT)
        )
        ones = np.full(count, 0.8, np.float32)
        table = pa.table(
            {
                "row_id": row_ids, "image_id": ids, "cluster_id": labels.astype(np.int32), "confidence": ones,
                "runner_up": ((labels + 1) % num_clusters).astype(np.int32), "margin": ones, "outlier_score": ones,
            }
        ).cast(ASSIGNMENTS.schema())  # fmt: skip
        tables["assignments"].append(assigned.write_part("assignments", table, fingerprint=_FINGERPRINT))
    ids = pa.array(range(num_clusters), pa.int32())
    of_clusters = {
        "centers": pa.table(
            {
                "cluster_id": ids, "mean_distance": np.full(num_clusters, 0.1, np.float32),
                "embedding": embedding_column(centers),
            }
        ).cast(CENTERS.schema(width)),
        "clusters": pa.Table.from_pylist(
            [
                {"cluster_id": label, "size": num_images // num_clusters, "name": f"word {label}", "names": [],
                 "name_evidence": [], "name_source": "noun", "exemplars": [], "border": [], "cohesion": 0.9,
                 "mean_confidence": 0.8, "nearest_clusters": []}
                for label in range(num_clusters)
            ],
            schema=CLUSTERS.schema(),
        ),
    }  # fmt: skip
    images.publish(fingerprint=_FINGERPRINT, inputs={}, tables={"images": tables["images"]}, seconds=0.0)
    parts = {name: [assigned.write_part(name, table, fingerprint=_FINGERPRINT)] for name, table in of_clusters.items()}
    parts["assignments"] = tables["assignments"]
    metrics = {IDS_GIVEN: num_clusters}
    assigned.publish(fingerprint=_FINGERPRINT, inputs={}, tables=parts, metrics=metrics, seconds=0.0)


def image_id(row: int) -> str:
    return f"photos/2026/{row // 1000:04}/{row:09}.jpg"


def make_edits(count: int, num_images: int, num_clusters: int) -> list[Edit]:
    """Edits of every kind, in random order, each of images of its own."""
    rng = np.random.default_rng(1)
    kinds = rng.choice(list(_KINDS), size=count, p=list(_KINDS.values()))
    rows = iter(rng.permutation(num_images).tolist())

    def taken(number: int) -> list[str]:
        return [image_id(next(rows)) for _ in range(number)]

    def reference() -> dict:
        label = int(rng.integers(num_clusters))
        return {"id": label, "images": [image_id(label + num_clusters * step) for step in range(20)]}

    def action(kind: str) -> dict:
        match kind:
            case "move":
                return {"images": taken(5), "to": reference()}
            case "examples":
                return {"of": f"class {rng.integers(200)}", "images": taken(5)}
            case "rename":
                return {"cluster": reference(), "name": f"name {rng.integers(1 << 30)}"}
            case "together" | "apart":
                return {"images": taken(2)}
            case "merge":
                first, second = reference(), reference()
                while first["id"] == second["id"]:
                    second = reference()
                return {"clusters": [first, second]}
            case "split":
                return {"cluster": reference(), "into": 2}
            case _:
                return {"cluster": reference()}

    head = {"author": "ann", "at": "2026-11-30T12:00:00Z"}
    return [
        Edit.model_validate({"id": f"{number:08x}", **head, kind: action(kind)}) for number, kind in enumerate(kinds)
    ]


def main() -> None:
    """Make the run, apply the edits, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--num-images", type=int, default=1_000_000)
    parser.add_argument("--num-clusters", type=int, default=1_000)
    parser.add_argument("--num-edits", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=512)
    options = parser.parse_args()
    run_dir, edited_dir = (RunDir.at(str(options.folder / name)) for name in ("run", "edited"))
    if run_dir.stage("assign_clusters").manifest() is None:
        make_run(run_dir, options.num_images, options.num_clusters, options.width)
    data = format_edits(make_edits(options.num_edits, options.num_images, options.num_clusters), "edits.parquet")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    edits = parse_edits(data, "edits.parquet")
    read = time.perf_counter() - started
    edited = edit_clusters(
        ClusteredImages.published(run_dir.stage("assign_clusters")),
        edits,
        images=run_dir.stage("embed_images"),
        output=edited_dir.stage("assign_clusters"),
        fingerprint=_FINGERPRINT,
        config=AssignClustersConfig(),
        previous_run=run_dir.uri,
    )
    output = edited_dir.stage("assign_clusters")
    edited.written(output, fingerprint=_FINGERPRINT).publish(
        output, fingerprint=_FINGERPRINT, inputs={}, started=started
    )
    seconds = time.perf_counter() - started
    states = edited.tables["edits"]["state"].to_pylist()
    result = {
        "num_images": options.num_images,
        "num_edits": options.num_edits,
        "file_bytes": len(data),
        "read_seconds": round(read, 2),
        "seconds": round(seconds, 2),
        "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "rss_before_gib": round(before / 2**20, 2),
        "states": {state: states.count(state) for state in sorted(set(states))},
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
