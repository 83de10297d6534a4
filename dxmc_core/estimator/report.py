"""The report of rows in memory: what `write_report` reads from artifacts, from arrays."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from dxmc_core.errors import DxmcError
from dxmc_core.extras import needed_for
from dxmc_core.images.decode import ImageRejectedError, decode_image, thumbnail
from dxmc_core.method.clusters.cluster_sample import ClusterSample, Decisions, cluster_rows, outlier_scores
from dxmc_core.method.clusters.metrics import external_scores, label_free_scores
from dxmc_core.method.nouns.naming import ClusterName, unnamed
from dxmc_core.report import (
    MapPoints,
    ReportData,
    Score,
    count_labels,
    doubtful_shares,
    flatten_settings,
    gallery_positions,
    project_2d,
    render_report,
    report_cluster,
    report_images,
    rows_shown,
    sample_for_map,
    sureness_of,
    training_curves,
)
from dxmc_core.report.page import PAGE_MARK

__all__ = ["PAGE_MARK", "render"]

if TYPE_CHECKING:
    from dxmc_core.estimator.dxmc import DXMC

_NUM_IN_GALLERY = 24
_THUMBNAIL_SIZE = 256
_SHOWN_PACKAGES = ("dxmc", "torch", "scikit-learn")


def render(
    model: "DXMC",
    rows: np.ndarray,
    found: Decisions,
    *,
    images: Sequence[Any] | None,
    labels: Sequence[str | None] | None,
    title: str,
) -> str:
    """The page as HTML; see `DXMC.to_report`.

    Args:
        rows: (n, D) float16 unit rows; found: what was decided of them.
    """
    for name, given in (("images", images), ("labels", labels)):
        if given is not None and len(given) != len(rows):
            raise ValueError(f"expected {name} of length {len(rows)} like X, found {len(given)}")
    sample = ClusterSample.of(np.arange(len(rows)), rows, found, num_clusters=model.n_clusters_)
    runner_ups = found.runner_up
    distances = 1 - np.einsum("nd,nd->n", sample.embeddings, sample.centers[sample.labels])
    scores = outlier_scores(distances, sample.mean_distances[sample.labels])
    sizes = np.bincount(sample.labels, minlength=model.n_clusters_)
    texts = None if labels is None else [None if label is None else str(label) for label in labels]
    counts = {} if texts is None else count_labels(sample.labels, texts)
    sureness = sureness_of(sample.confidences)
    doubtful = doubtful_shares(sample.labels, sureness)
    clusters = cluster_rows(sample, sizes, _names(model), num_exemplars=_NUM_IN_GALLERY, num_border=_NUM_IN_GALLERY)
    data = ReportData(
        title=title,
        created_at=datetime.now(UTC),
        num_images=len(rows),
        item=("row", "rows") if images is None else ("photograph", "photographs"),
        clusters=[
            report_cluster(
                row, label_counts=counts.get(row["cluster_id"], {}), doubtful_share=doubtful.get(row["cluster_id"])
            )
            for row in clusters
        ],
        method=model.method,
        scores=_scores(sample, texts, num_clusters=model.n_clusters_),
        map_points=_map_points(sample),
        low_confidence=gallery_positions(sample.confidences, count=_NUM_IN_GALLERY, largest=False).tolist(),
        outliers=gallery_positions(scores, count=_NUM_IN_GALLERY, largest=True).tolist(),
        curves=training_curves([asdict(report) for report in model.reports_]),
        settings=flatten_settings(model.get_params(deep=False)),
        versions={package: version(package) for package in _SHOWN_PACKAGES},
    )
    shown = np.sort(np.array(rows_shown(data), dtype=np.int64))
    pictures = {} if images is None else _thumbnails(shown, images)
    known = report_images(
        shown,
        [_name_of(row, images) for row in shown],
        cluster_ids=sample.labels[shown],
        sureness=sureness[shown],
        runner_ups=np.where(sizes[runner_ups[shown]] > 0, runner_ups[shown], -1),
        outlier_scores=scores[shown],
        labels=None if texts is None else [texts[row] for row in shown],
        thumbnails=pictures,
    )
    return render_report(replace(data, images=known))


def _names(model: "DXMC") -> list[ClusterName]:
    """The names that were given in `fit`, with their evidence."""
    names = unnamed(model.n_clusters_)
    for row in model.clusters_:
        evidence = [
            (found["noun"], found["synset_id"], found["share"], found["margin"]) for found in row["name_evidence"]
        ]
        names[row["cluster_id"]] = ClusterName(row["name"], row["names"], evidence, row["name_source"])
    return names


def _scores(sample: ClusterSample, labels: list[str | None] | None, *, num_clusters: int) -> list[Score]:
    found = [
        Score(name=name, value=value, kind="label_free")
        for name, value in label_free_scores(sample.embeddings, sample.labels, num_clusters=num_clusters).items()
    ]
    known = [] if labels is None else [row for row, label in enumerate(labels) if label is not None]
    if labels is None or not known:
        return found
    scores = external_scores([str(labels[row]) for row in known], sample.labels[known])
    return [Score(name=name.upper(), value=value, kind="external") for name, value in scores.items()] + found


def _map_points(sample: ClusterSample) -> MapPoints:
    chosen = sample_for_map(sample.labels)
    projection = project_2d(sample.embeddings[chosen])
    return MapPoints(row_ids=chosen[projection.positions], xy=projection.xy, projection=projection.method)


def _name_of(row: int, images: Sequence[Any] | None) -> str:
    if images is None or not isinstance(images[row], str | Path):
        return f"row {row}"
    return str(images[row])


def _thumbnails(rows: np.ndarray, images: Sequence[Any]) -> dict[int, bytes]:
    """WebP pictures by row; none where the picture cannot be read or decoded."""
    found = {}
    for row in rows.tolist():
        try:
            image = _picture(images[row])
        except (ImageRejectedError, DxmcError, OSError):
            continue
        if image is not None:
            found[row] = thumbnail(image, _THUMBNAIL_SIZE)
    return found


def _picture(image: Any) -> Image.Image | None:
    if image is None or isinstance(image, Image.Image):
        return image
    if not isinstance(image, str | Path):
        raise ValueError(f"expected images as paths, URIs or Pillow images, found {type(image).__name__}")
    if "://" not in str(image):
        return decode_image(Path(image).expanduser().read_bytes())
    with needed_for(f"reading {image}", extra="pipeline"):
        from dxmc_core.artifacts.storage import read_user_file
    return decode_image(read_user_file(str(image)))
