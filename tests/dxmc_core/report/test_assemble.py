"""From artifact rows and arrays to report data."""

import numpy as np
import pytest

from dxmc_core.report.assemble import (
    count_labels,
    doubtful_shares,
    duplicates_by_cluster,
    flatten_settings,
    gallery_positions,
    k_evidence,
    report_cluster,
    report_images,
    summarize_rejects,
    sureness_of,
    training_curves,
    tree_of,
)
from dxmc_core.report.data import NounEvidence

CLUSTER_ROW = {
    "cluster_id": 3,
    "size": 40,
    "name": "cat",
    "names": ["cat", "feline"],
    "name_source": "noun",
    "name_evidence": [{"noun": "cat", "synset_id": None, "share": 0.5, "margin": 0.25}],
    "exemplars": list(range(30)),
    "border": list(range(30, 40)),
    "cohesion": 0.75,
    "mean_confidence": 0.5,
    "nearest_clusters": [1, 2, 4, 5, 6, 7, 8],
}


def test_near_duplicates_stand_with_the_cluster_that_has_most_of_them():
    rows = np.array([1, 2, 3, 10, 11, 12, 13, 20, 21])
    groups = np.array([1, 1, 1, 10, 10, 10, 10, 20, 20])
    clusters = np.array([0, 0, 5, 0, 0, 0, 0, 5, 7])
    assert duplicates_by_cluster(rows, groups, clusters) == {0: [[10, 11, 12, 13], [1, 2]]}


def test_a_card_shows_some_of_many_near_duplicates():
    groups = [list(range(start, start + 9)) for start in range(0, 90, 9)]
    card = report_cluster(CLUSTER_ROW, near_duplicates=groups)
    assert card.near_duplicates == ((0, 1, 2, 3), (9, 10, 11, 12), (18, 19, 20, 21))
    assert card.num_near_duplicates == 10


def test_report_images_follow_the_rows_given():
    images = report_images(
        np.array([7, 2]),
        ["b.jpg", "a.jpg"],
        cluster_ids=np.array([1, 0], dtype=np.int32),
        sureness=np.array([0.25, 0.5]),
        runner_ups=np.array([-1, 1]),
        labels=["dog", None],
        thumbnails={2: b"picture"},
    )
    assert list(images) == [7, 2]
    assert (images[7].image_id, images[7].cluster_id, images[7].sureness) == ("b.jpg", 1, 0.25)
    assert (images[7].runner_up, images[7].label, images[7].thumbnail) == (None, "dog", None)
    assert (images[2].runner_up, images[2].label, images[2].thumbnail) == (1, None, b"picture")


def test_report_cluster_is_cut_to_a_card():
    cluster = report_cluster(CLUSTER_ROW, label_counts={"tabby": 3})
    assert cluster.exemplars == tuple(range(12))
    assert cluster.border == tuple(range(30, 36))
    assert cluster.nearest_clusters == (1, 2, 4, 5, 6)
    assert cluster.evidence == (NounEvidence(noun="cat", share=0.5, margin=0.25),)
    assert cluster.label_counts == {"tabby": 3}


def test_count_labels_leaves_unlabelled_rows_out():
    counts = count_labels(np.array([0, 0, 0, 1, 1]), ["a", "b", "b", None, "a"])
    assert counts == {0: {"b": 2, "a": 1}, 1: {"a": 1}}
    assert list(counts[0]) == ["b", "a"]


def test_gallery_positions_take_the_extremes_and_no_nan():
    scores = np.array([0.5, np.nan, 0.1, 0.9, 0.1], dtype=np.float32)
    assert gallery_positions(scores, count=3, largest=False).tolist() == [2, 4, 0]
    assert gallery_positions(scores, count=9, largest=True).tolist() == [3, 0, 2, 4]


def test_rejects_keep_examples_of_every_reason():
    rows = [
        {"image_id": f"{index}.jpg", "uri": "", "reason": reason, "message": "m"}
        for index, reason in enumerate(["empty"] * 90 + ["truncated"] * 3)
    ]
    rejects = summarize_rejects(rows, num_examples=10)
    assert rejects.counts == {"empty": 90, "truncated": 3}
    assert rejects.total == 93
    assert [reject.reason for reject in rejects.examples] == ["empty"] * 5 + ["truncated"] * 3


