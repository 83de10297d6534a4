"""`dxmc preflight`: what a run would read, need and cost, before it is started."""

import argparse
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_jobs.arguments import add_run_arguments, at_least_one, not_negative, positive, whole_number

if TYPE_CHECKING:
    from dxmc_core.config import PipelineConfig
    from dxmc_core.images.catalog import Listing
    from dxmc_core.workload import EncoderWork, Machine, Rates, Workload

NAME = "preflight"
SUMMARY = "Estimate time, memory, disk and cost of a run, and warn of what would run out."
EXAMPLES = """\
dxmc preflight --config configs/laptop.yaml --set source.uri=~/Pictures
dxmc preflight --config configs/s3.yaml --num-images 10000000 --nodes 4 --gpus 1 --cores 16 --memory-gib 64
dxmc preflight --config configs/s3.yaml --json"""
_GIB = 2**30
_USUAL_WIDTH = 512
_USUAL_NUM_CLUSTERS = 100
#: What each rate is called, and how it is said.
_RATES: dict[str, Callable[[float], str]] = {
    "core_flops": lambda value: f"a core does {value / 1e9:,.0f} GFLOP/s in float32",
    "int8_speedup": lambda value: f"{value:.1f} times as many in 8 bits",
    "core_bytes_per_s": lambda value: f"a core moves {value / 1e9:.1f} GB/s in memory",
    "decode_s": lambda value: f"decoding an image takes {1000 * value:.1f} ms of a core",
    "fetch_s": lambda value: f"a process gets {1 / max(value, 1e-6):,.0f} images/s",
    "listed_per_s": lambda value: f"{value:,.0f} images/s are listed",
    "disk_bytes_per_s": lambda value: f"{value / 1e6:,.0f} MB/s are written",
    "process_s": lambda value: f"a process takes {value:.1f} s to start",
}
_RATES_OF_IMAGES = ("decode_s", "fetch_s", "listed_per_s")

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument("--num-images", type=at_least_one, help="in place of counting what the source holds")
    parser.add_argument(
        "--measure",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure for some seconds how fast this machine is; otherwise rates are assumed",
    )
    parser.add_argument("--nodes", type=at_least_one, default=1, help="machines of the cluster (default: %(default)s)")
    parser.add_argument("--cores", type=at_least_one, help="of a machine (default: this one's)")
    parser.add_argument("--gpus", type=whole_number, help="of a machine (default: this one's)")
    parser.add_argument("--memory-gib", type=positive, help="of a machine (default: what is free on this one)")
    parser.add_argument("--disk-gib", type=positive, help="free for temporary files of a machine (default: this one's)")
    parser.add_argument("--gpu-tflops", type=positive, default=20.0, help="a GPU's real rate (assumed: %(default)s)")
    parser.add_argument("--gpu-dollars-per-hour", type=not_negative, default=1.0, help="(assumed: %(default)s)")


def execute(arguments: argparse.Namespace) -> None:
    from dxmc_core.config import load_config

    config = load_config(arguments.config, arguments.overrides, run_dir=arguments.run_dir)
    given = {
        "nodes": arguments.nodes,
        "gpu_flops": arguments.gpu_tflops * 1e12,
        "gpu_dollars_per_hour": arguments.gpu_dollars_per_hour,
    }
    for name, value, unit in (
        ("cores", arguments.cores, 1),
        ("gpus", arguments.gpus, 1),
        ("memory_bytes", arguments.memory_gib, _GIB),
        ("temporary_bytes", arguments.disk_gib, _GIB),
    ):
        if value is not None:
            given[name] = value * unit
    document = predict(config, num_images=arguments.num_images, measure=arguments.measure, **given)
    if arguments.json:
        print(json.dumps(document, indent=1))
    else:
        _print(document)


