"""SIC (AAAI 2023): image clustering with pseudo-labels from the nouns nearest to each cluster's confident images."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dxmc_core.method.heads import LinearHead
from dxmc_core.method.hyperparameters import SICHyperparameters
from dxmc_core.method.losses import assignment_entropy, consistency, soft_cross_entropy
from dxmc_core.method.objectives.base import Objective, required
from dxmc_core.method.objectives.prototypes import choose_noun_space, confident_prototypes, nearest_nouns
from dxmc_core.method.training_data import Batch, TrainingData


class SICObjective(Objective):
    """-mean ln(p_i . p_neighbour) - alpha H + 0.1 CE(p, pseudo-label), with one linear head on the image.

    The nouns given are narrowed to SIC's own space before the first epoch, with k-means centres of the images; where
    the pipeline passes the whole vocabulary that is the published space. Before every epoch each cluster gets a text
    prototype, the mean of the nouns nearest to its most confident images; an image's pseudo-label is the text
    prototype nearest to it. The last epoch assigns (the authors keep the one of best test accuracy).
    """

    hyperparameters: SICHyperparameters
    heads: LinearHead
    text_prototypes: Tensor

    def __init__(
        self, embedding_width: int, num_clusters: int, hyperparameters: SICHyperparameters, *, seed: int
    ) -> None:
        super().__init__()
        self.hyperparameters, self.seed = hyperparameters, seed
        self.num_neighbors = hyperparameters.num_neighbors
        self.heads = LinearHead(embedding_width, num_clusters, seed=seed)
        self.register_buffer("text_prototypes", torch.zeros(num_clusters, embedding_width), persistent=False)
        self._nouns: Tensor | None = None

    def begin_epoch(self, epoch: int, data: TrainingData) -> None:
        settings, num_clusters = self.hyperparameters, self.heads.num_clusters
        if epoch == 0 or self._nouns is None:
            space = choose_noun_space(
                data,
                num_clusters,
                nouns_per_center=settings.nouns_per_center,
                max_cosine_to_mean=settings.max_cosine_to_mean,
                seed=self.seed,
            )
            self._nouns = F.normalize(required(data.noun_embeddings)[space].to(self.text_prototypes), dim=1)
        prototypes = confident_prototypes(
            data,
            lambda rows: (rows, self.heads.logits(rows)[0].softmax(dim=1)),
            images_per_cluster=max(1, round(settings.confident_share * data.num_images / num_clusters)),
            like=self.text_prototypes,
        )
        nearest = nearest_nouns(prototypes, self._nouns, settings.nouns_per_cluster)
        self.text_prototypes = F.normalize(self._nouns[nearest].mean(dim=1), dim=1)

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        log_probs = self.heads.logits(batch.images)[0].log_softmax(dim=1)
        neighbor_probs = self.heads.logits(required(batch.image_neighbors))[0].softmax(dim=1)
        probs = log_probs.exp()
        pseudo_labels = (batch.images @ self.text_prototypes.T).argmax(dim=1)
        targets = F.one_hot(pseudo_labels, self.heads.num_clusters).to(log_probs)

        settings = self.hyperparameters
        agreement, entropy = consistency(probs, neighbor_probs), assignment_entropy(probs)
        pseudo_label = soft_cross_entropy(log_probs, targets)
        total = agreement - settings.entropy_weight * entropy + settings.pseudo_label_weight * pseudo_label
        return {"consistency": agreement, "entropy": entropy, "pseudo_label": pseudo_label, "total": total}
