"""Stage 1 as a Ray job: catalog first, then chunks of it through pools of workers; `Layout` says which."""

import logging
from dataclasses import dataclass
from functools import partial

from dxmc_core.artifacts.stage_result import StageResult
from dxmc_core.artifacts.tables import REJECTS
from dxmc_core.config import ResourcesConfig
from dxmc_core.encoders import EmbeddedConfig, EncoderConfig
from dxmc_core.images.catalog import Catalog, read_catalog
from dxmc_core.images.quarantine import OUT_OF_REACH, Quarantine, forget_transient_rejects, scouts_first
from dxmc_core.images.renewal import FurtherEncoders, renew_catalog
from dxmc_core.images.sources import EmbeddingsSource, ImageSource
from dxmc_core.runtime import allocator
from dxmc_core.stages.embed_images import (
    all_embedded,
    check_disk,
    import_embeddings,
    import_further,
    require_few_rejects,
    too_many_rejects,
)
from dxmc_core.stages.embedded_rows import EmbeddedRows
from dxmc_core.stages.embedding_files import embedding_width_of
from dxmc_core.stages.embedding_workers import DecodeChunks, EmbedDecoded, EmbedImages, decoded_chunk_rows
from ray_jobs.cluster import Step, map_rows, num_gpus
from ray_jobs.context import RunContext
from ray_jobs.hosts import num_cores
from ray_jobs.main import main_of
from ray_jobs.plans.embed_images import NAME, first_fingerprint, list_once
from ray_jobs.progress import Progress

_CHUNKS_AHEAD = 2  # one is written, or begun, while one is in the model, or decoded
_CHUNKS_PER_GPU = 6  # two are in the GPU, the others are on their way from or to storage
_USUAL_WIDTH = 1024  # for the estimate of disk space, where only loading the model would tell

logger = logging.getLogger(__name__)


def run(context: RunContext, fingerprint: str) -> StageResult:
    stage_dir = context.stage(NAME)
    source = context.config.source
    if isinstance(source, EmbeddingsSource):
        tables = tuple(context.config.encoder_of_table)
        catalog, done = import_embeddings(source, stage_dir, fingerprint=fingerprint, tables=tables)
        _import_further(context, catalog, done, fingerprint=fingerprint)
        return all_embedded(catalog, done, fingerprint=fingerprint)
    catalog_found = read_catalog(stage_dir)
    if catalog_found is None or catalog_found.manifest.fingerprint != fingerprint:
        base = context.base.stage(NAME) if context.base is not None else None
        catalog_found = renew_catalog(
            stage_dir,
            list_once(context, source),
            fingerprint=fingerprint,
            base=base,
            further=further_encoders(context),
        )
    num_forgotten = forget_transient_rejects(stage_dir, fingerprint=fingerprint)
    if num_forgotten:
        logger.info("%s: %d rejects are tried again with what is left", NAME, num_forgotten)
    encoders = context.config.encoder_of_table
    done = EmbeddedRows.of(catalog_found, fingerprint=fingerprint, tables=tuple(encoders))
    num_resumed = done.num_done
    check_disk(
        context.run_dir.uri,
        num_rows=done.num_left,
        embedding_widths=[embedding_width_of(encoder) or _USUAL_WIDTH for encoder in encoders.values()],
    )
    if num_resumed:
        logger.info("%s: %d of %d images were done before", NAME, num_resumed, catalog_found.num_rows)
    require_few_rejects(source, stage_dir, done.num_images, done.parts(REJECTS.name), catalog_found.num_rows)
    _embed(context, catalog_found, done, fingerprint=fingerprint)
    num_out_of_reach = forget_transient_rejects(stage_dir, fingerprint=fingerprint, reasons=OUT_OF_REACH)
    if num_out_of_reach:
        logger.info("%s: %d rejects, among them what was out of reach, are tried once more", NAME, num_out_of_reach)
        done = EmbeddedRows.of(catalog_found, fingerprint=fingerprint, tables=tuple(encoders))
        _embed(context, catalog_found, done, fingerprint=fingerprint)
    # What earlier attempts have rejected counts too: this one may have had little left to try.
    require_few_rejects(source, stage_dir, done.num_images, done.parts(REJECTS.name), catalog_found.num_rows)
    return all_embedded(catalog_found, done, fingerprint=fingerprint, num_resumed=num_resumed)


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


def further_encoders(context: RunContext) -> FurtherEncoders:
    """What the encoders beside the first mean for what is taken over of an earlier run."""
    further = context.config.further_encoders
    identities = {table: encoder.identity() for table, encoder in further.items()}
    return FurtherEncoders(identities, first_fingerprint(context))


