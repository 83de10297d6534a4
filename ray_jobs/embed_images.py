"""Stage 1 as a Ray job: catalog first, then chunks of it over a pool of actors that fetch, decode, encode and write."""

import logging
import time

from dxmc_core.artifacts.manifest import Manifest
from dxmc_core.artifacts.storage import stat_file
from dxmc_core.encoders import embedding_width
from dxmc_core.images.catalog import Catalog, list_source, read_catalog, write_catalog
from dxmc_core.images.sources import EmbeddingsSource, ImagesSource
from dxmc_core.stages.embed_images import (
    check_disk,
    import_embeddings,
    publish_embeddings,
    source_identity,
)
from dxmc_core.stages.embed_images import (
    fingerprint as stage_fingerprint,
)
from dxmc_core.stages.embedded_rows import EmbeddedRows
from dxmc_core.stages.embedding_workers import EmbedImages
from ray_jobs.cluster import Progress, map_rows, num_cores, num_gpus
from ray_jobs.context import RunContext
from ray_jobs.main import main_of

NAME = "embed_images"
_CPU_BATCH_SIZE = 32
_GPU_BATCH_SIZE = 256
_USUAL_WIDTH = 1024  # for the estimate of disk space, where only loading the model would tell

logger = logging.getLogger(__name__)


def reads(_context: RunContext) -> tuple[str, ...]:
    return ()


def fingerprint(context: RunContext) -> str:
    source = context.config.source
    identity = source_identity(source, context.config.encoder)
    if isinstance(source, EmbeddingsSource):
        return stage_fingerprint(identity, stat_file(source.uri).etag)
    _, digest = list_source(source)
    return stage_fingerprint(identity, digest)


def run(context: RunContext, fingerprint: str) -> Manifest:
    started = time.perf_counter()
    stage_dir = context.stage(NAME)
    source = context.config.source
    if isinstance(source, EmbeddingsSource):
        catalog, done = import_embeddings(source, stage_dir, fingerprint=fingerprint)
        return publish_embeddings(catalog, done, fingerprint=fingerprint, seconds=time.perf_counter() - started)
    catalog_found = read_catalog(stage_dir)
    if catalog_found is None or catalog_found.manifest.fingerprint != fingerprint:
        rows, _ = list_source(source)
        catalog_found = write_catalog(stage_dir, rows, fingerprint=fingerprint)
    done = EmbeddedRows.of(catalog_found, fingerprint=fingerprint)
    num_resumed = done.num_done
    check_disk(
        context.run_dir.uri,
        num_rows=done.num_left,
        embedding_width=embedding_width(context.config.encoder) or _USUAL_WIDTH,
    )
    if num_resumed:
        logger.info("%s: %d of %d images were done before", NAME, num_resumed, catalog_found.num_rows)
    _embed(context, catalog_found, done, fingerprint=fingerprint)
    return publish_embeddings(
        catalog_found,
        done,
        fingerprint=fingerprint,
        seconds=time.perf_counter() - started,
        num_resumed=num_resumed,
    )


def _embed(context: RunContext, catalog: Catalog, done: EmbeddedRows, *, fingerprint: str) -> None:
    """Embed what is left, and count it as done."""
    source, resources = context.config.source, context.config.resources
    assert isinstance(source, ImagesSource)
    gpus = num_gpus(resources)
    num_workers = resources.embed_workers or gpus or num_cores()
    kwargs = {
        "encoder": context.config.encoder,
        "source": source,
        "catalog": catalog,
        "fingerprint": fingerprint,
        "device": "cuda" if gpus else "cpu",
        "batch_size": resources.embed_batch_size or (_GPU_BATCH_SIZE if gpus else _CPU_BATCH_SIZE),
        "num_threads": max(num_cores() // num_workers, 1),
    }
    with Progress(NAME, catalog.num_rows, unit="images", done=done.num_done) as progress:
        for receipt in map_rows(
            list(done.chunks(catalog.chunk_rows)),
            EmbedImages,
            kwargs,
            num_workers=num_workers,
            num_cpus=min(1.0, num_cores() / num_workers),
            gpus_per_worker=gpus / num_workers,
        ):
            done.add_receipt(receipt)
            progress.add(receipt["rows"], rejects=done.num_rows_of("rejects"))


def summary(context: RunContext) -> str:
    manifest = context.stage(NAME).require_manifest()
    metrics = manifest.metrics
    rate = (metrics["images"] + metrics["rejects"] - metrics["rows_resumed"]) / max(manifest.seconds, 1e-9)
    return f"{metrics['images']} images, {metrics['rejects']} rejects, {rate:.0f} images/s"


if __name__ == "__main__":
    main_of(NAME)
