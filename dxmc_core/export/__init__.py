"""Brings the images of a run, with what is known of each, into the layout of another tool.

Images are copied as they are, not encoded again. Their files are named by row id, never by image_id, so no name that a
source brings can lead out of the folder or clash; the image_id is in the record beside each image.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.storage import is_local, normalize_uri
from dxmc_core.config import PipelineConfig
from dxmc_core.errors import InputError
from dxmc_core.export import clip_retrieval, embedding_atlas, fiftyone, huggingface, webdataset
from dxmc_core.export.images import Export, exported_images
from dxmc_core.images.sources import EmbeddingsSource

ExportFormat = Literal["huggingface", "webdataset", "fiftyone", "clip-retrieval", "embedding-atlas"]
FORMATS: tuple[str, ...] = get_args(ExportFormat)
#: Of the formats that image files are copied into.
_WRITERS = {"huggingface": huggingface.write, "webdataset": webdataset.write, "fiftyone": fiftyone.write}


@dataclass(frozen=True)
class Exported:
    """What was written where; `skipped` images could not be read any more and are listed in skipped.jsonl."""

    output: str
    images: int
    skipped: int


def export_run(
    run_dir: RunDir,
    config: PipelineConfig,
    *,
    format: ExportFormat,
    output: str,
    on_images: Callable[[int], None] = lambda count: None,
) -> Exported:
    """Export a finished run into a new local folder, which appears when all is written.

    Args:
        config: the run's own, for its source.
        on_images: is told of every image that is done, in numbers.

    Raises:
        ArtifactError: the run is not finished.
        InputError: the run has no image files, or no index, that the format needs; the folder is there already or
            cannot be written; or a package that the format needs is not installed.
    """
    source = config.source
    if format in ("clip-retrieval", "embedding-atlas"):
        with _new_folder(output) as (folder, place):
            export = Export(folder, on_images)
            if format == "clip-retrieval":
                clip_retrieval.write(export, run_dir, has_files=not isinstance(source, EmbeddingsSource))
            else:
                embedding_atlas.write(export, run_dir, config)
        return Exported(str(place), export.num_written, export.num_skipped)
    if isinstance(source, EmbeddingsSource):
        raise InputError(
            f"{run_dir.uri} has no image files to export: its images came as embeddings. Its tables open as they are, "
            "see docs/ARTIFACTS.md"
        )
    if format == "fiftyone":
        fiftyone.require_fiftyone(Path(output).name)
    run_dir.stage("assign_clusters").require_manifest()
    with _new_folder(output) as (folder, place):
        export = Export(folder, on_images)
        _WRITERS[format](export, exported_images(export, run_dir, source), name=place.name)
    if format == "fiftyone":
        fiftyone.load(place)
    return Exported(str(place), export.num_written, export.num_skipped)


@contextmanager
def _new_folder(output: str) -> Iterator[tuple[Path, Path]]:
    """A folder to write into, and the place that it takes when the block ends without an error."""
    if not is_local(output):
        raise InputError(f"--output {output}: expected a local folder; copy it to object storage afterwards")
    place = Path(normalize_uri(output))
    if os.path.lexists(place):  # a link to nowhere too
        raise InputError(f"--output {place} is there already; name a new folder")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    except OSError as error:
        raise InputError(f"cannot write {place}: {error.strerror}") from error
    try:
        yield folder, place
        folder.chmod(0o755)
        _take(place)
        folder.rename(place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _take(place: Path) -> None:
    """Make the empty folder that the export then replaces: a rename alone would replace anybody's."""
    try:
        place.mkdir()
    except FileExistsError as error:
        raise InputError(f"--output {place} was made by somebody else meanwhile; name a new folder") from error
