"""DXMC: dual-level cross-modal contrastive clustering (arXiv 2409.04561), by the authors' code or by their paper."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self, get_args

from torch import Tensor

from dxmc_core.method.heads import DualHeads
from dxmc_core.method.losses import (
    Fidelity,
    InstanceContrast,
    assignment_entropy,
    cluster_contrastive,
    instance_contrastive,
)
from dxmc_core.method.objectives.base import (
    MANY_CLUSTERS,
    Hyperparameters,
    Objective,
    check_choice,
    check_range,
    published_schedule,
    required,
)
from dxmc_core.method.training_data import Batch


@dataclass(frozen=True, kw_only=True)
class DXMCHyperparameters(Hyperparameters):
    """Settings of DXMC.

    Attributes:
        fidelity: "code" (made the published numbers) or "paper": which form of the cluster level, see
            `cluster_contrastive`.
        cluster_temperature: tau_C.
        instance_contrast: form of the instance level, see `instance_contrastive`; "fidelity" takes the one of
            `fidelity`.
        instance_temperature: tau_I.
        instance_weight: weight of the instance level. With disjoint heads on frozen embeddings it sends no gradient to
            the cluster heads: 0 leaves the instance heads out, and gives exactly the same assignments in much less
            time.
        shared_trunk: one trunk a modality under both heads, which lets the instance level matter (ours, not the
            authors').
        projection_width: width of the instance heads.
    """

    fidelity: Fidelity = "code"
    cluster_temperature: float = 0.5
    instance_contrast: InstanceContrast | Literal["fidelity"] = "fidelity"
    instance_temperature: float = 0.05
    instance_weight: float = 1.0
    shared_trunk: bool = False
    projection_width: int = 1024

    @classmethod
    def published(cls, num_clusters: int, num_images: int, given: Mapping[str, Any]) -> Self:
        """The authors' settings for data of this shape.

        Their code raises both temperatures tenfold from 100 clusters on; the paper knows one setting for all. The
        instance level, which they always train, is left out unless a shared trunk lets it matter: the assignments are
        the same to the last bit, for a sixth of the work. `instance_weight: 1` trains it as published.
        """
        schedule = published_schedule(num_clusters, num_images)
        schedule["instance_weight"] = 1.0 if given.get("shared_trunk") else 0.0
        if given.get("fidelity") == "paper" or num_clusters < MANY_CLUSTERS:
            return cls(**schedule)
        return cls(cluster_temperature=5.0, instance_temperature=0.5, **schedule)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "fidelity", get_args(Fidelity))
        check_choice(self, "instance_contrast", (*get_args(InstanceContrast), "fidelity"))
        positive = ("cluster_temperature", "instance_temperature", "projection_width")
        check_range(self, positive=positive, not_negative=("instance_weight",))


class DXMCObjective(Objective):
    """L_ins + L_clu - alpha H over anchors with one random neighbour a modality.

    The cluster level contrasts the assignments U of the images with those W of their text neighbours, and W of their
    text counterparts with U of their image neighbours; H adds up the entropy of both. Images are assigned by the image
    cluster head alone.
    """

    heads: DualHeads
    reads = ("text_counterparts", "image_neighbors", "text_neighbors")

    def __init__(
        self, embedding_width: int, num_clusters: int, hyperparameters: DXMCHyperparameters, *, seed: int
    ) -> None:
        super().__init__()
        self.hyperparameters = hyperparameters
        self.stackable = hyperparameters.instance_weight == 0
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
