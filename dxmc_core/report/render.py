"""Renders a run as one HTML file that opens offline: styles, script, data and pictures are inside it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dxmc_core.report import charts
from dxmc_core.report.data import (
    ReportCluster,
    ReportData,
    by_size,
    check_report_data,
    map_rows,
    picture_groups,
    rows_shown,
)
from dxmc_core.report.k_page import k_section
from dxmc_core.report.label_table import tabulate_labels, top_labels
from dxmc_core.report.page import csp_hash, environment, joined_templates, style_sheet, writable_text
from dxmc_core.report.palette import deal_colors
from dxmc_core.report.payload import build_payload, embed_json
from dxmc_core.report.thumbnails import DEFAULT_MAX_BYTES, SpriteGroup, Sprites, pack_sprites
from dxmc_core.report.tree import walk_tree

#: A point of the map shows a small picture; a card's pictures can be opened large.
MAP_EDGE_PX = 96
_MAP_SHEET_TILES = 64
#: Nouns of evidence that a card has room for.
NUM_EVIDENCE = 3

_STYLES = ("page.css", "map.css", "cards.css", "editing.css", "print.css")
_SCRIPTS = ("elements.js", "page.js", "pictures.js", "viewer.js", "cards.js", "map.js", "start.js")
#: What an editable page has besides.
_EDITING_SCRIPTS = ("edits.js", "editing.js", "questions.js", "start_editing.js")


@dataclass(frozen=True)
class Card:
    """A cluster with what its card says besides the cluster's own figures."""

    cluster: ReportCluster
    index: int
    color: int
    share: float
    other_names: Sequence[str]
    labels: Sequence[tuple[str, float]]
    nearest: Sequence[ReportCluster]
    layout: int
    has_pictures: bool


def render_report(data: ReportData, *, max_bytes: int = DEFAULT_MAX_BYTES) -> str:
    """One self-contained HTML document, for writing as UTF-8.

    Args:
        max_bytes: room for all pictures as text; they are made smaller until they fit.

    Raises:
        ValueError: the data refer to a row or cluster they do not contain, or a thumbnail is not a picture.
    """
    check_report_data(data)
    clusters = by_size(data.clusters)
    colors = deal_colors(_map_centers(data, clusters), len(clusters))
    sprites = _pack(data, max_bytes)
    style = style_sheet(_STYLES)
    script = joined_templates((*_SCRIPTS, *_EDITING_SCRIPTS) if data.is_editable else _SCRIPTS)
    html = (
        environment()
        .get_template("report.html")
        .render(
            data=data,
            **_summary(data, clusters),
            cards=_cards(data, clusters, colors, sprites),
            color_of={cluster.cluster_id: color for cluster, color in zip(clusters, colors, strict=True)},
            cluster_of={cluster.cluster_id: cluster for cluster in clusters},
            num_evidence=NUM_EVIDENCE,
            ribbon=charts.size_ribbon(clusters),
            profile=charts.size_profile([cluster.size for cluster in clusters]),
            charts=charts.lay_out_all(data.curves),
            **k_section(data.k_evidence),
            chart_box=charts,
            tree_steps=[] if data.tree is None else list(walk_tree(data.tree)),
            label_table=tabulate_labels(clusters),
            sprites=sprites,
            payload=embed_json(build_payload(data, clusters, colors, sprites)),
            style=style,
            script=script,
            style_hash=csp_hash(style),
            script_hash=csp_hash(script),
        )
    )
    return writable_text(html)


def _summary(data: ReportData, clusters: Sequence[ReportCluster]) -> dict[str, object]:
    """Figures of the header and what decides whether sections are there."""
    sizes = [cluster.size for cluster in clusters]
    return {
        "size_range": f"{min(sizes):,} to {max(sizes):,} in each" if len(sizes) > 1 else "",
        "run_seconds": sum(timing.seconds for timing in data.timings),
        "num_on_map": len(map_rows(data)),
        "image_index": {row: index for index, row in enumerate(rows_shown(data))},
        "external_scores": [score for score in data.scores if score.kind == "external"],
        "label_free_scores": [score for score in data.scores if score.kind == "label_free"],
        "has_run_details": any((data.scores, data.curves, data.timings, data.settings, data.versions)),
    }


def _pack(data: ReportData, max_bytes: int) -> Sprites:
    thumbnails = {row: image.thumbnail for row in rows_shown(data) if (image := data.images[row]).thumbnail is not None}
    groups, packed = [], set[int]()
    for index, rows in enumerate(picture_groups(data)):
        fresh = [row for row in dict.fromkeys(rows) if row not in packed]
        packed.update(fresh)
        groups.append(SpriteGroup(fresh, doubles_first=index < len(data.clusters)))
    only_on_map = _along_the_map(data, [row for row in dict.fromkeys(map_rows(data)) if row not in packed])
    groups.append(SpriteGroup(only_on_map, max_edge_px=MAP_EDGE_PX, max_per_sheet=_MAP_SHEET_TILES))
    return pack_sprites(groups, thumbnails, max_bytes=max_bytes)


def _along_the_map(data: ReportData, rows: list[int]) -> list[int]:
    """Rows so ordered that those of one cluster share sheets."""
    return sorted(rows, key=lambda row: -1 if (cluster := data.images[row].cluster_id) is None else cluster)


def _cards(data: ReportData, clusters: Sequence[ReportCluster], colors: Sequence[int], sprites: Sprites) -> list[Card]:
    cluster_of = {cluster.cluster_id: cluster for cluster in clusters}
    total = sum(cluster.size for cluster in clusters) or 1
    return [
        Card(
            cluster=cluster,
            index=index,
            color=colors[index],
            share=cluster.size / total,
            other_names=_other_names(cluster),
            labels=top_labels(cluster.label_counts),
            nearest=[cluster_of[near] for near in cluster.nearest_clusters],
            layout=_mosaic_layout(len(cluster.exemplars)),
            has_pictures=any(row in sprites.tiles for row in (*cluster.exemplars, *cluster.border)),
        )
        for index, cluster in enumerate(clusters)
    ]


def _other_names(cluster: ReportCluster) -> list[str]:
    """Further names that the card does not show anyway, as its name or as evidence."""
    shown = {cluster.name, *(evidence.noun for evidence in cluster.evidence[:NUM_EVIDENCE])}
    return [name for name in dict.fromkeys(cluster.names) if name not in shown][:4]


def _mosaic_layout(num_exemplars: int) -> int:
    """How many pictures a card's mosaic shows: the largest count that fills a rectangle."""
    return next((count for count in (12, 9, 5, 4, 3, 2) if count <= num_exemplars), 1)


def _map_centers(data: ReportData, clusters: Sequence[ReportCluster]) -> np.ndarray | None:
    """(K, 2) median place of each cluster's points, NaN for a cluster without a point."""
    points = data.map_points
    if points is None:
        return None
    members: dict[int | None, list[int]] = {}
    for position, row in enumerate(points.row_ids):
        members.setdefault(data.images[int(row)].cluster_id, []).append(position)
    centers = np.full((len(clusters), 2), np.nan)
    for index, cluster in enumerate(clusters):
        if cluster.cluster_id in members:
            centers[index] = np.median(points.xy[members[cluster.cluster_id]], axis=0)
    return centers
