"""Methods of others for the quality benchmark, set as their users would set them.

Their packages are the extra `benchmarks`; dxmc never imports them. Where a peer finds its own number of clusters, K is
not told to it, unless its name says so.
"""

import importlib.util
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.cluster import HDBSCAN, SpectralClustering

from dxmc_core.errors import InputError
from dxmc_core.method.neighbors.exact import nearest_neighbors

#: Neighbors in every graph of a peer.
_NEIGHBORS = 15

#: As many as our k-means has.
_KMEANS_RESTARTS = 20

#: UMAP and HDBSCAN as BERTopic sets them.
_UMAP_DIMENSIONS, _MIN_CLUSTER_SIZE = 5, 10

#: Halvings of the range of Leiden's resolution, in decades.
_RESOLUTION_STEPS, _RESOLUTION_DECADES = 12, (-1.0, 2.0)

#: Of the softmax over nouns in the kernel.
_NTK_TEMPERATURE = 0.03

#: Rows on which functions are compiled before the clock starts.
_COMPILING_ROWS = 500


@dataclass(frozen=True)
class Peer:
    """A method of others.

    Attributes:
        cluster: labels (N,) from unit rows (N, D) float32, K, a seed and nouns (S, D) or None; negative ones are noise.
        package: that must be installed, as it is imported.
        needs_nouns: it reads the selected nouns of the semantic space.
        compiles: at its first call, which is not to be measured.
    """

    cluster: Callable[[np.ndarray, int, int, np.ndarray | None], np.ndarray]
    package: str
    needs_nouns: bool = False
    compiles: bool = False

    def get_ready(self, rows: np.ndarray) -> None:
        """What a peer does once a process."""
        if self.compiles:
            self.cluster(rows[:_COMPILING_ROWS], 10, 0, None)


def _faiss_kmeans(rows: np.ndarray, num_clusters: int, seed: int, nouns: np.ndarray | None) -> np.ndarray:
    import faiss

    kmeans = faiss.Kmeans(
        rows.shape[1],
        num_clusters,
        nredo=_KMEANS_RESTARTS,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=len(rows),
        seed=seed,
    )
    kmeans.train(rows)
    return kmeans.index.search(rows, 1)[1][:, 0]


def _superkmeans(rows: np.ndarray, num_clusters: int, seed: int, nouns: np.ndarray | None) -> np.ndarray:
    from superkmeans import SuperKMeans

    kmeans = SuperKMeans(
        num_clusters, rows.shape[1], angular=True, seed=seed, n_threads=int(os.environ.get("OMP_NUM_THREADS", 0))
    )
    return np.asarray(kmeans.assign(rows, kmeans.train(rows)))


def _spectral(rows: np.ndarray, num_clusters: int, seed: int, nouns: np.ndarray | None) -> np.ndarray:
    method = SpectralClustering(num_clusters, affinity="nearest_neighbors", n_neighbors=_NEIGHBORS, random_state=seed)
    return _quietly(method.fit_predict, rows)


def _ntk_spectral(rows: np.ndarray, num_clusters: int, seed: int, nouns: np.ndarray | None) -> np.ndarray:
    """Neural tangent kernel spectral clustering (arXiv 2602.09586), reconstructed: its equations were not at hand.

    The kernel of tau logsumexp(v . t_j / tau), a network of one layer whose weights t_j are the nouns: its gradient by
    t_j is p_j v, so that k(v, v') = (v . v') sum_j p_j p'_j, here scaled to k(v, v) = 1. The nouns are those of the
    semantic space in place of the paper's positive ones, each with one prompt, so nothing is diffused over prompts.
    Only the largest values of each row are kept, and tau is 0.03: of six forms the best on three sets, labels in sight
    (all values at 0.01: 50 in place of 67 ACC).
    """
    assert nouns is not None
    scores = rows @ nouns.T / _NTK_TEMPERATURE
    mixtures = np.exp(scores - scores.max(axis=1, keepdims=True))
    mixtures /= np.linalg.norm(mixtures, axis=1, keepdims=True)
    kernel = np.maximum(rows @ rows.T, 0) * (mixtures @ mixtures.T)
    least = np.partition(kernel, -_NEIGHBORS - 1, axis=1)[:, -_NEIGHBORS - 1]
    graph = csr_matrix(np.where(kernel >= np.minimum(least[:, None], least), kernel, 0))
    return _quietly(SpectralClustering(num_clusters, affinity="precomputed", random_state=seed).fit_predict, graph)


