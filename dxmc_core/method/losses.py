"""Loss terms of the gradient methods as pure functions of this rank's rows; each returns the scalar of the *global*
batch.

Shapes: b rows on this rank of B in the global batch, K clusters, P projection width. `probs` are softmax outputs, rows
sum to 1. Equation numbers are those of the DXMC paper (arXiv 2409.04561).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dxmc_core.method.distributed import (
    all_gather_rows,
    all_reduce_sum,
    column_cosines,
    exchange_row_counts,
    global_mean,
    rank,
)
from dxmc_core.method.hyperparameters import Fidelity, InstanceContrast
from dxmc_core.runtime.slices import slices_of

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
    counts = row_counts if row_counts is not None else exchange_row_counts(image_projections)
    width, num_rows = image_projections.shape[1], sum(counts)
    rows = torch.arange(len(image_projections), device=image_projections.device) + sum(counts[: rank()])
    if contrast == "info_nce":
        texts = all_gather_rows(text_projections, row_counts=counts)
        # The positive stands once more in the denominator, and so with twice its weight.
        twice = math.log(2.0)
        local_sum = _contrast_sum(
            image_projections, texts, rows, added_at=rows, added=twice, temperature=temperature, block_rows=block_rows
        )
        return all_reduce_sum(local_sum) / num_rows + twice
    own = torch.cat([image_projections, text_projections], dim=1)
    candidates = torch.cat(all_gather_rows(own, row_counts=counts).split(width, dim=1))
    local_sum = _contrast_sum(
        torch.cat(own.split(width, dim=1)),
        candidates,
        torch.cat([rows + num_rows, rows]),
        added_at=torch.cat([rows, rows + num_rows]),
        added=float("-inf"),
        temperature=temperature,
        block_rows=block_rows,
    )
    return all_reduce_sum(local_sum) / (2 * num_rows)


def _contrast_sum(
    anchors: Tensor,
    candidates: Tensor,
    positives: Tensor,
    *,
    added_at: Tensor,
    added: float,
    temperature: float,
    block_rows: int,
) -> Tensor:
    """Sum over anchors of -ln softmax(positive) among the candidates, a block of anchors at a time.

    Of several blocks the similarities are computed again for the gradient, so that those of one exist at a time.

    Args:
        anchors: (A, P); candidates (M, P).
        positives: (A,) the candidate that is each anchor's positive.
        added_at: (A,) the candidate of each anchor to whose logit `added` is added.
    """

    def of_block(anchors: Tensor, candidates: Tensor, positives: Tensor, added_at: Tensor) -> Tensor:
        logits = anchors @ candidates.T / temperature
        additions = logits.new_full((len(anchors), 1), added)
        return F.cross_entropy(logits.scatter_add(1, added_at[:, None], additions), positives, reduction="sum")

    blocks = list(slices_of(len(anchors), block_rows))
    if len(blocks) <= 1:  # none, for a rank without rows
        return of_block(anchors, candidates, positives, added_at)
    sums = [
        checkpoint(of_block, anchors[block], candidates, positives[block], added_at[block], use_reentrant=False)
        for block in blocks
    ]
    return torch.stack(sums).sum()
