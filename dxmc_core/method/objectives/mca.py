"""MCA (multi-level cross-modal alignment, AAAI 2024) as a reconstruction: its equations were not at hand.

Known are the three parts (a filtered semantic space, image consistency, alignment at instance, prototype and semantic
level), that small maps adapt both modalities, and the two neighbour counts k_S and k_p. How they are put together here
is ours; figures of this method say nothing about the authors' program.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dxmc_core.method.distributed import all_reduce_sum
from dxmc_core.method.heads import AdaptedLinearHead
from dxmc_core.method.hyperparameters import MCAHyperparameters
from dxmc_core.method.losses import (
    assignment_entropy,
    consistency,
    prototype_contrastive,
    soft_cross_entropy,
    symmetric_info_nce,
)
from dxmc_core.method.nouns.noun_hierarchy import filter_by_hierarchy
from dxmc_core.method.objectives.base import Objective, required
from dxmc_core.method.objectives.prototypes import choose_noun_space, confident_prototypes, nearest_nouns
from dxmc_core.method.training_data import Batch, TrainingData


class MCAObjective(Objective):
    """-mean ln(u_i . u_neighbour) - alpha H + instance + prototype + semantic level, over adapted images and nouns.

    z = adapted image with assignment u, s = adapted noun with assignment r, a_ij = attention of image i over its
    nearest nouns, c_i = sum_j a_ij s_j, q_i = sum_j a_ij r_j.
    - instance: symmetric InfoNCE of z_i and c_i;
    - prototype: symmetric contrast over clusters of the mean image mu_k, taken over the batch, and the mean h_k of the
      nouns nearest to the cluster, which are chosen once an epoch;
    - semantic: CE of u_i with q_i where q_i is sure, and of r_j with softmax_k(s_j . h_k), targets detached.

    The space is SIC's uniqueness filter and, where `TrainingData.noun_hypernyms` is given, the hierarchy-based one;
    without a hierarchy the first alone. Images are assigned by the image head alone.
    """

    hyperparameters: MCAHyperparameters
    heads: AdaptedLinearHead

    def __init__(
        self, embedding_width: int, num_clusters: int, hyperparameters: MCAHyperparameters, *, seed: int
    ) -> None:
        super().__init__()
        self.hyperparameters, self.seed = hyperparameters, seed
        self.num_neighbors = hyperparameters.num_neighbors
        width = hyperparameters.adapter_width
        self.heads = AdaptedLinearHead(embedding_width, num_clusters, adapter_width=width, seed=seed)
        self.noun_head = AdaptedLinearHead(embedding_width, num_clusters, adapter_width=width, seed=seed + 1)
        self._nouns: Tensor | None = None
        self._cluster_nouns: Tensor | None = None

    def begin_epoch(self, epoch: int, data: TrainingData) -> None:
        settings, like = self.hyperparameters, self.heads.classifier.weight
        images_per_cluster = data.num_images / self.heads.num_clusters
        if epoch == 0 or self._nouns is None:
            space = self._noun_space(data, min_votes=settings.min_votes_share * images_per_cluster)
            self._nouns = F.normalize(required(data.noun_embeddings)[space].to(like), dim=1)

        def describe(rows: Tensor) -> tuple[Tensor, Tensor]:
            features = self.heads.features(rows)
            return features, self.heads.classifier(features).softmax(dim=1)

        prototypes = confident_prototypes(
            data,
            describe,
            images_per_cluster=max(1, round(settings.confident_share * images_per_cluster)),
            like=like.detach(),
        )
        with torch.no_grad():
            nouns = self.noun_head.features(self._nouns)
            nearest = nearest_nouns(prototypes, nouns, settings.nouns_per_cluster)
            # A product with this matrix has a much faster gradient than picking rows of `nouns`.
            self._cluster_nouns = torch.zeros(len(nearest), len(nouns)).to(nouns).scatter_(1, nearest, 1.0)

    def _noun_space(self, data: TrainingData, *, min_votes: float) -> Tensor:
        settings = self.hyperparameters
        unique = choose_noun_space(
            data,
            self.heads.num_clusters,
            nouns_per_center=settings.nouns_per_center,
            max_cosine_to_mean=settings.max_cosine_to_mean,
            seed=self.seed,
        )
        if data.noun_hypernyms is None:
            return unique
        kept = filter_by_hierarchy(
            data.image_embeddings.cpu().numpy(),
            required(data.noun_embeddings).cpu().numpy(),
            unique.cpu().numpy(),
            data.noun_hypernyms.cpu().numpy(),
            min_votes=min_votes,
        )
        return torch.from_numpy(kept).to(data.device)

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        settings = self.hyperparameters
        features = self.heads.features(batch.images)
        log_probs = self.heads.classifier(features).log_softmax(dim=1)
        neighbor_features = self.heads.features(required(batch.image_neighbors))
        neighbor_probs = self.heads.classifier(neighbor_features).softmax(dim=1)
        nouns = self.noun_head.features(required(self._nouns))
        noun_log_probs = self.noun_head.classifier(nouns).log_softmax(dim=1)
        attention = self._attention(features, nouns)

        terms = {
            "consistency": consistency(log_probs.exp(), neighbor_probs),
            "entropy": assignment_entropy(log_probs.exp()),
            "instance": symmetric_info_nce(
                features,
                attention @ nouns,
                temperature=settings.instance_temperature,
                row_counts=batch.row_counts,
            ),
        }
        noun_prototypes = F.normalize(required(self._cluster_nouns) @ nouns, dim=1)
        image_prototypes, present = _batch_prototypes(features, log_probs)
        terms["prototype"] = prototype_contrastive(
            image_prototypes, noun_prototypes, present=present, temperature=settings.prototype_temperature
        )
        targets = (attention @ noun_log_probs.exp()).detach()
        sure = (targets.amax(dim=1) >= settings.confidence_threshold).to(targets)
        noun_targets = (nouns @ noun_prototypes.T / settings.attention_temperature).softmax(dim=1).detach()
        # All ranks hold all nouns, so their mean is taken here and not over ranks.
        noun_level = -(noun_targets * noun_log_probs).sum(dim=1).mean()
        terms["semantic"] = soft_cross_entropy(log_probs, targets, weights=sure) + noun_level
        terms["total"] = (
            terms["consistency"]
            - settings.entropy_weight * terms["entropy"]
            + settings.instance_weight * terms["instance"]
            + settings.prototype_weight * terms["prototype"]
            + settings.semantic_weight * terms["semantic"]
        )
        return terms

    def _attention(self, features: Tensor, nouns: Tensor) -> Tensor:
        """Weights (b, S) of the nouns that images attend to; rows sum to 1 and are 0 but for the k_S nearest nouns."""
        cosines = features @ nouns.T
        least = cosines.detach().topk(min(self.hyperparameters.nouns_per_image, len(nouns)), dim=1).values[:, -1:]
        logits = cosines / self.hyperparameters.attention_temperature
        return logits.where(cosines >= least, float("-inf")).softmax(dim=1)


def _batch_prototypes(features: Tensor, log_probs: Tensor) -> tuple[Tensor, Tensor]:
    """Sums (K, D) of the global batch's features in their own cluster, weighted by confidence, and which have any (K,).

    Lengths do not matter, as prototypes are compared by cosine. The weights carry no gradient: prototypes adapt the
    features, and do not move images between clusters.
    """
    confidence, clusters = log_probs.detach().exp().max(dim=1)
    weights = F.one_hot(clusters, log_probs.shape[1]).to(features) * confidence[:, None]
    sums = all_reduce_sum(torch.cat([weights.T @ features, weights.sum(dim=0)[:, None]], dim=1))
    return sums[:, :-1], sums[:, -1].detach() > 0
