"""The methods kmeans and concat_kmeans: TAC's training-free baselines (Li et al., ICML 2024)."""

import numpy as np
import torch

from dxmc_core.method.clusters.kmeans import concatenate_modalities, kmeans_bytes, kmeans_work, spherical_kmeans
from dxmc_core.method.heads import CentroidHead
from dxmc_core.method.hyperparameters import KMeansSettings
from dxmc_core.method.steps import OnStep
from dxmc_core.method.training_data import TrainingData
from dxmc_core.method.work import DataShape, MethodCost


def fit_centroids(
    data: TrainingData,
    settings: KMeansSettings,
    *,
    num_clusters: int,
    weights: np.ndarray | None,
    seed: int,
    on_step: OnStep,
) -> CentroidHead:
    """k-means of the image embeddings, or of them and the text counterparts side by side where the data have these.

    Args:
        weights: (N,) what an image counts for.
    """
    rows = data.image_embeddings.cpu().numpy()
    if data.text_counterparts is not None:
        rows = concatenate_modalities(rows, data.text_counterparts.cpu().numpy())
    result = spherical_kmeans(
        rows,
        num_clusters,
        num_restarts=settings.num_restarts,
        num_iterations=settings.num_iterations,
        max_points_per_center=None,
        weights=weights,
        seed=seed,
        on_step=on_step,
    )
    return CentroidHead(
        torch.from_numpy(result.centers),
        temperature=settings.temperature,
        needs_text=data.text_counterparts is not None,
    )


def centroids_cost(shape: DataShape, settings: KMeansSettings) -> MethodCost:
    """What `fit_centroids` takes; with text, rows of twice the width that are put together from unit rows."""
    has_text = "text_counterparts" in settings.reads
    width = shape.width * (2 if has_text else 1)
    sizes = shape.num_images, width, shape.num_clusters
    work = kmeans_work(
        *sizes,
        num_restarts=settings.num_restarts,
        num_iterations=settings.num_iterations,
        max_points_per_center=None,
    )
    rows = 4.0 * shape.num_images * width if has_text else 0.0
    memory = rows + kmeans_bytes(*sizes, max_points_per_center=None)
    return MethodCost(work, memory, f"k-means of all rows, {settings.num_restarts} restarts")
