"""What `best` works out before any head is trained: the clusters of one joined space, looked at four times.

The first look sees the images under two whitenings that ask for no clusters, the later ones under the whitening of the
clusters found so far. Every look joins its views into one space, cuts that into micro-clusters, joins these to K, and
ends in a discriminant that assigns any image. The work is bounded in N: from some size on the looks see a sample of the
images, and the discriminant assigns the others. Of a burst of near copies they see one.

Where several encoders have embedded the images, each gives views of its own: under whitenings of its space, smoothed
over its graph. How much the further ones count beside the first is decided by `encoder_gate`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dxmc_core.method.best.bursts import Bursts
from dxmc_core.method.best.constraints import Constraints
from dxmc_core.method.best.discriminant import Discriminant, discriminant_work, fit_discriminant
from dxmc_core.method.best.encoder_gate import encoder_agreement, encoder_weight
from dxmc_core.method.best.joined_encoders import encoder_scales, join_encoders, split_encoders
from dxmc_core.method.best.joined_space import NUM_DIRECTIONS, principal_rows, principal_work
from dxmc_core.method.best.noun_overlap import neighbor_overlap, noun_mixtures, overlap_bytes, overlap_work
from dxmc_core.method.best.size_exponent import (
    WARD,
    choice_work,
    choose_size_exponent,
    joining_bytes,
    micro_clusters,
    micro_clusters_work,
    num_micro_clusters,
)
from dxmc_core.method.best.smoothing import (
    num_smoothing_neighbors,
    rerank_neighbors,
    rerank_work,
    smooth,
    smoothing_block_bytes,
    smoothing_work,
)
from dxmc_core.method.best.text_gate import text_agreement, text_weight
from dxmc_core.method.best.whitening import (
    MAX_COMPONENTS,
    PrincipalComponents,
    WhiteningMap,
    cluster_means,
    cluster_whitening,
    cluster_work,
    components_work,
    half_power_whitening,
    half_power_work,
    neighbor_whitening,
    neighbor_work,
    normalize_rows,
)
from dxmc_core.method.clusters.kmeans import kmeans_work, spherical_kmeans
from dxmc_core.method.clusters.nearest_center import nearest_centers
from dxmc_core.method.clusters.ward import merge_points, merge_work
from dxmc_core.method.neighbors.exact import nearest_neighbors, search_bytes
from dxmc_core.method.steps import OnStep, WorkStep, no_report
from dxmc_core.method.unit_rows import unit_rows
from dxmc_core.method.work import DataShape, MethodCost, Work
from dxmc_core.runtime.slices import slices_of

#: One look, and three more with what was learned. A fourth changed nothing.
NUM_LOOKS = 4
#: Looks end early where the last one moved next to no image (adjusted Rand index with the look before).
_SETTLED = 0.99

#: The looks see at most so many images, and at least so many per cluster.
_MAX_ROWS, _ROWS_PER_CLUSTER = 100_000, 20

#: Two depths of smoothing: the deeper one suits large dense clusters, the lighter one keeps small ones. Deeper still
#: (8 and 16 rounds) lost a point of ACC on CLIP embeddings.
_SMOOTHING_ROUNDS = (2, 4)
_MAX_CANDIDATES = 50
_LLOYD_STEPS = 10
_ROWS_PER_BLOCK = 65_536

_MAX_GATE_ROWS = 10_000
_GATE_NEIGHBORS = 10
_GATE_ITERATIONS, _GATE_POINTS_PER_CENTER = 30, 64

#: What libraries and allocators hold beyond the arrays; measured at 20,000 rows, for estimates only.
_WORKSPACE_BYTES = 2.0**27


@dataclass(frozen=True)
class BestStart:
    """Clusters, the rule that assigns any image to them, and what the choices on the way rest on.

    Attributes:
        discriminant: its labels are those of the images that were looked at.
        cluster_shares: (K,) float32, shares of those images.
        num_looks: looks behind it, 1..`NUM_LOOKS`.
        is_settled: the last look moved next to no image.
        num_rows: images that were looked at.
        num_copies: how many of these another one of their burst stood for, see `bursts`.
        text_agreement: evidence for the text, see `text_gate`; None without text.
        text_weight: what came of it, 0..1; 0 without text.
        size_exponent: of sizes in the cost of joins, see `size_exponent`.
        agreements: of each exponent, what its choice rests on; empty where it was not looked at.
        encoder_agreements: evidence for each further encoder, see `encoder_gate`; empty with one encoder.
        encoder_weights: what came of it, each 0..1; the first encoder counts 1.
    """

    discriminant: Discriminant
    cluster_shares: np.ndarray
    num_looks: int
    is_settled: bool
    num_rows: int
    num_copies: int
    text_agreement: float | None = None
    text_weight: float = 0.0
    size_exponent: float = WARD
    agreements: dict[float, float] = field(default_factory=dict)
    encoder_agreements: tuple[float, ...] = ()
    encoder_weights: tuple[float, ...] = ()

    @property
    def is_done(self) -> bool:
        return self.is_settled or self.num_looks >= NUM_LOOKS


@dataclass(frozen=True)
class _Encoded:
    """What one encoder makes of n images.

    Attributes:
        images: (n, D) float32 unit rows.
        candidates: (n, c) positions in the sample of candidates for neighbours, nearest first.
        components: of the images.
        weight: of its views against those of the first encoder.
    """

    images: np.ndarray
    candidates: np.ndarray
    components: PrincipalComponents
    weight: float = 1.0


@dataclass(frozen=True)
class _Sample:
    """What the looks see of the images: n of them, one of each burst.

    Attributes:
        bursts: which of all that are looked at these are, and what they stand for.
        encoded: one for each encoder; the texts belong to the first.
        texts: (n, T) float32 unit rows around their mean on their principal axes, or None.
        overlaps: (n, c) float32 of each image's nouns with those of its candidates, or None.
    """

    bursts: Bursts
    encoded: tuple[_Encoded, ...]
    texts: np.ndarray | None
    overlaps: np.ndarray | None
    known: Constraints | None

    @property
    def first(self) -> _Encoded:
        return self.encoded[0]

    def __len__(self) -> int:
        return len(self.first.images)


def find_start(
    image_embeddings: np.ndarray,
    *,
    num_clusters: int,
    encoder_widths: Sequence[int] = (),
    image_neighbors: np.ndarray | None = None,
    text_counterparts: np.ndarray | None = None,
    selected_nouns: np.ndarray | None = None,
    known: Constraints | None = None,
    seed: int = 0,
    device: str = "cpu",
    resume_from: BestStart | None = None,
    on_look: Callable[[BestStart], None] | None = None,
    on_step: OnStep = no_report,
) -> BestStart:
    """Cluster images without labels; same seed and machine, same result.

    Args:
        image_embeddings: (N, D), any float type; may be memory-mapped. Of several encoders as `join_encoders` has them.
        num_clusters: K, at least 2 and fewer than there are distinct images.
        encoder_widths: columns of each encoder's embeddings where there are several; D in all.
        image_neighbors: (N, k) positions, nearest first, by the first encoder; searched here where there are none, and
            among the sample where N is beyond `num_rows_looked_at`. Those by other encoders are always searched here.
        text_counterparts: (N, D'), or None for images alone. How much they count is decided by `text_gate`.
        selected_nouns: (S, D of the first encoder) nouns that the counterparts were mixed from; goes with them.
        known: images that belong together or apart; they are among those that are looked at, and keep their clusters
            as people know them in the labels of every look.
        device: where products, searches and k-means run.
        resume_from: an earlier look at the same images with the same settings.
        on_look: called after each look with what is known by then.
        on_step: told of every step of a look, before it.

    Raises:
        ValueError: unusable rows, fewer rows than clusters, rows all equal, or text without nouns.
    """
    _check(image_embeddings, num_clusters, image_neighbors, text_counterparts, selected_nouns)
    rows = _rows_looked_at(len(image_embeddings), num_clusters, seed=seed)
    if rows is not None and known is not None:
        rows = np.union1d(rows, known.rows)
    sample = _sample(
        split_encoders(_taken(image_embeddings, rows), encoder_widths),
        image_neighbors if rows is None else None,
        None if text_counterparts is None else _taken(text_counterparts, rows),
        None if known is None else known.within(rows),
        num_clusters,
        device=device,
        on_step=on_step,
    )
    if resume_from is not None:
        start = resume_from
        sample = _weighted(_with_text(sample, selected_nouns, start.text_weight, device), start.encoder_weights)
    else:
        start, sample = _first_look(sample, selected_nouns, num_clusters, seed=seed, device=device, on_step=on_step)
        _tell(on_look, start)
    while not start.is_done:
        start = _look_again(sample, start, num_clusters, seed=seed, device=device, on_step=on_step)
        _tell(on_look, start)
    return start


def labels_of(discriminant: Discriminant, image_embeddings: np.ndarray) -> np.ndarray:
    """Clusters (N,) int32 of all images (N, D), a block at a time."""
    labels = np.empty(len(image_embeddings), dtype=np.int32)
    for block in slices_of(len(labels), _ROWS_PER_BLOCK):
        rows = unit_rows(image_embeddings[block], name="image_embeddings", first_row=block.start)
        labels[block] = discriminant.predict(rows)
    return labels


def labels_of_known(start: BestStart, known: Constraints, *, num_images: int, seed: int) -> np.ndarray:
    """Clusters (m,) int32 of the images that people know of, as the last look kept them.

    Args:
        num_images, seed: N and the seed of the search for the start.
    """
    looked_at = start.discriminant.labels
    rows = _rows_looked_at(num_images, len(start.cluster_shares), seed=seed)
    if rows is not None:
        return looked_at[np.searchsorted(np.union1d(rows, known.rows), known.rows)]
    return looked_at[known.rows]


def num_rows_looked_at(num_rows: int, num_clusters: int) -> int:
    """How many of N images the looks see: all up to 100,000, or up to 20 per cluster."""
    return min(num_rows, max(_MAX_ROWS, _ROWS_PER_CLUSTER * num_clusters))


def _rows_looked_at(num_rows: int, num_clusters: int, *, seed: int) -> np.ndarray | None:
    """Ascending positions of a sample, or None for all rows."""
    count = num_rows_looked_at(num_rows, num_clusters)
    if count == num_rows:
        return None
    return np.sort(np.random.default_rng([seed, 5]).choice(num_rows, count, replace=False))


def _taken(array: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
    return array if rows is None else array[rows]


def _tell(on_look: Callable[[BestStart], None] | None, start: BestStart) -> None:
    if on_look is not None:
        on_look(start)


def _step(look: int, doing: str) -> WorkStep:
    return WorkStep(f"look {look} for the start, {doing}", look - 1, NUM_LOOKS, "looks")


def _sample(
    embeddings: Sequence[np.ndarray],
    image_neighbors: np.ndarray | None,
    text_counterparts: np.ndarray | None,
    known: Constraints | None,
    num_clusters: int,
    *,
    device: str,
    on_step: OnStep,
) -> _Sample:
    """One of each burst by the first encoder, with candidates for neighbours by each."""
    first, *further = (unit_rows(rows, name="image_embeddings") for rows in embeddings)
    if image_neighbors is None:
        on_step(_step(1, "searching neighbors"))
    candidates = _candidates(first, device) if image_neighbors is None else image_neighbors[:, :_MAX_CANDIDATES]
    on_step(_step(1, "looking for near copies"))
    bursts = Bursts.of(first, candidates, num_clusters, always_kept=None if known is None else known.rows)
    if bursts.num_copies:
        first, *further = (bursts.once(rows) for rows in (first, *further))
        candidates = bursts.candidates_of_kept(first, candidates, device=device)
        known = None if known is None else known.within(bursts.kept)
    if further:
        on_step(_step(1, "searching neighbors by the further encoders"))
    all_candidates = [candidates, *(_candidates(rows, device) for rows in further)]
    encoded = [
        _Encoded(rows, found, PrincipalComponents.of(rows, device=device))
        for rows, found in zip((first, *further), all_candidates, strict=True)
    ]
    texts = None if text_counterparts is None else _centered(bursts.once(text_counterparts), device)
    return _Sample(bursts, tuple(encoded), texts, None, known)


def _candidates(images: np.ndarray, device: str) -> np.ndarray:
    return nearest_neighbors(images, num_neighbors=min(_MAX_CANDIDATES, len(images) - 1), device=device)


def _first_look(
    sample: _Sample,
    selected_nouns: np.ndarray | None,
    num_clusters: int,
    *,
    seed: int,
    device: str,
    on_step: OnStep,
) -> tuple[BestStart, _Sample]:
    """Under two whitenings that err differently; with the sample in which every view has its weight.

    The neighbours' one is right where neighbours share clusters, the half-power one asks nothing of them.
    """
    on_step(_step(1, "whitening"))
    num_neighbors = num_smoothing_neighbors(len(sample), num_clusters)
    whitenings = [
        (
            neighbor_whitening(
                one.images,
                _linked(sample, one.candidates[:, :num_neighbors]),
                components=one.components,
                device=device,
            ),
            half_power_whitening(one.images, components=one.components, device=device),
        )
        for one in sample.encoded
    ]
    agreement: float | None = None
    encoder_agreements: tuple[float, ...] = ()
    if sample.texts is not None or len(sample.encoded) > 1:
        on_step(_step(1, "weighing the views"))
        gate = _Gate.of(sample, whitenings[0][0], num_clusters, seed=seed, device=device)
        agreement = None if sample.texts is None else gate.of_text(sample.texts)
        encoder_agreements = tuple(gate.of_encoder(further.images) for further in sample.encoded[1:])
    weight = 0.0 if agreement is None else text_weight(agreement)
    encoder_weights = tuple(map(encoder_weight, encoder_agreements))
    on_step(_step(1, "joining views"))
    sample = _weighted(_with_text(sample, selected_nouns, weight, device), encoder_weights)
    space = _joined(sample, whitenings, weight, num_clusters, device)
    on_step(_step(1, "choosing between like and unlike sizes"))
    exponent, agreements = choose_size_exponent(space, num_clusters, seed=seed, device=device)
    on_step(_step(1, "clustering"))
    discriminant = _clusters_of(sample, space, num_clusters, exponent, seed=seed, device=device)
    start = BestStart(
        discriminant,
        _shares(discriminant, num_clusters),
        num_looks=1,
        is_settled=False,
        num_rows=len(sample.bursts.place),
        num_copies=sample.bursts.num_copies,
        text_agreement=agreement,
        text_weight=weight,
        size_exponent=exponent,
        agreements=agreements,
        encoder_agreements=encoder_agreements,
        encoder_weights=encoder_weights,
    )
    return start, sample


def _look_again(
    sample: _Sample, start: BestStart, num_clusters: int, *, seed: int, device: str, on_step: OnStep
) -> BestStart:
    """Under the whitening of the clusters found so far."""
    from sklearn.metrics import adjusted_rand_score  # late: it takes a second to load

    look, labels = start.num_looks + 1, sample.bursts.once(start.discriminant.labels)
    on_step(_step(look, "whitening"))
    whitenings = [
        (cluster_whitening(one.images, labels, num_clusters, components=one.components, device=device),)
        for one in sample.encoded
    ]
    on_step(_step(look, "joining views"))
    space = _joined(sample, whitenings, start.text_weight, num_clusters, device)
    on_step(_step(look, "clustering"))
    discriminant = _clusters_of(sample, space, num_clusters, start.size_exponent, seed=seed, device=device)
    return replace(
        start,
        discriminant=discriminant,
        cluster_shares=_shares(discriminant, num_clusters),
        num_looks=look,
        is_settled=bool(adjusted_rand_score(start.discriminant.labels, discriminant.labels) > _SETTLED),
    )


def _with_text(sample: _Sample, selected_nouns: np.ndarray | None, weight: float, device: str) -> _Sample:
    """The sample with the overlaps of nouns where text counts, and without any text where it does not."""
    if weight == 0 or selected_nouns is None:
        return replace(sample, texts=None)
    mixtures = noun_mixtures(sample.first.images, selected_nouns, device=device)
    return replace(sample, overlaps=neighbor_overlap(mixtures, sample.first.candidates, device=device))


def _weighted(sample: _Sample, encoder_weights: Sequence[float]) -> _Sample:
    """The sample with the weights of the further encoders."""
    weighted = [
        replace(further, weight=weight) for further, weight in zip(sample.encoded[1:], encoder_weights, strict=True)
    ]
    return replace(sample, encoded=(sample.first, *weighted))


def _joined(
    sample: _Sample,
    whitenings: Sequence[tuple[WhiteningMap, ...]],
    text_weight: float,
    num_clusters: int,
    device: str,
) -> np.ndarray:
    """The joined space (n, R): the images of every encoder under its whitenings, those of the first beside texts."""
    views: list[np.ndarray] = []
    for position, (encoded, of_encoder) in enumerate(zip(sample.encoded, whitenings, strict=True)):
        is_first = position == 0
        if encoded.weight > 0:
            texts, overlaps = (sample.texts, sample.overlaps) if is_first else (None, None)
            affinities = None if overlaps is None else overlaps**text_weight
            for whitening in of_encoder:
                rows = whitening.apply(encoded.images, device=device)
                num_neighbors = num_smoothing_neighbors(len(rows), num_clusters)
                neighbors = rerank_neighbors(
                    rows, encoded.candidates, num_neighbors, affinities=affinities, device=device
                )
                views += _views(encoded.weight, rows, _linked(sample, neighbors), texts, text_weight, device)
    return principal_rows(views, device=device)


def _views(
    weight: float,
    rows: np.ndarray,
    neighbors: np.ndarray,
    texts: np.ndarray | None,
    text_weight: float,
    device: str,
) -> Iterator[np.ndarray]:
    """Whitened images at each depth of smoothing, beside their texts where there are some."""
    depths = _smoothed(rows, neighbors, device)
    if texts is None:
        for smoothed in depths:
            yield (weight * smoothed).astype(np.float16)
        return
    scale = weight * (1 + text_weight**2) ** -0.5  # a view and its text have the norm of a view together
    for smoothed, smoothed_texts in zip(depths, _smoothed(texts, neighbors, device), strict=True):
        yield (scale * smoothed).astype(np.float16)
        yield (scale * text_weight * smoothed_texts).astype(np.float16)


def _linked(sample: _Sample, neighbors: np.ndarray) -> np.ndarray:
    return neighbors if sample.known is None else sample.known.linked(neighbors)


def _smoothed(rows: np.ndarray, neighbors: np.ndarray, device: str) -> Iterator[np.ndarray]:
    done = 0
    for depth in _SMOOTHING_ROUNDS:
        rows = smooth(rows, neighbors, num_rounds=depth - done, device=device)
        done = depth
        yield rows


def _clusters_of(
    sample: _Sample, space: np.ndarray, num_clusters: int, exponent: float, *, seed: int, device: str
) -> Discriminant:
    """Micro-clusters of the space joined to K, and the discriminant of what they hold; its labels are of all images."""
    micro_labels, means, sizes = micro_clusters(space, num_clusters, seed=seed, device=device)
    known, tags = sample.known, None
    if known is not None:
        micro_labels, tags = known.tagged(micro_labels)
        micro_labels, tags = _without_empty(micro_labels, tags)
        sizes = np.bincount(micro_labels)
        means = cluster_means(space, micro_labels, len(sizes))
    parts = merge_points(
        means,
        sizes,
        min(num_clusters, len(sizes)),
        size_exponent=exponent,
        tags=tags,
        apart=None if known is None else known.apart,
        device=device,
    )
    labels = parts[micro_labels]
    fixed_rows = None if known is None else known.rows
    if exponent == WARD:
        labels = _settled_labels(space, labels, num_clusters, fixed_rows, device)
    found = _fitted(sample, labels, num_clusters, fixed_rows, device)
    return replace(found, labels=sample.bursts.of_all(found.labels))


def _fitted(
    sample: _Sample, labels: np.ndarray, num_clusters: int, fixed_rows: np.ndarray | None, device: str
) -> Discriminant:
    """The discriminant of these clusters, in the space of all encoders."""
    if len(sample.encoded) == 1:
        return fit_discriminant(
            sample.first.images,
            labels,
            num_clusters,
            fixed_rows=fixed_rows,
            components=sample.first.components,
            device=device,
        )
    scales = encoder_scales([one.weight for one in sample.encoded])
    rows = join_encoders([scale * one.images for scale, one in zip(scales, sample.encoded, strict=True)])
    found = fit_discriminant(rows, labels, num_clusters, fixed_rows=fixed_rows, device=device)
    widths = [one.images.shape[1] for one in sample.encoded]
    return replace(found, whitening=found.whitening.of_scaled_columns(np.repeat(scales, widths)))


def _without_empty(labels: np.ndarray, tags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Micro-clusters that have rows, numbered anew."""
    present, labels = np.unique(labels, return_inverse=True)
    return labels, tags[present]


def _settled_labels(
    space: np.ndarray, labels: np.ndarray, num_clusters: int, fixed_rows: np.ndarray | None, device: str
) -> np.ndarray:
    """A few steps of Lloyd's algorithm. Not for other exponents than Ward's: it too favours clusters of like size."""
    fixed = None if fixed_rows is None else labels[fixed_rows]
    for _ in range(_LLOYD_STEPS):
        centers = normalize_rows(cluster_means(space, labels, num_clusters))
        previous, labels = labels, nearest_centers(space, centers, device=device)
        if fixed_rows is not None:
            labels[fixed_rows] = fixed
        if np.array_equal(labels, previous):
            break
    return labels


def _shares(discriminant: Discriminant, num_clusters: int) -> np.ndarray:
    counts = np.bincount(discriminant.labels, minlength=num_clusters)
    return (counts / counts.sum()).astype(np.float32)


@dataclass(frozen=True)
class _Gate:
    """What further views of the images are judged by: a plain clustering of the first encoder's images.

    Attributes:
        drawn: (m,) positions of the images whose neighbours are compared.
        near_images: (m, k) their neighbours by the first encoder, as positions in `drawn`.
        labels: (m,) the clustering.
    """

    drawn: np.ndarray
    near_images: np.ndarray
    labels: np.ndarray
    device: str

    @classmethod
    def of(cls, sample: _Sample, whitening: WhiteningMap, num_clusters: int, *, seed: int, device: str) -> "_Gate":
        images = sample.first.images
        num_neighbors = num_smoothing_neighbors(len(images), num_clusters)
        rows = whitening.apply(images, device=device)
        neighbors = rerank_neighbors(rows, sample.first.candidates, num_neighbors, device=device)
        reference = spherical_kmeans(
            smooth(rows, neighbors, num_rounds=_SMOOTHING_ROUNDS[0], device=device),
            num_clusters,
            num_restarts=1,
            num_iterations=_GATE_ITERATIONS,
            max_points_per_center=_GATE_POINTS_PER_CENTER,
            seed=seed,
            device=device,
        ).labels
        rng = np.random.default_rng([seed, 6])
        drawn = np.sort(rng.choice(len(images), min(len(images), _MAX_GATE_ROWS), replace=False))
        near = nearest_neighbors(images[drawn], num_neighbors=min(_GATE_NEIGHBORS, len(drawn) - 1), device=device)
        return cls(drawn, near, reference[drawn], device)

    def of_text(self, texts: np.ndarray) -> float:
        return text_agreement(self.near_images, self._near(texts), self.labels)

    def of_encoder(self, images: np.ndarray) -> float:
        return encoder_agreement(self.near_images, self._near(images), self.labels)

    def _near(self, rows: np.ndarray) -> np.ndarray:
        return nearest_neighbors(rows[self.drawn], num_neighbors=self.near_images.shape[1], device=self.device)


def _centered(text_counterparts: np.ndarray, device: str) -> np.ndarray:
    """Unit rows around their mean on their principal axes: most of a text counterpart is what all of them share."""
    return principal_rows([unit_rows(text_counterparts, name="text_counterparts")], device=device)


def _check(
    images: np.ndarray,
    num_clusters: int,
    image_neighbors: np.ndarray | None,
    text_counterparts: np.ndarray | None,
    selected_nouns: np.ndarray | None,
) -> None:
    num_rows = len(images)
    if num_clusters < 2:
        raise ValueError(f"expected at least 2 clusters, found {num_clusters}: one cluster needs no method")
    if num_clusters > num_rows:
        raise ValueError(f"expected at least as many rows as clusters, found {num_rows} for {num_clusters} clusters")
    if (text_counterparts is None) != (selected_nouns is None):
        missing = "selected_nouns" if selected_nouns is None else "text_counterparts"
        raise ValueError(f"expected text_counterparts together with selected_nouns, found no {missing}")
    for name, array in {"image_neighbors": image_neighbors, "text_counterparts": text_counterparts}.items():
        if array is not None and (array.ndim != 2 or len(array) != num_rows or array.shape[1] == 0):
            raise ValueError(f"expected {name} with {num_rows} rows like image_embeddings, found shape {array.shape}")


@dataclass(frozen=True)
class _Sizes:
    """What the estimates count in: n images of width D, of which R columns are whitened, T of text, for K clusters."""

    num_rows: int
    width: int
    num_clusters: int
    has_text: bool
    further_widths: tuple[int, ...] = ()

    @property
    def widths(self) -> tuple[int, ...]:
        """D of every encoder."""
        return (self.width, *self.further_widths)

    @property
    def row_widths(self) -> tuple[int, ...]:
        """R of every encoder."""
        return tuple(min(MAX_COMPONENTS, width) for width in self.widths)

    @property
    def row_width(self) -> int:
        return self.row_widths[0]

    @property
    def text_width(self) -> int:
        return min(NUM_DIRECTIONS, self.width) if self.has_text else 0

    @property
    def num_candidates(self) -> int:
        return max(min(_MAX_CANDIDATES, self.num_rows - 1), 1)

    @property
    def num_neighbors(self) -> int:
        return max(num_smoothing_neighbors(self.num_rows, self.num_clusters), 1)

    def joined_width(self, num_whitenings: int) -> int:
        """Columns of all views side by side."""
        return (sum(self.row_widths) + self.text_width) * len(_SMOOTHING_ROUNDS) * num_whitenings


def start_cost(shape: DataShape, *, has_text: bool, has_neighbors: bool) -> MethodCost:
    """What `find_start` takes where text counts and the looks do not settle early.

    Args:
        has_neighbors: they are given, which spares a search where all images are looked at.
    """
    looked_at = num_rows_looked_at(shape.num_images, shape.num_clusters)
    sizes = _Sizes(looked_at, shape.width, shape.num_clusters, has_text, shape.further_widths)
    work = _start_work(sizes, shape.num_nouns)
    if not has_neighbors or looked_at < shape.num_images:
        work += Work(2.0 * shape.width * looked_at**2)
    which = "all images" if looked_at == shape.num_images else f"a sample of {looked_at:,} images"
    return MethodCost(work, _start_bytes(sizes), f"looks at {which}, up to {NUM_LOOKS} times")


def _start_work(sizes: _Sizes, num_nouns: int) -> Work:
    """All but the search for neighbours by the first encoder, and that anew of images with copies among them."""
    looked_at, num_clusters = sizes.num_rows, sizes.num_clusters
    total = Work(2.0 * sum(sizes.further_widths) * looked_at**2)
    total += rerank_work(looked_at, sizes.width, sizes.num_candidates)  # how near candidates are, for `Bursts`
    if sizes.has_text:
        total += principal_work(looked_at, sizes.width)
        total += overlap_work(looked_at, sizes.width, num_nouns, sizes.num_candidates)
    if sizes.has_text or sizes.further_widths:
        total += _gate_work(sizes)
    for columns in sizes.widths:
        total += components_work(looked_at, columns)
        total += neighbor_work(looked_at, columns, sizes.num_neighbors) + half_power_work(looked_at, columns)
        total += cluster_work(looked_at, columns) * (NUM_LOOKS - 1)
    total += choice_work(looked_at, min(NUM_DIRECTIONS, sizes.joined_width(2)), num_clusters) + _look_work(sizes, 2)
    return total + _look_work(sizes, 1) * (NUM_LOOKS - 1)


def _look_work(sizes: _Sizes, num_whitenings: int) -> Work:
    """Of one look, without its whitenings."""
    num_rows, num_clusters = sizes.num_rows, sizes.num_clusters
    space = min(NUM_DIRECTIONS, sizes.joined_width(num_whitenings))
    columns = sum(sizes.row_widths)
    # Those of several encoders side by side are found in every look.
    joined = components_work(num_rows, sum(sizes.widths)) if sizes.further_widths else Work()
    graph = rerank_work(num_rows, columns, sizes.num_candidates) + smoothing_work(
        num_rows, columns + sizes.text_width, sizes.num_neighbors, num_rounds=max(_SMOOTHING_ROUNDS)
    )
    return (
        graph * num_whitenings
        + principal_work(num_rows, sizes.joined_width(num_whitenings))
        + micro_clusters_work(num_rows, space, num_clusters)
        + merge_work(num_micro_clusters(num_rows, num_clusters), space, num_clusters)
        + Work(2.0 * num_rows * space * num_clusters) * _LLOYD_STEPS
        + discriminant_work(num_rows, sum(sizes.widths), num_clusters)
        + joined
    )


def _gate_work(sizes: _Sizes) -> Work:
    """Of `_Gate`."""
    drawn = min(sizes.num_rows, _MAX_GATE_ROWS)
    return (
        rerank_work(sizes.num_rows, sizes.row_width, sizes.num_candidates)
        + smoothing_work(sizes.num_rows, sizes.row_width, sizes.num_neighbors, num_rounds=_SMOOTHING_ROUNDS[0])
        + kmeans_work(
            sizes.num_rows,
            sizes.row_width,
            sizes.num_clusters,
            num_restarts=1,
            num_iterations=_GATE_ITERATIONS,
            max_points_per_center=_GATE_POINTS_PER_CENTER,
        )
        + Work(2.0 * (sum(sizes.widths) + sizes.text_width) * drawn**2)
    )


def _start_bytes(sizes: _Sizes) -> float:
    """The most memory that is held at a time, beside the arrays that are given."""
    looked_at, columns = sizes.num_rows, max(sizes.row_width + sizes.text_width, *sizes.row_widths)
    images = 4.0 * looked_at * sum(sizes.widths)
    kept = images + looked_at * (8.0 * sizes.num_candidates * len(sizes.widths) + 4 * sizes.text_width)
    if sizes.has_text:
        # The overlaps, and these to the power of the text's weight.
        kept += overlap_bytes(looked_at, sizes.num_candidates) + 4.0 * looked_at * sizes.num_candidates
    # Half-precision views but for the last ones, which are being made: rows as they were whitened, as they were
    # smoothed before, and as they are smoothed now, and the neighbourhoods.
    views = 2.0 * looked_at * (sizes.joined_width(2) - columns)
    smoothing = 12.0 * looked_at * columns + 8.0 * looked_at * (2 * sizes.num_neighbors + 1)
    smoothing += smoothing_block_bytes(looked_at, sizes.row_width)
    space = min(NUM_DIRECTIONS, sizes.joined_width(2))
    clustering = 4.0 * looked_at * space + joining_bytes(looked_at, space, sizes.num_clusters)
    if sizes.further_widths:  # their rows side by side, for the discriminant
        clustering += images
    searching = images + search_bytes(looked_at, sizes.width, sizes.num_candidates)
    return max(searching, kept + views + smoothing, kept + clustering) + _WORKSPACE_BYTES
