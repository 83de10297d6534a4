"""The methods by name: their settings with published defaults, what they read and what they cost.

Beside them the settings of the semantic space, which several of them read.

Nothing here computes, so that configurations are checked without loading what trains.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

from dxmc_core.method.work import DataShape, MethodCost

if TYPE_CHECKING:
    import numpy as np

    from dxmc_core.method.heads import Heads
    from dxmc_core.method.objectives.base import Objective
    from dxmc_core.method.steps import OnStep
    from dxmc_core.method.training_data import TrainingData

#: The matrices of `TrainingData` that only nouns can give.
TEXT_MATRICES = frozenset({"text_counterparts", "text_neighbors", "noun_embeddings", "selected_nouns"})

#: Fewer images say nothing about the number of clusters.
MIN_ROWS_FOR_K = 20

Fidelity = Literal["code", "paper"]
InstanceContrast = Literal["nt_xent_dot", "nt_xent_cosine", "info_nce"]
Spaces = Literal["image", "image_and_text"]

_BATCH_SIZE = 1024
_LEARNING_RATE_AT_256 = 1e-4
_STEPS_PER_EPOCH = 48


@dataclass(frozen=True, kw_only=True)
class SpaceSettings:
    """How the nouns of a semantic space are selected.

    Attributes:
        nouns_per_center: gamma in the paper.
        max_centers: cap on the number of image centres, of which there is one for every 300 images.
        kmeans_restarts, kmeans_iterations, max_points_per_center: see `spherical_kmeans`; by default as
            `noun_selection.kmeans_effort` has them.
    """

    nouns_per_center: int = 5
    max_centers: int = 20_000
    kmeans_restarts: int | None = None
    kmeans_iterations: int | None = None
    max_points_per_center: int | None = None


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """What is to be known of a method: its settings, what it reads, and how it is begun; what computes is loaded then.

    Class attributes: `least_clusters` is the smallest K; `weighs_rows` says that images may count for more or less,
    `has_restarts` that it begins several times by itself, `joins_encoders` that it clusters by the embeddings of
    several encoders together, where others go by those of the first.
    """

    least_clusters: ClassVar[int] = 2
    weighs_rows: ClassVar[bool] = False
    has_restarts: ClassVar[bool] = False
    joins_encoders: ClassVar[bool] = False

    @classmethod
    def published(cls, num_clusters: int, num_images: int, given: Mapping[str, Any]) -> Self:
        """The authors' settings for data of this shape; they may depend on settings already `given`."""
        return cls()

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the `TrainingData` matrices that the method needs with these settings, beyond the embeddings."""
        return ()

    @property
    def epochs(self) -> int:
        """Passes of gradient steps over the data."""
        return 0


@dataclass(frozen=True, kw_only=True)
class Hyperparameters(MethodSettings, ABC):
    """Settings that every gradient method has; each method's own class adds to them.

    Attributes:
        num_epochs: passes over the data.
        batch_size: rows of the global batch, all workers together.
        learning_rate, betas, weight_decay: of Adam, or of AdamW where the authors used it.
        entropy_weight: weight of the assignment entropy, which is subtracted from the loss (alpha).
    """

    least_epochs: ClassVar[int] = 1

    num_epochs: int = 20
    batch_size: int = 512
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    entropy_weight: float = 5.0

    @abstractmethod
    def objective(self, embedding_width: int, num_clusters: int, *, seed: int = 0) -> "Objective":
        """What is trained, with fresh heads."""

    @property
    def epochs(self) -> int:
        return self.num_epochs

    @property
    def num_modalities(self) -> int:
        """Heads that are trained: the text has one, too, where it is read."""
        return 2 if "text_counterparts" in self.reads else 1

    def first_cost(self, shape: DataShape) -> MethodCost:
        """What comes before the epochs, where it counts beside them."""
        return MethodCost()

    def __post_init__(self) -> None:
        """Raise ValueError for a setting out of its range; subclasses extend it."""
        _check_range(self, positive=("learning_rate",), not_negative=("weight_decay", "entropy_weight"))
        if self.num_epochs < self.least_epochs:
            raise ValueError(f"expected num_epochs of at least {self.least_epochs}, found {self.num_epochs}")
        if self.batch_size < 2:
            raise ValueError(f"expected batch_size of at least 2, found {self.batch_size}")


def _check_range(settings: Hyperparameters, *, positive: Sequence[str] = (), not_negative: Sequence[str] = ()) -> None:
    """Raise ValueError when a named setting is not above zero, or is below it."""
    for name in positive:
        if not getattr(settings, name) > 0:
            raise ValueError(f"expected {name} above 0, found {getattr(settings, name)}")
    for name in not_negative:
        if not getattr(settings, name) >= 0:
            raise ValueError(f"expected {name} of at least 0, found {getattr(settings, name)}")


def _check_choice(settings: Hyperparameters, name: str, choices: Sequence[str]) -> None:
    """Raise ValueError when a named setting is none of its choices."""
    if getattr(settings, name) not in choices:
        raise ValueError(f"expected {name} to be one of {', '.join(choices)}, found {getattr(settings, name)!r}")


#: From this K on DXMC's and TAC's programs train longer, on larger batches, at a higher temperature.
_MANY_CLUSTERS = 100


def _published_schedule(num_clusters: int, num_images: int) -> dict[str, Any]:
    """Epochs and batch size of DXMC's and TAC's programs.

    Data smaller than the published batch are one batch, so that every epoch still makes a step (the authors' loop,
    which drops incomplete batches, would make none).
    """
    num_epochs, batch_size = (100, 8192) if num_clusters >= _MANY_CLUSTERS else (20, 512)
    return {"num_epochs": num_epochs, "batch_size": max(2, min(batch_size, num_images))}


@dataclass(frozen=True, kw_only=True)
class BestHyperparameters(Hyperparameters):
    """Settings of best; `entropy_weight` has no effect, and none but `use_text` and `temperature` without epochs.

    Attributes:
        num_epochs: none by default: on top of an earlier start ten changed ACC by 0.1 on the mean of three sets.
        use_text: let text into the joined space where its neighbours agree with the images' (see `text_gate`).
        target_weight: weight of the cross-entropy with the clusters of the start.
        shares_weight: weight of the divergence of the mean assignment from the start's shares.
        temperature: of the softmax over cosines.
    """

    least_epochs: ClassVar[int] = 0
    joins_encoders: ClassVar[bool] = True

    num_epochs: int = 0
    learning_rate: float = 3e-4
    use_text: bool = True
    target_weight: float = 0.5
    shares_weight: float = 1.0
    temperature: float = 0.1

    def objective(self, embedding_width: int, num_clusters: int, *, seed: int = 0) -> "Objective":
        from dxmc_core.method.objectives.best import BestObjective

        return BestObjective(embedding_width, num_clusters, self, seed=seed)

    @classmethod
    def published(cls, num_clusters: int, num_images: int, given: Mapping[str, Any]) -> Self:
        """The same settings for all data; data smaller than a batch are one batch."""
        return cls(batch_size=max(2, min(512, num_images)))

    def __post_init__(self) -> None:
        _check_range(self, positive=("temperature",), not_negative=("target_weight", "shares_weight"))
        super().__post_init__()

    @property
    def reads(self) -> tuple[str, ...]:
        """Neighbours are trained on; the start finds its own among the images that it looks at."""
        neighbors = ("image_neighbors",) if self.num_epochs else ()
        return (*neighbors, "text_counterparts", "selected_nouns") if self.use_text else neighbors

    @property
    def num_modalities(self) -> int:
        """One: the text ends in the start."""
        return 1

    def first_cost(self, shape: DataShape) -> MethodCost:
        from dxmc_core.method.best.best_start import start_cost

        return start_cost(shape, has_text=self.use_text, has_neighbors=bool(self.num_epochs))


@dataclass(frozen=True, kw_only=True)
class DXMCHyperparameters(Hyperparameters):
    """Settings of DXMC.

    Attributes:
        fidelity: "code" (made the published numbers) or "paper": which form of the cluster level, see
            `cluster_contrastive`.
        cluster_temperature: tau_C.
        instance_contrast: form of the instance level, see `instance_contrastive`; "fidelity" takes the one of
            `fidelity`.
        instance_temperature: tau_I.
        instance_weight: weight of the instance level. With disjoint heads on frozen embeddings it sends no gradient to
            the cluster heads: 0 leaves the instance heads out, and gives exactly the same assignments in much less
            time.
        shared_trunk: one trunk per modality under both heads, which lets the instance level matter (ours, not the
            authors').
        projection_width: width of the instance heads.
    """

    fidelity: Fidelity = "code"
    cluster_temperature: float = 0.5
    instance_contrast: InstanceContrast | Literal["fidelity"] = "fidelity"
    instance_temperature: float = 0.05
    instance_weight: float = 1.0
    shared_trunk: bool = False
    projection_width: int = 1024

    def objective(self, embedding_width: int, num_clusters: int, *, seed: int = 0) -> "Objective":
        from dxmc_core.method.objectives.dxmc import DXMCObjective

        return DXMCObjective(embedding_width, num_clusters, self, seed=seed)

    @classmethod
    def published(cls, num_clusters: int, num_images: int, given: Mapping[str, Any]) -> Self:
        """The authors' settings for data of this shape.

        Their code raises both temperatures tenfold from 100 clusters on; the paper knows one setting for all. The
        instance level, which they always train, is left out unless a shared trunk lets it matter: the assignments are
        the same to the last bit, for a sixth of the work. `instance_weight: 1` trains it as published.
        """
        schedule = _published_schedule(num_clusters, num_images)
        schedule["instance_weight"] = 1.0 if given.get("shared_trunk") else 0.0
        if given.get("fidelity") == "paper" or num_clusters < _MANY_CLUSTERS:
            return cls(**schedule)
        return cls(cluster_temperature=5.0, instance_temperature=0.5, **schedule)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_choice(self, "fidelity", get_args(Fidelity))
        _check_choice(self, "instance_contrast", (*get_args(InstanceContrast), "fidelity"))
        positive = ("cluster_temperature", "instance_temperature", "projection_width")
        _check_range(self, positive=positive, not_negative=("instance_weight",))

    @property
    def reads(self) -> tuple[str, ...]:
        return ("text_counterparts", "image_neighbors", "text_neighbors")


@dataclass(frozen=True, kw_only=True)
class MCAHyperparameters(Hyperparameters):
    """Settings of the reconstructed MCA; the paper's rate, batch and epochs are not known.

    Attributes:
        instance_weight, prototype_weight, semantic_weight: of the three levels of alignment.
        nouns_per_image: k_S, nouns that an image attends to.
        nouns_per_cluster: k_p, nouns that make a cluster's noun prototype.
        attention_temperature: tau_a, of the attention over k_S nouns, and of nouns over the noun prototypes.
        instance_temperature, prototype_temperature: of the two contrasts.
        confidence_threshold: theta; images whose noun-given target is less sure are left out of the semantic level.
        confident_share: share of an average cluster (N/K images) that chooses a cluster's nouns.
        adapter_width: see `AdaptedLinearHead`.
        num_neighbors: an image's neighbour is drawn from this many nearest ones.
        nouns_per_center, max_cosine_to_mean: the uniqueness-based filter, see `select_nouns_sic`.
        min_votes_share: the hierarchy-based filter drops nouns that fewer images speak for than this share of an
            average cluster (rho, times K), see `filter_by_hierarchy`.
    """

    num_epochs: int = 50
    batch_size: int = 128
    instance_weight: float = 0.5
    prototype_weight: float = 1.0
    semantic_weight: float = 1.0
    nouns_per_image: int = 20
    nouns_per_cluster: int = 30
    attention_temperature: float = 0.02
    instance_temperature: float = 0.07
    prototype_temperature: float = 0.5
    confidence_threshold: float = 0.7
    confident_share: float = 0.9
    adapter_width: int = 128
    num_neighbors: int = 20
    nouns_per_center: int = 500
    max_cosine_to_mean: float = 0.95
    min_votes_share: float = 0.05

    def objective(self, embedding_width: int, num_clusters: int, *, seed: int = 0) -> "Objective":
        from dxmc_core.method.objectives.mca import MCAObjective

        return MCAObjective(embedding_width, num_clusters, self, seed=seed)

    @classmethod
    def published(cls, num_clusters: int, num_images: int, given: Mapping[str, Any]) -> Self:
        """The defaults; data smaller than a batch are one batch."""
        return cls(batch_size=max(2, min(128, num_images)))

    def __post_init__(self) -> None:
        super().__post_init__()
        temperatures = ("attention_temperature", "instance_temperature", "prototype_temperature")
        counts = ("nouns_per_image", "nouns_per_cluster", "adapter_width", "num_neighbors", "nouns_per_center")
        weights = ("instance_weight", "prototype_weight", "semantic_weight", "min_votes_share", "confidence_threshold")
        _check_range(self, positive=("confident_share", *temperatures, *counts), not_negative=weights)

    @property
    def reads(self) -> tuple[str, ...]:
        return ("image_neighbors", "noun_embeddings")


@dataclass(frozen=True, kw_only=True)
class SICHyperparameters(Hyperparameters):
    """Settings of SIC. Weight decay is Adam's, added to the gradient.

    Attributes:
        pseudo_label_weight: weight of the cross-entropy with the pseudo-labels.
        confident_share: share of an average cluster (N/K images) that makes a cluster's prototype.
        nouns_per_cluster: nouns nearest to a prototype that make its text prototype.
        num_neighbors: an image's neighbour is drawn from this many nearest ones.
        nouns_per_center, max_cosine_to_mean: of the semantic space, see `select_nouns_sic`.
    """

    num_epochs: int = 100
    batch_size: int = 128
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    pseudo_label_weight: float = 0.1
    confident_share: float = 0.9
    nouns_per_cluster: int = 30
    num_neighbors: int = 20
    nouns_per_center: int = 500
    max_cosine_to_mean: float = 0.95

    def objective(self, embedding_width: int, num_clusters: int, *, seed: int = 0) -> "Objective":
        from dxmc_core.method.objectives.sic import SICObjective

        return SICObjective(embedding_width, num_clusters, self, seed=seed)

    @classmethod
    def published(cls, num_clusters: int, num_images: int, given: Mapping[str, Any]) -> Self:
        """The authors' settings; data smaller than their batch are one batch."""
        return cls(batch_size=max(2, min(128, num_images)))

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = ("nouns_per_cluster", "num_neighbors", "nouns_per_center")
        _check_range(self, positive=("confident_share", *counts), not_negative=("pseudo_label_weight",))

    @property
    def reads(self) -> tuple[str, ...]:
        return ("image_neighbors", "noun_embeddings")


@dataclass(frozen=True, kw_only=True)
class TACHyperparameters(Hyperparameters):
    """Settings of TAC.

    Attributes:
        fidelity: "code" or "paper": form of the cluster level, see `cluster_contrastive`.
        cluster_temperature: tau_C.
        consistency_weight: weight of the agreement between an image's two assignments.
    """

    fidelity: Fidelity = "code"
    cluster_temperature: float = 0.5
    consistency_weight: float = 1.0

    def objective(self, embedding_width: int, num_clusters: int, *, seed: int = 0) -> "Objective":
        from dxmc_core.method.objectives.tac import TACObjective

        return TACObjective(embedding_width, num_clusters, self, seed=seed)

    @classmethod
    def published(cls, num_clusters: int, num_images: int, given: Mapping[str, Any]) -> Self:
        """The authors' settings for data of this shape."""
        schedule = _published_schedule(num_clusters, num_images)
        return cls(cluster_temperature=5.0 if num_clusters >= _MANY_CLUSTERS else 0.5, **schedule)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_choice(self, "fidelity", get_args(Fidelity))
        _check_range(self, positive=("cluster_temperature",), not_negative=("consistency_weight",))

    @property
    def reads(self) -> tuple[str, ...]:
        return ("text_counterparts", "image_neighbors", "text_neighbors")


@dataclass(frozen=True, kw_only=True)
class TEMIHyperparameters(Hyperparameters):
    """Settings of TEMI. Weight decay is decoupled, as in AdamW; there is no weight of an entropy.

    The authors' program also warms the learning rate up over 20 epochs and lowers it again; here it is constant.

    Attributes:
        num_heads: heads that learn beside one another; the one with the lowest loss is taken.
        hidden_width, bottleneck_width: of the layers of a head, see `MultiHead`.
        temperature: of student and teacher.
        beta: exponent of the probabilities; below 1 it keeps a few clusters from taking everything.
        teacher_momentum: share of a teacher's weights that a step keeps.
        mean_momentum: the same for the teachers' mean assignment.
        num_neighbors: an image's partner is drawn from this many nearest ones.
        standardize: subtract the mean of the training embeddings and divide by their deviation, as the authors do.
    """

    num_epochs: int = 100
    batch_size: int = _BATCH_SIZE
    learning_rate: float = _LEARNING_RATE_AT_256 * _BATCH_SIZE / 256
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-4
    entropy_weight: float = 0.0
    num_heads: int = 16
    hidden_width: int = 512
    bottleneck_width: int = 256
    temperature: float = 0.1
    beta: float = 0.6
    teacher_momentum: float = 0.996
    mean_momentum: float = 0.9
    num_neighbors: int = 50
    standardize: bool = True

    def objective(self, embedding_width: int, num_clusters: int, *, seed: int = 0) -> "Objective":
        from dxmc_core.method.objectives.temi import TEMIObjective

        return TEMIObjective(embedding_width, num_clusters, self, seed=seed)

    @classmethod
    def published(cls, num_clusters: int, num_images: int, given: Mapping[str, Any]) -> Self:
        """The authors' settings; their rate goes with the batch that is asked for.

        Without one, data smaller than CIFAR-10 keep about the number of steps an epoch has there: the batch shrinks,
        down to 128, and the rate stays. With the published batch a few thousand images have two steps an epoch, and the
        assignments hardly leave the uniform start.
        """
        if "batch_size" in given:
            return cls(learning_rate=_LEARNING_RATE_AT_256 * given["batch_size"] / 256)
        batch_size = min(_BATCH_SIZE, max(128, num_images // _STEPS_PER_EPOCH))
        return cls(batch_size=max(2, min(batch_size, num_images)))

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = ("num_heads", "hidden_width", "bottleneck_width", "num_neighbors")
        _check_range(
            self, positive=(*counts, "temperature", "beta"), not_negative=("teacher_momentum", "mean_momentum")
        )
        for name in ("teacher_momentum", "mean_momentum"):
            if getattr(self, name) >= 1:
                raise ValueError(f"expected {name} below 1, found {getattr(self, name)}")
        if self.entropy_weight:
            raise ValueError(f"temi has no entropy term: expected entropy_weight 0, found {self.entropy_weight}")

    @property
    def reads(self) -> tuple[str, ...]:
        return ("image_neighbors",)


@dataclass(frozen=True, kw_only=True)
class TURTLEHyperparameters(Hyperparameters):
    """Settings of TURTLE. The published 6,000 outer steps are 60 epochs of 100 steps.

    Attributes:
        steps_per_epoch: outer steps of an epoch, each on a batch from a random permutation.
        spaces: "image", or "image_and_text" for a second task encoder on the text counterparts.
        num_inner_steps, inner_learning_rate: Adam steps of the linear classifiers.
        feature_scale: length of the embeddings. The authors train on CLIP's raw features, whose length is about 10, and
            the learning rates are made for that.
    """

    num_epochs: int = 60
    steps_per_epoch: int = 100
    batch_size: int = 10_000
    betas: tuple[float, float] = (0.9, 0.999)
    entropy_weight: float = 10.0
    spaces: Spaces = "image"
    num_inner_steps: int = 10
    inner_learning_rate: float = 1e-3
    feature_scale: float = 10.0

    def objective(self, embedding_width: int, num_clusters: int, *, seed: int = 0) -> "Objective":
        from dxmc_core.method.objectives.turtle import TURTLEObjective

        return TURTLEObjective(embedding_width, num_clusters, self, seed=seed)

    @classmethod
    def published(cls, num_clusters: int, num_images: int, given: Mapping[str, Any]) -> Self:
        """The authors' settings; data smaller than their batch are one batch."""
        return cls(batch_size=max(2, min(10_000, num_images)))

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_choice(self, "spaces", get_args(Spaces))
        _check_range(self, positive=("steps_per_epoch", "num_inner_steps", "inner_learning_rate", "feature_scale"))

    @property
    def reads(self) -> tuple[str, ...]:
        return ("text_counterparts",) if self.spaces == "image_and_text" else ()


@dataclass(frozen=True, kw_only=True)
class AtOnceSettings(MethodSettings, ABC):
    """Settings of a method that takes no gradient steps."""

    @abstractmethod
    def fit(
        self,
        data: "TrainingData",
        *,
        num_clusters: int,
        weights: "np.ndarray | None",
        seed: int,
        on_step: "OnStep",
    ) -> "Heads":
        """Its heads.

        Args:
            weights: (N,) what an image counts for; given only where the method weighs rows.
        """

    @abstractmethod
    def first_cost(self, shape: DataShape) -> MethodCost:
        """What `fit` takes."""


@dataclass(frozen=True, kw_only=True)
class KMeansSettings(AtOnceSettings):
    """Settings of kmeans and concat_kmeans; TAC's baselines take 20 restarts too.

    Attributes:
        num_restarts: the best of this many by objective is kept.
        num_iterations: at most this many per restart.
        temperature: of the softmax over cosines that gives the confidence; assignments do not depend on it.
    """

    least_clusters: ClassVar[int] = 1
    weighs_rows: ClassVar[bool] = True
    has_restarts: ClassVar[bool] = True

    num_restarts: int = 20
    num_iterations: int = 300
    temperature: float = 0.02

    def fit(
        self,
        data: "TrainingData",
        *,
        num_clusters: int,
        weights: "np.ndarray | None",
        seed: int,
        on_step: "OnStep",
    ) -> "Heads":
        from dxmc_core.method.clusters.centroids import fit_centroids

        return fit_centroids(data, self, num_clusters=num_clusters, weights=weights, seed=seed, on_step=on_step)

    def first_cost(self, shape: DataShape) -> MethodCost:
        from dxmc_core.method.clusters.centroids import centroids_cost

        return centroids_cost(shape, self)


@dataclass(frozen=True, kw_only=True)
class ConcatKMeansSettings(KMeansSettings):
    """Those of k-means, on images and text counterparts side by side."""

    @property
    def reads(self) -> tuple[str, ...]:
        return ("text_counterparts",)


_SETTINGS: dict[str, type[Hyperparameters] | type[AtOnceSettings]] = {
    "best": BestHyperparameters,
    "dxmc": DXMCHyperparameters,
    "mca": MCAHyperparameters,
    "sic": SICHyperparameters,
    "tac": TACHyperparameters,
    "temi": TEMIHyperparameters,
    "turtle": TURTLEHyperparameters,
    "kmeans": KMeansSettings,
    "concat_kmeans": ConcatKMeansSettings,
}
METHODS = tuple(_SETTINGS)


def settings_of(method: str) -> type[Hyperparameters] | type[AtOnceSettings]:
    """The class of a method's settings; raises ValueError for a method that is not known."""
    if method not in _SETTINGS:
        raise ValueError(f"unknown method {method!r}; expected one of {', '.join(METHODS)}")
    return _SETTINGS[method]


def method_settings(method: str, num_clusters: int, num_images: int, **given: Any) -> Hyperparameters | AtOnceSettings:
    """Published settings of a method for data of this shape, with the given ones in their place.

    Args:
        num_clusters: K; from 100 on the authors' settings differ.
        num_images: N; data smaller than the published batch are one batch.
        given: fields of the method's settings; None stands for the default.

    Raises:
        ValueError: unknown method or setting, or a value out of range.
    """
    settings = settings_of(method)
    known = sorted(field.name for field in fields(settings))
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"method {method} has no setting {', '.join(unknown)}; it has {', '.join(known)}")
    given = {name: value for name, value in given.items() if value is not None}
    return replace(settings.published(num_clusters, num_images, given), **given)


def method_reads(method: str, **given: Any) -> tuple[str, ...]:
    """Names of the `TrainingData` matrices that a method needs, with these settings, beyond the image embeddings."""
    # What is read depends on no default that K and N decide.
    return method_settings(method, 2, 2, **given).reads
