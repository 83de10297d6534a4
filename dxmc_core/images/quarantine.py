"""Decides that a run is going wrong: too many of its images are rejected, and that is no accident of where it began."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import pyarrow.compute as pc

from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.images.decode import RejectReason

Chunk = TypeVar("Chunk")

#: What the next attempt may find otherwise: a rerun tries these again.
TRANSIENT = frozenset(
    {RejectReason.MISSING, RejectReason.ACCESS_DENIED, RejectReason.TIMEOUT, RejectReason.UNREACHABLE}
)
#: What may be otherwise a little later: a run tries these once more before it publishes.
OUT_OF_REACH = frozenset({RejectReason.TIMEOUT, RejectReason.UNREACHABLE})
_NUM_SCOUTS = 32
_MIN_CHUNKS = 8
_MIN_ROWS = 500
_STANDARD_ERRORS = 4.0


def scouts_first(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Some chunks from all over the catalog, then the others in their order: damage often comes folder by folder."""
    if len(chunks) <= _NUM_SCOUTS:
        return list(chunks)
    scouts = [round(number * (len(chunks) - 1) / (_NUM_SCOUTS - 1)) for number in range(_NUM_SCOUTS)]
    rest = sorted(set(range(len(chunks))) - set(scouts))
    return [chunks[index] for index in [*scouts, *rest]]


class Quarantine:
    """Counts images and rejects by chunk of the catalog, and says when there are too many rejects.

    That is so when more are rejected already than the whole catalog may have. Before that, it is so when at least 8
    chunks and 500 rows are done and the mean share of rejects in a chunk exceeds `max_fraction` by 4 standard errors;
    chunks, not images, are the sample, since the images of one folder share their fate. What earlier attempts have done
    of a chunk counts too: a rerun may begin with what they rejected.

    Args:
        num_rows: of the catalog.
        max_fraction: rejects to all images, 0 to 1.
        done: (C, 2) images and rejects of each chunk that earlier attempts have left; by default none.
    """

    def __init__(self, num_rows: int, *, max_fraction: float, done: np.ndarray | None = None) -> None:
        self._num_rows = num_rows
        self._max_fraction = max_fraction
        before = np.zeros((0, 2), dtype=np.int64) if done is None else done
        self._num_before = int(before.sum())
        self._num_rejects = int(before[:, 1].sum())
        self._chunks: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
        self._chunks.update((chunk, counts) for chunk, counts in enumerate(before.tolist()) if any(counts))

    def add(self, chunk: int, num_rows: int, *, rejected: bool) -> None:
        """Count rows of a chunk that were all embedded or all rejected."""
        self._chunks[chunk][rejected] += num_rows
        self._num_rejects += num_rows if rejected else 0

    @property
    def is_exceeded(self) -> bool:
        if self._num_rejects > self._max_fraction * self._num_rows:
            return True
        shares = [rejects / (images + rejects) for images, rejects in self._chunks.values()]
        num_rows = sum(map(sum, self._chunks.values()))
        if self._max_fraction == 1 or len(shares) < _MIN_CHUNKS or num_rows < _MIN_ROWS:
            return False
        mean = sum(shares) / len(shares)
        variance = sum((share - mean) ** 2 for share in shares) / (len(shares) - 1)
        return mean - _STANDARD_ERRORS * math.sqrt(variance / len(shares)) > self._max_fraction

    @property
    def finding(self) -> str:
        """The numbers, for a person."""
        num_tried = sum(map(sum, self._chunks.values())) - self._num_before
        return (
            f"{self._num_rejects} of {self._num_rows} images are rejected, {num_tried} were tried by this run; "
            f"source.max_reject_fraction is {self._max_fraction:g}"
        )


def forget_transient_rejects(
    stage_dir: StageDir, *, fingerprint: str, reasons: frozenset[RejectReason] = TRANSIENT
) -> int:
    """Remove the staged parts of `rejects` in which the next attempt may find something else; the rows in them."""
    num_rows = 0
    for part, _ in list(stage_dir.staged_row_ids("rejects", fingerprint=fingerprint)):
        found = pc.unique(stage_dir.read_part(part, ["reason"])["reason"]).to_pylist()
        if reasons.intersection(found):
            stage_dir.storage.delete(part.name)
            num_rows += part.rows
    return num_rows
