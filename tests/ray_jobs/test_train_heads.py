"""Training on several workers when Ray Train gives up where it need not."""

import pytest
from ray.exceptions import ActorDiedError
from ray.train import ControllerError

from ray_jobs import train_heads

DIED = ControllerError(ActorDiedError())


class Trainers:
    """Stands in for `TorchTrainer`: each that is made ends in the next of some ways, None being well."""

    def __init__(self, *ends):
        self.ends, self.num_made = list(ends), 0

    def __call__(self, _job, **_):
        self.num_made += 1
        return self

    def fit(self):
        end = self.ends.pop(0)
        if end is not None:
            raise end


@pytest.fixture
def train_with(monkeypatch):
    def train(*ends):
        trainers = Trainers(*ends)
        monkeypatch.setattr(train_heads, "_trainer", trainers)
        monkeypatch.setattr(train_heads, "remove_placement_groups", lambda: None)  # there is no Ray
        try:
            train_heads._fit(None, num_workers=2, use_gpu=False)
        except ControllerError as error:
            return trainers.num_made, error
        return trainers.num_made, None

    return train


def test_a_worker_that_dies_while_they_start_is_started_again(train_with):
    assert train_with(DIED, DIED, None) == (3, None)


def test_not_for_ever(train_with):
    assert train_with(*[DIED] * 9) == (4, DIED)


def test_other_failures_of_the_controller_are_not_repeated(train_with):
    failure = ControllerError(ValueError("a setting that cannot be"))
    assert train_with(failure, None) == (1, failure)
