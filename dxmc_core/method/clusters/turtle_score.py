"""TURTLE's label-free score: how well linear classifiers generalise the labels of a clustering (ICML 2024).

It compares runs, methods and numbers of clusters without any label: a clustering that a hyperplane can tell apart on
images it has not seen follows the structure of the embeddings.
"""

import numpy as np
import torch
from torch import Tensor

from dxmc_core.method.unit_rows import unit_rows

_ROWS_PER_BLOCK = 16_384


def turtle_score(
    embeddings: np.ndarray,
    labels: np.ndarray,
    *,
    folds: int = 10,
    seed: int = 0,
    ridge: float = 0.1,
    corrected_for_chance: bool = False,
) -> float:
    """Cross-validated accuracy, 0..1, of a linear classifier that is trained on the labels of a clustering.

    The authors train logistic regression. Here it is ridge regression on one-hot labels, which has a closed form: two
    passes over the data and a D x D system for each fold, whatever N is.

    Args:
        embeddings: (N, D), rows normalised here.
        labels: (N,) cluster of every row, of any type that sorts.
        folds: at least 2; more than N are taken as N. Rows are dealt at random.
        ridge: penalty as a share of the mean variance of a column.
        corrected_for_chance: Cohen's kappa in place of the accuracy: 0 for a classifier that is right no more often
            than the frequencies of labels and predictions explain (all rows in one cluster, for example), which makes
            different numbers of clusters comparable.

    Raises:
        ValueError: other lengths, fewer than two rows or folds, or unusable rows.
    """
    if labels.shape != embeddings.shape[:1] or len(labels) < 2:
        raise ValueError(
            f"expected a label for each of at least 2 rows, found {labels.shape} labels for {embeddings.shape}"
        )
    if folds < 2 or not ridge > 0:
        raise ValueError(f"expected at least 2 folds and ridge above 0, found {folds} and {ridge}")
    rows = torch.from_numpy(unit_rows(embeddings, name="embeddings"))
    names, columns = np.unique(labels, return_inverse=True)
    targets = torch.from_numpy(columns.astype(np.int64))
    fold_of_row = np.random.default_rng(seed).permutation(len(rows)) % min(folds, len(rows))
    predictions = _cross_validated(rows, targets, torch.from_numpy(fold_of_row), len(names), ridge)
    accuracy = float((predictions == targets).double().mean())
    if not corrected_for_chance:
        return accuracy
    shares = [torch.bincount(ids, minlength=len(names)).double() / len(rows) for ids in (targets, predictions)]
    by_chance = float(shares[0] @ shares[1])
    return (accuracy - by_chance) / (1 - by_chance) if by_chance < 1 else 0.0


def _cross_validated(rows: Tensor, targets: Tensor, fold_of_row: Tensor, num_classes: int, ridge: float) -> Tensor:
    """Label (N,) of every row by the classifier that was trained on the other folds."""
    num_folds = int(fold_of_row.max()) + 1
    members = [(fold_of_row == fold).nonzero()[:, 0] for fold in range(num_folds)]
    moments = [_moments(rows, targets, own, num_classes) for own in members]
    total = [torch.stack(parts).sum(dim=0) for parts in zip(*moments, strict=True)]
    predictions = torch.empty_like(targets)
    for own, held_out in zip(members, moments, strict=True):
        gram, products, counts = (whole - part for whole, part in zip(total, held_out, strict=True))
        weights, bias = _ridge_classifier(gram, products, counts, ridge)
        for block in own.split(_ROWS_PER_BLOCK):
            predictions[block] = (rows[block] @ weights + bias).argmax(dim=1)
    return predictions


def _moments(rows: Tensor, targets: Tensor, members: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gram matrix (D, D), sum of the rows of every class (D, K) and class counts (K,), in float64."""
    width = rows.shape[1]
    gram = torch.zeros(width, width, dtype=torch.float64)
    sums = torch.zeros(num_classes, width, dtype=torch.float64)
    for block in members.split(_ROWS_PER_BLOCK):
        gram += rows[block].T @ rows[block]
        sums.index_add_(0, targets[block], rows[block].double())
    return gram, sums.T, torch.bincount(targets[members], minlength=num_classes).double()


def _ridge_classifier(gram: Tensor, products: Tensor, counts: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Weights (D, K) and bias (K,) of the regression of one-hot labels on centred rows; float32."""
    num_rows = counts.sum()
    mean, frequencies = products.sum(dim=1) / num_rows, counts / num_rows
    covariance = gram / num_rows - mean[:, None] * mean
    covariance.diagonal().add_(ridge * covariance.diagonal().mean().clamp_min(1e-12))
    weights = torch.linalg.solve(covariance, products / num_rows - mean[:, None] * frequencies)
    return weights.float(), (frequencies - mean @ weights).float()
