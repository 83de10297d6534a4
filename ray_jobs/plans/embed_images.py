"""Stage 1 before it runs, and after."""

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dxmc_core.artifacts.stage_result import StageResult
from dxmc_core.encoders import FurtherEncoderConfig
from dxmc_core.images.sources import EmbeddingsSource, ImageSource
from dxmc_core.stages.settings import embed_images as settings
from dxmc_core.stages.settings.embed_images import embeddings_digest, source_identity
from ray_jobs.context import RunContext
from ray_jobs.progress import Progress

if TYPE_CHECKING:
    from dxmc_core.images.catalog import Listing

NAME = "embed_images"

logger = logging.getLogger(__name__)


def reads(_context: RunContext) -> tuple[str, ...]:
    return ()


def inputs(_context: RunContext) -> dict[str, str]:
    return {}


def fingerprint(context: RunContext) -> str:
    return _fingerprint(context, context.config.further_encoders)


def first_fingerprint(context: RunContext) -> str:
    """What `fingerprint` would be with the first encoder alone."""
    return _fingerprint(context, {})


def _fingerprint(context: RunContext, further: Mapping[str, FurtherEncoderConfig]) -> str:
    source = context.config.source
    identity = source_identity(source, context.config.encoder, further)
    if isinstance(source, EmbeddingsSource):
        return settings.fingerprint(identity, embeddings_digest(source))
    from dxmc_core.images.decode import optional_decoders  # late, as it brings Pillow

    return settings.fingerprint(identity, list_once(context, source).digest, decoders=optional_decoders())


def check(context: RunContext) -> None:
    """Ask for the weights where images may have to be embedded; nothing is listed before, unless that may show none.

    What is embedded is held against the limit of now: it may have been lowered since.

    Raises:
        InputError: the weights cannot be had, or too many images are rejected.
    """
    source, manifest = context.config.source, context.manifest(NAME)
    if isinstance(source, EmbeddingsSource):
        for file in context.config.further_encoders.values():
            file.require_weights()
        return
    before = context.base.manifest(NAME) if context.base is not None else None
    if all(found is None or found.fingerprint != fingerprint(context) for found in (manifest, before)):
        for encoder in context.config.encoder_of_table.values():
            encoder.require_weights()
    if manifest is None or manifest.fingerprint != fingerprint(context):
        return
    from dxmc_core.stages.embed_images import require_few_rejects

    num_images, rejects = manifest.rows("images"), manifest.tables["rejects"]
    require_few_rejects(source, context.stage(NAME), num_images, rejects, manifest.rows("catalog"))


def list_once(context: RunContext, source: ImageSource) -> "Listing":
    """What the source holds, listed once a command."""
    from dxmc_core.images.catalog import list_source  # late: it brings pandas

    if context.listing is None:
        started = time.perf_counter()
        with Progress(f"listing {source.uri}", unit="images") as progress:
            context.listing = list_source(source, own=context.own_places, on_listed=progress.add)
        seconds = time.perf_counter() - started
        logger.info("%s: %d images listed in %.1f s", NAME, context.listing.num_rows, seconds)
    return context.listing


def run(context: RunContext, fingerprint: str) -> StageResult:
    from ray_jobs import embed_images  # with Ray and PyTorch, which only a stage that runs needs

    return embed_images.run(context, fingerprint)


def summary(context: RunContext) -> str:
    manifest = context.run_dir.require_manifest(NAME)
    metrics = manifest.metrics
    rate = (metrics["images"] + metrics["rejects"] - metrics["rows_resumed"]) / max(manifest.seconds, 1e-9)
    return f"{metrics['images']} images, {metrics['rejects']} rejects, {rate:.0f} images/s"
