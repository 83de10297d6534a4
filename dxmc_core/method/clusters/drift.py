"""Drift: how far newly assigned images are from those that the heads were trained on, by figures that need no labels.

Stands between the assignment of new images by the heads of the last full clustering and the decision whether that
clustering still fits.
"""

from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

#: An image whose best cluster leads the next by less than this probability is between two clusters.
LOW_MARGIN = 0.2
#: Images beyond this quantile of the reference's distances are far out: 1 in 100 of the reference.
_FAR_QUANTILE = 0.99


@dataclass(frozen=True)
class AssignmentFigures:
    """Figures over assigned images, kept as sums so that those of several nights add up.

    Attributes:
        num_images: N.
        confidence: sum of the probabilities of the images' clusters.
        distance: sum of the distances to the own centre in units of the cluster's mean distance (outlier_score).
        num_low_margin: images whose margin is below `LOW_MARGIN`.
        num_far: images beyond the reference's 99th percentile of those distances.
    """

    num_images: int = 0
    confidence: float = 0.0
    distance: float = 0.0
    num_low_margin: int = 0
    num_far: int = 0

    @classmethod
    def of(cls, confidences: np.ndarray, margins: np.ndarray, distances: np.ndarray, *, far: float) -> Self:
        """Of N images: confidences, margins and distances (N,); `far` is `far_distance` of the reference."""
        return cls(
            len(confidences),
            float(np.sum(confidences, dtype=np.float64)),
            float(np.sum(distances, dtype=np.float64)),
            int(np.count_nonzero(margins < LOW_MARGIN)),
            int(np.count_nonzero(distances > far)),
        )

    def __add__(self, other: "AssignmentFigures") -> "AssignmentFigures":
        mine, others = asdict(self), asdict(other)
        return AssignmentFigures(**{name: mine[name] + others[name] for name in mine})

    def summary(self) -> dict[str, float]:
        """Means and shares; all zero without images."""
        count = max(self.num_images, 1)
        return {
            "mean_confidence": self.confidence / count,
            "mean_distance": self.distance / count,
            "low_margin_share": self.num_low_margin / count,
            "far_share": self.num_far / count,
        }


def held_out_distances(distances: np.ndarray, labels: np.ndarray, mean_distances: np.ndarray) -> np.ndarray:
    """What the distances would be if each image had not taken part in its own centre.

    Centres lie nearer to the images that they are means of than to any others, the more so the smaller the cluster and
    the wider the embedding: with 100 images per cluster of 1,664 dimensions, by 4 in 100. New images would seem to
    drift. The length of a cluster's sum is the sum of its cosines, so no embedding is needed.

    Args:
        distances: (N,) of images to the centres, 1 - cosine in units of `mean_distances`.
        labels: (N,) clusters.
        mean_distances: (K,) means of 1 - cosine in each.
    """
    units = mean_distances[labels]
    cosines = 1 - distances.astype(np.float64) * units
    lengths = np.bincount(labels, cosines, minlength=len(mean_distances))[labels]
    others = lengths - cosines
    without = (lengths * cosines - 1) / np.sqrt(np.maximum(others**2 + 1 - cosines**2, 1e-12))
    has_others = np.bincount(labels, minlength=len(mean_distances))[labels] > 1
    usable = has_others & (units > 1e-6)
    return np.where(usable, (1 - without) / np.where(usable, units, 1), distances)


def far_distance(distances: np.ndarray) -> float:
    """The distance beyond which 1 in 100 images of a full clustering lies."""
    return float(np.quantile(distances, _FAR_QUANTILE))


@dataclass(frozen=True)
class Drift:
    """What became worse from the reference to the arrivals; all 0 where nothing did, negative where it got better.

    Attributes:
        num_arrivals: images that the figures rest on.
        confidence_drop: of the mean confidence, as a difference.
        low_margin_rise: of the share of images between two clusters, as a difference.
        distance_rise: of the mean distance to the own centre, as a fraction.
        far_rise: of the share of images that are far out, as a difference.
    """

    num_arrivals: int
    confidence_drop: float
    low_margin_rise: float
    distance_rise: float
    far_rise: float

    def as_dict(self) -> dict[str, Any]:
        return {name: round(value, 6) for name, value in asdict(self).items()}


def measure_drift(reference: AssignmentFigures, arrivals: AssignmentFigures) -> Drift:
    """The drift of images that arrived since a full clustering, against all images of that clustering.

    Raises:
        ValueError: the reference has no images.
    """
    if not reference.num_images:
        raise ValueError("expected a reference with images, found none")
    if not arrivals.num_images:
        return Drift(0, 0.0, 0.0, 0.0, 0.0)
    before, now = reference.summary(), arrivals.summary()
    return Drift(
        arrivals.num_images,
        before["mean_confidence"] - now["mean_confidence"],
        now["low_margin_share"] - before["low_margin_share"],
        now["mean_distance"] / max(before["mean_distance"], 1e-12) - 1,
        now["far_share"] - before["far_share"],
    )
