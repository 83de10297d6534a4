"""Scores against hand-worked cases, exhaustive matching and scikit-learn."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_samples

from dxmc_core.method.clusters.metrics import (
    clustering_accuracy,
    cross_tabulate,
    external_scores,
    label_free_scores,
    stability,
)
from dxmc_core.method.neighbors.exact import nearest_neighbors


def naive_accuracy(true: list[int], pred: list[int]) -> float:
    """Best accuracy over all injective maps between clusters and classes."""
    classes, clusters = sorted(set(true)), sorted(set(pred))
    padded = classes + [None] * max(0, len(clusters) - len(classes))
    best = 0
    for image in permutations(padded, len(clusters)):
        to_class = dict(zip(clusters, image, strict=True))
        best = max(best, sum(to_class[cluster] == label for label, cluster in zip(true, pred, strict=True)))
    return best / len(true)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=25))
def test_accuracy_is_the_best_matching(pairs: list[tuple[int, int]]) -> None:
    true, pred = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    assert clustering_accuracy(true, pred) == pytest.approx(naive_accuracy(true, pred))


def test_strings_and_numbers_are_labels_alike() -> None:
    animals = np.array(["cat", "cat", "dog", "dog", "emu", "emu"])
    perfect = external_scores(animals, [7, 7, -1, -1, 3, 3])
    assert perfect == pytest.approx({"acc": 1, "nmi": 1, "ari": 1})
    assert external_scores(list(animals), ["a", "a", "a", "b", "c", "c"])["acc"] == pytest.approx(5 / 6)


def test_nmi_and_ari_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    true, pred = rng.integers(5, size=300), rng.integers(8, size=300)
    pred[:200] = true[:200]
    scores = external_scores(true, pred)
    assert scores["nmi"] == pytest.approx(normalized_mutual_info_score(true, pred))
    assert scores["ari"] == pytest.approx(adjusted_rand_score(true, pred))


def test_names_of_labels_and_order_of_rows_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    true, pred, order = rng.integers(4, size=100), rng.integers(6, size=100), rng.permutation(100)
    renamed = rng.permutation(6)[pred]
    assert external_scores(true, pred) == pytest.approx(external_scores(true[order], renamed[order]))


def test_more_clusters_than_classes_cost_accuracy() -> None:
    assert clustering_accuracy([0, 0, 0, 0], [0, 1, 2, 3]) == 0.25
    assert clustering_accuracy([0, 1, 2, 3], [0, 0, 0, 0]) == 0.25


def test_labels_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shapes \(3,\) and \(2,\)"):
        external_scores([0, 1, 2], [0, 1])
    with pytest.raises(ValueError, match="non-empty"):
        clustering_accuracy([], [])


def clusters(num_rows: int, num_clusters: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(num_rows) % num_clusters
    rows = rng.standard_normal((num_clusters, 12))[labels] + noise * rng.standard_normal((num_rows, 12))
    return rows, labels


@pytest.mark.parametrize("noise", [0.1, 2.0])
def test_silhouette_is_that_of_scikit_learn_without_pairs_of_rows(noise: float) -> None:
    rows, labels = clusters(150, 7, noise)
    labels[0] = 99  # alone in its cluster
    expected = silhouette_samples(rows, labels, metric="cosine").mean()
    assert label_free_scores(rows, labels)["silhouette"] == pytest.approx(expected, abs=1e-5)


def test_agreement_is_the_share_of_neighbors_with_the_same_label() -> None:
    rows, labels = clusters(60, 4, 1.0)
    nearest = nearest_neighbors(rows, num_neighbors=5)
    expected = np.mean([labels[other] == labels[row] for row in range(60) for other in nearest[row]])
    assert label_free_scores(rows, labels, num_neighbors=5)["neighbor_agreement"] == pytest.approx(expected)
    known = nearest_neighbors(rows, num_neighbors=20)
    given_neighbors = label_free_scores(rows, labels, neighbors=known, num_neighbors=5)
    assert given_neighbors["neighbor_agreement"] == pytest.approx(expected)


def test_good_clusterings_score_higher_than_bad_ones() -> None:
    rows, labels = clusters(200, 5, 0.3)
    good = label_free_scores(rows, labels)
    bad = label_free_scores(rows, np.random.default_rng(0).integers(5, size=200))
    assert good["silhouette"] > 0.5 > 0.1 > bad["silhouette"]
    assert good["neighbor_agreement"] == 1 > bad["neighbor_agreement"]


def test_balance_is_the_entropy_of_the_sizes() -> None:
    rows, _ = clusters(8, 2, 1.0)
    scores = label_free_scores(rows, list("aaaabbcd"))
    shares = np.array([4, 2, 1, 1]) / 8
    assert scores["balance"] == pytest.approx(-(shares * np.log(shares)).sum() / np.log(4))
    assert scores["largest_share"] == 0.5
    assert label_free_scores(rows, np.arange(8) % 4)["balance"] == pytest.approx(1)
    assert label_free_scores(rows, np.arange(8) % 4, num_clusters=16)["balance"] == pytest.approx(0.5)


def test_a_sample_stands_for_all_rows() -> None:
    rows, labels = clusters(3000, 6, 1.0)
    whole, sample = label_free_scores(rows, labels), label_free_scores(rows, labels, max_rows=1000)
    assert sample == pytest.approx(whole, abs=0.03)
    assert sample != whole
    assert sample == label_free_scores(rows, labels, max_rows=1000)


def test_one_cluster_and_one_row_have_scores() -> None:
    rows, _ = clusters(10, 2, 1.0)
    one = {"silhouette": 0.0, "neighbor_agreement": 1.0, "balance": 1.0, "largest_share": 1.0}
    assert label_free_scores(rows, np.zeros(10, dtype=int)) == one
    assert label_free_scores(rows[:1], ["a"]) == one
    assert label_free_scores(np.repeat(rows[:1], 6, axis=0), [0, 0, 0, 1, 1, 1])["silhouette"] == pytest.approx(0)


def test_labels_and_neighbors_that_do_not_fit_are_refused() -> None:
    rows, labels = clusters(10, 2, 1.0)
    with pytest.raises(ValueError, match="one label for each of 10 rows"):
        label_free_scores(rows, labels[:9])
    with pytest.raises(ValueError, match=r"neighbors of shape \(10, k\)"):
        label_free_scores(rows, labels, neighbors=np.zeros((9, 3), dtype=int))
    with pytest.raises(ValueError, match="at least the 2 clusters found"):
        label_free_scores(rows, labels, num_clusters=1)


def test_cross_table_names_its_rows_and_columns() -> None:
    table = cross_tabulate(["b", "a", "a", "c", "a"], [5, 9, 9, 5, 5])
    assert (table.first.tolist(), table.second.tolist()) == (["a", "b", "c"], [5, 9])
    assert table.counts.tolist() == [[1, 2], [1, 0], [1, 0]]
    assert table.matched[0] == 1
    assert sorted(table.matched[1:].tolist()) == [-1, 0]
    assert table.num_matched.sum() == 3


def test_stability_is_the_agreement_of_pairs():
    rows = np.arange(40) % 4
    assert stability([rows, (rows + 1) % 4, 3 - rows]) == 1
    half = np.where(np.arange(40) < 20, rows, 0)
    assert 0 < stability([rows, half]) < 1
