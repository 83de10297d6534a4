"""From a method's name and the training data to heads: the one way in, for the pipeline and for the estimator."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dxmc_core.method.best.best_start import BestStart
from dxmc_core.method.heads import CentroidHead, Heads
from dxmc_core.method.hyperparameters import AtOnceSettings, KMeansSettings, method_settings
from dxmc_core.method.neighbors.near_duplicates import distinct_rows
from dxmc_core.method.objectives.best import BestObjective
from dxmc_core.method.steps import OnStep, no_report
from dxmc_core.method.training import EpochCallback, EpochReport, TrainingState, train
from dxmc_core.method.training_data import TrainingData
from dxmc_core.runtime.slices import slices_of

_ROWS_PER_BLOCK = 65_536


@dataclass(frozen=True)
class Fit:
    """Trained heads, in evaluation mode on the CPU, and the reports of the epochs, of which some methods have none."""

    heads: Heads
    reports: list[EpochReport]


def check_num_images(num_images: int, num_clusters: int) -> None:
    """Raises ValueError when there are fewer images than clusters."""
    if num_images < num_clusters:
        raise ValueError(f"expected at least as many images as clusters, found {num_images} for {num_clusters}")


def heads_of_copies(data: TrainingData, num_clusters: int) -> CentroidHead | None:
    """Where there are no more distinct embeddings than clusters: a cluster for each of them, which no method betters.

    There are as many outputs as `usable_num_clusters` says.
    """
    blocks = (block.cpu().numpy() for block in data.image_embeddings.split(_ROWS_PER_BLOCK))
    rows = distinct_rows(blocks, at_most=num_clusters + 1)
    if len(rows) > num_clusters:
        return None
    if len(rows) == 1 < num_clusters:
        rows = np.concatenate([rows, -rows])  # the second has no images
    return CentroidHead(torch.from_numpy(rows), temperature=KMeansSettings().temperature)


def fit_heads(
    method: str,
    data: TrainingData,
    *,
    num_clusters: int,
    weights: np.ndarray | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    on_epoch_end: EpochCallback | None = None,
    on_step: OnStep = no_report,
    resume_state: TrainingState | None = None,
    warm_heads: Heads | None = None,
    best_start: BestStart | None = None,
    **settings: Any,
) -> Fit:
    """Fit one method. Gradient methods use torch.distributed when it is initialised; the others run alone.

    With no more distinct images than clusters there is nothing to train: each gets a cluster, whatever the method.

    Args:
        method: one of `METHODS`.
        data: what `method_reads` asks for; the rest is not touched.
        weights: (N,) what an image counts for in the methods that weigh rows; the others take none.
        settings: see `method_settings`.
        on_step: told of the steps of what has no epochs: the start of `best`, k-means.
        on_epoch_end, resume_state: see `training.train`; without effect on methods without epochs.
        warm_heads: of an earlier state of the same images, to start from where the method can (`Objective.start_from`).
        best_start: of these data, K and seed, where it was worked out before; only `best` has one.

    Raises:
        ValueError: unknown method or setting, missing matrices, or fewer images than clusters.
    """
    check_num_images(data.num_images, num_clusters)
    chosen = method_settings(method, num_clusters=num_clusters, num_images=data.num_images, **settings)
    data = data.only(chosen.reads)
    copies = heads_of_copies(data, num_clusters)
    if copies is not None:
        return Fit(copies, [])
    if weights is not None and not chosen.weighs_rows:
        raise ValueError(f"method {method} counts all images alike: expected no weights")
    if isinstance(chosen, AtOnceSettings):
        heads = chosen.fit(data, num_clusters=num_clusters, weights=weights, seed=seed, on_step=on_step)
        return Fit(heads, [])
    objective = chosen.objective(data.embedding_width, num_clusters, seed=seed)
    if isinstance(objective, BestObjective):
        objective.start, objective.on_step = best_start, on_step
    if warm_heads is not None:
        objective.start_from(warm_heads)
    reports = train(
        objective,
        data,
        chosen,
        seed=seed,
        device=device,
        on_epoch_end=on_epoch_end,
        resume_state=resume_state,
    )
    return Fit(objective.heads.cpu().eval(), reports)


def assign(
    heads: Heads, image_embeddings: Tensor, text_counterparts: Tensor | None = None, *, block_rows: int = 8192
) -> Tensor:
    """Assignment probabilities (N, K) float32 of all rows, a block at a time."""
    blocks = []
    for rows in slices_of(len(image_embeddings), block_rows):
        texts = text_counterparts[rows] if heads.needs_text and text_counterparts is not None else None
        blocks.append(heads.assignment_probs(image_embeddings[rows], texts).float())
    return torch.cat(blocks)
