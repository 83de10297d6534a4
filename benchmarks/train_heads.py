"""How fast the heads train.

    python benchmarks/train_heads.py loop --data DIR          against a plain PyTorch loop, on ucf101's embeddings
    python benchmarks/train_heads.py stage --rows 1000000     the stage on planted embeddings: seconds, memory

`loop`: DIR holds ucf101.npz and nouns.npz (`embeddings`, float16). Both loops train DXMC with the same three losses on
batches of the same size; rounds alternate, and each loop's best round counts, since a machine may be busy with other
things; the plain one multiplies as PyTorch does by default. CPU seconds are those of all threads and loader workers.
`stage`: embeddings and neighbours of two modalities are written as the stages before would, and one process runs
`train_heads` on them; memory is that of this process.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import torch
from plain_training import PlainTraining

from dxmc_core.artifacts.matrices import embedding_column
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.tables import NEIGHBORS
from dxmc_core.method.hyperparameters import Hyperparameters, method_settings
from dxmc_core.method.preparation import CLIP_RETRIEVAL_TEMPERATURE, prepare
from dxmc_core.method.training import train
from dxmc_core.method.training_data import TrainingData
from dxmc_core.runtime.cpu_products import onednn_products, prefer_onednn
from dxmc_core.stages.settings.train_heads import MethodConfig
from dxmc_core.stages.train_heads import METRICS_NAME, TrainingJob, train_heads

NUM_CLASSES = 101
_FINGERPRINT = "c" * 32
_ROWS_PER_PART = 50_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    loop = commands.add_parser("loop")
    loop.add_argument("--data", type=Path, required=True, metavar="DIR")
    loop.add_argument("--batch-size", type=int, default=512)
    loop.add_argument("--rounds", type=int, default=4, help="epochs of each loop; the first one warms up")
    loop.add_argument(
        "--loader-workers", type=int, nargs="+", default=[0, 2], help="of the plain loop; the best counts"
    )
    stage = commands.add_parser("stage")
    stage.add_argument("--rows", type=int, default=1_000_000)
    stage.add_argument("--width", type=int, default=512)
    stage.add_argument("--clusters", type=int, default=1000)
    stage.add_argument("--neighbors", type=int, default=50)
    stage.add_argument("--method", default="dxmc")
    stage.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="needs 6 kB a row")
    one = commands.add_parser("one-stage")
    one.add_argument("run_dir")
    one.add_argument("--clusters", type=int, required=True)
    one.add_argument("--method", required=True)
    options = parser.parse_args()
    if options.command == "one-stage":
        run_stage(options.run_dir, options.clusters, options.method)
        return
    report = {"loop": race, "stage": measure_stage}[options.command](options)
    print(json.dumps({"threads": torch.get_num_threads(), **report}, indent=1))


def race(options: argparse.Namespace) -> dict[str, Any]:
    """Samples a second of both loops, and how many times the plain one's ours makes."""
    data = ucf101(options.data)
    loops: dict[str, Callable[[], object]] = {
        f"plain, {workers} loader workers": plain_epoch(data, options.batch_size, workers)
        for workers in options.loader_workers
    }
    loops["ours"] = own_epoch(data, options.batch_size, instance_weight=1.0)
    loops["ours, no instance level"] = own_epoch(data, options.batch_size, instance_weight=0.0)
    samples = data.num_images // options.batch_size * options.batch_size
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in loops}
    for _ in range(options.rounds):
        for name, epoch in loops.items():
            with nullcontext() if name.startswith("plain") else onednn_products():
                seconds[name].append(_timed(epoch)[1:])
            print(f"{name}: {seconds[name][-1][0]:.1f} s, {seconds[name][-1][1]:.1f} CPU s", file=sys.stderr)
    report: dict[str, Any] = {"rows": data.num_images, "batch_size": options.batch_size}
    for name, rounds in seconds.items():
        walls, cpus = zip(*rounds[1:], strict=True)
        report[name] = {
            "samples_per_s": round(samples / min(walls)),
            "samples_per_s_median": round(samples / statistics.median(walls)),
            "samples_per_cpu_s": round(samples / min(cpus)),
        }
    for measure in ("samples_per_s", "samples_per_s_median", "samples_per_cpu_s"):
        plain = max(report[name][measure] for name in report if name.startswith("plain"))
        report[f"times_plain_{measure}"] = {
            name: round(report[name][measure] / plain, 2) for name in loops if name.startswith("ours")
        }
    return report


