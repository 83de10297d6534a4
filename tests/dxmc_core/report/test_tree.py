"""The flat walk over a cluster tree."""

from dxmc_core.report.data import TreeNode
from dxmc_core.report.tree import MAX_DEPTH, walk_tree


def leaf(cluster_id: int) -> TreeNode:
    return TreeNode(name=f"c{cluster_id}", size=1, cluster_id=cluster_id)


def test_steps_are_in_reading_order_and_every_branch_ends():
    tree = TreeNode(name="all", size=3, children=[TreeNode(name="left", size=2, children=[leaf(0), leaf(1)]), leaf(2)])
    steps = [(step.kind, step.node.name, step.depth) for step in walk_tree(tree)]
    assert steps == [
        ("branch", "all", 0),
        ("branch", "left", 1),
        ("leaf", "c0", 2),
        ("leaf", "c1", 2),
        ("end", "left", 1),
        ("leaf", "c2", 1),
        ("end", "all", 0),
    ]


def test_a_single_cluster_is_a_leaf():
    assert [step.kind for step in walk_tree(leaf(0))] == ["leaf"]


def test_a_chain_of_thousands_keeps_all_clusters_and_little_nesting():
    tree = leaf(0)
    for cluster_id in range(1, 3000):
        tree = TreeNode(name="joined", size=cluster_id + 1, children=[tree, leaf(cluster_id)])
    steps = list(walk_tree(tree))
    assert sorted(step.node.cluster_id for step in steps if step.kind == "leaf") == list(range(3000))
    assert max(step.depth for step in steps) == MAX_DEPTH
    assert [step.kind for step in steps].count("branch") == [step.kind for step in steps].count("end") == MAX_DEPTH
