"""Which processes embed images on which machines."""

import pytest

from dxmc_core.config import ResourcesConfig
from ray_jobs.embed_images import choose_layout


@pytest.mark.parametrize(
    ("settings", "cores", "gpus", "workers", "num_cpus", "threads"),
    [
        ({}, 2, 0, (2, 0), 1.0, 1),
        ({"embed_workers": 2}, 16, 0, (2, 0), 1.0, 8),
        ({"embed_workers": 4}, 2, 0, (4, 0), 0.5, 1),
        ({"embed_workers": 1, "decode_workers": 1}, 2, 0, (1, 1), 1.0, 1),
        ({}, 16, 1, (1, 15), 1.0, 1),
        ({}, 96, 8, (8, 88), 1.0, 1),
        ({}, 1, 1, (1, 0), 1.0, 1),
        ({"decode_workers": 0}, 16, 1, (1, 0), 1.0, 16),
    ],
)
def test_layout(settings, cores, gpus, workers, num_cpus, threads):
    layout = choose_layout(ResourcesConfig(**settings), cores=cores, gpus=gpus)
    assert (layout.embed_workers, layout.decode_workers) == workers
    assert (layout.num_cpus, layout.threads_per_worker) == (num_cpus, threads)
    assert layout.gpus_per_worker * layout.embed_workers == gpus
    assert layout.num_cpus * sum(workers) <= cores
