"""One Parquet file that Embedding Atlas opens: a place in the plane for each image, its cluster, and a thumbnail.

embedding-atlas DIR/images.parquet --x x --y y --text cluster --image thumbnail
"""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dxmc_core.artifacts.matrices import RowFinder, matrix_of
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.tables import ASSIGNMENTS
from dxmc_core.config import PipelineConfig
from dxmc_core.evaluation.scores import cluster_names
from dxmc_core.export.images import KNOWN_OF_EACH, Export, assigned_rows
from dxmc_core.images.sources import EmbeddingsSource
from dxmc_core.images.thumbnails import make_thumbnails
from dxmc_core.method.unit_rows import unit_rows
from dxmc_core.report import project_2d, sample_for_map

FILE_NAME = "images.parquet"
#: Laying out so many takes a minute; of more images a sample is written in which every cluster has a part.
MAX_IMAGES = 20_000
_THUMBNAIL_PX = 128
_IMAGES_AT_A_TIME = 256


def write(export: Export, run_dir: RunDir, config: PipelineConfig) -> None:
    """Write the file; images whose files have gone stay without a thumbnail, as do those that came as embeddings.

    Raises:
        ArtifactError: the run is not finished.
    """
    table = run_dir.read_table(ASSIGNMENTS, ["row_id", "cluster_id"])
    chosen = table["row_id"].to_numpy()[sample_for_map(table["cluster_id"].to_numpy(), max_points=MAX_IMAGES)]
    rows = _rows(run_dir, chosen)
    images = RowFinder.open(run_dir.stage("embed_images"), "images")
    embeddings = matrix_of(images.read(rows["row_id"].to_numpy(), ["row_id", "embedding"])["embedding"])
    plane = project_2d(unit_rows(embeddings, name="embeddings"), max_points=MAX_IMAGES, seed=config.seed)
    names = cluster_names(run_dir)
    columns = {
        "image_id": rows["image_id"],
        "x": plane.xy[:, 0],
        "y": plane.xy[:, 1],
        "cluster": [names[cluster] for cluster in rows["cluster_id"].to_pylist()],
        "label": rows["label"],
        **{name: rows[name] for name in KNOWN_OF_EACH},
        "row_id": rows["row_id"],
        "thumbnail": pa.array(_thumbnails(export, rows, config), pa.binary()),
    }
    pq.write_table(pa.table(columns), export.folder / FILE_NAME)
    export.num_written = rows.num_rows


def _rows(run_dir: RunDir, row_ids: np.ndarray) -> pa.Table:
    """What is known of some images, by ascending row id."""
    kept = [rows.filter(pa.array(np.isin(rows["row_id"].to_numpy(), row_ids))) for rows in assigned_rows(run_dir)]
    return pa.concat_tables(kept).sort_by("row_id")


def _thumbnails(export: Export, rows: pa.Table, config: PipelineConfig) -> list[bytes | None]:
    found: dict[int, bytes] = {}
    for start in range(0, rows.num_rows, _IMAGES_AT_A_TIME):
        some = rows.slice(start, _IMAGES_AT_A_TIME)
        if not isinstance(config.source, EmbeddingsSource):
            found |= make_thumbnails(some, config.source, size=_THUMBNAIL_PX)
        export.on_images(some.num_rows)
    return [found.get(row) for row in rows["row_id"].to_pylist()]
