"""Sends what training reports each epoch to TensorBoard or MLflow, where the configuration asks for it."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.storage import is_local
from dxmc_core.errors import InputError

LogTarget = Literal["tensorboard", "mlflow"]
LogEpoch = Callable[[Mapping[str, Any]], None]
_FIGURES = ("balance", "num_changed", "seconds", "samples_per_s")

logger = logging.getLogger(__name__)


@contextmanager
def training_log(
    target: LogTarget | None, run_dir: RunDir, *, fingerprint: str, settings: Mapping[str, str]
) -> Iterator[LogEpoch]:
    """A function to call with the fields of each `EpochReport`; without a target it does nothing.

    TensorBoard's files go to `tensorboard/<fingerprint>` in the run directory; MLflow's server or folder is the one
    that MLFLOW_TRACKING_URI names. A log that fails on the way is given up with a warning: training goes on.

    Args:
        settings: flat, written down beside the curves.

    Raises:
        InputError: the package is not installed, or TensorBoard is to write to object storage.
    """
    name = fingerprint[:12]
    if target == "tensorboard":
        with _tensorboard(run_dir, name, settings) as log:
            yield _giving_up(log, OSError)
    elif target == "mlflow":
        with _mlflow(run_dir, name, settings) as (log, failures):
            yield _giving_up(log, failures)
    else:
        yield lambda epoch: None


def scalars(epoch: Mapping[str, Any]) -> dict[str, float]:
    """The figures of an epoch by name, `loss/<term>` and what else it knows."""
    figures = {f"loss/{term}": value for term, value in epoch["terms"].items()}
    figures |= {name: epoch[name] for name in _FIGURES if epoch[name] is not None}
    return {name: float(value) for name, value in figures.items()}


@contextmanager
def _tensorboard(run_dir: RunDir, name: str, settings: Mapping[str, str]) -> Iterator[LogEpoch]:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise InputError(
            "train_heads.log_to: tensorboard needs the package tensorboardX: pip install tensorboardX"
        ) from error
    if not is_local(run_dir.uri):
        raise InputError(
            f"train_heads.log_to: tensorboard writes to a local run_dir, not to {run_dir.uri}; use mlflow or null"
        )
    with SummaryWriter(logdir=str(Path(run_dir.uri) / "tensorboard" / name)) as writer:
        writer.add_text("settings", "\n".join(f"    {key}: {value}" for key, value in settings.items()))

        def log(epoch: Mapping[str, Any]) -> None:
            for figure, value in scalars(epoch).items():
                writer.add_scalar(figure, value, global_step=epoch["epoch"])
            writer.flush()

        yield log


@contextmanager
def _mlflow(
    run_dir: RunDir, name: str, settings: Mapping[str, str]
) -> Iterator[tuple[LogEpoch, type[Exception] | tuple[type[Exception], ...]]]:
    try:
        import mlflow
    except ImportError as error:
        raise InputError("train_heads.log_to: mlflow needs the package mlflow: pip install mlflow") from error
    with mlflow.start_run(run_name=f"{run_dir.uri.rsplit('/', 1)[-1]}-{name}") as run:
        mlflow.log_params(dict(settings))

        def log(epoch: Mapping[str, Any]) -> None:
            mlflow.log_metrics(scalars(epoch), step=epoch["epoch"], run_id=run.info.run_id)

        yield log, (OSError, mlflow.exceptions.MlflowException)


def _giving_up(log: LogEpoch, failures: type[Exception] | tuple[type[Exception], ...]) -> LogEpoch:
    """The same function until it fails; then one warning and nothing more."""
    failed = False

    def log_until_failure(epoch: Mapping[str, Any]) -> None:
        nonlocal failed
        if failed:
            return
        try:
            log(epoch)
        except failures as error:
            failed = True
            logger.warning("train_heads.log_to: logging stopped at epoch %d: %s", epoch["epoch"], error)

    return log_until_failure
