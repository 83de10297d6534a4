"""Every loss equals a naive loop in value and gradient, and does not depend on the block size."""

import math
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor

from dxmc_core.method import losses

NUM_ROWS, NUM_CLUSTERS = 7, 4
Loss = Callable[[Tensor, Tensor], Tensor]


def random_pair(*, width: int = NUM_CLUSTERS, num_rows: int = NUM_ROWS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(num_rows, width, generator=generator, dtype=torch.float64) for _ in range(2)]
    return draw[0].requires_grad_(), draw[1].requires_grad_()


def assert_same_value_and_gradient(found: Loss, reference: Loss, *, width: int = NUM_CLUSTERS) -> None:
    results = []
    for loss in (found, reference):
        first, second = random_pair(width=width)
        value = loss(first, second)
        value.backward()
        assert first.grad is not None
        gradients = [first.grad, torch.zeros_like(second) if second.grad is None else second.grad]
        results.append((value.detach(), *gradients))
    assert results[0][1].abs().max() > 1e-6
    for ours, naive in zip(*results, strict=True):
        torch.testing.assert_close(ours, naive, rtol=1e-9, atol=1e-12)


def add(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())


def naive_cluster_contrastive(probs: Tensor, other: Tensor, temperature: float, *, both_anchors: bool) -> Tensor:
    columns = [*probs.unbind(1), *other.unbind(1)]
    total = torch.zeros((), dtype=probs.dtype)
    for k in range(2 * NUM_CLUSTERS if both_anchors else NUM_CLUSTERS):
        positive = (k + NUM_CLUSTERS) % (2 * NUM_CLUSTERS)
        denominator = add(
            (cosine(columns[k], columns[j]) / temperature).exp() for j in range(2 * NUM_CLUSTERS) if j != k
        )
        total = total - ((cosine(columns[k], columns[positive]) / temperature).exp() / denominator).log()
    return total / (2 * NUM_CLUSTERS) if both_anchors else total


@pytest.mark.parametrize("fidelity", ["code", "paper"])
@pytest.mark.parametrize("temperature", [0.5, 5.0])
def test_cluster_contrastive(fidelity: losses.Fidelity, temperature: float) -> None:
    assert_same_value_and_gradient(
        lambda a, b: losses.cluster_contrastive(a.softmax(1), b.softmax(1), temperature=temperature, fidelity=fidelity),
        lambda a, b: naive_cluster_contrastive(
            a.softmax(1), b.softmax(1), temperature, both_anchors=fidelity == "code"
        ),
    )


def test_cluster_contrastive_prefers_matching_columns() -> None:
    one_hot = torch.eye(NUM_CLUSTERS).repeat(3, 1)
    matching = losses.cluster_contrastive(one_hot, one_hot, temperature=0.5)
    shifted = losses.cluster_contrastive(one_hot, one_hot.roll(1, dims=1), temperature=0.5)
    assert matching < shifted


def test_cluster_contrastive_survives_a_dead_cluster() -> None:
    probs = torch.eye(NUM_CLUSTERS)[[0, 1, 2, 2]].requires_grad_()
    losses.cluster_contrastive(probs, probs, temperature=0.5).backward()
    assert probs.grad is not None
    assert probs.grad.isfinite().all()


def test_assignment_entropy() -> None:
    def naive(a: Tensor, b: Tensor) -> Tensor:
        probs = a.softmax(1)
        means = [add(probs[i, k] for i in range(NUM_ROWS)) / NUM_ROWS for k in range(NUM_CLUSTERS)]
        return -add(mean * mean.log() for mean in means)

    assert_same_value_and_gradient(lambda a, b: losses.assignment_entropy(a.softmax(1)), naive)


def test_assignment_entropy_bounds() -> None:
    assert losses.assignment_entropy(torch.full((6, 8), 1 / 8)) == pytest.approx(math.log(8))
    collapsed = torch.eye(8)[[3, 3, 3]]
    assert losses.assignment_entropy(collapsed) == pytest.approx(0, abs=1e-6)


