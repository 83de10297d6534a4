"""`dxmc preflight`: what a run would read, need and cost, before it is started."""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_jobs.arguments import add_run_arguments, at_least_one, not_negative, positive, whole_number

if TYPE_CHECKING:
    from dxmc_core.config import PipelineConfig
    from dxmc_core.cost import Machine, Workload

NAME = "preflight"
SUMMARY = "Estimate time, memory, disk and cost of a run, and warn of what would run out."
EXAMPLES = """\
dxmc preflight --config configs/laptop.yaml --set source.uri=~/Pictures
dxmc preflight --config configs/s3.yaml --num-images 10000000 --nodes 4 --gpus 1 --cores 16 --memory-gib 64
dxmc preflight --config configs/s3.yaml --json"""
_USUAL_WIDTH = 512
_USUAL_NUM_CLUSTERS = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument("--num-images", type=at_least_one, help="in place of counting what the source holds")
    parser.add_argument("--nodes", type=at_least_one, default=1, help="machines of the cluster (default: %(default)s)")
    parser.add_argument("--cores", type=at_least_one, help="of a machine (default: this one's)")
    parser.add_argument("--gpus", type=whole_number, help="of a machine (default: this one's)")
    parser.add_argument("--memory-gib", type=positive, help="of a machine (default: what is free on this one)")
    parser.add_argument("--disk-gib", type=positive, help="free for temporary files of a machine (default: this one's)")
    parser.add_argument("--gpu-tflops", type=positive, default=20.0, help="a GPU's real rate (assumed: %(default)s)")
    parser.add_argument("--gpu-dollars-per-hour", type=not_negative, default=1.0, help="(assumed: %(default)s)")


def execute(arguments: argparse.Namespace) -> None:
    from dxmc_core.config import load_config
    from dxmc_core.cost import GIB, as_document

    config = load_config(arguments.config, arguments.overrides, run_dir=arguments.run_dir)
    given = {
        "nodes": arguments.nodes,
        "gpu_flops": arguments.gpu_tflops * 1e12,
        "gpu_dollars_per_hour": arguments.gpu_dollars_per_hour,
    }
    for name, value, unit in (
        ("cores", arguments.cores, 1),
        ("gpus", arguments.gpus, 1),
        ("memory_bytes", arguments.memory_gib, GIB),
        ("temporary_bytes", arguments.disk_gib, GIB),
    ):
        if value is not None:
            given[name] = value * unit
    document = as_document(workload_of(config, arguments.num_images), machine_of(config, **given))
    if arguments.json:
        print(json.dumps(document, indent=1))
    else:
        _print(document)


def workload_of(config: "PipelineConfig", num_images: int | None = None) -> "Workload":
    """The sizes of a run; the source is looked at unless its number of images is given."""
    from dxmc_core.config import AUTO
    from dxmc_core.cost import Workload
    from dxmc_core.encoders import embedding_width
    from dxmc_core.images.catalog import list_source
    from dxmc_core.images.sources import EmbeddingsSource
    from dxmc_core.method.hyperparameters import method_reads, method_settings
    from dxmc_core.stages.embedding_files import embedding_file_shape
    from dxmc_core.vocabulary import load_vocabulary
    from ray_jobs.context import RunContext

    width = None if config.source.kind == "embeddings" else embedding_width(config.encoder)
    if isinstance(config.source, EmbeddingsSource):
        found, width = embedding_file_shape(config.source.uri)
        num_images = num_images or found
    elif num_images is None:
        num_images = list_source(config.source, own=RunContext.of(config).own_places).num_rows
    num_clusters = _USUAL_NUM_CLUSTERS if config.num_clusters == AUTO else int(config.num_clusters)
    method = config.method
    settings = method_settings(method.name, num_clusters=num_clusters, num_images=num_images, **method.settings)
    return Workload(
        num_images=num_images,
        width=width or _USUAL_WIDTH,
        num_clusters=num_clusters,
        num_nouns=len(load_vocabulary(config.vocabulary).nouns),
        encoder=None if config.source.kind == "embeddings" else config.encoder.kind,
        num_neighbors=config.mine_neighbors.num_neighbors,
        max_centers=config.build_semantic_space.max_centers,
        top_nouns=config.build_semantic_space.top_nouns,
        method=method.name,
        reads=method_reads(method.name, **method.settings),
        num_epochs=getattr(settings, "num_epochs", 0),
        num_restarts=getattr(settings, "num_restarts", 1),
        num_iterations=getattr(settings, "num_iterations", 0),
        index=config.mine_neighbors.index,
    )


def machine_of(config: "PipelineConfig", **given: Any) -> "Machine":
    """This machine as the run would use it, with what is given of `Machine` in its place."""
    import psutil
    import torch

    from dxmc_core.artifacts.storage import is_local
    from dxmc_core.cost import Machine

    this = {
        "cores": config.resources.num_cpus or psutil.cpu_count() or 1,
        "memory_bytes": psutil.virtual_memory().available,
        "disk_bytes": _free_bytes(config.run_dir) if is_local(config.run_dir) else None,
        "temporary_bytes": _free_bytes(tempfile.gettempdir()),
        "gpus": 0 if config.resources.use_gpu is False else torch.cuda.device_count(),
    }
    return Machine(**{**this, **given})


def _free_bytes(place: str) -> int:
    """Of the disk on which a folder lies or would lie."""
    path = Path(place).expanduser().absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _print(document: dict[str, Any]) -> None:
    from dxmc_core.cost import GIB

    load, machine = document["workload"], document["machine"]
    nodes = f"{machine['nodes']} x " if machine["nodes"] > 1 else ""
    gpus = f", {machine['gpus']} GPUs" if machine["gpus"] else ""
    print(f"{load['num_images']:,} images of width {load['width']}, {load['num_nouns']:,} nouns")
    print(f"on {nodes}({machine['cores']} cores{gpus}), {machine['memory_bytes'] / GIB:.0f} GiB of memory\n")
    print(f"{'stage':<21} {'TFLOP':>10} {'time':>9} {'memory':>9} {'disk':>9}")
    for stage in document["stages"]:
        sizes = " ".join(f"{stage[key] / GIB:>5.1f} GiB" for key in ("memory_bytes", "disk_bytes"))
        work = f"{stage['flops'] / 1e12:>10,.1f} {_time(stage['seconds']):>9}"
        print(f"{stage['stage']:<21} {work} {sizes}  {stage['note']}")
    print(f"{'':<21} {'':>10} {_time(document['seconds']):>9} {'':>9} {document['disk_bytes'] / GIB:>5.1f} GiB")
    if machine["gpus"]:
        cost = f"{document['gpu_hours']:,.1f} GPU-hours, ${document['dollars']:,.2f}"
        print(f"\nabout {cost} (by assumed rates, see --help)")
    for warning in document["warnings"]:
        print(f"\nwarning: {warning}")


def _time(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.0f} s"
