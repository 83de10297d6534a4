"""What the HTML report shows, as plain frozen data: `write_report` fills it from artifacts, `render` makes the page.

Images are named by row_id everywhere; what is known of each of them is told once, in `ReportData.images`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import numpy as np
from PIL import Image

#: An encoded picture (WebP, JPEG or PNG bytes) or a decoded one.
Thumbnail = bytes | Image.Image


@dataclass(frozen=True, kw_only=True)
class ReportImage:
    """One image that the report may show.

    Attributes:
        image_id: the key users know it by; any text, shown escaped.
        uri: where it lies; the page links to it only where a browser could open it (a local path, file: or http(s):).
        sureness: share (0..1) of the run's images that the method was less sure of; see `assemble.sureness_of`.
        runner_up: the cluster it would have gone to instead.
        label: its true class, where labels are known.
        thumbnail: None where there is no picture (embeddings without files).
    """

    image_id: str
    uri: str = ""
    cluster_id: int | None = None
    sureness: float | None = None
    runner_up: int | None = None
    outlier_score: float | None = None
    label: str | None = None
    thumbnail: Thumbnail | None = None


@dataclass(frozen=True, kw_only=True)
class NounEvidence:
    """A noun that speaks for a cluster's name: the share (0..1) of members it fits, its lead over the next cluster."""

    noun: str
    synset_id: str | None = None
    share: float
    margin: float | None = None


@dataclass(frozen=True, kw_only=True)
class ReportCluster:
    """One cluster card.

    Attributes:
        names: further names after `name`, best first (a repeated `name` is not shown twice).
        name_source: "noun", "hypernym", "unnamed", "caption" or "person".
        doubtful_share: part (0..1) of the members that are among the least sure tenth of the run.
        exemplars: row_ids nearest the centre, the nearest first.
        border: row_ids that nearly went elsewhere.
        nearest_clusters: cluster_ids, nearest first.
        near_duplicates: groups of row_ids that show nearly the same picture, the largest first; `num_near_duplicates`
            is how many groups there are, with those that are not shown.
        label_counts: members of each true class; empty without labels.
    """

    cluster_id: int
    size: int
    name: str
    names: Sequence[str] = ()
    name_source: str = "noun"
    evidence: Sequence[NounEvidence] = ()
    doubtful_share: float | None = None
    exemplars: Sequence[int] = ()
    border: Sequence[int] = ()
    nearest_clusters: Sequence[int] = ()
    near_duplicates: Sequence[Sequence[int]] = ()
    num_near_duplicates: int = 0
    label_counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MapPoints:
    """A sample of the images laid out in the plane.

    Attributes:
        row_ids: (P,) int64.
        xy: (P, 2) float32 in 0..1, x to the right and y upwards.
        projection: the method's name as the caption gives it ("t-SNE").
    """

    row_ids: np.ndarray
    xy: np.ndarray
    projection: str = "t-SNE"


@dataclass(frozen=True, kw_only=True)
class Reject:
    """One file that is in no cluster, and why."""

    image_id: str
    reason: str
    message: str = ""
    uri: str = ""


@dataclass(frozen=True, kw_only=True)
class Rejects:
    """How many files were set aside for each reason, with some of them as examples."""

    counts: Mapping[str, int] = field(default_factory=dict)
    examples: Sequence[Reject] = ()

    @property
    def total(self) -> int:
        return sum(self.counts.values())


@dataclass(frozen=True)
class QualityList:
    """Images with something in common that people weed out: how many there are, and rows of some, the worst first."""

    title: str
    meaning: str
    num_images: int
    rows: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Score:
    """A figure that judges the clustering: against labels ("external") or from the embeddings alone ("label_free")."""

    name: str
    value: float
    kind: Literal["external", "label_free"]
    meaning: str = ""


@dataclass(frozen=True, kw_only=True)
class StageTiming:
    """How long a stage took, and over how many rows."""

    stage: str
    seconds: float
    rows: int | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a chart; a value that is not finite leaves a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One chart: lines over a common x axis.

    Attributes:
        note: what it says to a reader, in a sentence.
        log_x: the x axis doubles at even distances; all x are positive then.
        marks: x that stand out.
    """

    title: str
    series: Sequence[Series]
    x_label: str = "epoch"
    y_label: str = ""
    note: str = ""
    log_x: bool = False
    marks: Sequence[float] = ()


@dataclass(frozen=True, kw_only=True)
class TreeNode:
    """A node of the cluster tree; a leaf names its cluster."""

    name: str
    size: int
    cluster_id: int | None = None
    children: Sequence["TreeNode"] = ()


@dataclass(frozen=True, kw_only=True)
class SuggestedK:
    """A number of clusters, its overall score in 0..1, and why it is worth trying."""

    num_clusters: int
    overall: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class KEvidence:
    """How the number of clusters was chosen: suggestions, the best first, and the scores over K."""

    suggestions: Sequence[SuggestedK]
    curves: Sequence[Curve]


@dataclass(frozen=True, kw_only=True)
class PastCluster:
    """A cluster of the run before that has no successor."""

    name: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Move:
    """Images that left one cluster for another; names, because the origin may be gone."""

    origin: str
    destination: str
    num_images: int
    destination_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What a recluster changed against the run before; `born` are cluster_ids of this run."""

    previous_run: str
    num_new: int = 0
    num_removed: int = 0
    num_moved: int = 0
    born: Sequence[int] = ()
    died: Sequence[PastCluster] = ()
    moves: Sequence[Move] = ()