def predict(
    config: "PipelineConfig", *, num_images: int | None = None, measure: bool = True, **given: Any
) -> dict[str, Any]:
    """The estimate of a run as JSON types.

    Args:
        num_images: in place of looking at the source, where it is one of images.
        measure: rates of this machine, in a few seconds; otherwise all are assumed but those of the listing.
        given: fields of `Machine` that are not this machine's.
    """
    from dxmc_core.images.catalog import list_source
    from dxmc_core.images.sources import EmbeddingsSource
    from dxmc_core.preflight.cost import as_document
    from dxmc_core.workload import Rates
    from ray_jobs.context import RunContext

    rates, listing = Rates(), None
    if not isinstance(config.source, EmbeddingsSource) and num_images is None:
        started = time.perf_counter()
        listing = list_source(config.source, own=RunContext.of(config).own_places)
        listed_per_s = listing.num_rows / (time.perf_counter() - started)
        rates = replace(rates, listed_per_s=listed_per_s, measured=("listed_per_s",))
        num_images = listing.num_rows
    load = workload_of(config, num_images)
    machine = machine_of(config, **given)
    if measure:
        logger.info("measuring this machine for some seconds; --no-measure assumes its rates")
        rates = _measured(rates, config, listing)
    document = as_document(load, replace(machine, rates=rates))
    return {**document, "assumptions": _assumptions(load, machine)}


def _measured(rates: "Rates", config: "PipelineConfig", listing: "Listing | None") -> "Rates":
    """The rates of this machine, and of its way to the source where that was listed."""
    from dxmc_core.images.sources import EmbeddingsSource
    from dxmc_core.preflight.machine_rates import measure_images, measure_rates, measure_typical_decoding

    rates = measure_rates(rates, num_cores=_num_cores(config))
    if isinstance(config.source, EmbeddingsSource):
        return rates
    if listing is not None:
        rates = measure_images(rates, next(listing.tables()), config.source)
    if "decode_s" not in rates.measured:
        rates = measure_typical_decoding(rates, fast_jpeg=config.source.fast_jpeg)
    return rates


def workload_of(config: "PipelineConfig", num_images: int | None = None) -> "Workload":
    """The sizes of a run; those of images are to be given, those of a file of embeddings are read from it."""
    from dxmc_core.config import AUTO
    from dxmc_core.images.sources import EmbeddingsSource
    from dxmc_core.method.hyperparameters import method_settings
    from dxmc_core.stages.embedding_files import embedding_file_shape, embedding_width_of
    from dxmc_core.vocabulary import load_vocabulary
    from dxmc_core.workload import Workload

    source, method, assign = config.source, config.method, config.assign_clusters
    if isinstance(source, EmbeddingsSource):
        found, width = embedding_file_shape(source.uri)
        num_images = num_images or found
    else:
        width = config.encoder.width() or _USUAL_WIDTH
    assert num_images is not None
    num_clusters = _USUAL_NUM_CLUSTERS if config.num_clusters == AUTO else int(config.num_clusters)
    settings = method_settings(method.name, num_clusters=num_clusters, num_images=num_images, **method.settings)
    num_nouns = 0 if config.vocabulary is None else len(load_vocabulary(config.vocabulary).nouns)
    return Workload(
        num_images=num_images,
        width=width,
        num_clusters=num_clusters,
        num_nouns=num_nouns,
        encoder=None if isinstance(source, EmbeddingsSource) else _encoder_names(config),
        encoder_work=_encoder_work(config),
        further_widths=tuple(
            embedding_width_of(encoder) or _USUAL_WIDTH for encoder in config.further_encoders.values()
        ),
        nouns_to_encode=num_nouns if config.vocabulary_needs_encoder and not _nouns_are_cached(config) else 0,
        chooses_k=config.num_clusters == AUTO,
        k_max_images=config.suggest_k.max_images,
        k_max_clusters=config.suggest_k.max_clusters,
        num_neighbors=config.mine_neighbors.num_neighbors,
        max_centers=config.build_semantic_space.max_centers,
        nouns_per_center=config.build_semantic_space.nouns_per_center,
        top_nouns=config.build_semantic_space.top_nouns,
        method=method.name,
        settings=settings,
        index=config.mine_neighbors.index,
        search_index=config.mine_neighbors.search_index,
        max_described_images=assign.max_described_images,
        images_per_cluster=assign.num_exemplars + assign.num_border,
        max_map_points=config.write_report.max_map_points,
        max_member_images=config.write_report.max_member_images,
        report_bytes=config.write_report.max_bytes,
    )


def _encoder_names(config: "PipelineConfig") -> str:
    encoders = config.encoder_of_table.values()
    return " and ".join(getattr(encoder, "model", encoder.kind) for encoder in encoders)


