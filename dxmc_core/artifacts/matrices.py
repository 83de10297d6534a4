"""Embedding columns as matrices: Arrow fixed-size lists to NumPy and back, tables in row order, whole or in blocks."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dxmc_core.artifacts.manifest import MANIFEST_NAME, Part
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.user_tables import take_rows
from dxmc_core.errors import ArtifactError
from dxmc_core.runtime.slices import slices_of

_BLOCK_ROWS = 65_536
_FOOTER_THREADS = 32

#: Makes an array of a shape and a type whose content does not matter, like `np.empty`.
Allocate = Callable[[tuple[int, ...], np.dtype], np.ndarray]


def embedding_column(values: np.ndarray, mask: np.ndarray | None = None) -> pa.FixedSizeListArray:
    """A matrix (N, D) as a fixed-size list column; rows where `mask` is True become null."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    nulls = pa.array(mask) if mask is not None and mask.any() else None
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=nulls)


def matrix_of(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """A fixed-size list column without nulls as a matrix (N, D), without a copy when it has one chunk."""
    width = column.type.list_size
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    matrices = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, width) for chunk in chunks]
    return matrices[0] if len(matrices) == 1 else np.concatenate(matrices or [np.empty((0, width))])


def width_of(stage_dir: StageDir, table: str, column: str = "embedding") -> int:
    """D of a published matrix; of one part the footer is read.

    Raises:
        ArtifactError: the stage is not done, or has no rows.
    """
    parts = stage_dir.require_manifest().tables.get(table, [])
    if not parts:
        raise ArtifactError(f"{stage_dir.storage.uri} has no rows in {table!r}; rerun {stage_dir.stage}")
    return stage_dir.footer_of(parts[0]).schema.to_arrow_schema().field(column).type.list_size


@dataclass(frozen=True)
class RowMatrix:
    """A published matrix in row order.

    Attributes:
        row_ids: (N,) int64, ascending; gaps where images were rejected.
        values: (N, W), as stored.
    """

    row_ids: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.row_ids)

    def positions_of(self, row_ids: np.ndarray) -> np.ndarray:
        """Where given rows stand in the matrix.

        Raises:
            ArtifactError: a row is not there.
        """
        # Without gaps a row's position is its distance from the first; a search takes a hundred times as long.
        is_dense = len(self) > 0 and self.row_ids[-1] - self.row_ids[0] == len(self) - 1
        positions = row_ids - self.row_ids[0] if is_dense else np.searchsorted(self.row_ids, row_ids)
        found = np.take(self.row_ids, positions, mode="clip")
        if not np.array_equal(found, row_ids):
            missing = np.asarray(row_ids)[found != row_ids]
            raise ArtifactError(
                f"row {missing.flat[0]} is not among the embedded images; delete {MANIFEST_NAME} in the folder "
                "mine_neighbors to rebuild it"
            )
        return positions


def load_matrix(
    stage_dir: StageDir,
    table: str,
    column: str = "embedding",
    *,
    convert: Callable[[np.ndarray], np.ndarray] | None = None,
    allocate: Allocate = np.empty,
) -> RowMatrix:
    """Load one column of fixed-size lists, part by part into one allocation, in row order.

    Args:
        convert: applied to the rows (n, W) of each part.
        allocate: where the values go.

    Raises:
        ArtifactError: the stage is not done or a part is damaged.
    """
    manifest = stage_dir.require_manifest()
    count = manifest.rows(table)
    row_ids = np.empty(count, dtype=np.int64)
    values: np.ndarray | None = None
    start = 0
    for part in stage_dir.iter_parts(table, ["row_id", column]):
        matrix = matrix_of(part[column])
        matrix = convert(matrix) if convert is not None else matrix
        if values is None:
            values = allocate((count, matrix.shape[1]), matrix.dtype)
        if matrix.shape[1] != values.shape[1]:
            raise ArtifactError(
                f"{stage_dir.storage.uri}: {table}.{column} has parts of width {values.shape[1]} and {matrix.shape[1]};"
                f" delete its {MANIFEST_NAME} to rebuild {stage_dir.stage}"
            )
        row_ids[start : start + len(matrix)] = part["row_id"].to_numpy()
        values[start : start + len(matrix)] = matrix
        start += len(matrix)
    if values is None:
        raise stage_dir.incomplete(f"rows in {table!r}")
    if np.any(np.diff(row_ids) <= 0):
        order = np.argsort(row_ids, kind="stable")
        row_ids, values = row_ids[order], _taken(values, order, allocate)
    return RowMatrix(row_ids, values)


