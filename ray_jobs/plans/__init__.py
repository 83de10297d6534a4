"""What is known of each stage without loading what runs it, one module a stage: `dxmc status` and a rerun need no more.

Each module has:
    NAME: of the stage.
    reads(context): names of the stages that it reads.
    fingerprint(context): of the settings and inputs; the stage is up to date while its manifest has the same.
    check(context), in some: looks at what lies outside the run directory before anything runs; raises InputError.
    run(context, fingerprint): does the work as a Ray job and publishes the manifest.
    summary(context): what came out, for a line of the log.
"""

import importlib
from types import ModuleType


def plan_of(stage: str) -> ModuleType:
    """The module of a stage."""
    return importlib.import_module(f"ray_jobs.plans.{stage}")
