"""Stage 2: the nouns that describe these images, and for every image its text counterpart (DXMC eq. 1-5).

Image centres by k-means, the whole vocabulary embedded once per (encoder, vocabulary) and cached, the most confident
nouns of each centre, and one softmax mixture of them an image.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dxmc_core.artifacts.manifest import Part
from dxmc_core.artifacts.matrices import embedding_column, matrix_of
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.storage import Storage
from dxmc_core.artifacts.tables import IMAGE_CENTERS, NOUNS, SELECTED_NOUNS, TEXT_COUNTERPARTS
from dxmc_core.encoders import EncoderConfig, load_encoder
from dxmc_core.errors import InputError
from dxmc_core.method.clusters.kmeans import kmeans_bytes, kmeans_work
from dxmc_core.method.neighbors.near_duplicates import first_copies
from dxmc_core.method.nouns.noun_selection import kmeans_effort
from dxmc_core.method.nouns.vocabulary import Vocabulary
from dxmc_core.method.preparation import (
    CLIP_RETRIEVAL_TEMPERATURE,
    select_semantic_space,
    text_counterparts_as_stored,
)
from dxmc_core.method.row_source import RowSource
from dxmc_core.method.steps import OnStep, no_report
from dxmc_core.method.unit_rows import to_unit_norm, why_no_direction
from dxmc_core.method.work import Work
from dxmc_core.stages.settings.build_semantic_space import BuildSemanticSpaceConfig, cache_name, cache_uri
from dxmc_core.vocabulary import VocabularyConfig
from dxmc_core.workload import (
    POOL_BYTES,
    POOL_STARTS,
    PROCESS_BYTES,
    RAY_BYTES,
    SMALL_NUM_IMAGES,
    Machine,
    StageCost,
    Workload,
)

_TEMPERATURE_KEY = b"retrieval_temperature"
#: What a model of texts makes of a batch, of a process that encodes nouns.
_TEXT_BYTES = 300e6


def check_vocabulary_width(vocabulary: Vocabulary, width: int) -> None:
    """Raises InputError when noun embeddings that a user brought do not fit the images'."""
    if vocabulary.embeddings is not None and vocabulary.embeddings.shape[1] != width:
        raise InputError(
            f"the vocabulary's embeddings have width {vocabulary.embeddings.shape[1]}, the images' have {width}; "
            "both must come from the same encoder"
        )


def noun_table(
    vocabulary: Vocabulary, embeddings: np.ndarray, *, temperature: float = CLIP_RETRIEVAL_TEMPERATURE
) -> pa.Table:
    """The vocabulary with its embeddings (M, D), normalised, in the schema of the artifact.

    The retrieval temperature belongs to the encoder and travels with the nouns, as metadata of the schema.
    """
    unit, has_direction = to_unit_norm(embeddings)
    if not has_direction.all():
        bad = int(np.argmin(has_direction))
        raise InputError(f"the embedding of noun {vocabulary.nouns[bad]!r} {why_no_direction(embeddings[bad])}")
    table = pa.table(
        {
            "noun_id": np.arange(len(vocabulary.nouns), dtype=np.int32),
            "noun": pa.array(vocabulary.nouns, pa.string()),
            "synset_id": pa.array(vocabulary.synset_ids, pa.string()),
            "embedding": embedding_column(unit.astype(np.float16)),
        }
    )
    schema = NOUNS.schema(embeddings.shape[1]).with_metadata({_TEMPERATURE_KEY: repr(temperature)})
    return table.cast(schema)


def retrieval_temperature(config: BuildSemanticSpaceConfig, nouns: pa.Table) -> float:
    """The configured temperature, or the one that came with the nouns."""
    return config.temperature or float(nouns.schema.metadata[_TEMPERATURE_KEY])


