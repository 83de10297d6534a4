"""The gradient methods by name: what they read, their published settings, their objectives.

A new method is a module beside this one and a line in the table.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from dxmc_core.method.objectives.base import Hyperparameters, Objective
from dxmc_core.method.objectives.best import BestHyperparameters, BestObjective
from dxmc_core.method.objectives.dxmc import DXMCHyperparameters, DXMCObjective
from dxmc_core.method.objectives.mca import MCAHyperparameters, MCAObjective
from dxmc_core.method.objectives.sic import SICHyperparameters, SICObjective
from dxmc_core.method.objectives.tac import TACHyperparameters, TACObjective
from dxmc_core.method.objectives.temi import TEMIHyperparameters, TEMIObjective
from dxmc_core.method.objectives.turtle import TURTLEHyperparameters, TURTLEObjective

__all__ = [
    "GRADIENT_METHODS",
    "BestHyperparameters",
    "BestObjective",
    "DXMCHyperparameters",
    "DXMCObjective",
    "Hyperparameters",
    "MCAHyperparameters",
    "MCAObjective",
    "Objective",
    "SICHyperparameters",
    "SICObjective",
    "TACHyperparameters",
    "TACObjective",
    "TEMIHyperparameters",
    "TEMIObjective",
    "TURTLEHyperparameters",
    "TURTLEObjective",
    "build_objective",
    "default_hyperparameters",
    "objective_reads",
]


@dataclass(frozen=True)
class _Method:
    hyperparameters: type[Hyperparameters]
    objective: Callable[..., Objective]
    reads_with: Callable[[Any], tuple[str, ...]]


_METHODS = {
    "best": _Method(BestHyperparameters, BestObjective, BestObjective.reads_with),
    "dxmc": _Method(DXMCHyperparameters, DXMCObjective, DXMCObjective.reads_with),
    "mca": _Method(MCAHyperparameters, MCAObjective, MCAObjective.reads_with),
    "sic": _Method(SICHyperparameters, SICObjective, SICObjective.reads_with),
    "tac": _Method(TACHyperparameters, TACObjective, TACObjective.reads_with),
    "temi": _Method(TEMIHyperparameters, TEMIObjective, TEMIObjective.reads_with),
    "turtle": _Method(TURTLEHyperparameters, TURTLEObjective, TURTLEObjective.reads_with),
}
GRADIENT_METHODS = tuple(_METHODS)


def objective_reads(method: str, hyperparameters: Hyperparameters | None = None) -> tuple[str, ...]:
    """Names of the `TrainingData` matrices that a method needs beyond the image embeddings.

    With `hyperparameters`, what it needs under them; otherwise under its defaults.
    """
    chosen = _method(method)
    return chosen.reads_with(hyperparameters if hyperparameters is not None else chosen.hyperparameters())


def default_hyperparameters(method: str, num_clusters: int, num_images: int, **overrides: Any) -> Hyperparameters:
    """Published settings of a method for data of this shape, with the given ones in their place.

    Args:
        method: one of `GRADIENT_METHODS`.
        num_clusters: K; from 100 on the authors' settings differ.
        num_images: N; data smaller than the published batch are one batch.
        overrides: fields of the method's hyperparameter class; None stands for the default.

    Raises:
        ValueError: unknown method or setting, or a value out of range.
    """
    settings = _method(method).hyperparameters
    known = sorted(field.name for field in fields(settings))
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise ValueError(f"method {method} has no setting {', '.join(unknown)}; it has {', '.join(known)}")
    given = {name: value for name, value in overrides.items() if value is not None}
    return replace(settings.published(num_clusters, num_images, given), **given)


def build_objective(
    method: str, embedding_width: int, num_clusters: int, hyperparameters: Hyperparameters, *, seed: int = 0
) -> Objective:
    """The objective of a method with fresh heads; raises TypeError for another method's hyperparameters."""
    expected = _method(method).hyperparameters
    if type(hyperparameters) is not expected:
        raise TypeError(f"{method} takes {expected.__name__}, found {type(hyperparameters).__name__}")
    return _method(method).objective(embedding_width, num_clusters, hyperparameters, seed=seed)


def _method(name: str) -> _Method:
    if name not in _METHODS:
        raise ValueError(f"expected a method that trains heads ({', '.join(GRADIENT_METHODS)}), found {name!r}")
    return _METHODS[name]
