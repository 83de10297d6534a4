"""TURTLE (Gadetsky et al., ICML 2024): the labels that linear classifiers learn best, found without any."""

import torch
from torch import Tensor

from dxmc_core.method.distributed import all_reduce_sum
from dxmc_core.method.heads import LinearHead
from dxmc_core.method.hyperparameters import TURTLEHyperparameters
from dxmc_core.method.losses import assignment_entropy, soft_cross_entropy
from dxmc_core.method.objectives.base import Objective, required
from dxmc_core.method.training_data import Batch


class TURTLEObjective(Objective):
    """Sum over spaces of CE(classifier, label) - gamma H(label of the space), by bilevel optimisation.

    The label of an image is the mean of the task encoders' softmax outputs. Every step fits fresh linear classifiers to
    the labels of the batch, then moves the task encoders so that the fitted classifiers are right.
    """

    hyperparameters: TURTLEHyperparameters
    heads: LinearHead

    def __init__(
        self, embedding_width: int, num_clusters: int, hyperparameters: TURTLEHyperparameters, *, seed: int
    ) -> None:
        super().__init__()
        self.hyperparameters = hyperparameters
        self.steps_per_epoch = hyperparameters.steps_per_epoch
        self.heads = LinearHead(
            embedding_width,
            num_clusters,
            weight_norm=True,
            feature_scale=hyperparameters.feature_scale,
            needs_text="text_counterparts" in self.reads,
            seed=seed,
        )

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
