"""The public names of dxmc in one place. Importing it is light: what a name needs is imported when it is asked for."""

from typing import TYPE_CHECKING, Any

from dxmc_core import __version__

if TYPE_CHECKING:
    from dxmc_core.artifacts.heads import deserialize_heads
    from dxmc_core.artifacts.run_dir import RunDir
    from dxmc_core.errors import ArtifactError, DxmcError, InputError
    from dxmc_core.estimator import DXMC
    from dxmc_core.extras import MissingPackageError
    from ray_jobs.run_pipeline import run_pipeline

__all__ = [
    "DXMC",
    "ArtifactError",
    "DxmcError",
    "InputError",
    "MissingPackageError",
    "RunDir",
    "__version__",
    "deserialize_heads",
    "run_pipeline",
]

#: Where each name is, and the extra that has what it needs beyond a plain installation.
_PLACES = {
    "DXMC": ("dxmc_core.estimator", ""),
    "ArtifactError": ("dxmc_core.errors", ""),
    "DxmcError": ("dxmc_core.errors", ""),
    "InputError": ("dxmc_core.errors", ""),
    "MissingPackageError": ("dxmc_core.extras", ""),
    "RunDir": ("dxmc_core.artifacts.run_dir", "pipeline"),
    "deserialize_heads": ("dxmc_core.artifacts.heads", ""),
    "run_pipeline": ("ray_jobs.run_pipeline", "pipeline"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'dxmc' has no attribute {name!r}; it has {', '.join(__all__)}")
    from importlib import import_module

    from dxmc_core.extras import needed_for

    module, extra = _PLACES[name]
    with needed_for(f"dxmc.{name}", extra=extra):
        found = getattr(import_module(module), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