def _timed(function: Callable[[], Any]) -> tuple[Any, float, float]:
    """What a function returns, its seconds and its CPU seconds."""
    started, cpu = time.perf_counter(), _cpu_seconds()
    result = function()
    return result, time.perf_counter() - started, _cpu_seconds() - cpu


def _cpu_seconds() -> float:
    """Of this process and its loader workers."""
    process = psutil.Process()
    times = [child.cpu_times() for child in process.children(recursive=True)]
    return time.process_time() + sum(used.user + used.system for used in times)


def ucf101(folder: Path) -> TrainingData:
    """Embeddings, counterparts and neighbours as the pipeline would make them."""
    with np.load(folder / "ucf101.npz") as images, np.load(folder / "nouns.npz") as nouns:
        prepared = prepare(
            images["embeddings"],
            reads=frozenset({"text_counterparts", "image_neighbors", "text_neighbors"}),
            num_clusters=NUM_CLASSES,
            noun_embeddings=nouns["embeddings"],
            noun_hypernyms=None,
            temperature=CLIP_RETRIEVAL_TEMPERATURE,
            num_neighbors=50,
            seed=0,
        )
    return prepared.data


def plain_epoch(data: TrainingData, batch_size: int, loader_workers: int) -> Callable[[], object]:
    assert data.text_counterparts is not None
    assert data.image_neighbors is not None
    assert data.text_neighbors is not None
    training = PlainTraining(
        data.image_embeddings,
        data.text_counterparts,
        data.image_neighbors,
        data.text_neighbors,
        num_clusters=NUM_CLASSES,
        batch_size=batch_size,
        cluster_temperature=5.0,
        instance_temperature=0.5,
        num_loader_workers=loader_workers,
    )
    return lambda: list(training.epoch())


def own_epoch(data: TrainingData, batch_size: int, *, instance_weight: float) -> Callable[[], object]:
    """One epoch of the loop that the pipeline trains with."""
    settings = method_settings(
        "dxmc", NUM_CLASSES, data.num_images, num_epochs=1, batch_size=batch_size, instance_weight=instance_weight
    )
    assert isinstance(settings, Hyperparameters)
    objective = settings.objective(data.embedding_width, NUM_CLASSES)
    return lambda: train(objective, data, settings)


