"""How near embed_images comes to what the machine can do: images a second of the pipeline, the model and the decoder.

    python benchmarks/embed_throughput.py --images DIR --num-images 3000 --encoder offline --output result.json
    python benchmarks/embed_throughput.py --images DIR --without-ray --device cuda     # torch is enough
    python benchmarks/embed_throughput.py --images DIR --encoder offline open_clip-random   # what two together cost

One run measures, on the same files:
  model     the encoder alone on crops that are in memory
  decode    reading, decoding and resizing alone
  pipeline  the stage embed_images as `dxmc run` runs it; with --without-ray its loop in one process
  plain     the script that Ray's documentation shows: read_images, map, map_batches with a class, write_parquet
On the CPU model and decode share the cores, so the least time is (decode + model core-seconds) / cores, both measured
with all cores busy. On a GPU it is that of the slower of the two. Starting Ray, processes and models is a fixed cost;
so the Ray runs are made twice, with few images and with all, and what the further images took is what counts
(`further_images_per_second`). The whole time is in the result too.

Of several encoders each one's model and decoder, each one's pipeline and that of all together are measured. Together
they are to cost at most 1.1 times what the models do alone and decoding once does.
"""

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from dxmc_core import __version__
from dxmc_core.encoders import EncoderConfig, OfflineConfig, OpenClipConfig, load_encoder
from dxmc_core.errors import InputError
from dxmc_core.images.listing import list_images
from dxmc_core.runtime.allocator import reuse_freed_memory