@dataclass(frozen=True, kw_only=True)
class Question:
    """A yes/no question to a person, with pictures; see `method.proposals`.

    Attributes:
        kind: "merge": do both clusters show the same? "split": are the two groups different things? "move": does the
            first group, now in `cluster_id`, belong to `other_id`? "rename": is `name` a good name?
        rows, other_rows: row_ids of the pictures on either side, the most typical first.
        image_ids: what a yes moves, or puts into the one part of two.
        other_ids: what a yes puts into the other part ("split" only).
        num_images: about how many images a yes would put right; 0 where it puts a name right.
        probability: of a yes. The page asks first what is worth most by both, and later of a kind that it was wrong of.
    """

    kind: Literal["merge", "split", "move", "rename"]
    cluster_id: int
    other_id: int | None = None
    rows: Sequence[int] = ()
    other_rows: Sequence[int] = ()
    image_ids: Sequence[str] = ()
    other_ids: Sequence[str] = ()
    name: str = ""
    num_images: int = 0
    probability: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything on the page. What is empty or None leaves its section out.

    Attributes:
        title: of the run, in a few words.
        item: what one row is called, singular and plural ("photograph", "photographs").
        source: where the images came from.
        num_images: clustered ones, without rejects.
        method, encoder: names; `encoder_note` is a plain sentence a reader must know before trusting the result.
        members_folder: where the pages of members lie, relative to the page; "" where there are none.
        clusters: in any order; the page shows the largest first.
        images: by row_id, at least every row that `rows_shown` names.
        low_confidence, outliers: row_ids, the most doubtful first.
        is_editable: whether the page offers to correct it, as it does for a run that listens to edits.
        questions: what to ask a person first, the most useful first; shown where the page is editable.
        settings: the configuration, flat ("method.name" -> "dxmc"); versions: package -> version.
    """

    title: str
    created_at: datetime
    num_images: int
    clusters: Sequence[ReportCluster]
    item: tuple[str, str] = ("image", "images")
    source: str = ""
    method: str = ""
    encoder: str = ""
    encoder_note: str = ""
    members_folder: str = ""
    images: Mapping[int, ReportImage] = field(default_factory=dict)
    rejects: Rejects = field(default_factory=Rejects)
    scores: Sequence[Score] = ()
    map_points: MapPoints | None = None
    low_confidence: Sequence[int] = ()
    outliers: Sequence[int] = ()
    quality_lists: Sequence[QualityList] = ()
    curves: Sequence[Curve] = ()
    k_evidence: KEvidence | None = None
    tree: TreeNode | None = None
    changes: Changes | None = None
    is_editable: bool = False
    questions: Sequence[Question] = ()
    timings: Sequence[StageTiming] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def rows_shown(data: ReportData) -> list[int]:
    """Row ids of every image the report would show, without repeats, the most important first.

    Made for filling `images` and making thumbnails: build the data without images, ask for the rows, add them.
    """
    groups = picture_groups(data)
    return list(dict.fromkeys(int(row) for rows in (*groups, map_rows(data)) for row in rows))


def picture_groups(data: ReportData) -> list[list[int]]:
    """Row ids of the pictures outside the map, in groups that are on screen together: first the clusters, by size."""
    ordered = by_size(data.clusters)
    near_duplicates = [row for cluster in ordered for group in cluster.near_duplicates for row in group]
    cards = [[*cluster.exemplars, *cluster.border] for cluster in ordered]
    lists = [list(found.rows) for found in data.quality_lists]
    asked = [[*question.rows, *question.other_rows] for question in data.questions]
    return [*cards, list(data.low_confidence), list(data.outliers), *lists, *asked, near_duplicates]


def map_rows(data: ReportData) -> list[int]:
    """Rows of the map's points."""
    return [] if data.map_points is None else [int(row) for row in data.map_points.row_ids]


def by_size(clusters: Sequence[ReportCluster]) -> list[ReportCluster]:
    """The page's order: the largest first, equal ones by id."""
    return sorted(clusters, key=lambda cluster: (-cluster.size, cluster.cluster_id))


def check_report_data(data: ReportData) -> None:
    """Every row and cluster the report refers to must be there.

    Raises:
        ValueError: what refers to which missing row or cluster.
    """
    cluster_ids = {cluster.cluster_id for cluster in data.clusters}
    if len(cluster_ids) != len(data.clusters):
        found = f"{len(data.clusters)} for {len(cluster_ids)} ids"
        raise ValueError(f"expected one ReportCluster a cluster_id, found {found}")
    missing = next((row for row in rows_shown(data) if row not in data.images), None)
    if missing is not None:
        raise ValueError(f"the report shows row {missing}, not found in ReportData.images; add every row of rows_shown")
    named = [near for cluster in data.clusters for near in cluster.nearest_clusters]
    named += [image.cluster_id for image in data.images.values() if image.cluster_id is not None]
    named += [question.cluster_id for question in data.questions]
    named += [question.other_id for question in data.questions if question.other_id is not None]
    named += [] if data.changes is None else list(data.changes.born)
    unknown = next((cluster_id for cluster_id in named if cluster_id not in cluster_ids), None)
    if unknown is not None:
        raise ValueError(f"the report refers to cluster {unknown}, which is not in ReportData.clusters")
    if data.map_points is not None:
        _check_map_points(data.map_points)


def _check_map_points(points: MapPoints) -> None:
    expected = (len(points.row_ids), 2)
    if points.xy.shape != expected or not np.isfinite(points.xy).all():
        raise ValueError(f"expected finite map positions of shape {expected}, found {points.xy.shape}")
