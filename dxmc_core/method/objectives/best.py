"""best: the consensus of many partitions of smoothed views, turned into a discriminant that training then adjusts.

Our own recipe (no paper). It needs no balanced clusters: where other methods push the cluster sizes apart from uniform,
this one holds them to the shares that the consensus found.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dxmc_core.method.consensus import consensus_labels
from dxmc_core.method.distributed import global_mean
from dxmc_core.method.heads import DiscriminantHead, Heads
from dxmc_core.method.losses import PROBABILITY_FLOOR, consistency, soft_cross_entropy
from dxmc_core.method.objectives.base import Hyperparameters, Objective, check_range, required
from dxmc_core.method.smoothing import num_smoothing_neighbors
from dxmc_core.method.training_data import Batch, TrainingData


@dataclass(frozen=True, kw_only=True)
class BestHyperparameters(Hyperparameters):
    """Settings of best; `entropy_weight` has no effect.

    Attributes:
        use_text: let text into the consensus where its neighbours agree with the images' (see `text_gate`).
        target_weight: weight of the cross-entropy with the consensus.
        shares_weight: weight of the divergence of the mean assignment from the consensus' shares.
        temperature: of the softmax over cosines.
    """

    num_epochs: int = 10
    learning_rate: float = 3e-4
    use_text: bool = True
    target_weight: float = 0.5
    shares_weight: float = 1.0
    temperature: float = 0.1

    @classmethod
    def published(cls, num_clusters: int, num_images: int, given: Mapping[str, Any]) -> Self:
        """The same settings for all data; data smaller than a batch are one batch."""
        return cls(batch_size=max(2, min(512, num_images)))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, positive=("temperature",), not_negative=("target_weight", "shares_weight"))


class BestObjective(Objective):
    """-mean ln(p_i . p_neighbour) + 0.5 CE(p, consensus) + KL(mean p || consensus' shares), with a discriminant head.

    Before training rank 0 works out the consensus, from whose discriminant the head starts. The consensus is part of a
    checkpoint: a resumed run goes on towards the same one.

    Attributes:
        targets: (N,) int32 consensus.
        log_shares: (K,) logarithm of its shares.
    """

    heads: DiscriminantHead
    against_collapse = "raise shares_weight or target_weight"
    targets: Tensor
    log_shares: Tensor

    def __init__(
        self, embedding_width: int, num_clusters: int, hyperparameters: BestHyperparameters, *, seed: int
    ) -> None:
        super().__init__()
        self.hyperparameters, self.seed = hyperparameters, seed
        self.reads = self.reads_with(hyperparameters)
        self.heads = DiscriminantHead(embedding_width, num_clusters, temperature=hyperparameters.temperature)
        self.register_buffer("targets", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("log_shares", torch.zeros(num_clusters))

    @classmethod
    def reads_with(cls, hyperparameters: Any) -> tuple[str, ...]:
        images = ("image_neighbors",)
        return (*images, "text_counterparts", "text_neighbors") if hyperparameters.use_text else images

    def start_from(self, heads: Heads) -> bool:
        """Never: the start is the consensus of all images, in which what is new has its say."""
        return False

    def prepare(self, data: TrainingData, *, from_scratch: bool) -> None:
        self.num_neighbors = num_smoothing_neighbors(data.num_images, self.heads.num_clusters)
        self.targets = torch.zeros(data.num_images, dtype=torch.int32)
        if from_scratch:
            self._start_from_consensus(data)

    def _start_from_consensus(self, data: TrainingData) -> None:
        use_text = self.hyperparameters.use_text
        result = consensus_labels(
            _array(data.image_embeddings),
            num_clusters=self.heads.num_clusters,
            image_neighbors=_array(data.image_neighbors),
            text_counterparts=_array(data.text_counterparts) if use_text else None,
            text_neighbors=_array(data.text_neighbors) if use_text else None,
            seed=self.seed,
        )
        self.targets = torch.from_numpy(result.labels)
        self.log_shares.copy_(torch.from_numpy(np.maximum(result.cluster_shares, PROBABILITY_FLOOR)).log())
        start = result.discriminant
        self.heads.start_from(
            torch.from_numpy(start.whitening.mean),
            torch.from_numpy(start.whitening.matrix),
            torch.from_numpy(start.centers),
        )

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        log_probs = self.heads.log_probs(batch.images)
        probs = log_probs.exp()
        neighbor_probs = self.heads.log_probs(required(batch.image_neighbors)).exp()
        targets = F.one_hot(self.targets[batch.rows].long(), self.heads.num_clusters).to(log_probs)

        agreement, target_error = consistency(probs, neighbor_probs), soft_cross_entropy(log_probs, targets)
        shares = ((global_mean(probs) + global_mean(neighbor_probs)) / 2).clamp_min(PROBABILITY_FLOOR)
        divergence = (shares * (shares.log() - self.log_shares)).sum()
        settings = self.hyperparameters
        total = agreement + settings.target_weight * target_error + settings.shares_weight * divergence
        return {"consistency": agreement, "target_error": target_error, "shares": divergence, "total": total}


def _array(matrix: Tensor | None) -> np.ndarray:
    return required(matrix).cpu().numpy()