@dataclass(frozen=True)
class NounCache:
    """Embedded vocabularies of earlier runs, one file per (encoder, vocabulary)."""

    storage: Storage
    name: str

    @classmethod
    def of(
        cls,
        config: BuildSemanticSpaceConfig,
        vocabulary: VocabularyConfig,
        encoder: EncoderConfig | None,
        run_dir_uri: str,
    ) -> "NounCache":
        return cls(Storage(cache_uri(config, run_dir_uri)), cache_name(vocabulary, encoder))

    def holds_nouns(self) -> bool:
        """Whether there is a cached table, which may still be damaged."""
        return self.storage.exists(self.name)

    def load(self) -> pa.Table | None:
        """The cached noun table, or None; a damaged file counts as none."""
        try:
            table = pq.read_table(pa.BufferReader(self.storage.read_bytes(self.name)))
        except (FileNotFoundError, pa.ArrowInvalid):
            return None
        return table if _TEMPERATURE_KEY in (table.schema.metadata or {}) else None

    def save(self, table: pa.Table) -> None:
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        self.storage.write_bytes(self.name, sink.getvalue())


class EncodeNouns:
    """Blocks of nouns to embeddings.

    Called with a table of the columns start and noun (list of text), one row per block; the result has the columns
    start, embeddings (float16 unit vectors as bytes), count and temperature (the encoder's own, for retrieval).
    """

    def __init__(
        self, encoder: EncoderConfig, *, device: str | None, batch_size: int | None, num_threads: int | None
    ) -> None:
        self._encoder = load_encoder(encoder, device=device, batch_size=batch_size, num_threads=num_threads)

    def __call__(self, blocks: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._encode(block) for block in blocks.to_pylist()])

    def _encode(self, block: dict) -> dict:
        embeddings = self._encoder.encode_nouns(block["noun"]).astype(np.float16)
        return {
            "start": block["start"],
            "embeddings": embeddings.tobytes(),
            "count": len(embeddings),
            "temperature": self._encoder.retrieval_temperature,
        }


@dataclass(frozen=True)
class SemanticSpace:
    """What is selected before the images are mapped: centres, and the nouns they chose."""

    image_centers: pa.Table
    selected_nouns: pa.Table
    metrics: dict


def build_semantic_space(
    images: RowSource,
    nouns: pa.Table,
    config: BuildSemanticSpaceConfig,
    *,
    num_clusters: int,
    seed: int,
    device: str = "cpu",
    on_step: OnStep = no_report,
) -> SemanticSpace:
    """Centres by spherical k-means, then the most confident nouns of each (DXMC eq. 1-3)."""
    width = images.width
    weights = (first_copies(images) == np.arange(len(images))).astype(np.float32) if config.count_copies_once else None
    result, selection = select_semantic_space(
        images,
        matrix_of(nouns["embedding"]),
        config.selection,
        num_clusters=num_clusters,
        weights=weights,
        seed=seed,
        device=device,
        on_step=on_step,
    )
    centers = pa.table(
        {
            "center_id": np.arange(len(result.centers), dtype=np.int32),
            "size": np.bincount(result.labels, minlength=len(result.centers)).astype(np.int64),
            "embedding": embedding_column(result.centers.astype(np.float32)),
        }
    ).cast(IMAGE_CENTERS.schema(width))
    selected = nouns.take(selection.noun_ids)
    selected = selected.append_column("center_id", pa.array(selection.center_ids.astype(np.int32)))
    selected = selected.append_column("probability", pa.array(selection.probabilities.astype(np.float32)))
    schema = SELECTED_NOUNS.schema(width)
    metrics = {
        "image_centers": len(result.centers),
        "kmeans_sample": result.num_trained,
        "kmeans_objective": round(float(result.objective), 6),
        "empty_centers": result.num_empty,
        "vocabulary_nouns": nouns.num_rows,
        "selected_nouns": selected.num_rows,
    }
    return SemanticSpace(centers, selected.select(schema.names).cast(schema), metrics)