def test_training_curves_order_epochs_and_keep_the_last_report_of_each():
    reports = [
        {"epoch": 2, "terms": {"cluster": 2.0, "total": 3.0}, "balance": 0.9, "num_changed": 4},
        {"epoch": 1, "terms": {"cluster": 9.0, "total": 9.0}, "balance": 0.1, "num_changed": None},
        {"epoch": 1, "terms": {"cluster": 4.0, "total": 5.0}, "balance": 0.8, "num_changed": None},
    ]
    curves = training_curves(reports)
    assert [curve.title for curve in curves] == [
        "Loss: total",
        "Loss: cluster",
        "Evenness of the cluster sizes",
        "Images that changed cluster",
    ]
    assert (curves[0].series[0].x, curves[0].series[0].y) == ([1, 2], [5.0, 3.0])
    assert np.isnan(curves[3].series[0].y[0])
    assert curves[3].series[0].y[1] == 4.0


def test_training_curves_without_full_passes_have_losses_only():
    curves = training_curves([{"epoch": 1, "terms": {"total": 1.0}, "balance": None, "num_changed": None}])
    assert [curve.title for curve in curves] == ["Loss: total"]
    assert training_curves([]) == ()


def test_settings_become_dotted_texts():
    settings = {"method": {"name": "dxmc", "betas": [0.9, 0.99]}, "seed": 0, "resources": {}}
    assert flatten_settings(settings) == {
        "method.name": "dxmc",
        "method.betas": "[0.9, 0.99]",
        "seed": "0",
        "resources": "{}",
    }


def node(node_id, parent, size, cluster_id=None):
    name = f"node {node_id}"
    return {"node_id": node_id, "parent": parent, "cluster_id": cluster_id, "size": size, "name": name}


def test_the_tree_of_the_artifact_has_the_larger_child_first():
    rows = [node(0, 3, 10, 7), node(1, 3, 30, 8), node(2, 4, 100, 9), node(3, 4, 40), node(4, None, 140)]
    tree = tree_of(rows)
    assert tree is not None
    assert (tree.name, tree.size) == ("node 4", 140)
    assert [child.cluster_id for child in tree.children] == [9, None]
    assert [child.cluster_id for child in tree.children[1].children] == [8, 7]


def test_one_cluster_has_no_tree():
    assert tree_of([node(0, None, 10, 7)]) is None
    assert tree_of([]) is None


def test_k_evidence_marks_the_suggestions_on_every_curve():
    scores = {"stability": 0.5, "separability": 0.25, "compactness": 1.0}
    rows = [
        {"num_clusters": 4, **scores, "overall": 0.5, "rank": 2, "reason": "fair"},
        {"num_clusters": 6, **scores, "overall": 0.1, "rank": None, "reason": None},
        {"num_clusters": 8, **scores, "overall": 0.9, "rank": 1, "reason": "good"},
    ]
    evidence = k_evidence(rows)
    assert [(best.num_clusters, best.reason) for best in evidence.suggestions] == [(8, "good"), (4, "fair")]
    assert [list(curve.series[0].x) for curve in evidence.curves] == 4 * [[4, 6, 8]]
    assert list(evidence.curves[0].series[0].y) == [0.5, 0.1, 0.9]
    assert all(list(curve.marks) == [8, 4] for curve in evidence.curves)


def test_sureness_is_the_share_of_lower_confidences_with_ties_halved():
    np.testing.assert_allclose(sureness_of(np.array([0.9, 0.2, 0.5, 0.5])), [0.875, 0.125, 0.5, 0.5])
    np.testing.assert_allclose(sureness_of(np.full(50, 0.99)), 0.5)


def test_doubtful_share_counts_members_among_the_least_sure_tenth():
    cluster_ids = np.repeat([4, 9], [60, 40])
    confidences = np.concatenate([np.linspace(0.5, 1, 60), np.full(40, 0.4)])
    confidences[60:68] = 0.1
    shares = doubtful_shares(cluster_ids, sureness_of(confidences))
    assert shares == {4: 0.0, 9: pytest.approx(0.2)}
