"""Differentiable collectives, so that W workers compute exactly the loss that one process computes on the global batch.

Convention: every rank evaluates the loss of the *global* batch and `average_gradients` takes the mean over ranks, i.e.
what is minimised is the mean of equal losses. Under it each collective's backward is simply its transpose (a gather's
is a reduce-scatter, a sum's is a sum) and the averaged gradient equals the single-process one: no factor of the world
size anywhere. All functions are the identity (or a plain local reduction) when torch.distributed is not initialised.

Collectives must be called by all ranks in the same order, ranks that hold no row of a small last batch included.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world_size() -> int:
    """Number of cooperating processes; 1 when torch.distributed is not initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's rank; 0 when torch.distributed is not initialised."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def rows_of_rank(num_rows: int, *, rank_index: int | None = None, num_ranks: int | None = None) -> slice:
    """Contiguous share of `num_rows` rows that belongs to a rank; shares differ by at most one row and may be empty.

    The one rule for splitting anything over ranks: global batches, full passes, row counts of a gather.
    """
    index = rank() if rank_index is None else rank_index
    ranks = world_size() if num_ranks is None else num_ranks
    return slice(num_rows * index // ranks, num_rows * (index + 1) // ranks)


def row_counts_of_ranks(num_rows: int) -> list[int]:
    """Rows of every rank when `num_rows` rows are split by `rows_of_rank`."""
    shares = (rows_of_rank(num_rows, rank_index=index) for index in range(world_size()))
    return [share.stop - share.start for share in shares]


class _AllGatherRows(torch.autograd.Function):
    """Concatenates the ranks' rows. Backward: every rank's gradient of its own rows, summed over ranks."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, row_counts: tuple[int, ...]) -> Tensor:
        ctx.row_counts = row_counts
        # gloo and nccl gather equal shapes only, so shorter ranks are padded with zero rows that are cut off
        # afterwards.
        longest = max(row_counts)
        padded = local.new_zeros((longest, *local.shape[1:]))
        padded[: local.shape[0]] = local
        gathered = local.new_empty((longest * len(row_counts), *local.shape[1:]))
        dist.all_gather_into_tensor(gathered, padded)
        if min(row_counts) == longest:
            return gathered
        return torch.cat([part[:count] for part, count in zip(gathered.split(longest), row_counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        summed = grad_outputs[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        start = sum(ctx.row_counts[: dist.get_rank()])
        return summed[start : start + ctx.row_counts[dist.get_rank()]], None


class _AllReduceSum(torch.autograd.Function):
    """Sums a tensor over ranks; backward sums the gradient over ranks."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        summed = local.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        summed = grad_outputs[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed


def all_gather_rows(local: Tensor, *, row_counts: Sequence[int] | None = None) -> Tensor:
    """Rows of all ranks in rank order, differentiable.

    Args:
        local: (b, ...) this rank's rows; b may differ between ranks and be zero.
        row_counts: b of every rank where the caller knows it (`row_counts_of_ranks`); without it the ranks exchange
            their counts first, which on a GPU waits for the device.

    Returns:
        (sum of b, ...) on every rank; `local` itself when there is one process.
    """
    if world_size() == 1:
        return local
    counts = tuple(row_counts if row_counts is not None else exchange_row_counts(local))
    if counts[rank()] != local.shape[0]:
        raise ValueError(f"rank {rank()} was to bring {counts[rank()]} of {sum(counts)} rows, found {local.shape[0]}")
    return _AllGatherRows.apply(local, counts)


def exchange_row_counts(local: Tensor) -> list[int]:
    """Rows that every rank brings, asked of the ranks; on a GPU this waits for the device."""
    if world_size() == 1:
        return [local.shape[0]]
    counts = torch.empty(world_size(), dtype=torch.int64, device=local.device)
    dist.all_gather_into_tensor(counts, torch.tensor([local.shape[0]], dtype=torch.int64, device=local.device))
    return counts.tolist()


def all_reduce_sum(local: Tensor) -> Tensor:
    """Sum of a tensor over ranks, differentiable; the tensor itself when there is one process."""
    return local if world_size() == 1 else _AllReduceSum.apply(local)


def global_mean(local: Tensor) -> Tensor:
    """Mean over the rows of the global batch, (b, ...) -> (...), differentiable; b may differ between ranks."""
    if world_size() == 1:
        return local.mean(dim=0)
    flat_sum = local.sum(dim=0).reshape(-1)
    sum_and_count = all_reduce_sum(torch.cat([flat_sum, flat_sum.new_tensor([float(local.shape[0])])]))
    return (sum_and_count[:-1] / sum_and_count[-1]).reshape(local.shape[1:])


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over ranks, in one all-reduce; nothing happens when there is one process.

    In place of `DistributedDataParallel`: the gradients are a few megabytes, ready almost at once, so there is nothing
    to gain from buckets, and an objective stays a plain module with any number of backward passes a step.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if world_size() == 1 or not gradients:
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world_size()
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


@torch.no_grad()
def broadcast_state(module: nn.Module) -> None:
    """Give every rank the parameters and buffers of rank 0."""
    if world_size() > 1:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, src=0)


