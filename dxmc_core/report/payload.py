"""What the page's script needs, as JSON that is safe inside an HTML document."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from dxmc_core.report.data import Question, ReportCluster, ReportData, ReportImage, rows_shown
from dxmc_core.report.thumbnails import Sprites, Tile

#: Map positions travel as integers of this range.
MAP_UNITS = 9999


def build_payload(
    data: ReportData, clusters: Sequence[ReportCluster], colors: Sequence[int], sprites: Sprites
) -> dict[str, Any]:
    """The script's data; clusters and images are named by their place in the lists `clusters` and `images`.

    Args:
        clusters: in the page's order, with a colour slot each in `colors`.
    """
    cluster_index = {cluster.cluster_id: index for index, cluster in enumerate(clusters)}
    rows = rows_shown(data)
    image_index = {row: index for index, row in enumerate(rows)}
    return {
        "item": list(data.item),
        "sheets": [[sheet.width, sheet.height] for sheet in sprites.sheets],
        "images": [_image(data.images[row], cluster_index, sprites.tiles.get(row)) for row in rows],
        "clusters": [_cluster(cluster, color, image_index) for cluster, color in zip(clusters, colors, strict=True)],
        "map": _map(data, image_index),
        "made": f"{data.title} {data.created_at.isoformat()}",
        "questions": [_question(question, cluster_index, image_index) for question in data.questions],
    }


def embed_json(value: Any) -> Markup:
    """JSON for a <script type="application/json"> element.

    With no `<`, `>` or `&` left in it, no text of a user can end the element or open a comment in it.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 (it is escaped as JSON)


def _cluster(cluster: ReportCluster, color: int, image_index: Mapping[int, int]) -> dict[str, Any]:
    words = [cluster.name, *cluster.names, *(evidence.noun for evidence in cluster.evidence), *cluster.label_counts]
    return {
        "id": cluster.cluster_id,
        "name": cluster.name,
        "words": list(dict.fromkeys(words)),
        "size": cluster.size,
        "doubtful": _number(cluster.doubtful_share),
        "color": color,
        "exemplars": [image_index[row] for row in cluster.exemplars],
        "border": [image_index[row] for row in cluster.border],
        "duplicates": [[image_index[row] for row in group] for group in cluster.near_duplicates],
    }


def _image(image: ReportImage, cluster_index: Mapping[int, int], tile: Tile | None) -> list[Any]:
    """[image_id, uri, cluster, sureness, runner_up, outlier_score, label, [sheet, x, y, width, height] or null]."""
    return [
        image.image_id,
        image.uri,
        None if image.cluster_id is None else cluster_index[image.cluster_id],
        _number(image.sureness),
        None if image.runner_up is None else cluster_index.get(image.runner_up),
        _number(image.outlier_score),
        image.label,
        None if tile is None else [tile.sheet, tile.x, tile.y, tile.width, tile.height],
    ]


def _question(question: Question, cluster_index: Mapping[int, int], image_index: Mapping[int, int]) -> list[Any]:
    """[kind, cluster, other or null, pictures, other pictures, ids, other ids, name, images, probability]."""
    return [
        question.kind,
        cluster_index[question.cluster_id],
        None if question.other_id is None else cluster_index[question.other_id],
        [image_index[row] for row in question.rows],
        [image_index[row] for row in question.other_rows],
        list(question.image_ids),
        list(question.other_ids),
        question.name,
        question.num_images,
        _number(question.probability),
    ]


def _map(data: ReportData, image_index: Mapping[int, int]) -> dict[str, list[int]] | None:
    points = data.map_points
    if points is None or len(points.row_ids) == 0:
        return None
    units = (points.xy.clip(0, 1) * MAP_UNITS).round().astype(int)
    return {
        "images": [image_index[int(row)] for row in points.row_ids],
        "x": units[:, 0].tolist(),
        "y": (MAP_UNITS - units[:, 1]).tolist(),
    }


def _number(value: float | None) -> float | None:
    return round(value, 4) if value is not None and math.isfinite(value) else None
