"""The estimator: scikit-learn's own checks, the assignments of the stages, and unusable input refused by name."""

import pickle
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import silhouette_score
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.utils.estimator_checks import parametrize_with_checks

from dxmc_core.artifacts.heads import HEADS_NAME
from dxmc_core.artifacts.manifest import Part
from dxmc_core.artifacts.matrices import StoredRows, load_matrix
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.tables import NOUNS
from dxmc_core.estimator import DXMC
from dxmc_core.images.sources import EmbeddingsSource
from dxmc_core.method.clusters.metrics import clustering_accuracy
from dxmc_core.method.fit import fit_heads
from dxmc_core.method.hyperparameters import METHODS, TEXT_MATRICES, SpaceSettings, method_reads, method_settings
from dxmc_core.method.preparation import as_stored, prepare
from dxmc_core.runtime.cpu_products import onednn_products
from dxmc_core.stages.assign_clusters import AssignImages, assign_sample, center_table, describe_clusters, sample_images
from dxmc_core.stages.build_semantic_space import (
    ComputeTextCounterparts,
    build_semantic_space,
    noun_table,
    retrieval_temperature,
)
from dxmc_core.stages.embed_images import all_embedded, import_embeddings
from dxmc_core.stages.mine_neighbors import SearchNeighbors, usable_num_neighbors
from dxmc_core.stages.settings.assign_clusters import AssignClustersConfig
from dxmc_core.stages.settings.build_semantic_space import BuildSemanticSpaceConfig
from dxmc_core.stages.settings.mine_neighbors import MineNeighborsConfig
from dxmc_core.stages.settings.train_heads import MethodConfig
from dxmc_core.stages.train_heads import METRICS_NAME, TrainingJob, train_heads
from dxmc_core.vocabulary import EmbeddingsConfig, load_vocabulary

FINGERPRINT = "e" * 32
NUM_CLUSTERS = 6
WORDS = ["apple", "bicycle", "castle", "dolphin", "engine", "forest"]
NEEDS_TEXT = [method for method in METHODS if method != "best" and TEXT_MATRICES.intersection(method_reads(method))]

#: Checks of scikit-learn that cannot hold, and why.
_DRAWS = "k-means draws its seeds by weight, so copies and weights lead to other draws, as with scikit-learn's KMeans"
EXPECTED_FAILURES = {
    "check_estimators_dtypes": "its integer data hold a row of zeros, which has no direction",
    "check_sample_weight_equivalence_on_dense_data": _DRAWS,
}
_ONE_CLUSTER = "it asks for one cluster, which only k-means takes"
_WEIGHTS = "it gives unequal weights, which only k-means takes"
EXPECTED_FAILURES_OF_BEST = EXPECTED_FAILURES | {
    "check_dont_overwrite_parameters": _ONE_CLUSTER,
    "check_fit2d_1feature": _ONE_CLUSTER,
    "check_fit2d_1sample": _ONE_CLUSTER,
    "check_fit2d_predict1d": _ONE_CLUSTER,
    "check_methods_subset_invariance": _ONE_CLUSTER,
    "check_sample_weight_equivalence_on_dense_data": _WEIGHTS,
    "check_sample_weights_not_overwritten": _WEIGHTS,
}


@parametrize_with_checks(
    [DXMC(n_clusters=3), DXMC(n_clusters=3, method="kmeans")],
    expected_failed_checks=lambda found: EXPECTED_FAILURES_OF_BEST if found.method == "best" else EXPECTED_FAILURES,
    xfail_strict=True,
)
def test_scikit_learns_checks(estimator, check):
    if check.func.__name__ == "check_array_api_input":
        return  # tests array API support, which this estimator does not claim
    check(estimator)


@dataclass(frozen=True)
class Planted:
    """Rows in well separated groups, and two nouns near each group's centre."""

    images: np.ndarray
    labels: np.ndarray
    nouns: list[str]
    synset_ids: list[str | None]
    noun_embeddings: np.ndarray

    @property
    def vocabulary(self) -> dict:
        """Arguments of `fit`; without synsets, for which all of WordNet would be read each time."""
        return {"noun_embeddings": self.noun_embeddings, "nouns": self.nouns}


@pytest.fixture(scope="module")
def planted() -> Planted:
    generator = np.random.default_rng(0)
    centers = np.linalg.qr(generator.normal(size=(16, 16)))[0][:NUM_CLUSTERS]
    labels = np.repeat(np.arange(NUM_CLUSTERS), 50)
    images = centers[labels] + 0.12 * generator.normal(size=(len(labels), 16))
    noun_embeddings = np.concatenate([centers, centers + 0.1 * generator.normal(size=centers.shape)])
    return Planted(
        images=images.astype(np.float32),
        labels=labels,
        nouns=[*WORDS, *(f"{word} part" for word in WORDS)],
        synset_ids=[*(f"{word}.n.01" for word in WORDS), *[None] * len(WORDS)],
        noun_embeddings=noun_embeddings.astype(np.float32),
    )


