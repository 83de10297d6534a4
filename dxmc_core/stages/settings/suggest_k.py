"""Settings of suggest_k."""

from pydantic import Field

from dxmc_core.artifacts.manifest import fingerprint_of
from dxmc_core.method.hyperparameters import MIN_ROWS_FOR_K
from dxmc_core.settings import Settings

PLOT_NAME = "scores.html"


class SuggestKConfig(Settings):
    """Which numbers of clusters are looked at, and on how many images."""

    max_images: int = Field(10_000, ge=MIN_ROWS_FOR_K)
    """Scores are taken on a seeded sample of at most this many images, and of twice as many or more also on two whole
    regions of that size; the work grows with its square and not with the number of images."""
    max_clusters: int | None = Field(None, ge=2)
    """The largest K looked at; by default, and at most, a tenth of the images."""


def fingerprint(config: SuggestKConfig, *, seed: int, inputs: dict[str, str]) -> str:
    return fingerprint_of("suggest_k", {**config.model_dump(mode="json"), "seed": seed}, inputs)
