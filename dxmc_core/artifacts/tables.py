"""Every table that a stage publishes, declared once: its columns, their types and what they mean.

Users join on `image_id`; arrays are indexed by `row_id`. docs/ARTIFACTS.md is written from these declarations. Whoever
changes one so that older runs cannot be read any more raises `manifest.SCHEMA_VERSION`.
"""

from collections.abc import Collection, Container
from dataclasses import dataclass, replace
from functools import cached_property

import pyarrow as pa

from dxmc_core.artifacts.table_names import IMAGES_NAME, further_images_name


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        meaning: a phrase for a user, in Markdown.
        is_optional: not there in every run.
        has_width: a list of a fixed length, which the run decides (embeddings, neighbours); `type` is without it.
    """

    name: str
    type: pa.DataType
    meaning: str
    is_nullable: bool = False
    is_optional: bool = False
    has_width: bool = False

    def field(self, width: int | None = None) -> pa.Field:
        if not self.has_width:
            return pa.field(self.name, self.type, nullable=self.is_nullable)
        assert width is not None, f"{self.name} has a width"
        return pa.field(self.name, pa.list_(self.type.value_type, width), nullable=self.is_nullable)

    def admits(self, found: pa.DataType) -> bool:
        """Whether values of a type are what is declared."""
        if self.has_width:
            return pa.types.is_fixed_size_list(found) and found.value_type == self.type.value_type
        return found == self.type


@dataclass(frozen=True)
class Table:
    """A table of a stage, `<stage>/<name>/*.parquet`.

    Attributes:
        row: what a row is, for a user.
        has_user_columns: columns that users bring follow the ones declared.
    """

    stage: str
    name: str
    row: str
    columns: tuple[Column, ...]
    has_user_columns: bool = False

    def schema(self, width: int | None = None, *, optional: Container[str] = ()) -> pa.Schema:
        """The columns that every run has, and of the optional ones those named.

        Args:
            width: of the lists of a fixed length, where there are any.
        """
        chosen = [column for column in self.columns if not column.is_optional or column.name in optional]
        return pa.schema([column.field(width) for column in chosen])

    @property
    def has_width(self) -> bool:
        return any(column.has_width for column in self.columns)

    @cached_property
    def by_name(self) -> dict[str, Column]:
        return {column.name: column for column in self.columns}

    def expected_type(self, column: str, found: pa.DataType) -> pa.DataType | None:
        """The type that a column should have; that which was found where anything is right, None for no column."""
        declared = self.by_name.get(column)
        if declared is None:
            return found if self.has_user_columns else None
        return found if declared.admits(found) else declared.type

    def empty(self, columns: Collection[str] | None = None) -> pa.Table:
        """Without rows; of a table without widths."""
        return self.schema(optional=columns or ()).empty_table().select(columns or self.schema().names)


_EVIDENCE = pa.struct(
    [("noun", pa.string()), ("synset_id", pa.string()), ("share", pa.float32()), ("margin", pa.float32())]
)
_NAME_SOURCE = (
    "`noun`, `hypernym` (the members agree on a wider word), `unnamed` (called by its number), `caption` (a language "
    "model's), or `person`"
)

ROW_ID = Column("row_id", pa.int64(), "dense number of the image in this run, from 0; what arrays are indexed by")
IMAGE_ID = Column(
    "image_id", pa.string(), "what users join on: the path below the source, or the id that the source gives"
)


def embedding_type(width: int, dtype: pa.DataType | None = None) -> pa.DataType:
    """A fixed-size list: one embedding for each row, float16 unless said."""
    return pa.list_(dtype or pa.float16(), width)


CATALOG = Table(
    "embed_images",
    "catalog",
    "One row per image of the source, as listed. Columns of the user's own list or Parquet files follow.",
    (
        ROW_ID,
        IMAGE_ID,
        Column(
            "uri",
            pa.string(),
            "where its file lies; the tar or Parquet file that holds it; the picture of an embedding",
        ),
        Column("size", pa.int64(), "bytes; -1 where nothing said so"),
        Column("etag", pa.string(), "changes when the file does"),
        Column(
            "label", pa.string(), "true class where the source knows one; used by evaluation only", is_nullable=True
        ),
        Column(
            "offset",
            pa.int64(),
            "place in `uri`: the byte of a tar, the row of a Parquet file; null for a file of its own",
            is_nullable=True,
        ),
        Column(
            "problem",
            pa.string(),
            "why there can be no image, where the listing has shown it; null otherwise",
            is_nullable=True,
        ),
    ),
    has_user_columns=True,
)

IMAGES = Table(
    "embed_images",
    IMAGES_NAME,
    "One row per image that was embedded. Every row of `catalog` is in exactly one of `images` and `rejects`. The "
    "columns from `width` on are null where nobody measured, and are not there in runs of earlier versions.",
    (
        ROW_ID,
        IMAGE_ID,
        Column("embedding", pa.list_(pa.float16()), "unit norm, D values of the encoder", has_width=True),
        Column("width", pa.int32(), "pixels of the picture, upright", is_nullable=True, is_optional=True),
        Column("height", pa.int32(), "pixels of the picture, upright", is_nullable=True, is_optional=True),
        Column(
            "brightness",
            pa.float32(),
            "mean level of what the encoder sees of it, 0 to 1",
            is_nullable=True,
            is_optional=True,
        ),
        Column(
            "sharpness",
            pa.float32(),
            "variance of the Laplacian of the same, levels 0 to 255: low where blurred or empty",
            is_nullable=True,
            is_optional=True,
        ),
    ),
)

_FURTHER_IMAGES = Table(
    "embed_images",
    further_images_name("NAME"),
    "With `encoders`, one table of each encoder beside the first, called by its name: the same rows as `images`.",
    (
        ROW_ID,
        IMAGE_ID,
        Column("embedding", pa.list_(pa.float16()), "unit norm, D values of that encoder", has_width=True),
    ),
)

REJECTS = Table(
    "embed_images",
    "rejects",
    "One row per image that could not be used.",
    (
        ROW_ID,
        IMAGE_ID,
        Column("uri", pa.string(), "where its file should lie"),
        Column(
            "reason",
            pa.string(),
            "one of a closed list: `missing`, `truncated`, `too_large`, ...; see [SOURCES.md](SOURCES.md)",
        ),
        Column("message", pa.string(), "one line for a person"),
    ),
)

IMAGE_CENTERS = Table(
    "build_semantic_space",
    "image_centers",
    "One row per centre of the k-means that nouns are selected by.",
    (
        Column("center_id", pa.int32(), "number of the centre"),
        Column("size", pa.int64(), "images nearest to it"),
        Column("embedding", pa.list_(pa.float32()), "unit norm", has_width=True),
    ),
)

NOUNS = Table(
    "build_semantic_space",
    "nouns",
    "One row per noun of the vocabulary.",
    (
        Column("noun_id", pa.int32(), "place in the vocabulary"),
        Column("noun", pa.string(), "the word or phrase"),
        Column("synset_id", pa.string(), "WordNet 3.0 name such as `dog.n.01`, null where unknown", is_nullable=True),
        Column("embedding", pa.list_(pa.float16()), "unit norm, in the space of the images", has_width=True),
    ),
)

SELECTED_NOUNS = Table(
    "build_semantic_space",
    "selected_nouns",
    "One row per noun that describes these images.",
    (
        Column("noun_id", pa.int32(), "place in the vocabulary"),
        Column("noun", pa.string(), "the word or phrase"),
        Column("synset_id", pa.string(), "WordNet 3.0 name such as `dog.n.01`, null where unknown", is_nullable=True),
        Column("center_id", pa.int32(), "the image centre that chose it"),
        Column("probability", pa.float32(), "of this centre given the noun"),
        Column("embedding", pa.list_(pa.float16()), "unit norm", has_width=True),
    ),
)

TEXT_COUNTERPARTS = Table(
    "build_semantic_space",
    "text_counterparts",
    "One row per image.",
    (
        ROW_ID,
        Column(
            "embedding",
            pa.list_(pa.float16()),
            "unit norm: the selected nouns mixed by how well they fit the image",
            has_width=True,
        ),
    ),
)

NEIGHBORS = Table(
    "mine_neighbors",
    "neighbors",
    "One row per image; the image itself is not among its neighbours.",
    (
        ROW_ID,
        Column("image_neighbors", pa.list_(pa.int64()), "row_ids by image embedding, nearest first", has_width=True),
        Column(
            "text_neighbors",
            pa.list_(pa.int64()),
            "row_ids by text counterpart; where the method trains on them, or an index is wanted",
            is_optional=True,
            has_width=True,
        ),
    ),
)

NEAR_DUPLICATES = Table(
    "mine_neighbors",
    "near_duplicates",
    "One row per image that has a near duplicate: groups joined by neighbours of a cosine of at least "
    "`mine_neighbors.near_duplicate_cosine`.",
    (
        ROW_ID,
        IMAGE_ID,
        Column("group_id", pa.int64(), "smallest row_id of its group"),
        Column("group_size", pa.int64(), "images of the group"),
        Column(
            "copy_of",
            pa.int64(),
            "smallest row_id with the same embedding, bit by bit; its own where there is none before it",
        ),
    ),
)

K_SCORES = Table(
    "suggest_k",
    "k_scores",
    "One row per number of clusters that was tried; written by `dxmc suggest-k` and `num_clusters: auto`.",
    (
        Column("num_clusters", pa.int32(), "K"),
        Column("stability", pa.float32(), "how far clusterings of different samples agree, above chance"),
        Column("separability", pa.float32(), "how far neighbours share a cluster, above chance"),
        Column("compactness", pa.float32(), "how near images are to their own centre and not to the next"),
        Column("overall", pa.float32(), "the scores together; the best have a rank"),
        Column("rank", pa.int32(), "1 for the best suggestion, null for a K that is not suggested", is_nullable=True),
        Column("reason", pa.string(), "what speaks for a suggested K", is_nullable=True),
    ),
)

ASSIGNMENTS = Table(
    "assign_clusters",
    "assignments",
    "One row per image that was embedded: the result. `inlier_cluster_id` is there when "
    "`assign_clusters.min_cluster_size` is set.",
    (
        ROW_ID,
        IMAGE_ID,
        Column("cluster_id", pa.int32(), "its cluster"),
        Column("confidence", pa.float32(), "probability of this cluster, 0 to 1"),
        Column("runner_up", pa.int32(), "the cluster it would have gone to instead"),
        Column("margin", pa.float32(), "confidence less the runner-up's probability"),
        Column(
            "outlier_score",
            pa.float32(),
            "distance to the centre over the cluster's mean: 1 is ordinary, 2 twice as far out",
        ),
        Column(
            "inlier_cluster_id",
            pa.int32(),
            "its cluster, -1 for an image set apart: of a small cluster, or far from its centre",
            is_optional=True,
        ),
    ),
)

CLUSTERS = Table(
    "assign_clusters",
    "clusters",
    "One row per cluster that has images.",
    (
        Column(
            "cluster_id", pa.int32(), "number of the cluster: 0 to K-1, or with `keep_ids_from` the one it has kept"
        ),
        Column("size", pa.int64(), "its images"),
        Column("name", pa.string(), "different for every cluster"),
        Column("names", pa.list_(pa.string()), "further nouns that fit, best first"),
        Column(
            "name_evidence",
            pa.list_(_EVIDENCE),
            "nouns with the share of members they fit and the lead over the next cluster",
        ),
        Column("name_source", pa.string(), _NAME_SOURCE),
        Column("exemplars", pa.list_(pa.int64()), "row_ids nearest the centre, nearest first"),
        Column("border", pa.list_(pa.int64()), "row_ids with the smallest margin"),
        Column("cohesion", pa.float32(), "mean cosine of the members to their centre"),
        Column("mean_confidence", pa.float32(), "of the members"),
        Column("nearest_clusters", pa.list_(pa.int32()), "cluster_ids, nearest first"),
    ),
)

CENTERS = Table(
    "assign_clusters",
    "centers",
    "One row per cluster, those without images included; row k is output k of the heads, rows beyond are of edits.",
    (
        Column("cluster_id", pa.int32(), "number of the cluster"),
        Column("mean_distance", pa.float32(), "mean of 1 - cosine of the members to the centre"),
        Column(
            "embedding", pa.list_(pa.float32()), "normalised mean of the members, zero without members", has_width=True
        ),
    ),
)

CLUSTER_TREE = Table(
    "assign_clusters",
    "cluster_tree",
    "One row per node of the binary tree over the clusters, children before parents.",
    (
        Column("node_id", pa.int32(), "number of the node"),
        Column("parent", pa.int32(), "node_id of its parent, null at the root", is_nullable=True),
        Column("cluster_id", pa.int32(), "of a leaf, null at an inner node", is_nullable=True),
        Column("height", pa.float32(), "at which its two children join; 0 for a cluster"),
        Column("size", pa.int64(), "images below it"),
        Column("num_clusters", pa.int32(), "clusters below it"),
        Column("name", pa.string(), "of the cluster, or what its clusters have in common"),
        Column("name_source", pa.string(), "as in `clusters`; of inner nodes `hypernym`, `noun` or `members`"),
    ),
)

LINEAGE = Table(
    "assign_clusters",
    "lineage",
    "With `assign_clusters.keep_ids_from`, one row per cluster of this run or of the one before; shares and overlap "
    "count the images that both have.",
    (
        Column(
            "relation",
            pa.string(),
            "`kept`, `split` (new, most of it from previous_id), `born` (new), `merged` (ended, most of it in "
            "cluster_id) or `died` (ended)",
        ),
        Column("previous_id", pa.int32(), "cluster of the run before, null for `born`", is_nullable=True),
        Column("cluster_id", pa.int32(), "cluster of this run, null for `died`", is_nullable=True),
        Column("previous_name", pa.string(), "of the former", is_nullable=True),
        Column("name", pa.string(), "of the latter", is_nullable=True),
        Column("previous_size", pa.int64(), "images of the former", is_nullable=True),
        Column("size", pa.int64(), "images of the latter", is_nullable=True),
        Column("overlap", pa.int64(), "images in both"),
        Column("previous_share", pa.float32(), "overlap as a fraction of the former"),
        Column("share", pa.float32(), "overlap as a fraction of the latter"),
        Column("jaccard", pa.float32(), "overlap as a fraction of the images in either"),
    ),
)

EDITS = Table(
    "assign_clusters",
    "edits",
    "One row per edit of a person that this run listened to, in their order; not there without edits. Where edits "
    "changed assignments, `unedited` and `unedited_centers` hold `assignments` and `centers` as the clustering alone "
    "gave them, and where they changed these or names, `unedited_clusters` holds `clusters`; see docs/EDITS.md.",
    (
        Column("edit_id", pa.string(), "by which it is undone"),
        Column(
            "kind", pa.string(), "`rename`, `merge`, `split`, `move`, `together`, `apart`, `examples`, `hide` or `pin`"
        ),
        Column("summary", pa.string(), "what it does, in a few words"),
        Column("author", pa.string(), "who made it"),
        Column("at", pa.timestamp("ms", "UTC"), "when"),
        Column("reason", pa.string(), "why, where that was said", is_nullable=True),
        Column(
            "state",
            pa.string(),
            "`applied`, `waiting` (nothing that it names is here now) or `overruled` (by later edits)",
        ),
        Column("cluster_id", pa.int32(), "the cluster that it is about, null where there is none", is_nullable=True),
        Column("num_images", pa.int64(), "images that it names"),
        Column("num_missing", pa.int64(), "those of them that are not in this run"),
        Column("num_elsewhere", pa.int64(), "those of them that the clustering alone puts into another cluster"),
        Column("num_overruled", pa.int64(), "those of them that later edits put elsewhere"),
        Column("message", pa.string(), "what a person should know of it, empty where all is as it was meant"),
    ),
)

SPLITS = Table(
    "assign_clusters",
    "splits",
    "One row per part of each split that a person made: where its border lies, so that later nights divide as the "
    "first did, whatever became of the examples. Not there without splits.",
    (
        Column("edit_id", pa.string(), "of the split"),
        Column("part", pa.int32(), "number of the part, from 0"),
        Column("examples", pa.list_(pa.string()), "image_ids, as they stand in the edit"),
        Column(
            "embedding",
            pa.list_(pa.float32()),
            "unit norm: an image goes to the part whose row is nearest",
            has_width=True,
        ),
    ),
)

CLUSTER_SUMMARY = Table(
    "write_report",
    "cluster_summary",
    "One row per cluster that has images, the largest first: what `dxmc clusters` prints.",
    (
        Column("cluster_id", pa.int32(), "number of the cluster"),
        Column("name", pa.string(), "different for every cluster"),
        Column("name_source", pa.string(), _NAME_SOURCE),
        Column("size", pa.int64(), "its images"),
        Column("share", pa.float32(), "of all clustered images, 0 to 1"),
        Column("terms", pa.list_(pa.string()), "nouns that fit, best first"),
        Column(
            "parent",
            pa.int32(),
            "node_id in `assign_clusters/cluster_tree` of the branch above; null for a single cluster",
            is_nullable=True,
        ),
        Column("parent_name", pa.string(), "what that branch is called", is_nullable=True),
        Column("exemplars", pa.list_(pa.string()), "image_ids of at most 12 images nearest the centre, nearest first"),
    ),
)

QUALITY_ISSUES = Table(
    "write_report",
    "quality_issues",
    "One row for each image and each thing that people weed out: by issue, the worst first. Near duplicates are in "
    "`mine_neighbors/near_duplicates`, broken files in `embed_images/rejects`. Not there where nobody measured.",
    (
        ROW_ID,
        IMAGE_ID,
        Column("issue", pa.string(), "`dark`, `blurred`, `tiny` or `odd_shape`"),
        Column(
            "value",
            pa.float32(),
            "brightness below 0.12, sharpness below 12, shorter side below 100 pixels, or one side over the other of "
            "at least 3",
        ),
    ),
)

QUESTIONS = Table(
    "write_report",
    "questions",
    "One row for each yes/no question that the report and `dxmc review` ask, the most useful first.",
    (
        Column("rank", pa.int32(), "from 0"),
        Column(
            "kind",
            pa.string(),
            "`merge` (do both clusters show the same?), `split` (are these two things?), `move` (do these belong to "
            "the other cluster?) or `rename` (is the name good?)",
        ),
        Column("cluster_id", pa.int32(), "the cluster that it is about"),
        Column("other_id", pa.int32(), "of `merge` and `move`: the other cluster", is_nullable=True),
        Column("name", pa.string(), "of `rename`: what a yes calls the cluster", is_nullable=True),
        Column("probability", pa.float32(), "of a yes, estimated without labels; null for `rename`", is_nullable=True),
        Column("num_images", pa.int64(), "about how many images a yes would put right"),
        Column("rows", pa.list_(pa.int64()), "row_ids of the pictures that are shown"),
        Column("other_rows", pa.list_(pa.int64()), "row_ids of the pictures on the other side"),
        Column(
            "image_ids",
            pa.list_(pa.string()),
            "of `move` and `split`: what a yes moves, or puts into the first part; at most 100",
        ),
        Column("other_ids", pa.list_(pa.string()), "of `split`: what a yes puts into the other part; at most 100"),
    ),
)


#: Pairs of near duplicates, read within their stage only.
NEAR_DUPLICATE_PAIRS = "near_duplicate_pairs"

#: All of the above, in the order of a run. That of a further encoder stands for all of its kind.
TABLES = tuple(value for value in list(globals().values()) if isinstance(value, Table))

#: Where a table lies as the clustering alone gave it, in a run whose clusters people have changed by edits.
_UNEDITED = {
    ASSIGNMENTS: replace(ASSIGNMENTS, name="unedited"),
    CENTERS: replace(CENTERS, name="unedited_centers"),
    CLUSTERS: replace(CLUSTERS, name="unedited_clusters"),
}

#: The names of all tables but those of further encoders.
TABLE_NAMES = (
    *(table.name for table in TABLES if table is not _FURTHER_IMAGES),
    NEAR_DUPLICATE_PAIRS,
    *(table.name for table in _UNEDITED.values()),
)

#: Columns of `images` that are null where nobody measured: embeddings from a file, and those taken over from a run of
#: an earlier version. See `images.quality.Measures`.
MEASURES = {column.name: column.type for column in IMAGES.columns if column.is_optional}

INLIER_CLUSTER_ID = "inlier_cluster_id"


def unedited(table: Table) -> Table:
    """One of assignments, centers and clusters as the clustering alone gave it."""
    return _UNEDITED[table]


def as_clustered(table: Table, names: Container[str]) -> Table:
    """The one that a finished assign_clusters, of tables with these names, holds as the clustering alone gave it."""
    return unedited(table) if unedited(table).name in names else table


def images_of(name: str) -> Table:
    """The table of a further encoder: the same rows as that of the first, `images`."""
    return replace(_FURTHER_IMAGES, name=further_images_name(name))


def table_named(name: str) -> Table:
    """The table of a name, be it that of a further encoder."""
    declared = {table.name: table for table in (*TABLES, *_UNEDITED.values())}
    return declared.get(name) or images_of(name.removeprefix(further_images_name("")))


def with_measures(images: pa.Table) -> pa.Table:
    """Rows of `images` with all columns of `MEASURES`, null where there are none."""
    for name, type_ in MEASURES.items():
        if name not in images.column_names:
            images = images.append_column(name, pa.nulls(images.num_rows, type_))
    return images
