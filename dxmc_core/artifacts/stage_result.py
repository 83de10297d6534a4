"""What a stage has made, between its work and the manifest that publishes it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dxmc_core.artifacts.manifest import Manifest, Part

if TYPE_CHECKING:
    from dxmc_core.artifacts.stage_dir import StageDir


@dataclass(frozen=True)
class StageResult:
    """What a stage has made and not yet published.

    Attributes:
        tables: the parts of each table.
        metrics: JSON types only.
        files: others, by name.
    """

    tables: Mapping[str, Sequence[Part]]
    metrics: Mapping[str, Any]
    files: Mapping[str, Part] = field(default_factory=dict)

    def publish(self, output: "StageDir", *, fingerprint: str, inputs: Mapping[str, str], started: float) -> Manifest:
        """Write the manifest, see `StageDir.publish`.

        Args:
            started: when the stage began, by `time.perf_counter`.
        """
        return output.publish(
            fingerprint=fingerprint,
            inputs=inputs,
            tables=self.tables,
            files=self.files,
            metrics=self.metrics,
            seconds=time.perf_counter() - started,
        )
