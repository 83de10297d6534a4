"""Writes docs/ARTIFACTS.md: the tables of a run directory by the schemas of the code, and how other tools open them.

Run it after a change of `dxmc_core/artifacts/schemas.py`; a test compares the page with what this would write.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from dxmc_core.artifacts import schemas

PAGE = Path(__file__).parents[1] / "docs" / "ARTIFACTS.md"
#: Stand for the width of embeddings and the number of neighbours, which a run decides.
_WIDTH, _NUM_NEIGHBORS = 99_991, 99_989

_IDS = {
    "row_id": "dense number of the image in this run, from 0; what arrays are indexed by",
    "image_id": "what users join on: the path below the source, or the id that the source gives",
}
_NOUN = {
    "noun_id": "place in the vocabulary",
    "noun": "the word or phrase",
    "synset_id": "WordNet 3.0 name such as `dog.n.01`, null where unknown",
}
_NAME_SOURCE = (
    "`noun`, `hypernym` (the members agree on a wider word), `unnamed` (called by its number), `caption` (a language "
    "model's), or `person`"
)


@dataclass(frozen=True)
class Table:
    """A table of a stage: its schema, a sentence on what a row is, and a phrase on each column."""

    stage: str
    name: str
    schema: pa.Schema
    row: str
    columns: Mapping[str, str]


TABLES = (
    Table(
        "embed_images",
        "catalog",
        schemas.CATALOG,
        "One row per image of the source, as listed. Columns of the user's own list or Parquet files follow.",
        {
            **_IDS,
            "uri": "where its file lies; the tar or Parquet file that holds it; the picture of an embedding",
            "size": "bytes; -1 where nothing said so",
            "etag": "changes when the file does",
            "label": "true class where the source knows one; used by evaluation only",
            "offset": "place in `uri`: the byte of a tar, the row of a Parquet file; null for a file of its own",
            "problem": "why there can be no image, where the listing has shown it; null otherwise",
        },
    ),
    Table(
        "embed_images",
        "images",
        pa.schema([*schemas.images(_WIDTH), *schemas.MEASURES.items()]),
        "One row per image that was embedded. Every row of `catalog` is in exactly one of `images` and `rejects`. The "
        "columns from `width` on are null where nobody measured, and are not there in runs of earlier versions.",
        {
            **_IDS,
            "embedding": "unit norm, D values of the encoder",
            "width": "pixels of the picture, upright",
            "height": "pixels of the picture, upright",
            "brightness": "mean level of what the encoder sees of it, 0 to 1",
            "sharpness": "variance of the Laplacian of the same, levels 0 to 255: low where blurred or empty",
        },
    ),
    Table(
        "embed_images",
        "images-NAME",
        schemas.images(_WIDTH),
        "With `encoders`, one table of each encoder beside the first, called by its name: the same rows as `images`.",
        {**_IDS, "embedding": "unit norm, D values of that encoder"},
    ),
    Table(
        "embed_images",
        "rejects",
        schemas.REJECTS,
        "One row per image that could not be used.",
        {
            **_IDS,
            "uri": "where its file should lie",
            "reason": "one of a closed list: `missing`, `truncated`, `too_large`, ...; see [SOURCES.md](SOURCES.md)",
            "message": "one line for a person",
        },
    ),
    Table(
        "build_semantic_space",
        "image_centers",
        schemas.image_centers(_WIDTH),
        "One row per centre of the k-means that nouns are selected by.",
        {"center_id": "number of the centre", "size": "images nearest to it", "embedding": "unit norm"},
    ),
    Table(
        "build_semantic_space",
        "nouns",
        schemas.nouns(_WIDTH),
        "One row per noun of the vocabulary.",
        {**_NOUN, "embedding": "unit norm, in the space of the images"},
    ),
    Table(
        "build_semantic_space",
        "selected_nouns",
        schemas.selected_nouns(_WIDTH),
        "One row per noun that describes these images.",
        {
            **_NOUN,
            "center_id": "the image centre that chose it",
            "probability": "of this centre given the noun",
            "embedding": "unit norm",
        },
    ),
    Table(
        "build_semantic_space",
        "text_counterparts",
        schemas.text_counterparts(_WIDTH),
        "One row per image.",
        {"row_id": _IDS["row_id"], "embedding": "unit norm: the selected nouns mixed by how well they fit the image"},
    ),
    Table(
        "mine_neighbors",
        "neighbors",
        schemas.neighbors(_NUM_NEIGHBORS),
        "One row per image; the image itself is not among its neighbours.",
        {
            "row_id": _IDS["row_id"],
            "image_neighbors": "row_ids by image embedding, nearest first",
            "text_neighbors": "row_ids by text counterpart; where the method trains on them, or an index is wanted",
        },
    ),
    Table(
        "mine_neighbors",
        "near_duplicates",
        schemas.NEAR_DUPLICATES,
        "One row per image that has a near duplicate: groups joined by neighbours of a cosine of at least "
        "`mine_neighbors.near_duplicate_cosine`.",
        {
            **_IDS,
            "group_id": "smallest row_id of its group",
            "group_size": "images of the group",
            "copy_of": "smallest row_id with the same embedding, bit by bit; its own where there is none before it",
        },
    ),
    Table(
        "suggest_k",
        "k_scores",
        schemas.K_SCORES,
        "One row per number of clusters that was tried; written by `dxmc suggest-k` and `num_clusters: auto`.",
        {
            "num_clusters": "K",
            "stability": "how far clusterings of different samples agree, above chance",
            "separability": "how far neighbours share a cluster, above chance",
            "compactness": "how near images are to their own centre and not to the next",
            "overall": "the scores together; the best have a rank",
            "rank": "1 for the best suggestion, null for a K that is not suggested",
            "reason": "what speaks for a suggested K",
        },
    ),
    Table(
        "assign_clusters",
        "assignments",
        schemas.ASSIGNMENTS.append(schemas.INLIER_CLUSTER_ID),
        "One row per image that was embedded: the result. `inlier_cluster_id` is there when "
        "`assign_clusters.min_cluster_size` is set.",
        {
            **_IDS,
            "cluster_id": "its cluster",
            "confidence": "probability of this cluster, 0 to 1",
            "runner_up": "the cluster it would have gone to instead",
            "margin": "confidence less the runner-up's probability",
            "outlier_score": "distance to the centre over the cluster's mean: 1 is ordinary, 2 twice as far out",
            "inlier_cluster_id": "its cluster, -1 for an image set apart: of a small cluster, or far from its centre",
        },
    ),
    Table(
        "assign_clusters",
        "clusters",
        schemas.CLUSTERS,
        "One row per cluster that has images.",
        {
            "cluster_id": "number of the cluster: 0 to K-1, or with `keep_ids_from` the one it has kept",
            "size": "its images",
            "name": "different for every cluster",
            "names": "further nouns that fit, best first",
            "name_evidence": "nouns with the share of members they fit and the lead over the next cluster",
            "name_source": _NAME_SOURCE,
            "exemplars": "row_ids nearest the centre, nearest first",
            "border": "row_ids with the smallest margin",
            "cohesion": "mean cosine of the members to their centre",
            "mean_confidence": "of the members",
            "nearest_clusters": "cluster_ids, nearest first",
        },
    ),
    Table(
        "assign_clusters",
        "centers",
        schemas.centers(_WIDTH),
        "One row per cluster, those without images included; row k is output k of the heads, rows beyond are of edits.",
        {
            "cluster_id": "number of the cluster",
            "mean_distance": "mean of 1 - cosine of the members to the centre",
            "embedding": "normalised mean of the members, zero without members",
        },
    ),
    Table(
        "assign_clusters",
        "cluster_tree",
        schemas.CLUSTER_TREE,
        "One row per node of the binary tree over the clusters, children before parents.",
        {
            "node_id": "number of the node",
            "parent": "node_id of its parent, null at the root",
            "cluster_id": "of a leaf, null at an inner node",
            "height": "at which its two children join; 0 for a cluster",
            "size": "images below it",
            "num_clusters": "clusters below it",
            "name": "of the cluster, or what its clusters have in common",
            "name_source": "as in `clusters`; of inner nodes `hypernym`, `noun` or `members`",
        },
    ),
    Table(
        "assign_clusters",
        "lineage",
        schemas.LINEAGE,
        "With `assign_clusters.keep_ids_from`, one row per cluster of this run or of the one before; shares and "
        "overlap count the images that both have.",
        {
            "relation": "`kept`, `split` (new, most of it from previous_id), `born` (new), `merged` (ended, most of it "
            "in cluster_id) or `died` (ended)",
            "previous_id": "cluster of the run before, null for `born`",
            "cluster_id": "cluster of this run, null for `died`",
            "previous_name": "of the former",
            "name": "of the latter",
            "previous_size": "images of the former",
            "size": "images of the latter",
            "overlap": "images in both",
            "previous_share": "overlap as a fraction of the former",
            "share": "overlap as a fraction of the latter",
            "jaccard": "overlap as a fraction of the images in either",
        },
    ),
    Table(
        "assign_clusters",
        "edits",
        schemas.EDITS,
        "One row per edit of a person that this run listened to, in their order; not there without edits. Where edits "
        "changed assignments, `unedited`, `unedited_centers` and `unedited_clusters` hold `assignments`, `centers` and "
        "`clusters` as the clustering alone gave them; see docs/EDITS.md.",
        {
            "edit_id": "by which it is undone",
            "kind": "`rename`, `merge`, `split`, `move`, `together`, `apart`, `examples`, `hide` or `pin`",
            "summary": "what it does, in a few words",
            "author": "who made it",
            "at": "when",
            "reason": "why, where that was said",
            "state": "`applied`, `waiting` (nothing that it names is here now) or `overruled` (by later edits)",
            "cluster_id": "the cluster that it is about, null where there is none",
            "num_images": "images that it names",
            "num_missing": "those of them that are not in this run",
            "num_elsewhere": "those of them that the clustering alone puts into another cluster",
            "num_overruled": "those of them that later edits put elsewhere",
            "message": "what a person should know of it, empty where all is as it was meant",
        },
    ),
    Table(
        "assign_clusters",
        "splits",
        schemas.splits(_WIDTH),
        "One row per part of each split that a person made: where its border lies, so that later nights divide as the "
        "first did, whatever became of the examples. Not there without splits.",
        {
            "edit_id": "of the split",
            "part": "number of the part, from 0",
            "examples": "image_ids, as they stand in the edit",
            "embedding": "unit norm: an image goes to the part whose row is nearest",
        },
    ),
    Table(
        "report",
        "cluster_summary",
        schemas.CLUSTER_SUMMARY,
        "One row per cluster that has images, the largest first: what `dxmc clusters` prints.",
        {
            "cluster_id": "number of the cluster",
            "name": "different for every cluster",
            "name_source": _NAME_SOURCE,
            "size": "its images",
            "share": "of all clustered images, 0 to 1",
            "terms": "nouns that fit, best first",
            "parent": "node_id in `assign_clusters/cluster_tree` of the branch above; null for a single cluster",
            "parent_name": "what that branch is called",
            "exemplars": "image_ids of at most 12 images nearest the centre, nearest first",
        },
    ),
    Table(
        "report",
        "quality_issues",
        schemas.QUALITY_ISSUES,
        "One row for each image and each thing that people weed out: by issue, the worst first. Near duplicates are in "
        "`mine_neighbors/near_duplicates`, broken files in `embed_images/rejects`. Not there where nobody measured.",
        {
            **_IDS,
            "issue": "`dark`, `blurred`, `tiny` or `odd_shape`",
            "value": "brightness below 0.12, sharpness below 12, shorter side below 100 pixels, or one side over the "
            "other of at least 3",
        },
    ),
    Table(
        "report",
        "questions",
        schemas.QUESTIONS,
        "One row for each yes/no question that the report and `dxmc review` ask, the most useful first.",
        {
            "rank": "from 0",
            "kind": "`merge` (do both clusters show the same?), `split` (are these two things?), `move` (do these "
            "belong to the other cluster?) or `rename` (is the name good?)",
            "cluster_id": "the cluster that it is about",
            "other_id": "of `merge` and `move`: the other cluster",
            "name": "of `rename`: what a yes calls the cluster",
            "probability": "of a yes, estimated without labels; null for `rename`",
            "num_images": "about how many images a yes would put right",
            "rows": "row_ids of the pictures that are shown",
            "other_rows": "row_ids of the pictures on the other side",
            "image_ids": "of `move` and `split`: what a yes moves, or puts into the first part; at most 100",
            "other_ids": "of `split`: what a yes puts into the other part; at most 100",
        },
    ),
)

_HEAD = """\
# Artifacts

