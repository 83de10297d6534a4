"""The file of a FAISS index: written from the indexes of shards without holding it in memory, opened only if it fits.

It is one file that `faiss.read_index` opens, mapped into memory or not. FAISS itself merges on disk only into a second
file beside the index, which then has to be found; so what it writes at the end of an index, the rows of every cell, is
written here, cell by cell, as FAISS does (tests compare the bytes).
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import faiss
import numpy as np

from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.errors import ArtifactError
from dxmc_core.method.neighbors.search_index import float16_rows

#: Under this key the metrics of mine_neighbors say what there is to know of its indexes, by file name.
METRICS_KEY = "search_index"
#: And under this one, for each of them, the fingerprint of the stage whose rows it has.
ROWS_OF = "rows_of"
IMAGE_INDEX_NAME = "index.faiss"
TEXT_INDEX_NAME = "text_index.faiss"

#: FAISS' mark of an index whose cells are not in the file, and of cells that follow one another.
_NO_CELLS, _CELLS, _ALL_SIZES = b"il00", b"ilar", b"full"
#: Of an index that keeps row ids beside one without cells.
_ID_MAP = b"IxMp"

#: A file up to 64 MiB is checked as a whole when it is opened, a larger one by so many blocks of it.
_NUM_CHECKED_BLOCKS = 256
_BLOCK_BYTES = 256 << 10


def read_mapped(path: Path) -> faiss.Index:
    """An index whose rows stay in the file until they are looked at."""
    with path.open("rb") as file:
        has_cells = file.read(len(_ID_MAP)) != _ID_MAP
    mapped = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY if has_cells else faiss.IO_FLAG_MMAP_IFC
    return faiss.read_index(str(path), mapped)


def index_of(data: bytes) -> faiss.Index:
    """The index that a small file holds."""
    return faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8))


@contextmanager
def stacked(empty: faiss.Index, shards: Sequence[faiss.Index]) -> Iterator[None]:
    """For a block, an index without rows holds those of all shards, which have the same cells."""
    lists = faiss.InvertedListsPtrVector()
    for shard in shards:
        lists.push_back(shard.invlists)
    both = faiss.HStackInvertedLists(lists.size(), lists.data())
    empty.replace_invlists(both, False)
    empty.ntotal = sum(shard.ntotal for shard in shards)
    try:
        yield
    finally:
        empty.replace_invlists(None, False)


def write_cells(path: Path, index: faiss.Index, shards: Sequence[tuple[faiss.Index, np.ndarray | None]]) -> None:
    """Write an index with cells, of which everything is taken from one index and its rows from shards with these cells.

    Memory holds one cell of one shard.

    Args:
        shards: each with new row ids (M,) int64 by the old ones, -1 of rows to leave out; None where rows keep theirs.
    """
    sizes = np.zeros(index.nlist, dtype=np.uint64)
    for shard, new_ids in shards:
        sizes += np.array([len(_ids(shard, new_ids, cell)[1]) for cell in range(index.nlist)], dtype=np.uint64)
    index.ntotal = int(sizes.sum())
    head = _without_cells(index)
    with path.open("wb") as file:
        file.write(head)
        file.write(_CELLS + np.array([index.nlist, index.code_size], dtype=np.uint64).tobytes())
        file.write(_ALL_SIZES + np.uint64(index.nlist).tobytes() + sizes.tobytes())
        for cell in range(index.nlist):
            kept = [_ids(shard, new_ids, cell) for shard, new_ids in shards]
            for (shard, _), (is_kept, _) in zip(shards, kept, strict=True):
                if len(is_kept):
                    codes = faiss.rev_swig_ptr(shard.invlists.get_codes(cell), len(is_kept) * index.code_size)
                    file.write(codes.data if is_kept.all() else codes.reshape(len(is_kept), -1)[is_kept].data)
            for _, ids in kept:
                file.write(ids.data)


def _ids(shard: faiss.Index, new_ids: np.ndarray | None, cell: int) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of a cell are kept, (n,) bool, and their ids."""
    count = shard.invlists.list_size(cell)
    if count == 0:
        return np.empty(0, dtype=bool), np.empty(0, dtype=np.int64)
    ids = faiss.rev_swig_ptr(shard.invlists.get_ids(cell), count)
    ids = ids if new_ids is None else new_ids[ids]
    is_kept = ids >= 0
    return is_kept, ids if is_kept.all() else ids[is_kept]


