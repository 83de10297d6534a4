"""What a gradient method is to the training loop: heads, the matrices it reads, and the loss terms of a batch."""

from typing import ClassVar

from torch import Tensor, nn

from dxmc_core.method.heads import Heads
from dxmc_core.method.hyperparameters import Hyperparameters
from dxmc_core.method.training_data import Batch, TrainingData


class Objective(nn.Module):
    """A method's heads together with its loss; subclasses implement `loss_terms`.

    Attributes:
        hyperparameters: settings of the method.
        heads: what is saved and assigns images in the end.
        decoupled_weight_decay: weight decay as in AdamW; otherwise it is added to the gradient, as in Adam.
        num_neighbors: neighbours are drawn from this many nearest ones; None takes all that the data hold.
        steps_per_epoch: batches of an epoch; None is one pass over the images.
        against_collapse: settings that fill empty clusters, for the warning of them.
    """

    hyperparameters: Hyperparameters
    heads: Heads
    decoupled_weight_decay: ClassVar[bool] = False
    against_collapse: ClassVar[str] = (
        "raise entropy_weight, raise batch_size (several images per cluster in every batch)"
    )
    num_neighbors: int | None = None
    steps_per_epoch: int | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the `TrainingData` matrices it needs beyond the image embeddings."""
        return self.hyperparameters.reads

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars of the global batch, equal on every rank: "total" is minimised, the others are reported."""
        raise NotImplementedError

    def prepare(self, data: TrainingData, *, from_scratch: bool) -> None:
        """Called once by every rank, before training starts or goes on, with everything the objective reads.

        Args:
            from_scratch: True on rank 0 of a training that starts: it works out what training starts from. Its weights
                and buffers, or those of the checkpoint, then replace every rank's.
        """

    def start_from(self, heads: Heads) -> bool:
        """Start with the weights of heads that were trained on an earlier state of the same images.

        Returns:
            False where that cannot be: heads of another architecture, or a method that works out its own start.
        """
        if heads.architecture() != self.heads.architecture():
            return False
        self.heads.load_state_dict(heads.state_dict())
        return True

    def begin_epoch(self, epoch: int, data: TrainingData) -> None:
        """Called by every rank before each epoch (0-based), for pseudo-labels and the like.

        What it computes must follow from the arguments and the weights, so that ranks agree and a resumed run goes on
        alike.
        """

    def after_step(self) -> None:
        """Called by every rank after each optimizer step, for moving averages of the weights."""


def required(matrix: Tensor | None) -> Tensor:
    """A matrix of the batch that `reads` guarantees."""
    assert matrix is not None, "the training loop supplies what the objective reads"
    return matrix
