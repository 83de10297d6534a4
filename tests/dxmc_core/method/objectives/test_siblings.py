"""SIC, MCA, TURTLE and TEMI: prototypes, the inner fit and the loss terms equal what the methods' definitions say."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dxmc_core.method import losses
from dxmc_core.method.hyperparameters import method_settings
from dxmc_core.method.objectives import prototypes as prototypes_module
from dxmc_core.method.objectives.mca import MCAObjective
from dxmc_core.method.objectives.prototypes import confident_prototypes
from dxmc_core.method.objectives.sic import SICObjective
from dxmc_core.method.objectives.temi import TEMIObjective, column_moments
from dxmc_core.method.objectives.turtle import TURTLEObjective, fitted_log_probs
from dxmc_core.method.training_data import Batch, TrainingData

WIDTH, NUM_CLUSTERS, NUM_IMAGES, NUM_NOUNS = 8, 3, 24, 15


def rows(num_rows: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(num_rows, WIDTH, generator=torch.Generator().manual_seed(seed)))


def small_data(**more: Tensor) -> TrainingData:
    neighbors = torch.arange(NUM_IMAGES).roll(1)[:, None]
    return TrainingData(rows(NUM_IMAGES, 0), image_neighbors=neighbors, noun_embeddings=rows(NUM_NOUNS, 1), **more)


def small_batch() -> Batch:
    images, neighbors, texts = rows(10, 2), rows(10, 3), rows(10, 4)
    return Batch(torch.arange(10), images, texts, neighbors, None, row_counts=[10])


def started(method: str, **overrides: Any) -> Any:
    settings = method_settings(method, NUM_CLUSTERS, NUM_IMAGES, **overrides)
    objective = settings.objective(WIDTH, NUM_CLUSTERS, seed=1)
    with torch.no_grad():
        for parameter in objective.heads.parameters():
            parameter.mul_(20)
    objective.begin_epoch(0, small_data())
    return objective


def sharp_probs(images: Tensor) -> tuple[Tensor, Tensor]:
    return images, (images[:, :NUM_CLUSTERS] * 5).softmax(1)


@pytest.mark.parametrize("block_rows", [1, 5, 1000])
@pytest.mark.parametrize("count", [1, 4, 100])
def test_confident_prototypes(monkeypatch: pytest.MonkeyPatch, block_rows: int, count: int) -> None:
    monkeypatch.setattr(prototypes_module, "BLOCK_ROWS", block_rows)
    data = small_data()
    found = confident_prototypes(data, sharp_probs, images_per_cluster=count, like=torch.zeros(()))
    features, probs = sharp_probs(data.image_embeddings)
    for k in range(NUM_CLUSTERS):
        best = sorted(range(NUM_IMAGES), key=lambda i: -float(probs[i, k]))[:count]
        torch.testing.assert_close(found[k], F.normalize(features[best].sum(0), dim=0))


def test_of_equally_confident_images_the_first_are_taken() -> None:
    data = small_data()
    found = confident_prototypes(
        data, lambda images: (images, torch.ones(len(images), 2)), images_per_cluster=5, like=torch.zeros(())
    )
    torch.testing.assert_close(found, F.normalize(data.image_embeddings[:5].sum(0), dim=0).expand(2, WIDTH))


def test_sic_pseudo_labels_and_terms() -> None:
    objective: SICObjective = started("sic", nouns_per_cluster=4, max_cosine_to_mean=2.0)
    data, batch = small_data(), small_batch()
    per_cluster = round(0.9 * NUM_IMAGES / NUM_CLUSTERS)
    probs = objective.heads.assignment_probs(data.image_embeddings)
    text_prototypes = []
    for k in range(NUM_CLUSTERS):
        prototype = data.image_embeddings[probs[:, k].topk(per_cluster).indices].mean(0)
        assert data.noun_embeddings is not None
        nearest = (data.noun_embeddings @ prototype).topk(4).indices
        text_prototypes.append(F.normalize(data.noun_embeddings[nearest].mean(0), dim=0))
    torch.testing.assert_close(objective.text_prototypes, torch.stack(text_prototypes))

    classifier = objective.heads.classifiers[0]
    p, neighbor = (classifier(part).softmax(1) for part in (batch.images, batch.image_neighbors))
    labels = (batch.images @ torch.stack(text_prototypes).T).argmax(1)
    expected = losses.consistency(p, neighbor) - 5 * losses.assignment_entropy(p) + 0.1 * F.nll_loss(p.log(), labels)
    torch.testing.assert_close(objective.loss_terms(batch)["total"], expected)


def test_sic_chooses_its_space_again_for_other_data() -> None:
    objective: SICObjective = started("sic", nouns_per_cluster=4)
    before = objective.text_prototypes.clone()
    other = TrainingData(rows(NUM_IMAGES, 0), noun_embeddings=rows(NUM_NOUNS, 9))
    objective.begin_epoch(0, other)
    assert not torch.allclose(objective.text_prototypes, before)


def test_mca_terms() -> None:
    objective: MCAObjective = started(
        "mca", nouns_per_image=4, nouns_per_cluster=3, adapter_width=5, confidence_threshold=0.0, max_cosine_to_mean=2.0
    )
    data, batch = small_data(), small_batch()
    with torch.no_grad():
        objective.noun_head.adapter[2].weight.normal_(generator=torch.Generator().manual_seed(7))
        objective.noun_head.classifier.weight.mul_(30)
    objective.begin_epoch(1, data)
    terms = objective.loss_terms(batch)

    z, s = objective.heads.features(batch.images), objective.noun_head.features(data.noun_embeddings)
    u, r = objective.heads.classifier(z).softmax(1), objective.noun_head.classifier(s).softmax(1)
    attention = torch.zeros(10, NUM_NOUNS)
    for i in range(10):
        nearest = (z[i] @ s.T).topk(4).indices
        attention[i, nearest] = (z[i] @ s[nearest].T / 0.02).softmax(0)
    torch.testing.assert_close(terms["instance"], losses.symmetric_info_nce(z, attention @ s, temperature=0.07))

    image_features = objective.heads.features(data.image_embeddings)
    image_probs = objective.heads.classifier(image_features).softmax(1)
    clusters = u.argmax(1)
    mu, h = torch.zeros(NUM_CLUSTERS, WIDTH), torch.zeros(NUM_CLUSTERS, WIDTH)
    for k in range(NUM_CLUSTERS):
        confident = image_probs[:, k].topk(round(0.9 * NUM_IMAGES / NUM_CLUSTERS)).indices
        h[k] = F.normalize(s[(s @ image_features[confident].sum(0)).topk(3).indices].sum(0), dim=0)
        for i in range(10):
            mu[k] += z[i] * u[i, k] if clusters[i] == k else 0
    present = torch.bincount(clusters, minlength=NUM_CLUSTERS) > 0
    torch.testing.assert_close(
        terms["prototype"], losses.prototype_contrastive(mu, h, present=present, temperature=0.5)
    )
    image_level = losses.soft_cross_entropy(u.log(), attention @ r)
    noun_level = -((s @ h.T / 0.02).softmax(1) * r.log()).sum(1).mean()
    torch.testing.assert_close(terms["semantic"], image_level + noun_level)
    neighbor = objective.heads.classifier(objective.heads.features(batch.image_neighbors)).softmax(1)
    expected = losses.consistency(u, neighbor) - 5 * losses.assignment_entropy(u) + 0.5 * terms["instance"]
    torch.testing.assert_close(terms["total"], expected + terms["prototype"] + terms["semantic"])


def test_mca_filters_by_a_hierarchy_where_there_is_one() -> None:
    objective: MCAObjective = started("mca", min_votes_share=0.4)
    assert objective._nouns is not None
    without = len(objective._nouns)
    hierarchy = torch.tensor([[noun, 0] for noun in range(1, NUM_NOUNS)])
    objective.begin_epoch(0, small_data(noun_hypernyms=hierarchy))
    assert 0 < len(objective._nouns) < without


def test_turtle_inner_fit_equals_adam() -> None:
    features, targets = 10 * rows(20, 5), rows(20, 6)[:, :NUM_CLUSTERS].mul(4).softmax(1)
    model = nn.Linear(WIDTH, NUM_CLUSTERS)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(10):
        optimizer.zero_grad()
        F.cross_entropy(model(features), targets).backward()
        optimizer.step()
    found = fitted_log_probs(features, targets, num_rows=20, num_steps=10, learning_rate=0.01)
    torch.testing.assert_close(found, model(features).log_softmax(1).detach())
    assert found.exp().std() > 0.05


@pytest.mark.parametrize("spaces", ["image", "image_and_text"])
def test_turtle_terms(spaces: str) -> None:
    objective: TURTLEObjective = started("turtle", spaces=spaces)
    batch = small_batch()
    modalities = [batch.images, batch.texts][: 1 if spaces == "image" else 2]
    probs = [
        classifier(10 * part).softmax(1)
        for classifier, part in zip(objective.heads.classifiers, modalities, strict=True)
    ]
    label = torch.stack(probs).mean(0)
    expected = torch.zeros(())
    for part, own in zip(modalities, probs, strict=True):
        inner = fitted_log_probs(10 * part, label.detach(), num_rows=10, num_steps=10, learning_rate=1e-3)
        expected = expected + F.cross_entropy(inner, label) - 10 * losses.assignment_entropy(own)
    torch.testing.assert_close(objective.loss_terms(batch)["total"], expected)


def test_temi_moves_students_by_the_loss_and_teachers_behind_them() -> None:
    objective: TEMIObjective = started(
        "temi", num_heads=2, hidden_width=6, bottleneck_width=4, teacher_momentum=0.9, standardize=False
    )
    batch = small_batch()
    terms = objective.loss_terms(batch)
    pair = torch.stack([batch.images, batch.image_neighbors])
    students = [objective.students.log_probs(part) for part in pair]
    teachers = [objective.heads.log_probs(part) for part in pair]
    mean = 0.9 / NUM_CLUSTERS + 0.1 * torch.cat(teachers, dim=1).exp().mean(1)
    torch.testing.assert_close(objective.teacher_mean, mean)
    expected, weight = losses.temi((students[0], students[1]), (teachers[0], teachers[1]), mean, beta=0.6)
    torch.testing.assert_close(terms["total"], expected.mean())
    torch.testing.assert_close(terms["pair_weight"], weight)
    torch.testing.assert_close(objective.heads.head_losses, expected.detach())

    terms["total"].backward()
    assert all(parameter.grad is None for parameter in objective.heads.parameters())
    assert all(parameter.grad is not None for parameter in objective.students.parameters())
    before = objective.heads.hidden_weight.clone()
    objective.after_step()
    torch.testing.assert_close(objective.heads.hidden_weight, 0.9 * before + 0.1 * objective.students.hidden_weight)
    objective.begin_epoch(1, small_data())
    assert not objective.heads.head_losses.any()


def test_temi_standardises_by_the_training_embeddings() -> None:
    embeddings = rows(50, 8)
    embeddings[:, 3] = 0.25
    mean, std = column_moments(embeddings)
    torch.testing.assert_close(mean, embeddings.double().mean(0))
    torch.testing.assert_close(std, embeddings.double().std(0, correction=0))
    settings = method_settings("temi", NUM_CLUSTERS, 50, num_heads=1)
    objective = settings.objective(WIDTH, NUM_CLUSTERS)
    assert isinstance(objective, TEMIObjective)
    objective.begin_epoch(0, TrainingData(embeddings))
    assert objective.heads.std[3] == 1
    assert torch.equal(objective.heads.mean, objective.students.mean)
    torch.testing.assert_close(objective.heads.mean, embeddings.mean(0))