def short(method: str) -> dict:
    """Settings that end a training after little work; two epochs say as much about agreement as a hundred."""
    resolved = method_settings(method, num_clusters=NUM_CLUSTERS, num_images=300)
    wanted = {"num_epochs": 2, "batch_size": 100, "steps_per_epoch": 10}
    return {name: value for name, value in wanted.items() if hasattr(resolved, name)}


@dataclass(frozen=True)
class Stages:
    """The stages in this process: what the jobs do, without Ray."""

    run_dir: RunDir
    images_uri: str
    nouns_uri: str
    seed: int

    def run(self, method: MethodConfig) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Clusters and confidences in row order, and names by cluster."""
        self._embed()
        self._space()
        self._neighbors()
        return self._assign(self._train(method))

    def _publish(self, name, tables, files=None):
        self.run_dir.stage(name).publish(fingerprint=FINGERPRINT, inputs={}, tables=tables, files=files, seconds=0.0)

    def _embed(self):
        source = EmbeddingsSource(kind="embeddings", uri=self.images_uri)
        catalog, done = import_embeddings(source, self.run_dir.stage("embed_images"), fingerprint=FINGERPRINT)
        all_embedded(catalog, done, fingerprint=FINGERPRINT).publish(
            catalog.stage_dir, fingerprint=FINGERPRINT, inputs={}, started=time.perf_counter()
        )

    def _space(self):
        config, output = BuildSemanticSpaceConfig(), self.run_dir.stage("build_semantic_space")
        images = self.run_dir.stage("embed_images")
        vocabulary = load_vocabulary(EmbeddingsConfig(kind="embeddings", uri=self.nouns_uri))
        nouns = noun_table(vocabulary, vocabulary.embeddings)
        rows = StoredRows.open(images, "images")
        space = build_semantic_space(rows, nouns, config, num_clusters=NUM_CLUSTERS, seed=self.seed)
        selected = output.write_part("selected_nouns", space.selected_nouns, fingerprint=FINGERPRINT)
        compute = ComputeTextCounterparts(
            images,
            output,
            fingerprint=FINGERPRINT,
            selected_nouns=selected,
            temperature=retrieval_temperature(config, nouns),
            top_nouns=config.top_nouns,
        )
        receipt = compute(pa.table({"part": [0]})).to_pylist()[0]
        self._publish(
            "build_semantic_space",
            {
                "nouns": [output.write_part("nouns", nouns, fingerprint=FINGERPRINT)],
                "selected_nouns": [selected],
                "text_counterparts": [part_of(receipt)],
            },
        )

    def _neighbors(self):
        images, space, output = (
            self.run_dir.stage(name) for name in ("embed_images", "build_semantic_space", "mine_neighbors")
        )
        count = images.require_manifest().rows("images")
        config = MineNeighborsConfig()
        search = SearchNeighbors(
            [images, space],
            output,
            fingerprint=FINGERPRINT,
            num_neighbors=usable_num_neighbors(config, count),
            near_duplicate_cosine=config.near_duplicate_cosine,
        )
        receipts = search(pa.table({"start": [0, 128], "stop": [128, count]})).to_pylist()
        self._publish("mine_neighbors", {"neighbors": [part_of(receipt) for receipt in receipts]})

    def _train(self, method):
        output = self.run_dir.stage("train_heads")
        train_heads(
            TrainingJob(
                method=method,
                num_clusters=NUM_CLUSTERS,
                seed=self.seed,
                images=self.run_dir.stage("embed_images"),
                semantic_space=self.run_dir.stage("build_semantic_space"),
                neighbors=self.run_dir.stage("mine_neighbors"),
                output=output,
                fingerprint=FINGERPRINT,
            )
        )
        self._publish("train_heads", {}, {name: output.describe_file(name) for name in (HEADS_NAME, METRICS_NAME)})
        return output

    def _assign(self, heads_dir):
        from dxmc_core.artifacts.heads import load_heads

        config, output = AssignClustersConfig(), self.run_dir.stage("assign_clusters")
        images, space = self.run_dir.stage("embed_images"), self.run_dir.stage("build_semantic_space")
        heads = load_heads(heads_dir)
        counterparts = load_matrix(space, "text_counterparts") if heads.needs_text else None
        sample = assign_sample(
            sample_images(images, max_images=config.max_described_images, seed=self.seed), heads, counterparts
        )
        centers = output.write_part("centers", center_table(sample), fingerprint=FINGERPRINT)
        assign = AssignImages(images, space, output, fingerprint=FINGERPRINT, heads=heads_dir, centers=centers)
        receipt = assign(pa.table({"part": [0]})).to_pylist()[0]
        table = output.read_part(part_of(receipt))
        clusters = describe_clusters(sample, np.array(receipt["sizes"]), space.read_table(NOUNS), config).to_pydict()
        names = dict(zip(clusters["cluster_id"], clusters["name"], strict=True))
        return table["cluster_id"].to_numpy(), table["confidence"].to_numpy(), names


def part_of(receipt: dict) -> Part:
    return Part(**{name: receipt[name] for name in Part.model_fields})


@pytest.mark.parametrize("method", METHODS)
def test_assignments_and_names_are_those_of_the_stages(planted, tmp_path: Path, method):
    np.savez(tmp_path / "images.npz", embeddings=planted.images)
    np.savez(
        tmp_path / "nouns.npz",
        nouns=np.array(planted.nouns),
        synset_ids=np.array([synset_id or "" for synset_id in planted.synset_ids]),
        embeddings=planted.noun_embeddings,
    )
    settings = short(method)
    stages = Stages(RunDir.at(str(tmp_path / "run")), str(tmp_path / "images.npz"), str(tmp_path / "nouns.npz"), seed=7)
    with onednn_products():  # as the jobs do
        labels, confidences, names = stages.run(MethodConfig(name=method, **settings))

    model = DXMC(NUM_CLUSTERS, method=method, method_settings=settings, random_state=7)
    model.fit(planted.images, noun_embeddings=planted.noun_embeddings, nouns=planted.nouns,
              synset_ids=planted.synset_ids)  # fmt: skip
    np.testing.assert_array_equal(model.labels_, labels)
    np.testing.assert_allclose(model.predict_proba(planted.images).max(axis=1), confidences, atol=1e-6)
    assert {cluster: model.cluster_names_[cluster] for cluster in names} == names


def test_defaults_of_the_semantic_space_are_those_of_the_configuration():
    config = BuildSemanticSpaceConfig()
    assert config.selection == SpaceSettings()
    beyond_selection = {"temperature", "top_nouns", "noun_cache_uri", "count_copies_once"}
    assert set(asdict(config.selection)) == set(config.model_dump()) - beyond_selection
    assert BuildSemanticSpaceConfig(max_centers=7, kmeans_restarts=2).selection == SpaceSettings(
        max_centers=7, kmeans_restarts=2
    )
    defaults = DXMC().get_params()
    assert defaults["nouns_per_center"] == config.nouns_per_center
    assert defaults["n_neighbors"] == MineNeighborsConfig().num_neighbors


def test_of_many_trainings_that_of_lowest_loss_is_kept(planted, monkeypatch):
    fits = []

    def fit(*args, **kwargs):
        fits.append(fit_heads(*args, **kwargs))
        return fits[-1]

    monkeypatch.setattr("dxmc_core.estimator.dxmc.fit_heads", fit)
    model = DXMC(NUM_CLUSTERS, method="tac", method_settings=short("tac"), n_init=3, random_state=3)
    model.fit(planted.images, **planted.vocabulary)
    losses = [fit.reports[-1].terms["total"] for fit in fits]
    assert len(set(losses)) == 3
    assert model.reports_[-1].terms["total"] == min(losses)
    assert model.heads_ is fits[losses.index(min(losses))].heads
    assert -1 <= model.stability_ < 1


@pytest.mark.parametrize("method", ["kmeans", "concat_kmeans", "dxmc"])
def test_planted_clusters_are_found_named_and_predicted(planted, method):
    known = np.arange(len(planted.images)) % 5 > 0
    settings = {} if method.endswith("kmeans") else {"num_epochs": 30, "batch_size": 120, "learning_rate": 0.02}
    model = DXMC(NUM_CLUSTERS, method=method, method_settings=settings, n_neighbors=15)
    labels = model.fit_predict(planted.images[known], **planted.vocabulary)
    assert clustering_accuracy(planted.labels[known], labels) > 0.97
    np.testing.assert_array_equal(model.predict(planted.images[known]), labels)
    # The new rows join the clusters of the known ones, so the accuracy of all of them together is high too.
    assert clustering_accuracy(planted.labels, model.predict(planted.images)) > 0.97
    assert {name.split()[0] for name in model.cluster_names_} == set(WORDS)
    probs = model.predict_proba(planted.images[~known])
    assert probs.shape == (int((~known).sum()), NUM_CLUSTERS)
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(planted.images[~known]), probs)


def test_same_seed_same_result_and_none_draws_anew(planted):
    settings = short("dxmc")
    model = DXMC(NUM_CLUSTERS, method_settings=settings, random_state=3)
    first = model.fit(planted.images, **planted.vocabulary).predict_proba(planted.images)
    second = clone(model).fit(planted.images, **planted.vocabulary).predict_proba(planted.images)
    np.testing.assert_array_equal(first, second)
    drawn = [
        DXMC(NUM_CLUSTERS, method_settings=settings, random_state=random_state)
        .fit(planted.images, **planted.vocabulary)
        .predict_proba(planted.images)
        for random_state in (None, np.random.RandomState(1), np.random.RandomState(1))
    ]
    assert not np.array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[1], drawn[2])


def test_rows_that_belong_nowhere_are_set_apart_in_labels_of_their_own(planted):
    plain = DXMC(NUM_CLUSTERS, method="kmeans").fit(planted.images)
    assert plain.inlier_labels_ is None
    # A seventh cluster of three rows, and one row between two clusters.
    odd = np.random.default_rng(5).standard_normal(planted.images.shape[1])
    between = planted.images[planted.labels == 0].mean(axis=0) + planted.images[planted.labels == 1].mean(axis=0)
    images = np.concatenate([planted.images, [odd, 1.01 * odd, 0.99 * odd, between]])
    model = DXMC(NUM_CLUSTERS + 1, method="kmeans", min_cluster_size=5).fit(images)
    assert (model.inlier_labels_[-4:] == -1).all()
    kept = model.inlier_labels_ >= 0
    assert kept.mean() > 0.9
    np.testing.assert_array_equal(model.inlier_labels_[kept], model.labels_[kept])
    assert model.labels_.min() >= 0
    with pytest.raises(ValueError, match="expected min_cluster_size to be None or an integer of at least 2, found 1"):
        DXMC(NUM_CLUSTERS, min_cluster_size=1).fit(planted.images)


def test_nouns_that_judge_name_a_cluster_only_when_they_may(planted):
    nouns = ["thief" if noun == planted.nouns[0] else noun for noun in planted.nouns]
    names = {
        judging: DXMC(NUM_CLUSTERS, method="kmeans", judging_nouns=judging)
        .fit(planted.images, noun_embeddings=planted.noun_embeddings, nouns=nouns)
        .cluster_names_
        for judging in (False, True)
    }
    assert any("thief" in name for name in names[True])
    assert not any("thief" in name for name in names[False])


def test_nouns_can_be_looked_up_in_wordnet(planted):
    images = planted.images[planted.labels < 3]
    nouns = {"noun_embeddings": planted.noun_embeddings[:3], "nouns": ["poodle", "beagle", "pug"]}
    # One cluster holds three groups, and what the three breeds have in common is its name.
    assert DXMC(1, method="kmeans").fit(images, **nouns, synset_ids="wordnet").cluster_names_ == ["dog"]
    assert DXMC(1, method="kmeans").fit(images, **nouns).cluster_names_[0] in nouns["nouns"]
    with pytest.raises(ValueError, match=r'a list, or "wordnet" along with nouns, found \'words\''):
        DXMC(1, method="kmeans").fit(images, **nouns, synset_ids="words")


def test_without_nouns_there_are_no_names(planted):
    model = DXMC(NUM_CLUSTERS, method="kmeans").fit(planted.images)
    assert model.cluster_names_ is None
    assert model.noun_ids_ is None
    unnamed = DXMC(NUM_CLUSTERS, method="kmeans").fit(planted.images, noun_embeddings=planted.noun_embeddings)
    assert unnamed.cluster_names_ is None
    assert set(unnamed.noun_ids_) <= set(range(len(planted.nouns)))
    assert unnamed.noun_embeddings_.shape == (len(unnamed.noun_ids_), 16)


@pytest.mark.parametrize("method", NEEDS_TEXT)
def test_methods_that_read_text_say_so_and_name_others(planted, method):
    message = rf"method '{method}' reads text: expected noun_embeddings in fit, found none; .*\bkmeans\b"
    with pytest.raises(ValueError, match=message):
        DXMC(NUM_CLUSTERS, method=method).fit(planted.images)


@pytest.mark.parametrize("method", [method for method in METHODS if method not in NEEDS_TEXT])
def test_methods_without_text_need_no_nouns(planted, method):
    labels = DXMC(NUM_CLUSTERS, method=method, method_settings=short(method)).fit_predict(planted.images)
    assert labels.shape == (len(planted.images),)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"method": "k-means"}, "expected method to be one of .*kmeans.*, found 'k-means'"),
        ({"method": "kmeans", "method_settings": {"epochs": 3}}, "method kmeans has no setting '?epochs"),
        ({"method_settings": {"epochs": 3}}, "method best has no setting '?epochs"),
        ({"n_clusters": 0, "method": "kmeans"}, "expected n_clusters to be an integer of at least 1, found 0"),
        ({"n_clusters": 1}, "expected n_clusters to be an integer of at least 2, found 1"),
        ({"n_clusters": 2.5}, "expected n_clusters to be an integer of at least 2, found 2.5"),
        ({"n_neighbors": 0}, "expected n_neighbors to be an integer of at least 1, found 0"),
        ({"n_init": 0}, "expected n_init to be an integer of at least 1, found 0"),
        ({"n_init": 2, "method": "kmeans"}, "expected n_init 1 for method 'kmeans', found 2: it has restarts"),
        ({"n_clusters": 301}, "expected at least as many images as clusters, found 300 for 301"),
        ({"temperature": 0.0}, "expected temperature above 0"),
    ],
)
def test_unusable_parameters_are_refused(planted, parameters, message):
    with pytest.raises(ValueError, match=message):
        DXMC(**{"n_clusters": NUM_CLUSTERS, **parameters}).fit(planted.images, **planted.vocabulary)


def changed(rows: np.ndarray, row: int, value: float) -> np.ndarray:
    result = rows.copy()
    result[row] = value
    return result


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "Input X contains NaN"),
        (np.inf, "Input X contains infinity"),
        (0.0, "expected X with finite rows that are not zero, row 5 is all zeros"),
    ],
)
def test_unusable_rows_are_refused(planted, value, message):
    with pytest.raises(ValueError, match=message):
        DXMC(NUM_CLUSTERS, method="kmeans").fit(changed(planted.images, 5, value))
    fitted = DXMC(NUM_CLUSTERS, method="kmeans").fit(planted.images)
    with pytest.raises(ValueError, match=message):
        fitted.predict(changed(planted.images, 5, value))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noun_embeddings": np.ones((12, 8))}, "expected X and noun_embeddings of one width.*the same encoder"),
        ({"noun_embeddings": np.full((12, 16), np.nan)}, "Input noun_embeddings contains NaN"),
        ({"noun_embeddings": np.zeros((12, 16))}, "expected noun_embeddings with finite rows that are not zero, row 0"),
        ({"noun_embeddings": None}, "expected noun_embeddings along with nouns"),
        ({"nouns": ["apple"]}, "expected nouns of length 12 like noun_embeddings, found 1"),
        ({"synset_ids": [None]}, "expected synset_ids of length 12 like noun_embeddings, found 1"),
        ({"nouns": [" "] * 12}, "nouns holds no noun"),
    ],
)
def test_unusable_vocabularies_are_refused(planted, changes, message):
    with pytest.raises(ValueError, match=message):
        DXMC(NUM_CLUSTERS, method="kmeans").fit(planted.images, **{**planted.vocabulary, **changes})


def test_another_width_is_refused_in_predict(planted):
    fitted = DXMC(NUM_CLUSTERS, method="kmeans").fit(planted.images)
    with pytest.raises(ValueError, match="X has 8 features, but DXMC is expecting 16"):
        fitted.predict(planted.images[:, :8])


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
@pytest.mark.parametrize("method", ["kmeans", "dxmc"])
def test_float_types_give_one_result(planted, dtype, method):
    # Values that float16 holds exactly, so that all types hold the same numbers.
    images, nouns = (rows.astype(np.float16) for rows in (planted.images, planted.noun_embeddings))
    labels = [
        DXMC(NUM_CLUSTERS, method=method, method_settings=short(method)).fit_predict(
            images.astype(kind), noun_embeddings=nouns.astype(kind)
        )
        for kind in (np.float32, dtype)
    ]
    np.testing.assert_array_equal(*labels)


@pytest.mark.parametrize("method", METHODS)
def test_one_noun_is_enough(planted, method):
    model = DXMC(NUM_CLUSTERS, method=method, method_settings=short(method))
    model.fit(planted.images, noun_embeddings=planted.noun_embeddings[:1], nouns=["apple"])
    assert len(set(model.cluster_names_)) == NUM_CLUSTERS
    np.testing.assert_array_equal(model.noun_ids_, [0])
    assert np.isfinite(model.predict_proba(planted.images)).all()


@pytest.mark.parametrize("method", METHODS)
def test_duplicate_rows_share_a_cluster(planted, method):
    images = np.concatenate([planted.images[::3]] * 3)
    model = DXMC(NUM_CLUSTERS, method=method, method_settings=short(method))
    labels = model.fit_predict(images, **planted.vocabulary).reshape(3, -1)
    assert (labels == labels[0]).all()


def test_fewer_distinct_rows_than_clusters(planted):
    images = np.repeat(planted.images[[0, 60]], 20, axis=0)
    labels = DXMC(NUM_CLUSTERS, method="kmeans").fit_predict(images)
    assert len(set(labels[:20])) == len(set(labels[20:])) == 1
    assert labels[0] != labels[20]


def test_blank_and_repeated_nouns_are_left_out(planted):
    order = [*range(12), 0, 3, 5]
    nouns = [*planted.nouns, "apple", "  ", "forest  "]
    twice = DXMC(NUM_CLUSTERS, method="kmeans").fit(
        planted.images, noun_embeddings=planted.noun_embeddings[order], nouns=nouns
    )
    once = DXMC(NUM_CLUSTERS, method="kmeans").fit(
        planted.images, noun_embeddings=planted.noun_embeddings, nouns=planted.nouns
    )
    assert twice.cluster_names_ == once.cluster_names_
    np.testing.assert_array_equal(twice.noun_ids_, once.noun_ids_)


def test_labels_are_never_looked_at(planted):
    generator = np.random.default_rng(0)
    first, second = (
        DXMC(NUM_CLUSTERS, method_settings=short("dxmc")).fit(planted.images, y, **planted.vocabulary).labels_
        for y in (planted.labels, generator.permutation(planted.labels))
    )
    np.testing.assert_array_equal(first, second)


def test_prepare_makes_what_is_read_and_no_more(planted):
    images, nouns = as_stored(planted.images, name="X"), as_stored(planted.noun_embeddings, name="nouns")
    plain = prepare(images, reads=("image_neighbors",), num_clusters=NUM_CLUSTERS, num_neighbors=400)
    assert plain.selected_nouns is None
    assert plain.data.image_neighbors.shape == (300, 299)
    assert plain.data.text_counterparts is None
    full = prepare(
        images, reads=("text_counterparts", "noun_embeddings"), num_clusters=NUM_CLUSTERS, noun_embeddings=nouns
    )
    assert full.data.image_neighbors is None
    assert full.data.text_counterparts.shape == full.data.image_embeddings.shape
    assert full.data.noun_embeddings.shape == nouns.shape
    with pytest.raises(ValueError, match="expected at least 2 images"):
        prepare(images[:1], reads=("image_neighbors",), num_clusters=1)
    with pytest.raises(ValueError, match="from which text_counterparts are made, found none"):
        prepare(images, reads=("text_counterparts",), num_clusters=NUM_CLUSTERS)


def test_the_number_of_clusters_may_be_left_to_the_estimator(planted):
    model = DXMC(n_clusters="auto", method="kmeans", random_state=0).fit(planted.images)
    assert model.k_choice_ is not None
    assert model.k_choice_.num_clusters == model.labels_.max() + 1 == NUM_CLUSTERS
    fixed = DXMC(n_clusters=NUM_CLUSTERS, method="kmeans", random_state=0).fit(planted.images)
    assert fixed.k_choice_ is None
    assert np.array_equal(model.labels_, fixed.labels_)
    with pytest.raises(ValueError, match="n_clusters to be an integer of at least 1, found 'some'"):
        DXMC(n_clusters="some", method="kmeans").fit(planted.images)
    with pytest.raises(ValueError, match="at least 20 rows to choose a number of clusters, found 12"):
        DXMC(n_clusters="auto").fit(planted.images[:12])


@pytest.mark.parametrize("method", METHODS)
def test_as_many_clusters_as_there_are_distinct_rows(planted, method):
    copies = planted.images[[0, 1, 2, 3, 4]][np.arange(60) % 5]
    model = DXMC(9, method=method)
    with pytest.warns(ConvergenceWarning, match="fewer distinct rows than n_clusters=9; 5 clusters are made"):
        model.fit(copies, **planted.vocabulary)
    assert model.labels_.tolist() == [0, 1, 2, 3, 4] * 12
    assert model.predict_proba(planted.images).shape == (len(planted.images), 5)
    assert len(model.cluster_names_) == 5


@pytest.mark.parametrize("method", ["dxmc", "tac"])
def test_several_trainings_of_few_distinct_rows(planted, method):
    copies = planted.images[[0, 1, 2]][np.arange(60) % 3]
    with pytest.warns(ConvergenceWarning):
        model = DXMC(4, method=method, n_init=3).fit(copies, **planted.vocabulary)
    assert model.stability_ == 1
    assert model.labels_.tolist() == [0, 1, 2] * 20


def test_what_is_known_of_the_clusters(planted):
    model = DXMC(NUM_CLUSTERS, method="kmeans").fit(planted.images, **planted.vocabulary)
    unit = planted.images / np.linalg.norm(planted.images, axis=1, keepdims=True)
    assert model.n_clusters_ == NUM_CLUSTERS == len(model.clusters_)
    for row in model.clusters_:
        members = unit[model.labels_ == row["cluster_id"]]
        center = members.mean(axis=0) / np.linalg.norm(members.mean(axis=0))
        np.testing.assert_allclose(model.cluster_centers_[row["cluster_id"]], center, atol=1e-3)
        assert row["size"] == len(members)
        assert row["name"] == model.cluster_names_[row["cluster_id"]]
        assert set(model.labels_[row["exemplars"]]) == {row["cluster_id"]}
        assert row["cohesion"] == pytest.approx((members @ center).mean(), abs=1e-3)
    distances = model.transform(planted.images)
    np.testing.assert_allclose(distances, 1 - unit @ model.cluster_centers_.T, atol=1e-3)
    np.testing.assert_array_equal(distances.argmin(axis=1), model.labels_)
    np.testing.assert_array_equal(model.fit_transform(planted.images, **planted.vocabulary), distances)
    assert [f"dxmc{cluster}" for cluster in range(NUM_CLUSTERS)] == model.get_feature_names_out().tolist()


def test_clusters_without_nouns_are_numbered(planted):
    model = DXMC(NUM_CLUSTERS, method="kmeans").fit(planted.images)
    assert [row["name"] for row in model.clusters_] == [f"cluster {cluster}" for cluster in range(NUM_CLUSTERS)]


def test_score_prefers_the_planted_clusters(planted):
    fitted = {k: DXMC(k, method="kmeans").fit(planted.images) for k in (NUM_CLUSTERS, 12)}
    scores = {k: model.score(planted.images) for k, model in fitted.items()}
    labels = fitted[12].labels_
    assert scores[12] == pytest.approx(silhouette_score(planted.images, labels, metric="cosine"), abs=1e-3)
    assert scores[NUM_CLUSTERS] > scores[12]


def test_grid_search_finds_settings_of_the_method(planted):
    folds = KFold(2, shuffle=True, random_state=0)
    grid = {"n_clusters": [3, NUM_CLUSTERS], "method_settings__num_restarts": [1, 2]}
    search = GridSearchCV(DXMC(method="kmeans"), grid, cv=folds).fit(planted.images, **planted.vocabulary)
    assert search.best_params_["n_clusters"] == NUM_CLUSTERS
    assert search.best_estimator_.method_settings["num_restarts"] in (1, 2)


def test_settings_of_the_method_are_parameters():
    model = DXMC(method="kmeans", method_settings={"num_restarts": 3})
    assert model.get_params()["method_settings__num_restarts"] == 3
    assert model.get_params()["method_settings__temperature"] is None
    model.set_params(method_settings__temperature=0.5, method_settings__num_restarts=None)
    assert model.method_settings == {"temperature": 0.5}
    model.set_params(method="turtle", method_settings={}, method_settings__num_epochs=7)
    assert model.method_settings == {"num_epochs": 7}
    with pytest.raises(ValueError, match="turtle has no parameter method_settings__num_restarts; it has"):
        model.set_params(method_settings__num_restarts=1)


def test_weights_move_the_centers_of_kmeans_and_no_other_method_takes_them(planted):
    weights = np.where(planted.labels == 0, 1.0, 0.0)
    weights[[60, 110]] = 1
    model = DXMC(3, method="kmeans").fit(planted.images, sample_weight=weights)
    # Only the weighted rows decide: the first group and two single rows have a cluster each.
    assert len(set(model.labels_[[0, 60, 110]])) == 3
    for row in (60, 110):
        unit = planted.images[row] / np.linalg.norm(planted.images[row])
        np.testing.assert_allclose(model.cluster_centers_[model.labels_[row]], unit, atol=1e-3)
    equal = np.full(len(planted.images), 2.5)
    np.testing.assert_array_equal(
        DXMC(NUM_CLUSTERS).fit(planted.images, sample_weight=equal).labels_,
        DXMC(NUM_CLUSTERS).fit(planted.images).labels_,
    )
    with pytest.raises(ValueError, match=r"counts all rows alike: .* weigh rows: kmeans, concat_kmeans"):
        DXMC(3).fit(planted.images, sample_weight=weights)
    with pytest.raises(ValueError, match="Negative values"):
        DXMC(3, method="kmeans").fit(planted.images, sample_weight=-equal)


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_model_is_the_same_model(planted, tmp_path: Path, method):
    model = DXMC(NUM_CLUSTERS, method=method, method_settings=short(method), random_state=4)
    model.fit(planted.images, **planted.vocabulary).save(tmp_path / "model.safetensors")
    again = DXMC.load(tmp_path / "model.safetensors")
    assert again.get_params() == model.get_params()
    np.testing.assert_array_equal(again.predict_proba(planted.images), model.predict_proba(planted.images))
    np.testing.assert_array_equal(again.transform(planted.images), model.transform(planted.images))
    for name, value in vars(model).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(again, name), value)
        elif name != "heads_":
            assert getattr(again, name) == value, name
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_model_without_nouns_and_with_a_choice_of_k_is_saved_too(planted, tmp_path: Path):
    frame = pd.DataFrame(planted.images, columns=[f"x{column}" for column in range(16)])
    model = DXMC("auto", method="kmeans", random_state=np.random.RandomState(1)).fit(frame)
    model.save(tmp_path / "model")
    again = DXMC.load(tmp_path / "model")
    assert again.k_choice_ == model.k_choice_
    assert again.random_state is None
    assert again.noun_ids_ is None
    np.testing.assert_array_equal(again.feature_names_in_, model.feature_names_in_)
    np.testing.assert_array_equal(again.predict(frame), model.labels_)


@pytest.mark.parametrize("content", [b"", b"PK", pickle.dumps({"a": 1}), b"\x02\0\0\0\0\0\0\0{}"])
def test_another_file_is_refused_by_load(tmp_path: Path, content):
    (tmp_path / "model").write_bytes(content)
    with pytest.raises(ValueError, match=r"model is not a file that DXMC\.save of this version wrote"):
        DXMC.load(tmp_path / "model")


def test_files_of_others_are_not_replaced(planted, tmp_path: Path):
    (tmp_path / "mine").write_text("notes")
    model = DXMC(NUM_CLUSTERS, method="kmeans").fit(planted.images)
    for write in (model.save, lambda path: model.to_report(path, planted.images)):
        with pytest.raises(FileExistsError, match="mine is there already, and dxmc did not write it"):
            write(tmp_path / "mine")
        assert (tmp_path / "mine").read_text() == "notes"
        for _ in range(2):
            write(tmp_path / "own")
        (tmp_path / "own").unlink()
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_a_model_is_saved_after_it_is_fitted(tmp_path: Path):
    with pytest.raises(NotFittedError):
        DXMC().save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_verbose_names_the_steps_and_is_off_by_default(planted, capsys):
    DXMC(NUM_CLUSTERS, method="kmeans").fit(planted.images)
    assert capsys.readouterr().err == ""
    model = DXMC(NUM_CLUSTERS, method="dxmc", method_settings=short("dxmc"), verbose=True)
    model.fit(planted.images, **planted.vocabulary)
    shown = capsys.readouterr().err
    for step in ("select nouns", "mix text counterparts", "search image neighbors", "fit dxmc", "epoch=2/2", "done"):
        assert step in shown


def test_the_report_shows_rows_pictures_and_scores(planted, tmp_path: Path):
    rows = planted.images[::3]
    Image.new("RGB", (80, 60), (200, 30, 30)).save(tmp_path / "red.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    pictures = [tmp_path / "red.png", str(tmp_path / "broken.jpg"), Image.new("RGB", (50, 50), (10, 90, 10)), None]
    labels = [None if label == 5 else f"class {label}" for label in planted.labels[::3]]
    model = DXMC(NUM_CLUSTERS, method="kmeans").fit(planted.images, **planted.vocabulary)
    model.to_report(tmp_path / "page.html", rows, images=pictures * 25, labels=labels, title="Six <groups>")
    page = (tmp_path / "page.html").read_text()
    assert "Six &lt;groups&gt;" in page
    assert "data:image/webp" in page
    assert "broken.jpg" in page
    assert all(name in page for name in model.cluster_names_)
    assert "ACC" in page
    model.to_report(tmp_path / "page.html", rows)
    assert "row 0" in (tmp_path / "page.html").read_text()
    assert "data:image/webp" not in (tmp_path / "page.html").read_text()
    with pytest.raises(ValueError, match="expected images of length 100 like X, found 1"):
        model.to_report(tmp_path / "page.html", rows, images=[None])
    with pytest.raises(ValueError, match="expected images as paths, URIs or Pillow images, found int"):
        model.to_report(tmp_path / "page.html", rows, images=[3] * 100)


def _second_encoder(planted: Planted) -> np.ndarray:
    """The planted classes as another encoder would see them."""
    rng = np.random.default_rng(7)
    return (2 + rng.standard_normal((NUM_CLUSTERS, 24)))[planted.labels] + 0.5 * rng.standard_normal(
        (len(planted.labels), 24)
    )


def test_several_matrices_are_joined(planted, tmp_path: Path):
    X = [planted.images, _second_encoder(planted)]
    model = DXMC(NUM_CLUSTERS).fit(X, noun_embeddings=planted.noun_embeddings, nouns=planted.nouns)
    assert clustering_accuracy(planted.labels, model.labels_) > 0.9
    assert model.encoder_widths_ == (planted.images.shape[1], 24)
    assert model.n_features_in_ == sum(model.encoder_widths_)
    assert model.cluster_centers_.shape == (NUM_CLUSTERS, planted.images.shape[1])
    assert len(model.cluster_names_) == NUM_CLUSTERS
    assert np.array_equal(model.predict(X), model.labels_)
    assert model.transform(X).shape == (len(X[0]), NUM_CLUSTERS)
    assert -1 < model.score(X) < 1
    model.save(tmp_path / "model.safetensors")
    again = DXMC.load(tmp_path / "model.safetensors")
    assert np.array_equal(again.predict(X), model.labels_)
    model.to_report(tmp_path / "report.html", X)
    assert (tmp_path / "report.html").stat().st_size > 0


def test_one_matrix_in_a_list_of_rows_is_one_matrix(planted):
    model = DXMC(NUM_CLUSTERS).fit(list(planted.images))
    assert model.encoder_widths_ == ()
    assert np.array_equal(model.labels_, DXMC(NUM_CLUSTERS).fit(planted.images).labels_)


def test_unusable_lists_of_matrices_are_refused(planted):
    second = _second_encoder(planted)
    with pytest.raises(ValueError, match="method 'kmeans' takes one matrix X, found 2; method 'best' joins several"):
        DXMC(NUM_CLUSTERS, method="kmeans").fit([planted.images, second])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        DXMC(NUM_CLUSTERS).fit([planted.images, second[1:]])
    model = DXMC(NUM_CLUSTERS).fit([planted.images, second])
    with pytest.raises(ValueError, match="expected X as a list of 2 matrices as in fit, found one"):
        model.predict(planted.images)
    with pytest.raises(ValueError, match="expected X of widths"):
        model.predict([second, planted.images])
    with pytest.raises(ValueError, match="expected X of widths"):
        DXMC(NUM_CLUSTERS).fit(planted.images).predict([planted.images, second])
