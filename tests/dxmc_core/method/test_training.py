"""The training loop: finds planted clusters, reports, resumes bit for bit, and refuses what it cannot train."""

import io
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dxmc_core.method.hyperparameters import METHODS, Hyperparameters, method_settings, settings_of
from dxmc_core.method.objectives.base import Objective
from dxmc_core.method.training import EpochReport, TrainingState, collapse_warning, train
from dxmc_core.method.training_data import TrainingData, draw_batches

WIDTH, NUM_CLUSTERS, PER_CLUSTER = 32, 4, 80


def planted(*, noise: float = 0.1) -> tuple[TrainingData, Tensor]:
    """Clusters of unit vectors around orthogonal centres in both modalities, with exact neighbours.

    Ten nouns lie around each image centre, the first of them above the others.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(NUM_CLUSTERS).repeat_interleave(PER_CLUSTER)

    def modality(shift: int) -> Tensor:
        centers = torch.eye(WIDTH)[shift : shift + NUM_CLUSTERS]
        return nn.functional.normalize(centers[labels] + noise * torch.randn(len(labels), WIDTH, generator=generator))

    def neighbors(rows: Tensor) -> Tensor:
        return (rows @ rows.T).fill_diagonal_(-1).topk(5).indices

    images, texts = modality(0), modality(NUM_CLUSTERS)
    noun_clusters = torch.arange(NUM_CLUSTERS).repeat_interleave(10)
    noun_noise = 0.2 * torch.randn(len(noun_clusters), WIDTH, generator=generator)
    data = TrainingData(
        images.half(),
        texts.half(),
        neighbors(images),
        neighbors(texts),
        noun_embeddings=nn.functional.normalize(torch.eye(WIDTH)[noun_clusters] + noun_noise).half(),
        noun_hypernyms=torch.stack([torch.arange(len(noun_clusters)), 10 * noun_clusters], 1)[
            noun_clusters.roll(1) == noun_clusters
        ],
        selected_nouns=nn.functional.normalize(torch.eye(WIDTH)[noun_clusters]).half(),
    )
    return data, labels


#: Settings under which the small planted data train in a second, for the methods that need it.
QUICK: dict[str, dict[str, Any]] = {
    "mca": {"learning_rate": 1e-2, "nouns_per_image": 5, "nouns_per_cluster": 5, "adapter_width": 16},
    "sic": {"learning_rate": 1e-2, "nouns_per_cluster": 5},
    "temi": {
        "learning_rate": 3e-3,
        "num_heads": 8,
        "hidden_width": 24,
        "bottleneck_width": 16,
        "teacher_momentum": 0.9,
    },
    "turtle": {"learning_rate": 1e-2, "steps_per_epoch": 10, "inner_learning_rate": 1e-2},
}


def run(
    data: TrainingData, method: str, *, seed: int = 0, resume: TrainingState | None = None, **overrides: Any
) -> tuple[Objective, list[EpochReport], list[TrainingState]]:
    settings = method_settings(method, NUM_CLUSTERS, data.num_images, **({"batch_size": 64} | overrides))
    objective = settings.objective(WIDTH, NUM_CLUSTERS, seed=seed)
    states: list[TrainingState] = []
    reports = train(
        objective,
        data,
        settings,
        seed=seed,
        on_epoch_end=lambda report, make_state: states.append(make_state()),
        resume_state=resume,
    )
    return objective, reports, states


def matched_accuracy(labels: Tensor, found: Tensor) -> float:
    """Share of images in the majority class of their cluster; every class must win a cluster."""
    table = torch.stack([torch.bincount(labels[found == k], minlength=NUM_CLUSTERS) for k in range(NUM_CLUSTERS)])
    assert len(table.argmax(1).unique()) == NUM_CLUSTERS
    return float(table.max(1).values.sum()) / len(labels)


@pytest.mark.parametrize(
    ("method", "overrides"),
    [
        ("dxmc", {"projection_width": 32}),
        ("dxmc", {"projection_width": 32, "fidelity": "paper"}),
        ("dxmc", {"projection_width": 32, "shared_trunk": True, "instance_contrast": "nt_xent_cosine"}),
        ("tac", {}),
        *QUICK.items(),
        ("turtle", QUICK["turtle"] | {"spaces": "image_and_text"}),
    ],
)
def test_planted_clusters_are_found(method: str, overrides: dict[str, Any]) -> None:
    data, labels = planted()
    objective, reports, _ = run(data, method, num_epochs=30, **overrides)
    found = objective.heads.assignment_probs(data.image_embeddings, data.text_counterparts).argmax(1)
    assert matched_accuracy(labels, found) > 0.95
    last = reports[-1]
    assert last.cluster_sizes == torch.bincount(found, minlength=NUM_CLUSTERS).tolist()
    assert last.terms["total"] < reports[0].terms["total"]
    assert last.warning is None
    assert not objective.training


def test_reports_of_every_epoch() -> None:
    data, _ = planted()
    _, reports, _ = run(data, "tac", num_epochs=3)
    assert [report.epoch for report in reports] == [1, 2, 3]
    assert reports[0].num_changed is None
    assert all(0 <= (report.num_changed or 0) <= data.num_images for report in reports)
    for report in reports:
        terms = report.terms
        expected = terms["cluster"] + terms["consistency"] - 5 * terms["entropy"]
        assert terms["total"] == pytest.approx(expected, rel=1e-5)
        assert sum(report.cluster_sizes) == data.num_images
        assert report.balance is not None
        assert 0 <= report.balance <= 1
        assert report.samples_per_s > 0


@pytest.mark.parametrize("method", ["best", "dxmc", "tac", *QUICK])
def test_resuming_at_any_epoch_ends_with_the_same_bits(method: str) -> None:
    data, _ = planted()
    overrides = QUICK.get(method, {}) | {"batch_size": 64}
    whole, whole_reports, states = run(data, method, num_epochs=4, **overrides)
    for state in states[:-1]:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        buffer.seek(0)
        loaded = torch.load(buffer, weights_only=True)
        settings = method_settings(method, NUM_CLUSTERS, data.num_images, num_epochs=4, **overrides)
        resumed = settings.objective(WIDTH, NUM_CLUSTERS)
        with torch.no_grad():
            for parameter in resumed.parameters():
                parameter.fill_(0.5)  # Whatever is not taken from the checkpoint shows.
        reports = train(resumed, data, settings, resume_state=loaded)
        assert [report.epoch for report in reports] == list(range(state["num_epochs_done"] + 1, 5))
        assert reports[-1].terms == whole_reports[-1].terms
        assert reports[-1].num_changed == whole_reports[-1].num_changed
        for key, value in whole.state_dict().items():
            assert torch.equal(resumed.state_dict()[key], value), key


def test_checkpoints_do_not_change_when_training_goes_on() -> None:
    data, _ = planted()
    _, _, states = run(data, "tac", num_epochs=2)
    key = "heads.image.cluster_head.0.weight"
    assert not torch.equal(states[0]["objective"][key], states[1]["objective"][key])


def test_same_seed_same_weights_other_seed_other_weights() -> None:
    data, _ = planted()
    first, again, other = (run(data, "dxmc", num_epochs=2, seed=seed)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(again[key], value) for key, value in first.items())
    key = "heads.image.cluster_head.3.weight"
    assert not torch.equal(other[key], first[key])


def test_instance_level_of_disjoint_heads_changes_no_assignment() -> None:
    data, _ = planted()
    with_instance, reports, _ = run(data, "dxmc", num_epochs=5, instance_weight=1)
    without, reports_without, _ = run(data, "dxmc", num_epochs=5)
    assert "instance" in reports[-1].terms
    assert "instance" not in reports_without[-1].terms
    probs = [objective.heads.assignment_probs(data.image_embeddings) for objective in (with_instance, without)]
    assert torch.equal(*probs)
    shared = [run(data, "dxmc", num_epochs=5, shared_trunk=True, instance_weight=w)[0] for w in (0.0, 1.0)]
    probs = [objective.heads.assignment_probs(data.image_embeddings) for objective in shared]
    assert not torch.equal(*probs)


def test_tiny_data_is_one_batch() -> None:
    data = TrainingData(
        *(torch.eye(WIDTH)[:6] for _ in range(2)), *(torch.arange(6).roll(1)[:, None] for _ in range(2))
    )
    _, reports, _ = run(data, "dxmc", num_epochs=2, batch_size=512)
    assert reports[-1].cluster_sizes
    assert sum(reports[-1].cluster_sizes) == 6


def test_what_cannot_be_trained_is_refused() -> None:
    data, _ = planted()
    settings = method_settings("tac", NUM_CLUSTERS, data.num_images, num_epochs=2, batch_size=64, learning_rate=1e-3)
    objective = settings.objective(WIDTH, NUM_CLUSTERS)
    with pytest.raises(ValueError, match="found no text_counterparts, text_neighbors"):
        train(objective, data.only(["image_neighbors"]), settings)
    one = TrainingData(
        *(torch.eye(WIDTH)[:1] for _ in range(2)), *(torch.zeros(1, 1, dtype=torch.int64) for _ in range(2))
    )
    with pytest.raises(ValueError, match="expected at least 2 images"):
        train(objective, one, settings)
    _, _, states = run(data, "tac", num_epochs=1)
    with pytest.raises(ValueError, match="this checkpoint is of another run"):
        train(objective, data, replace(settings, batch_size=32), resume_state=states[0])
    broken = TrainingData(
        data.image_embeddings * float("nan"), data.text_counterparts, data.image_neighbors, data.text_neighbors
    )
    with pytest.raises(FloatingPointError, match=r"no longer finite after epoch 1: lower learning_rate \(now 0.001\)"):
        train(objective, broken, settings)


@pytest.mark.parametrize(("method", "decoupled"), [("sic", False), ("temi", True)])
def test_weights_decay_as_the_method_says(method: str, decoupled: bool) -> None:
    data, _ = planted()
    decay, rate = 0.1, 1e-2
    overrides = QUICK[method] | {"learning_rate": rate, "weight_decay": decay, "num_epochs": 1, "batch_size": 320}
    settings = method_settings(method, NUM_CLUSTERS, data.num_images, **overrides)
    reference = settings.objective(WIDTH, NUM_CLUSTERS)
    reference.begin_epoch(0, data)
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimizer = kind(reference.parameters(), lr=rate, betas=settings.betas, weight_decay=decay)
    nearest = data.nearest(reference.num_neighbors)
    (batch,) = draw_batches(nearest, batch_size=320, seed=0, epoch=0, device=torch.device("cpu"), dtype=torch.float32)
    reference.loss_terms(batch)["total"].backward()
    optimizer.step()
    reference.after_step()
    trained, _, _ = run(data, method, **overrides)
    for key, value in reference.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[key], value, msg=key)


def test_collapse_warning() -> None:
    assert collapse_warning([5] * 19 + [0], remedy="raise it") is None
    warning = collapse_warning([5, 0, 0, 7], remedy="raise it")
    assert warning == "2 of 4 clusters are empty: if that lasts, raise it, or lower num_clusters"


@pytest.mark.parametrize("method", [name for name in METHODS if issubclass(settings_of(name), Hyperparameters)])
def test_what_helps_against_collapse_are_settings_of_the_method(method: str) -> None:
    settings = method_settings(method, NUM_CLUSTERS, 300)
    remedy = settings.objective(WIDTH, NUM_CLUSTERS).against_collapse
    named = re.findall(r"(?:raise|lower|or) (\w+)", remedy)
    assert named
    for name in named:
        assert getattr(settings, name) > 0
