"""A view of the images that was made elsewhere: a file of embeddings in the place of a further encoder."""

from typing import Literal

from dxmc_core.artifacts.storage import normalize_uri, stat_file
from dxmc_core.encoders.settings import EncoderSettings
from dxmc_core.errors import named


class EmbeddedConfig(EncoderSettings):
    """Embeddings of the same images from a file, beside those of other encoders; found by `image_ids`."""

    kind: Literal["embeddings"]
    uri: str
    """.npz (`embeddings`, `image_ids`), .npy or Parquet, as for a source of embeddings; without ids a row's number is
    its id. An image that the file does not have is rejected."""


def etag(config: EmbeddedConfig) -> str:
    """What stands for the content of the file.

    Raises:
        InputError: there is none.
    """
    with named("encoders.uri"):
        return stat_file(normalize_uri(config.uri)).etag
