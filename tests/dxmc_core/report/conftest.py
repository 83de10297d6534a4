"""A small run as report data, with drawn pictures, and a real Chromium to open reports in."""

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from dxmc_core.report import (
    MapPoints,
    NounEvidence,
    ReportCluster,
    ReportData,
    ReportImage,
    rows_shown,
)

NAMES = ("cat", "coffee", "motorcycle", "rocket")
SIZE = 20


def draw_picture(row: int, *, size: tuple[int, int] = (64, 48)) -> bytes:
    """A WebP picture of its own for each row."""
    rng = np.random.default_rng(row)
    picture = Image.new("RGB", size, tuple(int(value) for value in rng.integers(0, 256, 3)))
    corner = [int(value) for value in rng.integers(0, 24, 2)]
    ImageDraw.Draw(picture).ellipse([*corner, corner[0] + 20, corner[1] + 20], fill="white")
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=80)
    return buffer.getvalue()


def make_run(*, num_clusters: int = 4, pictures: bool = True, **changes: Any) -> ReportData:
    """Clusters of twenty images each, named by `NAMES`, with a map; `changes` replace fields."""
    clusters = []
    for cluster_id in range(num_clusters):
        rows = range(cluster_id * SIZE, (cluster_id + 1) * SIZE)
        name = NAMES[cluster_id] if cluster_id < len(NAMES) else f"noun {cluster_id}"
        clusters.append(
            ReportCluster(
                cluster_id=cluster_id,
                size=SIZE + 5 * (num_clusters - cluster_id),
                name=name,
                names=(name, f"other {name}"),
                evidence=[NounEvidence(noun=name, synset_id="n00000001", share=0.71, margin=0.2)],
                doubtful_share=1 - (cluster_id * 7 % num_clusters) / num_clusters,
                exemplars=rows[:12],
                border=rows[12:18],
                nearest_clusters=[(cluster_id + 1) % num_clusters] if num_clusters > 1 else [],
            )
        )
    rng = np.random.default_rng(0)
    rows = np.arange(num_clusters * SIZE)
    corners = np.array([[0.2, 0.2], [0.8, 0.2], [0.2, 0.8], [0.8, 0.8]])
    xy = (corners[(rows // SIZE) % 4] + rng.normal(size=(len(rows), 2)) * 0.06).clip(0, 1).astype(np.float32)
    data = ReportData(
        title="trial run",
        created_at=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        num_images=sum(cluster.size for cluster in clusters),
        item=("photograph", "photographs"),
        clusters=clusters,
        map_points=MapPoints(row_ids=rows, xy=xy),
        images={
            int(row): ReportImage(
                image_id=f"{NAMES[row // SIZE] if row // SIZE < 4 else 'more'}/{row:05d}.jpg",
                uri=f"/photos/{row:05d}.jpg",
                cluster_id=int(row // SIZE),
                sureness=0.9,
                runner_up=int((row // SIZE + 1) % num_clusters),
                outlier_score=0.1,
            )
            for row in rows
        },
    )
    data = replace(data, **changes)
    if pictures:
        shown = set(rows_shown(data))
        images = {
            row: replace(image, thumbnail=draw_picture(row)) if row in shown else image
            for row, image in data.images.items()
        }
        data = replace(data, images=images)
    return data


@pytest.fixture(scope="session")
def make_report_data() -> Callable[..., ReportData]:
    return make_run


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    return draw_picture


@pytest.fixture
def open_page(chromium: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens HTML from a file; at the end fails on console errors, blocked content and requests to anywhere."""
    problems: list[str] = []
    contexts = []

    def open_html(html: str, *, fragment: str = "", **options: Any) -> Any:
        path = tmp_path / f"report-{len(contexts)}.html"
        path.write_text(html, encoding="utf-8")
        context = chromium.new_context(viewport={"width": 1280, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: (problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: _note_request(request.url, problems))
        page.goto(path.as_uri() + fragment)
        return page

    yield open_html
    for context in contexts:
        context.close()
    assert problems == []


def _note_request(url: str, problems: list[str]) -> None:
    if not url.startswith(("file:", "data:", "blob:")):
        problems.append(f"request to {url}")
