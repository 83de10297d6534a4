"""Seeds trained at once end like seeds trained one after another."""

import numpy as np
import pytest
import torch
from torch import nn

from dxmc_core.method.hyperparameters import default_hyperparameters
from dxmc_core.method.objectives import Objective, build_objective
from dxmc_core.method.seeds import stability, train_at_once
from dxmc_core.method.training import train
from dxmc_core.method.training_data import TrainingData

NUM_IMAGES, WIDTH, NUM_CLUSTERS, SEEDS = 90, 12, 4, (3, 5, 8)


def random_data() -> TrainingData:
    generator = torch.Generator().manual_seed(0)
    images, texts = (
        nn.functional.normalize(torch.randn(NUM_IMAGES, WIDTH, generator=generator)).double() for _ in range(2)
    )
    neighbors = torch.randint(NUM_IMAGES, (NUM_IMAGES, 5), generator=generator)
    return TrainingData(images, texts, neighbors, neighbors.flip(1))


def objectives_of(method: str, **overrides: float) -> list[Objective]:
    settings = default_hyperparameters(method, NUM_CLUSTERS, NUM_IMAGES, **overrides)
    return [build_objective(method, WIDTH, NUM_CLUSTERS, settings, seed=seed).double() for seed in SEEDS]


@pytest.mark.parametrize("method", ["dxmc", "tac"])
def test_seeds_at_once_end_like_single_runs(method: str) -> None:
    data = random_data()
    settings = {"num_epochs": 3, "batch_size": 32, "learning_rate": 1e-3, "betas": (0.9, 0.99), "weight_decay": 1e-4}
    at_once = objectives_of(method)
    reports = train_at_once(at_once, data, seeds=SEEDS, **settings)
    for seed, objective, found, alone in zip(SEEDS, at_once, reports, objectives_of(method), strict=True):
        expected = train(alone, data, seed=seed, **settings)
        for own, other in zip(found, expected, strict=True):
            assert own.epoch == other.epoch
            assert own.terms == pytest.approx(other.terms, rel=1e-9)
        assert not objective.training
        state = objective.state_dict()
        for name, value in alone.state_dict().items():
            # Before batch norm a bias has no gradient but rounding errors, which Adam makes steps of.
            if not name.endswith(("cluster_head.0.bias", "running_mean")):
                torch.testing.assert_close(state[name], value, rtol=1e-6, atol=1e-8, msg=name)
        torch.testing.assert_close(
            objective.heads.assignment_probs(data.image_embeddings),
            alone.heads.assignment_probs(data.image_embeddings),
            rtol=0,
            atol=1e-3,
        )


def test_what_cannot_be_stacked_is_refused() -> None:
    with pytest.raises(ValueError, match="expected objectives that can be stacked"):
        train_at_once(
            objectives_of("dxmc", instance_weight=1.0),
            random_data(),
            seeds=SEEDS,
            num_epochs=1,
            batch_size=32,
            learning_rate=1e-3,
        )


def test_stability_is_the_agreement_of_pairs() -> None:
    rows = np.arange(40) % 4
    assert stability([rows, (rows + 1) % 4, 3 - rows]) == 1
    half = np.where(np.arange(40) < 20, rows, 0)
    assert 0 < stability([rows, half]) < 1
