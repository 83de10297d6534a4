"""What of a catalog is done: the bookkeeping by which a killed run goes on and no reader sees a row twice.

Every part carries its row ids, and a row counts as done by the first part that has it. Parts are named after their
content and are published by a manifest, so nothing depends on renames, and nothing on how often a worker was retried.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dxmc_core.artifacts.manifest import Part
from dxmc_core.images.catalog import Catalog

TABLES = ("images", "rejects")


class EmbeddedRows:
    """Which rows are done, and by which parts: a byte a row, and about a kilobyte a part."""

    def __init__(self, num_rows: int) -> None:
        self._table_of = np.zeros(num_rows, dtype=np.uint8)  # 0: not done, else 1 + the position in TABLES
        self._parts: dict[str, list[tuple[int, Part]]] = {table: [] for table in TABLES}

    @classmethod
    def of(cls, catalog: Catalog, *, fingerprint: str) -> "EmbeddedRows":
        """What earlier attempts with this fingerprint have done."""
        done = cls(catalog.num_rows)
        for table in TABLES:
            for part, row_ids in catalog.stage_dir.staged_row_ids(table, fingerprint=fingerprint):
                done.add(table, part, row_ids)
        return done

    @property
    def num_done(self) -> int:
        return int(np.count_nonzero(self._table_of))

    @property
    def num_left(self) -> int:
        return len(self._table_of) - self.num_done

    def num_rows_of(self, table: str) -> int:
        return sum(part.rows for _, part in self._parts[table])

    def add(self, table: str, part: Part, row_ids: np.ndarray) -> bool:
        """Count the rows of a part as done.

        Returns:
            False when a row of it is done already, or is none of the catalog's. Such a part is left out whole: no
            reader will see it, and its other rows are still to be done.
        """
        num_rows = len(self._table_of)
        if not len(row_ids) or row_ids.min() < 0 or row_ids.max() >= num_rows or self._table_of[row_ids].any():
            return False
        self._table_of[row_ids] = 1 + TABLES.index(table)
        self._parts[table].append((int(row_ids.min()), part))
        return True

    def add_receipt(self, receipt: Mapping[str, Any]) -> bool:
        """Count a part that `WriteEmbeddings` reports; see `add`."""
        part = Part(**{name: receipt[name] for name in Part.model_fields})
        return self.add(receipt["table"], part, unpack_rows(receipt["row_start"], receipt["row_bits"]))

    def parts(self, table: str) -> list[Part]:
        """The parts of a table in the order of their first rows."""
        return [part for _, part in sorted(self._parts[table], key=lambda entry: entry[0])]

    def counts(self, chunk_rows: int) -> np.ndarray:
        """What is done of each chunk of the catalog, (C, 2) int64: rows in images, rows in rejects."""
        starts = np.arange(0, len(self._table_of), chunk_rows)
        return np.stack([np.add.reduceat(self._table_of == 1 + table, starts, dtype=np.int64) for table in (0, 1)], 1)

    def chunks(self, chunk_rows: int) -> Iterator[dict[str, Any]]:
        """What is left to do, in pieces of at most `chunk_rows` rows of the catalog.

        Each has row_start, row_stop, and `todo`: a bit for each row of it that is still to do, or nothing for all.
        """
        for start in range(0, len(self._table_of), chunk_rows):
            stop = min(start + chunk_rows, len(self._table_of))
            todo = self._table_of[start:stop] == 0
            if todo.any():
                bits = b"" if todo.all() else np.packbits(todo).tobytes()
                yield {"row_start": start, "row_stop": stop, "todo": bits}


def pack_rows(row_ids: np.ndarray) -> tuple[int, bytes]:
    """Row ids that lie near one another as their lowest and a bit for each row from there on."""
    start = int(row_ids.min())
    bits = np.zeros(int(row_ids.max()) - start + 1, dtype=bool)
    bits[row_ids - start] = True
    return start, np.packbits(bits).tobytes()


def unpack_rows(start: int, packed: bytes) -> np.ndarray:
    """What `pack_rows` packed, ascending."""
    return start + np.flatnonzero(np.unpackbits(np.frombuffer(packed, dtype=np.uint8)))
