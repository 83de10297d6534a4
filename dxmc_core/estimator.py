"""All methods as one estimator in scikit-learn's manner: embeddings in memory, no files, no Ray.

It runs the functions that the stages run, in their order and on the same rounded numbers, so the same seed gives the
assignments of the pipeline.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from dxmc_core.cpu_products import onednn_products
from dxmc_core.errors import InputError
from dxmc_core.method.fit import Fit, assign, check_num_images, fit_heads, fit_seeds
from dxmc_core.method.heads import Heads
from dxmc_core.method.hyperparameters import CENTROID_METHODS, METHODS, TEXT_MATRICES, method_reads
from dxmc_core.method.naming import name_clusters
from dxmc_core.method.near_duplicates import usable_num_clusters
from dxmc_core.method.preparation import (
    CLIP_RETRIEVAL_TEMPERATURE,
    Prepared,
    as_stored,
    hypernym_pairs,
    prepare,
    text_counterparts_as_stored,
)
from dxmc_core.method.seeds import stability
from dxmc_core.method.suggest_k import KChoice, suggest_num_clusters
from dxmc_core.method.training import EpochReport
from dxmc_core.method.training_data import TrainingData
from dxmc_core.method.unit_rows import check_same_width
from dxmc_core.vocabulary import hypernym_table
from dxmc_core.vocabulary.nouns import distinct_nouns

_FLOATS = (np.float64, np.float32, np.float16)


class DXMC(ClusterMixin, BaseEstimator):
    """Cluster image embeddings by any method of dxmc, and name the clusters when nouns are given.

    Args:
        n_clusters: K, or "auto" to take the best of the numbers that are suggested without labels. With fewer distinct
            rows there are as many clusters as rows, and a warning (at least 2, of which one may stay empty).
        method: one of `dxmc_core.method.hyperparameters.METHODS`. `best`, the default, works with nouns and without.
        method_settings: settings of the method in the place of its published ones, such as `{"num_epochs": 50}`.
        temperature: softmax temperature at which nouns describe an image; 0.005 suits OpenAI's CLIP, 0.01-0.05 others.
        nouns_per_center: most confident nouns kept of each image centre.
        n_neighbors: neighbours of an image, in each modality; at most N - 1 are taken.
        n_init: heads are trained so often, with the seeds that follow, and those of lowest loss are kept. dxmc and tac
            train them at once.
        device: where neighbours are searched and heads are trained: "cpu" or "cuda".
        random_state: an integer gives the pipeline's result for that `seed`, every time.

    Attributes:
        labels_: (N,) int64, cluster of every row that was fitted; the same as `predict` of these rows.
        heads_: the trained heads, a torch module on the CPU.
        reports_: what each epoch did; empty for k-means.
        stability_: mean adjusted Rand index of all pairs of the trainings, at most 1; None when `n_init` is 1.
        k_choice_: scores over K and the three suggestions when `n_clusters` is "auto", else None.
        cluster_names_: K distinct names by cluster; None without nouns.
        noun_ids_: (S,) int64 positions of the nouns that were selected, ascending; None without noun embeddings.
        noun_embeddings_: (S, D) float16, theirs; None without noun embeddings.
        n_features_in_: D.
        feature_names_in_: (D,) column names, where X had them.

    Example:
        >>> model = DXMC(n_clusters=47, random_state=0)                                           # doctest: +SKIP
        >>> model.fit_predict(image_embeddings, noun_embeddings=noun_embeddings, nouns=nouns)     # doctest: +SKIP
    """

    labels_: np.ndarray
    heads_: Heads
    reports_: list[EpochReport]
    stability_: float | None
    k_choice_: KChoice | None
    cluster_names_: list[str] | None
    noun_ids_: np.ndarray | None
    noun_embeddings_: np.ndarray | None
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
        n_init: int = 1,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.n_clusters = n_clusters
        self.method = method
        self.method_settings = method_settings
        self.temperature = temperature
        self.nouns_per_center = nouns_per_center
        self.n_neighbors = n_neighbors
        self.n_init = n_init
        self.device = device
        self.random_state = random_state

    @onednn_products()
    def fit(
        self,
        X: ArrayLike,
        y: object = None,
        *,
        noun_embeddings: ArrayLike | None = None,
        nouns: Sequence[str] | None = None,
        synset_ids: Sequence[str | None] | None = None,
    ) -> Self:
        """Cluster the rows of X.

        Args:
            X: (N, D) image embeddings of any real type; rows are normalised here and kept as float16.
            y: ignored; no method sees labels.
            noun_embeddings: (M, D) of the same encoder, for methods that read text and for names.
            nouns: M words or phrases; blank and repeated ones are left out, as in the pipeline.
            synset_ids: M WordNet 3.0 names such as "dog.n.01", None where unknown; names may then be hypernyms.

        Raises:
            ValueError: unusable arrays or parameters, fewer rows than clusters, or a method that reads text and no
                noun embeddings.
        """
        images = as_stored(validate_data(self, X, dtype=_FLOATS), name="X")
        settings = _settings(self.method, self.method_settings, has_nouns=noun_embeddings is not None)
        seed = _seed(self.random_state)
        num_clusters = self._choose_num_clusters(images, seed=seed)
        self._check_parameters(num_clusters)
        check_num_images(len(images), num_clusters)
        num_clusters = _usable_num_clusters(images, num_clusters)
        reads = method_reads(self.method, **settings)
        vocabulary = _vocabulary(noun_embeddings, nouns, synset_ids, images=images)
        if vocabulary is None and TEXT_MATRICES.intersection(reads):
            raise ValueError(
                f"method {self.method!r} reads text: expected noun_embeddings in fit, found none; methods that need "
                f"none: {', '.join(_methods_without_text())}"
            )
        prepared = prepare(
            images,
            reads=reads,
            num_clusters=num_clusters,
            noun_embeddings=None if vocabulary is None else vocabulary.embeddings,
            noun_hypernyms=_hypernyms_for(reads, vocabulary),
            nouns_per_center=self.nouns_per_center,
            temperature=self.temperature,
            num_neighbors=self.n_neighbors,
            seed=seed,
            device=self.device,
        )
        fitted = self._fit_heads(prepared.data, num_clusters=num_clusters, seed=seed, settings=settings)
        self.heads_, self.reports_ = fitted.heads, fitted.reports
        self.noun_embeddings_ = prepared.selected_embeddings
        selection = prepared.selected_nouns
        self.noun_ids_ = None
        if vocabulary is not None and selection is not None:
            self.noun_ids_ = vocabulary.positions[selection.noun_ids]
        probs = self._probs(images, prepared)
        self.labels_ = probs.argmax(axis=1)
        self.cluster_names_ = _names(images, probs, prepared, vocabulary)
        return self

    def _fit_heads(self, data: TrainingData, *, num_clusters: int, seed: int, settings: Mapping[str, Any]) -> Fit:
        """The training of lowest loss, or without epochs the one most like the others, and `stability_` of all."""
        if self.n_init == 1:
            self.stability_ = None
            return fit_heads(self.method, data, num_clusters=num_clusters, seed=seed, device=self.device, **settings)
        seeds = range(seed, seed + self.n_init)
        fits = fit_seeds(self.method, data, num_clusters=num_clusters, seeds=seeds, device=self.device, **settings)
        partitions = [assign(fit.heads, data.image_embeddings, data.text_counterparts).argmax(dim=1) for fit in fits]
        self.stability_ = stability([partition.numpy() for partition in partitions])
        if not fits[0].reports:
            likeness = [sum(adjusted_rand_score(one, other) for other in partitions) for one in partitions]
            return fits[int(np.argmax(likeness))]
        return min(fits, key=lambda fit: fit.reports[-1].terms["total"])

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Clusters (n,) int64 of images, known or new.

        Raises:
            ValueError: unusable rows, or another width than in `fit`.
        """
        return self.predict_proba(X).argmax(axis=1)

    @onednn_products()
    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Assignment probabilities (n, K) float32 of images, known or new; see `predict`."""
        check_is_fitted(self)
        images = validate_data(self, X, dtype=_FLOATS, reset=False)
        return self._probs(as_stored(images, name="X"))

    def _probs(self, images: np.ndarray, prepared: Prepared | None = None) -> np.ndarray:
        """Probabilities (n, K) of stored rows; `prepared` brings text counterparts that are known already."""
        texts = None
        if self.heads_.needs_text:
            texts = None if prepared is None else prepared.data.text_counterparts
            if texts is None:
                assert self.noun_embeddings_ is not None, "heads that read text were trained with nouns"
                counterparts = text_counterparts_as_stored(images, self.noun_embeddings_, temperature=self.temperature)
                texts = torch.from_numpy(counterparts)
        return assign(self.heads_, torch.from_numpy(images), texts).numpy()

    def _choose_num_clusters(self, images: np.ndarray, *, seed: int) -> int:
        """K as given, or the best suggestion; what it rests on is kept."""
        self.k_choice_ = None
        if self.n_clusters != "auto":
            return self.n_clusters
        self.k_choice_ = suggest_num_clusters(images, seed=seed)
        return self.k_choice_.num_clusters

    def _check_parameters(self, num_clusters: int) -> None:
        if self.method not in METHODS:
            raise ValueError(f"expected method to be one of {', '.join(METHODS)}, found {self.method!r}")
        least = 1 if self.method in CENTROID_METHODS else 2
        for name, minimum in (("n_clusters", least), ("n_neighbors", 1), ("nouns_per_center", 1), ("n_init", 1)):
            value = num_clusters if name == "n_clusters" else getattr(self, name)
            if not isinstance(value, Integral) or value < minimum:
                raise ValueError(f"expected {name} to be an integer of at least {minimum}, found {value!r}")
        if self.n_init > 1 and self.method in CENTROID_METHODS:
            raise ValueError(
                f"expected n_init 1 for method {self.method!r}, found {self.n_init}: it has restarts of its own, "
                "method_settings={'num_restarts': ...}"
            )


@dataclass(frozen=True)
class _Vocabulary:
    """Nouns that count, in the order given.

    Attributes:
        positions: (M',) int64 of the rows that are left.
        embeddings: (M', D) float16 unit rows.
        nouns, synset_ids: M' each; `nouns` is None when only embeddings were given.
    """

    positions: np.ndarray
    embeddings: np.ndarray
    nouns: list[str] | None
    synset_ids: list[str | None]


def _vocabulary(
    noun_embeddings: ArrayLike | None,
    nouns: Sequence[str] | None,
    synset_ids: Sequence[str | None] | None,
    *,
    images: np.ndarray,
) -> _Vocabulary | None:
    """The vocabulary as the pipeline would keep it, or None when none was given."""
    if noun_embeddings is None:
        if nouns is not None or synset_ids is not None:
            raise ValueError("expected noun_embeddings along with nouns and synset_ids, found none")
        return None
    rows = check_array(noun_embeddings, dtype=_FLOATS, input_name="noun_embeddings")
    check_same_width(images, rows, names=("X", "noun_embeddings"))
    for name, given in (("nouns", nouns), ("synset_ids", synset_ids)):
        if given is not None and len(given) != len(rows):
            raise ValueError(f"expected {name} of length {len(rows)} like noun_embeddings, found {len(given)}")
    embeddings = as_stored(rows, name="noun_embeddings")
    positions = np.arange(len(rows))
    if nouns is None:
        return _Vocabulary(positions, embeddings, None, list(synset_ids or [None] * len(rows)))
    try:
        # Positions travel where embeddings do, to learn which nouns were kept.
        distinct = distinct_nouns(list(nouns), synset_ids=synset_ids, embeddings=positions, where="nouns")
    except InputError as error:
        raise ValueError(str(error)) from error
    assert distinct.embeddings is not None
    kept = distinct.embeddings
    return _Vocabulary(kept, embeddings[kept], distinct.nouns, distinct.synset_ids)


def _hypernyms_for(reads: Sequence[str], vocabulary: _Vocabulary | None) -> np.ndarray | None:
    if vocabulary is None or "noun_embeddings" not in reads or not any(vocabulary.synset_ids):
        return None
    return hypernym_pairs(vocabulary.synset_ids, hypernym_table()[0])


def _names(
    images: np.ndarray, probs: np.ndarray, prepared: Prepared, vocabulary: _Vocabulary | None
) -> list[str] | None:
    """Names by the selected nouns, as assign_clusters gives them to a run that is not sampled."""
    if vocabulary is None or vocabulary.nouns is None:
        return None
    assert prepared.selected_nouns is not None
    assert prepared.selected_embeddings is not None
    chosen = prepared.selected_nouns.noun_ids
    synset_ids = [vocabulary.synset_ids[noun] for noun in chosen]
    hypernyms, synset_nouns = hypernym_table() if any(synset_ids) else ({}, {})
    names = name_clusters(
        images.astype(np.float32),
        probs.argmax(axis=1),
        prepared.selected_embeddings,
        [vocabulary.nouns[noun] for noun in chosen],
        synset_ids,
        num_clusters=probs.shape[1],
        hypernyms=hypernyms,
        synset_nouns=synset_nouns,
        confidences=probs.max(axis=1),
    )
    return [name.name for name in names]


def _usable_num_clusters(images: np.ndarray, num_clusters: int) -> int:
    """K, or as many as there are distinct rows, with a warning as scikit-learn's own estimators give it."""
    usable = usable_num_clusters(num_clusters, [images])
    if usable < num_clusters:
        warnings.warn(
            f"X has fewer distinct rows than n_clusters={num_clusters}; {usable} clusters are made",
            ConvergenceWarning,
            stacklevel=3,
        )
    return usable


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
