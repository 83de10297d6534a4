"""The spectral consensus against a dense singular value decomposition, and on partitions with errors."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from dxmc_core.method import co_association
from dxmc_core.method.co_association import co_associate, consensus_partition
from dxmc_core.method.metrics import external_scores


def _noisy_partitions(
    truth: np.ndarray, *, error: float, count: int, parts: int = 1, seed: int = 0
) -> list[np.ndarray]:
    """Partitions that cut every cluster into parts at random and misplace a share of the rows."""
    rng = np.random.default_rng(0)
    num_clusters = int(truth.max()) + 1
    partitions = []
    for _ in range(count):
        labels = np.where(rng.random(len(truth)) < error, rng.integers(num_clusters, size=len(truth)), truth)
        labels = labels * parts + rng.integers(parts, size=len(truth))
        partitions.append(rng.permutation(num_clusters * parts)[labels])
    return partitions


def _incidence(partitions: list[np.ndarray]) -> np.ndarray:
    columns = [labels[:, None] == np.unique(labels) for labels in partitions]
    return np.concatenate(columns, axis=1).astype(float)


def test_coordinates_are_the_leading_left_singular_vectors():
    truth = np.arange(90) % 3
    partitions = _noisy_partitions(truth, error=0.2, count=4)
    incidence = _incidence(partitions)
    left, _, _ = np.linalg.svd(incidence / np.sqrt(incidence.sum(axis=0)), full_matrices=False)
    expected = left[:, :3] / np.linalg.norm(left[:, :3], axis=1, keepdims=True)
    found = co_associate(partitions, 3).coordinates(slice(None))
    # Vectors are known up to a rotation, so cosines between rows are compared.
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-4)


def test_iterative_eigenvectors_span_what_dense_ones_do(monkeypatch):
    partitions = _noisy_partitions(np.arange(300) % 6, error=0.3, count=5, parts=2)
    dense = co_associate(partitions, 6).coordinates(slice(None))
    monkeypatch.setattr(co_association, "_MAX_DENSE_CLUSTERS", 0)
    iterative = co_associate(partitions, 6).coordinates(slice(None))
    np.testing.assert_allclose(iterative @ iterative.T, dense @ dense.T, atol=1e-2)


def test_iterative_eigenvectors_keep_clusters_apart_that_all_partitions_agree_on(monkeypatch):
    """One eigenvalue ten times over, at which Lanczos iterations lost clusters."""
    monkeypatch.setattr(co_association, "_MAX_DENSE_CLUSTERS", 0)
    truth = np.arange(2000) % 10
    partitions = _noisy_partitions(truth, error=0, count=12, parts=6)
    assert external_scores(truth, consensus_partition(partitions, 10))["acc"] == 1


def test_more_dimensions_than_clusters_are_cut():
    embedded = co_associate([np.array([0, 0, 1, 1])], 5)
    assert embedded.cluster_coordinates.shape == (2, 2)


@pytest.mark.parametrize("parts", [1, 3])
def test_errors_of_single_partitions_cancel_out(parts):
    truth = np.arange(600) % 6
    partitions = _noisy_partitions(truth, error=0.3, count=12, parts=parts)
    assert external_scores(truth, consensus_partition(partitions, 6))["acc"] > 0.97


def test_small_clusters_survive_beside_large_ones():
    truth = np.repeat(np.arange(4), [600, 200, 60, 20])
    # Parts of equal size, as k-means makes them: the largest cluster is cut most often.
    rng = np.random.default_rng(0)
    partitions = [np.repeat(np.arange(44), 20)[np.argsort(np.lexsort((rng.random(880), truth)))] for _ in range(30)]
    labels = consensus_partition(partitions, 4)
    assert external_scores(truth, labels)["acc"] > 0.97


def test_names_of_the_parts_do_not_matter_and_a_seed_repeats():
    partitions = _noisy_partitions(np.arange(200) % 4, error=0.3, count=6)
    renamed = [labels + 7 for labels in partitions]
    first = consensus_partition(partitions, 4, seed=3)
    np.testing.assert_array_equal(first, consensus_partition(renamed, 4, seed=3))
    np.testing.assert_array_equal(first, consensus_partition(partitions, 4, seed=3))


def test_rows_beyond_the_sample_are_assigned_too(monkeypatch):
    truth = np.arange(1000) % 5
    partitions = _noisy_partitions(truth, error=0.2, count=10)
    monkeypatch.setattr(co_association, "_MAX_POINTS_PER_CENTER", 20)
    monkeypatch.setattr(co_association, "_ROWS_PER_BLOCK", 64)
    assert external_scores(truth, consensus_partition(partitions, 5))["acc"] > 0.97


def test_a_row_outside_all_coordinates_gets_a_unit_row():
    embedded = co_association.CoAssociation(np.zeros((2, 3), dtype=np.float32), np.array([[0, 1]], dtype=np.int32))
    assert np.linalg.norm(embedded.coordinates(slice(None))) == pytest.approx(1)


def test_incidence_reference_counts_every_row_once_a_partition():
    partitions = _noisy_partitions(np.arange(40) % 4, error=0.5, count=3)
    memberships, sizes = co_association._memberships(partitions)
    ones = np.ones(memberships.size)
    built = csr_array((ones, memberships.ravel(), np.arange(0, 121, 3)), (40, len(sizes))).toarray()
    np.testing.assert_array_equal(built, _incidence(partitions))
    np.testing.assert_array_equal(sizes, built.sum(axis=0))