<!-- Written by scripts/document_artifacts.py; change that or dxmc_core/artifacts/schemas.py, not this page. -->

A run directory has a folder for every stage, on local disk or in object storage. A table is a folder of Parquet parts,
`<stage>/<table>/*.parquet`. Of what dxmc writes, the folder of a finished stage holds the result and nothing else, so
any tool that reads Parquet reads exactly the result. `_manifest.json` in each stage folder, written last, names the
parts with their rows, bytes and checksums; a stage without it is not done. This is schema version {version}.

A run begins in a new or empty folder or prefix. Files that somebody else puts into it later are neither replaced nor
removed; a line in the log names those that lie in a stage's folder when the stage is made again.

## Opening them

These lines read the same assignments. Parts are named by their content: where the order matters, sort by `row_id`. In
object storage put `s3://bucket/run` in the place of `runs/demo`; DuckDB needs its `httpfs` extension for that, pandas
needs s3fs (which dxmc brings).
"""

#: Tool and lines; the test runs those that do not need a service.
ONE_LINERS = {
    "pandas": """\
import pandas as pd

assignments = pd.read_parquet("runs/demo/assign_clusters/assignments")
clusters = pd.read_parquet("runs/demo/assign_clusters/clusters")
sizes = assignments.merge(clusters[["cluster_id", "name"]], on="cluster_id").groupby("name").size()""",
    "Polars": """\
