"""What training reads, made from embeddings: nouns selected, text counterparts mixed, neighbours found.

The stages run these steps part by part over files; `prepare` runs them in memory, for the estimator and for benchmarks.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from dxmc_core.method.best.joined_encoders import join_encoders
from dxmc_core.method.clusters.kmeans import KMeansResult, spherical_kmeans
from dxmc_core.method.hyperparameters import TEXT_MATRICES, SpaceSettings
from dxmc_core.method.neighbors.exact import nearest_neighbors
from dxmc_core.method.nouns.noun_selection import NounSelection, kmeans_effort, num_image_centers, select_nouns
from dxmc_core.method.nouns.text_counterparts import compute_text_counterparts
from dxmc_core.method.row_source import RowSource
from dxmc_core.method.steps import OnStep, no_report
from dxmc_core.method.training_data import TrainingData
from dxmc_core.method.unit_rows import check_same_width, unit_rows
from dxmc_core.runtime.slices import slices_of

#: Softmax temperature of retrieval that suits OpenAI's CLIP (TAC, DXMC eq. 4). For embeddings that come without an
#: encoder: they are CLIP's more often than not.
CLIP_RETRIEVAL_TEMPERATURE = 0.005

_ROWS_PER_BLOCK = 16_384


@dataclass(frozen=True)
class Prepared:
    """Embeddings as they are stored, and what a method trains on.

    Attributes:
        data: the image embeddings and the matrices asked for.
        selected_nouns: the semantic space, or None without nouns.
        selected_embeddings: (S, D) float16 unit rows, the nouns of the semantic space, or None without nouns.
    """

    data: TrainingData
    selected_nouns: NounSelection | None
    selected_embeddings: np.ndarray | None


def as_stored(embeddings: np.ndarray, *, name: str) -> np.ndarray:
    """Rows (N, D) as artifacts keep them: float16, of unit norm before rounding.

    Raises:
        ValueError: not a matrix of a real type, or a row is zero or not finite.
    """
    stored = np.empty(embeddings.shape, dtype=np.float16)
    # At least one block, so that an unusable shape is refused even without rows.
    for block in slices_of(max(len(embeddings), 1), _ROWS_PER_BLOCK):
        stored[block] = unit_rows(embeddings[block], name=name, first_row=block.start)
    return stored


def select_semantic_space(
    image_embeddings: np.ndarray | RowSource,
    noun_embeddings: np.ndarray,
    settings: SpaceSettings,
    *,
    num_clusters: int,
    weights: np.ndarray | None = None,
    seed: int = 0,
    device: str = "cpu",
    on_step: OnStep = no_report,
) -> tuple[KMeansResult, NounSelection]:
    """Image centres by spherical k-means, and the most confident nouns of each (DXMC eq. 1-3).

    Args:
        image_embeddings: (N, D), rows normalised here; noun_embeddings (M, D), the same.
        weights: (N,) what an image counts for in the centres; by default all count alike.
        device: where k-means and the noun scores are computed.
        on_step: see `spherical_kmeans`.

    Raises:
        ValueError: unusable rows, different widths, or a count below 1.
    """
    if isinstance(image_embeddings, np.ndarray):
        check_same_width(image_embeddings, noun_embeddings, names=("image_embeddings", "noun_embeddings"))
    num_centers = num_image_centers(len(image_embeddings), num_clusters, max_centers=settings.max_centers)
    restarts, points_per_center, iterations = kmeans_effort(num_centers, num_images=len(image_embeddings))
    centers = spherical_kmeans(
        image_embeddings,
        num_centers,
        num_restarts=settings.kmeans_restarts or restarts,
        num_iterations=settings.kmeans_iterations or iterations,
        max_points_per_center=settings.max_points_per_center or points_per_center,
        weights=weights,
        seed=seed,
        device=device,
        on_step=on_step,
    )
    chosen = select_nouns(centers.centers, noun_embeddings, nouns_per_center=settings.nouns_per_center, device=device)
    return centers, chosen


def text_counterparts_as_stored(
    image_embeddings: np.ndarray,
    selected_embeddings: np.ndarray,
    *,
    temperature: float,
    top_k: int | None = None,
    device: str = "cpu",
) -> np.ndarray:
    """Text counterparts (N, D) float16 of images, known or new; see `compute_text_counterparts`."""
    counterparts = compute_text_counterparts(
        image_embeddings, selected_embeddings, temperature=temperature, top_k=top_k, device=device
    )
    return counterparts.astype(np.float16)


def prepare(
    image_embeddings: np.ndarray,
    *,
    reads: Collection[str],
    num_clusters: int,
    further_embeddings: Sequence[np.ndarray] = (),
    noun_embeddings: np.ndarray | None = None,
    noun_hypernyms: np.ndarray | None = None,
    nouns_per_center: int = 5,
    temperature: float = CLIP_RETRIEVAL_TEMPERATURE,
    num_neighbors: int = 50,
    weights: np.ndarray | None = None,
    seed: int = 0,
    device: str = "cpu",
    on_begin: Callable[[str], None] = lambda _: None,
) -> Prepared:
    """Everything that a method reads, in memory.

    Args:
        image_embeddings: (N, D) as of `as_stored`.
        reads: names of `TrainingData` matrices, as of `hyperparameters.method_reads`.
        further_embeddings: (N, D_v) as of `as_stored`, of the same images by further encoders; trained on beside the
            first, which alone nouns and neighbours belong to.
        noun_embeddings: (M, D) as of `as_stored`, the whole vocabulary; the semantic space is selected whenever they
            are given, as clusters are named by it.
        noun_hypernyms: see `TrainingData`.
        nouns_per_center: see `SpaceSettings`.
        temperature: of the softmax that mixes text counterparts; belongs to the encoder.
        num_neighbors: of an image, in each modality; at most N - 1 are taken.
        weights: see `select_semantic_space`.
        device: where neighbours are searched.
        on_begin: called before each step with what it does.

    Raises:
        ValueError: the method reads what only nouns can give and there are none, matrices do not fit one another, or
            neighbours are asked for and there is one image only.
    """
    missing = sorted(TEXT_MATRICES.intersection(reads))
    if missing and noun_embeddings is None:
        raise ValueError(f"expected noun_embeddings, from which {', '.join(missing)} are made, found none")
    selection = selected = counterparts = None
    if noun_embeddings is not None:
        on_begin("select nouns")
        _, selection = select_semantic_space(
            image_embeddings,
            noun_embeddings,
            SpaceSettings(nouns_per_center=nouns_per_center),
            num_clusters=num_clusters,
            weights=weights,
            seed=seed,
        )
        selected = noun_embeddings[selection.noun_ids]
        if {"text_counterparts", "text_neighbors"}.intersection(reads):
            on_begin("mix text counterparts")
            counterparts = text_counterparts_as_stored(image_embeddings, selected, temperature=temperature)

    def neighbors(name: str, rows: np.ndarray | None) -> np.ndarray | None:
        if name not in reads or rows is None:
            return None
        if len(rows) < 2:
            raise ValueError(f"expected at least 2 images, which have neighbors, found {len(rows)}")
        on_begin(f"search {name.replace('_', ' ')}")
        count = min(num_neighbors, len(rows) - 1)
        return nearest_neighbors(rows, num_neighbors=count, device=device).astype(np.int32)

    has_nouns = "noun_embeddings" in reads
    encoded = [image_embeddings, *further_embeddings]
    data = TrainingData.from_arrays(
        join_encoders(encoded),
        encoder_widths=[rows.shape[1] for rows in encoded] if further_embeddings else (),
        text_counterparts=counterparts,
        image_neighbors=neighbors("image_neighbors", image_embeddings),
        text_neighbors=neighbors("text_neighbors", counterparts),
        noun_embeddings=noun_embeddings if has_nouns else None,
        noun_hypernyms=noun_hypernyms if has_nouns else None,
        selected_nouns=selected if "selected_nouns" in reads else None,
    )
    return Prepared(data, selection, selected)