def test_consistency() -> None:
    def naive(a: Tensor, b: Tensor) -> Tensor:
        u, w = a.softmax(1), b.softmax(1)
        return -add((u[i] * w[i]).sum().log() for i in range(NUM_ROWS)) / NUM_ROWS

    assert_same_value_and_gradient(lambda a, b: losses.consistency(a.softmax(1), b.softmax(1)), naive)


def test_consistency_of_contradicting_rows_is_finite() -> None:
    rows = torch.eye(3, requires_grad=True)
    value = losses.consistency(rows, torch.eye(3).roll(1, dims=0))
    value.backward()
    assert value.isfinite()
    assert rows.grad is not None
    assert rows.grad.isfinite().all()


@pytest.mark.parametrize("weighted", [False, True])
def test_soft_cross_entropy(weighted: bool) -> None:
    weights = torch.linspace(0, 2, NUM_ROWS, dtype=torch.float64)

    def naive(a: Tensor, b: Tensor) -> Tensor:
        p, q = a.softmax(1), b.softmax(1)
        rows = [-add(q[i, k] * p[i, k].log() for k in range(NUM_CLUSTERS)) for i in range(NUM_ROWS)]
        return add(row * weights[i] if weighted else row for i, row in enumerate(rows)) / NUM_ROWS

    assert_same_value_and_gradient(
        lambda a, b: losses.soft_cross_entropy(a.log_softmax(1), b.softmax(1), weights=weights if weighted else None),
        naive,
    )


def test_symmetric_info_nce() -> None:
    def naive(a: Tensor, b: Tensor) -> Tensor:
        total = torch.zeros((), dtype=a.dtype)
        for i in range(NUM_ROWS):
            positive = (cosine(a[i], b[i]) / 0.3).exp()
            total = total - (positive / add((cosine(a[i], b[j]) / 0.3).exp() for j in range(NUM_ROWS))).log()
            total = total - (positive / add((cosine(b[i], a[j]) / 0.3).exp() for j in range(NUM_ROWS))).log()
        return total / (2 * NUM_ROWS)

    assert_same_value_and_gradient(lambda a, b: losses.symmetric_info_nce(a, b, temperature=0.3), naive, width=6)


@pytest.mark.parametrize("absent", [(), (1, 4)])
def test_prototype_contrastive(absent: tuple[int, ...]) -> None:
    kept = [k for k in range(NUM_ROWS) if k not in absent]
    present = torch.tensor([k in kept for k in range(NUM_ROWS)])

    def naive(a: Tensor, b: Tensor) -> Tensor:
        total = torch.zeros((), dtype=a.dtype)
        for k in kept:
            positive = (cosine(a[k], b[k]) / 0.5).exp()
            total = total - (positive / add((cosine(a[k], b[j]) / 0.5).exp() for j in kept)).log()
            total = total - (positive / add((cosine(b[k], a[j]) / 0.5).exp() for j in kept)).log()
        return total / (2 * len(kept))

    assert_same_value_and_gradient(
        lambda a, b: losses.prototype_contrastive(a, b, present=present, temperature=0.5), naive, width=6
    )


def test_prototype_contrastive_of_no_cluster_is_zero() -> None:
    first, second = random_pair()
    value = losses.prototype_contrastive(
        first, second, present=torch.zeros(NUM_ROWS, dtype=torch.bool), temperature=0.5
    )
    value.backward()
    assert value == 0
    assert first.grad is not None
    assert not first.grad.any()


NUM_HEADS = 3


