"""As many clusters as there can be: K, or the number of distinct embeddings where that is smaller."""

import logging

from dxmc_core.artifacts.matrices import matrix_of
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.tables import IMAGES
from dxmc_core.method.neighbors.near_duplicates import usable_num_clusters

logger = logging.getLogger(__name__)


def distinct_num_clusters(num_clusters: int, images: StageDir) -> int:
    """K, or as many as there are distinct embeddings, with a line; see `usable_num_clusters`."""
    parts = images.iter_parts(IMAGES, ["embedding"])
    usable = usable_num_clusters(num_clusters, (matrix_of(part["embedding"]) for part in parts))
    if usable < num_clusters:
        logger.warning(
            "num_clusters is %d, but the %d images have fewer distinct embeddings; there will be %d clusters at most",
            num_clusters, images.require_manifest().rows("images"), usable,
        )  # fmt: skip
    return usable
