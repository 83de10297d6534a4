"""TAC (arXiv 2310.11989): DXMC's cluster level, and assignments that agree between the modalities."""

from functools import partial

from torch import Tensor

from dxmc_core.method.heads import DualHeads
from dxmc_core.method.hyperparameters import TACHyperparameters
from dxmc_core.method.losses import assignment_entropy, cluster_contrastive, consistency
from dxmc_core.method.objectives.base import Objective, required
from dxmc_core.method.training_data import Batch


class TACObjective(Objective):
    """L_clu + L_con - alpha H over anchors with one random neighbour per modality.

    Images are assigned by the image cluster head alone.
    """

    hyperparameters: TACHyperparameters
    heads: DualHeads

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
