"""Settings of build_semantic_space."""

import hashlib
import json
import os
from dataclasses import fields
from pathlib import Path

from pydantic import Field

from dxmc_core.artifacts.manifest import fingerprint_of
from dxmc_core.artifacts.storage import is_local, normalize_uri
from dxmc_core.encoders import EncoderConfig
from dxmc_core.method.hyperparameters import SpaceSettings
from dxmc_core.settings import Settings
from dxmc_core.vocabulary import VocabularyConfig, vocabulary_identity


class BuildSemanticSpaceConfig(Settings):
    """How the semantic space is built."""

    nouns_per_center: int = Field(5, ge=1)
    """Most confident nouns kept of each image centre (gamma in the paper)."""
    max_centers: int = Field(20_000, ge=1)
    """Cap on the number of image centres, of which there is one for every 300 images: the work of k-means grows with
    the square of it, and 100,000 selected nouns are most of WordNet already."""
    kmeans_restarts: int | None = Field(None, ge=1)
    """By default 10 up to 60,000 images, 1 beyond."""
    kmeans_iterations: int | None = Field(None, ge=1)
    """At most so many. By default 300 up to 60,000 images, 30 beyond, from 500 centres on fewer, at least 20."""
    max_points_per_center: int | None = Field(None, ge=1)
    """k-means is trained on a sample of this many images per centre, then every image is assigned. By default 256 up to
    60,000 images, 128 beyond, from 500 centres on fewer, at least 64."""
    count_copies_once: bool = False
    """Images with the same embedding count as one in the image centres."""
    temperature: float | None = Field(None, gt=0)
    """Softmax temperature of retrieval; by default the encoder's own (0.005 for OpenAI CLIP)."""
    top_nouns: int | None = Field(None, ge=1)
    """Mix only this many nearest nouns into a counterpart; by default all of them."""
    noun_cache_uri: str | None = None
    """Where noun embeddings are kept for the next run; by default beside an S3 run directory, else ~/.cache/dxmc."""

    @property
    def selection(self) -> SpaceSettings:
        """What the selection of nouns takes of them."""
        return SpaceSettings(**self.model_dump(include={field.name for field in fields(SpaceSettings)}))


def fingerprint(
    config: BuildSemanticSpaceConfig,
    vocabulary: VocabularyConfig,
    encoder: EncoderConfig | None,
    *,
    num_clusters: int,
    seed: int,
    inputs: dict[str, str],
) -> str:
    settings = config.model_dump(mode="json", exclude={"noun_cache_uri"})
    return fingerprint_of(
        "build_semantic_space",
        {**settings, "nouns": nouns_identity(vocabulary, encoder), "num_clusters": num_clusters, "seed": seed},
        inputs,
    )


def nouns_identity(vocabulary: VocabularyConfig, encoder: EncoderConfig | None) -> dict:
    needs_encoder = encoder is not None and vocabulary.kind != "embeddings"
    return {
        "vocabulary": vocabulary_identity(vocabulary),
        "encoder": encoder.identity() if needs_encoder and encoder is not None else None,
    }


def cache_name(vocabulary: VocabularyConfig, encoder: EncoderConfig | None) -> str:
    """The file of an embedded vocabulary there."""
    identity = json.dumps(nouns_identity(vocabulary, encoder), sort_keys=True)
    return f"nouns-{hashlib.sha256(identity.encode()).hexdigest()[:32]}.parquet"


def cache_uri(config: BuildSemanticSpaceConfig, run_dir_uri: str) -> str:
    """Where embedded vocabularies of all runs are kept."""
    if config.noun_cache_uri is not None:
        return normalize_uri(config.noun_cache_uri)
    if is_local(run_dir_uri):
        return str(Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "dxmc")
    beside = run_dir_uri.rsplit("/", 1)[0]
    # Beside a whole bucket there are only other people's.
    return f"{run_dir_uri if beside.endswith('/') else beside}/_noun_cache"
