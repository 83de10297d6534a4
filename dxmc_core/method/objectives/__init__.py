"""The gradient methods by name: their objectives.

A new method is a module beside this one, its settings in `hyperparameters.py`, and a line in the table of each.
"""

from collections.abc import Callable

from dxmc_core.method.hyperparameters import Hyperparameters, hyperparameters_of
from dxmc_core.method.objectives.base import Objective
from dxmc_core.method.objectives.best import BestObjective
from dxmc_core.method.objectives.dxmc import DXMCObjective
from dxmc_core.method.objectives.mca import MCAObjective
from dxmc_core.method.objectives.sic import SICObjective
from dxmc_core.method.objectives.tac import TACObjective
from dxmc_core.method.objectives.temi import TEMIObjective
from dxmc_core.method.objectives.turtle import TURTLEObjective

__all__ = [
    "BestObjective",
    "DXMCObjective",
    "MCAObjective",
    "Objective",
    "SICObjective",
    "TACObjective",
    "TEMIObjective",
    "TURTLEObjective",
    "build_objective",
]

_OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "best": BestObjective,
    "dxmc": DXMCObjective,
    "mca": MCAObjective,
    "sic": SICObjective,
    "tac": TACObjective,
    "temi": TEMIObjective,
    "turtle": TURTLEObjective,
}


def build_objective(
    method: str, embedding_width: int, num_clusters: int, hyperparameters: Hyperparameters, *, seed: int = 0
) -> Objective:
    """The objective of a method with fresh heads; raises TypeError for another method's hyperparameters."""
    expected = hyperparameters_of(method)
    if type(hyperparameters) is not expected:
        raise TypeError(f"{method} takes {expected.__name__}, found {type(hyperparameters).__name__}")
    return _OBJECTIVES[method](embedding_width, num_clusters, hyperparameters, seed=seed)
