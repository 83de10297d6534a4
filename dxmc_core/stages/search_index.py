"""The FAISS index that mine_neighbors publishes: shards are filled side by side, joined in one file, and measured.

The cells are those that the search for neighbours has grouped the rows into where it is approximate.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from dxmc_core.artifacts.cells import load_cells, save_cells
from dxmc_core.artifacts.index_file import (
    IMAGE_INDEX_NAME,
    ROWS_OF,
    TEXT_INDEX_NAME,
    StaleIndexError,
    index_of,
    open_index,
    read_mapped,
    row_ids_of,
    spot_checksum,
    stacked,
    without_rows,
    write_cells,
)
from dxmc_core.artifacts.manifest import Part
from dxmc_core.artifacts.matrices import StoredRows, matrix_of
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.errors import ArtifactError
from dxmc_core.images.catalog import Catalog
from dxmc_core.images.renewal import compare_catalogs
from dxmc_core.method.neighbors.inverted_file import make_cells
from dxmc_core.method.neighbors.search_index import (
    Exact,
    IndexChoice,
    add_to_cells,
    choose_graph_effort,
    choose_probes,
    effort_of,
    empty_index,
    exact_results,
    recalls,
    search_rows,
    train_codes,
)
from dxmc_core.method.unit_rows import unit_rows
from dxmc_core.runtime.slices import slices_of

FILE_NAMES = {"image_neighbors": IMAGE_INDEX_NAME, "text_neighbors": TEXT_INDEX_NAME}

#: The recall is measured for so many images, and for so many nouns: words are looked for in an index of images.
_SAMPLED_IMAGES, _SAMPLED_NOUNS = 512, 256
_MEASURED_RESULTS = (10, 50)
#: And this one decides how much a query looks at.
_CHOSEN_AT = 10
#: The recall of an index when it was built; one that has fallen so far below since is built anew.
_AT_FIRST = "recall_at_10_when_built"
_MAX_FALL = 0.02
#: 8 bits and product quantisation learn from so many rows.
_TRAINING_ROWS = 65_536
_ROWS_PER_BLOCK = 65_536

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IndexSource:
    """What an index is made of.

    Attributes:
        stage_dir, table: of the rows.
        nouns: the stage of the nouns; None for an index that no words are looked for in.
        choice: its kind.
        modality: whose cells it has.
    """

    stage_dir: StageDir
    table: str
    nouns: StageDir | None
    choice: IndexChoice
    modality: str
    seed: int

    @property
    def file_name(self) -> str:
        return FILE_NAMES[self.modality]

    def open(self) -> StoredRows:
        return StoredRows.open(self.stage_dir, self.table)

    def shard_name(self, fingerprint: str, which: str) -> str:
        return f"index_shards/{fingerprint[:12]}-{self.modality}-{which}.faiss"


def prepare_index(
    source: IndexSource, output: StageDir, *, fingerprint: str, has_cells: bool, device: str = "cpu"
) -> str:
    """Write the index without rows, which shards are filled from; its name.

    Args:
        has_cells: the search for neighbours has made the cells already.
    """
    rows, centers = source.open(), None
    if source.choice.has_cells:
        if not has_cells:
            save_cells(output, source.modality, make_cells(rows, seed=source.seed, device=device))
        centers = load_cells(output, source.modality).centers
    index = empty_index(source.choice.kind, rows.width, centers=centers)
    if not index.is_trained:
        chosen = np.random.default_rng([source.seed, 3]).choice(
            len(rows), min(_TRAINING_ROWS, len(rows)), replace=False
        )
        train_codes(index, rows.take(np.sort(chosen)).astype(np.float32))
    name = source.shard_name(fingerprint, "empty")
    output.storage.write_bytes(name, faiss.serialize_index(index).tobytes())
    return name


class FillShard:
    """Adds slices of the rows to shards of an index with cells.

    Called with a table of the columns start and stop (positions in row order); the result has the columns part (the
    start) and name.

    Args:
        empty: name of what `prepare_index` has written.
    """

    def __init__(self, source: IndexSource, output: StageDir, *, fingerprint: str, empty: str) -> None:
        self._source = source
        self._rows = source.open()
        self._labels = load_cells(output, source.modality).labels
        self._empty = output.storage.read_bytes(empty)
        self._output = output
        self._fingerprint = fingerprint

    def __call__(self, slices: pa.Table) -> pa.Table:
        found = [self._fill(start, stop) for start, stop in zip(*slices.to_pydict().values(), strict=True)]
        return pa.Table.from_pylist(found)

    def _fill(self, start: int, stop: int) -> dict:
        shard = index_of(self._empty)
        for first in range(start, stop, _ROWS_PER_BLOCK):
            part = slice(first, min(first + _ROWS_PER_BLOCK, stop))
            rows = self._rows.take(np.arange(part.start, part.stop))
            add_to_cells(shard, rows, self._rows.row_ids[part], self._labels[part])
        name = self._source.shard_name(self._fingerprint, f"{start:012}")
        self._output.storage.write_bytes(name, faiss.serialize_index(shard).tobytes())
        return {"part": start, "name": name}


def publish_index(
    source: IndexSource, output: StageDir, empty: str, shards: Sequence[str], *, min_recall: float
) -> tuple[Part, dict[str, Any]]:
    """Write the file of an index and measure it; its part, and what the manifest says of it.

    Args:
        empty: name of what `prepare_index` has written.
        shards: names of what `FillShard` has written, in row order; none for a kind without cells.
        min_recall: of the best 10, which a query looks through as many cells for as it takes.

    Raises:
        ArtifactError: FAISS does not read back what was written (a defect; nothing is published).
    """
    started = time.perf_counter()
    rows = source.open()
    samples = _samples(source, rows)
    index = index_of(output.storage.read_bytes(empty))
    with _filled(index, source, rows, output, shards) as write:
        if source.choice.has_cells:
            labels = load_cells(output, source.modality).labels
            cells = [labels[np.searchsorted(rows.row_ids, exact.ids)] for exact in samples.values()]
            both = list(zip(samples.values(), cells, strict=True))
            choose_probes(index, both, min_recall=min_recall, num_results=_CHOSEN_AT)
        elif source.choice.kind == "hnsw":
            choose_graph_effort(index, list(samples.values()), min_recall=min_recall, num_results=_CHOSEN_AT)
        facts = _facts(source, index, samples)
        facts[_AT_FIRST] = facts["recall_at_10"]
        queries = next(iter(samples.values())).queries
        expected = search_rows(index, queries, 1)

        def write_and_check(path: Path) -> None:
            write(path)
            written = read_mapped(path)
            found = search_rows(written, queries, 1)
            if written.ntotal != len(rows) or not all(map(np.array_equal, found, expected)):
                raise ArtifactError(
                    f"{output.storage.uri}/{source.file_name}: FAISS reads other rows than were written"
                )
            facts["spot_checksum"] = spot_checksum(path)

        part = output.write_large_file(source.file_name, write_and_check)
    return part, facts | {"bytes": part.bytes, "seconds": round(time.perf_counter() - started, 1)}


class _RecallFellError(Exception):
    """The cells of an index do not fit its rows any more."""


def renew_index(source: IndexSource, output: StageDir, before: RunDir) -> tuple[Part, dict[str, Any]] | None:
    """Write the index of an earlier run again, without the images that have gone and with those that have come.

    Args:
        before: the earlier run over the same source.

    Returns:
        None where it has to be built anew: that run has none of this kind, or its recall has fallen since it was built.
    """
    started = time.perf_counter()
    images, neighbors = before.stage("embed_images"), before.stage("mine_neighbors")
    with ExitStack() as held:
        try:
            found = open_index(images, neighbors, held, name=source.file_name)
        except StaleIndexError as error:
            logger.warning("%s", error)
            return None
        if found is None or found[1]["kind"] != source.choice.kind or not source.choice.has_cells:
            return None
        (index, earlier), rows = found, source.open()
        _, new_rows = compare_catalogs(
            *(Catalog(stage.require_manifest(), stage) for stage in (images, source.stage_dir))
        )
        new_rows[~np.isin(new_rows, rows.row_ids)] = -1
        kept = new_rows[row_ids_of(index)]
        kept = kept[kept >= 0]
        places = np.flatnonzero(np.isin(rows.row_ids, kept, invert=True))
        arrivals, room = without_rows(index), faiss.ArrayInvertedLists(index.nlist, index.code_size)
        arrivals.replace_invlists(room, False)
        arrivals.ntotal = 0
        for block in slices_of(len(places), _ROWS_PER_BLOCK):
            some = places[block]
            arrivals.add_with_ids(rows.take(some).astype(np.float32), rows.row_ids[some])
        samples, facts = _samples(source, rows), {}

        def write_and_measure(path: Path) -> None:
            write_cells(path, without_rows(index), [(index, new_rows), (arrivals, None)])
            written = read_mapped(path)
            if written.ntotal != len(rows):
                raise ArtifactError(
                    f"{output.storage.uri}/{source.file_name} would have {written.ntotal} rows of {len(rows)}"
                )
            facts.update(_facts(source, written, samples) | {_AT_FIRST: earlier[_AT_FIRST]})
            if facts["recall_at_10"] < earlier[_AT_FIRST] - _MAX_FALL:
                raise _RecallFellError
            facts["spot_checksum"] = spot_checksum(path)

        try:
            part = output.write_large_file(source.file_name, write_and_measure)
        except _RecallFellError:
            logger.info(
                "%s is built anew: its recall at 10 has fallen to %.3f", source.file_name, facts["recall_at_10"]
            )
            return None
    changes = {"added": len(places), "removed": index.ntotal - len(kept)}
    return part, facts | changes | {"bytes": part.bytes, "seconds": round(time.perf_counter() - started, 1)}


def _facts(source: IndexSource, index: faiss.Index, samples: Mapping[str, Exact]) -> dict[str, Any]:
    """What the manifest says of an index with all its rows, its file aside."""
    recall = {}
    for queries, exact in samples.items():
        found = recalls(index, exact, _MEASURED_RESULTS, is_lossy=source.choice.is_lossy)
        names = (f"recall_at_{count}" for count in _MEASURED_RESULTS)
        recall[queries] = {name: round(share, 4) for name, share in zip(names, found, strict=True)}
    return {
        "kind": source.choice.kind,
        "reason": source.choice.reason,
        "rows": index.ntotal,
        ROWS_OF: source.stage_dir.require_manifest().fingerprint,
        "cells": index.nlist if source.choice.has_cells else None,
        "effort": effort_of(index),
        **{name: min(found[name] for found in recall.values()) for name in next(iter(recall.values()))},
        "recall_of": recall,
        "sampled_queries": {queries: len(exact.queries) for queries, exact in samples.items()},
        "candidates_per_result": source.choice.num_candidates,
    }


def _samples(source: IndexSource, rows: StoredRows) -> dict[str, Exact]:
    """What exact search finds for some of the rows, and for some nouns."""
    rng = np.random.default_rng([source.seed, 4])
    places = np.sort(rng.choice(len(rows), min(_SAMPLED_IMAGES, len(rows)), replace=False))
    queries = {"rows": unit_rows(rows.take(places), name="rows")}
    own = {"rows": rows.row_ids[places]}
    if source.nouns is not None and source.nouns.require_manifest().rows("nouns"):
        queries["nouns"] = unit_rows(_some_nouns(source.nouns, rng), name="nouns")
        own["nouns"] = np.full(len(queries["nouns"]), -1)
    found = exact_results(
        rows,
        rows.row_ids,
        np.concatenate(list(queries.values())),
        np.concatenate(list(own.values())),
        min(max(_MEASURED_RESULTS), len(rows) - 1),
    )
    samples, start = {}, 0
    for name, some in queries.items():
        part = slice(start, start + len(some))
        samples[name] = Exact(found.queries[part], found.own_ids[part], found.ids[part], found.scores[part])
        start += len(some)
    return samples


def _some_nouns(nouns: StageDir, rng: np.random.Generator) -> np.ndarray:
    parts = nouns.require_manifest().tables["nouns"]
    places = np.sort(rng.choice(sum(part.rows for part in parts), _SAMPLED_NOUNS))
    found, start = [], 0
    for part in parts:
        here = places[(places >= start) & (places < start + part.rows)] - start
        if len(here):
            found.append(matrix_of(nouns.read_part(part, ["embedding"])["embedding"])[here])
        start += part.rows
    return np.concatenate(found)


@contextmanager
def _filled(
    index: faiss.Index, source: IndexSource, rows: StoredRows, output: StageDir, shards: Sequence[str]
) -> Iterator[Callable[[Path], object]]:
    """For a block, fill an index with all rows; what writes it to a path."""
    if not source.choice.has_cells:
        start = 0
        for block in rows.blocks(_ROWS_PER_BLOCK):
            index.add_with_ids(block.astype(np.float32), rows.row_ids[start : start + len(block)])
            start += len(block)
        yield lambda path: path.write_bytes(faiss.serialize_index(index))
        return
    with ExitStack() as held:
        opened = [read_mapped(held.enter_context(output.storage.reading(name))) for name in shards]
        held.enter_context(stacked(index, opened))
        yield lambda path: write_cells(path, index, [(shard, None) for shard in opened])


def index_summary(facts: Mapping[str, Any]) -> str:
    """One line on an index for the log."""
    effort = "" if facts["effort"] is None else f", {facts['effort']} of {facts['cells'] or facts['rows']} looked at"
    changes = f", {facts['added']} added, {facts['removed']} removed" if "added" in facts else ""
    return (
        f"{facts['kind']} ({facts['reason']}){changes}{effort}, recall at 10 {facts['recall_at_10']:.3f}, "
        f"{facts['bytes'] / 2**20:.0f} MiB, {facts['seconds']:.0f} s"
    )
