"""TEMI (Adaloglou et al., BMVC 2023): mutual information of neighbours, weighted by how far the teachers trust them."""

import torch
from torch import Tensor

from dxmc_core.method.distributed import all_reduce_sum, global_mean, rows_of_rank
from dxmc_core.method.heads import Heads, MultiHead
from dxmc_core.method.hyperparameters import TEMIHyperparameters
from dxmc_core.method.losses import temi
from dxmc_core.method.objectives.base import Objective, required
from dxmc_core.method.training_data import Batch, TrainingData

BLOCK_ROWS = 65_536


class TEMIObjective(Objective):
    """Mean over heads of `losses.temi` for an image and one random neighbour.

    Gradients reach the students alone; the teachers follow them as a moving average, and are the heads that are saved.
    The head of lowest loss over the last epoch assigns.
    """

    hyperparameters: TEMIHyperparameters
    heads: MultiHead
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
