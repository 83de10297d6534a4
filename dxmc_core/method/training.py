"""The one training loop of all gradient methods: alone, or in every process of an initialised torch.distributed group.

W processes with a global batch B compute the losses, gradients and weights of one process with batch B (see
`distributed`), so the number of workers is a matter of speed and may change between two epochs.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dxmc_core.method.distributed import all_reduce_sum, average_gradients, broadcast_state, rank, rows_of_rank
from dxmc_core.method.heads import Heads
from dxmc_core.method.hyperparameters import Hyperparameters
from dxmc_core.method.objectives.base import Objective
from dxmc_core.method.training_data import Batch, TrainingData, draw_batches

TrainingState = dict[str, Any]
STATE_FORMAT = 1


@dataclass(frozen=True)
class EpochReport:
    """What an epoch did; the same on every rank apart from the timings.

    Attributes:
        epoch: 1-based.
        terms: mean of each loss term over the epoch's global batches ("total" is what was minimised).
        cluster_sizes: images of every cluster (K,) after the epoch.
        balance: entropy of the cluster sizes over ln K, 0 (all in one cluster) .. 1 (equal sizes).
        num_changed: images whose cluster differs from the one after the epoch before; None when that is not known.
        seconds: of the epoch's steps, without assigning all images after it.
        samples_per_s: anchors of the global batch a second.
        warning: what is going wrong and what to change, or None.
    """

    epoch: int
    num_epochs: int
    terms: dict[str, float]
    cluster_sizes: list[int]
    balance: float
    num_changed: int | None
    seconds: float
    samples_per_s: float
    warning: str | None


EpochCallback = Callable[[EpochReport, Callable[[], TrainingState]], None]


def train(
    objective: Objective,
    data: TrainingData,
    settings: Hyperparameters,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    on_epoch_end: EpochCallback | None = None,
    resume_state: TrainingState | None = None,
) -> list[EpochReport]:
    """Train an objective's heads in place; they end in evaluation mode on `device`.

    Args:
        objective: heads and loss; every rank must bring the same one. It may also set how neighbours and batches are
            drawn and how weights decay, see `Objective`.
        data: the matrices, which may lie on another device than `device`; matrices the objective does not read are not
            touched.
        settings: epochs, batch and optimizer. The batch is the global one, of which ranks take nearly equal shares;
            more than N is taken as N.
        on_epoch_end: called on every rank with the report and a function that makes the checkpoint state. That state
            is a nested dict of tensors and plain numbers that `torch.load(weights_only=True)` reads; it is the same
            for every rank.
        resume_state: such a state. Training goes on after its epoch as if it had never stopped: random draws follow
            from (seed, epoch), so the state needs no generator and fits any number of workers.

    Returns:
        The reports of the epochs that were run here.

    Raises:
        ValueError: the data lack what the objective reads, there are fewer than two images, or `resume_state` is of
        another run.
        FloatingPointError: the loss is no longer finite.
    """
    device = torch.device(device)
    data = data.only(objective.reads)
    if data.num_images < 2:
        raise ValueError(f"expected at least 2 images to train on, found {data.num_images}")
    objective.prepare(data, from_scratch=resume_state is None and rank() == 0)
    data = data.nearest(objective.num_neighbors)
    batch_size = min(settings.batch_size, data.num_images)
    run = {"seed": seed, "batch_size": batch_size, "num_images": data.num_images}

    objective.to(device)
    dtype = next(objective.parameters()).dtype
    # One fused kernel updates all weights: the step is so small that a loop over tensors would weigh on it.
    optimizer = torch.optim.Adam(
        [parameter for parameter in objective.parameters() if parameter.requires_grad],
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        decoupled_weight_decay=objective.decoupled_weight_decay,
        fused=True,
    )
    first_epoch = 0 if resume_state is None else _restore(resume_state, objective, optimizer, run)
    broadcast_state(objective)

    labels = assign_own_rows(objective.heads, data, device=device) if first_epoch > 0 else None
    reports: list[EpochReport] = []
    for epoch in range(first_epoch, settings.num_epochs):
        objective.train()
        objective.begin_epoch(epoch, data)
        batches = draw_batches(
            data,
            batch_size=batch_size,
            seed=seed,
            epoch=epoch,
            device=device,
            dtype=dtype,
            num_batches=objective.steps_per_epoch,
        )
        started = time.perf_counter()
        terms, num_samples = _run_steps(objective, optimizer, batches)
        seconds = time.perf_counter() - started
        check_finite(terms, epoch + 1, settings.learning_rate)
        previous_labels = labels
        labels = assign_own_rows(objective.heads, data, device=device)
        reports.append(
            EpochReport(
                epoch=epoch + 1,
                num_epochs=settings.num_epochs,
                terms=terms,
                seconds=seconds,
                samples_per_s=num_samples / seconds,
                **_assignment_figures(labels, previous_labels, objective),
            )
        )
        if on_epoch_end is not None:
            on_epoch_end(reports[-1], partial(_checkpoint, objective, optimizer, epoch + 1, run))
    objective.eval()
    return reports


def _run_steps(
    objective: Objective, optimizer: torch.optim.Optimizer, batches: Iterable[Batch]
) -> tuple[dict[str, float], int]:
    """One optimizer step a batch; the mean of each loss term over the batches, and the number of anchors.

    Losses are summed on the device and read once, so that no step waits for the one before it.
    """
    names: list[str] = []
    sums: list[Tensor] = []
    num_steps = num_samples = 0
    for batch in batches:
        terms = objective.loss_terms(batch)
        optimizer.zero_grad(set_to_none=True)
        terms["total"].backward()
        average_gradients(objective.parameters())
        optimizer.step()
        objective.after_step()
        names = list(terms)
        values = [term.detach() for term in terms.values()]
        sums = values if not sums else [total + value for total, value in zip(sums, values, strict=True)]
        num_steps += 1
        num_samples += sum(batch.row_counts)
    return dict(zip(names, (torch.stack(sums) / num_steps).tolist(), strict=True)), num_samples


def check_finite(terms: dict[str, float], epoch: int, learning_rate: float) -> None:
    """Raises FloatingPointError when a loss term is not finite after an epoch."""
    bad = [name for name, value in terms.items() if not math.isfinite(value)]
    if bad:
        raise FloatingPointError(
            f"loss terms {', '.join(bad)} are no longer finite after epoch {epoch}: lower learning_rate (now "
            f"{learning_rate:g}), raise the temperatures, or look for embeddings that are not finite"
        )


def assign_own_rows(heads: Heads, data: TrainingData, *, device: torch.device, block_rows: int = 16384) -> Tensor:
    """Clusters (n,) int64 of this rank's share of the N images, a block of rows at a time."""
    share = rows_of_rank(data.num_images)
    labels = torch.empty(share.stop - share.start, dtype=torch.int64, device=device)
    for start in range(share.start, share.stop, block_rows):
        block = slice(start, min(start + block_rows, share.stop))
        texts = data.text_counterparts
        texts = texts[block].to(device) if heads.needs_text and texts is not None else None
        probs = heads.assignment_probs(data.image_embeddings[block].to(device), texts)
        labels[block.start - share.start : block.stop - share.start] = probs.argmax(dim=1)
    return labels


