"""Small pictures of catalog rows, for pages that people look at."""

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from dxmc_core.images.decode import ImageRejectedError, decode_image, thumbnail
from dxmc_core.images.fetch import FetchImages
from dxmc_core.images.sources import EmbeddingsSource, ImagesSource, SourceConfig

_DECODING_THREADS = 8
_FILES_AT_A_TIME = 32


def make_thumbnails(catalog: pa.Table, source: SourceConfig, *, size: int) -> dict[int, bytes]:
    """WebP pictures by row id; none of a file that has gone or changed since it was embedded.

    Args:
        catalog: rows of the catalog. Of embeddings, only rows that came with a URI of their own have a picture.
        size: longest edge in pixels.
    """
    if isinstance(source, EmbeddingsSource):
        catalog = catalog.filter(pc.not_equal(catalog["uri"], source.uri))
        source = ImagesSource(uri=source.uri)
    fetch = FetchImages(source)

    def made(file: bytes | ImageRejectedError) -> bytes | None:
        try:
            return (
                thumbnail(decode_image(file, max_pixels=source.max_pixels, min_size=size), size)
                if isinstance(file, bytes)
                else None
            )
        except ImageRejectedError:
            return None

    thumbnails: dict[int, bytes] = {}
    with ThreadPoolExecutor(_DECODING_THREADS) as threads:
        for start in range(0, catalog.num_rows, _FILES_AT_A_TIME):
            rows = catalog.slice(start, _FILES_AT_A_TIME)
            pictures = zip(rows["row_id"].to_pylist(), threads.map(made, fetch(rows)), strict=True)
            thumbnails |= {row: picture for row, picture in pictures if picture is not None}
    return thumbnails
