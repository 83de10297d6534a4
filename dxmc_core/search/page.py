"""The result of a search as one HTML page with thumbnails, which opens offline and runs no script."""

import base64
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np

from dxmc_core.artifacts.matrices import read_rows
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.tables import CLUSTERS
from dxmc_core.config import PipelineConfig
from dxmc_core.images.decode import decode_image, thumbnail
from dxmc_core.images.objects import fetch
from dxmc_core.images.sources import EmbeddingsSource
from dxmc_core.images.thumbnails import make_thumbnails
from dxmc_core.report.page import csp_hash, environment, style_sheet, writable_text
from dxmc_core.search.run_search import QueryKind, SearchResult

_STYLES = ("page.css", "search.css")
_THUMBNAIL_PX = 256
_EXEMPLARS_SHOWN = 6


def render_search(run_dir: RunDir, config: PipelineConfig, result: SearchResult) -> str:
    """The page as text for UTF-8: nearest clusters with what is at their centre, then nearest images.

    Raises:
        ArtifactError: the run is not finished.
    """
    stage = run_dir.stage("assign_clusters")
    shown = {hit.cluster_id for hit in result.clusters}
    clusters = stage.read_table(CLUSTERS, ["cluster_id", "exemplars"]).to_pylist()
    exemplars = {
        row["cluster_id"]: row["exemplars"][:_EXEMPLARS_SHOWN] for row in clusters if row["cluster_id"] in shown
    }
    rows = {row for rows in exemplars.values() for row in rows} | {hit.row_id for hit in result.images}
    if result.query.row_id is not None:
        rows.add(result.query.row_id)
    catalog = read_rows(run_dir.stage("embed_images"), "catalog", np.array(sorted(rows), dtype=np.int64))
    has_files = not isinstance(config.source, EmbeddingsSource)
    pictures = make_thumbnails(catalog, config.source, size=_THUMBNAIL_PX)
    style = style_sheet(_STYLES)
    html = (
        environment()
        .get_template("search.html")
        .render(
            result=result,
            exemplars=exemplars,
            image_ids=dict(zip(catalog["row_id"].to_pylist(), catalog["image_id"].to_pylist(), strict=True)),
            pictures={row: _data_uri(picture) for row, picture in pictures.items()},
            query_picture=_query_picture(result, pictures),
            item=("photograph", "photographs") if has_files else ("row", "rows"),
            num_images=run_dir.stage("embed_images").require_manifest().rows("images"),
            num_clusters=len(clusters),
            run_dir=run_dir.uri,
            created_at=datetime.now(UTC),
            style=style,
            style_hash=csp_hash(style),
        )
    )
    return writable_text(html)


def _query_picture(result: SearchResult, pictures: Mapping[int, bytes]) -> str | None:
    """What was searched for, where that is a picture."""
    query = result.query
    if query.kind is QueryKind.IMAGE:
        file = fetch(query.text)
        return _data_uri(thumbnail(decode_image(file), _THUMBNAIL_PX)) if isinstance(file, bytes) else None
    if query.row_id is None or query.row_id not in pictures:
        return None
    return _data_uri(pictures[query.row_id])


def _data_uri(picture: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(picture).decode("ascii")