def broadcast_number(number: int, *, device: str = "cpu") -> int:
    """Rank 0's number, on every rank."""
    if world_size() == 1:
        return number
    tensor = torch.tensor([number], dtype=torch.int64, device=device)
    dist.broadcast(tensor, src=0)
    return int(tensor.item())


class GlobalBatchNorm1d(nn.BatchNorm1d):
    """`nn.BatchNorm1d` over (b, C) rows whose training statistics are those of the global batch, uneven ranks included.

    Same parameters, buffers, running statistics and state-dict keys as `nn.BatchNorm1d`, and the same computation when
    there is one process or in evaluation. Every rank ends with equal buffers, so they need no broadcast.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (b, C) rows; the global batch must have at least two rows in training."""
        if not self.training or world_size() == 1:
            return super().forward(input)
        mean, variance, num_rows = _global_moments(input)
        self._update_running_statistics(mean.detach(), variance.detach() * num_rows / (num_rows - 1))
        normalized = (input - mean) * torch.rsqrt(variance + self.eps)
        return normalized * self.weight + self.bias if self.affine else normalized

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        if not self.track_running_stats:
            return
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None, "GlobalBatchNorm1d averages with a fixed momentum"
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(unbiased_variance.to(self.running_var.dtype), self.momentum)


def _global_moments(local: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), biased variance (C,) and number of rows () of the global batch of (b, C) rows.

    One gather of 2C + 1 numbers a rank. Local moments are combined around the global mean (Chan, Golub, LeVeque 1983),
    which stays accurate where E[x^2] - E[x]^2 cancels.
    """
    count = local.new_tensor([float(local.shape[0])])
    local_mean = local.sum(dim=0) / count.clamp_min(1.0)
    local_squares = (local - local_mean).square().sum(dim=0)
    moments = all_gather_rows(torch.cat([count, local_mean, local_squares]).unsqueeze(0), row_counts=[1] * world_size())
    counts, means, squares = moments.split([1, local.shape[1], local.shape[1]], dim=1)
    num_rows = counts.sum()
    mean = (counts * means).sum(dim=0) / num_rows
    variance = (squares + counts * (means - mean).square()).sum(dim=0) / num_rows
    return mean, variance, num_rows


def column_cosines(local: Tensor, *, eps: float = 1e-12) -> Tensor:
    """Cosines (C, C) between columns of the global (B, C) matrix, of which this rank holds (b, C) rows; differentiable.

    The ranks add their C x C Gram matrices, whose diagonal brings the squared norms along. Gathering the rows would
    send B x C instead and repeat the product on every rank. Columns of norm below `eps` count as zero.
    """
    gram = all_reduce_sum(local.T @ local)
    inverse_norms = torch.rsqrt(gram.diagonal().clamp_min(eps * eps))
    return gram * inverse_norms[:, None] * inverse_norms[None, :]
