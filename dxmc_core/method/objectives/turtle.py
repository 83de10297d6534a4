"""TURTLE (Gadetsky et al., ICML 2024): the labels that linear classifiers learn best, found without any."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from dxmc_core.method.distributed import all_reduce_sum
from dxmc_core.method.heads import LinearHead
from dxmc_core.method.losses import assignment_entropy, soft_cross_entropy
from dxmc_core.method.objectives.base import Hyperparameters, Objective, check_choice, check_range, required
from dxmc_core.method.training_data import Batch

Spaces = Literal["image", "image_and_text"]


@dataclass(frozen=True, kw_only=True)
class TURTLEHyperparameters(Hyperparameters):
    """Settings of TURTLE. The published 6,000 outer steps are 60 epochs of 100 steps.

    Attributes:
        steps_per_epoch: outer steps of an epoch, each on a batch from a random permutation.
        spaces: "image", or "image_and_text" for a second task encoder on the text counterparts.
        num_inner_steps, inner_learning_rate: Adam steps of the linear classifiers.
        feature_scale: length of the embeddings. The authors train on CLIP's raw features, whose length is about 10, and
            the learning rates are made for that.
    """

    num_epochs: int = 60
    steps_per_epoch: int = 100
    batch_size: int = 10_000
    betas: tuple[float, float] = (0.9, 0.999)
    entropy_weight: float = 10.0
    spaces: Spaces = "image"
    num_inner_steps: int = 10
    inner_learning_rate: float = 1e-3
    feature_scale: float = 10.0

    @classmethod
    def published(cls, num_clusters: int, num_images: int, given: Mapping[str, Any]) -> Self:
        """The authors' settings; data smaller than their batch are one batch."""
        return cls(batch_size=max(2, min(10_000, num_images)))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "spaces", get_args(Spaces))
        check_range(self, positive=("steps_per_epoch", "num_inner_steps", "inner_learning_rate", "feature_scale"))


class TURTLEObjective(Objective):
    """Sum over spaces of CE(classifier, label) - gamma H(label of the space), by bilevel optimisation.

    The label of an image is the mean of the task encoders' softmax outputs. Every step fits fresh linear classifiers to
    the labels of the batch, then moves the task encoders so that the fitted classifiers are right.
    """

    heads: LinearHead

    def __init__(
        self, embedding_width: int, num_clusters: int, hyperparameters: TURTLEHyperparameters, *, seed: int
    ) -> None:
        super().__init__()
        self.hyperparameters = hyperparameters
        self.reads = self.reads_with(hyperparameters)
        self.steps_per_epoch = hyperparameters.steps_per_epoch
        self.heads = LinearHead(
            embedding_width,
            num_clusters,
            weight_norm=True,
            feature_scale=hyperparameters.feature_scale,
            needs_text="text_counterparts" in self.reads,
            seed=seed,
        )

    @classmethod
    def reads_with(cls, hyperparameters: TURTLEHyperparameters) -> tuple[str, ...]:
        return ("text_counterparts",) if hyperparameters.spaces == "image_and_text" else ()

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        settings = self.hyperparameters
        modalities = [batch.images, required(batch.texts)] if self.heads.needs_text else [batch.images]
        space_probs = [logits.softmax(dim=1) for logits in self.heads.logits(*modalities)]
        labels = torch.stack(space_probs).mean(dim=0)
        errors = []
        for rows in modalities:
            features = settings.feature_scale * rows
            log_probs = fitted_log_probs(
                features,
                labels.detach(),
                num_rows=sum(batch.row_counts),
                num_steps=settings.num_inner_steps,
                learning_rate=settings.inner_learning_rate,
            )
            errors.append(soft_cross_entropy(log_probs, labels))
        error = torch.stack(errors).sum()
        entropy = torch.stack([assignment_entropy(probs) for probs in space_probs]).sum()
        return {"error": error, "entropy": entropy, "total": error - settings.entropy_weight * entropy}


@torch.no_grad()
def fitted_log_probs(
    features: Tensor,
    targets: Tensor,
    *,
    num_rows: int,
    num_steps: int,
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> Tensor:
    """Log-probabilities (b, K) of a linear classifier after a few Adam steps on the cross-entropy with soft targets.

    The gradient of this loss is known in closed form, so no graph is built; ranks add theirs up, (D + 1) x K numbers a
    step. Weights start at zero, the mean of the authors' random starts: nothing is drawn, and the loss of the task
    encoders is less noisy.

    Args:
        features, targets: (b, D) and (b, K), this rank's rows of the global batch.
        num_rows: rows of the global batch.
    """
    parameters = features.new_zeros(features.shape[1] + 1, targets.shape[1])  # The last row is the bias.
    mean, square = torch.zeros_like(parameters), torch.zeros_like(parameters)

    def log_probs() -> Tensor:
        return torch.addmm(parameters[-1], features, parameters[:-1]).log_softmax(dim=1)

    for step in range(1, num_steps + 1):
        errors = (log_probs().exp_() - targets) / num_rows
        gradient = all_reduce_sum(torch.cat([features.T @ errors, errors.sum(dim=0, keepdim=True)]))
        mean.lerp_(gradient, 1 - betas[0])
        square.lerp_(gradient.square(), 1 - betas[1])
        denominator = (square / (1 - betas[1] ** step)).sqrt_().add_(eps)
        parameters.addcdiv_(mean, denominator, value=-learning_rate / (1 - betas[0] ** step))
    return log_probs()