FEW_IMAGES = 64
RANDOM_MODEL = "ViT-B-32"
_CPU_BATCH_SIZE = 32
_MODEL_IMAGES = 512
_DECODE_IMAGES = 2000
_TARGET_OF_BOUND = 1.15


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    try:
        result = measure(options)
    except InputError as error:
        sys.exit(f"error: {error}")
    text = json.dumps(result, indent=1)
    print(text)
    if options.output:
        Path(options.output).write_text(text + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, metavar="DIR", help="a folder of image files")
    parser.add_argument("--num-images", type=int, default=2000, help="files are copied under new names to make so many")
    parser.add_argument("--encoder", choices=["offline", "open_clip-random"], nargs="+", default=["offline"])
    parser.add_argument("--precision", default="auto", help="of open_clip-random")
    parser.add_argument("--batch-size", type=int, help="by default 32 on the CPU; on a GPU the best is found")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--without-ray", action="store_true", help="measure the loop of one process")
    parser.add_argument("--without-plain", action="store_true", help="leave out the comparison with the plain script")
    parser.add_argument("--output", metavar="FILE")
    return parser


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one run, JSON-able."""
    with tempfile.TemporaryDirectory(prefix="embed-throughput-") as name:
        work = Path(name)
        configs = [encoder_config(name, options, work) for name in options.encoder]
        all_images = copy_images(Path(options.images), work / "images", options.num_images)
        result: dict[str, Any] = {
            "what": vars(options) | {"images": Path(options.images).name, "output": None},
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {"dxmc": __version__, "python": platform.python_version()},
            "machine": _machine(options),
        }
        few_images = [] if options.without_ray else copy_images(Path(options.images), work / "few", FEW_IMAGES)
        if len(configs) > 1:
            return result | measure_together(configs, few_images, all_images, work, options)
        config = configs[0]
        alone = cpu_parts if options.device == "cpu" else gpu_parts
        before = alone(config, all_images, options)
        result["pipeline"] = pipeline(configs, few_images, all_images, work, options)
        result |= {name: _mean(before[name], part) for name, part in alone(config, all_images, options).items()}
        if not options.without_ray and not options.without_plain:
            result["plain"] = further_images(plain_seconds, config, few_images, all_images, work, options)
        return result | {"ratios": ratios(result, options)}


def pipeline(
    configs: list[EncoderConfig], few: list[Path], images: list[Path], work: Path, options: argparse.Namespace
) -> dict[str, float]:
    """The whole way with one encoder or several."""
    if options.without_ray:
        return loop_in_one_process(configs, images, work, options)
    return further_images(stage_seconds, configs, few, images, work, options)


def measure_together(
    configs: list[EncoderConfig], few: list[Path], images: list[Path], work: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """What encoders cost alone and together."""
    parts = cpu_parts if options.device == "cpu" else gpu_parts
    alone = []
    for number, (name, config) in enumerate(zip(options.encoder, configs, strict=True)):
        folder = work / f"alone-{number}"
        folder.mkdir()
        found = {"encoder": name, **parts(config, images, options)}
        alone.append({**found, "pipeline": pipeline([config], few, images, folder, options)})
    together = pipeline(configs, few, images, work, options)
    seconds = 1 / together["further_images_per_second"]
    models = sum(1 / one["model"]["images_per_second"] for one in alone)
    decode = max(1 / one["decode"]["images_per_second"] for one in alone)
    pipelines = sum(1 / one["pipeline"]["further_images_per_second"] for one in alone)
    found = {
        "over_models_and_decoding_once": round(seconds / (models + decode), 3),
        "over_models": round(seconds / models, 3),
        "over_pipelines_alone": round(seconds / pipelines, 3),
        "target": "at most 1.1",
    }
    if "core_milliseconds_per_image" in together:
        cores = [one["model"]["core_milliseconds_per_image"] for one in alone]
        decode = max(one["decode"]["core_milliseconds_per_image"] for one in alone)
        found["core_seconds_over_models_and_decoding_once"] = round(
            together["core_milliseconds_per_image"] / (sum(cores) + decode), 3
        )
    return {"alone": alone, "together": together, "ratios": found}


def ratios(result: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """The pipeline against the least time that is possible, and against the plain script."""
    rate = result["pipeline"]["further_images_per_second"]
    model, decode = (result[name]["images_per_second"] for name in ("model", "decode"))
    if options.device == "cpu":
        bound = 1 / (1 / model + 1 / decode)
        found = {"seconds_over_least_seconds": round(bound / rate, 3), "target": f"at most {_TARGET_OF_BOUND}"}
    else:
        bound = min(model, decode)
        found = {"rate_over_rate_of_the_slower": round(rate / bound, 3), "target": "at least 0.9"}
    found["most_images_per_second"] = round(bound, 1)
    found["pipeline_over_model"] = round(rate / model, 3)
    if "plain" in result:
        found["pipeline_over_plain"] = round(rate / result["plain"]["further_images_per_second"], 2)
    return found


def encoder_config(name: str, options: argparse.Namespace, work: Path) -> EncoderConfig:
    """The encoder asked for; random weights take as long as trained ones."""
    if name == "offline":
        return OfflineConfig(kind="offline")
    import open_clip
    import torch

    torch.manual_seed(0)
    path = work / "random.pt"
    torch.save(open_clip.create_model(RANDOM_MODEL).state_dict(), path)
    return OpenClipConfig(model=RANDOM_MODEL, pretrained=str(path), precision=options.precision)


def copy_images(source: Path, target: Path, count: int) -> list[Path]:
    """So many files in a folder: those of `source` by turns, under numbered names."""
    files = [Path(uri) for table in list_images(str(source)) for uri in table["uri"].to_pylist()]
    target.mkdir()
    copies = []
    for number, file in enumerate(islice(cycle(files), count)):
        copies.append(target / f"{number:07}{file.suffix}")
        shutil.copyfile(file, copies[-1])
    return copies


def _machine(options: argparse.Namespace) -> dict[str, Any]:
    gpu = None
    if options.device != "cpu":
        import torch

        gpu = torch.cuda.get_device_name()
    return {"cores": options.cores, "gpu": gpu, "load_average_before": round(os.getloadavg()[0], 2)}


# ---- the parts alone, before and after the whole, since a machine is not equally fast at all times


def cpu_parts(config: EncoderConfig, images: list[Path], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Model and decoder, each on all cores."""
    return {
        "model": on_all_cores(model_core_seconds, config, images, options),
        "decode": on_all_cores(decode_core_seconds, config, images, options),
    }


