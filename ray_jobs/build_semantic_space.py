"""Stage 2 as a Ray job: nouns encoded by a pool of actors (once per vocabulary), centres in one task, images mapped."""

import logging
from functools import partial

import numpy as np
import pyarrow as pa

from dxmc_core.artifacts.manifest import Part
from dxmc_core.artifacts.matrices import StoredRows, matrix_of
from dxmc_core.artifacts.stage_dir import StageDir, parts_in_order
from dxmc_core.artifacts.stage_result import StageResult
from dxmc_core.artifacts.tables import IMAGES
from dxmc_core.errors import InputError
from dxmc_core.method.nouns.vocabulary import Vocabulary
from dxmc_core.method.steps import OnStep
from dxmc_core.stages.build_semantic_space import (
    CLIP_RETRIEVAL_TEMPERATURE,
    BuildSemanticSpaceConfig,
    ComputeTextCounterparts,
    EncodeNouns,
    NounCache,
    SemanticSpace,
    build_semantic_space,
    check_vocabulary_width,
    noun_table,
    retrieval_temperature,
)
from dxmc_core.vocabulary import load_vocabulary
from ray_jobs.cluster import Step, light_step, map_rows, num_gpus, run_on_host
from ray_jobs.context import RunContext
from ray_jobs.hosts import num_cores
from ray_jobs.main import main_of
from ray_jobs.plans.build_semantic_space import NAME, vocabulary_of
from ray_jobs.progress import Progress

_NOUNS_PER_BLOCK = 512

logger = logging.getLogger(__name__)


def run(context: RunContext, fingerprint: str) -> StageResult:
    config = context.config
    images, output = context.stage("embed_images"), context.stage(NAME)
    nouns = _embedded_nouns(context, images)
    device = "cuda" if num_gpus(config.resources) else "cpu"
    space: SemanticSpace = run_on_host(
        _select,
        images,
        nouns,
        config.build_semantic_space,
        context.num_clusters,
        config.seed,
        device,
        device=device,
        doing="choosing nouns by image centers",
        tells=True,
    )
    temperature = retrieval_temperature(config.build_semantic_space, nouns)
    selected = output.write_part("selected_nouns", space.selected_nouns, fingerprint=fingerprint)
    receipts = _map_counterparts(context, selected, temperature, fingerprint=fingerprint)
    tables = {
        **output.write_tables({"nouns": nouns, "image_centers": space.image_centers}, fingerprint=fingerprint),
        "selected_nouns": [selected],
        "text_counterparts": parts_in_order(receipts),
    }
    return StageResult(tables, {**space.metrics, "temperature": temperature})


def _select(
    images: StageDir,
    nouns: pa.Table,
    config: BuildSemanticSpaceConfig,
    num_clusters: int,
    seed: int,
    device: str,
    *,
    on_step: OnStep,
) -> SemanticSpace:
    rows = StoredRows.open(images, "images")
    return build_semantic_space(
        rows, nouns, config, num_clusters=num_clusters, seed=seed, device=device, on_step=on_step
    )


def _embedded_nouns(context: RunContext, images: StageDir) -> pa.Table:
    config, vocabulary_config = context.config, vocabulary_of(context)
    width = matrix_of(next(images.iter_parts(IMAGES, ["embedding"]))["embedding"]).shape[1]
    cache = NounCache.of(config.build_semantic_space, vocabulary_config, config.encoder, context.run_dir.uri)
    if vocabulary_config.kind == "embeddings":
        vocabulary = load_vocabulary(vocabulary_config)
        check_vocabulary_width(vocabulary, width)
        assert vocabulary.embeddings is not None
        return noun_table(vocabulary, vocabulary.embeddings, temperature=CLIP_RETRIEVAL_TEMPERATURE)
    nouns = cache.load()
    if nouns is None:
        vocabulary = load_vocabulary(vocabulary_config)
        nouns = _encode_nouns(context, vocabulary)
        cache.save(nouns)
    if nouns.schema.field("embedding").type.list_size != width:
        raise InputError(
            f"encoder {config.encoder.kind} gives nouns of width {nouns.schema.field('embedding').type.list_size}, the "
            f"images have {width}; choose the encoder that made the embeddings, or vocabulary.kind embeddings"
        )
    return nouns


def _encode_nouns(context: RunContext, vocabulary: Vocabulary) -> pa.Table:
    resources = context.config.resources
    gpus = num_gpus(resources)
    num_workers = gpus or num_cores()
    make = partial(
        EncodeNouns,
        encoder=context.config.encoder,
        device="cuda" if gpus else "cpu",
        batch_size=None,
        num_threads=None if gpus else 1,
    )
    count = len(vocabulary.nouns)
    blocks = [
        {"start": start, "noun": vocabulary.nouns[start : start + _NOUNS_PER_BLOCK]}
        for start in range(0, count, _NOUNS_PER_BLOCK)
    ]
    encoded: dict[int, np.ndarray] = {}
    temperature = CLIP_RETRIEVAL_TEMPERATURE
    with Progress("encoding nouns", count, unit="nouns", first="starting workers and loading the encoder") as progress:
        for row in map_rows(blocks, Step(make, num_workers, num_gpus=gpus / num_workers)):
            encoded[row["start"]] = np.frombuffer(row["embeddings"], dtype=np.float16).reshape(row["count"], -1)
            temperature = row["temperature"]
            progress.add(row["count"])
    embeddings = np.concatenate([encoded[start] for start in sorted(encoded)])
    return noun_table(vocabulary, embeddings, temperature=temperature)


def _map_counterparts(context: RunContext, selected_nouns: Part, temperature: float, *, fingerprint: str) -> list[dict]:
    images = context.stage("embed_images")
    parts = images.require_manifest().tables["images"]
    gpus = num_gpus(context.config.resources)
    make = partial(
        ComputeTextCounterparts,
        images=images,
        output=context.stage(NAME),
        fingerprint=fingerprint,
        selected_nouns=selected_nouns,
        temperature=temperature,
        top_nouns=context.config.build_semantic_space.top_nouns,
        device="cuda" if gpus else "cpu",
    )
    count = sum(part.rows for part in parts)
    receipts = []
    with Progress("mixing text counterparts", count, unit="images", first="starting workers") as progress:
        rows = [{"part": index} for index in range(len(parts))]
        for row in map_rows(rows, Step(make, gpus, num_gpus=1) if gpus else light_step(make, context.num_images)):
            receipts.append(row)
            progress.add(row["rows"])
    return receipts


if __name__ == "__main__":
    main_of(NAME)
