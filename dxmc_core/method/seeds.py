"""Several seeds of one method: trained at once, as one batched model, and how far what they find agrees."""

import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import fields
from itertools import combinations

import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from dxmc_core.method.distributed import world_size
from dxmc_core.method.objectives.base import Objective
from dxmc_core.method.training import EpochReport, check_finite
from dxmc_core.method.training_data import Batch, TrainingData, draw_batches

_FIELDS = [field.name for field in fields(Batch) if field.name != "row_counts"]


def train_at_once(
    objectives: Sequence[Objective],
    data: TrainingData,
    *,
    seeds: Sequence[int],
    num_epochs: int,
    batch_size: int,
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    device: torch.device | str = "cpu",
) -> list[list[EpochReport]]:
    """Train objectives of one kind in place; each ends as `training.train` with its seed leaves it, up to rounding.

    Their weights are stacked, so that a step of all is one pass of batched products and one optimizer kernel. That
    suits a GPU, where a step of one is too small to be busy with. Each has its own batches, drawn by its own seed.

    Args:
        objectives: one a seed; all `stackable`, with the same settings.

    Returns:
        The reports of each objective's epochs, without a full pass. The seconds are those of all together.

    Raises:
        ValueError: an objective cannot be stacked, or several processes train together.
        FloatingPointError: a loss is no longer finite.
    """
    if world_size() > 1 or not all(objective.stackable for objective in objectives):
        raise ValueError("expected objectives that can be stacked, in one process")
    first = objectives[0]
    data = data.only(first.reads).nearest(first.num_neighbors)
    batch_size = min(batch_size, data.num_images)
    for objective in objectives:
        objective.to(device).train()
    parameters, buffers = stack_module_state(list(objectives))
    template = deepcopy(first)
    optimizer = torch.optim.Adam(
        list(parameters.values()), lr=learning_rate, betas=betas, weight_decay=weight_decay, fused=True
    )

    def loss_terms(
        parameters: dict[str, Tensor], buffers: dict[str, Tensor], rows: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        batch = Batch(**{name: rows.get(name) for name in _FIELDS}, row_counts=[len(rows["rows"])])  # type: ignore[arg-type]
        return functional_call(template, (parameters, buffers), (batch,))

    losses_of_all = vmap(loss_terms)
    reports: list[list[EpochReport]] = [[] for _ in seeds]
    for epoch in range(num_epochs):
        batches_of_seeds = [
            draw_batches(
                data,
                batch_size=batch_size,
                seed=seed,
                epoch=epoch,
                drop_last=True,
                device=torch.device(device),
                dtype=next(iter(parameters.values())).dtype,
            )
            for seed in seeds
        ]
        started = time.perf_counter()
        steps: list[dict[str, Tensor]] = []
        for batches in zip(*batches_of_seeds, strict=True):
            terms = losses_of_all(parameters, buffers, _stacked(batches))
            optimizer.zero_grad(set_to_none=True)
            terms["total"].sum().backward()
            optimizer.step()
            steps.append({name: values.detach() for name, values in terms.items()})
        means = {name: torch.stack([step[name] for step in steps]).mean(dim=0).tolist() for name in steps[0]}
        seconds = time.perf_counter() - started
        for number, reports_of_seed in enumerate(reports):
            own = {name: values[number] for name, values in means.items()}
            check_finite(own, epoch + 1, learning_rate)
            rate = len(steps) * batch_size / seconds
            reports_of_seed.append(EpochReport(epoch + 1, num_epochs, own, [], None, None, seconds, rate, None))
    for number, objective in enumerate(objectives):
        objective.load_state_dict({name: stack[number].detach() for name, stack in (parameters | buffers).items()})
        objective.eval()
    return reports


def _stacked(batches: Sequence[Batch]) -> dict[str, Tensor]:
    """(S, b, ...) of what the batches of S seeds have."""
    present = [name for name in _FIELDS if getattr(batches[0], name) is not None]
    return {name: torch.stack([getattr(batch, name) for batch in batches]) for name in present}


def stability(partitions: Sequence[np.ndarray]) -> float:
    """How far several partitions of the same rows agree: the mean adjusted Rand index of all pairs, at most 1."""
    return float(np.mean([adjusted_rand_score(first, second) for first, second in combinations(partitions, 2)]))
