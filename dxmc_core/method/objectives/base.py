"""What a gradient method is to the training loop: heads, the matrices it reads, and the loss terms of a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from dxmc_core.method.heads import Heads
from dxmc_core.method.training_data import Batch, TrainingData


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """Settings that every gradient method has; each method's own class adds to them.

    Attributes:
        num_epochs: passes over the data.
        batch_size: rows of the global batch, all workers together.
        learning_rate, betas, weight_decay: of Adam, or of AdamW where the authors used it.
        entropy_weight: weight of the assignment entropy, which is subtracted from the loss (alpha).
    """

    least_epochs: ClassVar[int] = 1

    num_epochs: int = 20
    batch_size: int = 512
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    entropy_weight: float = 5.0

    @classmethod
    def published(cls, num_clusters: int, num_images: int, given: Mapping[str, Any]) -> Self:
        """The authors' settings for data of this shape; they may depend on settings already `given`."""
        return cls()

    def __post_init__(self) -> None:
        """Raise ValueError for a setting out of its range; subclasses extend it."""
        check_range(self, positive=("learning_rate",), not_negative=("weight_decay", "entropy_weight"))
        if self.num_epochs < self.least_epochs:
            raise ValueError(f"expected num_epochs of at least {self.least_epochs}, found {self.num_epochs}")
        if self.batch_size < 2:
            raise ValueError(f"expected batch_size of at least 2, found {self.batch_size}")


def check_range(settings: Hyperparameters, *, positive: Sequence[str] = (), not_negative: Sequence[str] = ()) -> None:
    """Raise ValueError when a named setting is not above zero, or is below it."""
    for name in positive:
        if not getattr(settings, name) > 0:
            raise ValueError(f"expected {name} above 0, found {getattr(settings, name)}")
    for name in not_negative:
        if not getattr(settings, name) >= 0:
            raise ValueError(f"expected {name} of at least 0, found {getattr(settings, name)}")


def check_choice(settings: Hyperparameters, name: str, choices: Sequence[str]) -> None:
    """Raise ValueError when a named setting is none of its choices."""
    if getattr(settings, name) not in choices:
        raise ValueError(f"expected {name} to be one of {', '.join(choices)}, found {getattr(settings, name)!r}")


MANY_CLUSTERS = 100
"""From this K on DXMC's and TAC's programs train longer, on larger batches, at a higher temperature."""


def published_schedule(num_clusters: int, num_images: int) -> dict[str, Any]:
    """Epochs and batch size of DXMC's and TAC's programs.

    Data smaller than the published batch are one batch, so that every epoch still makes a step (the authors' loop,
    which drops incomplete batches, would make none).
    """
    num_epochs, batch_size = (100, 8192) if num_clusters >= MANY_CLUSTERS else (20, 512)
    return {"num_epochs": num_epochs, "batch_size": max(2, min(batch_size, num_images))}


class Objective(nn.Module):
    """A method's heads together with its loss; subclasses set `reads` and implement `loss_terms`.

    Attributes:
        reads: names of the `TrainingData` matrices it needs beyond the image embeddings.
        heads: what is saved and assigns images in the end.
        decoupled_weight_decay: weight decay as in AdamW; otherwise it is added to the gradient, as in Adam.
        num_neighbors: neighbours are drawn from this many nearest ones; None takes all that the data hold.
        steps_per_epoch: batches of an epoch; None is one pass over the images.
        stackable: `loss_terms` is all that a step does, and PyTorch can batch it over the weights of several seeds.
        against_collapse: settings that fill empty clusters, for the warning of them.
    """

    reads: tuple[str, ...] = ()
    heads: Heads
    decoupled_weight_decay: ClassVar[bool] = False
    against_collapse: ClassVar[str] = "raise entropy_weight, raise batch_size (several images a cluster in every batch)"
    num_neighbors: int | None = None
    stackable: bool = False
    steps_per_epoch: int | None = None

    @classmethod
    def reads_with(cls, hyperparameters: Any) -> tuple[str, ...]:
        """What an objective with these hyperparameters reads; the same for all, unless a method says otherwise."""
        return cls.reads

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars of the global batch, equal on every rank: "total" is minimised, the others are reported."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss terms."""
        return self.loss_terms(batch)

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
