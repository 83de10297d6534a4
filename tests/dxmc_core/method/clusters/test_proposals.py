"""What a person is asked: planted mistakes of a clustering come first, and what was answered does not come again."""

import numpy as np
import pytest

from dxmc_core.method.clusters.proposals import Proposal, propose

NUM_CLASSES, ROWS, WIDTH = 12, 40, 32


@pytest.fixture(scope="module")
def planted() -> tuple[np.ndarray, np.ndarray]:
    """Twelve classes of 40 unit rows, and their classes."""
    rng = np.random.default_rng(3)
    centers = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0][:NUM_CLASSES]
    classes = np.repeat(np.arange(NUM_CLASSES), ROWS)
    rows = centers[classes] + 0.1 * rng.normal(size=(len(classes), WIDTH))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), classes


def ask(embeddings, clusters, **options) -> list[Proposal]:
    return propose(embeddings, clusters, np.bincount(clusters), **{"max_proposals": 100, **options})


def likeliest(proposals: list[Proposal], kind: str) -> Proposal:
    return max((found for found in proposals if found.kind == kind), key=lambda found: found.probability)


def test_a_class_in_two_clusters_is_the_pair_to_merge(planted):
    embeddings, classes = planted
    clusters = classes.copy()
    clusters[:20] = NUM_CLASSES
    found = likeliest(ask(embeddings, clusters), "merge")
    assert {found.first, found.second} == {0, NUM_CLASSES}
    assert found.num_images == 20


def test_a_cluster_of_two_classes_is_the_one_to_split(planted):
    embeddings, classes = planted
    clusters = np.where(classes == 11, 4, classes)
    found = likeliest(ask(embeddings, clusters), "split")
    assert (found.first, found.second) == (4, -1)
    assert {tuple(np.unique(classes[side])) for side in (found.group, found.other)} == {(4,), (11,)}


def test_a_group_in_the_wrong_cluster_is_the_one_to_move(planted):
    embeddings, classes = planted
    clusters = classes.copy()
    clusters[:15] = 7
    found = likeliest(ask(embeddings, clusters), "move")
    assert (found.first, found.second) == (7, 0)
    assert set(found.group.tolist()) == set(range(15))


def test_questions_come_in_the_order_of_the_images_they_put_right(planted):
    embeddings, classes = planted
    clusters = np.where(classes == 11, 4, classes)
    worth = [found.probability * found.num_images for found in ask(embeddings, clusters)]
    assert worth == sorted(worth, reverse=True)
    assert len(ask(embeddings, clusters, max_proposals=3)) == 3


def test_images_beyond_the_sample_count(planted):
    embeddings, classes = planted
    sizes = np.bincount(classes) * 50
    (found,) = propose(embeddings, classes, sizes, max_proposals=1)
    assert found.num_images >= 50


def test_what_was_answered_is_not_asked_again(planted):
    embeddings, classes = planted
    clusters = classes.copy()
    clusters[:20] = NUM_CLASSES
    merge = likeliest(ask(embeddings, clusters), "merge")
    pair = (int(merge.group[3]), int(merge.other[5]))
    again = ask(embeddings, clusters, apart=[pair])
    assert all({found.first, found.second} != {0, NUM_CLASSES} for found in again if found.kind == "merge")
    split = next(found for found in again if found.kind == "split")
    pair = (int(split.other[0]), int(split.group[0]))
    for found in ask(embeddings, clusters, together=[pair]):
        assert found.kind != "split" or len(set(pair) & set(found.group.tolist())) != 1


@pytest.mark.parametrize("clusters", [[0] * 12, list(range(12)), [0] * 5 + [1] * 5 + [2] * 2])
def test_where_nothing_can_be_compared_nothing_is_asked(clusters):
    assert ask(np.eye(12, 16), np.array(clusters)) == []


def test_nothing_is_asked_about_what_is_settled(planted):
    embeddings, classes = planted
    found = ask(embeddings, classes, settled=[0, 1])
    assert found
    assert {0, 1}.isdisjoint({proposal.first for proposal in found} | {proposal.second for proposal in found})


def test_a_cluster_without_images_is_left_out(planted):
    embeddings, classes = planted
    clusters = np.where(classes >= 6, classes + 1, classes)
    found = propose(embeddings, clusters, np.bincount(clusters), max_proposals=100)
    assert found
    assert all(6 not in (proposal.first, proposal.second) for proposal in found)


def test_the_order_of_rows_changes_nothing(planted):
    embeddings, classes = planted
    clusters = np.where(classes == 11, 4, classes)
    order = np.random.default_rng(0).permutation(len(clusters))
    told = [
        [(found.kind, found.first, found.second, found.num_images) for found in asked[:10]]
        for asked in (ask(embeddings, clusters), ask(embeddings[order], clusters[order]))
    ]
    assert sorted(told[0]) == sorted(told[1])