def _assignment_figures(labels: Tensor, previous_labels: Tensor | None, objective: Objective) -> dict[str, Any]:
    """Fields of the report that come from the ranks' full pass."""
    num_clusters = objective.heads.num_clusters
    sizes = all_reduce_sum(torch.bincount(labels, minlength=num_clusters))
    num_changed = None
    if previous_labels is not None:
        num_changed = int(all_reduce_sum((labels != previous_labels).sum()))
    shares = sizes.double() / sizes.sum()
    balance = float(torch.special.entr(shares).sum()) / math.log(num_clusters) if num_clusters > 1 else 1.0
    return {
        "cluster_sizes": sizes.tolist(),
        "balance": balance,
        "num_changed": num_changed,
        "warning": collapse_warning(sizes.tolist(), remedy=objective.against_collapse),
    }


def collapse_warning(cluster_sizes: list[int], *, remedy: str, tolerated_share: float = 0.1) -> str | None:
    """What to change when more than `tolerated_share` of the clusters have no image, or None.

    A few empty clusters are normal in the first epochs, and where K exceeds what the data holds.
    """
    num_empty = cluster_sizes.count(0)
    if num_empty <= tolerated_share * len(cluster_sizes):
        return None
    return f"{num_empty} of {len(cluster_sizes)} clusters are empty: if that lasts, {remedy}, or lower num_clusters"


def _checkpoint(
    objective: Objective, optimizer: torch.optim.Optimizer, num_epochs_done: int, run: dict[str, int]
) -> TrainingState:
    """Everything that training goes on from; random draws follow from the seed and the epoch."""
    return {
        "format": STATE_FORMAT,
        "run": dict(run),
        "num_epochs_done": num_epochs_done,
        "objective": _copy_to_cpu(objective.state_dict()),
        "optimizer": _copy_to_cpu(optimizer.state_dict()),
    }


def _restore(state: TrainingState, objective: Objective, optimizer: torch.optim.Optimizer, run: dict[str, int]) -> int:
    """Load a checkpoint into objective and optimizer; the number of epochs that it has behind it."""
    if state["format"] != STATE_FORMAT or state["run"] != run:
        raise ValueError(
            f"this checkpoint is of another run: expected format {STATE_FORMAT} and {run}, "
            f"found format {state['format']} and {state['run']}"
        )
    objective.load_state_dict(state["objective"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["num_epochs_done"])


def _copy_to_cpu(tree: Any) -> Any:
    """Copy of nested dicts, lists and tuples with every tensor detached and on the CPU."""
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, dict):
        return {key: _copy_to_cpu(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_copy_to_cpu(value) for value in tree)
    return tree
