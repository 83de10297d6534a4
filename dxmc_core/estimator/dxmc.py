"""The estimator itself."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields
from numbers import Integral
from typing import Any, Literal, Self, TypeGuard

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.utils import Tags, check_array, check_consistent_length, check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from dxmc_core.estimator.model_file import read_model, write_model, write_whole
from dxmc_core.estimator.progress import FitProgress
from dxmc_core.estimator.vocabulary import FLOATS, GivenNouns, given_nouns
from dxmc_core.extras import needed_for
from dxmc_core.method.best.joined_encoders import join_encoders
from dxmc_core.method.clusters.cluster_sample import ClusterSample, InlierRule, cluster_rows, decide
from dxmc_core.method.clusters.metrics import silhouette, stability
from dxmc_core.method.clusters.suggest_k import KChoice, suggest_num_clusters
from dxmc_core.method.fit import Fit, assign, check_num_images, fit_heads
from dxmc_core.method.heads import Heads
from dxmc_core.method.hyperparameters import (
    METHODS,
    TEXT_MATRICES,
    method_reads,
    settings_of,
)
from dxmc_core.method.neighbors.near_duplicates import usable_num_clusters
from dxmc_core.method.nouns.naming import unnamed
from dxmc_core.method.preparation import (
    CLIP_RETRIEVAL_TEMPERATURE,
    Prepared,
    as_stored,
    prepare,
    text_counterparts_as_stored,
)
from dxmc_core.method.training import EpochReport
from dxmc_core.method.training_data import TrainingData
from dxmc_core.runtime.cpu_products import onednn_products

_SETTINGS = "method_settings"
_NUM_EXEMPLARS, _NUM_BORDER = 24, 8


class DXMC(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """Cluster image embeddings by any method of dxmc, and name the clusters when nouns are given.

    Wherever X is asked for, `best` also takes a list of matrices with the same rows, one of each encoder that has
    embedded the images. The first is the one that nouns belong to and that clusters are described in.

    Args:
        n_clusters: K, or "auto" to take the best of the numbers that are suggested without labels. With fewer distinct
            rows there are as many clusters as rows, and a warning (at least 2, of which one may stay empty).
        method: one of `dxmc_core.method.hyperparameters.METHODS`. `best`, the default, works with nouns and without.
        method_settings: settings of the method in the place of its published ones, such as `{"num_epochs": 50}`. Each
            is a parameter of its own too, `method_settings__num_epochs`, for `set_params` and `GridSearchCV`.
        temperature: softmax temperature at which nouns describe an image; 0.005 suits OpenAI's CLIP, 0.01-0.05 others.
        nouns_per_center: most confident nouns kept of each image centre.
        n_neighbors: neighbours of an image, in each modality; at most N - 1 are taken.
        min_cluster_size: sets rows apart that belong nowhere, in `inlier_labels_` alone: those of clusters with fewer
            rows than this, and those twice as far from their centre as rows typically are. By default none are.
        judging_nouns: also call clusters by nouns for people that no picture shows, slurs and vulgar words.
        n_init: heads are trained so often, with the seeds that follow, and those of lowest loss are kept.
        device: where neighbours are searched and heads are trained: "cpu" or "cuda".
        random_state: an integer gives the pipeline's result for that `seed`, every time.
        verbose: show a progress bar that names the step at hand.

    Attributes:
        n_clusters_: K, those that stayed empty included.
        cluster_centers_: (K, D) float32, normalised (weighted) means of the members; zero for an empty cluster.
        clusters_: a dict for every cluster that has rows, with the columns of the pipeline's table `clusters`: number,
            size, name with its evidence, cohesion, nearest clusters; `exemplars` and `border` are positions in X.
            `pandas.DataFrame(model.clusters_)` makes a table of them.
        labels_: (N,) int64, cluster of every row that was fitted; the same as `predict` of these rows.
        inlier_labels_: (N,) int64, `labels_` with -1 for the rows set apart; None without `min_cluster_size`.
        heads_: the trained heads, a torch module on the CPU.
        reports_: what each epoch did; empty for k-means.
        stability_: mean adjusted Rand index of all pairs of the trainings, at most 1; None when `n_init` is 1.
        k_choice_: scores over K and the three suggestions when `n_clusters` is "auto", else None.
        cluster_names_: K distinct names by cluster; None without nouns.
        noun_ids_: (S,) int64 positions of the nouns that were selected, ascending; None without noun embeddings.
        noun_embeddings_: (S, D) float16, theirs; None without noun embeddings.
        encoder_widths_: columns of each matrix where X is a list of several; empty where it is one.
        n_features_in_: D, of all matrices together.
        feature_names_in_: (D,) column names, where X had them.

    Example:
        >>> model = DXMC(n_clusters=47, random_state=0)                                           # doctest: +SKIP
        >>> model.fit_predict(image_embeddings, noun_embeddings=noun_embeddings, nouns=nouns)     # doctest: +SKIP
    """

    n_clusters_: int
    cluster_centers_: np.ndarray
    clusters_: list[dict[str, Any]]
    labels_: np.ndarray
    inlier_labels_: np.ndarray | None
    heads_: Heads
    reports_: list[EpochReport]
    stability_: float | None
    k_choice_: KChoice | None
    cluster_names_: list[str] | None
    noun_ids_: np.ndarray | None
    noun_embeddings_: np.ndarray | None
    encoder_widths_: tuple[int, ...]
    n_features_in_: int

    def __init__(
        self,
        n_clusters: int | Literal["auto"] = 8,
        *,
        method: str = "best",
        method_settings: Mapping[str, Any] | None = None,
        temperature: float = CLIP_RETRIEVAL_TEMPERATURE,
        nouns_per_center: int = 5,
        n_neighbors: int = 50,
        min_cluster_size: int | None = None,
        judging_nouns: bool = False,
        n_init: int = 1,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = 0,
        verbose: bool = False,
    ) -> None:
        self.n_clusters = n_clusters
        self.method = method
        self.method_settings = method_settings
        self.temperature = temperature
        self.nouns_per_center = nouns_per_center
        self.n_neighbors = n_neighbors
        self.min_cluster_size = min_cluster_size
        self.judging_nouns = judging_nouns
        self.n_init = n_init
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @onednn_products()
    def fit(
        self,
        X: ArrayLike | Sequence[ArrayLike],
        y: object = None,
        sample_weight: ArrayLike | None = None,
        *,
        noun_embeddings: ArrayLike | None = None,
        nouns: Sequence[str] | None = None,
        synset_ids: Sequence[str | None] | Literal["wordnet"] | None = None,
    ) -> Self:
        """Cluster the rows of X.

        Args:
            X: (N, D) image embeddings of any real type; rows are normalised here and kept as float16. Or a list of them
                with the same N rows, for `best`.
            y: ignored; no method sees labels.
            sample_weight: (N,) not negative, what a row counts in the centres of `kmeans` and `concat_kmeans`; the
                other methods count all rows alike and take no others than equal weights. "auto" looks at all alike.
            noun_embeddings: (M, D) of the same encoder, the first of several, for methods that read text and for names.
            nouns: M words or phrases; blank and repeated ones are left out, as in the pipeline.
            synset_ids: M WordNet 3.0 names such as "dog.n.01", None where unknown, or "wordnet" to look the nouns up by
                their commonest meaning; names may then be hypernyms.

        Raises:
            ValueError: unusable arrays or parameters, fewer rows than clusters, a method that reads text and no
                noun embeddings, or weights for a method that has no use for them.
        """
        with FitProgress(shown=bool(self.verbose)) as progress:
            self._fit(X, sample_weight, (noun_embeddings, nouns, synset_ids), progress)
        return self

    def _fit(
        self, X: ArrayLike | Sequence[ArrayLike], sample_weight: ArrayLike | None, given: tuple, progress: FitProgress
    ) -> None:
        progress.begin("check")
        images, *further = self._stored(X, reset=True)
        weights = self._weights(sample_weight, images)
        settings = _settings(self.method, self.method_settings, has_nouns=given[0] is not None)
        seed = _seed(self.random_state)
        num_clusters = self._choose_num_clusters(images, seed=seed, progress=progress)
        self._check_parameters(num_clusters)
        check_num_images(len(images), num_clusters)
        num_clusters = _usable_num_clusters(images, num_clusters)
        reads = method_reads(self.method, **settings)
        vocabulary = given_nouns(*given, images=images)
        if vocabulary is None and TEXT_MATRICES.intersection(reads):
            raise ValueError(
                f"method {self.method!r} reads text: expected noun_embeddings in fit, found none; methods that need "
                f"none: {', '.join(_methods_without_text())}"
            )
        prepared = prepare(
            images,
            reads=reads,
            num_clusters=num_clusters,
            further_embeddings=further,
            noun_embeddings=None if vocabulary is None else vocabulary.embeddings,
            noun_hypernyms=None if vocabulary is None else vocabulary.hypernyms(reads),
            nouns_per_center=self.nouns_per_center,
            temperature=self.temperature,
            num_neighbors=self.n_neighbors,
            weights=weights,
            seed=seed,
            device=self.device,
            on_begin=progress.begin,
        )
        progress.begin(f"fit {self.method}")
        fitted = self._fit_heads(
            prepared.data, num_clusters=num_clusters, seed=seed, settings=settings, weights=weights, progress=progress
        )
        self.heads_, self.reports_ = fitted.heads, fitted.reports
        progress.begin("describe clusters")
        self._describe(images, prepared, vocabulary, weights)

    def _describe(
        self, images: np.ndarray, prepared: Prepared, vocabulary: GivenNouns | None, weights: np.ndarray | None
    ) -> None:
        """Set what is known of the fitted rows and their clusters."""
        self.noun_embeddings_ = prepared.selected_embeddings
        selection = prepared.selected_nouns
        self.noun_ids_ = None
        if vocabulary is not None and selection is not None:
            self.noun_ids_ = vocabulary.positions[selection.noun_ids]
        found = decide(self.heads_, prepared.data.image_embeddings.numpy(), self._texts(images, prepared))
        num_clusters = self.heads_.num_clusters
        sample = ClusterSample.of(np.arange(len(images)), images, found, num_clusters=num_clusters, weights=weights)
        names = None if vocabulary is None else vocabulary.names(sample, judging=self.judging_nouns)
        self.labels_, self.cluster_centers_ = sample.labels, sample.centers
        self.n_clusters_ = num_clusters
        self.cluster_names_ = None if names is None else [name.name for name in names]
        sizes = np.bincount(sample.labels, minlength=self.n_clusters_)
        self.inlier_labels_ = None
        if self.min_cluster_size is not None:
            distances = 1 - np.einsum("nd,nd->n", sample.embeddings, sample.centers[sample.labels])
            rule = InlierRule.of(sizes, sample.mean_distances, min_cluster_size=self.min_cluster_size)
            self.inlier_labels_ = rule.inlier_labels(sample.labels, distances)
        self.clusters_ = cluster_rows(
            sample,
            sizes,
            names or unnamed(self.n_clusters_),
            num_exemplars=_NUM_EXEMPLARS,
            num_border=_NUM_BORDER,
        )

    def _fit_heads(
        self,
        data: TrainingData,
        *,
        num_clusters: int,
        seed: int,
        settings: Mapping[str, Any],
        weights: np.ndarray | None,
        progress: FitProgress,
    ) -> Fit:
        """The training of lowest loss, or without epochs the one most like the others, and `stability_` of all."""
        fits = [
            fit_heads(
                self.method,
                data,
                num_clusters=num_clusters,
                weights=weights,
                seed=seed + number,
                device=self.device,
                on_epoch_end=progress.epoch,
                on_step=progress.work,
                **settings,
            )
            for number in range(self.n_init)
        ]
        if self.n_init == 1:
            self.stability_ = None
            return fits[0]
        partitions = [assign(fit.heads, data.image_embeddings, data.text_counterparts).argmax(dim=1) for fit in fits]
        self.stability_ = stability([partition.numpy() for partition in partitions])
        if not fits[0].reports:
            likeness = [sum(adjusted_rand_score(one, other) for other in partitions) for one in partitions]
            return fits[int(np.argmax(likeness))]
        return min(fits, key=lambda fit: fit.reports[-1].terms["total"])

    def predict(self, X: ArrayLike | Sequence[ArrayLike]) -> np.ndarray:
        """Clusters (n,) int64 of images, known or new.

        Raises:
            ValueError: unusable rows, or other encoders or another width than in `fit`.
        """
        return self.predict_proba(X).argmax(axis=1)

    @onednn_products()
    def predict_proba(self, X: ArrayLike | Sequence[ArrayLike]) -> np.ndarray:
        """Assignment probabilities (n, K) float32 of images, known or new; see `predict`."""
        check_is_fitted(self)
        rows = self._stored(X)
        texts = self._texts(rows[0])
        joined = torch.from_numpy(join_encoders(rows))
        return assign(self.heads_, joined, None if texts is None else torch.from_numpy(texts)).numpy()

    def transform(self, X: ArrayLike | Sequence[ArrayLike]) -> np.ndarray:
        """Cosine distances (n, K) float32, in 0..2, of images to `cluster_centers_`; see `predict`.

        The nearest centre need not be the cluster that `predict` gives: only `kmeans` assigns by it.
        """
        check_is_fitted(self)
        images = self._stored(X)[0]
        return 1 - images.astype(np.float32) @ self.cluster_centers_.T

    def score(self, X: ArrayLike | Sequence[ArrayLike], y: object = None) -> float:
        """Mean cosine silhouette of images in the clusters that `predict` gives them, in -1..1; higher is better.

        For comparing methods and settings on the same embeddings, by `GridSearchCV` too. It favours few clusters: K is
        better chosen by `n_clusters="auto"`. `y` is ignored; with labels use `dxmc_core.method.clusters.metrics`.
        """
        labels = self.predict(X)
        return silhouette(self._checked(X)[0], labels)

    def to_report(
        self,
        path: str | os.PathLike,
        X: ArrayLike | Sequence[ArrayLike],
        *,
        images: Sequence[Any] | None = None,
        labels: Sequence[str | None] | None = None,
        title: str = "DXMC",
    ) -> None:
        """Write the report of rows, those fitted or others, as one HTML page. Needs `pip install 'dxmc[report]'`.

        Args:
            path: of the page; an earlier page is replaced.
            X: (n, D) embeddings.
            images: n pictures to show: paths, URIs or Pillow images, None where there is none; by default none.
            labels: n true classes, for scores against them.

        Raises:
            FileExistsError: there is a file that dxmc did not write.
            MissingPackageError: a package of the report is not installed.
            ValueError: unusable rows, or other numbers of images and labels than rows.
        """
        with needed_for("to_report", extra="report"):
            from dxmc_core.estimator.report import PAGE_MARK, render  # late: fitting needs none of it

        check_is_fitted(self)
        encoded = self._stored(X)
        rows = encoded[0]
        found = decide(self.heads_, join_encoders(encoded), self._texts(rows))
        page = render(self, rows, found, images=images, labels=labels, title=title)
        write_whole(path, page.encode(), mark=PAGE_MARK)

    def save(self, path: str | os.PathLike) -> None:
        """Write what was fitted as one safetensors file, without pickle; an earlier one is replaced.

        A `random_state` that is no integer is saved as None.

        Raises:
            FileExistsError: there is a file that `save` did not write.
        """
        check_is_fitted(self)
        write_model(path, self)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """The estimator that `save` wrote. Nothing in the file is executed.

        Raises:
            ValueError: it is no such file, or of another version.
        """
        parameters, fitted = read_model(path)
        model = cls(**parameters)
        for name, value in fitted.items():
            setattr(model, name, value)
        return model

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by name; with `deep` the settings of the method too, None where they have their default."""
        params = super().get_params(deep=deep)
        if deep and isinstance(self.method, str) and self.method in METHODS:
            given = self.method_settings if isinstance(self.method_settings, Mapping) else {}
            params |= {f"{_SETTINGS}__{name}": given.get(name) for name in _setting_names(self.method)}
        return params

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name; a setting of the method by `method_settings__NAME`, None for its default.

        Raises:
            ValueError: there is no such parameter, or the method has no such setting.
        """
        nested = {name: params.pop(name) for name in list(params) if name.startswith(f"{_SETTINGS}__")}
        super().set_params(**params)
        if not nested:
            return self
        known = [f"{_SETTINGS}__{name}" for name in _setting_names(self.method)]
        for name in nested:
            if name not in known:
                raise ValueError(f"method {self.method} has no parameter {name}; it has {', '.join(known)}")
        settings = {**(self.method_settings or {}), **{name.partition("__")[2]: nested[name] for name in nested}}
        self.method_settings = {name: value for name, value in settings.items() if value is not None}
        return self

    @property
    def _n_features_out(self) -> int:
        return self.n_clusters_

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _stored(self, X: ArrayLike | Sequence[ArrayLike], *, reset: bool = False) -> list[np.ndarray]:
        """What each encoder made of the images, (n, D_v) float16 unit rows; see `_checked`."""
        return [as_stored(rows, name="X") for rows in self._checked(X, reset=reset)]

    def _checked(self, X: ArrayLike | Sequence[ArrayLike], *, reset: bool = False) -> list[np.ndarray]:
        """The matrices of X, one or several; with `reset` their widths are what later ones have to have."""
        if not _is_several(X):
            if not reset and self.encoder_widths_:
                raise ValueError(f"expected X as a list of {len(self.encoder_widths_)} matrices as in fit, found one")
            rows = validate_data(self, X, dtype=FLOATS, reset=reset)
            self.encoder_widths_ = ()
            return [rows]
        if not settings_of(self.method).joins_encoders:
            raise ValueError(f"method {self.method!r} takes one matrix X, found {len(X)}; method 'best' joins several")
        encoded = [check_array(rows, dtype=FLOATS, input_name=f"X[{place}]") for place, rows in enumerate(X)]
        check_consistent_length(*encoded)
        widths = tuple(rows.shape[1] for rows in encoded)
        if reset:
            self.encoder_widths_, self.n_features_in_ = widths, sum(widths)
            self.__dict__.pop("feature_names_in_", None)
        elif widths != self.encoder_widths_:
            expected = list(self.encoder_widths_) or self.n_features_in_
            raise ValueError(f"expected X of widths {expected} as in fit, found {list(widths)}")
        return encoded

    def _weights(self, sample_weight: ArrayLike | None, images: np.ndarray) -> np.ndarray | None:
        """Weights (N,) float32 that are not all alike, or None."""
        if sample_weight is None:
            return None
        weights = _check_sample_weight(sample_weight, images, dtype=np.float32, ensure_non_negative=True)
        if (weights == weights[0]).all() and weights[0] > 0:
            return None
        if not settings_of(self.method).weighs_rows:
            weighing = ", ".join(method for method in METHODS if settings_of(method).weighs_rows)
            raise ValueError(
                f"method {self.method!r} counts all rows alike: expected no sample_weight, found unequal ones; methods "
                f"that weigh rows: {weighing}"
            )
        return weights

    def _texts(self, images: np.ndarray, prepared: Prepared | None = None) -> np.ndarray | None:
        """Text counterparts (n, D) of stored rows where the heads need them; `prepared` has those known already."""
        if not self.heads_.needs_text:
            return None
        if prepared is not None and prepared.data.text_counterparts is not None:
            return prepared.data.text_counterparts.numpy()
        assert self.noun_embeddings_ is not None, "heads that read text were trained with nouns"
        return text_counterparts_as_stored(images, self.noun_embeddings_, temperature=self.temperature)

    def _choose_num_clusters(self, images: np.ndarray, *, seed: int, progress: FitProgress) -> int:
        """K as given, or the best suggestion; what it rests on is kept."""
        self.k_choice_ = None
        if self.n_clusters != "auto":
            return self.n_clusters
        progress.begin("choose the number of clusters")
        self.k_choice_ = suggest_num_clusters(images, seed=seed, on_step=progress.work)
        return self.k_choice_.num_clusters

    def _check_parameters(self, num_clusters: int) -> None:
        if self.method not in METHODS:
            raise ValueError(f"expected method to be one of {', '.join(METHODS)}, found {self.method!r}")
        least = settings_of(self.method).least_clusters
        for name, minimum in (("n_clusters", least), ("n_neighbors", 1), ("nouns_per_center", 1), ("n_init", 1)):
            value = num_clusters if name == "n_clusters" else getattr(self, name)
            if not isinstance(value, Integral) or value < minimum:
                raise ValueError(f"expected {name} to be an integer of at least {minimum}, found {value!r}")
        size = self.min_cluster_size
        if size is not None and (not isinstance(size, Integral) or size < 2):
            raise ValueError(f"expected min_cluster_size to be None or an integer of at least 2, found {size!r}")
        if self.n_init > 1 and settings_of(self.method).has_restarts:
            raise ValueError(
                f"expected n_init 1 for method {self.method!r}, found {self.n_init}: it has restarts of its own, "
                "method_settings={'num_restarts': ...}"
            )


def _is_several(X: Any) -> TypeGuard[Sequence[ArrayLike]]:
    """Whether X is a list of at least two matrices, and not one given as a list of its rows."""
    return isinstance(X, list | tuple) and len(X) > 1 and all(np.ndim(rows) == 2 for rows in X)


def _usable_num_clusters(images: np.ndarray, num_clusters: int) -> int:
    """K, or as many as there are distinct rows, with a warning as scikit-learn's own estimators give it."""
    usable = usable_num_clusters(num_clusters, [images])
    if usable < num_clusters:
        warnings.warn(
            f"X has fewer distinct rows than n_clusters={num_clusters}; {usable} clusters are made",
            ConvergenceWarning,
            stacklevel=4,
        )
    return usable


def _setting_names(method: str) -> list[str]:
    return [field.name for field in fields(settings_of(method))]


def _methods_without_text() -> list[str]:
    settings = {method: _settings(method, None, has_nouns=False) for method in METHODS}
    return [method for method in METHODS if not TEXT_MATRICES.intersection(method_reads(method, **settings[method]))]


def _settings(method: str, given: Mapping[str, Any] | None, *, has_nouns: bool) -> dict[str, Any]:
    """The given settings; without nouns, `best` goes by the images alone unless it is told otherwise."""
    images_alone = {"use_text": False} if method == "best" and not has_nouns else {}
    return {**images_alone, **(given or {})}


def _seed(random_state: int | np.random.RandomState | None) -> int:
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
