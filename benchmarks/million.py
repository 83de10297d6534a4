"""From embeddings in float16 Parquet to the report, by the stages' own jobs: seconds, memory, and agreement.

    python benchmarks/million.py --num-images 1000000 --folder DIR [--set mine_neighbors.min_recall=0.95 ...]
    python benchmarks/million.py --num-images 200000 --folder DIR --peers faiss superkmeans evoc

Writes a planted mixture (`planted.py`) as one Parquet file and its nouns as .npz, runs the stages from embed_images
(which imports them) to write_report as a user would, and prints one JSON document: seconds of each stage by its
manifest, what it measured itself, and the most memory that the processes of the job held together (proportional set
sizes, looked at every second), once with the files that were mapped and once without, beside what `dxmc preflight`
predicts of the latter. After assign_clusters, the agreement with the planted components (ARI and NMI). `--stages` runs
some of the stages, so that the whole can be measured in steps.

`--peers` clusters the same rows by others, each in a process of its own: `faiss` is spherical k-means on a sample of
256 rows per cluster in 25 iterations; `superkmeans` and `evoc` are the packages of that name (the extra `benchmarks`)
at their own defaults, evoc after a small call in which numba compiles it. evoc takes the number of clusters as a hint,
and images that it leaves out count as one cluster more.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from measured import measured
from planted import WIDTH, planted_nouns, planted_parts_with_components

from dxmc_core.artifacts.matrices import embedding_column, matrix_of
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.tables import ASSIGNMENTS, embedding_type
from dxmc_core.config import load_config
from dxmc_core.method.clusters.metrics import external_scores
from dxmc_core.method.unit_rows import unit_rows
from ray_jobs.commands.preflight import predict

STAGES = (
    "embed_images",
    "build_semantic_space",
    "mine_neighbors",
    "train_heads",
    "assign_clusters",
    "write_report",
)
_LOOK_EVERY_S = 1.0
_PEER_ITERATIONS = 25
_COMPILING_ROWS = 2000


def write_source(folder: Path, num_images: int) -> tuple[Path, Path, Path]:
    """The Parquet file of embeddings, the .npz of nouns and the .npy of components; written at the first call."""
    images, nouns = folder / f"images-{num_images}.parquet", folder / "nouns.npz"
    components = folder / f"components-{num_images}.npy"
    folder.mkdir(parents=True, exist_ok=True)
    if not nouns.exists():
        embeddings = planted_nouns().astype(np.float16)
        np.savez(nouns, nouns=np.array([f"noun {number}" for number in range(len(embeddings))]), embeddings=embeddings)
    if not images.exists() or not components.exists():
        started, drawn = images.with_suffix(".started"), []
        with pq.ParquetWriter(started, pa.schema([("embedding", embedding_type(WIDTH))])) as writer:
            for rows, of_rows in planted_parts_with_components(num_images):
                writer.write_table(pa.table({"embedding": embedding_column(rows)}))
                drawn.append(of_rows)
        np.save(components, np.concatenate(drawn))
        started.rename(images)
    return images, nouns, components


def write_config(folder: Path, images: Path, nouns: Path, *, run_dir: Path, num_clusters: int) -> Path:
    config = {
        "run_dir": str(run_dir),
        "source": {"kind": "embeddings", "uri": str(images)},
        "vocabulary": {"kind": "embeddings", "uri": str(nouns)},
        "num_clusters": num_clusters,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def run_watched(command: list[str], *, temporary: Path) -> tuple[float, float]:
    """Run a job; the most bytes that it and its processes held at a time, and the most without mapped files."""
    process = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(temporary)})
    most = most_without_files = 0.0
    while process.poll() is None:
        held, of_files = _held_bytes(process.pid)
        most, most_without_files = max(most, held), max(most_without_files, held - of_files)
        time.sleep(_LOOK_EVERY_S)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return most, most_without_files


def _held_bytes(pid: int) -> tuple[float, float]:
    """Bytes that a process and those it started hold, and those of them that are pages of files."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0, 0.0
    held = of_files = 0.0
    for member in family:
        try:
            lines = Path(f"/proc/{member.pid}/smaps_rollup").read_text().splitlines()[1:]
        except OSError:  # it has just ended
            continue
        kib = {name: float(value.split()[0]) for name, value in (line.split(":") for line in lines)}
        held += 1024 * kib["Pss"]
        of_files += 1024 * kib["Pss_File"]
    return held, of_files


