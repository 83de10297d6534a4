"""The pages of members beside the report: which images they show, and the mapper that writes them."""

from typing import Any

import numpy as np
import pyarrow as pa

from dxmc_core.artifacts.matrices import read_rows
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.tables import ASSIGNMENTS, CATALOG, CLUSTERS
from dxmc_core.artifacts.user_tables import take_rows
from dxmc_core.images.sources import ImageSource
from dxmc_core.images.thumbnails import make_thumbnails
from dxmc_core.report import (
    EDGE_PX,
    PAGE_IMAGES,
    MembersPage,
    choose_members,
    page_name,
    render_members,
    report_images,
    sureness_of,
)

_ITEM = ("photograph", "photographs")


def members_folder(fingerprint: str) -> str:
    """Where pages lie in the stage's folder: in a folder of this attempt, so that a rerun goes on with them."""
    return f"members/{fingerprint[:12]}"


def plan_members(run_dir: RunDir, max_images: int) -> tuple[list[dict[str, Any]], pa.Table]:
    """What `WriteMembers` is to do: one row per page, and the table of all members that are shown.

    Returns:
        rows of cluster_id, name, size, num_shown, page, num_pages, and start and stop among the rows of the table.
    """
    stage = run_dir.stage("assign_clusters")
    columns = ["row_id", "cluster_id", "confidence", "runner_up", "outlier_score"]
    assigned = stage.read_table(ASSIGNMENTS, columns)
    clusters = stage.read_table(CLUSTERS, ["cluster_id", "name", "size"]).to_pylist()
    cluster_of = {row["cluster_id"]: row for row in clusters}
    chosen = choose_members(
        assigned["cluster_id"].to_numpy(), assigned["outlier_score"].to_numpy(), max_images=max_images
    )
    if not chosen:
        return [], pa.table({})
    positions = np.concatenate(list(chosen.values()))
    row_ids = assigned["row_id"].to_numpy()[positions]
    runner_ups = [cluster_of.get(cluster_id) for cluster_id in assigned["runner_up"].to_numpy()[positions].tolist()]
    catalog = read_rows(run_dir.stage("embed_images"), "catalog", row_ids, CATALOG.schema().names)
    members = take_rows(catalog, np.searchsorted(catalog["row_id"].to_numpy(), row_ids))
    members = members.append_column("sureness", [sureness_of(assigned["confidence"].to_numpy())[positions]])
    members = members.append_column("runner_up", [["" if row is None else row["name"] for row in runner_ups]])
    pages, start = [], 0
    for cluster_id, shown in chosen.items():
        stop = start + len(shown)
        firsts = range(start, stop, PAGE_IMAGES)
        pages += [
            {
                **cluster_of[cluster_id],
                "num_shown": len(shown),
                "page": page,
                "num_pages": len(firsts),
                "start": first,
                "stop": min(first + PAGE_IMAGES, stop),
            }
            for page, first in enumerate(firsts, start=1)
        ]
        start = stop
    return pages, members


class WriteMembers:
    """Pages of members, as `plan_members` has planned them, to files; those that an earlier attempt wrote are kept.

    The result has the columns name, rows, bytes and sha256 of the file, and num_images.
    """

    def __init__(
        self, output: StageDir, members: pa.Table, source: ImageSource, *, fingerprint: str, title: str
    ) -> None:
        self._output = output
        self._members = members
        self._source = source
        self._folder = members_folder(fingerprint)
        self._title = title

    def __call__(self, pages: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._write(page) for page in pages.to_pylist()])

    def _write(self, page: dict[str, Any]) -> dict[str, Any]:
        name = f"{self._folder}/{page_name(page['cluster_id'], page['page'])}"
        if not self._output.storage.exists(name):
            self._output.storage.write_bytes(name, self._render(page).encode())
        return {**self._output.describe_file(name).model_dump(), "num_images": page["stop"] - page["start"]}

    def _render(self, page: dict[str, Any]) -> str:
        rows = self._members.slice(page["start"], page["stop"] - page["start"])
        row_ids = rows["row_id"].to_numpy()
        images = report_images(
            row_ids,
            rows["image_id"].to_pylist(),
            uris=rows["uri"].to_pylist() if self._source.has_own_uris else None,
            sureness=rows["sureness"].to_numpy(),
            thumbnails=make_thumbnails(rows, self._source, size=EDGE_PX),
        )
        return render_members(
            MembersPage(
                title=self._title,
                item=_ITEM,
                images=[images[row] for row in row_ids.tolist()],
                runner_ups=rows["runner_up"].to_pylist(),
                **{key: page[key] for key in ("cluster_id", "name", "size", "num_shown", "page", "num_pages")},
            )
        )
