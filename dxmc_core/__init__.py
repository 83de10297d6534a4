"""dxmc clusters unlabeled images by frozen vision-language embeddings and names every cluster.

This package is the library: arrays, artifacts, encoders, stages. It never imports Ray; `ray_jobs` does.
"""

__version__ = "0.1.0"