def row_ids_of(index: faiss.Index) -> np.ndarray:
    """The ids of all rows of an index with cells, (N,) int64, in no order."""
    return np.concatenate([_ids(index, None, cell)[1] for cell in range(index.nlist)])


def without_rows(index: faiss.Index) -> faiss.Index:
    """An index with the same cells and settings, and no place for rows."""
    return index_of(_without_cells(index) + _NO_CELLS)


def write_by_place(path: Path, index: faiss.Index, places: np.ndarray) -> None:
    """Write an index whose rows are known by their places 0..N-1 in another order, for readers who keep no ids.

    Args:
        places: (M,) int64 by row id.
    """
    if isinstance(index, faiss.IndexIVF):
        write_cells(path, without_rows(index), [(index, places)])
        return
    plain, order = faiss.downcast_index(index.index), np.argsort(places[faiss.vector_to_array(index.id_map)])
    if not np.array_equal(order, np.arange(len(order))):
        rows = plain.reconstruct_n(0, plain.ntotal)
        plain = float16_rows(index.d)
        plain.add(rows[order])
    faiss.write_index(plain, str(path))


def _without_cells(index: faiss.Index) -> bytes:
    """What FAISS writes of an index before its cells."""
    lists, owns_them = index.invlists, index.own_invlists
    index.own_invlists = False  # or they would be freed
    index.replace_invlists(None, False)
    head = faiss.serialize_index(index).tobytes()
    index.replace_invlists(lists, owns_them)
    assert head.endswith(_NO_CELLS)
    return head.removesuffix(_NO_CELLS)


def spot_checksum(path: Path) -> str:
    """A checksum over blocks of a file at even distances, the first and the last among them."""
    size, digest = path.stat().st_size, hashlib.sha256()
    starts: Sequence[int] = range(0, size, _BLOCK_BYTES)
    if len(starts) > _NUM_CHECKED_BLOCKS:
        starts = [round(place) for place in np.linspace(0, size - _BLOCK_BYTES, _NUM_CHECKED_BLOCKS)]
    with path.open("rb") as file:
        for start in starts:
            file.seek(start)
            digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()[:32]


class StaleIndexError(ArtifactError):
    """There is an index, but it is not the one that was published, or not one of these images."""


def open_index(images: StageDir, neighbors: StageDir, held: ExitStack, *, name: str) -> tuple[faiss.Index, dict] | None:
    """A published index and what its manifest says of it; None where a run has none.

    Args:
        images: the stage whose rows it has to be of.
        held: what keeps the file until it is closed.

    Raises:
        StaleIndexError: it is damaged, another's, or of rows that are not these images any more.
        ArtifactError: a manifest is damaged, or missing.
    """
    manifest, embedded = neighbors.manifest(), images.require_manifest()
    where = f"{neighbors.storage.uri}/{name}"
    if manifest is None or name not in manifest.files:
        return None
    facts, part = manifest.metrics.get(METRICS_KEY, {}).get(name, {}), manifest.files[name]
    if facts.get(ROWS_OF) != embedded.fingerprint:
        raise StaleIndexError(f"{where} is of images as they were before; run mine_neighbors again")
    try:
        path = held.enter_context(neighbors.storage.reading(name))
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise StaleIndexError(f"{where} is gone; delete _manifest.json beside it to rebuild mine_neighbors") from error
    remedy = "delete _manifest.json beside it to rebuild mine_neighbors"
    if size != part.bytes:
        raise StaleIndexError(f"{where} is damaged: expected {part.bytes} bytes, found {size}; {remedy}")
    if spot_checksum(path) != facts.get("spot_checksum"):
        raise StaleIndexError(f"{where} is not what was published: its checksum differs; {remedy}")
    index = read_mapped(path)
    if index.ntotal != embedded.rows("images"):
        raise StaleIndexError(f"{where} has {index.ntotal} rows, there are {embedded.rows('images')} images; {remedy}")
    return index, facts
