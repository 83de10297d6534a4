"""DXMC: dual-level cross-modal contrastive clustering (arXiv 2409.04561), by the authors' code or by their paper."""

from functools import partial

from torch import Tensor

from dxmc_core.method.heads import DualHeads
from dxmc_core.method.hyperparameters import DXMCHyperparameters
from dxmc_core.method.losses import (
    assignment_entropy,
    cluster_contrastive,
    instance_contrastive,
)
from dxmc_core.method.objectives.base import Objective, required
from dxmc_core.method.training_data import Batch


class DXMCObjective(Objective):
    """L_ins + L_clu - alpha H over anchors with one random neighbour per modality.

    The cluster level contrasts the assignments U of the images with those W of their text neighbours, and W of their
    text counterparts with U of their image neighbours; H adds up the entropy of both. Images are assigned by the image
    cluster head alone.
    """

    hyperparameters: DXMCHyperparameters
    heads: DualHeads

    def __init__(
        self, embedding_width: int, num_clusters: int, hyperparameters: DXMCHyperparameters, *, seed: int
    ) -> None:
        super().__init__()
        self.hyperparameters = hyperparameters
        self.heads = DualHeads(
            embedding_width,
            num_clusters,
            projection_width=hyperparameters.projection_width if hyperparameters.instance_weight > 0 else 0,
            shared_trunk=hyperparameters.shared_trunk,
            seed=seed,
        )

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        image_probs, image_projections = self.heads.image(batch.images)
        text_probs, text_projections = self.heads.text(required(batch.texts))
        # Neighbours are compared at the cluster level only, so they never pass the instance heads.
        image_neighbor_probs = self.heads.image.cluster_probs(required(batch.image_neighbors))
        text_neighbor_probs = self.heads.text.cluster_probs(required(batch.text_neighbors))

        settings = self.hyperparameters
        contrast = partial(cluster_contrastive, temperature=settings.cluster_temperature, fidelity=settings.fidelity)
        cluster = contrast(image_probs, text_neighbor_probs) + contrast(text_probs, image_neighbor_probs)
        entropy = assignment_entropy(image_probs) + assignment_entropy(text_probs)
        terms = {"cluster": cluster, "entropy": entropy, "total": cluster - settings.entropy_weight * entropy}
        if image_projections is not None and text_projections is not None:
            terms["instance"] = self._instance_level(image_projections, text_projections, batch.row_counts)
            terms["total"] = terms["total"] + settings.instance_weight * terms["instance"]
        return terms

    def _instance_level(self, image_projections: Tensor, text_projections: Tensor, row_counts: list[int]) -> Tensor:
        contrast = self.hyperparameters.instance_contrast
        if contrast == "fidelity":
            contrast = "nt_xent_dot" if self.hyperparameters.fidelity == "code" else "info_nce"
        return instance_contrastive(
            image_projections,
            text_projections,
            temperature=self.hyperparameters.instance_temperature,
            contrast=contrast,
            row_counts=row_counts,
        )