import polars as pl

assignments = pl.scan_parquet("runs/demo/assign_clusters/assignments/*.parquet")
clusters = pl.scan_parquet("runs/demo/assign_clusters/clusters/*.parquet").select("cluster_id", "name")
sizes = assignments.join(clusters, on="cluster_id").group_by("name").len().collect()""",
    "DuckDB": """\
import duckdb

assignments = duckdb.sql("SELECT * FROM 'runs/demo/assign_clusters/assignments/*.parquet'")
clusters = duckdb.sql("SELECT cluster_id, name FROM 'runs/demo/assign_clusters/clusters/*.parquet'")
sizes = duckdb.sql("SELECT name, count(*) FROM assignments JOIN clusters USING (cluster_id) GROUP BY name")""",
    "Spark": """\
assignments = spark.read.parquet("runs/demo/assign_clusters/assignments")
clusters = spark.read.parquet("runs/demo/assign_clusters/clusters").select("cluster_id", "name")
sizes = assignments.join(clusters, "cluster_id").groupBy("name").count()""",
}

_TAIL = """\
## Files

| file | what |
|---|---|
| `*/_own.json` | which attempts and files of dxmc the folder of a stage has; no others are removed |
| `run.json` | source, encoder, and the configuration of the run that used the directory last |
| `train_heads/heads.safetensors` | the trained heads: tensors, and the description they are rebuilt from |
| `train_heads/metrics.jsonl` | one line per epoch: loss terms, cluster sizes, balance, changed images, seconds |
| `report/index.html` | the report, complete in one file |
| `report/members/*/cluster-N.html` | all members of cluster N in pages of 200, from the best fit to the worst |
| `mine_neighbors/index.faiss` | a FAISS index of the image embeddings, ids are row ids; [SEARCH.md](SEARCH.md) |
| `mine_neighbors/text_index.faiss` | with `mine_neighbors.text_search_index`, one of the text counterparts |

