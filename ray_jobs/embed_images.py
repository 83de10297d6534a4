"""Stage 1 as a Ray job: catalog first, then chunks of it through pools of workers; `Layout` says which."""

import logging
import time
from dataclasses import dataclass

from dxmc_core import allocator
from dxmc_core.artifacts.manifest import Manifest
from dxmc_core.config import ResourcesConfig
from dxmc_core.encoders import embedding_width, load_preprocess
from dxmc_core.images.catalog import Catalog, read_catalog
from dxmc_core.images.quarantine import OUT_OF_REACH, Quarantine, forget_transient_rejects, scouts_first
from dxmc_core.images.renewal import renew_catalog
from dxmc_core.images.sources import EmbeddingsSource
from dxmc_core.stages.embed_images import (
    check_disk,
    import_embeddings,
    publish_embeddings,
    require_few_rejects,
    too_many_rejects,
)
from dxmc_core.stages.embedded_rows import EmbeddedRows
from dxmc_core.stages.embedding_workers import DecodeChunks, EmbedDecoded, EmbedImages, decoded_chunk_rows
from ray_jobs.cluster import Step, map_rows, num_gpus
from ray_jobs.context import RunContext
from ray_jobs.hosts import num_cores
from ray_jobs.main import main_of
from ray_jobs.plans.embed_images import NAME, list_once
from ray_jobs.progress import Progress

_CHUNKS_AHEAD = 2  # one is written, or begun, while one is in the model, or decoded
_CHUNKS_PER_GPU = 6  # two are in the GPU, the others are on their way from or to storage
_USUAL_WIDTH = 1024  # for the estimate of disk space, where only loading the model would tell

logger = logging.getLogger(__name__)


def run(context: RunContext, fingerprint: str) -> Manifest:
    started = time.perf_counter()
    stage_dir = context.stage(NAME)
    source = context.config.source
    if isinstance(source, EmbeddingsSource):
        catalog, done = import_embeddings(source, stage_dir, fingerprint=fingerprint)
        return publish_embeddings(catalog, done, fingerprint=fingerprint, seconds=time.perf_counter() - started)
    catalog_found = read_catalog(stage_dir)
    if catalog_found is None or catalog_found.manifest.fingerprint != fingerprint:
        base = context.base.stage(NAME) if context.base is not None else None
        catalog_found = renew_catalog(stage_dir, list_once(context, source), fingerprint=fingerprint, base=base)
    num_forgotten = forget_transient_rejects(stage_dir, fingerprint=fingerprint)
    if num_forgotten:
        logger.info("%s: %d rejects are tried again with what is left", NAME, num_forgotten)
    done = EmbeddedRows.of(catalog_found, fingerprint=fingerprint)
    num_resumed = done.num_done
    check_disk(
        context.run_dir.uri,
        num_rows=done.num_left,
        embedding_width=embedding_width(context.config.encoder) or _USUAL_WIDTH,
    )
    if num_resumed:
        logger.info("%s: %d of %d images were done before", NAME, num_resumed, catalog_found.num_rows)
    require_few_rejects(source, stage_dir, done.num_rows_of("images"), done.parts("rejects"), catalog_found.num_rows)
    _embed(context, catalog_found, done, fingerprint=fingerprint)
    num_out_of_reach = forget_transient_rejects(stage_dir, fingerprint=fingerprint, reasons=OUT_OF_REACH)
    if num_out_of_reach:
        logger.info("%s: %d rejects, among them what was out of reach, are tried once more", NAME, num_out_of_reach)
        done = EmbeddedRows.of(catalog_found, fingerprint=fingerprint)
        _embed(context, catalog_found, done, fingerprint=fingerprint)
    # What earlier attempts have rejected counts too: this one may have had little left to try.
    require_few_rejects(source, stage_dir, done.num_rows_of("images"), done.parts("rejects"), catalog_found.num_rows)
    return publish_embeddings(
        catalog_found,
        done,
        fingerprint=fingerprint,
        seconds=time.perf_counter() - started,
        num_resumed=num_resumed,
    )


@dataclass(frozen=True)
class Layout:
    """How processes share the cores and GPUs while images are embedded.

    Without `decode_workers` every embed worker does all of its images itself, reading ahead of its model. With them,
    they fetch, decode and resize, and the embed workers encode and write. A GPU takes the crops of many cores, more
    than the threads of one process decode. Between the two kinds uint8 crops travel through the object store, 150 KB an
    image: as files they would have to be decoded next to the GPU, as floats they would be four times as large.
    """

    embed_workers: int
    decode_workers: int
    num_cpus: float
    gpus_per_worker: float
    threads_per_worker: int


