"""The Arrow schema of every table that a stage publishes. Users join on `image_id`; arrays are indexed by `row_id`."""

from collections.abc import Container

import pyarrow as pa

#: Raised whenever a schema below or the manifest changes; an artifact of another version is rebuilt, never guessed at.
SCHEMA_VERSION = 4

#: The names of all tables, those included that are read within their own stage only.
TABLES = (
    "catalog",
    "images",
    "rejects",
    "k_scores",
    "nouns",
    "image_centers",
    "selected_nouns",
    "text_counterparts",
    "neighbors",
    "near_duplicate_pairs",
    "near_duplicates",
    "assignments",
    "centers",
    "clusters",
    "cluster_tree",
    "lineage",
    "edits",
    *("unedited", "unedited_centers", "unedited_clusters"),
    "cluster_summary",
    "quality_issues",
    "questions",
)

#: The table of the first encoder. A further one has a table of its own, with the same rows: images-NAME.
IMAGES = "images"

_EVIDENCE = pa.struct(
    [("noun", pa.string()), ("synset_id", pa.string()), ("share", pa.float32()), ("margin", pa.float32())]
)


def embedding_type(width: int, dtype: pa.DataType | None = None) -> pa.DataType:
    """A fixed-size list: one embedding a row, float16 unless said."""
    return pa.list_(dtype or pa.float16(), width)


