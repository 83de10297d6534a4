"""best: the clusters of one joined space, as a discriminant whose centres training may then adjust.

Our own recipe (no paper). It needs no balanced clusters: where other methods push the cluster sizes apart from uniform,
this one holds them to the shares that it found.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dxmc_core.method.best.best_start import BestStart, find_start, labels_of, labels_of_known
from dxmc_core.method.best.constraints import Constraints
from dxmc_core.method.best.smoothing import num_smoothing_neighbors
from dxmc_core.method.distributed import global_mean
from dxmc_core.method.heads import DiscriminantHead, Heads
from dxmc_core.method.hyperparameters import BestHyperparameters
from dxmc_core.method.losses import PROBABILITY_FLOOR, consistency, soft_cross_entropy
from dxmc_core.method.objectives.base import Objective, required
from dxmc_core.method.steps import OnStep, no_report
from dxmc_core.method.training_data import Batch, TrainingData


class BestObjective(Objective):
    """-mean ln(p_i . p_neighbour) + 0.5 CE(p, start) + KL(mean p || start's shares), with a discriminant head.

    The head is the start's discriminant (see `best_start`), which training moves. Without a start that was worked out
    before, rank 0 works it out. It is part of a checkpoint: a resumed run goes on towards the same one.

    Attributes:
        start: worked out before, or None.
        on_step: told of its steps where it is worked out here.
        targets: (N,) int32 clusters of the start.
        log_shares: (K,) logarithm of their shares.
    """

    hyperparameters: BestHyperparameters
    heads: DiscriminantHead
    against_collapse = "raise shares_weight or target_weight"
    start: BestStart | None = None
    on_step: OnStep | None = None
    targets: Tensor
    log_shares: Tensor

    def __init__(
        self, embedding_width: int, num_clusters: int, hyperparameters: BestHyperparameters, *, seed: int
    ) -> None:
        super().__init__()
        self.hyperparameters, self.seed = hyperparameters, seed
        self.heads = DiscriminantHead(embedding_width, num_clusters, temperature=hyperparameters.temperature)
        self.register_buffer("targets", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("log_shares", torch.zeros(num_clusters))

    def start_from(self, heads: Heads) -> bool:
        """Never: the start is that of all images, in which what is new has its say."""
        return False

    def prepare(self, data: TrainingData, *, from_scratch: bool) -> None:
        self.num_neighbors = num_smoothing_neighbors(data.num_images, self.heads.num_clusters)
        self.targets = torch.zeros(data.num_images, dtype=torch.int32)
        if from_scratch:
            self._take_start(
                self.start
                or find_start_of(
                    data, num_clusters=self.heads.num_clusters, seed=self.seed, on_step=self.on_step or no_report
                ),
                data,
            )

    def _take_start(self, start: BestStart, data: TrainingData) -> None:
        if self.hyperparameters.num_epochs:
            labels = labels_of(start.discriminant, data.image_embeddings.cpu().numpy())
            known = known_of(data)
            if known is not None:
                labels[known.rows] = labels_of_known(start, known, num_images=len(labels), seed=self.seed)
            self.targets = torch.from_numpy(labels)
        self.log_shares.copy_(torch.from_numpy(np.maximum(start.cluster_shares, PROBABILITY_FLOOR)).log())
        found = start.discriminant
        self.heads.start_from(
            torch.from_numpy(found.whitening.mean),
            torch.from_numpy(found.whitening.matrix),
            torch.from_numpy(found.centers),
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


def find_start_of(
    data: TrainingData,
    *,
    num_clusters: int,
    seed: int,
    device: str = "cpu",
    resume_from: BestStart | None = None,
    on_look: Callable[[BestStart], None] | None = None,
    on_step: OnStep = no_report,
) -> BestStart:
    """`find_start` on what `BestObjective` reads; without text where the data hold none."""
    return find_start(
        data.image_embeddings.cpu().numpy(),
        num_clusters=num_clusters,
        encoder_widths=data.encoder_widths,
        image_neighbors=_array(data.image_neighbors),
        text_counterparts=_array(data.text_counterparts),
        selected_nouns=_array(data.selected_nouns),
        known=known_of(data),
        seed=seed,
        device=device,
        resume_from=resume_from,
        on_look=on_look,
        on_step=on_step,
    )


def known_of(data: TrainingData) -> Constraints | None:
    """What people know of the images, where they know anything."""
    images, apart = _array(data.known_images), _array(data.apart_groups)
    return None if images is None or apart is None else Constraints.of_pairs(images, apart)


def _array(matrix: Tensor | None) -> np.ndarray | None:
    return None if matrix is None else matrix.cpu().numpy()