def gpu_parts(config: EncoderConfig, images: list[Path], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The model on the GPU, the decoder on all cores."""
    return {"model": gpu_model(config, options), "decode": threaded_decode(config, images, options)}


def _mean(first: dict[str, float], second: dict[str, float]) -> dict[str, Any]:
    mean: dict[str, Any] = {name: round((first[name] + second[name]) / 2, 3) for name in first}
    return mean | {"both_images_per_second": [first["images_per_second"], second["images_per_second"]]}


def on_all_cores(
    function: Callable[..., tuple[int, float]], config: EncoderConfig, images: list[Path], options: argparse.Namespace
) -> dict[str, float]:
    """Run a measurement in one process per core, all at once, so that they share caches and memory as they will.

    `function` returns a number of images and the CPU seconds they took in its process.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(options.cores)
    with context.Pool(options.cores, initializer=_remember, initargs=(barrier,)) as pool:
        shares = [(config, images[core :: options.cores]) for core in range(options.cores)]
        found = pool.starmap(function, shares, chunksize=1)
    core_seconds = sum(seconds for _, seconds in found) / sum(count for count, _ in found)
    return {
        "core_milliseconds_per_image": round(1000 * core_seconds, 3),
        "images_per_second": round(options.cores / core_seconds, 2),
    }


_start_line: Any = None


def _remember(barrier: Any) -> None:
    global _start_line
    _start_line = barrier


def model_core_seconds(config: EncoderConfig, images: list[Path]) -> tuple[int, float]:
    encoder = load_encoder(config, device="cpu", batch_size=_CPU_BATCH_SIZE, num_threads=1)
    ready = [_decoded(path, encoder.preprocess) for path in images[:_CPU_BATCH_SIZE]]
    crops = np.stack(list(islice(cycle(ready), min(max(len(images), _CPU_BATCH_SIZE), _MODEL_IMAGES))))
    encoder.encode_images(crops[:_CPU_BATCH_SIZE])
    _start_line.wait()
    started = time.process_time()
    encoder.encode_images(crops)
    return len(crops), time.process_time() - started


def decode_core_seconds(config: EncoderConfig, images: list[Path]) -> tuple[int, float]:
    reuse_freed_memory()  # as the pipeline does
    preprocess = config.load_preprocess()
    images = images[:_DECODE_IMAGES]
    _start_line.wait()
    started = time.process_time()
    for path in images:
        _decoded(path, preprocess)
    return len(images), time.process_time() - started


def _decoded(path: Path, preprocess: Callable) -> np.ndarray:
    from dxmc_core.images.decode import decode_image

    return preprocess(decode_image(path.read_bytes()))


def gpu_model(config: EncoderConfig, options: argparse.Namespace) -> dict[str, float]:
    """The encoder alone, with the batch size that the pipeline will choose."""
    from dxmc_core.encoders.batch_size import gpu_images_per_second, tune_batch_size

    encoder = load_encoder(config, device=options.device, batch_size=options.batch_size)
    if options.batch_size is None:
        tune_batch_size(encoder, largest=2048)
    batch_size = encoder.batch_size
    rate = gpu_images_per_second(encoder, batch_size)
    if rate is None:
        raise InputError(f"--batch-size {batch_size} does not fit the GPU")
    return {"batch_size": batch_size, "images_per_second": round(rate, 2)}


def threaded_decode(config: EncoderConfig, images: list[Path], options: argparse.Namespace) -> dict[str, float]:
    """The decoding half of the loop alone, with all threads."""
    import pyarrow as pa

    from dxmc_core.images.catalog import list_source
    from dxmc_core.images.fetch import FetchImages
    from dxmc_core.images.sources import ImagesSource
    from dxmc_core.stages.embedding_workers import DecodeImages

    preprocess = config.load_preprocess()
    source = ImagesSource(uri=str(images[0].parent))
    rows = pa.concat_tables(list_source(source).tables())
    decode = DecodeImages(
        {"images": preprocess},
        FetchImages(source),
        image_size=preprocess.image_size,
        batch_size=256,
        max_pixels=source.max_pixels,
        num_threads=options.cores,
    )
    started = time.perf_counter()
    for _ in decode(rows):
        pass
    return {"images_per_second": round(rows.num_rows / (time.perf_counter() - started), 2)}


# ---- the whole


def loop_in_one_process(
    configs: list[EncoderConfig], images: list[Path], work: Path, options: argparse.Namespace
) -> dict[str, float]:
    """`EmbedImages` as a Ray actor runs it, but in this process and with all cores; the model is loaded before."""
    from dxmc_core.artifacts.stage_dir import StageDir
    from dxmc_core.artifacts.storage import Storage
    from dxmc_core.images.catalog import list_source
    from dxmc_core.images.renewal import renew_catalog
    from dxmc_core.images.sources import ImagesSource
    from dxmc_core.stages.embedded_rows import EmbeddedRows
    from dxmc_core.stages.embedding_workers import EmbedImages

    source = ImagesSource(uri=str(images[0].parent))
    listing = list_source(source)
    fingerprint = listing.digest
    catalog = renew_catalog(StageDir(Storage(str(work / "loop")), "embed_images"), listing, fingerprint=fingerprint)
    encoders = {"images" if number == 0 else f"images-{number}": config for number, config in enumerate(configs)}
    embed = EmbedImages(
        encoders,
        source,
        catalog,
        fingerprint=fingerprint,
        device=options.device,
        batch_size=options.batch_size,
        num_threads=options.cores,
    )
    done = EmbeddedRows(catalog.num_rows, tuple(encoders))
    started, core_started = time.perf_counter(), time.process_time()
    for receipts in embed.stream(done.chunks(catalog.chunk_rows)):
        for receipt in receipts.to_pylist():
            done.add_receipt(receipt)
    seconds = time.perf_counter() - started
    core_seconds = time.process_time() - core_started
    return {
        "seconds": round(seconds, 2),
        "core_milliseconds_per_image": round(1000 * core_seconds / done.num_images, 3),
        "further_images_per_second": round(done.num_images / seconds, 2),
    }


def further_images(
    run: Callable[..., float],
    encoders: Any,
    few: list[Path],
    images: list[Path],
    work: Path,
    options: argparse.Namespace,
) -> dict[str, float]:
    """Seconds of a way to embed, with few images and with all of them."""
    few_seconds = run(encoders, few[0].parent, work, options)
    seconds = run(encoders, images[0].parent, work, options)
    return {
        "seconds_of_few": round(few_seconds, 2),
        "seconds": round(seconds, 2),
        "images_per_second": round(len(images) / seconds, 2),
        "further_images_per_second": round((len(images) - len(few)) / (seconds - few_seconds), 2),
    }


def stage_seconds(configs: list[EncoderConfig], folder: Path, work: Path, options: argparse.Namespace) -> float:
    """The stage embed_images as a job, with a Ray of its own; the seconds that its manifest says."""
    import yaml

    run_dir = work / f"run-{folder.name}"
    values = {
        "run_dir": str(run_dir),
        "source": {"kind": "images", "uri": str(folder)},
        "encoders": [config.model_dump(mode="json") for config in configs],
        "resources": {
            "num_cpus": options.cores,
            "use_gpu": options.device != "cpu",
            "embed_batch_size": options.batch_size,
        },
    }
    (work / "run.yaml").write_text(yaml.safe_dump(values))
    _run("ray_jobs.embed_images", "--config", str(work / "run.yaml"))
    return json.loads((run_dir / "embed_images" / "_manifest.json").read_text())["seconds"]


def plain_seconds(config: EncoderConfig, folder: Path, work: Path, options: argparse.Namespace) -> float:
    """The plain script in a process of its own; the seconds that it says it took once Ray was there."""
    request = {
        "folder": str(folder),
        "output": str(work / f"plain-{folder.name}"),
        "config": config.model_dump(mode="json"),
        "cores": options.cores,
        "device": options.device,
        "batch_size": options.batch_size or (_CPU_BATCH_SIZE if options.device == "cpu" else 256),
    }
    script = Path(__file__).with_name("plain_ray_data.py")
    return float(_run(str(script), json.dumps(request)).splitlines()[-1])


def _run(program: str, *arguments: str) -> str:
    """Run a module or a script with this Python, apart from any Ray that is running; what it printed."""
    command = [sys.executable, *(["-m", program] if not program.endswith(".py") else [program]), *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"{program} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