#: `offset` is where in `uri` an image lies: the byte of a tar, the row of a Parquet file, null for a file of its own.
#: `problem` says why there can be no image where the listing has shown that. Columns that users bring follow these.
CATALOG = pa.schema(
    [
        pa.field("row_id", pa.int64(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("problem", pa.string()),
    ]
)

REJECTS = pa.schema(
    [
        pa.field("row_id", pa.int64(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
    ]
)


def images_table(name: str) -> str:
    """The table of a further encoder."""
    return f"{IMAGES}-{name}"


def images(width: int) -> pa.Schema:
    """One row per embedded image; `embedding` has unit norm. That of a further encoder is all there is of its table."""
    return pa.schema(
        [
            pa.field("row_id", pa.int64(), nullable=False),
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("embedding", embedding_type(width), nullable=False),
        ]
    )


#: Columns of `images` after those above, null where nobody measured: embeddings from a file, and those taken over
#: from a run of an earlier version. See `images.quality.Measures`.
MEASURES = {"width": pa.int32(), "height": pa.int32(), "brightness": pa.float32(), "sharpness": pa.float32()}


def with_measures(images: pa.Table) -> pa.Table:
    """Rows of `images` with all columns of `MEASURES`, null where there are none."""
    for name, type_ in MEASURES.items():
        if name not in images.column_names:
            images = images.append_column(name, pa.nulls(images.num_rows, type_))
    return images


def nouns(width: int) -> pa.Schema:
    """The whole vocabulary, embedded."""
    return pa.schema(
        [
            pa.field("noun_id", pa.int32(), nullable=False),
            pa.field("noun", pa.string(), nullable=False),
            pa.field("synset_id", pa.string()),
            pa.field("embedding", embedding_type(width), nullable=False),
        ]
    )


def image_centers(width: int) -> pa.Schema:
    """Centres of the k-means that the nouns are selected by."""
    return pa.schema(
        [
            pa.field("center_id", pa.int32(), nullable=False),
            pa.field("size", pa.int64(), nullable=False),
            pa.field("embedding", embedding_type(width, pa.float32()), nullable=False),
        ]
    )


def selected_nouns(width: int) -> pa.Schema:
    """The semantic space: the nouns that describe these images, each with the centre that chose it."""
    return pa.schema(
        [
            pa.field("noun_id", pa.int32(), nullable=False),
            pa.field("noun", pa.string(), nullable=False),
            pa.field("synset_id", pa.string()),
            pa.field("center_id", pa.int32(), nullable=False),
            pa.field("probability", pa.float32(), nullable=False),
            pa.field("embedding", embedding_type(width), nullable=False),
        ]
    )


def text_counterparts(width: int) -> pa.Schema:
    """One unit-norm mixture of noun embeddings an image."""
    return pa.schema(
        [
            pa.field("row_id", pa.int64(), nullable=False),
            pa.field("embedding", embedding_type(width), nullable=False),
        ]
    )


def neighbors(num_neighbors: int, *, has_text: bool = True) -> pa.Schema:
    """Nearest rows of every row, nearest first, as row ids, itself left out; of text where they were looked for."""
    modalities = ("image_neighbors", "text_neighbors") if has_text else ("image_neighbors",)
    lists = [pa.field(name, pa.list_(pa.int64(), num_neighbors), nullable=False) for name in modalities]
    return pa.schema([pa.field("row_id", pa.int64(), nullable=False), *lists])


#: Images that have a near duplicate: one row each, ordered by row_id.
NEAR_DUPLICATES = pa.schema(
    [
        pa.field("row_id", pa.int64(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("group_id", pa.int64(), nullable=False),
        pa.field("group_size", pa.int64(), nullable=False),
        pa.field("copy_of", pa.int64(), nullable=False),
    ]
)

#: What speaks for each number of clusters; see `method.suggest_k.KScores`. The suggestions have a rank from 1.
K_SCORES = pa.schema(
    [
        pa.field("num_clusters", pa.int32(), nullable=False),
        pa.field("stability", pa.float32(), nullable=False),
        pa.field("separability", pa.float32(), nullable=False),
        pa.field("compactness", pa.float32(), nullable=False),
        pa.field("overall", pa.float32(), nullable=False),
        pa.field("rank", pa.int32()),
        pa.field("reason", pa.string()),
    ]
)

ASSIGNMENTS = pa.schema(
    [
        pa.field("row_id", pa.int64(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("cluster_id", pa.int32(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("runner_up", pa.int32(), nullable=False),
        pa.field("margin", pa.float32(), nullable=False),
        pa.field("outlier_score", pa.float32(), nullable=False),
    ]
)

#: Column of `assignments` when `assign_clusters.min_cluster_size` is set: the cluster, -1 for what is set apart.
INLIER_CLUSTER_ID = pa.field("inlier_cluster_id", pa.int32(), nullable=False)


def centers(width: int) -> pa.Schema:
    """Where every cluster lies: the normalised mean of its images, zero without any. Row k is the heads' output k; rows
    beyond those are clusters that edits made."""
    return pa.schema(
        [
            pa.field("cluster_id", pa.int32(), nullable=False),
            pa.field("mean_distance", pa.float32(), nullable=False),
            pa.field("embedding", embedding_type(width, pa.float32()), nullable=False),
        ]
    )


CLUSTERS = pa.schema(
    [
        pa.field("cluster_id", pa.int32(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("names", pa.list_(pa.string()), nullable=False),
        pa.field("name_evidence", pa.list_(_EVIDENCE), nullable=False),
        pa.field("name_source", pa.string(), nullable=False),
        pa.field("exemplars", pa.list_(pa.int64()), nullable=False),
        pa.field("border", pa.list_(pa.int64()), nullable=False),
        pa.field("cohesion", pa.float32(), nullable=False),
        pa.field("mean_confidence", pa.float32(), nullable=False),
        pa.field("nearest_clusters", pa.list_(pa.int32()), nullable=False),
    ]
)

#: Which clusters belong together: a binary tree over the clusters that have images, children before parents.
CLUSTER_TREE = pa.schema(
    [
        pa.field("node_id", pa.int32(), nullable=False),
        pa.field("parent", pa.int32()),  # node_id; null at the root
        pa.field("cluster_id", pa.int32()),  # null at an inner node
        pa.field("height", pa.float32(), nullable=False),  # at which its two children join; 0 for a cluster
        pa.field("size", pa.int64(), nullable=False),
        pa.field("num_clusters", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("name_source", pa.string(), nullable=False),  # as in clusters; inner nodes: hypernym, noun or members
    ]
)

#: What became of every cluster of this run and of the one it keeps ids from; see `method.cluster_identity`.
LINEAGE = pa.schema(
    [
        pa.field("relation", pa.string(), nullable=False),
        pa.field("previous_id", pa.int32()),
        pa.field("cluster_id", pa.int32()),
        pa.field("previous_name", pa.string()),
        pa.field("name", pa.string()),
        pa.field("previous_size", pa.int64()),
        pa.field("size", pa.int64()),
        pa.field("overlap", pa.int64(), nullable=False),
        pa.field("previous_share", pa.float32(), nullable=False),
        pa.field("share", pa.float32(), nullable=False),
        pa.field("jaccard", pa.float32(), nullable=False),
    ]
)

#: Where a table lies as the clustering alone gave it, in a run whose clusters people have changed by edits.
UNEDITED = {"assignments": "unedited", "centers": "unedited_centers", "clusters": "unedited_clusters"}


def as_clustered(name: str, tables: Container[str]) -> str:
    """Under which name a finished assign_clusters, of these tables, holds one as the clustering alone gave it."""
    return UNEDITED[name] if UNEDITED[name] in tables else name


#: What became of every edit in this run, in their order; see `edits.apply.Outcome`.
EDITS = pa.schema(
    [
        pa.field("edit_id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("summary", pa.string(), nullable=False),
        pa.field("author", pa.string(), nullable=False),
        pa.field("at", pa.timestamp("ms", "UTC"), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("state", pa.string(), nullable=False),  # applied, waiting or overruled
        pa.field("cluster_id", pa.int32()),  # that it is about; null where there is none
        pa.field("num_images", pa.int64(), nullable=False),
        pa.field("num_missing", pa.int64(), nullable=False),
        pa.field("num_elsewhere", pa.int64(), nullable=False),
        pa.field("num_overruled", pa.int64(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
    ]
)


def splits(width: int) -> pa.Schema:
    """Where the borders of splits lie; see `edits.apply.SplitParts`."""
    return pa.schema(
        [
            pa.field("edit_id", pa.string(), nullable=False),
            pa.field("part", pa.int32(), nullable=False),
            pa.field("examples", pa.list_(pa.string()), nullable=False),
            pa.field("embedding", embedding_type(width, pa.float32()), nullable=False),
        ]
    )


#: Clusters as people ask for them: one row each, the largest first, with ids of images instead of rows.
CLUSTER_SUMMARY = pa.schema(
    [
        pa.field("cluster_id", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("name_source", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("share", pa.float32(), nullable=False),
        pa.field("terms", pa.list_(pa.string()), nullable=False),
        pa.field("parent", pa.int32()),  # node_id of cluster_tree; null for a single cluster
        pa.field("parent_name", pa.string()),
        pa.field("exemplars", pa.list_(pa.string()), nullable=False),
    ]
)

#: What people weed out: one row for each image and each thing that is the matter with it, the worst of a kind first.
QUALITY_ISSUES = pa.schema(
    [
        pa.field("row_id", pa.int64(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("issue", pa.string(), nullable=False),
        pa.field("value", pa.float32(), nullable=False),
    ]
)

#: What a person is asked: one row for each question, the most useful first. See `method.proposals`.
QUESTIONS = pa.schema(
    [
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # merge, split, move or rename
        pa.field("cluster_id", pa.int32(), nullable=False),
        pa.field("other_id", pa.int32()),
        pa.field("name", pa.string()),  # what a yes to rename calls it
        pa.field("probability", pa.float32()),
        pa.field("num_images", pa.int64(), nullable=False),
        pa.field("rows", pa.list_(pa.int64()), nullable=False),
        pa.field("other_rows", pa.list_(pa.int64()), nullable=False),
        pa.field("image_ids", pa.list_(pa.string()), nullable=False),  # what a yes moves, or puts into the one part
        pa.field("other_ids", pa.list_(pa.string()), nullable=False),  # what a yes puts into the other part
    ]
)
