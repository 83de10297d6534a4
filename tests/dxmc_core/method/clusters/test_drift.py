"""Drift: figures of several nights add up, and each direction of getting worse has its own sign."""

import numpy as np
import pytest

from dxmc_core.method.clusters.drift import AssignmentFigures, far_distance, held_out_distances, measure_drift


def figures(count, *, confidence=0.8, margin=0.5, distance=1.0, far=2.0):
    return AssignmentFigures.of(
        np.full(count, confidence), np.full(count, margin), np.full(count, distance), far=far
    )  # fmt: skip


def test_figures_of_parts_add_up_to_those_of_the_whole():
    generator = np.random.default_rng(0)
    columns = generator.random((3, 100)).astype(np.float32)
    whole = AssignmentFigures.of(*columns, far=0.9)
    parts = AssignmentFigures.of(*columns[:, :37], far=0.9) + AssignmentFigures.of(*columns[:, 37:], far=0.9)
    assert (parts.num_images, parts.num_far, parts.num_low_margin) == (100, whole.num_far, whole.num_low_margin)
    assert parts.confidence == pytest.approx(whole.confidence)
    assert whole.summary() == pytest.approx(
        {
            "mean_confidence": columns[0].mean(),
            "mean_distance": columns[2].mean(),
            "low_margin_share": (columns[1] < 0.2).mean(),
            "far_share": (columns[2] > 0.9).mean(),
        }
    )


def test_one_image_in_a_hundred_is_far_out():
    distances = np.arange(1000.0)
    assert (distances > far_distance(distances)).mean() == pytest.approx(0.01)


def test_held_out_distances_are_those_to_the_centre_of_the_others():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(40, 16)) + np.repeat(3 * np.eye(16)[:2], [30, 10], axis=0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    labels = np.repeat([0, 1], [30, 10])

    def to_center(row, members):
        center = rows[members].sum(axis=0)
        return 1 - rows[row] @ center / np.linalg.norm(center)

    inside = np.array([to_center(row, labels == labels[row]) for row in range(40)])
    means = np.array([inside[labels == label].mean() for label in (0, 1)])
    outside = [to_center(row, (labels == labels[row]) & (np.arange(40) != row)) for row in range(40)]
    found = held_out_distances(inside / means[labels], labels, means)
    np.testing.assert_allclose(found * means[labels], outside, rtol=1e-9)


def test_cluster_of_one_image_or_of_equal_ones_has_no_other_distance():
    distances = np.array([0.0, 0.0, 0.0])
    found = held_out_distances(distances, np.array([0, 1, 1]), np.array([0.0, 0.0]))
    assert found.tolist() == [0, 0, 0]


def test_no_arrivals_no_drift():
    assert set(measure_drift(figures(10), AssignmentFigures()).as_dict().values()) == {0}
    with pytest.raises(ValueError, match="reference with images"):
        measure_drift(AssignmentFigures(), figures(3))


@pytest.mark.parametrize(
    ("name", "worse", "expected"),
    [
        ("confidence_drop", {"confidence": 0.6}, 0.2),
        ("low_margin_rise", {"margin": 0.1}, 1.0),
        ("distance_rise", {"distance": 1.5}, 0.5),
        ("far_rise", {"distance": 2.5}, 1.0),
    ],
)
def test_what_gets_worse_counts_and_what_gets_better_is_negative(name, worse, expected):
    before, after = figures(50), figures(20, **worse)
    assert getattr(measure_drift(before, after), name) == pytest.approx(expected)
    assert getattr(measure_drift(after, before), name) < 0
    assert measure_drift(before, after).num_arrivals == 20
