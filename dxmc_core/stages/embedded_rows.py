"""What of a catalog is done: the bookkeeping by which a killed run goes on and no reader sees a row twice.

Every part carries its row ids, and a row counts as done by the first part that has it. Parts are named after their
content and are published by a manifest, so nothing depends on renames, and nothing on how often a worker was retried.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dxmc_core.artifacts.manifest import Part
from dxmc_core.artifacts.tables import IMAGES, REJECTS
from dxmc_core.images.catalog import Catalog

_REJECTED = np.uint8(1)


class EmbeddedRows:
    """Which rows are done, and by which parts: a byte a row, and about a kilobyte a part.

    A row is done when it is rejected, or when every encoder has embedded it. One that is rejected is so for all
    encoders, also where another had embedded it before.

    Args:
        tables: one for each encoder, at most 7.
    """

    def __init__(self, num_rows: int, tables: Sequence[str] = (IMAGES.name,)) -> None:
        self.tables = tuple(tables)
        self._bits = {table: np.uint8(2 << position) for position, table in enumerate(tables)}
        self._all = np.uint8(sum(map(int, self._bits.values())))
        self._state = np.zeros(num_rows, dtype=np.uint8)  # a bit for each table that has the row
        self._parts: dict[str, list[tuple[int, Part]]] = {table: [] for table in (*tables, REJECTS.name)}

    @classmethod
    def of(cls, catalog: Catalog, *, fingerprint: str, tables: Sequence[str] = (IMAGES.name,)) -> "EmbeddedRows":
        """What earlier attempts with this fingerprint have done."""
        done = cls(catalog.num_rows, tables)
        for table in (*tables, REJECTS.name):
            for part, row_ids in catalog.stage_dir.staged_row_ids(table, fingerprint=fingerprint):
                done.add(table, part, row_ids)
        return done

    @property
    def num_images(self) -> int:
        """Rows that every encoder has embedded."""
        return int(np.count_nonzero(self._state == self._all))

    @property
    def num_rejects(self) -> int:
        return sum(part.rows for _, part in self._parts[REJECTS.name])

    @property
    def num_done(self) -> int:
        return self.num_images + self.num_rejects

    @property
    def num_left(self) -> int:
        return len(self._state) - self.num_done

    def add(self, table: str, part: Part, row_ids: np.ndarray) -> int:
        """Count the rows of a part.

        Returns:
            How many rows are done by it. None are, and no reader will see the part, when a row of it is in this table
            already, is done, or is none of the catalog's; its other rows are still to be done.
        """
        num_rows = len(self._state)
        if not len(row_ids) or row_ids.min() < 0 or row_ids.max() >= num_rows:
            return 0
        found = self._state[row_ids]
        is_reject = table == REJECTS.name
        refused = ((found & _REJECTED) > 0) | (found == self._all if is_reject else (found & self._bits[table]) > 0)
        if refused.any():
            return 0
        found |= _REJECTED if is_reject else self._bits[table]
        self._state[row_ids] = found
        self._parts[table].append((int(row_ids.min()), part))
        return len(row_ids) if is_reject else int(np.count_nonzero(found == self._all))

    def add_receipt(self, receipt: Mapping[str, Any]) -> int:
        """Count a part that `WriteEmbeddings` reports; see `add`."""
        part = Part(**{name: receipt[name] for name in Part.model_fields})
        return self.add(receipt["table"], part, unpack_rows(receipt["row_start"], receipt["row_bits"]))

    def parts(self, table: str) -> list[Part]:
        """The parts of a table in the order of their first rows."""
        return [part for _, part in sorted(self._parts[table], key=lambda entry: entry[0])]

    def replace_rejected(self, replaced: Callable[[str, Part, np.ndarray], Part | None]) -> None:
        """Have parts written anew where rows of them were rejected afterwards.

        Args:
            replaced: given a table, a part of it and all rows that are rejected, (R,) int64 ascending, the part
                without these rows; None where nothing is left of it.
        """
        rejected = np.flatnonzero((self._state & _REJECTED > 0) & (self._state & self._all > 0))
        if not len(rejected):
            return
        for table in self.tables:
            found = [(row, replaced(table, part, rejected)) for row, part in self._parts[table]]
            self._parts[table] = [(row, part) for row, part in found if part is not None]
        self._state[rejected] = _REJECTED

    def counts(self, chunk_rows: int) -> np.ndarray:
        """What is done of each chunk of the catalog, (C, 2) int64: rows in images, rows in rejects."""
        starts = np.arange(0, len(self._state), chunk_rows)
        both = (self._state == self._all, self._state & _REJECTED > 0)
        return np.stack([np.add.reduceat(rows, starts, dtype=np.int64) for rows in both], axis=1)

    def missing(self) -> list[tuple[str, ...]]:
        """The sets of tables that rows are still to be put into, the one of most rows first."""
        states, counts = np.unique(self._state[~self._is_done(self._state)], return_counts=True)
        ordered = states[np.argsort(-counts, kind="stable")]
        return [tuple(table for table, bit in self._bits.items() if not state & bit) for state in ordered]

    def chunks(self, chunk_rows: int, missing: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """What is left to do, in pieces of at most `chunk_rows` rows of the catalog.

        Each has row_start, row_stop, and `todo`: a bit for each row of it that is still to do, or nothing for all.

        Args:
            missing: only rows that are still to be put into these tables and no others; by default all.
        """
        wanted = None if missing is None else np.uint8(self._all - sum(int(self._bits[table]) for table in missing))
        for start in range(0, len(self._state), chunk_rows):
            stop = min(start + chunk_rows, len(self._state))
            state = self._state[start:stop]
            todo = ~self._is_done(state) if wanted is None else state == wanted
            if todo.any():
                bits = b"" if todo.all() else np.packbits(todo).tobytes()
                yield {"row_start": start, "row_stop": stop, "todo": bits}

    def _is_done(self, state: np.ndarray) -> np.ndarray:
        return (state & _REJECTED > 0) | (state == self._all)


def pack_rows(row_ids: np.ndarray) -> tuple[int, bytes]:
    """Row ids that lie near one another as their lowest and a bit for each row from there on."""
    start = int(row_ids.min())
    bits = np.zeros(int(row_ids.max()) - start + 1, dtype=bool)
    bits[row_ids - start] = True
    return start, np.packbits(bits).tobytes()


def unpack_rows(start: int, packed: bytes) -> np.ndarray:
    """What `pack_rows` packed, ascending."""
    return start + np.flatnonzero(np.unpackbits(np.frombuffer(packed, dtype=np.uint8)))