def choose_layout(resources: ResourcesConfig, *, cores: int, gpus: int) -> Layout:
    """The processes for so many cores and GPUs in all; the configuration has the last word."""
    embed_workers = resources.embed_workers or gpus or cores
    decode_workers = resources.decode_workers
    if decode_workers is None:
        decode_workers = max(cores - embed_workers, 0) if gpus else 0
    num_workers = embed_workers + decode_workers
    return Layout(
        embed_workers=embed_workers,
        decode_workers=decode_workers,
        num_cpus=min(1.0, cores / num_workers),
        gpus_per_worker=gpus / embed_workers,
        threads_per_worker=max(cores // num_workers, 1),
    )


def _embed(context: RunContext, catalog: Catalog, done: EmbeddedRows, *, fingerprint: str) -> None:
    """Embed what is left, and count it as done."""
    source = context.config.source
    assert not isinstance(source, EmbeddingsSource)
    layout = choose_layout(context.config.resources, cores=num_cores(), gpus=num_gpus(context.config.resources))
    if layout.decode_workers:
        chunk_rows = min(catalog.chunk_rows, decoded_chunk_rows(load_preprocess(context.config.encoder).image_size))
        steps = _decode_then_embed(context, catalog, layout, chunk_rows, fingerprint=fingerprint)
    else:
        chunk_rows = catalog.chunk_rows
        steps = _all_in_one(context, catalog, layout, fingerprint=fingerprint)
    quarantine = Quarantine(catalog.num_rows, max_fraction=source.max_reject_fraction, done=done.counts(chunk_rows))
    with Progress(
        "embedding",
        catalog.num_rows,
        unit="images",
        done=done.num_done,
        first="starting workers and loading the encoder",
    ) as progress:
        for receipt in map_rows(scouts_first(list(done.chunks(chunk_rows))), *steps):
            if not done.add_receipt(receipt):
                continue
            is_reject = receipt["table"] == "rejects"
            progress.add(receipt["rows"], rejects=done.num_rows_of("rejects"))
            quarantine.add(receipt["row_start"] // chunk_rows, receipt["rows"], rejected=is_reject)
            if is_reject and quarantine.is_exceeded:
                raise too_many_rejects(quarantine, catalog.stage_dir, done.parts("rejects"))


def _all_in_one(context: RunContext, catalog: Catalog, layout: Layout, *, fingerprint: str) -> tuple[Step, ...]:
    kwargs = {
        "encoder": context.config.encoder,
        "source": context.config.source,
        "catalog": catalog,
        "fingerprint": fingerprint,
        "device": "cuda" if layout.gpus_per_worker else "cpu",
        "batch_size": context.config.resources.embed_batch_size,
        "num_threads": layout.threads_per_worker,
    }
    return (
        Step(
            EmbedImages,
            kwargs,
            layout.embed_workers,
            layout.num_cpus,
            layout.gpus_per_worker,
            calls_at_a_time=_CHUNKS_AHEAD,
            environment=allocator.ENVIRONMENT,
        ),
    )


def _decode_then_embed(
    context: RunContext, catalog: Catalog, layout: Layout, chunk_rows: int, *, fingerprint: str
) -> tuple[Step, ...]:
    decode = {
        "encoder": context.config.encoder,
        "source": context.config.source,
        "catalog": catalog,
        "num_threads": layout.threads_per_worker,
    }
    embed = {
        "encoder": context.config.encoder,
        "stage_dir": catalog.stage_dir,
        "fingerprint": fingerprint,
        "device": "cuda" if layout.gpus_per_worker else "cpu",
        "batch_size": context.config.resources.embed_batch_size,
        "num_threads": layout.threads_per_worker,
        "chunk_rows": chunk_rows,
    }
    return (
        Step(
            DecodeChunks,
            decode,
            layout.decode_workers,
            layout.num_cpus,
            calls_at_a_time=_CHUNKS_AHEAD,
            environment=allocator.ENVIRONMENT,
        ),
        Step(
            EmbedDecoded,
            embed,
            layout.embed_workers,
            layout.num_cpus,
            layout.gpus_per_worker,
            calls_at_a_time=_CHUNKS_PER_GPU,
        ),
    )


if __name__ == "__main__":
    main_of(NAME)
