"""From embeddings in float16 Parquet to text counterparts and neighbours, by the stages' own jobs: seconds and memory.

    python benchmarks/million.py --num-images 1000000 --folder DIR [--set mine_neighbors.min_recall=0.95 ...]

Writes a planted mixture (`planted.py`) as one Parquet file and its nouns as .npz, runs embed_images (which imports
them), build_semantic_space and mine_neighbors as a user would, and prints one JSON document: seconds of each stage by
its manifest, the recall that the stage measured, and the most memory that the processes of the job held together
(proportional set sizes, looked at every second; the file that neighbours are searched in counts while it is mapped).
`--stages` runs some of them, so that the whole can be measured in steps.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from planted import WIDTH, planted_nouns, planted_parts

from dxmc_core.artifacts.matrices import embedding_column
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.schemas import embedding_type

STAGES = ("embed_images", "build_semantic_space", "mine_neighbors")
_LOOK_EVERY_S = 1.0


def write_source(folder: Path, num_images: int) -> tuple[Path, Path]:
    """The Parquet file of embeddings and the .npz of nouns; written at the first call."""
    images, nouns = folder / f"images-{num_images}.parquet", folder / "nouns.npz"
    folder.mkdir(parents=True, exist_ok=True)
    if not nouns.exists():
        embeddings = planted_nouns().astype(np.float16)
        np.savez(nouns, nouns=np.array([f"noun {number}" for number in range(len(embeddings))]), embeddings=embeddings)
    if not images.exists():
        started = images.with_suffix(".started")
        with pq.ParquetWriter(started, pa.schema([("embedding", embedding_type(WIDTH))])) as writer:
            for rows in planted_parts(num_images):
                writer.write_table(pa.table({"embedding": embedding_column(rows)}))
        started.rename(images)
    return images, nouns


def write_config(folder: Path, images: Path, nouns: Path, *, run_dir: Path) -> Path:
    config = {
        "run_dir": str(run_dir),
        "source": {"kind": "embeddings", "uri": str(images)},
        "vocabulary": {"kind": "embeddings", "uri": str(nouns)},
        "num_clusters": 1000,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def run_watched(command: list[str], *, temporary: Path) -> float:
    """Run a job; the most bytes that it and its processes held at a time."""
    process = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(temporary)})
    most = 0.0
    while process.poll() is None:
        most = max(most, _held_bytes(process.pid))
        time.sleep(_LOOK_EVERY_S)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return most


def _held_bytes(pid: int) -> float:
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    held = 0.0
    for member in family:
        try:
            held += member.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return held


def measure(folder: Path, num_images: int, stages: Sequence[str], overrides: list[str]) -> dict[str, Any]:
    images, nouns = write_source(folder, num_images)
    run_dir = folder / f"run-{num_images}"
    config = write_config(folder, images, nouns, run_dir=run_dir)
    found: dict[str, Any] = {"num_images": num_images, "cores": os.cpu_count(), "stages": {}}
    for stage in stages:
        command = [sys.executable, "-m", f"ray_jobs.{stage}", "--config", str(config)]
        for override in overrides:
            command += ["--set", override]
        started = time.perf_counter()
        peak = run_watched(command, temporary=folder)
        manifest = RunDir.at(str(run_dir)).stage(stage).require_manifest()
        found["stages"][stage] = {
            "seconds": manifest.seconds,
            "seconds_with_start": round(time.perf_counter() - started, 1),
            "peak_gib": round(peak / 2**30, 2),
            "gib_written": round(sum(part.bytes for parts in manifest.tables.values() for part in parts) / 2**30, 2),
            "metrics": manifest.metrics,
        }
        print(json.dumps({stage: found["stages"][stage]}), file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-images", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.folder, arguments.num_images, arguments.stages, arguments.overrides), indent=1))


if __name__ == "__main__":
    main()
