"""best: the head starts as the discriminant, training keeps it near, and the loss terms are what the docstring says."""

import numpy as np
import torch
import torch.nn.functional as F

from dxmc_core.method.best.discriminant import fit_discriminant
from dxmc_core.method.clusters.metrics import clustering_accuracy
from dxmc_core.method.fit import assign, fit_heads
from dxmc_core.method.heads import DiscriminantHead, build_heads
from dxmc_core.method.hyperparameters import method_settings
from dxmc_core.method.neighbors.exact import nearest_neighbors
from dxmc_core.method.training_data import Batch, TrainingData

NUM_CLUSTERS, WIDTH = 5, 24


def planted(sizes: tuple[int, ...] = (40, 60, 80, 100, 20)) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows (N, D) float32 around five directions, of unequal number, and their groups (N,)."""
    generator = np.random.default_rng(0)
    centers = np.linalg.qr(generator.normal(size=(WIDTH, WIDTH)))[0][:NUM_CLUSTERS]
    groups = generator.permutation(np.repeat(np.arange(NUM_CLUSTERS), sizes))
    rows = centers[groups] + 0.08 * generator.normal(size=(len(groups), WIDTH))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), groups


def data_of(rows: np.ndarray) -> TrainingData:
    return TrainingData.from_arrays(rows, image_neighbors=nearest_neighbors(rows, num_neighbors=15))


def test_unbalanced_groups_are_found_and_unseen_rows_assigned() -> None:
    rows, groups = planted()
    fit = fit_heads("best", data_of(rows[:240]), num_clusters=NUM_CLUSTERS, use_text=False, num_epochs=3)
    labels = assign(fit.heads, torch.from_numpy(rows)).argmax(dim=1).numpy()
    assert clustering_accuracy(groups[:240], labels[:240]) > 0.98
    assert clustering_accuracy(groups[240:], labels[240:]) > 0.95


def test_same_seed_same_heads() -> None:
    rows, _ = planted()
    fits = [fit_heads("best", data_of(rows), num_clusters=5, use_text=False, num_epochs=2, seed=3) for _ in range(2)]
    first, second = (fit.heads.state_dict() for fit in fits)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_head_starts_as_the_discriminant_and_loads_again() -> None:
    rows, groups = planted()
    found = fit_discriminant(rows, groups, NUM_CLUSTERS)
    head = DiscriminantHead(WIDTH, NUM_CLUSTERS)
    head.start_from(*(torch.from_numpy(a) for a in (found.whitening.mean, found.whitening.matrix, found.centers)))
    probs = head.assignment_probs(torch.from_numpy(rows))
    assert np.array_equal(probs.argmax(dim=1).numpy(), found.predict(rows))
    loaded = build_heads(head.architecture())
    loaded.load_state_dict(head.state_dict())
    assert torch.equal(loaded.assignment_probs(torch.from_numpy(rows)), probs)


def test_loss_terms_are_the_definition() -> None:
    rows, _ = planted()
    settings = method_settings("best", NUM_CLUSTERS, len(rows), use_text=False, num_epochs=1)
    objective = settings.objective(WIDTH, NUM_CLUSTERS, seed=0)
    objective.prepare(data_of(rows), from_scratch=True)
    anchors, others = torch.arange(12), torch.arange(12, 24)
    images, neighbors = torch.from_numpy(rows)[anchors], torch.from_numpy(rows)[others]
    terms = objective.loss_terms(Batch(anchors, images, None, neighbors, None, row_counts=[12]))

    def probs(x: torch.Tensor) -> torch.Tensor:
        cosines = F.normalize(objective.heads.whitening(x), dim=1) @ F.normalize(objective.heads.centers, dim=1).T
        return (cosines / 0.1).softmax(dim=1)

    p, q = probs(images), probs(neighbors)
    agreement = -sum((p[i] @ q[i]).log() for i in range(12)) / 12
    target_error = -sum(p[i, objective.targets[i]].log() for i in range(12)) / 12
    mean = (p.mean(dim=0) + q.mean(dim=0)) / 2
    shares = torch.bincount(objective.targets, minlength=NUM_CLUSTERS) / len(rows)
    divergence = (mean * (mean / shares).log()).sum()
    torch.testing.assert_close(terms["consistency"], agreement)
    torch.testing.assert_close(terms["target_error"], target_error)
    torch.testing.assert_close(terms["shares"], divergence, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(terms["total"], agreement + 0.5 * target_error + divergence, atol=1e-5, rtol=1e-4)