def _umap_hdbscan(rows: np.ndarray, num_clusters: int, seed: int, nouns: np.ndarray | None) -> np.ndarray:
    import umap

    reduced = _quietly(
        umap.UMAP(
            n_neighbors=_NEIGHBORS, n_components=_UMAP_DIMENSIONS, min_dist=0.0, metric="cosine", random_state=seed
        ).fit_transform,
        rows,
    )
    return HDBSCAN(min_cluster_size=_MIN_CLUSTER_SIZE, copy=False).fit_predict(reduced)


def _evoc(rows: np.ndarray, num_clusters: int, seed: int, nouns: np.ndarray | None) -> np.ndarray:
    from evoc import EVoC

    return np.asarray(EVoC(random_state=seed).fit_predict(rows))


def _evoc_nearest_layer(rows: np.ndarray, num_clusters: int, seed: int, nouns: np.ndarray | None) -> np.ndarray:
    from evoc import EVoC

    method = EVoC(random_state=seed)
    method.fit_predict(rows)
    return np.asarray(min(method.cluster_layers_, key=lambda layer: abs(layer.max() + 1 - num_clusters)))


def _leiden(rows: np.ndarray, num_clusters: int, seed: int, nouns: np.ndarray | None) -> np.ndarray:
    return _communities(_neighbor_graph(rows), 1.0, seed)


def _leiden_nearest(rows: np.ndarray, num_clusters: int, seed: int, nouns: np.ndarray | None) -> np.ndarray:
    graph = _neighbor_graph(rows)
    low, high = _RESOLUTION_DECADES
    found = []
    for _ in range(_RESOLUTION_STEPS):
        middle = (low + high) / 2
        labels = _communities(graph, 10**middle, seed)
        num_found = labels.max() + 1
        found.append((abs(num_found - num_clusters), labels))
        if num_found == num_clusters:
            break
        low, high = (middle, high) if num_found < num_clusters else (low, middle)
    return min(found, key=lambda pair: pair[0])[1]


def _neighbor_graph(rows: np.ndarray) -> "igraph.Graph":  # type: ignore[name-defined]  # noqa: F821
    """Without weights: images are joined where one of them is among the nearest of the other."""
    import igraph

    neighbors = nearest_neighbors(rows, num_neighbors=min(_NEIGHBORS, len(rows) - 1))
    ends = np.stack([np.repeat(np.arange(len(rows)), neighbors.shape[1]), neighbors.ravel()], axis=1)
    return igraph.Graph(len(rows), np.unique(np.sort(ends, axis=1), axis=0).tolist())


def _communities(graph: "igraph.Graph", resolution: float, seed: int) -> np.ndarray:  # type: ignore[name-defined]  # noqa: F821
    import leidenalg

    partition = leidenalg.find_partition(
        graph, leidenalg.RBConfigurationVertexPartition, resolution_parameter=resolution, seed=seed
    )
    return np.asarray(partition.membership)


def _quietly(function: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Without the remarks on graphs in several parts and on one thread for one seed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(function(rows))


PEERS = {
    "faiss_kmeans": Peer(_faiss_kmeans, "faiss"),
    "superkmeans": Peer(_superkmeans, "superkmeans"),
    "spectral": Peer(_spectral, "sklearn"),
    "ntk_spectral": Peer(_ntk_spectral, "sklearn", needs_nouns=True),
    "umap_hdbscan": Peer(_umap_hdbscan, "umap", compiles=True),
    "evoc": Peer(_evoc, "evoc", compiles=True),
    "evoc_nearest_layer": Peer(_evoc_nearest_layer, "evoc", compiles=True),
    "leiden": Peer(_leiden, "leidenalg"),
    "leiden_nearest_k": Peer(_leiden_nearest, "leidenalg"),
}


def check_installed(names: list[str]) -> None:
    """Raise InputError for a peer whose package is missing."""
    for name in names:
        if importlib.util.find_spec(PEERS[name].package) is None:
            raise InputError(
                f"{name} needs the package {PEERS[name].package}, which is not installed; the peers' packages are the "
                "extra benchmarks: pip install 'dxmc[benchmarks]'"
            )
