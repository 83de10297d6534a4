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

from dxmc_core.method.constraints import Constraints
from dxmc_core.method.discriminant import Discriminant, discriminant_work, fit_discriminant
from dxmc_core.method.joined_space import NUM_DIRECTIONS, principal_rows, principal_work
from dxmc_core.method.kmeans import kmeans_work, spherical_kmeans
from dxmc_core.method.neighbors import nearest_neighbors, search_bytes
from dxmc_core.method.noun_overlap import neighbor_overlap, noun_mixtures, overlap_bytes, overlap_work
from dxmc_core.method.size_exponent import (
    WARD,
    choice_work,
    choose_size_exponent,
    joining_bytes,
    micro_clusters,
    micro_clusters_work,
    num_micro_clusters,
)
from dxmc_core.method.smoothing import (
    num_smoothing_neighbors,
    rerank_neighbors,
    rerank_work,
    smooth,
    smoothing_block_bytes,
    smoothing_work,
)
from dxmc_core.method.steps import OnStep, WorkStep, no_report
from dxmc_core.method.text_gate import text_agreement, text_weight
from dxmc_core.method.unit_rows import unit_rows
from dxmc_core.method.ward import merge_points, merge_work
from dxmc_core.method.whitening import (
    MAX_COMPONENTS,
    WhiteningMap,
    cluster_means,
    cluster_whitening,
    cluster_work,
    half_power_whitening,
    half_power_work,
    neighbor_whitening,
    neighbor_work,
    normalize_rows,
)
from dxmc_core.method.work import Work

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
        known: what people know of some of them, or None.
    """

    images: np.ndarray
    candidates: np.ndarray
    texts: np.ndarray | None
    overlaps: np.ndarray | None
    known: Constraints | None = None


def find_start(
    image_embeddings: np.ndarray,
    *,
    num_clusters: int,
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
        image_embeddings: (N, D), any float type; may be memory-mapped.
        num_clusters: K, at least 2 and fewer than there are distinct images.
        image_neighbors: (N, k) positions, nearest first; searched here where there are none, and among the sample
            where N is beyond `num_rows_looked_at`.
        text_counterparts: (N, D'), or None for images alone. How much they count is decided by `text_gate`.
        selected_nouns: (S, D) nouns that the counterparts were mixed from; goes with them.
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
    images = unit_rows(_taken(image_embeddings, rows), name="image_embeddings")
    candidates = image_neighbors[:, :_MAX_CANDIDATES] if image_neighbors is not None and rows is None else None
    if candidates is None:
        on_step(_step(1, "searching neighbors"))
        candidates = nearest_neighbors(images, num_neighbors=min(_MAX_CANDIDATES, len(images) - 1), device=device)
    texts = None if text_counterparts is None else _centered(_taken(text_counterparts, rows), device)
    sample = _Sample(images, candidates, texts, None, None if known is None else known.within(rows))
    start = resume_from
    if start is None:
        start = _first_look(sample, selected_nouns, num_clusters, seed=seed, device=device, on_step=on_step)
        _tell(on_look, start)
    sample = _with_text(sample, selected_nouns, start.text_weight, device)
    while not start.is_done:
        start = _look_again(sample, start, num_clusters, seed=seed, device=device, on_step=on_step)
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


def _first_look(
    sample: _Sample,
    selected_nouns: np.ndarray | None,
    num_clusters: int,
    *,
    seed: int,
    device: str,
    on_step: OnStep,
) -> BestStart:
    """Under two whitenings that err differently.

    The neighbours' one is right where neighbours share clusters, the half-power one asks nothing of them.
    """
    images, candidates = sample.images, sample.candidates
    on_step(_step(1, "whitening"))
    near = _linked(sample, candidates[:, : num_smoothing_neighbors(len(images), num_clusters)])
    whitenings = neighbor_whitening(images, near, device=device), half_power_whitening(images, device=device)
    agreement = None
    if sample.texts is not None:
        on_step(_step(1, "weighing the text"))
        agreement = _agreement_of_text(sample, whitenings[0], num_clusters, seed=seed, device=device)
    weight = 0.0 if agreement is None else text_weight(agreement)
    on_step(_step(1, "joining views"))
    sample = _with_text(sample, selected_nouns, weight, device)
    space = _joined(sample, whitenings, weight, num_clusters, device)
    on_step(_step(1, "choosing between like and unlike sizes"))
    exponent, agreements = choose_size_exponent(space, num_clusters, seed=seed, device=device)
    on_step(_step(1, "clustering"))
    discriminant = _clusters_of(sample, space, num_clusters, exponent, seed=seed, device=device)
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


def _look_again(
    sample: _Sample, start: BestStart, num_clusters: int, *, seed: int, device: str, on_step: OnStep
) -> BestStart:
    """Under the whitening of the clusters found so far."""
    look, labels = start.num_looks + 1, start.discriminant.labels
    on_step(_step(look, "whitening"))
    whitening = cluster_whitening(sample.images, labels, num_clusters, device=device)
    on_step(_step(look, "joining views"))
    space = _joined(sample, (whitening,), start.text_weight, num_clusters, device)
    on_step(_step(look, "clustering"))
    discriminant = _clusters_of(sample, space, num_clusters, start.size_exponent, seed=seed, device=device)
    return replace(
        start,
        discriminant=discriminant,
        cluster_shares=_shares(discriminant, num_clusters),
        num_looks=look,
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
        neighbors = _linked(sample, neighbors)
        depths = _smoothed(rows, neighbors, device)
        if sample.texts is None:
            views += [smoothed.astype(np.float16) for smoothed in depths]
            continue
        scale = (1 + weight**2) ** -0.5  # a view and its text have norm 1 together
        for smoothed, smoothed_texts in zip(depths, _smoothed(sample.texts, neighbors, device), strict=True):
            views.append((scale * smoothed).astype(np.float16))
            views.append((scale * weight * smoothed_texts).astype(np.float16))
    return principal_rows(views, device=device)


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
    """Micro-clusters of the space joined to K, and the discriminant of what they hold."""
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
        labels = _settled_labels(space, labels, num_clusters, fixed_rows)
    return fit_discriminant(sample.images, labels, num_clusters, fixed_rows=fixed_rows, device=device)


def _without_empty(labels: np.ndarray, tags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Micro-clusters that have rows, numbered anew."""
    present, labels = np.unique(labels, return_inverse=True)
    return labels, tags[present]


