"""How many workers train, and training on several when Ray Train gives up where it need not."""

import pytest
from ray.exceptions import ActorDiedError
from ray.train import ControllerError

from dxmc_core.config import ResourcesConfig
from ray_jobs import train_heads
from ray_jobs.hosts import Ask, Host
from ray_jobs.train_heads import TrainingLayout, choose_training

DIED = ControllerError(ActorDiedError())


class Trainers:
    """Stands in for `TorchTrainer`: each that is made ends in the next of some ways, None being well."""

    def __init__(self, *ends):
        self.ends, self.num_made = list(ends), 0

    def __call__(self, *_):
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
        # There is no Ray.
        monkeypatch.setattr(train_heads, "remove_placement_groups", lambda: None)
        monkeypatch.setattr(train_heads, "call_beside_driver", lambda function, *args, ask: function(*args))
        try:
            train_heads._fit(None, TrainingLayout(2, 2, cores=1))
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


def hosts_of(*cores, gpus=0):
    return [Host(f"id{n}", f"node{n}", f"10.0.0.{n}", count, gpus, is_head=n == 0) for n, count in enumerate(cores)]


def layout_of(wanted, found, *, gpus=0, num_images=10**6):
    return choose_training(ResourcesConfig(train_workers=wanted), found, gpus=gpus, num_images=num_images)


@pytest.mark.parametrize(
    ("cores", "wanted", "least", "most", "each"),
    [
        ([2, 2, 2], 2, 2, 2, 2),
        ([8, 8, 8], 2, 2, 2, 8),
        ([8, 16], 2, 2, 2, 8),
        ([16], 4, 4, 4, 4),
        ([0, 4, 4], 2, 2, 2, 4),
        ([1, 1, 1], 2, 2, 2, 1),
        ([1, 8], (1, 2), 1, 2, 4),
        ([4, 4], (2, 16), 2, 16, 1),
        ([], 1, 1, 1, 1),
    ],
)
def test_workers_ask_for_what_fits_host_by_host(cores, wanted, least, most, each):
    found = hosts_of(*cores)
    assert layout_of(wanted, found) == TrainingLayout(least, most, each)
    assert not layout_of(wanted, found).ask.is_hopeless(found)


@pytest.mark.parametrize(("wanted", "most"), [(3, 2), ((3, 8), 8)])
def test_more_workers_than_cores_are_fewer_and_that_is_said(wanted, most):
    found = hosts_of(1, 1)
    layout = layout_of(wanted, found)
    assert (layout.least, layout.most, layout.cores) == (2, most, 1)
    assert layout.note.endswith("one core each for 2 only: 2 hosts (node0 1 core, node1 1 core)")
    assert not layout.ask.is_hopeless(found)


def test_more_workers_than_gpus_are_fewer():
    layout = layout_of(4, hosts_of(8, 8, gpus=1), gpus=2)
    assert (layout.least, layout.most, layout.cores) == (2, 2, 0)
    assert "one GPU each for 2 only" in layout.note


@pytest.mark.parametrize(
    ("cores", "num_images", "least", "most", "each"),
    [
        ([16], 10**7, 1, 1, 16),
        ([8, 8, 8], 10**6, 1, 3, 8),
        ([8, 8, 8], 10**4, 1, 1, 8),
        ([0, 8, 8], 10**6, 1, 2, 8),
        ([1, 8, 8], 10**6, 1, 2, 8),
    ],
)
def test_auto_follows_the_hosts_and_says_why(cores, num_images, least, most, each):
    layout = layout_of("auto", hosts_of(*cores), num_images=num_images)
    assert (layout.least, layout.most, layout.cores) == (least, most, each)
    assert (layout.note is None) == (sum(count > 0 for count in cores) == 1)


def test_one_gpu_is_used_by_one_worker_and_not_as_a_plain_task():
    layout = layout_of("auto", hosts_of(8, gpus=1), gpus=1)
    assert (layout.most, layout.is_single_task) == (1, False)
    assert layout.ask == Ask(0, gpus=1, count=1, is_group=True)
