"""What people know of rows, in the graph, in micro-clusters, in joins, and in what `best` finds."""

import numpy as np
import pytest

from dxmc_core.method.best.best_start import find_start
from dxmc_core.method.best.constraints import Constraints
from dxmc_core.method.clusters.ward import merge_points


def known(rows: list[int], groups: list[int], apart: list[tuple[int, int]] = []) -> Constraints:  # noqa: B006
    matrix = np.zeros((max(groups) + 1,) * 2, dtype=bool)
    for first, second in apart:
        matrix[first, second] = matrix[second, first] = True
    return Constraints(np.array(rows), np.array(groups), matrix)


def test_neighborhoods_take_in_mates_and_leave_out_what_is_apart() -> None:
    neighbors = np.array([[1, 2, 3, 4], [0, 2, 3, 4], [0, 1, 3, 4], [0, 1, 2, 4], [0, 1, 2, 3], [4, 3, 2, 1]])
    linked = known([0, 1, 5], [0, 1, 0], [(0, 1)]).linked(neighbors)
    assert linked[0].tolist() == [0, 2, 3, 5]
    assert linked[1].tolist() == [1, 2, 3, 4]
    assert linked[5].tolist() == [4, 3, 2, 0]
    assert np.array_equal(linked[2:5], neighbors[2:5])


def test_micro_clusters_hold_one_group_each() -> None:
    labels, tags = known([0, 1, 2, 5], [1, 0, 1, 0]).tagged(np.array([0, 0, 0, 1, 1, 1]))
    assert labels.tolist() == [0, 2, 0, 1, 1, 1]
    assert tags.tolist() == [1, 0, 0]


def test_joins_respect_tags() -> None:
    points = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [30.0]])
    tags = np.array([0, 1, -1, -1, -1, 0])
    parts = merge_points(points, np.ones(6), 3, tags=tags, apart=~np.eye(2, dtype=bool))
    assert parts[0] == parts[5]
    assert parts[0] != parts[1] == parts[2]
    assert len(set(parts)) == 3


def test_more_groups_apart_than_parts_are_joined_in_the_end() -> None:
    points = np.arange(5, dtype=float)[:, None]
    parts = merge_points(points, np.ones(5), 2, tags=np.arange(5), apart=~np.eye(5, dtype=bool))
    assert len(set(parts)) == 2


@pytest.mark.parametrize(
    ("rows", "groups", "apart"),
    [([1, 0], [0, 0], np.zeros((1, 1), bool)), ([0], [1], np.zeros((1, 1), bool)), ([0], [0], np.ones((1, 1), bool)),
     ([0, 1], [0, 1], np.array([[False, True], [False, False]]))],
)  # fmt: skip
def test_what_is_no_constraint_is_refused(rows: list[int], groups: list[int], apart: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected"):
        Constraints(np.array(rows), np.array(groups), apart)


def test_a_few_examples_mend_many_images() -> None:
    """Two classes lie in one blob along a direction of little weight, a third blob is wide and would be cut in two."""
    rng = np.random.default_rng(0)
    centers = np.zeros((3, 16))
    centers[0, [0, 2]], centers[1, [0, 3]], centers[2, 1] = (1, 0.25), (1, 0.25), 1
    labels = np.repeat([0, 1, 2], [100, 100, 200])
    spread = np.where(labels[:, None] == 2, 0.25, 0.06)
    rows = centers[labels] + spread * rng.normal(size=(400, 16))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    picked = np.concatenate([np.arange(5), 100 + np.arange(5), 200 + np.arange(5)])
    constraints = Constraints(picked, np.repeat([0, 1, 2], 5), ~np.eye(3, dtype=bool))
    found = find_start(rows, num_clusters=3, known=constraints).discriminant.labels
    of_class = [found[picked[5 * label]] for label in range(3)]
    assert len(set(of_class)) == 3
    assert np.array_equal(found[picked], np.repeat(of_class, 5))
    assert (found == np.array(of_class)[labels]).mean() > 0.95