def _settled_labels(
    space: np.ndarray, labels: np.ndarray, num_clusters: int, fixed_rows: np.ndarray | None
) -> np.ndarray:
    """A few steps of Lloyd's algorithm. Not for other exponents than Ward's: it too favours clusters of like size."""
    fixed = None if fixed_rows is None else labels[fixed_rows]
    for _ in range(_LLOYD_STEPS):
        centers = normalize_rows(cluster_means(space, labels, num_clusters))
        previous, labels = labels, (space @ centers.T).argmax(axis=1)
        if fixed_rows is not None:
            labels[fixed_rows] = fixed
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


@dataclass(frozen=True)
class _Sizes:
    """What the estimates count in: n images of width D, of which R columns are whitened, T of text, for K clusters."""

    num_rows: int
    width: int
    num_clusters: int
    has_text: bool

    @property
    def row_width(self) -> int:
        return min(MAX_COMPONENTS, self.width)

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
        return (self.row_width + self.text_width) * len(_SMOOTHING_ROUNDS) * num_whitenings


def start_work(
    num_rows: int, width: int, num_clusters: int, *, num_nouns: int = 0, has_neighbors: bool = False
) -> Work:
    """What `find_start` does where text counts and the looks do not settle early.

    Args:
        num_rows, width: N and D.
        num_nouns: S, or 0 for images alone.
        has_neighbors: they are given, which spares a search where all images are looked at.
    """
    sizes = _Sizes(num_rows_looked_at(num_rows, num_clusters), width, num_clusters, num_nouns > 0)
    looked_at = sizes.num_rows
    total = Work() if has_neighbors and looked_at == num_rows else Work(2.0 * width * looked_at**2)
    if sizes.has_text:
        total += principal_work(looked_at, width) + _gate_work(sizes)
        total += overlap_work(looked_at, width, num_nouns, sizes.num_candidates)
    total += neighbor_work(looked_at, width, sizes.num_neighbors) + half_power_work(looked_at, width)
    total += choice_work(looked_at, min(NUM_DIRECTIONS, sizes.joined_width(2)), num_clusters) + _look_work(sizes, 2)
    return total + (cluster_work(looked_at, width) + _look_work(sizes, 1)) * (NUM_LOOKS - 1)


def _look_work(sizes: _Sizes, num_whitenings: int) -> Work:
    """Of one look, without its whitenings."""
    num_rows, num_clusters = sizes.num_rows, sizes.num_clusters
    space = min(NUM_DIRECTIONS, sizes.joined_width(num_whitenings))
    graph = rerank_work(num_rows, sizes.row_width, sizes.num_candidates) + smoothing_work(
        num_rows, sizes.row_width + sizes.text_width, sizes.num_neighbors, num_rounds=max(_SMOOTHING_ROUNDS)
    )
    return (
        graph * num_whitenings
        + principal_work(num_rows, sizes.joined_width(num_whitenings))
        + micro_clusters_work(num_rows, space, num_clusters)
        + merge_work(num_micro_clusters(num_rows, num_clusters), space, num_clusters)
        + Work(2.0 * num_rows * space * num_clusters) * _LLOYD_STEPS
        + discriminant_work(num_rows, sizes.width, num_clusters)
    )


def _gate_work(sizes: _Sizes) -> Work:
    """Of `_agreement_of_text`."""
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
        + Work(2.0 * (sizes.width + sizes.text_width) * drawn**2)
    )


def start_bytes(num_rows: int, width: int, num_clusters: int, *, has_text: bool = False) -> float:
    """The most memory that `find_start` holds at a time, beside the arrays it is given."""
    sizes = _Sizes(num_rows_looked_at(num_rows, num_clusters), width, num_clusters, has_text)
    looked_at, columns = sizes.num_rows, sizes.row_width + sizes.text_width
    images = 4.0 * looked_at * width
    kept = images + looked_at * (8.0 * sizes.num_candidates + 4 * sizes.text_width)
    if has_text:
        # The overlaps, and these to the power of the text's weight.
        kept += overlap_bytes(looked_at, sizes.num_candidates) + 4.0 * looked_at * sizes.num_candidates
    # Half-precision views but for the last ones, which are being made: rows as they were whitened, as they were
    # smoothed before, and as they are smoothed now, and the neighbourhoods.
    views = 2.0 * looked_at * (sizes.joined_width(2) - columns)
    smoothing = 12.0 * looked_at * columns + 8.0 * looked_at * (2 * sizes.num_neighbors + 1)
    smoothing += smoothing_block_bytes(looked_at, sizes.row_width)
    space = min(NUM_DIRECTIONS, sizes.joined_width(2))
    clustering = 4.0 * looked_at * space + joining_bytes(looked_at, space, num_clusters)
    searching = images + search_bytes(looked_at, width, sizes.num_candidates)
    return max(searching, kept + views + smoothing, kept + clustering) + _WORKSPACE_BYTES
