"""Whether a source that has changed needs a full clustering: thresholds, and the reason in a sentence.

Stands between the drift that a scheduled run has measured and what it does about it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dxmc_core.method.clusters.drift import AssignmentFigures, Drift, measure_drift
from dxmc_core.stages.settings.recluster import ReclusterConfig

Mode = Literal["assign", "full"]


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
