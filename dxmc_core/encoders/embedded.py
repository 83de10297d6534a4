"""A view of the images that was made elsewhere: a file of embeddings in the place of a further encoder."""

from typing import TYPE_CHECKING, Literal

from dxmc_core.artifacts.storage import normalize_uri, stat_file
from dxmc_core.encoders.settings import ViewSettings
from dxmc_core.errors import named

if TYPE_CHECKING:
    from dxmc_core.workload import EncoderWork


class EmbeddedConfig(ViewSettings):
    """Embeddings of the same images from a file, beside those of other encoders; found by `image_ids`."""

    kind: Literal["embeddings"]
    uri: str
    """.npz (`embeddings`, `image_ids`), .npy or Parquet, as for a source of embeddings; without ids a row's number is
    its id. An image that the file does not have is rejected."""

    @property
    def title(self) -> str:
        return "embeddings from a file"

    def require_weights(self) -> None:
        self._etag()

    def identity(self) -> dict:
        return {"kind": self.kind, "etag": self._etag()}

    def work(self) -> "EncoderWork":
        from dxmc_core.workload import EncoderWork

        return EncoderWork()

    def _etag(self) -> str:
        """What stands for the content of the file."""
        with named("encoders.uri"):
            return stat_file(normalize_uri(self.uri)).etag
