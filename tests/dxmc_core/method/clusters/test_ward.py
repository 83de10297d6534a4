"""Ward's tree and merged points against SciPy's and against greedy loops with weights."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage

from dxmc_core.method.clusters import ward
from dxmc_core.method.clusters.metrics import clustering_accuracy
from dxmc_core.method.clusters.ward import merge_points, ward_tree


def greedy_tree(points, weights):
    """All pairs, again and again: (height, set of points) of every join."""
    nodes = [(frozenset([i]), points[i].astype(float), float(weights[i])) for i in range(len(points))]
    joined = []
    while len(nodes) > 1:
        cost, a, b = min(
            (2 * wa * wb / (wa + wb) * ((ca - cb) ** 2).sum(), i, j)
            for i, (_, ca, wa) in enumerate(nodes)
            for j, (_, cb, wb) in enumerate(nodes[:i])
        )
        (pa, ca, wa), (pb, cb, wb) = nodes[a], nodes[b]
        nodes = [node for k, node in enumerate(nodes) if k not in (a, b)]
        nodes.append((pa | pb, (wa * ca + wb * cb) / (wa + wb), wa + wb))
        joined.append((np.sqrt(cost), pa | pb))
    return joined


def members(tree):
    found = [frozenset([i]) for i in range(tree.num_points)]
    for a, b in tree.joins:
        found.append(found[a] | found[b])
    return found[tree.num_points :]


def test_weights_count_as_repeated_points_would():
    generator = np.random.default_rng(0)
    points, weights = generator.normal(size=(30, 4)), generator.integers(1, 9, size=30)
    tree = ward_tree(points, weights)
    expected = greedy_tree(points, weights)
    np.testing.assert_allclose(tree.heights, [height for height, _ in expected])
    assert members(tree) == [joined for _, joined in expected]
    assert tree.weights[-1] == weights.sum()


def test_equal_weights_give_scipys_tree_and_cuts():
    points = np.random.default_rng(1).normal(size=(80, 6))
    tree = ward_tree(points, np.ones(80))
    expected = linkage(points, "ward")
    np.testing.assert_allclose(tree.heights, expected[:, 2])
    for num_parts in (1, 2, 7, 40, 80):
        parts = tree.cut(num_parts)
        assert len(np.unique(parts)) == num_parts == parts.max() + 1
        assert clustering_accuracy(fcluster(expected, num_parts, "maxclust"), parts) == 1
        assert (np.diff(np.unique(parts, return_index=True)[1]) > 0).all()


def test_duplicates_join_first_and_no_node_lies_below_its_children():
    generator = np.random.default_rng(2)
    points = np.repeat(generator.normal(size=(12, 3)), 5, axis=0)
    tree = ward_tree(points, np.ones(60))
    assert (np.diff(tree.heights) >= 0).all()
    np.testing.assert_allclose(tree.heights[:48], 0, atol=1e-6)
    assert (tree.joins.max(axis=1) < 60 + np.arange(59)).all()
    assert clustering_accuracy(np.repeat(np.arange(12), 5), tree.cut(12)) == 1


def test_a_single_point_is_a_tree():
    tree = ward_tree(np.ones((1, 3)), np.ones(1))
    assert (tree.num_points, tree.joins.shape) == (1, (0, 2))
    assert tree.cut(1).tolist() == [0]


@pytest.mark.parametrize(
    ("points", "weights"),
    [
        (np.ones((0, 3)), np.ones(0)),
        (np.full((2, 3), np.nan), np.ones(2)),
        (np.ones((2, 3)), np.ones(3)),
        (np.ones((2, 3)), np.array([1.0, 0.0])),
    ],
)
def test_unusable_points_and_weights(points, weights):
    with pytest.raises(ValueError, match="expected"):
        ward_tree(points, weights)


def test_there_are_as_many_parts_as_points_at_most():
    tree = ward_tree(np.eye(3), np.ones(3))
    for num_parts in (0, 4):
        with pytest.raises(ValueError, match="num_parts between 1 and 3"):
            tree.cut(num_parts)


def greedy_parts(points, weights, num_parts, exponent):
    """All pairs, again and again: the sets of points that are left."""
    nodes = [([i], points[i].astype(float), float(weights[i])) for i in range(len(points))]
    while len(nodes) > num_parts:
        _, a, b = min(
            (((ca - cb) ** 2).sum() * (wa * wb / (wa + wb)) ** exponent, i, j)
            for i, (_, ca, wa) in enumerate(nodes)
            for j, (_, cb, wb) in enumerate(nodes[:i])
        )
        (pa, ca, wa), (pb, cb, wb) = nodes[a], nodes[b]
        nodes = [node for k, node in enumerate(nodes) if k not in (a, b)]
        nodes.append((pa + pb, (wa * ca + wb * cb) / (wa + wb), wa + wb))
    return {frozenset(part) for part, _, _ in nodes}


def parts_of(labels):
    return {frozenset(np.flatnonzero(labels == part).tolist()) for part in np.unique(labels)}


@pytest.mark.parametrize("exponent", [1.0, 0.5, 0.25, 0.0])
@pytest.mark.parametrize("num_parts", [1, 3, 10, 36])
def test_merged_points_are_those_of_a_greedy_loop(exponent, num_parts):
    generator = np.random.default_rng(3)
    points, weights = generator.normal(size=(36, 5)), generator.integers(1, 50, size=36)
    found = merge_points(points, weights, num_parts, size_exponent=exponent)
    assert parts_of(found) == greedy_parts(points, weights, num_parts, exponent)
    # Numbered by their first points.
    assert (np.diff(np.unique(found, return_index=True)[1]) > 0).all()


def test_merged_points_of_weight_one_are_scipys():
    points = np.random.default_rng(4).normal(size=(90, 6))
    expected = linkage(points, "ward")
    for num_parts in (2, 9, 40):
        found = merge_points(points, np.ones(90), num_parts)
        assert clustering_accuracy(fcluster(expected, num_parts, "maxclust"), found) == 1


def test_merging_does_not_depend_on_the_block_size(monkeypatch):
    generator = np.random.default_rng(5)
    points, weights = generator.normal(size=(50, 4)), generator.integers(1, 9, size=50)
    whole = merge_points(points, weights, 6)
    monkeypatch.setattr(ward, "_COSTS_PER_BLOCK", 150)
    np.testing.assert_array_equal(merge_points(points, weights, 6), whole)


@pytest.mark.parametrize("exponent", [1.0, 0.0])
def test_copies_are_merged_first(exponent):
    """float32 sees copies as nearly, not always wholly, equal."""
    distinct = np.random.default_rng(6).normal(size=(7, 5))
    truth = np.arange(28) % 7
    found = merge_points(distinct[truth], np.arange(1, 29), 7, size_exponent=exponent)
    assert clustering_accuracy(truth, found) == 1


def test_smaller_exponents_keep_heavy_points_together():
    """Two heavy points near one another and two light ones a little further apart, far from the heavy ones."""
    points, weights = np.array([[0.0], [1.0], [9.0], [10.5]]), np.array([100, 100, 1, 1])
    assert merge_points(points, weights, 3, size_exponent=1.0).tolist() == [0, 1, 2, 2]
    assert merge_points(points, weights, 3, size_exponent=0.0).tolist() == [0, 0, 1, 2]
