"""Ids stay where clusters stay; the lineage accounts for every cluster exactly once."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array

from dxmc_core.method.clusters.cluster_identity import Identities, keep_identities, same_identities


def overlaps_of(before, now, num_clusters):
    """(P, K) counts over images in both, and the (P,) previous ids; -1 is an image that is in one clustering only."""
    previous_ids = np.unique(before[before >= 0])
    counts = np.zeros((len(previous_ids), num_clusters), dtype=np.int64)
    for old, new in zip(before, now, strict=True):
        if old >= 0 and new >= 0:
            counts[np.searchsorted(previous_ids, old), new] += 1
    return csr_array(counts), previous_ids


def keep(before, now, num_clusters, ids_given):
    before, now = np.asarray(before), np.asarray(now)
    overlaps, previous_ids = overlaps_of(before, now, num_clusters)
    sizes = np.bincount(now[now >= 0], minlength=num_clusters)
    return keep_identities(overlaps, previous_ids, sizes, ids_given=ids_given)


def rows(identities):
    return [(row.kind, row.previous_id, row.cluster_id, row.overlap) for row in identities.lineage]


@st.composite
def generations(draw):
    """Images with ids before (-1: arrived) and labels now (-1: deleted), at least one in both."""
    num_clusters = draw(st.integers(2, 6))
    ids_given = draw(st.integers(2, 9))
    ids = draw(st.lists(st.integers(0, ids_given - 1), min_size=1, max_size=6, unique=True))
    images = draw(
        st.lists(
            st.tuples(st.sampled_from([-1, *ids]), st.integers(-1, num_clusters - 1)).filter(
                lambda pair: max(pair) >= 0
            ),
            max_size=60,
        )
    )
    images.append((ids[0], draw(st.integers(0, num_clusters - 1))))
    before, now = np.array(images).T
    return before, now, num_clusters, ids_given


@given(generations())
def test_every_cluster_is_accounted_for_once_and_ids_are_never_reused(generation):
    before, now, num_clusters, ids_given = generation
    found = keep(*generation)
    assert len(set(found.cluster_ids.tolist())) == num_clusters
    new_ids = {int(found.cluster_ids[label]) for label in np.unique(now[now >= 0])}
    old_ids = set(np.unique(before[before >= 0]).tolist())
    assert Counter(row.cluster_id for row in found.lineage if row.kind in ("kept", "split", "born")) == Counter(new_ids)
    assert Counter(row.previous_id for row in found.lineage if row.kind in ("kept", "merged", "died")) == Counter(
        old_ids
    )
    fresh = sorted(set(found.cluster_ids.tolist()) - old_ids)
    assert fresh == list(range(ids_given, found.ids_given))
    assert all(row.previous_id == row.cluster_id for row in found.lineage if row.kind == "kept")


@given(generations())
def test_shares_and_churn_count_common_images(generation):
    before, now, _, _ = generation
    found = keep(*generation)
    ids_now = np.where(now >= 0, found.cluster_ids[now], -1)
    common = (before >= 0) & (now >= 0)
    assert found.num_common == common.sum()
    assert found.num_moved == (ids_now != before)[common].sum()
    assert found.churn == pytest.approx((ids_now != before)[common].mean())
    for row in found.lineage:
        old, new = common & (before == row.previous_id), common & (ids_now == row.cluster_id)
        if row.kind in ("born", "died"):
            assert (row.overlap, row.previous_share, row.share, row.jaccard) == (0, 0, 0, 0)
            continue
        assert row.overlap == (old & new).sum()
        assert row.previous_share == pytest.approx((old & new).sum() / old.sum())
        assert row.share == pytest.approx((old & new).sum() / new.sum())
        assert row.jaccard == pytest.approx((old & new).sum() / (old | new).sum())
        majorities = {"kept": (True, True), "split": (False, True), "merged": (True, False)}
        assert (row.previous_share > 0.5, row.share > 0.5) == majorities[row.kind]


@given(generations())
def test_every_good_match_is_kept_and_agrees_with_hungarian_matching(generation):
    before, now, num_clusters, _ = generation
    overlaps, previous_ids = overlaps_of(before, now, num_clusters)
    table = overlaps.toarray()
    matching = set(zip(*(axis.tolist() for axis in linear_sum_assignment(table, maximize=True)), strict=True))
    unions = table.sum(axis=1)[:, None] + table.sum(axis=0) - table
    found = keep(*generation)
    for p, k in zip(*np.nonzero(2 * table > unions), strict=True):
        assert found.cluster_ids[k] == previous_ids[p]
        assert (p, k) in matching
    assert all(row.jaccard > 1 / 3 for row in found.lineage if row.kind == "kept")


@given(generations(), st.randoms(use_true_random=False))
def test_the_numbering_of_labels_does_not_matter(generation, random):
    before, now, num_clusters, ids_given = generation
    permutation = np.arange(num_clusters)
    random.shuffle(permutation)
    found = keep(*generation)
    other = keep(before, np.where(now >= 0, permutation[now], -1), num_clusters, ids_given)
    assert (found.num_moved, found.ids_given) == (other.num_moved, other.ids_given)
    # Clusters of one size may exchange fresh ids, nothing else may change.
    is_fresh = found.cluster_ids >= ids_given
    assert np.array_equal(is_fresh, other.cluster_ids[permutation] >= ids_given)
    assert np.array_equal(found.cluster_ids[~is_fresh], other.cluster_ids[permutation][~is_fresh])

    def without_fresh_ids(identities):
        return Counter(
            (*row[:2], row[2] if row[2] is None or row[2] < ids_given else "fresh", row[3]) for row in rows(identities)
        )

    assert without_fresh_ids(found) == without_fresh_ids(other)


@given(generations())
def test_arrivals_and_deletions_change_no_id(generation):
    before, now, num_clusters, ids_given = generation
    common = (before >= 0) & (now >= 0)
    found, alone = keep(*generation), keep(before[common], now[common], num_clusters, ids_given)
    is_kept = alone.cluster_ids < ids_given
    assert np.array_equal(found.cluster_ids[is_kept], alone.cluster_ids[is_kept])
    assert found.churn == alone.churn


@given(generations(), st.randoms(use_true_random=False))
def test_nothing_changes_when_nothing_changed(generation, random):
    before, _, _, ids_given = generation
    ids = np.unique(before[before >= 0])
    labels = list(range(len(ids)))
    random.shuffle(labels)
    now = np.where(before >= 0, np.array(labels)[np.searchsorted(ids, before)], -1)
    found = keep(before, now, len(ids), ids_given)
    assert np.array_equal(found.cluster_ids[labels], ids)
    assert (found.churn, found.ids_given, found.count("kept")) == (0, ids_given, len(ids))


@given(generations())
def test_the_same_twice_is_the_same(generation):
    one, two = keep(*generation), keep(*generation)
    assert np.array_equal(one.cluster_ids, two.cluster_ids)
    assert rows(one) == rows(two)


def test_the_larger_part_of_a_split_keeps_the_id():
    found = keep([4] * 10 + [7] * 4, [0] * 6 + [1] * 4 + [2] * 4, 3, ids_given=9)
    assert found.cluster_ids.tolist() == [4, 9, 7]
    assert rows(found) == [("kept", 4, 4, 6), ("kept", 7, 7, 4), ("split", 4, 9, 4)]
    assert found.churn == pytest.approx(4 / 14)


def test_of_two_equal_halves_neither_is_the_whole():
    found = keep([4] * 6, [0] * 3 + [1] * 3, 2, ids_given=5)
    assert rows(found) == [("split", 4, 5, 3), ("split", 4, 6, 3), ("died", 4, None, 0)]


def test_the_larger_part_of_a_merger_keeps_the_id():
    found = keep([1] * 6 + [2] * 4, [0] * 10, 2, ids_given=3)
    assert found.cluster_ids.tolist() == [1, 3]  # the label without images has an id and no place in the lineage
    assert rows(found) == [("kept", 1, 1, 6), ("merged", 2, 1, 4)]


def test_images_that_arrive_together_are_born_and_those_that_vanish_died():
    found = keep([0, 0, 3, 3, -1, -1], [1, 1, -1, -1, 0, 0], 2, ids_given=4)
    assert rows(found) == [("kept", 0, 0, 2), ("born", None, 4, 0), ("died", 3, None, 0)]
    assert (found.num_common, found.churn) == (2, 0)


def test_fresh_ids_go_to_larger_clusters_first():
    found = keep([0] + [-1] * 6, [2, 0, 1, 1, 1, 0, 3], 4, ids_given=1)
    assert found.cluster_ids.tolist() == [2, 1, 0, 3]


def test_a_first_clustering_is_numbered_by_its_labels():
    first = Identities.first(3)
    assert (first.cluster_ids.tolist(), first.ids_given, first.lineage, first.churn) == ([0, 1, 2], 3, (), 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"previous_ids": np.array([0])}, "shape"),
        ({"previous_ids": np.array([1, 1])}, "without repeats"),
        ({"previous_ids": np.array([0, 5])}, r"in 0\.\.1, found 0\.\.5"),
        ({"overlaps": csr_array((2, 2), dtype=np.int64)}, "images in common"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    arguments = {
        "overlaps": csr_array(np.eye(2, dtype=np.int64)), "previous_ids": np.arange(2), "sizes": np.ones(2), **changes
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        keep_identities(**arguments, ids_given=2)


def test_heads_that_stay_keep_every_id():
    found = same_identities(
        np.array([4, 0, 9, 2]),
        np.array([5, 0, 3, 0]),
        previous_sizes=np.array([7, 2, 0, 0]),
        common=np.array([5, 0, 0, 0]),
        ids_given=11,
    )
    assert found.cluster_ids.tolist() == [4, 0, 9, 2]
    assert found.ids_given == 11
    rows = [(row.kind, row.previous_id, row.cluster_id, row.overlap) for row in found.lineage]
    assert rows == [("kept", 4, 4, 5), ("born", None, 9, 0), ("died", 0, None, 0)]
    assert (found.num_common, found.churn) == (5, 0.0)
