"""Embeddings of the same images by several encoders, from the tables `images` and `images-NAME` of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dxmc_core.artifacts.matrices import Allocate, RowFinder, RowMatrix, load_matrix, load_rows, matrix_of, width_of
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.tables import IMAGES
from dxmc_core.errors import ArtifactError
from dxmc_core.method.best.joined_encoders import join_encoders, put_encoder, split_encoders

#: The metric of train_heads that names the tables its heads assign by, where there are several.
IMAGE_TABLES = "image_tables"


def image_tables_of(heads: StageDir) -> tuple[str, ...]:
    """The tables of `embed_images` whose embeddings trained heads take, joined."""
    manifest = heads.manifest()
    return tuple(manifest.metrics.get(IMAGE_TABLES, [IMAGES.name])) if manifest is not None else (IMAGES.name,)


def load_images(images: StageDir, tables: Sequence[str], *, allocate: Allocate = np.empty) -> RowMatrix:
    """The embeddings of all encoders asked for, joined as `join_encoders` does, in row order.

    Args:
        allocate: where they go.

    Raises:
        ArtifactError: a table is not there, is damaged, or has other rows than the first.
    """
    if len(tables) == 1:
        return load_matrix(images, tables[0], allocate=allocate)
    widths = [width_of(images, table) for table in tables]
    row_ids, joined = np.empty(0, dtype=np.int64), np.empty((0, 0), dtype=np.float16)
    for position, table in enumerate(tables):
        found = load_matrix(images, table)
        if position == 0:
            row_ids = found.row_ids
            joined = allocate((len(found), sum(widths)), found.values.dtype)
        _require_rows(images, table, found.row_ids, row_ids)
        # Written where it belongs, so that no more than one encoder's are held twice.
        put_encoder(split_encoders(joined, widths)[position], found.values, num_encoders=len(tables))
    return RowMatrix(row_ids, joined)


def load_image_rows(images: StageDir, tables: Sequence[str], first: RowMatrix) -> np.ndarray:
    """What `load_images` has of some rows (n, sum of D), ascending, given those of the first encoder."""
    further = [load_rows(images, table, first.row_ids).values for table in tables[1:]]
    return join_encoders([first.values, *further])


@dataclass(frozen=True)
class ImageRows:
    """Finds what further encoders made of images of which those of the first are at hand."""

    finders: tuple[RowFinder, ...]

    @classmethod
    def open(cls, images: StageDir, tables: Sequence[str]) -> "ImageRows":
        """Read the footers of the parts of all tables but the first."""
        return cls(tuple(RowFinder.open(images, table) for table in tables[1:]))

    def joined(self, row_ids: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
        """Joined embeddings (n, sum of D) of images, in their order.

        Args:
            embeddings: (n, D) of the first encoder.

        Raises:
            ArtifactError: another encoder has not embedded one of them.
        """
        further = []
        for finder in self.finders:
            found = finder.read(row_ids, ["row_id", "embedding"])
            order = np.argsort(row_ids, kind="stable")
            _require_rows(finder.stage_dir, "a further encoder", found["row_id"].to_numpy(), row_ids[order])
            rows = np.empty((len(row_ids), found.schema.field("embedding").type.list_size), dtype=embeddings.dtype)
            rows[order] = matrix_of(found["embedding"])
            further.append(rows)
        return join_encoders([embeddings, *further])


def _require_rows(images: StageDir, table: str, found: np.ndarray, expected: np.ndarray) -> None:
    if not np.array_equal(found, expected):
        raise ArtifactError(
            f"{images.storage.uri}: the embeddings of {table} are not those of the rows of the first encoder; delete "
            f"its manifest to rebuild {images.stage}"
        )