def measure_stage(options: argparse.Namespace) -> dict[str, Any]:
    """The stage in a process of its own, watched; what it read is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-train-heads-", dir=options.scratch) as folder:
        started = time.perf_counter()
        size_bytes = plant_run(folder, options)
        report: dict[str, Any] = {
            "rows": options.rows,
            "clusters": options.clusters,
            "method": options.method,
            "artifact_bytes": size_bytes,
            "seconds_to_plant": round(time.perf_counter() - started, 1),
        }
        command = [sys.executable, __file__, "one-stage", folder, "--clusters", str(options.clusters)]
        started = time.perf_counter()
        process = subprocess.Popen([*command, "--method", options.method], stdout=subprocess.PIPE, text=True)
        peak = watch_memory(process)
        assert process.stdout is not None
        found = json.loads(process.stdout.read())
        return report | {"seconds": round(time.perf_counter() - started, 1), **peak, **found}


def watch_memory(process: subprocess.Popen) -> dict[str, float]:
    """Until the process ends: the most memory it had, in GiB. RSS counts mapped file pages, which can be dropped."""
    peaks = {"peak_rss_gib": 0.0, "peak_pss_gib": 0.0, "peak_anonymous_gib": 0.0}
    fields = {"Rss": "peak_rss_gib", "Pss": "peak_pss_gib", "Anonymous": "peak_anonymous_gib"}
    while process.poll() is None:
        try:
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            break
        for line in text.splitlines():
            name, _, value = line.partition(":")
            if name in fields:
                peaks[fields[name]] = max(peaks[fields[name]], int(value.split()[0]) / 2**20)
        time.sleep(0.25)
    if process.wait():
        raise RuntimeError(f"train_heads failed with exit code {process.returncode}")
    return {name: round(value, 2) for name, value in peaks.items()}


def plant_run(folder: str, options: argparse.Namespace) -> int:
    """Write embed_images, build_semantic_space and mine_neighbors of rows in planted clusters; their bytes.

    A row's neighbours are rows of its cluster.
    """
    generator = np.random.default_rng(0)
    centers = [generator.normal(size=(options.clusters, options.width)).astype(np.float32) for _ in range(2)]
    tables = {"embed_images": "images", "build_semantic_space": "text_counterparts", "mine_neighbors": "neighbors"}
    parts: dict[str, list] = {stage: [] for stage in tables}
    run_dir = RunDir.at(folder)
    for start in range(0, options.rows, _ROWS_PER_PART):
        rows = np.arange(start, min(start + _ROWS_PER_PART, options.rows))
        labels = rows % options.clusters
        row_ids = pa.array(rows)
        columns: dict[str, dict[str, pa.Array]] = {}
        for stage, modality in zip(("embed_images", "build_semantic_space"), centers, strict=True):
            noisy = modality[labels] + generator.standard_normal((len(rows), options.width), dtype=np.float32)
            noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
            columns[stage] = {"row_id": row_ids, "embedding": embedding_column(noisy.astype(np.float16))}
        per_cluster = options.rows // options.clusters
        columns["mine_neighbors"] = {"row_id": row_ids} | {
            name: embedding_column(
                generator.integers(per_cluster, size=(len(rows), options.neighbors)) * options.clusters
                + labels[:, None]
            )
            for name in ("image_neighbors", "text_neighbors")
        }
        for stage, table in tables.items():
            content = pa.table(columns[stage])
            if stage == "mine_neighbors":
                content = content.cast(NEIGHBORS.schema(options.neighbors, optional=("text_neighbors",)))
            parts[stage].append(run_dir.stage(stage).write_part(table, content, fingerprint=_FINGERPRINT))
    for stage, table in tables.items():
        run_dir.stage(stage).publish(fingerprint=_FINGERPRINT, inputs={}, tables={table: parts[stage]}, seconds=0)
    return sum(part.bytes for of_stage in parts.values() for part in of_stage)


def run_stage(folder: str, num_clusters: int, method: str) -> None:
    """Train one epoch as the stage does, in this process."""
    run_dir = RunDir.at(folder)
    job = TrainingJob(
        method=MethodConfig(name=method, num_epochs=1),
        num_clusters=num_clusters,
        seed=0,
        images=run_dir.stage("embed_images"),
        semantic_space=run_dir.stage("build_semantic_space"),
        neighbors=run_dir.stage("mine_neighbors"),
        output=run_dir.stage("train_heads"),
        fingerprint=_FINGERPRINT,
    )
    prefer_onednn()
    started = time.perf_counter()
    train_heads(job)
    seconds = time.perf_counter() - started
    epoch = json.loads(job.output.storage.read_bytes(METRICS_NAME))
    print(
        json.dumps(
            {
                "stage_seconds": round(seconds, 1),
                "epoch_seconds": round(epoch["seconds"], 1),
                "samples_per_s": round(epoch["samples_per_s"]),
            }
        )
    )


if __name__ == "__main__":
    main()
