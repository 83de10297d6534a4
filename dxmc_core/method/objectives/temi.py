"""TEMI (Adaloglou et al., BMVC 2023): mutual information of neighbours, weighted by how far the teachers trust them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from dxmc_core.method.distributed import all_reduce_sum, global_mean, rows_of_rank
from dxmc_core.method.heads import Heads, MultiHead
from dxmc_core.method.losses import temi
from dxmc_core.method.objectives.base import Hyperparameters, Objective, check_range, required
from dxmc_core.method.training_data import Batch, TrainingData

BATCH_SIZE = 1024
LEARNING_RATE_AT_256 = 1e-4
STEPS_PER_EPOCH = 48
BLOCK_ROWS = 65_536


@dataclass(frozen=True, kw_only=True)
class TEMIHyperparameters(Hyperparameters):
    """Settings of TEMI. Weight decay is decoupled, as in AdamW; there is no weight of an entropy.

    The authors' program also warms the learning rate up over 20 epochs and lowers it again; here it is constant.

    Attributes:
        num_heads: heads that learn beside one another; the one with the lowest loss is taken.
        hidden_width, bottleneck_width: of the layers of a head, see `MultiHead`.
        temperature: of student and teacher.
        beta: exponent of the probabilities; below 1 it keeps a few clusters from taking everything.
        teacher_momentum: share of a teacher's weights that a step keeps.
        mean_momentum: the same for the teachers' mean assignment.
        num_neighbors: an image's partner is drawn from this many nearest ones.
        standardize: subtract the mean of the training embeddings and divide by their deviation, as the authors do.
    """

    num_epochs: int = 100
    batch_size: int = BATCH_SIZE
    learning_rate: float = LEARNING_RATE_AT_256 * BATCH_SIZE / 256
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-4
    entropy_weight: float = 0.0
    num_heads: int = 16
    hidden_width: int = 512
    bottleneck_width: int = 256
    temperature: float = 0.1
    beta: float = 0.6
    teacher_momentum: float = 0.996
    mean_momentum: float = 0.9
    num_neighbors: int = 50
    standardize: bool = True

    @classmethod
    def published(cls, num_clusters: int, num_images: int, given: Mapping[str, Any]) -> Self:
        """The authors' settings; their rate goes with the batch that is asked for.

        Without one, data smaller than CIFAR-10 keep about the number of steps an epoch has there: the batch shrinks,
        down to 128, and the rate stays. With the published batch a few thousand images have two steps an epoch, and the
        assignments hardly leave the uniform start.
        """
        if "batch_size" in given:
            return cls(learning_rate=LEARNING_RATE_AT_256 * given["batch_size"] / 256)
        batch_size = min(BATCH_SIZE, max(128, num_images // STEPS_PER_EPOCH))
        return cls(batch_size=max(2, min(batch_size, num_images)))

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = ("num_heads", "hidden_width", "bottleneck_width", "num_neighbors")
        check_range(self, positive=(*counts, "temperature", "beta"), not_negative=("teacher_momentum", "mean_momentum"))
        for name in ("teacher_momentum", "mean_momentum"):
            if getattr(self, name) >= 1:
                raise ValueError(f"expected {name} below 1, found {getattr(self, name)}")
        if self.entropy_weight:
            raise ValueError(f"temi has no entropy term: expected entropy_weight 0, found {self.entropy_weight}")


class TEMIObjective(Objective):
    """Mean over heads of `losses.temi` for an image and one random neighbour.

    Gradients reach the students alone; the teachers follow them as a moving average, and are the heads that are saved.
    The head of lowest loss over the last epoch assigns.
    """

    heads: MultiHead
    reads = ("image_neighbors",)
    decoupled_weight_decay = True
    against_collapse = "lower beta, raise batch_size"
    teacher_mean: Tensor

    def __init__(
        self, embedding_width: int, num_clusters: int, hyperparameters: TEMIHyperparameters, *, seed: int
    ) -> None:
        super().__init__()
        self.hyperparameters = hyperparameters
        self.num_neighbors = hyperparameters.num_neighbors

        def multi_head() -> MultiHead:
            return MultiHead(
                embedding_width,
                num_clusters,
                num_heads=hyperparameters.num_heads,
                hidden_width=hyperparameters.hidden_width,
                bottleneck_width=hyperparameters.bottleneck_width,
                temperature=hyperparameters.temperature,
                seed=seed,
            )

        self.students, self.heads = multi_head(), multi_head()
        self.heads.requires_grad_(False)
        uniform = torch.full((hyperparameters.num_heads, num_clusters), 1 / num_clusters)
        self.register_buffer("teacher_mean", uniform)

    def start_from(self, heads: Heads) -> bool:
        is_possible = super().start_from(heads)
        if is_possible:
            self.students.load_state_dict(heads.state_dict())
        return is_possible

    def begin_epoch(self, epoch: int, data: TrainingData) -> None:
        self.heads.head_losses.zero_()
        if epoch == 0 and self.hyperparameters.standardize:
            mean, std = column_moments(data.image_embeddings)
            for heads in (self.students, self.heads):
                heads.mean.copy_(mean)
                # A column that never changes carries nothing; dividing it by its rounding errors would.
                heads.std.copy_(std.where(std > 1e-6, 1.0))

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        settings = self.hyperparameters
        rows = torch.cat([batch.images, required(batch.image_neighbors)])
        students = self.students.log_probs(rows).tensor_split(2, dim=1)
        with torch.no_grad():
            teachers = self.heads.log_probs(rows)
            mean = global_mean(teachers.exp().transpose(0, 1))
            self.teacher_mean.lerp_(mean, 1 - settings.mean_momentum)
        first, second = teachers.tensor_split(2, dim=1)
        losses, weight = temi(
            (students[0], students[1]), (first, second), self.teacher_mean.clone(), beta=settings.beta
        )
        self.heads.head_losses += losses.detach()
        return {"pair_weight": weight, "best_head": losses.detach().min(), "total": losses.mean()}

    @torch.no_grad()
    def after_step(self) -> None:
        for teacher, student in zip(self.heads.parameters(), self.students.parameters(), strict=True):
            teacher.lerp_(student, 1 - self.hyperparameters.teacher_momentum)


def column_moments(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D,) float64 of the columns of (N, D) rows; every rank passes over its own share."""
    blocks = embeddings[rows_of_rank(len(embeddings))].split(BLOCK_ROWS)
    sums = torch.stack([block.double().sum(dim=0) for block in blocks]).sum(dim=0)
    mean = all_reduce_sum(sums) / len(embeddings)
    squares = torch.stack([(block.double() - mean).square().sum(dim=0) for block in blocks]).sum(dim=0)
    return mean, (all_reduce_sum(squares) / len(embeddings)).sqrt()
