"""All methods as one estimator in scikit-learn's manner: embeddings in memory, no files, no Ray.

It runs the functions that the stages run, in their order and on the same rounded numbers, so the same seed gives the
assignments of the pipeline.
"""

from dxmc_core.estimator.dxmc import DXMC

__all__ = ["DXMC"]
