"""Stage 5: assigns every image by the trained heads and describes every cluster."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from dxmc_core.artifacts.heads import load_heads
from dxmc_core.artifacts.joined_images import ImageRows, image_tables_of
from dxmc_core.artifacts.manifest import Part
from dxmc_core.artifacts.matrices import RowMatrix, embedding_column, load_matrix, matrix_of, noun_columns
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.tables import ASSIGNMENTS, CENTERS, CLUSTER_TREE, CLUSTERS
from dxmc_core.method.clusters.cluster_sample import (
    PROBS_PER_BLOCK,
    ClusterSample,
    cluster_rows,
    decide,
    outlier_scores,
)
from dxmc_core.method.clusters.cluster_tree import NamedCluster, cluster_tree, name_inner_nodes
from dxmc_core.method.heads import Heads
from dxmc_core.method.nouns.naming import ClusterName, naming_work, unnamed
from dxmc_core.method.nouns.taxonomy import NO_TAXONOMY
from dxmc_core.method.work import Work
from dxmc_core.stages.settings.assign_clusters import AssignClustersConfig
from dxmc_core.vocabulary.wordnet import commonest_synsets, kinds_of_compounds, wordnet_taxonomy
from dxmc_core.withheld_nouns import concepts_that_name, names_by_shown_nouns
from dxmc_core.workload import PROCESS_BYTES, RAY_BYTES, SMALL_NUM_IMAGES, Machine, StageCost, Workload

#: What is imported for names only, as a share of what a process imports at its start.
_IMPORTS = 0.2
#: Of an embedded noun: as read, those that may name a cluster, and their unit rows.
_BYTES_OF_NOUN_VALUE = 8.0
#: Of an image in `assignments`, the id included.
_ASSIGNMENT_BYTES = 60
#: Deciding among the probabilities passes over them so often, and summing up a sample over its rows.
_PASSES_OVER_PROBS = 20
_PASSES_OVER_SAMPLE = 10


def sample_images(images: StageDir, *, max_images: int, seed: int) -> RowMatrix:
    """All embedded images, or a seeded sample of rows when there are more than `max_images`."""
    matrix = load_matrix(images, "images")
    if len(matrix) <= max_images:
        return matrix
    chosen = np.sort(np.random.default_rng(seed).choice(len(matrix), max_images, replace=False))
    return RowMatrix(matrix.row_ids[chosen], matrix.values[chosen])


def assign_sample(
    sample: RowMatrix, heads: Heads, counterparts: RowMatrix | None, joined: np.ndarray | None = None
) -> ClusterSample:
    """Assign a sample and measure the clusters in it.

    Args:
        joined: (n, sum of D) embeddings that the heads take, where those are of several encoders.
    """
    texts = None
    if counterparts is not None:
        texts = counterparts.values[counterparts.positions_of(sample.row_ids)]
    found = decide(heads, sample.values if joined is None else joined, texts)
    return ClusterSample.of(sample.row_ids, sample.values, found, num_clusters=heads.num_clusters)


def center_table(sample: ClusterSample) -> pa.Table:
    """The table `centers`: centre and mean distance of every cluster, those without images included, by label."""
    table = pa.table(
        {
            "cluster_id": pa.array(range(len(sample.centers)), pa.int32()),
            "mean_distance": sample.mean_distances,
            "embedding": embedding_column(sample.centers),
        }
    )
    return table.cast(CENTERS.schema(sample.centers.shape[1]))


class AssignImages:
    """Parts of `images` to parts of `assignments`.

    Called with a table of the column part (index into the parts of `images`); the result has the columns part, sizes
    (list of K counts) and those of the part written.
    """

    def __init__(
        self,
        images: StageDir,
        semantic_space: StageDir,
        output: StageDir,
        *,
        fingerprint: str,
        heads: StageDir,
        centers: Part,
    ) -> None:
        self._heads = load_heads(heads)
        self._images = images
        self._image_rows = ImageRows.open(images, image_tables_of(heads))
        self._image_parts: Sequence[Part] = images.require_manifest().tables["images"]
        self._semantic_space = semantic_space
        self._text_parts: Sequence[Part] = (
            semantic_space.require_manifest().tables["text_counterparts"] if self._heads.needs_text else ()
        )
        self._output = output
        self._fingerprint = fingerprint
        table = output.read_part(centers)
        self._centers = matrix_of(table["embedding"])
        self._mean_distances = table["mean_distance"].to_numpy()

    def __call__(self, indexes: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._assign(index) for index in indexes["part"].to_pylist()])

    def _assign(self, index: int) -> dict:
        rows = self._images.read_part(self._image_parts[index])
        texts = None
        if self._heads.needs_text:
            # Text counterparts are written part by part from the same images, so the rows agree.
            texts = matrix_of(self._semantic_space.read_part(self._text_parts[index])["embedding"])
        table = assignment_table(rows, texts, self._heads, self._image_rows, self._centers, self._mean_distances)
        part = self._output.write_part("assignments", table, fingerprint=self._fingerprint)
        sizes = np.bincount(table["cluster_id"].to_numpy(), minlength=self._heads.num_clusters)
        return {"part": index, "sizes": sizes.tolist(), **part.model_dump()}


def assignment_table(
    rows: pa.Table,
    texts: np.ndarray | None,
    heads: Heads,
    image_rows: ImageRows,
    centers: np.ndarray,
    mean_distances: np.ndarray,
) -> pa.Table:
    """Rows of `assignments`, with labels for ids, of rows of `images`.

    Args:
        texts: (n, D) their text counterparts, where the heads need them.
        image_rows: what further encoders made of them, where the heads need that.
        centers, mean_distances: (K, D) and (K,), as in `ClusterSample`.
    """
    embeddings = matrix_of(rows["embedding"])
    joined = image_rows.joined(rows["row_id"].to_numpy(), embeddings)
    labels, confidences, runner_up, margins = decide(heads, joined, texts)
    distances = 1 - np.einsum("nd,nd->n", embeddings.astype(np.float32), centers[labels])
    return pa.table(
        {
            "row_id": rows["row_id"],
            "image_id": rows["image_id"],
            "cluster_id": pa.array(labels, pa.int32()),
            "confidence": pa.array(confidences, pa.float32()),
            "runner_up": pa.array(runner_up, pa.int32()),
            "margin": pa.array(margins, pa.float32()),
            "outlier_score": pa.array(outlier_scores(distances, mean_distances[labels]), pa.float32()),
        }
    ).cast(ASSIGNMENTS.schema())


def describe_clusters(
    sample: ClusterSample,
    sizes: np.ndarray,
    nouns: pa.Table | None,
    config: AssignClustersConfig,
    *,
    judging: bool = False,
) -> pa.Table:
    """The table `clusters`: one row for every cluster that has images, with labels for ids.

    Args:
        sizes: (K,) images of each cluster, all images counted.
        nouns: the whole vocabulary; None where there is none, and clusters are numbered.
        judging: whether nouns that `withheld_nouns` lists may name a cluster.
    """
    names = unnamed(len(sizes)) if nouns is None else _names(sample, nouns, judging=judging)
    rows = cluster_rows(sample, sizes, names, num_exemplars=config.num_exemplars, num_border=config.num_border)
    return pa.Table.from_pylist(rows, schema=CLUSTERS.schema())


def _names(sample: ClusterSample, table: pa.Table, *, judging: bool) -> list[ClusterName]:
    nouns, synset_ids, noun_embeddings = noun_columns(table)
    if not any(synset_ids):
        synset_ids = commonest_synsets(nouns)
    return names_by_shown_nouns(
        sample,
        noun_embeddings,
        nouns,
        synset_ids,
        kinds=kinds_of_compounds(nouns, synset_ids),
        taxonomy=wordnet_taxonomy(),
        judging=judging,
    )


def describe_tree(centers: np.ndarray, clusters: pa.Table, *, judging: bool = False) -> pa.Table:
    """The table `cluster_tree`: which of the clusters belong together.

    Args:
        centers: (K', D), those of the clusters that have images.
        clusters: the table `clusters` with final ids and names, K' rows in the order of `centers`.
        judging: as in `describe_clusters`.
    """
    rows = clusters.to_pylist()
    tree = cluster_tree(centers, clusters["size"].to_numpy())
    named = [
        NamedCluster(
            row["name"],
            [(evidence["noun"], evidence["synset_id"], evidence["share"]) for evidence in row["name_evidence"]],
            row["name_source"] == "noun",
        )
        for row in rows
    ]
    has_synsets = any(synset_id is not None for cluster in named for _, synset_id, _ in cluster.nouns)
    taxonomy = concepts_that_name(wordnet_taxonomy(), judging=judging) if has_synsets else NO_TAXONOMY
    nodes = [
        {
            "node_id": position,
            "cluster_id": row["cluster_id"],
            "height": 0.0,
            "num_clusters": 1,
            **{column: row[column] for column in ("size", "name", "name_source")},
        }
        for position, row in enumerate(rows)
    ]
    names = name_inner_nodes(tree, named, taxonomy=taxonomy)
    for name, height, children in zip(names, tree.heights, tree.joins.tolist(), strict=True):
        joined = [nodes[child] for child in children]
        for child in joined:
            child["parent"] = len(nodes)
        nodes.append(
            {
                "node_id": len(nodes),
                "height": float(height),
                "size": sum(child["size"] for child in joined),
                "num_clusters": sum(child["num_clusters"] for child in joined),
                "name": name.name,
                "name_source": name.source,
            }
        )
    return pa.Table.from_pylist(nodes, schema=CLUSTER_TREE.schema())


def cost(load: Workload, machine: Machine) -> StageCost:
    """What the stage takes: clusters are measured and named on a sample in one task, and all images are assigned."""
    count, width, num_clusters = load.num_images, load.width, load.num_clusters
    sample = min(count, load.max_described_images)
    measuring = _assigning_work(sample, load) + Work(moved_bytes=4.0 * width * sample * _PASSES_OVER_SAMPLE)
    naming = naming_work(sample, width, num_clusters, load.num_nouns)
    disk = count * float(_ASSIGNMENT_BYTES)
    workers = 1 if count < SMALL_NUM_IMAGES else machine.cores
    return StageCost(
        "assign_clusters",
        (
            machine.starting(_IMPORTS),
            machine.on_cpus("measuring clusters", measuring),
            machine.on_cpus("names", naming),
            machine.on_cpus("assigning", _assigning_work(count, load), num_cores=machine.cores * machine.nodes),
            machine.writing(disk),
        ),
        memory_bytes=RAY_BYTES
        + 2 * PROCESS_BYTES
        + load.num_nouns * width * _BYTES_OF_NOUN_VALUE
        + max(count * width * 2.0 + sample * width * 6.0 + 12.0 * PROBS_PER_BLOCK, workers * PROCESS_BYTES),
        disk_bytes=disk,
        note=f"names from {sample:,} images",
    )


def _assigning_work(num_images: int, load: Workload) -> Work:
    """Probabilities of all clusters for so many images, and what is decided by them."""
    return Work(
        2.0 * num_images * load.width * (load.width + load.num_clusters),
        4.0 * num_images * load.num_clusters * _PASSES_OVER_PROBS,
    )
