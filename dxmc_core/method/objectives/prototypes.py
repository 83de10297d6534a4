"""Prototypes of clusters in image and noun space, from which SIC and MCA take their pseudo-labels once an epoch."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dxmc_core.method.clusters.kmeans import spherical_kmeans
from dxmc_core.method.distributed import all_gather_rows, all_reduce_sum, rows_of_rank, world_size
from dxmc_core.method.nouns.noun_selection import select_nouns_sic
from dxmc_core.method.training_data import TrainingData

BLOCK_ROWS = 16_384

Describe = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From embeddings (b, D) to features (b, P) and assignment probabilities (b, K)."""


def choose_noun_space(
    data: TrainingData, num_clusters: int, *, nouns_per_center: int, max_cosine_to_mean: float, seed: int
) -> Tensor:
    """Positions (S,) int64 in `noun_embeddings` of SIC's semantic space, see `select_nouns_sic`.

    Follows from data and seed alone: every rank finds the same, and a resumed run finds it again.
    """
    assert data.noun_embeddings is not None, "the training loop supplies what the objective reads"
    images, nouns = data.image_embeddings.cpu().numpy(), data.noun_embeddings.cpu().numpy()
    centers = spherical_kmeans(images, num_clusters, seed=seed).centers
    chosen = select_nouns_sic(centers, nouns, nouns_per_center=nouns_per_center, max_cosine_to_mean=max_cosine_to_mean)
    return torch.from_numpy(chosen).to(data.device)


@torch.no_grad()
def confident_prototypes(data: TrainingData, describe: Describe, *, images_per_cluster: int, like: Tensor) -> Tensor:
    """Normalised mean (K, P) of the features of each cluster's most confident images.

    Every image competes in every cluster; of images equally confident the earlier ones are taken, so the result does
    not depend on the number of ranks. A rank passes over its own share of the images, and keeps images_per_cluster x K
    candidates.

    Args:
        like: a tensor whose device and type the embeddings are cast to.
    """
    positions = _most_confident(data, describe, images_per_cluster, like)
    share = rows_of_rank(data.num_images)
    clusters = torch.arange(positions.shape[1], device=like.device).expand_as(positions)
    own = (positions >= share.start) & (positions < share.stop)
    sums = []
    for rows, members in zip(positions[own].split(BLOCK_ROWS), clusters[own].split(BLOCK_ROWS), strict=True):
        features, _ = describe(data.image_embeddings[rows.to(data.device)].to(like))
        # A product, since adding by index has no fixed order on a GPU.
        sums.append(F.one_hot(members, positions.shape[1]).to(like).T @ features)
    return F.normalize(all_reduce_sum(torch.stack(sums).sum(dim=0)), dim=1)


def _most_confident(data: TrainingData, describe: Describe, count: int, like: Tensor) -> Tensor:
    """Positions (min(count, N), K) of the images that are most probable in each cluster, over all ranks."""
    share = rows_of_rank(data.num_images)
    _, nothing = describe(like.new_zeros(0, data.embedding_width))
    best, positions = nothing, torch.zeros(nothing.shape, dtype=torch.int64, device=like.device)
    # Blocks no smaller than the list they are merged into keep the work linear in the number of images.
    step = max(BLOCK_ROWS, count)
    for start in range(share.start, share.stop, step):
        stop = min(start + step, share.stop)
        rows = torch.arange(start, stop, device=like.device)
        _, probs = describe(data.image_embeddings[start:stop].to(like))
        candidates = torch.cat([positions, rows[:, None].expand_as(probs)])
        best, positions = _first(torch.cat([best, probs]), candidates, count)
    if world_size() > 1:
        best, positions = _first(all_gather_rows(best), all_gather_rows(positions), count)
    return positions


def _first(values: Tensor, positions: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` highest values of every column with their positions; ties keep the order they come in."""
    ordered, order = values.sort(dim=0, descending=True, stable=True)
    return ordered[:count], positions.gather(0, order[:count])


def nearest_nouns(prototypes: Tensor, noun_embeddings: Tensor, count: int) -> Tensor:
    """Positions (K, min(count, S)) of the nouns nearest to each prototype (K, D) by cosine; rows are of unit norm."""
    return (prototypes @ noun_embeddings.T).topk(min(count, len(noun_embeddings)), dim=1).indices