def random_heads(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(NUM_HEADS, NUM_ROWS, NUM_CLUSTERS, generator=generator, dtype=torch.float64)


def naive_temi(students: list[Tensor], teachers: list[Tensor], mean: Tensor, beta: float) -> list[Tensor]:
    found = []
    for h in range(NUM_HEADS):
        total = torch.zeros((), dtype=mean.dtype)
        for i in range(NUM_ROWS):
            weight = add((teachers[0][g, i] * teachers[1][g, i]).sum() for g in range(NUM_HEADS)) / NUM_HEADS
            for student, teacher in ((students[0], teachers[1]), (students[1], teachers[0])):
                agreement = add((student[h, i, c] * teacher[h, i, c]) ** beta / mean[h, c] for c in range(NUM_CLUSTERS))
                total = total - weight * agreement.log() / 2
        found.append(total / NUM_ROWS)
    return found


def test_temi() -> None:
    teachers = [random_heads(seed).softmax(2) for seed in (3, 4)]
    mean = random_heads(5).softmax(2).mean(1)
    gradients = []
    for loss in (
        lambda s: losses.temi((s[0].log(), s[1].log()), (teachers[0].log(), teachers[1].log()), mean, beta=0.6)[0],
        lambda s: torch.stack(naive_temi(s, teachers, mean, 0.6)),
    ):
        logits = [random_heads(seed).requires_grad_() for seed in (1, 2)]
        values = loss([part.softmax(2) for part in logits])
        (values * torch.arange(1, NUM_HEADS + 1)).sum().backward()
        gradients.append((values.detach(), logits[0].grad, logits[1].grad))
    for ours, naive in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, naive, rtol=1e-9, atol=1e-12)


def test_temi_of_vanishing_probabilities_keeps_a_finite_gradient() -> None:
    logits = (1e3 * random_heads(1)).requires_grad_()
    teacher = (1e3 * random_heads(2)).log_softmax(2)
    uniform = torch.full((NUM_HEADS, NUM_CLUSTERS), 1 / NUM_CLUSTERS, dtype=torch.float64)
    values, weight = losses.temi((logits.log_softmax(2), logits.log_softmax(2)), (teacher, teacher), uniform)
    values.sum().backward()
    assert values.isfinite().all()
    assert weight.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def naive_nt_xent(a: Tensor, b: Tensor, temperature: float, similarity: Loss) -> Tensor:
    rows = [*a.unbind(0), *b.unbind(0)]
    total = torch.zeros((), dtype=a.dtype)
    for i in range(2 * NUM_ROWS):
        positive = (i + NUM_ROWS) % (2 * NUM_ROWS)
        others = [j for j in range(2 * NUM_ROWS) if j != i]
        denominator = add((similarity(rows[i], rows[j]) / temperature).exp() for j in others)
        total = total - ((similarity(rows[i], rows[positive]) / temperature).exp() / denominator).log()
    return total / (2 * NUM_ROWS)


def naive_info_nce(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    total = torch.zeros((), dtype=a.dtype)
    for i in range(NUM_ROWS):
        positive = (cosine(a[i], b[i]) / temperature).exp()
        denominator = positive + add((cosine(a[i], b[j]) / temperature).exp() for j in range(NUM_ROWS))
        total = total - (positive / denominator).log()
    return total / NUM_ROWS


@pytest.mark.parametrize("block_rows", [1, 3, 5, 2048])
@pytest.mark.parametrize("contrast", ["nt_xent_dot", "nt_xent_cosine", "info_nce"])
def test_instance_contrastive(contrast: losses.InstanceContrast, block_rows: int) -> None:
    naive: dict[str, Loss] = {
        "nt_xent_dot": lambda a, b: naive_nt_xent(a, b, 0.5, lambda x, y: (x * y).sum()),
        "nt_xent_cosine": lambda a, b: naive_nt_xent(a, b, 0.5, cosine),
        "info_nce": lambda a, b: naive_info_nce(a, b, 0.5),
    }
    assert_same_value_and_gradient(
        lambda a, b: losses.instance_contrastive(a, b, temperature=0.5, contrast=contrast, block_rows=block_rows),
        naive[contrast],
        width=6,
    )


def test_instance_contrastive_without_gradient_of_one_side() -> None:
    first, second = random_pair(width=6)
    losses.instance_contrastive(first, second.detach(), temperature=0.5).backward()
    alone = first.grad
    first.grad = None
    losses.instance_contrastive(first, second, temperature=0.5).backward()
    assert alone is not None
    torch.testing.assert_close(alone, first.grad)
