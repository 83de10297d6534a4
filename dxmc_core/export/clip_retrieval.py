"""The layout that clip-retrieval serves: image.index, metadata/*.parquet and img_emb/*.npy, all in one order of rows.

clip-retrieval takes the id of a row in its index for its place in the metadata, files by name one after the other. So
the run's index is written with places for row ids.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dxmc_core.artifacts.index_file import IMAGE_INDEX_NAME, open_index, write_by_place
from dxmc_core.artifacts.matrices import RowFinder, matrix_of
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.storage import is_http, is_local
from dxmc_core.errors import InputError
from dxmc_core.evaluation.scores import cluster_names
from dxmc_core.export.images import KNOWN_OF_EACH, Export, assigned_rows

#: Columns of the catalog that say where an image lies, for which clip-retrieval has names of its own.
_PLACE = ("uri", "size", "etag", "offset", "problem")


def write(export: Export, run_dir: RunDir, *, has_files: bool) -> None:
    """Write the three; no image file is read. `caption` is the name of the cluster, and further columns follow.

    Args:
        has_files: the images did not come as embeddings.

    Raises:
        InputError: the run has no index.
        ArtifactError: its index is damaged, or not of these images.
    """
    (export.folder / "metadata").mkdir()
    (export.folder / "img_emb").mkdir()
    images = RowFinder.open(run_dir.stage("embed_images"), "images")
    names = cluster_names(run_dir)
    order = []
    for number, rows in enumerate(assigned_rows(run_dir)):
        row_ids = rows["row_id"].to_numpy()
        found = images.read(row_ids, ["row_id", "embedding"])
        embeddings = matrix_of(found["embedding"])[np.searchsorted(found["row_id"].to_numpy(), row_ids)]
        np.save(export.folder / f"img_emb/img_emb_{number:06}.npy", embeddings)
        pq.write_table(
            _metadata(rows, names, has_files=has_files), export.folder / f"metadata/metadata_{number:06}.parquet"
        )
        order.append(row_ids)
        export.num_written += len(row_ids)
        export.on_images(len(row_ids))
    _write_index(export.folder / "image.index", run_dir, np.concatenate(order))


def _metadata(rows: pa.Table, names: dict[int, str], *, has_files: bool) -> pa.Table:
    clusters = [names[cluster] for cluster in rows["cluster_id"].to_pylist()]
    uris, offsets = rows["uri"].to_pylist(), rows["offset"].to_pylist()
    files = [uri if has_files and offset is None else None for uri, offset in zip(uris, offsets, strict=True)]
    columns: dict[str, Any] = {
        "image_path": pa.array([uri if uri and is_local(uri) else None for uri in files], pa.string()),
        "url": pa.array([uri if uri and is_http(uri) else None for uri in files], pa.string()),
        "caption": pa.array(clusters, pa.string()),
        "image_id": rows["image_id"],
        "cluster": pa.array(clusters, pa.string()),
    }
    columns |= {name: rows[name] for name in KNOWN_OF_EACH}
    columns |= {name: rows[name] for name in rows.column_names if name not in (*columns, *_PLACE)}
    return pa.table(columns)


def _write_index(path: Path, run_dir: RunDir, row_ids: np.ndarray) -> None:
    images, neighbors = run_dir.stage("embed_images"), run_dir.stage("mine_neighbors")
    with ExitStack() as held:
        found = open_index(images, neighbors, held, name=IMAGE_INDEX_NAME)
        if found is None:
            raise InputError(
                f"{run_dir.uri} has no {IMAGE_INDEX_NAME}; set mine_neighbors.search_index to auto and run it again"
            )
        places = np.full(row_ids.max() + 1, -1)
        places[row_ids] = np.arange(len(row_ids))
        write_by_place(path, found[0], places)
