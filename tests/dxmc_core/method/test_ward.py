"""Ward's tree against SciPy's and against a greedy loop with weights."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage

from dxmc_core.method.metrics import clustering_accuracy
from dxmc_core.method.ward import ward_tree


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