def _taken(values: np.ndarray, order: np.ndarray, allocate: Allocate) -> np.ndarray:
    """`values[order]` in an allocation of its own."""
    result = allocate(values.shape, values.dtype)
    for block in slices_of(len(order), _BLOCK_ROWS):
        np.take(values, order[block], axis=0, out=result[block])
    return result


@dataclass(frozen=True)
class StoredRows:
    """A published matrix that is read part by part when it is asked for rows: a `method.row_source.RowSource`.

    Parts may interleave, as those of a resumed run do; what is held at a time is a block and the parts that overlap it.

    Attributes:
        row_ids: (N,) int64, ascending.
        width: D.
        bounds: lowest and highest row id of every part; parts are in the order of the former.
    """

    stage_dir: StageDir
    parts: Sequence[Part]
    column: str
    row_ids: np.ndarray
    width: int
    bounds: Sequence[tuple[int, int]]

    @classmethod
    def open(cls, stage_dir: StageDir, table: str, column: str = "embedding") -> "StoredRows":
        """Read the row ids of a table.

        Raises:
            ArtifactError: the stage is not done, a part is damaged, or there are no rows.
        """
        parts = [part for part in stage_dir.require_manifest().tables.get(table, []) if part.rows]
        if not parts:
            raise stage_dir.incomplete(f"rows in {table!r}")
        ids_of_parts = [stage_dir.read_part(part, ["row_id"])["row_id"].to_numpy() for part in parts]
        bounds = [(int(ids.min()), int(ids.max())) for ids in ids_of_parts]
        order = sorted(range(len(parts)), key=lambda index: bounds[index])
        width = stage_dir.read_part(parts[0], [column])[column].type.list_size
        return cls(
            stage_dir,
            [parts[index] for index in order],
            column,
            np.sort(np.concatenate(ids_of_parts)),
            width,
            [bounds[index] for index in order],
        )

    def __len__(self) -> int:
        return len(self.row_ids)

    def take(self, positions: np.ndarray) -> np.ndarray:
        """Rows (n, D) at ascending positions (n,), as stored."""
        wanted = self.row_ids[positions]
        result: np.ndarray | None = None
        for part, (lowest, highest) in zip(self.parts, self.bounds, strict=True):
            start, stop = np.searchsorted(wanted, lowest), np.searchsorted(wanted, highest, side="right")
            if start == stop:
                continue
            ids, rows = self._read(part)
            places = start + np.flatnonzero(np.isin(wanted[start:stop], ids, assume_unique=True))
            if result is None:
                result = np.empty((len(wanted), self.width), dtype=rows.dtype)
            result[places] = rows[np.searchsorted(ids, wanted[places])]
        return np.empty((0, self.width), dtype=np.float16) if result is None else result

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """All rows in row order, in blocks of `size`, the last one what is left."""
        rest = np.empty((0, self.width), dtype=np.float16)
        for found in self._in_order():
            rows = np.concatenate([rest, found]) if len(rest) else found
            full = len(rows) // size * size
            for block in slices_of(full, size):
                yield rows[block]
            rest = rows[full:]
        if len(rest):
            yield rest

    def _in_order(self) -> Iterator[np.ndarray]:
        """Rows that no later part comes before."""
        held_ids, held = np.empty(0, dtype=np.int64), np.empty((0, self.width), dtype=np.float16)
        next_lowest = [lowest for lowest, _ in self.bounds[1:]] + [np.iinfo(np.int64).max]
        for part, bound in zip(self.parts, next_lowest, strict=True):
            ids, rows = self._read(part)
            if len(held_ids):
                ids, rows = np.concatenate([held_ids, ids]), np.concatenate([held, rows])
                order = np.argsort(ids)
                ids, rows = ids[order], rows[order]
            cut = np.searchsorted(ids, bound)
            yield rows[:cut]
            held_ids, held = ids[cut:], rows[cut:]

    def _read(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
        """Row ids, ascending, and rows of a part."""
        table = self.stage_dir.read_part(part, ["row_id", self.column])
        ids, rows = table["row_id"].to_numpy(), matrix_of(table[self.column])
        if rows.shape[1] != self.width:
            raise ArtifactError(
                f"{self.stage_dir.storage.uri}: {self.column} has parts of width {self.width} and {rows.shape[1]}; "
                f"delete its manifest to rebuild {self.stage_dir.stage}"
            )
        if np.any(np.diff(ids) <= 0):
            order = np.argsort(ids)
            ids, rows = ids[order], rows[order]
        return ids, rows


def noun_columns(table: pa.Table) -> tuple[list[str], list[str | None], np.ndarray]:
    """The columns noun, synset_id and embedding of a noun table."""
    return table["noun"].to_pylist(), table["synset_id"].to_pylist(), matrix_of(table["embedding"])


def load_rows(stage_dir: StageDir, table: str, row_ids: np.ndarray, column: str = "embedding") -> RowMatrix:
    """Some rows of a published matrix, read part by part so that the whole never has to fit in memory.

    Args:
        row_ids: (n,) ascending.

    Raises:
        ArtifactError: a row is not there.
    """
    kept_ids, kept_values = [], []
    for part in stage_dir.iter_parts(table, ["row_id", column]):
        part_ids = part["row_id"].to_numpy()
        wanted = np.isin(part_ids, row_ids, assume_unique=True)
        if wanted.any():
            kept_ids.append(part_ids[wanted])
            kept_values.append(matrix_of(part[column])[wanted])
    found = np.concatenate(kept_ids) if kept_ids else np.empty(0, dtype=np.int64)
    if len(found) != len(row_ids):
        raise ArtifactError(
            f"{stage_dir.storage.uri}: {table} lacks {len(row_ids) - len(found)} of {len(row_ids)} rows"
        )
    order = np.argsort(found, kind="stable")
    return RowMatrix(found[order], np.concatenate(kept_values)[order] if kept_values else np.empty((0, 0)))


def read_rows(stage_dir: StageDir, table: str, row_ids: np.ndarray, columns: Sequence[str] | None = None) -> pa.Table:
    """Some rows of any published table, by ascending row id; rows that it does not have are left out.

    Args:
        row_ids: (n,) in any order.
        columns: with row_id among them; by default all.
    """
    kept = [
        part.filter(pa.array(np.isin(part["row_id"].to_numpy(), row_ids)))
        for part in stage_dir.iter_parts(table, columns)
    ]
    rows = pa.concat_tables(kept)
    return take_rows(rows, np.argsort(rows["row_id"].to_numpy(), kind="stable"))


@dataclass(frozen=True)
class RowFinder:
    """Reads a few rows of a published table from the parts that hold them, as the parts' footers say.

    Attributes:
        bounds: (P, 2) lowest and highest row id of each part.
    """

    stage_dir: StageDir
    parts: Sequence[Part]
    bounds: np.ndarray

    @classmethod
    def open(cls, stage_dir: StageDir, table: str) -> "RowFinder":
        """Read the footers of a table's parts."""
        parts = [part for part in stage_dir.require_manifest().tables.get(table, []) if part.rows]
        with ThreadPoolExecutor(_FOOTER_THREADS) as threads:
            bounds = list(threads.map(stage_dir.row_bounds_of, parts))
        return cls(stage_dir, parts, np.array(bounds, dtype=np.int64).reshape(-1, 2))

    def read(self, row_ids: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """Rows by ascending row id; those that the table does not have are left out.

        Args:
            row_ids: (n,) in any order.
            columns: with row_id among them.
        """
        row_ids = np.unique(row_ids)
        lows, highs = np.searchsorted(row_ids, self.bounds[:, 0]), np.searchsorted(row_ids, self.bounds[:, 1], "right")
        held = [part for part, has_any in zip(self.parts, lows < highs, strict=True) if has_any]
        found = [self.stage_dir.read_part(part, columns) for part in held or self.parts[:1]]
        kept = [table.filter(pa.array(np.isin(table["row_id"].to_numpy(), row_ids))) for table in found]
        rows = pa.concat_tables(kept)
        return take_rows(rows, np.argsort(rows["row_id"].to_numpy(), kind="stable"))
