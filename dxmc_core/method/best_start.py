"""What `best` works out before any head is trained: the clusters of one joined space, looked at four times.

The first look sees the images under two whitenings that ask for no clusters, the later ones under the whitening of the
clusters found so far. Every look joins its views into one space, cuts that into micro-clusters, joins these to K, and
ends in a discriminant that assigns any image. The work is bounded in N: from some size on the looks see a sample of the
images, and the discriminant assigns the others.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from sklearn.metrics import adjusted_rand_score

from dxmc_core.method.discriminant import Discriminant, fit_discriminant
from dxmc_core.method.joined_space import principal_rows
from dxmc_core.method.kmeans import spherical_kmeans
from dxmc_core.method.neighbors import nearest_neighbors
from dxmc_core.method.noun_overlap import neighbor_overlap, noun_mixtures
from dxmc_core.method.size_exponent import WARD, choose_size_exponent, micro_clusters
from dxmc_core.method.smoothing import num_smoothing_neighbors, rerank_neighbors, smooth
from dxmc_core.method.text_gate import text_agreement, text_weight
from dxmc_core.method.unit_rows import unit_rows
from dxmc_core.method.ward import merge_points
from dxmc_core.method.whitening import (
    WhiteningMap,
    cluster_means,
    cluster_whitening,
    half_power_whitening,
    neighbor_whitening,
    normalize_rows,
)

#: One look, and three more with what was learned. A fourth changed nothing.
NUM_LOOKS = 4
#: Looks end early where the last one moved next to no image (adjusted Rand index with the look before).
_SETTLED = 0.99

#: The looks see at most so many images, and at least so many per cluster.
_MAX_ROWS, _ROWS_PER_CLUSTER = 100_000, 100

#: Two depths of smoothing: the deeper one suits large dense clusters, the lighter one keeps small ones. Deeper still
#: (8 and 16 rounds) lost a point of ACC on CLIP embeddings.
_SMOOTHING_ROUNDS = (2, 4)
_MAX_CANDIDATES = 50
_LLOYD_STEPS = 10
_ROWS_PER_BLOCK = 65_536

_MAX_GATE_ROWS = 10_000
_GATE_NEIGHBORS = 10
_GATE_ITERATIONS, _GATE_POINTS_PER_CENTER = 30, 64


@dataclass(frozen=True)
class BestStart:
    """Clusters, the rule that assigns any image to them, and what the choices on the way rest on.

    Attributes:
        discriminant: its labels are those of the images that were looked at.
        cluster_shares: (K,) float32, shares of those images.
        num_looks: looks behind it, 1..`NUM_LOOKS`.
        is_settled: the last look moved next to no image.
        num_rows: images that were looked at.
        text_agreement: evidence for the text, see `text_gate`; None without text.
        text_weight: what came of it, 0..1; 0 without text.
        size_exponent: of sizes in the cost of joins, see `size_exponent`.
        agreements: of each exponent, what its choice rests on; empty where it was not looked at.
    """

    discriminant: Discriminant
    cluster_shares: np.ndarray
    num_looks: int
    is_settled: bool
    num_rows: int
    text_agreement: float | None = None
    text_weight: float = 0.0
    size_exponent: float = WARD
    agreements: dict[float, float] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        return self.is_settled or self.num_looks >= NUM_LOOKS


@dataclass(frozen=True)
class _Sample:
    """What the looks see: n images, and of each the candidates for its neighbours.

    Attributes:
        images: (n, D) float32 unit rows.
        candidates: (n, c) positions in the sample, nearest first.
        texts: (n, T) float32 unit rows around their mean on their principal axes, or None.
        overlaps: (n, c) float32 of each image's nouns with those of its candidates, or None.
    """

    images: np.ndarray
    candidates: np.ndarray
    texts: np.ndarray | None
    overlaps: np.ndarray | None


def find_start(
    image_embeddings: np.ndarray,
    *,
    num_clusters: int,
    image_neighbors: np.ndarray | None = None,
    text_counterparts: np.ndarray | None = None,
    selected_nouns: np.ndarray | None = None,
    seed: int = 0,
    device: str = "cpu",
    resume_from: BestStart | None = None,
    on_look: Callable[[BestStart], None] | None = None,
) -> BestStart:
    """Cluster images without labels; same seed and machine, same result.

    Args:
        image_embeddings: (N, D), any float type; may be memory-mapped.
        num_clusters: K, at least 2 and fewer than there are distinct images.
        image_neighbors: (N, k) positions, nearest first; searched here where there are none, and among the sample
            where N is beyond `num_rows_looked_at`.
        text_counterparts: (N, D'), or None for images alone. How much they count is decided by `text_gate`.
        selected_nouns: (S, D) nouns that the counterparts were mixed from; goes with them.
        device: where products, searches and k-means run.
        resume_from: an earlier look at the same images with the same settings.
        on_look: called after each look with what is known by then.

    Raises:
        ValueError: unusable rows, fewer rows than clusters, rows all equal, or text without nouns.
    """
    _check(image_embeddings, num_clusters, image_neighbors, text_counterparts, selected_nouns)
    rows = _rows_looked_at(len(image_embeddings), num_clusters, seed=seed)
    images = unit_rows(_taken(image_embeddings, rows), name="image_embeddings")
    candidates = image_neighbors[:, :_MAX_CANDIDATES] if image_neighbors is not None and rows is None else None
    if candidates is None:
        candidates = nearest_neighbors(images, num_neighbors=min(_MAX_CANDIDATES, len(images) - 1), device=device)
    texts = None if text_counterparts is None else _centered(_taken(text_counterparts, rows), device)
    sample = _Sample(images, candidates, texts, None)
    start = resume_from
    if start is None:
        start = _first_look(sample, selected_nouns, num_clusters, seed=seed, device=device)
        _tell(on_look, start)
    sample = _with_text(sample, selected_nouns, start.text_weight, device)
    while not start.is_done:
        start = _look_again(sample, start, num_clusters, seed=seed, device=device)
        _tell(on_look, start)
    return start


def labels_of(discriminant: Discriminant, image_embeddings: np.ndarray) -> np.ndarray:
    """Clusters (N,) int32 of all images (N, D), a block at a time."""
    labels = np.empty(len(image_embeddings), dtype=np.int32)
    for start in range(0, len(labels), _ROWS_PER_BLOCK):
        block = slice(start, start + _ROWS_PER_BLOCK)
        rows = unit_rows(image_embeddings[block], name="image_embeddings", first_row=start)
        labels[block] = discriminant.predict(rows)
    return labels


def num_rows_looked_at(num_rows: int, num_clusters: int) -> int:
    """How many of N images the looks see: all up to 100,000, or up to 100 per cluster."""
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


def _first_look(
    sample: _Sample, selected_nouns: np.ndarray | None, num_clusters: int, *, seed: int, device: str
) -> BestStart:
    """Under two whitenings that err differently.

    The neighbours' one is right where neighbours share clusters, the half-power one asks nothing of them.
    """
    images, candidates = sample.images, sample.candidates
    near = candidates[:, : num_smoothing_neighbors(len(images), num_clusters)]
    whitenings = neighbor_whitening(images, near, device=device), half_power_whitening(images, device=device)
    agreement = None
    if sample.texts is not None:
        agreement = _agreement_of_text(sample, whitenings[0], num_clusters, seed=seed, device=device)
    weight = 0.0 if agreement is None else text_weight(agreement)
    sample = _with_text(sample, selected_nouns, weight, device)
    space = _joined(sample, whitenings, weight, num_clusters, device)
    exponent, agreements = choose_size_exponent(space, num_clusters, seed=seed, device=device)
    discriminant = _clusters_of(sample.images, space, num_clusters, exponent, seed=seed, device=device)
    return BestStart(
        discriminant,
        _shares(discriminant, num_clusters),
        num_looks=1,
        is_settled=False,
        num_rows=len(images),
        text_agreement=agreement,
        text_weight=weight,
        size_exponent=exponent,
        agreements=agreements,
    )


def _look_again(sample: _Sample, start: BestStart, num_clusters: int, *, seed: int, device: str) -> BestStart:
    """Under the whitening of the clusters found so far."""
    labels = start.discriminant.labels
    whitening = cluster_whitening(sample.images, labels, num_clusters, device=device)
    space = _joined(sample, (whitening,), start.text_weight, num_clusters, device)
    discriminant = _clusters_of(sample.images, space, num_clusters, start.size_exponent, seed=seed, device=device)
    return replace(
        start,
        discriminant=discriminant,
        cluster_shares=_shares(discriminant, num_clusters),
        num_looks=start.num_looks + 1,
        is_settled=bool(adjusted_rand_score(labels, discriminant.labels) > _SETTLED),
    )


def _with_text(sample: _Sample, selected_nouns: np.ndarray | None, weight: float, device: str) -> _Sample:
    """The sample with the overlaps of nouns where text counts, and without any text where it does not."""
    if weight == 0 or selected_nouns is None:
        return replace(sample, texts=None)
    mixtures = noun_mixtures(sample.images, selected_nouns, device=device)
    return replace(sample, overlaps=neighbor_overlap(mixtures, sample.candidates, device=device))


def _joined(
    sample: _Sample, whitenings: tuple[WhiteningMap, ...], weight: float, num_clusters: int, device: str
) -> np.ndarray:
    """The joined space (n, R) of the images under each whitening at each depth of smoothing, beside their texts."""
    num_neighbors = num_smoothing_neighbors(len(sample.images), num_clusters)
    affinities = None if sample.overlaps is None else sample.overlaps**weight
    views: list[np.ndarray] = []
    for whitening in whitenings:
        rows = whitening.apply(sample.images, device=device)
        neighbors = rerank_neighbors(rows, sample.candidates, num_neighbors, affinities=affinities, device=device)
        depths = _smoothed(rows, neighbors, device)
        text_depths = depths if sample.texts is None else _smoothed(sample.texts, neighbors, device)
        for smoothed, smoothed_texts in zip(depths, text_depths, strict=True):
            # Each view has norm 1, of which the text has its weight's share.
            share = 0.0 if sample.texts is None else weight
            scale = (1 + share**2) ** -0.5
            views.append((scale * smoothed).astype(np.float16))
            if sample.texts is not None:
                views.append((scale * share * smoothed_texts).astype(np.float16))
    return principal_rows(views, device=device)


def _smoothed(rows: np.ndarray, neighbors: np.ndarray, device: str) -> Iterator[np.ndarray]:
    done = 0
    for depth in _SMOOTHING_ROUNDS:
        rows = smooth(rows, neighbors, num_rounds=depth - done, device=device)
        done = depth
        yield rows


def _clusters_of(
    images: np.ndarray, space: np.ndarray, num_clusters: int, exponent: float, *, seed: int, device: str
) -> Discriminant:
    """Micro-clusters of the space joined to K, and the discriminant of what they hold."""
    micro_labels, means, sizes = micro_clusters(space, num_clusters, seed=seed, device=device)
    parts = merge_points(means, sizes, min(num_clusters, len(sizes)), size_exponent=exponent, device=device)
    labels = parts[micro_labels]
    if exponent == WARD:
        labels = _settled_labels(space, labels, num_clusters)
    return fit_discriminant(images, labels, num_clusters, device=device)


def _settled_labels(space: np.ndarray, labels: np.ndarray, num_clusters: int) -> np.ndarray:
    """A few steps of Lloyd's algorithm. Not for other exponents than Ward's: it too favours clusters of like size."""
    for _ in range(_LLOYD_STEPS):
        centers = normalize_rows(cluster_means(space, labels, num_clusters))
        previous, labels = labels, (space @ centers.T).argmax(axis=1)
        if np.array_equal(labels, previous):
            break
    return labels


def _shares(discriminant: Discriminant, num_clusters: int) -> np.ndarray:
    counts = np.bincount(discriminant.labels, minlength=num_clusters)
    return (counts / counts.sum()).astype(np.float32)


def _agreement_of_text(sample: _Sample, whitening: WhiteningMap, num_clusters: int, *, seed: int, device: str) -> float:
    """How well text neighbours keep to a plain clustering of the images, beside image neighbours."""
    assert sample.texts is not None
    images = sample.images
    num_neighbors = num_smoothing_neighbors(len(images), num_clusters)
    rows = whitening.apply(images, device=device)
    neighbors = rerank_neighbors(rows, sample.candidates, num_neighbors, device=device)
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
    count = min(_GATE_NEIGHBORS, len(drawn) - 1)
    near_images, near_texts = (
        nearest_neighbors(array[drawn], num_neighbors=count, device=device) for array in (images, sample.texts)
    )
    return text_agreement(near_images, near_texts, reference[drawn])


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
