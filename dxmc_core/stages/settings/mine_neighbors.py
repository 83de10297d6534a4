"""Settings of mine_neighbors."""

from typing import Literal

from pydantic import Field

from dxmc_core.artifacts.manifest import fingerprint_of
from dxmc_core.settings import Settings


class MineNeighborsConfig(Settings):
    """How neighbours are found."""

    num_neighbors: int = Field(50, ge=1)
    """Neighbours kept per image, and per text counterpart where the method trains on theirs (`dxmc`, `tac`); at most
    the number of images less one."""
    index: Literal["auto", "exact", "ivf"] = "auto"
    """auto: exact up to 100,000 images (2 million on a GPU), beyond that an inverted file, searched approximately."""
    min_recall: float = Field(0.98, gt=0, le=1)
    """Of an approximate search, measured on a sample against exact: rows look through as many cells as it takes."""
    near_duplicate_cosine: float = Field(0.98, gt=0, le=1)
    """Neighbours with at least this cosine between their image embeddings count as near duplicates."""
    search_index: Literal["auto", "none", "flat", "ivf", "ivf_sq8", "ivf_pq", "hnsw"] = "auto"
    """The FAISS index of the image embeddings that `dxmc search` and any FAISS opens, `index.faiss`. auto: its kind by
    size; none: no index is written, and a search reads every embedding. flat and hnsw are built in the memory of one
    machine."""
    text_search_index: bool = False
    """Write an index of the text counterparts, too: `text_index.faiss`."""


def fingerprint(config: MineNeighborsConfig, *, inputs: dict[str, str], images_alone: bool = False) -> str:
    """
    Args:
        images_alone: no neighbours are looked for among the text counterparts, although there are some.
    """
    alone = {"images_alone": True} if images_alone else {}
    return fingerprint_of("mine_neighbors", {**config.model_dump(mode="json"), **alone}, inputs)