`dxmc recluster` makes a run directory a night, `generations/000012`, and beside them:

| file | what |
|---|---|
| `current.json` | `current`: the number of the generation that counts; `highest`: the last number given |
| `generations/*/generation.json` | how and why it was made, its figures, and those that drift is measured against |
| `metrics.json`, `metrics.prom` | figures of the last run, whatever its end, as JSON and for Prometheus |
"""


def document() -> str:
    """The page.

    Raises:
        ValueError: a column has no description, or a description no column.
    """
    blocks = [_HEAD.format(version=schemas.SCHEMA_VERSION)]
    for tool, lines in ONE_LINERS.items():
        note = " (not among the tests, which run the lines above)" if tool == "Spark" else ""
        blocks.append(f"{tool}{note}:\n\n```python\n{lines}\n```\n")
    stages = list(dict.fromkeys(table.stage for table in TABLES))
    for stage in stages:
        blocks.append(f"## {stage}\n")
        blocks += [_describe(table) for table in TABLES if table.stage == stage]
    return "\n".join([*blocks, _TAIL])


def _describe(table: Table) -> str:
    found, described = set(table.schema.names), set(table.columns)
    if found != described:
        raise ValueError(
            f"{table.stage}/{table.name}: columns without a description: {sorted(found - described)}, descriptions "
            f"without a column: {sorted(described - found)}; mend TABLES in {Path(__file__).name}"
        )
    return "\n".join([f"### {table.stage}/{table.name}\n", f"{table.row}\n", *_rows(table), ""])


def _rows(table: Table) -> Iterator[str]:
    yield "| column | type | |"
    yield "|---|---|---|"
    for field in table.schema:
        yield f"| `{field.name}` | {_type(field.type)} | {table.columns[field.name]} |"


def _type(kind: pa.DataType) -> str:
    if pa.types.is_fixed_size_list(kind):
        length = {_WIDTH: "D", _NUM_NEIGHBORS: "k"}[kind.list_size]
        return f"{_type(kind.value_type)}[{length}]"
    if pa.types.is_list(kind):
        return f"list of {_type(kind.value_type)}"
    if pa.types.is_struct(kind):
        return "{" + ", ".join(f"{field.name}: {_type(field.type)}" for field in kind) + "}"
    return {"halffloat": "float16", "float": "float32"}.get(str(kind), str(kind))


if __name__ == "__main__":
    PAGE.write_text(document(), encoding="utf-8")
    print(PAGE)
