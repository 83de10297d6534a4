"""TAC (arXiv 2310.11989): DXMC's cluster level, and assignments that agree between the modalities."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, get_args

from torch import Tensor

from dxmc_core.method.heads import DualHeads
from dxmc_core.method.losses import Fidelity, assignment_entropy, cluster_contrastive, consistency
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
class TACHyperparameters(Hyperparameters):
    """Settings of TAC.

    Attributes:
        fidelity: "code" or "paper": form of the cluster level, see `cluster_contrastive`.
        cluster_temperature: tau_C.
        consistency_weight: weight of the agreement between an image's two assignments.
    """

    fidelity: Fidelity = "code"
    cluster_temperature: float = 0.5
    consistency_weight: float = 1.0

    @classmethod
    def published(cls, num_clusters: int, num_images: int, given: Mapping[str, Any]) -> Self:
        """The authors' settings for data of this shape."""
        schedule = published_schedule(num_clusters, num_images)
        return cls(cluster_temperature=5.0 if num_clusters >= MANY_CLUSTERS else 0.5, **schedule)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "fidelity", get_args(Fidelity))
        check_range(self, positive=("cluster_temperature",), not_negative=("consistency_weight",))


class TACObjective(Objective):
    """L_clu + L_con - alpha H over anchors with one random neighbour a modality.

    Images are assigned by the image cluster head alone.
    """

    heads: DualHeads
    stackable = True
    reads = ("text_counterparts", "image_neighbors", "text_neighbors")

    def __init__(
        self, embedding_width: int, num_clusters: int, hyperparameters: TACHyperparameters, *, seed: int
    ) -> None:
        super().__init__()
        self.hyperparameters = hyperparameters
        self.heads = DualHeads(embedding_width, num_clusters, projection_width=0, seed=seed)

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        image_probs = self.heads.image.cluster_probs(batch.images)
        text_probs = self.heads.text.cluster_probs(required(batch.texts))
        image_neighbor_probs = self.heads.image.cluster_probs(required(batch.image_neighbors))
        text_neighbor_probs = self.heads.text.cluster_probs(required(batch.text_neighbors))

        settings = self.hyperparameters
        contrast = partial(cluster_contrastive, temperature=settings.cluster_temperature, fidelity=settings.fidelity)
        cluster = contrast(image_probs, text_neighbor_probs) + contrast(text_probs, image_neighbor_probs)
        entropy = assignment_entropy(image_probs) + assignment_entropy(text_probs)
        agreement = consistency(image_probs, text_probs)
        total = cluster + settings.consistency_weight * agreement - settings.entropy_weight * entropy
        return {"cluster": cluster, "consistency": agreement, "entropy": entropy, "total": total}
