"""What the estimator shows while it fits: one bar, a step at a time."""

from types import TracebackType
from typing import Any, Self

from tqdm.auto import tqdm

from dxmc_core.method.steps import WorkStep
from dxmc_core.method.training import EpochReport


class FitProgress:
    """A bar on stderr, or in the notebook, that names the step at hand; silent unless it is asked for."""

    def __init__(self, *, shown: bool) -> None:
        self._bar = tqdm(desc="DXMC", bar_format="{desc} [{elapsed}{postfix}]", disable=not shown)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.begin("done")
        self._bar.close()

    def begin(self, step: str) -> None:
        """Name the step that starts now."""
        self._bar.set_postfix(refresh=False)
        self._bar.set_description_str(f"DXMC: {step}")

    def epoch(self, report: EpochReport, _make_state: Any) -> None:
        """An `EpochCallback`."""
        self._bar.set_postfix(epoch=f"{report.epoch}/{report.num_epochs}", loss=f"{report.terms['total']:.4g}")

    def work(self, step: WorkStep) -> None:
        """An `OnStep`: how far the step at hand is."""
        self._bar.set_postfix_str(f"{step.doing}, {step.done} of {step.total} {step.unit}")
