"""Loss terms of the gradient methods as pure functions of this rank's rows; each returns the scalar of the *global*
batch.

Shapes: b rows on this rank of B in the global batch, K clusters, P projection width. `probs` are softmax outputs, rows
sum to 1. Equation numbers are those of the DXMC paper (arXiv 2409.04561).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dxmc_core.method.distributed import (
    all_gather_rows,
    all_reduce_sum,
    column_cosines,
    exchange_row_counts,
    global_mean,
    rank,
)
from dxmc_core.method.hyperparameters import Fidelity, InstanceContrast

PROBABILITY_FLOOR = 1e-9


def cluster_contrastive(
    probs: Tensor, other_probs: Tensor, *, temperature: float, fidelity: Fidelity = "code"
) -> Tensor:
    """Contrast of clusters: column k of one assignment matrix against column k of the other (DXMC eq. 9-12).

    Columns of both (b, K) matrices over the global batch are compared by cosine / temperature; column k's positive is
    column k of the other matrix, its negatives are all other 2K - 2 columns. "code": both columns of a pair are
    anchors, mean over 2K, as the authors' programs do (TAC's as well); it keeps the balance with the entropy weight
    whatever K is. "paper": the columns of `probs` alone are anchors, summed over K.
    """
    num_clusters = probs.shape[1]
    cosines = column_cosines(torch.cat([probs, other_probs], dim=1))
    itself = torch.eye(2 * num_clusters, dtype=torch.bool, device=probs.device)
    logits = (cosines / temperature).masked_fill(itself, float("-inf"))
    columns = torch.arange(2 * num_clusters, device=probs.device)
    positives = columns.roll(num_clusters)
    if fidelity == "code":
        return F.cross_entropy(logits, positives)
    return F.cross_entropy(logits[:num_clusters], positives[:num_clusters], reduction="sum")


def assignment_entropy(probs: Tensor) -> Tensor:
    """Entropy in nats of the mean assignment of the global batch, 0..ln K (DXMC eq. 14-15), the mean clamped at 1e-9.

    The objectives subtract it, which keeps clusters from dying.
    """
    mean_probs = global_mean(probs).clamp_min(PROBABILITY_FLOOR)
    return -(mean_probs * mean_probs.log()).sum()


def consistency(probs: Tensor, other_probs: Tensor) -> Tensor:
    """-mean ln(u_i . w_i) over rows: both assignments of an image agree and are confident (TAC's L_con).

    The inner product is clamped at 1e-9, so that two confident and contradicting rows stay finite; the authors' code
    does not.
    """
    agreement = (probs * other_probs).sum(dim=1).clamp_min(PROBABILITY_FLOOR)
    return -global_mean(agreement.log())


def soft_cross_entropy(log_probs: Tensor, targets: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """-mean_i w_i sum_k q_ik ln p_ik over rows of the global batch, with targets q (b, K) and row weights w (b,).

    The mean is over all rows, those of weight 0 included. Gradients flow into whatever is not detached: TURTLE's go
    into the targets.
    """
    rows = -(targets * log_probs).sum(dim=1)
    return global_mean(rows if weights is None else weights * rows)


def temi(
    student_log_probs: tuple[Tensor, Tensor],
    teacher_log_probs: tuple[Tensor, Tensor],
    teacher_mean: Tensor,
    *,
    beta: float = 0.6,
) -> tuple[Tensor, Tensor]:
    """TEMI's weighted pointwise mutual information of pairs (x, x'), for several heads at once (BMVC 2023).

    -1/2 mean_i w_i (ln sum_c (q_s(c|x_i) q_t(c|x'_i))^beta / p_t(c) + the same with x and x' exchanged), where w_i,
    the mean over heads of sum_c q_t(c|x_i) q_t(c|x'_i), trusts the pairs that the teachers put together. Sums over c
    are taken in logarithms, which keeps the gradient of very small probabilities finite.

    Args:
        student_log_probs: of x and of x', (H, b, K) each.
        teacher_log_probs: the same, without gradient.
        teacher_mean: p_t (H, K), running mean of the teachers' probabilities.

    Returns:
        Loss of each head (H,), and the mean weight of the pairs ().
    """
    teacher_x, teacher_y = teacher_log_probs
    weights = (teacher_x + teacher_y).exp().sum(dim=2).mean(dim=0)
    log_mean = teacher_mean.clamp_min(PROBABILITY_FLOOR).log()[:, None, :]
    information = torch.zeros_like(teacher_x[..., 0])
    for student, teacher in zip(student_log_probs, (teacher_y, teacher_x), strict=True):
        information = information + (beta * (student + teacher) - log_mean).logsumexp(dim=2)
    return -global_mean((weights * information / 2).T), global_mean(weights)


def symmetric_info_nce(
    first: Tensor, second: Tensor, *, temperature: float, row_counts: list[int] | None = None
) -> Tensor:
    """Contrast of row i of one matrix with row i of the other, by cosine / temperature (the loss of CLIP).

    Rows of both (b, P) matrices over the global batch are anchors, and all B rows of the other matrix candidates; the
    mean over the 2B anchors. b x B similarities exist at a time.
    """
    counts = row_counts if row_counts is not None else exchange_row_counts(first)
    own = torch.cat([F.normalize(first, dim=1), F.normalize(second, dim=1)], dim=1)
    width = first.shape[1]
    all_first, all_second = all_gather_rows(own, row_counts=counts).split(width, dim=1)
    own_first, own_second = own.split(width, dim=1)
    positives = torch.arange(len(own), device=own.device) + sum(counts[: rank()])
    local_sum = F.cross_entropy(own_first @ all_second.T / temperature, positives, reduction="sum")
    local_sum = local_sum + F.cross_entropy(own_second @ all_first.T / temperature, positives, reduction="sum")
    return all_reduce_sum(local_sum) / (2 * sum(counts))


def prototype_contrastive(first: Tensor, second: Tensor, *, present: Tensor, temperature: float) -> Tensor:
    """Contrast of a cluster's prototype in one modality with the one in the other, symmetric, by cosine / temperature.

    Prototypes are of the global batch already, equal on every rank. Clusters that are not present are neither anchors
    nor candidates; without any present the loss is 0.

    Args:
        first, second: (K, P).
        present: (K,) bool.
    """
    cosines = F.normalize(first, dim=1) @ F.normalize(second, dim=1).T
    # Finite, so that the rows left out below bring a gradient of zero and not of NaN.
    pairs = present[:, None] & present[None, :]
    logits = (cosines / temperature).where(pairs, cosines.new_tensor(-1e9))
    clusters = torch.arange(len(first), device=first.device)
    losses = [F.cross_entropy(anchors, clusters, reduction="none") for anchors in (logits, logits.T)]
    total = torch.stack(losses).where(present, 0).sum()
    return total / (2 * present.sum().clamp_min(1))


def instance_contrastive(
    image_projections: Tensor,
    text_projections: Tensor,
    *,
    temperature: float,
    contrast: InstanceContrast = "nt_xent_dot",
    row_counts: list[int] | None = None,
    block_rows: int = 2048,
) -> Tensor:
    """Contrast of images with their text counterparts, mean over anchors (DXMC eq. 6-8).

    "info_nce" is the paper's: images are anchors, texts candidates, cosine, and the positive stands twice in the
    denominator (once by itself, once among all texts). "nt_xent_dot" is the authors' code: both modalities are
    anchors, all other 2B - 1 projections are candidates (the 2B - 2 negatives include the anchor's own modality), raw
    dot products, since their normalisation is commented out. "nt_xent_cosine" is the same on unit vectors, which keeps
    the temperature meaningful.

    Args:
        image_projections, text_projections: (b, P) this rank's rows.
        row_counts: b of every rank, see `all_gather_rows`.
        block_rows: anchors compared at once; bounds memory at block_rows x 2B numbers, and does not change the result.
    """
    if contrast != "nt_xent_dot":
        image_projections = F.normalize(image_projections, dim=1)
        text_projections = F.normalize(text_projections, dim=1)
    counts = tuple(row_counts if row_counts is not None else exchange_row_counts(image_projections))
    if contrast == "info_nce":
        texts = all_gather_rows(text_projections, row_counts=counts)
        own_rows = _own_rows(counts, image_projections.device)
        local_sum = _ContrastSum.apply(image_projections, texts, own_rows, temperature, block_rows)
        return all_reduce_sum(local_sum) / sum(counts)
    own = torch.cat([image_projections, text_projections])
    local_sum = _NTXentSum.apply(own, counts, temperature, block_rows)
    return all_reduce_sum(local_sum) / (2 * sum(counts))


def _own_rows(counts: Sequence[int], device: torch.device) -> Tensor:
    """Positions (b,) of this rank's rows in the global batch."""
    return torch.arange(counts[rank()], device=device) + sum(counts[: rank()])


class _NTXentSum(torch.autograd.Function):
    """Sum over this rank's anchors of -ln softmax(positive) among all other projections of the global batch.

    All projections are anchors and candidates alike, so the matrix of similarities is symmetric, and the gradient of
    the *global* sum for this rank's rows is one product of this rank's similarities with all projections: nothing but
    the rows and their normalizers is exchanged. A block of similarities is kept for the gradient when there is one,
    and computed again when there are several.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, counts: tuple[int, ...], temperature: float, block_rows: int) -> Tensor:
        """own (2b, P): this rank's image projections, then its text projections."""
        num_own, num_rows = counts[rank()], sum(counts)
        images, texts = own.tensor_split(2)
        gathered = all_gather_rows(torch.cat([images, texts], dim=1), row_counts=counts)
        candidates = torch.cat(gathered.split(own.shape[1], dim=1)) if len(counts) > 1 else own
        rows = _own_rows(counts, own.device)
        selves, positives = torch.cat([rows, rows + num_rows]), torch.cat([rows + num_rows, rows])

        def similarities(block: slice) -> Tensor:
            logits = torch.addmm(own.new_zeros(1), own[block], candidates.T, beta=0, alpha=1 / temperature)
            return logits.scatter_(1, selves[block, None], float("-inf"))

        blocks = [slice(start, start + block_rows) for start in range(0, 2 * num_own, block_rows)]
        normalizers = own.new_empty(2 * num_own)
        total, logits = own.new_zeros(()), own
        for block in blocks:
            logits = similarities(block)
            normalizers[block] = logits.logsumexp(dim=1)
            total += (normalizers[block] - logits.gather(1, positives[block, None]).squeeze(1)).sum()
        if not ctx.needs_input_grad[0]:
            return total
        own_normalizers = normalizers.view(2, num_own).T.contiguous()
        all_normalizers = all_gather_rows(own_normalizers, row_counts=counts).T.reshape(-1)
        gradient = torch.empty_like(own)
        for block in blocks:
            logits = logits if len(blocks) == 1 else similarities(block)
            # As anchors, and as candidates of the other rows; an anchor is the positive of its positive.
            errors = (logits - all_normalizers).exp_()
            errors += logits.sub_(normalizers[block, None]).exp_()
            errors.scatter_add_(1, positives[block, None], errors.new_full((len(errors), 1), -2.0))
            torch.mm(errors, candidates, out=gradient[block])
        ctx.save_for_backward(gradient.div_(temperature))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0], None, None, None


class _ContrastSum(torch.autograd.Function):
    """Sum over anchors of -ln softmax(positive), where the positive counts twice in the denominator (the paper's
    InfoNCE), computed with its gradient one block of anchors at a time.

    The A x M matrix of similarities never exists whole, and is computed once: the forward pass already forms the
    gradients, which the backward pass only scales.
    """

    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        candidates: Tensor,
        positives: Tensor,
        temperature: float,
        block_rows: int,
    ) -> Tensor:
        """anchors (A, P), candidates (M, P), positives (A,) column of each anchor's positive."""
        needs_grad = any(ctx.needs_input_grad)
        grad_anchors, grad_candidates = torch.empty_like(anchors), torch.zeros_like(candidates)
        total = anchors.new_zeros(())
        for start in range(0, anchors.shape[0], block_rows):
            rows = slice(start, start + block_rows)
            positive = positives[rows, None]
            logits = anchors[rows] @ candidates.T / temperature
            positive_logits = logits.gather(1, positive)
            logits.scatter_add_(1, positive, torch.full_like(positive_logits, math.log(2.0)))
            log_normalizer = logits.logsumexp(dim=1, keepdim=True)
            total += (log_normalizer - positive_logits).sum()
            if needs_grad:
                errors = logits.sub_(log_normalizer).exp_()
                errors.scatter_add_(1, positive, torch.full_like(positive_logits, -1.0))
                errors /= temperature
                torch.mm(errors, candidates, out=grad_anchors[rows])
                grad_candidates.addmm_(errors.T, anchors[rows])
        ctx.save_for_backward(grad_anchors, grad_candidates)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grad_anchors, grad_candidates = ctx.saved_tensors
        return grad_anchors * grad_outputs[0], grad_candidates * grad_outputs[0], None, None, None