def _encoder_work(config: "PipelineConfig") -> "EncoderWork":
    from dxmc_core.workload import EncoderWork

    if not config.needs_encoder:
        return EncoderWork()
    return EncoderWork.of_all(encoder.work() for encoder in config.encoder_of_table.values())


def _nouns_are_cached(config: "PipelineConfig") -> bool:
    from dxmc_core.stages.build_semantic_space import NounCache

    assert config.vocabulary is not None
    cache = NounCache.of(config.build_semantic_space, config.vocabulary, config.encoder, config.run_dir)
    return cache.holds_nouns()


def machine_of(config: "PipelineConfig", **given: Any) -> "Machine":
    """This machine as the run would use it, with what is given of `Machine` in its place."""
    import psutil
    import torch

    from dxmc_core.artifacts.storage import is_local
    from dxmc_core.workload import Machine

    this = {
        "cores": _num_cores(config),
        "memory_bytes": psutil.virtual_memory().available,
        "disk_bytes": _free_bytes(config.run_dir) if is_local(config.run_dir) else None,
        "temporary_bytes": _free_bytes(tempfile.gettempdir()),
        "gpus": 0 if config.resources.use_gpu is False else torch.cuda.device_count(),
    }
    return Machine(**{**this, **given})


def _num_cores(config: "PipelineConfig") -> int:
    import psutil

    return config.resources.num_cpus or psutil.cpu_count() or 1


def _free_bytes(place: str) -> int:
    """Of the disk on which a folder lies or would lie."""
    path = Path(place).expanduser().absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _assumptions(load: "Workload", machine: "Machine") -> list[str]:
    """What the estimate rests on beside rates, one sentence each."""
    found = []
    if load.chooses_k:
        found.append(f"num_clusters is auto: {load.num_clusters} are counted with, suggest_k will choose")
    if machine.gpus:
        found.append(
            f"a GPU does {machine.gpu_flops / 1e12:.0f} TFLOP/s at ${machine.gpu_dollars_per_hour:.2f} an hour"
        )
    if machine.nodes > 1:
        found.append("the other nodes are like this one, and the network is no bound")
    return found


def _print(document: dict[str, Any]) -> None:
    load, machine = document["workload"], document["machine"]
    nodes = f"{machine['nodes']} x " if machine["nodes"] > 1 else ""
    gpus = f", {machine['gpus']} GPUs" if machine["gpus"] else ""
    print(
        f"{load['num_images']:,} images of width {load['width']}, {load['num_nouns']:,} nouns, "
        f"{load['num_clusters']:,} clusters by {load['method']}"
    )
    print(f"on {nodes}({machine['cores']} cores{gpus}), {machine['memory_bytes'] / _GIB:.0f} GiB of memory\n")
    print(f"{'stage':<21} {'time':>9} {'memory':>9} {'disk':>9}  mostly")
    for stage in document["stages"]:
        sizes = " ".join(f"{stage[key] / _GIB:>5.1f} GiB" for key in ("memory_bytes", "disk_bytes"))
        print(f"{stage['stage']:<21} {_time(stage['seconds']):>9} {sizes}  {stage['mostly']}; {stage['note']}")
    total = f"{_time(document['seconds']):>9} {document['memory_bytes'] / _GIB:>5.1f} GiB"
    print(f"{'in all':<21} {total} {document['disk_bytes'] / _GIB:>5.1f} GiB")
    if machine["gpus"]:
        print(f"\nabout {document['gpu_hours']:,.1f} GPU-hours, ${document['dollars']:,.2f}")
    rates, measured = machine["rates"], machine["rates"]["measured"]
    used = [name for name in _RATES if load["encoder"] or name not in _RATES_OF_IMAGES]
    for said, sentences in (
        ("measured here", [_RATES[name](rates[name]) for name in used if name in measured]),
        ("assumed", [_RATES[name](rates[name]) for name in used if name not in measured] + document["assumptions"]),
    ):
        if sentences:
            print(f"\n{said}: {'; '.join(sentences)}")
    for warning in document["warnings"]:
        print(f"\nwarning: {warning}")


def _time(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.0f} s"
