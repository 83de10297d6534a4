"""Settings of `dxmc recluster`, and the hashes by which it knows that others have changed."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from dxmc_core.artifacts.manifest import fingerprint_of
from dxmc_core.settings import Settings

#: Sections of a configuration that decide what clusters there are; a change of one asks for a full clustering.
_CLUSTERING = (
    "vocabulary",
    "num_clusters",
    "method",
    "suggest_k",
    "build_semantic_space",
    "mine_neighbors",
    "seed",
)
#: Settings of mine_neighbors that are for searching a run only.
_SEARCHING = ("search_index", "text_search_index")
#: Sections that decide how clusters are shown.
_DESCRIBING = ("assign_clusters", "write_report")


class ReclusterConfig(Settings):
    """When `dxmc recluster` clusters anew, and what it keeps. Drift is that of the newest images, against all images of
    the last full clustering."""

    max_confidence_drop: float = Field(0.15, ge=0, le=1)
    """By how much the mean confidence may be lower."""
    max_low_margin_rise: float = Field(0.2, ge=0, le=1)
    """By how much the share of images between two clusters (margin below 0.2) may be higher."""
    max_distance_rise: float = Field(0.05, ge=0)
    """By what fraction the mean distance to the own centre may be longer."""
    max_far_rise: float = Field(0.03, ge=0, le=1)
    """By how much the share of images that are farther out than 99 in 100 of that clustering may exceed its 0.01."""
    min_arrivals: int = Field(200, ge=1)
    """Drift is measured on the images of as many of the last nights as it takes to have this many; with fewer since
    the last full clustering, nothing is said about drift."""
    max_turnover: float = Field(0.5, gt=0)
    """Images that came or went since that clustering, as a fraction of those it had."""
    keep_generations: int = Field(7, ge=1)
    """So many generations are kept for readers that are at work, and for dxmc rollback; older ones are removed."""
    prometheus_uri: str | None = None
    """Where metrics.prom is written too, such as a file in the folder of node_exporter's textfile collector."""


def clustering_settings(settings: Mapping[str, Any]) -> str:
    """A hash of the settings that decide what clusters there are.

    Args:
        settings: a configuration as plain values.
    """
    chosen = {name: settings[name] for name in _CLUSTERING}
    mined = chosen["mine_neighbors"]
    chosen["mine_neighbors"] = {name: value for name, value in mined.items() if name not in _SEARCHING}
    copies = settings["train_heads"]["count_near_duplicates_once"]  # its other settings change no cluster
    return fingerprint_of("recluster", {**chosen, "count_near_duplicates_once": copies}, {})


def describing_settings(settings: Mapping[str, Any], edits: Sequence[Mapping[str, Any]]) -> str:
    """A hash of the settings that decide how clusters are shown, and of what people say (`Edit.essence`)."""
    shown = {name: dict(settings[name]) for name in _DESCRIBING}
    for place in ("keep_ids_from", "renames"):
        shown["assign_clusters"].pop(place)
    return fingerprint_of("recluster", {**shown, "edits": list(edits)}, {})
