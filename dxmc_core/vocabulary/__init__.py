"""The nouns that clusters are described with: WordNet's, a list of the user's own, or nouns embedded already.

build_semantic_space loads a vocabulary and embeds what is not embedded; assign_clusters climbs WordNet's hypernyms.
"""

from functools import cache
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from dxmc_core.artifacts.storage import digest_of_user_file, is_local, normalize_uri, stat_file
from dxmc_core.errors import named
from dxmc_core.settings import Settings
from dxmc_core.vocabulary.wordnet_files import table_identity

if TYPE_CHECKING:
    from dxmc_core.method.nouns.vocabulary import Vocabulary


class WordNetConfig(Settings):
    """The nouns of WordNet 3.0, lower-case, without duplicates. The table ships with the package."""

    kind: Literal["wordnet"] = "wordnet"
    subset: Literal["all", "frequent", "first_lemma"] = "all"
    """all: 117,798 nouns. frequent: 5,475 common names of things one can photograph and the ImageNet classes; for the
    offline encoder and for machines without a GPU. first_lemma: the 67,186 nouns that head a synset, SIC's choice."""


class FileConfig(Settings):
    """A list of nouns: .txt with one noun a line, or a column of .csv, .tsv or .parquet."""

    kind: Literal["file"]
    uri: str
    """Local path or s3://bucket/key."""
    column: str | None = None
    """The column of nouns; by default `noun`. A column `synset_id` (`dog.n.01`), if there is one, is read too."""


class EmbeddingsConfig(Settings):
    """Nouns that somebody has embedded with the images' encoder."""

    kind: Literal["embeddings"]
    uri: str
    """.npz with `nouns` (M,) and `embeddings` (M, D), or .parquet with the columns `noun` and `embedding`."""


VocabularyConfig = Annotated[WordNetConfig | FileConfig | EmbeddingsConfig, Field(discriminator="kind")]


def load_vocabulary(config: WordNetConfig | FileConfig | EmbeddingsConfig) -> "Vocabulary":
    """Read the nouns, in a fixed order; blank ones and repetitions are dropped and counted in the log.

    Raises:
        InputError: the file cannot be read, has no such column, or holds no usable noun.
    """
    from dxmc_core.vocabulary.files import read_noun_embeddings, read_noun_list  # late: they bring pyarrow
    from dxmc_core.vocabulary.wordnet import wordnet_nouns

    match config:
        case WordNetConfig():
            return wordnet_nouns(config.subset)
        case FileConfig():
            return read_noun_list(normalize_uri(config.uri), column=config.column)
        case EmbeddingsConfig():
            return read_noun_embeddings(normalize_uri(config.uri))


def vocabulary_identity(config: WordNetConfig | FileConfig | EmbeddingsConfig) -> dict:
    """What a fingerprint must know of the vocabulary, JSON-able: it changes when the nouns may have changed.

    Raises:
        InputError: the file does not exist or may not be read.
    """
    match config:
        case WordNetConfig():
            return {"kind": config.kind, "subset": config.subset, "table": table_identity()}
        case FileConfig():
            return {"kind": config.kind, "column": config.column, **_content_identity(normalize_uri(config.uri))}
        case EmbeddingsConfig():
            return {"kind": config.kind, **_content_identity(normalize_uri(config.uri))}


def _content_identity(uri: str) -> dict:
    """Size and digest of a file's content; on object storage, its size and etag (nothing is downloaded).

    Raises:
        InputError: the file does not exist or may not be read.
    """
    with named("vocabulary.uri"):
        stat = stat_file(uri)
    if is_local(uri):
        return {"size": stat.size, "sha256": _sha256(uri, stat.etag)}
    return {"size": stat.size, "etag": stat.etag}


@cache
def _sha256(uri: str, etag: str) -> str:
    """The digest of a local file; `etag` (size and time) makes a changed file a new entry of the cache."""
    with named("vocabulary.uri"):
        return digest_of_user_file(uri)
