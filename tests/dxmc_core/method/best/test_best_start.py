"""What `best` starts from: planted clusters of many kinds, text, samples, resumed looks, unusable input, real data."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dxmc_core.method.best import best_start
from dxmc_core.method.best.best_start import (
    NUM_LOOKS,
    BestStart,
    find_start,
    labels_of,
    labels_of_known,
    num_rows_looked_at,
)
from dxmc_core.method.best.constraints import Constraints
from dxmc_core.method.best.joined_encoders import join_encoders
from dxmc_core.method.best.size_exponent import EXPONENTS
from dxmc_core.method.clusters.kmeans import spherical_kmeans
from dxmc_core.method.clusters.metrics import external_scores
from dxmc_core.method.neighbors.exact import nearest_neighbors
from dxmc_core.method.nouns.text_counterparts import compute_text_counterparts
from dxmc_core.method.steps import WorkStep


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _planted(sizes: list[int], *, noise: float = 0.4, width: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Clusters of these sizes around random directions, in a narrow cone and with loud noise in few directions."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    rows = 2 + rng.standard_normal((len(sizes), width))[truth]
    rows += noise * np.geomspace(8, 1, width) * rng.standard_normal((sum(sizes), width))
    return _unit(rows), truth


def _with_bursts(embeddings: np.ndarray, truth: np.ndarray, *, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A fifth of the rows come `size` times more: half of them as near copies, half as tight blobs."""
    rng = np.random.default_rng(seed)
    first = rng.choice(len(embeddings), len(embeddings) // 5, replace=False)
    spread = np.where(np.arange(len(first)) % 2, 0.002, 0.03).repeat(size)[:, None]
    burst = np.repeat(embeddings[first], size, axis=0)
    burst = burst + spread * rng.standard_normal(burst.shape) / np.sqrt(burst.shape[1]) * 5
    return _unit(np.concatenate([embeddings, burst])), np.concatenate([truth, truth[first].repeat(size)])


def _start(embeddings: np.ndarray, num_clusters: int, **settings) -> BestStart:
    settings.setdefault("device", "cpu")
    return find_start(embeddings, num_clusters=num_clusters, **settings)


def _labels(embeddings: np.ndarray, num_clusters: int, **settings) -> np.ndarray:
    return _start(embeddings, num_clusters, **settings).discriminant.labels


def _kmeans(embeddings: np.ndarray, num_clusters: int) -> np.ndarray:
    return spherical_kmeans(embeddings, num_clusters).labels


def _accuracy(truth: np.ndarray, labels: np.ndarray) -> float:
    return external_scores(truth, labels)["acc"]


def _nmi(truth: np.ndarray, labels: np.ndarray) -> float:
    return external_scores(truth, labels)["nmi"]


def _agreement(first: np.ndarray, second: np.ndarray) -> float:
    return external_scores(first, second)["ari"]


def test_it_finds_planted_clusters_that_kmeans_blurs():
    embeddings, truth = _planted([80] * 10)
    found = _start(embeddings, 10)
    assert _accuracy(truth, _kmeans(embeddings, 10)) < 0.8
    assert _accuracy(truth, found.discriminant.labels) > 0.95
    assert found.discriminant.labels.dtype == np.int32
    assert found.cluster_shares.sum() == pytest.approx(1)
    assert found.num_rows == 800
    assert found.is_done
    assert (found.text_agreement, found.text_weight) == (None, 0)
    assert _agreement(labels_of(found.discriminant, embeddings), found.discriminant.labels) > 0.99


def test_large_clusters_are_not_cut_for_the_sake_of_balance():
    embeddings, truth = _planted([1000, 400, 150, 60, 40], noise=0.3)
    found = _start(embeddings, 5)
    assert found.size_exponent < 1
    assert set(found.agreements) == set(EXPONENTS)
    assert _accuracy(truth, found.discriminant.labels) > 0.95


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_few_classes_with_bursts_and_near_copies(seed):
    """Tight blobs inside a class neither become clusters nor make chance decide."""
    embeddings, truth = _with_bursts(*_planted([60] * 7, seed=seed), size=8, seed=seed)
    accuracies = [_accuracy(truth, _labels(embeddings, 7, seed=draw)) for draw in (0, 1)]
    assert min(accuracies) > max(0.85, _accuracy(truth, _kmeans(embeddings, 7)) + 0.1)


@pytest.mark.parametrize("sizes", [[1000, 500, 200, 50, 10], [2000, 1000, 200, 40, 20], [800, 8]])
def test_classes_a_hundred_times_larger_than_others(sizes):
    embeddings, truth = _planted(sizes, noise=0.2)
    num_clusters = len(sizes)
    labels = _labels(embeddings, num_clusters)
    assert len(np.unique(labels)) == num_clusters
    assert _nmi(truth, labels) > _nmi(truth, _kmeans(embeddings, num_clusters)) - 0.02


def test_two_clusters():
    embeddings, truth = _planted([150, 150])
    assert _accuracy(truth, _labels(embeddings, 2)) > 0.97


@pytest.mark.parametrize(("noise", "width"), [(0.1, 32), (0.3, 32), (0.3, 128)])
def test_three_rows_per_cluster(noise, width):
    embeddings, truth = _planted([3] * 60, noise=noise, width=width)
    assert _nmi(truth, _labels(embeddings, 60)) > _nmi(truth, _kmeans(embeddings, 60)) - 0.005


class TestText:
    embeddings, truth = _planted([60] * 8, noise=0.55)
    helpful, _ = _planted([60] * 8, noise=0.1, seed=1)
    #: Words for what the classes look like, and for what lies between them.
    nouns, _ = _planted([5] * 8, noise=0.1)

    def start(self, texts: np.ndarray | None) -> BestStart:
        nouns = None if texts is None else self.nouns
        return _start(self.embeddings, 8, text_counterparts=texts, selected_nouns=nouns)

    def test_helpful_text_is_trusted(self):
        alone, trusting = self.start(None), self.start(self.helpful)
        assert trusting.text_agreement > 0.7
        assert trusting.text_weight == pytest.approx(trusting.text_agreement**2)
        accuracies = [_accuracy(self.truth, found.discriminant.labels) for found in (trusting, alone)]
        assert accuracies[0] > accuracies[1] + 0.02

    def test_misleading_text_does_no_harm(self):
        misleading = np.random.default_rng(2).permutation(self.helpful)
        alone, wary = self.start(None), self.start(misleading)
        assert wary.text_weight < 0.1
        accuracies = [_accuracy(self.truth, found.discriminant.labels) for found in (wary, alone)]
        assert accuracies[0] > accuracies[1] - 0.05


def test_a_seed_repeats_and_another_one_draws_anew():
    embeddings, _ = _planted([40] * 6, noise=0.8)
    first, again, other = (_labels(embeddings, 6, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_float_types_agree():
    embeddings, truth = _planted([40] * 6)
    for dtype in (np.float16, np.float64):
        assert _accuracy(truth, _labels(embeddings.astype(dtype), 6)) > 0.95


def test_copies_end_in_one_cluster():
    embeddings, _ = _planted([12] * 5)
    labels = _labels(np.repeat(embeddings, 4, axis=0), 5)
    assert all(len(set(copies)) == 1 for copies in labels.reshape(-1, 4).tolist())


class TestBursts:
    embeddings, truth = _planted([60] * 7)
    copied = np.arange(0, 420, 10)
    rows = np.concatenate([embeddings, embeddings[copied.repeat(8)]])
    rows[420:] += 0.02 / np.sqrt(32) * np.random.default_rng(3).standard_normal((336, 32))
    rows = _unit(rows)

    def test_copies_go_where_the_image_goes_that_stands_for_them(self):
        found = _start(self.rows, 7)
        assert (found.num_rows, found.num_copies) == (756, 336)
        labels = found.discriminant.labels
        np.testing.assert_array_equal(labels[420:], labels[self.copied.repeat(8)])
        assert found.cluster_shares == pytest.approx(np.bincount(labels) / 756)

    def test_they_change_no_other_label(self):
        alone, found = _start(self.embeddings, 7), _start(self.rows, 7)
        assert alone.num_copies == 0
        assert _agreement(found.discriminant.labels[:420], alone.discriminant.labels) > 0.99

    def test_looks_are_resumed(self):
        looks: list[BestStart] = []
        whole = _start(self.rows, 7, on_look=looks.append)
        assert len(looks) > 1
        resumed = _start(self.rows, 7, resume_from=looks[0])
        np.testing.assert_array_equal(resumed.discriminant.labels, whole.discriminant.labels)

    def test_people_may_know_of_copies(self):
        pairs = np.array([[0, 0], [420, 1], [421, 1]])
        known = Constraints.of_pairs(pairs, np.array([[0, 1]]))
        found = _start(self.rows, 7, known=known)
        assert found.num_copies == 334
        labels = labels_of_known(found, known, num_images=756, seed=0)
        assert labels[0] != labels[1] == labels[2]

    def test_text_and_further_encoders_are_of_those_that_are_kept(self):
        texts, other = self.rows[:, ::-1], _unit(self.rows[:, :16])
        found = _start(
            join_encoders([self.rows, other]), 7, encoder_widths=(32, 16),
            text_counterparts=texts, selected_nouns=_planted([5] * 7)[0],
        )  # fmt: skip
        assert found.num_copies == 336
        assert (
            _accuracy(np.concatenate([self.truth, self.truth[self.copied.repeat(8)]]), found.discriminant.labels) > 0.9
        )


def test_more_copies_than_neighbors():
    """No image has a neighbour that differs from it."""
    embeddings, truth = _planted([10] * 5, noise=0.15)
    copies, truth = np.repeat(embeddings, 60, axis=0), np.repeat(truth, 60)
    assert _nmi(truth, _labels(copies, 5)) > _nmi(truth, _kmeans(copies, 5)) - 0.02


@pytest.mark.parametrize("num_rows", [5, 6, 9])
def test_hardly_more_rows_than_clusters(num_rows):
    embeddings, _ = _planted([1] * num_rows)
    found = _start(embeddings, 5)
    assert found.discriminant.labels.shape == (num_rows,)
    assert found.discriminant.labels.min() >= 0
    assert found.discriminant.labels.max() < 5
    assert found.discriminant.centers.shape[0] == 5


@pytest.mark.parametrize("num_clusters", [2, 4, 9])
def test_few_distinct_rows_with_many_copies(num_clusters):
    """K up to more than there are distinct rows, which the trainer has turned away before."""
    embeddings, _ = _planted([1] * 5)
    labels = _labels(np.repeat(embeddings, 20, axis=0), num_clusters)
    assert all(len(set(copies)) == 1 for copies in labels.reshape(-1, 20).tolist())


def test_given_neighbors_are_those_that_are_found():
    embeddings, _ = _planted([40] * 6)
    given = nearest_neighbors(embeddings, num_neighbors=50)
    for neighbors in (given, given.astype(np.int32)):
        assert _agreement(_labels(embeddings, 6), _labels(embeddings, 6, image_neighbors=neighbors)) > 0.98


class TestSample:
    """The looks see some of the rows, and the discriminant assigns all."""

    embeddings, truth = _planted([150] * 6)

    @pytest.fixture(autouse=True)
    def _few_rows(self, monkeypatch):
        monkeypatch.setattr(best_start, "_MAX_ROWS", 300)
        monkeypatch.setattr(best_start, "_ROWS_PER_CLUSTER", 60)

    def test_rows_beyond_it_are_assigned_as_well(self):
        found = _start(self.embeddings, 6, seed=2)
        assert found.num_rows == len(found.discriminant.labels) == 360
        rows = best_start._rows_looked_at(900, 6, seed=2)
        labels = labels_of(found.discriminant, self.embeddings)
        assert _agreement(labels[rows], found.discriminant.labels) > 0.99
        within, beyond = np.isin(np.arange(900), rows), ~np.isin(np.arange(900), rows)
        accuracies = [_accuracy(self.truth[part], labels[part]) for part in (within, beyond)]
        assert min(accuracies) > 0.93
        assert abs(accuracies[0] - accuracies[1]) < 0.05

    def test_neighbors_among_all_rows_are_not_taken_for_those_in_the_sample(self):
        neighbors = nearest_neighbors(self.embeddings, num_neighbors=20)
        with_them = _labels(self.embeddings, 6, image_neighbors=neighbors)
        np.testing.assert_array_equal(with_them, _labels(self.embeddings, 6))

    def test_text_is_sampled_with_the_images(self):
        texts, _ = _planted([150] * 6, noise=0.1, seed=1)
        nouns = _unit(np.random.default_rng(3).standard_normal((40, 32)))
        found = _start(self.embeddings, 6, text_counterparts=texts, selected_nouns=nouns)
        assert found.text_weight > 0.9
        assert _accuracy(self.truth, labels_of(found.discriminant, self.embeddings)) > 0.95

    def test_memory_mapped_rows(self, tmp_path):
        np.save(tmp_path / "rows.npy", self.embeddings)
        mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
        np.testing.assert_array_equal(_labels(mapped, 6), _labels(self.embeddings, 6))


@pytest.mark.parametrize(
    ("num_rows", "num_clusters", "expected"),
    [(5000, 10, 5000), (100_000, 10, 100_000), (10**7, 1000, 100_000), (10**7, 10_000, 200_000), (3000, 2999, 3000)],
)
def test_the_sample_grows_with_the_clusters(num_rows, num_clusters, expected):
    assert num_rows_looked_at(num_rows, num_clusters) == expected


def test_labels_do_not_depend_on_the_block_size(monkeypatch):
    embeddings, _ = _planted([40] * 6)
    discriminant = _start(embeddings, 6).discriminant
    whole = labels_of(discriminant, embeddings)
    monkeypatch.setattr(best_start, "_ROWS_PER_BLOCK", 37)
    assert _agreement(labels_of(discriminant, embeddings), whole) > 0.99


class TestLooks:
    embeddings, truth = _planted([60] * 6, noise=0.8)

    def test_each_is_told_and_any_can_be_gone_on_from(self):
        looks: list[BestStart] = []
        whole = _start(self.embeddings, 6, on_look=looks.append)
        assert [look.num_looks for look in looks] == list(range(1, len(looks) + 1))
        assert 2 <= len(looks) <= NUM_LOOKS
        assert looks[-1] is whole
        assert [look.is_done for look in looks] == [False] * (len(looks) - 1) + [True]
        for look in looks:
            resumed = _start(self.embeddings, 6, resume_from=look)
            np.testing.assert_array_equal(resumed.discriminant.labels, whole.discriminant.labels)
            np.testing.assert_array_equal(resumed.discriminant.centers, whole.discriminant.centers)
            assert resumed.num_looks == whole.num_looks

    def test_every_step_is_told_before_it(self):
        steps: list[WorkStep] = []
        whole = _start(self.embeddings, 6, on_step=steps.append)
        assert {(step.total, step.unit) for step in steps} == {(NUM_LOOKS, "looks")}
        done = [step.done for step in steps]
        assert done == sorted(done)
        assert set(done) == set(range(whole.num_looks))
        assert [step.doing.partition(", ")[2] for step in steps if step.done == 1] == [
            "whitening", "joining views", "clustering",
        ]  # fmt: skip

    def test_what_is_done_is_not_looked_at_again(self):
        whole = _start(self.embeddings, 6)
        told: list[BestStart] = []
        assert _start(self.embeddings, 6, resume_from=whole, on_look=told.append) is whole
        assert told == []

    def test_the_choices_of_the_first_look_are_kept(self):
        first: list[BestStart] = []
        _start(self.embeddings, 6, on_look=first.append)
        resumed = _start(self.embeddings, 6, resume_from=replace(first[0], size_exponent=0.5, agreements={1.0: 0.5}))
        assert (resumed.size_exponent, resumed.agreements) == (0.5, {1.0: 0.5})


class TestUnusableInput:
    embeddings, _ = _planted([10] * 3)
    neighbors = nearest_neighbors(embeddings, num_neighbors=5)

    def call(self, **changes) -> BestStart:
        given = {"image_embeddings": self.embeddings, "num_clusters": 3, "image_neighbors": self.neighbors, **changes}
        return find_start(given.pop("image_embeddings"), **given)

    def test_more_clusters_than_rows(self):
        with pytest.raises(ValueError, match="found 30 for 31 clusters"):
            self.call(num_clusters=31)

    def test_one_cluster(self):
        with pytest.raises(ValueError, match="at least 2 clusters, found 1"):
            self.call(num_clusters=1)

    @pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
    def test_a_row_that_is_no_direction(self, value):
        embeddings = self.embeddings.copy()
        embeddings[4] = value
        with pytest.raises(ValueError, match="row 4"):
            self.call(image_embeddings=embeddings)

    def test_a_row_beyond_the_looks_that_is_no_direction(self):
        embeddings = np.concatenate([self.embeddings, np.zeros((1, 32), dtype=np.float32)])
        with pytest.raises(ValueError, match="row 30"):
            labels_of(self.call().discriminant, embeddings)

    def test_equal_rows(self):
        with pytest.raises(ValueError, match="equal"):
            self.call(image_embeddings=np.repeat(self.embeddings[:1], 30, axis=0))

    def test_neighbors_of_other_rows(self):
        with pytest.raises(ValueError, match="image_neighbors with 30 rows"):
            self.call(image_neighbors=self.neighbors[:20])

    def test_text_of_other_rows(self):
        with pytest.raises(ValueError, match="text_counterparts with 30 rows"):
            self.call(text_counterparts=self.embeddings[:20], selected_nouns=self.embeddings)

    def test_text_without_nouns_and_nouns_without_text(self):
        with pytest.raises(ValueError, match="found no selected_nouns"):
            self.call(text_counterparts=self.embeddings)
        with pytest.raises(ValueError, match="found no text_counterparts"):
            self.call(selected_nouns=self.embeddings)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(("name", "floor", "above_kmeans"), [("dtd", 0.47, 0.03), ("oxford_flowers", 0.83, 0.07)])
def test_real_clip_embeddings(evaluation_data: Path, name: str, floor: float, above_kmeans: float):
    with np.load(evaluation_data / "clip_vitb32" / f"{name}.npz") as file:
        embeddings, truth = file["embeddings"].astype(np.float32), file["labels"]
    with np.load(evaluation_data / "clip_vitb32" / "nouns.npz") as file:
        nouns = file["embeddings"]
    texts = compute_text_counterparts(embeddings, nouns, temperature=0.005)
    num_clusters = len(np.unique(truth))
    found = _accuracy(truth, _labels(embeddings, num_clusters, text_counterparts=texts, selected_nouns=nouns))
    assert found > max(floor, _accuracy(truth, _kmeans(embeddings, num_clusters)) + above_kmeans)


def _joined(*encoded: np.ndarray) -> dict:
    return {"image_embeddings": join_encoders(encoded), "encoder_widths": [rows.shape[1] for rows in encoded]}


class TestEncoders:
    embeddings, truth = _planted([60] * 8, noise=0.55)
    #: The same classes seen otherwise: other directions, other noise.
    independent, _ = _planted([60] * 8, noise=0.8, width=48, seed=1)
    noise = _unit(2 + np.random.default_rng(2).standard_normal((480, 48)))

    def accuracies(self, *encoded: np.ndarray) -> list[float]:
        return [
            _accuracy(self.truth, find_start(**_joined(*encoded), num_clusters=8, seed=seed).discriminant.labels)
            for seed in range(3)
        ]

    def test_one_that_errs_elsewhere_helps(self):
        alone = np.mean([_accuracy(self.truth, _labels(self.embeddings, 8, seed=seed)) for seed in range(3)])
        other = np.mean([_accuracy(self.truth, _labels(self.independent, 8, seed=seed)) for seed in range(3)])
        assert np.mean(self.accuracies(self.embeddings, self.independent)) > max(alone, other) + 0.02

    def test_noise_does_not_count(self):
        found = find_start(**_joined(self.embeddings, self.noise), num_clusters=8)
        assert found.encoder_agreements[0] < 0.1
        alone = np.mean([_accuracy(self.truth, _labels(self.embeddings, 8, seed=seed)) for seed in range(3)])
        assert np.mean(self.accuracies(self.embeddings, self.noise)) > alone - 0.005

    def test_the_rule_assigns_joined_rows(self):
        joined = _joined(self.embeddings, self.independent, self.noise)
        found = find_start(**joined, num_clusters=8)
        assert len(found.encoder_weights) == 2
        assert found.encoder_weights[0] > found.encoder_weights[1]
        labels = labels_of(found.discriminant, joined["image_embeddings"])
        assert _agreement(labels, found.discriminant.labels) > 0.99

    def test_looks_are_resumed(self):
        joined, looks = _joined(self.embeddings, self.independent), []
        whole = find_start(**joined, num_clusters=8, on_look=looks.append)
        again = find_start(**joined, num_clusters=8, resume_from=looks[0])
        assert np.array_equal(again.discriminant.labels, whole.discriminant.labels)
        assert again.encoder_weights == whole.encoder_weights

    def test_texts_belong_to_the_first(self):
        counterparts = compute_text_counterparts(self.embeddings, self.embeddings[::6], temperature=0.01)
        joined = _joined(self.embeddings, self.independent)
        found = find_start(
            **joined, num_clusters=8, text_counterparts=counterparts, selected_nouns=self.embeddings[::6]
        )
        assert found.text_agreement is not None
        assert len(found.encoder_weights) == 1
