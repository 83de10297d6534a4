"""Published settings, overrides, and the loss terms that each method adds up."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dxmc_core.method import losses
from dxmc_core.method.heads import DualHeads
from dxmc_core.method.hyperparameters import (
    METHODS,
    DXMCHyperparameters,
    Hyperparameters,
    TACHyperparameters,
    TURTLEHyperparameters,
    method_reads,
    method_settings,
    settings_of,
)
from dxmc_core.method.objectives.base import Objective
from dxmc_core.method.training_data import Batch

WIDTH, NUM_CLUSTERS, NUM_ROWS = 8, 3, 10


def random_batch() -> Batch:
    generator = torch.Generator().manual_seed(0)

    def rows() -> Tensor:
        return nn.functional.normalize(torch.randn(NUM_ROWS, WIDTH, generator=generator))

    return Batch(torch.arange(NUM_ROWS), rows(), rows(), rows(), rows(), row_counts=[NUM_ROWS])


def dual_heads(objective: Objective) -> DualHeads:
    assert isinstance(objective.heads, DualHeads)
    return objective.heads


def test_published_settings_of_few_and_many_clusters() -> None:
    few = method_settings("dxmc", 10, 60_000)
    assert isinstance(few, DXMCHyperparameters)
    assert (few.num_epochs, few.batch_size, few.cluster_temperature, few.instance_temperature) == (20, 512, 0.5, 0.05)
    many = method_settings("dxmc", 100, 60_000)
    assert isinstance(many, DXMCHyperparameters)
    assert (many.num_epochs, many.batch_size, many.cluster_temperature, many.instance_temperature) == (
        100,
        8192,
        5.0,
        0.5,
    )
    paper = method_settings("dxmc", 100, 60_000, fidelity="paper")
    assert isinstance(paper, DXMCHyperparameters)
    assert (paper.cluster_temperature, paper.instance_temperature) == (0.5, 0.05)
    tac = method_settings("tac", 200, 60_000)
    assert isinstance(tac, TACHyperparameters)
    assert (tac.num_epochs, tac.batch_size, tac.cluster_temperature) == (100, 8192, 5.0)
    assert (tac.learning_rate, tac.betas, tac.weight_decay, tac.entropy_weight) == (1e-3, (0.9, 0.99), 0.0, 5.0)


def test_published_settings_of_the_siblings() -> None:
    sic = method_settings("sic", 10, 60_000)
    assert (sic.num_epochs, sic.batch_size, sic.learning_rate, sic.weight_decay) == (100, 128, 1e-4, 1e-4)
    turtle = method_settings("turtle", 10, 60_000)
    assert isinstance(turtle, TURTLEHyperparameters)
    assert turtle.num_epochs * turtle.steps_per_epoch == 6000
    assert (turtle.batch_size, turtle.entropy_weight, turtle.betas) == (10_000, 10.0, (0.9, 0.999))
    assert method_settings("turtle", 10, 500).batch_size == 500
    temi = method_settings("temi", 10, 60_000)
    assert (temi.num_epochs, temi.batch_size, temi.learning_rate, temi.weight_decay) == (100, 1024, 4e-4, 1e-4)
    small = method_settings("temi", 10, 3_000)
    assert (small.batch_size, small.learning_rate) == (128, 4e-4)
    assert method_settings("temi", 10, 60_000, batch_size=256).learning_rate == pytest.approx(1e-4)


def test_what_turtle_reads_follows_from_its_spaces() -> None:
    assert method_reads("turtle") == ()
    assert method_reads("turtle", spaces="image_and_text") == ("text_counterparts",)
    both = method_settings("turtle", 10, 500, spaces="image_and_text")
    assert both.objective(WIDTH, NUM_CLUSTERS).reads == ("text_counterparts",)
    assert method_reads("sic") == ("image_neighbors", "noun_embeddings")


def test_overrides_take_the_place_of_defaults() -> None:
    settings = method_settings("tac", 10, 60_000, num_epochs=3, cluster_temperature=0.1, learning_rate=None)
    assert isinstance(settings, TACHyperparameters)
    assert (settings.num_epochs, settings.cluster_temperature, settings.learning_rate) == (3, 0.1, 1e-3)


@pytest.mark.parametrize(
    ("method", "overrides", "message"),
    [
        ("umap", {}, "unknown method .umap.; expected one of best, dxmc, .*, concat_kmeans"),
        ("tac", {"instance_weight": 1.0}, "method tac has no setting instance_weight; it has batch_size, betas"),
        ("dxmc", {"fidelity": "both"}, "expected fidelity to be one of code, paper, found 'both'"),
        ("dxmc", {"cluster_temperature": 0.0}, "expected cluster_temperature above 0, found 0.0"),
        ("dxmc", {"instance_weight": -1.0}, "expected instance_weight of at least 0, found -1.0"),
        ("tac", {"batch_size": 1}, "expected batch_size of at least 2, found 1"),
        ("sic", {"num_neighbors": 0}, "expected num_neighbors above 0, found 0"),
        ("mca", {"attention_temperature": 0.0}, "expected attention_temperature above 0, found 0.0"),
        ("temi", {"entropy_weight": 1.0}, "temi has no entropy term: expected entropy_weight 0, found 1.0"),
        ("temi", {"teacher_momentum": 1.0}, "expected teacher_momentum below 1, found 1.0"),
        ("turtle", {"spaces": "text"}, "expected spaces to be one of image, image_and_text, found 'text'"),
    ],
)
def test_unusable_settings_are_refused(method: str, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method_settings(method, 10, 60_000, **overrides)


@pytest.mark.parametrize("shared_trunk", [False, True])
@pytest.mark.parametrize(("fidelity", "contrast"), [("code", "nt_xent_dot"), ("paper", "info_nce")])
def test_dxmc_adds_up_its_levels(
    fidelity: losses.Fidelity, contrast: losses.InstanceContrast, shared_trunk: bool
) -> None:
    settings = DXMCHyperparameters(
        fidelity=fidelity, shared_trunk=shared_trunk, instance_weight=0.7, projection_width=6
    )
    objective = settings.objective(WIDTH, NUM_CLUSTERS)
    batch = random_batch()
    terms = objective.loss_terms(batch)

    u, image_projections = dual_heads(objective).image(batch.images)
    w, text_projections = dual_heads(objective).text(batch.texts)
    u_neighbor, _ = dual_heads(objective).image(batch.image_neighbors)
    w_neighbor, _ = dual_heads(objective).text(batch.text_neighbors)
    cluster = sum(
        losses.cluster_contrastive(*pair, temperature=0.5, fidelity=fidelity)
        for pair in ((u, w_neighbor), (w, u_neighbor))
    )
    entropy = losses.assignment_entropy(u) + losses.assignment_entropy(w)
    instance = losses.instance_contrastive(image_projections, text_projections, temperature=0.05, contrast=contrast)
    torch.testing.assert_close(terms["cluster"], cluster)
    torch.testing.assert_close(terms["entropy"], entropy)
    torch.testing.assert_close(terms["instance"], instance)
    torch.testing.assert_close(terms["total"], 0.7 * instance + cluster - 5 * entropy)


def test_tac_adds_up_its_terms() -> None:
    objective = TACHyperparameters().objective(WIDTH, NUM_CLUSTERS)
    batch = random_batch()
    terms = objective.loss_terms(batch)
    heads = dual_heads(objective)
    u, u_neighbor = heads.image(batch.images)[0], heads.image(batch.image_neighbors)[0]
    w, w_neighbor = heads.text(batch.texts)[0], heads.text(batch.text_neighbors)[0]
    cluster = losses.cluster_contrastive(u, w_neighbor, temperature=0.5)
    cluster = cluster + losses.cluster_contrastive(w, u_neighbor, temperature=0.5)
    entropy = losses.assignment_entropy(u) + losses.assignment_entropy(w)
    torch.testing.assert_close(terms["total"], cluster + losses.consistency(u, w) - 5 * entropy)


def test_neighbors_never_pass_the_instance_heads() -> None:
    objective = DXMCHyperparameters(projection_width=6).objective(WIDTH, NUM_CLUSTERS)
    rows_seen: list[int] = []
    for modality in (dual_heads(objective).image, dual_heads(objective).text):
        assert modality.instance_head is not None
        modality.instance_head.register_forward_hook(lambda module, inputs, output: rows_seen.append(len(output)))
    objective.loss_terms(random_batch())
    assert sum(rows_seen) == 2 * NUM_ROWS


@pytest.mark.parametrize("method", [name for name in METHODS if issubclass(settings_of(name), Hyperparameters)])
def test_training_starts_from_earlier_heads_where_the_method_can(method: str) -> None:
    def objective(*, seed: int, num_clusters: int = NUM_CLUSTERS) -> Objective:
        settings = method_settings(method, num_clusters, NUM_ROWS)
        return settings.objective(WIDTH, num_clusters, seed=seed)

    earlier, fresh = objective(seed=1).heads, objective(seed=2)
    untouched = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    assert not fresh.start_from(objective(seed=1, num_clusters=NUM_CLUSTERS + 1).heads)
    assert all(torch.equal(untouched[name], tensor) for name, tensor in fresh.state_dict().items())
    can = method != "best"
    assert fresh.start_from(earlier) == can
    rows = random_batch().images
    texts = random_batch().text_neighbors if earlier.needs_text else None
    if can:
        torch.testing.assert_close(fresh.heads.assignment_probs(rows, texts), earlier.assignment_probs(rows, texts))
    if method == "temi":
        students = fresh.get_submodule("students")
        torch.testing.assert_close(students.state_dict(), earlier.state_dict())
