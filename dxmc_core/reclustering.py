"""Whether a source that has changed needs a full clustering: thresholds, and the reason in a sentence.

Stands between the drift that a scheduled run has measured and what it does about it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from dxmc_core.artifacts.manifest import fingerprint_of
from dxmc_core.method.clusters.drift import AssignmentFigures, Drift, measure_drift
from dxmc_core.settings import Settings

Mode = Literal["assign", "full"]

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


@dataclass(frozen=True)
class SinceFull:
    """What was measured at the last full clustering, and what happened since.

    Attributes:
        reference: figures over all images of that clustering.
        far: the distance beyond which 1 in 100 of them lay.
        nights: figures over the images that were assigned in each of the last nights, the newest last.
        num_arrived, num_removed: images that came and went since.
    """

    reference: AssignmentFigures
    far: float
    nights: tuple[AssignmentFigures, ...] = ()
    num_arrived: int = 0
    num_removed: int = 0

    @property
    def drift(self) -> Drift:
        return measure_drift(self.reference, sum(self.nights, start=AssignmentFigures()))

    @property
    def turnover(self) -> float:
        return (self.num_arrived + self.num_removed) / self.reference.num_images

    def with_night(self, arrivals: AssignmentFigures, *, num_removed: int, min_arrivals: int) -> "SinceFull":
        """With one more night; older ones are left out where the others have `min_arrivals` images without them."""
        nights = (*self.nights, arrivals)
        while sum(night.num_images for night in nights[1:]) >= min_arrivals:
            nights = nights[1:]
        num_arrived = self.num_arrived + arrivals.num_images
        return SinceFull(self.reference, self.far, nights, num_arrived, self.num_removed + num_removed)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SinceFull":
        """From what `dataclasses.asdict` made."""
        nights = tuple(AssignmentFigures(**night) for night in values["nights"])
        return cls(**{**values, "reference": AssignmentFigures(**values["reference"]), "nights": nights})


@dataclass(frozen=True)
class Decision:
    """What is done tonight, and why, in a sentence."""

    mode: Mode
    reason: str


def decide(config: ReclusterConfig, since: SinceFull) -> Decision:
    """Assign by the existing heads, or cluster anew: the rule of `--mode auto`."""
    drift = since.drift
    if since.turnover > config.max_turnover:
        return Decision("full", f"turnover is {since.turnover:.2f}, above max_turnover {config.max_turnover:g}")
    if drift.num_arrivals < config.min_arrivals:
        return Decision(
            "assign",
            f"only {drift.num_arrivals} images came since the last full clustering, fewer than min_arrivals "
            f"{config.min_arrivals}",
        )
    limits = (
        ("far_rise", config.max_far_rise),
        ("distance_rise", config.max_distance_rise),
        ("low_margin_rise", config.max_low_margin_rise),
        ("confidence_drop", config.max_confidence_drop),
    )
    measured = f"in the {drift.num_arrivals} newest images"
    for name, limit in limits:
        value = getattr(drift, name)
        if value > limit:
            return Decision("full", f"{name} is {value:.3f}, above max_{name} {limit:g}, {measured}")
    values = ", ".join(f"{name} {getattr(drift, name):.3f} (max {limit:g})" for name, limit in limits)
    return Decision("assign", f"drift is within its limits: {values}, {measured}")


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
