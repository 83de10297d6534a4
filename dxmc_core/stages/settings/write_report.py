"""Settings of write_report."""

from pydantic import Field

from dxmc_core.artifacts.manifest import fingerprint_of
from dxmc_core.settings import Settings

REPORT_NAME = "index.html"


class WriteReportConfig(Settings):
    """What the report shows."""

    title: str | None = None
    """By default the last part of the source."""
    max_map_points: int = Field(3000, ge=0)
    """Images on the 2-D map; 0 leaves the map out."""
    thumbnail_size: int = Field(256, ge=16)
    """Longest edge of a thumbnail in pixels before it is fitted to the page's budget."""
    num_low_confidence: int = Field(24, ge=0)
    """Images with the lowest confidence that are shown."""
    num_outliers: int = Field(24, ge=0)
    """Images farthest from their own centre that are shown."""
    num_questions: int = Field(60, ge=0)
    """Yes/no questions that the page asks a person, those first whose answer puts most images right; 0 asks none."""
    max_bytes: int = Field(20_000_000, ge=100_000)
    """Budget of the pictures in the page; they are made smaller to fit."""
    max_member_images: int = Field(10_000, ge=0)
    """Images on the pages of members beside the report, about 6 kB each; of more, every cluster shows evenly spread
    ones. 0 leaves the pages out."""


def fingerprint(config: WriteReportConfig, *, inputs: dict[str, str]) -> str:
    return fingerprint_of("write_report", config.model_dump(mode="json"), inputs)
