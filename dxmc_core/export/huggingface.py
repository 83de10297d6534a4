"""The layout that `datasets.load_dataset("imagefolder", data_dir=...)` reads: image files and train/metadata.jsonl."""

import json
from collections.abc import Iterator
from pathlib import Path

from dxmc_core.export.images import Export, ExportedImage

_FILES_PER_FOLDER = 10_000


def write(export: Export, images: Iterator[ExportedImage], *, name: str) -> None:
    """Write the images and, beside them, one line of metadata each, with `file_name` first."""
    folder = export.folder / "train"
    folder.mkdir()
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as metadata:
        for image in images:
            file_name = write_image(folder, image)
            metadata.write(json.dumps({"file_name": file_name, **image.record}) + "\n")


def write_image(folder: Path, image: ExportedImage) -> str:
    """Write one image file; its name relative to the folder."""
    file_name = f"{image.row_id // _FILES_PER_FOLDER:05}/{image.row_id:09}.{image.suffix}"
    path = folder / file_name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(image.data)
    return file_name
