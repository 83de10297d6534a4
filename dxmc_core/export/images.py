"""The images of a run one after the other: their files, and what the run knows of each."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.tables import ASSIGNMENTS, CATALOG
from dxmc_core.artifacts.user_tables import take_rows
from dxmc_core.evaluation.scores import cluster_names
from dxmc_core.images.decode import ImageRejectedError
from dxmc_core.images.fetch import FetchImages
from dxmc_core.images.formats import Format, sniff_format
from dxmc_core.images.sources import ImageSource

SKIPPED_NAME = "skipped.jsonl"
_FILES_AT_A_TIME = 32
_SUFFIXES = {
    Format.JPEG: "jpg",
    Format.PNG: "png",
    Format.GIF: "gif",
    Format.WEBP: "webp",
    Format.BMP: "bmp",
    Format.TIFF: "tif",
    Format.AVIF: "avif",
    Format.HEIF: "heic",
    Format.JPEG2000: "jp2",
    Format.PNM: "ppm",
    Format.ICO: "ico",
}
#: The columns of `assignments` that every run has, beside those that the catalog has too.
KNOWN_OF_EACH = tuple(name for name in ASSIGNMENTS.schema().names if name not in CATALOG.by_name)


@dataclass(frozen=True)
class ExportedImage:
    """One image.

    Attributes:
        row_id: what its files are named by.
        suffix: of its format, by the first bytes, without a dot.
        data: its file, unchanged.
        record: image_id, label (None where unknown), cluster (its name) and the columns of `assignments`.
    """

    row_id: int
    suffix: str
    data: bytes
    record: dict[str, Any]


@dataclass
class Export:
    """An export under way: its folder, and how far it is."""

    folder: Path
    on_images: Callable[[int], None]
    num_written: int = 0
    num_skipped: int = 0

    def skip(self, image_id: str, reason: str) -> None:
        """Write down an image that cannot be exported."""
        self.num_skipped += 1
        with (self.folder / SKIPPED_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"image_id": image_id, "reason": reason}) + "\n")


def exported_images(export: Export, run_dir: RunDir, source: ImageSource) -> Iterator[ExportedImage]:
    """The assigned images in row order; memory holds a few files and one part of each table."""
    fetch = FetchImages(source)
    names = cluster_names(run_dir)
    for table in assigned_rows(run_dir):
        for start in range(0, table.num_rows, _FILES_AT_A_TIME):
            rows = table.slice(start, _FILES_AT_A_TIME)
            for row, file in zip(rows.to_pylist(), fetch(rows), strict=True):
                export.on_images(1)
                if isinstance(file, ImageRejectedError):
                    export.skip(row["image_id"], file.message)
                    continue
                found = sniff_format(file)
                suffix = None if found is None else _SUFFIXES.get(found)
                if suffix is None:
                    export.skip(row["image_id"], "the file is no image any more")
                    continue
                export.num_written += 1
                record = {"image_id": row["image_id"], "label": row["label"], "cluster": names[row["cluster_id"]]}
                record |= {column: row[column] for column in KNOWN_OF_EACH}
                yield ExportedImage(row["row_id"], suffix, file, record)


def assigned_rows(run_dir: RunDir) -> Iterator[pa.Table]:
    """The parts of `assignments`, with the columns of the catalog. Parts of both come by ascending first row."""
    catalog = run_dir.stage("embed_images").iter_parts(CATALOG)
    window: list[pa.Table] = []
    for part in run_dir.stage("assign_clusters").iter_parts(ASSIGNMENTS):
        row_ids = part["row_id"].to_numpy()
        window = [table for table in window if table["row_id"][-1].as_py() >= row_ids.min()]
        while not window or window[-1]["row_id"][-1].as_py() < row_ids.max():
            window.append(next(catalog))
        rows = pa.concat_tables(window)
        # The catalog is dense: a row's place is its id less the first one's.
        rows = take_rows(rows, row_ids - rows["row_id"][0].as_py())
        for column in KNOWN_OF_EACH:
            rows = rows.append_column(column, part[column])
        yield rows