class ComputeTextCounterparts:
    """Parts of `images` to parts of `text_counterparts`.

    Called with a table of the column part (index into the parts of `images`); the result has the columns part and those
    of the part written.
    """

    def __init__(
        self,
        images: StageDir,
        output: StageDir,
        *,
        fingerprint: str,
        selected_nouns: Part,
        temperature: float,
        top_nouns: int | None,
        device: str = "cpu",
    ) -> None:
        self._images = images
        self._parts: Sequence[Part] = images.require_manifest().tables["images"]
        self._output = output
        self._fingerprint = fingerprint
        self._noun_embeddings = matrix_of(output.read_part(selected_nouns, ["embedding"])["embedding"])
        self._temperature = temperature
        self._top_nouns = top_nouns
        self._device = device

    def __call__(self, indexes: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._compute(index) for index in indexes["part"].to_pylist()])

    def _compute(self, index: int) -> dict:
        rows = self._images.read_part(self._parts[index], ["row_id", "embedding"])
        counterparts = text_counterparts_as_stored(
            matrix_of(rows["embedding"]),
            self._noun_embeddings,
            temperature=self._temperature,
            top_k=self._top_nouns,
            device=self._device,
        )
        table = pa.table({"row_id": rows["row_id"], "embedding": embedding_column(counterparts)})
        table = table.cast(TEXT_COUNTERPARTS.schema(counterparts.shape[1]))
        part = self._output.write_part("text_counterparts", table, fingerprint=self._fingerprint)
        return {"part": index, **part.model_dump()}


def cost(load: Workload, machine: Machine) -> StageCost:
    """What the stage takes: nouns by all workers, unless they are cached, centres in one task, and a map of images."""
    num_images, width = load.num_images, load.width
    centers, selected = load.num_centers, load.num_selected_nouns
    restarts, points_per_center, iterations = kmeans_effort(centers, num_images=num_images)
    selection = Work(2.0 * width * centers * load.num_nouns) + kmeans_work(
        num_images,
        width,
        centers,
        num_restarts=restarts,
        num_iterations=iterations,
        max_points_per_center=points_per_center,
    )
    # The scores of a block are read and written by the softmax; the mixture is a second product unless few are mixed.
    mixing = Work(2.0 * width * selected * num_images * (1 if load.top_nouns else 2), 16.0 * selected * num_images)
    disk = (num_images + load.num_nouns) * width * 2.0
    nouns = []
    if load.nouns_to_encode:
        encode = machine.on_all("the nouns' prompts", load.encoder_work.noun * load.nouns_to_encode)
        nouns = [machine.on_cpus("loading the encoder", load.encoder_work.loading, num_cores=1), encode]
    workers = machine.gpus or (machine.cores if num_images >= SMALL_NUM_IMAGES else 1)
    training = kmeans_bytes(num_images, width, centers, max_points_per_center=points_per_center)
    held = max(
        PROCESS_BYTES + training,
        workers * (PROCESS_BYTES + selected * (width * 6.0 + 3 * 1024 * 4)),
        (machine.gpus or machine.cores) * (PROCESS_BYTES + load.encoder_work.num_bytes + _TEXT_BYTES) + POOL_BYTES
        if load.nouns_to_encode
        else 0.0,
    )
    return StageCost(
        "build_semantic_space",
        (
            # Those that encode nouns, and one for this and later tasks, unless suggest_k has started it.
            machine.starting(POOL_STARTS * (load.nouns_to_encode > 0) + (not load.chooses_k)),
            *nouns,
            machine.in_one_task("image centers and their nouns", selection),
            machine.on_all("text counterparts", mixing),
            machine.writing(disk),
        ),
        memory_bytes=RAY_BYTES + PROCESS_BYTES + load.num_nouns * width * 6.0 + held,
        disk_bytes=disk,
        note=f"{load.nouns_to_encode:,} nouns to encode, {centers:,} centers, {selected:,} nouns selected",
    )
