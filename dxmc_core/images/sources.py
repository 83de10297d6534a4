"""The sections `source` of a configuration: what kinds of places images, or embeddings, are read from."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from dxmc_core.images.formats import MAX_PIXELS
from dxmc_core.images.selection import BY_CONTENT, Selection, pattern_expression
from dxmc_core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from dxmc_core.images.parquet_images import ParquetCells


def _as_list(value: Any) -> Any:
    """One text is a list of one."""
    return [value] if isinstance(value, str) else value


def _check_patterns(patterns: tuple[str, ...]) -> tuple[str, ...]:
    for pattern in patterns:
        try:
            pattern_expression(pattern)
        except ValueError as error:
            raise ValueError(f"{pattern!r} is no pattern: {error}") from error
    return patterns


def _check_suffixes(suffixes: tuple[str, ...]) -> tuple[str, ...]:
    """In small letters, with their dot."""
    for suffix in suffixes:
        if not suffix.strip(".") or "/" in suffix or (BY_CONTENT in suffix and suffix != BY_CONTENT):
            raise ValueError(f"expected endings such as .dat, or {BY_CONTENT} alone, found {suffix!r}")
    return tuple(suffix if suffix == BY_CONTENT else f".{suffix.lower().removeprefix('.')}" for suffix in suffixes)


_Patterns = Annotated[tuple[str, ...], BeforeValidator(_as_list), AfterValidator(_check_patterns)]
_Suffixes = Annotated[tuple[str, ...], BeforeValidator(_as_list), AfterValidator(_check_suffixes)]


class _Selects(Settings):
    """What all sources have in common."""

    include: _Patterns = ()
    """Patterns of the images to take; by default all. `*.jpg` and `cats` are names of files or of folders at any depth,
    `2019/*/small` is a path from the beginning, `**` stands for any folders. Hidden and service folders are taken where
    a pattern names them: [.thumbnails]."""
    exclude: _Patterns = ()
    """Patterns of the images to leave out, whatever `include` says."""


class _ReadsImages(_Selects, ABC):
    """What all sources of images, not of embeddings, have in common, and what each says of itself."""

    #: The `uri` of a row leads to its picture alone, so that a report may link to it.
    has_own_uris: ClassVar[bool] = False

    max_pixels: int = Field(MAX_PIXELS, gt=0)
    """Images with more pixels than this are rejected as too_large before they are decoded."""
    fast_jpeg: bool = False
    """Decode JPEGs much larger than the encoder's input at a fraction of their size: 2 to 4 times faster for photos.
    The embedding's cosine to that of the full decode was 0.9996 in the mean and 0.9987 at the lowest (52 pictures)."""
    max_reject_fraction: float = Field(0.5, ge=0, le=1)
    """A run stops as soon as it is clear that more than this share of the images will be rejected; 1 never stops. It
    may be changed and the run goes on."""
    timeout_s: float = Field(120.0, gt=0)
    """Seconds for fetching one file, or a group of small neighbours in a tar, with all retries."""

    @abstractmethod
    def tables(self, selection: Selection) -> "Iterator[pa.Table]":
        """List the images, as tables with the columns of `listing.LISTED`."""

    def cells(self) -> "ParquetCells | None":
        """What reads images that are neither files nor ranges of files; None where there are none."""
        return None


class ImagesSource(_ReadsImages):
    """Image files: a folder or prefix, a glob, or a list file."""

    has_own_uris: ClassVar[bool] = True

    kind: Literal["images"] = "images"
    uri: str
    """Folder, prefix (s3://bucket/photos/), glob, or a .txt, .csv or .parquet list with a `uri` column. A list's
    columns `image_id`, `size` and `etag` are used where it has them; others are carried into the catalog."""
    label_from: str | None = None
    """`parent_folder`, or a column of the list file. Labels are used by evaluation only."""
    suffixes: _Suffixes = ()
    """Endings of files that are images too, besides the usual ones: [.dat]. With "*" every other file of a folder is
    looked at, and taken when its first bytes are those of an image."""

    def tables(self, selection: Selection) -> "Iterator[pa.Table]":
        from dxmc_core.images.listing import list_images

        return list_images(self.uri, label_from=self.label_from, selection=selection)


class WebDatasetSource(_ReadsImages):
    """Images in .tar files as WebDataset writes them: the members of a sample stand together and share a key."""

    kind: Literal["webdataset"]
    uri: str
    """A .tar file, a folder or prefix, a glob, or names in braces: s3://bucket/shards/train-{0000..0127}.tar"""
    label_from: str | None = None
    """`parent_folder` of the key, or a member of the sample: `cls`, `txt`, or `json.<field>`."""
    suffixes: _Suffixes = ()
    """Endings of members that are images too, besides the usual ones: [.dat]. With "*" the first bytes decide."""
    image_id: Literal["key", "shard_and_key"] = "key"
    """What an image is called: its key, or <tar without .tar>/<key> where several tars use the same keys."""

    def tables(self, selection: Selection) -> "Iterator[pa.Table]":
        from dxmc_core.images.tar_listing import list_tars

        return list_tars(self, selection)


class ParquetSource(_ReadsImages):
    """Images in a column of Parquet files: bytes, or the {bytes, path} of Hugging Face data sets."""

    kind: Literal["parquet"]
    uri: str
    """A .parquet file, a folder or prefix, or a glob."""
    image_column: str | None = None
    """By default the one column that holds bytes."""
    id_column: str | None = None
    """The column of image ids (`image.path` for the path beside the bytes); by default <file>#<row>."""
    label_from: str | None = None
    """The column of labels."""

    def tables(self, selection: Selection) -> "Iterator[pa.Table]":
        from dxmc_core.images.parquet_images import list_parquet

        return list_parquet(self, selection)

    def cells(self) -> "ParquetCells":
        from dxmc_core.images.parquet_images import ParquetCells

        return ParquetCells(self)


class EmbeddingsSource(_Selects):
    """Embeddings that somebody has computed already."""

    kind: Literal["embeddings"]
    uri: str
    """.npz (`embeddings` (N, D), optional `labels`, `image_ids` and `uris` (N,)), .npy, or Parquet with the same
    columns. `uris` are the pictures that the report shows: paths (from the file's folder) or addresses."""
    label_from: str | None = None
    """Parquet: the column of labels. In .npz it is `labels`, and this may name another array."""


ImageSource = ImagesSource | WebDatasetSource | ParquetSource
SourceConfig = Annotated[ImageSource | EmbeddingsSource, Field(discriminator="kind")]

_CHANGES_NOTHING = {"max_reject_fraction", "timeout_s"}
#: They decide which images there are, as adding and deleting files does: the digest of what was listed says so.
_CHANGES_THE_LISTING = {"include", "exclude", "suffixes"}


def identity_of(source: ImageSource | EmbeddingsSource) -> dict[str, Any]:
    """The settings that decide what is embedded; a run directory holds one of these."""
    return source.model_dump(mode="json", exclude=_CHANGES_NOTHING | _CHANGES_THE_LISTING)
