"""What embed_images depends on."""

import json
from collections.abc import Mapping, Sequence

from dxmc_core.artifacts.manifest import fingerprint_of
from dxmc_core.artifacts.storage import stat_file
from dxmc_core.encoders import EncoderConfig, FurtherEncoderConfig
from dxmc_core.images.sources import EmbeddingsSource, ImageSource, identity_of


def source_identity(
    source: ImageSource | EmbeddingsSource,
    encoder: EncoderConfig | None,
    further: Mapping[str, FurtherEncoderConfig] | None = None,
) -> dict:
    """What the embeddings depend on, JSON-able: the settings of source and encoders.

    Args:
        further: encoders beside the first, by their tables.
    """
    identity = {
        "source": identity_of(source),
        "encoder": encoder.identity() if encoder is not None and source.kind != "embeddings" else None,
    }
    if further:
        identity["further_encoders"] = {table: other.identity() for table, other in further.items()}
    return identity


def embeddings_digest(source: EmbeddingsSource) -> str:
    """What stands for the rows of a file of embeddings: its etag, and the patterns where there are any."""
    etag = stat_file(source.uri).etag
    patterns = {"include": source.include, "exclude": source.exclude}
    return f"{etag} {json.dumps(patterns)}" if any(patterns.values()) else etag


def fingerprint(identity: dict, content_digest: str, *, decoders: Sequence[str] = ()) -> str:
    """The stage's fingerprint: its settings, what the source held when it was listed, and optional decoders.

    When such a package has been installed, the stage is done again, taking over all embeddings: what was rejected for
    want of it is tried again.
    """
    settings = {**identity, "content": content_digest, **({"decoders": list(decoders)} if decoders else {})}
    return fingerprint_of("embed_images", settings, {})