def _import_further(context: RunContext, catalog: Catalog, done: EmbeddedRows, *, fingerprint: str) -> None:
    """Bring in what files have in the place of further encoders."""
    for table, encoder in context.config.further_encoders.items():
        if isinstance(encoder, EmbeddedConfig):
            import_further(table, encoder.uri, catalog, done, fingerprint=fingerprint)


def _embed(context: RunContext, catalog: Catalog, done: EmbeddedRows, *, fingerprint: str) -> None:
    """Embed what is left, and count it as done: all encoders at once, but for rows that some of them have done."""
    source = _images_of(context)
    _import_further(context, catalog, done, fingerprint=fingerprint)
    layout = choose_layout(context.config.resources, cores=num_cores(), gpus=num_gpus(context.config.resources))
    with Progress(
        "embedding",
        catalog.num_rows,
        unit="images",
        done=done.num_done,
        first="starting workers and loading the encoder",
    ) as progress:
        for tables in done.missing():
            encoders = {
                table: encoder
                for table, encoder in context.config.encoder_of_table.items()
                if table in tables and not isinstance(encoder, EmbeddedConfig)
            }
            if layout.decode_workers:
                sizes = [encoder.load_preprocess().image_size for encoder in encoders.values()]
                chunk_rows = min(catalog.chunk_rows, decoded_chunk_rows(*sizes))
                steps = _decode_then_embed(context, encoders, catalog, layout, chunk_rows, fingerprint=fingerprint)
            else:
                chunk_rows = catalog.chunk_rows
                steps = _all_in_one(context, encoders, catalog, layout, fingerprint=fingerprint)
            quarantine = Quarantine(
                catalog.num_rows, max_fraction=source.max_reject_fraction, done=done.counts(chunk_rows)
            )
            for receipt in map_rows(scouts_first(list(done.chunks(chunk_rows, tables))), *steps):
                num_rows = done.add_receipt(receipt)
                if not num_rows:
                    continue
                is_reject = receipt["table"] == REJECTS.name
                progress.add(num_rows, rejects=done.num_rejects)
                quarantine.add(receipt["row_start"] // chunk_rows, num_rows, rejected=is_reject)
                if is_reject and quarantine.is_exceeded:
                    raise too_many_rejects(quarantine, catalog.stage_dir, done.parts(REJECTS.name))


def _images_of(context: RunContext) -> ImageSource:
    """The source, of a run that embeds images."""
    source = context.config.source
    assert not isinstance(source, EmbeddingsSource)
    return source


def _all_in_one(
    context: RunContext, encoders: dict[str, EncoderConfig], catalog: Catalog, layout: Layout, *, fingerprint: str
) -> tuple[Step, ...]:
    make = partial(
        EmbedImages,
        encoders=encoders,
        source=_images_of(context),
        catalog=catalog,
        fingerprint=fingerprint,
        device="cuda" if layout.gpus_per_worker else "cpu",
        batch_size=context.config.resources.embed_batch_size,
        num_threads=layout.threads_per_worker,
    )
    return (
        Step(
            make,
            layout.embed_workers,
            layout.num_cpus,
            layout.gpus_per_worker,
            calls_at_a_time=_CHUNKS_AHEAD,
            environment=allocator.ENVIRONMENT,
        ),
    )


def _decode_then_embed(
    context: RunContext,
    encoders: dict[str, EncoderConfig],
    catalog: Catalog,
    layout: Layout,
    chunk_rows: int,
    *,
    fingerprint: str,
) -> tuple[Step, ...]:
    decode = partial(
        DecodeChunks,
        encoders=encoders,
        source=_images_of(context),
        catalog=catalog,
        num_threads=layout.threads_per_worker,
    )
    embed = partial(
        EmbedDecoded,
        encoders=encoders,
        stage_dir=catalog.stage_dir,
        fingerprint=fingerprint,
        device="cuda" if layout.gpus_per_worker else "cpu",
        batch_size=context.config.resources.embed_batch_size,
        num_threads=layout.threads_per_worker,
        chunk_rows=chunk_rows,
    )
    return (
        Step(
            decode,
            layout.decode_workers,
            layout.num_cpus,
            calls_at_a_time=_CHUNKS_AHEAD,
            environment=allocator.ENVIRONMENT,
        ),
        Step(
            embed,
            layout.embed_workers,
            layout.num_cpus,
            layout.gpus_per_worker,
            calls_at_a_time=_CHUNKS_PER_GPU,
        ),
    )


if __name__ == "__main__":
    main_of(NAME)