def measure(
    folder: Path, num_images: int, num_clusters: int, stages: Sequence[str], overrides: list[str], peers: Sequence[str]
) -> dict[str, Any]:
    images, nouns, components = write_source(folder, num_images)
    run_dir = folder / f"run-{num_images}-{num_clusters}"
    config = write_config(folder, images, nouns, run_dir=run_dir, num_clusters=num_clusters)
    predicted = _predicted(config, overrides)
    found: dict[str, Any] = {
        "num_images": num_images,
        "num_clusters": num_clusters,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "stages": {},
    }
    for stage in stages:
        command = [sys.executable, "-m", f"ray_jobs.{stage}", "--config", str(config)]
        for override in overrides:
            command += ["--set", override]
        started = time.perf_counter()
        peak, peak_without_files = run_watched(command, temporary=folder)
        manifest = RunDir.at(str(run_dir)).stage(stage).require_manifest()
        found["stages"][stage] = {
            "seconds": manifest.seconds,
            "seconds_with_start": round(time.perf_counter() - started, 1),
            "peak_gib": round(peak / 2**30, 2),
            "peak_gib_without_files": round(peak_without_files / 2**30, 2),
            **predicted.get(stage, {}),
            "gib_written": round(sum(part.bytes for parts in manifest.tables.values() for part in parts) / 2**30, 2),
            "metrics": manifest.metrics,
        }
        print(json.dumps({stage: found["stages"][stage]}), file=sys.stderr, flush=True)
    truth = np.load(components)
    if RunDir.at(str(run_dir)).stage("assign_clusters").manifest() is not None:
        found["agreement"] = _agreement(truth, _assigned(run_dir))
    found["peers"] = {peer: _measured_peer(peer, images, truth, num_clusters) for peer in peers}
    return found


def _predicted(config_path: Path, overrides: list[str]) -> dict[str, dict[str, float]]:
    """What `dxmc preflight` says of each stage on this machine."""
    return {
        cost["stage"]: {
            "predicted_seconds": round(cost["seconds"], 1),
            "predicted_gib": round(cost["memory_bytes"] / 2**30, 2),
        }
        for cost in predict(load_config(str(config_path), overrides))["stages"]
    }


def _assigned(run_dir: Path) -> np.ndarray:
    """Clusters (N,) by the rows' positions in the file of embeddings, which are their ids."""
    table = RunDir.at(str(run_dir)).read_table(ASSIGNMENTS, ["row_id", "cluster_id"])
    return table["cluster_id"].to_numpy()[np.argsort(table["row_id"].to_numpy())]


def _agreement(truth: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    scores = external_scores(truth, labels)
    return {
        "ari": round(scores["ari"], 4),
        "nmi": round(scores["nmi"], 4),
        "clusters": len(np.unique(labels[labels >= 0])),
        "unassigned": round(float((labels < 0).mean()), 4),
    }


def _measured_peer(peer: str, images: Path, truth: np.ndarray, num_clusters: int) -> dict[str, Any]:
    """Seconds of the clustering alone, the peak of the process with its rows, and agreement; or why there is none."""
    if importlib.util.find_spec(peer) is None:
        found = {"missing": f"{peer} is not installed; it is in the extra benchmarks: pip install {peer}"}
    else:
        found = measured(_run_peer, peer, str(images), truth, num_clusters)
    print(json.dumps({peer: found}), file=sys.stderr, flush=True)
    return found


def _run_peer(peer: str, images: str, truth: np.ndarray, num_clusters: int) -> dict[str, Any]:
    file = pq.ParquetFile(images)
    rows, start = np.empty((file.metadata.num_rows, WIDTH), dtype=np.float32), 0
    for batch in file.iter_batches(columns=["embedding"]):
        rows[start : start + len(batch)] = unit_rows(matrix_of(batch["embedding"]), name="embedding")
        start += len(batch)
    if peer == "evoc":  # numba compiles at the first call
        PEERS[peer](rows[:_COMPILING_ROWS], 10)
    started = time.perf_counter()
    labels = PEERS[peer](rows, num_clusters)
    return {"seconds": round(time.perf_counter() - started, 1), **_agreement(truth, labels)}


def _faiss_labels(rows: np.ndarray, num_clusters: int) -> np.ndarray:
    import faiss

    kmeans = faiss.Kmeans(rows.shape[1], num_clusters, niter=_PEER_ITERATIONS, spherical=True, seed=0)
    kmeans.train(rows)
    return kmeans.index.search(rows, 1)[1][:, 0]


def _superkmeans_labels(rows: np.ndarray, num_clusters: int) -> np.ndarray:
    from superkmeans import SuperKMeans

    kmeans = SuperKMeans(num_clusters, rows.shape[1], angular=True, n_threads=int(os.environ.get("OMP_NUM_THREADS", 0)))
    return kmeans.assign(rows, kmeans.train(rows)).astype(np.int64)


def _evoc_labels(rows: np.ndarray, num_clusters: int) -> np.ndarray:
    from evoc import EVoC

    return EVoC(approx_n_clusters=num_clusters, random_state=0).fit_predict(rows)


PEERS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "faiss": _faiss_labels,
    "superkmeans": _superkmeans_labels,
    "evoc": _evoc_labels,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-images", type=int, default=1_000_000)
    parser.add_argument("--num-clusters", type=int, default=1000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--stages", nargs="*", choices=STAGES, default=STAGES)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=[])
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    found = measure(
        arguments.folder,
        arguments.num_images,
        arguments.num_clusters,
        arguments.stages,
        arguments.overrides,
        arguments.peers,
    )
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
