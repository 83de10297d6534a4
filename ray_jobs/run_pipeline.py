"""The whole pipeline as one job: `python -m ray_jobs.run_pipeline --config FILE`, the same as `dxmc run`.

From Python it is `run_pipeline(config)`.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.config import load_config, parse_config
from ray_jobs.main import main_of, run_config


def run_pipeline(config: str | os.PathLike | Mapping[str, Any], *, overrides: Sequence[str] = ()) -> RunDir:
    """Run all stages that are not up to date, on the Ray that this process is connected to, or a local one.

    Args:
        config: a YAML file, or its content as a mapping: `{"run_dir": "runs/mine", "source": {...}, ...}`.
        overrides: for a file, `section.key=value` as of `--set`.

    Returns:
        The run directory: `run_dir.stage("assign_clusters").read_table("assignments")` is an Arrow table.

    Raises:
        InputError: the configuration or the input cannot be used.
        DxmcError: the run failed; the same call goes on from there.
    """
    if isinstance(config, Mapping):
        return run_config(parse_config(dict(config), where="the configuration")).run_dir
    return run_config(load_config(os.fspath(config), overrides)).run_dir


if __name__ == "__main__":
    main_of()
